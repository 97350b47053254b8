//! Products with panels by AVX-512 VNNI: an instruction adds 64 products of codes to 16 sums.

#![allow(unsafe_code)]

use super::{
    CELL, Eights, LANES, MOST, Sums,
    panels::{Panel, Scales},
};
use crate::kernels::cpu::{Instructions, instructions};
use std::{arch::x86_64::*, sync::OnceLock};

pub fn available() -> bool {
    static VNNI: OnceLock<bool> = OnceLock::new();
    instructions() <= Instructions::Avx512 && *VNNI.get_or_init(|| is_x86_feature_detected!("avx512vnni"))
}

/// As [`super::tile`]; the processor is one that is [`available`].
pub fn tile(panel: Panel, x: &Eights, row: usize, count: usize, sums: &mut Sums) {
    let blocks = x.columns() / panel.form.width().columns();
    assert!(
        panel.codes.len() >= x.columns() / CELL * panel.form.cell()
            && panel.scales.len() >= blocks * panel.form.scale_bytes(),
        "a panel is too short"
    );
    macro_rules! by_form {
        ($count:literal) => {
            match (panel.form.bits, panel.form.scales) {
                (4, Scales::One) => of_32::<4, false, $count>(panel, x, row, sums),
                (4, Scales::WithMinimum) => of_32::<4, true, $count>(panel, x, row, sums),
                (5, Scales::One) => of_32::<5, false, $count>(panel, x, row, sums),
                (5, Scales::WithMinimum) => of_32::<5, true, $count>(panel, x, row, sums),
                (_, Scales::One | Scales::WithMinimum) => of_32::<8, false, $count>(panel, x, row, sums),
                (4, Scales::NestedWithMinimum) => of_256::<4, $count>(panel, x, row, sums),
                (5, Scales::NestedWithMinimum) => of_256::<5, $count>(panel, x, row, sums),
                (_, Scales::NestedWithMinimum | Scales::Nested) => of_256::<6, $count>(panel, x, row, sums),
            }
        };
    }
    // SAFETY: the caller has asked `available`.
    unsafe {
        match count {
            1 => by_form!(1),
            2 => by_form!(2),
            3 => by_form!(3),
            4 => by_form!(4),
            5 => by_form!(5),
            6 => by_form!(6),
            7 => by_form!(7),
            _ => by_form!(8),
        }
    }
}

/// What a row of x is read by.
#[derive(Clone, Copy)]
struct Pointers {
    codes: *const i8,
    scales: *const f32,
    weighted: *const f32,
    sums: *const i32,
}

