//! Datasets as samples: reads the rows of every named dataset, encodes them once, and counts what happened to them.

use super::cache::{Cache, Facts, key};
use super::example::{Kind, at_row};
use super::samples::Part;
use super::walk::{self, walk};
use super::{Encoder, Example, Registry, Samples, Sequence, Spool, SpoolWriter, info, reader};
use crate::{Error, Result, files::digest, stages::STAGES};
use api::{Problem, Problems, data::Message, params::MixStrategy, plan::PlannedDataset};
use rayon::prelude::*;
use std::{
    fs,
    ops::ControlFlow,
    path::PathBuf,
    sync::{Arc, mpsc},
    thread,
};

/// What a stage learns from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Conversations, their answers trained.
    Instructions,
    /// Texts, all of it trained; conversations are taken as the text that the chat template makes of them.
    Text,
    /// Both: conversations with their answers trained, and texts, whose mark is 1.
    Mixed,
    /// Pairs of answers to one prompt. A sample is two sequences, the chosen answer first; their mark is the margin.
    Preferences,
    /// Answers that are wanted (mark 1) or not (0). A sample is two sequences: the prompt with its answer, and with the
    /// answer of the row before, which tells how far the policy has gone from its reference.
    Kto,
    /// Questions that the model answers itself. The answer of the row, where it has one, stands behind as what is trained,
    /// for rewards that compare with it. Plain text is a question without an answer.
    Prompts,
}

impl Needs {
    /// Sequences of a sample, which always stay together.
    pub fn sequences(self) -> usize {
        match self {
            Self::Instructions | Self::Text | Self::Mixed | Self::Prompts => 1,
            Self::Preferences | Self::Kto => 2,
        }
    }

    /// Whether rows of this kind can be learned from.
    pub fn takes(self, kind: Kind) -> bool {
        match self {
            Self::Instructions => kind == Kind::Instructions,
            Self::Text | Self::Mixed => matches!(kind, Kind::Instructions | Kind::Text),
            Self::Preferences => kind == Kind::Preferences,
            Self::Kto => kind == Kind::Kto,
            Self::Prompts => true,
        }
    }
}

/// How datasets become samples.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    pub needs: Needs,
    /// Samples keep at most this many tokens.
    pub cutoff_len: usize,
    /// At most this many rows of each dataset, from its beginning.
    pub max_samples: Option<usize>,
    /// Joins the rows of a dataset to blocks of `cutoff_len` tokens. Only with [`Needs::Text`].
    pub blocks: bool,
    pub mix: MixStrategy,
    /// How often each dataset comes in a mixture.
    pub shares: Vec<f64>,
    pub seed: u64,
}

impl LoadOptions {
    /// Every row of one dataset after another, whole.
    pub fn plain(needs: Needs) -> Self {
        let (mix, shares) = (MixStrategy::Concat, Vec::new());
        Self { needs, cutoff_len: usize::MAX, max_samples: None, blocks: false, mix, shares, seed: 0 }
    }
}

/// How much of a large dataset is read that isn't in the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// All of it.
    Whole,
    /// For a plan: the beginning, from which the rest is estimated.
    Beginning,
}

/// What [`Loader::load`] found.
#[derive(Debug)]
pub struct Dataset {
    pub samples: Samples,
    /// Samples and tokens of each dataset, in the order asked for.
    pub datasets: Vec<PlannedDataset>,
    /// Rows read.
    pub rows: u64,
    /// Samples that were cut at `cutoff_len`.
    pub truncated: u64,
    /// Rows left out since no token of theirs would be trained.
    pub skipped: u64,
    /// Worth knowing, for the plan's warnings.
    pub notes: Vec<Problem>,
}

/// What datasets are read with.
pub struct Loader<'a> {
    pub registry: &'a Registry,
    pub encoder: &'a Encoder,
    pub cache: &'a Cache,
    pub reading: Reading,
    /// Hears rows encoded and rows in all of a large dataset; may end the loading.
    pub progress: &'a mut dyn FnMut(u64, u64) -> Result<()>,
}

