//! The head fused with its loss: linear and cross-entropy over chunks of rows. Neither the logits nor their gradient
//! exist for more than a chunk.

use super::{
    activation::exp,
    device, floats,
    matmul::{Matrix, gemm},
    norm::sum,
    on_cpu,
};
use crate::Result;
use candle_core::Tensor;
use rayon::prelude::*;

/// Rows whose logits exist at a time.
const CHUNK: usize = 128;

/// Which gradients are wanted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Gradients {
    None,
    Hidden,
    HiddenAndWeight,
}

pub struct CrossEntropy {
    /// Sum over rows of `-log p(target)`, not scaled.
    pub sum: f64,
    /// d(scale · sum) / dh, (rows, dim).
    pub hidden: Option<Tensor>,
    /// d(scale · sum) / dw, (vocab, dim).
    pub weight: Option<Tensor>,
}

/// h (rows, dim), w (vocab, dim), one target for each row.
pub fn cross_entropy(h: &Tensor, w: &Tensor, targets: &[u32], scale: f32, want: Gradients) -> Result<CrossEntropy> {
    if !on_cpu(h) {
        return device::cross_entropy(h, w, targets, scale, want);
    }
    let ((rows, dim), vocab) = (h.dims2()?, w.dim(0)?);
    let (hs, ws) = (floats(h)?, floats(w)?);
    let mut total = 0.0;
    let mut dh = vec![0.0; if want == Gradients::None { 0 } else { rows * dim }];
    let mut dw = vec![0.0; if want == Gradients::HiddenAndWeight { vocab * dim } else { 0 }];
    let mut logits = vec![0.0; CHUNK.min(rows) * vocab];
    for start in (0..rows).step_by(CHUNK) {
        let n = CHUNK.min(rows - start);
        let h = Matrix::rows(&hs[start * dim..], dim);
        gemm(n, dim, vocab, h, Matrix::columns(&ws, dim), &mut logits, vocab, 1.0, false, true);
        let losses: Vec<f64> = logits[..n * vocab]
            .par_chunks_mut(vocab)
            .zip(&targets[start..start + n])
            .map(|(row, target)| row_loss(row, *target as usize, scale))
            .collect();
        total += losses.iter().sum::<f64>();
        if !dh.is_empty() {
            let (d, w) = (Matrix::rows(&logits, vocab), Matrix::rows(&ws, dim));
            gemm(n, vocab, dim, d, w, &mut dh[start * dim..], dim, 1.0, false, true);
        }
        if !dw.is_empty() {
            gemm(vocab, n, dim, Matrix::columns(&logits, vocab), h, &mut dw, dim, 1.0, true, true);
        }
    }
    let tensor = |v: Vec<f32>, shape: (usize, usize)| {
        (!v.is_empty()).then(|| Tensor::from_vec(v, shape, h.device())).transpose()
    };
    Ok(CrossEntropy { sum: total, hidden: tensor(dh, (rows, dim))?, weight: tensor(dw, (vocab, dim))? })
}

/// `-log softmax(row)[target]`; the row becomes the gradient of `scale` times that.
fn row_loss(row: &mut [f32], target: usize, scale: f32) -> f64 {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let at_target = row[target];
    row.iter_mut().for_each(|v| *v = exp(*v - max));
    let z = sum(row.len(), |i| row[i]);
    let k = scale / z;
    row.iter_mut().for_each(|v| *v *= k);
    row[target] -= scale;
    f64::from(z.ln() + max - at_target)
}
