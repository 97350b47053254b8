//! Which pairs are kept.

use super::Pair;
use api::{
    Problem, Problems,
    preference::{Adversarial, DroppedPairs, PairFilter, PairSource},
};
use std::collections::HashSet;

/// The largest weight of a source.
const MOST_WEIGHT: f64 = 100.0;

/// Numbers that mean nothing, all at once.
pub fn check(sources: &[PairSource], filter: &PairFilter) -> Result<(), Problems> {
    let mut problems = Problems::default();
    for source in sources.iter().filter(|source| !(0.0..=MOST_WEIGHT).contains(&source.weight)) {
        problems.push(out_of_bounds("weight", source.weight, MOST_WEIGHT));
    }
    let finite = |value: f64| (0.0..=f64::MAX).contains(&value);
    for (name, value) in [("min_gap", Some(filter.min_gap)), ("max_gap", filter.max_gap)] {
        if let Some(value) = value.filter(|value| !finite(*value)) {
            problems.push(out_of_bounds(name, value, f64::INFINITY));
        }
    }
    if let Some(most) = filter.max_gap.filter(|most| *most < filter.min_gap) {
        problems.push(gaps_crossed(filter.min_gap, most));
    }
    if !(0.0..=1.0).contains(&filter.on_policy) {
        problems.push(out_of_bounds("on_policy", filter.on_policy, 1.0));
    }
    problems.or(())
}

/// The pairs that stay, in their order, and how many each filter drops.
pub fn apply(mut pairs: Vec<Pair>, filter: &PairFilter) -> (Vec<Pair>, DroppedPairs) {
    let mut seen = HashSet::new();
    let duplicate = drop(&mut pairs, |pair| seen.insert(pair.id.clone()));
    let min_gap = drop(&mut pairs, |pair| pair.gap.is_none_or(|gap| gap >= filter.min_gap));
    let max_gap = drop(&mut pairs, |pair| pair.gap.zip(filter.max_gap).is_none_or(|(gap, most)| gap <= most));
    let adversarial = drop(&mut pairs, |pair| match filter.adversarial {
        Adversarial::Any => true,
        Adversarial::Only => pair.adversarial,
        Adversarial::Without => !pair.adversarial,
    });
    let on_policy = drop_others(&mut pairs, filter.on_policy);
    (pairs, DroppedPairs { duplicate, min_gap, max_gap, adversarial, on_policy })
}

fn drop(pairs: &mut Vec<Pair>, keep: impl FnMut(&Pair) -> bool) -> u64 {
    let before = pairs.len();
    pairs.retain(keep);
    (before - pairs.len()) as u64
}

/// Drops pairs until `share` of the answers comes from the model that is trained: first those with no answer of it, then
/// those with one, each in the order of their ids, which is as good as chance.
fn drop_others(pairs: &mut Vec<Pair>, share: f64) -> u64 {
    let mut order: Vec<(usize, String)> = pairs.iter().map(|pair| (pair.own(), pair.id.clone())).collect();
    order.sort();
    let (mut own, mut left) = (order.iter().map(|(own, _)| own).sum::<usize>(), pairs.len());
    let mut dropped = HashSet::new();
    for (of_it, id) in order {
        if own as f64 >= share * (2 * left) as f64 {
            break;
        }
        (own, left) = (own - of_it, left - 1);
        dropped.insert(id);
    }
    drop(pairs, |pair| !dropped.contains(&pair.id))
}

fn out_of_bounds(name: &str, value: f64, most: f64) -> Problem {
    let (en, zh) = if most.is_finite() {
        (format!("{name} is {value}, must be 0 to {most}."), format!("{name} 为 {value}，应在 0 到 {most} 之间。"))
    } else {
        (format!("{name} is {value}, must be 0 or more."), format!("{name} 为 {value}，不能小于 0。"))
    };
    Problem::new("bad_value", en, zh).hint("Give a number within the bounds.", "请填写范围内的数值。").field(name)
}

fn gaps_crossed(min: f64, max: f64) -> Problem {
    Problem::new(
        "bad_value",
        format!("min_gap {min} is more than max_gap {max}."),
        format!("min_gap {min} 大于 max_gap {max}。"),
    )
    .hint("Lower min_gap, or raise max_gap.", "请调小 min_gap 或调大 max_gap。")
    .field("min_gap")
}
