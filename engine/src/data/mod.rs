//! Datasets in: what stands in `dataset_info.json`, rows as examples, examples as tokens with a loss mask.
//!
//! To add a dataset format: a file here with one [`Format`], and a line in [`FORMATS`].

mod alpaca;
pub mod edit;
pub mod encode;
pub mod example;
pub mod export;
pub mod info;
pub mod inspect;
pub mod load;
pub mod preview;
pub mod reader;
pub mod render;
mod sharegpt;
pub mod spool;
pub mod template;
mod walk;

pub use encode::{EncodeOptions, Encoder, Packer, Sequence, SpecialTokens};
pub use example::{Example, Kind};
pub use info::{Registry, Source};
pub use load::{Dataset, LoadOptions, Needs, load, split};
pub use spool::{Samples, Spool, SpoolWriter};
pub use template::ChatTemplate;

use crate::{Result, entry::Entry};
use api::Problem;
use serde_json::{Map, Value};
use std::ops::Range;

/// A row of a dataset file.
pub type Row = Map<String, Value>;

/// How rows of a file are read as examples: `formatting` in `dataset_info.json`.
pub trait Format: Entry {
    /// What the rows of this dataset are, by its columns.
    fn kind(&self, dataset: &info::Entry) -> Kind;

    /// A row as the trainer reads it. The problem names the column; the caller adds dataset and row.
    fn example(&self, row: &Row, dataset: &info::Entry) -> Result<Example, Box<Problem>>;

    /// The `dataset_info.json` entry, without its file, for a file whose first row this is; `None` if it isn't of this
    /// format.
    fn recognise(&self, row: &Row) -> Option<Row>;

    /// An example as a row with the columns that the format has by default, or why it has no place for it.
    fn row(&self, example: &Example) -> Result<Row, Box<Problem>>;

    /// The row with another text for one of its answers; of plain text, with another text.
    fn with_answer(&self, row: &Row, dataset: &info::Entry, answer: Answer, text: &str) -> Option<Row>;

    /// The row with only some turns of its conversation, from a question to the answer before the next; the system
    /// message stays.
    fn with_turns(&self, row: &Row, dataset: &info::Entry, turns: Range<usize>) -> Option<Row>;
}

/// One of the answers of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Last,
    Chosen,
    Rejected,
}

/// Every format. The order is that in which an unknown file is tried.
pub static FORMATS: &[&dyn Format] = &[&sharegpt::OpenAi, &sharegpt::ShareGpt, &alpaca::Alpaca];

/// The format that `formatting` names.
pub fn format(name: &str) -> Result<&'static dyn Format> {
    crate::entry::find(FORMATS, ["dataset format", "数据集格式"], "formatting", name)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
