//! One row: its problem, its conversation or what stands in the file, and what can be done with it.

use super::{
    edit::Editor,
    opened::{Part, opened},
};
use crate::{
    format,
    i18n::{Words, fill},
    parts::{ProblemNote, icon},
    ui,
};
use api::data::{Edit, Message, PreviewRow};
use leptos::{html, prelude::*};
use serde_json::Value;

/// Characters of a message that are shown before it is opened.
const SHOWN: usize = 600;

/// How the rows of the page are shown.
#[derive(Clone, Copy)]
pub struct Shown {
    /// As in the file.
    pub raw: RwSignal<bool>,
    /// The row that is being edited.
    pub editing: RwSignal<Option<u64>>,
}

#[component]
pub fn RowView(row: PreviewRow, shown: Shown) -> impl IntoView {
    let w = ui::words();
    let opened = opened();
    let index = row.index;
    let node = NodeRef::<html::Div>::new();
    let is_at = move || opened.row.get() == Some(index);
    Effect::new(move || {
        if let (Some(node), true) = (node.get(), is_at()) {
            node.scroll_into_view();
        }
    });
    let row = StoredValue::new(row);
    let is_edited = Memo::new(move |_| shown.editing.get() == Some(index));
    let problem = move || row.with_value(|row| row.problem.clone()).map(|problem| view! { <ProblemNote problem /> });
    let body = move || match is_edited.get() {
        true => {
            view! { <Editor row=row.get_value() close=Callback::new(move |()| shown.editing.set(None)) /> }.into_any()
        }
        false => row.with_value(|row| contents(row, shown.raw.get(), w)).into_any(),
    };
    let number = fill(w.row_n, &[("n", &format::count(index + 1))]);
    let label = number.clone();
    view! {
        <div class="datarow" class:at=is_at node_ref=node role="group" aria-label=label data-testid=format!("row-{}", index + 1)>
            <div class="xs muted num">{number}</div>
            <div class="stack tight">{problem} {body}</div>
            <Actions index shown has_tokens=row.with_value(|row| row.problem.is_none()) />
        </div>
    }
}

/// Hidden while a row is edited: a change of another one would take what was written.
#[component]
fn Actions(index: u64, shown: Shown, has_tokens: bool) -> impl IntoView {
    let w = ui::words();
    let opened = opened();
    let label = move |word: &str| fill(w.of_row, &[("what", word), ("n", &format::count(index + 1))]);
    let tokens = has_tokens.then(|| {
        view! {
            <button type="button" class="btn quiet s" data-testid="row-tokens" aria-label=label(w.tokens)
                on:click=move |_| opened.go(Part::Tokens, Some(index))>{w.tokens}</button>
        }
    });
    let changes = move || {
        opened.is_editable().then(|| {
            view! {
                <button type="button" class="btn quiet s" data-testid="row-edit" aria-label=label(w.edit)
                    on:click=move |_| shown.editing.set(Some(index))>{icon("pen", 15)}{w.edit}</button>
                <button type="button" class="btn quiet icon s" data-testid="row-delete" aria-label=label(w.delete)
                    disabled=opened.busy on:click=move |_| opened.change(Edit::Delete { rows: vec![index] })>{icon("trash", 15)}</button>
            }
        })
    };
    view! { <div class="row acts" hidden=move || shown.editing.get().is_some()>{tokens} {changes}</div> }
}

fn contents(row: &PreviewRow, raw: bool, w: &'static Words) -> AnyView {
    if raw || row.messages.is_empty() {
        let text = raw_text(&row.raw);
        return (!text.is_empty()).then(|| view! { <pre class="log" tabindex="0">{text}</pre> }).into_any();
    }
    row.messages.iter().map(|m| message(m, w)).collect_view().into_any()
}

/// A row as it stands in the file: text that is no JSON as it is, nothing for nothing.
pub fn raw_text(raw: &Value) -> String {
    match raw {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => serde_json::to_string_pretty(other).unwrap_or_default(),
    }
}

fn message(message: &Message, w: &'static Words) -> impl IntoView {
    let role = match message.role.as_str() {
        "user" => w.role_user,
        "assistant" => w.role_assistant,
        "system" => w.role_system,
        "tool" => w.role_tool,
        "function" => w.role_function,
        _ => "",
    };
    let role = if role.is_empty() { message.role.clone() } else { role.to_owned() };
    let class = if matches!(message.role.as_str(), "assistant" | "function") { "said answer" } else { "said" };
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
    view! { <p class=class><b>{role}</b><span class="plain">{text}" "{more}</span></p> }
}
