//! LoRA (Hu et al., 2021): `y += scale · B A dropout(x)` beside frozen linears, with PEFT's names, files and rules; DoRA,
//! rsLoRA, LoRA+, and the beginnings of PiSSA and OLoRA are settings of it.

use super::{
    Adapter, Precision, Tuning,
    extras::{Bias, Extras},
    factors,
    on_linears::{Common, Method, OnLinears, Written},
    targets::{Target, pattern},
    values::Values,
};
use crate::{
    Error, Result,
    entry::Entry,
    files::adapter::{AdapterConfig, read_config},
    model::{
        LinearLayout, Network, Parameter, Store,
        blocks::{Dora, Linear, LowRank, MAGNITUDE},
    },
    random::{Random, name_key},
};
use api::{
    Card, Problem, Problems, RunConfig, Text,
    catalog::ui,
    params::{self, TrainParams},
};
use candle_core::{DType, Device, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::{collections::BTreeMap, path::Path};

pub struct Lora;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct LoraParams {
    /// Width of the adapter.
    #[schemars(range(min = 1, max = 1024), extend("ui" = ui(["Rank", "秩"], "适配器的宽度。", ["Higher: can learn more, larger file; usual 8 to 64", "调高：能学得更多，文件更大；常用 8 到 64"])))]
    pub lora_rank: usize,
    /// How strongly the adapter acts, divided by the rank. Empty: twice the rank.
    #[schemars(extend("exclusiveMinimum" = 0.0), extend("ui" = ui(["Alpha", "Alpha"], "适配器作用的强度，会除以秩。留空为秩的两倍。", ["Higher: acts like a higher learning rate", "调高：相当于提高学习率"])))]
    pub lora_alpha: Option<f64>,
    /// Share of the adapter's inputs that are switched off at random while training; none in stages that compare policies
    /// (dpo, kto, ppo, grpo).
    #[schemars(range(min = 0.0, max = 0.95), extend("ui" = ui(["Dropout", "Dropout"], "训练时随机关闭适配器输入的比例；比较策略的阶段（dpo、kto、ppo、grpo）不使用。", ["Higher: less word-for-word memory; usual 0 to 0.1", "调高：减少逐字背诵；常用 0 到 0.1"])))]
    pub lora_dropout: f32,
    /// Linears that get an adapter: all, names such as q_proj,v_proj, or a regular expression over whole names.
    #[schemars(extend("ui" = ui(["Targets", "目标层"], "给哪些线性层加适配器：all、q_proj,v_proj 这样的名称，或匹配全名的正则表达式。", ["Fewer: smaller and faster, learns less", "更少：更小更快，学得也少"])))]
    pub lora_target: String,
    /// Scale by the square root of the rank instead of the rank.
    #[schemars(extend("ui" = ui(["rsLoRA", "rsLoRA"], "按秩的平方根缩放，而不是按秩。", ["Steadier at high ranks", "秩高时更稳"])))]
    pub use_rslora: bool,
    /// Trained whole and saved beside the adapter: modules by name, such as embed_tokens, lm_head or norm. Empty: embedding
    /// and head where the vocabulary grows.
    #[schemars(extend("ui" = ui(["Trained whole", "完整训练的模块"], "完整训练并随适配器保存的模块，例如 embed_tokens、lm_head 或 norm。留空：词表扩展时训练嵌入与输出层。", ["For new tokens", "用于新增词元"])))]
    pub additional_target: Vec<String>,
    /// Biases that are trained beside the adapter: none, all of the model's, or those of the targets (lora_only).
    #[schemars(extend("ui" = ui(["Biases", "偏置"], "随适配器一起训练的偏置：none 不训练，all 为模型的全部偏置，lora_only 为目标层的偏置。", ["They stay changed where the adapter is switched off", "关闭适配器时它们仍保持改变"])))]
    pub bias: Bias,
    /// Ranks of modules that differ: names, their ends or regular expressions, for example q_proj=16.
    #[schemars(extend("ui" = ui(["Rank by module", "按模块设秩"], "个别模块的秩：名称、名称结尾或正则表达式，例如 q_proj=16。", ["Higher where most is to be learned", "在最需要学习的模块上调高"])))]
    pub rank_pattern: Vec<String>,
    /// Alphas of modules that differ, for example q_proj=32.
    #[schemars(extend("ui" = ui(["Alpha by module", "按模块设 Alpha"], "个别模块的 Alpha，例如 q_proj=32。", ["", ""])))]
    pub alpha_pattern: Vec<String>,
    /// DoRA: the length of each row of a weight is trained apart from its direction.
    #[schemars(extend("ui" = ui(["DoRA", "DoRA"], "把权重每一行的长度与方向分开训练。", ["Learns more at low ranks, somewhat slower", "秩低时学得更多，稍慢"])))]
    pub use_dora: bool,
    /// LoRA+: factor on the learning rate of B, and of norms and biases that are trained. Empty: none.
    #[schemars(range(min = 0.0, max = 1000.0), extend("ui" = ui(["LoRA+ ratio", "LoRA+ 比例"], "B（以及参与训练的归一化与偏置）的学习率倍数。留空则不用。", ["Usual 4 to 16, with a lower learning rate", "常用 4 到 16，并调低学习率"])))]
    pub loraplus_lr_ratio: Option<f64>,
    /// What A and B begin with: true (B is 0), gaussian, false (both random), pissa, pissa_niter_16, olora.
    #[schemars(extend("ui" = ui(["Initialisation", "初始化"], "A 与 B 的初值：true（B 为 0）、gaussian、false（两者随机）、pissa、pissa_niter_16、olora。", ["pissa and olora begin with a part of the weight and learn faster", "pissa 与 olora 取自权重本身，学得更快"])))]
    pub init_lora_weights: String,
    /// PiSSA: A and B begin with the largest part of each weight, which the frozen weight loses.
    #[schemars(extend("ui" = ui(["PiSSA", "PiSSA"], "A 与 B 从各权重的主要成分开始，冻结的权重相应减去。", ["Learns faster at the beginning", "起步学得更快"])))]
    pub pissa_init: bool,
    /// Rounds of PiSSA's fast decomposition; -1 goes on until it is exact.
    #[schemars(range(min = -1, max = 1000), extend("ui" = ui(["PiSSA rounds", "PiSSA 迭代"], "PiSSA 快速分解的迭代次数；-1 表示直到精确为止。", ["Higher: more exact, slower to begin", "调高：更精确，开始更慢"])))]
    pub pissa_iter: i64,
    /// Save an adapter for the untouched base model, of twice the rank, instead of one for what PiSSA left of it.
    #[schemars(extend("ui" = ui(["Convert PiSSA", "转换 PiSSA"], "保存适用于原模型的适配器（秩加倍），而不是适用于 PiSSA 余量的适配器。", ["Needed to load it beside other adapters", "与其他适配器一起加载时需要"])))]
    pub pissa_convert: bool,
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
            bias: Bias::None,
            rank_pattern: Vec::new(),
            alpha_pattern: Vec::new(),
            use_dora: false,
            loraplus_lr_ratio: None,
            init_lora_weights: "true".into(),
            pissa_init: false,
            pissa_iter: 16,
            pissa_convert: false,
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
        let lora: LoraParams = params::read(config)?;
        let seed = params::read::<TrainParams>(config).map(|p| p.seed).unwrap_or(42);
        let extras = Extras::asked(&lora.additional_target, lora.bias, config);
        let tuning = match previous {
            None => LowRanks::new(&lora, seed).and_then(|method| {
                Ok(OnLinears::new(method, Target::parse(&lora.lora_target, "lora_target")?, extras))
            }),
            Some(dir) => LoraTuning::read(dir).map(|mut tuning| {
                tuning.method.dropout = lora.lora_dropout;
                tuning.method.plus = lora.loraplus_lr_ratio.filter(|ratio| *ratio > 0.0);
                tuning.method.convert = lora.pissa_convert;
                tuning.and(extras)
            }),
        };
        tuning.map(|t| Box::new(t) as _).map_err(|e| Problems(e.into_problems()))
    }

    fn peft_type(&self) -> Option<&'static str> {
        Some("LORA")
    }

    fn tunes_encoder_decoders(&self) -> bool {
        true
    }

    fn read(&self, dir: &Path) -> Result<Box<dyn Tuning>> {
        Ok(Box::new(LoraTuning::read(dir)?))
    }
}

