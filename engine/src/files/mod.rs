//! Model files in and out: Hugging Face folders, GGUF, tokenizers, PEFT adapters, merged models. No mathematics.

pub mod adapter;
pub mod atomic;
pub mod digest;
pub mod disk;
pub mod export;
mod folder;
pub mod gguf;
pub mod gguf_config;
mod gguf_tokenizer;
mod gguf_vocabulary;
pub mod gguf_write;
pub mod grow;
pub mod locate;
mod safetensors;
mod shard;
pub(crate) mod source;
pub mod tensors;
mod tokenizer;

pub use adapter::{AdapterConfig, Targets, read_adapter, write_adapter};
pub use atomic::{folder_beside, replace_dir, write_atomically};
pub use export::{write_model, write_tokenizer};
pub use locate::{list, locate};
pub use tokenizer::{ModelTokenizer, SpecialToken, read_at_most};

use crate::{Error, Result};
use api::Problem;
use candle_core::{
    DType, Device, Tensor,
    quantized::{GgmlDType, QStorage, QTensor},
};
use serde_json::Value;
use source::Source;
use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
};

/// A model on the disk, opened and checked: its configuration and where each tensor stands. Holds no weights.
#[derive(Debug)]
pub struct ModelFiles {
    path: PathBuf,
    config: Value,
    sources: Vec<Source>,
    tensors: BTreeMap<String, Stored>,
    dtype: String,
    /// The header, if it is a GGUF file.
    gguf: Option<gguf::Header>,
    /// What it has beyond its files.
    growth: grow::Growth,
}

/// One tensor in a file.
#[derive(Debug)]
struct Stored {
    source: usize,
    encoding: Encoding,
    shape: Vec<usize>,
    offset: u64,
    size: u64,
    /// Rows stand interleaved over this many heads.
    permuted: Option<u64>,
}

#[derive(Debug)]
enum Encoding {
    /// By its name in safetensors.
    Plain(String),
    Ggml(GgmlDType),
}

/// A quantised matrix as a file has it.
pub struct Blocks {
    pub kind: GgmlDType,
    pub bytes: Vec<u8>,
    /// (rows, columns)
    pub shape: (usize, usize),
}

