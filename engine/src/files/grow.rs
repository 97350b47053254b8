//! More words than a model's files have: tokens added to its tokenizer, and rows to its embedding and head.

use super::{
    ModelFiles,
    export::{is_vocabulary, write_file, write_json},
    gguf_tokenizer,
    tokenizer::{ModelTokenizer, read_json_if_there},
};
use crate::{
    Error, Result,
    random::{Random, name_key},
};
use api::Problem;
use candle_core::{DType, Device, Tensor};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use tokenizers::AddedToken;

/// What a model has beyond its files.
#[derive(Clone, Debug, Default)]
pub(super) struct Growth {
    /// Added tokens in order, and whether each is special: never split, and left out where text is shown.
    tokens: Vec<(String, bool)>,
    /// A folder whose tokenizer takes the place of the model's.
    tokenizer: Option<PathBuf>,
    /// Rows of the embedding and the head.
    rows: Option<usize>,
}

/// Embeddings grow to a multiple of this, as LLaMA-Factory's do: matrices of such sizes are computed faster.
const MULTIPLE: u64 = 64;

impl ModelFiles {
    /// Adds tokens to the tokenizer. Where it then has more ids than the embedding has rows, embedding and head grow, also
    /// without new tokens if `resize` asks for it. Gives the rows before and after, if they grew.
    pub fn add_tokens(&mut self, plain: &[String], special: &[String], resize: bool) -> Result<Option<[u64; 2]>> {
        let tokens = plain.iter().map(|token| (token, false)).chain(special.iter().map(|token| (token, true)));
        self.growth.tokens = tokens.map(|(token, special)| (token.clone(), special)).collect();
        if self.growth.tokens.is_empty() && !resize {
            return Ok(None);
        }
        let (needed, has) = (self.grown_tokenizer()?.rows(), self.embedding_rows().unwrap_or(0));
        if needed <= has {
            return Ok(None);
        }
        let rows = needed.next_multiple_of(MULTIPLE);
        self.set_rows(rows);
        Ok(Some([has, rows]))
    }

    /// Takes tokenizer and rows of an adapter that was trained with more tokens than the model has.
    pub fn take_vocabulary(&mut self, folder: &Path, rows: u64) {
        if folder.join("tokenizer.json").exists() {
            self.growth.tokenizer = Some(folder.into());
        }
        self.set_rows(rows);
    }

    /// Whether its tokenizer or its rows are others than its files have.
    pub(super) fn has_grown(&self) -> bool {
        let growth = &self.growth;
        !growth.tokens.is_empty() || growth.tokenizer.is_some() || growth.rows.is_some()
    }

    fn set_rows(&mut self, rows: u64) {
        self.growth.rows = Some(rows as usize);
        self.config["vocab_size"] = rows.into();
    }

    /// The tokenizer with the tokens that were added, whatever the embedding has.
    pub(super) fn grown_tokenizer(&self) -> Result<ModelTokenizer> {
        let mut opened = match (&self.growth.tokenizer, &self.gguf) {
            (Some(folder), _) => ModelTokenizer::open(folder)?,
            (None, Some(header)) => gguf_tokenizer::open(&self.path, header)?,
            (None, None) => ModelTokenizer::open(&self.path)?,
        };
        if !self.growth.tokens.is_empty() {
            let tokenizer = std::sync::Arc::make_mut(&mut opened.tokenizer);
            // transformers' own choice: special tokens are found in the text as it stands.
            let token =
                |(text, special): &(String, bool)| AddedToken::from(text.as_str(), *special).normalized(!special);
            let added = tokenizer.add_tokens(self.growth.tokens.iter().map(token));
            added.map_err(|e| Error::Internal(e.to_string()))?;
        }
        Ok(opened)
    }

    /// Rows that a tensor of the vocabulary has in this model, if they are others than its file has.
    pub(super) fn grown_rows(&self, name: &str) -> Option<usize> {
        self.growth.rows.filter(|_| is_vocabulary(name))
    }

    /// Where the tokenizer's files stand.
    pub(super) fn tokenizer_folder(&self) -> &Path {
        self.growth.tokenizer.as_deref().unwrap_or(&self.path)
    }

    /// Writes what added tokens change into a folder that has the tokenizer's files.
    pub(super) fn write_added_tokens(&self, dir: &Path) -> Result<()> {
        if self.growth.tokens.is_empty() {
            return Ok(());
        }
        let grown = self.grown_tokenizer()?;
        let json = grown.tokenizer.to_string(true).map_err(|error| Error::Internal(error.to_string()))?;
        write_file(&dir.join("tokenizer.json"), json.as_bytes())?;
        let path = dir.join("tokenizer_config.json");
        let mut config = read_json_if_there(&path)?;
        for (text, special) in &self.growth.tokens {
            let Some(id) = grown.tokenizer.token_to_id(text) else { continue };
            let entry = json!({"content": text, "lstrip": false, "normalized": !special, "rstrip": false,
                "single_word": false, "special": special});
            if config["added_tokens_decoder"].is_object() {
                config["added_tokens_decoder"][id.to_string()] = entry;
            }
            if let (true, Value::Array(list)) = (special, &mut config["additional_special_tokens"])
                && !list.iter().any(|known| known == text)
            {
                list.push(json!(text));
            }
        }
        if config.is_object() { write_json(&path, &config) } else { Ok(()) }
    }
}

/// A tensor (rows, width) with rows added at its end: the mean of all rows, with normal noise of the deviation
/// 1 / sqrt(width), the same for each name at each time. LLaMA-Factory's rule.
pub(super) fn grown(tensor: &Tensor, rows: usize, name: &str) -> Result<Tensor> {
    let (old, width) = tensor.dims2()?;
    if rows <= old {
        // Spare rows of a model whose tokenizer doesn't use them all.
        return Ok(tensor.narrow(0, 0, rows)?.contiguous()?);
    }
    let mean = tensor.to_dtype(DType::F32)?.mean(0)?.to_vec1::<f32>()?;
    let mut random = Random::new(STREAM, name_key(0, name));
    let deviation = 1.0 / (width as f32).sqrt();
    let row = (0..rows - old).flat_map(|_| &mean).map(|mean| mean + deviation * random.normal());
    let new = Tensor::from_vec(row.collect::<Vec<f32>>(), (rows - old, width), &Device::Cpu)?;
    Ok(Tensor::cat(&[tensor, &new.to_dtype(tensor.dtype())?], 0)?)
}

const STREAM: u64 = 0x4752_4F57;

/// For the plan: the vocabulary grew.
pub fn grown_note([before, after]: [u64; 2]) -> Problem {
    Problem::new(
        "vocabulary_grows",
        format!("The vocabulary grows from {before} to {after} rows, which begin as the mean of the others."),
        format!("词表由 {before} 行扩展到 {after} 行，新行以其余各行的均值初始化。"),
    )
    .hint(
        "Embedding and head are trained whole and saved with the adapter.",
        "嵌入与输出层会完整训练，并随适配器一起保存。",
    )
    .field("resize_vocab")
}
