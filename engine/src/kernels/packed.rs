//! Factors of matrix products, packed for the innermost loops, and the product of two packed factors on one thread.
//!
//! With AVX-512, a is cut into tiles of 14 rows, transposed, and b into panels of 32 columns. With AMX, panels are the
//! same and a is bf16 in rows. Without either, both are plain float32 matrices for the gemm crate.

#![allow(unsafe_code)]
// Tiles and panels.
#![cfg_attr(not(target_arch = "x86_64"), allow(dead_code, unused_variables))]

use super::{
    cpu::{Instructions, instructions},
    values::{Element, Values, each},
};
use candle_core::DType;
use half::bf16;
use std::ops::Range;

/// Depth of b that is packed at a time.
const DEPTH: usize = 128;

/// 64 bytes, a row of 16 units.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Line(pub [f32; 16]);

/// What packed factors are made of, four bytes each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    F32,
    /// Two bf16 that follow each other along the summed dimension.
    Bf16Pair,
    /// Such pairs, multiplied in AMX tiles.
    AmxPair,
}

impl Unit {
    /// Pairs of bf16 where they are wanted and the processor multiplies them.
    pub fn new(compute: DType) -> Self {
        match (instructions(), compute) {
            (Instructions::Amx, DType::BF16) => Self::AmxPair,
            (Instructions::Avx512Bf16, DType::BF16) => Self::Bf16Pair,
            _ => Self::F32,
        }
    }

    /// Values of the summed dimension in one unit.
    pub fn depth(self) -> usize {
        if self == Self::F32 { 1 } else { 2 }
    }

    /// Units for `depth` values; AMX takes 32 values at a time.
    pub fn steps(self, depth: usize) -> usize {
        if self == Self::AmxPair { depth.div_ceil(32) * 16 } else { depth.div_ceil(self.depth()) }
    }

    /// Rows of a that are multiplied at a time.
    pub fn tile(self) -> usize {
        if self == Self::AmxPair { 32 } else { 14 }
    }

    /// All tiles of `rows` rows.
    pub fn tiles(self, rows: usize) -> Range<usize> {
        0..rows.div_ceil(self.tile())
    }

    /// Lines of a panel's step, for what is left of the columns.
    fn vectors(self, columns: usize) -> usize {
        if columns > 16 || self == Self::AmxPair { 2 } else { 1 }
    }

    /// Lines from one row of a to the next with AMX: an odd number, since rows a multiple of 4 KiB apart would share
    /// a set of the cache.
    fn row_pitch(depth: usize) -> usize {
        depth.div_ceil(32) | 1
    }
}

/// A factor in memory: element (i, j) stands at `i * stride + j`, or at `j * stride + i` if `transposed`.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    pub values: Values<'a>,
    pub stride: usize,
    pub transposed: bool,
}

impl<'a> Matrix<'a> {
    /// Row-major, with `stride` values from one row to the next.
    pub fn new(values: Values<'a>, stride: usize) -> Self {
        Self { values, stride, transposed: false }
    }

    pub fn transposed(self) -> Self {
        Self { transposed: !self.transposed, ..self }
    }

    /// The part that begins at row i and column j.
    pub fn at(&self, i: usize, j: usize) -> Self {
        let start = if self.transposed { j * self.stride + i } else { i * self.stride + j };
        Self { values: self.values.from(start), ..*self }
    }

    /// Panics unless it has this many rows and columns.
    pub fn check(&self, rows: usize, columns: usize) {
        let (outer, inner) = if self.transposed { (columns, rows) } else { (rows, columns) };
        let reach = if outer == 0 || inner == 0 { 0 } else { (outer - 1) * self.stride + inner };
        assert!(reach <= self.values.len(), "a factor ends before its last value");
    }
}

/// Where a product goes, row-major with `stride` values from one row to the next.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    to: Pointer,
    stride: usize,
    /// Values from `to` on.
    len: usize,
    /// Adds to what stands there.
    pub add: bool,
}

#[derive(Clone, Copy, Debug)]
enum Pointer {
    F32(*mut f32),
    Bf16(*mut bf16),
}

// SAFETY: every use checks its bounds, and `product::sum` gives each thread a part of its own.
unsafe impl Send for Target {}
unsafe impl Sync for Target {}

