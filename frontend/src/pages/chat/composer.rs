//! Where the next message is written, and what stands before the first: system prompt and examples.

use super::{beside::beside, talk::talk};
use crate::{parts::icon, ui};
use api::session::Example;
use leptos::{html, prelude::*};

#[component]
pub fn Composer() -> impl IntoView {
    let w = ui::words();
    let (talk, beside) = (talk(), beside());
    let node = NodeRef::<html::Textarea>::new();
    let has_settings = talk.system.with_untracked(|s| !s.is_empty()) || talk.examples.with_untracked(|e| !e.is_empty());
    let show_system = RwSignal::new(has_settings);
    let is_ready = move || if beside.is_on.get() { beside.is_ready(talk) } else { talk.seat.is_ready() };
    let fit = move || {
        if let Some(area) = node.get_untracked() {
            let style = web_sys::HtmlElement::style(&area);
            let _ = style.set_property("height", "auto");
            let _ = style.set_property("height", &format!("{}px", area.scroll_height().min(220)));
        }
    };
    let send = move || {
        if if beside.is_on.get_untracked() { beside.send(talk) } else { talk.send() } {
            if let Some(area) = node.get_untracked() {
                area.set_value("");
            }
            fit();
        }
    };
    let key = move |e: leptos::ev::KeyboardEvent| {
        // Enter that ends the input of Chinese characters isn't meant for us.
        if e.key() == "Enter" && !e.shift_key() && !e.is_composing() && e.key_code() != 229 {
            e.prevent_default();
            send();
        }
    };
    let button = move || {
        if talk.writing.get() {
            view! { <button type="button" class="btn danger s" data-testid="chat-stop" on:click=move |_| talk.stop()>{icon("stop", 16)}{w.stop}</button> }
                .into_any()
        } else {
            let ready = move || is_ready() && talk.draft.with(|d| !d.trim().is_empty());
            view! {
                <button type="submit" class="btn primary s" data-testid="chat-send" disabled=move || !ready()>{icon("send", 16)}{w.send}</button>
            }
            .into_any()
        }
    };
    let system = move || show_system.get().then(before);
    view! {
        <form class="composer stay" on:submit=move |e| { e.prevent_default(); send(); }>
            {system}
            <label class="vh" for="chat-input">{w.message}</label>
            <textarea id="chat-input" data-testid="chat-input" rows="1" node_ref=node prop:value=talk.draft
                placeholder=move || if is_ready() { w.message_hint } else { w.message_hint_load }
                on:input=move |e| { talk.draft.set(event_target_value(&e)); fit(); } on:keydown=key></textarea>
            <div class="row">
                <button type="button" class="btn quiet s" data-testid="chat-before" aria-expanded=move || show_system.get().to_string()
                    on:click=move |_| show_system.update(|s| *s = !*s)>{icon("book", 16)}{w.system_prompt}</button>
                <span class="push s muted wide-only"><kbd>"↵"</kbd>" "{w.send_key}" "<kbd>"⇧ ↵"</kbd>" "{w.newline_key}</span>
                <span class="sends">{button}</span>
            </div>
        </form>
    }
}

/// The system prompt, and questions with their answers that the model is shown.
fn before() -> impl IntoView {
    let w = ui::words();
    let talk = talk();
    let example = move |at: usize| {
        let field = move |word: &'static str, testid: &'static str, of: fn(&mut Example) -> &mut String| {
            let now = move || talk.examples.with(|all| all.get(at).cloned().map(|mut one| of(&mut one).clone()));
            let write = move |e| {
                talk.examples.update(|all| {
                    if let Some(one) = all.get_mut(at) {
                        *of(one) = event_target_value(&e);
                    }
                });
            };
            view! { <textarea rows="1" placeholder=word aria-label=word data-testid=testid prop:value=move || now().unwrap_or_default() on:input=write></textarea> }
        };
        let remove = move |_| talk.examples.update(|all| drop(all.remove(at)));
        view! {
            <div class="example">
                <div class="input">{field(w.example_user, "example-user", |one| &mut one.user)}</div>
                <div class="input">{field(w.example_assistant, "example-assistant", |one| &mut one.assistant)}</div>
                <button type="button" class="btn quiet icon s" title=w.remove aria-label=w.remove on:click=remove>{icon("x", 16)}</button>
            </div>
        }
    };
    let count = Memo::new(move |_| talk.examples.with(Vec::len));
    view! {
        <div class="field system">
            <label for="chat-system">{w.system_prompt}</label>
            <div class="input"><textarea id="chat-system" data-testid="chat-system" rows="2" prop:value=talk.system
                on:input=move |e| talk.system.set(event_target_value(&e))></textarea></div>
            <p class="help">{w.system_prompt_help}</p>
            <b class="s">{w.examples}</b>
            {move || (0..count.get()).map(example).collect_view()}
            <div class="row"><button type="button" class="btn quiet s" data-testid="example-add"
                on:click=move |_| talk.examples.update(|all| all.push(Example::default()))>{icon("plus", 16)}{w.example_add}</button>
                <span class="help">{w.examples_help}</span></div>
        </div>
    }
}
