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

/// A problem if the tuning changes weights that would be quantised.
pub fn check(params: &QuantizationParams, tuning: &dyn Tuning, layout: &dyn Layout, name: &str) -> Result<()> {
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
