//! LoRA (Hu et al., 2021): `y += scale · B A dropout(x)` beside frozen linears, with PEFT's names, files and rules.

use super::{Adapter, Base, Precision, Tuning, linears};
use crate::{
    Error, Result,
    entry::Entry,
    files::{
        adapter::{AdapterConfig, Targets, read_adapter, write_adapter},
        export,
    },
    model::{
        Attach, DecoderConfig, Model, Store,
        blocks::{Linear, LowRank},
    },
    random::{Random, name_key},
};
use api::{
    Card, Problem, Problems, RunConfig, Text,
    catalog::ui,
    params::{self, ModelParams, TrainParams},
};
use candle_core::{DType, Device, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, path::Path};

pub struct Lora;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct LoraParams {
    /// Width of the adapter.
    #[schemars(range(min = 1, max = 1024), extend("ui" = ui(["Rank", "秩"], "适配器的宽度。", ["Higher: can learn more, larger file; usual 8 to 64", "调高：能学得更多，文件更大；常用 8 到 64"])))]
    pub lora_rank: usize,
    /// How strongly the adapter acts, divided by the rank. Empty: twice the rank.
    #[schemars(range(min = 0.0), extend("ui" = ui(["Alpha", "Alpha"], "适配器作用的强度，会除以秩。留空为秩的两倍。", ["Higher: acts like a higher learning rate", "调高：相当于提高学习率"])))]
    pub lora_alpha: Option<f64>,
    /// Share of the adapter's inputs that are switched off at random while training.
    #[schemars(range(min = 0.0, max = 0.95), extend("ui" = ui(["Dropout", "Dropout"], "训练时随机关闭适配器输入的比例。", ["Higher: less word-for-word memory; usual 0 to 0.1", "调高：减少逐字背诵；常用 0 到 0.1"])))]
    pub lora_dropout: f32,
    /// Linears that get an adapter: all, names such as q_proj,v_proj, or a regular expression over whole names.
    #[schemars(extend("ui" = ui(["Targets", "目标层"], "给哪些线性层加适配器：all、q_proj,v_proj 这样的名称，或匹配全名的正则表达式。", ["Fewer: smaller and faster, learns less", "更少：更小更快，学得也少"])))]
    pub lora_target: String,
    /// Scale by the square root of the rank instead of the rank.
    #[schemars(extend("ui" = ui(["rsLoRA", "rsLoRA"], "按秩的平方根缩放，而不是按秩。", ["Steadier at high ranks", "秩高时更稳"])))]
    pub use_rslora: bool,
    /// Trained whole and saved beside the adapter: embed_tokens, lm_head. Empty: both where the vocabulary grows.
    #[schemars(extend("ui" = ui(["Trained whole", "完整训练的模块"], "完整训练并随适配器保存的模块：embed_tokens、lm_head。留空：词表扩展时两者都训练。", ["For new tokens", "用于新增词元"])))]
    pub additional_target: Vec<String>,
}

impl Default for LoraParams {
    fn default() -> Self {
        Self {
            lora_rank: 8,
            lora_alpha: None,
            lora_dropout: 0.0,
            lora_target: "all".into(),
            use_rslora: false,
            additional_target: Vec::new(),
        }
    }
}

impl Entry for Lora {
    fn card(&self) -> Card {
        Card {
            name: "lora".into(),
            title: Text::new("LoRA", "LoRA"),
            help: Text::new(
                "A small adapter beside the frozen model: little memory, a file of a few megabytes.",
                "在冻结的模型旁训练小适配器：占内存少，文件只有几兆。",
            ),
            schema: params::schema::<LoraParams>(),
        }
    }
}

impl Adapter for Lora {
    fn start(&self, config: &RunConfig, previous: Option<&Path>) -> Result<Box<dyn Tuning>, Problems> {
        let mut lora: LoraParams = params::read(config)?;
        let seed = params::read::<TrainParams>(config).map(|p| p.seed).unwrap_or(42);
        let model = params::read::<ModelParams>(config).unwrap_or_default();
        let grows = model.resize_vocab || !model.add_tokens.is_empty() || !model.add_special_tokens.is_empty();
        if grows && lora.additional_target.is_empty() {
            lora.additional_target = export::vocabulary_modules().map(str::to_owned).collect();
        }
        let tuning = match previous {
            None => LoraTuning::new(&lora, seed),
            Some(dir) => LoraTuning::read(dir).map(|mut tuning| {
                tuning.whole.extend(lora.additional_target);
                LoraTuning { dropout: lora.lora_dropout, ..tuning }
            }),
        };
        tuning.map(|t| Box::new(t) as _).map_err(|e| Problems(e.into_problems()))
    }

