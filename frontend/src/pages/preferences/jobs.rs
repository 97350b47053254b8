//! The jobs of the workbench: answers sampled from several checkpoints, and a judge that compares answers.

use super::bench;
use crate::{
    client,
    parts::{
        icon,
        making::{self, made_dataset, making_job},
        note::problem_notes,
        source::{Source, SourceFields},
    },
    store::store,
    ui,
};
use api::{JobKind, Problem, RunConfig, chat::LoadChat, job::NewJob, routes};
use leptos::{prelude::*, task::spawn_local};

/// Jobs shown of each kind, newest first.
const SHOWN: usize = 3;

#[component]
pub fn SampleCard() -> impl IntoView {
    let w = ui::words();
    let (bench, store) = (bench(), store());
    let (target, other) = (Source::new(), Source::new());
    let others = RwSignal::new(Vec::<LoadChat>::new());
    let [dataset, samples, prompts, temperature, share, length] = [(); 6].map(|()| RwSignal::new(String::new()));
    let adversarial = RwSignal::new(false);
    let problems = RwSignal::new(Vec::<Problem>::new());
    let start = move |e: leptos::ev::SubmitEvent| {
        e.prevent_default();
        let mut config = RunConfig::default();
        config.set("task", "samples");
        config.set("dataset", dataset.get_untracked());
        put_model(&mut config, target.load(store));
        for (key, value) in
            [("samples", samples), ("num_rows", prompts), ("temperature", temperature), ("max_new_tokens", length)]
        {
            put_number(&mut config, key, value);
        }
        if let Ok(share) = share.get_untracked().trim().parse::<f64>() {
            config.set("on_policy_share", share / 100.0);
        }
        let others: Vec<String> = others.with_untracked(|all| all.iter().map(checkpoint_text).collect());
        if !others.is_empty() {
            config.set("checkpoints", others);
        }
        if adversarial.get_untracked() {
            config.set("adversarial", true);
        }
        order(config, problems);
    };
    let chips = move || {
        others
            .get()
            .into_iter()
            .enumerate()
            .map(|(i, load)| {
                let text = checkpoint_text(&load);
                let remove = move |_| others.update(|all| drop(all.remove(i)));
                view! {
                    <span class="chip"><span class="clip">{crate::format::last_part(&text).to_owned()}</span>
                        <button type="button" aria-label=w.delete on:click=remove>{icon("x", 14)}</button></span>
                }
            })
            .collect_view()
    };
    let add = move |_| {
        if let Some(load) = other.load(store) {
            others.update(|all| {
                if !all.contains(&load) {
                    all.push(load)
                }
            });
        }
    };
    let list = move || {
        making::jobs(store, &["samples"]).take(SHOWN).map(|job| {
            let made = made_dataset(&job);
            let voting = made.map(|name| view! {
                <button type="button" class="btn quiet s" data-testid="samples-vote" on:click=move |_| bench.vote_on(&name)>{w.pref_use_samples}</button>
            });
            making_job(job, voting)
        }).collect_view()
    };
    view! {
        <section class="card" id="sample">
            <details class="more">
                <summary data-testid="sample-open">{w.pref_sample}</summary>
                <form class="stack mt" on:submit=start>
                    <DatasetField id="sample-dataset" label=w.pref_sample_from key="dataset" value=dataset />
                    {text("sample-samples", w.pref_sample_n, "samples", samples, "4")}
                    {text("sample-rows", w.pref_sample_prompts, "num_rows", prompts, "")}
                    {text("sample-temperature", w.pref_temperature, "temperature", temperature, "0.95")}
                    {text("sample-length", w.pref_sample_length, "max_new_tokens", length, "1024")}
                    <fieldset class="field"><span class="label">{w.pref_sample_target}</span><SourceFields source=target testid="sample-target" /></fieldset>
                    <fieldset class="field">
                        <span class="label">{w.pref_sample_others}<span class="key">"checkpoints"</span></span>
                        <SourceFields source=other testid="sample-other" />
                        <div class="row">{chips}</div>
                        <button type="button" class="btn s" on:click=add>{icon("plus", 16)}{w.pref_sample_add}</button>
                    </fieldset>
                    {move || others.with(|all| !all.is_empty()).then(|| text("sample-share", w.pref_sample_share, "on_policy_share", share, "%"))}
                    <label class="switch"><input type="checkbox" prop:checked=adversarial on:change=move |e| adversarial.set(event_target_checked(&e)) />
                        <span>{w.pref_sample_adversarial}</span></label>
                    <button type="submit" class="btn" data-testid="sample-start" disabled=move || dataset.with(String::is_empty)>{icon("plus", 18)}{w.pref_sample_start}</button>
                </form>
            </details>
            {move || problem_notes(problems.get())}
            {list}
        </section>
    }
}

