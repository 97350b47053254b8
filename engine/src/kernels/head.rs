//! The head fused with its loss: linear and cross-entropy over chunks of rows. Neither the logits nor their gradient
//! exist for more than a chunk.

use super::{
    composed, device,
    lanes::{exponentials, largest, sum as sum_of, tanh},
    on_cpu,
    packed::{Matrix, Target, Unit},
    product::{Product, Rows, sum},
    update,
    values::{Values, hold, room, simd},
};
use crate::Result;
use candle_core::Tensor;
use rayon::prelude::*;

/// Rows whose logits exist at a time.
const CHUNK: usize = 256;

/// Which gradients are wanted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Gradients {
    None,
    Hidden,
    HiddenAndWeight,
}

/// A head and the states that it is applied to.
pub struct Head {
    /// (rows, dim), normalised, and scaled where the model scales its logits.
    pub h: Tensor,
    /// (vocab, dim)
    pub w: Tensor,
    /// See [`cross_entropy`].
    pub cap: Option<f32>,
}

pub struct CrossEntropy {
    /// `-log p(target)` of each row, not scaled.
    pub losses: Vec<f32>,
    /// d(sum of scaled losses) / dh, (rows, dim).
    pub hidden: Option<Tensor>,
    /// d(sum of scaled losses) / dw, (vocab, dim).
    pub weight: Option<Tensor>,
}

impl CrossEntropy {
    /// Sum over rows of `-log p(target)`, not scaled.
    pub fn sum(&self) -> f64 {
        self.losses.iter().copied().map(f64::from).sum()
    }
}

/// What the losses of rows are multiplied with before they are added up.
#[derive(Clone, Copy, Debug)]
pub enum Scale<'a> {
    All(f32),
    /// One for each row.
    Rows(&'a [f32]),
}

impl Scale<'_> {
    /// Of `n` rows from `start` on.
    pub fn part(&self, start: usize, n: usize) -> Vec<f32> {
        match self {
            Self::All(scale) => vec![*scale; n],
            Self::Rows(scales) => scales[start..start + n].to_vec(),
        }
    }
}

/// h (rows, dim), w (vocab, dim), one target for each row. With a cap, logits become `cap · tanh(logit / cap)`
/// (Gemma 2).
pub fn cross_entropy(
    h: &Tensor,
    w: &Tensor,
    targets: &[u32],
    scale: Scale,
    cap: Option<f32>,
    want: Gradients,
) -> Result<CrossEntropy> {
    if !on_cpu(h) {
        return device::cross_entropy(h, w, targets, scale, cap, want);
    }
    let vocab = w.dim(0)?;
    let mut losses = Vec::with_capacity(targets.len());
    let wants = (want != Gradients::None, want == Gradients::HiddenAndWeight);
    let (hidden, weight) = by_chunks(h, w, wants.0, wants.1, |start, logits| {
        let n = logits.len() / vocab;
        let scales = scale.part(start, n);
        let chunk = logits.par_chunks_mut(vocab).zip(&targets[start..start + n]).zip(&scales);
        losses.par_extend(chunk.map(|((row, target), scale)| match cap {
            None => row_loss(row, *target as usize, *scale),
            Some(cap) => capped_row_loss(row, *target as usize, *scale, cap),
        }));
        Ok(())
    })?;
    Ok(CrossEntropy { losses, hidden, weight })
}

/// Gives the logits `h wᵀ` of some rows after others to `each`, with the first row's number; `each` leaves their gradient in
/// their place. The gradients of h, and of w, as far as they are wanted.
pub(super) fn by_chunks(
    h: &Tensor,
    w: &Tensor,
    hidden: bool,
    weight: bool,
    mut each: impl FnMut(usize, &mut [f32]) -> Result<()>,
) -> Result<(Option<Tensor>, Option<Tensor>)> {
    let ((rows, dim), vocab) = (h.dims2()?, w.dim(0)?);
    let (hs, ws) = (hold(h)?, hold(w)?);
    let unit = Unit::new(h.dtype());
    let (h_rows, w_rows) = (Matrix::new(hs.values(), dim), Matrix::new(ws.values(), dim));
    let mut dh = room(if hidden { rows * dim } else { 0 });
    let mut dw = vec![0.0; if weight { vocab * dim } else { 0 }];
    let mut logits = room::<f32>(CHUNK.min(rows) * vocab);
    for start in (0..rows).step_by(CHUNK) {
        let n = CHUNK.min(rows - start);
        let a = Rows::pack(unit, h_rows.at(start, 0), n, dim);
        let product = Product { a: &a, b: w_rows.transposed().into() };
        sum(&[product], vocab, Target::f32(&mut logits, vocab, false));
        each(start, &mut logits[..n * vocab])?;
        let d = Matrix::new(Values::F32(&logits), vocab);
        if !dh.is_empty() {
            let a = Rows::pack(unit, d, n, vocab);
            sum(&[Product { a: &a, b: w_rows.into() }], dim, Target::f32(&mut dh[start * dim..], dim, false));
        }
        if !dw.is_empty() {
            let a = Rows::pack(unit, d.transposed(), vocab, n);
            sum(&[Product { a: &a, b: h_rows.at(start, 0).into() }], dim, Target::f32(&mut dw, dim, true));
        }
    }
    let tensor = |v: Vec<f32>, shape: (usize, usize)| {
        (!v.is_empty()).then(|| Tensor::from_vec(v, shape, h.device())).transpose()
    };
    Ok((tensor(dh, (rows, dim))?, tensor(dw, (vocab, dim))?))
}

