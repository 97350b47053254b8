//! Sums of matrix products, `Σ aᵢ bᵢ`, written once: a linear with its LoRA branch is such a sum, and so is the gradient
//! that q, k and v hand to the x they share.
//!
//! Blocked for the caches after Goto and van de Geijn (2008). a is packed once by all threads and can serve several
//! sums; b is packed by each thread for a block of columns that stays in its second-level cache, so that weights keep
//! the type and layout of their file. Each value is summed in the same order, whatever the number of threads.

use super::{
    packed::{
        Line, Matrix, Packed, Pair, Panels, Target, Unit, multiply, pack_panels, pack_rows, panel_lines, row_lines,
    },
    quantised::Quantised,
    values::Values,
};
use rayon::prelude::*;
use std::{
    cell::RefCell,
    ops::Range,
    sync::{Mutex, PoisonError},
};

/// Units of depth that are packed at a time: a panel of 32 columns takes 128 KiB.
const STEPS: usize = 1024;
/// Lines of b that a thread packs at a time: 384 KiB, less than a half of a second-level cache.
const BLOCK: usize = 6144;
/// Tiles of a that are packed by one task.
const TILES: usize = 4;

/// The a of products, packed.
pub struct Rows {
    lines: Vec<Line>,
    unit: Unit,
    rows: usize,
    depth: usize,
}

impl Rows {
    /// Packs a (rows, depth) on all threads.
    pub fn pack(unit: Unit, a: Matrix, rows: usize, depth: usize) -> Self {
        a.check(rows, depth);
        let mut lines = borrow(row_lines(unit, rows, depth));
        let whole = TILES * unit.tile();
        let part = row_lines(unit, whole, depth);
        if rows > whole && part * 16 == row_lines(unit, whole * 16, depth) {
            let tasks = lines.par_chunks_mut(part.max(1)).take(rows.div_ceil(whole)).enumerate();
            tasks.for_each(|(i, lines)| {
                let first = i * whole;
                pack_rows(unit, a.at(first, 0), whole.min(rows - first), depth, lines);
            });
        } else {
            pack_rows(unit, a, rows, depth, &mut lines);
        }
        Self { lines, unit, rows, depth }
    }
}

impl Drop for Rows {
    fn drop(&mut self) {
        give_back(std::mem::take(&mut self.lines));
    }
}

/// One product of a sum: b is (depth of a, columns).
#[derive(Clone, Copy)]
pub struct Product<'a> {
    pub a: &'a Rows,
    pub b: Right<'a>,
}

/// The b of a product.
#[derive(Clone, Copy)]
pub enum Right<'a> {
    Plain(Matrix<'a>),
    /// Made float32 again where and when a part of it is packed.
    Quantised(&'a Quantised),
    Transposed(&'a Quantised),
}

impl<'a> From<Matrix<'a>> for Right<'a> {
    fn from(matrix: Matrix<'a>) -> Self {
        Self::Plain(matrix)
    }
}

impl Right<'_> {
    fn check(&self, rows: usize, columns: usize) {
        match self {
            Self::Plain(matrix) => matrix.check(rows, columns),
            Self::Quantised(q) => assert!(q.dims() == (rows, columns), "a factor has another shape"),
            Self::Transposed(q) => assert!(q.dims() == (columns, rows), "a factor has another shape"),
        }
    }

    /// A part to be packed, in `room` if it has to be made.
    fn part<'a>(&'a self, rows: Range<usize>, columns: Range<usize>, room: &'a mut Vec<f32>) -> Matrix<'a> {
        let (depth, width) = (rows.len(), columns.len());
        match self {
            Self::Plain(matrix) => matrix.at(rows.start, columns.start),
            Self::Quantised(q) => {
                q.read(rows, columns, room);
                Matrix::new(Values::F32(room), width)
            }
            Self::Transposed(q) => {
                q.read(columns, rows, room);
                Matrix::new(Values::F32(room), depth).transposed()
            }
        }
    }
}

