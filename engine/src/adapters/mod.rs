//! Tuning types, `finetuning_type`: what is trained, and how that is saved. One file for each; one line here.

mod adalora;
pub mod bottleneck;
mod extras;
mod factors;
mod freeze;
mod full;
mod ia3;
pub mod lora;
mod oft;
mod on_linears;
mod p_tuning;
mod prefix;
mod problems;
mod prompt;
mod stack;
mod targets;
mod values;
pub mod virtual_tokens;

use crate::{
    Result,
    entry::{Entry, find},
    files::{
        ModelFiles,
        adapter::{is_adapter, peft_type, read_tensors},
    },
    model::{Attach, Grads, Layout, Network, Parameter, Store},
};
use api::{Problem, Problems, RunConfig, params::ModelParams};
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

    /// Whether it goes on from folders of this `peft_type`.
    fn reads(&self, kind: &str) -> bool {
        self.peft_type() == Some(kind)
    }

    /// Whether it tunes encoder-decoders, not only decoders.
    fn tunes_encoder_decoders(&self) -> bool {
        false
    }

    /// The tuning that is saved in a PEFT folder of its type.
    fn read(&self, dir: &Path) -> Result<Box<dyn Tuning>> {
        Err(no_adapter_here(&dir.display().to_string()).into())
    }
}

/// One run's tuning: attaches itself to the model while that is built, and saves what was trained.
pub trait Tuning: Attach {
    /// Encodes texts that it begins with.
    fn tokenize(&mut self, tokenizer: &Tokenizer) -> Result<()> {
        let _ = tokenizer;
        Ok(())
    }

    /// Virtual tokens before each sequence.
    fn tokens_ahead(&self) -> usize {
        0
    }

    /// Parameters that would be trained, and the linears that carry them, without building anything.
    fn count(&self, layout: &dyn Layout) -> Result<(u64, Vec<String>)>;

    /// Whether a pass through the base alone (`Weights::Base`) is the model as it was before the run: what is attached can be
    /// switched off, no base weight is trained, and the tuning begins with no values of its own.
    fn switches_off(&self) -> bool {
        false
    }

    /// The argument by which frozen weights are changed before the training begins, if any are.
    fn changes_base(&self) -> Option<&'static str> {
        None
    }

    /// Puts parameters in place that are trained whole and begin with other values than the model's files have.
    fn place(&self, model: &dyn Network) -> Result<()> {
        let _ = model;
        Ok(())
    }

    /// Hears how many steps the optimizer will make; refuses a schedule of its own that doesn't fit in.
    fn begin(&self, steps: u64) -> Result<()> {
        let _ = steps;
        Ok(())
    }

    /// Factor on the learning rate of a trained parameter.
    fn rate_factor(&self, parameter: &Parameter) -> f64 {
        let _ = parameter;
        1.0
    }

    /// What the tuning itself adds to the loss of a step, with its gradients.
    fn penalise(&self, store: &Store, grads: &mut Grads) -> Result<f64> {
        let _ = (store, grads);
        Ok(0.0)
    }

    /// Called when the optimizer has made step `step`, counted from 0, along `scale` times the gradients.
    fn after_step(&self, store: &Store, grads: &Grads, scale: f64, step: u64) -> Result<()> {
        let _ = (store, grads, scale, step);
        Ok(())
    }

    /// Whether it saves a whole model.
    fn saves_model(&self) -> bool {
        false
    }

    /// A problem where what was trained is no change of weights, so that no plain model can hold it.
    fn merges(&self) -> Result<()> {
        Ok(())
    }

    /// Writes what was trained, in the format that the field reads, into an existing folder.
    fn save(&self, dir: &Path, model: &dyn Network, store: &Store, base: &Base, precision: Precision) -> Result<()>;

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

pub static ADAPTERS: &[&dyn Adapter] = &[
    &lora::Lora,
    &adalora::AdaLora,
    &oft::Oft,
    &ia3::Ia3,
    &bottleneck::BottleneckAdapter,
    &prompt::Prompt,
    &p_tuning::PTuning,
    &prefix::Prefix,
    &freeze::Freeze,
    &full::Full,
];

