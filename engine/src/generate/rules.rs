//! What changes the scores of the next token before one is chosen, in transformers' order: repetition penalty, n-grams
//! that may not come again, forbidden words, shortest lengths; then OpenAI's penalties.

use crate::Result;
use api::params::GenerateParams;
use std::{collections::HashMap, sync::Arc};
use tokenizers::Tokenizer;

/// The rules of one request.
#[derive(Clone)]
pub struct Rules {
    params: Arc<GenerateParams>,
    eos: Arc<[u32]>,
    /// Tokens of each text that must not be said.
    bad_words: Vec<Vec<u32>>,
}

/// What is no longer possible.
const OUT: f32 = f32::NEG_INFINITY;

impl Rules {
    pub fn new(params: Arc<GenerateParams>, eos: Arc<[u32]>, tokenizer: Option<&Arc<Tokenizer>>) -> Result<Self> {
        let bad_words = bad_words(&params.bad_words, tokenizer, &eos)?;
        Ok(Self { params, eos, bad_words })
    }

    /// Whether they change nothing at all.
    pub fn is_empty(&self) -> bool {
        let p = &self.params;
        let penalties = p.repetition_penalty != 1.0 || p.presence_penalty != 0.0 || p.frequency_penalty != 0.0;
        let lengths = p.min_length > 0 || p.min_new_tokens > 0;
        !penalties && !lengths && p.no_repeat_ngram_size == 0 && self.bad_words.is_empty()
    }

    /// Changes scores (vocab) of the token behind `before` (what the model was given before it began to answer) and `said`.
    pub fn apply(&self, scores: &mut [f32], before: &[u32], said: &[u32]) {
        let p = &self.params;
        let all = || before.iter().chain(said).copied();
        if p.repetition_penalty != 1.0 {
            penalise(scores, p.repetition_penalty as f32, all());
        }
        if p.no_repeat_ngram_size > 0 {
            for token in repeating(&all().collect::<Vec<_>>(), p.no_repeat_ngram_size) {
                forbid(scores, token);
            }
        }
        for word in &self.bad_words {
            let Some((last, first)) = word.split_last() else { continue };
            let so_far = all().skip((before.len() + said.len()).saturating_sub(first.len()));
            if first.len() < before.len() + said.len() && so_far.eq(first.iter().copied()) || first.is_empty() {
                forbid(scores, *last);
            }
        }
        if before.len() + said.len() < p.min_length || said.len() < p.min_new_tokens {
            self.eos.iter().for_each(|token| forbid(scores, *token));
        }
        if p.presence_penalty != 0.0 || p.frequency_penalty != 0.0 {
            let mut counts: HashMap<u32, u32> = HashMap::new();
            said.iter().for_each(|token| *counts.entry(*token).or_default() += 1);
            for (token, count) in counts {
                if let Some(score) = scores.get_mut(token as usize) {
                    *score -= (p.frequency_penalty * f64::from(count) + p.presence_penalty) as f32;
                }
            }
        }
    }
}

/// Keskar et al., 2019: positive scores of seen tokens are divided by the penalty, negative ones multiplied.
fn penalise(scores: &mut [f32], penalty: f32, seen: impl Iterator<Item = u32>) {
    let mut seen: Vec<u32> = seen.collect();
    seen.sort_unstable();
    seen.dedup();
    for id in seen {
        if let Some(score) = scores.get_mut(id as usize) {
            *score = if *score > 0.0 { *score / penalty } else { *score * penalty };
        }
    }
}

/// The tokens with which the last `n - 1` tokens became an n-gram that was there already.
fn repeating(tokens: &[u32], n: usize) -> impl Iterator<Item = u32> + '_ {
    let last = &tokens[(tokens.len() + 1).saturating_sub(n).min(tokens.len())..];
    tokens.windows(n).filter(move |window| window[..n - 1] == *last).map(move |window| window[n - 1])
}

fn forbid(scores: &mut [f32], token: u32) {
    if let Some(score) = scores.get_mut(token as usize) {
        *score = OUT;
    }
}

/// Each text as it begins an answer and as it follows a space, which are different tokens; ends of answers stay possible.
fn bad_words(texts: &[String], tokenizer: Option<&Arc<Tokenizer>>, eos: &[u32]) -> Result<Vec<Vec<u32>>> {
    let Some(tokenizer) = tokenizer else { return Ok(Vec::new()) };
    let mut all = Vec::new();
    for text in texts {
        for form in [text.clone(), format!(" {}", text.trim_start())] {
            let encoded = tokenizer.encode(form, false);
            let ids = encoded.map_err(|e| crate::Error::Internal(format!("a bad word has no tokens: {e}")))?;
            let ids = ids.get_ids().to_vec();
            let is_end = matches!(ids[..], [id] if eos.contains(&id));
            if !(ids.is_empty() || is_end || all.contains(&ids)) {
                all.push(ids);
            }
        }
    }
    Ok(all)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn scores(params: GenerateParams, before: &[u32], said: &[u32]) -> Vec<f32> {
        let rules = Rules::new(Arc::new(params), [4u32].into(), None).unwrap();
        let mut scores = vec![1.0, 0.8, -1.0, 0.5, 2.0];
        rules.apply(&mut scores, before, said);
        scores
    }

    #[test]
    fn rules_change_what_they_say() {
        let plain = GenerateParams::default();
        let before = [0, 1, 2, 0];
        let with = |change: fn(&mut GenerateParams)| {
            let mut params = plain.clone();
            change(&mut params);
            params
        };
        assert_eq!(
            scores(with(|p| p.repetition_penalty = 2.0), &before, &[]),
            [0.5, 0.4, -2.0, 0.5, 2.0],
            "seen tokens, each once"
        );
        assert_eq!(scores(with(|p| p.no_repeat_ngram_size = 2), &before, &[])[1], OUT);
        assert_eq!(scores(with(|p| p.no_repeat_ngram_size = 2), &before, &[1])[2], OUT);
        assert_eq!(scores(with(|p| p.no_repeat_ngram_size = 3), &before, &[1]), [1.0, 0.8, OUT, 0.5, 2.0]);
        assert_eq!(scores(with(|p| p.no_repeat_ngram_size = 1), &[3], &[]), [1.0, 0.8, -1.0, OUT, 2.0]);
        assert_eq!(scores(with(|p| p.no_repeat_ngram_size = 9), &before, &[]), [1.0, 0.8, -1.0, 0.5, 2.0]);
        assert_eq!(scores(with(|p| p.min_length = 5), &before, &[])[4], OUT);
        assert_eq!(scores(with(|p| p.min_length = 5), &before, &[3])[4], 2.0);
        assert_eq!(scores(with(|p| p.min_new_tokens = 2), &before, &[3])[4], OUT);
        let both = with(|p| {
            p.presence_penalty = 0.5;
            p.frequency_penalty = 0.25;
        });
        assert_eq!(scores(both, &before, &[3, 3, 0]), [0.25, 0.8, -1.0, -0.5, 2.0], "the question doesn't count");
    }
}