impl ModelFiles {
    /// Opens a Hugging Face folder (`config.json`, safetensors in one file or in shards) or a `.gguf` file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let metadata = std::fs::metadata(path).map_err(Error::io(path))?;
        if metadata.is_dir() { folder::open(path) } else { open_gguf(path) }
    }

    /// Opens a folder for its shape and tokenizer alone, to train random weights: needs `config.json`, no weights.
    pub fn open_untrained(path: impl AsRef<Path>) -> Result<Self> {
        folder::open_untrained(path.as_ref())
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The files that hold its weights, by name; none of a model that is trained from scratch.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.sources.iter().map(Source::path)
    }

    /// `safetensors` or `gguf`.
    pub fn format(&self) -> &'static str {
        if self.gguf.is_some() { "gguf" } else { "safetensors" }
    }

    /// `config.json`; for GGUF made of its metadata, with the same keys.
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// Hugging Face names of all tensors, sorted; also for GGUF.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    pub fn shape(&self, name: &str) -> Result<Vec<usize>> {
        let mut shape = self.find(name)?.shape.clone();
        if let (Some(rows), Some(first)) = (self.grown_rows(name), shape.first_mut()) {
            *first = rows;
        }
        Ok(shape)
    }

    /// Storage type of most weights: `bf16`, `f32`, `Q4_1` ….
    pub fn dtype(&self) -> &str {
        &self.dtype
    }

    /// Elements of all tensors.
    pub fn parameters(&self) -> u64 {
        self.tensors.values().map(Stored::elements).sum()
    }

    /// Bytes of all tensors in the files.
    pub fn bytes(&self) -> u64 {
        self.tensors.values().map(|stored| stored.size).sum()
    }

    /// Whether the file holds this tensor in bf16.
    pub fn is_bf16(&self, name: &str) -> bool {
        match self.tensors.get(name).map(|stored| &stored.encoding) {
            Some(Encoding::Plain(kind)) => kind == "BF16",
            Some(Encoding::Ggml(kind)) => *kind == GgmlDType::BF16,
            None => false,
        }
    }

    /// Reads one tensor, dequantised, as `dtype` on `device`. Shape and row order are Hugging Face's.
    pub fn tensor(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        let stored = self.find(name)?;
        let source = self.source(stored.source)?;
        let bytes = source.read(stored.offset, stored.size)?;
        let tensor = match &stored.encoding {
            Encoding::Plain(kind) => {
                let kind = safetensors::float_type(kind).ok_or_else(|| not_a_float(source.path(), name, kind))?;
                let tensor = Tensor::from_raw_buffer(&bytes, kind, &stored.shape, &Device::Cpu)?;
                // Before a copy in another type is made: of an embedding it is much.
                drop(bytes);
                tensor
            }
            Encoding::Ggml(kind) => decode(*kind, bytes, &stored.shape)?,
        };
        let tensor = tensor.to_dtype(dtype)?;
        let tensor = match stored.permuted {
            Some(heads) => unpermute(&tensor, name, heads)?,
            None => tensor,
        };
        let tensor = match self.grown_rows(name) {
            Some(rows) => grow::grown(&tensor, rows, name)?,
            None => tensor,
        };
        Ok(tensor.to_device(device)?)
    }

    /// The blocks of a quantised matrix of a GGUF file, as they stand there; none of a tensor of another kind.
    pub fn blocks(&self, name: &str) -> Result<Option<Blocks>> {
        let stored = self.find(name)?;
        let (Encoding::Ggml(kind), &[rows, columns]) = (&stored.encoding, stored.shape.as_slice()) else {
            return Ok(None);
        };
        let plain = matches!(kind, GgmlDType::F32 | GgmlDType::F16 | GgmlDType::BF16 | GgmlDType::Q8_1);
        if plain || self.grown_rows(name).is_some() || columns % kind.block_size() != 0 {
            return Ok(None);
        }
        let mut bytes = self.source(stored.source)?.read(stored.offset, stored.size)?;
        if let Some(heads) = stored.permuted {
            // Each row is whole blocks, so its bytes travel together.
            let width = bytes.len() / rows.max(1);
            let whole = Tensor::from_vec(bytes, (rows, width), &Device::Cpu)?;
            bytes = unpermute(&whole, name, heads)?.flatten_all()?.to_vec1()?;
        }
        Ok(Some(Blocks { kind: *kind, bytes, shape: (rows, columns) }))
    }

    /// The tokenizer, checked against the rows of the embedding.
    pub fn tokenizer(&self) -> Result<ModelTokenizer> {
        let tokenizer = self.grown_tokenizer()?;
        if let Some(rows) = self.embedding_rows() {
            tokenizer.check_rows(&self.path, rows)?;
        }
        Ok(tokenizer)
    }

    /// Ids that end a text: `generation_config.json`, else `config.json`; for GGUF the end-of-text and end-of-turn
    /// tokens. May be empty: then the tokenizer's `eos` is what there is.
    pub fn generation_eos(&self) -> Vec<u32> {
        let mut ids = Vec::new();
        if let Some(header) = &self.gguf {
            let keys = ["eos", "eot", "eom"].map(|key| header.number(&format!("tokenizer.ggml.{key}_token_id")));
            ids.extend(keys.into_iter().flatten());
        } else {
            let generation = tokenizer::read_json_if_there(&self.path.join("generation_config.json"));
            ids = eos_ids(&generation.unwrap_or_default());
            if ids.is_empty() {
                ids = eos_ids(&self.config);
            }
        }
        let mut found: Vec<u32> = Vec::new();
        for id in ids.into_iter().filter_map(|id| u32::try_from(id).ok()) {
            if !found.contains(&id) {
                found.push(id);
            }
        }
        found
    }

    /// A cheap look, for lists: a problem if there is no tokenizer.
    fn check_tokenizer_exists(&self) -> Result<()> {
        match &self.gguf {
            Some(header) if header.texts(gguf_tokenizer::TOKENS).is_none() => {
                Err(gguf_tokenizer::missing(&self.path, gguf_tokenizer::TOKENS))
            }
            Some(_) => Ok(()),
            None => tokenizer::check_exists(&self.path),
        }
    }

    fn embedding_rows(&self) -> Option<u64> {
        let embedding = export::EMBEDDINGS.iter().find(|name| self.contains(name));
        let rows = embedding.and_then(|name| self.shape(name).ok()?.first().map(|rows| *rows as u64));
        rows.or_else(|| self.config["vocab_size"].as_u64())
    }

    fn source(&self, index: usize) -> Result<&Source> {
        self.sources.get(index).ok_or_else(|| Error::Internal(format!("no file {index} of {}", self.path.display())))
    }

    fn find(&self, name: &str) -> Result<&Stored> {
        self.tensors.get(name).ok_or_else(|| {
            let shown = self.path.display();
            Problem::new("no_tensor", format!("{shown} has no tensor {name}."), format!("{shown} 中没有张量 {name}。"))
                .hint(
                    "The weights don't fit config.json: take both from the same model.",
                    "权重与 config.json 不符：请使用同一模型的文件。",
                )
                .into()
        })
    }
}

