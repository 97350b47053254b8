//! Every other setting: the main ones open, the rest folded in groups that say their values in one line.

use crate::{
    form::train_form,
    i18n::fill,
    parts::{Field, field::spoken, icon},
    setting::{Section, Setting, same as same_value},
    store::store,
    ui,
};
use leptos::prelude::*;

/// Unchanged values that a closed group says.
const SAID: usize = 4;

/// Main settings that come first; others follow in the order of the catalog.
const FIRST: [&str; 3] = ["learning_rate", "num_train_epochs", "cutoff_len"];

#[component]
pub fn SettingsCard() -> impl IntoView {
    let w = ui::words();
    let form = train_form();
    let store = store();
    let query = RwSignal::new(String::new());
    // Drawn anew only when the goal, the tuning type or the catalog changes.
    let sections = Memo::new(move |_| form.sections());
    let drawn =
        move || sections.get().into_iter().flat_map(|s| s.settings).filter(|s| !s.is_placed()).collect::<Vec<_>>();
    let changed = Memo::new(move |_| drawn().iter().filter(|s| form.values.is_changed(s)).count());
    let state = move || {
        let preset = form.preset.get().and_then(|name| {
            let title = |c: &std::sync::Arc<api::Catalog>| {
                c.presets.iter().find(|p| p.name == name).map(|p| ui::language().of(&p.title))
            };
            store.catalog.with(|c| c.as_ref().and_then(title))
        });
        let changes = match changed.get() {
            0 => w.nothing_changed.to_owned(),
            n => fill(w.n_changed, &[("n", &n.to_string())]),
        };
        let comma = if ui::language() == crate::i18n::Language::Chinese { "，" } else { ", " };
        preset.into_iter().chain([changes]).collect::<Vec<_>>().join(comma)
    };
    let undo = move || {
        (changed.get() > 0).then(|| {
            let word = if form.preset.with(Option::is_some) { w.back_to_preset } else { w.back_to_defaults };
            view! { <button type="button" class="link s" on:click=move |_| form.undo_changes()>{word}</button> }
        })
    };
    let searching = Memo::new(move |_| !query.with(|q| q.trim().is_empty()));
    let body = move || {
        if searching.get() {
            let found = move || {
                let found: Vec<Setting> = drawn().into_iter().filter(|s| query.with(|q| s.matches(q))).collect();
                if found.is_empty() {
                    return view! { <p class="muted s">{w.no_setting}</p> }.into_any();
                }
                let values = form.values;
                let fields = found.into_iter().map(|setting| view! { <Field setting values /> }).collect_view();
                view! { <div class="grid four" data-testid="settings-found">{fields}</div> }.into_any()
            };
            return view! { <div class="pad">{found}</div> }.into_any();
        }
        let values = form.values;
        let mut main: Vec<Setting> = drawn().into_iter().filter(Setting::is_main).collect();
        main.sort_by_key(|s| FIRST.iter().position(|key| *key == s.key).unwrap_or(FIRST.len()));
        let main = main.into_iter().map(|setting| view! { <Field setting values /> }).collect_view();
        let groups = sections.get().into_iter().map(|section| view! { <Group section /> }).collect_view();
        view! { <div class="pad"><div class="grid four" data-testid="settings-main">{main}</div></div>{groups} }
            .into_any()
    };
    view! {
        <section class="card flush" aria-labelledby="s4">
            <div class="card-h">
                <h2 id="s4">{w.settings}</h2><span class="sub">{state}</span>
                <div class="row push">
                    {undo}
                    <div class="input find" id="find-setting">
                        {icon("search", 15)}
                        <input aria-label=w.find_setting placeholder=w.find_setting prop:value=query autocomplete="off"
                            data-testid="find-setting"
                            on:input=move |e| query.set(event_target_value(&e))
                            on:keydown=move |e| if e.key() == "Escape" { query.set(String::new()) } />
                        <kbd>"/"</kbd>
                    </div>
                </div>
            </div>
            {body}
        </section>
    }
}

#[component]
fn Group(section: Section) -> impl IntoView {
    let w = ui::words();
    let language = ui::language();
    let form = train_form();
    let name = section.name.clone();
    let title = language.of(&section.title);
    let settings: Vec<Setting> = section.settings.into_iter().filter(|s| !s.is_main() && !s.is_placed()).collect();
    if settings.is_empty() {
        return ().into_any();
    }
    let settings = StoredValue::new(settings);
    let values = form.values;
    let summary = move || {
        settings.with_value(|all| {
            let (changed, same): (Vec<&Setting>, Vec<&Setting>) = all.iter().partition(|s| values.is_changed(s));
            let said = |s: &Setting| format!("{} {}", s.label(language), spoken(s, &values.current(s)));
            let changed = changed.into_iter().map(|s| view! { <b>{said(s)}</b>" · " }.into_any());
            let rest = same.into_iter().filter(|s| !same_value(&values.current(s), &serde_json::Value::Null));
            let rest: Vec<String> = rest.take(SAID).map(said).collect();
            let more = if all.len() > SAID { " …" } else { "" };
            let rest = view! { {rest.join(" · ")}{more} }.into_any();
            changed.chain([rest]).collect_view()
        })
    };
    let changed = move || {
        let n = settings.with_value(|all| all.iter().filter(|s| values.is_changed(s)).count());
        (n > 0).then(|| view! { <span class="badge bare">{fill(w.n_changed, &[("n", &n.to_string())])}</span> })
    };
    let bad = move || {
        let n = settings.with_value(|all| all.iter().filter(|s| values.problem_of(&s.key).is_some()).count());
        let text = if n == 1 { w.one_problem.to_owned() } else { fill(w.n_problems, &[("n", &n.to_string())]) };
        (n > 0).then(|| view! { <span class="badge bad">{text}</span> })
    };
    let (shown, toggled) = (name.clone(), name.clone());
    let open = Memo::new(move |_| form.open.with(|open| open.contains(&shown)));
    let toggle = move |e: leptos::ev::Event| {
        use wasm_bindgen::JsCast;
        let Some(details) = e.target().and_then(|t| t.dyn_into::<web_sys::Element>().ok()) else { return };
        let now = details.has_attribute("open");
        if now != open.get_untracked() {
            form.open.update(|open| {
                if now {
                    open.insert(toggled.clone())
                } else {
                    open.remove(&toggled)
                };
            });
        }
    };
    // Fields are made when the group is opened first.
    let body = move || {
        open.get().then(|| {
            let fields =
                settings.get_value().into_iter().map(|setting| view! { <Field setting values /> }).collect_view();
            view! { <div class="body"><div class="grid">{fields}</div></div> }
        })
    };
    view! {
        <details class="group" prop:open=open on:toggle=toggle data-testid=format!("group-{name}")>
            <summary>
                <span class="name">{title}</span>
                <span class="sum">{move || (!open.get()).then(summary)}</span>
                {bad}{changed}
            </summary>
            {body}
        </details>
    }
    .into_any()
}
