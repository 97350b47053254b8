//! `lathe data`: what stands in the dataset folder.

use crate::{
    args::{Data, DataPull, DataRender},
    config,
    environment::Environment,
    gpu, home,
    outcome::{Failure, Outcome, WRONG},
    pulls,
    runs::RunFolder,
    say::Say,
};
use api::{
    JobKind,
    data::{DatasetInfo, PreviewRow},
    hub::PullDataset,
    question::{Answer, Question},
};
use engine::data::{self, render::Rendering};

pub fn run(command: Data, environment: &Environment, say: &Say) -> Outcome {
    let question = match command {
        Data::Render(wanted) => return render(wanted, say),
        Data::Make { words, resume } => return make(&words, resume, environment, say),
        Data::Pull(wanted) => return pull(wanted, environment, say),
        Data::List => Question::Datasets,
        Data::Show { name, offset, rows } => Question::Rows { dataset: name, offset, limit: rows },
    };
    home::set_up(&environment.home)?;
    match engine::ask::answer(question, &environment.places()) {
        Answer::Datasets { datasets } => {
            let text = || datasets.iter().map(|d| line(d, say)).collect::<Vec<_>>().join("\n");
            say.result(&serde_json::json!({ "datasets": datasets }), text);
        }
        Answer::Rows { preview } => {
            let text = || preview.rows.iter().map(|r| row(r, say)).collect::<Vec<_>>().join("\n\n");
            say.result(&preview, text);
        }
        Answer::Failed { problems } => return Err(Failure::new(WRONG, problems)),
        _ => {}
    }
    Ok(())
}

fn pull(wanted: DataPull, environment: &Environment, say: &Say) -> Outcome {
    home::set_up(&environment.home)?;
    let DataPull { id, hub, subset, split, name } = wanted;
    let wanted = PullDataset { id, hub, subset, split, name };
    let places = environment.places();
    let ask = |question| async {
        match engine::ask::answer(question, &places) {
            Answer::Failed { problems } => Err(problems.into_iter().next().unwrap_or_default()),
            answer => Ok(answer),
        }
    };
    let dir = places.datasets();
    let pulled = pulls::run(async |progress, cancel| {
        server::hub::pull_dataset(environment.hub.clone(), &dir, wanted, ask, progress, cancel).await
    });
    let dataset: DatasetInfo = pulled.map_err(pulls::failure)?;
    say.result(&dataset, || line(&dataset, say));
    Ok(())
}

fn make(words: &[String], resume: Option<String>, environment: &Environment, say: &Say) -> Outcome {
    let places = environment.places();
    home::set_up(&environment.home)?;
    let folder = match resume {
        Some(id) => RunFolder::open(&places.runs().join(id))?,
        None => {
            let config = config::read(words)?;
            gpu::hand_over(&config)?;
            engine::make::arguments(&config, &places).map_err(Failure::refused)?;
            RunFolder::make(JobKind::Make, config, &places)?
        }
    };
    super::train::work(folder, None, environment, say)
}

fn render(wanted: DataRender, say: &Say) -> Outcome {
    let DataRender { template, messages, tools, bos, eos, add_generation_prompt } = wanted;
    let rendering = Rendering { template, messages, tools, bos, eos, add_generation_prompt };
    let text = data::render::render(&rendering).map_err(Failure::refused)?;
    match say.json {
        true => say.json(&serde_json::json!({ "text": text })),
        false => say.exactly(&text),
    }
    Ok(())
}

fn line(dataset: &DatasetInfo, say: &Say) -> String {
    let DatasetInfo { name, formatting, kind, rows, file, problem, .. } = dataset;
    let line = format!("{name:<28} {formatting:<9} {kind:<13} {rows:>8}  {file}");
    problem.as_ref().map_or(line.clone(), |p| format!("{line}\n{}", say.problem(p)))
}

fn row(row: &PreviewRow, say: &Say) -> String {
    let number = row.index + 1;
    if let Some(problem) = &row.problem {
        return format!("#{number}\n{}", say.problem(problem));
    }
    let messages: Vec<_> = row.messages.iter().map(|m| format!("{}: {}", m.role, m.content)).collect();
    let text = if messages.is_empty() { row.raw.to_string() } else { messages.join("\n") };
    format!("#{number}\n{text}")
}
