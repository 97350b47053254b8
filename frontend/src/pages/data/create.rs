//! Writing a dataset in the page: a table of questions and answers for a dozen rows, into which one can paste.

use super::{
    grid::{self, Cells},
    queue::uploads,
};
use crate::{
    form::focus,
    i18n::fill,
    parts::{Dialog, icon},
    ui,
};
use leptos::{
    ev::{ClipboardEvent, KeyboardEvent},
    prelude::*,
};
use wasm_bindgen::JsValue;
use web_sys::{File, FilePropertyBag};

/// Empty rows to begin with.
const ROWS: usize = 3;

/// What was written. Lives as long as the page, so that a look at another tab loses nothing.
#[derive(Clone, Copy)]
pub struct Draft {
    name: RwSignal<String>,
    table: RwSignal<Vec<Cells>>,
}

impl Draft {
    pub fn provide() {
        provide_context(Self { name: RwSignal::default(), table: RwSignal::new(empty()) });
    }
}

fn empty() -> Vec<Cells> {
    vec![Cells::default(); ROWS]
}

#[component]
pub fn Create(open: RwSignal<bool>) -> impl IntoView {
    let w = ui::words();
    let uploads = uploads();
    let draft: Draft = expect_context();
    // The cell that must still be filled; said once one has tried to save.
    let tried = RwSignal::new(false);
    let missing = Memo::new(move |_| if tried.get() { draft.table.with(|table| grid::missing(table)) } else { None });
    let fault = move || {
        let (row, column) = missing.get()?;
        let text = if column == 0 { w.row_needs_question } else { w.row_needs_answer };
        Some(fill(text, &[("n", &(row + 1).to_string())]))
    };
    let save = move || {
        if let Some((row, column)) = draft.table.with_untracked(|table| grid::missing(table)) {
            tried.set(true);
            focus(&cell_id(row, column));
            return;
        }
        let rows = draft.table.with_untracked(|table| grid::rows(table));
        let name = draft.name.with_untracked(|name| name.trim().to_owned());
        let name = if name.is_empty() { "my_rows".to_owned() } else { name };
        if let Some(file) = json_file(&rows, &name) {
            uploads.add(file);
            draft.table.set(empty());
            draft.name.set(String::new());
            tried.set(false);
            open.set(false);
        }
    };
    let numbers = move || (0..draft.table.with(Vec::len)).collect::<Vec<_>>();
    let add = move |_| {
        draft.table.update(|table| table.push(Cells::default()));
        focus_soon(draft.table.with_untracked(Vec::len) - 1, 0);
    };
    let keys = move |e: KeyboardEvent| {
        if e.key() == "Enter" && (e.ctrl_key() || e.meta_key()) {
            e.prevent_default();
            save();
        }
    };
    view! {
        <Dialog open title=Signal::stored(w.write_rows.to_owned()) wide=true>
            <div class="stack" data-testid="create" on:keydown=keys>
                <p class="soft s">{w.create_help}</p>
                <div class="field">
                    <label for="create-name">{w.dataset_name}</label>
                    <div class="input"><input id="create-name" data-testid="create-name" autocomplete="off" spellcheck="false"
                        placeholder="my_rows" prop:value=draft.name on:input=move |e| draft.name.set(event_target_value(&e)) /></div>
                </div>
                <table class="grid-table">
                    <thead><tr>
                        <th><span class="vh">{w.row}</span></th><th>{w.question}</th><th>{w.answer}</th>
                        <th>{w.system_optional}</th><th></th>
                    </tr></thead>
                    <tbody><For each=numbers key=|row| *row let:row><TableRow row draft missing /></For></tbody>
                </table>
                <div class="row">
                    <button type="button" class="btn s" data-testid="create-add" on:click=add>{icon("plus", 15)}{w.add_row}</button>
                    <span class="s badc grow" role="status" data-testid="create-fault">{fault}</span>
                </div>
            </div>
            <div class="row end">
                <button type="button" class="btn" on:click=move |_| open.set(false)>{w.close}</button>
                <button type="button" class="btn primary" data-testid="create-save" on:click=move |_| save()>
                    {icon("check", 18)}{w.save_dataset}
                </button>
            </div>
        </Dialog>
    }
}

#[component]
fn TableRow(row: usize, draft: Draft, missing: Memo<Option<(usize, usize)>>) -> impl IntoView {
    let w = ui::words();
    let words = [w.question, w.answer, w.system_optional];
    let cells = words.into_iter().enumerate().map(|(column, word)| {
        let value = move || draft.table.with(|table| table.get(row).and_then(|r| r.get(column)).cloned().unwrap_or_default());
        let write = move |e| {
            let text = event_target_value(&e);
            draft.table.update(|table| {
                if let Some(cell) = table.get_mut(row).and_then(|r| r.get_mut(column)) {
                    *cell = text;
                }
            });
        };
        let paste = move |e: ClipboardEvent| {
            if let Some(cells) = pasted(&e) {
                e.prevent_default();
                draft.table.update(|table| grid::paste(table, row, column, cells));
            }
        };
        let key = move |e: KeyboardEvent| {
            // As in a spreadsheet: Enter goes down, and adds a row behind the last one.
            if e.key() == "Enter" && !e.shift_key() && !e.ctrl_key() && !e.meta_key() && !e.is_composing() {
                e.prevent_default();
                if row + 1 == draft.table.with_untracked(Vec::len) {
                    draft.table.update(|table| table.push(Cells::default()));
                }
                focus_soon(row + 1, column);
            }
        };
        let bad = move || (missing.get() == Some((row, column))).then_some("true");
        let id = cell_id(row, column);
        view! {
            <td data-l=word><textarea id=id.clone() data-testid=id rows="1" class="grow-text"
                aria-label=format!("{word} {}", row + 1) aria-invalid=bad prop:value=value on:input=write on:paste=paste on:keydown=key></textarea></td>
        }
    });
    let cells = cells.collect_view();
    let remove = move |_| {
        draft.table.update(|table| {
            if row < table.len() {
                table.remove(row);
            }
            if table.is_empty() {
                table.push(Cells::default());
            }
        });
    };
    let label = fill(w.of_row, &[("what", w.delete), ("n", &(row + 1).to_string())]);
    view! {
        <tr>
            <th class="num xs muted">{row + 1}</th>
            {cells}
            <td><button type="button" class="btn quiet icon s" aria-label=label on:click=remove>{icon("x", 14)}</button></td>
        </tr>
    }
}

/// The cells in the clipboard, if they come from a spreadsheet: text with tabs, or a table beside the text.
fn pasted(e: &ClipboardEvent) -> Option<Vec<Vec<String>>> {
    let data = e.clipboard_data()?;
    let text = data.get_data("text/plain").ok()?;
    let is_table = text.contains('\t') || data.get_data("text/html").is_ok_and(|html| html.contains("<td"));
    is_table.then(|| grid::read(&text))
}

fn json_file(rows: &serde_json::Value, name: &str) -> Option<File> {
    let text = serde_json::to_string_pretty(rows).ok()?;
    let parts = js_sys::Array::of1(&JsValue::from_str(&text));
    let kind = FilePropertyBag::new();
    kind.set_type("application/json");
    File::new_with_str_sequence_and_options(&parts, &format!("{name}.json"), &kind).ok()
}

/// Once the row is drawn.
fn focus_soon(row: usize, column: usize) {
    request_animation_frame(move || focus(&cell_id(row, column)));
}

fn cell_id(row: usize, column: usize) -> String {
    format!("cell-{}-{}", row + 1, column + 1)
}
