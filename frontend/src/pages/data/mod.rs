//! Data: the datasets at the side, upload, and one dataset with its rows, tokens, statistics and columns. On a phone the
//! list and the dataset are two screens.

mod create;
mod detail;
mod download;
mod edit;
mod grid;
mod histogram;
mod hub;
mod make;
mod mapping;
mod opened;
mod queue;
mod row;
mod rows;
mod statistics;
mod tokens;
mod tus;
mod upload;

use crate::{
    app::title,
    format,
    i18n::{Words, fill},
    parts::{Empty, icon, note::wait},
    store::{Store, store},
    ui::{self, Ui},
};
use api::{data::DatasetInfo, routes};
use leptos::prelude::*;
use leptos_router::hooks::use_params_map;

/// What outlives a look at another page: files on their way, and rows that are being written.
pub fn provide(store: Store, ui: Ui) {
    queue::Uploads::provide(store, ui);
    create::Draft::provide();
}

#[component]
pub fn Data() -> impl IntoView {
    let w = ui::words();
    title(w.data);
    let store = store();
    let params = use_params_map();
    let named = Memo::new(move |_| params.with(|p| p.get("name")).filter(|n| !n.is_empty()));
    // Without a name in the address the first one is shown beside the list.
    let chosen = Memo::new(move |_| {
        named.get().or_else(|| store.datasets.with(|all| all.iter().flatten().next().map(|d| d.name.clone())))
    });
    let lead = move || {
        store.datasets.with(|all| match all {
            Some(all) if !all.is_empty() => {
                let rows = format::count(all.iter().map(|d| d.rows).sum());
                fill(w.data_lead, &[("n", &all.len().to_string()), ("rows", &rows)])
            }
            _ => w.data_lead_none.to_owned(),
        })
    };
    let (writing, uploads) = (RwSignal::new(false), queue::uploads());
    let detail = move || {
        match chosen.get() {
        Some(name) => view! { <detail::Detail name /> }.into_any(),
        None if store.datasets.with(Option::is_none) => view! { <section class="card">{wait(6)}</section> }.into_any(),
        None => view! {
            <section class="card"><Empty symbol="data" title=w.no_datasets_title.into() text=w.no_datasets_help.into()>
                <button type="button" class="btn" on:click=move |_| writing.set(true)>{icon("pen", 18)}{w.write_rows}</button>
            </Empty></section>
        }
        .into_any(),
    }
    };
    view! {
        <header class="head" class:wide-only=move || named.with(Option::is_some)>
            <div><h1>{w.data}</h1><p class="state">{lead}</p></div>
            <div class="acts">
                <button type="button" class="btn" data-testid="create-open" on:click=move |_| writing.set(true)>{icon("pen", 18)}{w.write_rows}</button>
            </div>
        </header>
        <div class="split lead">
            // On a phone a dataset stands alone, but for files on their way.
            <aside class="stack" class:wide-only=move || named.with(Option::is_some) && uploads.is_idle()>
                <div class:wide-only=move || named.with(Option::is_some)><upload::Drop /></div>
                <upload::Sending />
                <div class="stack" class:wide-only=move || named.with(Option::is_some)>
                    <hub::FromHub chosen />
                    <make::MakeData chosen />
                    <List chosen />
                </div>
            </aside>
            <div class="stack" class:wide-only=move || named.with(Option::is_none)>
                <a class="phone-only s" href="/data">"‹ "{w.all_datasets}</a>
                {detail}
            </div>
        </div>
        <create::Create open=writing />
    }
}

#[component]
fn List(chosen: Memo<Option<String>>) -> impl IntoView {
    let w = ui::words();
    let store = store();
    let query = RwSignal::new(String::new());
    let rows = move || {
        let query = query.get().to_lowercase();
        let Some(all) = store.datasets.get() else { return view! { <div class="pad">{wait(4)}</div> }.into_any() };
        let found: Vec<_> = all.into_iter().filter(|d| d.name.to_lowercase().contains(&query)).collect();
        if found.is_empty() {
            return view! { <p class="pad s muted">{if query.is_empty() { w.no_datasets } else { w.no_match }}</p> }
                .into_any();
        }
        view! { <ul class="list">{found.into_iter().map(|d| entry(d, chosen)).collect_view()}</ul> }.into_any()
    };
    view! {
        <section class="card flush">
            <div class="card-h search"><div class="input">
                {icon("search", 16)}
                <input aria-label=w.find_dataset placeholder=w.find_dataset prop:value=query on:input=move |e| query.set(event_target_value(&e)) />
            </div></div>
            {rows}
        </section>
    }
}

fn entry(info: DatasetInfo, chosen: Memo<Option<String>>) -> impl IntoView {
    let w = ui::words();
    let name = info.name.clone();
    let current = move || chosen.with(|c| c.as_ref() == Some(&name)).then_some("true");
    let badge = match &info.problem {
        Some(_) => view! { <span class="badge bad">{w.has_problem}</span> }.into_any(),
        None => view! { <span class="badge bare">{kind_word(&info.kind, w).to_owned()}</span> }.into_any(),
    };
    let about =
        [fill(w.rows_n, &[("n", &format::count(info.rows))]), info.formatting.clone(), format::bytes(info.bytes)];
    let about = about.into_iter().filter(|s| !s.is_empty()).collect::<Vec<_>>().join(" · ");
    view! {
        <li><a href=routes::fill("/data/{name}", &info.name) aria-current=current data-testid=format!("dataset-{}", info.name)>
            <b>{info.name.clone()}</b>{badge}<small>{about}</small>
        </a></li>
    }
}

fn kind_word<'a>(kind: &'a str, w: &'static Words) -> &'a str {
    match kind {
        "instructions" => w.kind_instructions,
        "preferences" => w.kind_preferences,
        "kto" => w.kind_kto,
        "text" => w.kind_text,
        other => other,
    }
}
