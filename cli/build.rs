//! The CUDA libraries of `lathe-cuda-worker` may stand in a folder `cuda` beside it.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var_os("CARGO_FEATURE_CUDA").is_some() {
        println!("cargo::rustc-link-arg-bin=lathe-cuda-worker=-Wl,-rpath,$ORIGIN/cuda");
    }
}
