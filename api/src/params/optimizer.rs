//! Parameters of the optimizers besides those that all share, and of the schedules, by the names and defaults of
//! LLaMA-Factory and transformers.

use crate::catalog::ui;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct OptimizerParams {
    /// How much of the last step sgd and muon keep. Empty: 0 with sgd, which is plain gradient descent as transformers has
    /// it, and 0.95 with muon.
    #[schemars(range(min = 0.0, max = 0.9999), extend("ui" = ui(["Momentum", "动量"], "sgd 与 muon 保留上一步的多少。留空：sgd 为 0（普通梯度下降，与 transformers 相同），muon 为 0.95。", ["Usual 0.9 with sgd, 0.95 with muon", "sgd 常用 0.9，muon 常用 0.95"])))]
    pub optim_momentum: Option<f64>,
    /// Muon for the matrices of the layers, AdamW for everything else.
    #[schemars(extend("ui" = ui(["Muon", "Muon"], "各层的矩阵用 Muon，其余用 AdamW。", ["As the optimizer muon", "与优化器 muon 相同"])))]
    pub use_muon: bool,
    /// GaLore: AdamW in a subspace of each gradient. Needs weights that are trained whole.
    #[schemars(extend("ui" = ui(["GaLore", "GaLore"], "GaLore：在梯度的子空间中做 AdamW。需要训练完整权重。", ["Less memory for the optimizer", "优化器占用更少内存"])))]
    pub use_galore: bool,
    /// Matrices that GaLore acts on: all, or parts of their names.
    #[schemars(extend("ui" = ui(["GaLore targets", "GaLore 目标"], "GaLore 作用于哪些矩阵：all，或名称的一部分。", ["", ""])))]
    pub galore_target: Vec<String>,
    /// Width of GaLore's subspace.
    #[schemars(range(min = 1, max = 4096), extend("ui" = ui(["GaLore rank", "GaLore 秩"], "GaLore 子空间的宽度。", ["Higher: nearer to AdamW, more memory", "调高：更接近 AdamW，占用更多内存"])))]
    pub galore_rank: usize,
    /// Steps after which GaLore takes a new subspace.
    #[schemars(range(min = 1), extend("ui" = ui(["GaLore interval", "GaLore 间隔"], "每隔多少步更换 GaLore 的子空间。", ["", ""])))]
    pub galore_update_interval: u64,
    /// Factor on GaLore's steps.
    #[schemars(range(min = 0.0, max = 1000.0), extend("ui" = ui(["GaLore scale", "GaLore 缩放"], "GaLore 步长的倍数。", ["Higher: larger steps", "调高：步子更大"])))]
    pub galore_scale: f64,
    /// APOLLO: AdamW's step sizes from a random projection of each gradient. Needs weights that are trained whole.
    #[schemars(extend("ui" = ui(["APOLLO", "APOLLO"], "APOLLO：由梯度的随机投影求得 AdamW 的步长。需要训练完整权重。", ["Less memory for the optimizer", "优化器占用更少内存"])))]
    pub use_apollo: bool,
    /// Matrices that APOLLO acts on: all, or parts of their names.
    #[schemars(extend("ui" = ui(["APOLLO targets", "APOLLO 目标"], "APOLLO 作用于哪些矩阵：all，或名称的一部分。", ["", ""])))]
    pub apollo_target: Vec<String>,
    /// Width of APOLLO's projection.
    #[schemars(range(min = 1, max = 4096), extend("ui" = ui(["APOLLO rank", "APOLLO 秩"], "APOLLO 投影的宽度。", ["", ""])))]
    pub apollo_rank: usize,
    /// Steps after which APOLLO takes a new projection.
    #[schemars(range(min = 1), extend("ui" = ui(["APOLLO interval", "APOLLO 间隔"], "每隔多少步更换 APOLLO 的投影。", ["", ""])))]
    pub apollo_update_interval: u64,
    /// APOLLO's steps are multiplied with the root of this.
    #[schemars(range(min = 0.0, max = 100000.0), extend("ui" = ui(["APOLLO scale", "APOLLO 缩放"], "APOLLO 的步长乘以此值的平方根。", ["Higher: larger steps", "调高：步子更大"])))]
    pub apollo_scale: f64,
    /// Whether APOLLO has a step size for each row or column (channel), or one for a matrix (tensor).
    #[schemars(extend("ui" = ui(["APOLLO sizes", "APOLLO 步长"], "APOLLO 的步长按行或列（channel），或整个矩阵一个（tensor）。", ["", ""])))]
    pub apollo_scale_type: ApolloScale,
    /// Put the scale before APOLLO's limit on growth instead of behind it.
    #[schemars(extend("ui" = ui(["APOLLO scale first", "APOLLO 先缩放"], "在 APOLLO 限制增长之前而非之后缩放。", ["", ""])))]
    pub apollo_scale_front: bool,
    /// BAdam: AdamW on one layer at a time. Needs weights that are trained whole.
    #[schemars(extend("ui" = ui(["BAdam", "BAdam"], "BAdam：每次只对一层做 AdamW。需要训练完整权重。", ["Optimizer memory of a single layer", "优化器只占一层的内存"])))]
    pub use_badam: bool,
    /// What BAdam trains at a time: a layer.
    #[schemars(extend("ui" = ui(["BAdam mode", "BAdam 模式"], "BAdam 每次训练什么：一层。", ["", ""])))]
    pub badam_mode: BadamMode,
    /// In which order BAdam takes the layers.
    #[schemars(extend("ui" = ui(["BAdam order", "BAdam 顺序"], "BAdam 按什么顺序选择层。", ["fixed: stays with the first", "fixed：始终为第一层"])))]
    pub badam_switch_mode: BadamOrder,
    /// Steps after which BAdam goes to the next layer.
    #[schemars(range(min = 1), extend("ui" = ui(["BAdam interval", "BAdam 间隔"], "每隔多少步换到下一层。", ["", ""])))]
    pub badam_switch_interval: u64,
    /// The layer that BAdam begins with. Empty: the first of its order.
    #[schemars(range(min = 0), extend("ui" = ui(["BAdam start", "BAdam 起始层"], "BAdam 从哪一层开始。留空则为其顺序中的第一层。", ["", ""])))]
    pub badam_start_block: Option<usize>,
    /// Keep a moving average of what is trained; it is what is validated and saved at the end. Usual 0.99 to 0.9999; 0: none.
    #[schemars(range(min = 0.0, max = 0.999999), extend("ui" = ui(["EMA decay", "EMA 衰减"], "保留训练参数的滑动平均，用于验证，并作为最终结果保存。常用 0.99 到 0.9999；0 为关闭。", ["Higher: averages over more steps", "调高：对更多步取平均"])))]
    pub ema_decay: f64,
    /// Arguments of the schedule, for example {"num_cycles": 2} of cosine_with_restarts, {"lr_end": 1e-6, "power": 2} of polynomial,
    /// {"min_lr_rate": 0.1} of cosine_with_min_lr, {"num_decay_steps": 100} of warmup_stable_decay.
    #[schemars(extend("ui" = ui(["Schedule arguments", "学习率曲线参数"], "学习率曲线的参数，例如 cosine_with_restarts 的 {\"num_cycles\": 2}、polynomial 的 {\"lr_end\": 1e-6, \"power\": 2}、cosine_with_min_lr 的 {\"min_lr_rate\": 0.1}、warmup_stable_decay 的 {\"num_decay_steps\": 100}。", ["", ""]), "type" = ["string", "object", "null"]))]
    pub lr_scheduler_kwargs: Option<Value>,
}