/// LoRA on the linears of one model, new or read from a PEFT folder.
pub type LoraTuning = OnLinears<LowRanks>;

/// What LoRA puts on a linear.
pub struct LowRanks {
    rank: usize,
    alpha: f64,
    dropout: f32,
    rslora: bool,
    dora: bool,
    /// By PEFT's patterns.
    ranks: BTreeMap<String, usize>,
    alphas: BTreeMap<String, f64>,
    init: Init,
    /// LoRA+'s factor.
    plus: Option<f64>,
    /// Save for the untouched base.
    convert: bool,
    seed: u64,
}

/// What a and b begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Init {
    /// a uniform by Kaiming with a = √5, b zero.
    Kaiming,
    /// a normal with the deviation 1 / rank, b zero.
    Gaussian,
    /// Both as a and b of [`Init::Kaiming`] were linears.
    Random,
    /// Rounds of the decomposition.
    Pissa(Option<usize>),
    Olora,
}

impl LoraTuning {
    /// The adapter of a PEFT folder.
    pub fn read(dir: &Path) -> Result<Self> {
        let config = read_config(dir)?;
        let refused = match config.peft_type.as_str() {
            "LORA" => config.unsupported().first().map(|(name, _)| (*name).to_string()),
            kind => Some(format!("peft_type {kind}")),
        };
        if let Some(setting) = refused {
            return Err(not_lora(dir, &setting).into());
        }
        let init = match config.other.get("init_lora_weights") {
            Some(Value::String(name)) => Init::parse(name)?,
            _ => Init::Kaiming,
        };
        let bias = match config.bias.as_str() {
            "all" => Bias::All,
            "none" => Bias::None,
            _ => Bias::LoraOnly,
        };
        let method = LowRanks {
            rank: config.r,
            alpha: config.lora_alpha,
            dropout: 0.0,
            rslora: config.use_rslora,
            dora: config.use_dora,
            ranks: config.rank_pattern,
            alphas: config.alpha_pattern,
            init,
            plus: None,
            convert: false,
            seed: 0,
        };
        let extras = Extras { whole: config.modules_to_save.unwrap_or_default(), vocabulary: false, bias };
        Ok(Self::saved(method, extras, Values::read(dir)?))
    }
}

