//! Blocks of 16 rows side by side.
//!
//! Codes stand in cells of 16 rows by 32 columns. A line of 64 bytes has the codes of 4 columns, four bytes of each row
//! after those of the row before; a cell has 8 such lines. Codes of 4 bits share lines in twos (line i below, i + 4 above);
//! of those of 5 and 6 bits the upper ones follow: of line i bit i of a further line, or two bits of one of two. Codes have
//! no sign: what is subtracted from all of a format's is [`Form::offset`].
//!
//! Scales stand apart. Blocks of 32 have 16 in float16, then as many minima. Blocks of 256 have their scales and minima
//! of float16 first, 64 bytes, then 32 bytes for each cell: whole numbers that these are multiplied with.

use super::{CELL, LANES, Width};
use candle_core::quantized::GgmlDType;
use half::f16;
use rayon::prelude::*;
use std::ops::Range;

/// Kinds of blocks that are multiplied so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// Of a code: 4, 5, 6 or 8.
    pub bits: usize,
    /// What each code is too large by.
    pub offset: i32,
    pub scales: Scales,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scales {
    /// d · code, in blocks of 32.
    One,
    /// d · code + m, in blocks of 32.
    WithMinimum,
    /// d · s · code - e · m in blocks of 256, s and m for each 32.
    NestedWithMinimum,
    /// d · s · code in blocks of 256, s for each 16.
    Nested,
}

impl Form {
    fn of(kind: GgmlDType) -> Option<Self> {
        let (bits, offset, scales) = match kind {
            GgmlDType::Q4_0 => (4, 8, Scales::One),
            GgmlDType::Q4_1 => (4, 0, Scales::WithMinimum),
            GgmlDType::Q5_0 => (5, 16, Scales::One),
            GgmlDType::Q5_1 => (5, 0, Scales::WithMinimum),
            GgmlDType::Q8_0 => (8, 128, Scales::One),
            GgmlDType::Q4K => (4, 0, Scales::NestedWithMinimum),
            GgmlDType::Q5K => (5, 0, Scales::NestedWithMinimum),
            GgmlDType::Q6K => (6, 32, Scales::Nested),
            _ => return None,
        };
        Some(Self { bits, offset, scales })
    }

    pub fn width(self) -> Width {
        match self.scales {
            Scales::One | Scales::WithMinimum => Width::Of32,
            Scales::NestedWithMinimum | Scales::Nested => Width::Of256,
        }
    }

    /// Bytes of a cell's codes.
    pub const fn cell(self) -> usize {
        self.bits * CELL * LANES / 8
    }

    /// Bytes of the scales of 16 blocks.
    pub const fn scale_bytes(self) -> usize {
        match self.scales {
            Scales::One => 32,
            Scales::WithMinimum => 64,
            Scales::NestedWithMinimum | Scales::Nested => 64 + 8 * 32,
        }
    }
}

/// A line of a processor's cache.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// A matrix (rows, columns) of blocks.
pub struct Panels {
    form: Form,
    rows: usize,
    columns: usize,
    codes: Vec<Line>,
    scales: Vec<Line>,
}

/// 16 rows.
#[derive(Clone, Copy)]
pub struct Panel<'a> {
    pub form: Form,
    pub codes: &'a [u8],
    pub scales: &'a [u8],
}

