//! Answers to the server's questions between runs.

use crate::{
    Error, Places, Result,
    data::{edit, export::Export, hub, inspect, preference, preview},
    estimate::measure::measure,
    files::locate,
    make,
    prepare::plan,
};
use api::{
    Plan,
    question::{Answer, CheckReply, Question},
};
use std::io::Write;

/// Answers one question on `out`: a line of JSON, and behind that of an export the file.
pub fn serve(question: Question, places: &Places, mut out: impl Write + Send) -> Result<()> {
    let mut say = |answer: &Answer| {
        let mut line = serde_json::to_vec(answer).map_err(|e| Error::Internal(e.to_string()))?;
        line.push(b'\n');
        out.write_all(&line).and_then(|()| out.flush()).map_err(Error::io("stdout"))
    };
    let Question::Export { dataset, file_type, formatting } = question else { return say(&answer(question, places)) };
    match Export::begin(&places.datasets(), &dataset, file_type, formatting.as_deref()) {
        Ok(export) => {
            say(&Answer::Exporting)?;
            export.write(out)
        }
        Err(error) => say(&Answer::Failed { problems: error.into_problems() }),
    }
}

/// Answers one question; problems are an answer too.
pub fn answer(question: Question, places: &Places) -> Answer {
    try_answer(question, places).unwrap_or_else(|error| Answer::Failed { problems: error.into_problems() })
}

fn try_answer(question: Question, places: &Places) -> Result<Answer> {
    let dir = places.datasets();
    Ok(match question {
        Question::Check { config } => checked(plan(&config, places)),
        Question::Measure { config } => checked(measure(&config, places, &make::no_endpoints)),
        Question::Datasets => Answer::Datasets { datasets: preview::list(&dir)? },
        Question::Rows { dataset, wanted } => Answer::Rows { preview: preview::rows(&dir, &dataset, &wanted)? },
        Question::Columns { dataset } => Answer::Columns { columns: preview::columns(&dir, &dataset)? },
        Question::Tokens { dataset, row, config } => {
            Answer::Tokens { preview: inspect::tokens(&dir, &dataset, row, &config, places)? }
        }
        Question::Statistics { dataset, config } => {
            let limit = Some(inspect::LIMIT);
            Answer::Statistics { statistics: inspect::statistics(&dir, &dataset, &config, places, limit)? }
        }
        Question::Edit { dataset, edit, config } => {
            Answer::Edited { edited: edit::edit(&dir, &dataset, &edit, &config, places)? }
        }
        Question::Register { name, file } => Answer::Registered { dataset: preview::register(&dir, &name, &file)? },
        Question::Forget { dataset } => {
            preview::forget(&dir, &dataset)?;
            Answer::Forgotten
        }
        Question::Pairs { wanted } => Answer::Pairs { pairs: preference::pairs(&wanted, places)? },
        Question::BuildPairs { wanted } => Answer::Registered { dataset: preference::build(&wanted, places)? },
        Question::Ballot { dataset, cast } => {
            Answer::Ballot { ballot: preference::votes::ballot(&dataset, cast.as_ref(), places)? }
        }
        Question::PlanPull { wanted, preferred } => Answer::PullPlanned { plan: hub::plan(&dir, wanted, preferred)? },
        Question::ChooseFiles { source, names, readme } => {
            Answer::Chosen { names: hub::choose(&source, &names, &readme)? }
        }
        Question::RegisterPulled { plan } => Answer::Registered { dataset: hub::register(&dir, plan)? },
        // Only looks whether it can be written.
        Question::Export { dataset, file_type, formatting } => {
            Export::begin(&dir, &dataset, file_type, formatting.as_deref())?;
            Answer::Exporting
        }
        Question::Models => Answer::Models { models: locate::list(places) },
    })
}

fn checked(plan: Result<Plan>) -> Answer {
    let reply = match plan {
        Ok(plan) => CheckReply { plan: Some(plan), problems: Vec::new() },
        Err(error) => CheckReply { plan: None, problems: error.into_problems() },
    };
    Answer::Checked { reply: Box::new(reply) }
}