impl LowRanks {
    fn new(params: &LoraParams, seed: u64) -> Result<Self> {
        let init = match (params.pissa_init, params.pissa_iter) {
            (false, _) => Init::parse(&params.init_lora_weights)?,
            (true, rounds) => Init::Pissa(usize::try_from(rounds).ok()),
        };
        Ok(Self {
            rank: params.lora_rank,
            alpha: params.lora_alpha.unwrap_or(2.0 * params.lora_rank as f64),
            dropout: params.lora_dropout,
            rslora: params.use_rslora,
            dora: params.use_dora,
            ranks: patterns("rank_pattern", &params.rank_pattern, |rank: &usize| (1..=1024).contains(rank))?,
            alphas: patterns("alpha_pattern", &params.alpha_pattern, |alpha: &f64| alpha.is_finite() && *alpha > 0.0)?,
            init,
            plus: params.loraplus_lr_ratio.filter(|ratio| *ratio > 0.0),
            convert: params.pissa_convert,
            seed,
        })
    }

    fn rank(&self, name: &str) -> usize {
        by_pattern(&self.ranks, name).unwrap_or(self.rank)
    }

    fn scale(&self, name: &str) -> f32 {
        let rank = self.rank(name) as f64;
        let alpha = by_pattern(&self.alphas, name).unwrap_or(self.alpha);
        (alpha / if self.rslora { rank.sqrt() } else { rank }) as f32
    }