    fn peft_type(&self) -> Option<&'static str> {
        Some("LORA")
    }

    fn read(&self, dir: &Path) -> Result<Box<dyn Tuning>> {
        Ok(Box::new(LoraTuning::read(dir)?))
    }
}

/// LoRA on the linears of one model, new or read from a PEFT folder.
pub struct LoraTuning {
    pub rank: usize,
    pub alpha: f64,
    pub dropout: f32,
    pub rslora: bool,
    target: Target,
    /// Modules that are trained whole (PEFT's `modules_to_save`): of the vocabulary alone, by their names or the ends of
    /// these.
    whole: Vec<String>,
    seed: u64,
    /// Values to begin with, by parameter name; empty for a new adapter.
    values: BTreeMap<String, Tensor>,
    /// Where they came from, for messages.
    origin: String,
}

/// Which linears carry an adapter, by PEFT's rules: a list matches whole names or their ends, a pattern whole names.
enum Target {
    All,
    Names(Vec<String>),
    Pattern(regex::Regex),
}

impl LoraTuning {
    fn new(params: &LoraParams, seed: u64) -> Result<Self> {
        Ok(Self {
            rank: params.lora_rank,
            alpha: params.lora_alpha.unwrap_or(2.0 * params.lora_rank as f64),
            dropout: params.lora_dropout,
            rslora: params.use_rslora,
            target: Target::parse(&params.lora_target)?,
            whole: whole(&params.additional_target)?,
            seed,
            values: BTreeMap::new(),
            origin: String::new(),
        })
    }

    /// The adapter of a PEFT folder.
    pub fn read(dir: &Path) -> Result<Self> {
        let (config, values) = read_adapter(dir, &Device::Cpu)?;
        if let Some(setting) = not_plain(&config) {
            let shown = dir.display();
            return Err(Problem::new(
                "adapter_kind",
                format!("{shown} is no plain LoRA adapter: it has {setting}."),
                format!("{shown} 不是普通的 LoRA 适配器：它含有 {setting}。"),
            )
            .hint("Use an adapter without it.", "请使用不含此设置的适配器。")
            .field("adapter_name_or_path")
            .into());
        }
        let suffix = ".lora_A.weight";
        let names = values.keys().filter_map(|k| k.strip_suffix(suffix)).map(str::to_owned).collect();
        Ok(Self {
            rank: config.r,
            alpha: config.lora_alpha,
            dropout: 0.0,
            rslora: config.use_rslora,
            target: Target::Names(names),
            whole: config.modules_to_save.unwrap_or_default(),
            seed: 0,
            values,
            origin: dir.display().to_string(),
        })
    }

    fn scale(&self) -> f32 {
        let rank = self.rank as f64;
        (self.alpha / if self.rslora { rank.sqrt() } else { rank }) as f32
    }

    /// The value to begin with: as read, or by PEFT's rule (A uniform by Kaiming with a = √5, B zero).
    fn value(&self, name: &str, shape: (usize, usize), device: &Device) -> Result<Tensor> {
        if let Some(value) = self.values.get(name) {
            if value.dims() != [shape.0, shape.1] {
                return Err(self.other_model(
                    name,
                    &format!("{:?}", value.dims()),
                    &format!("{:?}", [shape.0, shape.1]),
                ));
            }
            return Ok(value.to_dtype(DType::F32)?.to_device(device)?);
        }
        if name.ends_with("lora_B.weight") {
            return Ok(Tensor::zeros(shape, DType::F32, device)?);
        }
        let mut random = Random::new(self.seed, name_key(1, name));
        let bound = 1.0 / (shape.1 as f64).sqrt();
        let values: Vec<f32> =
            (0..shape.0 * shape.1).map(|_| ((random.uniform() * 2.0 - 1.0) * bound) as f32).collect();
        Ok(Tensor::from_vec(values, shape, device)?)
    }

    fn other_model(&self, name: &str, found: &str, wanted: &str) -> Error {
        let origin = &self.origin;
        Problem::new(
            "adapter_for_another_model",
            format!("{origin} was trained for another model: {name} has the shape {found}, this model needs {wanted}."),
            format!("{origin} 是为另一个模型训练的：{name} 的形状为 {found}，此模型需要 {wanted}。"),
        )
        .hint("Choose the model that the adapter was trained on.", "请选择训练该适配器时所用的模型。")
        .field("adapter_name_or_path")
        .into()
    }
}

