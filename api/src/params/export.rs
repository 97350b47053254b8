//! What an export writes, by LLaMA-Factory's names where it has them.

use crate::catalog::{main_ui, ui};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Parameters of an export besides those of the model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ExportParams {
    /// Kind of the export: a model folder (hf), the adapter alone (adapter), a GGUF file for llama.cpp and Ollama (gguf), a LoRA
    /// as GGUF (gguf-lora).
    #[schemars(extend("ui" = main_ui(["Format", "格式"], "导出的种类：完整模型文件夹（hf）、仅适配器（adapter）、供 llama.cpp 与 Ollama 使用的 GGUF 文件（gguf）、GGUF 形式的 LoRA（gguf-lora）。", ["", ""])))]
    pub export_format: ExportFormat,
    /// What weights are rounded to. The K kinds and those of fewer bits are of GGUF alone. Empty: as the base model has them.
    #[schemars(extend("ui" = main_ui(["Quantisation", "量化"], "权重舍入为哪种类型。K 类与更少位数的类型仅用于 GGUF。留空则与基础模型相同。", ["Fewer bits: smaller and faster, less exact; q4_k_m is usual", "位数更少：更小更快，精度略降；常用 q4_k_m"]), "enum" = ["f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_0", null]))]
    pub export_quantization: Option<String>,
    /// Folder for the export. Empty: a folder of its own in the data folder of Lathe.
    #[schemars(extend("ui" = main_ui(["Folder", "文件夹"], "导出结果放在哪里。留空则在 Lathe 的数据文件夹中新建。", ["", ""])))]
    pub export_dir: Option<String>,
    /// Largest file of a model folder; bigger models are split.
    #[schemars(range(min = 0.000001, max = 1000.0), extend("ui" = main_ui(["Largest file", "单文件上限"], "模型文件夹中单个文件的上限，更大的模型会分片。", ["", ""]), "unit" = "GB"))]
    pub export_size: f64,
    /// Storage type of the weights, by PyTorch's name; export_quantization says it, too.
    #[schemars(extend("ui" = ui(["Precision", "精度"], "权重的存储类型（PyTorch 名称）；也可用 export_quantization 指定。", ["float32 is exact and twice as large", "float32 精确，体积翻倍"]), "enum" = ["float32", "bfloat16", "float16", null]))]
    pub export_dtype: Option<String>,
    /// Write PyTorch .bin files. Lathe writes safetensors only.
    #[schemars(extend("ui" = ui(["Legacy format", "旧格式"], "写 PyTorch .bin 文件。Lathe 只写 safetensors。", ["", ""])))]
    pub export_legacy_format: bool,
}

impl Default for ExportParams {
    fn default() -> Self {
        Self {
            export_format: ExportFormat::Hf,
            export_quantization: None,
            export_dir: None,
            export_size: 5.0,
            export_dtype: None,
            export_legacy_format: false,
        }
    }
}

impl ExportParams {
    /// What `export_quantization` or `export_dtype` ask for, the former before the latter.
    pub fn quantization(&self) -> Option<ExportQuantization> {
        let asked = self.export_quantization.as_deref().or(self.export_dtype.as_deref())?;
        ExportQuantization::ALL.into_iter().find(|one| one.name() == asked || one.dtype() == Some(asked))
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum ExportFormat {
    #[default]
    Hf,
    Adapter,
    Gguf,
    GgufLora,
}

/// What weights are rounded to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportQuantization {
    F32,
    F16,
    Bf16,
    Q8_0,
    Q6K,
    Q5KM,
    Q4KM,
    Q4_0,
}

impl ExportQuantization {
    pub const ALL: [Self; 8] =
        [Self::F32, Self::F16, Self::Bf16, Self::Q8_0, Self::Q6K, Self::Q5KM, Self::Q4KM, Self::Q4_0];

    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Q8_0 => "q8_0",
            Self::Q6K => "q6_k",
            Self::Q5KM => "q5_k_m",
            Self::Q4KM => "q4_k_m",
            Self::Q4_0 => "q4_0",
        }
    }

    /// PyTorch's name of those that are no blocks.
    pub fn dtype(self) -> Option<&'static str> {
        match self {
            Self::F32 => Some("float32"),
            Self::F16 => Some("float16"),
            Self::Bf16 => Some("bfloat16"),
            _ => None,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Every word that the schema offers is one that is understood.
    #[test]
    fn every_quantization_that_is_offered_is_known() {
        let schema = crate::params::schema::<ExportParams>();
        for (key, count) in [("export_quantization", 8), ("export_dtype", 3)] {
            let words: Vec<_> =
                schema["properties"][key]["enum"].as_array().unwrap().iter().filter_map(|w| w.as_str()).collect();
            assert_eq!(words.len(), count);
            for word in words {
                let params = match key {
                    "export_dtype" => ExportParams { export_dtype: Some(word.into()), ..Default::default() },
                    _ => ExportParams { export_quantization: Some(word.into()), ..Default::default() },
                };
                assert!(params.quantization().is_some(), "{word}");
            }
        }
    }
}
