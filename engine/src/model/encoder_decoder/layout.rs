//! The tensors of an encoder-decoder with their names and shapes: what building, counting and adapters go by.

use super::EncoderDecoderConfig;
use crate::model::{
    LinearLayout,
    network::{Layout, Vocabulary},
};

/// The embedding of sources and targets.
pub const EMBEDDING: &str = "shared";
/// Where the head is not the embedding.
pub const HEAD: &str = "lm_head";

/// One of the two stacks of layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stack {
    Encoder,
    Decoder,
}

impl Stack {
    pub const BOTH: [Self; 2] = [Self::Encoder, Self::Decoder];

    pub fn name(self) -> &'static str {
        match self {
            Self::Encoder => "encoder",
            Self::Decoder => "decoder",
        }
    }

    /// What the names of its layers begin with.
    pub fn layers(self) -> &'static str {
        match self {
            Self::Encoder => "encoder.block",
            Self::Decoder => "decoder.block",
        }
    }

    /// The weights of relative positions, which stand in the first layer and which all share.
    pub fn biases(self) -> String {
        format!("{}.0.layer.0.SelfAttention.relative_attention_bias.weight", self.layers())
    }
}

/// The parts of one layer.
pub struct LayerLayout {
    pub attention: [LinearLayout; 4],
    /// Over the encoder's output, in the decoder.
    pub cross: Option<[LinearLayout; 4]>,
    /// What leads in, one or two of it, and the way out.
    pub mlp: Vec<LinearLayout>,
    /// Norms before each of them, in this order, without `.weight`.
    pub norms: Vec<String>,
}

impl LayerLayout {
    pub fn linears(self) -> impl Iterator<Item = LinearLayout> {
        self.attention.into_iter().chain(self.cross.into_iter().flatten()).chain(self.mlp)
    }
}

impl EncoderDecoderConfig {
    pub fn layers(&self, stack: Stack) -> usize {
        match stack {
            Stack::Encoder => self.encoder_layers,
            Stack::Decoder => self.decoder_layers,
        }
    }

    /// The tensors of layer `i` of a stack.
    pub fn layer(&self, stack: Stack, i: usize) -> LayerLayout {
        let (h, inner, f) = (self.hidden_size, self.heads * self.head_dim, self.intermediate_size);
        let full = |n: usize, part: &str| format!("{}.{i}.layer.{n}.{part}", stack.layers());
        let linear = |n, part: &str, inp, out| LinearLayout { name: full(n, part), inp, out, bias: false };
        let attention = |n: usize, kind: &str| {
            let part = |part: &str, inp, out| linear(n, &format!("{kind}.{part}"), inp, out);
            [part("q", h, inner), part("k", h, inner), part("v", h, inner), part("o", inner, h)]
        };
        let last = if stack == Stack::Decoder { 2 } else { 1 };
        let mlp = |part: &str, inp, out| linear(last, &format!("DenseReluDense.{part}"), inp, out);
        LayerLayout {
            attention: attention(0, "SelfAttention"),
            cross: (stack == Stack::Decoder).then(|| attention(1, "EncDecAttention")),
            mlp: match self.gated {
                true => vec![mlp("wi_0", h, f), mlp("wi_1", h, f), mlp("wo", f, h)],
                false => vec![mlp("wi", h, f), mlp("wo", f, h)],
            },
            norms: (0..=last).map(|n| full(n, "layer_norm")).collect(),
        }
    }

    fn each_layer(&self) -> impl Iterator<Item = LayerLayout> + '_ {
        Stack::BOTH.into_iter().flat_map(move |stack| (0..self.layers(stack)).map(move |i| self.layer(stack, i)))
    }
}

impl Layout for EncoderDecoderConfig {
    fn tensors(&self) -> Vec<(String, u64)> {
        let weight = |name: &str, count: usize| (format!("{name}.weight"), count as u64);
        let (h, vocabulary) = (self.hidden_size, self.vocab_size * self.hidden_size);
        let mut all = vec![weight(EMBEDDING, vocabulary)];
        for layer in self.each_layer() {
            all.extend(layer.norms.iter().map(|norm| weight(norm, h)));
            all.extend(layer.linears().map(|l| weight(&l.name, l.inp * l.out)));
        }
        for stack in Stack::BOTH {
            all.push((stack.biases(), (self.buckets * self.heads) as u64));
            all.push(weight(&format!("{}.final_layer_norm", stack.name()), h));
        }
        all.extend((!self.tied).then(|| weight(HEAD, vocabulary)));
        all
    }

    fn linears(&self) -> Vec<LinearLayout> {
        self.each_layer().flat_map(LayerLayout::linears).collect()
    }

    fn layer_linears(&self) -> Vec<LinearLayout> {
        self.linears()
    }

    fn stacks(&self) -> Vec<(&str, usize)> {
        Stack::BOTH.map(|stack| (stack.layers(), self.layers(stack))).into()
    }

    fn vocabulary(&self) -> Vocabulary<'_> {
        Vocabulary { embedding: EMBEDDING, head: HEAD, tied: self.tied }
    }

    fn task_type(&self) -> &'static str {
        "SEQ_2_SEQ_LM"
    }
}
