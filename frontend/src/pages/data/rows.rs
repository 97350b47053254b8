//! The rows by page, as read and as they stand in the file: search, only those with problems, and each one's actions.

use super::{
    opened::opened,
    row::{RowView, Shown},
};
use crate::{
    client, format,
    i18n::fill,
    parts::{
        icon,
        note::{problem_notes, wait},
    },
    ui,
};
use api::{
    Problem,
    data::{Preview, RowsWanted},
    routes,
};
use gloo_timers::future::TimeoutFuture;
use leptos::{prelude::*, task::spawn_local};

/// Rows of a page.
const PAGE: u64 = 10;
/// Milliseconds without a key after which is searched.
const PAUSE: u32 = 300;

#[component]
pub fn Rows() -> impl IntoView {
    let w = ui::words();
    let opened = opened();
    let first = opened.row.get_untracked().map_or(0, |row| row / PAGE * PAGE);
    let (offset, search) = (RwSignal::new(first), RwSignal::new(String::new()));
    let shown = Shown { raw: RwSignal::new(false), editing: RwSignal::new(None) };
    let (preview, problems) = (RwSignal::new(None::<Preview>), RwSignal::new(Vec::<Problem>::new()));
    let wanted = Memo::new(move |_| RowsWanted {
        offset: offset.get(),
        limit: PAGE,
        search: search.get(),
        faulty: opened.faulty.get(),
    });
    Effect::new(move || {
        let asked = wanted.get();
        opened.version.track();
        spawn_local(async move {
            let found =
                client::get::<Preview>(&format!("{}?{}", opened.path(routes::DATASET_ROWS), query(&asked))).await;
            if wanted.try_get_untracked().as_ref() != Some(&asked) {
                return;
            }
            match found {
                // The last row of the last page went.
                Ok(found) if found.rows.is_empty() && asked.offset > 0 => offset.set(asked.offset.saturating_sub(PAGE)),
                Ok(found) => {
                    preview.set(Some(found));
                    problems.set(Vec::new());
                }
                Err(found) => problems.set(found),
            }
        });
    });
    let filtered = move || wanted.with(|w| w.faulty || !w.search.is_empty());
    let count = move || preview.with(|p| p.as_ref().map_or(0, |p| p.rows.len() as u64));
    let more = move || preview.with(|p| p.as_ref().is_some_and(|p| p.more));
    let range = move || {
        let (from, to) = (format::count(offset.get() + 1), format::count(offset.get() + count()));
        match (count(), filtered()) {
            (0, _) => String::new(),
            (_, true) => fill(w.range_found, &[("from", &from), ("to", &to)]),
            (_, false) => fill(w.range_of, &[("from", &from), ("to", &to), ("total", &format::count(opened.rows()))]),
        }
    };
    let nothing = move || {
        let empty = preview.with(|p| p.as_ref().is_some_and(|p| p.rows.is_empty()));
        let text = match wanted.with(|w| (w.search.is_empty(), w.faulty)) {
            (true, true) => w.no_faulty_rows,
            (true, false) => w.no_rows,
            _ => w.no_match,
        };
        empty.then(|| view! { <p class="pad muted" data-testid="rows-none">{text}</p> })
    };
    let loading = move || {
        let waits = preview.with(Option::is_none) && problems.with(Vec::is_empty);
        waits.then(|| view! { <div class="pad">{wait(6)}</div> })
    };
    let rows = move || preview.get().map(|preview| preview.rows).unwrap_or_default();
    view! {
        <div data-testid="dataset-rows">
            <Filters offset search shown />
            <div class="pad" hidden=move || problems.with(Vec::is_empty)>{move || problem_notes(problems.get())}</div>
            {loading} {nothing}
            <For each=rows key=|row| serde_json::to_string(row).unwrap_or_default() let:row>
                <RowView row shown />
            </For>
            <div class="row pager">
                <span class="s muted num" data-testid="rows-range">{range}</span>
                <div class="row push">
                    <button type="button" class="btn s" disabled=move || offset.get() == 0
                        on:click=move |_| offset.update(|o| *o = o.saturating_sub(PAGE))>{w.previous}</button>
                    <button type="button" class="btn s" data-testid="rows-next" disabled=move || !more()
                        on:click=move |_| offset.update(|o| *o += PAGE)>{w.next}</button>
                </div>
            </div>
        </div>
    }
}

#[component]
fn Filters(offset: RwSignal<u64>, search: RwSignal<String>, shown: Shown) -> impl IntoView {
    let w = ui::words();
    let opened = opened();
    let typed = RwSignal::new(String::new());
    let find = move |e| {
        let text = event_target_value(&e);
        typed.set(text.clone());
        spawn_local(async move {
            TimeoutFuture::new(PAUSE).await;
            if typed.try_get_untracked().as_ref() == Some(&text) && search.get_untracked() != text {
                offset.set(0);
                search.set(text);
            }
        });
    };
    let only = move |e| {
        offset.set(0);
        opened.faulty.set(event_target_checked(&e));
    };
    view! {
        <div class="row rowbar">
            <div class="input find">
                {icon("search", 16)}
                <input type="search" aria-label=w.search_rows placeholder=w.search_rows data-testid="rows-search"
                    prop:value=typed on:input=find />
            </div>
            <label class="switch s middle">
                <input type="checkbox" data-testid="rows-faulty" prop:checked=opened.faulty on:change=only /><span>{w.only_faulty}</span>
            </label>
            <div class="seg s push" role="radiogroup" aria-label=w.rows>
                <label><input type="radio" name="raw" prop:checked=move || !shown.raw.get() on:change=move |_| shown.raw.set(false) />{w.as_read}</label>
                <label><input type="radio" name="raw" prop:checked=shown.raw on:change=move |_| shown.raw.set(true) />{w.as_file}</label>
            </div>
        </div>
    }
}

fn query(wanted: &RowsWanted) -> String {
    let search = String::from(js_sys::encode_uri_component(&wanted.search));
    format!("offset={}&limit={}&search={search}&faulty={}", wanted.offset, wanted.limit, wanted.faulty)
}
