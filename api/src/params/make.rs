//! Parameters of made data, besides those of the model and of generation.

use crate::{
    catalog::{main_ui, ui},
    preference::Pairing,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum MakeTask {
    // New tasks after the example of seeds, with answers (Self-Instruct, Wang et al., 2022).
    #[default]
    SelfInstruct,
    // Answers to rows that have none, kept where the teacher is sure.
    PseudoLabel,
    // Several answers to each prompt, from several checkpoints.
    Samples,
    // Pairs of answers: a model says which of two is better, asked in both orders (RLAIF, Lee et al., 2023).
    Judge,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct MakeParams {
    /// New tasks after the example of seeds (self_instruct), answers to rows without one (pseudo_label), several answers to
    /// each prompt (samples), or pairs of such answers by a judge (judge).
    #[schemars(extend("ui" = main_ui(["What to make", "生成方式"], "仿照种子任务生成新任务（self_instruct），为没有回答的数据补上回答（pseudo_label），对每个提示采样多个回答（samples），或由评审比较这些回答并成对（judge）。", ["", ""])))]
    pub task: MakeTask,
    /// Dataset with the seeds, the rows to answer or the answers to compare, by its name or as a file.
    #[schemars(extend("ui" = main_ui(["From", "来源"], "提供种子任务、待回答数据或待比较回答的数据集：名称或文件。", ["", ""])))]
    pub dataset: String,
    /// Name of the new dataset. Empty: that of the job.
    #[schemars(extend("ui" = main_ui(["New dataset", "新数据集"], "新数据集的名称。留空则用任务名。", ["", ""])))]
    pub output_dataset: Option<String>,
    /// Rows to make; of rows to answer, prompts or pairs to compare at most so many. Empty: 100 new tasks, or all.
    #[schemars(range(min = 1, max = 1000000), extend("ui" = main_ui(["Rows", "行数"], "生成多少行；补回答、采样或比较时最多处理多少行、多少个提示或多少对。留空：生成 100 条新任务，或处理全部。", ["", ""])))]
    pub num_rows: Option<usize>,
    /// Address of an OpenAI-compatible server whose model is the teacher. Empty: the model above. Its key is taken from
    /// LATHE_TEACHER_API_KEY.
    #[schemars(extend("ui" = main_ui(["Server of the teacher", "教师模型地址"], "OpenAI 兼容服务的地址，例如 http://localhost:8000/v1。留空则用上面的模型。密钥取自环境变量 LATHE_TEACHER_API_KEY。", ["", ""])))]
    pub base_url: Option<String>,
    /// Name of the model there.
    #[schemars(extend("ui" = main_ui(["Teacher", "教师模型"], "该服务上的模型名称。", ["", ""])))]
    pub teacher: Option<String>,
    /// Examples in each request for a new task.
    #[schemars(range(min = 1, max = 32), extend("ui" = ui(["Examples", "示例数"], "每次请求新任务时给出多少个示例。", ["Higher: closer to the seeds", "调高：更接近种子任务"])))]
    pub examples: usize,
    /// New tasks that are this similar (ROUGE-L) to an earlier one are dropped.
    #[schemars(range(min = 0.0, max = 1.0), extend("ui" = ui(["Largest similarity", "最大相似度"], "与已有任务的 ROUGE-L 相似度达到此值的新任务会被丢弃。", ["Lower: more varied, more is dropped", "调低：更多样，丢弃更多"])))]
    pub max_similarity: f64,
    /// Shortest and longest new task, in words.
    #[schemars(range(min = 1), extend("ui" = ui(["Shortest task", "最短任务"], "新任务至少多少个词。", ["", ""])))]
    pub min_words: usize,
    /// Longest new task, in words.
    #[schemars(range(min = 1), extend("ui" = ui(["Longest task", "最长任务"], "新任务最多多少个词。", ["", ""])))]
    pub max_words: usize,
    /// New tasks with one of these words are dropped, since text can't do them.
    #[schemars(extend("ui" = ui(["Dropped words", "排除词"], "含有这些词的新任务会被丢弃，因为纯文本无法完成。", ["", ""])))]
    pub drop_words: Vec<String>,
    /// What is asked about each row to answer; `{text}` stands for the row. Empty: the row itself.
    #[schemars(extend("ui" = main_ui(["Question about a row", "对每行的提问"], "对每行数据提出的问题，{text} 代表该行。留空则直接使用该行。", ["", ""])))]
    pub question: Option<String>,
    /// Answers less sure than this go into a second dataset, for a look.
    #[schemars(range(min = 0.0, max = 1.0), extend("ui" = main_ui(["Confidence", "置信度"], "低于此置信度的回答会放入另一个数据集，供查看。", ["Higher: fewer rows, fewer mistakes", "调高：数据更少，错误更少"])))]
    pub confidence: f64,
    /// Answers to each row. With 1 the confidence is the mean probability of the answer's tokens; with more it is the share
    /// of answers that agree. Empty: 1, or 4 samples to compare.
    #[schemars(range(min = 1, max = 64), extend("ui" = ui(["Answers to each row", "每行回答次数"], "为 1 时，置信度是回答词元的平均概率；大于 1 时，是一致回答所占的比例。留空：1 个，采样时 4 个。", ["", ""])))]
    pub samples: Option<usize>,
    /// Further checkpoints that answer, besides the model above: a model, or a model and its adapter as `MODEL + ADAPTER`.
    #[schemars(extend("ui" = ui(["Other checkpoints", "其他检查点"], "除上面的模型外，参与回答的其他检查点：模型，或写成“模型 + 适配器”。", ["", ""])))]
    pub checkpoints: Vec<String>,
    /// Share of the samples that comes from the model above, the one that is to be trained. Empty: as many as from each
    /// other checkpoint.
    #[schemars(range(min = 0.0, max = 1.0), extend("ui" = ui(["On-policy share", "同策略占比"], "由上面的模型（即待训练的模型）给出的样本所占比例。留空则各检查点相同。", ["Higher: more of what the model itself says", "调高：更多来自模型自身的回答"])))]
    pub on_policy_share: Option<f64>,
    /// The prompts try to lead the model astray; the samples are tagged so.
    #[schemars(extend("ui" = ui(["Adversarial prompts", "对抗性提示"], "这些提示意在诱导模型出错；样本会带上此标记。", ["", ""])))]
    pub adversarial: bool,
    /// Answers to a prompt that the judge compares: each with each, or each with the next.
    #[schemars(extend("ui" = ui(["Compared answers", "比较方式"], "评审对同一提示的哪些回答进行比较：两两比较（all）或仅相邻（adjacent）。", ["", ""])))]
    pub pairing: Pairing,
    /// What makes an answer better, told to the judge.
    #[schemars(extend("ui" = ui(["What is better", "评判标准"], "告诉评审什么样的回答更好。", ["", ""])))]
    pub criteria: Option<String>,
}

impl Default for MakeParams {
    fn default() -> Self {
        Self {
            task: MakeTask::default(),
            dataset: String::new(),
            output_dataset: None,
            num_rows: None,
            base_url: None,
            teacher: None,
            examples: 8,
            max_similarity: 0.7,
            min_words: 3,
            max_words: 150,
            drop_words: DROP_WORDS.map(String::from).to_vec(),
            question: None,
            confidence: 0.8,
            samples: None,
            checkpoints: Vec::new(),
            on_policy_share: None,
            adversarial: false,
            pairing: Pairing::All,
            criteria: None,
        }
    }
}

/// Those of the paper, and the same in Chinese.
const DROP_WORDS: [&str; 14] = [
    "image", "images", "graph", "graphs", "picture", "pictures", "file", "files", "map", "maps", "draw", "plot",
    "图片", "画图",
];
