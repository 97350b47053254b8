//! What the tensors of a decoder are called in Hugging Face's files. Only these tables know names: building, counting,
//! adapters and exports read them, by way of [`super::layout`].

/// Names of a family's tensors, without `.weight` and `.bias`. An absent norm has no name.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Names {
    pub embedding: &'static str,
    /// Learned positions.
    pub positions: Option<&'static str>,
    /// The layers; a dot and the number follow.
    pub layers: &'static str,
    pub norm: &'static str,
    pub head: &'static str,
    // In a layer:
    pub qkv: QkvNames,
    /// Norms of q and k.
    pub qk_norms: [&'static str; 2],
    pub out: &'static str,
    pub mlp: MlpNames,
    /// Norms of the attention's input and output.
    pub attention_norm: Option<&'static str>,
    pub attention_post_norm: Option<&'static str>,
    /// Norms of the MLP's input and output.
    pub mlp_norm: Option<&'static str>,
    pub mlp_post_norm: Option<&'static str>,
}

/// How q, k and v stand in the weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum QkvNames {
    Separate([&'static str; 3]),
    /// One linear: the heads of q, then those of k, then those of v.
    Fused(&'static str),
    /// One linear: for each key/value head its queries, its key, its value.
    Grouped(&'static str),
}

/// The linears of the MLP.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MlpNames {
    Gated {
        gate: &'static str,
        up: &'static str,
        down: &'static str,
    },
    /// Gate and up in one linear, the gate first.
    Fused {
        gate_up: &'static str,
        down: &'static str,
    },
    /// Without a gate.
    Plain {
        up: &'static str,
        down: &'static str,
    },
}

/// Llama's names, which most families share.
pub const LLAMA: Names = Names {
    embedding: "model.embed_tokens",
    positions: None,
    layers: "model.layers",
    norm: "model.norm",
    head: "lm_head",
    qkv: QkvNames::Separate(["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
    qk_norms: ["self_attn.q_norm", "self_attn.k_norm"],
    out: "self_attn.o_proj",
    mlp: MlpNames::Gated { gate: "mlp.gate_proj", up: "mlp.up_proj", down: "mlp.down_proj" },
    attention_norm: Some("input_layernorm"),
    attention_post_norm: None,
    mlp_norm: Some("post_attention_layernorm"),
    mlp_post_norm: None,
};
