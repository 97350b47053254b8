//! Choosing what to chat with or export: a model, or a run and one of its checkpoints.

use crate::{
    format,
    i18n::{Language, fill},
    store::{Store, store},
    ui,
};
use api::{
    Job, JobKind,
    chat::LoadChat,
    job::Checkpoint,
    params::{self, ModelParams},
};
use leptos::prelude::*;

/// What is chosen. Lives as long as the page, so that a choice survives a look at another tab.
#[derive(Clone, Copy)]
pub struct Source {
    pub model: RwSignal<String>,
    /// Instead of a model.
    pub run: RwSignal<Option<String>>,
    /// Name of a checkpoint of the run; nothing means the newest.
    pub checkpoint: RwSignal<Option<String>>,
}

impl Source {
    pub fn new() -> Self {
        Self { model: RwSignal::default(), run: RwSignal::new(None), checkpoint: RwSignal::new(None) }
    }

    pub fn choose_run(self, run: &str, checkpoint: Option<String>) {
        self.run.set(Some(run.to_owned()));
        self.checkpoint.set(checkpoint);
    }

    /// The checkpoint that is chosen, of a run whose checkpoints are known.
    pub fn chosen(self, store: Store) -> Option<Checkpoint> {
        let run = self.run.get()?;
        let name = self.checkpoint.get();
        store.checkpoints.with(|all| {
            let list = all.get(&run)?;
            list.iter().find(|c| Some(&c.name) == name.as_ref()).or_else(|| list.first()).cloned()
        })
    }

    /// What the server loads for it; nothing while a run's checkpoints are unknown or there is none.
    pub fn load(self, store: Store) -> Option<LoadChat> {
        let Some(run) = self.run.get() else {
            let model = self.model.get();
            return (!model.is_empty()).then_some(LoadChat { model_name_or_path: model, ..LoadChat::default() });
        };
        let job = store.job(&run)?;
        let checkpoint = self.chosen(store)?;
        let template = job.config.text("template").map(str::to_owned);
        let base = job.config.text("model_name_or_path")?.to_owned();
        Some(if is_full(&job) {
            LoadChat { model_name_or_path: checkpoint.path, template, ..LoadChat::default() }
        } else {
            // It was trained on top of these.
            let model = params::read::<ModelParams>(&job.config).unwrap_or_default();
            let adapters = model.below().into_iter().chain([checkpoint.path.as_str()]).collect::<Vec<_>>().join(",");
            LoadChat { model_name_or_path: base, adapter_name_or_path: Some(adapters), template, ..LoadChat::default() }
        })
    }

    /// Name for a title: `identity-lora-2, step 195`.
    pub fn name(self, store: Store, language: Language) -> String {
        match self.run.get() {
            Some(run) => match self.chosen(store) {
                Some(checkpoint) => format!("{run}, {}", checkpoint_name(&checkpoint, language)),
                None => run,
            },
            None => format::last_part(&self.model.get()).to_owned(),
        }
    }
}

/// True if the run changed all weights: its checkpoints are models, not adapters.
pub fn is_full(job: &Job) -> bool {
    matches!(job.config.text("finetuning_type"), Some("full" | "freeze"))
}

pub fn checkpoint_name(checkpoint: &Checkpoint, language: Language) -> String {
    let w = language.words();
    let text = if checkpoint.name == "final" { w.final_checkpoint } else { w.step_checkpoint };
    fill(text, &[("step", &format::count(checkpoint.step))])
}

#[component]
pub fn SourceFields(source: Source, testid: &'static str) -> impl IntoView {
    let w = ui::words();
    let language = ui::language();
    let store = store();
    // The first model stands chosen until another is.
    Effect::new(move || {
        if source.model.with(String::is_empty)
            && let Some(first) = store.models.with(|all| all.iter().flatten().find(|m| m.problem.is_none()).cloned())
        {
            source.model.set(first.name);
        }
    });
    Effect::new(move || {
        if let Some(run) = source.run.get() {
            store.ask_checkpoints(&run);
        }
    });
    let chosen = Memo::new(move |_| match source.run.get() {
        Some(run) => format!("run:{run}"),
        None => format!("model:{}", source.model.get()),
    });
    let change = move |e| {
        let value = event_target_value(&e);
        source.checkpoint.set(None);
        match value.split_once(':') {
            Some(("run", run)) => source.run.set(Some(run.to_owned())),
            Some((_, model)) => {
                source.run.set(None);
                source.model.set(model.to_owned());
            }
            None => {}
        }
    };
    let option = move |value: String, text: String| {
        let this = value.clone();
        view! { <option value=value selected=move || chosen.with(|c| *c == this)>{text}</option> }
    };
    let models = move || {
        store.models.with(|all| {
            let usable = all.iter().flatten().filter(|m| m.problem.is_none());
            usable.map(|m| option(format!("model:{}", m.name), format::last_part(&m.name).to_owned())).collect_view()
        })
    };
    let ids = Memo::new(move |_| {
        store.jobs.with(|all| {
            let runs = all.iter().flatten().filter(|j| j.kind == JobKind::Train);
            runs.map(|job| job.id.clone()).collect::<Vec<_>>()
        })
    });
    let runs = move || ids.get().into_iter().map(|id| option(format!("run:{id}"), id)).collect_view();
    let checkpoints = move || {
        source.run.get().map(|run| {
            let list = store.checkpoints.with(|all| all.get(&run).cloned()).unwrap_or_default();
            let now = source.chosen(store).map(|c| c.name);
            let empty = list.is_empty();
            let options = list
                .into_iter()
                .map(|c| {
                    let text = format!("{} · {}", checkpoint_name(&c, language), format::bytes(c.bytes));
                    view! { <option value=c.name.clone() selected=now.as_ref() == Some(&c.name)>{text}</option> }
                })
                .collect_view();
            view! {
                <div class="field">
                    <label for=format!("{testid}-checkpoint")>{w.checkpoint}</label>
                    <div class="input sel">
                        <select id=format!("{testid}-checkpoint") data-testid=format!("{testid}-checkpoint") disabled=empty
                            on:change=move |e| source.checkpoint.set(Some(event_target_value(&e)))>
                            {options}
                        </select>
                    </div>
                    {empty.then(|| view! { <p class="help">{w.no_checkpoints}</p> })}
                </div>
            }
        })
    };
    view! {
        <div class="field">
            <label for=testid>{w.what_to_load}</label>
            <div class="input sel">
                <select id=testid data-testid=testid prop:value=move || { ids.track(); store.models.track(); chosen.get() } on:change=change>
                    <optgroup label=w.base_models>{models}</optgroup>
                    {move || (!ids.with(Vec::is_empty)).then(|| view! { <optgroup label=w.trained_runs>{runs}</optgroup> })}
                </select>
            </div>
        </div>
        {checkpoints}
    }
}