#[component]
pub fn JudgeCard() -> impl IntoView {
    let w = ui::words();
    let (bench, store) = (bench(), store());
    let judge = Source::new();
    let server = RwSignal::new(false);
    let [dataset, url, name, criteria, pairs] = [(); 5].map(|()| RwSignal::new(String::new()));
    let problems = RwSignal::new(Vec::<Problem>::new());
    let start = move |e: leptos::ev::SubmitEvent| {
        e.prevent_default();
        let mut config = RunConfig::default();
        config.set("task", "judge");
        config.set("dataset", dataset.get_untracked());
        if server.get_untracked() {
            config.set("base_url", url.get_untracked().trim());
            config.set("teacher", name.get_untracked().trim());
        } else {
            put_model(&mut config, judge.load(store));
        }
        let criteria = criteria.get_untracked().trim().to_owned();
        if !criteria.is_empty() {
            config.set("criteria", criteria);
        }
        put_number(&mut config, "num_rows", pairs);
        order(config, problems);
    };
    let by = move || match server.get() {
        true => view! {
            {text("judge-url", w.pref_judge_url, "base_url", url, "http://localhost:8000/v1")}
            {text("judge-name", w.pref_judge_name, "teacher", name, "")}
        }
        .into_any(),
        false => view! { <SourceFields source=judge testid="judge-model" /> }.into_any(),
    };
    let choice = move |this: bool, word: &'static str| {
        view! { <label><input type="radio" name="judge-by" prop:checked=move || server.get() == this on:change=move |_| server.set(this) />{word}</label> }
    };
    let list = move || {
        making::jobs(store, &["judge"]).take(SHOWN).map(|job| {
            let made = made_dataset(&job);
            let using = made.map(|name| view! {
                <button type="button" class="btn quiet s" data-testid="judge-use" on:click=move |_| bench.add_source(&name)>{w.pref_use_pairs}</button>
            });
            making_job(job, using)
        }).collect_view()
    };
    view! {
        <section class="card">
            <details class="more">
                <summary data-testid="judge-open">{w.pref_judge}</summary>
                <form class="stack mt" on:submit=start>
                    <DatasetField id="judge-dataset" label=w.pref_judge_of key="dataset" value=dataset />
                    <div class="field">
                        <span class="label" id="judge-by">{w.pref_judge_is}</span>
                        <div class="seg fill" role="radiogroup" aria-labelledby="judge-by">{choice(false, w.pref_judge_local)}{choice(true, w.pref_judge_server)}</div>
                    </div>
                    {by}
                    {text("judge-criteria", w.pref_judge_criteria, "criteria", criteria, w.pref_judge_criteria_hint)}
                    {text("judge-rows", w.pref_judge_pairs, "num_rows", pairs, "")}
                    <p class="s muted">{w.pref_judge_help}</p>
                    <button type="submit" class="btn" data-testid="judge-start" disabled=move || dataset.with(String::is_empty)>{icon("plus", 18)}{w.pref_judge_start}</button>
                </form>
            </details>
            {move || problem_notes(problems.get())}
            {list}
        </section>
    }
}

/// Puts a job in the queue; what is wrong with it is said.
fn order(config: RunConfig, problems: RwSignal<Vec<Problem>>) {
    spawn_local(async move {
        let job = NewJob::new(JobKind::Make, "", config);
        problems.set(client::order(routes::JOBS, &job).await.err().unwrap_or_default());
    });
}

fn put_model(config: &mut RunConfig, load: Option<LoadChat>) {
    let Some(load) = load else { return };
    config.set("model_name_or_path", load.model_name_or_path);
    for (key, value) in [("adapter_name_or_path", load.adapter_name_or_path), ("template", load.template)] {
        if let Some(value) = value {
            config.set(key, value);
        }
    }
}

/// A number as it was entered; what is none goes along as text, so that the check names it.
fn put_number(config: &mut RunConfig, key: &str, value: RwSignal<String>) {
    let text = value.get_untracked().trim().to_owned();
    match serde_json::from_str::<serde_json::Value>(&text) {
        Ok(number) if number.is_number() => config.set(key, number),
        _ if text.is_empty() => {}
        _ => config.set(key, text),
    }
}

/// A checkpoint as `checkpoints` takes it.
fn checkpoint_text(load: &LoadChat) -> String {
    match &load.adapter_name_or_path {
        Some(adapter) => format!("{} + {adapter}", load.model_name_or_path),
        None => load.model_name_or_path.clone(),
    }
}

/// One of the datasets.
#[component]
fn DatasetField(id: &'static str, label: &'static str, key: &'static str, value: RwSignal<String>) -> impl IntoView {
    let w = ui::words();
    let store = store();
    let options = move || {
        let names = store.datasets.with(|all| all.iter().flatten().map(|d| d.name.clone()).collect::<Vec<_>>());
        names.into_iter().map(|name| view! { <option value=name.clone()>{name.clone()}</option> }).collect_view()
    };
    view! {
        <div class="field">
            <label for=id>{label}<span class="key">{key}</span></label>
            <div class="input sel"><select id=id data-testid=id prop:value=move || { store.datasets.track(); value.get() } on:change=move |e| value.set(event_target_value(&e))>
                <option value="">{w.pref_choose}</option>{options}
            </select></div>
        </div>
    }
}

fn text(
    id: &'static str,
    label: &'static str,
    key: &'static str,
    value: RwSignal<String>,
    hint: &'static str,
) -> impl IntoView {
    view! {
        <div class="field">
            <label for=id>{label}<span class="key">{key}</span></label>
            <div class="input"><input id=id data-testid=id autocomplete="off" spellcheck="false" placeholder=hint
                prop:value=value on:input=move |e| value.set(event_target_value(&e)) /></div>
        </div>
    }
}
