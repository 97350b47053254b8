//! One request in the making: its prompt is read, then its answers are sampled or searched for.

use super::{
    beams::{Beam, Search},
    engine::{Answer, Request, Said},
    format::Format,
    held::Held,
    rules::Rules,
    sample::{samples, warp},
    speaker::Speaker,
    text,
};
use crate::{
    Result,
    kernels::lanes::finite,
    model::{Network, Piece},
    random::Random,
};
use api::{
    Problem,
    chat::{CacheUse, FinishReason, Usage},
};
use rayon::prelude::*;
use std::{collections::HashMap, time::Instant};

/// Stream of the random numbers that choose tokens.
const STREAM: u64 = 0x6E0;

pub struct Task {
    shared: Shared,
    stage: Stage,
    told: Vec<Said>,
    failed: bool,
    /// Tokens of the prompt that the cache had.
    cached: usize,
    made: usize,
    begun: Instant,
    first: Option<f64>,
}

/// What all answers of a request go by.
pub struct Shared {
    pub request: Request,
    pub rules: Rules,
    /// What the model is given before it answers: the prompt; of an encoder-decoder the token that begins answers.
    pub before: Vec<u32>,
    /// Tokens of the longest answer.
    pub most: usize,
    /// The format that answers must have, before their first token.
    format: Option<Format>,
}

enum Stage {
    Waiting,
    /// So many tokens of `before` were given to the model.
    Reading {
        sequence: usize,
        read: usize,
    },
    /// The logits behind the prompt are there; the answers get sequences of their own next.
    Begins {
        sequence: usize,
        logits: Vec<f32>,
    },
    Sampling(Vec<Speaker>),
    Searching {
        search: Box<Search>,
        sequences: Vec<usize>,
        over: bool,
    },
    /// Sequences that are still to be given back.
    Over(Vec<usize>),
}

impl Task {
    /// Refuses what can't be answered.
    pub fn new(request: Request, model: &dyn Network) -> Result<Self> {
        let p = &request.params;
        let (before, context) = match model.encoder_decoder() {
            // Relative positions, which encoder-decoders have, know no end.
            Some(model) => (vec![model.start()], usize::MAX),
            None => (request.prompt.clone(), model.decoder()?.context()),
        };
        if request.prompt.is_empty() || before.len() >= context {
            return Err(too_long(request.prompt.len(), context).into());
        }
        let longest = p.max_length.unwrap_or(usize::MAX).min(context);
        let Some(most) = longest.checked_sub(before.len()).filter(|most| *most > 0) else {
            return Err(no_room(longest, before.len()).into());
        };
        if p.num_beams > 1 && p.num_return_sequences > p.num_beams {
            return Err(too_many(p.num_return_sequences, p.num_beams).into());
        }
        let format = match (&p.response_format, &request.tokenizer) {
            (Some(format), Some(tokenizer)) => Format::new(format, tokenizer, &request.eos)?,
            _ => None,
        };
        if p.num_beams > 1 && format.is_some() {
            return Err(no_format_of_beams().into());
        }
        let rules = Rules::new(request.params.clone(), request.eos.clone(), request.tokenizer.as_ref())?;
        let most = most.min(p.max_new_tokens);
        Ok(Self {
            shared: Shared { request, rules, before, most, format },
            stage: Stage::Waiting,
            told: Vec::new(),
            failed: false,
            cached: 0,
            made: 0,
            begun: Instant::now(),
            first: None,
        })
    }

    pub fn priority(&self) -> i64 {
        self.shared.request.params.priority
    }

    pub fn model(&self) -> usize {
        self.shared.request.model
    }

    /// Sequences that it takes, or will take.
    pub fn width(&self) -> usize {
        match &self.stage {
            Stage::Sampling(speakers) => speakers.iter().filter(|speaker| speaker.ended.is_none()).count(),
            _ => self.shared.request.params.num_beams.max(self.shared.request.seeds.len()),
        }
    }

    pub fn is_reading(&self) -> bool {
        matches!(self.stage, Stage::Waiting | Stage::Reading { .. })
    }

