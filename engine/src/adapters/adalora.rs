//! AdaLoRA (Zhang et al., 2023): low-rank branches in the form of a singular value decomposition, `B diag(E) A`, whose
//! ranks shrink where they matter least while training goes on. Numbers and file as in PEFT 0.18.

use super::{
    Adapter, Precision, Tuning,
    extras::{Bias, Extras},
    on_linears::{Common, Method, OnLinears, Written},
    targets::Target,
    values::Values,
};
use crate::{
    Error, Result,
    entry::Entry,
    files::adapter::{PEFT_VERSION, read_config_as},
    kernels::floats,
    model::{
        Grads, LinearLayout, Network, Store,
        blocks::{Linear, LowRank},
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
use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

pub struct AdaLora;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct AdaLoraParams {
    /// Rank of every target at the beginning.
    #[schemars(range(min = 1, max = 1024), extend("ui" = ui(["First rank", "初始秩"], "开始时每个目标层的秩。", ["Usual: half as much again as the final one", "通常为最终秩的一倍半"])))]
    pub init_r: usize,
    /// Mean rank at the end.
    #[schemars(range(min = 1, max = 1024), extend("ui" = ui(["Final rank", "最终秩"], "结束时的平均秩。", ["Higher: can learn more, larger file", "调高：能学得更多，文件更大"])))]
    pub target_r: usize,
    /// How strongly the adapter acts, divided by the first rank. Empty: twice that rank.
    #[schemars(range(min = 0.0), extend("ui" = ui(["Alpha", "Alpha"], "适配器作用的强度，会除以初始秩。留空为初始秩的两倍。", ["Higher: acts like a higher learning rate", "调高：相当于提高学习率"])))]
    pub lora_alpha: Option<f64>,
    /// Share of the adapter's inputs that are switched off at random while training; none in stages that compare policies
    /// (dpo, kto, ppo, grpo).
    #[schemars(range(min = 0.0, max = 0.95), extend("ui" = ui(["Dropout", "Dropout"], "训练时随机关闭适配器输入的比例；比较策略的阶段（dpo、kto、ppo、grpo）不使用。", ["Higher: less word-for-word memory; usual 0 to 0.1", "调高：减少逐字背诵；常用 0 到 0.1"])))]
    pub lora_dropout: f32,
    /// Linears that get an adapter: all, names such as q_proj,v_proj, or a regular expression over whole names.
    #[schemars(extend("ui" = ui(["Targets", "目标层"], "给哪些线性层加适配器：all、q_proj,v_proj 这样的名称，或匹配全名的正则表达式。", ["Fewer: smaller and faster, learns less", "更少：更小更快，学得也少"])))]
    pub lora_target: String,
    /// Steps before ranks begin to shrink.
    #[schemars(extend("ui" = ui(["Steps before", "缩秩前步数"], "开始缩小秩之前的步数。", ["About a tenth of all steps", "约为总步数的十分之一"])))]
    pub tinit: u64,
    /// Steps at the end in which ranks stay as they are.
    #[schemars(extend("ui" = ui(["Steps after", "缩秩后步数"], "最后保持秩不变的步数。", ["About a third of all steps", "约为总步数的三分之一"])))]
    pub tfinal: u64,
    /// Steps from one sharing out of ranks to the next.
    #[serde(rename = "deltaT")]
    #[schemars(range(min = 1), extend("ui" = ui(["Interval", "间隔"], "两次分配秩之间的步数。", ["Higher: calmer", "调高：更平稳"])))]
    pub delta_t: u64,
    /// How slowly the measured importance follows, over 0 and under 1.
    #[schemars(range(min = 0.0001, max = 0.9999), extend("ui" = ui(["Importance, smoothing", "重要度平滑"], "重要度跟随得有多慢，大于 0 小于 1。", ["", ""])))]
    pub beta1: f64,
    /// How slowly the measured uncertainty follows, over 0 and under 1.
    #[schemars(range(min = 0.0001, max = 0.9999), extend("ui" = ui(["Uncertainty, smoothing", "不确定度平滑"], "不确定度跟随得有多慢，大于 0 小于 1。", ["", ""])))]
    pub beta2: f64,
    /// Weight of the penalty that keeps A and B near orthogonal.
    #[schemars(range(min = 0.0, max = 100.0), extend("ui" = ui(["Orthogonality", "正交惩罚"], "让 A 与 B 接近正交的惩罚项的权重。", ["Higher: nearer to a true decomposition", "调高：更接近真正的分解"])))]
    pub orth_reg_weight: f64,
    /// Trained whole and saved beside the adapter: modules by name, such as embed_tokens, lm_head or norm.
    #[schemars(extend("ui" = ui(["Trained whole", "完整训练的模块"], "完整训练并随适配器保存的模块，例如 embed_tokens、lm_head 或 norm。", ["For new tokens", "用于新增词元"])))]
    pub additional_target: Vec<String>,
}

impl Default for AdaLoraParams {
    fn default() -> Self {
        Self {
            init_r: 12,
            target_r: 8,
            lora_alpha: None,
            lora_dropout: 0.0,
            lora_target: "all".into(),
            tinit: 0,
            tfinal: 0,
            delta_t: 1,
            beta1: 0.85,
            beta2: 0.85,
            orth_reg_weight: 0.5,
            additional_target: Vec::new(),
        }
    }
}

impl Entry for AdaLora {
    fn card(&self) -> Card {
        Card {
            name: "adalora".into(),
            title: Text::new("AdaLoRA", "AdaLoRA"),
            help: Text::new(
                "LoRA that gives high ranks to the linears that need them and takes them from the others.",
                "按需分配秩的 LoRA：重要的层秩高，其余的层秩低。",
            ),
            schema: params::schema::<AdaLoraParams>(),
        }
    }
}

impl Adapter for AdaLora {
    fn start(&self, config: &RunConfig, previous: Option<&Path>) -> Result<Box<dyn Tuning>, Problems> {
        let params: AdaLoraParams = params::read(config)?;
        let seed = params::read::<TrainParams>(config).map(|p| p.seed).unwrap_or(42);
        let extras = Extras::asked(&params.additional_target, Bias::None, config);
        if params.target_r > params.init_r {
            let (init, target) = (params.init_r, params.target_r);
            return Err(Problem::new(
                "bad_rank",
                format!("target_r is {target}, but ranks only shrink and begin with init_r, {init}."),
                format!("target_r 为 {target}，但秩只会缩小，且从 init_r（{init}）开始。"),
            )
            .hint("Set init_r to half as much again as target_r.", "请将 init_r 设为 target_r 的一倍半。")
            .field("target_r")
            .into());
        }
        let tuning = match previous {
            None => Target::parse(&params.lora_target, Triples::TARGET)
                .map(|target| OnLinears::new(Triples::new(params, seed), target, extras)),
            Some(dir) => read(dir, params).map(|tuning| tuning.and(extras)),
        };
        tuning.map(|t| Box::new(t) as _).map_err(|e| Problems(e.into_problems()))
    }

    fn peft_type(&self) -> Option<&'static str> {
        Some("ADALORA")
    }

    fn read(&self, dir: &Path) -> Result<Box<dyn Tuning>> {
        Ok(Box::new(read(dir, AdaLoraParams::default())?))
    }
}

/// What of `adapter_config.json` changes the result: ranks are told by the tensors.
#[derive(Deserialize)]
#[serde(default)]
struct Saved {
    init_r: usize,
    lora_alpha: f64,
    modules_to_save: Vec<String>,
}

impl Default for Saved {
    fn default() -> Self {
        Self { init_r: 12, lora_alpha: 8.0, modules_to_save: Vec::new() }
    }
}

fn read(dir: &Path, params: AdaLoraParams) -> Result<OnLinears<Triples>> {
    let Saved { init_r, lora_alpha, modules_to_save } = read_config_as(dir)?;
    let params = AdaLoraParams { init_r, lora_alpha: Some(lora_alpha), ..params };
    let extras = Extras { whole: modules_to_save, ..Extras::default() };
    Ok(OnLinears::saved(Triples::new(params, 0), extras, Values::read(dir)?))
}

struct Triples {
    params: AdaLoraParams,
    seed: u64,
    state: Mutex<State>,
}

/// What the sharing out of ranks remembers.
#[derive(Default)]
struct State {
    /// Steps of the optimizer in the whole run.
    steps: u64,
    /// Importance and its uncertainty, smoothed, by parameter.
    importance: BTreeMap<String, (Vec<f32>, Vec<f32>)>,
    /// Which triples of a linear live, by its name, since ranks were shared out first.
    alive: BTreeMap<String, Vec<bool>>,
}

const STATE: &str = "adalora.safetensors";

impl Triples {
    fn new(params: AdaLoraParams, seed: u64) -> Self {
        Self { params, seed, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// PEFT divides by the first rank and a little, whatever the rank is now.
    fn scale(&self) -> f32 {
        let rank = self.params.init_r as f64;
        let alpha = self.params.lora_alpha.unwrap_or(2.0 * rank);
        ((if alpha > 0.0 { alpha } else { rank }) / (rank + 1e-5)) as f32
    }

    fn normal(&self, name: &str, shape: (usize, usize), device: &Device) -> Result<Tensor> {
        let mut random = Random::new(self.seed, name_key(1, name));
        let values: Vec<f32> = (0..shape.0 * shape.1).map(|_| random.normal() * 0.02).collect();
        Ok(Tensor::from_vec(values, shape, device)?)
    }

    /// Smooths `|value · gradient|` of each parameter, and how far it is from what was expected.
    fn measure(&self, state: &mut State, store: &Store, grads: &Grads, scale: f64) -> Result<()> {
        let (keep, new) = (self.params.beta1 as f32, (1.0 - self.params.beta1) as f32);
        let (keep_unsure, new_unsure) = (self.params.beta2 as f32, (1.0 - self.params.beta2) as f32);
        for parameter in store.trainable().filter(|p| is_triple(&p.name)) {
            let Some(gradient) = grads.get(&parameter.name) else { continue };
            let sensitivity = (parameter.get() * (gradient * scale)?)?.abs()?.flatten_all()?;
            let sensitivity = sensitivity.to_device(&Device::Cpu)?;
            let now = floats(&sensitivity)?;
            let zeros = || (vec![0.0; now.len()], vec![0.0; now.len()]);
            let (importance, unsure) = state.importance.entry(parameter.name.clone()).or_insert_with(zeros);
            for ((i, u), now) in importance.iter_mut().zip(unsure).zip(now.iter()) {
                *i = keep * *i + new * now;
                *u = keep_unsure * *u + new_unsure * (now - *i).abs();
            }
        }
        Ok(())
    }

    /// Lets the `budget` most important triples of all linears live, and puts the others to 0.
    fn share_out(&self, state: &mut State, store: &Store, budget: usize) -> Result<()> {
        let mut scores: BTreeMap<String, Vec<f32>> = BTreeMap::new();
        for parameter in store.trainable() {
            let Some((linear, part)) = parameter.name.rsplit_once('.').filter(|_| is_triple(&parameter.name)) else {
                continue;
            };
            let Some((importance, unsure)) = state.importance.get(&parameter.name) else { continue };
            let (rows, columns) = parameter.get().dims2()?;
            let rank = if part == "lora_B" { columns } else { rows };
            let mut sums = vec![0.0f32; rank];
            for (k, (i, u)) in importance.iter().zip(unsure).enumerate() {
                sums[if part == "lora_B" { k % columns } else { k / columns }] += i * u;
            }
            let count = (importance.len() / rank.max(1)).max(1) as f32;
            let all = scores.entry(linear.to_owned()).or_insert_with(|| vec![0.0; rank]);
            all.iter_mut().zip(sums).for_each(|(score, sum)| *score += sum / count);
        }
        let mut sorted: Vec<f32> = scores.values().flatten().copied().collect();
        let Some(dead) = sorted.len().checked_sub(budget).filter(|dead| *dead > 0) else { return Ok(()) };
        sorted.sort_by(f32::total_cmp);
        let most = sorted[dead - 1];
        state.alive = scores.into_iter().map(|(l, s)| (l, s.into_iter().map(|score| score > most).collect())).collect();
        mask(state, store)
    }
}

/// Puts the singular values of triples that don't live to 0.
fn mask(state: &State, store: &Store) -> Result<()> {
    for (linear, alive) in &state.alive {
        let Some(sizes) = store.get(&format!("{linear}.lora_E")) else { continue };
        let value = sizes.get();
        let kept: Vec<f32> = alive.iter().map(|alive| if *alive { 1.0 } else { 0.0 }).collect();
        sizes.set((&value * Tensor::from_vec(kept, value.shape(), value.device())?)?);
    }
    Ok(())
}

fn is_triple(name: &str) -> bool {
    [".lora_A", ".lora_B", ".lora_E"].iter().any(|part| name.ends_with(part))
}

impl Method for Triples {
    const TARGET: &'static str = "lora_target";
    const MARK: &'static str = ".lora_A";

    fn count(&self, linear: &LinearLayout) -> u64 {
        (self.params.init_r * (linear.inp + linear.out + 1)) as u64
    }

    fn attach(&self, name: &str, linear: Linear, values: &Values, store: &mut Store) -> Result<Linear> {
        let ((inp, out), device) = (linear.dims()?, linear.weight.device());
        let [a_name, b_name, e_name] = ["A", "B", "E"].map(|part| format!("{name}.lora_{part}"));
        let rank = values.dims(&a_name).and_then(|dims| dims.first().copied()).unwrap_or(self.params.init_r);
        if rank == 0 {
            return Ok(linear);
        }
        let a = match values.get(&a_name, &[rank, inp], &device)? {
            Some(saved) => saved,
            None => self.normal(&a_name, (rank, inp), &device)?,
        };
        let b = match values.get(&b_name, &[out, rank], &device)? {
            Some(saved) => saved,
            None => self.normal(&b_name, (out, rank), &device)?,
        };
        let sizes = match values.get(&e_name, &[rank, 1], &device)? {
            Some(saved) => saved,
            None => Tensor::zeros((rank, 1), DType::F32, &device)?,
        };
        let (a, b) = (store.add(a_name, a), store.add(b_name, b));
        let branch = LowRank::new(name, a, b, self.scale(), self.params.lora_dropout);
        let branch = LowRank { sizes: Some(store.add(e_name, sizes)), ..branch };
        Ok(Linear { branch: Some(branch), ..linear })
    }

    fn config(&self, common: Common) -> Result<Map<String, Value>> {
        let p = &self.params;
        let own = json!({
            "r": 8, "init_r": p.init_r, "target_r": p.target_r, "lora_alpha": p.lora_alpha.unwrap_or(2.0 * p.init_r as f64),
            "lora_dropout": p.lora_dropout, "tinit": p.tinit, "tfinal": p.tfinal, "deltaT": p.delta_t, "beta1": p.beta1,
            "beta2": p.beta2, "orth_reg_weight": p.orth_reg_weight, "bias": "none", "rank_pattern": null,
            // PEFT wants a run long enough for the schedule.
            "total_step": self.state().steps.max(p.tinit + p.tfinal + 1), "peft_version": PEFT_VERSION,
        });
        Ok(common.with("ADALORA", own))
    }

    /// As PEFT saves it, without the triples that died.
    fn written(&self, _: &dyn Network, mut written: Written, precision: Precision) -> Result<Written> {
        if precision == Precision::Exact {
            return Ok(written);
        }
        let state = self.state();
        let mut pattern = Map::new();
        let linears = written.tensors.iter().filter_map(|(name, a)| Some((name.strip_suffix(Self::MARK)?, a)));
        let linears: Vec<_> = linears.map(|(name, a)| (name.to_owned(), a.dims().first().copied())).collect();
        for (linear, rank) in linears {
            let rank = rank.unwrap_or(0);
            let alive = state.alive.get(&linear).cloned().unwrap_or_else(|| vec![true; rank]);
            let rows: Vec<u32> = (0..).zip(&alive).filter(|(_, alive)| **alive).map(|(row, _)| row).collect();
            let rows = Tensor::from_vec(rows.clone(), rows.len(), &Device::Cpu)?;
            for (part, dim) in [("A", 0), ("E", 0), ("B", 1)] {
                if let Some(tensor) = written.tensors.get_mut(&format!("{linear}.lora_{part}")) {
                    *tensor = tensor.index_select(&rows.to_device(tensor.device())?, dim)?;
                }
            }
            // What was read had fewer triples than init_r: those that it has count as the first.
            let mut whole = alive;
            whole.resize(self.params.init_r, false);
            pattern.insert(format!("{linear}.lora_E"), json!(whole));
        }
        written.config.insert("rank_pattern".into(), Value::Object(pattern));
        Ok(written)
    }

    fn begin(&self, steps: u64) -> Result<()> {
        let AdaLoraParams { tinit, tfinal, .. } = self.params;
        if tinit.saturating_add(tfinal) >= steps {
            return Err(Problem::new(
                "no_budget_steps",
                format!(
                    "tinit is {tinit} and tfinal {tfinal}, which leaves none of the {steps} steps to share out ranks."
                ),
                format!("tinit 为 {tinit}、tfinal 为 {tfinal}，总共 {steps} 步中没有剩余的步数来分配秩。"),
            )
            .hint("Lower tinit or tfinal, or train longer.", "请调低 tinit 或 tfinal，或训练更久。")
            .field("tinit")
            .into());
        }
        self.state().steps = steps;
        Ok(())
    }

    /// The mean of `|A Aᵀ - I|` and `|Bᵀ B - I|` over all of them.
    fn penalise(&self, store: &Store, grads: &mut Grads) -> Result<f64> {
        let sides = store.trainable().filter_map(|p| {
            let of_a = p.name.ends_with(".lora_A");
            (of_a || p.name.ends_with(".lora_B")).then_some((p, of_a))
        });
        let sides: Vec<_> = sides.collect();
        let weight = self.params.orth_reg_weight / sides.len().max(1) as f64;
        let mut sum = 0.0;
        for (parameter, of_a) in sides {
            let value = parameter.get();
            let rows = if of_a { value.clone() } else { value.t()?.contiguous()? };
            let eye = Tensor::eye(rows.dim(0)?, DType::F32, rows.device())?;
            let off = (rows.matmul(&rows.t()?)? - eye)?;
            let size = f64::from(off.sqr()?.sum_all()?.to_scalar::<f32>()?).sqrt();
            if size == 0.0 {
                continue;
            }
            let gradient = (off.matmul(&rows)? * (2.0 * weight / size))?;
            grads.add(parameter, if of_a { gradient } else { gradient.t()?.contiguous()? })?;
            sum += weight * size;
        }
        Ok(sum)
    }

    fn after_step(&self, store: &Store, grads: &Grads, scale: f64, step: u64) -> Result<()> {
        let AdaLoraParams { tinit, tfinal, delta_t, target_r, .. } = self.params;
        let mut state = self.state();
        let last = state.steps.saturating_sub(tfinal);
        if step > last {
            return mask(&state, store);
        }
        if step < last {
            self.measure(&mut state, store, grads, scale)?;
        }
        if step <= tinit || (step < last && !step.is_multiple_of(delta_t)) {
            return Ok(());
        }
        let ranks = store.trainable().filter(|p| p.name.ends_with(Self::MARK)).map(|p| Ok(p.get().dim(0)?));
        let ranks = ranks.collect::<Result<Vec<usize>>>()?;
        let (first, target) = (ranks.iter().sum::<usize>() as f64, (target_r * ranks.len()) as f64);
        let left = 1.0 - (step - tinit) as f64 / (last - tinit) as f64;
        self.share_out(&mut state, store, ((first - target) * left.powi(3) + target) as usize)?;
        if step == last {
            state.importance.clear();
        }
        Ok(())
    }

    fn save_state(&self, dir: &Path) -> Result<()> {
        let state = self.state();
        let mut tensors = BTreeMap::new();
        let row = |values: &[f32]| Tensor::from_slice(values, values.len(), &Device::Cpu);
        for (name, (importance, unsure)) in &state.importance {
            tensors.insert(format!("importance.{name}"), row(importance)?);
            tensors.insert(format!("unsure.{name}"), row(unsure)?);
        }
        for (name, alive) in &state.alive {
            let alive: Vec<f32> = alive.iter().map(|alive| if *alive { 1.0 } else { 0.0 }).collect();
            tensors.insert(format!("alive.{name}"), row(&alive)?);
        }
        crate::files::tensors::write(&dir.join(STATE), &tensors)
    }

    fn restore_state(&self, checkpoint: &Path) -> Result<()> {
        let tensors = candle_core::safetensors::load(checkpoint.join(STATE), &Device::Cpu)?;
        let mut state = self.state();
        let lost = |name: &str| Error::Internal(format!("{STATE} has no {name}"));
        for (key, tensor) in &tensors {
            if let Some(name) = key.strip_prefix("alive.") {
                state.alive.insert(name.into(), tensor.to_vec1::<f32>()?.iter().map(|alive| *alive > 0.5).collect());
            } else if let Some(name) = key.strip_prefix("importance.") {
                let unsure = tensors.get(&format!("unsure.{name}")).ok_or_else(|| lost(name))?;
                state.importance.insert(name.into(), (tensor.to_vec1()?, unsure.to_vec1()?));
            }
        }
        Ok(())
    }
}
