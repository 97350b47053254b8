//! `lathe worker`: what the studio starts. No terminal, no questions; everything by files and standard streams.

use crate::{
    args::{LogFormat, Worker},
    environment::Environment,
    job, log,
    outcome::{Failure, Outcome},
    runs::RunFolder,
    signals,
};
use api::{Problem, chat::LoadChat, question::Question};
use serde::de::DeserializeOwned;
use std::io::{self, BufRead, Read};

/// The largest question, and the longest line that names a chat model.
const LARGEST: u64 = 16 << 20;

pub fn run(args: Worker, environment: &Environment) -> Outcome {
    log::to_stderr("info", LogFormat::Text);
    let places = environment.places();
    args.device.as_deref().map(engine::device::assign).transpose().map_err(Failure::refused)?;
    if args.task.ask {
        let mut text = String::new();
        io::stdin().take(LARGEST).read_to_string(&mut text).map_err(unreadable)?;
        let question: Question = parse(&text)?;
        // Not locked: an export writes from threads of its own.
        return engine::ask::serve(question, &places, io::stdout()).map_err(|e| Failure::failed(e.into_problem()));
    }
    if args.task.chat {
        let mut input = io::BufReader::new(io::stdin());
        let mut line = String::new();
        input.by_ref().take(LARGEST).read_line(&mut line).map_err(unreadable)?;
        let load: LoadChat = parse(&line)?;
        let served = engine::chat::serve(&load, input, io::stdout().lock(), &places);
        return served.map_err(|e| Failure { is_told: true, ..Failure::failed(e.into_problem()) });
    }
    let stop = signals::stop_flag();
    // When memory runs out the system takes the worker, not what started it. Not where it may not be said.
    let _ = std::fs::write("/proc/self/oom_score_adj", "500");
    let folder = RunFolder::open(&args.task.run.unwrap_or_default())?;
    job::run(&folder, None, environment, &stop, &mut |_| {})
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