impl Target {
    pub fn f32(values: &mut [f32], stride: usize, add: bool) -> Self {
        Self { to: Pointer::F32(values.as_mut_ptr()), stride, len: values.len(), add }
    }

    pub fn bf16(values: &mut [bf16], stride: usize, add: bool) -> Self {
        Self { to: Pointer::Bf16(values.as_mut_ptr()), stride, len: values.len(), add }
    }

    pub fn is_bf16(&self) -> bool {
        matches!(self.to, Pointer::Bf16(_))
    }

    pub(super) fn adding(self, add: bool) -> Self {
        Self { add, ..self }
    }

    /// The part that begins at row i and column j, for `rows` rows of `columns` columns.
    pub(super) fn part(&self, i: usize, j: usize, rows: usize, columns: usize) -> Self {
        let start = i * self.stride + j;
        assert!(
            rows == 0 || start + (rows - 1) * self.stride + columns <= self.len,
            "a product reaches past its target"
        );
        // SAFETY: inside the target by the assertion.
        let to = unsafe {
            match self.to {
                Pointer::F32(p) => Pointer::F32(p.add(start)),
                Pointer::Bf16(p) => Pointer::Bf16(p.add(start)),
            }
        };
        Self { to, len: self.len - start, ..*self }
    }
}

impl Target {
    /// Writes rows `rows` of `sums`, `columns` values a row, as the target's type.
    pub(super) fn write(&self, rows: Range<usize>, columns: usize, sums: &[f32]) {
        for i in rows {
            let (row, part) = (&sums[i * columns..][..columns], self.part(i, 0, 1, columns));
            // SAFETY: `part` has checked that the row lies in the target, which only this thread writes here.
            unsafe {
                match part.to {
                    Pointer::F32(p) => fill(std::slice::from_raw_parts_mut(p, columns), row, self.add),
                    Pointer::Bf16(p) => fill(std::slice::from_raw_parts_mut(p, columns), row, self.add),
                }
            }
        }
    }
}

fn fill<T: Element>(out: &mut [T], row: &[f32], add: bool) {
    let old = |o: &T| if add { o.get() } else { 0.0 };
    out.iter_mut().zip(row).for_each(|(o, x)| *o = T::of(old(o) + x));
}

/// Whether factors are packed into tiles and panels.
fn tiled() -> bool {
    instructions() <= Instructions::Avx512
}

/// Lines of a packed a.
pub fn row_lines(unit: Unit, rows: usize, depth: usize) -> usize {
    match unit {
        Unit::AmxPair => rows.next_multiple_of(32) * Unit::row_pitch(depth),
        _ if tiled() => rows.div_ceil(unit.tile()) * unit.steps(depth),
        _ => (rows * depth).div_ceil(16),
    }
}

/// Lines of a packed b.
pub fn panel_lines(unit: Unit, columns: usize, depth: usize) -> usize {
    if tiled() { columns.div_ceil(32) * unit.steps(depth) * 2 } else { (columns * depth).div_ceil(16) }
}

/// Packs a (rows, depth); `out` has [`row_lines`]. Rows that fill tiles can be packed part by part.
pub fn pack_rows(unit: Unit, a: Matrix, rows: usize, depth: usize, out: &mut [Line]) {
    a.check(rows, depth);
    #[cfg(target_arch = "x86_64")]
    if unit == Unit::AmxPair {
        // SAFETY: this unit is chosen where the processor has AMX and AVX-512.
        unsafe { super::panel::pack_in_rows(a, rows, depth, out, Unit::row_pitch(depth)) };
        return;
    }
    #[cfg(target_arch = "x86_64")]
    if tiled() {
        let (steps, tile) = (unit.steps(depth), unit.tile());
        for (i, lines) in out.chunks_mut(steps.max(1)).take(rows.div_ceil(tile)).enumerate() {
            let part = a.at(i * tile, 0);
            let count = tile.min(rows - i * tile);
            // SAFETY: `tiled` says that the processor has AVX-512, a unit of pairs that it has BF16.
            unsafe { super::panel::pack(unit, part, part.transposed, count, depth, lines, 1) };
        }
        return;
    }
    plain(a, rows, depth, out);
}

