//! A model as a run or a conversation opens it: files, family, tokenizer and template; no weights are loaded yet.

use super::encoder_decoder::EMPTY;
use crate::{
    Places, Result,
    data::{self, ChatTemplate, EncodeOptions, Encoder, SpecialTokens},
    files::{ModelFiles, ModelTokenizer, adapter, locate},
    model::{ModelConfig, encoder_decoder::EncoderDecoderConfig, families::family},
};
use api::{
    Problem,
    params::{DataParams, ModelParams, RopeScaling},
};
use serde_json::json;
use std::path::Path;

/// A model's files with all that is needed to talk to it.
pub struct Opened {
    pub files: ModelFiles,
    pub config: ModelConfig,
    pub family: String,
    pub tokenizer: ModelTokenizer,
    pub template: ChatTemplate,
    /// `model` or the name of the template.
    pub template_name: String,
    /// Rows of the vocabulary in the files and now, if tokens were added that need more.
    pub grown: Option<[u64; 2]>,
}

/// Opens a model: its files, family, tokenizer and template.
pub fn open(params: &ModelParams, places: &Places) -> Result<Opened> {
    if params.model_name_or_path.is_empty() {
        return Err(Problem::new("no_model", "No model is chosen.", "未选择模型。")
            .hint("Set model_name_or_path, for example to starter.", "请设置 model_name_or_path，例如 starter。")
            .field("model_name_or_path")
            .into());
    }
    let path = locate::locate(&params.model_name_or_path, places)?;
    let mut files =
        if params.train_from_scratch { ModelFiles::open_untrained(&path)? } else { ModelFiles::open(&path)? };
    for dir in params.adapters().into_iter().map(Path::new) {
        if let Some(rows) = adapter::vocabulary(dir)? {
            files.take_vocabulary(dir, rows);
        }
    }
    let grown = files.add_tokens(&params.add_tokens, &params.add_special_tokens, params.resize_vocab)?;
    let (config, family) = understood(&files, params)?;
    let mut tokenizer = files.tokenizer()?;
    if let (None, ModelConfig::EncoderDecoder(config)) = (&tokenizer.eos, &config) {
        let word = |id: &u32| Some((tokenizer.tokenizer.id_to_token(*id)?, *id));
        tokenizer.eos = config.eos.first().and_then(word);
    }
    let named = params.template.as_deref().filter(|name| !["model", "default"].contains(name));
    let (source, template_name) = match (named, &tokenizer.chat_template) {
        (Some(EMPTY), _) | (None, None) if config.is_encoder_decoder() => {
            (data::template::EMPTY.to_string(), EMPTY.to_string())
        }
        (Some(name), _) => (data::template::find(name)?.to_string(), name.to_string()),
        (None, Some(own)) => (own.clone(), "model".to_string()),
        (None, None) => (data::template::find("default")?.to_string(), "default".to_string()),
    };
    let word = |token: &Option<(String, u32)>| token.as_ref().map(|(word, _)| word.clone());
    let (bos, eos) = (word(&tokenizer.bos), word(&tokenizer.eos));
    let mut template = ChatTemplate::new(&source, bos.as_deref(), eos.as_deref())?;
    if let (Some(tool_use), "model") = (&tokenizer.tool_template, template_name.as_str()) {
        template = template.with_tools(ChatTemplate::new(tool_use, bos.as_deref(), eos.as_deref())?);
    }
    Ok(Opened { files, config, family, tokenizer, template, template_name, grown })
}

/// What the config.json of a model says, and its family's name.
fn understood(files: &ModelFiles, params: &ModelParams) -> Result<(ModelConfig, String)> {
    let mut raw = files.config().clone();
    if EncoderDecoderConfig::is_one(&raw) {
        let name = raw["model_type"].as_str().unwrap_or_default().to_string();
        return Ok((ModelConfig::EncoderDecoder(EncoderDecoderConfig::of(files, &raw)?), name));
    }
    let family = family(&raw)?;
    stretch(&mut raw, params.rope_scaling);
    Ok((ModelConfig::Decoder(Box::new(family.config(&raw)?)), family.card().name))
}

/// The encoder of an opened model.
pub fn encoder(opened: &Opened, params: &DataParams) -> Result<Encoder> {
    let special = SpecialTokens { bos: opened.tokenizer.bos.clone(), eos: opened.tokenizer.eos.clone() };
    let options = EncodeOptions {
        train_on_prompt: params.train_on_prompt,
        mask_history: params.mask_history,
        extra: data::template::variables(params.enable_thinking),
        sources: opened.config.is_encoder_decoder(),
    };
    Encoder::new(opened.tokenizer.tokenizer.clone(), opened.template.clone(), special, options)
}

/// Puts `rope_scaling` of the run into the model's configuration, with transformers' usual factors.
fn stretch(config: &mut serde_json::Value, scaling: RopeScaling) {
    let context = config["max_position_embeddings"].as_u64().unwrap_or(2048);
    let kind = match scaling {
        RopeScaling::Model => return,
        RopeScaling::Linear => "linear",
        RopeScaling::Dynamic => "dynamic",
        RopeScaling::Yarn => "yarn",
        RopeScaling::Llama3 => "llama3",
    };
    let theta = config["rope_theta"].as_f64().or(config["rope_parameters"]["rope_theta"].as_f64()).unwrap_or(10_000.0);
    config["rope_parameters"] = json!({
        "rope_type": kind, "factor": STRETCH, "rope_theta": theta, "original_max_position_embeddings": context,
        "low_freq_factor": 1.0, "high_freq_factor": 4.0
    });
    // The dynamic kind grows with each text from the context that the model was trained on, as transformers does: there
    // `max_position_embeddings` stays. The others say the length that they stretch to.
    if scaling != RopeScaling::Dynamic {
        config["max_position_embeddings"] = json!(context.saturating_mul(STRETCH));
    }
}

/// How many times longer the stretched context is.
const STRETCH: u64 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretching_lengthens_the_context_of_every_kind_but_the_dynamic() {
        for (scaling, kind, context) in [
            (RopeScaling::Linear, "linear", 4096),
            (RopeScaling::Dynamic, "dynamic", 2048),
            (RopeScaling::Yarn, "yarn", 4096),
            (RopeScaling::Llama3, "llama3", 4096),
        ] {
            let mut config = json!({"max_position_embeddings": 2048, "rope_theta": 5e5});
            stretch(&mut config, scaling);
            let rope = &config["rope_parameters"];
            assert_eq!(config["max_position_embeddings"], context, "{kind}");
            assert_eq!(
                (&rope["rope_type"], &rope["factor"], &rope["rope_theta"]),
                (&json!(kind), &json!(2), &json!(5e5))
            );
            assert_eq!(rope["original_max_position_embeddings"], 2048);
        }
        let mut config = json!({"max_position_embeddings": 2048});
        stretch(&mut config, RopeScaling::Model);
        assert_eq!(config, json!({"max_position_embeddings": 2048}));
    }
}
