//! The gate of a gated MLP: `silu(gate) * up` (SwiGLU, Shazeer 2020).

use super::{device, floats, on_cpu, rows_per_task};
use crate::Result;
use candle_core::Tensor;
use rayon::prelude::*;

/// gate, up (tokens, dim) → (tokens, dim).
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if !on_cpu(gate) {
        return device::swiglu(gate, up);
    }
    let (gs, us) = (floats(gate)?, floats(up)?);
    let mut y = vec![0.0; gs.len()];
    y.par_iter_mut().zip(gs.par_iter()).zip(us.par_iter()).with_min_len(rows_per_task(1)).for_each(|((y, g), u)| {
        *y = g * sigmoid(*g) * u;
    });
    Ok(Tensor::from_vec(y, gate.shape(), gate.device())?)
}

/// Gradients of gate and up.
pub fn swiglu_backward(gate: &Tensor, up: &Tensor, dy: &Tensor) -> Result<(Tensor, Tensor)> {
    if !on_cpu(gate) {
        return device::swiglu_backward(gate, up, dy);
    }
    let (gs, us, ds) = (floats(gate)?, floats(up)?, floats(dy)?);
    let (mut dg, mut du) = (vec![0.0; gs.len()], vec![0.0; gs.len()]);
    let inputs = gs.par_iter().zip(us.par_iter()).zip(ds.par_iter());
    dg.par_iter_mut().zip(du.par_iter_mut()).zip(inputs).with_min_len(rows_per_task(1)).for_each(
        |((dg, du), ((g, u), d))| {
            let s = sigmoid(*g);
            *du = d * g * s;
            *dg = d * u * s * (1.0 + g * (1.0 - s));
        },
    );
    let tensor = |v| Tensor::from_vec(v, gate.shape(), gate.device());
    Ok((tensor(dg)?, tensor(du)?))
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// `eˣ` in a form that compiles to vector code: Cody-Waite reduction and a polynomial of degree 5 (as in Cephes'
/// `expf`); within 2 units in the last place.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    let x = x.clamp(-87.0, 88.0);
    let n = (x * std::f32::consts::LOG2_E + 12_582_912.0) - 12_582_912.0;
    let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let mut q = 1.987_569_1e-4;
    for c in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        q = q * r + c;
    }
    let y = q * r * r + r + 1.0;
    y * f32::from_bits((((n as i32) + 127) as u32) << 23)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_exact_to_a_few_units_in_the_last_place() {
        let mut x = -80.0f32;
        while x < 80.0 {
            let (ours, theirs) = (f64::from(exp(x)), f64::from(x).exp());
            assert!((ours / theirs - 1.0).abs() < 4e-7, "exp({x}) = {ours}, not {theirs}");
            x += 0.0137;
        }
    }
}
