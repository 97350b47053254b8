//! `lathe models pull ID` and `lathe models list`.

use crate::{args::Models, environment::Environment, home, outcome::Outcome, pulls, say::Say};
use api::model::ModelInfo;
use server::hub::Hub;

pub fn run(command: Models, environment: &Environment, say: &Say) -> Outcome {
    match command {
        Models::Pull { id, revision } => {
            let hub = Hub::from_settings(environment.hub.clone()).map_err(pulls::failure)?;
            let pulled = pulls::run(async |progress, cancel| hub.pull(&id, &revision, progress, cancel).await);
            let path = pulled.map_err(pulls::failure)?;
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

fn table(models: &[ModelInfo], say: &Say) -> String {
    let line = |m: &ModelInfo| {
        let millions = m.parameters as f64 / 1e6;
        let head =
            format!("{:<44} {:<12} {:>9.1}M {:>8} {:>7} MB", m.name, m.format, millions, m.dtype, m.bytes / 1_000_000);
        m.problem.as_ref().map_or(head.clone(), |p| format!("{head}\n  {}", p.message_in(&say.language)))
    };
    models.iter().map(line).collect::<Vec<_>>().join("\n")
}
