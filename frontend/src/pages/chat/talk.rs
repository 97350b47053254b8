//! A conversation: who answers, what was said, the answer that is being written, and where it is kept.

use super::{
    answer::{Aborts, Stopped, bottom, stream},
    seat::Seat,
};
use crate::{
    client,
    form::Values,
    parts::job::now,
    setting::{differing, settings},
    store::{Store, store},
};
use api::{
    Problem,
    chat::{FinishReason, Generate},
    data::Message,
    routes,
    session::{Example, Session, SessionContent, SessionInfo, SessionMessage, SessionSettings},
};
use leptos::{prelude::*, task::spawn_local};

#[derive(Clone)]
pub struct Said {
    pub id: u64,
    pub mine: bool,
    /// Name of the model that answered.
    pub by: String,
    pub text: ArcRwSignal<String>,
    pub end: ArcRwSignal<End>,
}

impl Said {
    pub fn new(id: u64, mine: bool, by: String, text: String, end: End) -> Self {
        Self { id, mine, by, text: ArcRwSignal::new(text), end: ArcRwSignal::new(end) }
    }
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
    pub seat: Seat,
    pub said: RwSignal<Vec<Said>>,
    pub draft: RwSignal<String>,
    pub system: RwSignal<String>,
    pub examples: RwSignal<Vec<Example>>,
    pub values: Values,
    pub writing: RwSignal<bool>,
    /// The conversation as it is kept; nothing before its first message.
    pub session: RwSignal<Option<SessionInfo>>,
    pub sessions: RwSignal<Vec<SessionInfo>>,
    pub aborts: Aborts,
    store: Store,
}

impl Talk {
    pub fn provide() {
        provide_context(Self {
            seat: Seat::new(),
            said: RwSignal::default(),
            draft: RwSignal::default(),
            system: RwSignal::default(),
            examples: RwSignal::default(),
            values: Values::new(),
            writing: RwSignal::new(false),
            session: RwSignal::new(None),
            sessions: RwSignal::default(),
            aborts: Aborts::new(),
            store: store(),
        });
    }

