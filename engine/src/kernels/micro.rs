//! The innermost loops of matrix products for AVX-512: a block of the result stays in registers while packed factors
//! stream through. Both forms run at the processor's peak when their factors are in its first two caches.

#![allow(unsafe_code)]

use super::packed::{Line, Unit};
use half::bf16;
use std::arch::x86_64::*;

/// Multiplies `rows` (1 to 14) rows of a, one line for each step, with a panel of b, `vectors` (1 or 2) lines for
/// each step, into `sums`, `vectors` lines a row. With `add`, sums go on from what stands there.
///
/// # Safety
/// The processor has AVX-512 F, and BF16 for pairs.
pub unsafe fn block(unit: Unit, rows: usize, vectors: usize, a: &[Line], b: &[Line], sums: &mut [Line], add: bool) {
    let steps = a.len();
    assert!(b.len() >= steps * vectors && sums.len() >= rows * vectors, "a block reaches past its factors");
    let (a, b, c) = (a.as_ptr().cast::<f32>(), b.as_ptr().cast::<f32>(), sums.as_mut_ptr().cast::<f32>());
    // SAFETY: each form reads `steps` lines of a and `steps * vectors` of b, and writes `rows * vectors` of c.
    unsafe {
        match (unit, vectors) {
            (Unit::F32, 1) => by_rows!(float32, 1, rows, (a, b, c, steps, add)),
            (Unit::F32, _) => by_rows!(float32, 2, rows, (a, b, c, steps, add)),
            (_, 1) => by_rows!(pairs, 1, rows, (a, b, c, steps, add)),
            (_, _) => by_rows!(pairs, 2, rows, (a, b, c, steps, add)),
        }
    }
}

macro_rules! by_rows {
    ($form:ident, $v:literal, $rows:expr, $args:tt) => {
        by_rows!(@ $form, $v, $rows, $args; 1 2 3 4 5 6 7 8 9 10 11 12 13)
    };
    (@ $form:ident, $v:literal, $rows:expr, $args:tt; $($n:literal)*) => {
        match $rows { $($n => by_rows!(@@ $form, $n, $v, $args),)* _ => by_rows!(@@ $form, 14, $v, $args) }
    };
    (@@ $form:ident, $n:literal, $v:literal, ($a:expr, $b:expr, $c:expr, $steps:expr, $add:expr)) => {
        $form::<$n, $v>($a, $b, $c, $steps, $add)
    };
}
use by_rows;

macro_rules! form {
    ($name:ident, $features:literal, $multiply:expr) => {
        #[target_feature(enable = $features)]
        unsafe fn $name<const M: usize, const V: usize>(
            mut a: *const f32,
            mut b: *const f32,
            c: *mut f32,
            steps: usize,
            add: bool,
        ) {
            let mut sums = [[_mm512_setzero_ps(); V]; M];
            // SAFETY: as `block` promises.
            unsafe {
                if add {
                    for (i, row) in sums.iter_mut().enumerate() {
                        for (j, sum) in row.iter_mut().enumerate() {
                            *sum = _mm512_load_ps(c.add((i * V + j) * 16));
                        }
                    }
                }
                for _ in 0..steps {
                    let mut factors = [_mm512_setzero_ps(); V];
                    for (j, factor) in factors.iter_mut().enumerate() {
                        *factor = _mm512_load_ps(b.add(j * 16));
                    }
                    for (i, row) in sums.iter_mut().enumerate() {
                        let x = _mm512_set1_ps(*a.add(i));
                        for (sum, factor) in row.iter_mut().zip(factors) {
                            *sum = $multiply(*sum, x, factor);
                        }
                    }
                    (a, b) = (a.add(16), b.add(16 * V));
                }
                for (i, row) in sums.iter().enumerate() {
                    for (j, sum) in row.iter().enumerate() {
                        _mm512_store_ps(c.add((i * V + j) * 16), *sum);
                    }
                }
            }
        }
    };
}

form!(float32, "avx512f", |sum, x, factor| _mm512_fmadd_ps(x, factor, sum));
form!(pairs, "avx512f,avx512bf16", |sum, x: __m512, factor: __m512| _mm512_dpbf16_ps(
    sum,
    as_pairs(x),
    as_pairs(factor)
));

#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn as_pairs(x: __m512) -> __m512bh {
    // SAFETY: both are 512 bits, and every pattern is a value.
    unsafe { std::mem::transmute(x) }
}

macro_rules! store {
    ($(#[$meta:meta])* $name:ident, $features:literal, $t:ty, $read:expr, $write:expr) => {
        $(#[$meta])*
        #[target_feature(enable = $features)]
        pub unsafe fn $name(
            sums: &[Line],
            vectors: usize,
            out: *mut $t,
            stride: usize,
            rows: usize,
            n: usize,
            add: bool,
        ) {
            for i in 0..rows {
                for (line, j) in sums[i * vectors..].iter().zip((0..n).step_by(16)) {
                    let mask = if n - j >= 16 { u16::MAX } else { (1 << (n - j)) - 1 };
                    // SAFETY: masks leave out what is beyond the row.
                    unsafe {
                        let to = out.add(i * stride + j);
                        let mut v = _mm512_load_ps(line.0.as_ptr());
                        if add {
                            v = _mm512_add_ps(v, $read(mask, to));
                        }
                        $write(to, mask, v);
                    }
                }
            }
        }
    };
}

store!(
    /// Writes `rows` rows of `n` (at most 32) sums, `vectors` lines a row, to `out`, `stride` values a row.
    ///
    /// # Safety
    /// `out` reaches the last value, nobody else uses the values written, and the processor has AVX-512 F.
    store_f32,
    "avx512f",
    f32,
    |mask, from: *mut f32| _mm512_maskz_loadu_ps(mask, from),
    |to, mask, v| _mm512_mask_storeu_ps(to, mask, v)
);

store!(
    /// As [`store_f32`], rounded to bf16.
    ///
    /// # Safety
    /// As [`store_f32`], and the processor has AVX-512 BW, VL and BF16.
    store_bf16,
    "avx512f,avx512bw,avx512vl,avx512bf16",
    bf16,
    |mask, from: *mut bf16| {
        let old = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, from.cast()));
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(old))
    },
    |to: *mut bf16, mask, v| {
        let rounded = std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(v));
        _mm256_mask_storeu_epi16(to.cast(), mask, rounded)
    }
);
