//! `lathe-cuda-worker`: what `lathe` starts for runs on NVIDIA GPUs. The same command line without the studio, and
//! `--probe`. It alone is linked with CUDA.

use std::process::ExitCode;

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|word| word == "--probe") {
        return cli::probe();
    }
    cli::main()
}
