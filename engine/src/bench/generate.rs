//! Generation by the engine of chat: one answer alone, several chats at once and in a row, and a mixed load.

use super::{Spent, Subject, median, spent};
use crate::{
    Error, Places, Result, compute, device,
    generate::{Engine, Request, Said},
    kernels::profile,
    memory,
    model::{Building, Network, Store, build_as},
    random::Random,
};
use api::{
    chat::Usage,
    params::{ComputeType, GenerateParams},
};
use serde::Serialize;
use std::{sync::Arc, time::Instant};

/// What is asked of [`generate`].
#[derive(Clone, Debug)]
pub struct GenerateBench {
    pub subject: Subject,
    /// Tokens of the prompt, and tokens made after it.
    pub prompt: usize,
    pub new: usize,
    /// Times that both are measured, after once that is not.
    pub rounds: usize,
    /// Chats at once and in a row; none are measured with 0.
    pub chats: usize,
    pub compute_type: ComputeType,
    pub profile: bool,
}

/// What [`generate`] found.
#[derive(Clone, Debug, Serialize)]
pub struct GenerateReport {
    pub model: String,
    pub prompt: usize,
    pub new: usize,
    pub threads: usize,
    /// What was computed in, for example `bf16, AMX`.
    pub compute: String,
    /// Tokens of the prompt a second, and tokens made a second at batch 1: medians over the rounds.
    pub prompt_per_s: f64,
    pub decode_per_s: f64,
    /// Bytes.
    pub peak_memory: Option<u64>,
    /// Seconds from the start of the process to the first token.
    pub first_token_s: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chats: Option<ChatsReport>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub profile: Vec<Spent>,
}

/// Chats at once and in a row, and the cache under a mixed load.
#[derive(Clone, Debug, Serialize)]
pub struct ChatsReport {
    pub chats: usize,
    /// Tokens of each one's prompt, and tokens made after it.
    pub prompt: usize,
    pub new: usize,
    /// Tokens made a second by all of them.
    pub in_a_row_per_s: f64,
    pub at_once_per_s: f64,
    /// Requests of the mixed load, whose prompts and answers have all lengths and which come one after another.
    pub mixed: usize,
    /// Filled positions of those in pages that are held, 0 to 1: mean over the steps of the mixed load.
    pub utilisation: f64,
    /// Bytes that the cache had set aside at the end of it, for how many positions at most at a time.
    pub cache_bytes: u64,
    pub most_tokens: u64,
}

/// Tokens of a chat's prompt.
const QUESTION: usize = 32;
/// Of the mixed load, the lengths of prompts and answers, and steps between two requests.
const PROMPTS: (usize, usize) = (32, 512);
const ANSWERS: (usize, usize) = (8, 96);
const BETWEEN: usize = 4;

/// Makes tokens, always the likeliest, and measures. `begun` is when the process started.
pub fn generate(bench: &GenerateBench, places: &Places, begun: Instant) -> Result<GenerateReport> {
    let device = device::name(None)?;
    let ready = bench.subject.open(places)?;
    // As a chat has it: blocks round x by themselves.
    let is_gguf = ready.opened.as_ref().is_some_and(|opened| opened.files.format() == "gguf");
    let is_auto = bench.compute_type == ComputeType::Auto;
    let asked = if is_gguf && is_auto { ComputeType::Fp32 } else { bench.compute_type };
    let (compute, _) = compute::pick_for(&device, asked, "compute_type")?;
    let here = device::open(None)?;
    let how = Building { keeps_blocks: true, ..Building::new(ready.source(), &(), &here, compute.dtype()) };
    let model = build_as(&ready.config, &how, &mut Store::default())?;
    let mut talk = Talk {
        model: &model,
        random: Random::new(42, STREAM),
        vocabulary: ready.config.vocab_size,
        context: ready.config.context,
    };
    let (mut prompts, mut decodes, mut first, mut seconds) = (Vec::new(), Vec::new(), 0.0, 0.0);
    for round in 0..=bench.rounds {
        if round == 1 && bench.profile {
            profile::enable();
        }
        let request = talk.request(bench.prompt.max(1), bench.new);
        let usage = talk.alone(request)?;
        if round == 0 {
            first = begun.elapsed().as_secs_f64() - usage.seconds + usage.first_token_seconds;
            continue;
        }
        let made = usage.seconds - usage.first_token_seconds;
        prompts.push(usage.prompt_tokens as f64 / usage.first_token_seconds.max(1e-9));
        // The first token comes with the prompt.
        decodes.push(usage.completion_tokens.saturating_sub(1) as f64 / made.max(1e-9));
        seconds += usage.seconds;
    }
    let profile = if bench.profile { spent(seconds) } else { Vec::new() };
    let chats = (bench.chats > 0).then(|| talk.chats(bench.chats, bench.new)).transpose()?;
    Ok(GenerateReport {
        model: bench.subject.name().into(),
        prompt: bench.prompt,
        new: bench.new,
        threads: rayon::current_num_threads(),
        compute: compute::describe(&device, compute),
        prompt_per_s: median(&prompts),
        decode_per_s: median(&decodes),
        peak_memory: memory::peak(),
        first_token_s: first,
        chats,
        profile,
    })
}