    /// Sends the draft. False if there is nothing to send or nobody to answer.
    pub fn send(self) -> bool {
        let text = self.draft.get_untracked().trim().to_owned();
        if text.is_empty() || self.writing.get_untracked() || !self.seat.is_ready() {
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

    /// Takes back what was said from this message on, to write it otherwise.
    pub fn edit(self, id: u64) {
        if self.writing.get_untracked() {
            return;
        }
        self.said.update(|all| {
            if let Some(at) = all.iter().position(|said| said.id == id) {
                self.draft.set(all[at].text.get_untracked());
                all.truncate(at);
            }
        });
    }

    pub fn stop(self) {
        self.aborts.abort();
    }

    /// Begins a new conversation; the old one stays among those that are kept.
    pub fn begin(self) {
        self.stop();
        self.said.set(Vec::new());
        self.session.set(None);
    }

    /// What stands before the messages.
    pub fn settings(self) -> SessionSettings {
        SessionSettings {
            model: self.seat.model.with_untracked(|m| m.as_ref().map(|m| m.load.clone())),
            system: self.system.get_untracked(),
            examples: self.examples.get_untracked(),
            params: self.params(),
        }
    }

    /// Parameters of the generation that differ from what they are by default.
    pub fn params(self) -> serde_json::Map<String, serde_json::Value> {
        let schema = self
            .store
            .catalog
            .with_untracked(|c| c.as_ref().and_then(|c| c.generation.as_ref().map(|g| g.schema.clone())));
        let known = schema.as_ref().map(settings).unwrap_or_default();
        differing(&self.values.set.get_untracked(), &known, &[]).0
    }

    fn content(self) -> SessionContent {
        let message = |said: &Said| {
            let end = said.end.get_untracked();
            SessionMessage {
                role: if said.mine { "user" } else { "assistant" }.into(),
                content: said.text.get_untracked(),
                by: said.by.clone(),
                tokens: end.tokens,
                seconds: end.seconds,
                finish_reason: end.reason,
            }
        };
        SessionContent {
            title: self.session.with_untracked(|s| s.as_ref().map(|s| s.title.clone())).unwrap_or_default(),
            settings: self.settings(),
            messages: self.said.with_untracked(|all| all.iter().map(message).collect()),
        }
    }

    fn push(self, mine: bool, text: String, end: End) -> Said {
        let id = self.said.with_untracked(|all| all.last().map_or(0, |s| s.id + 1));
        let by = if mine { String::new() } else { self.seat.ready_name().unwrap_or_default() };
        let said = Said::new(id, mine, by, text, end);
        self.said.update(|all| all.push(said.clone()));
        said
    }

    fn answer(self) {
        let Some(model) = self.seat.id() else { return };
        let messages: Vec<Message> = self.content().conversation();
        let params = self.params();
        let answer = self.push(false, String::new(), End { writing: true, ..End::default() });
        self.writing.set(true);
        bottom(true);
        spawn_local(async move {
            self.keep().await;
            let body = Generate { messages, params, ..Generate::default() };
            write(&model, body, &answer, self.aborts).await;
            self.writing.set(false);
            bottom(false);
            self.keep().await;
        });
    }
}

/// Reads an answer to its end, however that comes.
pub async fn write(model: &str, body: Generate, answer: &Said, aborts: Aborts) {
    let started = now();
    let result = stream(model, body, answer, aborts).await;
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
}

/// Conversations that are kept.
impl Talk {
    pub fn list(self) {
        spawn_local(async move { self.refresh().await });
    }

    async fn refresh(self) {
        if let Ok(sessions) = client::get::<Vec<SessionInfo>>(routes::SESSIONS).await {
            self.sessions.set(sessions);
        }
    }

    /// Keeps the conversation as it is now.
    async fn keep(self) {
        let content = self.content();
        let kept = match self.session.get_untracked() {
            Some(session) => client::put::<_, Session>(&routes::fill(routes::SESSION, &session.id), &content).await,
            None => client::post::<_, Session>(routes::SESSIONS, &content).await,
        };
        match kept {
            Ok(session) => {
                self.session.set(Some(info(&session)));
                self.refresh().await;
            }
            Err(problems) => self.store.complain(&problems),
        }
    }

    /// Goes on with a conversation.
    pub fn open(self, id: String) {
        self.stop();
        spawn_local(async move {
            match client::get::<Session>(&routes::fill(routes::SESSION, &id)).await {
                Ok(session) => self.show(&session),
                Err(problems) => self.store.complain(&problems),
            }
        });
    }

    fn show(self, session: &Session) {
        let SessionContent { settings, messages, .. } = &session.content;
        let said = |(message, id): (&SessionMessage, u64)| {
            let SessionMessage { content, by, tokens, seconds, finish_reason, .. } = message.clone();
            let end = End { tokens, seconds, reason: finish_reason, ..End::default() };
            Said::new(id, message.role == "user", by, content, end)
        };
        // Numbers that no message shown before has: the page draws them anew.
        let first = self.said.with_untracked(|all| all.last().map_or(0, |s| s.id + 1));
        self.said.set(messages.iter().zip(first..).map(said).collect());
        self.system.set(settings.system.clone());
        self.examples.set(settings.examples.clone());
        self.values.set.set(api::RunConfig(settings.params.clone()));
        self.session.set(Some(info(session)));
        if let Some(load) = settings.model.as_ref().filter(|_| self.seat.model.with_untracked(Option::is_none)) {
            self.seat.choose(load);
        }
        bottom(true);
    }

    pub fn rename(self, id: String, title: String) {
        spawn_local(async move {
            let path = routes::fill(routes::SESSION, &id);
            let renamed = match client::get::<Session>(&path).await {
                Ok(mut session) => {
                    session.content.title = title;
                    client::put::<_, Session>(&path, &session.content).await
                }
                Err(problems) => Err(problems),
            };
            match renamed {
                Ok(session) => self.session.update(|open| {
                    if let Some(open) = open.as_mut().filter(|open| open.id == session.id) {
                        *open = info(&session);
                    }
                }),
                Err(problems) => self.store.complain(&problems),
            }
            self.refresh().await;
        });
    }

    pub fn forget(self, id: String) {
        if self.session.with_untracked(|open| open.as_ref().is_some_and(|open| open.id == id)) {
            self.begin();
        }
        spawn_local(async move {
            if let Err(problems) = client::delete(&routes::fill(routes::SESSION, &id)).await {
                self.store.complain(&problems);
            }
            self.refresh().await;
        });
    }
}

fn info(session: &Session) -> SessionInfo {
    SessionInfo {
        id: session.id.clone(),
        title: session.content.title.clone(),
        created_at: session.created_at,
        changed_at: session.changed_at,
        messages: session.content.messages.len() as u64,
    }
}

pub fn talk() -> Talk {
    expect_context()
}