    /// a (rank, in) and b (out, rank) to begin with, where they aren't made of the weight.
    fn random(&self, name: &str, rank: usize, [inp, out]: [usize; 2], device: &Device) -> Result<[Tensor; 2]> {
        let uniform = |name: &str, shape: (usize, usize)| {
            let mut random = Random::new(self.seed, name_key(1, name));
            let bound = 1.0 / (shape.1 as f64).sqrt();
            let values = (0..shape.0 * shape.1).map(|_| ((random.uniform() * 2.0 - 1.0) * bound) as f32);
            Tensor::from_vec(values.collect::<Vec<_>>(), shape, device)
        };
        let a_name = format!("{name}.lora_A.weight");
        let a = match self.init {
            Init::Gaussian => {
                let mut random = Random::new(self.seed, name_key(1, &a_name));
                let values = (0..rank * inp).map(|_| random.normal() / rank as f32);
                Tensor::from_vec(values.collect::<Vec<_>>(), (rank, inp), device)?
            }
            _ => uniform(&a_name, (rank, inp))?,
        };
        let b = match self.init {
            Init::Random => uniform(&format!("{name}.lora_B.weight"), (out, rank))?,
            _ => Tensor::zeros((out, rank), DType::F32, device)?,
        };
        Ok([a, b])
    }

    /// a and b made of the weight, which loses them.
    fn taken(&self, name: &str, linear: &Linear, rank: usize, scale: f32) -> Result<Option<[Tensor; 2]>> {
        let weight = linear.weight.get();
        let wide = weight.to_dtype(DType::F32)?;
        let (b, a) = match self.init {
            Init::Pissa(rounds) => {
                let (b, a) = factors::principal(&wide, rank, rounds, name_key(self.seed, name))?;
                let root = 1.0 / f64::from(scale).sqrt();
                ((b * root)?, (a * root)?)
            }
            Init::Olora => factors::leading(&wide, rank)?,
            _ => return Ok(None),
        };
        let left = (wide - (b.matmul(&a)? * f64::from(scale))?)?;
        linear.weight.set(left.to_dtype(weight.dtype())?);
        Ok(Some([a, b]))
    }
}

impl Method for LowRanks {
    const TARGET: &'static str = "lora_target";
    const MARK: &'static str = ".lora_A.weight";

    fn count(&self, linear: &LinearLayout) -> u64 {
        let magnitudes = if self.dora { linear.out } else { 0 };
        (self.rank(&linear.name) * (linear.inp + linear.out) + magnitudes) as u64
    }

    fn check(&self, linear: &LinearLayout) -> Result<()> {
        let (rank, most) = (self.rank(&linear.name), linear.inp.min(linear.out));
        if rank <= most || !matches!(self.init, Init::Pissa(_) | Init::Olora) {
            return Ok(());
        }
        let name = &linear.name;
        Err(Problem::new(
            "bad_rank",
            format!("lora_rank is {rank}, but the weight of {name} has only {most} directions to begin with."),
            format!("lora_rank 为 {rank}，但 {name} 的权重只有 {most} 个方向可作初值。"),
        )
        .hint(
            "Lower lora_rank, or set init_lora_weights to true.",
            "请调低 lora_rank，或将 init_lora_weights 设为 true。",
        )
        .field("lora_rank")
        .into())
    }

