//! What the trainer makes of rows: the tokens of one, and what stands out among all.

mod language;
mod spelling;
mod statistics;

pub use statistics::{LIMIT, statistics};
pub(super) use statistics::{Looked, look};

use super::example::at_row;
use super::walk::{self, walk};
use super::{Encoder, Example, Needs, Registry, Sequence};
use crate::{Error, Places, Result, files::locate::STARTER, prepare, stages::stage};
use api::data::{Token, TokenPreview};
use api::params::{self, DataParams, ModelParams};
use api::{Problem, RunConfig};
use sha2::{Digest, Sha256};
use std::ops::ControlFlow;
use std::path::Path;

/// How a run makes tokens of a row: by its model's tokenizer and template, its stage and its settings.
pub struct RowEncoder {
    /// Cuts nothing.
    encoder: Encoder,
    needs: Needs,
    cutoff: usize,
    /// Texts are joined to rows of the cutoff length, so none is cut.
    packs: bool,
    template: String,
}

/// A row's tokens, whole, and how many of them are kept.
pub struct Encoded {
    pub whole: Sequence,
    pub kept: usize,
}

impl RowEncoder {
    /// Where the configuration names no model, the starter's tokens are as good as any.
    pub fn of(config: &RunConfig, places: &Places) -> Result<Self> {
        let mut model: ModelParams = params::read(config)?;
        if model.model_name_or_path.is_empty() {
            model.model_name_or_path = STARTER.into();
        }
        let data: DataParams = params::read(config)?;
        let stage = stage(config.text("stage").unwrap_or("sft"))?;
        let opened = prepare::open(&model, places)?;
        let (cutoff, packs) = (data.cutoff_len, stage.packs() && data.packing.unwrap_or(true));
        let encoder = prepare::encoder(&opened, &DataParams { cutoff_len: usize::MAX, ..data })?;
        Ok(Self { encoder, needs: stage.needs(), cutoff, packs, template: opened.template_name })
    }

    pub fn cutoff(&self) -> usize {
        self.cutoff
    }

    /// The tokens of an example; of a pair of answers, those of the chosen one.
    pub fn encode(&self, example: &Example) -> Result<Encoded> {
        let whole = match (&example.chosen, self.needs) {
            (Some(_), _) => {
                let chosen = Example { messages: example.shown(), ..example.clone() };
                self.encoder.conversation(&chosen)
            }
            (None, Needs::Instructions) => self.encoder.conversation(example),
            (None, Needs::Text) => self.encoder.conversation_as_text(example),
        }?;
        let kept = if self.packs { whole.len() } else { whole.len().min(self.cutoff) };
        Ok(Encoded { whole, kept })
    }
}

impl Encoded {
    pub fn is_cut(&self) -> bool {
        self.kept < self.whole.len()
    }

    /// Tokens with a loss among those kept.
    pub fn trained(&self) -> usize {
        self.whole.trained.iter().take(self.kept).filter(|trained| **trained).count()
    }

    /// See [`TokenPreview::sha256`].
    fn sha256(&self) -> String {
        let mut hash = Sha256::new();
        for (id, trained) in self.whole.ids.iter().zip(&self.whole.trained).take(self.kept) {
            hash.update((id | u32::from(*trained) << 31).to_le_bytes());
        }
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// The tokens of row `row` (from 0) of a dataset as the run of `config` reads them, and those that it cuts off.
pub fn tokens(dir: &Path, name: &str, row: u64, config: &RunConfig, places: &Places) -> Result<TokenPreview> {
    let registry = Registry::open(dir)?;
    let entry = registry.entry(name)?;
    let format = entry.format()?;
    let (mut found, mut rows) = (None, 0);
    walk(&registry, entry, &mut |index, raw| {
        rows = index + 1;
        if index < row {
            return Ok(ControlFlow::Continue(()));
        }
        found = Some(walk::example(format, entry, &raw.value));
        Ok(ControlFlow::Break(()))
    })?;
    let told = |problem: Problem| Error::from(at_row(problem, name, row + 1));
    let example = found.ok_or_else(|| no_row(name, row, rows))?.map_err(|problem| told(*problem))?;
    let encoder = RowEncoder::of(config, places)?;
    let encoded = encoder.encode(&example).map_err(|error| told(error.into_problem()))?;
    let spelling = spelling::Spelling::of(encoder.encoder.tokenizer());
    let pairs = encoded.whole.ids.iter().zip(&encoded.whole.trained);
    let token = |(id, trained): (&u32, &bool)| Token {
        id: *id,
        text: spelling.text(*id),
        trained: *trained,
        special: spelling.is_special(*id),
    };
    Ok(TokenPreview {
        row,
        tokens: pairs.map(token).collect(),
        kept: encoded.kept as u64,
        cutoff_len: encoder.cutoff as u64,
        trained: encoded.trained() as u64,
        template: encoder.template.clone(),
        sha256: encoded.sha256(),
    })
}

/// The problem of a row (from 0) behind the last one.
pub(super) fn no_row(name: &str, row: u64, rows: u64) -> Error {
    let row = row.saturating_add(1);
    Problem::new(
        "no_row",
        format!("Dataset {name} has {rows} rows, and no row {row}."),
        format!("数据集 {name} 有 {rows} 行，没有第 {row} 行。"),
    )
    .hint(format!("Choose a row from 1 to {rows}."), format!("请选择第 1 到 {rows} 行。"))
    .field("row")
    .into()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod tests;
