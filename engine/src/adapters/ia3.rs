//! (IA)³ (Liu et al., 2022): a vector on the outputs of keys and values and on the inputs of the MLP's last linear.

use super::{
    Adapter, Tuning,
    extras::{Bias, Extras},
    on_linears::{Common, Method, OnLinears},
    targets::Target,
    values::Values,
};
use crate::{
    Result,
    entry::Entry,
    files::adapter::read_config_as,
    model::{
        LinearLayout, Store,
        blocks::{Linear, Rescale},
    },
};
use api::{Card, Problem, Problems, RunConfig, Text, catalog::ui, params};
use candle_core::{DType, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::path::Path;

pub struct Ia3;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Ia3Params {
    /// Linears that get a vector: all, names such as k_proj,v_proj, or a regular expression. Empty: those of keys and
    /// values, and the last one of the MLP.
    #[schemars(extend("ui" = ui(["Targets", "目标层"], "给哪些线性层加向量：all、k_proj,v_proj 这样的名称，或正则表达式。留空：键、值的线性层与 MLP 的最后一层。", ["More: learns more; the file stays tiny", "更多：学得更多，文件仍然很小"])))]
    pub ia3_target: String,
    /// Those of them whose inputs are scaled instead of their outputs. Empty: the last linears of MLPs.
    #[schemars(extend("ui" = ui(["Scaled inputs", "缩放输入的层"], "其中缩放输入（而不是输出）的层。留空：MLP 的最后一层。", ["", ""])))]
    pub feedforward_modules: Vec<String>,
    /// Trained whole and saved beside the adapter: modules by name, such as embed_tokens, lm_head or norm.
    #[schemars(extend("ui" = ui(["Trained whole", "完整训练的模块"], "完整训练并随适配器保存的模块，例如 embed_tokens、lm_head 或 norm。", ["For new tokens", "用于新增词元"])))]
    pub additional_target: Vec<String>,
}

/// What the families call the linears of keys and values (or of q, k and v in one), and the last one of their MLPs.
const KEYS_AND_VALUES: [&str; 6] = ["k_proj", "v_proj", "qkv_proj", "query_key_value", "wqkv", "c_attn"];
const FEEDFORWARD: [&str; 4] = ["down_proj", "w2", "dense_4h_to_h", "mlp.c_proj"];

impl Entry for Ia3 {
    fn card(&self) -> Card {
        Card {
            name: "ia3".into(),
            title: Text::new("(IA)³", "(IA)³"),
            help: Text::new(
                "Vectors that make parts of the frozen model stronger or weaker: the smallest adapter of all.",
                "用向量增强或减弱冻结模型的各部分：最小的适配器。",
            ),
            schema: params::schema::<Ia3Params>(),
        }
    }
}

impl Adapter for Ia3 {
    fn start(&self, config: &RunConfig, previous: Option<&Path>) -> Result<Box<dyn Tuning>, Problems> {
        let params: Ia3Params = params::read(config)?;
        let extras = Extras::asked(&params.additional_target, Bias::None, config);
        let tuning = match previous {
            None => Rescales::new(&params).map(|(method, target)| OnLinears::new(method, target, extras)),
            Some(dir) => read(dir).map(|tuning| tuning.and(extras)),
        };
        tuning.map(|t| Box::new(t) as _).map_err(|e| Problems(e.into_problems()))
    }

    fn peft_type(&self) -> Option<&'static str> {
        Some("IA3")
    }

    fn read(&self, dir: &Path) -> Result<Box<dyn Tuning>> {
        Ok(Box::new(read(dir)?))
    }
}

/// What of `adapter_config.json` matters here: the shapes of the vectors tell which scale inputs.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Saved {
    modules_to_save: Vec<String>,
}

fn read(dir: &Path) -> Result<OnLinears<Rescales>> {
    let Saved { modules_to_save } = read_config_as(dir)?;
    let values = Values::read(dir)?;
    let of_input = |name: &&str| values.dims(name).is_some_and(|dims| dims.first() == Some(&1));
    let inputs = values.names().filter(of_input).filter_map(|name| name.strip_suffix(Rescales::MARK));
    let method = Rescales { feedforward: inputs.map(str::to_owned).collect() };
    let extras = Extras { whole: modules_to_save, ..Extras::default() };
    Ok(OnLinears::saved(method, extras, values))
}

struct Rescales {
    /// Ends of the names of the linears whose inputs are scaled.
    feedforward: Vec<String>,
}

impl Rescales {
    fn new(params: &Ia3Params) -> Result<(Self, Target)> {
        let usual = params.ia3_target.trim().is_empty();
        let target = match usual {
            true => Target::Names(KEYS_AND_VALUES.iter().chain(&FEEDFORWARD).map(|s| (*s).to_owned()).collect()),
            false => Target::parse(&params.ia3_target, Self::TARGET)?,
        };
        let feedforward = match params.feedforward_modules.is_empty() {
            true => FEEDFORWARD.iter().map(|s| (*s).to_owned()).collect(),
            false => params.feedforward_modules.clone(),
        };
        // As PEFT has it: they are a part of the targets.
        let Target::Names(names) = &target else { return Ok((Self { feedforward }, target)) };
        if let Some(other) = params.feedforward_modules.iter().find(|name| !names.contains(name)) {
            let known = names.join(", ");
            return Err(Problem::new(
                "no_target",
                format!("feedforward_modules names {other:?}, which is none of the targets."),
                format!("feedforward_modules 中的“{other}”不在目标层中。"),
            )
            .hint(format!("The targets: {known}."), format!("目标层：{known}。"))
            .field("feedforward_modules")
            .into());
        }
        Ok((Self { feedforward }, target))
    }

    fn of_input(&self, name: &str) -> bool {
        self.feedforward.iter().any(|end| super::targets::ends_with(name, end))
    }
}

impl Method for Rescales {
    const TARGET: &'static str = "ia3_target";
    const MARK: &'static str = ".ia3_l";

    fn count(&self, linear: &LinearLayout) -> u64 {
        (if self.of_input(&linear.name) { linear.inp } else { linear.out }) as u64
    }

    fn attach(&self, name: &str, linear: Linear, values: &Values, store: &mut Store) -> Result<Linear> {
        let ((inp, out), device) = (linear.dims()?, linear.weight.device());
        let of_input = self.of_input(name);
        let shape = if of_input { [1, inp] } else { [out, 1] };
        let name = format!("{name}{}", Self::MARK);
        let value = match values.get(&name, &shape, &device)? {
            Some(saved) => saved,
            None => Tensor::ones(&shape, DType::F32, &device)?,
        };
        let patch = Rescale { vector: store.add(name, value), of_input };
        Ok(Linear { patch: Some(Box::new(patch)), ..linear })
    }

    fn config(&self, common: Common) -> Result<Map<String, Value>> {
        Ok(common.with("IA3", json!({ "feedforward_modules": self.feedforward, "init_ia3_weights": true })))
    }
}
