//! The second choice: one or more datasets, as chips, with their rows and their share.

use crate::{form::train_form, format, i18n::fill, parts::icon, store::store, ui};
use api::data::DatasetInfo;
use leptos::{html, prelude::*};

#[component]
pub fn DataCard() -> impl IntoView {
    let w = ui::words();
    let language = ui::language();
    let form = train_form();
    let store = store();
    let names = Memo::new(move |_| form.datasets());
    let info = move |name: &str| store.datasets.with(|all| all.iter().flatten().find(|d| d.name == name).cloned());
    let total = move || {
        let rows: u64 = names.get().iter().filter_map(|n| info(n)).map(|d| d.rows).sum();
        let tokens = form.plan.with(|plan| plan.as_ref().map(|p| p.tokens)).filter(|t| *t > 0);
        match tokens {
            _ if rows == 0 => String::new(),
            Some(tokens) => fill(w.rows_tokens, &[("rows", &format::count(rows)), ("tokens", &format::count(tokens))]),
            None => fill(w.rows_n, &[("n", &format::count(rows))]),
        }
    };
    let chips = move || names.get().into_iter().map(|name| chip(name.clone(), info(&name))).collect_view();
    let problem = move || {
        form.values.problem_of("dataset").map(|p| {
            let hint = p.hint_in(language.tag()).to_owned();
            view! { <p class="err">{p.message_in(language.tag()).to_owned()} " " {hint}</p> }
        })
    };
    view! {
        <section class="card" aria-labelledby="s2">
            <div class="step"><i>"2"</i><h2 id="s2">{w.data}</h2><span class="sub">{total}</span></div>
            <div class="field" class:bad=move || form.values.problem_of("dataset").is_some()>
                <label for="f-dataset">{w.datasets}<span class="key">"dataset"</span></label>
                <Picker names chips=ViewFn::from(chips) />
                {problem}
            </div>
            <Mixture names />
        </section>
    }
}

fn chip(name: String, info: Option<DatasetInfo>) -> impl IntoView {
    let w = ui::words();
    let form = train_form();
    let rows = info.map(|d| fill(w.rows_n, &[("n", &format::count(d.rows))]));
    let remove = {
        let name = name.clone();
        move |_| form.set_datasets(form.datasets().into_iter().filter(|n| *n != name).collect())
    };
    view! {
        <span class="chip" data-testid=format!("dataset-chip-{name}")>
            {name.clone()} <small>{rows}</small>
            <button type="button" aria-label=fill(w.remove_dataset, &[("name", &name)]) on:click=remove>{icon("x", 13)}</button>
        </span>
    }
}

