//! Which column is what: the format of the rows and the names of their columns, with Lathe's guess filled in.

use super::opened::{Part, opened};
use crate::{
    i18n::Words,
    parts::{
        icon,
        note::{problem_notes, wait},
    },
    ui,
};
use api::{
    Problem,
    data::{Columns, Edit, Mapping},
};
use leptos::{prelude::*, task::spawn_local};
use std::collections::BTreeMap;

/// What a column can be, by LLaMA-Factory's names.
struct Role {
    key: &'static str,
    word: fn(&'static Words) -> &'static str,
    /// What it is called if no column is named at all.
    usual: &'static [&'static str],
    wanted: fn(alpaca: bool, ranking: bool) -> bool,
}

const ROLES: [Role; 10] = [
    Role { key: "prompt", word: |w| w.column_prompt, usual: &["instruction"], wanted: |alpaca, _| alpaca },
    Role { key: "query", word: |w| w.column_query, usual: &["input"], wanted: |alpaca, _| alpaca },
    Role {
        key: "response",
        word: |w| w.column_response,
        usual: &["output"],
        wanted: |alpaca, ranking| alpaca && !ranking,
    },
    Role {
        key: "messages",
        word: |w| w.column_messages,
        usual: &["conversations", "messages"],
        wanted: |alpaca, _| !alpaca,
    },
    Role { key: "chosen", word: |w| w.column_chosen, usual: &["chosen"], wanted: |_, ranking| ranking },
    Role { key: "rejected", word: |w| w.column_rejected, usual: &["rejected"], wanted: |_, ranking| ranking },
    Role { key: "system", word: |w| w.column_system, usual: &[], wanted: |_, _| true },
    Role { key: "history", word: |w| w.column_history, usual: &[], wanted: |alpaca, _| alpaca },
    Role { key: "tools", word: |w| w.column_tools, usual: &[], wanted: |_, _| true },
    Role { key: "kto_tag", word: |w| w.column_kto, usual: &[], wanted: |_, ranking| !ranking },
];

/// Names inside a message, with what they are in the formats sharegpt and openai.
const TAGS: [(&str, &str, &str); 7] = [
    ("role_tag", "from", "role"),
    ("content_tag", "value", "content"),
    ("user_tag", "human", "user"),
    ("assistant_tag", "gpt", "assistant"),
    ("system_tag", "system", "system"),
    ("observation_tag", "observation", "tool"),
    ("function_tag", "function_call", "function"),
];

#[component]
pub fn MappingPart() -> impl IntoView {
    let opened = opened();
    let (columns, problems) = (RwSignal::new(None::<Columns>), RwSignal::new(Vec::<Problem>::new()));
    Effect::new(move || {
        opened.version.track();
        spawn_local(async move {
            match opened.columns().await {
                Ok(found) => columns.try_set(Some(found)).map(drop),
                Err(found) => problems.try_set(found).map(drop),
            };
        });
    });
    let body = move || match columns.get() {
        Some(columns) => view! { <Form columns /> }.into_any(),
        None if problems.with(Vec::is_empty) => wait(4).into_any(),
        None => problem_notes(problems.get()).into_any(),
    };
    view! { <div class="pad" data-testid="mapping">{body}</div> }
}