impl Attach for LoraTuning {
    fn trains(&self, name: &str) -> bool {
        let module = name.strip_suffix(".weight").unwrap_or(name);
        export::is_vocabulary(name) && self.whole.iter().any(|whole| ends_with(module, whole))
    }

    fn linear(&self, name: &str, linear: Linear, store: &mut Store) -> Result<Linear> {
        if !self.target.matches(name) {
            return Ok(linear);
        }
        let ((inp, out), device) = (linear.dims()?, linear.weight.device());
        let (a, b) = (format!("{name}.lora_A.weight"), format!("{name}.lora_B.weight"));
        let branch = LowRank {
            site: name.into(),
            a: store.add(&a, self.value(&a, (self.rank, inp), &device)?),
            b: store.add(&b, self.value(&b, (out, self.rank), &device)?),
            scale: self.scale(),
            dropout: self.dropout,
        };
        Ok(Linear { branch: Some(branch), ..linear })
    }
}

impl Tuning for LoraTuning {
    fn count(&self, config: &DecoderConfig) -> Result<(u64, Vec<String>)> {
        let all = linears(config);
        for name in self.values.keys().filter(|k| k.ends_with(".lora_A.weight")) {
            if !all.iter().any(|(linear, ..)| name.starts_with(&format!("{linear}."))) {
                return Err(self.other_model(name, "—", "—"));
            }
        }
        let chosen: Vec<_> = all.iter().filter(|(name, ..)| self.target.matches(name)).collect();
        if chosen.is_empty() {
            let mut known: Vec<&str> = all.iter().filter_map(|(name, ..)| name.rsplit('.').next()).collect();
            known.dedup();
            known.truncate(7);
            let known = known.join(", ");
            return Err(Problem::new(
                "no_target",
                "lora_target matches no linear of this model.".to_string(),
                "lora_target 不匹配此模型的任何线性层。".to_string(),
            )
            .hint(format!("Use all, or some of {known}."), format!("可用 all，或其中一些：{known}。"))
            .field("lora_target")
            .into());
        }
        let vocabulary = (config.vocab_size * config.hidden_size) as u64;
        let tensors = [Some(config.names.embedding), (!config.tie_embeddings).then_some(config.names.head)];
        let whole = tensors.into_iter().flatten().filter(|name| self.trains(&format!("{name}.weight"))).count() as u64;
        let mut targets: Vec<String> =
            chosen.iter().filter_map(|(name, ..)| name.rsplit('.').next()).map(str::to_owned).collect();
        let mut seen = std::collections::BTreeSet::new();
        targets.retain(|t| seen.insert(t.clone()));
        let adapters: u64 = chosen.iter().map(|(_, inp, out)| (self.rank * (inp + out)) as u64).sum();
        Ok((adapters + whole * vocabulary, targets))
    }

    fn switches_off(&self) -> bool {
        self.whole.is_empty() && self.values.is_empty()
    }

    fn place(&self, model: &Model) -> Result<()> {
        for parameter in [&model.embedding, &model.head] {
            let Some(value) = self.values.get(&parameter.name) else { continue };
            let present = parameter.get();
            if value.shape() != present.shape() {
                let [found, wanted] = [value, &present].map(|tensor| format!("{:?}", tensor.dims()));
                return Err(self.other_model(&parameter.name, &found, &wanted));
            }
            // In float32 even where the model's own is bf16: it was trained so.
            parameter.set(value.to_dtype(DType::F32)?.to_device(present.device())?);
        }
        Ok(())
    }