/// One dataset, encoded.
struct Encoded {
    spool: Spool,
    facts: Facts,
    notes: Vec<Problem>,
}

/// Rows that are encoded at once, on all cores: so many, or so many bytes of text.
const BATCH_ROWS: usize = 1024;
const BATCH_BYTES: usize = 4 << 20;

/// A dataset with more bytes than this is estimated in a plan from so many bytes of text.
const LARGE: u64 = 32 << 20;
const BEGINNING: usize = 4 << 20;

/// More faults than this in one dataset are only counted.
const SHOWN_FAULTS: usize = 20;

impl Loader<'_> {
    /// Reads and encodes `names`, unless the cache has what would come of it. Faulty rows are an error that lists them, row
    /// by row, for all datasets at once: a row is never left out unseen.
    pub fn load(&mut self, names: &[String], options: &LoadOptions) -> Result<Dataset> {
        if names.is_empty() {
            return Err(no_dataset(self.registry).into());
        }
        let encoder = self.encoder.fingerprint()?;
        let (mut problems, mut parts) = (Problems::default(), Vec::new());
        let (mut datasets, mut notes) = (Vec::new(), Vec::new());
        let (mut rows, mut truncated, mut skipped) = (0, 0, 0);
        for name in names {
            let encoded = match self.encoded(name, options, &encoder) {
                Ok(encoded) => encoded,
                Err(error) => {
                    error.into_problems().into_iter().for_each(|problem| problems.push(problem));
                    continue;
                }
            };
            let spool = Arc::new(encoded.spool);
            let part = part(spool, options, self.encoder.options().sources)?;
            let kept = || (0..part.len()).filter(|piece| part.targets(*piece) > 0);
            let tokens = kept().map(|piece| part.length(piece) as u64).sum();
            datasets.push(PlannedDataset { name: name.clone(), samples: kept().count() as u64, tokens });
            rows += encoded.facts.rows;
            truncated += kept().filter(|piece| part.is_cut(*piece)).count() as u64;
            skipped += encoded.facts.skipped + (part.len() - kept().count()) as u64;
            notes.extend(encoded.notes);
            if encoded.facts.unseen_tools {
                notes.push(tools_note(name));
            }
            parts.push(part);
        }
        let samples = Samples::mixed(parts, options.mix, &options.shares, options.seed);
        if problems.is_empty() && samples.is_empty() {
            problems.push(nothing_left(rows, skipped, names, options.cutoff_len));
        }
        if truncated > 0 {
            notes.push(cut_note(truncated, options.cutoff_len));
        }
        if skipped > 0 {
            notes.push(skipped_note(skipped, options.needs));
        }
        problems.or(Dataset { samples, datasets, rows, truncated, skipped, notes }).map_err(Into::into)
    }

    /// One dataset from the cache, or into it.
    fn encoded(&mut self, name: &str, options: &LoadOptions, encoder: &str) -> Result<Encoded> {
        let entry = self.registry.entry(name)?;
        check_kind(name, entry.format()?.kind(entry), options.needs)?;
        let files = self.registry.files(entry)?;
        let before = states(&files)?;
        let key = key_of(entry, &files, options, encoder)?;
        if let Some((spool, facts)) = self.cache.find(&key) {
            return Ok(Encoded { spool, facts, notes: Vec::new() });
        }
        let bytes: u64 = before.iter().map(|(bytes, _)| bytes).sum();
        let limit = limit(entry, options.max_samples);
        let total = if bytes > LARGE { files.iter().map(|file| reader::count(file)).sum::<Result<u64>>()? } else { 0 };
        let total = total.min(limit);
        if total > 0 && self.reading == Reading::Beginning {
            let mut spool = SpoolWriter::nameless(self.cache.dir())?;
            let facts = self.encode(name, limit, Some(BEGINNING), options.needs, total, &mut spool)?;
            let spool = spool.finish()?;
            if facts.rows < total {
                let each = options.needs.sequences();
                let kept = (spool.len() / each) as u64 * total / facts.rows.max(1);
                let notes = vec![estimate_note(name, facts.rows, total)];
                let skipped = total - kept;
                let facts = Facts { rows: total, skipped, ..facts };
                return Ok(Encoded { spool: spool.stretched(kept as usize * each), facts, notes });
            }
            return Ok(Encoded { spool, facts, notes: Vec::new() });
        }
        let mut making = self.cache.make(&key)?;
        let facts = self.encode(name, limit, None, options.needs, total, &mut making.spool)?;
        if states(&files)? != before {
            return Err(changed(name).into());
        }
        Ok(Encoded { spool: making.finish(self.cache, &facts)?, facts, notes: Vec::new() })
    }

    /// Encodes rows of a dataset: `limit` at most, and no more after `enough` bytes of text. A thread reads ahead of the
    /// others, which encode.
    fn encode(
        &mut self,
        name: &str,
        limit: u64,
        enough: Option<usize>,
        needs: Needs,
        total: u64,
        spool: &mut SpoolWriter,
    ) -> Result<Facts> {
        let (registry, encoder) = (self.registry, self.encoder);
        let entry = registry.entry(name)?;
        let (send, batches) = mpsc::sync_channel(1);
        let (mut facts, mut faults) = (Facts::default(), Faults::default());
        let mut before = None;
        let read = thread::scope(|scope| {
            let reader = scope.spawn(move || read_batches(registry, entry, limit, enough, &send));
            let encoded = batches.into_iter().try_for_each(|batch: Vec<ReadRow>| {
                facts.rows += batch.len() as u64;
                let tools = |(_, example): &ReadRow| example.as_ref().is_ok_and(|example| example.tools.is_some());
                facts.unseen_tools |= !encoder.template().takes_tools() && batch.iter().any(tools);
                let others = if needs == Needs::Kto { answers_before(&batch, &mut before) } else { Vec::new() };
                let encode = |(i, (row, example)): (usize, ReadRow)| {
                    let example = example.map_err(Error::Problem)?;
                    let other = others.get(i).and_then(Option::as_ref);
                    encoded(&example, other, needs, encoder).map_err(|e| at_row(e.into_problem(), name, row).into())
                };
                for sample in batch.into_par_iter().enumerate().map(encode).collect::<Vec<Result<Sample>>>() {
                    match sample {
                        Ok(sample) if sample.sequences.iter().any(|s| s.targets() == 0) => facts.skipped += 1,
                        Ok(sample) => {
                            sample.sequences.iter().try_for_each(|s| spool.push_marked(s, sample.mark))?;
                        }
                        Err(error) => faults.add(error),
                    }
                }
                if total > 0 { (self.progress)(facts.rows, total) } else { Ok(()) }
            });
            // A reader that failed has also ended its batches.
            let read =
                reader.join().unwrap_or_else(|_| Err(Error::Internal("the reader of a dataset panicked".into())));
            encoded.map(|()| read)
        })?;
        // A broken file is told together with the faults of the rows before.
        if let Err(error) = read {
            error.into_problems().into_iter().for_each(|problem| faults.shown.push(problem));
        }
        faults.told(name)?;
        Ok(facts)
    }
}