/// What a distribution over the vocabulary says of one token, and how open it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outlook {
    /// `log p(target)` of each row.
    pub log_probs: Vec<f32>,
    /// `-Σ p log p` of each row, in nats.
    pub entropies: Vec<f32>,
}

/// h (rows, dim), w (vocab, dim), one target for each row; the cap as in [`cross_entropy`]. Without gradients.
pub fn outlook(h: &Tensor, w: &Tensor, targets: &[u32], cap: Option<f32>) -> Result<Outlook> {
    if !on_cpu(h) {
        return device::outlook(h, w, targets, cap);
    }
    let ((rows, dim), vocab) = (h.dims2()?, w.dim(0)?);
    let (hs, ws) = (hold(h)?, hold(w)?);
    let unit = Unit::new(h.dtype());
    let (h_rows, w_rows) = (Matrix::new(hs.values(), dim), Matrix::new(ws.values(), dim));
    let mut found = Vec::with_capacity(rows);
    let mut logits = room::<f32>(CHUNK.min(rows) * vocab);
    for start in (0..rows).step_by(CHUNK) {
        let n = CHUNK.min(rows - start);
        let a = Rows::pack(unit, h_rows.at(start, 0), n, dim);
        sum(&[Product { a: &a, b: w_rows.transposed().into() }], vocab, Target::f32(&mut logits, vocab, false));
        let chunk = logits[..n * vocab].par_chunks_mut(vocab).zip(&targets[start..start + n]);
        found.par_extend(chunk.map(|(row, target)| {
            if let Some(cap) = cap {
                press(row, cap);
            }
            row_outlook(row, *target as usize)
        }));
    }
    let (log_probs, entropies) = found.into_iter().unzip();
    Ok(Outlook { log_probs, entropies })
}

/// `cap · tanh(x / cap)` of a float32 x, whose memory it takes over.
pub fn softcap(x: Tensor, cap: f32) -> Result<Tensor> {
    if !on_cpu(&x) {
        return composed::softcap(&x, cap);
    }
    update(&x, |x| x.par_chunks_mut(1 << 14).for_each(|x| press(x, cap)))?;
    Ok(x)
}

/// `-log softmax(capped row)[target]`; the row becomes the gradient of `scale` times that.
fn capped_row_loss(row: &mut [f32], target: usize, scale: f32, cap: f32) -> f32 {
    press(row, cap);
    let capped = row.to_vec();
    let loss = row_loss(row, target, scale);
    press_backward(row, &capped, cap);
    loss
}

simd! {
    /// `-log softmax(row)[target]`; the row becomes the gradient of `scale` times that.
    fn row_loss[](row: &mut [f32], target: usize, scale: f32) -> f32 {
        let max = largest(row);
        let at_target = row[target];
        let z = exponentials(row, 1.0, max);
        let k = scale / z;
        row.iter_mut().for_each(|v| *v *= k);
        row[target] -= scale;
        z.ln() + max - at_target
    }

    /// `log softmax(row)[target]` and the entropy of the row, which is used up.
    fn row_outlook[](row: &mut [f32], target: usize) -> (f32, f32) {
        let max = largest(row);
        let at_target = row[target];
        let logits = row.to_vec();
        let z = exponentials(row, 1.0, max);
        // -Σ p log p = log z + max - Σ p logit
        let mean = sum_of(row.len(), |i| row[i] * (logits[i] - max)) / z;
        let log_z = z.ln();
        (at_target - max - log_z, log_z - mean)
    }

    fn press[](x: &mut [f32], cap: f32) {
        x.iter_mut().for_each(|x| *x = cap * tanh(*x / cap));
    }

    /// Gradient before the cap, in place.
    fn press_backward[](d: &mut [f32], capped: &[f32], cap: f32) {
        for (d, y) in d.iter_mut().zip(capped) {
            let t = *y / cap;
            *d *= 1.0 - t * t;
        }
    }
}
