//! Downloads in the terminal: a bar, and a Ctrl-C that keeps what has come.

use crate::{
    outcome::{self, FAILED, Failure, WRONG},
    progress, signals,
};
use api::Problem;
use indicatif::ProgressBar;
use server::hub::Progress;
use tokio_util::sync::CancellationToken;

/// Downloads with a bar until the end or a signal.
pub fn run<T>(
    download: impl AsyncFnOnce(&(dyn Fn(Progress) + Send + Sync), CancellationToken) -> Result<T, Problem>,
) -> Result<T, Problem> {
    let bar = progress::bytes();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(outcome::internal)?;
    let result = runtime.block_on(async {
        let cancel = CancellationToken::new();
        let stop = cancel.clone();
        tokio::spawn(async move {
            signals::asked().await;
            stop.cancel();
        });
        download(&|progress| show(&bar, progress), cancel).await
    });
    bar.finish_and_clear();
    result
}

/// A wrong id or setting is a wrong request; everything else is work that failed.
pub fn failure(problem: Problem) -> Failure {
    const WRONG_CODES: [&str; 13] = [
        "dataset_name",
        "dataset_not_on_hub",
        "dataset_remote",
        "dataset_taken",
        "hub_bad_endpoint",
        "hub_bad_id",
        "hub_bad_revision",
        "hub_no_data",
        "hub_no_split",
        "hub_no_subset",
        "hub_offline",
        "hub_split_slice",
        "hub_which_subset",
    ];
    Failure::new(if WRONG_CODES.contains(&problem.code.as_str()) { WRONG } else { FAILED }, vec![problem])
}

fn show(bar: &ProgressBar, progress: Progress) {
    bar.set_length(progress.total);
    bar.set_position(progress.done);
    bar.set_message(progress.file);
}
