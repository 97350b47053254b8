//! Text out: one token after another, with a key/value cache.

pub mod batch;
mod sample;

use crate::{
    Error, Result,
    model::{
        Cache, Network,
        encoder_decoder::{Answering, Beams, EarlyStopping},
    },
    random::Random,
};
use api::{Problem, chat::FinishReason, params::GenerateParams};
use sample::choose;
use std::sync::Arc;
use tokenizers::Tokenizer;

/// Stream of the random numbers that choose tokens.
const STREAM: u64 = 0x6E0;

/// What a model keeps between two tokens.
enum Held {
    Decoder(Cache),
    EncoderDecoder(Answering),
}

/// One answer in the making.
pub struct Generation {
    tokenizer: Arc<Tokenizer>,
    params: GenerateParams,
    /// Tokens that end the answer.
    eos: Vec<u32>,
    context: usize,
    held: Held,
    random: Random,
    /// Not yet given to the model.
    pending: Vec<u32>,
    prompt: Vec<u32>,
    /// Generated so far, without the token that ended it.
    pub ids: Vec<u32>,
    /// Where the text that was last decoded begins, and up to where it was handed out.
    window: (usize, usize),
    pub finished: Option<FinishReason>,
    /// Sum of the log probabilities of the tokens and their number, the one that ended the answer included; kept only
    /// if asked for.
    certainty: Option<(f64, usize)>,
}

impl Generation {
    /// `prompt` must not be empty and must leave room in the model's context.
    pub fn new(
        model: &dyn Network,
        tokenizer: Arc<Tokenizer>,
        eos: &[u32],
        prompt: Vec<u32>,
        params: GenerateParams,
    ) -> Result<Self> {
        // Relative positions, which encoder-decoders have, know no end.
        let context = if model.encoder_decoder().is_some() { usize::MAX } else { model.decoder()?.context() };
        if prompt.is_empty() || prompt.len() >= context {
            return Err(too_long(prompt.len(), context).into());
        }
        let held = match model.encoder_decoder() {
            Some(model) => Held::EncoderDecoder(model.answering(&prompt)?),
            None if params.num_beams > 1 => return Err(no_beams(params.num_beams).into()),
            None => Held::Decoder(Cache::new(model.decoder()?.config.layers)),
        };
        let seed = params.seed.unwrap_or_else(clock);
        Ok(Self {
            tokenizer,
            eos: eos.to_vec(),
            context,
            held,
            random: Random::new(seed, STREAM),
            pending: prompt.clone(),
            prompt,
            ids: Vec::new(),
            window: (0, 0),
            finished: None,
            certainty: None,
            params,
        })
    }

    /// Makes one token; the text that became certain by it, which may be empty in the middle of a character.
    pub fn advance(&mut self, model: &dyn Network) -> Result<String> {
        if self.finished.is_some() {
            return Ok(String::new());
        }
        if self.params.num_beams > 1 {
            return self.search(model);
        }
        let mut logits = self.logits(model)?;
        // What the model itself says, before a penalty changes it.
        let said = self.certainty.map(|_| logits.clone());
        // The source is no part of what an encoder-decoder has said.
        let prompt = if matches!(self.held, Held::Decoder(_)) { self.prompt.as_slice() } else { &[] };
        let seen = prompt.iter().chain(&self.ids).copied();
        let next = choose(&mut logits, &self.params, seen, &mut self.random);
        if let (Some((sum, count)), Some(logits)) = (&mut self.certainty, said) {
            *sum += log_probability(&logits, next);
            *count += 1;
        }
        if self.eos.contains(&next) {
            self.finished = Some(FinishReason::Stop);
            return self.rest();
        }
        self.ids.push(next);
        self.pending = vec![next];
        if self.ids.len() >= self.params.max_new_tokens
            || self.prompt.len().saturating_add(self.ids.len()) >= self.context
        {
            self.finished = Some(FinishReason::Length);
            return self.rest();
        }
        self.text()
    }

    /// Logits (vocab) of the next token.
    fn logits(&mut self, model: &dyn Network) -> Result<Vec<f32>> {
        match (&mut self.held, model.encoder_decoder()) {
            (Held::Decoder(cache), None) => model.decoder()?.step(&self.pending, cache),
            (Held::EncoderDecoder(answering), Some(model)) => model.step(self.ids.last().copied(), answering),
            _ => Err(Error::Internal("an answer of another model".into())),
        }
    }

