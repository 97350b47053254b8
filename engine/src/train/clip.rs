//! Clipping by the global norm, as `torch.nn.utils.clip_grad_norm_`.

use crate::{Result, kernels::floats, model::Grads};

/// The norm of all gradients together, and the factor that brings it down to `limit` (0: no limit).
pub fn clip(grads: &Grads, limit: f64) -> Result<(f64, f64)> {
    let mut squares = 0.0;
    for (_, gradient) in grads.iter() {
        let gradient = gradient.flatten_all()?;
        // In blocks, so that float32 sums stay exact enough and the compiler can use vectors.
        for block in floats(&gradient)?.chunks(4096) {
            squares += f64::from(crate::kernels::norm::sum(block.len(), |i| block[i] * block[i]));
        }
    }
    let norm = squares.sqrt();
    let factor = if limit > 0.0 { (limit / (norm + 1e-6)).min(1.0) } else { 1.0 };
    Ok((norm, factor))
}
