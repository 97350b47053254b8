//! `/ws/chat`: a WebSocket that holds a conversation, which is kept. Each message is one JSON text: an [`Ask`] from the client,
//! a [`Told`] to it. The guard before all routes has looked at where it comes from and what it shows.

use crate::{
    chat::{Asked, Conversation, Served, check_messages},
    error::{Failure, Reply},
    openai,
    router::Route,
    sessions,
    state::State as App,
};
use api::{
    Problem,
    chat::{FinishReason, Reply as Said},
    routes::CHAT_SOCKET,
    session::{Ask, Session, SessionContent, SessionMessage, SessionSettings, Told},
};
use axum::{
    extract::{
        State,
        ws::{Message, WebSocket, WebSocketUpgrade},
    },
    http::{Method, StatusCode},
    response::Response,
    routing::get,
};
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;

/// The largest message in bytes.
const LARGEST: usize = 1 << 20;
/// How often it is asked whether the client is still there.
const PING: Duration = Duration::from_secs(30);

pub fn routes() -> Vec<Route> {
    vec![Route::new(Method::GET, CHAT_SOCKET, "A WebSocket that holds a conversation", get(upgrade))]
}

async fn upgrade(State(app): State<App>, request: WebSocketUpgrade) -> Reply<Response> {
    let place = app.sockets.clone().try_acquire_owned().map_err(|_| too_many())?;
    let talk = Talk { app, served: None, session: None, answer: None };
    let request = request.max_message_size(LARGEST).max_frame_size(LARGEST);
    Ok(request.on_upgrade(move |socket| talk.hold(socket, place)))
}

/// What one client talks about.
struct Talk {
    app: App,
    served: Option<Served>,
    session: Option<Session>,
    answer: Option<Answer>,
}

/// One that is being written.
struct Answer {
    conversation: Conversation,
    message: SessionMessage,
}

impl Talk {
    /// Until the client goes, or the server.
    async fn hold(mut self, mut socket: WebSocket, _place: OwnedSemaphorePermit) {
        let ending = self.app.ending.clone();
        let mut ping = tokio::time::interval(PING);
        loop {
            let told = tokio::select! {
                () = ending.cancelled() => break,
                _ = ping.tick() => {
                    if socket.send(Message::Ping(Default::default())).await.is_err() {
                        break;
                    }
                    continue;
                }
                received = socket.recv() => match received {
                    Some(Ok(Message::Text(text))) => self.hear(&text).await,
                    Some(Ok(Message::Binary(_))) => Err(not_understood("it is binary")),
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
                    Some(Ok(Message::Close(_)) | Err(_)) | None => break,
                },
                said = next(&mut self.answer) => self.go_on(said).await,
            };
            let told = told.unwrap_or_else(|failure| {
                let problem = failure.problems.into_iter().next().unwrap_or_default();
                Some(Told::Failed { problem })
            });
            let Some(told) = told else { continue };
            let text = serde_json::to_string(&told).unwrap_or_default();
            if socket.send(Message::Text(text.into())).await.is_err() {
                break;
            }
        }
        // What there is of an answer is kept; to drop it stops the model.
        if self.answer.is_some() {
            let _ = self.finish(FinishReason::Cancelled).await;
        }
    }

    async fn hear(&mut self, text: &str) -> Reply<Option<Told>> {
        match serde_json::from_str::<Ask>(text).map_err(|e| not_understood(&e.to_string()))? {
            Ask::Open { session, model, system, params } => {
                let served = self.app.chats.serving(model.as_deref().unwrap_or_default())?;
                let mut kept = match session {
                    Some(id) => sessions::find(&self.app.store, &id).await?,
                    None => sessions::begin(&self.app.store, SessionContent::default()).await?,
                };
                let settings = &mut kept.content.settings;
                let changed = SessionSettings {
                    system: system.unwrap_or_else(|| settings.system.clone()),
                    params: params
                        .map(|params| openai::generation(params, &Default::default()))
                        .transpose()?
                        .unwrap_or_else(|| settings.params.clone()),
                    ..settings.clone()
                };
                if changed != *settings {
                    *settings = changed;
                    kept = sessions::change(&self.app.store, &kept.id, kept.content).await?;
                }
                (self.answer, self.served, self.session) = (None, Some(served), Some(kept.clone()));
                Ok(Some(Told::Session { session: Box::new(kept) }))
            }
            Ask::Say { .. } if self.answer.is_some() => Err(still_writing()),
            Ask::Say { content } => self.say(content).await.map(|()| None),
            Ask::Stop if self.answer.is_some() => self.finish(FinishReason::Cancelled).await.map(Some),
            Ask::Stop => Ok(None),
        }
    }

