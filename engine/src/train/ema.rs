//! A moving average of what is trained (Polyak and Juditsky, 1992): steadier than the last step. It is what is validated,
//! and what is saved at the end; checkpoints have both.

use crate::{
    Error, Result,
    files::tensors,
    model::{Parameter, Store},
};
use api::Problem;
use candle_core::{DType, Device, Tensor};
use std::{collections::BTreeMap, path::Path, sync::Arc};

const FILE: &str = "ema.safetensors";

#[derive(Clone)]
pub struct Average {
    decay: f64,
    values: BTreeMap<String, (Arc<Parameter>, Tensor)>,
}

impl Average {
    /// Begins with the present values. None if `decay` is 0.
    pub fn new(store: &Store, decay: f64) -> Option<Self> {
        let value = |p: &Arc<Parameter>| (p.name.clone(), (p.clone(), p.get()));
        (decay > 0.0).then(|| Self { decay, values: store.trainable().map(value).collect() })
    }

    /// Takes up the present values.
    pub fn follow(&mut self) -> Result<()> {
        for (parameter, average) in self.values.values_mut() {
            let value = parameter.get().to_dtype(DType::F32)?;
            *average = ((average.to_dtype(DType::F32)? * self.decay)? + (value * (1.0 - self.decay))?)?;
        }
        Ok(())
    }

    /// Does `f` with the averages in the parameters' place.
    pub fn instead<T>(average: Option<&Self>, f: impl FnOnce() -> T) -> T {
        let Some(average) = average else { return f() };
        let swap = |(parameter, average): &(Arc<Parameter>, Tensor)| {
            let raw = (parameter.clone(), parameter.get());
            parameter.set(average.clone());
            raw
        };
        let raw: Vec<_> = average.values.values().map(swap).collect();
        let found = f();
        raw.into_iter().for_each(|(parameter, raw)| parameter.set(raw));
        found
    }

    /// Writes the averages into the folder of a checkpoint.
    pub fn save(&self, dir: &Path) -> Result<()> {
        let values = self.values.iter().map(|(name, (_, value))| (name.clone(), value.clone()));
        tensors::write(&dir.join(FILE), &values.collect())
    }

    /// Takes up what [`save`](Self::save) wrote.
    pub fn restore(&mut self, checkpoint: &Path) -> Result<()> {
        let path = checkpoint.join(FILE);
        let missing = || {
            let shown = path.display();
            Error::from(
                Problem::new(
                    "checkpoint_for_other_settings",
                    format!("{shown} has no moving average of this run, which ema_decay asks for."),
                    format!("{shown} 中没有 ema_decay 所需的滑动平均。"),
                )
                .hint("Resume with the ema_decay of the run that made it.", "请使用生成该检查点时的 ema_decay 来继续。")
                .field("ema_decay"),
            )
        };
        let mut saved = match path.exists() {
            true => candle_core::safetensors::load(&path, &Device::Cpu)?,
            false => return Err(missing()),
        };
        for (name, (parameter, average)) in &mut self.values {
            let value = saved.remove(name).filter(|v| v.shape() == average.shape()).ok_or_else(missing)?;
            *average = value.to_device(&parameter.device())?;
        }
        Ok(())
    }
}