    pub fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Over(_))
    }

    pub fn has_failed(&self) -> bool {
        self.failed
    }

    /// Takes a sequence for the prompt.
    pub fn begin(&mut self, model: &dyn Network, held: &mut Held) -> Result<()> {
        let (sequence, read) = held.begin(model, self.shared.request.model, &self.shared.request.prompt)?;
        self.cached = read;
        self.stage = Stage::Reading { sequence, read };
        Ok(())
    }

    /// What the model is given next; of the prompt no more than there is room for.
    pub fn pieces(&self, room: &mut usize) -> Vec<Piece<'_>> {
        let last = |sequence: usize, ids: &'_ [u32]| (sequence, ids.len().saturating_sub(1));
        match &self.stage {
            Stage::Reading { sequence, read } => {
                let rest = &self.shared.before[*read..];
                let ids = &rest[..rest.len().min(*room)];
                *room -= ids.len();
                let piece = Piece { sequence: *sequence, ids, wanted: ids.len() == rest.len() };
                Some(piece).filter(|piece| !piece.ids.is_empty()).into_iter().collect()
            }
            Stage::Sampling(speakers) => speakers
                .iter()
                .filter(|speaker| speaker.ended.is_none())
                .map(|speaker| {
                    let (sequence, from) = last(speaker.sequence, &speaker.ids);
                    Piece { sequence, ids: &speaker.ids[from..], wanted: true }
                })
                .collect(),
            Stage::Searching { search, sequences, .. } => search
                .running()
                .iter()
                .zip(sequences)
                .map(|(beam, sequence)| {
                    let (sequence, from) = last(*sequence, &beam.ids);
                    Piece { sequence, ids: &beam.ids[from..], wanted: true }
                })
                .collect(),
            Stage::Waiting | Stage::Begins { .. } | Stage::Over(_) => Vec::new(),
        }
    }

    /// Takes what the model says behind its pieces, of which `read` tokens were new to it.
    pub fn hear(&mut self, read: usize, mut logits: Vec<Option<Vec<f32>>>) {
        if logits.iter().flatten().any(|logits| !finite(logits)) {
            return self.fail(not_finite());
        }
        let shared = &self.shared;
        let found = match &mut self.stage {
            Stage::Reading { sequence, read: so_far } => {
                *so_far += read;
                if let Some(logits) = logits.pop().flatten() {
                    self.stage = Stage::Begins { sequence: *sequence, logits };
                }
                Ok(())
            }
            Stage::Sampling(speakers) => {
                let going = speakers.par_iter_mut().filter(|speaker| speaker.ended.is_none());
                let each: Vec<_> = going.collect();
                each.into_par_iter().zip(logits).try_for_each(|(speaker, logits)| match logits {
                    Some(logits) => speaker.speak(logits, shared),
                    None => Ok(()),
                })
            }
            Stage::Searching { search, over, .. } => {
                *over = !advance(search, logits.into_iter().flatten().collect(), shared);
                Ok(())
            }
            Stage::Waiting | Stage::Begins { .. } | Stage::Over(_) => Ok(()),
        };
        if let Err(error) = found {
            self.fail(error.into_problem());
        }
    }

    /// Gives sequences to answers that begin and takes them from those that ended.
    pub fn settle(&mut self, held: &mut Held) -> Result<()> {
        match std::mem::replace(&mut self.stage, Stage::Over(Vec::new())) {
            Stage::Begins { sequence, logits } => self.branch(sequence, logits, held)?,
            Stage::Sampling(speakers) => self.stage = Stage::Sampling(speakers),
            Stage::Searching { search, sequences, over } => {
                let sequences = if over { sequences } else { follow(search.running(), sequences, held)? };
                self.stage = Stage::Searching { search, sequences, over };
            }
            other => self.stage = other,
        }
        match &mut self.stage {
            Stage::Sampling(speakers) => {
                for speaker in speakers.iter_mut().filter(|speaker| speaker.ended.is_some()) {
                    if let Some(sequence) = speaker.let_go() {
                        held.release(sequence);
                    }
                }
                self.made = speakers.iter().map(|speaker| speaker.ids.len()).sum();
                self.told.extend(speakers.iter_mut().flat_map(Speaker::tell));
                if speakers.iter().all(|speaker| speaker.ended.is_some()) {
                    self.stage = Stage::Over(Vec::new());
                }
            }
            Stage::Searching { search, sequences, over: true } => {
                let (said, sequences) = (results(search, &self.shared)?, std::mem::take(sequences));
                self.made = said.iter().map(|answer| answer.ids.len()).sum();
                for answer in said {
                    let (index, text) = (answer.index, answer.text.clone());
                    self.told.push(Said::Text { index, text, logprobs: Vec::new() });
                    self.told.push(Said::Ended(Box::new(answer)));
                }
                self.stage = Stage::Over(sequences);
            }
            _ => {}
        }
        if self.first.is_none() && !self.is_reading() {
            self.first = Some(self.begun.elapsed().as_secs_f64());
        }
        Ok(())
    }

    /// What there is to tell since the last time.
    pub fn tell(&mut self) -> Vec<Said> {
        std::mem::take(&mut self.told)
    }

    /// Ends all answers that haven't ended.
    pub fn cancelled(&mut self) -> Vec<Said> {
        let mut said = self.tell();
        match &mut self.stage {
            Stage::Sampling(speakers) => {
                for speaker in speakers.iter_mut().filter(|speaker| speaker.ended.is_none()) {
                    speaker.cancel(&self.shared);
                    said.extend(speaker.tell());
                }
                self.made = speakers.iter().map(|speaker| speaker.ids.len()).sum();
            }
            _ => {
                let count = self.shared.request.params.num_return_sequences.max(1);
                said.extend((0..count).map(|index| Said::Ended(Box::new(Answer::nothing(index)))));
            }
        }
        said
    }

    pub fn usage(&self, cache: CacheUse) -> Usage {
        Usage {
            prompt_tokens: self.shared.request.prompt.len() as u64,
            cached_tokens: self.cached as u64,
            completion_tokens: self.made as u64,
            seconds: self.begun.elapsed().as_secs_f64(),
            first_token_seconds: self.first.unwrap_or_default(),
            cache,
        }
    }

    /// Gives all sequences back.
    pub fn release(self, held: &mut Held) {
        self.sequences().into_iter().for_each(|sequence| held.release(sequence));
    }

    fn sequences(&self) -> Vec<usize> {
        match &self.stage {
            Stage::Waiting => Vec::new(),
            Stage::Reading { sequence, .. } | Stage::Begins { sequence, .. } => vec![*sequence],
            Stage::Sampling(speakers) => speakers.iter().filter_map(Speaker::held).collect(),
            Stage::Searching { sequences, .. } | Stage::Over(sequences) => sequences.clone(),
        }
    }

    fn fail(&mut self, problem: Problem) {
        self.failed = true;
        self.told.push(Said::Failed(problem));
        self.stage = Stage::Over(self.sequences());
    }

    /// From the prompt's sequence to one for each answer, or to beams.
    fn branch(&mut self, sequence: usize, logits: Vec<f32>, held: &mut Held) -> Result<()> {
        let (shared, p) = (&self.shared, &self.shared.request.params);
        let random = |seed: u64| Random::new(seed, STREAM);
        if p.num_beams > 1 {
            let seed = shared.request.seeds.first().copied().unwrap_or_default();
            let draws = samples(p).then(|| random(seed));
            let mut search = Box::new(Search::new(p, shared.request.eos.len(), shared.most, draws));
            let over = !advance(&mut search, vec![logits], shared);
            let sequences = follow(search.running(), vec![sequence], held)?;
            self.stage = Stage::Searching { search, sequences, over };
            return Ok(());
        }
        let mut speakers = Vec::new();
        for (index, seed) in shared.request.seeds.iter().enumerate() {
            let own = if index == 0 { sequence } else { held.fork(sequence)? };
            speakers.push(Speaker::new(index, own, random(*seed), shared.format.clone()));
        }
        let first = speakers.par_iter_mut().try_for_each(|speaker| speaker.speak(logits.clone(), shared));
        self.stage = Stage::Sampling(speakers);
        if let Err(error) = first {
            self.fail(error.into_problem());
        }
        Ok(())
    }
}

