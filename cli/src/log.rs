//! Where log lines go: stderr, or the log of a run. `RUST_LOG` says how many.

use crate::args::LogFormat;
use std::fs::File;
use std::io::IsTerminal;
use std::path::Path;
use std::sync::Mutex;
use tracing_subscriber::EnvFilter;

/// `usual` is the level where the environment names none.
pub fn to_stderr(usual: &str, format: LogFormat) {
    let ansi = std::io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt().with_env_filter(filter(usual)).with_writer(std::io::stderr).with_ansi(ansi);
    let _ = match format {
        LogFormat::Text => builder.try_init(),
        // Fields of the event and of the request or job that it belongs to.
        LogFormat::Json => builder.with_ansi(false).json().flatten_event(true).with_span_list(false).try_init(),
    };
}

/// Into `RUN_DIR/worker.log`, as a worker's stderr would go; stderr belongs to the progress bar.
pub fn to_run(dir: &Path) {
    if let Ok(file) = File::options().create(true).append(true).open(dir.join("worker.log")) {
        let builder = tracing_subscriber::fmt().with_env_filter(filter("info")).with_writer(Mutex::new(file));
        let _ = builder.with_ansi(false).try_init();
    }
}

fn filter(usual: &str) -> EnvFilter {
    EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(usual))
}
