//! The first choice: which model, from which adapter, with which template.

use crate::{
    client,
    form::train_form,
    format,
    i18n::fill,
    parts::{
        Empty, ProblemNote, Pulls, icon,
        note::wait,
        source::{checkpoint_name, is_full},
    },
    store::store,
    ui,
};
use api::{
    JobKind, JobState,
    model::{ModelInfo, PullModel},
    routes,
};
use leptos::{prelude::*, task::spawn_local};
use serde_json::Value;

/// Cards shown besides "another model".
const CARDS: usize = 5;

#[component]
pub fn ModelCard() -> impl IntoView {
    let w = ui::words();
    let language = ui::language();
    let form = train_form();
    let store = store();
    let values = form.values;
    let chosen = Memo::new(move |_| values.text("model_name_or_path"));
    let cards = move || {
        let Some(mut models) = store.models.get() else { return wait(3).into_any() };
        let now = values.set.with_untracked(|set| set.text("model_name_or_path").unwrap_or_default().to_owned());
        models.sort_by_key(|m| (m.source != "starter", m.name != now));
        let more = models.len().saturating_sub(CARDS);
        let hidden: Vec<_> = models.split_off(models.len().min(CARDS));
        let none = models.is_empty();
        let cards: Vec<_> = models.into_iter().map(|model| card(model, chosen)).collect();
        let facts =
            (more > 0).then(|| view! { <span class="facts">{fill(w.more_models, &[("n", &more.to_string())])}</span> });
        let list = hidden.into_iter().map(|m| view! { <option value=m.name.clone()>{m.dtype}</option> }).collect_view();
        view! {
            {none.then(|| view! { <Empty symbol="chip" title=w.no_models.into() text=w.no_models_help.into() /> })}
            <div class="picks three" role="radiogroup" aria-label=w.model>
                {cards}
                <label class="pick" data-testid="model-card-other">
                    <input type="radio" name="model" prop:checked=form.other_model on:change=move |_| form.other_model.set(true) />
                    <span class="name">{w.other_model}</span><span class="what">{w.other_model_what}</span>{facts}
                </label>
            </div>
            <datalist id="models-more">{list}</datalist>
        }
        .into_any()
    };
    let problem = move || {
        values.problem_of("model_name_or_path").map(|problem| view! { <div class="mt"><ProblemNote problem /></div> })
    };
    let template = move || {
        let now = values.text("template");
        let known = store.catalog.with(|c| c.as_ref().map(|c| c.templates.clone()).unwrap_or_default());
        let names = (!known.contains(&now) && !now.is_empty()).then(|| now.clone()).into_iter().chain(known);
        let options =
            names.map(|t| view! { <option value=t.clone() selected=t == now>{t.clone()}</option> }).collect_view();
        view! { <option value="">{w.template_own}</option>{options} }
    };
    let pick_template = move |e| {
        let value = event_target_value(&e);
        values.set_key("template", if value.is_empty() { Value::Null } else { value.into() });
    };
    view! {
        <section class="card" aria-labelledby="s1">
            <div class="step"><i>"1"</i><h2 id="s1">{w.model}</h2></div>
            {cards}
            {move || form.other_model.get().then(|| view! { <OtherModel /> })}
            <Pulls key="model_name_or_path" testid="pull" />
            {problem}
            <div class="grid two mt-2">
                <ContinueFrom />
                <div class="field" class:bad=move || values.problem_of("template").is_some()>
                    <label for="f-template">{w.template}<span class="key">"template"</span></label>
                    <div class="input sel"><select id="f-template" on:change=pick_template>{template}</select></div>
                    <p class="help">{w.template_help}</p>
                    {move || values.problem_of("template").map(|p| view! { <p class="err">{p.message_in(language.tag()).to_owned()}</p> })}
                </div>
            </div>
        </section>
    }
}

fn card(model: ModelInfo, chosen: Memo<String>) -> impl IntoView {
    let w = ui::words();
    let form = train_form();
    let name = model.name.clone();
    let what = match (&model.problem, model.source.as_str()) {
        (Some(problem), _) => problem.message_in(ui::language().tag()).to_owned(),
        (None, "starter") => w.starter_what.into(),
        (None, "hub") => w.hub_what.into(),
        (None, "run") => w.run_what.into(),
        (None, _) => w.home_what.into(),
    };
    let facts = [
        model.family.clone(),
        if model.parameters > 0 { format::short(model.parameters) } else { String::new() },
        model.dtype.clone(),
        if model.bytes > 0 { format::bytes(model.bytes) } else { String::new() },
    ];
    let facts = facts.into_iter().filter(|f| !f.is_empty()).collect::<Vec<_>>().join(" · ");
    let unusable = model.problem.is_some();
    let checked = {
        let name = name.clone();
        move || !form.other_model.get() && chosen.with(|c| *c == name)
    };
    let pick = {
        let name = name.clone();
        move |_| {
            form.other_model.set(false);
            form.values.set_key("model_name_or_path", name.clone().into());
            form.values.set_key("adapter_name_or_path", Value::Null);
        }
    };
    view! {
        <label class="pick" class:off=unusable data-testid=format!("model-card-{name}")>
            <input type="radio" name="model" disabled=unusable prop:checked=checked on:change=pick />
            <span class="name">{format::last_part(&name).to_owned()}</span>
            <span class="what" class:badc=unusable>{what}</span>
            <span class="facts">{facts}</span>
        </label>
    }
}

