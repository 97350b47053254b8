//! Chat with a model, or with what a run made of it; or with two of them side by side.

mod answer;
mod beside;
mod composer;
mod said;
mod seat;
mod sessions;
mod side;
mod talk;

pub use beside::Beside;
pub use talk::Talk;

use crate::{
    app::title,
    i18n::fill,
    parts::{Empty, icon},
    ui,
};
use beside::{Sides, beside};
use composer::Composer;
use leptos::prelude::*;
use leptos_router::hooks::use_query_map;
use said::Message;
use talk::talk;

#[component]
pub fn Chat() -> impl IntoView {
    let w = ui::words();
    title(w.chat);
    let (talk, beside) = (talk(), beside());
    talk.seat.adopt();
    talk.list();
    let query = use_query_map();
    Effect::new(move || {
        if let Some(run) = query.with(|q| q.get("run")) {
            talk.seat.source.choose_run(&run, query.with(|q| q.get("checkpoint")));
        }
    });
    let lead = move || match talk.seat.ready_name() {
        Some(name) => fill(w.chat_loaded, &[("name", &name)]),
        None => w.chat_lead.to_owned(),
    };
    let mode = move |on: bool, word: &'static str, testid: &'static str| {
        view! {
            <label><input type="radio" name="chat-mode" data-testid=testid prop:checked=move || beside.is_on.get() == on
                on:change=move |_| beside.is_on.set(on) />{word}</label>
        }
    };
    let begin = move || {
        (!beside.is_on.get() && !talk.said.with(Vec::is_empty)).then(|| {
            view! { <button type="button" class="btn" data-testid="chat-clear" on:click=move |_| talk.begin()>{icon("plus", 18)}{w.session_new}</button> }
        })
    };
    let empty = move || {
        talk.said.with(Vec::is_empty).then(|| match talk.seat.ready_name() {
            Some(_) => view! { <Empty symbol="chat" title=w.say_first.into() text=w.say_first_help.into() /> },
            None => view! { <Empty symbol="chat" title=w.no_model_loaded.into() text=w.no_model_loaded_help.into() /> },
        })
    };
    let conversation = move || match beside.is_on.get() {
        true => view! { <Sides /> }.into_any(),
        false => view! {
            {empty}
            <div class="chat" aria-live="polite">
                <For each=move || talk.said.get() key=|said| said.id children=|said| view! { <Message said /> } />
            </div>
        }
        .into_any(),
    };
    let models = move || match beside.is_on.get() {
        true => view! {
            <side::ModelCard seat=talk.seat other=beside.seat title=w.pref_answer_a.to_owned() testid="chat" />
            <side::ModelCard seat=beside.seat other=talk.seat title=w.pref_answer_b.to_owned() testid="beside" />
        }
        .into_any(),
        false => view! { <side::ModelCard seat=talk.seat other=beside.seat title=w.model.to_owned() testid="chat" /> }
            .into_any(),
    };
    let kept = move || (!beside.is_on.get()).then(|| view! { <sessions::SessionsCard /> });
    view! {
        <header class="head"><div><h1>{w.chat}</h1><p class="state">{lead}</p></div><div class="acts">
            <div class="seg" role="group" aria-label=w.chat>{mode(false, w.chat_one, "chat-one")}{mode(true, w.chat_beside, "chat-beside")}</div>
            {begin}</div></header>
        <div class="split talk">
            <div class="stack room">
                <section class="card" aria-label=w.conversation>
                    {conversation}
                    <div id="chat-end"></div>
                </section>
                <Composer />
            </div>
            <aside class="stack">{models}<side::AnswersCard />{kept}</aside>
        </div>
    }
}
