//! `y = x wᵀ` for few rows of x or of w, where packing would cost more than it saves: one token of a generation, the
//! rank of an adapter.

#![allow(unsafe_code)]

use super::{
    lanes::total,
    quantised::Quantised,
    values::{Element, Values, each, simd},
};
use rayon::prelude::*;

/// Products that a task makes at least.
const TASK: usize = 1 << 16;

/// y (m, n) of x (m, k) and w (n, k), all row-major, on all threads.
pub fn dots<Y: Element>(x: Values, w: Values, y: &mut [Y], m: usize, n: usize, k: usize) {
    assert!(x.len() >= m * k && w.len() >= n * k && y.len() >= m * n, "dots reach past their operands");
    if m >= n {
        // Rows of x are shared out.
        let rows = (TASK / (n * k).max(1)).clamp(4, m.max(4)).next_multiple_of(4);
        each!(x, x => each!(w, w => {
            y[..m * n].par_chunks_mut((rows * n).max(1)).enumerate().for_each(|(i, y)| {
                block(&x[i * rows * k..], w, y, y.len() / n, n, k, k);
            });
        }));
    } else {
        by_rows_of_w(y, m, n, k, |first, count, part| {
            each!(x, x => each!(w, w => block(x, &w[first * k..], part, m, count, k, k)));
        });
    }
}

/// As [`dots`] for few rows of x, with a quantised w: each thread makes some of its rows float32 at a time.
pub fn quantised_dots(x: Values, w: &Quantised, y: &mut [f32], m: usize, n: usize, k: usize) {
    assert!(x.len() >= m * k && w.dims() == (n, k) && y.len() >= m * n, "dots reach past their operands");
    by_rows_of_w(y, m, n, k, |first, count, part| {
        let mut rows = Vec::new();
        w.read(first..first + count, 0..k, &mut rows);
        each!(x, x => block(x, &rows, part, m, count, k, k));
    });
}

/// Shares out the rows of w: `f` hears the first, how many, and where their products with x go, (m, count). These are
/// written transposed into parts of their own.
fn by_rows_of_w<Y: Element>(y: &mut [Y], m: usize, n: usize, k: usize, f: impl Fn(usize, usize, &mut [Y]) + Sync) {
    let rows = (TASK / (m * k).max(1)).clamp(8, n.max(8)).next_multiple_of(8);
    let parts: Vec<Vec<Y>> = (0..n.div_ceil(rows))
        .into_par_iter()
        .map(|i| {
            let count = rows.min(n - i * rows);
            let mut part = super::values::room(m * count);
            f(i * rows, count, &mut part);
            part
        })
        .collect();
    for (i, part) in parts.iter().enumerate() {
        let count = rows.min(n - i * rows);
        for (row, values) in part.chunks(count).enumerate() {
            y[row * n + i * rows..][..count].copy_from_slice(values);
        }
    }
}

simd! {
    /// y (m, n) of x (m, k) and w (n, k) on this thread; `pitch` values from one row of w to the next.
    pub(crate) fn block[X: Element, W: Element, Y: Element](
        x: &[X], w: &[W], y: &mut [Y], m: usize, n: usize, k: usize, pitch: usize
    ) {
        let mut i = 0;
        while i < m {
            let rows = m - i;
            let mut j = 0;
            while j < n {
                let (x, w, y) = (&x[i * k..], &w[j * pitch..], &mut y[i * n + j..]);
                let columns = n - j;
                if rows >= 4 && columns >= 4 {
                    tile::<X, W, Y, 4, 4>(x, w, y, k, pitch, n);
                    j += 4;
                } else if rows >= 4 {
                    tile::<X, W, Y, 4, 1>(x, w, y, k, pitch, n);
                    j += 1;
                } else if columns >= 8 {
                    for r in 0..rows {
                        tile::<X, W, Y, 1, 8>(&x[r * k..], w, &mut y[r * n..], k, pitch, n);
                    }
                    j += 8;
                } else {
                    for r in 0..rows {
                        tile::<X, W, Y, 1, 1>(&x[r * k..], w, &mut y[r * n..], k, pitch, n);
                    }
                    j += 1;
                }
            }
            i += rows.min(4);
        }
    }
}

