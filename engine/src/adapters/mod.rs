//! Tuning types, `finetuning_type`: what is trained, and how that is saved. One file for each; one line here.

pub mod bottleneck;
mod full;
pub mod lora;
mod p_tuning;
mod prefix;
mod problems;
mod prompt;
pub mod virtual_tokens;

use crate::{
    Result,
    entry::{Entry, find},
    files::{
        ModelFiles,
        adapter::{is_adapter, peft_type, read_tensors},
    },
    model::{Attach, DecoderConfig, Model, Store},
};
use api::{Problem, Problems, RunConfig};
use candle_core::{DType, Device};
use std::path::Path;
use tokenizers::Tokenizer;

/// A tuning type.
pub trait Adapter: Entry {
    /// The tuning of one run. `previous` is an adapter of this type to go on from.
    fn start(&self, config: &RunConfig, previous: Option<&Path>) -> Result<Box<dyn Tuning>, Problems>;

    /// `peft_type` of the folders that it writes; none where a whole model is saved.
    fn peft_type(&self) -> Option<&'static str> {
        None
    }

    /// The tuning that is saved in a PEFT folder of its type.
    fn read(&self, dir: &Path) -> Result<Box<dyn Tuning>> {
        Err(no_adapter_here(&dir.display().to_string()).into())
    }
}

/// One run's tuning: attaches itself to the model while that is built, and saves what was trained.
pub trait Tuning: Attach {
    /// Encodes texts that it begins with.
    fn meet(&mut self, tokenizer: &Tokenizer) -> Result<()> {
        let _ = tokenizer;
        Ok(())
    }

    /// Virtual tokens before each sequence.
    fn tokens_ahead(&self) -> usize {
        0
    }

    /// Parameters that would be trained, and the linears that carry them, without building anything.
    fn count(&self, config: &DecoderConfig) -> Result<(u64, Vec<String>)>;

    /// Whether a pass through the base alone (`Weights::Base`) is the model as it was before the run: what is attached can be
    /// switched off, no base weight is trained, and the tuning begins with no values of its own.
    fn switches_off(&self) -> bool {
        false
    }

    /// Puts parameters in place that are trained whole and begin with other values than the model's files have.
    fn place(&self, model: &Model) -> Result<()> {
        let _ = model;
        Ok(())
    }

    /// A problem where what was trained is no change of weights, so that no plain model can hold it.
    fn merges(&self) -> Result<()> {
        Ok(())
    }

    /// Writes what was trained, in the format that the field reads, into an existing folder.
    fn save(&self, dir: &Path, model: &Model, store: &Store, base: &Base, precision: Precision) -> Result<()>;

    /// Puts the values in place that [`save`](Self::save) wrote into a checkpoint.
    fn restore(&self, store: &Store, checkpoint: &Path) -> Result<()> {
        restore_by_name(store, checkpoint)
    }
}

/// How exactly trained values are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// As they are in memory, so that a resumed run goes on from the same bits.
    Exact,
    /// As the base model stores its weights.
    Storage,
}

/// The model that a run started from.
pub struct Base<'a> {
    pub files: &'a ModelFiles,
    /// As `model_name_or_path` named it.
    pub name: &'a str,
}

pub static ADAPTERS: &[&dyn Adapter] =
    &[&lora::Lora, &full::Full, &prompt::Prompt, &p_tuning::PTuning, &prefix::Prefix, &bottleneck::BottleneckAdapter];

/// The tuning type of this name.
pub fn adapter(name: &str) -> Result<&'static dyn Adapter> {
    find(ADAPTERS, ["tuning type", "训练方式"], "finetuning_type", name)
}

/// The tuning that is saved in a PEFT folder, whatever its type.
pub fn read(dir: &Path) -> Result<Box<dyn Tuning>> {
    let kind = peft_type(dir)?;
    if let Some(adapter) = ADAPTERS.iter().find(|adapter| adapter.peft_type() == Some(kind.as_str())) {
        return adapter.read(dir);
    }
    let known: Vec<_> = ADAPTERS.iter().filter_map(|adapter| adapter.peft_type()).collect();
    let shown = dir.display();
    Err(Problem::new(
        "adapter_kind",
        format!("{shown} is an adapter of the type {kind}, which Lathe can't read."),
        format!("{shown} 是 {kind} 类型的适配器，Lathe 无法读取。"),
    )
    .hint(format!("Known types: {}.", known.join(", ")), format!("可用类型：{}。", known.join("、")))
    .field("adapter_name_or_path")
    .into())
}

/// Puts the values of a checkpoint in place, by the names of the parameters: of a PEFT folder, or of a whole model.
pub fn restore_by_name(store: &Store, checkpoint: &Path) -> Result<()> {
    let values = if is_adapter(checkpoint) {
        read_tensors(checkpoint, &Device::Cpu)?
    } else {
        let files = ModelFiles::open(checkpoint)?;
        let names = store.trainable().map(|p| &p.name).filter(|name| files.contains(name));
        let read = |name: &String| Ok((name.clone(), files.tensor(name, DType::F32, &Device::Cpu)?));
        names.map(read).collect::<Result<_>>()?
    };
    for parameter in store.trainable() {
        let value = values.get(&parameter.name).filter(|v| v.shape() == parameter.get().shape());
        let value = value.ok_or_else(|| unlike(checkpoint, &parameter.name))?;
        parameter.set(value.to_dtype(DType::F32)?.to_device(parameter.get().device())?);
    }
    Ok(())
}

fn unlike(checkpoint: &Path, name: &str) -> Problem {
    let shown = checkpoint.display();
    Problem::new(
        "checkpoint_for_other_settings",
        format!("{shown} does not fit this run: {name} is missing or has another shape."),
        format!("{shown} 与此运行不符：{name} 缺失或形状不同。"),
    )
    .hint("Resume with the settings of the run that made it.", "请使用生成该检查点的运行设置来继续。")
    .field("resume_from_checkpoint")
}

/// What a tuning type says that trains the model itself and is given an adapter.
fn no_adapter_here(dir: &str) -> Problem {
    Problem::new(
        "adapter_with_full",
        format!("adapter_name_or_path is {dir}, but this tuning type has no adapter."),
        format!("adapter_name_or_path 为 {dir}，但此训练方式没有适配器。"),
    )
    .hint(
        "Export the adapter first and train the merged model, or choose lora.",
        "请先导出适配器再训练合并后的模型，或选择 lora。",
    )
    .field("adapter_name_or_path")
}

/// Names of the linears of a decoder that an adapter may change, with their (in, out).
pub fn linears(config: &DecoderConfig) -> Vec<(String, usize, usize)> {
    let all = (0..config.layers).flat_map(|i| config.layer(i).linears());
    all.map(|linear| (linear.name, linear.inp, linear.out)).collect()
}