impl Stored {
    /// Can't overflow: sizes in bytes were checked when the header was read, and a tensor of bytes has most elements
    /// (quantised types have 8 elements a byte at most, so saturation is never met with a real file).
    fn elements(&self) -> u64 {
        self.shape.iter().fold(1_u64, |n, dim| n.saturating_mul(*dim as u64))
    }
}

fn open_gguf(path: &Path) -> Result<ModelFiles> {
    let source = Source::open(path)?;
    folder::refuse_single_file(path)?;
    let header = gguf::read_header(&source)?;
    let mut rope_factors = None;
    let mut tensors = BTreeMap::new();
    for info in &header.tensors {
        let stored = Stored {
            source: 0,
            encoding: Encoding::Ggml(info.dtype),
            shape: info.shape.clone(),
            offset: info.offset,
            size: info.size,
            permuted: gguf_config::permuted_heads(&header, &info.name),
        };
        if info.name == gguf_config::ROPE_FACTORS && stored.elements() <= 4096 {
            let bytes = source.read(info.offset, info.size)?;
            rope_factors = Some(decode(info.dtype, bytes, &info.shape)?.flatten_all()?.to_vec1::<f32>()?);
        } else if let Some(name) = gguf_config::hugging_face_name(&info.name) {
            tensors.insert(name, stored);
        } else if header.text("general.architecture").is_some() {
            // An unknown architecture gets its own, better message from `config` below.
            gguf_config::config(path, &header, None)?;
            return Err(unknown_tensor(path, &info.name).into());
        }
    }
    let config = gguf_config::config(path, &header, rope_factors.as_deref())?;
    let dtype = most_common(&tensors);
    let path = path.to_path_buf();
    let growth = grow::Growth::default();
    Ok(ModelFiles { path, config, sources: vec![source], tensors, dtype, gguf: Some(header), growth })
}

/// Storage type with the most elements.
fn most_common(tensors: &BTreeMap<String, Stored>) -> String {
    let mut elements: HashMap<String, u64> = HashMap::new();
    for stored in tensors.values() {
        let count = elements.entry(stored.encoding.name()).or_default();
        *count = count.saturating_add(stored.elements());
    }
    elements.into_iter().max_by(|a, b| (a.1, &b.0).cmp(&(b.1, &a.0))).map(|(name, _)| name).unwrap_or_default()
}