/// `to = Σ a b`, (rows, columns), on all threads. All a have the same rows and unit.
pub fn sum(products: &[Product], columns: usize, to: Target) {
    let Some(first) = products.first() else { return };
    let (unit, rows) = (first.a.unit, first.a.rows);
    for p in products {
        assert!(p.a.rows == rows && p.a.unit == unit, "the factors of a sum differ in their rows");
        p.b.check(p.a.depth, columns);
    }
    if rows == 0 || columns == 0 {
        return;
    }
    to.part(0, 0, rows, columns);
    let passes = passes(unit, products);
    let job = Job { unit, products, passes: &passes, rows, columns, to };
    let (width, splits) = job.cut();
    let tasks = columns.div_ceil(width) * splits;
    (0..tasks).into_par_iter().for_each(|task| {
        let first = task / splits * width;
        job.run(first..(first + width).min(columns), task % splits, splits);
    });
}

/// A part of a product's depth.
struct Piece {
    product: usize,
    depth: Range<usize>,
}

/// What is multiplied while sums stay in registers: pieces of about [`STEPS`] units together.
fn passes(unit: Unit, products: &[Product]) -> Vec<Vec<Piece>> {
    let most = STEPS * unit.depth();
    let (mut passes, mut room) = (Vec::<Vec<Piece>>::new(), 0);
    for (product, p) in products.iter().enumerate() {
        for from in (0..p.a.depth).step_by(most) {
            let depth = from..(from + most).min(p.a.depth);
            if depth.len() > room {
                passes.push(Vec::new());
                // A little more than a full piece, so that the rank of an adapter finds a place beside one.
                room = most + most / 8;
            }
            room -= depth.len();
            passes.last_mut().into_iter().for_each(|pass| pass.push(Piece { product, depth: depth.clone() }));
        }
    }
    passes
}

struct Job<'a> {
    unit: Unit,
    products: &'a [Product<'a>],
    passes: &'a [Vec<Piece>],
    rows: usize,
    columns: usize,
    to: Target,
}

/// What a thread works with: packed panels; for results in bf16 that take several passes, sums in float32; the part of
/// a quantised factor that is packed next.
#[derive(Default)]
struct Scratch {
    panels: Vec<Line>,
    sums: Vec<f32>,
    part: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl Job<'_> {
    /// Columns of a task, and how many tasks share its rows.
    fn cut(&self) -> (usize, usize) {
        let threads = rayon::current_num_threads();
        let lines = |pass: &Vec<Piece>| pass.iter().map(|p| panel_lines(self.unit, 32, p.depth.len())).sum::<usize>();
        let deepest = self.passes.iter().map(lines).max().unwrap_or(0).max(1);
        let fits = (BLOCK / deepest).max(1);
        let panels = self.columns.div_ceil(32);
        // As many blocks for each thread, of equal width.
        let blocks = panels.div_ceil(fits).next_multiple_of(threads).min(panels);
        let width = panels.div_ceil(blocks) * 32;
        let blocks = self.columns.div_ceil(width);
        let splits =
            if blocks >= threads { 1 } else { threads.div_ceil(blocks).min(self.rows.div_ceil(self.unit.tile())) };
        (width, splits)
    }

    fn run(&self, columns: Range<usize>, share: usize, shares: usize) {
        let width = columns.len();
        let tiles = self.rows.div_ceil(self.unit.tile());
        let tiles = tiles * share / shares..tiles * (share + 1) / shares;
        let to = self.to.part(0, columns.start, self.rows, width);
        SCRATCH.with_borrow_mut(|Scratch { panels, sums, part }| {
            let detour = to.is_bf16() && self.passes.len() > 1;
            if detour {
                sums.resize((self.rows * width).max(sums.len()), 0.0);
            }
            for (i, pass) in self.passes.iter().enumerate() {
                let lines = |p: &Piece| panel_lines(self.unit, width, p.depth.len());
                let count = pass.iter().map(lines).sum();
                if panels.len() < count {
                    panels.resize(count, Line([0.0; 16]));
                }
                let (mut pairs, mut rest) = (Vec::with_capacity(pass.len()), &mut panels[..]);
                for piece in pass {
                    let p = &self.products[piece.product];
                    let (b, after) = rest.split_at_mut(lines(piece));
                    let depth = piece.depth.len();
                    pack_panels(self.unit, p.b.part(piece.depth.clone(), columns.clone(), part), depth, width, b);
                    let a = Packed { lines: &p.a.lines, depth: p.a.depth, from: piece.depth.start };
                    pairs.push(Pair { a, b: Panels::all(b, depth, width), depth });
                    rest = after;
                }
                let to = match detour {
                    true => Target::f32(sums, width, i > 0),
                    false => to.adding(to.add || i > 0),
                };
                multiply(self.unit, &pairs, tiles.clone(), self.rows, width, to);
            }
            if detour {
                let rows =
                    (tiles.start * self.unit.tile()).min(self.rows)..(tiles.end * self.unit.tile()).min(self.rows);
                to.write(rows, width, sums);
            }
        });
    }
}