impl Panels {
    /// Lays out the blocks of a GGUF's matrix; `None` for kinds that have no such product.
    pub fn new(kind: GgmlDType, bytes: &[u8], (rows, columns): (usize, usize)) -> Option<Self> {
        let form = Form::of(kind)?;
        let block = form.width().columns();
        let row_bytes = columns / block * kind.type_size();
        if columns == 0 || !columns.is_multiple_of(block) || bytes.len() != rows * row_bytes {
            return None;
        }
        let panels = rows.div_ceil(LANES);
        let (cells, blocks) = (columns / CELL * form.cell(), columns / block * form.scale_bytes());
        let mut codes = vec![Line([0; 64]); (panels * cells).div_ceil(64)];
        let mut scales = vec![Line([0; 64]); panels * blocks.div_ceil(64)];
        let lines = scales.par_chunks_mut(blocks.div_ceil(64)).zip(codes.par_chunks_mut(cells / 64));
        lines.enumerate().for_each(|(panel, (scales, codes))| {
            let (scales, codes) = (bytes_of_mut(scales), bytes_of_mut(codes));
            for lane in 0..LANES.min(rows - panel * LANES) {
                let row = &bytes[(panel * LANES + lane) * row_bytes..][..row_bytes];
                for (i, bytes) in row.chunks_exact(kind.type_size()).enumerate() {
                    let found = Block::read(kind, bytes);
                    found.put_scales(form, lane, &mut scales[i * form.scale_bytes()..]);
                    for (j, values) in found.codes[..block].chunks_exact(CELL).enumerate() {
                        put_codes(form, lane, values, &mut codes[(i * block / CELL + j) * form.cell()..]);
                    }
                }
            }
        });
        Some(Self { form, rows, columns, codes, scales })
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Of the blocks of x that it is multiplied with.
    pub fn width(&self) -> Width {
        self.form.width()
    }

    pub fn bytes(&self) -> usize {
        (self.codes.len() + self.scales.len()) * 64
    }

    pub fn panel(&self, number: usize) -> Panel<'_> {
        let cells = self.columns / CELL * self.form.cell();
        let blocks = (self.columns / self.width().columns() * self.form.scale_bytes()).next_multiple_of(64);
        Panel {
            form: self.form,
            codes: &bytes_of(&self.codes)[number * cells..][..cells],
            scales: &bytes_of(&self.scales)[number * blocks..][..blocks],
        }
    }

    /// Values of a part of a row.
    pub fn read_row(&self, row: usize, columns: Range<usize>, out: &mut [f32]) {
        let (panel, lane) = (self.panel(row / LANES), row % LANES);
        for (column, out) in columns.zip(out) {
            *out = panel.value(lane, column);
        }
    }
}

impl std::fmt::Debug for Panels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} ({}, {})", self.form, self.rows, self.columns)
    }
}

impl Panel<'_> {
    fn value(&self, lane: usize, column: usize) -> f32 {
        let (form, cell) = (self.form, column / CELL);
        let code = code(form.bits, &self.codes[cell * form.cell()..], lane, column % CELL);
        let scales = &self.scales[column / form.width().columns() * form.scale_bytes()..];
        let inner = &scales[scales.len().min(64 + cell % 8 * 32)..];
        let (d, code) = (half(scales, lane), code as i32 - form.offset);
        match form.scales {
            Scales::One => code as f32 * d,
            Scales::WithMinimum => code as f32 * d + half(scales, LANES + lane),
            Scales::NestedWithMinimum => {
                d * f32::from(inner[lane]) * code as f32 - half(scales, LANES + lane) * f32::from(inner[LANES + lane])
            }
            Scales::Nested => d * f32::from(inner[column % CELL / 16 * LANES + lane] as i8) * code as f32,
        }
    }
}

/// The i-th number in float16.
pub fn half(bytes: &[u8], i: usize) -> f32 {
    f16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]]).to_f32()
}

/// The code of a column of a cell.
#[inline(always)]
pub fn code(bits: usize, cell: &[u8], lane: usize, column: usize) -> u8 {
    let (line, byte) = (column / 4, lane * 4 + column % 4);
    if bits == 8 {
        return cell[line * 64 + byte];
    }
    let low = cell[line % 4 * 64 + byte] >> (line / 4 * 4) & 15;
    match bits {
        5 => low | (cell[256 + byte] >> line & 1) << 4,
        6 => low | (cell[256 + line / 4 * 64 + byte] >> (line % 4 * 2) & 3) << 4,
        _ => low,
    }
}

fn put_codes(form: Form, lane: usize, codes: &[u8], cell: &mut [u8]) {
    for (column, code) in codes.iter().enumerate() {
        let (line, byte) = (column / 4, lane * 4 + column % 4);
        if form.bits == 8 {
            cell[line * 64 + byte] = *code;
            continue;
        }
        cell[line % 4 * 64 + byte] |= (code & 15) << (line / 4 * 4);
        match form.bits {
            5 => cell[256 + byte] |= (code >> 4) << line,
            6 => cell[256 + line / 4 * 64 + byte] |= (code >> 4) << (line % 4 * 2),
            _ => {}
        }
    }
}

/// One block of a row, its codes without a sign.
struct Block {
    codes: [u8; 256],
    /// In float16.
    scale: [u8; 2],
    minimum: [u8; 2],
    /// Of each 32 or 16 codes.
    scales: [u8; 16],
    minima: [u8; 8],
}

