//! What a step changes, kept while it is made of several updates, so that it can be taken back.

use super::{Average, Run};
use crate::{Result, model::Parameter};
use candle_core::{DType, Tensor};
use std::{collections::HashMap, sync::Arc};

/// Everything trained as it was before a step, with the optimizer's state and the average. It takes the memory of these once
/// more.
pub struct Before {
    values: Vec<(Arc<Parameter>, Tensor)>,
    optimizer: HashMap<String, Tensor>,
    average: Option<Average>,
}

impl Before {
    pub fn of(run: &Run) -> Result<Self> {
        // Values and averages are replaced by updates, moments may be changed where they are: only these are copied.
        let copy = |(name, tensor): (String, Tensor)| -> Result<(String, Tensor)> {
            let changes = tensor.device().is_cpu() && tensor.dtype() == DType::F32 && tensor.is_contiguous();
            Ok((name, if changes { tensor.copy()? } else { tensor }))
        };
        Ok(Self {
            values: run.store.trainable().map(|parameter| (parameter.clone(), parameter.get())).collect(),
            optimizer: run.optimizer.state().into_iter().map(copy).collect::<Result<_>>()?,
            average: run.average.clone(),
        })
    }

    /// Takes back all that was done since; `updates` is how many the run had made.
    pub fn put_back(self, run: &mut Run, updates: u64) -> Result<()> {
        self.values.into_iter().for_each(|(parameter, value)| parameter.set(value));
        run.average = self.average;
        run.optimizer.restore(run.store, self.optimizer, run.earlier + updates)
    }
}
