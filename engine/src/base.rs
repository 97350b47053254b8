//! How the base that an adapter is trained on is kept in memory: from `quantization_bit` to a [`Quantisation`].

use crate::{Result, adapters::Tuning, kernels::quantised::Quantisation, model::Layout};
use api::{Problem, params::QuantizationParams};

/// What was asked for, if the model is to be quantised.
pub fn quantisation(params: &QuantizationParams) -> Option<Quantisation> {
    match params.quantization_bit {
        Some(4) => Some(Quantisation::Nf4 { double: params.double_quantization }),
        Some(_) => Some(Quantisation::Int8),
        None => None,
    }
}

/// Values of a model that are quantised, and the bytes that they take then.
pub fn size(quantisation: Quantisation, layout: &dyn Layout) -> (u64, u64) {
    let values = layout.layer_linears().iter().map(|linear| (linear.inp * linear.out) as u64).sum();
    (values, quantisation.bytes(values))
}

/// Bytes of a base of so many parameters, each of `size` bytes where it isn't quantised.
pub fn bytes(parameters: u64, size: u64, quantised: Option<(u64, u64)>) -> u64 {
    let (values, bytes) = quantised.unwrap_or_default();
    parameters.saturating_sub(values) * size + bytes
}

/// A problem if the tuning trains weights that would be quantised, or changes them before.
pub fn check(params: &QuantizationParams, tuning: &dyn Tuning, layout: &dyn Layout, name: &str) -> Result<()> {
    if let (Some(bits), Some(field)) = (params.quantization_bit, tuning.changes_base()) {
        return Err(changed(bits, field).into());
    }
    let names = layout.linears().into_iter().map(|linear| linear.name);
    let trained = names.into_iter().find(|linear| tuning.trains(&format!("{linear}.weight")));
    let (Some(bits), Some(linear)) = (params.quantization_bit, trained) else { return Ok(()) };
    Err(Problem::new(
        "quantised_and_trained",
        format!("quantization_bit is {bits}, but {name} trains {linear}, and quantised weights can't be trained."),
        format!("quantization_bit 为 {bits}，但 {name} 会训练 {linear}，而量化后的权重无法训练。"),
    )
    .hint(
        "Take quantization_bit out, or choose an adapter such as lora as finetuning_type.",
        "请去掉 quantization_bit，或将 finetuning_type 设为 lora 等适配器。",
    )
    .field("quantization_bit")
    .into())
}

fn changed(bits: u32, field: &str) -> Problem {
    let problem = match field {
        "adapter_name_or_path" => Problem::new(
            "quantised_and_changed",
            format!("quantization_bit is {bits}, but adapters would be merged into the base, and quantised weights take none."),
            format!("quantization_bit 为 {bits}，但有适配器需要合并进基座，而量化后的权重无法合并。"),
        )
        .hint(
            "Export base and adapters as one model and start from that, or take quantization_bit out.",
            "请先将基座与适配器导出为一个模型再从它开始，或去掉 quantization_bit。",
        ),
        _ => Problem::new(
            "quantised_and_changed",
            format!("quantization_bit is {bits}, but PiSSA and OLoRA take what they begin with from the weights, and quantised weights can't lose it."),
            format!("quantization_bit 为 {bits}，但 PiSSA 与 OLoRA 的初值取自权重，而量化后的权重无法减去它。"),
        )
        .hint(
            "Begin with init_lora_weights: true and pissa_init: false, or take quantization_bit out.",
            "请以 init_lora_weights: true、pissa_init: false 开始，或去掉 quantization_bit。",
        ),
    };
    problem.field(field)
}
