//! Datasets in: what stands in `dataset_info.json`, rows as examples, examples as tokens with a loss mask.
//!
//! To add a dataset format: a file here with one [`Format`], and a line in [`FORMATS`].

mod alpaca;
pub mod cache;
pub mod edit;
pub mod encode;
pub mod example;
pub mod export;
pub mod hub;
pub mod info;
pub mod inspect;
pub mod load;
pub mod preference;
pub mod preview;
pub mod questions;
pub mod reader;
pub mod render;
pub mod samples;
mod self_instruct;
mod sharegpt;
pub mod spool;
pub mod template;
pub mod walk;

pub use cache::Cache;
pub use encode::{EncodeOptions, Encoder, Sequence, SpecialTokens};
pub use example::{Example, Kind};
pub use info::{Registry, Source};
pub use load::{Dataset, LoadOptions, Loader, Needs, Reading, examples};
pub use samples::Samples;
pub use spool::{Spool, SpoolWriter};
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

    /// An example as a row with the columns that the format has by default, or why it has no place for it. Formats that are
    /// only read don't say.
    fn row(&self, _: &Example) -> Result<Row, Box<Problem>> {
        let name = self.card().name;
        Err(Box::new(Problem::new(
            "format_only_read",
            format!("{name} rows are read, not written."),
            format!("{name} 格式只能读取，不能写出。"),
        )))
    }

    /// The row with another text for one of its answers; of plain text, with another text. `None` if it can't be done.
    fn with_answer(&self, _: &Row, _: &info::Entry, _: Answer, _: &str) -> Option<Row> {
        None
    }

    /// The row with only some turns of its conversation, from a question to the answer before the next; the system
    /// message stays. `None` if it can't be done.
    fn with_turns(&self, _: &Row, _: &info::Entry, _: Range<usize>) -> Option<Row> {
        None
    }
}

/// One of the answers of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Last,
    Chosen,
    Rejected,
}

/// Every format. The order is that in which an unknown file is tried.
pub static FORMATS: &[&dyn Format] =
    &[&sharegpt::OpenAi, &sharegpt::ShareGpt, &self_instruct::SelfInstruct, &alpaca::Alpaca];

/// The format that `formatting` names.
pub fn format(name: &str) -> Result<&'static dyn Format> {
    crate::entry::find(FORMATS, ["dataset format", "数据集格式"], "formatting", name)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