    /// The whole answer at once, by beams.
    fn search(&mut self, model: &dyn Network) -> Result<String> {
        let model = model.encoder_decoder().ok_or_else(|| no_beams(self.params.num_beams))?;
        let beams = Beams {
            num_beams: self.params.num_beams,
            length_penalty: 1.0,
            early_stopping: EarlyStopping::default(),
            max_new_tokens: self.params.max_new_tokens,
        };
        self.ids = model.generate(&self.prompt, &beams)?;
        let ended = self.ids.pop_if(|last| self.eos.contains(last)).is_some();
        self.finished = Some(if ended { FinishReason::Stop } else { FinishReason::Length });
        self.rest()
    }

    /// From the first token on, keeps what [`confidence`](Self::confidence) needs.
    pub fn keep_confidence(&mut self) {
        self.certainty = Some((0.0, 0));
    }

    /// exp of the mean log probability that the model gave the tokens of the answer and its end, 0 to 1.
    pub fn confidence(&self) -> Option<f64> {
        self.certainty.filter(|(_, count)| *count > 0).map(|(sum, count)| (sum / count as f64).exp())
    }

    pub fn prompt_tokens(&self) -> usize {
        self.prompt.len()
    }

    /// All of the answer.
    pub fn answer(&self) -> Result<String> {
        self.decode(&self.ids)
    }

    /// New text since the last call, if the last token doesn't end in the middle of a character. Decodes a short
    /// window, since how a token reads can depend on the one before it.
    fn text(&mut self) -> Result<String> {
        let (start, read) = self.window;
        let before = self.decode(&self.ids[start..read])?;
        let now = self.decode(&self.ids[start..])?;
        match now.strip_prefix(&before) {
            Some(new) if !new.is_empty() && !new.ends_with('\u{FFFD}') => {
                self.window = (read, self.ids.len());
                Ok(new.to_string())
            }
            _ => Ok(String::new()),
        }
    }

    /// What is left at the end, even if a character stayed incomplete.
    fn rest(&mut self) -> Result<String> {
        let (start, read) = self.window;
        let before = self.decode(&self.ids[start..read])?;
        let now = self.decode(&self.ids[start..])?;
        self.window = (self.ids.len(), self.ids.len());
        Ok(now.strip_prefix(&before).unwrap_or_default().to_string())
    }

    fn decode(&self, ids: &[u32]) -> Result<String> {
        self.tokenizer
            .decode(ids, true)
            .map_err(|e| crate::Error::Internal(format!("tokens could not be decoded: {e}")))
    }
}

/// ln softmax(logits) at `token`.
fn log_probability(logits: &[f32], token: u32) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|l| f64::from(l - max).exp()).sum();
    let own = logits.get(token as usize).map_or(f64::NEG_INFINITY, |l| f64::from(l - max));
    own - sum.ln()
}

fn too_long(tokens: usize, context: usize) -> Problem {
    Problem::new(
        "prompt_length",
        format!("The conversation has {tokens} tokens, the model takes 1 to {}.", context - 1),
        format!("对话有 {tokens} 个词元，此模型可接受 1 到 {} 个。", context - 1),
    )
    .hint("Shorten it or begin a new one.", "请缩短内容或开始新的对话。")
}

fn no_beams(beams: usize) -> Problem {
    Problem::new(
        "no_beams",
        format!("num_beams is {beams}, but only encoder-decoders (T5, mT5) search with beams."),
        format!("num_beams 为 {beams}，但只有编码器-解码器（T5、mT5）支持束搜索。"),
    )
    .hint("Set num_beams to 1.", "请将 num_beams 设为 1。")
    .field("num_beams")
}

fn clock() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |d| d.as_nanos() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_probabilities_are_those_of_softmax() {
        let logits = [0.5f32.ln() + 7.0, 0.3f32.ln() + 7.0, 0.2f32.ln() + 7.0];
        for (token, share) in [0.5, 0.3, 0.2f64].into_iter().enumerate() {
            assert!((log_probability(&logits, token as u32).exp() - share).abs() < 1e-6);
        }
    }
}
