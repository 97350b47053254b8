//! One dataset: its facts, its problem, and its rows by page, as read and as they stand in the file.

use super::kind_word;
use crate::{
    client,
    form::train_form,
    format,
    i18n::{Words, fill},
    parts::{ProblemNote, dialog::Confirm, icon, note::wait},
    store::store,
    ui,
};
use api::{
    Problem,
    data::{Message, Preview, PreviewRow},
    routes,
};
use leptos::{prelude::*, task::spawn_local};
use leptos_router::hooks::use_navigate;

/// Rows of a page.
const PAGE: u64 = 10;
/// Characters of a message that are shown before it is opened.
const SHOWN: usize = 600;

#[component]
pub fn Detail(name: String) -> impl IntoView {
    let w = ui::words();
    let store = store();
    let form = train_form();
    let navigate = use_navigate();
    let (offset, raw, asking) = (RwSignal::new(0u64), RwSignal::new(false), RwSignal::new(false));
    let (preview, problems) = (RwSignal::new(None::<Preview>), RwSignal::new(Vec::<Problem>::new()));
    let id = StoredValue::new(name.clone());
    let info = Memo::new(move |_| {
        let name = id.get_value();
        store.datasets.with(|all| all.iter().flatten().find(|d| d.name == name).cloned())
    });
    Effect::new(move || {
        let from = offset.get();
        let path = format!("{}?offset={from}&limit={PAGE}", routes::fill(routes::DATASET_ROWS, &id.get_value()));
        spawn_local(async move {
            let found = client::get::<Preview>(&path).await;
            if offset.try_get_untracked() != Some(from) {
                return;
            }
            match found {
                Ok(found) => {
                    preview.set(Some(found));
                    problems.set(Vec::new());
                }
                Err(found) => problems.set(found),
            }
        });
    });
    let about = move || {
        info.get().map(|d| {
            let parts = [
                d.file,
                kind_word(&d.kind, w).to_owned(),
                d.formatting,
                fill(w.rows_n, &[("n", &format::count(d.rows))]),
                format::bytes(d.bytes),
            ];
            parts.into_iter().filter(|p| !p.is_empty()).collect::<Vec<_>>().join(" · ")
        })
    };
    let problem = move || info.get().and_then(|d| d.problem).map(|problem| view! { <ProblemNote problem /> });
    let usable = move || info.with(|d| d.as_ref().is_some_and(|d| d.problem.is_none()));
    let train = {
        let navigate = navigate.clone();
        move |_| {
            let mut names = form.datasets();
            let name = id.get_value();
            if !names.contains(&name) {
                names.push(name);
            }
            form.set_datasets(names);
            navigate("/", Default::default());
        }
    };
    let delete = Callback::new(move |()| {
        let name = id.get_value();
        let navigate = navigate.clone();
        spawn_local(async move {
            match client::delete(&routes::fill(routes::DATASET, &name)).await {
                Ok(()) => {
                    store.datasets.update(|all| all.iter_mut().for_each(|all| all.retain(|d| d.name != name)));
                    form.set_datasets(form.datasets().into_iter().filter(|n| *n != name).collect());
                    store.say(fill(w.deleted, &[("name", &name)]));
                    navigate("/data", Default::default());
                }
                Err(problems) => store.complain(&problems),
            }
        });
    });
    let rows = move || match preview.get() {
        None if problems.with(Vec::is_empty) => view! { <div class="pad">{wait(6)}</div> }.into_any(),
        None => ().into_any(),
        Some(preview) => preview.rows.into_iter().map(|row| row_view(row, raw, w)).collect_view().into_any(),
    };
    let total = move || info.with(|d| d.as_ref().map_or(0, |d| d.rows));
    let last = move || (offset.get() + preview.with(|p| p.as_ref().map_or(0, |p| p.rows.len() as u64))).max(1);
    let range = move || {
        fill(
            w.range_of,
            &[
                ("from", &format::count(offset.get() + 1)),
                ("to", &format::count(last())),
                ("total", &format::count(total())),
            ],
        )
    };
    let title = fill(w.delete_run_title, &[("name", &name)]);
    view! {
        <section class="card">
            <div class="card-h flat top">
                <div class="grow"><h2 class="xl">{name.clone()}</h2><p class="s muted" data-testid="dataset-about">{about}</p></div>
                <div class="row push">
                    <button type="button" class="btn quiet s" data-testid="dataset-delete" on:click=move |_| asking.set(true)>{icon("trash", 16)}{w.delete}</button>
                    <button type="button" class="btn s" data-testid="dataset-train" disabled=move || !usable() on:click=train>{icon("train", 16)}{w.train_with_it}</button>
                </div>
            </div>
            {move || problem().map(|note| view! { <div class="mt">{note}</div> })}
        </section>
        <section class="card flush" data-testid="dataset-rows" hidden=move || !usable() && total() == 0 && preview.with(|p| p.as_ref().is_none_or(|p| p.rows.is_empty()))>
            <div class="card-h">
                <h2>{w.rows}</h2><span class="sub num">{move || (total() > 0).then(range)}</span>
                <div class="seg s push" role="radiogroup" aria-label=w.rows>
                    <label><input type="radio" name="raw" prop:checked=move || !raw.get() on:change=move |_| raw.set(false) />{w.as_read}</label>
                    <label><input type="radio" name="raw" prop:checked=raw on:change=move |_| raw.set(true) />{w.as_file}</label>
                </div>
            </div>
            {move || problems.get().into_iter().map(|problem| view! { <div class="pad"><ProblemNote problem /></div> }).collect_view()}
            {rows}
            <div class="row pager">
                <span class="s muted num">{move || (total() > 0).then(range)}</span>
                <div class="row push">
                    <button type="button" class="btn s" disabled=move || offset.get() == 0 on:click=move |_| offset.update(|o| *o = o.saturating_sub(PAGE))>{w.previous}</button>
                    <button type="button" class="btn s" data-testid="rows-next" disabled=move || { offset.get() + PAGE >= total() } on:click=move |_| offset.update(|o| *o += PAGE)>{w.next}</button>
                </div>
            </div>
        </section>
        <Confirm open=asking title=Signal::stored(title) text=w.delete_dataset_help symbol="trash" action=w.delete_dataset
            act=delete testid="dataset-delete-confirm" />
    }
}

