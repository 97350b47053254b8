//! Prompt tuning (Lester et al., 2021): trained embeddings before each sequence, at positions of their own.

use super::{
    Adapter, Tuning,
    virtual_tokens::{Soft, Start, Table, no_text, refuse_new_tokens},
};
use crate::{Error, entry::Entry};
use api::{
    Card, Problems, RunConfig, Text,
    catalog::ui,
    params::{self, TrainParams},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{path::Path, sync::Arc};

pub struct Prompt;

const PEFT_TYPE: &str = "PROMPT_TUNING";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PromptParams {
    /// Trained vectors before each text. They take room from the context.
    #[schemars(range(min = 1, max = 4096), extend("ui" = ui(["Virtual tokens", "虚拟词元数"], "放在每段文本之前的可训练向量，会占用上下文。", ["More: can learn more, slower; usual 10 to 100", "更多：能学得更多，也更慢；常用 10 到 100"])))]
    pub num_virtual_tokens: usize,
    /// What they begin with: random numbers, the embeddings of a text, or those of random words.
    #[schemars(extend("ui" = ui(["Begin with", "初始值"], "初始值：随机数、一段文本的嵌入，或随机词的嵌入。", ["TEXT and SAMPLE_VOCAB usually learn faster", "TEXT 与 SAMPLE_VOCAB 通常学得更快"])))]
    pub prompt_tuning_init: PromptInit,
    /// The text to begin with, where prompt_tuning_init is TEXT: what the task is, in a few words.
    #[schemars(extend("ui" = ui(["Initial text", "初始文本"], "prompt_tuning_init 为 TEXT 时的初始文本：用几个词描述任务。", ["", ""])))]
    pub prompt_tuning_init_text: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[schemars(inline)]
pub enum PromptInit {
    // PEFT's names. (No doc comment: the schema would not be a plain list of words.)
    #[default]
    Random,
    Text,
    SampleVocab,
}

impl Default for PromptParams {
    fn default() -> Self {
        Self { num_virtual_tokens: 20, prompt_tuning_init: PromptInit::Random, prompt_tuning_init_text: None }
    }
}

impl Entry for Prompt {
    fn card(&self) -> Card {
        Card {
            name: "prompt".into(),
            title: Text::new("Prompt tuning", "提示微调"),
            help: Text::new(
                "A few trained vectors before each text: the smallest file, and learns least. Wants a high learning rate.",
                "在每段文本前训练少量向量：文件最小，学得也最少。需要较高的学习率。",
            ),
            schema: params::schema::<PromptParams>(),
        }
    }
}

impl Adapter for Prompt {
    fn start(&self, config: &RunConfig, previous: Option<&Path>) -> Result<Box<dyn Tuning>, Problems> {
        refuse_new_tokens(config)?;
        let params: PromptParams = params::read(config)?;
        let problems = |e: Error| Problems(e.into_problems());
        if let Some(dir) = previous {
            return Ok(Box::new(Soft::read(dir, PEFT_TYPE).map_err(problems)?));
        }
        let text = params.prompt_tuning_init_text.filter(|text| !text.trim().is_empty());
        let start = match (params.prompt_tuning_init, text) {
            (PromptInit::Random, _) => Start::Random,
            (PromptInit::SampleVocab, _) => Start::Vocabulary,
            (PromptInit::Text, Some(text)) => Start::Text { text, ids: Vec::new() },
            (PromptInit::Text, None) => return Err(problems(no_text())),
        };
        let settings = [
            ("prompt_tuning_init", json!(params.prompt_tuning_init)),
            ("prompt_tuning_init_text", Value::Null),
            ("tokenizer_kwargs", Value::Null),
            ("tokenizer_name_or_path", Value::Null),
        ];
        Ok(Box::new(Soft {
            peft_type: PEFT_TYPE,
            count: params.num_virtual_tokens,
            deep: false,
            encoder: Arc::new(Table(settings.into_iter().map(|(key, value)| (key.into(), value)).collect())),
            start,
            seed: params::read::<TrainParams>(config).map(|p| p.seed).unwrap_or(42),
        }))
    }

    fn peft_type(&self) -> Option<&'static str> {
        Some(PEFT_TYPE)
    }

    fn read(&self, dir: &Path) -> crate::Result<Box<dyn Tuning>> {
        Ok(Box::new(Soft::read(dir, PEFT_TYPE)?))
    }
}
