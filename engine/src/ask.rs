//! Answers to the server's questions between runs.

use crate::{
    Places, Result,
    data::{hub, preview},
    files::locate,
    prepare::plan,
};
use api::question::{Answer, CheckReply, Question};

/// Answers one question; problems are an answer too.
pub fn answer(question: Question, places: &Places) -> Answer {
    try_answer(question, places).unwrap_or_else(|error| Answer::Failed { problems: error.into_problems() })
}

fn try_answer(question: Question, places: &Places) -> Result<Answer> {
    let dir = places.datasets();
    Ok(match question {
        Question::Check { config } => Answer::Checked {
            reply: match plan(&config, places) {
                Ok(plan) => CheckReply { plan: Some(plan), problems: Vec::new() },
                Err(error) => CheckReply { plan: None, problems: error.into_problems() },
            },
        },
        Question::Datasets => Answer::Datasets { datasets: preview::list(&dir)? },
        Question::Rows { dataset, offset, limit } => {
            Answer::Rows { preview: preview::rows(&dir, &dataset, offset, limit)? }
        }
        Question::Register { name, file } => Answer::Registered { dataset: preview::register(&dir, &name, &file)? },
        Question::Forget { dataset } => {
            preview::forget(&dir, &dataset)?;
            Answer::Forgotten
        }
        Question::PlanPull { wanted, preferred } => Answer::PullPlanned { plan: hub::plan(&dir, wanted, preferred)? },
        Question::ChooseFiles { source, names, readme } => {
            Answer::Chosen { names: hub::choose(&source, &names, &readme)? }
        }
        Question::RegisterPulled { plan } => Answer::Registered { dataset: hub::register(&dir, plan)? },
        Question::Models => Answer::Models { models: locate::list(places) },
    })
}
