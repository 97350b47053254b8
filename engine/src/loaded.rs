//! A model with its weights in memory and everything needed to talk to it, with or without an adapter.

use crate::{
    Places, Result,
    adapters::{self, Tuning},
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
use std::sync::Arc;

pub struct Loaded {
    pub model: Model,
    pub files: ModelFiles,
    pub encoder: Encoder,
    /// Tokens that end an answer.
    pub eos: Vec<u32>,
    /// The adapter on it, with its parameters.
    pub tuning: Option<Box<dyn Tuning>>,
    pub store: Store,
}

impl Loaded {
    /// Loads a model that computes in `asked`, and on it the adapter that `params` names.
    pub fn open(params: &ModelParams, places: &Places, asked: ComputeType) -> Result<Self> {
        let opened = open(params, places)?;
        let encoder = encoder(&opened, &DataParams::default())?;
        let tuning = adapters::read_all(&params.adapters())?;
        if let Some(tuning) = &tuning {
            tuning.count(&opened.config)?;
        }
        let attach: &dyn Attach = match &tuning {
            Some(tuning) => tuning.as_ref(),
            None => &(),
        };
        let source = Source::Files(&opened.files);
        let (compute, _) = compute::pick_for(&device::name(params.device.as_deref())?, asked, "compute_type")?;
        let device = device::open(params.device.as_deref())?;
        let mut store = Store::default();
        let model = build(&opened.config, &source, attach, &mut store, &device, compute.dtype())?;
        if let Some(tuning) = &tuning {
            tuning.place(&model)?;
        }
        let mut eos = opened.files.generation_eos();
        eos.extend(opened.tokenizer.eos.as_ref().map(|(_, id)| *id));
        eos.extend(end_of_turn(&encoder));
        eos.sort_unstable();
        eos.dedup();
        Ok(Self { model, files: opened.files, encoder, eos, tuning, store })
    }

    /// Begins an answer to a conversation.
    pub fn answer(&self, messages: &[Message], params: GenerateParams) -> Result<Generation> {
        let prompt = self.encoder.prompt_with(messages, None, &variables(params.enable_thinking))?;
        Generation::new(&self.model, Arc::clone(self.encoder.tokenizer()), &self.eos, prompt, params)
    }
}

/// Special tokens with which the common templates end a turn, if this model has them.
fn end_of_turn(encoder: &Encoder) -> Vec<u32> {
    ["<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>"]
        .iter()
        .filter_map(|word| encoder.tokenizer().token_to_id(word))
        .collect()
}
