//! The starter's byte-level BPE tokenizer and the files that stand beside it, in Hugging Face's layout.

use super::{Chat, Failure};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use tokenizers::decoders::byte_level::ByteLevel;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior, Tokenizer};

pub const VOCAB: usize = 4096;
/// Their ids are their places: 0 pads and ends a document, 1 opens a message, 2 closes it.
const SPECIALS: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];

/// Qwen2's pre-tokenizer, which other programs know by name when the model becomes a GGUF file.
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// While it learns, each Chinese character stands alone: no token spans two, and any can follow any.
const HAN: &str = r"\p{Han}";

pub const CHAT_TEMPLATE: &str = "{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
";

/// A conversation as [`CHAT_TEMPLATE`] renders it, but for the end of the last answer: the pt stage ends every text
/// with the end-of-text token, which here is `<|im_end|>`.
pub fn render(chat: &Chat) -> String {
    let mut text = String::new();
    let mut say = |role: &str, content: &str| {
        text.push_str(&format!("<|im_start|>{role}\n{content}<|im_end|>\n"));
    };
    if let Some(system) = &chat.system {
        say("system", system);
    }
    for (user, answer) in &chat.turns {
        say("user", user);
        say("assistant", answer);
    }
    text.trim_end_matches("<|im_end|>\n").to_string()
}

/// Learns the merges from `texts`.
pub fn train(texts: &[String]) -> Result<Tokenizer, Failure> {
    let split = |pattern: &str| {
        Split::new(SplitPattern::Regex(pattern.into()), SplitDelimiterBehavior::Isolated, false)
            .map(PreTokenizerWrapper::Split)
            .map_err(|e| e.to_string())
    };
    let bytes = || PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, false, false));
    let mut tokenizer = Tokenizer::new(BPE::default());
    tokenizer.with_pre_tokenizer(Some(Sequence::new(vec![split(HAN)?, split(QWEN2)?, bytes()])));
    tokenizer.with_decoder(Some(ByteLevel::new(false, false, false)));
    let specials: Vec<AddedToken> = SPECIALS.iter().map(|s| AddedToken::from(*s, true)).collect();
    let trainer = BpeTrainer::builder()
        .vocab_size(VOCAB)
        .show_progress(false)
        .special_tokens(specials)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    let mut trainer = TrainerWrapper::from(trainer);
    tokenizer.train(&mut trainer, texts.iter().map(String::as_str)).map_err(|e| e.to_string())?;
    tokenizer.with_pre_tokenizer(Some(Sequence::new(vec![split(QWEN2)?, bytes()])));
    Ok(tokenizer)
}

/// Everything of a model folder but the weights.
pub fn write(folder: &Path, tokenizer: &Tokenizer) -> Result<(), Failure> {
    fs::create_dir_all(folder)?;
    tokenizer.save(folder.join("tokenizer.json"), false).map_err(|e| e.to_string())?;
    let token = |content: &str| json!({"content": content, "lstrip": false, "normalized": false, "rstrip": false, "single_word": false, "special": true});
    let added: serde_json::Map<String, Value> =
        SPECIALS.iter().enumerate().map(|(i, s)| (i.to_string(), token(s))).collect();
    let config = json!({
        "added_tokens_decoder": added,
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
        "bos_token": null,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": null,
        "clean_up_tokenization_spaces": false,
        "model_max_length": 1024,
        "tokenizer_class": "PreTrainedTokenizerFast"
    });
    save(folder, "tokenizer_config.json", &config)?;
    let specials = json!({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"], "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"});
    save(folder, "special_tokens_map.json", &specials)?;
    save(folder, "config.json", &model_config())?;
    save(
        folder,
        "generation_config.json",
        &json!({"eos_token_id": [2, 0], "pad_token_id": 0, "do_sample": true, "temperature": 0.7, "top_p": 0.9, "max_new_tokens": 256}),
    )?;
    fs::write(folder.join("chat_template.jinja"), CHAT_TEMPLATE)?;
    Ok(())
}

pub fn save(folder: &Path, name: &str, value: &Value) -> Result<(), Failure> {
    Ok(fs::write(folder.join(name), format!("{}\n", serde_json::to_string_pretty(value)?))?)
}

/// 3.67 million parameters: 1.05 of them are the embedding, which is the head as well.
fn model_config() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": VOCAB,
        "hidden_size": 256,
        "intermediate_size": 640,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "hidden_act": "silu",
        "max_position_embeddings": 1024,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "rope_scaling": null,
        "tie_word_embeddings": true,
        "attention_bias": false,
        "mlp_bias": false,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "bos_token_id": null,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "torch_dtype": "bfloat16",
        "use_cache": true
    })
}
