//! Chat with a model, or with what a run made of it.

mod answer;
mod side;
mod talk;

pub use talk::Talk;

use crate::{
    app::title,
    format,
    i18n::fill,
    markdown,
    parts::{Empty, ProblemNote, dialog::CopyButton, icon},
    ui,
};
use api::chat::FinishReason;
use leptos::{html, prelude::*};
use leptos_router::hooks::use_query_map;
use talk::{Said, talk};

#[component]
pub fn Chat() -> impl IntoView {
    let w = ui::words();
    title(w.chat);
    let talk = talk();
    talk.adopt();
    let query = use_query_map();
    Effect::new(move || {
        if let Some(run) = query.with(|q| q.get("run")) {
            talk.source.choose_run(&run, query.with(|q| q.get("checkpoint")));
        }
    });
    let lead = move || match talk.ready_name() {
        Some(name) => fill(w.chat_loaded, &[("name", &name)]),
        None => w.chat_lead.to_owned(),
    };
    let clear = move || {
        (!talk.said.with(Vec::is_empty)).then(|| {
            view! { <button type="button" class="btn" data-testid="chat-clear" on:click=move |_| talk.clear()>{icon("trash", 18)}{w.clear}</button> }
        })
    };
    let empty = move || {
        talk.said.with(Vec::is_empty).then(|| match talk.ready_name() {
            Some(_) => view! { <Empty symbol="chat" title=w.say_first.into() text=w.say_first_help.into() /> },
            None => view! { <Empty symbol="chat" title=w.no_model_loaded.into() text=w.no_model_loaded_help.into() /> },
        })
    };
    view! {
        <header class="head"><div><h1>{w.chat}</h1><p class="state">{lead}</p></div><div class="acts">{clear}</div></header>
        <div class="split talk">
            <div class="stack room">
                <section class="card" aria-label=w.conversation>
                    {empty}
                    <div class="chat" aria-live="polite">
                        <For each=move || talk.said.get() key=|said| said.id children=|said| view! { <Message said /> } />
                        <div id="chat-end"></div>
                    </div>
                </section>
                <Composer />
            </div>
            <aside class="stack"><side::ModelCard /><side::AnswersCard /></aside>
        </div>
    }
}

#[component]
fn Message(said: Said) -> impl IntoView {
    let w = ui::words();
    let language = ui::language();
    let talk = talk();
    let text = said.text.clone();
    if said.mine {
        return view! { <div class="msg me"><p class="plain">{move || text.get()}</p></div> }.into_any();
    }
    let id = said.id;
    let end = said.end.clone();
    let state = move || {
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
    };
    let end = said.end.clone();
    let html = {
        let text = text.clone();
        move || markdown::to_html(&text.get())
    };
    let writing = {
        let end = end.clone();
        move || end.with(|e| e.writing)
    };
    let caret = {
        let writing = writing.clone();
        move || writing().then(|| view! { <span class="caret" aria-label=w.writing></span> })
    };
    let problem = move || end.with(|e| e.problem.clone()).map(|problem| view! { <ProblemNote problem /> });
    let acts = move || {
        let (copied, last) = (text.clone(), talk.said.with(|all| all.last().is_some_and(|s| s.id == id)));
        (!writing()).then(|| {
            let again = (last && talk.is_ready()).then(|| {
                view! { <button type="button" class="btn quiet s" on:click=move |_| talk.again()>{icon("redo", 16)}{w.again}</button> }
            });
            view! { <div class="row acts"><CopyButton text=Signal::derive(move || copied.get()) quiet=true />{again}</div> }
        })
    };
    view! {
        <div class="msg" data-testid="chat-answer">
            <div class="who"><b>{said.by}</b><span>{state}</span></div>
            <div class="says"><div class="md" data-testid="chat-text" inner_html=html></div>{caret}</div>
            {problem}
            {acts}
        </div>
    }
    .into_any()
}

#[component]
fn Composer() -> impl IntoView {
    let w = ui::words();
    let talk = talk();
    let node = NodeRef::<html::Textarea>::new();
    let show_system = RwSignal::new(talk.system.with_untracked(|s| !s.is_empty()));
    let fit = move || {
        if let Some(area) = node.get_untracked() {
            let style = web_sys::HtmlElement::style(&area);
            let _ = style.set_property("height", "auto");
            let _ = style.set_property("height", &format!("{}px", area.scroll_height().min(220)));
        }
    };
    let send = move || {
        if talk.send() {
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
            let ready = move || talk.is_ready() && talk.draft.with(|d| !d.trim().is_empty());
            view! {
                <button type="submit" class="btn primary s" data-testid="chat-send" disabled=move || !ready()>{icon("send", 16)}{w.send}</button>
            }
            .into_any()
        }
    };
    let system = move || {
        show_system.get().then(|| {
            view! {
                <div class="field system">
                    <label for="chat-system">{w.system_prompt}</label>
                    <div class="input"><textarea id="chat-system" data-testid="chat-system" rows="2" prop:value=talk.system
                        on:input=move |e| talk.system.set(event_target_value(&e))></textarea></div>
                    <p class="help">{w.system_prompt_help}</p>
                </div>
            }
        })
    };
    view! {
        <form class="composer stay" on:submit=move |e| { e.prevent_default(); send(); }>
            {system}
            <label class="vh" for="chat-input">{w.message}</label>
            <textarea id="chat-input" data-testid="chat-input" rows="1" node_ref=node prop:value=talk.draft
                placeholder=move || if talk.is_ready() { w.message_hint } else { w.message_hint_load }
                on:input=move |e| { talk.draft.set(event_target_value(&e)); fit(); } on:keydown=key></textarea>
            <div class="row">
                <button type="button" class="btn quiet s" aria-expanded=move || show_system.get().to_string()
                    on:click=move |_| show_system.update(|s| *s = !*s)>{icon("book", 16)}{w.system_prompt}</button>
                <span class="push s muted wide-only"><kbd>"↵"</kbd>" "{w.send_key}" "<kbd>"⇧ ↵"</kbd>" "{w.newline_key}</span>
                <span class="sends">{button}</span>
            </div>
        </form>
    }
}
