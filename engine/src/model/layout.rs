//! The tensors of a decoder with their names and shapes, from its configuration: what building, counting and adapters
//! go by.

use super::{
    config::{DecoderConfig, NormKind, QkNorm},
    names::{MlpNames, QkvNames},
};

/// A linear: name without `.weight`, sizes, and whether it has a bias.
#[derive(Clone, Debug, PartialEq)]
pub struct LinearLayout {
    pub name: String,
    pub inp: usize,
    pub out: usize,
    pub bias: bool,
}

/// The linears and norms of one layer.
pub struct LayerLayout {
    /// q, k and v, or the one that is all of them.
    pub qkv: Vec<LinearLayout>,
    /// Norms of q and k: name and size.
    pub qk_norms: Option<[(String, usize); 2]>,
    pub out: LinearLayout,
    pub mlp: MlpLayout,
    /// Input and output of the attention, input and output of the MLP; each of the hidden size.
    pub norms: [Option<String>; 4],
}

/// What stands in an MLP's place.
pub enum MlpLayout {
    /// In the order of [`MlpNames`].
    Dense(Vec<LinearLayout>),
    Experts {
        /// (experts, hidden), without a bias.
        router: LinearLayout,
        experts: Vec<Vec<LinearLayout>>,
    },
}

impl LayerLayout {
    /// The linears that adapters may change: those that PEFT finds as modules, which experts are not (they are slices
    /// of one tensor in transformers 5).
    pub fn linears(self) -> Vec<LinearLayout> {
        let mut all = self.qkv;
        all.push(self.out);
        if let MlpLayout::Dense(linears) = self.mlp {
            all.extend(linears);
        }
        all
    }

    /// The linears that a quantised base keeps quantised: all but routers.
    pub fn quantised_linears(&self) -> impl Iterator<Item = &LinearLayout> {
        let (dense, experts) = match &self.mlp {
            MlpLayout::Dense(linears) => (linears.as_slice(), &[][..]),
            MlpLayout::Experts { experts, .. } => (&[][..], experts.as_slice()),
        };
        self.qkv.iter().chain([&self.out]).chain(dense).chain(experts.iter().flatten())
    }

    /// Experts beyond `limit` are left out.
    fn parameters(&self, c: &DecoderConfig, limit: usize) -> usize {
        let norm = if c.norm == NormKind::Layer { 2 } else { 1 };
        let norms = self.norms.iter().flatten().count() * c.hidden_size * norm;
        let qk_norms: usize = self.qk_norms.iter().flatten().map(|(_, size)| size * norm).sum();
        let count = |linears: &[LinearLayout]| linears.iter().map(LinearLayout::parameters).sum::<usize>();
        let mlp = match &self.mlp {
            MlpLayout::Dense(linears) => count(linears),
            MlpLayout::Experts { router, experts } => {
                router.parameters() + experts.iter().take(limit).map(|e| count(e)).sum::<usize>()
            }
        };
        count(&self.qkv) + self.out.parameters() + mlp + norms + qk_norms
    }
}

impl LinearLayout {
    fn parameters(&self) -> usize {
        self.inp * self.out + if self.bias { self.out } else { 0 }
    }
}

