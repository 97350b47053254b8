//! A model with its weights in memory and everything needed to talk to it, with or without an adapter.

use crate::{
    Places, Result,
    adapters::{self, Tuning},
    compute,
    data::{Encoder, template::variables},
    device,
    files::ModelFiles,
    generate::{Engine, Request, any_seed},
    kernels::quantised::Quantisation,
    model::{Attach, Batch, Building, Network, Source, Store, Weights, build_as},
    prepare::{encoder, open},
    stages::value_head::{self, ValueHead},
};
use api::{
    Problem,
    data::Message,
    params::{ComputeType, DataParams, GenerateParams, ModelParams},
};
use serde_json::Value;
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
    /// The same base with other adapters, by their names.
    pub variants: Vec<(String, Box<dyn Network>)>,
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
        Ok(Self { model, files: opened.files, encoder, eos, tuning, store, value_head, variants: Vec::new() })
    }

    /// Loads a model, the adapter that `params` names, and beside it others on the same base, whose weights are in memory
    /// once. Each is a folder, or several separated by commas that stand on one another.
    pub fn open_with(params: &ModelParams, others: &[String], places: &Places, asked: ComputeType) -> Result<Self> {
        if others.is_empty() {
            return Self::open(params, places, asked);
        }
        let mut loaded = Self::open(&ModelParams { adapter_name_or_path: None, ..params.clone() }, places, asked)?;
        let own = params.adapter_name_or_path.iter().filter(|name| !name.is_empty());
        let mut tuned = Vec::new();
        for name in own.clone().chain(others) {
            let named = ModelParams { adapter_name_or_path: Some(name.clone()), ..params.clone() };
            let Some(tuning) = adapters::read_all(&named.adapters())? else { continue };
            tuning.count(loaded.model.layout())?;
            let base = loaded.model.decoder()?;
            let how = Building::new(Source::Model(base), tuning.as_ref(), &base.device, base.compute);
            let model = build_as(&base.config, &how, &mut Store::default())?;
            tuning.place(&model)?;
            tuned.push((name.clone(), Box::new(model) as Box<dyn Network>, tuning));
        }
        if own.count() > 0 && !tuned.is_empty() {
            let (_, model, tuning) = tuned.remove(0);
            (loaded.model, loaded.tuning) = (model, Some(tuning));
        }
        loaded.variants = tuned.into_iter().map(|(name, model, _)| (name, model)).collect();
        Ok(loaded)
    }

    /// An engine for it and its variants.
    pub fn engine(&self) -> Result<Engine<'_>> {
        let others = self.variants.iter().map(|(_, model)| model.as_ref());
        Engine::new(std::iter::once(self.model.as_ref()).chain(others).collect())
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
                return Err(empty_text("messages").into());
            }
            let batch = Batch { lengths: vec![ids.len()], ids, ..Batch::default() };
            let scores = head.forward(&model.states(&batch.at_ends(), Weights::Tuned)?)?;
            Ok(scores.first().copied().map_or(0.0, f64::from))
        };
        texts.iter().map(score).collect()
    }

    /// For each text the mean of the last hidden states over its tokens, of length 1; and the tokens of all texts. What
    /// the context can't hold is cut off.
    pub fn embeddings(&self, texts: &[String]) -> Result<(Vec<Vec<f32>>, u64)> {
        let model = self.model.decoder()?;
        let mut tokens = 0;
        let embed = |text: &String| {
            let mut ids = self.encoder.plain_ids(text)?;
            ids.truncate(model.context());
            if ids.is_empty() {
                return Err(empty_text("input").into());
            }
            tokens += ids.len() as u64;
            let rows = 0..ids.len() as u32;
            let batch = Batch {
                lengths: vec![ids.len()],
                targets: vec![0; ids.len()],
                rows: rows.collect(),
                ids,
                ..Batch::default()
            };
            let mean = model.states(&batch, Weights::Tuned)?.to_dtype(candle_core::DType::F32)?.mean(0)?;
            let length = mean.sqr()?.sum_all()?.sqrt()?.to_scalar::<f32>()?;
            Ok((mean / f64::from(length.max(f32::MIN_POSITIVE)))?.to_vec1()?)
        };
        let embeddings = texts.iter().map(embed).collect::<Result<_>>()?;
        Ok((embeddings, tokens))
    }

    /// A request to go on with a text as it stands.
    pub fn completion(&self, text: &str, params: GenerateParams) -> Result<Request> {
        let prompt = match self.model.encoder_decoder() {
            None => self.encoder.plain_ids(text)?,
            Some(_) => self.encoder.text(text)?.ids,
        };
        Ok(self.request(prompt, params))
    }

    /// A request to answer a conversation, with OpenAI's list of `tools` for its template.
    pub fn answer(&self, messages: &[Message], tools: Option<&Value>, params: GenerateParams) -> Result<Request> {
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
        let prompt = self.encoder.prompt_with(messages, tools, &variables(params.enable_thinking))?;
        Ok(self.request(prompt, params))
    }

    /// A request to go on with tokens, to the model as it was loaded.
    pub fn request(&self, prompt: Vec<u32>, params: GenerateParams) -> Request {
        let seed = params.seed.unwrap_or_else(any_seed);
        // The first answer has the seed itself.
        let count = if params.num_beams > 1 { 1 } else { params.num_return_sequences.max(1) as u64 };
        Request {
            prompt,
            model: 0,
            params: Arc::new(params),
            seeds: (0..count).map(|i| seed.wrapping_add(i)).collect(),
            eos: self.eos.as_slice().into(),
            tokenizer: Some(Arc::clone(self.encoder.tokenizer())),
            surely: false,
        }
    }

    /// The number that [`Request::model`] has for an adapter: none is the model as it was loaded.
    pub fn variant(&self, adapter: Option<&str>) -> Result<usize> {
        let Some(name) = adapter else { return Ok(0) };
        let place = self.variants.iter().position(|(other, _)| other == name);
        place.map(|place| place + 1).ok_or_else(|| self.no_adapter(name).into())
    }

    fn no_adapter(&self, name: &str) -> Problem {
        let names: Vec<&str> = self.variants.iter().map(|(name, _)| name.as_str()).collect();
        let names = if names.is_empty() { "—".to_owned() } else { names.join(", ") };
        Problem::new(
            "no_adapter",
            format!("No adapter {name} is loaded; there are: {names}."),
            format!("未加载适配器 {name}；已加载的有：{names}。"),
        )
        .hint("Name one of these, or load the model with it.", "请使用其中之一，或在加载模型时加入它。")
        .field("adapter")
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

fn empty_text(field: &str) -> Problem {
    Problem::new("empty_text", format!("A text of {field} is empty."), format!("{field} 中有一段文本为空。"))
        .hint("Leave it out, or write something.", "请去掉它，或填入内容。")
        .field(field)
}

/// Special tokens with which the common templates end a turn, if this model has them.
fn end_of_turn(encoder: &Encoder) -> Vec<u32> {
    ["<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>"]
        .iter()
        .filter_map(|word| encoder.tokenizer().token_to_id(word))
        .collect()
}