/// Stream of the random numbers that prompts are made of.
const STREAM: u64 = 0xBE4D;

/// Who asks the model.
struct Talk<'a> {
    model: &'a dyn Network,
    random: Random,
    vocabulary: usize,
    context: usize,
}

impl<'a> Talk<'a> {
    fn request(&mut self, prompt: usize, new: usize) -> Request {
        let params = GenerateParams { do_sample: false, max_new_tokens: new.max(1), ..GenerateParams::default() };
        let prompt = prompt.min(self.context.saturating_sub(params.max_new_tokens).max(1));
        Request {
            prompt: (0..prompt).map(|_| self.random.below(self.vocabulary) as u32).collect(),
            model: 0,
            params: Arc::new(params),
            seeds: vec![0],
            eos: [].into(),
            tokenizer: None,
            surely: false,
        }
    }

    /// One answer with nothing beside it.
    fn alone(&self, request: Request) -> Result<Usage> {
        let mut engine = Engine::new(vec![self.model])?;
        engine.add(request)?;
        done(&mut engine)?.pop().ok_or_else(|| Error::Internal("a request without an end".into()))
    }

    fn chats(&mut self, chats: usize, new: usize) -> Result<ChatsReport> {
        let requests: Vec<Request> = (0..chats).map(|_| self.request(QUESTION, new)).collect();
        let begun = Instant::now();
        for request in &requests {
            self.alone(request.clone())?;
        }
        let in_a_row = begun.elapsed().as_secs_f64();
        let begun = Instant::now();
        let mut engine = Engine::new(vec![self.model])?;
        for request in requests {
            engine.add(request)?;
        }
        while !engine.is_idle() {
            done(&mut engine)?;
        }
        let at_once = begun.elapsed().as_secs_f64();

        let mut between = |(low, high): (usize, usize)| low + self.random.below(high - low);
        let mixed = 2 * chats;
        let lengths: Vec<(usize, usize)> = (0..mixed).map(|_| (between(PROMPTS), between(ANSWERS))).collect();
        let mut coming = lengths.into_iter();
        let (mut engine, mut step, mut shares, mut most) = (Engine::new(vec![self.model])?, 0, Vec::new(), 0);
        loop {
            if step % BETWEEN == 0
                && let Some((prompt, new)) = coming.next()
            {
                engine.add(self.request(prompt, new))?;
            }
            if engine.is_idle() {
                break;
            }
            told(&mut engine)?;
            let usage = engine.usage();
            if usage.places > 0 {
                shares.push(usage.utilisation());
                most = most.max(usage.tokens);
            }
            step += 1;
        }
        let made = (chats * new) as f64;
        Ok(ChatsReport {
            chats,
            prompt: QUESTION,
            new,
            in_a_row_per_s: made / in_a_row.max(1e-9),
            at_once_per_s: made / at_once.max(1e-9),
            mixed,
            utilisation: shares.iter().sum::<f64>() / shares.len().max(1) as f64,
            cache_bytes: engine.usage().bytes,
            most_tokens: most,
        })
    }
}

/// Goes on until a request is done.
fn done(engine: &mut Engine) -> Result<Vec<Usage>> {
    let mut ended = Vec::new();
    while ended.is_empty() && !engine.is_idle() {
        ended = told(engine)?;
    }
    Ok(ended)
}

/// One step; what it ended.
fn told(engine: &mut Engine) -> Result<Vec<Usage>> {
    let mut ended = Vec::new();
    for (_, said) in engine.step() {
        match said {
            Said::Done(usage) => ended.push(usage),
            Said::Failed(problem) => return Err(problem.into()),
            Said::Text { .. } | Said::Ended(_) => {}
        }
    }
    Ok(ended)
}
