//! What the decoder says of a source: the likeliest token each time, or beams, by the rules of transformers 5.

use super::{EncoderDecoder, Layer};
use crate::{
    Result, kernels,
    kernels::{attention::Span, on_worker},
    model::{
        Keep, Pass, Weights,
        blocks::{Block, forward_all},
    },
};
use candle_core::{D, Tensor};
use candle_nn::ops::log_softmax;

/// A search for the likeliest answer. With one beam: the likeliest token each time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Beams {
    pub num_beams: usize,
    /// Sums of log probabilities are divided by the length to this power: above 0, long answers gain.
    pub length_penalty: f64,
    pub early_stopping: EarlyStopping,
    pub max_new_tokens: usize,
}

/// When a search of beams ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EarlyStopping {
    /// As soon as there are as many answers as beams (`true`).
    Full,
    /// When the best beam, as long as it is now, couldn't beat the worst answer (`false`).
    #[default]
    Hopeless,
    /// As before, but were it as long as it may become (`"never"`).
    Never,
}

/// Keys and values of a beam's tokens, by layer.
type Held = Vec<Option<(Tensor, Tensor)>>;

/// One beam, running or finished.
#[derive(Clone, Default)]
struct Beam {
    ids: Vec<u32>,
    score: f32,
    held: Held,
    finished: bool,
}

/// What takes a candidate out of a choice.
const OUT: f32 = -1e9;

/// An answer in the making, a token at a time: what is held of the source and of the tokens so far.
pub struct Answering {
    across: Vec<(Tensor, Tensor)>,
    beam: Beam,
}

impl EncoderDecoder {
    /// Begins an answer to a source.
    pub fn answering(&self, source: &[u32]) -> Result<Answering> {
        on_worker(|| {
            let held = vec![None; self.decoder.len()];
            Ok(Answering {
                across: self.read(source, &self.pass(Weights::Tuned, None))?,
                beam: Beam { held, ..Beam::default() },
            })
        })
    }

    /// Logits (vocab) of the next token, behind `last` where there is one already.
    pub fn step(&self, last: Option<u32>, answering: &mut Answering) -> Result<Vec<f32>> {
        on_worker(|| {
            answering.beam.ids.extend(last);
            let (beams, pass) = (std::slice::from_mut(&mut answering.beam), self.pass(Weights::Tuned, None));
            Ok(self.next(beams, &answering.across, &pass)?.flatten_all()?.to_vec1()?)
        })
    }

    /// Keys and values of a source for each layer of the decoder.
    fn read(&self, source: &[u32], pass: &Pass) -> Result<Vec<(Tensor, Tensor)>> {
        let whole = [Span { queries: 0..source.len(), keys: 0..source.len() }];
        let memory = self.encode(source, &whole, pass, &mut Keep::nothing())?;
        self.decoder.iter().map(|layer| across(layer, &memory, pass)).collect()
    }

    /// The answer to a source, with the token that ends it if it came to that.
    pub fn generate(&self, source: &[u32], beams: &Beams) -> Result<Vec<u32>> {
        on_worker(|| {
            let pass = self.pass(Weights::Tuned, None);
            let across = self.read(source, &pass)?;
            match beams.num_beams {
                0 | 1 => self.greedy(beams.max_new_tokens, &across, &pass),
                _ => self.search(beams, &across, &pass),
            }
        })
    }

    fn greedy(&self, most: usize, across: &[(Tensor, Tensor)], pass: &Pass) -> Result<Vec<u32>> {
        let mut one = [Beam { held: vec![None; self.decoder.len()], ..Beam::default() }];
        while one[0].ids.len() < most {
            let next = self.next(&mut one, across, pass)?.argmax(D::Minus1)?.to_vec1::<u32>()?;
            one[0].ids.extend(&next);
            if next.iter().any(|id| self.config.eos.contains(id)) {
                break;
            }
        }
        let [one] = one;
        Ok(one.ids)
    }

