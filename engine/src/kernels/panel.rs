//! Packing of factors for the innermost loops (AVX-512): units of four bytes, a float32 or a pair of bf16 that follow
//! each other along the summed dimension, in rows of 16.

#![allow(unsafe_code)]

use super::{
    packed::{Line, Matrix, Unit},
    values::Values,
};
use half::bf16;
use std::arch::x86_64::*;

/// Packs `count` (at most 16) vectors of `k` values each, which are the rows of `m`, or its columns where `across` says
/// that they stand side by side in memory. Step s goes to `out[s * pitch]`; what is beyond count or k is zero.
///
/// # Safety
/// The processor has AVX-512 F, BW and VL, and BF16 for pairs.
pub unsafe fn pack(unit: Unit, m: Matrix, across: bool, count: usize, k: usize, out: &mut [Line], pitch: usize) {
    let (values, stride) = (m.values, m.stride);
    let steps = k.div_ceil(unit.depth());
    assert!(count <= 16 && (steps == 0 || (steps - 1) * pitch < out.len()), "a packed factor needs more room");
    let (outer, inner) = if across { (k, count) } else { (count, k) };
    let reach = if outer == 0 || inner == 0 { 0 } else { (outer - 1) * stride + inner };
    assert!(reach <= values.len(), "a factor ends before its last value");
    let (v, o) = (values, out.as_mut_ptr().cast::<__m512i>());
    // SAFETY: the asserts above keep every access inside its slice; the features are the caller's promise.
    unsafe {
        match (unit, across, v) {
            (Unit::F32, false, Values::F32(v)) => along_f32(v.as_ptr(), stride, count, k, o, pitch),
            (Unit::F32, false, Values::Bf16(v)) => along_f32_of_bf16(v.as_ptr(), stride, count, k, o, pitch),
            (_, false, Values::F32(v)) => along_pairs_of_f32(v.as_ptr(), stride, count, k, o, pitch),
            (_, false, Values::Bf16(v)) => along_pairs(v.as_ptr(), stride, count, k, o, pitch),
            (Unit::F32, true, Values::F32(v)) => across_f32(v.as_ptr(), stride, count, k, o, pitch),
            (Unit::F32, true, Values::Bf16(v)) => across_f32_of_bf16(v.as_ptr(), stride, count, k, o, pitch),
            (_, true, Values::F32(v)) => across_pairs_of_f32(v.as_ptr(), stride, count, k, o, pitch),
            (_, true, Values::Bf16(v)) => across_pairs(v.as_ptr(), stride, count, k, o, pitch),
        }
    }
}

