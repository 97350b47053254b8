//! Parameters of an evaluation, besides those of the model, of the data and of generation.

use super::ComputeType;
use crate::catalog::{main_ui, ui};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Language of an exam's prompts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum ExamLanguage {
    #[default]
    En,
    Zh,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct EvalParams {
    /// An exam with four choices: mmlu_test, ceval_validation or cmmlu_test in task_dir, or a file or folder of that form.
    #[schemars(extend("ui" = main_ui(["Exam", "考试"], "四选一考试：task_dir 中的 mmlu_test、ceval_validation、cmmlu_test，或同样格式的文件、文件夹。", ["", ""])))]
    pub task: Option<String>,
    /// Folder with the exams.
    #[schemars(extend("ui" = ui(["Folder of exams", "考试文件夹"], "存放考试数据的文件夹。", ["", ""])))]
    pub task_dir: String,
    /// Language of the exam's prompts.
    #[schemars(extend("ui" = main_ui(["Language", "语言"], "考试提示语的语言。", ["", ""])))]
    pub lang: ExamLanguage,
    /// Questions with their answers that stand before each question of an exam.
    #[schemars(range(min = 0, max = 5), extend("ui" = main_ui(["Shots", "示例数"], "每道考题之前给出几道带答案的例题。", ["Higher: the form of the answer is clearer, slower", "调高：答题形式更明确，但更慢"])))]
    pub n_shot: usize,
    /// Questions of an exam that are read together.
    #[schemars(range(min = 1, max = 64), extend("ui" = ui(["Questions at once", "批大小"], "一次处理几道考题。", ["Higher: faster, more memory", "调高：更快，占用更多内存"])))]
    pub batch_size: usize,
    /// Folder for the results of an exam, as LLaMA-Factory writes them. Empty: the folder of the job.
    #[schemars(extend("ui" = ui(["Results", "结果文件夹"], "考试结果的保存位置，格式与 LLaMA-Factory 相同。留空则在任务文件夹中。", ["", ""])))]
    pub save_dir: Option<String>,
    /// Datasets whose answers the model predicts.
    #[schemars(extend("ui" = main_ui(["Datasets", "数据集"], "让模型作答并与其中回答比较的数据集。", ["", ""])))]
    pub eval_dataset: Vec<String>,
    /// Answer the rows, and compare. Off: only the loss of the given answers.
    #[schemars(extend("ui" = main_ui(["Predict", "生成预测"], "逐行作答并比较。关闭：只计算给定回答的损失。", ["Off: much faster", "关闭：快得多"])))]
    pub predict_with_generate: bool,
    /// Rows of each dataset, or questions of the exam, at most. Empty: all.
    #[schemars(range(min = 1), extend("ui" = main_ui(["Most rows", "最多行数"], "每个数据集最多取多少行，或考试最多取多少题。留空为全部。", ["", ""])))]
    pub max_samples: Option<usize>,
    /// Numbers that products are computed in. auto: bf16 where the processor is faster in it, otherwise fp32.
    #[schemars(extend("ui" = ui(["Compute type", "计算精度"], "矩阵运算使用的数值类型。auto：处理器支持快速 bf16 时用 bf16，否则用 fp32。", ["fp32 is exact and slower; fp16 and pure_bf16 need a GPU", "fp32 更精确也更慢；fp16 与 pure_bf16 需要 GPU"])))]
    pub compute_type: ComputeType,
    /// Where the results go, too, as one JSON file.
    #[schemars(extend("ui" = ui(["File of results", "结果文件"], "另将结果写入此 JSON 文件。", ["", ""])))]
    pub output_file: Option<String>,
}

impl Default for EvalParams {
    fn default() -> Self {
        Self {
            task: None,
            task_dir: "evaluation".into(),
            lang: ExamLanguage::En,
            n_shot: 5,
            batch_size: 4,
            save_dir: None,
            eval_dataset: Vec::new(),
            predict_with_generate: true,
            max_samples: None,
            compute_type: ComputeType::Auto,
            output_file: None,
        }
    }
}
