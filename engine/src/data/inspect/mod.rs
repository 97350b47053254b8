//! What the trainer makes of rows: the tokens of one, and what stands out among all.

mod language;
mod spelling;
mod statistics;

pub use statistics::{LIMIT, statistics};
pub(super) use statistics::{Looked, look};

use super::example::at_row;
use super::walk::{self, walk};
use super::{Encoder, Example, Needs, Registry, Sequence, load, samples, spool};
use crate::{
    Error, Places, Result,
    files::{digest, locate::STARTER},
    prepare,
    stages::stage,
};
use api::data::{Token, TokenPreview};
use api::params::{self, DataParams, ModelParams};
use api::{Problem, RunConfig};
use sha2::{Digest, Sha256};
use std::ops::ControlFlow;
use std::path::Path;

/// How a run makes tokens of a row: by its model's tokenizer and template, its stage and its settings.
pub struct RowEncoder {
    encoder: Encoder,
    needs: Needs,
    cutoff: usize,
    /// Texts are joined to blocks of the cutoff length, so none is cut.
    joins: bool,
    template: String,
}

/// A row's tokens: first those that are kept, then those that are cut off. Of a pair of answers, the kept tokens of the
/// chosen one with its prompt, then those of the rejected one.
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
        let (cutoff, joins) = (data.cutoff_len, prepare::joins_rows(stage, &data));
        let encoder = prepare::encoder(&opened, &data)?;
        Ok(Self { encoder, needs: stage.needs(), cutoff, joins, template: opened.template_name })
    }

    pub fn cutoff(&self) -> usize {
        self.cutoff
    }

    /// The tokens of an example; of a pair of answers, those of the chosen one where the stage learns from single answers.
    /// Of KTO data, without the other answer that only measures.
    pub fn encode(&self, example: &Example) -> Result<Encoded> {
        let shown = match self.needs {
            Needs::Preferences if example.chosen.is_some() && example.rejected.is_some() => 2,
            Needs::Kto if example.desirable.is_some() => 1,
            _ => 0,
        };
        if shown > 0 {
            let sample = load::encoded(example, None, self.needs, &self.encoder)?;
            return Ok(self.answers(&sample.sequences[..shown.min(sample.sequences.len())], 0));
        }
        let chosen = example.chosen.as_ref().map(|chosen| example.answered_by(chosen));
        let sample = load::encoded(chosen.as_ref().unwrap_or(example), None, self.needs, &self.encoder)?;
        if self.encoder.options().sources {
            return Ok(self.answers(&sample.sequences, 1));
        }
        let whole = sample.sequences.into_iter().next().unwrap_or_default();
        let kept = if self.joins { whole.len() } else { whole.len().min(self.cutoff) };
        Ok(Encoded { whole, kept })
    }

    /// Prompts with their answers, cut as [`samples`] cuts them; the last `ends` tokens of a prompt are always kept.
    fn answers(&self, sequences: &[Sequence], ends: usize) -> Encoded {
        let longest = sequences.iter().map(Sequence::targets).max().unwrap_or(0);
        let (mut kept, mut off) = (Sequence::default(), Sequence::default());
        for sequence in sequences {
            let whole = sequence.len() - sequence.targets();
            let (prompt, answer) = samples::shortened(whole, longest, self.cutoff);
            let (prompt, rest) = (prompt.saturating_sub(ends), whole.saturating_sub(ends)..whole + answer);
            for (i, (id, trained)) in sequence.ids.iter().zip(&sequence.trained).enumerate() {
                let into = if i < prompt || rest.contains(&i) { &mut kept } else { &mut off };
                into.ids.push(*id);
                into.trained.push(*trained);
            }
        }
        let length = kept.len();
        kept.ids.append(&mut off.ids);
        kept.trained.append(&mut off.trained);
        Encoded { whole: kept, kept: length }
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
        spool::words(&self.whole).take(self.kept).for_each(|word| hash.update(word.to_le_bytes()));
        digest::hex(&hash.finalize())
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