#[component]
fn OtherModel() -> impl IntoView {
    let w = ui::words();
    let form = train_form();
    let store = store();
    let name = Memo::new(move |_| form.values.text("model_name_or_path"));
    let pullable = move || {
        let name = name.get();
        is_hub_id(&name) && !store.models.with(|all| all.iter().flatten().any(|m| m.name == name))
    };
    let pull = move |_| {
        let id = name.get_untracked();
        spawn_local(async move {
            let body = PullModel { id, revision: String::new() };
            if let Err(problems) = client::order(routes::MODELS_PULL, &body).await {
                store.complain(&problems);
            }
        });
    };
    view! {
        <div class="field mt-2">
            <label for="f-model_name_or_path">{w.other_model_label}<span class="key">"model_name_or_path"</span></label>
            <div class="row nowrap">
                <div class="input grow">
                    <input id="f-model_name_or_path" data-testid="model-other" list="models-more" autocomplete="off" spellcheck="false"
                        prop:value=name
                        on:input=move |e| {
                            let text = event_target_value(&e).trim().to_owned();
                            form.values.set_key("model_name_or_path", if text.is_empty() { Value::Null } else { text.into() });
                        } />
                </div>
                {move || pullable().then(|| view! {
                    <button type="button" class="btn" data-testid="model-pull" on:click=pull>{icon("down", 18)}{w.pull}</button>
                })}
            </div>
            <p class="help">{move || pullable().then(|| format!("{} ", w.pull_first))}{w.other_model_help}</p>
        </div>
    }
}

/// An adapter of an earlier run on the same model, to go on from.
#[component]
fn ContinueFrom() -> impl IntoView {
    let w = ui::words();
    let language = ui::language();
    let form = train_form();
    let store = store();
    let runs = Memo::new(move |_| {
        let model = form.values.text("model_name_or_path");
        store.jobs.with(|jobs| {
            let runs = jobs.iter().flatten().filter(|j| j.kind == JobKind::Train && !is_full(j));
            let runs =
                runs.filter(|j| j.config.text("model_name_or_path") == Some(&model) && j.state != JobState::Queued);
            runs.take(20).map(|j| j.id.clone()).collect::<Vec<_>>()
        })
    });
    Effect::new(move || {
        for run in runs.get() {
            if store.checkpoints.with_untracked(|all| !all.contains_key(&run)) {
                store.ask_checkpoints(&run);
            }
        }
    });
    let options = move || {
        let now = form.values.text("adapter_name_or_path");
        let mut known = false;
        let all = store.checkpoints.get();
        let mut options = Vec::new();
        for run in runs.get() {
            for c in all.get(&run).into_iter().flatten() {
                known |= c.path == now;
                let text = format!("{run}, {}", checkpoint_name(c, language));
                options.push(view! { <option value=c.path.clone() selected=c.path == now>{text}</option> });
            }
        }
        let other = (!known && !now.is_empty())
            .then(|| view! { <option value=now.clone() selected=true>{format::last_part(&now).to_owned()}</option> });
        view! { <option value="">{w.base_model}</option>{other}{options} }
    };
    let pick = move |e| {
        let value = event_target_value(&e);
        form.values.set_key("adapter_name_or_path", if value.is_empty() { Value::Null } else { value.into() });
    };
    let problem = move || {
        form.values
            .problem_of("adapter_name_or_path")
            .map(|p| view! { <p class="err">{p.message_in(language.tag()).to_owned()}</p> })
    };
    view! {
        <div class="field" class:bad=move || form.values.problem_of("adapter_name_or_path").is_some()>
            <label for="f-adapter_name_or_path">{w.continue_from}<span class="key">"adapter_name_or_path"</span></label>
            <div class="input sel"><select id="f-adapter_name_or_path" on:change=pick>{options}</select></div>
            <p class="help">{w.continue_help}</p>
            {problem}
        </div>
    }
}

/// `owner/name` and nothing that looks like a path.
fn is_hub_id(name: &str) -> bool {
    let word = |s: &str| {
        !s.is_empty() && !s.starts_with(['.', '-']) && s.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
    };
    matches!(name.split_once('/'), Some((owner, rest)) if word(owner) && word(rest)) && !name.ends_with(".gguf")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hub_ids_are_told_from_paths() {
        for id in ["Qwen/Qwen3-0.6B", "a/b"] {
            assert!(is_hub_id(id), "{id}");
        }
        for path in ["starter", "/models/x", "./x", "a/b/c", "a/b.gguf", "~/x", "../b", "a/", "C:\\x"] {
            assert!(!is_hub_id(path), "{path}");
        }
    }
}
