//! A row that is being changed: a field for each text of it, or its JSON, which is checked before it is saved.

use super::{opened::opened, row::raw_text};
use crate::{
    i18n::{Words, fill},
    parts::{
        icon,
        note::{problem_notes, wait},
    },
    ui,
};
use api::{
    Problem,
    data::{Columns, Edit, PreviewRow},
};
use leptos::{prelude::*, task::spawn_local};
use serde_json::{Map, Value};

/// The JSON is what is edited; the fields are a view of it.
#[component]
pub fn Editor(row: PreviewRow, close: Callback<()>) -> impl IntoView {
    let w = ui::words();
    let opened = opened();
    let index = row.index;
    let text = RwSignal::new(String::new());
    let simple = row.raw.is_object();
    // Nothing until the row has come; without columns the fields are those that the row has.
    let (columns, as_json) = (RwSignal::new(None::<Columns>), RwSignal::new(!simple));
    let problems = RwSignal::new(Vec::<Problem>::new());
    spawn_local(async move {
        // Alone, since long texts are cut where many rows are shown.
        let raw = opened.row_alone(index).await.map_or(row.raw, |row| row.raw);
        let found = if simple { opened.columns().await.unwrap_or_default() } else { Columns::default() };
        text.try_set(raw_text(&raw));
        columns.try_set(Some(found));
    });
    let fault = Memo::new(move |_| text.with(|text| parse(text, w).err()));
    let save = move || {
        let Ok(raw) = text.with_untracked(|text| parse(text, w)) else { return };
        spawn_local(async move {
            match opened.edit(Edit::Set { row: index, raw: Value::Object(raw) }).await {
                Ok(()) => {
                    close.try_run(());
                }
                Err(found) => {
                    problems.try_set(found);
                }
            }
        });
    };
    let body = move || match (as_json.get(), columns.get()) {
        (_, None) => wait(3).into_any(),
        (true, _) => json_field(text, fault, w).into_any(),
        (false, Some(columns)) => {
            let names = text.with_untracked(|text| parse(text, w)).map(|row| field_names(&row, &columns));
            names.unwrap_or_default().into_iter().map(|name| text_field(name, text, w)).collect_view().into_any()
        }
    };
    let key = move |e: leptos::ev::KeyboardEvent| {
        if e.key() == "Escape" {
            close.run(());
        } else if e.key() == "Enter" && (e.ctrl_key() || e.meta_key()) {
            e.prevent_default();
            save();
        }
    };
    let switch = simple.then(|| {
        view! {
            <div class="seg s" role="radiogroup" aria-label=w.edit>
                <label><input type="radio" name="edit-as" prop:checked=move || !as_json.get()
                    disabled=move || fault.with(Option::is_some) on:change=move |_| as_json.set(false) />{w.fields}</label>
                <label><input type="radio" name="edit-as" prop:checked=as_json on:change=move |_| as_json.set(true) />"JSON"</label>
            </div>
        }
    });
    view! {
        <div class="stack" data-testid="row-editor" on:keydown=key>
            {body}
            {move || problem_notes(problems.get())}
            <div class="row">
                {switch}
                <div class="row push">
                    <button type="button" class="btn s" on:click=move |_| close.run(())>{w.cancel}</button>
                    <button type="button" class="btn s primary" data-testid="row-save"
                        disabled=move || opened.busy.get() || fault.with(Option::is_some) on:click=move |_| save()>
                        {icon("check", 15)}{w.save_row}
                    </button>
                </div>
            </div>
        </div>
    }
}

fn json_field(text: RwSignal<String>, fault: Memo<Option<String>>, w: &'static Words) -> impl IntoView {
    let rows = text.with_untracked(|text| text.lines().count()).clamp(4, 16);
    view! {
        <div class="field" class:bad=move || fault.with(Option::is_some)>
            <label for="row-json">{w.row_json}</label>
            <div class="input mono"><textarea id="row-json" data-testid="row-json" rows=rows spellcheck="false" prop:value=text
                aria-invalid=move || fault.with(Option::is_some).to_string() aria-describedby="row-fault"
                on:input=move |e| text.set(event_target_value(&e))></textarea></div>
            <p class="err" id="row-fault" role="status">{fault}</p>
        </div>
    }
}

