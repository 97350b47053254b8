//! All weights are trained; the result is a whole model.

use super::{Adapter, Base, Precision, Tuning, no_adapter_here};
use crate::{
    Error, Result,
    entry::Entry,
    files::export,
    model::{Attach, Layout, Network, Parameter, Store},
};
use api::{Card, Problems, RunConfig, Text};
use candle_core::DType;
use serde_json::json;
use std::{collections::BTreeMap, path::Path};

pub struct Full;

impl Entry for Full {
    fn card(&self) -> Card {
        Card {
            name: "full".into(),
            title: Text::new("Full", "全参数"),
            help: Text::new(
                "All weights are trained: learns most, needs about ten times the memory, and the result is a whole model.",
                "训练全部权重：学得最多，约需十倍内存，结果是完整的模型。",
            ),
            schema: json!({"type": "object", "properties": {}}),
        }
    }
}

impl Adapter for Full {
    fn start(&self, _: &RunConfig, previous: Option<&Path>) -> Result<Box<dyn Tuning>, Problems> {
        if let Some(dir) = previous {
            return Err(no_adapter_here(&dir.display().to_string()).into());
        }
        Ok(Box::new(AllWeights))
    }

    fn tunes_encoder_decoders(&self) -> bool {
        true
    }
}

struct AllWeights;

impl Attach for AllWeights {
    fn trains(&self, _: &str) -> bool {
        true
    }
}

impl Tuning for AllWeights {
    fn count(&self, layout: &dyn Layout) -> Result<(u64, Vec<String>)> {
        Ok((layout.parameters(), vec!["all".into()]))
    }

    fn saves_model(&self) -> bool {
        true
    }

    fn save(&self, dir: &Path, model: &dyn Network, _: &Store, base: &Base, precision: Precision) -> Result<()> {
        save_model(dir, model, base, precision)
    }
}

/// Writes all weights of a model as a Hugging Face folder.
pub(super) fn save_model(dir: &Path, model: &dyn Network, base: &Base, precision: Precision) -> Result<()> {
    let all: BTreeMap<&str, &Parameter> = model.parameters().into_iter().map(|p| (p.name.as_str(), p)).collect();
    let shape = |p: &&Parameter| Ok((p.name.clone(), p.stored(p.get())?.dims().to_vec()));
    let weights: Vec<_> = all.values().map(shape).collect::<Result<_>>()?;
    let tensor = |name: &str| {
        let parameter = all.get(name).ok_or_else(|| Error::Internal(format!("the model has no {name}")))?;
        parameter.stored(parameter.get())
    };
    let dtype = match precision {
        Precision::Exact => DType::F32,
        Precision::Storage => export::storage_type(base.files),
    };
    export::write_into(dir, base.files, &weights, SHARD, dtype, tensor, &mut |_, _| {})?;
    export::write_tokenizer(dir, base.files)
}

/// Largest file of a saved model, in bytes.
const SHARD: u64 = 5_000_000_000;
