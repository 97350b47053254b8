//! A base that is kept in few bits while an adapter is trained on it (QLoRA), by LLaMA-Factory's names and defaults.

use crate::catalog::ui;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct QuantizationParams {
    /// Bits in which the linears of the frozen model are kept: 4 (NF4) or 8 (integers, a scale for each row). The blocks of a
    /// quantised GGUF file are kept as they are. Empty: as the model's files have them.
    #[schemars(extend("ui" = ui(["Quantised base", "量化基座"], "冻结模型的线性层以多少位保存：4（NF4）或 8（整数，每行一个缩放）。已量化的 GGUF 文件保持其原有分块。留空则按模型文件。", ["4: QLoRA, an eighth of the memory of float32, a little less exact", "4：即 QLoRA，占用约为 float32 的八分之一，精度略降"]), "enum" = [4, 8, null]))]
    pub quantization_bit: Option<u32>,
    /// Kind of the 4-bit codes.
    #[schemars(extend("ui" = ui(["4-bit codes", "4 位编码"], "4 位编码的种类。", ["", ""])))]
    pub quantization_type: QuantizationType,
    /// Quantise the scales of the 4-bit blocks too.
    #[schemars(extend("ui" = ui(["Double quantisation", "双重量化"], "4 位分块的缩放也再次量化。", ["On: saves another tenth of the base", "开启：基座再省约十分之一"])))]
    pub double_quantization: bool,
    /// Whose way of quantising: that of bitsandbytes.
    #[schemars(extend("ui" = ui(["Quantisation method", "量化方法"], "采用何种量化方法：bitsandbytes 的方法。", ["", ""])))]
    pub quantization_method: QuantizationMethod,
}

impl Default for QuantizationParams {
    fn default() -> Self {
        Self {
            quantization_bit: None,
            quantization_type: QuantizationType::Nf4,
            double_quantization: true,
            quantization_method: QuantizationMethod::Bnb,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum QuantizationType {
    #[default]
    Nf4,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum QuantizationMethod {
    #[default]
    Bnb,
}