/// One token of a search, given each beam's logits. False when it is over.
fn advance(search: &mut Search, mut logits: Vec<Vec<f32>>, shared: &Shared) -> bool {
    let (request, beams) = (&shared.request, search.running());
    logits.par_iter_mut().zip(beams).for_each(|(scores, beam)| {
        log_softmax(scores);
        shared.rules.apply(scores, &shared.before, &beam.ids);
        if samples(&request.params) {
            warp(scores, &request.params, request.eos.len() + 1);
        }
    });
    let stops = |ids: &[u32]| match &request.tokenizer {
        Some(tokenizer) if !request.params.stop.is_empty() => {
            let said = text::decode(tokenizer, ids).unwrap_or_default();
            request.params.stop.iter().any(|stop| said.contains(stop.as_str()))
        }
        _ => false,
    };
    search.advance(&logits, |ids| ids.last().is_some_and(|id| request.eos.contains(id)) || stops(ids))
}

/// Sequences for the beams that go on, from those of the beams before them.
fn follow(beams: &[Beam], before: Vec<usize>, held: &mut Held) -> Result<Vec<usize>> {
    let mut left: HashMap<usize, usize> = before.iter().copied().enumerate().collect();
    // The first child of a beam goes on in its sequence, once the others have theirs.
    let mut sequences = Vec::new();
    let mut firsts = HashMap::new();
    for (place, beam) in beams.iter().enumerate() {
        if left.contains_key(&beam.parent) && !firsts.contains_key(&beam.parent) {
            firsts.insert(beam.parent, place);
        }
    }
    for (place, beam) in beams.iter().enumerate() {
        let parent = before[beam.parent];
        sequences.push(if firsts.get(&beam.parent) == Some(&place) { parent } else { held.fork(parent)? });
    }
    left.retain(|beam, _| !firsts.contains_key(beam));
    left.into_values().for_each(|sequence| held.release(sequence));
    Ok(sequences)
}

