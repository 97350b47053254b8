//! A folder shaped like mT5 without weights: a Unigram tokenizer learned from texts, which ends each with `</s>`, and a
//! small configuration.

use serde_json::{Value, json};
use std::{fs, path::Path};
use tokenizers::{
    AddedToken, Tokenizer,
    decoders::metaspace::Metaspace as Decoder,
    models::{
        TrainerWrapper,
        unigram::{Unigram, UnigramTrainer},
    },
    normalizers::unicode::NFKC,
    pre_tokenizers::metaspace::{Metaspace, PrependScheme},
    processors::template::TemplateProcessing,
};

pub type Failure = Box<dyn std::error::Error>;

/// Their ids are their places, as in T5.
const SPECIALS: [&str; 3] = ["<pad>", "</s>", "<unk>"];

/// Sizes of a model; each of encoder and decoder has `layers`.
pub struct Size {
    pub vocabulary: u32,
    pub width: usize,
    pub heads: usize,
    pub layers: usize,
}

/// Writes the folder.
pub fn write(folder: &Path, texts: &[String], size: &Size) -> Result<(), Failure> {
    fs::create_dir_all(folder)?;
    let tokenizer = tokenizer(texts, size.vocabulary)?;
    tokenizer.save(folder.join("tokenizer.json"), false).map_err(|e| e.to_string())?;
    let words = json!({
        "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>", "model_max_length": 512,
        "tokenizer_class": "PreTrainedTokenizerFast"
    });
    save(folder, "tokenizer_config.json", &words)?;
    let config = json!({
        "architectures": ["MT5ForConditionalGeneration"], "model_type": "mt5", "is_encoder_decoder": true,
        "vocab_size": tokenizer.get_vocab_size(true), "d_model": size.width, "d_kv": size.width / size.heads,
        "d_ff": 2 * size.width, "num_heads": size.heads, "num_layers": size.layers,
        "num_decoder_layers": size.layers, "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128, "dropout_rate": 0.0, "layer_norm_epsilon": 1e-6,
        "feed_forward_proj": "gated-gelu", "initializer_factor": 1.0, "tie_word_embeddings": false,
        "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0, "torch_dtype": "float32"
    });
    save(folder, "config.json", &config)?;
    let generation = json!({"decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 0});
    save(folder, "generation_config.json", &generation)
}

fn tokenizer(texts: &[String], vocabulary: u32) -> Result<Tokenizer, Failure> {
    let mut tokenizer = Tokenizer::new(Unigram::default());
    tokenizer.with_normalizer(Some(NFKC)).map_err(|e| e.to_string())?;
    tokenizer.with_pre_tokenizer(Some(Metaspace::new('▁', PrependScheme::Always, true)));
    tokenizer.with_decoder(Some(Decoder::new('▁', PrependScheme::Always, true)));
    let trainer = UnigramTrainer::builder()
        .vocab_size(vocabulary)
        .show_progress(false)
        .special_tokens(SPECIALS.iter().map(|s| AddedToken::from(*s, true)).collect())
        .unk_token(Some("<unk>".into()))
        .build()
        .map_err(|e| e.to_string())?;
    let mut trainer = TrainerWrapper::from(trainer);
    tokenizer.train(&mut trainer, texts.iter().map(String::as_str)).map_err(|e| e.to_string())?;
    let ends = TemplateProcessing::builder()
        .try_single("$A </s>")?
        .special_tokens(vec![("</s>", 1)])
        .build()
        .map_err(|e| e.to_string())?;
    tokenizer.with_post_processor(Some(ends));
    Ok(tokenizer)
}

fn save(folder: &Path, name: &str, value: &Value) -> Result<(), Failure> {
    Ok(fs::write(folder.join(name), format!("{}\n", serde_json::to_string_pretty(value)?))?)
}
