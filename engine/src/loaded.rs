//! A model with its weights in memory and everything needed to talk to it, with or without an adapter.

use crate::{
    Places, Result,
    adapters::Tuning,
    adapters::lora::LoraTuning,
    compute,
    data::{Encoder, template::variables},
    device,
    files::ModelFiles,
    generate::Generation,
    model::{Attach, Model, Source, Store, build},
    prepare::{encoder, open},
};
use api::{
    data::Message,
    params::{ComputeType, DataParams, GenerateParams, ModelParams},
};
use std::{path::Path, sync::Arc};

pub struct Loaded {
    pub model: Model,
    pub files: ModelFiles,
    pub encoder: Encoder,
    /// Tokens that end an answer.
    pub eos: Vec<u32>,
}

impl Loaded {
    /// Loads a model that computes in `asked`, and on it the adapter that `params` names.
    pub fn open(params: &ModelParams, places: &Places, asked: ComputeType) -> Result<Self> {
        let opened = open(params, places)?;
        let encoder = encoder(&opened, &DataParams::default())?;
        let adapter = params.adapter_name_or_path.as_deref().filter(|a| !a.is_empty());
        let tuning = adapter.map(|dir| LoraTuning::read(Path::new(dir))).transpose()?;
        if let Some(tuning) = &tuning {
            tuning.count(&opened.config)?;
        }
        let attach: &dyn Attach = tuning.as_ref().map_or(&(), |t| t);
        let source = Source::Files(&opened.files);
        let (compute, _) = compute::pick_for(&device::name(params.device.as_deref())?, asked, "compute_type")?;
        let device = device::open(params.device.as_deref())?;
        let model = build(&opened.config, &source, attach, &mut Store::default(), &device, compute.dtype())?;
        if let Some(tuning) = &tuning {
            tuning.place(&model)?;
        }
        let eos = ends(&opened.files, &encoder);
        Ok(Self { model, files: opened.files, encoder, eos })
    }

    /// Begins an answer to a conversation.
    pub fn answer(&self, messages: &[Message], params: GenerateParams) -> Result<Generation> {
        let prompt = self.encoder.prompt_with(messages, None, &variables(params.enable_thinking))?;
        Generation::new(&self.model, Arc::clone(self.encoder.tokenizer()), &self.eos, prompt, params)
    }
}

/// Tokens that end an answer of a model.
pub fn ends(files: &ModelFiles, encoder: &Encoder) -> Vec<u32> {
    let mut eos = files.generation_eos();
    eos.extend(encoder.special().eos.as_ref().map(|(_, id)| *id));
    eos.extend(end_of_turn(encoder));
    eos.sort_unstable();
    eos.dedup();
    eos
}

/// Special tokens with which the common templates end a turn, if this model has them.
fn end_of_turn(encoder: &Encoder) -> Vec<u32> {
    ["<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>"]
        .iter()
        .filter_map(|word| encoder.tokenizer().token_to_id(word))
        .collect()
}
