//! The values of a form, and the form of a training run with its live plan. They live as long as the page, so nothing is
//! lost when one looks at another tab.

use crate::{
    chain::{self, Chain},
    client,
    setting::{Section, Setting, differing, same, sections},
    store::Store,
    ui,
};
use api::{Catalog, Plan, Problem, RunConfig, catalog::Preset, plan::Fix, question::CheckReply, routes};
use gloo_timers::future::TimeoutFuture;
use leptos::{prelude::*, task::spawn_local};
use serde_json::Value;
use std::{collections::HashSet, sync::Arc};

/// Arguments that are always written, in this order.
const FIRST: [&str; 6] =
    ["model_name_or_path", "adapter_name_or_path", "template", "stage", "finetuning_type", "dataset"];

/// What was set, what a preset set, and what is wrong with it.
#[derive(Clone, Copy)]
pub struct Values {
    pub set: RwSignal<RunConfig>,
    pub preset: RwSignal<RunConfig>,
    pub problems: RwSignal<Vec<Problem>>,
}

impl Values {
    pub fn new() -> Self {
        Self { set: RwSignal::default(), preset: RwSignal::default(), problems: RwSignal::default() }
    }

    /// The value in force.
    pub fn current(self, setting: &Setting) -> Value {
        self.set.with(|set| set.get(&setting.key).cloned()).unwrap_or_else(|| setting.default().clone())
    }

    /// The value that the preset, or else the schema, gives.
    pub fn usual(self, setting: &Setting) -> Value {
        self.preset.with(|preset| preset.get(&setting.key).cloned()).unwrap_or_else(|| setting.default().clone())
    }

    pub fn is_changed(self, setting: &Setting) -> bool {
        !same(&self.current(setting), &self.usual(setting))
    }

    pub fn put(self, setting: &Setting, value: Value) {
        if same(&self.set_or_default(setting), &value) {
            return;
        }
        self.set_key(&setting.key, if same(&value, setting.default()) { Value::Null } else { value });
    }

    pub fn set_key(self, key: &str, value: Value) {
        self.set.update(|set| if value.is_null() { set.remove(key) } else { set.set(key, value) });
    }

    pub fn text(self, key: &str) -> String {
        self.set.with(|set| set.text(key).unwrap_or_default().to_owned())
    }

    pub fn problem_of(self, key: &str) -> Option<Problem> {
        self.problems.with(|all| all.iter().find(|p| p.field.as_deref() == Some(key)).cloned())
    }

    /// As [`Values::current`], without following it.
    pub fn set_or_default(self, setting: &Setting) -> Value {
        self.set.with_untracked(|set| set.get(&setting.key).cloned()).unwrap_or_else(|| setting.default().clone())
    }
}

#[derive(Clone, Copy)]
pub struct TrainForm {
    pub values: Values,
    pub preset: RwSignal<Option<String>>,
    pub plan: RwSignal<Option<Plan>>,
    /// The plan belongs to older values; a newer one is on its way.
    pub checking: RwSignal<bool>,
    /// Two steps of the run are being made, to measure it.
    pub measuring: RwSignal<bool>,
    /// Groups that stand open.
    pub open: RwSignal<HashSet<String>>,
    /// What runs before it, if it is the last of a chain.
    pub chain: RwSignal<Option<Chain>>,
    /// Their plans, in order.
    pub before: RwSignal<Vec<Plan>>,
    /// The text field for another model is in use.
    pub other_model: RwSignal<bool>,
    store: Store,
    turn: RwSignal<u64>,
}

impl TrainForm {
    /// Makes the form, fills it with what was left in it, and keeps its plan up to date.
    pub fn provide(store: Store) -> Self {
        let form = Self {
            values: Values::new(),
            preset: RwSignal::new(None),
            plan: RwSignal::new(None),
            checking: RwSignal::new(false),
            measuring: RwSignal::new(false),
            open: RwSignal::default(),
            chain: RwSignal::new(None),
            before: RwSignal::default(),
            other_model: RwSignal::new(false),
            store,
            turn: RwSignal::new(0),
        };
        provide_context(form);
        let mut begun = false;
        Effect::new(move || {
            if let Some(catalog) = store.catalog.get()
                && !begun
            {
                begun = true;
                form.begin(&catalog);
            }
        });
        Effect::new(move || {
            store.models.track();
            store.datasets.track();
            let config = form.config();
            let jobs = match form.chain_in_force() {
                Some(chain) => chain.checks(|stage| form.config_of(stage)),
                None => vec![config.clone()],
            };
            if store.catalog.with(Option::is_some) {
                form.check(config, jobs);
            }
        });
        form
    }