/// Packs b (depth, columns); `out` has [`panel_lines`].
pub fn pack_panels(unit: Unit, b: Matrix, depth: usize, columns: usize, out: &mut [Line]) {
    b.check(depth, columns);
    #[cfg(target_arch = "x86_64")]
    if tiled() {
        let steps = unit.steps(depth);
        for (i, panel) in out.chunks_mut((steps * 2).max(1)).take(columns.div_ceil(32)).enumerate() {
            let vectors = unit.vectors(columns - i * 32);
            // Depth by depth, so that both halves of a row of memory are read while it is near.
            for from in (0..depth).step_by(DEPTH) {
                for v in 0..vectors {
                    let first = i * 32 + v * 16;
                    let (part, count) = (b.at(from, first), 16.min(columns.saturating_sub(first)));
                    let out = &mut panel[from / unit.depth() * vectors + v..];
                    let deep = DEPTH.min(depth - from);
                    // SAFETY: as in `pack_rows`. The columns of b are the vectors that are packed.
                    unsafe { super::panel::pack(unit, part, !part.transposed, count, deep, out, vectors) };
                }
            }
            // What AMX multiplies beyond the depth.
            panel[depth.div_ceil(unit.depth()) * vectors..steps * vectors].fill(Line([0.0; 16]));
        }
        return;
    }
    plain(b, depth, columns, out);
}

/// A pair of packed factors whose product joins a sum.
#[derive(Clone, Copy)]
pub struct Pair<'a> {
    pub a: Packed<'a>,
    pub b: Panels<'a>,
    /// Depth that is multiplied.
    pub depth: usize,
}

/// A packed a, and the part of its depth that is multiplied.
#[derive(Clone, Copy)]
pub struct Packed<'a> {
    pub lines: &'a [Line],
    /// Depth that was packed.
    pub depth: usize,
    /// Where the part begins, a whole unit.
    pub from: usize,
}

impl<'a> Packed<'a> {
    /// All of it.
    pub fn all(lines: &'a [Line], depth: usize) -> Self {
        Self { lines, depth, from: 0 }
    }
}

/// A packed b, and the part of it that is multiplied.
#[derive(Clone, Copy)]
pub struct Panels<'a> {
    pub lines: &'a [Line],
    /// Depth and columns that were packed.
    pub depth: usize,
    pub columns: usize,
    /// Where the part begins: in depth a whole unit, in columns a whole panel of 32.
    pub from: usize,
    pub first: usize,
}

impl<'a> Panels<'a> {
    /// All of it.
    pub fn all(lines: &'a [Line], depth: usize, columns: usize) -> Self {
        Self { lines, depth, columns, from: 0, first: 0 }
    }
}

/// Sum of products of packed factors into `to`, on this thread: tiles `tiles` of a's `rows` rows, `columns` columns of
/// b. Rows of `to` are those of a, its columns those of b.
pub fn multiply(unit: Unit, pairs: &[Pair], tiles: Range<usize>, rows: usize, columns: usize, to: Target) {
    let (first, last) = ((tiles.start * unit.tile()).min(rows), (tiles.end * unit.tile()).min(rows));
    if first == last || columns == 0 {
        return;
    }
    let to = to.part(first, 0, last - first, columns);
    #[cfg(target_arch = "x86_64")]
    if tiled() {
        multiply_tiles(unit, pairs, first..last, columns, to);
        return;
    }
    if to.is_bf16() {
        // The gemm crate writes float32.
        let mut sums = vec![0.0; (last - first) * columns];
        let detour = Target::f32(&mut sums, columns, false);
        multiply_plain(pairs, first..last, columns, detour);
        to.write(0..last - first, columns, &sums);
    } else {
        multiply_plain(pairs, first..last, columns, to);
    }
}