    fn changes_base(&self) -> Option<&'static str> {
        matches!(self.init, Init::Pissa(_) | Init::Olora).then_some("init_lora_weights")
    }

    fn attach(&self, name: &str, linear: Linear, values: &Values, store: &mut Store) -> Result<Linear> {
        let ((inp, out), device) = (linear.dims()?, linear.weight.device());
        let (rank, scale) = (self.rank(name), self.scale(name));
        let [a_name, b_name] = ["A", "B"].map(|part| format!("{name}.lora_{part}.weight"));
        let taken = self.taken(name, &linear, rank, scale)?;
        let given = taken.as_ref().map(|[a, b]| {
            let [a, b] = [a, b].map(|value| Parameter::new(name, value.clone(), false));
            Box::new(LowRank::new(name, a, b, scale, 0.0))
        });
        let [a, b] = match taken {
            Some(both) => both,
            None => self.random(name, rank, [inp, out], &device)?,
        };
        let a = store.add(&a_name, values.get(&a_name, &[rank, inp], &device)?.unwrap_or(a));
        let b = store.add(&b_name, values.get(&b_name, &[out, rank], &device)?.unwrap_or(b));
        let branch = LowRank { given, ..LowRank::new(name, a, b, scale, self.dropout) };
        let linear = Linear { branch: Some(branch), ..linear };
        if !self.dora {
            return Ok(linear);
        }
        let name = format!("{name}.{MAGNITUDE}");
        let magnitude = match values.get(&name, &[out], &device)? {
            Some(saved) => saved,
            None => Dora::lengths_of(&linear)?,
        };
        let patch = Dora::new(&linear, store.add(name, magnitude))?;
        Ok(Linear { patch: Some(Box::new(patch)), ..linear })
    }

    fn config(&self, common: Common) -> Result<Map<String, Value>> {
        let bias = match common.bias {
            Bias::None => "none",
            Bias::All => "all",
            Bias::LoraOnly => "lora_only",
        };
        let init = match self.init {
            Init::Kaiming => json!(true),
            Init::Random => json!(false),
            Init::Gaussian => json!("gaussian"),
            Init::Pissa(None) => json!("pissa"),
            Init::Pissa(Some(rounds)) => json!(format!("pissa_niter_{rounds}")),
            Init::Olora => json!("olora"),
        };
        let other = [
            ("fan_in_fan_out", json!(common.fan_in_fan_out)),
            ("ensure_weight_tying", json!(common.tied)),
            ("init_lora_weights", init),
        ];
        let config = AdapterConfig {
            task_type: Some(common.task_type.into()),
            base_model_name_or_path: Some(common.base),
            r: self.rank,
            lora_alpha: self.alpha,
            lora_dropout: f64::from(self.dropout),
            use_rslora: self.rslora,
            use_dora: self.dora,
            rank_pattern: self.ranks.clone(),
            alpha_pattern: self.alphas.clone(),
            bias: bias.into(),
            target_modules: Some(common.targets),
            modules_to_save: common.modules_to_save,
            other: other.into_iter().map(|(key, value)| (key.to_string(), value)).collect(),
            ..AdapterConfig::default()
        };
        match config.to_json()? {
            Value::Object(map) => Ok(map),
            _ => Err(Error::Internal("adapter_config.json is no object".into())),
        }
    }

    /// Where the base lost what a and b began with, their change since is a branch of twice the rank for the untouched
    /// base: `b a - b₀ a₀`.
    fn written(&self, model: &dyn Network, mut written: Written, precision: Precision) -> Result<Written> {
        if precision == Precision::Exact || !self.convert {
            return Ok(written);
        }
        let mut converted = false;
        for (name, linear) in model.linears() {
            let Some((branch, given)) = linear.branch.as_ref().and_then(|b| Some((b, b.given.as_ref()?))) else {
                continue;
            };
            let a = Tensor::cat(&[branch.a.get(), given.a.get()], 0)?;
            let b = Tensor::cat(&[branch.b.get(), given.b.get().neg()?], 1)?;
            written.tensors.insert(format!("{name}.lora_A.weight"), a);
            written.tensors.insert(format!("{name}.lora_B.weight"), b);
            converted = true;
        }
        if converted {
            let wider = if self.rslora { std::f64::consts::SQRT_2 } else { 2.0 };
            let ranks: BTreeMap<_, _> = self.ranks.iter().map(|(key, rank)| (key, 2 * rank)).collect();
            let alphas: BTreeMap<_, _> = self.alphas.iter().map(|(key, alpha)| (key, wider * alpha)).collect();
            let changed = json!({
                "r": 2 * self.rank, "lora_alpha": wider * self.alpha, "init_lora_weights": true,
                "rank_pattern": ranks, "alpha_pattern": alphas,
            });
            written.config.extend(changed.as_object().into_iter().flatten().map(|(k, v)| (k.clone(), v.clone())));
        }
        Ok(written)
    }

    /// As LLaMA-Factory groups parameters for LoRA+: B, and all vectors.
    fn rate_factor(&self, parameter: &Parameter) -> f64 {
        let faster = parameter.name.contains(".lora_B") || parameter.get().dims().len() == 1;
        self.plus.filter(|_| faster).unwrap_or(1.0)
    }
}

