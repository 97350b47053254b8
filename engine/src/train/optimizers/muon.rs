//! Muon (Jordan et al., 2024), as Moonlight (Liu et al., 2025) and LLaMA-Factory have it: the momentum of each matrix is
//! brought near an orthogonal one, with steps as large as AdamW's. Vectors, embedding and head are AdamW's.
//!
//! The iteration is in float32; the reference makes it in bf16, from which it differs by that rounding.

use super::{
    Entry,
    each::{At, Each, Moments, Rule, State, norm, zeros},
};
use crate::{Result, files::export};
use api::params;
use candle_core::Tensor;

pub const ENTRY: Entry = Entry {
    optim: params::Optimizer::Muon,
    start: |train, more| {
        let momentum = more.optim_momentum.unwrap_or(0.95);
        Box::new(Each::new(train, Muon { momentum, moments: Moments::new(train) }))
    },
    bytes: |trainable| trainable * 4,
    whole: false,
};

/// Coefficients of the iteration, and how often it is made.
const NEWTON_SCHULZ: [f64; 3] = [3.4445, -4.775, 2.0315];
const ITERATIONS: usize = 5;

struct Muon {
    momentum: f64,
    moments: Moments,
}

impl Rule for Muon {
    fn begin(&self, name: &str, value: &Tensor) -> Result<State> {
        match is_matrix(name, value) {
            true => Ok(State::from([("b", zeros(value, value.dims())?)])),
            false => Moments::begin(value, value.dims()),
        }
    }

    fn next(&self, at: &At, value: &Tensor, gradient: &Tensor, state: &mut State) -> Result<Tensor> {
        let Some(buffer) = state.get_mut("b") else {
            return at.less(value, &self.moments.direction(at.step, gradient, state)?, at.rate);
        };
        *buffer = ((&*buffer * self.momentum)? + gradient)?;
        let ahead = (gradient + (&*buffer * self.momentum)?)?;
        let (rows, columns) = value.dims2()?;
        // The root mean square of an orthogonal matrix is 1 / √max(rows, columns), of AdamW's step about 0.2.
        let size = at.rate * 0.2 * (rows.max(columns) as f64).sqrt();
        at.less(value, &orthogonal(&ahead)?, size)
    }
}

/// Whether a parameter is a matrix other than embedding and head: a weight of a layer, a factor of LoRA, a value head.
pub fn is_matrix(name: &str, value: &Tensor) -> bool {
    value.dims().len() == 2 && !export::is_vocabulary(name)
}

/// The iteration of Newton and Schulz towards the nearest matrix whose singular values are 1.
fn orthogonal(matrix: &Tensor) -> Result<Tensor> {
    let (rows, columns) = matrix.dims2()?;
    let wide = if rows > columns { matrix.t()?.contiguous()? } else { matrix.clone() };
    let mut x = (&wide / (norm(&wide)? + 1e-7))?;
    let [a, b, c] = NEWTON_SCHULZ;
    for _ in 0..ITERATIONS {
        let gram = x.matmul(&x.t()?)?;
        let polynomial = ((&gram * b)? + (gram.matmul(&gram)? * c)?)?;
        x = ((&x * a)? + polynomial.matmul(&x)?)?;
    }
    Ok(if rows > columns { x.t()?.contiguous()? } else { x })
}
