//! A conversation: which model is loaded, what was said, and the answer that is being written.

use super::answer::{Stopped, bottom};
use crate::{
    client,
    form::Values,
    format,
    parts::{job::now, source::Source},
    setting::{differing, settings},
    store::{Store, store},
    ui,
};
use api::{
    Job, JobKind, Problem,
    chat::{ChatModel, ChatState, FinishReason, Generate, LoadChat},
    data::Message,
    routes,
};
use gloo_timers::future::TimeoutFuture;
use leptos::{prelude::*, task::spawn_local};
use web_sys::AbortController;

#[derive(Clone)]
pub struct Said {
    pub id: u64,
    pub mine: bool,
    /// Name of the model that answered.
    pub by: String,
    pub text: ArcRwSignal<String>,
    pub end: ArcRwSignal<End>,
}

/// How an answer ended, or that it is still being written.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct End {
    pub writing: bool,
    pub tokens: u64,
    pub seconds: f64,
    pub reason: Option<FinishReason>,
    pub problem: Option<Problem>,
}

/// Lives as long as the page: a look at another tab loses nothing, and an answer goes on being written.
#[derive(Clone, Copy)]
pub struct Talk {
    pub source: Source,
    pub model: RwSignal<Option<ChatModel>>,
    pub said: RwSignal<Vec<Said>>,
    pub draft: RwSignal<String>,
    pub system: RwSignal<String>,
    pub values: Values,
    pub writing: RwSignal<bool>,
    pub(super) abort: StoredValue<Option<AbortController>, LocalStorage>,
    store: Store,
}

impl Talk {
    pub fn provide() {
        provide_context(Self {
            source: Source::new(),
            model: RwSignal::new(None),
            said: RwSignal::default(),
            draft: RwSignal::default(),
            system: RwSignal::default(),
            values: Values::new(),
            writing: RwSignal::new(false),
            abort: StoredValue::new_local(None),
            store: store(),
        });
    }

    pub fn is_ready(self) -> bool {
        self.model.with(|m| m.as_ref().is_some_and(|m| m.state == ChatState::Ready))
    }

    pub fn is_loading(self) -> bool {
        self.model.with(|m| m.as_ref().is_some_and(|m| m.state == ChatState::Loading))
    }

    /// Name of the loaded model.
    pub fn ready_name(self) -> Option<String> {
        self.model.with(|m| m.as_ref().filter(|m| m.state == ChatState::Ready).map(|m| self.name_of(&m.load)))
    }

    /// Takes over a model that the server still holds, for example after a reload of the page.
    pub fn adopt(self) {
        if self.model.with_untracked(Option::is_some) {
            return;
        }
        spawn_local(async move {
            if let Ok(models) = client::get::<Vec<ChatModel>>(routes::CHAT).await
                && let Some(model) = models.into_iter().rfind(|m| m.state != ChatState::Failed)
                && self.model.with_untracked(Option::is_none)
            {
                let loading = model.state == ChatState::Loading;
                let id = model.id.clone();
                // The run that it belongs to is found by name once the jobs are known.
                for _ in 0..20 {
                    if self.store.jobs.with_untracked(Option::is_some) {
                        break;
                    }
                    TimeoutFuture::new(100).await;
                }
                if self.source.run.with_untracked(Option::is_none) {
                    self.choose(&model.load);
                }
                self.model.set(Some(model));
                if loading {
                    self.follow(id).await;
                }
            }
        });
    }

    /// Loads what is chosen, after letting go of what was loaded.
    pub fn load(self) {
        let Some(load) = self.source.load(self.store) else { return };
        self.stop();
        let old = self.model.get_untracked().map(|m| m.id).filter(|id| !id.is_empty());
        self.model.set(Some(ChatModel {
            id: String::new(),
            load: load.clone(),
            state: ChatState::Loading,
            bytes: 0,
            problem: None,
        }));
        spawn_local(async move {
            if let Some(old) = old {
                let _ = client::delete(&routes::fill(routes::CHAT_MODEL, &old)).await;
            }
            match client::post::<_, ChatModel>(routes::CHAT, &load).await {
                Ok(model) => {
                    let id = model.id.clone();
                    self.model.set(Some(model));
                    self.follow(id).await;
                }
                Err(problems) => self.model.update(|m| {
                    if let Some(m) = m {
                        m.state = ChatState::Failed;
                        m.problem = problems.into_iter().next();
                    }
                }),
            }
        });
    }

    pub fn unload(self) {
        self.stop();
        let Some(model) = self.model.get_untracked() else { return };
        self.model.set(None);
        if !model.id.is_empty() {
            spawn_local(async move {
                if let Err(problems) = client::delete(&routes::fill(routes::CHAT_MODEL, &model.id)).await {
                    self.store.complain(&problems);
                }
            });
        }
    }

    /// Sends the draft. False if there is nothing to send or nobody to answer.
    pub fn send(self) -> bool {
        let text = self.draft.get_untracked().trim().to_owned();
        if text.is_empty() || self.writing.get_untracked() || !self.is_ready() {
            return false;
        }
        self.draft.set(String::new());
        self.push(true, text, End::default());
        self.answer();
        true
    }

