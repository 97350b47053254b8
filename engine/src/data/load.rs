//! Datasets as samples: reads the rows of every named dataset, encodes them, and counts what happened to them.

use super::example::{Kind, at_row};
use super::{Encoder, Example, Packer, Registry, Sequence, SpoolWriter, info, reader};
use crate::random::Random;
use crate::{Error, Result};
use api::{Problem, Problems, plan::PlannedDataset};
use rayon::prelude::*;
use std::ops::{ControlFlow, Range};

/// What a stage learns from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Conversations, their answers trained.
    Instructions,
    /// Texts, all of it trained; conversations are taken as the text that the chat template makes of them.
    Text,
}

#[derive(Clone, Copy, Debug)]
pub struct LoadOptions {
    pub needs: Needs,
    /// At most this many rows of each dataset, from its beginning.
    pub max_samples: Option<usize>,
    /// Joins the samples of a dataset to blocks of `cutoff_len` tokens (see [`Packer`]). Only with [`Needs::Text`].
    pub packing: bool,
}

/// What [`load`] found.
#[derive(Clone, Debug, Default)]
pub struct Dataset {
    /// Places of the samples in the spool.
    pub samples: Range<u32>,
    /// Samples and tokens of each dataset, in the order asked for.
    pub datasets: Vec<PlannedDataset>,
    /// Rows read.
    pub rows: u64,
    /// Samples that were cut at `cutoff_len`.
    pub truncated: u64,
    /// Rows left out since no token of theirs would be trained.
    pub skipped: u64,
    /// Tokens of the longest sample.
    pub longest: u64,
    /// Worth knowing, for the plan's warnings.
    pub notes: Vec<Problem>,
}

/// Rows that are encoded at once, on all cores.
const BATCH: usize = 1024;

/// More faults than this in one dataset are only counted.
const SHOWN_FAULTS: usize = 20;

/// Reads and encodes `names` into a spool. Faulty rows are an error that lists them, row by row, for all datasets at once:
/// a row is never left out unseen.
pub fn load(
    registry: &Registry,
    names: &[String],
    options: &LoadOptions,
    encoder: &Encoder,
    spool: &mut SpoolWriter,
) -> Result<Dataset> {
    let first = spool.len() as u32;
    let mut dataset = Dataset::default();
    let mut problems = Problems::default();
    if names.is_empty() {
        let problem = Problem::new("no_dataset", "No dataset is chosen.", "未选择数据集。");
        let known: Vec<&str> = registry.entries().iter().map(|entry| entry.name.as_str()).take(8).collect();
        return Err(problem
            .hint(
                format!("Choose one, for example {}.", known.join(", ")),
                format!("请选择，例如 {}。", known.join("、")),
            )
            .field("dataset")
            .into());
    }
    for name in names {
        if let Err(error) = one(registry, name, options, encoder, &mut dataset, spool) {
            error.into_problems().into_iter().for_each(|problem| problems.push(problem));
        }
    }
    dataset.samples = first..spool.len() as u32;
    if problems.is_empty() && dataset.samples.is_empty() {
        problems.push(nothing_left(&dataset, names, encoder));
    }
    let mut dataset = problems.or(dataset)?;
    if dataset.truncated > 0 {
        dataset.notes.push(cut_note(dataset.truncated, encoder.options().cutoff_len));
    }
    if dataset.skipped > 0 {
        dataset.notes.push(skipped_note(dataset.skipped));
    }
    Ok(dataset)
}