/// Packs a (rows, depth) as bf16 in rows of `pitch` lines, with zeros up to a multiple of 32 values.
///
/// # Safety
/// The processor has AVX-512 F, BW, VL and BF16.
pub unsafe fn pack_in_rows(a: Matrix, rows: usize, depth: usize, out: &mut [Line], pitch: usize) {
    assert!(rows == 0 || (rows - 1) * pitch + depth.div_ceil(32) <= out.len(), "a packed factor needs more room");
    a.check(rows, depth);
    // SAFETY: the assertions, and this function's promise.
    unsafe {
        match (a.transposed, a.values) {
            (false, Values::Bf16(v)) => in_rows(v.as_ptr(), a.stride, rows, depth, out, pitch),
            (false, Values::F32(v)) => in_rows_of_f32(v.as_ptr(), a.stride, rows, depth, out, pitch),
            (true, _) => in_rows_of_columns(a, rows, depth, out, pitch),
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn in_rows(v: *const bf16, stride: usize, rows: usize, depth: usize, out: &mut [Line], pitch: usize) {
    for row in 0..rows {
        for (line, start) in out[row * pitch..].iter_mut().zip((0..depth).step_by(32)) {
            // SAFETY: the row has `depth` values; the mask leaves out what is beyond.
            unsafe {
                let values = _mm512_maskz_loadu_epi16(mask32(depth - start), v.add(row * stride + start).cast());
                *line = std::mem::transmute::<__m512i, Line>(values);
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn in_rows_of_f32(v: *const f32, stride: usize, rows: usize, depth: usize, out: &mut [Line], pitch: usize) {
    for row in 0..rows {
        for (line, start) in out[row * pitch..].iter_mut().zip((0..depth).step_by(32)) {
            // SAFETY: as in `in_rows`.
            unsafe {
                let (p, n) = (v.add(row * stride + start), depth - start);
                let low = _mm512_maskz_loadu_ps(mask16(n), p);
                let high = _mm512_maskz_loadu_ps(mask16(n.saturating_sub(16)), p.wrapping_add(16));
                *line = std::mem::transmute::<__m512i, Line>(narrow(low, high));
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn in_rows_of_columns(a: Matrix, rows: usize, depth: usize, out: &mut [Line], pitch: usize) {
    for first in (0..rows).step_by(16) {
        let count = 16.min(rows - first);
        for (block, start) in (0..depth).step_by(32).enumerate() {
            let mut lines = [Line([0.0; 16]); 16];
            // SAFETY: as `pack_in_rows`; a line of each row exists by its assertion.
            unsafe {
                pack(Unit::Bf16Pair, a.at(first, start), true, count, 32.min(depth - start), &mut lines, 1);
                let steps = lines.map(|line| std::mem::transmute::<Line, __m512i>(line));
                for (i, row) in transpose(steps).into_iter().enumerate().take(count) {
                    out[(first + i) * pitch + block] = std::mem::transmute::<__m512i, Line>(row);
                }
            }
        }
    }
}

/// Vectors whose values follow each other: 16 steps of 16 vectors at a time are loaded and transposed.
macro_rules! along {
    ($name:ident, $t:ty, $features:literal, $depth:literal, $load:expr) => {
        #[target_feature(enable = $features)]
        unsafe fn $name(v: *const $t, stride: usize, count: usize, k: usize, out: *mut __m512i, pitch: usize) {
            let mut start = 0;
            while start < k {
                let left = (k - start).min(16 * $depth);
                let mut rows = [_mm512_setzero_si512(); 16];
                for (i, row) in rows.iter_mut().enumerate().take(count) {
                    // SAFETY: value (i, start + left - 1) exists; masks leave out what is beyond.
                    unsafe {
                        let from = v.add(i * stride + start);
                        // So many rows at a time are more streams than the processor follows by itself.
                        _mm_prefetch::<_MM_HINT_T0>(from.wrapping_add(32 * $depth).cast());
                        *row = $load(from, left);
                    }
                }
                let steps = left.div_ceil($depth);
                for (s, row) in transpose(rows).iter().enumerate().take(steps) {
                    // SAFETY: step start / depth + s exists.
                    unsafe { _mm512_store_si512(out.add((start / $depth + s) * pitch), *row) };
                }
                start += 16 * $depth;
            }
        }
    };
}

along!(along_f32, f32, "avx512f,avx512bw", 1, |p: *const f32, n| _mm512_castps_si512(_mm512_maskz_loadu_ps(
    mask16(n),
    p
)));
along!(along_f32_of_bf16, bf16, "avx512f,avx512bw,avx512vl", 1, |p: *const bf16, n| widen(_mm256_maskz_loadu_epi16(
    mask16(n),
    p.cast()
)));
along!(along_pairs, bf16, "avx512f,avx512bw", 2, |p: *const bf16, n| _mm512_maskz_loadu_epi16(mask32(n), p.cast()));
along!(along_pairs_of_f32, f32, "avx512f,avx512bw,avx512bf16", 2, |p: *const f32, n: usize| narrow(
    _mm512_maskz_loadu_ps(mask16(n), p),
    _mm512_maskz_loadu_ps(mask16(n.saturating_sub(16)), p.wrapping_add(16)),
));

/// Vectors that stand beside each other: a row of memory is a step.
macro_rules! across {
    ($name:ident, $t:ty, $features:literal, $load:expr) => {
        #[target_feature(enable = $features)]
        unsafe fn $name(v: *const $t, stride: usize, count: usize, k: usize, out: *mut __m512i, pitch: usize) {
            for s in 0..k {
                // SAFETY: row s has `count` values, and step s exists.
                unsafe { _mm512_store_si512(out.add(s * pitch), $load(v.add(s * stride), count)) };
            }
        }
    };
    ($name:ident, $t:ty, $features:literal, pairs $load:expr) => {
        #[target_feature(enable = $features)]
        unsafe fn $name(v: *const $t, stride: usize, count: usize, k: usize, out: *mut __m512i, pitch: usize) {
            for s in 0..k.div_ceil(2) {
                // SAFETY: as above; the second row of the last step may be missing.
                unsafe {
                    let first = v.add(2 * s * stride);
                    let n = if 2 * s + 1 < k { count } else { 0 };
                    _mm512_store_si512(out.add(s * pitch), $load(first, count, first.wrapping_add(stride), n));
                }
            }
        }
    };
}

across!(across_f32, f32, "avx512f,avx512bw", |p: *const f32, n| _mm512_castps_si512(_mm512_maskz_loadu_ps(
    mask16(n),
    p
)));
across!(across_f32_of_bf16, bf16, "avx512f,avx512bw,avx512vl", |p: *const bf16, n| widen(_mm256_maskz_loadu_epi16(
    mask16(n),
    p.cast()
)));
across!(across_pairs, bf16, "avx512f,avx512bw,avx512vl", pairs |p: *const bf16, n, q: *const bf16, m| interleave(
    _mm256_maskz_loadu_epi16(mask16(n), p.cast()),
    _mm256_maskz_loadu_epi16(mask16(m), q.cast())
));
across!(across_pairs_of_f32, f32, "avx512f,avx512bw,avx512vl,avx512bf16", pairs |p: *const f32, n, q: *const f32, m| {
    let both = narrow(_mm512_maskz_loadu_ps(mask16(n), p), _mm512_maskz_loadu_ps(mask16(m), q));
    interleave(_mm512_castsi512_si256(both), _mm512_extracti64x4_epi64::<1>(both))
});

fn mask16(n: usize) -> u16 {
    if n >= 16 { u16::MAX } else { (1 << n) - 1 }
}

fn mask32(n: usize) -> u32 {
    if n >= 32 { u32::MAX } else { (1 << n) - 1 }
}

/// 16 bf16 as float32.
#[inline]
#[target_feature(enable = "avx512f")]
fn widen(v: __m256i) -> __m512i {
    _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(v))
}

/// Two times 16 float32 as 32 bf16, rounded to nearest even.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn narrow(low: __m512, high: __m512) -> __m512i {
    // SAFETY: both are 512 bits.
    unsafe { std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low)) }
}

/// Pairs (a0, b0), (a1, b1) … of 16-bit values.
#[inline]
#[target_feature(enable = "avx512f")]
fn interleave(a: __m256i, b: __m256i) -> __m512i {
    _mm512_or_si512(_mm512_cvtepu16_epi32(a), _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(b)))
}

/// The transpose of 16 rows of 16 units.
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose(mut a: [__m512i; 16]) -> [__m512i; 16] {
    let mut b = a;
    for i in 0..8 {
        b[2 * i] = _mm512_unpacklo_epi32(a[2 * i], a[2 * i + 1]);
        b[2 * i + 1] = _mm512_unpackhi_epi32(a[2 * i], a[2 * i + 1]);
    }
    for i in 0..4 {
        a[4 * i] = _mm512_unpacklo_epi64(b[4 * i], b[4 * i + 2]);
        a[4 * i + 1] = _mm512_unpackhi_epi64(b[4 * i], b[4 * i + 2]);
        a[4 * i + 2] = _mm512_unpacklo_epi64(b[4 * i + 1], b[4 * i + 3]);
        a[4 * i + 3] = _mm512_unpackhi_epi64(b[4 * i + 1], b[4 * i + 3]);
    }
    for i in 0..4 {
        b[i] = _mm512_shuffle_i32x4::<0x88>(a[i], a[i + 4]);
        b[i + 4] = _mm512_shuffle_i32x4::<0xdd>(a[i], a[i + 4]);
        b[i + 8] = _mm512_shuffle_i32x4::<0x88>(a[i + 8], a[i + 12]);
        b[i + 12] = _mm512_shuffle_i32x4::<0xdd>(a[i + 8], a[i + 12]);
    }
    for i in 0..4 {
        a[i] = _mm512_shuffle_i32x4::<0x88>(b[i], b[i + 8]);
        a[i + 8] = _mm512_shuffle_i32x4::<0xdd>(b[i], b[i + 8]);
        a[i + 4] = _mm512_shuffle_i32x4::<0x88>(b[i + 4], b[i + 12]);
        a[i + 12] = _mm512_shuffle_i32x4::<0xdd>(b[i + 4], b[i + 12]);
    }
    a
}