    /// Takes the last answer back and asks for another.
    pub fn again(self) {
        if self.writing.get_untracked() {
            return;
        }
        self.said.update(|all| {
            if all.last().is_some_and(|s| !s.mine) {
                all.pop();
            }
        });
        if self.said.with_untracked(|all| all.last().is_some_and(|s| s.mine)) {
            self.answer();
        }
    }

    pub fn stop(self) {
        self.abort.update_value(|abort| {
            if let Some(abort) = abort.take() {
                abort.abort();
            }
        });
    }

    pub fn clear(self) {
        self.stop();
        self.said.set(Vec::new());
    }

    /// `identity-lora-2, step 25` for a checkpoint of a run, else the last part of the name.
    pub fn name_of(self, load: &LoadChat) -> String {
        let path = load.adapter_name_or_path.as_deref().unwrap_or(&load.model_name_or_path);
        let last = format::last_part(path);
        match self.store.jobs.with(|jobs| run_of(jobs.iter().flatten(), path)) {
            Some(run) => match last.strip_prefix("checkpoint-") {
                Some(step) => {
                    format!("{run}, {}", crate::i18n::fill(ui::words().step_checkpoint, &[("step", step)]))
                }
                None => run,
            },
            None => last.to_owned(),
        }
    }

    /// Shows as chosen what is loaded.
    fn choose(self, load: &LoadChat) {
        let path = load.adapter_name_or_path.as_deref().unwrap_or(&load.model_name_or_path);
        match self.store.jobs.with_untracked(|jobs| run_of(jobs.iter().flatten(), path)) {
            Some(run) => {
                let name = Some(format::last_part(path)).filter(|last| last.starts_with("checkpoint-"));
                self.source.choose_run(&run, Some(name.unwrap_or("final").to_owned()));
            }
            None => self.source.model.set(load.model_name_or_path.clone()),
        }
    }

    async fn follow(self, id: String) {
        loop {
            TimeoutFuture::new(400).await;
            let still = self.model.with_untracked(|m| m.as_ref().is_some_and(|m| m.id == id));
            if !still {
                return;
            }
            match client::get::<ChatModel>(&routes::fill(routes::CHAT_MODEL, &id)).await {
                Ok(model) => {
                    let loading = model.state == ChatState::Loading;
                    self.model.set(Some(model));
                    if !loading {
                        return;
                    }
                }
                Err(problems) => {
                    self.model.update(|m| {
                        if let Some(m) = m {
                            m.state = ChatState::Failed;
                            m.problem = problems.into_iter().next();
                        }
                    });
                    return;
                }
            }
        }
    }

    fn push(self, mine: bool, text: String, end: End) -> Said {
        let id = self.said.with_untracked(|all| all.last().map_or(0, |s| s.id + 1));
        let by = self.ready_name().unwrap_or_default();
        let said = Said { id, mine, by, text: ArcRwSignal::new(text), end: ArcRwSignal::new(end) };
        self.said.update(|all| all.push(said.clone()));
        said
    }

    fn answer(self) {
        let Some(model) = self.model.get_untracked() else { return };
        let system = self.system.get_untracked().trim().to_owned();
        let said = self.said.with_untracked(|all| {
            let message = |s: &Said| Message::new(if s.mine { "user" } else { "assistant" }, s.text.get_untracked());
            all.iter().filter(|s| s.mine || !s.text.with_untracked(String::is_empty)).map(message).collect::<Vec<_>>()
        });
        let system = (!system.is_empty()).then(|| Message::new("system", system));
        let messages = system.into_iter().chain(said).collect();
        let schema = self
            .store
            .catalog
            .with_untracked(|c| c.as_ref().and_then(|c| c.generation.as_ref().map(|g| g.schema.clone())));
        let known = schema.as_ref().map(settings).unwrap_or_default();
        let params = differing(&self.values.set.get_untracked(), &known, &[]).0;
        let answer = self.push(false, String::new(), End { writing: true, ..End::default() });
        self.writing.set(true);
        bottom(true);
        spawn_local(async move {
            let started = now();
            let result = self.stream(&model.id, Generate { messages, params, ..Generate::default() }, &answer).await;
            self.abort.set_value(None);
            answer.end.update(|end| {
                end.writing = false;
                if end.seconds == 0.0 {
                    end.seconds = now() - started;
                }
                match result {
                    Ok(()) => {}
                    Err(Stopped::ByPerson) => end.reason = Some(FinishReason::Cancelled),
                    Err(Stopped::Problem(problem)) => end.problem = Some(*problem),
                }
            });
            self.writing.set(false);
            bottom(false);
        });
    }
}

/// The run in whose folder a path lies.
fn run_of<'a>(mut jobs: impl Iterator<Item = &'a Job>, path: &str) -> Option<String> {
    let inside = |id: &str| path.split(['/', '\\']).any(|part| part == id);
    jobs.find(|job| job.kind == JobKind::Train && inside(&job.id)).map(|job| job.id.clone())
}

pub fn talk() -> Talk {
    expect_context()
}
