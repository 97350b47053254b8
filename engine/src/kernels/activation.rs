//! Activations of MLPs, alone and as gates (Shazeer, 2020): ReLU, SiLU, and GELU (Hendrycks and Gimpel, 2016) exact or by tanh.

use super::{
    composed, device,
    lanes::{exp, sigmoid},
    on_cpu, rows_per_task,
    values::{Element, cast, each, hold, room, simd, typed},
};
use crate::Result;
use candle_core::{Tensor, cpu::erf::erf_f32};
use rayon::prelude::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    Relu,
    Silu,
    /// `x Φ(x)`
    Gelu,
    /// Its approximation by tanh, `gelu_new` and `gelu_pytorch_tanh` of transformers.
    GeluTanh,
}

/// Each gives the activation and its slope.
#[inline(always)]
fn relu(x: f32) -> (f32, f32) {
    (x.max(0.0), if x > 0.0 { 1.0 } else { 0.0 })
}

#[inline(always)]
fn silu(x: f32) -> (f32, f32) {
    let s = sigmoid(x);
    (x * s, s * (1.0 + x * (1.0 - s)))
}

#[inline(always)]
fn gelu(x: f32) -> (f32, f32) {
    let below = 0.5 * (1.0 + erf_f32(x * std::f32::consts::FRAC_1_SQRT_2));
    (x * below, below + x * exp(-0.5 * x * x) * INVERSE_ROOT_TAU)
}

#[inline(always)]
fn gelu_tanh(x: f32) -> (f32, f32) {
    // 0.5 (1 + tanh u) is the sigmoid of 2 u.
    let s = sigmoid(ROOT * (x + CUBE * x * x * x));
    (x * s, s + x * s * (1.0 - s) * ROOT * (1.0 + 3.0 * CUBE * x * x))
}

/// 2 √(2 / π), the factor of the cube, and 1 / √(2 π).
const ROOT: f32 = 1.595_769_2;
const CUBE: f32 = 0.044_715;
const INVERSE_ROOT_TAU: f32 = 0.398_942_3;

/// Runs an expression with `f` as the function of an activation, so that it is compiled into its loops.
macro_rules! known {
    ($kind:expr, $f:ident => $body:expr) => {
        match $kind {
            Activation::Relu => {
                let $f = relu;
                $body
            }
            Activation::Silu => {
                let $f = silu;
                $body
            }
            Activation::Gelu => {
                let $f = gelu;
                $body
            }
            Activation::GeluTanh => {
                let $f = gelu_tanh;
                $body
            }
        }
    };
}

/// x of any shape.
pub fn activate(kind: Activation, x: &Tensor) -> Result<Tensor> {
    if !on_cpu(x) {
        return composed::activate(kind, x);
    }
    let (xs, n) = (hold(x)?, rows_per_task(1));
    typed!(x.dtype(), T => {
        let mut y = room::<T>(x.elem_count());
        known!(kind, f => each!(xs.values(), xs => {
            y.par_chunks_mut(n).zip(xs.par_chunks(n)).for_each(|(y, x)| alone(y, x, f));
        }));
        Ok(T::tensor(y, x.shape().clone())?)
    })
}

/// Gradient of x.
pub fn activate_backward(kind: Activation, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
    if !on_cpu(x) {
        let [dx] = device::gradients([x], dy, |[x]| composed::activate(kind, x))?;
        return Ok(dx);
    }
    let (xs, ds, n) = (hold(x)?, hold(dy)?, rows_per_task(1));
    typed!(x.dtype(), T => {
        let mut dx = room::<T>(x.elem_count());
        known!(kind, f => each!(xs.values(), xs => each!(ds.values(), ds => {
            let parts = dx.par_chunks_mut(n).zip(xs.par_chunks(n)).zip(ds.par_chunks(n));
            parts.for_each(|((dx, x), d)| alone_backward(dx, x, d, f));
        })));
        Ok(T::tensor(dx, x.shape().clone())?)
    })
}

/// `activation(gate) * up` of equal shape, in the type of the gate.
pub fn gated(kind: Activation, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if !on_cpu(gate) {
        return device::gated(kind, gate, up);
    }
    let up = cast(up, gate.dtype())?;
    let (gs, us, n) = (hold(gate)?, hold(&up)?, rows_per_task(1));
    typed!(gate.dtype(), T => {
        let (gs, us) = (T::slice(gs.values()), T::slice(us.values()));
        let mut y = room::<T>(gate.elem_count());
        let parts = y.par_chunks_mut(n).zip(gs.par_chunks(n)).zip(us.par_chunks(n));
        known!(kind, f => parts.for_each(|((y, g), u)| with_up(y, g, u, f)));
        Ok(T::tensor(y, gate.shape().clone())?)
    })
}

/// Gradients of gate and up.
pub fn gated_backward(kind: Activation, gate: &Tensor, up: &Tensor, dy: &Tensor) -> Result<(Tensor, Tensor)> {
    if !on_cpu(gate) {
        return device::gated_backward(kind, gate, up, dy);
    }
    let (up, dy) = (cast(up, gate.dtype())?, cast(dy, gate.dtype())?);
    let (gs, us, ds, n) = (hold(gate)?, hold(&up)?, hold(&dy)?, rows_per_task(1));
    typed!(gate.dtype(), T => {
        let (gs, us, ds) = (T::slice(gs.values()), T::slice(us.values()), T::slice(ds.values()));
        let (mut dg, mut du) = (room::<T>(gate.elem_count()), room::<T>(gate.elem_count()));
        let inputs = gs.par_chunks(n).zip(us.par_chunks(n)).zip(ds.par_chunks(n));
        let parts = dg.par_chunks_mut(n).zip(du.par_chunks_mut(n)).zip(inputs);
        known!(kind, f => parts.for_each(|((dg, du), ((g, u), d))| with_up_backward(dg, du, g, u, d, f)));
        let tensor = |v| T::tensor(v, gate.shape().clone());
        Ok((tensor(dg)?, tensor(du)?))
    })
}

simd! {
    fn alone[T: Element, X: Element, F: Fn(f32) -> (f32, f32)](y: &mut [T], x: &[X], f: F) {
        y.iter_mut().zip(x).for_each(|(y, x)| *y = T::of(f(x.get()).0));
    }

    fn alone_backward[T: Element, X: Element, D: Element, F: Fn(f32) -> (f32, f32)](
        dx: &mut [T], x: &[X], d: &[D], f: F
    ) {
        dx.iter_mut().zip(x).zip(d).for_each(|((dx, x), d)| *dx = T::of(d.get() * f(x.get()).1));
    }

    fn with_up[T: Element, F: Fn(f32) -> (f32, f32)](y: &mut [T], g: &[T], u: &[T], f: F) {
        y.iter_mut().zip(g).zip(u).for_each(|((y, g), u)| *y = T::of(f(g.get()).0 * u.get()));
    }

    fn with_up_backward[T: Element, F: Fn(f32) -> (f32, f32)](
        dg: &mut [T], du: &mut [T], g: &[T], u: &[T], d: &[T], f: F
    ) {
        for ((dg, du), ((g, u), d)) in dg.iter_mut().zip(du).zip(g.iter().zip(u).zip(d)) {
            let (value, slope) = f(g.get());
            *du = T::of(d.get() * value);
            *dg = T::of(d.get() * u.get() * slope);
        }
    }
}