/// The tuning type of this name.
pub fn adapter(name: &str) -> Result<&'static dyn Adapter> {
    find(ADAPTERS, ["tuning type", "训练方式"], "finetuning_type", name)
}

/// The tuning that a run asks for, on the adapters that it goes on from: the last of them is trained further, and those
/// before it are merged into the base, as LLaMA-Factory does; with `create_new_adapter` all are, and a new one begins.
pub fn start(name: &str, config: &RunConfig, model: &ModelParams) -> Result<Box<dyn Tuning>> {
    let (adapter, last) = (adapter(name)?, model.adapters().pop());
    // A type that trains the model itself refuses adapters.
    let previous = last.filter(|_| !model.create_new_adapter || adapter.peft_type().is_none());
    if let Some(dir) = previous.map(Path::new).filter(|_| adapter.peft_type().is_some()) {
        let kind = peft_type(dir)?;
        if !adapter.reads(&kind) {
            return Err(other_kind(dir, &kind).into());
        }
    }
    stacked(&model.below(), adapter.start(config, previous.map(Path::new))?)
}

/// The same settings with nothing dropped out; what is no share is left for its check to refuse.
pub fn without_dropout(config: &RunConfig) -> RunConfig {
    let mut quiet = config.clone();
    let shares = quiet.0.iter_mut().filter(|(key, _)| key.ends_with("dropout")).map(|(_, value)| value);
    for share in shares.filter(|value| value.as_f64().is_some_and(|share| (0.0..=0.95).contains(&share))) {
        *share = 0.0.into();
    }
    quiet
}

/// The tuning saved in PEFT folders, the last one on top of the others; none without any.
pub fn read_all(folders: &[&str]) -> Result<Option<Box<dyn Tuning>>> {
    let Some((top, below)) = folders.split_last() else { return Ok(None) };
    Ok(Some(stacked(below, read(Path::new(top))?)?))
}

fn stacked(below: &[&str], top: Box<dyn Tuning>) -> Result<Box<dyn Tuning>> {
    if below.is_empty() {
        return Ok(top);
    }
    let below = below.iter().map(|dir| read(Path::new(dir))).collect::<Result<Vec<_>>>()?;
    Ok(Box::new(stack::Stack::new(below, top)?))
}

/// The tuning that is saved in a PEFT folder, whatever its type.
pub fn read(dir: &Path) -> Result<Box<dyn Tuning>> {
    let kind = peft_type(dir)?;
    match ADAPTERS.iter().find(|adapter| adapter.reads(&kind)) {
        Some(adapter) => adapter.read(dir),
        None => Err(other_kind(dir, &kind).into()),
    }
}

/// An adapter of a type that is another than the run's, or that nobody reads.
fn other_kind(dir: &Path, kind: &str) -> Problem {
    let shown = dir.display();
    let problem = Problem::new(
        "adapter_kind",
        format!("{shown} is an adapter of the type {kind}, which can't be used here."),
        format!("{shown} 是 {kind} 类型的适配器，不能用在这里。"),
    )
    .field("adapter_name_or_path");
    match ADAPTERS.iter().find(|adapter| adapter.reads(kind)).map(|adapter| adapter.card().name) {
        Some(name) => problem.hint(
            format!("Set finetuning_type to {name} to go on from it, or create_new_adapter to begin another on it."),
            format!("将 finetuning_type 设为 {name} 可从它继续；设置 create_new_adapter 可在它之上另起一个。"),
        ),
        None => {
            let known: Vec<_> = ADAPTERS.iter().filter_map(|adapter| adapter.peft_type()).collect();
            problem.hint(format!("Known types: {}.", known.join(", ")), format!("可用类型：{}。", known.join("、")))
        }
    }
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
        let present = parameter.stored(parameter.get())?;
        let value = values.get(&parameter.name).filter(|value| value.shape() == present.shape());
        let value = value.ok_or_else(|| unlike(checkpoint, &parameter.name))?;
        parameter.set(parameter.stored(value.to_dtype(DType::F32)?)?.to_device(present.device())?);
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
