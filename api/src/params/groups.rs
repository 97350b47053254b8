//! Parameters that every run has, grouped as the form shows them. What a stage or a tuning type adds stands with it in
//! the engine. Names and defaults are those of transformers' `TrainingArguments` and LLaMA-Factory's arguments.

use super::ComputeType;
use crate::catalog::{main_ui, placed_ui, ui};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ModelParams {
    /// The model to start from: `starter`, a folder, a .gguf file, or a hub id that was pulled.
    #[schemars(extend("ui" = placed_ui(["Model", "模型"], "起点模型：starter、文件夹、.gguf 文件，或已下载的 Hub 名称。")))]
    pub model_name_or_path: String,
    /// An adapter trained before, to go on from. Of several, with commas between, all but the last are merged into the base.
    #[schemars(extend("ui" = placed_ui(["Continue from", "继续自"], "以前训练的适配器，从它继续。用逗号分隔多个时，除最后一个外都先合并进基座模型。")))]
    pub adapter_name_or_path: Option<String>,
    /// Merge the adapters of adapter_name_or_path into the base, and begin a new one.
    #[schemars(extend("ui" = ui(["New adapter", "新建适配器"], "把 adapter_name_or_path 中的适配器合并进基座模型，另起一个新的。", ["The result needs these adapters below it", "使用结果时，下面仍需这些适配器"])))]
    pub create_new_adapter: bool,
    /// How messages become tokens. Empty: the model's own chat template.
    #[schemars(extend("ui" = ui(["Chat template", "对话模板"], "消息如何变成词元。留空则用模型自带的模板。", ["Change it only if the model has none of its own", "仅当模型没有自带模板时才需更改"])))]
    pub template: Option<String>,
    /// Start from random weights of this model's shape instead of its weights.
    #[schemars(extend("ui" = ui(["Train from scratch", "从零训练"], "不用模型权重，按其结构随机初始化。", ["Needs far more data and time", "需要多得多的数据和时间"])))]
    pub train_from_scratch: bool,
    /// What computes: auto, cpu, cuda, or one GPU such as cuda:1. Empty: a GPU where there is one.
    #[schemars(extend("ui" = ui(["Device", "计算设备"], "用什么计算：auto、cpu、cuda，或某块显卡如 cuda:1。留空则有显卡时用显卡。", ["", ""])))]
    pub device: Option<String>,
    /// Words that become one token each, for example names of a field. Embedding and head grow where they have no row left,
    /// and are trained.
    #[schemars(extend("ui" = ui(["New tokens", "新词元"], "各成为一个词元的词，例如专业名称。嵌入与输出层行数不足时会扩展，并参与训练。", ["Needs enough rows with these words", "需要足够多含有这些词的样本"])))]
    pub add_tokens: Vec<String>,
    /// The same, for marks that are never part of a word and that are left out where text is shown.
    #[schemars(extend("ui" = ui(["New special tokens", "新特殊词元"], "同上，用于不属于任何词、显示文本时省略的标记。", ["For example <tool>", "例如 <tool>"])))]
    pub add_special_tokens: Vec<String>,
    /// Let embedding and head grow to what the tokenizer needs.
    #[schemars(extend("ui" = ui(["Resize vocabulary", "扩展词表"], "让嵌入与输出层扩展到分词器所需的行数。", ["New tokens do it by themselves", "添加新词元时自动进行"])))]
    pub resize_vocab: bool,
    /// Stretches the positions of the model to longer texts.
    #[schemars(extend("ui" = ui(["RoPE scaling", "RoPE 缩放"], "把位置编码拉长，以容纳更长的文本。", ["Only for texts longer than the model's context", "仅用于超出模型上下文的文本"])))]
    pub rope_scaling: RopeScaling,
}

impl ModelParams {
    /// The adapters that are named, the one on top last.
    pub fn adapters(&self) -> Vec<&str> {
        let names = self.adapter_name_or_path.iter().flat_map(|names| names.split(','));
        names.map(str::trim).filter(|name| !name.is_empty()).collect()
    }

