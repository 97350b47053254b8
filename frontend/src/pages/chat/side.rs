//! Beside the conversation: which model, and how it chooses its words.

use super::{seat::Seat, talk::talk};
use crate::{
    format,
    i18n::fill,
    parts::{Field, ProblemNote, icon, source::SourceFields},
    setting::{Setting, settings},
    store::store,
    ui,
};
use api::{RunConfig, chat::ChatState};
use leptos::prelude::*;

/// The model of a seat. `other` may sit on the same one: then it stays loaded.
#[component]
pub fn ModelCard(
    seat: Seat,
    #[prop(into)] title: Signal<String>,
    testid: &'static str,
    #[prop(optional)] other: Option<Seat>,
) -> impl IntoView {
    let w = ui::words();
    let talk = talk();
    let store = store();
    let source_id = if testid == "chat" { "chat-model" } else { "beside-model" };
    let kept = move || other.and_then(Seat::id);
    let state = Memo::new(move |_| seat.model.with(|m| m.as_ref().map(|m| m.state)));
    let badge = move || match state.get() {
        Some(ChatState::Ready) => {
            view! { <span class="badge good push" data-testid=format!("{testid}-state")>{w.ready}</span> }
        }
        Some(ChatState::Loading) => {
            view! { <span class="badge live push" data-testid=format!("{testid}-state")>{w.loading_model}</span> }
        }
        Some(ChatState::Failed) => {
            view! { <span class="badge bad push" data-testid=format!("{testid}-state")>{w.failed}</span> }
        }
        None => view! { <span class="badge push" data-testid=format!("{testid}-state")>{w.not_loaded}</span> },
    };
    let problem = move || {
        seat.model.with(|m| m.as_ref().and_then(|m| m.problem.clone())).map(|problem| view! { <ProblemNote problem /> })
    };
    // The chosen one is loaded already: nothing to load.
    let same = move || {
        let wanted = seat.source.load(store);
        state.get() == Some(ChatState::Ready) && seat.model.with(|m| m.as_ref().map(|m| m.load.clone())) == wanted
    };
    let can_load = move || seat.source.load(store).is_some() && state.get() != Some(ChatState::Loading) && !same();
    let about = move || {
        let bytes = seat.model.with(|m| m.as_ref().map(|m| m.bytes)).filter(|b| *b > 0)?;
        let name = seat.ready_name()?;
        let took = fill(w.load_took, &[("bytes", &format::bytes(bytes))]);
        Some(view! { <p class="xs muted">{format!("{name} · {took}")}</p> })
    };
    let unload = move || {
        (state.get() == Some(ChatState::Ready)).then(|| {
            view! { <button type="button" class="btn block s" data-testid=format!("{testid}-unload") on:click=move |_| { talk.stop(); seat.unload(kept()); }>{w.unload}</button> }
        })
    };
    view! {
        <section class="card">
            <div class="card-h"><h2>{title}</h2>{badge}</div>
            <div class="stack">
                <SourceFields source=seat.source testid=source_id />
                <button type="button" class="btn block" class:primary=move || !seat.is_ready() data-testid=format!("{testid}-load")
                    disabled=move || !can_load() on:click=move |_| { talk.stop(); seat.load(kept()); }>
                    {move || icon(if same() { "check" } else { "play" }, 18)}
                    {move || if seat.is_loading() { w.loading_model } else if same() { w.loaded } else { w.load }}
                </button>
                {problem}
                {about}
                {unload}
            </div>
        </section>
    }
}

#[component]
pub fn AnswersCard() -> impl IntoView {
    let w = ui::words();
    let talk = talk();
    let store = store();
    let fields = move || {
        let schema =
            store.catalog.with(|c| c.as_ref().and_then(|c| c.generation.as_ref().map(|g| g.schema.clone())))?;
        let values = talk.values;
        let field = |setting| view! { <Field setting values /> };
        let (main, more): (Vec<_>, Vec<_>) = settings(&schema).into_iter().partition(Setting::is_main);
        let more = (!more.is_empty()).then(|| {
            let fields = more.into_iter().map(field).collect_view();
            view! { <details class="more"><summary>{w.more_settings}</summary><div class="stack mt">{fields}</div></details> }
        });
        Some(view! { {main.into_iter().map(field).collect_view()}{more} })
    };
    let reset = move || {
        talk.values.set.with(|set| !set.0.is_empty()).then(|| {
            view! { <button type="button" class="btn quiet s" on:click=move |_| talk.values.set.set(RunConfig::default())>{w.reset}</button> }
        })
    };
    view! {
        <section class="card"><div class="card-h"><h2>{w.answers}</h2>{reset}</div><div class="stack">{fields}</div></section>
    }
}
