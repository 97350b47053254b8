//! The reference policy: what a preference loss or a KL penalty holds the trained model against.
//!
//! It is the policy that the run started from. Where the tuning can be switched off, that is the base under the same weights,
//! which costs no memory; otherwise a second model is kept, built as the trained one was, in as few bits, and frozen. So a
//! run that goes on from an adapter is held against the base with that adapter, the policy of the papers (Ouyang et al., 2022;
//! Rafailov et al., 2023); LLaMA-Factory and TRL switch the adapter off there. `ref_model` names another: the base's own name
//! gives theirs.

use super::{Setting, Stage};
use crate::{
    Places, Result,
    adapters::Tuning,
    loaded::Loaded,
    model::{Batch, Building, Model, Source, Store, Weights, build_as},
    prepare::{self, Opened},
    rewards::JUDGE_MODEL,
};
use api::{
    Problem, RunConfig,
    catalog::ui,
    job::is_awaited,
    params::{self, ComputeType, ModelParams},
};
use candle_core::DType;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tokenizers::Tokenizer;

/// Parameters of stages with a reference policy, with LLaMA-Factory's names.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ReferenceParams {
    /// The model that the trained one is held against. Empty: what the run starts from, with the adapter that it goes on
    /// from; the base's own name here leaves that adapter out, as LLaMA-Factory does.
    #[schemars(extend("ui" = ui(["Reference model", "参考模型"], "用来约束被训练模型的参考模型。留空则为运行的起点，包括所继续的适配器；若填基座模型自己的名称，则不含该适配器，与 LLaMA-Factory 相同。", ["Needs its own memory", "需要另占内存"])))]
    pub ref_model: Option<String>,
    /// An adapter on the reference model.
    #[schemars(extend("ui" = ui(["Reference adapter", "参考模型的适配器"], "参考模型上的适配器。", ["Only with a reference model", "仅在指定参考模型时有意义"])))]
    pub ref_model_adapters: Option<String>,
}

impl ReferenceParams {
    /// The model that is named, if one is.
    pub fn named(&self, config: &RunConfig) -> Option<ModelParams> {
        let filled = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let device = params::read::<ModelParams>(config).ok().and_then(|model| model.device);
        let adapter_name_or_path = filled(&self.ref_model_adapters);
        let model_name_or_path = filled(&self.ref_model)?;
        Some(ModelParams { model_name_or_path, adapter_name_or_path, device, ..ModelParams::default() })
    }

    /// The same as an entry of [`Stage::others`].
    pub fn others(&self, config: &RunConfig) -> Vec<(&'static str, ModelParams)> {
        self.named(config).map(|chosen| (REF_MODEL, chosen)).into_iter().collect()
    }

    /// A problem where an adapter has no model to go on.
    pub fn check(&self) -> Result<(), Problem> {
        let given = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
        if !given(&self.ref_model_adapters) || given(&self.ref_model) {
            return Ok(());
        }
        Err(Problem::new(
            "adapter_without_model",
            "ref_model_adapters is given without ref_model.",
            "给出了 ref_model_adapters，但没有 ref_model。",
        )
        .hint("Set ref_model to the model that the adapter belongs to.", "请将 ref_model 设为该适配器所属的模型。")
        .field("ref_model"))
    }
}

pub enum Reference {
    /// The trained model with its tuning switched off.
    Base,
    Kept(Box<Model>),
}

impl Reference {
    /// The reference policy that the configuration asks for.
    pub fn of(setting: &Setting) -> Result<Self> {
        let asked: ReferenceParams = params::read(setting.config)?;
        let prepared = setting.prepared;
        if let Some(chosen) = asked.named(setting.config) {
            return Ok(Self::Kept(Box::new(open(&chosen, REF_MODEL, setting)?)));
        }
        if prepared.tuning.switches_off() {
            return Ok(Self::Base);
        }
        let source = match prepared.model.train_from_scratch {
            true => Source::Random { seed: prepared.train.seed },
            false => Source::Files(&prepared.files),
        };
        let (own, tuning) = (setting.model.decoder()?, prepared.tuning.as_ref());
        let how = Building {
            quantisation: prepared.quantisation,
            // So that its weights take no more memory than their files.
            frozen: true,
            ..Building::new(source, tuning, &own.device, own.compute)
        };
        let model = build_as(&own.config, &how, &mut Store::default())?;
        tuning.place(&model)?;
        Ok(Self::Kept(Box::new(model)))
    }

