//! Making data: a teacher writes new tasks after seeds, answers rows that have no answer, answers prompts several times, or
//! says which of two answers is better. Each row is written as soon as it is made and says where it comes from; a job that
//! is stopped or killed keeps its rows and goes on behind them.

mod instruct;
mod judge;
mod label;
mod output;
mod rouge;
mod sample;
mod teacher;

pub use teacher::{Connect, Endpoint, Options, Said, Teacher, local, no_endpoints};

use crate::{Error, Places, Result, data::questions, random, run::Sink};
use api::{
    Event, Outcome, Problem, Problems, RunConfig, Text,
    data::Message,
    params::{self, GenerateParams, MakeParams, MakeTask, ModelParams},
};
use output::{Apart, Output};
use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
};

/// Attempts in a row that give nothing, after which there is no point in going on.
const PATIENCE: usize = 100;

/// Everything that a job of this kind was asked.
#[derive(Clone, Debug)]
pub struct Arguments {
    pub make: MakeParams,
    pub model: ModelParams,
    pub generate: GenerateParams,
}

/// Arguments, checked; all problems at once.
pub fn arguments(config: &RunConfig, places: &Places) -> Result<Arguments> {
    let schemas = [params::schema::<MakeParams>(), params::schema::<ModelParams>(), params::schema::<GenerateParams>()];
    let mut problems = Problems(params::check_keys(config, &schemas, &["finetuning_type", "run_name"]));
    let make = params::read::<MakeParams>(config).map_err(|p| problems.0.extend(p.0));
    let model = params::read::<ModelParams>(config).map_err(|p| problems.0.extend(p.0));
    let generate = params::read::<GenerateParams>(config).map_err(|p| problems.0.extend(p.0));
    let (Ok(make), Ok(model), Ok(generate), true) = (make, model, generate, problems.is_empty()) else {
        return Err(problems.into());
    };
    let is_empty = |text: &Option<String>| text.as_ref().is_none_or(|t| t.trim().is_empty());
    let samples_others = make.task == MakeTask::Samples && !make.checkpoints.is_empty();
    if is_empty(&make.base_url) {
        if model.model_name_or_path.is_empty() && !samples_others {
            problems.push(no_teacher());
        }
    } else if is_empty(&make.teacher) {
        problems.push(no_teacher_name());
    }
    if make.min_words > make.max_words {
        problems.push(words_crossed(make.min_words, make.max_words));
    }
    if let Err(error) = questions::find(&make.dataset, places) {
        error.into_problems().into_iter().for_each(|problem| problems.push(problem));
    }
    let arguments = Arguments { make, model, generate };
    if arguments.make.task == MakeTask::Samples
        && let Err(error) = sample::check(&arguments)
    {
        error.into_problems().into_iter().for_each(|problem| problems.push(problem));
    }
    problems.or(arguments).map_err(Into::into)
}

/// Makes the rows of the job `id`. They are a dataset when this returns, also when it was stopped or failed.
pub fn make(
    config: &RunConfig,
    id: &str,
    places: &Places,
    connect: Connect,
    sink: Sink,
    stop: &AtomicBool,
) -> Result<(Outcome, BTreeMap<String, f64>)> {
    let arguments = arguments(config, places)?;
    let name = arguments.make.output_dataset.clone().filter(|name| !name.is_empty()).unwrap_or_else(|| id.to_owned());
    let task = arguments.make.task;
    let apart = if task == MakeTask::Judge { Apart::Ties } else { Apart::Unsure };
    let mut output = Output::open(places.datasets(), &name, id, apart)?;
    let mut work = Work { arguments: &arguments, output: &mut output, sink, stop, counts: BTreeMap::new() };
    let mut with_teacher = |run: Kind| -> Result<Outcome> {
        work.tell(Text::new("Preparing the teacher", "正在准备教师模型"), 0, 0)?;
        run(&mut work, teacher::open(&arguments, places, connect)?.as_mut(), places)
    };
    let done = match task {
        MakeTask::SelfInstruct => with_teacher(instruct::run),
        MakeTask::PseudoLabel => with_teacher(label::run),
        MakeTask::Judge => with_teacher(judge::run),
        MakeTask::Samples => sample::run(&mut work, places, connect),
    };
    let summary = work.summary();
    if let Some((path, bytes)) = output.register()? {
        sink(Event::Artifact { path: path.display().to_string(), bytes })?;
    }
    Ok((done?, summary))
}

