//! Some layers are trained and all else is frozen, as LLaMA-Factory's `freeze` has it; the result is a whole model.

use super::{Adapter, Base, Precision, Tuning, full::save_model, no_adapter_here, targets::last_parts};
use crate::{
    Result,
    entry::Entry,
    model::{Attach, Layout, Network, Store},
};
use api::{
    Card, Problem, Problems, RunConfig, Text,
    catalog::ui,
    params::{self, ModelParams},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, path::Path, sync::OnceLock};

pub struct Freeze;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct FreezeParams {
    /// Layers that are trained: 2 are the last two, -2 the first two.
    #[schemars(range(min = -10000, max = 10000), extend("ui" = ui(["Trained layers", "训练的层数"], "训练哪些层：2 表示最后两层，-2 表示最前两层。", ["More: learns more, needs more memory", "更多：学得更多，占用更多内存"])))]
    pub freeze_trainable_layers: i64,
    /// Parts of these layers that are trained: all, or names such as mlp, self_attn.
    #[schemars(extend("ui" = ui(["Trained parts", "训练的部分"], "这些层中训练的部分：all，或 mlp、self_attn 这样的名称。", ["", ""])))]
    pub freeze_trainable_modules: Vec<String>,
    /// Modules beside the layers that are trained too, such as embed_tokens, norm or lm_head.
    #[schemars(extend("ui" = ui(["Further parts", "其他部分"], "层以外也参与训练的模块，例如 embed_tokens、norm 或 lm_head。", ["For new tokens", "用于新增词元"])))]
    pub freeze_extra_modules: Vec<String>,
}

impl Default for FreezeParams {
    fn default() -> Self {
        Self {
            freeze_trainable_layers: 2,
            freeze_trainable_modules: vec!["all".into()],
            freeze_extra_modules: Vec::new(),
        }
    }
}

impl Entry for Freeze {
    fn card(&self) -> Card {
        Card {
            name: "freeze".into(),
            title: Text::new("Some layers", "部分层"),
            help: Text::new(
                "Some layers are trained and the others are frozen; the result is a whole model.",
                "只训练部分层，其余冻结；结果是完整的模型。",
            ),
            schema: params::schema::<FreezeParams>(),
        }
    }
}

impl Adapter for Freeze {
    fn start(&self, config: &RunConfig, previous: Option<&Path>) -> Result<Box<dyn Tuning>, Problems> {
        let params: FreezeParams = params::read(config)?;
        if let Some(dir) = previous {
            return Err(no_adapter_here(&dir.display().to_string()).into());
        }
        if params.freeze_trainable_layers == 0 && params.freeze_extra_modules.is_empty() {
            return Err(nothing_trained().into());
        }
        if params::read::<ModelParams>(config).is_ok_and(|model| model.train_from_scratch) {
            return Err(random_and_frozen().into());
        }
        Ok(Box::new(SomeWeights { params, trained: OnceLock::new() }))
    }

    fn tunes_encoder_decoders(&self) -> bool {
        true
    }
}

struct SomeWeights {
    params: FreezeParams,
    /// Names of the parameters that are trained, once the model is known.
    trained: OnceLock<BTreeSet<String>>,
}