/// What an encoded dataset is made of; `encoder` is the fingerprint of the one that encodes.
fn key_of(entry: &info::Entry, files: &[PathBuf], options: &LoadOptions, encoder: &str) -> Result<String> {
    let columns = format!("{:?}", (&entry.formatting, entry.ranking, &entry.columns, &entry.tags));
    let settings = format!("{:?}", (options.needs, limit(entry, options.max_samples)));
    let mut parts = vec![encoder.to_owned(), columns, settings];
    for file in files {
        parts.push(file.file_name().unwrap_or_default().to_string_lossy().into_owned());
        parts.push(digest::of_file(file).map_err(Error::io(file))?.1);
    }
    Ok(key(parts.iter().map(String::as_str)))
}

/// A row's number, from 1, and its example.
type ReadRow = (u64, Result<Example, Box<Problem>>);

/// Sends the examples of a dataset in batches; ends early when nobody takes them.
fn read_batches(
    registry: &Registry,
    entry: &info::Entry,
    limit: u64,
    enough: Option<usize>,
    send: &mpsc::SyncSender<Vec<ReadRow>>,
) -> Result<()> {
    let (mut batch, mut bytes, mut read) = (Vec::with_capacity(BATCH_ROWS), 0, 0);
    examples(registry, entry, limit, &mut |row, example| {
        bytes += example.as_ref().map_or(0, Example::bytes);
        batch.push((row, example));
        if batch.len() < BATCH_ROWS && bytes < BATCH_BYTES {
            return Ok(ControlFlow::Continue(()));
        }
        read += std::mem::take(&mut bytes);
        let full = std::mem::replace(&mut batch, Vec::with_capacity(BATCH_ROWS));
        let gone = send.send(full).is_err();
        Ok(if gone || enough.is_some_and(|enough| read >= enough) {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        })
    })?;
    // Nobody takes it any more: the loading has failed, and says so itself.
    let _ = send.send(batch);
    Ok(())
}