/// The box of chips with a text part that opens and filters the list. Arrows move, Enter takes, the list stays open.
#[component]
fn Picker(names: Memo<Vec<String>>, chips: ViewFn) -> impl IntoView {
    let w = ui::words();
    let form = train_form();
    let store = store();
    let (open, query, at) = (RwSignal::new(false), RwSignal::new(String::new()), RwSignal::new(0usize));
    let field = NodeRef::<html::Input>::new();
    let found = Memo::new(move |_| {
        let query = query.get().to_lowercase();
        let chosen = names.get();
        store.datasets.with(|all| {
            let fits = |d: &&DatasetInfo| !chosen.contains(&d.name) && d.name.to_lowercase().contains(&query);
            all.iter().flatten().filter(fits).cloned().collect::<Vec<_>>()
        })
    });
    let take = move |name: String| {
        let mut all = form.datasets();
        if !all.contains(&name) {
            all.push(name);
        }
        form.set_datasets(all);
        query.set(String::new());
        at.set(0);
        if let Some(field) = field.get_untracked() {
            field.set_value("");
            let _ = field.focus();
        }
    };
    let key = move |e: leptos::ev::KeyboardEvent| {
        let count = found.with_untracked(Vec::len);
        match e.key().as_str() {
            "ArrowDown" => {
                open.set(true);
                at.update(|i| *i = (*i + 1).min(count.saturating_sub(1)));
                e.prevent_default();
            }
            "ArrowUp" => {
                at.update(|i| *i = i.saturating_sub(1));
                e.prevent_default();
            }
            "Enter" if !e.ctrl_key() && !e.meta_key() => {
                e.prevent_default();
                let row = found.with_untracked(|all| all.get(at.get_untracked()).cloned());
                if let Some(row) = row.filter(|d| open.get_untracked() && d.problem.is_none()) {
                    take(row.name);
                }
            }
            "Escape" => open.set(false),
            "Backspace" if query.with_untracked(String::is_empty) => {
                let mut all = form.datasets();
                all.pop();
                form.set_datasets(all);
            }
            _ => {}
        }
    };
    let options = move || {
        open.get().then(|| {
            let rows = found.get();
            if rows.is_empty() {
                let none = store.datasets.with(|all| all.as_ref().is_some_and(Vec::is_empty));
                let text = if none { w.no_datasets } else { w.no_match };
                return view! {
                    <ul class="options"><li class="cap">{text}" "{none.then(|| view! { <a href="/data">{w.upload_one}</a> })}</li></ul>
                }
                .into_any();
            }
            let rows = rows.into_iter().enumerate().map(|(i, d)| {
                let bad = d.problem.is_some();
                let name = d.name.clone();
                let take = move |e: leptos::ev::MouseEvent| {
                    e.prevent_default();
                    if !bad {
                        take(name.clone());
                    }
                };
                let note = if bad { w.has_problem.to_owned() } else { fill(w.rows_n, &[("n", &format::count(d.rows))]) };
                view! {
                    <li role="option" class:at=move || at.get() == i aria-selected="false" aria-disabled=bad.then_some("true")
                        data-testid=format!("dataset-option-{}", d.name) on:mousedown=take>
                        {icon("plus", 16)}{d.name.clone()}<small>{note}</small>
                    </li>
                }
            });
            view! { <ul class="options" id="datasets-list" role="listbox" aria-label=w.datasets>{rows.collect_view()}</ul> }.into_any()
        })
    };
    view! {
        <div class="picker">
            <div class="input multi" on:click=move |_| { if let Some(field) = field.get_untracked() { let _ = field.focus(); } }>
                {move || chips.run()}
                <input id="f-dataset" data-testid="dataset-add" node_ref=field role="combobox" autocomplete="off"
                    aria-controls="datasets-list" aria-expanded=move || open.get().to_string() placeholder=w.add_dataset
                    on:focus=move |_| open.set(true) on:click=move |_| open.set(true) on:blur=move |_| open.set(false)
                    on:input=move |e| { query.set(event_target_value(&e)); at.set(0); open.set(true); } on:keydown=key />
            </div>
            {options}
        </div>
    }
}

/// How much of the samples comes from each dataset, once the plan knows.
#[component]
fn Mixture(names: Memo<Vec<String>>) -> impl IntoView {
    let w = ui::words();
    let form = train_form();
    let parts = move || {
        let plan = form.plan.get()?;
        let total: u64 = plan.datasets.iter().map(|d| d.samples).sum();
        if total == 0 || plan.datasets.len() < 2 {
            return None;
        }
        let colour = |i: usize| format!("var(--s{})", i % 5 + 1);
        let share = |n: u64| n as f64 / total as f64;
        let bar = plan.datasets.iter().enumerate().map(|(i, d)| {
            view! { <i style=("--w", format!("{:.2}%", share(d.samples) * 100.0)) style=("--c", colour(i))></i> }
        });
        let legend = plan.datasets.iter().enumerate().map(|(i, d)| {
            view! { <span><i style=("--c", colour(i))></i>{format!("{} {}", d.name, format::percent(share(d.samples)))}</span> }
        });
        Some(view! {
            <div class="parts" aria-hidden="true">{bar.collect_view()}</div>
            <div class="legend">{legend.collect_view()}</div>
        })
    };
    let longest = move || {
        let longest = form.plan.with(|p| p.as_ref().map(|p| p.longest)).filter(|n| *n > 0)?;
        Some(view! { <span class="muted">{fill(w.longest_row, &[("n", &format::count(longest))])}</span> })
    };
    let look = move || {
        let first = names.with(|n| n.first().cloned())?;
        Some(view! { <a class="push" href=api::routes::fill("/data/{name}", &first)>{w.look_at_rows}</a> })
    };
    view! { <div class="stack tight mt">{parts}<div class="legend">{longest}{look}</div></div> }
}
