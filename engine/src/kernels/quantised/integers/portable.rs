//! Products with panels in a form that compiles to vector code for any processor.

use super::{
    CELL, Eights, LANES, Sums,
    eights::Row,
    panels::{Form, Panel, Scales, code, half},
};
use crate::kernels::values::simd;

/// Sums of whole numbers, one for each row of the panel.
type Whole = [i32; LANES];

pub fn tile(panel: Panel, x: &Eights, row: usize, count: usize, sums: &mut Sums) {
    for (i, sums) in sums[..count].iter_mut().enumerate() {
        one(panel, x.row(row + i), sums);
    }
}

simd! {
    fn one[](panel: Panel, x: Row, sums: &mut [f32; LANES]) {
        *sums = [0.0; LANES];
        let form = panel.form;
        for (block, scales) in panel.scales.chunks_exact(form.scale_bytes()).enumerate().take(x.scales.len()) {
            match form.scales {
                Scales::One | Scales::WithMinimum => of_32(form, panel.codes, scales, block, x, sums),
                Scales::NestedWithMinimum | Scales::Nested => of_256(form, panel.codes, scales, block, x, sums),
            }
        }
    }
}

#[inline(always)]
fn of_32(form: Form, codes: &[u8], scales: &[u8], block: usize, x: Row, sums: &mut [f32; LANES]) {
    let (cell, codes_of_x) = (&codes[block * form.cell()..][..form.cell()], &x.codes[block * CELL..][..CELL]);
    let whole = dot(form.bits, cell, codes_of_x, 0, CELL, -form.offset * x.sums[block]);
    for (lane, sum) in sums.iter_mut().enumerate() {
        *sum += whole[lane] as f32 * (half(scales, lane) * x.scales[block]);
        if form.scales == Scales::WithMinimum {
            *sum += half(scales, LANES + lane) * x.weighted[block];
        }
    }
}

#[inline(always)]
fn of_256(form: Form, codes: &[u8], scales: &[u8], block: usize, x: Row, sums: &mut [f32; LANES]) {
    let (mut whole, mut minima): (Whole, Whole) = ([0; LANES], [0; LANES]);
    for cell in 0..8 {
        let at = block * 8 + cell;
        let (inner, sums_of_x) = (&scales[64 + cell * 32..][..32], &x.sums[2 * at..][..2]);
        let (codes, codes_of_x) = (&codes[at * form.cell()..][..form.cell()], &x.codes[at * CELL..][..CELL]);
        if form.scales == Scales::Nested {
            for (half, sum_of_x) in sums_of_x.iter().enumerate() {
                let dots = dot(form.bits, codes, codes_of_x, half * 16, 16, -form.offset * sum_of_x);
                for lane in 0..LANES {
                    whole[lane] += dots[lane] * i32::from(inner[half * LANES + lane] as i8);
                }
            }
            continue;
        }
        let dots = dot(form.bits, codes, codes_of_x, 0, CELL, 0);
        for lane in 0..LANES {
            whole[lane] += dots[lane] * i32::from(inner[lane]);
            minima[lane] += (sums_of_x[0] + sums_of_x[1]) * i32::from(inner[LANES + lane]);
        }
    }
    for (lane, sum) in sums.iter_mut().enumerate() {
        *sum += whole[lane] as f32 * (half(scales, lane) * x.scales[block]);
        if form.scales == Scales::NestedWithMinimum {
            *sum -= minima[lane] as f32 * (half(scales, LANES + lane) * x.scales[block]);
        }
    }
}

/// `begin + Σ code · x` over `count` columns of a cell from `from` on, for each lane.
#[inline(always)]
fn dot(bits: usize, cell: &[u8], x: &[i8], from: usize, count: usize, begin: i32) -> Whole {
    let mut sums = [begin; LANES];
    for column in (from..from + count).step_by(4) {
        for (lane, sum) in sums.iter_mut().enumerate() {
            for (i, x) in (column..).zip(&x[column..column + 4]) {
                *sum += i32::from(code(bits, cell, lane, i)) * i32::from(*x);
            }
        }
    }
    sums
}
