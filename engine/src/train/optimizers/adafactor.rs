//! Adafactor (Shazeer and Stern, 2018), with the settings that transformers' trainer gives it: the learning rate of the
//! run, no first moment, second moments of a matrix as the product of a row and a column.

use super::{
    Entry,
    each::{At, Each, Rule, State, zeros},
};
use crate::{Error, Result};
use api::params;
use candle_core::{D, Tensor};

pub const ENTRY: Entry = Entry {
    optim: params::Optimizer::Adafactor,
    start: |train, _| Box::new(Each::new(train, Adafactor)),
    // A row and a column for each matrix.
    bytes: |trainable| trainable / 50,
    whole: false,
};

/// Keeps squares from 0.
const EPS: f64 = 1e-30;
/// Largest root mean square of a step.
const CLIP: f64 = 1.0;
const DECAY_RATE: f64 = -0.8;

struct Adafactor;

impl Rule for Adafactor {
    fn begin(&self, _: &str, value: &Tensor) -> Result<State> {
        Ok(match value.dims() {
            &[rows, columns] => State::from([("r", zeros(value, rows)?), ("c", zeros(value, columns)?)]),
            dims => State::from([("v", zeros(value, dims)?)]),
        })
    }

    fn next(&self, at: &At, value: &Tensor, gradient: &Tensor, state: &mut State) -> Result<Tensor> {
        let keep = 1.0 - (at.step as f64).powf(DECAY_RATE);
        let squares = (gradient.sqr()? + EPS)?;
        let mut moment = |kind: &'static str, new: Tensor| -> Result<Tensor> {
            let old = state.get_mut(kind).ok_or_else(|| Error::Internal(format!("no state {kind}")))?;
            *old = ((&*old * keep)? + (new * (1.0 - keep))?)?;
            Ok(old.clone())
        };
        let root = match value.dims().len() {
            2 => {
                let (row, column) = (moment("r", squares.mean(D::Minus1)?)?, moment("c", squares.mean(0)?)?);
                let row = row.broadcast_div(&row.mean_keepdim(0)?)?.sqrt()?.recip()?;
                row.unsqueeze(1)?.broadcast_mul(&column.sqrt()?.recip()?.unsqueeze(0)?)?
            }
            _ => moment("v", squares)?.sqrt()?.recip()?,
        };
        let step = (gradient * root)?;
        let size = f64::from(step.sqr()?.mean_all()?.to_scalar::<f32>()?).sqrt();
        at.less(value, &step, at.rate / (size / CLIP).max(1.0))
    }
}