fn text_field(name: String, text: RwSignal<String>, w: &'static Words) -> impl IntoView {
    let id = format!("row-field-{name}");
    let key = name.clone();
    let value = move || text.with(|text| parse(text, w).map(|row| shown(&row, &key)).unwrap_or_default());
    let key = name.clone();
    let put = move |e| {
        let written = event_target_value(&e);
        text.update(|text| {
            if let Ok(mut row) = parse(text, w) {
                row.insert(key.clone(), written.into());
                *text = raw_text(&Value::Object(row));
            }
        });
    };
    view! {
        <div class="field">
            <label for=id.clone()><code>{name}</code></label>
            <div class="input"><textarea id=id.clone() data-testid=id class="grow-text" rows="2" prop:value=value on:input=put></textarea></div>
        </div>
    }
}

fn shown(row: &Map<String, Value>, key: &str) -> String {
    row.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// A row of a dataset is a JSON object.
fn parse(text: &str, w: &'static Words) -> Result<Map<String, Value>, String> {
    match serde_json::from_str::<Value>(text) {
        Ok(Value::Object(row)) => Ok(row),
        Ok(_) => Err(w.row_not_object.to_owned()),
        Err(e) if text.trim().is_empty() || e.line() == 0 => Err(w.row_not_object.to_owned()),
        Err(e) => Err(fill(w.row_not_json, &[("line", &e.line().to_string()), ("column", &e.column().to_string())])),
    }
}

/// The texts of a row: first the columns that are read, whether or not the row has them, then what else it has.
fn field_names(row: &Map<String, Value>, columns: &Columns) -> Vec<String> {
    let mapping = &columns.mapping;
    let mut names: Vec<String> = Vec::new();
    if mapping.formatting == "alpaca" {
        let usual = [("prompt", "instruction"), ("query", "input"), ("response", "output"), ("system", "")];
        names.extend(usual.into_iter().filter_map(|(role, name)| match mapping.columns.get(role) {
            Some(column) => Some(column.clone()),
            // Named columns leave none of the others.
            None if mapping.columns.is_empty() && !name.is_empty() => Some(name.to_owned()),
            None => None,
        }));
    }
    names.extend(row.keys().cloned());
    let mut seen = std::collections::HashSet::new();
    names.retain(|name| row.get(name).is_none_or(|v| v.is_string() || v.is_null()) && seen.insert(name.clone()));
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::i18n::ENGLISH;
    use api::data::Mapping;
    use serde_json::json;

    fn fields(row: Value, mapping: &[(&str, &str)]) -> Vec<String> {
        let columns = mapping.iter().map(|(role, name)| ((*role).to_owned(), (*name).to_owned())).collect();
        let mapping = Mapping { formatting: "alpaca".into(), columns, ..Mapping::default() };
        field_names(row.as_object().unwrap(), &Columns { mapping, ..Columns::default() })
    }

    #[test]
    fn a_missing_column_has_a_field_and_what_is_no_text_has_none() {
        assert_eq!(fields(json!({ "instruction": "a", "history": [] }), &[]), ["instruction", "input", "output"]);
        let named = [("prompt", "q"), ("response", "a")];
        assert_eq!(fields(json!({ "note": "n", "q": "a" }), &named), ["q", "a", "note"]);
    }

    #[test]
    fn what_is_no_json_is_told_with_its_place() {
        assert!(parse("{\"a\": 1}", &ENGLISH).is_ok());
        assert!(parse("{\"a\": 1\n\"b\": 2}", &ENGLISH).unwrap_err().contains("2"));
        assert_eq!(parse("[1]", &ENGLISH).unwrap_err(), ENGLISH.row_not_object);
        assert_eq!(parse("  ", &ENGLISH).unwrap_err(), ENGLISH.row_not_object);
    }
}
