//! The choice of the next token, in transformers' order: repetition penalty, temperature, top k, top p.

use crate::random::Random;
use api::params::GenerateParams;

/// The next token for logits (vocab); `seen` are the tokens so far.
pub fn choose(
    logits: &mut [f32],
    params: &GenerateParams,
    seen: impl Iterator<Item = u32>,
    random: &mut Random,
) -> u32 {
    if params.repetition_penalty != 1.0 {
        penalise(logits, params.repetition_penalty as f32, seen);
    }
    if !params.do_sample || params.temperature <= 0.0 || params.top_k == 1 {
        return likeliest(logits);
    }
    let temperature = params.temperature as f32;
    if params.top_k == 0 && params.top_p >= 1.0 {
        return any(logits, temperature, random);
    }
    let mut candidates: Vec<(u32, f32)> =
        logits.iter().enumerate().map(|(i, l)| (i as u32, l / temperature)).filter(|(_, l)| l.is_finite()).collect();
    let mut ordered = lead(&mut candidates, if params.top_k > 0 { params.top_k } else { FEW });
    if params.top_k > 0 {
        candidates.truncate(ordered);
    }
    let Some(&(_, max)) = candidates.first() else { return 0 };
    let share = |candidate: &(u32, f32)| f64::from(candidate.1 - max).exp();
    let wanted = params.top_p * candidates.iter().map(share).sum::<f64>();
    let (mut n, mut kept) = (0, 0.0);
    while n < candidates.len() && (n == 0 || kept < wanted) {
        if n == ordered {
            ordered += lead(&mut candidates[n..], 8 * n);
        }
        kept += share(&candidates[n]);
        n += 1;
    }
    let mut point = random.uniform() * kept;
    for candidate in &candidates[..n] {
        point -= share(candidate);
        if point < 0.0 {
            return candidate.0;
        }
    }
    candidates[n - 1].0
}

/// One of all tokens, by their shares alone: nothing needs to be put in order.
fn any(logits: &[f32], temperature: f32, random: &mut Random) -> u32 {
    let max = logits.iter().copied().filter(|l| l.is_finite()).fold(f32::NEG_INFINITY, f32::max);
    let share = |logit: &f32| if logit.is_finite() { f64::from(((logit - max) / temperature).exp()) } else { 0.0 };
    let shares: Vec<f64> = logits.iter().map(share).collect();
    let mut point = random.uniform() * shares.iter().sum::<f64>();
    let mut last = 0;
    for (token, share) in shares.iter().enumerate().filter(|(_, share)| **share > 0.0) {
        last = token;
        point -= share;
        if point < 0.0 {
            break;
        }
    }
    last as u32
}

/// Candidates that are put in order at first: nearly always more than `top_p` keeps, and far fewer than a vocabulary.
const FEW: usize = 256;

/// Brings the `n` likeliest candidates to the front, in order; how many there are.
fn lead(candidates: &mut [(u32, f32)], n: usize) -> usize {
    let order = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    let n = n.min(candidates.len());
    if n < candidates.len() {
        candidates.select_nth_unstable_by(n, order);
    }
    candidates[..n].sort_unstable_by(order);
    n
}

fn likeliest(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (i, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = i;
        }
    }
    best as u32
}

/// Keskar et al., 2019: positive logits of seen tokens are divided by the penalty, negative ones multiplied.
fn penalise(logits: &mut [f32], penalty: f32, seen: impl Iterator<Item = u32>) {
    let mut seen: Vec<u32> = seen.collect();
    seen.sort_unstable();
    seen.dedup();
    for id in seen {
        if let Some(logit) = logits.get_mut(id as usize) {
            *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(params: &GenerateParams) -> Vec<usize> {
        let mut random = Random::new(5, 0);
        let mut counts = vec![0; 4];
        for _ in 0..10_000 {
            let mut logits = [0.5f32.ln(), 0.3f32.ln(), 0.15f32.ln(), 0.05f32.ln()];
            counts[choose(&mut logits, params, std::iter::empty(), &mut random) as usize] += 1;
        }
        counts
    }

    #[test]
    fn shares_follow_the_settings() {
        let plain = GenerateParams { temperature: 1.0, top_p: 1.0, top_k: 0, ..GenerateParams::default() };
        let close = |counts: &[usize], shares: [f64; 4]| {
            for (c, s) in counts.iter().zip(shares) {
                assert!((*c as f64 / 1e4 - s).abs() < 0.02, "{counts:?}");
            }
        };
        close(&counts(&plain), [0.5, 0.3, 0.15, 0.05]);
        close(&counts(&GenerateParams { top_k: 2, ..plain.clone() }), [0.625, 0.375, 0.0, 0.0]);
        close(&counts(&GenerateParams { top_p: 0.6, ..plain.clone() }), [0.625, 0.375, 0.0, 0.0]);
        close(&counts(&GenerateParams { top_p: 0.0, ..plain.clone() }), [1.0, 0.0, 0.0, 0.0]);
        close(&counts(&GenerateParams { do_sample: false, ..plain.clone() }), [1.0, 0.0, 0.0, 0.0]);
        close(&counts(&GenerateParams { temperature: 0.0, ..plain }), [1.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn candidates_are_put_in_order_as_far_as_they_are_needed() {
        let mut random = Random::new(3, 0);
        let mut candidates: Vec<(u32, f32)> = (0..5000).map(|i| (i, (random.normal() * 4.0).round())).collect();
        let mut sorted = candidates.clone();
        sorted.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        let mut ordered = 0;
        while ordered < candidates.len() {
            ordered += lead(&mut candidates[ordered..], 700);
            assert_eq!(candidates[..ordered], sorted[..ordered]);
        }
        assert_eq!(lead(&mut [], 5), 0);
    }

    /// More candidates than are put in order at first.
    #[test]
    fn wide_shares_reach_every_token() {
        let params = GenerateParams { temperature: 1.0, top_p: 0.5, top_k: 0, ..GenerateParams::default() };
        let mut random = Random::new(4, 0);
        // Of equal logits the first ids come first: half of them are kept.
        let highest = (0..3000).map(|_| choose(&mut [0.0; 1000], &params, std::iter::empty(), &mut random)).max();
        assert!((490..500).contains(&highest.unwrap_or_default()), "{highest:?}");
    }

    #[test]
    fn seen_tokens_become_less_likely() {
        let params = GenerateParams { do_sample: false, repetition_penalty: 2.0, ..GenerateParams::default() };
        let mut random = Random::new(0, 0);
        assert_eq!(choose(&mut [1.0, 0.9, -1.0], &params, [0].into_iter(), &mut random), 1);
    }
}