impl Default for OptimizerParams {
    fn default() -> Self {
        Self {
            optim_momentum: None,
            use_muon: false,
            use_galore: false,
            galore_target: vec!["all".into()],
            galore_rank: 16,
            galore_update_interval: 200,
            galore_scale: 2.0,
            use_apollo: false,
            apollo_target: vec!["all".into()],
            apollo_rank: 16,
            apollo_update_interval: 200,
            apollo_scale: 32.0,
            apollo_scale_type: ApolloScale::Channel,
            apollo_scale_front: false,
            use_badam: false,
            badam_mode: BadamMode::Layer,
            badam_switch_mode: BadamOrder::Ascending,
            badam_switch_interval: 50,
            badam_start_block: None,
            ema_decay: 0.0,
            lr_scheduler_kwargs: None,
        }
    }
}

impl OptimizerParams {
    /// The arguments of the schedule; none if they are no JSON object.
    pub fn schedule(&self) -> Option<Map<String, Value>> {
        match &self.lr_scheduler_kwargs {
            None | Some(Value::Null) => Some(Map::new()),
            Some(Value::Object(map)) => Some(map.clone()),
            Some(Value::String(text)) if text.trim().is_empty() => Some(Map::new()),
            Some(Value::String(text)) => serde_json::from_str(text).ok(),
            Some(_) => None,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum ApolloScale {
    #[default]
    Channel,
    Tensor,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum BadamMode {
    #[default]
    Layer,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum BadamOrder {
    #[default]
    Ascending,
    Descending,
    Random,
    Fixed,
}
