//! Where files are dropped or chosen, and those on their way with their progress.

use super::queue::{Item, State, Uploads, seconds_left, uploads};
use crate::{
    format,
    i18n::{Words, fill},
    parts::{
        icon,
        job::{Bar, now},
        note::problem_notes,
    },
    ui,
};
use leptos::{ev, html, prelude::*};
use leptos_router::hooks::use_navigate;
use web_sys::FileList;

/// Where files are dropped or chosen. A file may be let go anywhere on the page.
#[component]
pub fn Drop() -> impl IntoView {
    let w = ui::words();
    let uploads = uploads();
    let over = RwSignal::new(false);
    let input = NodeRef::<html::Input>::new();
    let moved = window_event_listener(ev::dragover, move |e| {
        e.prevent_default();
        over.set(true);
    });
    let left = window_event_listener(ev::dragleave, move |_| over.set(false));
    let dropped = window_event_listener(ev::drop, move |e| {
        e.prevent_default();
        over.set(false);
        add_all(uploads, e.data_transfer().and_then(|data| data.files()));
    });
    on_cleanup(move || {
        moved.remove();
        left.remove();
        dropped.remove();
    });
    let chosen = move |_| {
        if let Some(input) = input.get_untracked() {
            add_all(uploads, input.files());
            input.set_value("");
        }
    };
    view! {
        <label class="drop" class:over=over>
            {icon("file", 26)}<b>{w.drop_here}</b><span>{w.drop_kinds}</span>
            <input class="vh" type="file" multiple data-testid="upload-input" node_ref=input on:change=chosen
                accept=".json,.jsonl,.ndjson,.txt,.csv,.tsv,.gz,.parquet,.arrow,.feather" />
        </label>
    }
}

fn add_all(uploads: Uploads, files: Option<FileList>) {
    let Some(files) = files else { return };
    (0..files.length()).filter_map(|i| files.get(i)).for_each(|file| uploads.add(file));
}

/// The files on their way, and those that were refused. Leads to a dataset once the last one has arrived.
#[component]
pub fn Sending() -> impl IntoView {
    let uploads = uploads();
    let navigate = use_navigate();
    uploads.arrived.set(None);
    Effect::new(move || {
        let Some(address) = uploads.arrived.get() else { return };
        uploads.arrived.set(None);
        if uploads.items.with_untracked(|all| all.iter().all(|item| matches!(item.state, State::Refused(_)))) {
            navigate(&address, Default::default());
        }
    });
    let ids = move || uploads.items.with(|all| all.iter().map(|item| item.id).collect::<Vec<_>>());
    view! { <For each=ids key=|id| *id let:id><ItemCard id /></For> }
}

#[component]
fn ItemCard(id: u64) -> impl IntoView {
    let w = ui::words();
    let uploads = uploads();
    let item = Memo::new(move |_| uploads.items.with(|all| all.iter().find(|item| item.id == id).cloned()));
    let state = Memo::new(move |_| item.get().map(|item| item.state));
    let refused = move || match state.get()? {
        State::Refused(problems) => Some(problems),
        _ => None,
    };
    let share =
        Signal::derive(move || item.with(|item| item.as_ref().map(|item| item.done as f64 / item.total.max(1) as f64)));
    let title = move || item.get().map(|item| fill(title_of(&item, w), &[("name", &item.name)]));
    let amount = move || {
        let item = item.get()?;
        let of = fill(w.of_bytes, &[("done", &format::bytes(item.done)), ("total", &format::bytes(item.total))]);
        Some(match seconds_left(&item, now()) {
            Some(seconds) => {
                let left = fill(w.left, &[("time", &format::time_left(seconds, ui::language()))]);
                format!("{of} · {left}")
            }
            None => of,
        })
    };
    let lost = move || (state.get() == Some(State::Lost)).then_some(w.upload_lost_hint);
    let cancel = move || {
        view! {
            <button type="button" class="btn s quiet" data-testid="upload-cancel" on:click=move |_| uploads.drop_item(id)>
                {icon("x", 14)}{if refused().is_some() { w.dismiss } else { w.cancel }}
            </button>
        }
    };
    move || match refused() {
        Some(problems) => {
            let notes = problem_notes(problems);
            view! {
                <section class="card" data-testid="upload-problem">
                    <div class="stack tight"><b>{title}</b>{notes}<div class="row end">{cancel}</div></div>
                </section>
            }
            .into_any()
        }
        None => view! {
            <section class="card" data-testid="upload-progress" class:lost=move || lost().is_some()>
                <Bar share label=w.upload><b>{title}</b><span>{amount}</span></Bar>
                <div class="row mt"><span class="s warnc grow" role="status">{lost}</span>{cancel}</div>
            </section>
        }
        .into_any(),
    }
}

fn title_of(item: &Item, w: &'static Words) -> &'static str {
    match item.state {
        State::Waiting => w.upload_waiting,
        State::Lost => w.upload_lost,
        State::Refused(_) => w.upload_refused,
        State::Sending if item.done >= item.total => w.upload_checking,
        State::Sending => w.uploading,
    }
}