/// Calls `each` with the 1-based number and the example of every row of a dataset, up to `limit` rows; a faulty row is a
/// problem with dataset and row. An error of `each` ends the reading.
pub fn examples(
    registry: &Registry,
    entry: &info::Entry,
    limit: Option<usize>,
    each: &mut dyn FnMut(u64, Result<Example, Box<Problem>>) -> Result<()>,
) -> Result<()> {
    let format = entry.format()?;
    let limit = limit.into_iter().chain(entry.num_samples).min().map_or(u64::MAX, |n| n as u64);
    let mut row = 0;
    for file in registry.files(entry)? {
        if row >= limit {
            break;
        }
        reader::read(&file, &mut |_, value| {
            row += 1;
            let object = value.and_then(reader::object);
            let example = object.and_then(|object| format.example(&object, entry));
            each(row, example.map_err(|problem| Box::new(at_row(*problem, &entry.name, row))))?;
            Ok(if row >= limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
    }
    Ok(())
}

/// Holds back a share (`val_size` under 1) or a number of samples: `(to train on, held back)`, both in their old order.
/// The choice depends on `seed` and the number of samples alone.
pub fn split(samples: Range<u32>, val_size: f64, seed: u64) -> Result<(Vec<u32>, Vec<u32>)> {
    let n = samples.len();
    let held = if val_size < 1.0 { (n as f64 * val_size.max(0.0)).ceil() } else { val_size.floor() };
    if held <= 0.0 {
        return Ok((samples.collect(), Vec::new()));
    }
    if held >= n as f64 {
        return Err(Problem::new(
            "val_size_too_large",
            format!("val_size {val_size} holds back {held} of {n} samples and leaves none to train on."),
            format!("val_size {val_size} 会从 {n} 个样本中留出 {held} 个，没有剩余样本可训练。"),
        )
        .hint(format!("Set it under {n}, or under 1 as a share."), format!("请设为小于 {n} 的数，或小于 1 的比例。"))
        .field("val_size")
        .into());
    }
    let mut order: Vec<u32> = (0..n as u32).collect();
    Random::new(seed, SPLIT_STREAM).shuffle(&mut order);
    let mut is_held = vec![false; n];
    order.iter().take(held as usize).for_each(|i| is_held[*i as usize] = true);
    let first = samples.start;
    Ok(samples.partition(|i| !is_held[(i - first) as usize]))
}

/// The stream of random numbers that choices of [`split`] come from.
const SPLIT_STREAM: u64 = 0x5350_4C49_5400;

fn one(
    registry: &Registry,
    name: &str,
    options: &LoadOptions,
    encoder: &Encoder,
    all: &mut Dataset,
    spool: &mut SpoolWriter,
) -> Result<()> {
    let entry = registry.entry(name)?;
    let kind = entry.format()?.kind(entry);
    check_kind(name, kind, options.needs)?;
    let mut planned = PlannedDataset { name: name.into(), samples: 0, tokens: 0 };
    let mut packer =
        (options.packing && options.needs == Needs::Text).then(|| Packer::new(encoder.options().cutoff_len));
    let (mut faults, mut faulty) = (Problems::default(), 0u64);
    let mut shows_tools = encoder.template().takes_tools();
    let (truncated, longest) = (&mut all.truncated, &mut all.longest);
    let mut keep = |sequence: Sequence| {
        planned.samples += 1;
        planned.tokens += sequence.len() as u64;
        *truncated += u64::from(sequence.truncated > 0);
        *longest = (*longest).max(sequence.len() as u64);
        spool.push(&sequence)
    };
    let mut take = |batch: &mut Vec<(u64, Result<Example, Box<Problem>>)>| {
        all.rows += batch.len() as u64;
        let sequences: Vec<Result<Sequence>> = batch
            .par_drain(..)
            .map(|(row, example)| {
                let example = example.map_err(Error::Problem)?;
                encoded(&example, options, encoder).map_err(|e| at_row(e.into_problem(), name, row).into())
            })
            .collect();
        for sequence in sequences {
            match sequence {
                Ok(sequence) if sequence.targets() == 0 => all.skipped += 1,
                Ok(sequence) => match &mut packer {
                    Some(packer) => packer.add(&sequence.ids, &mut keep)?,
                    None => keep(sequence)?,
                },
                Err(error) => {
                    faulty += 1;
                    if faults.0.len() < SHOWN_FAULTS {
                        faults.push(error.into_problem());
                    }
                }
            }
        }
        Ok(())
    };
    let mut batch = Vec::with_capacity(BATCH);
    let mut unseen_tools = false;
    let read = examples(registry, entry, options.max_samples, &mut |row, example| {
        if example.as_ref().is_ok_and(|example| example.tools.is_some()) && !shows_tools {
            (shows_tools, unseen_tools) = (true, true);
        }
        batch.push((row, example));
        if batch.len() == BATCH {
            take(&mut batch)?;
        }
        Ok(())
    });
    let rest = take(&mut batch);
    if unseen_tools {
        all.notes.push(tools_note(name));
    }
    // A broken file is told together with the faults of the rows before.
    for error in [read, rest].into_iter().filter_map(Result::err) {
        error.into_problems().into_iter().for_each(|problem| faults.push(problem));
    }
    if faulty > SHOWN_FAULTS as u64 {
        faults.push(more_faults(name, faulty - SHOWN_FAULTS as u64));
    }
    faults.or(())?;
    packer.and_then(Packer::finish).map_or(Ok(()), keep)?;
    all.datasets.push(planned);
    Ok(())
}

fn encoded(example: &Example, options: &LoadOptions, encoder: &Encoder) -> Result<Sequence> {
    match options.needs {
        Needs::Instructions => encoder.conversation(example),
        Needs::Text => {
            let whole = encoder.conversation_as_text(example)?;
            Ok(if options.packing { whole } else { whole.cut(encoder.options().cutoff_len) })
        }
    }
}

fn check_kind(name: &str, kind: Kind, needs: Needs) -> Result<()> {
    let (en, zh, hint_en, hint_zh) = match (kind, needs) {
        (Kind::Instructions, _) | (Kind::Text, Needs::Text) => return Ok(()),
        (Kind::Text, Needs::Instructions) => (
            "is plain text, and the stage sft needs answers to learn.",
            "是纯文本，而 sft 阶段需要可学习的回答。",
            "Choose the stage pt, or a dataset with questions and answers.",
            "请选择 pt 阶段，或选择带问答的数据集。",
        ),
        (Kind::Preferences, _) => (
            "holds pairs of a chosen and a rejected answer, and this stage needs answers to learn.",
            "是偏好数据（chosen 与 rejected 成对），而此阶段需要可学习的回答。",
            "Choose a dataset with questions and answers.",
            "请选择带问答的数据集。",
        ),
        (Kind::Kto, _) => (
            "holds answers marked good or bad (KTO), and this stage needs answers to learn.",
            "是 KTO 数据（回答标注好坏），而此阶段需要可学习的回答。",
            "Choose a dataset with questions and answers.",
            "请选择带问答的数据集。",
        ),
    };
    let problem = Problem::new("dataset_kind_mismatch", format!("Dataset {name} {en}"), format!("数据集 {name} {zh}"));
    Err(problem.hint(hint_en, hint_zh).field("dataset").into())
}

fn nothing_left(dataset: &Dataset, names: &[String], encoder: &Encoder) -> Problem {
    let (rows, skipped, cutoff) = (dataset.rows, dataset.skipped, encoder.options().cutoff_len);
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

fn skipped_note(count: u64) -> Problem {
    Problem::new(
        "skipped",
        format!("{count} rows are left out, since none of their tokens would be trained."),
        format!("{count} 行被略去，因为其中没有可训练的词元。"),
    )
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_split_is_repeatable_and_loses_nothing() {
        let (train, held) = split(7..107, 0.1, 42).unwrap();
        assert_eq!((train.len(), held.len()), (90, 10));
        assert_eq!(split(7..107, 0.1, 42).unwrap().1, held);
        assert_ne!(split(7..107, 0.1, 43).unwrap().1, held);
        let mut all: Vec<u32> = train.iter().chain(&held).copied().collect();
        all.sort_unstable();
        assert_eq!(all, (7..107).collect::<Vec<u32>>());
        assert!(train.is_sorted() && held.is_sorted());
        assert_eq!(split(0..100, 7.0, 1).unwrap().1.len(), 7);
        assert_eq!(split(0..100, 0.0, 1).unwrap().0.len(), 100);
        assert_eq!(split(0..100, 100.0, 1).unwrap_err().into_problem().field.as_deref(), Some("val_size"));
    }
}