impl Encoding {
    fn name(&self) -> String {
        match self {
            Self::Plain(kind) => kind.to_lowercase(),
            Self::Ggml(GgmlDType::F32) => "f32".into(),
            Self::Ggml(GgmlDType::F16) => "f16".into(),
            Self::Ggml(GgmlDType::BF16) => "bf16".into(),
            Self::Ggml(kind) => match format!("{kind:?}") {
                // Q4K is written Q4_K everywhere else.
                name if name.ends_with('K') => format!("{}_K", name.trim_end_matches('K')),
                name => name,
            },
        }
    }
}

/// GGML bytes as a tensor on the CPU: float32 for the quantised types. `bytes` has the size that `shape` asks for, by
/// [`gguf::read_header`].
fn decode(kind: GgmlDType, bytes: Vec<u8>, shape: &[usize]) -> Result<Tensor> {
    let plain = match kind {
        GgmlDType::F32 => Some(DType::F32),
        GgmlDType::F16 => Some(DType::F16),
        GgmlDType::BF16 => Some(DType::BF16),
        _ => None,
    };
    if let Some(plain) = plain {
        return Ok(Tensor::from_raw_buffer(&bytes, plain, shape, &Device::Cpu)?);
    }
    let storage = QStorage::from_data(Cow::Owned(bytes), &Device::Cpu, kind)?;
    Ok(QTensor::new(storage, shape)?.dequantize(&Device::Cpu)?)
}

/// Undoes llama.cpp's interleaving of the rows of q and k: (heads, dim / 2, 2, …) to (heads, 2, dim / 2, …).
fn unpermute(tensor: &Tensor, name: &str, heads: u64) -> Result<Tensor> {
    let shape = tensor.dims().to_vec();
    let rows = shape.first().copied().unwrap_or(0);
    let heads = usize::try_from(heads).unwrap_or(0);
    if heads == 0 || rows % heads != 0 || !(rows / heads).is_multiple_of(2) {
        return Err(Problem::new(
            "bad_gguf",
            format!("The tensor {name} has {rows} rows, which {heads} heads don't divide."),
            format!("张量 {name} 有 {rows} 行，无法分给 {heads} 个头。"),
        )
        .hint("Take another GGUF of this model.", "请换一个该模型的 GGUF 文件。")
        .into());
    }
    let rest: usize = shape.iter().skip(1).product();
    let split = tensor.reshape((heads, rows / heads / 2, 2, rest))?;
    Ok(split.transpose(1, 2)?.contiguous()?.reshape(shape)?)
}

fn eos_ids(config: &Value) -> Vec<u64> {
    match &config["eos_token_id"] {
        Value::Array(ids) => ids.iter().filter_map(Value::as_u64).collect(),
        one => one.as_u64().into_iter().collect(),
    }
}

fn not_a_float(path: &Path, name: &str, kind: &str) -> Problem {
    let shown = path.display();
    Problem::new(
        "weight_type",
        format!("{shown}: the tensor {name} has the type {kind}, which is no floating-point weight."),
        format!("{shown}：张量 {name} 的类型 {kind} 不是浮点权重。"),
    )
    .hint(
        "Models quantised with bitsandbytes, GPTQ or AWQ can't be read: take the original model.",
        "无法读取以 bitsandbytes、GPTQ 或 AWQ 量化的模型：请使用原始模型。",
    )
}

fn unknown_tensor(path: &Path, name: &str) -> Problem {
    let shown = path.display();
    Problem::new(
        "gguf_tensor",
        format!("{shown} has a tensor {name}, which no known decoder has."),
        format!("{shown} 含有张量 {name}，已知的模型结构中没有它。"),
    )
    .hint("Take the model as safetensors, or another model.", "请使用该模型的 safetensors 版本，或换一个模型。")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod museum;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests_folder;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests_parity;