    /// Log probability of each target of a batch by the reference; `model` is the trained one.
    pub fn log_probs(&self, model: &Model, batch: &Batch) -> Result<Vec<f32>> {
        match self {
            Self::Base => model.log_probs(batch, Weights::Base),
            Self::Kept(kept) => kept.log_probs(batch, Weights::Tuned),
        }
    }

    /// The same where logits are divided by `temperature`.
    pub fn log_probs_at(&self, model: &Model, batch: &Batch, temperature: f32) -> Result<Vec<f32>> {
        let (model, weights) = match self {
            Self::Base => (model, Weights::Base),
            Self::Kept(kept) => (kept.as_ref(), Weights::Tuned),
        };
        Ok(model.outlooks(batch, weights, temperature)?.log_probs)
    }
}

/// Another model that reads the same tokens and computes as the trained one does; on the same base its weights are kept in
/// as few bits. `field` is the argument that names it.
pub fn open(chosen: &ModelParams, field: &str, setting: &Setting) -> Result<Model> {
    let asked = if setting.model.decoder()?.compute == DType::BF16 { ComputeType::Bf16 } else { ComputeType::Fp32 };
    let is_own = chosen.model_name_or_path == setting.prepared.model.model_name_or_path;
    // Several adapters are merged into it, which quantised weights can't take.
    let few = setting.prepared.quantisation.filter(|_| is_own && chosen.adapters().len() <= 1);
    let other = Loaded::open_on(chosen, setting.places, asked, few).map_err(|error| error.at(field))?;
    let own = (setting.prepared.model.model_name_or_path.as_str(), setting.prepared.encoder.tokenizer());
    check_words(own, (&chosen.model_name_or_path, other.encoder.tokenizer()), field)?;
    other.model.into_decoder().map_err(|error| error.at(field))
}

/// Bytes of the models that a stage keeps besides the trained one, `own`, whose weights take `dense` bytes as they are, and
/// `bytes` as the run keeps them; checks that there are such models and that they read the same tokens.
pub fn kept(
    stage: &dyn Stage,
    config: &RunConfig,
    own: &Opened,
    tuning: &dyn Tuning,
    places: &Places,
    [dense, bytes]: [u64; 2],
) -> Result<u64> {
    let others = stage.others(config)?;
    let share = |other: &Opened| {
        let [own, other] = [own, other].map(|opened| opened.config.layout().parameters());
        (dense as f64 * other as f64 / own.max(1) as f64) as u64
    };
    let mut kept = 0;
    for (field, chosen) in &others {
        let mut paths = chosen.adapters().into_iter().chain([chosen.model_name_or_path.as_str()]);
        if paths.any(is_awaited) {
            // A run on this model makes it.
            kept += bytes;
            continue;
        }
        let other = prepare::open(chosen, places).map_err(|error| error.at(field))?;
        other.config.decoder().map_err(|error| error.at(field))?;
        kept += if other.files.path() == own.files.path() { bytes } else { share(&other) };
        let names = [&own.files, &other.files].map(|files| files.path().display().to_string());
        // A judge reads text, the others tokens.
        if *field != JUDGE_MODEL {
            check_words((&names[0], &own.tokenizer.tokenizer), (&names[1], &other.tokenizer.tokenizer), field)?;
        }
    }
    let copies = stage.has_reference(config) && !others.iter().any(|(field, _)| *field == REF_MODEL);
    Ok(kept + if copies && !tuning.switches_off() { bytes } else { 0 })
}

const REF_MODEL: &str = "ref_model";

/// A problem unless the same numbers mean the same words to both models, each with its name.
fn check_words(own: (&str, &Arc<Tokenizer>), other: (&str, &Arc<Tokenizer>), field: &str) -> Result<()> {
    if own.1.get_vocab(true) == other.1.get_vocab(true) {
        return Ok(());
    }
    let (own, other) = (own.0, other.0);
    Err(Problem::new(
        "other_vocabulary",
        format!("{other} has another vocabulary than {own}: the same numbers mean other words to it."),
        format!("{other} 的词表与 {own} 不同：相同的编号对它是不同的词。"),
    )
    .hint("Choose a model of the same family, whose tokenizer is the same.", "请选择同一系列、使用相同分词器的模型。")
    .field(field)
    .into())
}
