//! What the pairs come to: how many, of which origin, how far the judge agrees with itself; and the dataset made of them.

use super::{Bench, Stage, bench, origin_word};
use crate::{
    client,
    form::train_form,
    format,
    i18n::fill,
    parts::{icon, note::problem_notes},
    store::{Store, store},
    ui,
};
use api::{
    Problem,
    data::DatasetInfo,
    preference::{BuildPairs, Pairs},
    routes,
};
use leptos::{prelude::*, task::spawn_local};
use leptos_router::hooks::use_navigate;

/// Colours of the parts, as charts have them.
const COLOURS: [&str; 5] = ["var(--s1)", "var(--s3)", "var(--s2)", "var(--s4)", "var(--s5)"];

#[component]
pub fn ResultCard() -> impl IntoView {
    let w = ui::words();
    let bench = bench();
    let figures = move || {
        let found = bench.found.get().unwrap_or_default();
        let agreement = found.sources.iter().find_map(|source| source.agreement);
        let figure = |key: &'static str, value: String, unit: &'static str, testid: &'static str| {
            view! { <div><div class="k">{key}</div><div class="v" data-testid=testid>{value}<small>" "{unit}</small></div></div> }
        };
        let percent = |share: f64| format!("{:.0}", share * 100.0);
        let with_votes = found.sources.iter().find_map(|source| source.with_votes.clone());
        let alike = with_votes.as_ref().map(|with| percent(with.agreed as f64 / with.pairs.max(1) as f64));
        let with_votes = with_votes.map(|with| {
            let kappa = with.kappa.map_or_else(|| "–".to_owned(), |kappa| format!("{kappa:.2}"));
            fill(w.pref_with_votes_help, &[("n", &format::count(with.pairs)), ("kappa", &kappa)])
        });
        let parts = parts(&found);
        let weighted = found.rows != found.kept;
        view! {
            <div class="big">
                {figure(w.pref_kept, format::count(found.kept), w.pref_pairs_unit, "pairs-kept")}
                {agreement.map(|share| figure(w.pref_agreement, percent(share), "%", "pairs-agreement"))}
                {alike.map(|share| figure(w.pref_with_votes, share, "%", "pairs-with-votes"))}
                {found.on_policy.map(|share| figure(w.pref_own_share, percent(share), "%", "pairs-own"))}
            </div>
            {parts}
            {weighted.then(|| view! { <p class="s muted">{fill(w.pref_rows_weighted, &[("n", &format::count(found.rows))])}</p> })}
            {agreement.map(|_| view! { <p class="s muted">{w.pref_agreement_help}</p> })}
            {with_votes.map(|text| view! { <p class="s muted" data-testid="pairs-with-votes-help">{text}</p> })}
        }
    };
    let stages = Stage::ALL.map(|stage| {
        view! {
            <label data-testid=format!("pairs-stage-{}", stage.name())>
                <input type="radio" name="pairs-stage" prop:checked=move || bench.stage.get() == stage on:change=move |_| bench.stage.set(stage) />
                {stage.name().to_uppercase()}
            </label>
        }
    });
    view! {
        <section class="card">
            <div class="card-h"><h2>{w.pref_result}</h2></div>
            <div class="stack tight">
                {figures}
                <div class="field">
                    <span class="label" id="pairs-stage">{w.pref_for}</span>
                    <div class="seg fill" role="radiogroup" aria-labelledby="pairs-stage">{stages.into_iter().collect_view()}</div>
                </div>
                <Make />
            </div>
        </section>
    }
}