impl SomeWeights {
    /// What is trained of this model, with the number of values of each.
    fn chosen(&self, layout: &dyn Layout) -> Result<Vec<(String, u64)>> {
        let FreezeParams { freeze_trainable_layers: n, freeze_trainable_modules: parts, freeze_extra_modules: extra } =
            &self.params;
        let (count, stacks) = (usize::try_from(n.unsigned_abs()).unwrap_or(usize::MAX), layout.stacks());
        let chosen = |layers: usize| if *n > 0 { layers.saturating_sub(count)..layers } else { 0..count.min(layers) };
        // Whether a parameter in a layer stands in a chosen one, and its part, which T5 numbers (`layer.0.SelfAttention`).
        let place = |name: &str| {
            stacks.iter().find_map(|(start, layers)| {
                let (layer, rest) = name.strip_prefix(start)?.strip_prefix('.')?.split_once('.')?;
                let numbered = |part: &&str| *part == "layer" || part.parse::<usize>().is_ok();
                let part = rest.split('.').find(|part| !numbered(part))?;
                Some((chosen(*layers).contains(&layer.parse().ok()?), part.to_owned()))
            })
        };
        let module = |name: &str| name.rsplit('.').nth(1).map(str::to_owned);
        let all = layout.tensors();
        let known: BTreeSet<String> = all.iter().filter_map(|(name, _)| Some(place(name)?.1)).collect();
        if let Some(part) = parts.iter().find(|part| *part != "all" && !known.contains(*part)) {
            return Err(no_part("freeze_trainable_modules", part, known.into_iter()).into());
        }
        let outside = all.iter().filter(|(name, _)| place(name).is_none()).filter_map(|(name, _)| module(name));
        let known: BTreeSet<String> = outside.collect();
        if let Some(part) = extra.iter().find(|part| !known.contains(*part)) {
            return Err(no_part("freeze_extra_modules", part, known.into_iter()).into());
        }
        let trained = |name: &str| match place(name) {
            Some((is_chosen, part)) => is_chosen && parts.iter().any(|p| p == "all" || *p == part),
            None => module(name).is_some_and(|module| extra.contains(&module)),
        };
        let chosen: Vec<_> = all.into_iter().filter(|(name, _)| trained(name)).collect();
        if chosen.is_empty() { Err(nothing_trained().into()) } else { Ok(chosen) }
    }
}

impl Attach for SomeWeights {
    fn meet(&self, layout: &dyn Layout) -> Result<()> {
        let chosen = self.chosen(layout)?.into_iter().map(|(name, _)| name).collect();
        // A second model has the same configuration.
        self.trained.get_or_init(|| chosen);
        Ok(())
    }

    fn trains(&self, name: &str) -> bool {
        self.trained.get().is_some_and(|trained| trained.contains(name))
    }
}

impl Tuning for SomeWeights {
    fn count(&self, layout: &dyn Layout) -> Result<(u64, Vec<String>)> {
        let chosen = self.chosen(layout)?;
        let modules = chosen.iter().filter_map(|(name, _)| Some(name.rsplit_once('.')?.0));
        Ok((chosen.iter().map(|(_, count)| count).sum(), last_parts(modules)))
    }

    fn saves_model(&self) -> bool {
        true
    }

    fn save(&self, dir: &Path, model: &dyn Network, _: &Store, base: &Base, precision: Precision) -> Result<()> {
        save_model(dir, model, base, precision)
    }
}

fn no_part(field: &str, part: &str, known: impl Iterator<Item = String>) -> Problem {
    let known: Vec<String> = known.collect();
    Problem::new(
        "no_target",
        format!("{field} names {part:?}, which this model doesn't have there."),
        format!("{field} 中有“{part}”，此模型没有这一部分。"),
    )
    .hint(format!("Known: {}.", known.join(", ")), format!("可用：{}。", known.join("、")))
    .field(field)
}

fn nothing_trained() -> Problem {
    Problem::new("nothing_trained", "With these settings freeze trains nothing.", "按这些设置，freeze 不训练任何参数。")
        .hint(
            "Set freeze_trainable_layers to 2 for the last two layers, or -2 for the first two.",
            "请将 freeze_trainable_layers 设为 2（最后两层）或 -2（最前两层）。",
        )
        .field("freeze_trainable_layers")
}

fn random_and_frozen() -> Problem {
    Problem::new(
        "random_and_frozen",
        "train_from_scratch is on, but freeze would keep most of the random weights as they are.",
        "已启用 train_from_scratch，但 freeze 会让大部分随机权重保持不变。",
    )
    .hint("Choose full, or start from a trained model.", "请选择 full，或从已训练的模型开始。")
    .field("train_from_scratch")
}
