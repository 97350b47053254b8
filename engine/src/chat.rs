//! A chat worker: commands line by line in, events line by line out. One loaded model serves many conversations at once,
//! a token each in turn.

use crate::{Error, Places, Result, generate::Generation, loaded::Loaded};
use api::{
    Problem, RunConfig,
    chat::{Command, FinishReason, LoadChat, Reply, Usage},
    params::{self, ComputeType, GenerateParams, ModelParams},
};
use std::{
    io::{BufRead, Write},
    sync::mpsc::{Receiver, TryRecvError, channel},
    time::Instant,
};

/// One answer in the making.
struct Active {
    id: String,
    generation: Generation,
    begun: Instant,
}

/// Loads the model and serves until `input` ends. A failure to load is said on `output` and returned.
pub fn serve(
    load: &LoadChat,
    input: impl BufRead + Send + 'static,
    mut output: impl Write,
    places: &Places,
) -> Result<()> {
    let begun = Instant::now();
    let loaded = match Loaded::open(&model_params(load), places, ComputeType::Auto) {
        Ok(loaded) => loaded,
        Err(error) => {
            let problem = error.into_problem();
            say(&mut output, &Reply::Failed { id: String::new(), problem: problem.clone() })?;
            return Err(problem.into());
        }
    };
    let (model, seconds) = (load.model_name_or_path.clone(), begun.elapsed().as_secs_f64());
    say(&mut output, &Reply::Ready { model, seconds, bytes: loaded.model.layout().parameters() * 4 })?;

    let commands = commands(input);
    let mut active: Vec<Active> = Vec::new();
    loop {
        while let Some(command) = next(&commands, active.is_empty())? {
            match command {
                Some(command) => obey(command, &loaded, &mut active, &mut output)?,
                None => return Ok(()),
            }
        }
        let mut ended = Vec::new();
        for (i, one) in active.iter_mut().enumerate() {
            if advance(one, &loaded, &mut output)? {
                ended.push(i);
            }
        }
        for i in ended.into_iter().rev() {
            active.remove(i);
        }
    }
}

/// The model that a chat asks for.
pub fn model_params(load: &LoadChat) -> ModelParams {
    ModelParams {
        model_name_or_path: load.model_name_or_path.clone(),
        adapter_name_or_path: load.adapter_name_or_path.clone(),
        template: load.template.clone().filter(|t| !t.is_empty()),
        ..ModelParams::default()
    }
}

/// Reads lines on a thread of their own, so that a stop is heard between two tokens. `None` is a line that is no command.
fn commands(input: impl BufRead + Send + 'static) -> Receiver<Result<Command, String>> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in input.lines() {
            let Ok(line) = line else { break };
            if line.trim().is_empty() {
                continue;
            }
            if sender.send(serde_json::from_str(&line).map_err(|e| e.to_string())).is_err() {
                break;
            }
        }
    });
    receiver
}

/// The next command: `Some(Some)`; none now: `None`; no more ever: `Some(None)`.
fn next(commands: &Receiver<Result<Command, String>>, wait: bool) -> Result<Option<Option<Result<Command, String>>>> {
    let received = if wait { commands.recv().map_err(|_| TryRecvError::Disconnected) } else { commands.try_recv() };
    Ok(match received {
        Ok(command) => Some(Some(command)),
        Err(TryRecvError::Empty) => None,
        Err(TryRecvError::Disconnected) => Some(None),
    })
}

fn obey(
    command: Result<Command, String>,
    loaded: &Loaded,
    active: &mut Vec<Active>,
    output: &mut impl Write,
) -> Result<()> {
    match command {
        Ok(Command::Generate { id, messages, prompt, tools, adapter: _, params }) => {
            let read = params::read::<GenerateParams>(&RunConfig(params)).map_err(Error::from);
            match read.and_then(|params| match prompt {
                Some(prompt) => loaded.complete(&prompt, params),
                None => loaded.answer(&messages, tools.as_ref(), params),
            }) {
                Ok(generation) => active.push(Active { id, generation, begun: Instant::now() }),
                Err(error) => say(output, &Reply::Failed { id, problem: error.into_problem() })?,
            }
        }
        Ok(Command::Score { id, texts, max_length }) => {
            let reply = match loaded.scores(&texts, max_length) {
                Ok(scores) => Reply::Scores { id, scores },
                Err(error) => Reply::Failed { id, problem: error.into_problem() },
            };
            say(output, &reply)?;
        }
        Ok(Command::Embed { id, texts }) => {
            let reply = match loaded.embeddings(&texts) {
                Ok((embeddings, tokens)) => Reply::Embeddings { id, embeddings, tokens },
                Err(error) => Reply::Failed { id, problem: error.into_problem() },
            };
            say(output, &reply)?;
        }
        Ok(Command::Stop { id }) => {
            if let Some(i) = active.iter().position(|a| a.id == id) {
                let one = active.remove(i);
                finish(&one, FinishReason::Cancelled, output)?;
            }
        }
        Err(reason) => {
            let problem = Problem::new(
                "bad_command",
                format!("A chat command is not understood: {reason}."),
                format!("无法理解聊天命令：{reason}。"),
            );
            say(output, &Reply::Failed { id: String::new(), problem })?;
        }
    }
    Ok(())
}

/// One token; true if the answer has ended.
fn advance(one: &mut Active, loaded: &Loaded, output: &mut impl Write) -> Result<bool> {
    match one.generation.advance(loaded.model.as_ref()) {
        Ok(text) => {
            if !text.is_empty() {
                say(output, &Reply::Text { id: one.id.clone(), index: 0, text, logprobs: Vec::new() })?;
            }
            match one.generation.finished {
                Some(reason) => finish(one, reason, output).map(|()| true),
                None => Ok(false),
            }
        }
        Err(error) => {
            say(output, &Reply::Failed { id: one.id.clone(), problem: error.into_problem() })?;
            Ok(true)
        }
    }
}

fn finish(one: &Active, finish_reason: FinishReason, output: &mut impl Write) -> Result<()> {
    let usage = Usage {
        prompt_tokens: one.generation.prompt_tokens() as u64,
        completion_tokens: one.generation.ids.len() as u64,
        seconds: one.begun.elapsed().as_secs_f64(),
        ..Usage::default()
    };
    say(output, &Reply::Ended { id: one.id.clone(), index: 0, finish_reason })?;
    say(output, &Reply::Done { id: one.id.clone(), usage })
}

fn say(output: &mut impl Write, reply: &Reply) -> Result<()> {
    let line = serde_json::to_string(reply).map_err(|e| Error::Internal(e.to_string()))?;
    writeln!(output, "{line}").and_then(|()| output.flush()).map_err(Error::io("stdout"))
}