    /// What is shown as YAML: only what differs from the defaults.
    pub fn config(self) -> RunConfig {
        self.config_of(&self.stage())
    }

    /// What is started: the run, or the whole chain that ends with it.
    pub fn jobs(self) -> Vec<RunConfig> {
        match self.chain_in_force() {
            Some(chain) => chain.jobs(|stage| self.config_of(stage)),
            None => vec![self.config()],
        }
    }

    fn chain_in_force(self) -> Option<Chain> {
        self.chain.get().filter(|_| chain::ends_with(&self.stage()))
    }

    fn config_of(self, stage: &str) -> RunConfig {
        let Some(catalog) = self.store.catalog.get() else { return RunConfig::default() };
        let mut set = self.values.set.get();
        let current: Vec<Setting> =
            sections(&catalog, stage, &self.adapter()).into_iter().flat_map(|s| s.settings).collect();
        // What belongs to another goal or tuning type stays in the form and out of the run.
        for card in catalog.stages.iter().chain(&catalog.adapters) {
            for key in card.schema["properties"].as_object().into_iter().flat_map(|p| p.keys()) {
                if !current.iter().any(|s| s.key == *key) {
                    set.remove(key);
                }
            }
        }
        set.set("stage", stage);
        set.set("finetuning_type", self.adapter());
        differing(&set, &current, &FIRST)
    }

    pub fn stage(self) -> String {
        let stage = self.values.text("stage");
        if stage.is_empty() { "sft".into() } else { stage }
    }

    pub fn adapter(self) -> String {
        let adapter = self.values.text("finetuning_type");
        if adapter.is_empty() { "lora".into() } else { adapter }
    }

    pub fn datasets(self) -> Vec<String> {
        self.values.set.with(|set| match set.get("dataset") {
            Some(Value::Array(all)) => all.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            Some(Value::String(all)) => all.split(',').map(|name| name.trim().to_owned()).collect(),
            _ => Vec::new(),
        })
    }

    pub fn set_datasets(self, names: Vec<String>) {
        self.values.set_key("dataset", if names.is_empty() { Value::Null } else { names.into() });
    }

    /// Sections of the goal and tuning type that are chosen.
    pub fn sections(self) -> Vec<Section> {
        self.store.catalog.get().map(|c| sections(&c, &self.stage(), &self.adapter())).unwrap_or_default()
    }

    /// Fills the form with a preset; model, data, goal and names stay, unless the preset says otherwise.
    pub fn apply(self, preset: &Preset) {
        let mut set = RunConfig::default();
        self.values.set.with_untracked(|old| {
            for key in FIRST.iter().chain(&["run_name", "output_dir", "dataset_dir"]) {
                if let Some(value) = old.get(key) {
                    set.set(*key, value.clone());
                }
            }
        });
        for (key, value) in &preset.values {
            set.set(key, value.clone());
        }
        self.preset.set(Some(preset.name.clone()));
        self.values.preset.set(RunConfig(preset.values.clone()));
        self.values.set.set(set);
    }

    /// Fills the form with a configuration as it stands.
    pub fn fill(self, config: RunConfig) {
        let model = config.text("model_name_or_path").unwrap_or_default().to_owned();
        let known = self.store.models.with_untracked(|m| m.iter().flatten().any(|m| m.name == model));
        self.other_model.set(!known && !model.is_empty());
        self.preset.set(None);
        self.values.preset.set(RunConfig::default());
        self.values.set.set(config);
    }

    /// Takes up settings with which the run fits.
    pub fn take_up(self, fix: &Fix) {
        self.values.set.update(|set| fix.changes.0.iter().for_each(|(key, value)| set.set(key, value.clone())));
    }