/// Faults of rows; the first are told, the others counted.
#[derive(Default)]
struct Faults {
    shown: Problems,
    more: u64,
}

impl Faults {
    fn add(&mut self, error: Error) {
        match self.shown.0.len() < SHOWN_FAULTS {
            true => self.shown.push(error.into_problem()),
            false => self.more += 1,
        }
    }

    fn told(mut self, name: &str) -> Result<()> {
        if self.more > 0 {
            self.shown.push(more_faults(name, self.more));
        }
        Ok(self.shown.or(())?)
    }
}

/// Size and time of change of each file.
fn states(files: &[PathBuf]) -> Result<Vec<(u64, Option<std::time::SystemTime>)>> {
    let state =
        |file: &PathBuf| fs::metadata(file).map(|meta| (meta.len(), meta.modified().ok())).map_err(Error::io(file));
    files.iter().map(state).collect()
}

/// Rows of a dataset that are read at most.
fn limit(entry: &info::Entry, max_samples: Option<usize>) -> u64 {
    max_samples.into_iter().chain(entry.num_samples).min().map_or(u64::MAX, |n| n as u64)
}

/// Calls `each` with the 1-based number and the example of every row of a dataset, up to `limit` rows or until it has
/// enough; a faulty row is a problem with dataset and row. An error of `each` ends the reading.
pub fn examples(
    registry: &Registry,
    entry: &info::Entry,
    limit: u64,
    each: &mut dyn FnMut(u64, Result<Example, Box<Problem>>) -> Result<ControlFlow<()>>,
) -> Result<()> {
    let format = entry.format()?;
    if limit == 0 {
        return Ok(());
    }
    walk(registry, entry, &mut |index, raw| {
        let row = index + 1;
        let example = walk::example(format, entry, &raw.value);
        let flow = each(row, example.map_err(|problem| Box::new(at_row(*problem, &entry.name, row))))?;
        Ok(if row >= limit { ControlFlow::Break(()) } else { flow })
    })
}

/// What a row becomes, whole.
pub struct Sample {
    pub sequences: Vec<Sequence>,
    /// See [`Needs`].
    pub mark: f32,
}

