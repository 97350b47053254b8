//! Reads an answer while it is written: an event stream of `api::chat::Reply`. Closing it stops the model.

use super::talk::{Said, Talk};
use crate::{client, parts::job::now, stream::Events};
use api::{
    Problem,
    chat::{Generate, Reply},
    routes,
};
use gloo_timers::future::TimeoutFuture;
use leptos::{prelude::*, task::spawn_local};
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::JsFuture;
use web_sys::{
    AbortController, ReadableStreamDefaultReader, RequestInit, Response, ScrollIntoViewOptions, ScrollLogicalPosition,
};

/// Why there is no whole answer.
pub enum Stopped {
    ByPerson,
    Problem(Box<Problem>),
}

impl From<Problem> for Stopped {
    fn from(problem: Problem) -> Self {
        Self::Problem(Box::new(problem))
    }
}

/// Keeps the end of the conversation in view, unless the person has scrolled away from it.
pub fn bottom(always: bool) {
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

impl Talk {
    /// Reads the answer as it is written. Text is shown twenty times a second at most.
    pub async fn stream(self, id: &str, body: Generate, answer: &Said) -> Result<(), Stopped> {
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
                    Ok(Reply::Text { index: 0, text, .. }) => whole.push_str(&text),
                    Ok(Reply::Ended { finish_reason, .. }) => {
                        answer.end.update(|end| end.reason = Some(finish_reason));
                    }
                    Ok(Reply::Done { usage, .. }) => {
                        answer.text.set(whole);
                        answer.end.update(|end| {
                            end.tokens = usage.completion_tokens;
                            end.seconds = usage.seconds;
                        });
                        return Ok(());
                    }
                    Ok(Reply::Failed { problem, .. }) => {
                        answer.text.set(whole);
                        return Err(problem.into());
                    }
                    Ok(Reply::Text { .. } | Reply::Ready { .. } | Reply::Scores { .. } | Reply::Embeddings { .. })
                    | Err(_) => {}
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
