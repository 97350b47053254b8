//! The score of a reward model (stage `rm`): the value of the hidden state at an answer's last token.

use super::{Attempt, MODEL, Reward, Scorer, address, http};
use crate::{
    Error, Result,
    entry::Entry,
    files::adapter::is_adapter,
    model::{Batch, Model, Weights},
    stages::{Setting, reference, value_head::ValueHead},
};
use api::{
    Card, Problem, Problems, RunConfig, Text,
    catalog::{main_ui, ui},
    params::{self, ModelParams},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

/// Attempts that go through the reward model together.
const TOGETHER: usize = 16;

pub struct RewardModel;

/// Which reward model, in LLaMA-Factory's names.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RewardModelParams {
    /// The folder of a run of the stage rm, or the address of a server that gives scores. Of stacked adapters all, separated
    /// by commas, that of the stage rm last.
    #[schemars(extend("ui" = main_ui(["Reward model", "奖励模型"], "rm 阶段运行的文件夹，或打分服务的地址。叠加的适配器用逗号分隔全部列出，rm 阶段的放在最后。", ["", ""])))]
    pub reward_model: Option<String>,
    /// What the reward model is: an adapter on the model of this run (lora), a model of its own (full), a server (api). Empty:
    /// what stands there tells.
    #[schemars(extend("ui" = ui(["Kind of reward model", "奖励模型类型"], "奖励模型的形式：本次运行模型上的适配器（lora）、独立模型（full）、服务（api）。留空则自动判断。", ["", ""]), "enum" = ["lora", "full", "api", null]))]
    pub reward_model_type: Option<String>,
}

impl Entry for RewardModel {
    fn card(&self) -> Card {
        Card {
            name: MODEL.into(),
            title: Text::new("Reward model", "奖励模型"),
            help: Text::new("The score of a model that the stage rm trained.", "由 rm 阶段训练的模型给出的分数。"),
            schema: params::schema::<RewardModelParams>(),
        }
    }
}

/// Where a reward model is.
enum Place {
    Server(String),
    /// Folders of adapters on the model of the run, separated by commas.
    Adapter(String),
    /// The folder of a model of its own.
    Model(String),
}

impl RewardModelParams {
    /// The reward model that is asked for; none if no one is.
    fn place(self) -> Option<Place> {
        let name = self.reward_model.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty())?;
        let is_address = name.starts_with("http://") || name.starts_with("https://");
        Some(match self.reward_model_type.as_deref() {
            Some("api") => Place::Server(name),
            Some("lora") => Place::Adapter(name),
            None if is_address => Place::Server(name),
            None if is_adapter(Path::new(last(&name))) => Place::Adapter(name),
            _ => Place::Model(name),
        })
    }
}

/// The last of the folders that a text names.
fn last(names: &str) -> &str {
    names.rsplit(',').map(str::trim).find(|name| !name.is_empty()).unwrap_or_default()
}

/// Whether a reward model is named.
pub(super) fn is_named(config: &RunConfig) -> Result<bool, Problems> {
    Ok(params::read::<RewardModelParams>(config)?.place().is_some())
}

/// The reward model of a folder; `own` is the model of the run.
fn chosen(place: &Place, own: &ModelParams) -> Option<ModelParams> {
    match place {
        Place::Server(_) => None,
        Place::Adapter(dir) => Some(ModelParams { adapter_name_or_path: Some(dir.clone()), ..own.clone() }),
        Place::Model(name) => {
            Some(ModelParams { model_name_or_path: name.clone(), device: own.device.clone(), ..ModelParams::default() })
        }
    }
}

impl Reward for RewardModel {
    fn other(&self, config: &RunConfig) -> Result<Option<(&'static str, ModelParams)>, Problems> {
        let own: ModelParams = params::read(config)?;
        let place = params::read::<RewardModelParams>(config)?.place();
        Ok(place.and_then(|place| chosen(&place, &own)).map(|chosen| ("reward_model", chosen)))
    }

    fn start(&self, config: &RunConfig) -> Result<Box<dyn Scorer>, Problems> {
        match params::read::<RewardModelParams>(config)?.place() {
            None => Err(no_reward_model().into()),
            Some(Place::Server(url)) => Ok(http::scorer(address("reward_model", &url)?, "reward_model")),
            Some(place) => Ok(Box::new(Local { place, loaded: None })),
        }
    }
}

struct Local {
    place: Place,
    loaded: Option<(Model, ValueHead)>,
}

impl Scorer for Local {
    fn begin(&mut self, setting: &Setting) -> Result<()> {
        let (Place::Server(dir) | Place::Adapter(dir) | Place::Model(dir)) = &self.place;
        let chosen = chosen(&self.place, &setting.prepared.model);
        let chosen = chosen.ok_or_else(|| Error::Internal("a reward server is not loaded".into()))?;
        let model = reference::open(&chosen, "reward_model", setting)?;
        let head = ValueHead::open(Path::new(last(dir)), &model).map_err(|error| error.at("reward_model"))?;
        self.loaded = Some((model, head));
        Ok(())
    }

    fn score(&mut self, attempts: &[Attempt], stop: &AtomicBool) -> Result<Vec<Option<f64>>> {
        let (model, head) = self.loaded.as_ref().ok_or_else(|| Error::Internal("no reward model is loaded".into()))?;
        let mut scores = Vec::with_capacity(attempts.len());
        for some in attempts.chunks(TOGETHER) {
            if stop.load(Ordering::Relaxed) {
                return Ok(vec![None; attempts.len()]);
            }
            let ids = some.iter().flat_map(|attempt| attempt.prompt_ids.iter().chain(&attempt.ids)).copied().collect();
            let lengths = some.iter().map(|attempt| attempt.prompt_ids.len() + attempt.ids.len()).collect();
            let ends = Batch { ids, lengths, ..Batch::default() }.at_ends();
            let values = head.forward(&model.states(&ends, Weights::Tuned)?)?;
            scores.extend(values.into_iter().map(|value| Some(f64::from(value))));
        }
        Ok(scores)
    }
}

fn no_reward_model() -> Problem {
    Problem::new("no_reward_model", "No reward model is chosen.", "未选择奖励模型。")
        .hint(
            "Set reward_model to the folder of a run of the stage rm, or to the address of a server that gives scores.",
            "请将 reward_model 设为 rm 阶段运行的文件夹，或打分服务的地址。",
        )
        .field("reward_model")
}