impl Block {
    /// By the layouts of `ggml-common.h`.
    fn read(kind: GgmlDType, b: &[u8]) -> Self {
        let mut block =
            Self { codes: [0; 256], scale: [b[0], b[1]], minimum: [b[2], b[3]], scales: [0; 16], minima: [0; 8] };
        let codes = &mut block.codes;
        // Of 32 codes the first 16 are the lower halves of 16 bytes.
        let nibbles = |codes: &mut [u8], bytes: &[u8]| {
            for (i, byte) in bytes[..16].iter().enumerate() {
                (codes[i], codes[16 + i]) = (byte & 15, byte >> 4);
            }
        };
        let fifth = |codes: &mut [u8], bits: &[u8]| {
            for (i, code) in codes[..32].iter_mut().enumerate() {
                *code |= (bits[i / 8] >> (i % 8) & 1) << 4;
            }
        };
        match kind {
            GgmlDType::Q4_0 => nibbles(codes, &b[2..]),
            GgmlDType::Q4_1 => nibbles(codes, &b[4..]),
            GgmlDType::Q5_0 => {
                nibbles(codes, &b[6..]);
                fifth(codes, &b[2..]);
            }
            GgmlDType::Q5_1 => {
                nibbles(codes, &b[8..]);
                fifth(codes, &b[4..]);
            }
            GgmlDType::Q8_0 => codes.iter_mut().zip(&b[2..]).for_each(|(code, b)| *code = b ^ 128),
            GgmlDType::Q4K | GgmlDType::Q5K => {
                (block.scales, block.minima) = six_bit_scales(&b[4..]);
                let (fifths, low) = if kind == GgmlDType::Q5K { (Some(&b[16..]), &b[48..]) } else { (None, &b[16..]) };
                for (i, code) in codes.iter_mut().enumerate() {
                    let (part, at) = (i / 32, i % 32);
                    *code = low[part / 2 * 32 + at] >> (part % 2 * 4) & 15;
                    *code |= fifths.map_or(0, |bits| (bits[at] >> part & 1) << 4);
                }
            }
            _ => {
                let (low, high) = (&b[..128], &b[128..192]);
                for (i, code) in codes.iter_mut().enumerate() {
                    let (half, part, at) = (i / 128, i % 128 / 32, i % 32);
                    let nibble = low[half * 64 + part % 2 * 32 + at] >> (part / 2 * 4) & 15;
                    *code = nibble | (high[half * 32 + at] >> (part * 2) & 3) << 4;
                }
                block.scales.copy_from_slice(&b[192..208]);
                block.scale = [b[208], b[209]];
            }
        }
        block
    }

    fn put_scales(&self, form: Form, lane: usize, to: &mut [u8]) {
        to[2 * lane..][..2].copy_from_slice(&self.scale);
        if matches!(form.scales, Scales::WithMinimum | Scales::NestedWithMinimum) {
            to[2 * (LANES + lane)..][..2].copy_from_slice(&self.minimum);
        }
        for cell in 0..8 {
            match form.scales {
                Scales::NestedWithMinimum => {
                    to[64 + cell * 32 + lane] = self.scales[cell];
                    to[64 + cell * 32 + LANES + lane] = self.minima[cell];
                }
                Scales::Nested => {
                    to[64 + cell * 32 + lane] = self.scales[2 * cell];
                    to[64 + cell * 32 + LANES + lane] = self.scales[2 * cell + 1];
                }
                Scales::One | Scales::WithMinimum => {}
            }
        }
    }
}

/// Eight scales and eight minima of 6 bits in 12 bytes.
fn six_bit_scales(b: &[u8]) -> ([u8; 16], [u8; 8]) {
    let (mut scales, mut minima) = ([0; 16], [0; 8]);
    for i in 0..4 {
        (scales[i], minima[i]) = (b[i] & 63, b[4 + i] & 63);
        scales[4 + i] = b[8 + i] & 15 | b[i] >> 6 << 4;
        minima[4 + i] = b[8 + i] >> 4 | b[4 + i] >> 6 << 4;
    }
    (scales, minima)
}

#[allow(unsafe_code)]
fn bytes_of(lines: &[Line]) -> &[u8] {
    // SAFETY: a line is 64 bytes and nothing else.
    unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), lines.len() * 64) }
}

#[allow(unsafe_code)]
fn bytes_of_mut(lines: &mut [Line]) -> &mut [u8] {
    // SAFETY: as above.
    unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), lines.len() * 64) }
}