/// An example as sequences. `other` is the answer of another row, for [`Needs::Kto`].
pub fn encoded(example: &Example, other: Option<&Message>, needs: Needs, encoder: &Encoder) -> Result<Sample> {
    let answered = |answer: &Message| encoder.last_answer(&example.answered_by(answer));
    let one = |sequence: Sequence, mark: f32| Ok(Sample { sequences: vec![sequence], mark });
    match (needs, &example.chosen, &example.rejected) {
        (Needs::Preferences, Some(chosen), Some(rejected)) => {
            Ok(Sample { sequences: vec![answered(chosen)?, answered(rejected)?], mark: example.margin })
        }
        (Needs::Kto, ..) if example.desirable.is_some() => {
            let own = encoder.last_answer(example)?;
            let other = other.map_or_else(|| Ok(own.clone()), answered)?;
            let mark = f32::from(u8::from(example.desirable == Some(true)));
            Ok(Sample { sequences: vec![own, other], mark })
        }
        (Needs::Text, ..) => one(encoder.conversation_as_text(example)?, 0.0),
        (Needs::Prompts, ..) => one(encoder.question(example)?, 0.0),
        (Needs::Mixed, ..) => one(encoder.conversation(example)?, f32::from(u8::from(example.text.is_some()))),
        _ => one(encoder.conversation(example)?, 0.0),
    }
}

/// Of each row of a batch, the answer of the row before it; of the very first row, the last one of its batch. `before` is the
/// last answer of the batch before, and then that of this one.
fn answers_before(batch: &[ReadRow], before: &mut Option<Message>) -> Vec<Option<Message>> {
    let answer = |(_, example): &ReadRow| example.as_ref().ok()?.messages.last().cloned();
    let last = batch.iter().rev().find_map(answer);
    let mut previous = std::mem::replace(before, last.clone()).or(last);
    let one = |row: &ReadRow| {
        let other = previous.clone();
        previous = answer(row).or(previous.take());
        other
    };
    batch.iter().map(one).collect()
}

/// The rows of one dataset as pieces.
fn part(spool: Arc<Spool>, options: &LoadOptions, sources: bool) -> Result<Part> {
    let cutoff = options.cutoff_len;
    match options.needs {
        Needs::Preferences => Ok(Part::pairs(spool, cutoff, true)),
        Needs::Kto => Ok(Part::pairs(spool, cutoff, false)),
        Needs::Prompts => Ok(Part::prompts(spool, cutoff)),
        _ if sources => Ok(Part::sources(spool, cutoff)),
        _ if options.blocks => Ok(Part::blocks(spool, cutoff)),
        _ => Part::rows(spool, cutoff),
    }
}

fn no_dataset(registry: &Registry) -> Problem {
    let known: Vec<&str> = registry.entries().iter().map(|entry| entry.name.as_str()).take(8).collect();
    Problem::new("no_dataset", "No dataset is chosen.", "未选择数据集。")
        .hint(format!("Choose one, for example {}.", known.join(", ")), format!("请选择，例如 {}。", known.join("、")))
        .field("dataset")
}

fn changed(name: &str) -> Problem {
    Problem::new(
        "dataset_changed",
        format!("Dataset {name} was changed while it was read."),
        format!("数据集 {name} 在读取过程中被修改。"),
    )
    .hint("Start again when its file is whole.", "请在文件写完后重新开始。")
    .field("dataset")
}

fn estimate_note(name: &str, seen: u64, rows: u64) -> Problem {
    Problem::new(
        "estimated",
        format!("Dataset {name} is large: its numbers are estimated from the first {seen} of {rows} rows."),
        format!("数据集 {name} 较大：以下数字由 {rows} 行中的前 {seen} 行估算。"),
    )
    .hint("The run reads all of it, once, when it starts.", "运行开始时会完整读取一次。")
    .field("dataset")
}

