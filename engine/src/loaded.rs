//! A model with its weights in memory and everything needed to talk to it, with or without an adapter.

use crate::{
    Places, Result,
    adapters::{self, Tuning},
    compute,
    data::{Encoder, template::variables},
    device,
    files::ModelFiles,
    generate::Generation,
    kernels::quantised::Quantisation,
    model::{Attach, Batch, Building, Network, Source, Store, Weights},
    prepare::{encoder, open},
    stages::value_head::{self, ValueHead},
};
use api::{
    Problem,
    data::Message,
    params::{ComputeType, DataParams, GenerateParams, ModelParams},
};
use std::{path::Path, sync::Arc};

pub struct Loaded {
    pub model: Box<dyn Network>,
    pub files: ModelFiles,
    pub encoder: Encoder,
    /// Tokens that end an answer.
    pub eos: Vec<u32>,
    /// The adapter on it, with its parameters.
    pub tuning: Option<Box<dyn Tuning>>,
    pub store: Store,
    /// What a reward model scores with; that of the adapter's folder or of the model's.
    pub value_head: Option<ValueHead>,
}

impl Loaded {
    /// Loads a model that computes in `asked`, and on it the adapter that `params` names.
    pub fn open(params: &ModelParams, places: &Places, asked: ComputeType) -> Result<Self> {
        Self::open_as(params, places, asked, None, true)
    }

    /// As [`open`](Self::open), with every weight as its file says it and x never rounded for it, for comparisons and for what
    /// is trained; linears of the layers may be kept in few bits.
    pub fn open_on(
        params: &ModelParams,
        places: &Places,
        asked: ComputeType,
        quantisation: Option<Quantisation>,
    ) -> Result<Self> {
        Self::open_as(params, places, asked, quantisation, false)
    }

    fn open_as(
        params: &ModelParams,
        places: &Places,
        asked: ComputeType,
        quantisation: Option<Quantisation>,
        keeps_blocks: bool,
    ) -> Result<Self> {
        let opened = open(params, places)?;
        // Products with blocks round x by themselves: bf16 would round it twice.
        let keeps_blocks = keeps_blocks && opened.files.format() == "gguf";
        let asked = if keeps_blocks && asked == ComputeType::Auto { ComputeType::Fp32 } else { asked };
        let encoder = encoder(&opened, &DataParams::default())?;
        let tuning = adapters::read_all(&params.adapters())?;
        if let Some(tuning) = &tuning {
            tuning.count(opened.config.layout())?;
        }
        let attach: &dyn Attach = match &tuning {
            Some(tuning) => tuning.as_ref(),
            None => &(),
        };
        let (compute, _) = compute::pick_for(&device::name(params.device.as_deref())?, asked, "compute_type")?;
        let device = device::open(params.device.as_deref())?;
        let mut store = Store::default();
        let how = Building {
            quantisation,
            keeps_blocks,
            ..Building::new(Source::Files(&opened.files), attach, &device, compute.dtype())
        };
        let model = opened.config.build(&how, &mut store)?;
        if let Some(tuning) = &tuning {
            tuning.place(model.as_ref())?;
        }
        let eos = ends(&opened.files, &encoder);
        let folders = params.adapters().pop().map(Path::new).into_iter().chain([opened.files.path()]);
        let scoring = folders.into_iter().find(|dir| dir.join(value_head::FILE).exists());
        let value_head = scoring.map(|dir| ValueHead::open(dir, model.decoder()?)).transpose()?;
        Ok(Self { model, files: opened.files, encoder, eos, tuning, store, value_head })
    }

    /// What the reward model gives each text, at its last token; white space behind it isn't read. A text is what the chat
    /// template makes of a conversation, and keeps `most` tokens.
    pub fn scores(&self, texts: &[String], most: Option<usize>) -> Result<Vec<f64>> {
        let head = self.value_head.as_ref().ok_or_else(|| no_value_head(&self.files))?;
        let model = self.model.decoder()?;
        let most = most.unwrap_or(usize::MAX).min(model.config.context).max(1);
        let score = |text: &String| {
            let mut ids = self.encoder.rendered_ids(text.trim_end())?;
            ids.truncate(most);
            if ids.is_empty() {
                return Err(empty_text().into());
            }
            let batch = Batch { lengths: vec![ids.len()], ids, ..Batch::default() };
            let scores = head.forward(&model.states(&batch.at_ends(), Weights::Tuned)?)?;
            Ok(scores.first().copied().map_or(0.0, f64::from))
        };
        texts.iter().map(score).collect()
    }

    /// Begins an answer to a conversation.
    pub fn answer(&self, messages: &[Message], params: GenerateParams) -> Result<Generation> {
        // An encoder-decoder does a task: each question is a source of its own.
        let alone: Vec<Message>;
        let messages = match self.model.encoder_decoder() {
            None => messages,
            Some(_) => {
                let last = messages.len().saturating_sub(1);
                let own = messages.iter().enumerate().filter(|(i, message)| *i == last || message.role == "system");
                alone = own.map(|(_, message)| message.clone()).collect();
                &alone
            }
        };
        let prompt = self.encoder.prompt_with(messages, None, &variables(params.enable_thinking))?;
        Generation::new(self.model.as_ref(), Arc::clone(self.encoder.tokenizer()), &self.eos, prompt, params)
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

fn no_value_head(files: &ModelFiles) -> Problem {
    let shown = files.path().display();
    Problem::new(
        "no_value_head",
        format!("{shown} is loaded without a value head, so it scores nothing."),
        format!("{shown} 加载时没有价值头，无法评分。"),
    )
    .hint("Load a run of the stage rm as the adapter or the model.", "请将 rm 阶段的运行作为适配器或模型加载。")
    .field("model")
}

fn empty_text() -> Problem {
    Problem::new("empty_text", "A text to score is empty.", "有一段待评分的文本为空。")
        .hint("Give the whole conversation as the chat template writes it.", "请按对话模板给出完整的对话。")
        .field("messages")
}

/// Special tokens with which the common templates end a turn, if this model has them.
fn end_of_turn(encoder: &Encoder) -> Vec<u32> {
    ["<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>"]
        .iter()
        .filter_map(|word| encoder.tokenizer().token_to_id(word))
        .collect()
}
