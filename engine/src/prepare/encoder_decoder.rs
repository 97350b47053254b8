//! What is special about preparing an encoder-decoder: the template that its sources have, and the settings that it has no
//! use for.

use super::{Opened, Settings};
use crate::{
    adapters::ADAPTERS,
    stages::{STAGES, Stage},
};
use api::{Problem, params::RopeScaling};

/// Name of the template that is none: see [`EMPTY`](crate::data::template::EMPTY).
pub const EMPTY: &str = "empty";

/// Settings of a run on an encoder-decoder that mean nothing there; none where the model is a decoder.
pub(super) fn refused(opened: &Opened, stage: Option<&dyn Stage>, settings: &Settings) -> Vec<Problem> {
    if !opened.config.is_encoder_decoder() {
        return Vec::new();
    }
    let Settings { model, data, train, quantization } = settings;
    let tuning = ADAPTERS.iter().find(|adapter| adapter.card().name == train.finetuning_type);
    let stages = STAGES.iter().filter(|stage| stage.trains_encoder_decoders()).map(|stage| stage.card().name);
    let tunings = ADAPTERS.iter().filter(|adapter| adapter.tunes_encoder_decoders()).map(|adapter| adapter.card().name);
    let given = [
        (quantization.quantization_bit.is_some(), "quantization_bit"),
        (model.rope_scaling != RopeScaling::Model, "rope_scaling"),
        (train.neftune_noise_alpha.is_some_and(|alpha| alpha > 0.0), "neftune_noise_alpha"),
        (train.gradient_checkpointing, "gradient_checkpointing"),
        (data.train_on_prompt, "train_on_prompt"),
    ];
    let mut problems = Vec::new();
    if stage.is_some_and(|stage| !stage.trains_encoder_decoders()) {
        problems.push(not_among("stage", &train.stage, stages.collect()));
    }
    if tuning.is_some_and(|tuning| !tuning.tunes_encoder_decoders()) {
        problems.push(not_among("finetuning_type", &train.finetuning_type, tunings.collect()));
    }
    problems.extend(given.into_iter().filter(|(given, _)| *given).map(|(_, field)| no_use(field)));
    problems
}

fn not_among(field: &str, value: &str, known: Vec<String>) -> Problem {
    Problem::new(
        "not_for_encoder_decoders",
        format!("{field} is {value}, but this model is an encoder-decoder (T5, mT5), which is not trained so."),
        format!("{field} 为 {value}，但此模型是编码器-解码器（T5、mT5），不能这样训练。"),
    )
    .hint(format!("Choose {}.", known.join(", ")), format!("可选：{}。", known.join("、")))
    .field(field)
}

fn no_use(field: &str) -> Problem {
    Problem::new(
        "not_for_encoder_decoders",
        format!("{field} is set, but this model is an encoder-decoder (T5, mT5), which has no such setting."),
        format!("已设置 {field}，但此模型是编码器-解码器（T5、mT5），没有这项设置。"),
    )
    .hint("Take it out.", "请去掉它。")
    .field(field)
}