/// A problem unless rows of this kind can be learned from: it names the stages for which they are.
fn check_kind(name: &str, kind: Kind, needs: Needs) -> Result<()> {
    if needs.takes(kind) {
        return Ok(());
    }
    let (holds, holds_zh) = match kind {
        Kind::Instructions => ("questions with answers", "问答"),
        Kind::Text => ("plain text", "纯文本"),
        Kind::Preferences => ("pairs of a chosen and a rejected answer", "偏好数据（chosen 与 rejected 成对）"),
        Kind::Kto => ("answers marked good or bad (KTO)", "KTO 数据（回答标注好坏）"),
    };
    let (wants, wants_zh) = match needs {
        Needs::Instructions => ("answers to learn", "可学习的回答"),
        Needs::Text | Needs::Mixed => ("text or answers to learn", "可学习的文本或回答"),
        Needs::Preferences => ("pairs of a chosen and a rejected answer", "成对的 chosen 与 rejected 回答"),
        Needs::Kto => ("answers marked good or bad", "标注好坏的回答"),
        Needs::Prompts => ("questions", "问题"),
    };
    let stages = STAGES.iter().filter(|stage| stage.needs().takes(kind)).map(|stage| stage.card().name);
    let stages = stages.collect::<Vec<_>>();
    let problem = Problem::new(
        "dataset_kind_mismatch",
        format!("Dataset {name} holds {holds}, and this stage needs {wants}."),
        format!("数据集 {name} 是{holds_zh}，而此阶段需要{wants_zh}。"),
    );
    let hint = format!("Choose another dataset, or a stage that takes it: {}.", stages.join(", "));
    let hint_zh = format!("请选择其他数据集，或可用它的阶段：{}。", stages.join("、"));
    Err(problem.hint(hint, hint_zh).field("dataset").into())
}

fn nothing_left(rows: u64, skipped: u64, names: &[String], cutoff: usize) -> Problem {
    let names = names.join(", ");
    if skipped > 0 {
        let en = format!(
            "No token of {names} would be trained: cutoff_len {cutoff} cuts all {skipped} rows before their answer."
        );
        let zh = format!("{names} 没有可训练的词元：cutoff_len {cutoff} 在回答之前截断了全部 {skipped} 行。");
        return Problem::new("nothing_trained", en, zh)
            .hint("Raise cutoff_len.", "请调大 cutoff_len。")
            .field("cutoff_len");
    }
    let en = format!("{names} gives no samples ({rows} rows).");
    let zh = format!("{names} 没有样本（{rows} 行）。");
    Problem::new("dataset_empty", en, zh)
        .hint("Choose another dataset, or add rows to it.", "请选择其他数据集，或为其添加数据。")
        .field("dataset")
}

fn cut_note(count: u64, cutoff: usize) -> Problem {
    Problem::new(
        "truncated",
        format!("{count} samples are cut at {cutoff} tokens."),
        format!("{count} 个样本在 {cutoff} 个词元处被截断。"),
    )
    .hint("Raise cutoff_len to keep them whole.", "调大 cutoff_len 可完整保留。")
    .field("cutoff_len")
}

fn skipped_note(count: u64, needs: Needs) -> Problem {
    let (why, zh) = match needs {
        Needs::Prompts => ("their question has more than cutoff_len tokens", "其提问超过 cutoff_len 个词元"),
        _ => ("none of their tokens would be trained", "其中没有可训练的词元"),
    };
    Problem::new("skipped", format!("{count} rows are left out, since {why}."), format!("{count} 行被略去，因为{zh}。"))
        .hint("Raise cutoff_len, or shorten their questions.", "请调大 cutoff_len，或缩短提问。")
        .field("cutoff_len")
}

fn tools_note(name: &str) -> Problem {
    Problem::new(
        "tools_unseen",
        format!("Dataset {name} describes tools, but the chat template doesn't show them to the model."),
        format!("数据集 {name} 描述了工具，但对话模板不会把它们展示给模型。"),
    )
    .hint("Choose a template that takes tools, for example qwen.", "请选择支持工具的模板，例如 qwen。")
    .field("template")
}

fn more_faults(name: &str, count: u64) -> Problem {
    Problem::new(
        "more_faults",
        format!("{count} more rows of dataset {name} have faults."),
        format!("数据集 {name} 还有 {count} 行有问题。"),
    )
    .hint("Look at the dataset in the Data tab.", "请在“数据”页查看该数据集。")
    .field("dataset")
}
