//! The head with its loss where the logits are capped, `cap · tanh(logit / cap)` (Gemma 2): over chunks of rows, as
//! [`super::head`].

use super::{
    activation::{exp, tanh},
    add, composed,
    head::{CrossEntropy, Gradients},
    matmul::{self, Factor, Times},
    on_cpu, update,
    values::simd,
};
use crate::Result;
use candle_core::{DType, Tensor};
use rayon::prelude::*;

/// Rows whose logits exist at a time.
const CHUNK: usize = 128;

/// `cap · tanh(x / cap)` of a float32 x, whose memory it takes over.
pub fn softcap(x: Tensor, cap: f32) -> Result<Tensor> {
    if !on_cpu(&x) {
        return composed::softcap(&x, cap);
    }
    update(&x, |x| x.par_chunks_mut(1 << 14).for_each(|x| press(x, cap)))?;
    Ok(x)
}

/// As [`super::head::cross_entropy`], with the logits capped.
pub fn capped_cross_entropy(
    h: &Tensor,
    w: &Tensor,
    targets: &[u32],
    scale: f32,
    want: Gradients,
    cap: f32,
) -> Result<CrossEntropy> {
    if !on_cpu(h) {
        return composed::capped_cross_entropy(h, w, targets, scale, want, cap);
    }
    let (rows, vocab) = (h.dim(0)?, w.dim(0)?);
    let (mut total, mut hidden, mut weight) = (0.0, Vec::new(), None);
    for start in (0..rows).step_by(CHUNK) {
        let n = CHUNK.min(rows - start);
        let h = h.narrow(0, start, n)?;
        let logits = softcap(matmul::linear(&h, w, h.dtype(), DType::F32)?, cap)?;
        let mut losses = vec![0.0; n];
        update(&logits, |logits| {
            let rows = logits.par_chunks_mut(vocab).zip(&targets[start..start + n]);
            rows.zip(losses.par_iter_mut()).for_each(|((row, target), loss)| {
                *loss = row_loss(row, *target as usize, scale, cap);
            });
        })?;
        total += losses.iter().sum::<f64>();
        if want != Gradients::None {
            let d = Factor::new(&logits, h.dtype())?;
            hidden.push(matmul::sum(&[Times::Down(&d, w)], DType::F32)?);
        }
        if want == Gradients::HiddenAndWeight {
            let dw = matmul::outer(&logits, &h, h.dtype())?;
            weight = Some(match weight {
                Some(sum) => add(sum, &dw)?,
                None => dw,
            });
        }
    }
    let hidden = if hidden.is_empty() { None } else { Some(Tensor::cat(&hidden, 0)?) };
    Ok(CrossEntropy { sum: total, hidden, weight })
}

simd! {
    fn press[](x: &mut [f32], cap: f32) {
        x.iter_mut().for_each(|x| *x = cap * tanh(*x / cap));
    }

    /// `-log softmax(row)[target]` of capped logits; the row becomes the gradient of `scale` times that, by the logits
    /// before the cap.
    fn row_loss[](row: &mut [f32], target: usize, scale: f32, cap: f32) -> f64 {
        let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let at_target = row[target];
        let z: f64 = row.iter().map(|v| f64::from(exp(*v - max))).sum();
        let k = scale / z as f32;
        for (i, v) in row.iter_mut().enumerate() {
            let t = *v / cap;
            let d = k * exp(*v - max) - if i == target { scale } else { 0.0 };
            *v = d * (1.0 - t * t);
        }
        z.ln() + f64::from(max - at_target)
    }
}
