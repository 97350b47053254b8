//! A value head: one number from each normalised last hidden state h, `v = w·h + b`. The reward model's score, the critic
//! of PPO. Names and file are those of TRL and LLaMA-Factory: `value_head.safetensors` with `v_head.summary.weight`
//! (1, hidden) and `v_head.summary.bias` (1).

use super::Setting;
use crate::{
    Error, Result,
    files::tensors,
    model::{Grads, Model, Parameter, Store},
    random::{Random, name_key},
};
use api::Problem;
use candle_core::{DType, Device, Tensor};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

/// The file in the folder of a checkpoint or of a result.
pub const FILE: &str = "value_head.safetensors";
/// What the names of its parameters begin with.
pub const PREFIX: &str = "v_head.";
const WEIGHT: &str = "v_head.summary.weight";
const BIAS: &str = "v_head.summary.bias";

#[derive(Debug)]
pub struct ValueHead {
    /// (1, hidden)
    weight: Arc<Parameter>,
    /// (1)
    bias: Arc<Parameter>,
}

impl ValueHead {
    /// One that is trained. It begins with that of the adapter or the model which the run goes on from, if there is one, and
    /// otherwise with random values as PyTorch's `Linear` has them.
    pub fn trained(setting: &Setting, store: &mut Store) -> Result<Self> {
        let (model, chosen) = (setting.model.decoder()?, &setting.prepared.model);
        // Of several adapters the last is the one that it goes on from.
        let previous = chosen.adapters().pop().map(PathBuf::from);
        let folders = previous.into_iter().chain([setting.prepared.files.path().to_path_buf()]);
        if let Some(dir) = folders.into_iter().find(|dir| dir.join(FILE).exists()) {
            return Self::trainable_from(&dir, model, store);
        }
        let (weight, bias) = random(model.config.hidden_size, setting.prepared.train.seed, &model.device)?;
        Ok(Self { weight: store.add(WEIGHT, weight), bias: store.add(BIAS, bias) })
    }

    /// One that is trained and begins with that of a folder.
    pub fn trainable_from(dir: &Path, model: &Model, store: &mut Store) -> Result<Self> {
        let (weight, bias) = read(dir, model.config.hidden_size, &model.device)?;
        Ok(Self { weight: store.add(WEIGHT, weight), bias: store.add(BIAS, bias) })
    }

    /// A frozen one: that of a folder which a run of the stage `rm` left.
    pub fn open(dir: &Path, model: &Model) -> Result<Self> {
        let (weight, bias) = read(dir, model.config.hidden_size, &model.device)?;
        Ok(Self { weight: Parameter::new(WEIGHT, weight, false), bias: Parameter::new(BIAS, bias, false) })
    }

    /// The value of each row of h (rows, hidden).
    pub fn forward(&self, h: &Tensor) -> Result<Vec<f32>> {
        let values = h.to_dtype(DType::F32)?.matmul(&self.weight.get().t()?)?.broadcast_add(&self.bias.get())?;
        Ok(values.flatten_all()?.to_vec1()?)
    }

    /// The gradient of h, given that of the value of each of its rows; adds those of weight and bias.
    pub fn backward(&self, h: &Tensor, gradient: &[f32], grads: &mut Grads) -> Result<Tensor> {
        let d = Tensor::from_slice(gradient, (gradient.len(), 1), h.device())?;
        grads.add(&self.weight, d.t()?.matmul(&h.to_dtype(DType::F32)?)?)?;
        grads.add(&self.bias, d.sum(0)?)?;
        Ok(d.matmul(&self.weight.get())?)
    }

    pub fn save(&self, dir: &Path) -> Result<()> {
        let named = [&self.weight, &self.bias].map(|parameter| (parameter.name.clone(), parameter.get()));
        tensors::write(&dir.join(FILE), &BTreeMap::from(named))
    }

    /// Takes up the values that [`save`](Self::save) wrote.
    pub fn restore(&self, dir: &Path) -> Result<()> {
        let present = self.weight.get();
        let (weight, bias) = read(dir, present.dim(1)?, present.device())?;
        self.weight.set(weight);
        self.bias.set(bias);
        Ok(())
    }
}