    /// Has two steps of the run made, for a plan that rests on them.
    pub fn measure(self) {
        let (config, turn) = (untrack(|| self.config()), self.turn.get_untracked());
        self.measuring.set(true);
        spawn_local(async move {
            let reply = client::post::<_, CheckReply>(routes::MEASURE, &config).await;
            self.measuring.set(false);
            match reply {
                // Meanwhile the form may have become another; what was measured is known to the next plan anyway.
                Ok(CheckReply { plan: Some(plan), .. }) if self.turn.get_untracked() == turn => {
                    self.plan.set(Some(plan))
                }
                Ok(CheckReply { problems, .. }) | Err(problems) => self.store.complain(&problems),
            }
        });
    }

    /// Back to the preset, or to the defaults.
    pub fn undo_changes(self) {
        let preset = Preset {
            name: self.preset.get_untracked().unwrap_or_default(),
            title: Default::default(),
            help: Default::default(),
            values: self.values.preset.get_untracked().0,
        };
        let chosen = self.preset.get_untracked();
        self.apply(&preset);
        self.preset.set(chosen);
    }

    /// Opens the group of a setting and puts the cursor into it.
    pub fn show(self, key: &str) {
        for section in self.sections() {
            if section.settings.iter().any(|s| s.key == key && !s.is_main()) {
                self.open.update(|open| {
                    open.insert(section.name.clone());
                });
            }
        }
        let id = field_id(key);
        spawn_local(async move {
            TimeoutFuture::new(60).await;
            focus(&id);
        });
    }

    fn begin(self, catalog: &Arc<Catalog>) {
        let stored = ui::remembered("form").and_then(|text| serde_json::from_str::<RunConfig>(&text).ok());
        let preset = match (&stored, ui::remembered("preset")) {
            (None, _) => catalog.presets.first(),
            (_, Some(name)) => catalog.presets.iter().find(|p| p.name == name),
            _ => None,
        };
        if let Some(preset) = preset {
            self.apply(preset);
        }
        match stored {
            Some(config) => {
                let preset = (self.preset.get_untracked(), self.values.preset.get_untracked());
                self.fill(config);
                self.preset.set(preset.0);
                self.values.preset.set(preset.1);
            }
            None => self.values.set_key("model_name_or_path", "starter".into()),
        }
    }

    /// Asks for the plans of `jobs` once the person pauses, and remembers `config`.
    fn check(self, config: RunConfig, jobs: Vec<RunConfig>) {
        let turn = self.turn.get_untracked() + 1;
        self.turn.set(turn);
        let is_ready = |job: &RunConfig| job.text("model_name_or_path").is_some() && job.get("dataset").is_some();
        let ready = jobs.iter().all(is_ready);
        self.checking.set(ready);
        if !ready {
            self.plan.set(None);
            self.before.set(Vec::new());
            self.values.problems.set(Vec::new());
        }
        spawn_local(async move {
            TimeoutFuture::new(350).await;
            if self.turn.get_untracked() != turn {
                return;
            }
            ui::remember("form", serde_json::to_string(&config).ok().as_deref());
            ui::remember("preset", self.preset.get_untracked().as_deref());
            if !ready {
                return;
            }
            let (mut plans, mut problems) = (Vec::new(), Vec::new());
            for job in &jobs {
                let reply = client::post::<_, CheckReply>(routes::CHECK, job).await;
                if self.turn.get_untracked() != turn {
                    return;
                }
                let found = match reply {
                    Ok(reply) => {
                        plans.extend(reply.plan);
                        reply.problems
                    }
                    Err(problems) => problems,
                };
                problems.extend(found.into_iter().filter(|p| !problems.contains(p)).collect::<Vec<_>>());
            }
            let last = if plans.len() == jobs.len() { plans.pop() } else { None };
            self.plan.set(last);
            self.before.set(plans);
            self.values.problems.set(problems);
            self.checking.set(false);
        });
    }
}

pub fn train_form() -> TrainForm {
    expect_context()
}

/// The id of a setting's control.
pub fn field_id(key: &str) -> String {
    format!("f-{key}")
}

/// Puts the cursor into the element, or the first control in it.
pub fn focus(id: &str) {
    use wasm_bindgen::JsCast;
    let Some(element) = document().get_element_by_id(id) else { return };
    let control = element.query_selector("input, select, textarea, button").ok().flatten().unwrap_or(element);
    if let Ok(control) = control.dyn_into::<web_sys::HtmlElement>() {
        control.scroll_into_view();
        let _ = control.focus();
    }
}
