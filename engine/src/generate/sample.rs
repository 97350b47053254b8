//! The choice of the next token by its scores, in transformers' order: temperature, top k, top p, min p.

use crate::random::Random;
use api::params::GenerateParams;

/// The next token for scores (vocab).
pub fn choose(scores: &[f32], params: &GenerateParams, random: &mut Random) -> u32 {
    if !samples(params) || params.top_k == 1 {
        return likeliest(scores);
    }
    if params.top_k == 0 && params.top_p >= 1.0 && params.min_p <= 0.0 {
        return any(scores, params.temperature as f32, random);
    }
    let candidates = leading(scores, params, 1);
    let Some(&(first, max)) = candidates.first() else { return 0 };
    let share = |candidate: &(u32, f32)| f64::from(candidate.1 - max).exp();
    let mut point = random.uniform() * candidates.iter().map(share).sum::<f64>();
    for candidate in &candidates {
        point -= share(candidate);
        if point < 0.0 {
            return candidate.0;
        }
    }
    candidates.last().map_or(first, |last| last.0)
}

/// Whether tokens are drawn at random.
pub fn samples(params: &GenerateParams) -> bool {
    params.do_sample && params.temperature > 0.0
}

/// Scores as they are drawn from: divided by the temperature, and none for tokens that top k, top p or min p take out,
/// which leave at least `keep`.
pub fn warp(scores: &mut [f32], params: &GenerateParams, keep: usize) {
    let candidates = leading(scores, params, keep);
    scores.fill(f32::NEG_INFINITY);
    for (token, score) in candidates {
        scores[token as usize] = score;
    }
}

/// The tokens that can be drawn, the likeliest first, with their scores divided by the temperature.
fn leading(scores: &[f32], params: &GenerateParams, keep: usize) -> Vec<(u32, f32)> {
    let (temperature, keep) = (params.temperature as f32, keep.max(1));
    let mut candidates: Vec<(u32, f32)> =
        scores.iter().enumerate().map(|(i, l)| (i as u32, l / temperature)).filter(|(_, l)| l.is_finite()).collect();
    let most = if params.top_k > 0 { params.top_k.max(keep) } else { candidates.len() };
    let mut ordered = lead(&mut candidates, if params.top_k > 0 { most } else { FEW });
    candidates.truncate(most);
    let Some(&(_, max)) = candidates.first() else { return candidates };
    let share = |candidate: &(u32, f32)| f64::from(candidate.1 - max).exp();
    let all = params.top_p >= 1.0;
    let wanted = if all { f64::INFINITY } else { params.top_p * candidates.iter().map(share).sum::<f64>() };
    let (mut n, mut kept) = (0, 0.0);
    while n < candidates.len() && (n < keep || kept < wanted) {
        if n == ordered {
            ordered += lead(&mut candidates[n..], 8 * n);
        }
        let own = share(&candidates[n]);
        // Less likely ones follow.
        if n >= keep && own < params.min_p {
            break;
        }
        kept += own;
        n += 1;
    }
    candidates.truncate(n);
    candidates
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

pub fn likeliest(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (i, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = i;
        }
    }
    best as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(params: &GenerateParams) -> Vec<usize> {
        let mut random = Random::new(5, 0);
        let mut counts = vec![0; 4];
        for _ in 0..10_000 {
            let logits = [0.5f32.ln(), 0.3f32.ln(), 0.15f32.ln(), 0.05f32.ln()];
            counts[choose(&logits, params, &mut random) as usize] += 1;
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
        close(&counts(&GenerateParams { min_p: 0.55, ..plain.clone() }), [0.625, 0.375, 0.0, 0.0]);
        close(
            &counts(&GenerateParams { min_p: 0.55, top_k: 3, top_p: 0.9, ..plain.clone() }),
            [0.625, 0.375, 0.0, 0.0],
        );
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
        let highest = (0..3000).map(|_| choose(&[0.0; 1000], &params, &mut random)).max();
        assert!((490..500).contains(&highest.unwrap_or_default()), "{highest:?}");
    }

    #[test]
    fn beams_are_drawn_from_enough_tokens() {
        let params = GenerateParams { temperature: 2.0, top_p: 0.0, top_k: 1, min_p: 0.9, ..GenerateParams::default() };
        let mut scores = [1.0, 4.0, 3.0, 2.0];
        warp(&mut scores, &params, 3);
        assert_eq!(scores, [f32::NEG_INFINITY, 2.0, 1.5, 1.0]);
    }
}
