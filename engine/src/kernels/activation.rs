//! The gate of a gated MLP: `silu(gate) * up` (SwiGLU, Shazeer 2020).

use super::{
    device, on_cpu, rows_per_task,
    values::{Element, cast, each, hold, room, simd, typed},
};
use crate::Result;
use candle_core::Tensor;
use rayon::prelude::*;

/// gate, up (tokens, dim), of one type → (tokens, dim).
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if !on_cpu(gate) {
        return device::swiglu(gate, up);
    }
    let up = cast(up, gate.dtype())?;
    let (gs, us) = (hold(gate)?, hold(&up)?);
    typed!(gate.dtype(), T => {
        let mut y = room::<T>(gate.elem_count());
        let n = rows_per_task(1);
        each!(gs.values(), gs => each!(us.values(), us => {
            let parts = y.par_chunks_mut(n).zip(gs.par_chunks(n)).zip(us.par_chunks(n));
            parts.for_each(|((y, g), u)| gated(y, g, u));
        }));
        Ok(T::tensor(y, gate.shape().clone())?)
    })
}

/// Gradients of gate and up.
pub fn swiglu_backward(gate: &Tensor, up: &Tensor, dy: &Tensor) -> Result<(Tensor, Tensor)> {
    if !on_cpu(gate) {
        return device::swiglu_backward(gate, up, dy);
    }
    let (up, dy) = (cast(up, gate.dtype())?, cast(dy, gate.dtype())?);
    let (gs, us, ds) = (hold(gate)?, hold(&up)?, hold(&dy)?);
    typed!(gate.dtype(), T => {
        let (mut dg, mut du) = (room::<T>(gate.elem_count()), room::<T>(gate.elem_count()));
        let n = rows_per_task(1);
        each!(gs.values(), gs => each!(us.values(), us => each!(ds.values(), ds => {
            let inputs = gs.par_chunks(n).zip(us.par_chunks(n)).zip(ds.par_chunks(n));
            let parts = dg.par_chunks_mut(n).zip(du.par_chunks_mut(n)).zip(inputs);
            parts.for_each(|((dg, du), ((g, u), d))| gated_backward(dg, du, g, u, d));
        })));
        let tensor = |v| T::tensor(v, gate.shape().clone());
        Ok((tensor(dg)?, tensor(du)?))
    })
}

simd! {
    fn gated[T: Element, G: Element, U: Element](y: &mut [T], g: &[G], u: &[U]) {
        for ((y, g), u) in y.iter_mut().zip(g).zip(u) {
            *y = T::of(g.get() * sigmoid(g.get()) * u.get());
        }
    }

    fn gated_backward[T: Element, G: Element, U: Element, D: Element](
        dg: &mut [T], du: &mut [T], g: &[G], u: &[U], d: &[D]
    ) {
        for ((dg, du), ((g, u), d)) in dg.iter_mut().zip(du).zip(g.iter().zip(u).zip(d)) {
            let (g, u, d) = (g.get(), u.get(), d.get());
            let s = sigmoid(g);
            *du = T::of(d * g * s);
            *dg = T::of(d * u * s * (1.0 + g * (1.0 - s)));
        }
    }
}

#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// `tanh x`, which keeps its sign for small x.
#[inline(always)]
pub(crate) fn tanh(x: f32) -> f32 {
    let t = exp(-2.0 * x.abs());
    ((1.0 - t) / (1.0 + t)).copysign(x)
}

/// `eˣ` in a form that compiles to vector code: Cody-Waite reduction and a polynomial of degree 5 (as in Cephes'
/// `expf`); within 2 units in the last place.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    let x = x.clamp(-87.0, 88.0);
    // Adding 1.5 · 2²³ rounds to an integer, which then stands in the low bits.
    let shifted = x.mul_add(std::f32::consts::LOG2_E, 12_582_912.0);
    let n = shifted - 12_582_912.0;
    let r = n.mul_add(2.121_944_4e-4, n.mul_add(-0.693_359_4, x));
    let mut q = 1.987_569_1e-4;
    for c in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        q = r.mul_add(q, c);
    }
    let y = (q * r).mul_add(r, r) + 1.0;
    y * f32::from_bits(shifted.to_bits().wrapping_sub(12_582_912f32.to_bits()).wrapping_add(127) << 23)
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