/// What a teacher is to do.
type Kind = fn(&mut Work, &mut dyn Teacher, &Places) -> Result<Outcome>;

/// What all kinds of making share.
struct Work<'a> {
    arguments: &'a Arguments,
    output: &'a mut Output,
    sink: Sink<'a>,
    stop: &'a AtomicBool,
    /// What was dropped, and why, and what else is to be told at the end.
    counts: BTreeMap<&'static str, f64>,
}

impl Work<'_> {
    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1.0;
    }

    /// A point of the curve: rows done, what was dropped so far, and a figure of the last row.
    fn made(&mut self, done: u64, figure: Option<(&str, f64)>) -> Result<()> {
        let mut values = self.summary();
        values.extend(figure.map(|(name, value)| (name.to_owned(), value)));
        (self.sink)(Event::Metrics { step: done, epoch: 0.0, values })
    }

    /// A sign of life: so many of `total` rows are done.
    fn alive(&mut self, done: u64, total: u64) -> Result<()> {
        self.tell(Text::new("Making rows", "正在生成数据"), done, total)
    }

    fn tell(&mut self, text: Text, done: u64, total: u64) -> Result<()> {
        (self.sink)(Event::Status { text, done, total })
    }

    /// What was made and dropped, by name.
    fn summary(&self) -> BTreeMap<String, f64> {
        let counts = self.counts.iter().map(|(name, count)| ((*name).to_owned(), *count));
        counts.chain([("rows".to_owned(), self.output.rows() as f64)]).collect()
    }

    /// How the answer of one turn is made: another one each time, and the same ones in another run.
    fn options(&self, turn: u64) -> Options {
        let mut generate = self.arguments.generate.clone();
        generate.seed = Some(random::mix(generate.seed.unwrap_or(0) ^ turn.rotate_left(32)) >> 16);
        Options { generate, surely: false }
    }

    /// An answer of the teacher; nothing if the job is to stop.
    fn ask(&self, teacher: &mut dyn Teacher, messages: &[Message], options: &Options) -> Result<Option<Said>> {
        match teacher.answer(messages, options, self.stop) {
            _ if self.is_stopped() => Ok(None),
            Ok(said) => Ok(Some(said)),
            Err(error) => Err(error),
        }
    }
}

/// Words of a text for counting and comparing: letters and digits together, each Chinese character by itself, lower case.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    for c in text.chars() {
        let is_single = matches!(c, '\u{3040}'..='\u{30FF}' | '\u{3400}'..='\u{9FFF}' | '\u{F900}'..='\u{FAFF}');
        if (is_single || !c.is_alphanumeric()) && !word.is_empty() {
            words.push(std::mem::take(&mut word));
        }
        if is_single {
            words.push(c.to_string());
        } else if c.is_alphanumeric() {
            word.extend(c.to_lowercase());
        }
    }
    words.extend(Some(word).filter(|word| !word.is_empty()));
    words
}

/// For provenance: which prompt made a row.
fn prompt_hash(messages: &[Message]) -> Result<String> {
    use sha2::Digest;
    let text = serde_json::to_vec(messages).map_err(|e| Error::Internal(e.to_string()))?;
    Ok(sha2::Sha256::digest(text).iter().take(8).map(|byte| format!("{byte:02x}")).collect())
}

fn no_teacher() -> Problem {
    Problem::new(
        "no_model",
        "There is no teacher: neither a model nor a server is named.",
        "没有教师模型：未指定模型或服务地址。",
    )
    .hint("Set model_name_or_path, or base_url and teacher.", "请设置 model_name_or_path，或设置 base_url 和 teacher。")
    .field("model_name_or_path")
}

fn no_teacher_name() -> Problem {
    Problem::new(
        "no_teacher",
        "base_url is set, but not which model there is the teacher.",
        "已设置 base_url，但未指定教师模型的名称。",
    )
    .hint("Set teacher to the name of a model of that server.", "请将 teacher 设为该服务上的模型名称。")
    .field("teacher")
}

fn words_crossed(min: usize, max: usize) -> Problem {
    Problem::new(
        "bad_value",
        format!("min_words {min} is more than max_words {max}."),
        format!("min_words {min} 大于 max_words {max}。"),
    )
    .hint("Lower min_words.", "请调小 min_words。")
    .field("min_words")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