/// Buffers of packed factors that nobody uses now.
static BUFFERS: Mutex<Vec<Vec<Line>>> = Mutex::new(Vec::new());

fn borrow(lines: usize) -> Vec<Line> {
    let mut buffers = BUFFERS.lock().unwrap_or_else(PoisonError::into_inner);
    // The smallest that is large enough, else the largest to grow.
    buffers.sort_by_key(Vec::capacity);
    let found = buffers.iter().position(|b| b.capacity() >= lines).or(buffers.len().checked_sub(1));
    let mut buffer = found.map(|i| buffers.swap_remove(i)).unwrap_or_default();
    drop(buffers);
    if buffer.len() < lines {
        buffer.resize(lines, Line([0.0; 16]));
    }
    buffer
}

fn give_back(buffer: Vec<Line>) {
    BUFFERS.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        kernels::{cpu::instructions, values::Values},
        random::Random,
    };
    use half::bf16;

    /// Every kind of factor, sizes off all boundaries, against sums in float64.
    fn check_all(unit: Unit) {
        for (m, k, n) in [(1, 1, 1), (3, 5, 7), (29, 33, 17), (64, 8, 40), (61, 2500, 70), (15, 5000, 3)] {
            check(m, k, n, unit);
        }
    }

    #[test]
    fn sums_in_float32_are_right() {
        check_all(Unit::F32);
    }

    #[test]
    fn sums_in_bf16_are_right() {
        if instructions().bf16() {
            check_all(Unit::Bf16Pair);
        }
    }

    /// In AMX tiles, or in a model of them where there are none.
    #[test]
    fn sums_in_tiles_are_right() {
        if instructions().bf16() {
            check_all(Unit::AmxPair);
        }
    }

    fn check(m: usize, k: usize, n: usize, unit: Unit) {
        let mut random = Random::new(1, 0);
        let mut values = |n: usize| -> Vec<f32> { (0..n).map(|_| bf16::from_f32(random.normal()).to_f32()).collect() };
        let (a, b) = (values(m * k), values(k * n));
        let (at, bt) = (transpose(&a, m, k), transpose(&b, k, n));
        let half = |v: &[f32]| -> Vec<bf16> { v.iter().map(|x| bf16::from_f32(*x)).collect() };
        let (ah, bh, aht, bht) = (half(&a), half(&b), half(&at), half(&bt));
        let exact: Vec<f64> = (0..m * n)
            .map(|i| (0..k).map(|j| f64::from(a[i / n * k + j]) * f64::from(b[j * n + i % n])).sum())
            .collect();
        let factors = |v, vt, h, ht, rows, columns| {
            [
                Matrix::new(Values::F32(v), columns),
                Matrix::new(Values::F32(vt), rows).transposed(),
                Matrix::new(Values::Bf16(h), columns),
                Matrix::new(Values::Bf16(ht), rows).transposed(),
            ]
        };
        for a in factors(&a, &at, &ah, &aht, m, k) {
            let a = Rows::pack(unit, a, m, k);
            for b in factors(&b, &bt, &bh, &bht, k, n) {
                let mut out = vec![1.0; m * n];
                sum(&[Product { a: &a, b: b.into() }; 2], n, Target::f32(&mut out, n, true));
                for (out, exact) in out.iter().zip(&exact) {
                    let error = (f64::from(*out) - 1.0 - 2.0 * exact).abs();
                    assert!(error < 3e-6 * (k as f64).sqrt() * 10.0, "{m} {k} {n} {unit:?}: {error}");
                }
                if unit != Unit::F32 {
                    let mut out = vec![bf16::ONE; m * n];
                    sum(&[Product { a: &a, b: b.into() }], n, Target::bf16(&mut out, n, true));
                    for (out, exact) in out.iter().zip(&exact) {
                        let error = (out.to_f64() - 1.0 - exact).abs();
                        assert!(error < 0.005 * (1.0 + exact).abs() + 1e-3, "{m} {k} {n}: {error}");
                    }
                }
            }
        }
    }

    fn transpose(v: &[f32], rows: usize, columns: usize) -> Vec<f32> {
        (0..rows * columns).map(|i| v[i % rows * columns + i / rows]).collect()
    }
}
