//! A model to talk to: what is chosen, and what is loaded of it.

use crate::{
    client, format,
    parts::source::Source,
    store::{Store, store},
    ui,
};
use api::{
    Job, JobKind,
    chat::{ChatModel, ChatState, LoadChat},
    routes,
};
use gloo_timers::future::TimeoutFuture;
use leptos::{prelude::*, task::spawn_local};

/// Lives as long as the page.
#[derive(Clone, Copy)]
pub struct Seat {
    pub source: Source,
    pub model: RwSignal<Option<ChatModel>>,
    store: Store,
}

impl Seat {
    pub fn new() -> Self {
        Self { source: Source::new(), model: RwSignal::new(None), store: store() }
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

    pub fn id(self) -> Option<String> {
        self.model.with_untracked(|m| m.as_ref().map(|m| m.id.clone()))
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

    /// Loads what is chosen, after letting go of what was loaded, unless `kept` still needs that.
    pub fn load(self, kept: Option<String>) {
        let Some(load) = self.source.load(self.store) else { return };
        let old = self.model.get_untracked().map(|m| m.id).filter(|id| !id.is_empty() && Some(id) != kept.as_ref());
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

    /// Frees the memory, unless `kept` still needs the model.
    pub fn unload(self, kept: Option<String>) {
        let Some(model) = self.model.get_untracked() else { return };
        self.model.set(None);
        if !model.id.is_empty() && Some(&model.id) != kept.as_ref() {
            spawn_local(async move {
                if let Err(problems) = client::delete(&routes::fill(routes::CHAT_MODEL, &model.id)).await {
                    self.store.complain(&problems);
                }
            });
        }
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
    pub fn choose(self, load: &LoadChat) {
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
}

/// The run in whose folder a path lies.
fn run_of<'a>(mut jobs: impl Iterator<Item = &'a Job>, path: &str) -> Option<String> {
    let inside = |id: &str| path.split(['/', '\\']).any(|part| part == id);
    jobs.find(|job| job.kind == JobKind::Train && inside(&job.id)).map(|job| job.id.clone())
}
