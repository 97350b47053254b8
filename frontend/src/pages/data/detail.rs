//! One dataset: its facts, what can be done with it as a whole, and its parts behind tabs.

use super::{
    download::Download,
    kind_word, mapping,
    opened::{Opened, Part},
    rows, statistics, tokens,
};
use crate::{
    client,
    form::train_form,
    format,
    i18n::fill,
    parts::{ProblemNote, dialog::Confirm, icon, note::problem_notes},
    store::store,
    ui,
};
use api::{data::Edit, routes};
use leptos::{prelude::*, task::spawn_local};
use leptos_router::hooks::use_navigate;

#[component]
pub fn Detail(name: String) -> impl IntoView {
    let opened = Opened::provide(&name);
    let part = move || match opened.part.get() {
        Part::Rows => view! { <rows::Rows /> }.into_any(),
        Part::Tokens => view! { <tokens::Tokens /> }.into_any(),
        Part::Statistics => view! { <statistics::StatisticsPart /> }.into_any(),
        Part::Columns => view! { <mapping::MappingPart /> }.into_any(),
    };
    let notes = move || {
        let whole = opened.info.get().and_then(|info| info.problem).map(|problem| {
            view! { <div class="pad"><ProblemNote problem>{ways_out(opened)}</ProblemNote></div> }
        });
        let edit = opened.problems.get();
        let edit = (!edit.is_empty())
            .then(|| view! { <div class="pad" data-testid="edit-problem">{problem_notes(edit)}</div> });
        view! { {whole} {edit} }
    };
    view! {
        <section class="card flush">
            <Head name opened />
            {notes}
            <Tabs opened />
            <div id="dataset-part" role="tabpanel" aria-labelledby=move || tab_id(opened.part.get())>{part}</div>
        </section>
    }
}

#[component]
fn Head(name: String, opened: Opened) -> impl IntoView {
    let w = ui::words();
    let store = store();
    let form = train_form();
    let navigate = use_navigate();
    let (deleting, downloading) = (RwSignal::new(false), RwSignal::new(false));
    let about = move || {
        opened.info.get().map(|d| {
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
    let train = {
        let navigate = navigate.clone();
        move |_| {
            let mut names = form.datasets();
            if !names.contains(&opened.name()) {
                names.push(opened.name());
            }
            form.set_datasets(names);
            navigate("/", Default::default());
        }
    };
    let delete = Callback::new(move |()| {
        let name = opened.name();
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
    let undo = move || {
        opened.info.with(|info| info.as_ref().is_some_and(|d| d.undoable)).then(|| {
            view! {
                <button type="button" class="btn quiet s" data-testid="dataset-undo" disabled=opened.busy
                    on:click=move |_| opened.change(Edit::Undo)>{icon("undo", 16)}{w.undo}</button>
            }
        })
    };
    let title = fill(w.delete_run_title, &[("name", &name)]);
    view! {
        <div class="card-h top dataset-head">
            <div class="grow"><h2 class="xl">{name}</h2><p class="s muted" data-testid="dataset-about">{about}</p></div>
            <div class="row push">
                {undo}
                <button type="button" class="btn quiet s" data-testid="dataset-delete" on:click=move |_| deleting.set(true)>
                    {icon("trash", 16)}{w.delete}
                </button>
                <button type="button" class="btn s" data-testid="dataset-download" on:click=move |_| downloading.set(true)>
                    {icon("down", 16)}{w.download}
                </button>
                <button type="button" class="btn s" data-testid="dataset-train" disabled=move || opened.rows() == 0 on:click=train>
                    {icon("train", 16)}{w.train_with_it}
                </button>
            </div>
        </div>
        <Download open=downloading opened />
        <Confirm open=deleting title=Signal::stored(title) text=w.delete_dataset_help symbol="trash" action=w.delete_dataset
            act=delete testid="dataset-delete-confirm" />
    }
}

/// What helps with a dataset that has a problem.
fn ways_out(opened: Opened) -> impl IntoView {
    let w = ui::words();
    view! {
        <button type="button" class="link" data-testid="show-faulty" on:click=move |_| opened.show_faulty()>{w.show_faulty}</button>
        <button type="button" class="link" on:click=move |_| opened.go(Part::Columns, None)>{w.choose_columns}</button>
    }
}

/// The parts; arrow keys move between them.
#[component]
fn Tabs(opened: Opened) -> impl IntoView {
    let w = ui::words();
    let key = move |e: leptos::ev::KeyboardEvent| {
        let at = Part::ALL.iter().position(|p| *p == opened.part.get_untracked()).unwrap_or(0);
        let count = Part::ALL.len();
        let next = match e.key().as_str() {
            "ArrowRight" => (at + 1) % count,
            "ArrowLeft" => (at + count - 1) % count,
            "Home" => 0,
            "End" => count - 1,
            _ => return,
        };
        e.prevent_default();
        if let Some(part) = Part::ALL.get(next) {
            opened.go(*part, opened.row.get_untracked());
            crate::form::focus(&tab_id(*part));
        }
    };
    let tabs = Part::ALL.into_iter().map(|part| {
        let is_current = move || opened.part.get() == part;
        view! {
            <button type="button" role="tab" id=tab_id(part) aria-controls="dataset-part" data-testid=tab_id(part)
                aria-selected=move || is_current().to_string() tabindex=move || if is_current() { "0" } else { "-1" }
                on:click=move |_| opened.go(part, opened.row.get_untracked())>{part.word(w)}</button>
        }
    });
    view! { <div class="tabs" role="tablist" aria-label=w.dataset_parts on:keydown=key>{tabs.collect_view()}</div> }
}

fn tab_id(part: Part) -> String {
    format!("tab-{}", part.name())
}