fn row_view(row: PreviewRow, raw: RwSignal<bool>, w: &'static Words) -> impl IntoView {
    let number = fill(w.row_n, &[("n", &format::count(row.index + 1))]);
    let problem = row.problem.clone().map(|problem| view! { <ProblemNote problem /> });
    let body = move || {
        if raw.get() || row.messages.is_empty() {
            let text = match &row.raw {
                serde_json::Value::String(text) => text.clone(),
                other => serde_json::to_string_pretty(other).unwrap_or_default(),
            };
            return view! { <pre class="log">{text}</pre> }.into_any();
        }
        row.messages.iter().map(|m| message(m, w)).collect_view().into_any()
    };
    view! { <div class="datarow"><div class="xs muted num">{number}</div><div class="stack tight">{problem}{body}</div></div> }
}

fn message(message: &Message, w: &'static Words) -> impl IntoView {
    let role = match message.role.as_str() {
        "user" => w.role_user,
        "assistant" => w.role_assistant,
        "system" => w.role_system,
        "tool" => w.role_tool,
        other => return view! { <p class="said"><b>{other.to_owned()}</b><span class="plain">{message.content.clone()}</span></p> }.into_any(),
    };
    let class = if message.role == "assistant" { "said answer" } else { "said" };
    let long = message.content.chars().count() > SHOWN;
    let open = RwSignal::new(!long);
    let content = message.content.clone();
    let text = move || {
        if open.get() { content.clone() } else { content.chars().take(SHOWN).chain(['…']).collect() }
    };
    let more = move || {
        (!open.get()).then(
            || view! { <button type="button" class="link s" on:click=move |_| open.set(true)>{w.show_all}</button> },
        )
    };
    view! { <p class=class><b>{role}</b><span class="plain">{text}" "{more}</span></p> }.into_any()
}