#[component]
fn Form(columns: Columns) -> impl IntoView {
    let w = ui::words();
    let opened = opened();
    let mapping = RwSignal::new(start(&columns));
    let saved = StoredValue::new(filled(&columns.mapping, &columns.found));
    let guessed = columns.guess.is_some() && saved.with_value(|saved| mapping.with_untracked(|m| saved != m));
    let guessed = guessed.then(|| {
        view! { <p class="note">{icon("info", 18)}<span>{w.columns_guessed}</span></p> }
    });
    let found = StoredValue::new(columns.found);
    let formats = ["alpaca", "sharegpt", "openai"].map(|name| {
        let what = match name {
            "alpaca" => w.format_alpaca,
            "sharegpt" => w.format_sharegpt,
            _ => w.format_openai,
        };
        view! {
            <label class="pick">
                <input type="radio" name="formatting" data-testid=format!("format-{name}")
                    prop:checked=move || mapping.with(|m| m.formatting == name) on:change=move |_| mapping.update(|m| {
                        m.formatting = name.into();
                        *m = found.with_value(|found| filled(m, found));
                    }) />
                <span class="name">{name}</span><span class="what">{what}</span>
            </label>
        }
    });
    let shape = Memo::new(move |_| mapping.with(|m| (m.formatting == "alpaca", m.ranking)));
    let selects = move || {
        let (alpaca, ranking) = shape.get();
        let wanted = ROLES.iter().filter(|role| (role.wanted)(alpaca, ranking));
        wanted.map(|role| column_field(role.key, (role.word)(w), mapping, found)).collect_view()
    };
    let tags = move || {
        let openai = mapping.with(|m| m.formatting == "openai");
        let fields = TAGS.map(|(key, sharegpt, other)| tag_field(key, if openai { other } else { sharegpt }, mapping));
        (!shape.get().0).then(|| {
            let fields = fields.collect_view();
            view! { <details class="more"><summary>{w.message_names}</summary><div class="grid mt">{fields}</div></details> }
        })
    };
    let unchanged = move || mapping.with(|m| saved.with_value(|saved| saved == m));
    let save = move |_| {
        let chosen = mapping.with_untracked(cleaned);
        spawn_local(async move {
            match opened.edit(Edit::Map { mapping: chosen }).await {
                Ok(()) => opened.go(Part::Rows, None),
                Err(found) => opened.problems.try_set(found).map_or((), drop),
            }
        });
    };
    let end = move || match opened.is_editable() {
        true => view! {
            <button type="button" class="btn primary" data-testid="mapping-save"
                disabled=move || opened.busy.get() || unchanged() on:click=save>{w.save_columns}</button>
        }
        .into_any(),
        false => view! { <span class="s muted">{w.not_editable}</span> }.into_any(),
    };
    view! {
        <div class="stack">
            <p class="soft s">{w.columns_help}</p>
            {guessed}
            <div class="picks three" role="radiogroup" aria-label=w.row_format>{formats.collect_view()}</div>
            <label class="switch">
                <input type="checkbox" data-testid="mapping-ranking" prop:checked=move || mapping.with(|m| m.ranking)
                    on:change=move |e| mapping.update(|m| m.ranking = event_target_checked(&e)) />
                <span>{w.ranking}<small>{w.ranking_help}</small></span>
            </label>
            <div class="grid">{selects}</div>
            {tags}
            <div class="row end">{end}</div>
        </div>
    }
}

fn column_field(
    key: &'static str,
    word: &'static str,
    mapping: RwSignal<Mapping>,
    found: StoredValue<Vec<String>>,
) -> impl IntoView {
    let w = ui::words();
    let id = format!("column-{key}");
    let chosen = move || mapping.with(|m| m.columns.get(key).cloned().unwrap_or_default());
    let mut names = found.get_value();
    let now = mapping.with_untracked(|m| m.columns.get(key).cloned()).filter(|name| !names.contains(name));
    names.extend(now);
    let options = names.into_iter().map(|name| {
        let value = name.clone();
        let shown = name.clone();
        view! { <option value=name selected=move || chosen() == value>{shown}</option> }
    });
    view! {
        <div class="field">
            <label for=id.clone()>{word}<span class="key">{key}</span></label>
            <div class="input sel"><select id=id.clone() data-testid=id prop:value=chosen
                on:change=move |e| put(mapping, key, event_target_value(&e))>
                <option value="" selected=move || chosen().is_empty()>{w.no_column}</option>{options.collect_view()}
            </select></div>
        </div>
    }
}

fn put(mapping: RwSignal<Mapping>, key: &str, column: String) {
    mapping.update(|m| {
        if column.is_empty() {
            m.columns.remove(key);
        } else {
            m.columns.insert(key.to_owned(), column);
        }
    });
}

fn tag_field(key: &'static str, usual: &'static str, mapping: RwSignal<Mapping>) -> impl IntoView {
    let id = format!("tag-{key}");
    let value = move || mapping.with(|m| m.tags.get(key).cloned().unwrap_or_default());
    let write = move |e| {
        let text = event_target_value(&e);
        mapping.update(|m| {
            if text.trim().is_empty() {
                m.tags.remove(key);
            } else {
                m.tags.insert(key.to_owned(), text.trim().to_owned());
            }
        });
    };
    view! {
        <div class="field">
            <label for=id.clone()><code>{key}</code></label>
            <div class="input"><input id=id placeholder=usual spellcheck="false" autocomplete="off" prop:value=value on:input=write /></div>
        </div>
    }
}

