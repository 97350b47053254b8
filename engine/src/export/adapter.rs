//! The adapter alone: as a PEFT folder, or a LoRA as GGUF, which llama.cpp puts on a GGUF of the base.

use super::gguf;
use crate::{
    Error, Result,
    files::{
        ModelFiles,
        adapter::{AdapterConfig, read_adapter},
        gguf::{Value, read_header},
        gguf_config,
        gguf_write::{self, Planned},
        source::Source,
    },
    model::DecoderConfig,
};
use api::Problem;
use candle_core::{DType, Device, Tensor, quantized::GgmlDType};
use std::{collections::BTreeMap, path::Path};

/// Writes the LoRA of a PEFT folder as the file `path`, in float32 as llama.cpp's converter does by default for small tensors.
pub fn write_gguf(path: &Path, files: &ModelFiles, config: &DecoderConfig, folder: &Path, name: &str) -> Result<()> {
    let tensors = read(files, config, folder)?;
    let metadata = [
        ("general.architecture", Value::Text(gguf::architecture(files)?.gguf.into())),
        ("general.type", Value::Text("adapter".into())),
        ("general.name", Value::Text(name.into())),
        ("general.file_type", Value::Uint(0)),
        ("general.quantization_version", Value::Uint(2)),
        ("adapter.type", Value::Text("lora".into())),
        ("adapter.lora.alpha", Value::Float32(alpha(&read_adapter(folder, &Device::Cpu)?.0)?)),
    ];
    let metadata = metadata.map(|(key, value)| (key.to_string(), value));
    let planned = |(name, tensor): (&String, &Tensor)| Planned {
        name: name.clone(),
        kind: GgmlDType::F32,
        shape: tensor.dims().to_vec(),
    };
    let plan: Vec<Planned> = tensors.iter().map(planned).collect();
    let find = |planned: &Planned| {
        let found = tensors.get(&planned.name).cloned();
        found.ok_or_else(|| Error::Internal(format!("{} isn't there", planned.name)))
    };
    gguf_write::write(path, &metadata, &plan, find, &mut |_, _| {})
}

/// The factors of a LoRA by their names in GGUF.
pub fn read(files: &ModelFiles, config: &DecoderConfig, folder: &Path) -> Result<BTreeMap<String, Tensor>> {
    let (settings, tensors) = read_adapter(folder, &Device::Cpu)?;
    if settings.peft_type != "LORA" || settings.use_dora {
        let kind = if settings.use_dora { "DoRA" } else { &settings.peft_type };
        return Err(no_lora(kind).into());
    }
    alpha(&settings)?;
    let architecture = gguf::architecture(files)?;
    let mut all = BTreeMap::new();
    for (name, tensor) in tensors {
        let tensor = tensor.to_dtype(DType::F32)?;
        let (module, part) = match (name.strip_suffix(".lora_A.weight"), name.strip_suffix(".lora_B.weight")) {
            (Some(module), _) => (module, "lora_a"),
            (_, Some(module)) => (module, "lora_b"),
            _ => return Err(no_lora(&name).into()),
        };
        let weight = gguf_config::gguf_name(&format!("{module}.weight")).ok_or_else(|| gguf::no_tensor(module))?;
        let heads = architecture.heads_of(&weight, config.heads, config.kv_heads).filter(|_| part == "lora_b");
        let tensor = heads.map_or(Ok(tensor.clone()), |heads| gguf::permute(&tensor, heads))?;
        all.insert(format!("{weight}.{part}"), tensor);
    }
    Ok(all)
}

/// llama.cpp multiplies by alpha over rank.
fn alpha(settings: &AdapterConfig) -> Result<f32> {
    if !settings.rank_pattern.is_empty() || !settings.alpha_pattern.is_empty() {
        return Err(no_lora("rank_pattern, alpha_pattern").into());
    }
    let factor = if settings.use_rslora { (settings.r as f64).sqrt() } else { 1.0 };
    Ok((settings.lora_alpha * factor) as f32)
}

fn no_lora(what: &str) -> Problem {
    Problem::new(
        "gguf_no_lora",
        format!("Only a plain LoRA is written as a GGUF of its own; this adapter has {what}."),
        format!("只有普通 LoRA 可以单独导出为 GGUF；此适配器含有 {what}。"),
    )
    .hint(
        "Export the merged model with export_format: gguf, or the adapter with export_format: adapter.",
        "请使用 export_format: gguf 导出合并后的模型，或使用 export_format: adapter 导出适配器。",
    )
    .field("export_format")
}

/// Reads a LoRA as GGUF again: a problem unless it has these tensors, to the bit.
pub fn check(path: &Path, tensors: &BTreeMap<String, Tensor>) -> Result<()> {
    let source = Source::open(path)?;
    let found = read_header(&source)?.tensors;
    let whole = found.len() == tensors.len();
    let same = found.iter().map(|info| {
        let tensor = tensors.get(&info.name).filter(|tensor| tensor.dims() == info.shape);
        let wanted = tensor.map(|tensor| gguf_write::encoded(tensor, info.dtype)).transpose()?;
        Ok(wanted.is_some_and(|wanted| source.read(info.offset, info.size).is_ok_and(|bytes| bytes == wanted)))
    });
    if whole && same.collect::<Result<Vec<bool>>>()?.into_iter().all(|same| same) {
        return Ok(());
    }
    Err(Problem::new(
        "export_differs",
        "The export was taken back: read again, it has other tensors than the adapter.",
        "导出已撤回：重新读取后，其张量与适配器不同。",
    )
    .hint("Export again, and report it if it stays.", "请重新导出；若仍如此，请反馈此问题。")
    .into())
}