impl DecoderConfig {
    /// The tensors of layer `i`.
    pub fn layer(&self, i: usize) -> LayerLayout {
        let (h, names) = (self.hidden_size, &self.names);
        let (q, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let full = |part: &str| format!("{}.{i}.{part}", names.layers);
        let linear = |part: &str, inp, out, bias| LinearLayout { name: full(part), inp, out, bias };
        let mlp = |prefix: &str, names: MlpNames, f: usize| {
            let linear = |part: &str, inp, out| linear(&format!("{prefix}{part}"), inp, out, self.mlp_bias);
            match names {
                MlpNames::Gated { gate, up, down } => {
                    vec![linear(gate, h, f), linear(up, h, f), linear(down, f, h)]
                }
                MlpNames::Fused { gate_up, down } => vec![linear(gate_up, h, 2 * f), linear(down, f, h)],
                MlpNames::Plain { up, down } => vec![linear(up, h, f), linear(down, f, h)],
            }
        };
        let qkv = match names.qkv {
            QkvNames::Separate(parts) => {
                parts.iter().zip([q, kv, kv]).map(|(part, out)| linear(part, h, out, self.qkv_bias)).collect()
            }
            QkvNames::Fused(part) | QkvNames::Grouped(part) => vec![linear(part, h, q + 2 * kv, self.qkv_bias)],
        };
        let sizes = match self.qk_norm {
            QkNorm::None => None,
            QkNorm::Heads => Some([self.head_dim; 2]),
            QkNorm::Width => Some([q, kv]),
        };
        let norms = [names.attention_norm, names.attention_post_norm, names.mlp_norm, names.mlp_post_norm];
        LayerLayout {
            qkv,
            qk_norms: sizes.map(|sizes| [0, 1].map(|n| (full(names.qk_norms[n]), sizes[n]))),
            out: linear(names.out, q, h, self.out_bias),
            mlp: match self.experts.as_ref().filter(|e| e.layers[i]) {
                None => MlpLayout::Dense(mlp("", names.mlp, self.intermediate_size)),
                Some(e) => MlpLayout::Experts {
                    router: linear(e.router, h, e.count, false),
                    experts: (0..e.count)
                        .map(|n| mlp(&format!("{}.{n}.", e.name), e.names, e.intermediate_size))
                        .collect(),
                },
            },
            norms: norms.map(|norm| norm.map(full)),
        }
    }

    /// Every tensor of the model: its name and how many values it has.
    pub fn tensors(&self) -> Vec<(String, u64)> {
        let (h, names, biased) = (self.hidden_size, &self.names, self.norm == NormKind::Layer);
        let weight = |name: &str, count: usize| (format!("{name}.weight"), count as u64);
        let norm = |name: &str, size: usize| {
            let bias = biased.then(|| (format!("{name}.bias"), size as u64));
            [weight(name, size)].into_iter().chain(bias)
        };
        let linear = |l: &LinearLayout| {
            let bias = l.bias.then(|| (format!("{}.bias", l.name), l.out as u64));
            [weight(&l.name, l.inp * l.out)].into_iter().chain(bias)
        };
        let mut all = vec![weight(names.embedding, self.vocab_size * h)];
        all.extend(names.positions.map(|name| weight(name, self.context * h)));
        for layer in (0..self.layers).map(|i| self.layer(i)) {
            all.extend(layer.qkv.iter().chain([&layer.out]).flat_map(linear));
            all.extend(layer.qk_norms.iter().flatten().flat_map(|(name, size)| norm(name, *size)));
            match &layer.mlp {
                MlpLayout::Dense(linears) => all.extend(linears.iter().flat_map(linear)),
                MlpLayout::Experts { router, experts } => {
                    all.extend([router].into_iter().chain(experts.iter().flatten()).flat_map(linear));
                }
            }
            all.extend(layer.norms.iter().flatten().flat_map(|name| norm(name, h)));
        }
        all.extend(norm(names.norm, h));
        all.extend((!self.tie_embeddings).then(|| weight(names.head, self.vocab_size * h)));
        all
    }

    /// Parameters of the whole model.
    pub fn parameters(&self) -> u64 {
        self.parameters_with(usize::MAX)
    }

    /// Parameters that one token meets: fewer where there are experts.
    pub fn active_parameters(&self) -> u64 {
        self.parameters_with(self.experts.as_ref().map_or(0, |e| e.active))
    }

    fn parameters_with(&self, experts: usize) -> u64 {
        let (h, norm) = (self.hidden_size, if self.norm == NormKind::Layer { 2 } else { 1 });
        let layers: u64 = (0..self.layers).map(|i| self.layer(i).parameters(self, experts) as u64).sum();
        let embeddings = self.vocab_size * h * if self.tie_embeddings { 1 } else { 2 };
        let positions = if self.names.positions.is_some() { self.context * h } else { 0 };
        layers + (embeddings + positions + h * norm) as u64
    }
}