/// What the form begins with: the mapping in force if its columns are there, else the guess, else those of them that are.
fn start(columns: &Columns) -> Mapping {
    let is_found = |column: &String| columns.found.contains(column);
    let mut now = filled(&columns.mapping, &columns.found);
    match &columns.guess {
        Some(guess) if now.columns.is_empty() || !now.columns.values().all(is_found) => filled(guess, &columns.found),
        _ => {
            now.columns.retain(|_, column| is_found(column));
            now
        }
    }
}

/// With the usual columns named, where they are there and none of the format's own is.
fn filled(mapping: &Mapping, found: &[String]) -> Mapping {
    let mut filled = mapping.clone();
    if filled.formatting.is_empty() {
        filled.formatting = "alpaca".into();
    }
    let alpaca = filled.formatting == "alpaca";
    let roles = || ROLES.iter().filter(|role| (role.wanted)(alpaca, mapping.ranking) && !role.usual.is_empty());
    if roles().all(|role| !mapping.columns.contains_key(role.key)) {
        for role in roles() {
            if let Some(column) = role.usual.iter().find(|usual| found.iter().any(|column| column == *usual)) {
                filled.columns.insert(role.key.to_owned(), (*column).to_owned());
            }
        }
    }
    filled
}

/// As it is saved: without what another format would need, and with every name inside a message once one is given, since
/// those that are left out would be none.
fn cleaned(mapping: &Mapping) -> Mapping {
    let alpaca = mapping.formatting == "alpaca";
    let foreign = |key: &str| ROLES.iter().any(|role| role.key == key && !(role.wanted)(alpaca, mapping.ranking));
    let columns =
        mapping.columns.iter().filter(|(key, _)| !foreign(key)).map(|(k, v)| (k.clone(), v.clone())).collect();
    let mut tags = if alpaca { BTreeMap::new() } else { mapping.tags.clone() };
    if !tags.is_empty() {
        for (key, sharegpt, openai) in TAGS {
            let usual = if mapping.formatting == "openai" { openai } else { sharegpt };
            tags.entry(key.to_owned()).or_insert_with(|| usual.to_owned());
        }
    }
    Mapping { columns, tags, ..mapping.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(formatting: &str, columns: &[(&str, &str)]) -> Mapping {
        let columns = columns.iter().map(|(role, name)| ((*role).to_owned(), (*name).to_owned())).collect();
        Mapping { formatting: formatting.into(), columns, ..Mapping::default() }
    }

    #[test]
    fn the_guess_is_filled_in_where_the_mapping_names_columns_that_are_not_there() {
        let found = vec!["q".to_owned(), "a".to_owned()];
        let guess = mapping("alpaca", &[("prompt", "q"), ("response", "a")]);
        let wrong = mapping("alpaca", &[("prompt", "question")]);
        let columns = Columns { mapping: wrong, guess: Some(guess.clone()), found: found.clone() };
        assert_eq!(start(&columns), guess);
        assert!(start(&Columns { guess: None, ..columns }).columns.is_empty());
        let right = mapping("alpaca", &[("prompt", "a"), ("response", "q")]);
        assert_eq!(start(&Columns { mapping: right.clone(), guess: Some(guess), found }), right);
        assert_eq!(start(&Columns::default()).formatting, "alpaca");
    }

    #[test]
    fn columns_that_need_no_name_are_shown_by_the_usual_one() {
        let found = vec!["instruction".to_owned(), "output".to_owned(), "messages".to_owned()];
        let alpaca = start(&Columns { found: found.clone(), ..Columns::default() });
        assert_eq!(alpaca, mapping("alpaca", &[("prompt", "instruction"), ("response", "output")]));
        let other = filled(&Mapping { formatting: "openai".into(), ..alpaca }, &found);
        assert_eq!(other.columns["messages"], "messages");
        assert_eq!(cleaned(&other), mapping("openai", &[("messages", "messages")]));
    }

    #[test]
    fn columns_of_another_format_are_left_out() {
        let mut mixed = mapping("sharegpt", &[("prompt", "q"), ("messages", "turns"), ("images", "pictures")]);
        mixed.tags.insert("role_tag".into(), "who".into());
        let saved = cleaned(&mixed);
        assert_eq!(saved.columns.keys().collect::<Vec<_>>(), ["images", "messages"]);
        assert_eq!((saved.tags["role_tag"].as_str(), saved.tags["user_tag"].as_str()), ("who", "human"));
        assert!(cleaned(&Mapping { formatting: "alpaca".into(), ..mixed }).tags.is_empty());
    }
}
