//! Published models: their config.json files are understood, and have as many parameters as their weights.

#![allow(clippy::unwrap_used)]

use super::*;
use serde_json::json;

/// `[vocab, hidden, intermediate, layers, heads, kv_heads]` in the common words, and what else the file says.
fn config(architecture: &str, sizes: [u64; 6], more: Value) -> Value {
    let keys = [
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
    ];
    let mut config = json!({"architectures": [architecture]});
    for (key, size) in keys.iter().zip(sizes) {
        config[*key] = size.into();
    }
    more.as_object().unwrap().iter().for_each(|(key, value)| config[key] = value.clone());
    config
}

fn read(config: &Value) -> DecoderConfig {
    family(config).unwrap().config(config).unwrap()
}

#[test]
fn published_models_have_their_parameters() {
    let long = json!({
        "type": "longrope", "short_factor": vec![1.0; 48], "long_factor": vec![1.5; 48]
    });
    let models = [
        ("TinyLlama-1.1B", "LlamaForCausalLM", [32000, 2048, 5632, 22, 32, 4], json!({}), 1_100_048_384),
        (
            "SmolLM2-135M",
            "LlamaForCausalLM",
            [49152, 576, 1536, 30, 9, 3],
            json!({"tie_word_embeddings": true}),
            134_515_008,
        ),
        ("Yi-6B", "LlamaForCausalLM", [64000, 4096, 11008, 32, 32, 4], json!({"rope_theta": 5e6}), 6_061_035_520),
        (
            "DeepSeek-R1-Distill-Llama-8B",
            "LlamaForCausalLM",
            [128_256, 4096, 14336, 32, 32, 8],
            json!({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}),
            8_030_261_248,
        ),
        (
            "DeepSeek-R1-Distill-Qwen-1.5B",
            "Qwen2ForCausalLM",
            [151_936, 1536, 8960, 28, 12, 2],
            json!({"use_sliding_window": false, "sliding_window": 4096, "max_window_layers": 21}),
            1_777_088_000,
        ),
        ("Falcon3-7B", "LlamaForCausalLM", [131_072, 3072, 23040, 28, 12, 4], json!({"head_dim": 256}), 7_455_550_464),
        ("gemma-2-2b", "Gemma2ForCausalLM", [256_000, 2304, 9216, 26, 8, 4], json!({"head_dim": 256}), 2_614_341_888),
        ("gemma-3-1b", "Gemma3ForCausalLM", [262_144, 1152, 6912, 26, 4, 1], json!({"head_dim": 256}), 999_885_952),
        ("Phi-3-mini", "Phi3ForCausalLM", [32064, 3072, 8192, 32, 32, 32], json!({}), 3_821_079_552),
        ("phi-4", "Phi3ForCausalLM", [100_352, 5120, 17920, 40, 40, 10], json!({}), 14_659_507_200),
        (
            "Phi-4-mini",
            "Phi3ForCausalLM",
            [200_064, 3072, 8192, 32, 24, 8],
            json!({
                "partial_rotary_factor": 0.75, "rope_scaling": long, "original_max_position_embeddings": 4096,
                "max_position_embeddings": 131_072, "tie_word_embeddings": true
            }),
            3_836_021_760,
        ),
        (
            "glm-4-9b-hf",
            "GlmForCausalLM",
            [151_552, 4096, 13696, 40, 32, 2],
            json!({"attention_bias": true, "head_dim": 128}),
            9_399_951_360,
        ),
        (
            "internlm2-7b",
            "InternLM2ForCausalLM",
            [92544, 4096, 14336, 32, 32, 8],
            json!({"bias": false}),
            7_737_708_544,
        ),
        (
            "internlm3-8b",
            "InternLM3ForCausalLM",
            [128_512, 4096, 10240, 48, 32, 2],
            json!({"qkv_bias": false, "bias": false, "head_dim": 128}),
            8_804_241_408,
        ),
        ("OLMo-2-7B", "Olmo2ForCausalLM", [100_352, 4096, 11008, 32, 32, 32], json!({}), 7_298_617_344),
        (
            "granite-3.1-2b",
            "GraniteForCausalLM",
            [49155, 2048, 8192, 40, 32, 8],
            json!({"tie_word_embeddings": true}),
            2_533_531_648,
        ),
        ("pythia-160m", "GPTNeoXForCausalLM", [50304, 768, 3072, 12, 12, 12], json!({}), 162_322_944),
        (
            "Mixtral-8x7B",
            "MixtralForCausalLM",
            [32000, 4096, 14336, 32, 32, 8],
            json!({"num_local_experts": 8, "num_experts_per_tok": 2}),
            46_702_792_704,
        ),
        (
            "Qwen3-30B-A3B",
            "Qwen3MoeForCausalLM",
            [151_936, 2048, 6144, 48, 32, 4],
            json!({"head_dim": 128, "num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768}),
            30_532_122_624,
        ),
    ];
    for (name, architecture, sizes, more, parameters) in models {
        assert_eq!(read(&config(architecture, sizes, more)).parameters(), parameters, "{name}");
    }
    let gpt2 = json!({
        "architectures": ["GPT2LMHeadModel"], "vocab_size": 50257, "n_embd": 768, "n_head": 12, "n_layer": 12,
        "n_positions": 1024, "n_ctx": 1024, "activation_function": "gelu_new"
    });
    assert_eq!(read(&gpt2).parameters(), 124_439_808);
}

/// Of 30 thousand million parameters a token meets 3.
#[test]
fn a_token_meets_few_experts() {
    let qwen = read(&config(
        "Qwen3MoeForCausalLM",
        [151_936, 2048, 6144, 48, 32, 4],
        json!({"head_dim": 128, "num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768}),
    ));
    assert_eq!(qwen.active_parameters(), 30_532_122_624 - 48 * 120 * 3 * 2048 * 768);
}

#[test]
fn a_model_type_does_where_there_is_no_architecture() {
    for family in FAMILIES {
        assert_eq!(super::family(&json!({"model_type": family.card().name})).unwrap().card().name, family.card().name);
    }
    assert!(super::family(&json!({"model_type": "bert"})).is_err());
    // An architecture counts more: a classifier is no language model.
    let classifier = json!({"model_type": "llama", "architectures": ["LlamaForSequenceClassification"]});
    assert!(super::family(&classifier).is_err());
}

#[test]
fn what_a_family_does_not_know_is_a_problem() {
    let sizes = [64, 32, 48, 2, 4, 2];
    for (architecture, more) in [
        ("LlamaForCausalLM", json!({"hidden_act": "relu2"})),
        ("LlamaForCausalLM", json!({"rope_scaling": {"type": "unheard"}})),
        ("Phi3ForCausalLM", json!({"rope_scaling": {"type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}})),
        ("GPT2LMHeadModel", json!({"scale_attn_by_inverse_layer_idx": true})),
        ("Gemma3ForCausalLM", json!({"use_bidirectional_attention": true})),
        ("MixtralForCausalLM", json!({"num_local_experts": 4, "num_experts_per_tok": 5})),
        ("Qwen3MoeForCausalLM", json!({})),
        ("GPTNeoXForCausalLM", json!({"rotary_pct": 0.0})),
        ("GlmForCausalLM", json!({"head_dim": 7})),
    ] {
        let config = config(architecture, sizes, more.clone());
        assert!(super::family(&config).unwrap().config(&config).is_err(), "{architecture} {more}");
    }
}