/// Weight and bias of a folder, in float32.
fn read(dir: &Path, hidden: usize, device: &Device) -> Result<(Tensor, Tensor)> {
    let path = dir.join(FILE);
    if !path.exists() {
        return Err(missing(dir).into());
    }
    let found = tensors::read(&path, device)?;
    let value = |name: &str, dims: &[usize]| -> Result<Tensor> {
        match found.get(name) {
            Some(tensor) if tensor.dims() == dims => Ok(tensor.to_dtype(DType::F32)?),
            other => Err(unfitting(&path, name, other.map(Tensor::dims), dims)),
        }
    };
    Ok((value(WEIGHT, &[1, hidden])?, value(BIAS, &[1])?))
}

/// Uniform within 1/√hidden.
fn random(hidden: usize, seed: u64, device: &Device) -> Result<(Tensor, Tensor)> {
    let bound = 1.0 / (hidden as f64).sqrt();
    let values = |name: &str, count: usize| -> Vec<f32> {
        let mut random = Random::new(seed, name_key(2, name));
        (0..count).map(|_| ((random.uniform() * 2.0 - 1.0) * bound) as f32).collect()
    };
    let weight = Tensor::from_vec(values(WEIGHT, hidden), (1, hidden), device)?;
    Ok((weight, Tensor::from_vec(values(BIAS, 1), 1, device)?))
}

fn missing(dir: &Path) -> Problem {
    let shown = dir.display();
    Problem::new("no_value_head", format!("{shown} has no {FILE}."), format!("{shown} 中没有 {FILE}。")).hint(
        "Choose the folder of a run of the stage rm, or of a reward model in that form.",
        "请选择 rm 阶段运行的文件夹，或同样形式的奖励模型。",
    )
}

fn unfitting(path: &Path, name: &str, found: Option<&[usize]>, wanted: &[usize]) -> Error {
    let (shown, found) = (path.display(), found.map_or("nothing".into(), |dims| format!("{dims:?}")));
    Problem::new(
        "value_head_for_another_model",
        format!("{shown} belongs to another model: {name} is {found}, this model needs {wanted:?}."),
        format!("{shown} 属于另一个模型：{name} 为 {found}，此模型需要 {wanted:?}。"),
    )
    .hint("Choose the model that the value head was trained on.", "请选择训练该价值头时所用的模型。")
    .into()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::kernels::device::gradients;

    fn head(hidden: usize) -> (ValueHead, Store) {
        let (mut store, (weight, bias)) = (Store::default(), random(hidden, 7, &Device::Cpu).unwrap());
        (ValueHead { weight: store.add(WEIGHT, weight), bias: store.add(BIAS, bias) }, store)
    }

    #[test]
    fn gradients_are_those_of_autograd() {
        let (head, _) = head(5);
        let h = Tensor::randn(0f32, 1.0, (3, 5), &Device::Cpu).unwrap();
        let d = [0.5f32, -2.0, 1.0];
        let mut grads = Grads::default();
        let dh = head.backward(&h, &d, &mut grads).unwrap();
        let plain = |[h, w, b]: [&Tensor; 3]| Ok(h.matmul(&w.t()?)?.broadcast_add(b)?);
        let (w, b) = (head.weight.get(), head.bias.get());
        let dy = Tensor::new(&d, &Device::Cpu).unwrap().unsqueeze(1).unwrap();
        let expected = gradients([&h, &w, &b], &dy, plain).unwrap();
        for (found, expected) in [&dh, grads.get(WEIGHT).unwrap(), grads.get(BIAS).unwrap()].into_iter().zip(&expected)
        {
            let off = (found - expected).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(off < 1e-6, "{off}");
        }
        let values = plain([&h, &w, &b]).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(head.forward(&h).unwrap(), values);
    }

    #[test]
    fn what_is_saved_is_restored_and_must_fit() {
        let dir = tempfile::tempdir().unwrap();
        let (saved, _) = head(6);
        assert_eq!(saved.restore(dir.path()).unwrap_err().into_problem().code, "no_value_head");
        saved.save(dir.path()).unwrap();
        let (other, _) = head(6);
        other.weight.set(Tensor::zeros((1, 6), DType::F32, &Device::Cpu).unwrap());
        other.restore(dir.path()).unwrap();
        assert_eq!(other.weight.get().to_vec2::<f32>().unwrap(), saved.weight.get().to_vec2::<f32>().unwrap());
        let problem = head(8).0.restore(dir.path()).unwrap_err().into_problem();
        assert_eq!(problem.code, "value_head_for_another_model");
        assert!(problem.message.contains("[1, 6]") && problem.message.contains("[1, 8]"), "{problem}");
    }
}