    fn search(&self, beams: &Beams, across: &[(Tensor, Tensor)], pass: &Pass) -> Result<Vec<u32>> {
        let (count, power) = (beams.num_beams, beams.length_penalty as f32);
        let begin = Beam { held: vec![None; self.decoder.len()], ..Beam::default() };
        // All beams begin alike: only the first may go on.
        let mut running: Vec<Beam> =
            (0..count).map(|i| Beam { score: if i == 0 { 0.0 } else { OUT }, ..begin.clone() }).collect();
        let mut answers = vec![Beam { score: OUT, ..Beam::default() }; count];
        let keep = count * (1 + self.config.eos.len()).max(2);
        let mut hopeful = true;
        for made in 1..=beams.max_new_tokens {
            let rows = log_softmax(&self.next(&mut running, across, pass)?, D::Minus1)?.to_vec2::<f32>()?;
            let scores = rows.iter().zip(&running).flat_map(|(row, beam)| row.iter().map(|p| p + beam.score));
            let scores: Vec<f32> = scores.collect();
            let candidates: Vec<Beam> = best(&scores, keep)
                .into_iter()
                .map(|place| {
                    let (beam, token) = (&running[place / self.config.vocab_size], place % self.config.vocab_size);
                    let ids = beam.ids.iter().copied().chain([token as u32]).collect();
                    let finished = self.config.eos.contains(&(token as u32)) || made == beams.max_new_tokens;
                    Beam { ids, score: scores[place], held: beam.held.clone(), finished }
                })
                .collect();
            let full = beams.early_stopping == EarlyStopping::Full && answers.iter().all(|answer| answer.finished);
            let ended = candidates.iter().take(count).map(|beam| {
                let out = !beam.finished || full || !hopeful;
                let score = beam.score / (made as f32).powf(power) + if out { OUT } else { 0.0 };
                Beam { ids: beam.ids.clone(), score, held: Held::new(), finished: beam.finished }
            });
            answers.extend(ended);
            answers = choose(answers, count, |beam| beam.score);
            let all_ended = candidates.iter().all(|beam| beam.finished);
            running = choose(candidates, count, |beam| beam.score + if beam.finished { OUT } else { 0.0 });

            let length =
                if beams.early_stopping == EarlyStopping::Never && power > 0.0 { beams.max_new_tokens } else { made };
            let possible = running[0].score / (length as f32).powf(power);
            let worst = answers.iter().map(|answer| answer.score).fold(f32::INFINITY, f32::min);
            hopeful &= answers.iter().any(|answer| possible > if answer.finished { worst } else { OUT });
            let full = beams.early_stopping == EarlyStopping::Full && answers.iter().all(|answer| answer.finished);
            if !hopeful || full || all_ended {
                break;
            }
        }
        Ok(answers.into_iter().next().unwrap_or_default().ids)
    }

    /// Logits (beams, vocab) of each beam's next token; its last joins what is held.
    fn next(&self, beams: &mut [Beam], across: &[(Tensor, Tensor)], pass: &Pass) -> Result<Tensor> {
        let keep = &mut Keep::nothing();
        let last: Vec<u32> = beams.iter().map(|beam| beam.ids.last().copied().unwrap_or(self.config.start)).collect();
        let mut x = self.embed(&last)?;
        for (i, layer) in self.decoder.iter().enumerate() {
            let own = &layer.attention;
            let qkv =
                forward_all(&[&own.q, &own.k, &own.v], &layer.attention_norm.forward(&x, pass, keep)?, pass, keep)?;
            let seen = beams.iter_mut().enumerate().map(|(row, beam)| {
                let part = |n: usize| qkv[n].narrow(0, row, 1);
                let (k, v) = match beam.held[i].take() {
                    Some((k, v)) => (Tensor::cat(&[k, part(1)?], 0)?, Tensor::cat(&[v, part(2)?], 0)?),
                    None => (part(1)?, part(2)?),
                };
                let y = own.attend(&part(0)?, &k, &v)?;
                beam.held[i] = Some((k, v));
                Ok(y)
            });
            let seen = Tensor::cat(&seen.collect::<Result<Vec<_>>>()?, 0)?;
            x = kernels::add(own.out.forward(&seen, pass, keep)?, &x)?;
            if let (Some((norm, cross)), Some((k, v))) = (&layer.cross, across.get(i)) {
                let q = cross.q.forward(&norm.forward(&x, pass, keep)?, pass, keep)?;
                x = kernels::add(cross.out.forward(&cross.attend(&q, k, v)?, pass, keep)?, &x)?;
            }
            let y = layer.mlp_norm.forward(&x, pass, keep)?;
            x = kernels::add(layer.mlp.forward(&y, pass, keep)?, &x)?;
        }
        self.head_logits(&self.decoder_norm.forward(&x, pass, keep)?)
    }
}

/// Keys and values of the source for a layer of the decoder.
fn across(layer: &Layer, memory: &Tensor, pass: &Pass) -> Result<(Tensor, Tensor)> {
    let missing = || crate::Error::Internal("a decoder without cross attention".into());
    let (_, cross) = layer.cross.as_ref().ok_or_else(missing)?;
    let mut both = forward_all(&[&cross.k, &cross.v], memory, pass, &mut Keep::nothing())?;
    both.pop().zip(both.pop()).map(|(v, k)| (k, v)).ok_or_else(missing)
}

/// Places of the `count` largest scores, the best first.
fn best(scores: &[f32], count: usize) -> Vec<usize> {
    let mut places: Vec<usize> = (0..scores.len()).collect();
    places.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    places.truncate(count);
    places
}

/// The `count` best, each with its score by `score`.
fn choose(beams: Vec<Beam>, count: usize, score: impl Fn(&Beam) -> f32) -> Vec<Beam> {
    let scores: Vec<f32> = beams.iter().map(score).collect();
    best(&scores, count).into_iter().map(|i| Beam { score: scores[i], ..beams[i].clone() }).collect()
}
