//! A conversation: which model is loaded, what was said, and the answer that is being written.

use crate::{
    client,
    form::Values,
    format,
    parts::{job::now, source::Source},
    setting::{differing, settings},
    store::{Store, store},
    stream::Events,
    ui,
};
use api::{
    Job, JobKind, Problem,
    chat::{ChatModel, ChatState, FinishReason, Generate, LoadChat, Reply},
    data::Message,
    routes,
};
use gloo_timers::future::TimeoutFuture;
use leptos::{prelude::*, task::spawn_local};
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::JsFuture;
use web_sys::{
    AbortController, ReadableStreamDefaultReader, RequestInit, Response, ScrollIntoViewOptions, ScrollLogicalPosition,
};

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
    abort: StoredValue<Option<AbortController>, LocalStorage>,
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
            let result = self.stream(&model.id, Generate { messages, params }, &answer).await;
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

    /// Reads the answer as it is written. Text is shown twenty times a second at most.
    async fn stream(self, id: &str, body: Generate, answer: &Said) -> Result<(), Stopped> {
        let lost = |_: JsValue| Stopped::Problem(Box::new(client::no_answer()));
        let abort = AbortController::new().map_err(lost)?;
        let init = RequestInit::new();
        init.set_method("POST");
        init.set_body(&serde_json::to_string(&body).unwrap_or_default().into());
        let headers = web_sys::Headers::new().map_err(lost)?;
        headers.set("content-type", "application/json").map_err(lost)?;
        init.set_headers(&headers);
        init.set_signal(Some(&abort.signal()));
        self.abort.set_value(Some(abort.clone()));
        let stopped = |error: JsValue| if abort.signal().aborted() { Stopped::ByPerson } else { lost(error) };
        let path = routes::fill(routes::CHAT_GENERATE, id);
        let response = JsFuture::from(window().fetch_with_str_and_init(&path, &init)).await.map_err(stopped)?;
        let response: Response = response.dyn_into().map_err(lost)?;
        if !response.ok() {
            let text = JsFuture::from(response.text().map_err(lost)?).await.map_err(stopped)?;
            let problems = client::problems(response.status(), &text.as_string().unwrap_or_default());
            return Err(problems.into_iter().next().unwrap_or_else(client::no_answer).into());
        }
        let reader = response.body().ok_or_else(|| Stopped::from(client::no_answer()))?.get_reader();
        let reader: ReadableStreamDefaultReader = reader.unchecked_into();
        let mut events = Events::default();
        let (mut whole, mut shown) = (String::new(), 0.0);
        loop {
            let piece = match JsFuture::from(reader.read()).await {
                Ok(piece) => piece,
                Err(error) => {
                    answer.text.set(whole);
                    return Err(stopped(error));
                }
            };
            if js_sys::Reflect::get(&piece, &"done".into()).is_ok_and(|done| done.is_truthy()) {
                answer.text.set(whole);
                return Err(client::stream_ended().into());
            }
            let Ok(value) = js_sys::Reflect::get(&piece, &"value".into()) else { continue };
            for event in events.push(&js_sys::Uint8Array::new(&value).to_vec()) {
                match serde_json::from_str::<Reply>(&event) {
                    Ok(Reply::Text { text, .. }) => whole.push_str(&text),
                    Ok(Reply::Done { finish_reason, usage, .. }) => {
                        answer.text.set(whole);
                        answer.end.update(|end| {
                            end.tokens = usage.completion_tokens;
                            end.seconds = usage.seconds;
                            end.reason = Some(finish_reason);
                        });
                        return Ok(());
                    }
                    Ok(Reply::Failed { problem, .. }) => {
                        answer.text.set(whole);
                        return Err(problem.into());
                    }
                    Ok(Reply::Ready { .. }) | Err(_) => {}
                }
            }
            if now() - shown > 0.05 {
                shown = now();
                answer.text.set(whole.clone());
                bottom(false);
            }
        }
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

enum Stopped {
    ByPerson,
    Problem(Box<Problem>),
}

impl From<Problem> for Stopped {
    fn from(problem: Problem) -> Self {
        Self::Problem(Box::new(problem))
    }
}

/// Keeps the end of the conversation in view, unless the person has scrolled away from it.
fn bottom(always: bool) {
    let Some(end) = document().get_element_by_id("chat-end") else { return };
    let height = document().document_element().map_or(0, |root| root.client_height());
    if always || end.get_bounding_client_rect().top() < f64::from(height + 160) {
        spawn_local(async move {
            TimeoutFuture::new(20).await;
            let options = ScrollIntoViewOptions::new();
            options.set_block(ScrollLogicalPosition::Nearest);
            end.scroll_into_view_with_scroll_into_view_options(&options);
        });
    }
}
