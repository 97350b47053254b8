//! A sampled answer in the making: a token at a time, with its text and how likely its tokens were.

use super::{
    engine::{Answer, Said},
    format::Format,
    sample::choose,
    task::Shared,
    text::{self, Text},
};
use crate::{Result, random::Random};
use api::chat::{FinishReason, TokenChance, TokenLogprob};
use tokenizers::Tokenizer;

pub struct Speaker {
    index: usize,
    pub sequence: usize,
    holds: bool,
    /// Generated so far, without the token that ended it.
    pub ids: Vec<u32>,
    eos: Option<u32>,
    random: Random,
    format: Option<Format>,
    text: Text,
    said: String,
    /// Of tokens whose text was not handed out yet.
    logprobs: Vec<TokenLogprob>,
    /// Sum of the log probabilities, where that is wanted.
    certainty: Option<f64>,
    pub ended: Option<FinishReason>,
    told: Vec<Said>,
}

impl Speaker {
    pub fn new(index: usize, sequence: usize, random: Random, format: Option<Format>) -> Self {
        Self {
            index,
            sequence,
            holds: true,
            ids: Vec::new(),
            eos: None,
            random,
            format,
            text: Text::default(),
            said: String::new(),
            logprobs: Vec::new(),
            certainty: None,
            ended: None,
            told: Vec::new(),
        }
    }

    /// Chooses the next token by the model's logits (vocab).
    pub fn speak(&mut self, logits: Vec<f32>, shared: &Shared) -> Result<()> {
        let (params, request) = (&shared.request.params, &shared.request);
        let mut scores = logits;
        // What the model itself says, before a rule changes it.
        let own = (request.surely || params.logprobs.is_some()).then(|| scores.clone());
        if !shared.rules.is_empty() {
            shared.rules.apply(&mut scores, &shared.before, &self.ids);
        }
        if let Some(format) = &mut self.format {
            format.mask(&mut scores, &self.ids)?;
        }
        let next = choose(&scores, params, &mut self.random);
        if let Some(own) = own {
            self.weigh(&own, next, shared);
        }
        match request.eos.contains(&next) {
            true => {
                self.eos = Some(next);
                self.ended = Some(FinishReason::Stop);
            }
            false => self.ids.push(next),
        }
        let length = (self.ended.is_none() && self.ids.len() >= shared.most).then_some(FinishReason::Length);
        self.ended = self.ended.or(length);
        if let Some(tokenizer) = &request.tokenizer {
            let mut new = String::new();
            if self.eos.is_none() {
                new = self.text.push(tokenizer, &self.ids, &params.stop)?;
            }
            if self.ended.is_some() {
                new += &self.text.rest(tokenizer, &self.ids, &params.stop)?;
            }
            if self.text.stopped {
                self.ended = Some(FinishReason::Stop);
            }
            self.hand_out(new);
        }
        if self.ended.is_some() {
            self.end();
        }
        Ok(())
    }

    /// Ends it where it is.
    pub fn cancel(&mut self, shared: &Shared) {
        if let Some(tokenizer) = &shared.request.tokenizer {
            let rest = self.text.rest(tokenizer, &self.ids, &shared.request.params.stop).unwrap_or_default();
            self.hand_out(rest);
        }
        self.ended = Some(FinishReason::Cancelled);
        self.end();
    }

    /// What there is to tell since the last time.
    pub fn tell(&mut self) -> Vec<Said> {
        std::mem::take(&mut self.told)
    }

    /// The sequence, to be given back once.
    pub fn let_go(&mut self) -> Option<usize> {
        std::mem::take(&mut self.holds).then_some(self.sequence)
    }

    /// The sequence that it holds.
    pub fn held(&self) -> Option<usize> {
        self.holds.then_some(self.sequence)
    }

    fn hand_out(&mut self, text: String) {
        let over = self.ended.is_some() && !self.logprobs.is_empty();
        if !text.is_empty() || over {
            self.said.push_str(&text);
            let logprobs = std::mem::take(&mut self.logprobs);
            self.told.push(Said::Text { index: self.index, text, logprobs });
        }
    }

    fn end(&mut self) {
        let count = self.ids.len() + usize::from(self.eos.is_some());
        let answer = Answer {
            index: self.index,
            ids: self.ids.clone(),
            eos: self.eos,
            text: std::mem::take(&mut self.said),
            reason: self.ended.unwrap_or(FinishReason::Cancelled),
            confidence: self.certainty.map(|sum| (sum / count.max(1) as f64).exp()),
        };
        self.told.push(Said::Ended(Box::new(answer)));
    }

    /// Remembers how likely a token was.
    fn weigh(&mut self, logits: &[f32], token: u32, shared: &Shared) {
        let all = log_sum(logits);
        let of = |id: u32| logits.get(id as usize).map_or(f64::NEG_INFINITY, |logit| f64::from(*logit) - all);
        *self.certainty.get_or_insert(0.0) += of(token);
        // The token that ends an answer is none of its text.
        let told = !shared.request.eos.contains(&token);
        if let (Some(count), Some(tokenizer), true) = (shared.request.params.logprobs, &shared.request.tokenizer, told)
        {
            let mut order: Vec<u32> = (0..logits.len() as u32).collect();
            let by = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
            let count = count.min(order.len());
            if count > 0 && count < order.len() {
                order.select_nth_unstable_by(count - 1, by);
            }
            order.truncate(count);
            order.sort_unstable_by(by);
            let chance = |id: u32| chance(tokenizer, id, of(id) as f32);
            self.logprobs.push(TokenLogprob { token: chance(token), top: order.into_iter().map(chance).collect() });
        }
    }
}

fn chance(tokenizer: &Tokenizer, id: u32, logprob: f32) -> TokenChance {
    let bytes = text::bytes(tokenizer, id);
    TokenChance { token: String::from_utf8_lossy(&bytes).into_owned(), bytes, logprob }
}

/// ln of the sum of all exponentials.
fn log_sum(logits: &[f32]) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|l| f64::from(l - max).exp()).sum();
    f64::from(max) + sum.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_probabilities_are_those_of_softmax() {
        let logits = [0.5f32.ln() + 7.0, 0.3f32.ln() + 7.0, 0.2f32.ln() + 7.0];
        for (logit, share) in logits.iter().zip([0.5, 0.3, 0.2f64]) {
            assert!(((f64::from(*logit) - log_sum(&logits)).exp() - share).abs() < 1e-6);
        }
    }
}