/// The rows `row..row + M`, which x must have.
fn pointers<const M: usize>(x: &Eights, row: usize) -> [Pointers; M] {
    std::array::from_fn(|i| {
        let row = x.row(row + i);
        Pointers {
            codes: row.codes.as_ptr(),
            scales: row.scales.as_ptr(),
            weighted: row.weighted.as_ptr(),
            sums: row.sums.as_ptr(),
        }
    })
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn of_32<const BITS: usize, const MINIMUM: bool, const M: usize>(panel: Panel, x: &Eights, row: usize, out: &mut Sums) {
    const { assert!(M <= MOST) };
    let xs = pointers::<M>(x, row);
    let mut sums = [_mm512_setzero_ps(); M];
    let (mut codes, mut scales) = (panel.codes.as_ptr(), panel.scales.as_ptr());
    for block in 0..x.columns() / CELL {
        // SAFETY: `tile` has checked that the panel has as many cells and blocks as x.
        unsafe {
            let lines = lines::<BITS>(codes);
            let d = halves(scales);
            let m = if MINIMUM { halves(scales.add(32)) } else { d };
            for i in 0..M {
                let begin = if MINIMUM {
                    _mm512_setzero_si512()
                } else {
                    _mm512_set1_epi32(*xs[i].sums.add(block) * -panel.form.offset)
                };
                let whole = dot::<0, 8>(begin, &lines, xs[i].codes.add(block * CELL));
                let scale = _mm512_mul_ps(d, _mm512_set1_ps(*xs[i].scales.add(block)));
                sums[i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(whole), scale, sums[i]);
                if MINIMUM {
                    sums[i] = _mm512_fmadd_ps(m, _mm512_set1_ps(*xs[i].weighted.add(block)), sums[i]);
                }
            }
            codes = codes.add(panel.form.cell());
            scales = scales.add(panel.form.scale_bytes());
        }
    }
    store(&sums, out);
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn of_256<const BITS: usize, const M: usize>(panel: Panel, x: &Eights, row: usize, out: &mut Sums) {
    const { assert!(M <= MOST) };
    let xs = pointers::<M>(x, row);
    let mut sums = [_mm512_setzero_ps(); M];
    let (mut codes, mut scales) = (panel.codes.as_ptr(), panel.scales.as_ptr());
    for block in 0..x.columns() / 256 {
        let mut whole = [_mm512_setzero_si512(); M];
        let mut minima = [_mm512_setzero_si512(); M];
        // SAFETY: as above; scales of blocks of 256 have 32 bytes for each cell.
        unsafe {
            for cell in 0..8 {
                let (at, inner) = (block * 8 + cell, scales.add(64 + cell * 32));
                let lines = lines::<BITS>(codes);
                if BITS == 6 {
                    let s = [signed(inner), signed(inner.add(LANES))];
                    for i in 0..M {
                        let codes = xs[i].codes.add(at * CELL);
                        let begin = |half| _mm512_set1_epi32(*xs[i].sums.add(at * 2 + half) * -panel.form.offset);
                        let dots = [dot::<0, 4>(begin(0), &lines, codes), dot::<4, 8>(begin(1), &lines, codes)];
                        let both =
                            _mm512_add_epi32(_mm512_mullo_epi32(dots[0], s[0]), _mm512_mullo_epi32(dots[1], s[1]));
                        whole[i] = _mm512_add_epi32(whole[i], both);
                    }
                } else {
                    let (s, m) = (unsigned(inner), unsigned(inner.add(LANES)));
                    for i in 0..M {
                        let dots = dot::<0, 8>(_mm512_setzero_si512(), &lines, xs[i].codes.add(at * CELL));
                        whole[i] = _mm512_add_epi32(whole[i], _mm512_mullo_epi32(dots, s));
                        let sum = *xs[i].sums.add(at * 2) + *xs[i].sums.add(at * 2 + 1);
                        minima[i] = _mm512_add_epi32(minima[i], _mm512_mullo_epi32(m, _mm512_set1_epi32(sum)));
                    }
                }
                codes = codes.add(panel.form.cell());
            }
            let (d, e) = (halves(scales), halves(scales.add(32)));
            for i in 0..M {
                let scale = _mm512_set1_ps(*xs[i].scales.add(block));
                sums[i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(whole[i]), _mm512_mul_ps(d, scale), sums[i]);
                if BITS != 6 {
                    sums[i] = _mm512_fnmadd_ps(_mm512_cvtepi32_ps(minima[i]), _mm512_mul_ps(e, scale), sums[i]);
                }
            }
            scales = scales.add(panel.form.scale_bytes());
        }
    }
    store(&sums, out);
}

/// `sums + Σ code · x` over the lines `FROM..TO` of a cell.
///
/// # Safety
/// `x` has 32 codes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn dot<const FROM: usize, const TO: usize>(mut sums: __m512i, lines: &[__m512i; 8], x: *const i8) -> __m512i {
    let x = x.cast::<i32>();
    for (i, line) in lines.iter().enumerate().take(TO).skip(FROM) {
        // SAFETY: as the caller promises.
        let four = _mm512_set1_epi32(unsafe { x.add(i).read_unaligned() });
        sums = _mm512_dpbusd_epi32(sums, *line, four);
    }
    sums
}

/// The lines of a cell, a byte for each code.
///
/// # Safety
/// The cell has all its bytes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn lines<const BITS: usize>(cell: *const u8) -> [__m512i; 8] {
    let mut lines = [_mm512_setzero_si512(); 8];
    // SAFETY: as the caller promises; a cell has 64 · BITS bytes.
    let line = |i: usize| unsafe { _mm512_loadu_si512(cell.add(i * 64).cast()) };
    if BITS == 8 {
        for (i, to) in lines.iter_mut().enumerate() {
            *to = line(i);
        }
        return lines;
    }
    let low = _mm512_set1_epi8(15);
    for i in 0..4 {
        let both = line(i);
        lines[i] = _mm512_and_si512(both, low);
        lines[4 + i] = _mm512_and_si512(_mm512_srli_epi16::<4>(both), low);
    }
    if BITS == 5 {
        let (fifths, sixteen) = (line(4), _mm512_set1_epi8(16));
        for (i, to) in lines.iter_mut().enumerate() {
            let set = _mm512_test_epi8_mask(fifths, _mm512_set1_epi8((1u8 << i) as i8));
            *to = _mm512_mask_add_epi8(*to, set, *to, sixteen);
        }
    }
    if BITS == 6 {
        let mask = _mm512_set1_epi8(48);
        for half in 0..2 {
            let two = line(4 + half);
            let shifted = [_mm512_slli_epi16::<4>(two), _mm512_slli_epi16::<2>(two), two, _mm512_srli_epi16::<2>(two)];
            for (to, two) in lines[half * 4..][..4].iter_mut().zip(shifted) {
                *to = _mm512_or_si512(*to, _mm512_and_si512(two, mask));
            }
        }
    }
    lines
}

/// 16 numbers of float16.
///
/// # Safety
/// 32 bytes can be read.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn halves(p: *const u8) -> __m512 {
    // SAFETY: as the caller promises.
    _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(p.cast()) })
}

/// 16 bytes without sign, and with.
///
/// # Safety
/// 16 bytes can be read.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn unsigned(p: *const u8) -> __m512i {
    // SAFETY: as the caller promises.
    _mm512_cvtepu8_epi32(unsafe { _mm_loadu_si128(p.cast()) })
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn signed(p: *const u8) -> __m512i {
    // SAFETY: as the caller promises.
    _mm512_cvtepi8_epi32(unsafe { _mm_loadu_si128(p.cast()) })
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn store<const M: usize>(sums: &[__m512; M], out: &mut Sums) {
    for (sums, out) in sums.iter().zip(out) {
        // SAFETY: 16 values each.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), *sums) };
    }
}
