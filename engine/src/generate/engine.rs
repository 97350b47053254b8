//! The one engine of inference: requests join and leave at any step, all that run advance together, a token each, and
//! prompts are read in pieces so that answers don't wait for them. Models that differ only in what is attached to them
//! share the cache and take turns within a step.

use super::{held::Held, task::Task};
use crate::{
    Error, Result,
    model::{Network, Piece},
};
use api::{
    Problem,
    chat::{CacheUse, FinishReason, TokenLogprob, Usage},
    params::GenerateParams,
};
use rayon::prelude::*;
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
use tokenizers::Tokenizer;

/// Sequences that advance together at most; more wait.
pub const TOGETHER: usize = 64;
/// Tokens of prompts that are read in one step while answers run, and while none does.
const PIECE: usize = 128;
const ALONE: usize = 512;

/// What is to be answered.
#[derive(Clone)]
pub struct Request {
    /// Of an encoder-decoder: the source.
    pub prompt: Vec<u32>,
    /// Which of the engine's models answers.
    pub model: usize,
    pub params: Arc<GenerateParams>,
    /// One for each answer; each is a function of its seed, its request and the model, whatever else runs.
    pub seeds: Vec<u64>,
    /// Tokens that end an answer.
    pub eos: Arc<[u32]>,
    /// Makes text of the tokens; without it, only tokens are told.
    pub tokenizer: Option<Arc<Tokenizer>>,
    /// Whether [`Answer::confidence`] is wanted.
    pub surely: bool,
}

/// What becomes of a request.
#[derive(Clone, Debug)]
pub enum Said {
    /// New text of answer `index`, and how likely its tokens were if that was asked for.
    Text {
        index: usize,
        text: String,
        logprobs: Vec<TokenLogprob>,
    },
    Ended(Box<Answer>),
    /// All answers have ended.
    Done(Usage),
    Failed(Problem),
}

/// One answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub index: usize,
    pub ids: Vec<u32>,
    /// The token that ended it, if one did.
    pub eos: Option<u32>,
    pub text: String,
    pub reason: FinishReason,
    /// exp of the mean log probability that the model gave the tokens, 0 to 1; None if not asked for, and for an answer of a search.
    pub confidence: Option<f64>,
}

impl Answer {
    /// One that was cancelled before it began.
    pub fn nothing(index: usize) -> Self {
        let reason = FinishReason::Cancelled;
        Self { index, ids: Vec::new(), eos: None, text: String::new(), reason, confidence: None }
    }
}

/// A number that tells requests apart.
pub type Ticket = u64;

pub struct Engine<'a> {
    models: Vec<&'a dyn Network>,
    held: Held,
    /// In the order of their turn: priority, then arrival.
    waiting: Vec<(Ticket, Task)>,
    running: Vec<(Ticket, Task)>,
    next: Ticket,
}

impl<'a> Engine<'a> {
    /// For models that differ only in what is attached to them; at least one.
    pub fn new(models: Vec<&'a dyn Network>) -> Result<Self> {
        let first = *models.first().ok_or_else(|| Error::Internal("an engine without a model".into()))?;
        Ok(Self { held: Held::new(first)?, models, waiting: Vec::new(), running: Vec::new(), next: 0 })
    }

    /// Takes a request in; what becomes of it is told by [`step`](Self::step).
    pub fn add(&mut self, request: Request) -> Result<Ticket> {
        let model = *self.models.get(request.model).ok_or_else(|| Error::Internal("no such model".into()))?;
        let task = Task::new(request, model)?;
        self.next += 1;
        let behind = |(_, other): &(Ticket, Task)| other.priority() >= task.priority();
        let place = self.waiting.partition_point(behind);
        self.waiting.insert(place, (self.next, task));
        Ok(self.next)
    }

