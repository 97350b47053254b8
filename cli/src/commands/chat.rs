//! `lathe chat`: a conversation in the terminal, or one answer.

use crate::{
    args::LogFormat,
    config,
    environment::Environment,
    gpu, home, log,
    outcome::{self, Failure, Outcome},
    say::Say,
    signals,
};
use api::{
    Problem, Problems, RunConfig,
    chat::Answer,
    data::Message,
    params::{self, ComputeType, GenerateParams, ModelParams},
};
use engine::{generate::Engine, loaded::Loaded};
use std::io::{self, BufRead, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub fn run(
    words: &[String],
    prompt: Option<String>,
    system: Option<String>,
    environment: &Environment,
    say: &Say,
) -> Outcome {
    let config = config::read(words)?;
    let (model, generation) = arguments(&config)?;
    gpu::hand_over(&config)?;
    if say.json && prompt.is_none() {
        return Err(Failure::wrong(outcome::bad_usage("--json needs --prompt TEXT here.")));
    }
    log::to_stderr("warn", LogFormat::Text);
    home::set_up(&environment.home)?;
    let loaded = Loaded::open(&model, &environment.places(), ComputeType::Auto).map_err(Failure::refused)?;
    let engine = loaded.engine().map_err(Failure::refused)?;
    let mut conversation = Conversation {
        loaded: &loaded,
        engine,
        params: generation,
        messages: system.into_iter().map(|text| Message::new("system", text)).collect(),
        busy: Arc::default(),
        stop: Arc::default(),
    };
    conversation.stop = signals::stop_answer(conversation.busy.clone());
    match prompt {
        Some(prompt) => {
            let answer = conversation.answer(prompt, &mut |text| {
                if !say.json {
                    write(text)
                }
            })?;
            say.result(&answer, String::new);
            if !say.json {
                say.line("");
            }
            Ok(())
        }
        None => talk(&mut conversation, say),
    }
}

/// The model and how it answers; every problem at once.
fn arguments(config: &RunConfig) -> Outcome<(ModelParams, GenerateParams)> {
    let schemas = [params::schema::<ModelParams>(), params::schema::<GenerateParams>()];
    let mut problems = Problems(params::check_keys(config, &schemas, &["finetuning_type"]));
    let model = params::read::<ModelParams>(config).map_err(|p| problems.0.extend(p.0));
    let generation = params::read::<GenerateParams>(config).map_err(|p| problems.0.extend(p.0));
    if config.text("model_name_or_path").is_none() {
        problems.push(
            Problem::new("model_missing", "model_name_or_path is missing.", "缺少 model_name_or_path。")
                .hint("Give one, for example model_name_or_path=starter.", "请给出，例如 model_name_or_path=starter。")
                .field("model_name_or_path"),
        );
    }
    match (model, generation) {
        (Ok(model), Ok(generation)) if problems.is_empty() => Ok((model, generation)),
        _ => Err(problems.into()),
    }
}

struct Conversation<'a> {
    loaded: &'a Loaded,
    engine: Engine<'a>,
    params: GenerateParams,
    messages: Vec<Message>,
    busy: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
}

impl Conversation<'_> {
    /// Answers and remembers both; new text goes to `tell` as it comes.
    fn answer(&mut self, prompt: String, tell: &mut dyn FnMut(&str)) -> Outcome<Answer> {
        self.messages.push(Message::new("user", prompt));
        self.stop.store(false, Ordering::Relaxed);
        self.busy.store(true, Ordering::Relaxed);
        let answer = self.generate(tell);
        self.busy.store(false, Ordering::Relaxed);
        match &answer {
            Ok(answer) => self.messages.push(Message::new("assistant", answer.text.clone())),
            Err(_) => drop(self.messages.pop()),
        }
        answer.map_err(|e| Failure::failed(e.into_problem()))
    }

    fn generate(&mut self, tell: &mut dyn FnMut(&str)) -> engine::Result<Answer> {
        let request = self.loaded.answer(&self.messages, None, self.params.clone())?;
        // Of several answers the first is shown as it comes.
        let mut tell = |index: usize, text: &str| {
            if index == 0 {
                tell(text)
            }
        };
        let (answers, usage) = self.engine.answer(request, &self.stop, &mut tell)?;
        let first = answers.into_iter().next();
        let first = first.ok_or_else(|| engine::Error::Internal("there is no answer".into()))?;
        Ok(Answer {
            text: first.text,
            completion_tokens: first.ids.len() as u64,
            ids: first.ids,
            prompt_tokens: usage.prompt_tokens,
            finish_reason: first.reason,
        })
    }
}

/// Line by line until the input ends. Input that is no terminal is answered without ornaments.
fn talk(conversation: &mut Conversation, say: &Say) -> Outcome {
    let terminal = io::stdin().is_terminal();
    if terminal {
        say.note(match say.is_chinese() {
            true => "输入 /clear 重新开始，/exit 或 Ctrl-D 结束，Ctrl-C 停止回答。",
            false => "/clear starts anew, /exit or Ctrl-D ends, Ctrl-C stops an answer.",
        });
    }
    let start = conversation.messages.clone();
    let mut lines = io::stdin().lock().lines();
    loop {
        if terminal {
            write("> ");
        }
        let Some(Ok(line)) = lines.next() else { return Ok(()) };
        match line.trim() {
            "" => {}
            "/exit" => return Ok(()),
            "/clear" => conversation.messages = start.clone(),
            text => {
                match conversation.answer(text.to_string(), &mut write) {
                    // For example a conversation that became too long: say so and go on.
                    Err(failure) if terminal => failure.problems.iter().for_each(|p| say.note(&say.problem(p))),
                    answer => drop(answer?),
                }
                say.line("");
            }
        }
    }
}

fn write(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
