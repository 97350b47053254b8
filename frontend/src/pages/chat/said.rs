//! One message as it is shown: an answer's thinking folded, its calls of tools apart, its text as Markdown.

use super::talk::{Said, talk};
use crate::{
    format,
    i18n::fill,
    markdown,
    parts::{ProblemNote, dialog::CopyButton, icon},
    ui,
};
use api::{
    calls::Call,
    chat::FinishReason,
    splitter::{Piece, Splitter},
};
use leptos::{prelude::*, task::spawn_local};
use wasm_bindgen::JsCast;

#[component]
pub fn Message(said: Said) -> impl IntoView {
    let w = ui::words();
    let talk = talk();
    let (id, text) = (said.id, said.text.clone());
    if !said.mine {
        let (end, whole) = (said.end.clone(), text.clone());
        let acts = move || {
            let (copied, last) = (whole.clone(), talk.said.with(|all| all.last().is_some_and(|s| s.id == id)));
            (!end.with(|e| e.writing)).then(|| {
                let again = (last && talk.seat.is_ready()).then(|| {
                    view! { <button type="button" class="btn quiet s" data-testid="chat-again" on:click=move |_| talk.again()>{icon("redo", 16)}{w.again}</button> }
                });
                view! { <div class="row acts"><CopyButton text=Signal::derive(move || copied.get()) quiet=true />{again}</div> }
            })
        };
        return view! {
            <div class="msg" data-testid="chat-answer"><Answer said testid="chat-text" />{acts}</div>
        }
        .into_any();
    }
    let edit = move || {
        (!talk.writing.get()).then(|| {
            view! { <button type="button" class="btn quiet s" data-testid="chat-edit" on:click=move |_| talk.edit(id)>{icon("pen", 16)}{w.edit}</button> }
        })
    };
    view! { <div class="msg me"><p class="plain">{move || text.get()}</p><div class="row acts">{edit}</div></div> }
        .into_any()
}

/// Who answers, how fast, and what.
#[component]
pub fn Answer(said: Said, testid: &'static str) -> impl IntoView {
    let w = ui::words();
    let language = ui::language();
    let Said { by, text, end, .. } = said;
    let state = {
        let end = end.clone();
        move || {
            let end = end.get();
            let speed = (end.seconds > 0.0).then(|| format::rate(end.tokens as f64 / end.seconds));
            let parts = [
                end.writing.then(|| w.writing.to_owned()),
                (end.tokens > 0).then(|| fill(w.tokens_n, &[("n", &format::count(end.tokens))])),
                (end.seconds > 0.0).then(|| format::duration(end.seconds, language)),
                speed.filter(|_| end.tokens > 1).map(|n| fill(w.tokens_speed, &[("n", &n)])),
                match end.reason {
                    Some(FinishReason::Length) => Some(w.cut_length.to_owned()),
                    Some(FinishReason::Cancelled) => Some(w.you_stopped.to_owned()),
                    _ => None,
                },
            ];
            parts.into_iter().flatten().collect::<Vec<_>>().join(" · ")
        }
    };
    let parts = Memo::new(move |_| Parts::of(&text.get()));
    let thinking = move || {
        view! {
            <details class="more" data-testid="chat-thinking"><summary>{w.thinking}</summary>
                <p class="plain soft">{move || parts.with(|parts| parts.thinking.trim().to_owned())}</p></details>
        }
    };
    // Folded or not stays as it is while more of it is written.
    let has_thinking = Memo::new(move |_| parts.with(|parts| !parts.thinking.trim().is_empty()));
    let thinking = move || has_thinking.get().then(thinking);
    let calls = move || {
        let call = |call: &Call| {
            view! {
                <div class="call" data-testid="chat-call"><b>{icon("tune", 16)}{w.tool_call}" "<code>{call.name.clone()}</code></b>
                    <pre><code>{pretty(call)}</code></pre></div>
            }
        };
        parts.with(|parts| parts.calls.iter().map(call).collect_view())
    };
    let html = move || parts.with(|parts| markdown::to_html(&parts.content, w.copy));
    let caret = {
        let end = end.clone();
        move || end.with(|e| e.writing).then(|| view! { <span class="caret" aria-label=w.writing></span> })
    };
    let problem = move || end.with(|e| e.problem.clone()).map(|problem| view! { <ProblemNote problem /> });
    view! {
        <div class="who"><b>{by}</b><span>{state}</span></div>
        {thinking}
        <div class="says"><div class="md" data-testid=testid inner_html=html on:click=move |event| copy_code(&event, w.copied)></div>{calls}{caret}</div>
        {problem}
    }
}

/// What an answer's text comes to.
#[derive(Clone, Default, PartialEq)]
struct Parts {
    content: String,
    thinking: String,
    calls: Vec<Call>,
}

impl Parts {
    fn of(text: &str) -> Self {
        let mut splitter = Splitter::new(true);
        let mut pieces = splitter.push(text);
        pieces.extend(splitter.end());
        let mut parts = Self::default();
        for piece in pieces {
            match piece {
                Piece::Content(text) => parts.content += &text,
                Piece::Thinking(text) => parts.thinking += &text,
                Piece::Call(_, name) => parts.calls.push(Call { name, arguments: String::new() }),
                Piece::Arguments(call, text) => {
                    if let Some(call) = parts.calls.get_mut(call) {
                        call.arguments += &text;
                    }
                }
            }
        }
        parts
    }
}

fn pretty(call: &Call) -> String {
    match call.parsed() {
        serde_json::Value::String(text) => text,
        value => serde_json::to_string_pretty(&value).unwrap_or_default(),
    }
}

/// The button above a block of code was pressed: the code goes into the clipboard.
fn copy_code(event: &leptos::ev::MouseEvent, copied: &'static str) {
    let pressed = event.target().and_then(|target| target.dyn_into::<web_sys::Element>().ok());
    let Some(button) = pressed.and_then(|pressed| pressed.closest("button[data-copy]").ok().flatten()) else { return };
    let code = button.next_element_sibling().and_then(|code| code.text_content()).unwrap_or_default();
    spawn_local(async move {
        let done = wasm_bindgen_futures::JsFuture::from(window().navigator().clipboard().write_text(&code)).await;
        if done.is_ok() {
            button.set_text_content(Some(copied));
        }
    });
}