    /// A PEFT folder: the adapter in float32 always, modules that were trained whole as the precision says.
    fn save(&self, dir: &Path, model: &Model, store: &Store, base: &Base, precision: Precision) -> Result<()> {
        let (_, targets) = self.count(&model.config)?;
        let stored = match precision {
            Precision::Exact => DType::F32,
            Precision::Storage => export::storage_type(base.files),
        };
        let (mut tensors, mut modules) = (BTreeMap::new(), Vec::new());
        for parameter in store.trainable() {
            let mut value = parameter.get();
            if export::is_vocabulary(&parameter.name) {
                value = value.to_dtype(stored)?;
                // PEFT keeps tied modules apart and wants each of them.
                let head = format!("{}.weight", model.config.names.head);
                let tied = model.config.tie_embeddings.then_some(head);
                for name in tied.into_iter().chain([parameter.name.clone()]) {
                    modules.extend(name.trim_end_matches(".weight").rsplit('.').next().map(str::to_owned));
                    tensors.insert(name, value.clone());
                }
            }
            tensors.insert(parameter.name.clone(), value);
        }
        modules.sort();
        let other = [
            ("fan_in_fan_out", model.config.transposed),
            ("ensure_weight_tying", model.config.tie_embeddings && !modules.is_empty()),
        ];
        let config = AdapterConfig {
            base_model_name_or_path: Some(base.name.into()),
            r: self.rank,
            lora_alpha: self.alpha,
            lora_dropout: f64::from(self.dropout),
            use_rslora: self.rslora,
            target_modules: Some(self.target.peft(targets)),
            modules_to_save: (!modules.is_empty()).then_some(modules),
            other: other.into_iter().map(|(key, value)| (key.to_string(), value.into())).collect(),
            ..AdapterConfig::default()
        };
        write_adapter(dir, &config, &tensors)
    }
}

impl Target {
    fn parse(text: &str) -> Result<Self> {
        let names: Vec<String> = text.split(',').map(|s| s.trim().to_owned()).filter(|s| !s.is_empty()).collect();
        if names.iter().any(|n| n == "all" || n == "all-linear") {
            return Ok(Self::All);
        }
        let plain = |n: &String| n.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
        if !names.is_empty() && names.iter().all(plain) {
            return Ok(Self::Names(names));
        }
        let pattern = regex::Regex::new(&format!("^(?:{text})$")).map_err(|e| {
            let reason = e.to_string().replace('\n', " ");
            Problem::new(
                "bad_target",
                format!("lora_target {text:?} is no regular expression: {reason}."),
                format!("lora_target {text:?} 不是有效的正则表达式：{reason}。"),
            )
            .hint("Use all, or names such as q_proj,v_proj.", "可用 all，或 q_proj,v_proj 这样的名称。")
            .field("lora_target")
        })?;
        Ok(Self::Pattern(pattern))
    }

    fn matches(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Names(names) => names.iter().any(|n| ends_with(name, n)),
            Self::Pattern(pattern) => pattern.is_match(name),
        }
    }

    /// `target_modules` as PEFT reads it: a list, or a pattern.
    fn peft(&self, last_parts: Vec<String>) -> Targets {
        match self {
            Self::All => Targets::Names(last_parts),
            Self::Names(names) => Targets::Names(names.clone()),
            Self::Pattern(p) => Targets::Pattern(p.as_str().trim_start_matches("^(?:").trim_end_matches(")$").into()),
        }
    }
}

/// Whether a module's name is `end`, or ends in it.
fn ends_with(name: &str, end: &str) -> bool {
    name.strip_suffix(end).is_some_and(|start| start.is_empty() || start.ends_with('.'))
}

/// Modules that shall be trained whole, refused unless they are of the vocabulary.
fn whole(names: &[String]) -> Result<Vec<String>> {
    let known: Vec<&str> = export::vocabulary_modules().collect();
    match names.iter().find(|name| !known.iter().any(|module| ends_with(name, module))) {
        None => Ok(names.to_vec()),
        Some(name) => Err(Problem::new(
            "bad_additional_target",
            format!("additional_target names {name:?}; only the embedding and the head can be trained whole."),
            format!("additional_target 中有“{name}”；只有嵌入与输出层可以完整训练。"),
        )
        .hint("Name embed_tokens, lm_head or both.", "请填写 embed_tokens、lm_head 或两者。")
        .field("additional_target")
        .into()),
    }
}

/// What of an adapter's settings goes beyond plain LoRA.
fn not_plain(config: &AdapterConfig) -> Option<String> {
    if config.peft_type != "LORA" {
        return Some(format!("peft_type {}", config.peft_type));
    }
    let (unknown, whole) = (config.unsupported(), config.modules_to_save.clone().unwrap_or_default());
    if self::whole(&whole).is_err() {
        return Some(format!("modules_to_save {}", whole.join(", ")));
    }
    [
        (config.use_dora, "use_dora"),
        (config.bias != "none", "bias"),
        (!config.rank_pattern.is_empty(), "rank_pattern"),
        (!config.alpha_pattern.is_empty(), "alpha_pattern"),
    ]
    .into_iter()
    .find_map(|(set, name)| set.then(|| name.to_string()))
    .or_else(|| unknown.first().map(|(name, _)| (*name).to_string()))
}