    /// Begins to answer a message.
    async fn say(&mut self, content: String) -> Reply<()> {
        let served = match &self.served {
            Some(served) => served,
            None => self.served.insert(self.app.chats.serving("")?),
        };
        let session = match &mut self.session {
            Some(session) => session,
            None => self.session.insert(sessions::begin(&self.app.store, SessionContent::default()).await?),
        };
        session.content.messages.push(SessionMessage { role: "user".into(), content, ..SessionMessage::default() });
        let messages = session.content.conversation();
        let begun = check_messages(&messages).and_then(|()| {
            let mut params = self.app.chats.defaults().clone();
            params.extend(session.content.settings.params.clone());
            self.app.chats.begin(served, Asked { messages, params, ..Asked::default() })
        });
        let conversation = match begun {
            Ok(conversation) => conversation,
            Err(failure) => {
                session.content.messages.pop();
                return Err(failure);
            }
        };
        let by = served.model.name.clone();
        let message = SessionMessage { role: "assistant".into(), by, ..SessionMessage::default() };
        self.answer = Some(Answer { conversation, message });
        Ok(())
    }

    /// Takes in what the model said.
    async fn go_on(&mut self, said: Option<Said>) -> Reply<Option<Told>> {
        let Some(answer) = &mut self.answer else { return Ok(None) };
        match said {
            Some(Said::Text { text, .. }) => {
                answer.message.content.push_str(&text);
                Ok(Some(Told::Text { text }))
            }
            Some(Said::Ended { finish_reason, .. }) => {
                answer.message.finish_reason = Some(finish_reason);
                Ok(None)
            }
            Some(Said::Done { usage, .. }) => {
                (answer.message.tokens, answer.message.seconds) = (usage.completion_tokens, usage.seconds);
                let reason = answer.message.finish_reason.unwrap_or(FinishReason::Stop);
                self.finish(reason).await.map(Some)
            }
            Some(Said::Failed { problem, .. }) => {
                self.finish(FinishReason::Cancelled).await?;
                Err(Failure::from(problem))
            }
            Some(_) => Ok(None),
            None => {
                self.finish(FinishReason::Cancelled).await?;
                Err(Failure::conflict(crate::chat::gone()))
            }
        }
    }

    /// Keeps the answer, as far as it is written.
    async fn finish(&mut self, reason: FinishReason) -> Reply<Told> {
        let message = self.answer.take().map(|answer| answer.message).unwrap_or_default();
        let message = SessionMessage { finish_reason: Some(reason), ..message };
        if let Some(session) = &mut self.session {
            session.content.messages.push(message.clone());
            *session = sessions::change(&self.app.store, &session.id, session.content.clone()).await?;
        }
        Ok(Told::Done { message })
    }
}

/// What the model says next; never, while nothing is asked of it.
async fn next(answer: &mut Option<Answer>) -> Option<Said> {
    match answer {
        Some(answer) => answer.conversation.next().await,
        None => std::future::pending().await,
    }
}

fn not_understood(reason: &str) -> Failure {
    let problem = Problem::new(
        "bad_message",
        format!("The message isn't understood: {reason}."),
        format!("无法理解该消息：{reason}。"),
    );
    Failure::bad(problem.hint(
        "Send JSON, for example {\"type\": \"say\", \"content\": \"Hello\"}.",
        "请发送 JSON，例如 {\"type\": \"say\", \"content\": \"你好\"}。",
    ))
}

fn still_writing() -> Failure {
    let problem = Problem::new("still_writing", "The last answer is still being written.", "上一个回答仍在生成。");
    Failure::conflict(
        problem.hint("Wait for it, or send {\"type\": \"stop\"}.", "请等待，或发送 {\"type\": \"stop\"}。"),
    )
}

fn too_many() -> Failure {
    let problem = Problem::new("too_many_sockets", "Too many conversations are open.", "打开的对话过多。");
    Failure::new(StatusCode::SERVICE_UNAVAILABLE, problem.hint("Close one, then try again.", "请关闭一个后重试。"))
}
