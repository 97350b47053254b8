//! Sums and elementary functions of float32 in a form that compiles to vector code: 16 lanes side by side, no branches.

use super::values::Element;

/// Values that are worked on side by side.
const LANES: usize = 16;

/// `Σ f(i)` for i below n.
#[inline(always)]
pub(crate) fn sum(n: usize, f: impl Fn(usize) -> f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let whole = n / LANES * LANES;
    for start in (0..whole).step_by(LANES) {
        for (j, lane) in lanes.iter_mut().enumerate() {
            *lane += f(start + j);
        }
    }
    total(&lanes) + (whole..n).map(f).sum::<f32>()
}

/// Whether all are numbers, and finite: 0 times another is no number.
#[inline(always)]
pub(crate) fn finite(values: &[f32]) -> bool {
    sum(values.len(), |i| values[i] * 0.0) == 0.0
}

/// Sum of products.
#[inline(always)]
pub(crate) fn dot<A: Element, B: Element>(a: &[A], b: &[B]) -> f32 {
    let mut lanes = [0f32; LANES];
    let (a, b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f32 = a.remainder().iter().zip(b.remainder()).map(|(a, b)| a.get() * b.get()).sum();
    for (a, b) in a.zip(b) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane = a.get().mul_add(b.get(), *lane);
        }
    }
    total(&lanes) + rest
}

/// Sum of all lanes.
#[inline(always)]
pub(crate) fn total(lanes: &[f32; LANES]) -> f32 {
    let (mut eight, mut four) = ([0f32; 8], [0f32; 4]);
    for i in 0..8 {
        eight[i] = lanes[i] + lanes[i + 8];
    }
    for i in 0..4 {
        four[i] = eight[i] + eight[i + 4];
    }
    (four[0] + four[2]) + (four[1] + four[3])
}

/// The largest value.
#[inline(always)]
pub(crate) fn largest(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = x.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, v) in lanes.iter_mut().zip(chunk) {
            *lane = if *v > *lane { *v } else { *lane };
        }
    }
    lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max)
}

/// Each x becomes `exp(scale · x - most)`; their sum.
#[inline(always)]
pub(crate) fn exponentials(x: &mut [f32], scale: f32, most: f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let mut chunks = x.chunks_exact_mut(LANES);
    for chunk in &mut chunks {
        for (v, lane) in chunk.iter_mut().zip(&mut lanes) {
            *v = exp(*v * scale - most);
            *lane += *v;
        }
    }
    let mut sum = total(&lanes);
    for v in chunks.into_remainder() {
        *v = exp(*v * scale - most);
        sum += *v;
    }
    sum
}

#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// `tanh x`, which keeps its sign for small x.
#[inline(always)]
pub(crate) fn tanh(x: f32) -> f32 {
    let t = exp(-2.0 * x.abs());
    ((1.0 - t) / (1.0 + t)).copysign(x)
}

/// `eˣ` by Cody-Waite reduction and a polynomial of degree 5 (as in Cephes' `expf`); within 2 units in the last place.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    let x = x.clamp(-87.0, 88.0);
    // Adding 1.5 · 2²³ rounds to an integer, which then stands in the low bits.
    let shifted = x.mul_add(std::f32::consts::LOG2_E, 12_582_912.0);
    let n = shifted - 12_582_912.0;
    let r = n.mul_add(2.121_944_4e-4, n.mul_add(-0.693_359_4, x));
    let mut q = 1.987_569_1e-4;
    for c in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        q = r.mul_add(q, c);
    }
    let y = (q * r).mul_add(r, r) + 1.0;
    y * f32::from_bits(shifted.to_bits().wrapping_sub(12_582_912f32.to_bits()).wrapping_add(127) << 23)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_exact_to_a_few_units_in_the_last_place() {
        let mut x = -80.0f32;
        while x < 80.0 {
            let (ours, theirs) = (f64::from(exp(x)), f64::from(x).exp());
            assert!((ours / theirs - 1.0).abs() < 4e-7, "exp({x}) = {ours}, not {theirs}");
            x += 0.0137;
        }
    }
}
