//! The conversations that are kept: to go on with, to rename, to delete.

use super::talk::talk;
use crate::{
    format,
    i18n::fill,
    parts::{dialog::Confirm, icon},
    ui,
};
use api::session::SessionInfo;
use leptos::{html, prelude::*};

#[component]
pub fn SessionsCard() -> impl IntoView {
    let w = ui::words();
    let talk = talk();
    let confirm = RwSignal::new(false);
    let doomed = RwSignal::new(None::<SessionInfo>);
    let renamed = RwSignal::new(None::<String>);
    let rows = move || {
        let open = talk.session.with(|open| open.as_ref().map(|open| open.id.clone()));
        let row = |session: SessionInfo| {
            let is_open = open.as_ref() == Some(&session.id);
            row(session, is_open, renamed, move |session| {
                doomed.set(Some(session));
                confirm.set(true);
            })
        };
        talk.sessions.get().into_iter().map(row).collect_view()
    };
    let title = Signal::derive(move || {
        let title = doomed.with(|session| session.as_ref().map(|session| session.title.clone())).unwrap_or_default();
        fill(w.session_delete_title, &[("title", &title)])
    });
    let forget = Callback::new(move |()| {
        if let Some(session) = doomed.get_untracked() {
            talk.forget(session.id);
        }
    });
    view! {
        <section class="card" aria-labelledby="sessions-title">
            <div class="card-h"><h2 id="sessions-title">{w.sessions}</h2>
                <button type="button" class="btn quiet s push" data-testid="session-new" on:click=move |_| talk.begin()>{icon("plus", 16)}{w.session_new}</button>
            </div>
            {move || talk.sessions.with(Vec::is_empty).then(|| view! { <p class="s muted">{w.sessions_none}</p> })}
            <ul class="kept" data-testid="sessions">{rows}</ul>
            <Confirm open=confirm title text=w.session_delete_help symbol="trash" action=w.delete act=forget testid="session-delete-confirm" />
        </section>
    }
}

fn row(
    session: SessionInfo,
    is_open: bool,
    renamed: RwSignal<Option<String>>,
    forget: impl Fn(SessionInfo) + Copy + 'static,
) -> impl IntoView {
    let w = ui::words();
    let talk = talk();
    let stored = StoredValue::new(session);
    let with = move || stored.get_value();
    let is_renamed = move || renamed.with(|id| id.as_ref() == Some(&stored.with_value(|s| s.id.clone())));
    let node = NodeRef::<html::Input>::new();
    let finish = move || {
        if renamed.get_untracked().is_none() {
            return;
        }
        renamed.set(None);
        let title = node.get_untracked().map(|input| input.value()).unwrap_or_default();
        let session = with();
        if !title.trim().is_empty() && title.trim() != session.title {
            talk.rename(session.id, title.trim().to_owned());
        }
    };
    let name = move || {
        let session = with();
        match is_renamed() {
            true => view! {
                <input type="text" class="grow" data-testid="session-title" aria-label=w.session_rename node_ref=node autofocus value=session.title
                    maxlength="200" on:blur=move |_| finish()
                    on:keydown=move |e| match e.key().as_str() {
                        "Enter" if !e.is_composing() => finish(),
                        "Escape" => renamed.set(None),
                        _ => {}
                    } />
            }
            .into_any(),
            false => {
                let count = fill(w.session_messages, &[("n", &format::count(session.messages))]);
                let id = session.id.clone();
                view! {
                    <button type="button" class="open" aria-current=is_open.then_some("true") on:click=move |_| talk.open(id.clone())>
                        <b>{session.title}</b><small>{count}</small></button>
                }
                .into_any()
            }
        }
    };
    let rename = move |_| renamed.set(Some(with().id));
    view! {
        <li data-testid="session">{name}
            <button type="button" class="btn quiet icon s" data-testid="session-rename" title=w.session_rename aria-label=w.session_rename on:click=rename>{icon("pen", 16)}</button>
            <button type="button" class="btn quiet icon s" data-testid="session-delete" title=w.delete aria-label=w.delete on:click=move |_| forget(with())>{icon("trash", 16)}</button>
        </li>
    }
}
