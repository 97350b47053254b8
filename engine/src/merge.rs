//! Export: the adapter merged into its model, written as a Hugging Face folder.

use crate::{
    Error, Places, Result,
    files::export::{self, write_model},
    loaded::Loaded,
};
use api::{
    Event, Outcome, Problem, Problems, RunConfig, Text,
    params::{self, ComputeType, ExportParams, ModelParams},
};
use candle_core::{DType, Tensor};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

/// Arguments of an export, checked; all problems at once.
pub fn arguments(config: &RunConfig) -> Result<(ModelParams, ExportParams)> {
    let schemas = [params::schema::<ModelParams>(), params::schema::<ExportParams>()];
    let mut problems = Problems(params::check_keys(config, &schemas, &["finetuning_type"]));
    let model = params::read::<ModelParams>(config).map_err(|p| problems.0.extend(p.0));
    let export = params::read::<ExportParams>(config).map_err(|p| problems.0.extend(p.0));
    let (Ok(model), Ok(export), true) = (model, export, problems.is_empty()) else { return Err(problems.into()) };
    if export.export_legacy_format {
        return Err(Problem::new(
            "legacy_format",
            "export_legacy_format is true, but Lathe writes no pickle files.",
            "export_legacy_format 为 true，但 Lathe 不写 pickle 文件。",
        )
        .hint("Take it out: transformers reads safetensors.", "请去掉它：transformers 可读取 safetensors。")
        .field("export_legacy_format")
        .into());
    }
    Ok((model, export))
}

/// Merges and writes; `id` names the folder where `export_dir` doesn't.
pub fn export(
    config: &RunConfig,
    id: &str,
    places: &Places,
    sink: &mut dyn FnMut(Event) -> Result<()>,
    stop: &AtomicBool,
) -> Result<Outcome> {
    let (model, params) = arguments(config)?;
    let dir = params.export_dir.as_deref().filter(|d| !d.is_empty());
    let dir = dir.map_or_else(|| places.exports().join(id), PathBuf::from);
    // Whole in the artifact: what reads the event stands elsewhere.
    let dir = std::path::absolute(&dir).unwrap_or(dir);
    refuse_existing(&dir)?;
    sink(Event::Status { text: Text::new("Loading the model", "正在加载模型"), done: 0, total: 0 })?;
    let loaded = Loaded::open_on(&ModelParams { train_from_scratch: false, ..model }, places, ComputeType::Fp32, None)?;
    if let Some(tuning) = &loaded.tuning {
        tuning.merges()?;
    }
    let dtype = match params.export_dtype.as_deref() {
        Some("float32") => DType::F32,
        Some("bfloat16") => DType::BF16,
        Some("float16") => DType::F16,
        _ => export::storage_type(&loaded.files),
    };
    let tensors = merged(&loaded)?;
    let shard = (params.export_size * 1e9) as u64;
    let tensor = |name: &str| -> Result<Tensor> {
        if stop.load(Ordering::Relaxed) {
            return Err(Error::Internal("stopped".into()));
        }
        tensors.get(name).cloned().map_or_else(|| loaded.files.tensor(name, DType::F32, &candle_core::Device::Cpu), Ok)
    };
    let mut told = Ok(());
    let written =
        write_model(&dir, &loaded.files, &export::stored(&loaded.files)?, shard, dtype, tensor, &mut |done, total| {
            let event = Event::Status { text: Text::new("Writing the model", "正在写出模型"), done, total };
            if told.is_ok() {
                told = sink(event);
            }
        });
    if stop.load(Ordering::Relaxed) {
        return Ok(Outcome::Stopped);
    }
    written?;
    told?;
    let bytes = crate::train::checkpoint::folder_bytes(&dir);
    sink(Event::Artifact { path: dir.display().to_string(), bytes })?;
    Ok(Outcome::Succeeded)
}

/// What an adapter changed, by name: merged linears, and base parameters that were trained or that came with it.
fn merged(loaded: &Loaded) -> Result<BTreeMap<String, Tensor>> {
    let mut all = BTreeMap::new();
    if loaded.tuning.is_none() {
        return Ok(all);
    }
    for parameter in loaded.model.parameters() {
        all.insert(parameter.name.clone(), parameter.stored(parameter.get())?);
    }
    for (_, linear) in loaded.model.linears().into_iter().filter(|(_, linear)| linear.is_adapted()) {
        let (weight, bias) = linear.merged()?;
        all.insert(linear.weight.name.clone(), linear.weight.stored(weight)?);
        all.extend(linear.bias.as_ref().zip(bias).map(|(parameter, bias)| (parameter.name.clone(), bias)));
    }
    Ok(all)
}

fn refuse_existing(dir: &Path) -> Result<()> {
    let occupied = std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some());
    if !occupied {
        return Ok(());
    }
    let shown = dir.display();
    Err(Problem::new("export_exists", format!("{shown} is not empty."), format!("{shown} 不是空文件夹。"))
        .hint("Choose another export_dir, or delete it first.", "请换一个 export_dir，或先将其删除。")
        .field("export_dir")
        .into())
}