/// M rows of x with N rows of w, in 16 lanes; `pitch` values from one row of w to the next, `stride` in y.
#[inline(always)]
fn tile<X: Element, W: Element, Y: Element, const M: usize, const N: usize>(
    x: &[X],
    w: &[W],
    y: &mut [Y],
    k: usize,
    pitch: usize,
    stride: usize,
) {
    let mut sums = [[[0f32; 16]; N]; M];
    let xs: [&[X]; M] = std::array::from_fn(|i| &x[i * k..][..k]);
    let ws: [&[W]; N] = std::array::from_fn(|j| &w[j * pitch..][..k]);
    let whole = k / 16 * 16;
    let mut start = 0;
    while start < whole {
        let mut a = [[0f32; 16]; M];
        for i in 0..M {
            a[i] = wide(xs[i], start);
        }
        for j in 0..N {
            let b = wide(ws[j], start);
            if M == 1 {
                ahead(ws[j], N * pitch + start);
            }
            for i in 0..M {
                for l in 0..16 {
                    sums[i][j][l] = a[i][l].mul_add(b[l], sums[i][j][l]);
                }
            }
        }
        start += 16;
    }
    for i in 0..M {
        for j in 0..N {
            let rest: f32 = (whole..k).map(|q| xs[i][q].get() * ws[j][q].get()).sum();
            y[i * stride + j] = Y::of(total(&sums[i][j]) + rest);
        }
    }
}

/// Asks for the values at `i`, which may be past the end, to be brought from memory: a row is too short for the processor
/// to see by itself that the next will be wanted.
#[inline(always)]
fn ahead<T: Element>(v: &[T], i: usize) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint, whatever the address.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(v.as_ptr().wrapping_add(i).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (v, i);
}

#[inline(always)]
fn wide<T: Element>(v: &[T], start: usize) -> [f32; 16] {
    // Not `array::from_fn`, which isn't always inlined and then spills every sum.
    let mut values = [0f32; 16];
    for (l, value) in values.iter_mut().enumerate() {
        // SAFETY: the caller's `start + 16` is at most the length.
        *value = unsafe { v.get_unchecked(start + l) }.get();
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;
    use half::bf16;

    #[test]
    fn dots_are_right_for_all_shapes() {
        let mut random = Random::new(5, 0);
        for (m, n, k) in [(1, 1, 1), (1, 40, 33), (3, 9, 64), (9, 3, 100), (70, 24, 48), (4, 4, 15), (6, 2000, 32)] {
            let (x, w): (Vec<f32>, Vec<f32>) =
                ((0..m * k).map(|_| random.normal()).collect(), (0..n * k).map(|_| random.normal()).collect());
            let half: Vec<bf16> = w.iter().map(|v| bf16::of(*v)).collect();
            let (mut y, mut z) = (vec![0f32; m * n], vec![0f32; m * n]);
            dots(Values::F32(&x), Values::F32(&w), &mut y, m, n, k);
            dots(Values::F32(&x), Values::Bf16(&half), &mut z, m, n, k);
            for i in 0..m * n {
                let (a, b) = (i / n * k, i % n * k);
                let exact: f64 = (0..k).map(|q| f64::from(x[a + q]) * f64::from(w[b + q])).sum();
                let rounded: f64 = (0..k).map(|q| f64::from(x[a + q]) * half[b + q].to_f64()).sum();
                assert!((f64::from(y[i]) - exact).abs() < 1e-4, "{m} {n} {k}: {} {exact}", y[i]);
                assert!((f64::from(z[i]) - rounded).abs() < 1e-4, "{m} {n} {k}: {} {rounded}", z[i]);
            }
        }
    }
}