/// A bar cut by the origin of the pairs that are kept. A source of several origins has the colour of its first.
fn parts(found: &Pairs) -> Option<impl IntoView + use<>> {
    let mut shares = Vec::<(&'static str, u64)>::new();
    for source in &found.sources {
        if let Some(origin) = source.origins.first() {
            let word = origin_word(*origin);
            match shares.iter_mut().find(|(known, _)| *known == word) {
                Some((_, n)) => *n += source.kept,
                None => shares.push((word, source.kept)),
            }
        }
    }
    shares.retain(|(_, n)| *n > 0);
    let total: u64 = shares.iter().map(|(_, n)| n).sum();
    let all: Vec<_> = shares.into_iter().zip(COLOURS).collect();
    let bars = all.iter().map(|((_, n), colour)| {
        view! { <i style=("--w", format!("{:.1}%", *n as f64 * 100.0 / total.max(1) as f64)) style=("--c", *colour)></i> }
    });
    let bars = bars.collect_view();
    let legend = all.iter().map(|((word, n), colour)| {
        view! { <span><i style=("--c", *colour)></i>{*word}" "{format::count(*n)}</span> }
    });
    let legend = legend.collect_view();
    (total > 0).then(|| view! { <div><div class="parts">{bars}</div><div class="legend mt">{legend}</div></div> })
}

/// The name of the dataset, and a button that makes it and stays.
#[component]
fn Make() -> impl IntoView {
    let w = ui::words();
    let (bench, store) = (bench(), store());
    let name = RwSignal::new(String::new());
    let problems = RwSignal::new(Vec::<Problem>::new());
    let make = move |_| {
        spawn_local(async move {
            match build(bench, store, name.get_untracked().trim().to_owned()).await {
                Ok(info) => {
                    problems.set(Vec::new());
                    name.set(String::new());
                    store.say(fill(w.pref_made, &[("name", &info.name), ("rows", &format::count(info.rows))]));
                }
                Err(found) => problems.set(found),
            }
        });
    };
    let usual = move || {
        store.datasets.track();
        free_name(store)
    };
    let none = move || bench.found.with(|f| f.as_ref().is_none_or(|f| f.kept == 0));
    view! {
        <div class="field">
            <label for="pairs-name">{w.dataset_name}</label>
            <div class="input"><input id="pairs-name" data-testid="pairs-name" autocomplete="off" spellcheck="false" placeholder=usual
                prop:value=name on:input=move |e| name.set(event_target_value(&e)) /></div>
        </div>
        <button type="button" class="btn" data-testid="pairs-make" disabled=none on:click=make>{icon("data", 18)}{w.pref_make}</button>
        {move || problem_notes(problems.get())}
    }
}

/// Makes the dataset and opens Train with the stage and the dataset filled in.
#[component]
pub fn TrainButton() -> impl IntoView {
    let w = ui::words();
    let (bench, store, form) = (bench(), store(), train_form());
    let busy = RwSignal::new(false);
    let kept = move || bench.found.with(|f| f.as_ref().map_or(0, |f| f.kept));
    let navigate = use_navigate();
    let train = move |_| {
        busy.set(true);
        let navigate = navigate.clone();
        let stage = bench.stage.get_untracked();
        spawn_local(async move {
            match build(bench, store, String::new()).await {
                Ok(info) => {
                    form.values.set_key("stage", stage.name().into());
                    form.set_datasets(vec![info.name]);
                    navigate("/", Default::default());
                }
                Err(problems) => store.complain(&problems),
            }
            busy.try_set(false);
        });
    };
    let word = move || match bench.stage.get() {
        Stage::Kto => w.pref_train_kto.to_owned(),
        _ => fill(w.pref_train, &[("n", &format::count(kept()))]),
    };
    view! {
        <button type="button" class="btn primary" data-testid="pairs-train" disabled=move || kept() == 0 || busy.get() on:click=train>
            {icon("train", 18)}{word}
        </button>
    }
}

/// Makes a dataset of the pairs that are kept; without a name, under one that is free.
async fn build(bench: Bench, store: Store, name: String) -> client::Result<DatasetInfo> {
    let wanted = BuildPairs {
        name: if name.is_empty() { free_name(store) } else { name },
        sources: bench.sources.get_untracked(),
        filter: bench.filter.get_untracked(),
        rows: bench.stage.get_untracked().rows(),
        formatting: String::new(),
    };
    let info = client::post::<_, DatasetInfo>(routes::PREFERENCES_DATASET, &wanted).await?;
    store.put_dataset(info.clone());
    Ok(info)
}

/// `pairs`, `pairs-2`, …
fn free_name(store: Store) -> String {
    store.datasets.with_untracked(|all| {
        let taken = |name: &String| all.iter().flatten().any(|d| d.name == *name);
        let numbered = (2..).map(|n| format!("pairs-{n}"));
        std::iter::once("pairs".to_owned()).chain(numbered).find(|name| !taken(name)).unwrap_or_default()
    })
}