    /// Nothing waits or runs.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    pub fn usage(&self) -> CacheUse {
        self.held.usage()
    }

    /// Takes a request back: what it has said so far ends as cancelled.
    pub fn cancel(&mut self, ticket: Ticket) -> Vec<Said> {
        for all in [&mut self.waiting, &mut self.running] {
            if let Some(place) = all.iter().position(|(other, _)| *other == ticket) {
                let (_, mut task) = all.remove(place);
                let mut said = task.cancelled();
                said.push(Said::Done(task.usage(self.held.usage())));
                task.release(&mut self.held);
                return said;
            }
        }
        Vec::new()
    }

    /// A token for every answer that runs, a piece of prompts that are read. Each thing that is told belongs to a request.
    pub fn step(&mut self) -> Vec<(Ticket, Said)> {
        let mut told = self.admit();
        match self.advance() {
            Ok(said) => told.extend(said),
            Err(error) => {
                // A model that can't go on fails all that run: what the cache holds is in doubt.
                let problem = error.into_problem();
                told.extend(self.running.drain(..).map(|(ticket, _)| (ticket, Said::Failed(problem.clone()))));
                self.held.clear();
            }
        }
        told
    }

    /// Answers one request to its end, with text going to `tell` as it comes; answers that `stop` cut short are cancelled.
    pub fn answer(
        &mut self,
        request: Request,
        stop: &AtomicBool,
        tell: &mut dyn FnMut(usize, &str),
    ) -> Result<(Vec<Answer>, Usage)> {
        let ticket = self.add(request)?;
        let mut answers = Vec::new();
        loop {
            let said: Vec<Said> = match stop.load(Ordering::Relaxed) {
                true => self.cancel(ticket),
                false => self.step().into_iter().filter(|(of, _)| *of == ticket).map(|(_, said)| said).collect(),
            };
            for said in said {
                match said {
                    Said::Text { index, text, .. } => tell(index, &text),
                    Said::Ended(answer) => answers.push(*answer),
                    Said::Done(usage) => {
                        answers.sort_by_key(|answer: &Answer| answer.index);
                        return Ok((answers, usage));
                    }
                    Said::Failed(problem) => return Err(problem.into()),
                }
            }
        }
    }

    /// Lets waiting requests begin as far as there is room.
    fn admit(&mut self) -> Vec<(Ticket, Said)> {
        let mut told = Vec::new();
        while let Some((_, task)) = self.waiting.first() {
            let taken: usize = self.running.iter().map(|(_, task)| task.width()).sum();
            if taken > 0 && taken + task.width() > TOGETHER {
                break;
            }
            let (ticket, mut task) = self.waiting.remove(0);
            match task.begin(self.models[task.model()], &mut self.held) {
                Ok(()) => self.running.push((ticket, task)),
                Err(error) => told.push((ticket, Said::Failed(error.into_problem()))),
            }
        }
        told
    }

    fn advance(&mut self) -> Result<Vec<(Ticket, Said)>> {
        let answering = self.running.iter().any(|(_, task)| !task.is_reading());
        let mut room = if answering { PIECE } else { ALONE };
        // What each model is given: the task's number with its pieces.
        let mut by_model: BTreeMap<usize, Vec<(usize, Piece)>> = BTreeMap::new();
        for (number, (_, task)) in self.running.iter().enumerate() {
            let pieces = task.pieces(&mut room).into_iter().map(|piece| (number, piece));
            by_model.entry(task.model()).or_default().extend(pieces);
        }
        let mut heard: Vec<(usize, Vec<Option<Vec<f32>>>)> = self.running.iter().map(|_| (0, Vec::new())).collect();
        for (model, pieces) in by_model.into_iter().filter(|(_, pieces)| !pieces.is_empty()) {
            let (numbers, pieces): (Vec<usize>, Vec<Piece>) = pieces.into_iter().unzip();
            let logits = self.held.step(self.models[model], &pieces)?;
            for ((number, piece), logits) in numbers.into_iter().zip(pieces).zip(logits) {
                heard[number].0 += piece.ids.len();
                heard[number].1.push(logits);
            }
        }
        let tasks = self.running.par_iter_mut().zip(heard).filter(|(_, (read, _))| *read > 0);
        tasks.for_each(|((_, task), (read, logits))| task.hear(read, logits));
        let mut told = Vec::new();
        for (ticket, task) in &mut self.running {
            task.settle(&mut self.held)?;
            told.extend(task.tell().into_iter().map(|said| (*ticket, said)));
        }
        let (ended, going): (Vec<_>, Vec<_>) = self.running.drain(..).partition(|(_, task)| task.is_over());
        self.running = going;
        for (ticket, task) in ended {
            if !task.has_failed() {
                told.push((ticket, Said::Done(task.usage(self.held.usage()))));
            }
            task.release(&mut self.held);
        }
        Ok(told)
    }
}
