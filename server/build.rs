//! Builds the crate again when the built UI or the migrations change: both are embedded.

fn main() {
    println!("cargo::rerun-if-changed=../static/dist");
    println!("cargo::rerun-if-changed=../migrations");
}