    /// Those of them that are merged into the base before the tuning begins.
    pub fn below(&self) -> Vec<&str> {
        let mut all = self.adapters();
        if !self.create_new_adapter {
            all.pop();
        }
        all
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum RopeScaling {
    // As the model's config.json says. (No doc comment: the schema would not be a plain list of words.)
    #[default]
    Model,
    Linear,
    Dynamic,
    Yarn,
    Llama3,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct DataParams {
    /// Datasets of dataset_info.json, one or more.
    #[schemars(extend("ui" = placed_ui(["Datasets", "数据集"], "dataset_info.json 中的一个或多个数据集。")))]
    pub dataset: Vec<String>,
    /// Datasets to measure the loss on, besides or instead of a share of the training rows.
    #[schemars(extend("ui" = ui(["Validation datasets", "验证数据集"], "用来测量验证损失的数据集。", ["", ""])))]
    pub eval_dataset: Vec<String>,
    /// Folder with dataset_info.json. Empty: the data folder of Lathe.
    #[schemars(extend("ui" = ui(["Dataset folder", "数据集文件夹"], "包含 dataset_info.json 的文件夹。留空则用 Lathe 的数据文件夹。", ["", ""])))]
    pub dataset_dir: Option<String>,
    /// Longer rows are cut at this many tokens.
    #[schemars(range(min = 4, max = 131072), extend("ui" = main_ui(["Cutoff length", "截断长度"], "更长的样本在此处截断。", ["Higher: keeps long rows whole and needs more memory", "调高：保留长样本，占用更多内存"]), "unit" = "tokens"))]
    pub cutoff_len: usize,
    /// At most this many rows of each dataset.
    #[schemars(range(min = 1), extend("ui" = ui(["Maximum rows", "最大样本数"], "每个数据集最多取多少行。", ["Lower: a quick look; higher: all of it", "调低：快速试一试；调高：用全部数据"])))]
    pub max_samples: Option<usize>,
    /// Share (under 1) or number of rows that are held back to measure the loss on.
    #[schemars(range(min = 0.0), extend("ui" = main_ui(["Validation share", "验证集比例"], "留出多少行（小于 1 为比例）来测量验证损失，不参与训练。", ["Higher: a surer measure, fewer rows to learn from; usual 0 to 0.1", "调高：测得更准，可学的行更少；常用 0 到 0.1"])))]
    pub val_size: f64,
    /// Learn the questions too, not only the answers.
    #[schemars(extend("ui" = ui(["Train on prompts", "训练提示部分"], "除回答外，也学习问题。", ["Usually off", "通常关闭"])))]
    pub train_on_prompt: bool,
    /// Learn only the last answer of each conversation.
    #[schemars(extend("ui" = ui(["Last answer only", "仅最后回答"], "每段对话只学最后一个回答。", ["Usually off", "通常关闭"])))]
    pub mask_history: bool,
    /// What the chat template hears as enable_thinking, for models that may think before they answer. Empty: the template decides.
    #[schemars(extend("ui" = ui(["Thinking", "思考"], "传给对话模板的 enable_thinking，用于可先思考再回答的模型。留空则由模板决定。", ["Off: answers without thoughts, as the prompt then says", "关闭：提示中写明不思考，直接学习回答"])))]
    pub enable_thinking: Option<bool>,
    /// How several datasets become one: one after another (concat), in turns until the first is used up (interleave_under),
    /// or in turns until every one was used up, the shorter ones again and again (interleave_over).
    #[schemars(extend("ui" = ui(["Mixture", "混合方式"], "多个数据集如何合为一个：依次相接（concat）；轮流取，最先用完者用完即止（interleave_under）；轮流取，直到全部用完，较短者循环使用（interleave_over）。", ["Matters with several datasets", "仅在选择多个数据集时有意义"])))]
    pub mix_strategy: MixStrategy,
    /// How often each dataset comes in a mixture in turns, in the order of the datasets, for example 0.7,0.3.
    #[schemars(extend("ui" = ui(["Mixture shares", "混合比例"], "轮流混合时各数据集出现的比例，按数据集的顺序，例如 0.7,0.3。", ["Empty: all equally often", "留空：各数据集同样多"])))]
    pub interleave_probs: Vec<f64>,
    /// Pack short rows together up to the cutoff length; conversations never see each other. Empty: on for plain text, whose
    /// rows are joined to one text and cut into blocks; off otherwise.
    #[schemars(extend("ui" = ui(["Packing", "打包"], "把短样本装到一起，直至截断长度；各对话互不可见。留空：纯文本时开启（各行接成一篇，再切成块），其他关闭。", ["On: faster on many short rows, fewer steps", "开启：短样本多时更快，步数更少"])))]
    pub packing: Option<bool>,
    /// Pack whole rows, plain text too, so that no row sees another.
    #[schemars(extend("ui" = ui(["Neat packing", "整洁打包"], "按整行打包，纯文本也一样，任何样本都看不到其他样本。", ["Instructions are always packed so", "指令数据总是这样打包"])))]
    pub neat_packing: bool,
}

/// How several datasets become one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum MixStrategy {
    #[default]
    Concat,
    InterleaveUnder,
    InterleaveOver,
}

impl Default for DataParams {
    fn default() -> Self {
        Self {
            dataset: Vec::new(),
            eval_dataset: Vec::new(),
            dataset_dir: None,
            cutoff_len: 2048,
            max_samples: None,
            val_size: 0.0,
            train_on_prompt: false,
            mask_history: false,
            mix_strategy: MixStrategy::Concat,
            interleave_probs: Vec::new(),
            enable_thinking: None,
            packing: None,
            neat_packing: false,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct TrainParams {
    /// What is learned: instructions (sft), plain text (pt).
    #[schemars(extend("ui" = placed_ui(["Goal", "目标"], "学什么：指令（sft）、纯文本（pt）。")))]
    pub stage: String,
    /// What is trained: a small adapter (lora) or all weights (full).
    #[schemars(extend("ui" = placed_ui(["What is trained", "训练内容"], "训练什么：小适配器（lora）或全部权重（full）。")))]
    pub finetuning_type: String,
    /// Size of each correction.
    #[schemars(range(min = 0.0, max = 10.0), extend("ui" = main_ui(["Learning rate", "学习率"], "每次修正的幅度。", ["Higher: learns faster; over 1e-3 the loss may jump. Usual 5e-5 to 5e-4 for LoRA", "调高：学得更快；超过 1e-3 时损失可能突升。LoRA 常用 5e-5 到 5e-4"])))]
    pub learning_rate: f64,
    /// Times through all rows.
    #[schemars(range(min = 0.0, max = 100000.0), extend("ui" = main_ui(["Epochs", "轮数"], "把全部样本学几遍。", ["Higher: remembers the rows better, and may repeat them word for word. Usual 1 to 5", "调高：记得更牢，也可能逐字背诵。常用 1 到 5"])))]
    pub num_train_epochs: f64,
    /// Stop after this many steps, whatever the epochs; -1 means by epochs.
    #[schemars(range(min = -1), extend("ui" = ui(["Maximum steps", "最大步数"], "到此步数即停，不论轮数；-1 表示按轮数。", ["", ""])))]
    pub max_steps: i64,
    /// Rows in memory at once.
    #[schemars(range(min = 1, max = 4096), extend("ui" = main_ui(["Batch size", "批大小"], "同时放入内存的样本数。", ["Higher: steadier steps, more memory", "调高：每步更稳，占用更多内存"])))]
    pub per_device_train_batch_size: usize,
    /// Batches for each step.
    #[schemars(range(min = 1, max = 65536), extend("ui" = main_ui(["Gradient accumulation", "梯度累积"], "每步累积多少批。", ["Higher: a bigger batch without more memory, fewer steps", "调高：相当于更大的批，不多占内存，步数更少"])))]
    pub gradient_accumulation_steps: usize,
    /// How the learning rate changes over the run.
    #[schemars(extend("ui" = main_ui(["Schedule", "学习率曲线"], "学习率在训练中如何变化。", ["cosine falls slowly at first; constant never falls", "cosine 先慢后快地下降；constant 不下降"])))]
    pub lr_scheduler_type: Schedule,
    /// Steps over which the learning rate rises from 0.
    #[schemars(range(min = 0.0), extend("ui" = ui(["Warm-up steps", "预热步数"], "学习率从 0 升起所用的步数。", ["Higher: a gentler start", "调高：起步更平缓"])))]
    pub warmup_steps: f64,
    /// Share of the steps over which the learning rate rises from 0.
    #[schemars(range(min = 0.0, max = 1.0), extend("ui" = ui(["Warm-up share", "预热比例"], "学习率从 0 升起所用步数的比例。", ["Usual 0 to 0.1; warm-up steps go first", "常用 0 到 0.1；优先采用预热步数"])))]
    pub warmup_ratio: f64,
    /// Longest step allowed: gradients with a larger norm are scaled down to it. 0 switches it off.
    #[schemars(range(min = 0.0), extend("ui" = ui(["Gradient clipping", "梯度裁剪"], "梯度范数超过此值则按比例缩小；0 为关闭。", ["Lower: calmer steps; usual 1", "调低：每步更平稳；常用 1"])))]
    pub max_grad_norm: f64,
    /// Strength of NEFTune: uniform noise on the embeddings while training, alpha / sqrt(tokens x width) at most (Jain et al.,
    /// 2023). 0 or empty: none.
    #[schemars(range(min = 0.0), extend("ui" = ui(["NEFTune alpha", "NEFTune 强度"], "训练时给词嵌入加均匀噪声，幅度不超过 alpha / √(词元数 × 宽度)。0 或留空为关闭。", ["Usual 5; may make answers longer and freer", "常用 5；回答可能更长、更灵活"])))]
    pub neftune_noise_alpha: Option<f32>,
    /// Pulls weights towards 0.
    #[schemars(range(min = 0.0, max = 1.0), extend("ui" = ui(["Weight decay", "权重衰减"], "把权重拉向 0。", ["Usual 0 to 0.1", "常用 0 到 0.1"])))]
    pub weight_decay: f64,
    /// How fast AdamW forgets the direction of earlier steps.
    #[schemars(range(min = 0.0, max = 0.9999), extend("ui" = ui(["Adam beta 1", "Adam beta 1"], "AdamW 遗忘以往方向的速度。", ["Usual 0.9", "常用 0.9"])))]
    pub adam_beta1: f64,
    /// How fast AdamW forgets the size of earlier gradients.
    #[schemars(range(min = 0.0, max = 0.999999), extend("ui" = ui(["Adam beta 2", "Adam beta 2"], "AdamW 遗忘以往梯度大小的速度。", ["Usual 0.95 to 0.999", "常用 0.95 到 0.999"])))]
    pub adam_beta2: f64,
    /// Keeps AdamW from dividing by 0.
    #[schemars(range(min = 0.0, max = 1.0), extend("ui" = ui(["Adam epsilon", "Adam epsilon"], "防止 AdamW 除以 0。", ["Usual 1e-8", "常用 1e-8"])))]
    pub adam_epsilon: f64,
    /// The optimizer. Most need their own learning rates: lion a third to a tenth of AdamW's, sgd far more.
    #[schemars(extend("ui" = ui(["Optimizer", "优化器"], "使用的优化器。各有合适的学习率：lion 约为 AdamW 的三分之一到十分之一，sgd 则大得多。", ["adamw_8bit: a quarter of AdamW's memory", "adamw_8bit：内存约为 AdamW 的四分之一"])))]
    pub optim: Optimizer,
    /// Recompute activations in the backward pass: less memory, about a third more time. Left alone, it is on where memory would not suffice.
    #[schemars(extend("ui" = ui(["Recompute activations", "重算激活"], "反向时重算激活：省内存，约多花三分之一时间。未设置时，内存不足会自动开启。", ["On: long rows fit", "开启：可容纳更长的样本"])))]
    pub gradient_checkpointing: bool,
    /// Numbers that products are computed in. auto: bf16 where the processor is faster in it, otherwise fp32.
    #[schemars(extend("ui" = ui(["Compute type", "计算精度"], "矩阵运算使用的数值类型。auto：处理器支持快速 bf16 时用 bf16，否则用 fp32。", ["fp32 is exact and slower; fp16 and pure_bf16 need a GPU", "fp32 更精确也更慢；fp16 与 pure_bf16 需要 GPU"])))]
    pub compute_type: ComputeType,
    /// Put rows of like length into the same batch.
    #[schemars(extend("ui" = ui(["Group by length", "按长度分组"], "把长度相近的样本放入同一批。", ["On: batches of even rows, in an order that is less random; Lathe has no padding to save", "开启：同批样本长度相近，顺序随机性降低；Lathe 没有填充，无需借此节省"])))]
    pub group_by_length: bool,
    /// Take the rows in the order of their files, in every epoch.
    #[schemars(extend("ui" = ui(["Keep the order", "保持顺序"], "每一轮都按文件中的顺序使用样本。", ["On: for rows that build on each other, or to compare two programs; group by length has no effect then", "开启：用于前后有依赖的样本，或对比两个程序；此时按长度分组不起作用"])))]
    pub disable_shuffling: bool,
    /// Start of all random numbers: the same seed gives the same run.
    #[schemars(range(min = 0), extend("ui" = ui(["Seed", "随机种子"], "所有随机数的起点：种子相同，结果相同。", ["", ""])))]
    pub seed: u64,
}

impl Default for TrainParams {
    fn default() -> Self {
        Self {
            stage: "sft".into(),
            finetuning_type: "lora".into(),
            learning_rate: 5e-5,
            num_train_epochs: 3.0,
            max_steps: -1,
            per_device_train_batch_size: 8,
            gradient_accumulation_steps: 1,
            lr_scheduler_type: Schedule::Linear,
            warmup_steps: 0.0,
            warmup_ratio: 0.0,
            max_grad_norm: 1.0,
            neftune_noise_alpha: None,
            weight_decay: 0.0,
            adam_beta1: 0.9,
            adam_beta2: 0.999,
            adam_epsilon: 1e-8,
            optim: Optimizer::AdamwTorch,
            gradient_checkpointing: false,
            compute_type: ComputeType::Auto,
            group_by_length: false,
            disable_shuffling: false,
            seed: 42,
        }
    }
}

/// Learning-rate schedules as transformers names and computes them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Schedule {
    #[default]
    Linear,
    Cosine,
    Constant,
    ConstantWithWarmup,
    CosineWithRestarts,
    Polynomial,
    InverseSqrt,
    CosineWithMinLr,
    WarmupStableDecay,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Optimizer {
    #[default]
    AdamwTorch,
    #[serde(rename = "adamw_8bit")]
    Adamw8bit,
    Sgd,
    Adafactor,
    #[serde(rename = "lion_32bit")]
    Lion,
    Muon,
    #[serde(rename = "galore_adamw")]
    Galore,
    #[serde(rename = "apollo_adamw")]
    Apollo,
    Badam,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct OutputParams {
    /// Name of the run. Empty: made from the model and the goal.
    #[schemars(extend("ui" = ui(["Run name", "运行名称"], "运行的名称。留空则由模型和目标生成。", ["", ""])))]
    pub run_name: Option<String>,
    /// Folder for the results. Empty: a folder of its own in the data folder of Lathe.
    #[schemars(extend("ui" = ui(["Output folder", "输出文件夹"], "结果放在哪里。留空则在 Lathe 的数据文件夹中新建。", ["", ""])))]
    pub output_dir: Option<String>,
    /// Write into an output folder that already holds a run.
    #[schemars(extend("ui" = ui(["Overwrite the output folder", "覆盖输出文件夹"], "允许写入已有结果的输出文件夹。", ["", ""])))]
    pub overwrite_output_dir: bool,
    /// Steps between two lines of trainer_log.jsonl; the curve always has every step.
    #[schemars(range(min = 1), extend("ui" = ui(["Log every", "日志间隔"], "trainer_log.jsonl 每隔多少步写一行；曲线总有每一步。", ["", ""])))]
    pub logging_steps: u64,
    /// Steps between two checkpoints; 0 saves only at the end.
    #[schemars(range(min = 0), extend("ui" = ui(["Save every", "保存间隔"], "每隔多少步保存一个检查点；0 表示只在结束时保存。", ["Lower: less is lost if the computer stops", "调低：电脑意外停止时损失更少"])))]
    pub save_steps: u64,
    /// Checkpoints kept; older ones are deleted, the best never. While a run goes on at least two stand; 1 counts at its end.
    /// Empty: all.
    #[schemars(range(min = 1), extend("ui" = ui(["Checkpoints kept", "保留检查点数"], "最多保留几个检查点，旧的会删除，最佳的始终保留。运行期间至少保留两个；设为 1 时在结束时生效。留空则全部保留。", ["Lower: less room on the disk", "调低：占用更少磁盘"])))]
    pub save_total_limit: Option<usize>,
    /// Steps between two measurements of the validation loss; 0 measures once an epoch.
    #[schemars(range(min = 0), extend("ui" = ui(["Validate every", "验证间隔"], "每隔多少步测一次验证损失；0 表示每轮一次。", ["", ""])))]
    pub eval_steps: u64,
    /// End with the best checkpoint instead of the last one. A checkpoint is saved whenever a validation is the best so far.
    #[schemars(extend("ui" = ui(["Best checkpoint", "取最佳检查点"], "以最佳检查点而非最后一步作为结果。每当验证结果创新高就保存一个检查点。", ["Needs a validation set", "需要验证集"])))]
    pub load_best_model_at_end: bool,
    /// What says which checkpoint is best: a metric of the validation. Empty: eval_loss, or eval_reward where rewards are learned from.
    #[schemars(extend("ui" = ui(["Best by", "最佳依据"], "按哪个验证指标判断最佳。留空：eval_loss，强化学习为 eval_reward。", ["For example eval_loss", "例如 eval_loss"])))]
    pub metric_for_best_model: Option<String>,
    /// Whether more of it is better. Empty: not where its name ends in loss.
    #[schemars(extend("ui" = ui(["Greater is better", "越大越好"], "该指标是否越大越好。留空：名称以 loss 结尾时越小越好，否则越大越好。", ["", ""])))]
    pub greater_is_better: Option<bool>,
    /// Go on from a checkpoint: its path, true for the newest one of the output folder, or best for its best one.
    #[schemars(extend("ui" = ui(["Resume from", "恢复自"], "从检查点继续：路径，true 表示输出文件夹中最新的一个，best 表示其中最佳的一个。", ["", ""]), "type" = ["string", "boolean", "null"]))]
    pub resume_from_checkpoint: Option<serde_json::Value>,
    /// What is taken from it. all: goes on as if it had never stopped. optimizer: weights and the optimizer's moments, but steps,
    /// learning rate and order of the rows begin anew. weights: the weights alone, a new start from them.
    #[schemars(extend("ui" = ui(["Resume with", "恢复内容"], "从检查点取什么。all：如同从未停止；optimizer：权重与优化器状态，步数、学习率与样本顺序从头开始；weights：仅权重，从头开始。", ["Other settings: weights", "更改设置后：weights"])))]
    pub resume_mode: ResumeMode,
    /// Go on although settings or rows are no longer those of the checkpoint. What changed is listed first.
    #[schemars(extend("ui" = ui(["Accept changes", "接受更改"], "即使设置或样本与检查点不同也继续。更改之处会先列出。", ["", ""])))]
    pub accept_changes: bool,
}

/// What a resumed run takes from its checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum ResumeMode {
    #[default]
    All,
    Optimizer,
    Weights,
}

impl Default for OutputParams {
    fn default() -> Self {
        Self {
            run_name: None,
            output_dir: None,
            overwrite_output_dir: false,
            logging_steps: 1,
            save_steps: 500,
            save_total_limit: None,
            eval_steps: 0,
            load_best_model_at_end: false,
            metric_for_best_model: None,
            greater_is_better: None,
            resume_from_checkpoint: None,
            resume_mode: ResumeMode::All,
            accept_changes: false,
        }
    }
}

/// Parameters of generation, in chat and in `lathe chat`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct GenerateParams {
    /// Longest answer.
    #[schemars(range(min = 1, max = 131072), extend("ui" = main_ui(["Longest answer", "最长回答"], "回答最多多少词元。", ["", ""]), "unit" = "tokens"))]
    pub max_new_tokens: usize,
    /// Choose among likely words at random. Off: always the likeliest, the same answer each time.
    #[schemars(extend("ui" = main_ui(["Sample", "随机采样"], "在可能的词中随机选择。关闭：总取最可能的词，每次回答相同。", ["", ""])))]
    pub do_sample: bool,
    /// How daring the choice of words is.
    #[schemars(range(min = 0.0, max = 5.0), extend("ui" = main_ui(["Temperature", "温度"], "选词的大胆程度。", ["Higher: more varied; 0: the likeliest word", "调高：更多样；0：总取最可能的词"])))]
    pub temperature: f64,
    /// Choose only among the likeliest words whose shares add up to this.
    #[schemars(range(min = 0.0, max = 1.0), extend("ui" = main_ui(["Top p", "Top p"], "只在累计概率达到此值的词中选择。", ["Lower: safer words", "调低：用词更稳妥"])))]
    pub top_p: f64,
    /// Choose only among this many likeliest words; 0 means all.
    #[schemars(range(min = 0), extend("ui" = main_ui(["Top k", "Top k"], "只在最可能的若干词中选择；0 为不限。", ["Lower: safer words", "调低：用词更稳妥"])))]
    pub top_k: usize,
    /// Choose only among words at least this likely, as a share of the likeliest one; 0 means all.
    #[schemars(range(min = 0.0, max = 1.0), extend("ui" = ui(["Min p", "Min p"], "只在概率不低于最可能词的这一比例的词中选择；0 为不限。", ["Higher: safer words; usual 0.05 to 0.2", "调高：用词更稳妥；常用 0.05 到 0.2"])))]
    pub min_p: f64,
    /// Answers that are followed at once in a search for the likeliest; 1 is no search. With sampling, beams are drawn at random.
    #[schemars(range(min = 1, max = 64), extend("ui" = ui(["Beams", "束数"], "搜索最可能的回答时同时跟踪的候选数；1 为不搜索。与采样同用时随机抽取候选。", ["Higher: likelier answers, slower", "调高：回答更可能，速度更慢"])))]
    pub num_beams: usize,
    /// How a search of beams weighs length: the score is divided by the length to this power.
    #[schemars(range(min = -10.0, max = 10.0), extend("ui" = ui(["Length penalty", "长度惩罚"], "束搜索如何看待长度：得分除以长度的该次幂。", ["Above 0: longer answers gain; below: shorter", "大于 0：偏向长回答；小于 0：偏向短回答"])))]
    pub length_penalty: f64,
    /// When a search of beams ends. true: as soon as there are as many answers as beams. false: when a better one is unlikely. never: when no better one is possible.
    #[schemars(extend("ui" = ui(["Early stopping", "提前停止"], "束搜索何时结束。true：找到与束数相同的回答即止；false：不太可能有更好的时结束；never：不可能有更好的时才结束。", ["true is fastest", "true 最快"])))]
    pub early_stopping: EarlyStopping,
    /// Answers to each question. In a search of beams: how many of its best.
    #[schemars(range(min = 1, max = 64), extend("ui" = ui(["Answers", "回答数"], "每个问题给出几个回答；束搜索时为最好的几个。", ["", ""])))]
    pub num_return_sequences: usize,
    /// Makes words that were already said less likely; 1 switches it off.
    #[schemars(range(min = 0.01, max = 10.0), extend("ui" = ui(["Repetition penalty", "重复惩罚"], "降低已说过的词的概率；1 为关闭。", ["Higher: repeats less; usual 1 to 1.2", "调高：重复更少；常用 1 到 1.2"])))]
    pub repetition_penalty: f64,
    /// Makes each word that was already said in the answer less likely, however often.
    #[schemars(range(min = -2.0, max = 2.0), extend("ui" = ui(["Presence penalty", "存在惩罚"], "回答中已出现过的词，无论次数，概率都降低。", ["Higher: more new words; below 0: fewer", "调高：新词更多；小于 0 则更少"])))]
    pub presence_penalty: f64,
    /// Makes each word less likely by how often it was already said in the answer.
    #[schemars(range(min = -2.0, max = 2.0), extend("ui" = ui(["Frequency penalty", "频率惩罚"], "词在回答中出现越多，概率降低越多。", ["Higher: repeats less", "调高：重复更少"])))]
    pub frequency_penalty: f64,
    /// No sequence of so many tokens comes twice, those of the question included; 0 switches it off.
    #[schemars(range(min = 0, max = 1024), extend("ui" = ui(["No repeated n-grams", "禁止重复 n 元组"], "任何这么多词元的序列都不出现两次，包括问题中的；0 为关闭。", ["3 is usual in a search of beams", "束搜索常用 3"])))]
    pub no_repeat_ngram_size: usize,
    /// Shortest question and answer together.
    #[schemars(range(min = 0, max = 131072), extend("ui" = ui(["Shortest whole", "最短总长"], "问题与回答合计至少多少词元。", ["", ""]), "unit" = "tokens"))]
    pub min_length: usize,
    /// Shortest answer.
    #[schemars(range(min = 0, max = 131072), extend("ui" = ui(["Shortest answer", "最短回答"], "回答至少多少词元。", ["", ""]), "unit" = "tokens"))]
    pub min_new_tokens: usize,
    /// Longest question and answer together, where that is less than max_new_tokens allows. Empty: no such bound.
    #[schemars(range(min = 1, max = 131072), extend("ui" = ui(["Longest whole", "最长总长"], "问题与回答合计最多多少词元，比 max_new_tokens 更严时生效。留空则不限。", ["", ""]), "unit" = "tokens"))]
    pub max_length: Option<usize>,
    /// Texts that must not be said.
    #[schemars(extend("ui" = ui(["Forbidden words", "禁用词"], "不得出现的文本。", ["", ""]), "texts" = true))]
    pub bad_words: Vec<String>,
    /// Texts that end the answer; they are no part of it.
    #[schemars(extend("ui" = ui(["Stop at", "停止文本"], "遇到这些文本即结束回答，其本身不计入回答。", ["", ""]), "texts" = true))]
    pub stop: Vec<String>,
    /// Start of the random numbers. Empty: another one each time.
    #[schemars(extend("ui" = ui(["Seed", "随机种子"], "随机数的起点。留空则每次不同。", ["", ""])))]
    pub seed: Option<u64>,
    /// Think before answering, for models whose chat template knows enable_thinking. Empty: the template decides.
    #[schemars(extend("ui" = ui(["Thinking", "思考"], "先思考再回答，适用于对话模板支持 enable_thinking 的模型。留空则由模板决定。", ["", ""])))]
    pub enable_thinking: Option<bool>,
    /// Tell how likely each token was, with so many of the likeliest at its place. Empty: no.
    #[schemars(range(min = 0, max = 20), extend("ui" = ui(["Log probabilities", "对数概率"], "给出每个词元的概率，以及该处最可能的几个词元。留空则不给。", ["", ""])))]
    pub logprobs: Option<usize>,
    /// What the answer must look like, as OpenAI writes it: {"type": "json_object"}, or json_schema with a schema. Empty: anything.
    #[schemars(extend("ui" = ui(["Answer format", "回答格式"], "回答必须符合的格式，写法与 OpenAI 相同：{\"type\": \"json_object\"}，或带 schema 的 json_schema。留空则不限。", ["", ""]), "type" = ["object", "null"]))]
    pub response_format: Option<serde_json::Value>,
    /// Among requests that wait, higher ones go first.
    #[schemars(range(min = -100, max = 100), extend("ui" = ui(["Priority", "优先级"], "多个请求等待时，数值高的先处理。", ["", ""])))]
    pub priority: i64,
}

/// When a search of beams ends, as transformers has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum EarlyStopping {
    True,
    #[default]
    False,
    Never,
}

impl Default for GenerateParams {
    fn default() -> Self {
        Self {
            max_new_tokens: 1024,
            do_sample: true,
            temperature: 0.95,
            top_p: 0.7,
            top_k: 50,
            min_p: 0.0,
            num_beams: 1,
            length_penalty: 1.0,
            early_stopping: EarlyStopping::False,
            num_return_sequences: 1,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            no_repeat_ngram_size: 0,
            min_length: 0,
            min_new_tokens: 0,
            max_length: None,
            bad_words: Vec::new(),
            stop: Vec::new(),
            seed: None,
            enable_thinking: None,
            logprobs: None,
            response_format: None,
            priority: 0,
        }
    }
}