/// As [`multiply`], for rows `rows`, the first of which begins a tile; they go to the top of `to`.
#[cfg(target_arch = "x86_64")]
fn multiply_tiles(unit: Unit, pairs: &[Pair], rows: Range<usize>, columns: usize, to: Target) {
    let (mut sums, mut block) = ([Line([0.0; 16]); 2 * 14], super::amx::Scratch::zeros());
    let mut segments = Vec::with_capacity(pairs.len());
    let amx = (unit == Unit::AmxPair).then(super::amx::Tiles::new).flatten();
    for row in rows.clone().step_by(unit.tile()) {
        let (tile, count) = (row / unit.tile(), unit.tile().min(rows.end - row));
        for panel in 0..columns.div_ceil(32) {
            // As the panel was packed: of its columns fewer may be wanted here.
            let packed = |b: &Panels| unit.vectors(b.columns - b.first - panel * 32);
            let (vectors, n) = (pairs.first().map_or(2, |p| packed(&p.b)), 32.min(columns - panel * 32));
            let part = to.part(row - rows.start, panel * 32, count, n);
            segments.clear();
            for (i, pair) in pairs.iter().enumerate() {
                let steps = unit.steps(pair.depth);
                let (a, b) = (&pair.a, &pair.b);
                let at = (b.first / 32 + panel) * unit.steps(b.depth) * 2 + b.from / unit.depth() * vectors;
                let b = &b.lines[at..][..steps * vectors];
                if unit == Unit::AmxPair {
                    let pitch = Unit::row_pitch(a.depth);
                    let a = &a.lines[tile * 32 * pitch + a.from / 32..][..31 * pitch + steps / 16];
                    let (a, b) = (a.as_ptr().cast(), b.as_ptr().cast());
                    segments.push(super::amx::Segment { a, a_stride: pitch * 64, b, steps: steps / 16 });
                } else {
                    let a = &a.lines[tile * unit.steps(a.depth) + a.from / unit.depth()..][..steps];
                    // SAFETY: `tiled` says that the processor has AVX-512, a unit of pairs that it has BF16.
                    unsafe { super::micro::block(unit, count, vectors, a, b, &mut sums, i > 0) };
                }
            }
            // SAFETY: the slices above hold what the segments read; as above; `part` lies in the target.
            unsafe {
                let sums = match &amx {
                    Some(amx) => {
                        amx.block(&segments, &mut block, false);
                        block.lines()
                    }
                    #[cfg(test)]
                    None if unit == Unit::AmxPair => {
                        super::amx::model(&segments, &mut block);
                        block.lines()
                    }
                    None => &sums,
                };
                match part.to {
                    Pointer::F32(p) => super::micro::store_f32(sums, vectors, p, to.stride, count, n, to.add),
                    Pointer::Bf16(p) => super::micro::store_bf16(sums, vectors, p, to.stride, count, n, to.add),
                }
            }
        }
    }
}

/// A row-major copy in float32.
fn plain(m: Matrix, rows: usize, columns: usize, out: &mut [Line]) {
    let out = floats_mut(out);
    each!(m.values, v => {
        for i in 0..rows {
            let row = &mut out[i * columns..][..columns];
            if m.transposed {
                row.iter_mut().enumerate().for_each(|(j, o)| *o = v[j * m.stride + i].get());
            } else {
                row.iter_mut().zip(&v[i * m.stride..]).for_each(|(o, v)| *o = v.get());
            }
        }
    });
}

fn multiply_plain(pairs: &[Pair], rows: Range<usize>, columns: usize, to: Target) {
    let Pointer::F32(c) = to.to else { return };
    for (i, pair) in pairs.iter().enumerate() {
        let (m, n, k, stride) = (rows.len(), columns, pair.depth, to.stride as isize);
        let width = pair.b.columns;
        let a = &floats(pair.a.lines)[rows.start * pair.a.depth + pair.a.from..];
        let b = &floats(pair.b.lines)[pair.b.from * width + pair.b.first..];
        let reach = ((m - 1) * pair.a.depth + k, (k.max(1) - 1) * width + n);
        assert!(k == 0 || a.len() >= reach.0 && b.len() >= reach.1, "a packed factor is too short");
        let (a, b, pitch, width) = (a.as_ptr(), b.as_ptr(), pair.a.depth as isize, width as isize);
        // SAFETY: the assertion and `multiply`'s part keep all accesses inside their slices.
        unsafe {
            let (add, no) = (to.add || i > 0, gemm::Parallelism::None);
            gemm::gemm(m, n, k, c, 1, stride, add, a, 1, pitch, b, 1, width, 1.0, 1.0, false, false, false, no);
        }
    }
}

fn floats(lines: &[Line]) -> &[f32] {
    // SAFETY: a line is 16 floats.
    unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), lines.len() * 16) }
}

fn floats_mut(lines: &mut [Line]) -> &mut [f32] {
    // SAFETY: as above.
    unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), lines.len() * 16) }
}
