//! `lathe worker`: what the studio starts. No terminal, no questions; everything by files and standard streams.

use crate::{
    args::{LogFormat, Worker},
    confine::Bounds,
    environment::Environment,
    job, log,
    outcome::{Failure, Outcome},
    runs::RunFolder,
    signals,
};
use api::{JobKind, Problem, RunConfig, chat::LoadChat, question::Question};
use engine::Places;
use serde::de::DeserializeOwned;
use server::teacher;
use std::io::{self, BufRead, Read};

/// The largest question, and the longest line that names a chat model.
const LARGEST: u64 = 16 << 20;

pub fn run(args: Worker, environment: &Environment) -> Outcome {
    log::to_stderr("info", LogFormat::Text);
    let places = environment.places();
    // Only remembers it: nothing of the device is opened before the worker is confined.
    args.device.as_deref().map(engine::device::assign).transpose().map_err(Failure::refused)?;
    if args.task.ask {
        let mut text = String::new();
        io::stdin().take(LARGEST).read_to_string(&mut text).map_err(unreadable)?;
        let question: Question = parse(&text)?;
        bounds_of_question(&question, &places).confine();
        // Not locked: an export writes from threads of its own.
        return engine::ask::serve(question, &places, io::stdout()).map_err(|e| Failure::failed(e.into_problem()));
    }
    if args.task.chat {
        let mut input = io::BufReader::new(io::stdin());
        let mut line = String::new();
        input.by_ref().take(LARGEST).read_line(&mut line).map_err(unreadable)?;
        let load: LoadChat = parse(&line)?;
        Bounds::of(&places, &load).confine();
        let served = engine::chat::serve(&load, input, io::stdout().lock(), &places);
        return served.map_err(|e| Failure { is_told: true, ..Failure::failed(e.into_problem()) });
    }
    let stop = signals::stop_flag();
    // When memory runs out the system takes the worker, not what started it. Not where it may not be said.
    let _ = std::fs::write("/proc/self/oom_score_adj", "500");
    let folder = RunFolder::open(&args.task.run.unwrap_or_default())?;
    bounds_of_job(&folder, &places).confine();
    job::run(&folder, None, environment, &stop, &mut |_| {})
}

/// A question changes datasets or nothing.
fn bounds_of_question(question: &Question, places: &Places) -> Bounds {
    let (config, changes): (Option<&RunConfig>, bool) = match question {
        Question::Check { config } | Question::Tokens { config, .. } | Question::Statistics { config, .. } => {
            (Some(config), false)
        }
        Question::Edit { config, .. } => (Some(config), true),
        Question::Register { .. }
        | Question::Forget { .. }
        | Question::BuildPairs { .. }
        | Question::Ballot { .. }
        | Question::RegisterPulled { .. } => (None, true),
        _ => (None, false),
    };
    let bounds = Bounds::of(places, &config);
    if changes { bounds.writes(places.datasets()) } else { bounds }
}

/// A job writes its run folder, and besides what its kind is for.
fn bounds_of_job(folder: &RunFolder, places: &Places) -> Bounds {
    let config = &folder.spec.config;
    let asks = teacher::is_asked(config) || config.text("base_url").is_some();
    let bounds = Bounds::of(places, config).writes(&folder.dir).connects(asks);
    match folder.spec.kind {
        JobKind::Make => bounds.writes(places.datasets()),
        JobKind::Export => {
            // Written beside its place and renamed: the folder around it has to be open.
            let named = config.text("export_dir").and_then(|dir| std::path::absolute(dir).ok());
            let around = named.and_then(|dir| dir.parent().map(Into::into)).unwrap_or_else(|| places.exports());
            // One that can't be made is told by the export itself.
            let _ = std::fs::create_dir_all(&around);
            bounds.writes(around)
        }
        _ => bounds,
    }
}

fn parse<T: DeserializeOwned>(text: &str) -> Outcome<T> {
    serde_json::from_str(text).map_err(unreadable)
}

fn unreadable(error: impl ToString) -> Failure {
    let what = error.to_string();
    Failure::wrong(
        Problem::new("bad_request", format!("stdin is not understood: {what}."), format!("无法理解标准输入：{what}。"))
            .hint("It takes the JSON that the studio writes.", "应为工作室写出的 JSON。"),
    )
}