impl Init {
    fn parse(text: &str) -> Result<Self> {
        let rounds = text.strip_prefix("pissa_niter_").and_then(|rounds| rounds.parse().ok());
        Ok(match (text.to_ascii_lowercase().as_str(), rounds) {
            ("true" | "", _) => Self::Kaiming,
            ("gaussian", _) => Self::Gaussian,
            ("false", _) => Self::Random,
            ("pissa", _) => Self::Pissa(None),
            (_, Some(rounds)) => Self::Pissa(Some(rounds)),
            ("olora", _) => Self::Olora,
            _ => {
                return Err(Problem::new(
                    "bad_value",
                    format!("init_lora_weights is {text:?}, which Lathe doesn't know."),
                    format!("init_lora_weights 为“{text}”，Lathe 不认识。"),
                )
                .hint(
                    "Known: true, false, gaussian, pissa, pissa_niter_16 (or another number), olora.",
                    "可用：true、false、gaussian、pissa、pissa_niter_16（或其他次数）、olora。",
                )
                .field("init_lora_weights")
                .into());
            }
        })
    }
}

/// `name=number` each.
fn patterns<T: std::str::FromStr>(
    field: &str,
    entries: &[String],
    fits: impl Fn(&T) -> bool,
) -> Result<BTreeMap<String, T>> {
    let read = |entry: &String| {
        let (key, value) = entry.rsplit_once('=')?;
        let value = value.trim().parse().ok().filter(&fits)?;
        Some((key.trim().to_owned(), value))
    };
    let mut all = BTreeMap::new();
    for entry in entries {
        let Some((key, value)) = read(entry) else {
            return Err(Problem::new(
                "bad_value",
                format!("{field} has {entry:?}, which is no name and number."),
                format!("{field} 中的“{entry}”不是“名称=数值”。"),
            )
            .hint("Write them like q_proj=16, down_proj=32.", "请写成 q_proj=16, down_proj=32 这样。")
            .field(field)
            .into());
        };
        pattern(&key, field)?;
        all.insert(key, value);
    }
    Ok(all)
}

/// The value of the first pattern that matches the name or its end, as PEFT compares them.
fn by_pattern<T: Copy>(patterns: &BTreeMap<String, T>, name: &str) -> Option<T> {
    let matches = |key: &str| regex::Regex::new(&format!(r"^(?:(.*\.)?({key}))$")).is_ok_and(|p| p.is_match(name));
    patterns.iter().find(|(key, _)| matches(key)).map(|(_, value)| *value)
}

fn not_lora(dir: &Path, setting: &str) -> Problem {
    let shown = dir.display();
    Problem::new(
        "adapter_kind",
        format!("{shown} is no LoRA adapter that Lathe can read: it has {setting}."),
        format!("{shown} 不是 Lathe 可读取的 LoRA 适配器：它含有 {setting}。"),
    )
    .hint("Use an adapter without it.", "请使用不含此设置的适配器。")
    .field("adapter_name_or_path")
}
