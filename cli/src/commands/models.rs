//! `lathe models pull ID` and `lathe models list`.

use crate::{
    args::Models,
    environment::Environment,
    home,
    outcome::{self, FAILED, Failure, Outcome, WRONG},
    progress,
    say::Say,
    signals,
};
use api::{Problem, model::ModelInfo};
use server::hub::Hub;
use std::path::PathBuf;
use tokio_util::sync::CancellationToken;

pub fn run(command: Models, environment: &Environment, say: &Say) -> Outcome {
    match command {
        Models::Pull { id, revision } => {
            let path = pull(&id, &revision, environment).map_err(failure)?;
            say.result(&serde_json::json!({ "id": id, "path": path }), || path.display().to_string());
            Ok(())
        }
        Models::List => {
            home::set_up(&environment.home)?;
            let models = engine::files::locate::list(&environment.places());
            say.result(&serde_json::json!({ "models": models }), || table(&models, say));
            Ok(())
        }
    }
}

fn pull(id: &str, revision: &str, environment: &Environment) -> Result<PathBuf, Problem> {
    let hub = Hub::from_settings(environment.hub.clone())?;
    let bar = progress::bytes();
    let cancel = CancellationToken::new();
    let work = async {
        let stop = cancel.clone();
        tokio::spawn(async move {
            signals::asked().await;
            stop.cancel();
        });
        let tell = |p: server::hub::Progress| {
            bar.set_length(p.total);
            bar.set_position(p.done);
            bar.set_message(p.file);
        };
        hub.pull(id, revision, tell, cancel).await
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(outcome::internal)?;
    let result = runtime.block_on(work);
    bar.finish_and_clear();
    result
}

/// A wrong id or setting is a wrong request; everything else is work that failed.
fn failure(problem: Problem) -> Failure {
    let wrong = ["hub_bad_id", "hub_bad_revision", "hub_bad_endpoint", "hub_offline"].contains(&problem.code.as_str());
    Failure::new(if wrong { WRONG } else { FAILED }, vec![problem])
}

fn table(models: &[ModelInfo], say: &Say) -> String {
    let line = |m: &ModelInfo| {
        let millions = m.parameters as f64 / 1e6;
        let head =
            format!("{:<44} {:<12} {:>9.1}M {:>8} {:>7} MB", m.name, m.format, millions, m.dtype, m.bytes / 1_000_000);
        m.problem.as_ref().map_or(head.clone(), |p| format!("{head}\n  {}", p.message_in(&say.language)))
    };
    models.iter().map(line).collect::<Vec<_>>().join("\n")
}
