//! A chat worker: commands line by line in, events line by line out. One loaded model serves many conversations at once,
//! on one engine.

use crate::{
    Error, Places, Result,
    generate::{Engine, Said, Ticket},
    loaded::Loaded,
};
use api::{
    Problem, RunConfig,
    chat::{Command, LoadChat, Reply},
    params::{self, ComputeType, GenerateParams, ModelParams},
};
use std::{
    collections::HashMap,
    io::{BufRead, Write},
    sync::mpsc::{Receiver, TryRecvError, channel},
    time::Instant,
};

/// The engine, and which request of the caller each ticket is.
struct Serving<'a> {
    loaded: &'a Loaded,
    engine: Engine<'a>,
    requests: HashMap<Ticket, String>,
}

/// Loads the model and serves until `input` ends. A failure to load is said on `output` and returned.
pub fn serve(
    load: &LoadChat,
    input: impl BufRead + Send + 'static,
    mut output: impl Write,
    places: &Places,
) -> Result<()> {
    let begun = Instant::now();
    let loaded = match Loaded::open_with(&model_params(load), &load.adapters, places, ComputeType::Auto) {
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
    let mut serving = Serving { loaded: &loaded, engine: loaded.engine()?, requests: HashMap::new() };
    loop {
        while let Some(command) = next(&commands, serving.engine.is_idle())? {
            match command {
                Some(command) => serving.obey(command, &mut output)?,
                None => return Ok(()),
            }
        }
        for (ticket, said) in serving.engine.step() {
            serving.tell(ticket, said, &mut output)?;
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

impl Serving<'_> {
    fn obey(&mut self, command: Result<Command, String>, output: &mut impl Write) -> Result<()> {
        let (id, found) = match command {
            Ok(command @ Command::Generate { .. }) => {
                let id = id_of(&command);
                match self.begin(command) {
                    Ok(ticket) => {
                        self.requests.insert(ticket, id);
                        return Ok(());
                    }
                    Err(error) => (id, Err(error)),
                }
            }
            Ok(Command::Score { id, texts, max_length }) => {
                let found = self.loaded.scores(&texts, max_length);
                (id.clone(), found.map(|scores| Reply::Scores { id, scores }))
            }
            Ok(Command::Embed { id, texts }) => {
                let found = self.loaded.embeddings(&texts);
                (id.clone(), found.map(|(embeddings, tokens)| Reply::Embeddings { id, embeddings, tokens }))
            }
            Ok(Command::Stop { id }) => {
                let ticket = self.requests.iter().find(|(_, of)| **of == id).map(|(ticket, _)| *ticket);
                for said in ticket.map(|ticket| self.engine.cancel(ticket)).unwrap_or_default() {
                    self.tell(ticket.unwrap_or_default(), said, output)?;
                }
                return Ok(());
            }
            Err(reason) => (String::new(), Err(bad_command(&reason).into())),
        };
        let reply = found.unwrap_or_else(|error| Reply::Failed { id, problem: error.into_problem() });
        say(output, &reply)
    }

    fn begin(&mut self, command: Command) -> Result<Ticket> {
        let Command::Generate { messages, prompt, tools, adapter, params, .. } = command else {
            return Err(Error::Internal("a command that asks for no answer".into()));
        };
        let params = params::read::<GenerateParams>(&RunConfig(params))?;
        let mut request = match prompt {
            Some(prompt) => self.loaded.completion(&prompt, params)?,
            None => self.loaded.answer(&messages, tools.as_ref(), params)?,
        };
        request.model = self.loaded.variant(adapter.as_deref())?;
        self.engine.add(request)
    }

    fn tell(&mut self, ticket: Ticket, said: Said, output: &mut impl Write) -> Result<()> {
        let Some(id) = self.requests.get(&ticket).cloned() else { return Ok(()) };
        if matches!(said, Said::Done(_) | Said::Failed(_)) {
            self.requests.remove(&ticket);
        }
        let reply = match said {
            Said::Text { index, text, logprobs } => Reply::Text { id, index: index as u32, text, logprobs },
            Said::Ended(answer) => Reply::Ended { id, index: answer.index as u32, finish_reason: answer.reason },
            Said::Done(usage) => Reply::Done { id, usage },
            Said::Failed(problem) => Reply::Failed { id, problem },
        };
        say(output, &reply)
    }
}

fn id_of(command: &Command) -> String {
    match command {
        Command::Generate { id, .. } | Command::Stop { id } | Command::Score { id, .. } | Command::Embed { id, .. } => {
            id.clone()
        }
    }
}

fn bad_command(reason: &str) -> Problem {
    Problem::new(
        "bad_command",
        format!("A chat command is not understood: {reason}."),
        format!("无法理解聊天命令：{reason}。"),
    )
}

fn say(output: &mut impl Write, reply: &Reply) -> Result<()> {
    let line = serde_json::to_string(reply).map_err(|e| Error::Internal(e.to_string()))?;
    writeln!(output, "{line}").and_then(|()| output.flush()).map_err(Error::io("stdout"))
}