/// The answers of a search, the best first.
fn results(search: &Search, shared: &Shared) -> Result<Vec<Answer>> {
    let request = &shared.request;
    let wanted = request.params.num_return_sequences.max(1);
    let answer = |(index, beam): (usize, &Beam)| {
        let mut ids = beam.ids.clone();
        let eos = ids.pop_if(|last| request.eos.contains(last));
        let mut said = match &request.tokenizer {
            Some(tokenizer) => text::decode(tokenizer, &ids)?,
            None => String::new(),
        };
        let stop = request.params.stop.iter().filter_map(|stop| said.find(stop.as_str())).min();
        if let Some(stop) = stop {
            said.truncate(stop);
        }
        let reason = if eos.is_some() || stop.is_some() { FinishReason::Stop } else { FinishReason::Length };
        Ok(Answer { index, ids, eos, text: said, reason, confidence: None })
    };
    search.answers().take(wanted).enumerate().map(answer).collect()
}

fn log_softmax(scores: &mut [f32]) {
    let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f32 = scores.iter().map(|score| (score - max).exp()).sum();
    let all = max + sum.ln();
    scores.iter_mut().for_each(|score| *score -= all);
}

fn too_long(tokens: usize, context: usize) -> Problem {
    Problem::new(
        "prompt_length",
        format!("The conversation has {tokens} tokens, the model takes 1 to {}.", context - 1),
        format!("对话有 {tokens} 个词元，此模型可接受 1 到 {} 个。", context - 1),
    )
    .hint("Shorten it or begin a new one.", "请缩短内容或开始新的对话。")
}

fn no_room(longest: usize, tokens: usize) -> Problem {
    Problem::new(
        "no_room",
        format!("max_length is {longest}, but the question alone has {tokens} tokens."),
        format!("max_length 为 {longest}，但仅问题就有 {tokens} 个词元。"),
    )
    .hint("Raise max_length, or set max_new_tokens instead.", "请调高 max_length，或改用 max_new_tokens。")
    .field("max_length")
}

fn too_many(answers: usize, beams: usize) -> Problem {
    Problem::new(
        "too_many_answers",
        format!("num_return_sequences is {answers}, but {beams} beams give at most {beams} answers."),
        format!("num_return_sequences 为 {answers}，但 {beams} 个束最多给出 {beams} 个回答。"),
    )
    .hint("Raise num_beams, or ask for fewer answers.", "请调高 num_beams，或减少回答数。")
    .field("num_return_sequences")
}

fn no_format_of_beams() -> Problem {
    Problem::new(
        "no_format_of_beams",
        "response_format is not kept in a search of beams.",
        "束搜索不支持 response_format。",
    )
    .hint("Set num_beams to 1.", "请将 num_beams 设为 1。")
    .field("response_format")
}

fn not_finite() -> Problem {
    Problem::new(
        "diverged",
        "The model gives no numbers any more while it generates: its weights have diverged.",
        "模型生成时已不再给出有效数值：其权重已发散。",
    )
    .hint("Resume from the last checkpoint with a lower learning_rate.", "请调低 learning_rate，从最近的检查点继续。")
    .field("learning_rate")
}
