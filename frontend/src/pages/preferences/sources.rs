//! The datasets that pairs come from, each with what it gives and how much it weighs.

use super::bench;
use crate::{
    format,
    i18n::fill,
    parts::{ProblemNote, icon},
    store::store,
    ui,
};
use api::preference::{PairSource, SourceCount};
use leptos::prelude::*;

#[component]
pub fn SourcesCard() -> impl IntoView {
    let w = ui::words();
    let (bench, store) = (bench(), store());
    let rows = move || {
        let counts = bench.found.with(|found| found.as_ref().map(|f| f.sources.clone())).unwrap_or_default();
        let row = |source: PairSource| {
            let count = counts.iter().find(|count| count.dataset == source.dataset).cloned();
            row(source, count)
        };
        let sources = bench.sources.get();
        if sources.is_empty() {
            return view! { <p class="s muted">{w.pref_sources_none}</p> }.into_any();
        }
        view! { <ul class="ticks plain">{sources.into_iter().map(row).collect_view()}</ul> }.into_any()
    };
    let options = move || {
        let used = bench.sources.with(|all| all.iter().map(|s| s.dataset.clone()).collect::<Vec<_>>());
        let names = store.datasets.with(|all| {
            let fits = |d: &&api::data::DatasetInfo| matches!(d.kind.as_str(), "preferences" | "instructions" | "text");
            all.iter().flatten().filter(fits).map(|d| d.name.clone()).collect::<Vec<_>>()
        });
        let free = names.into_iter().filter(|name| !used.contains(name));
        let free = free.map(|name| view! { <option value=name.clone()>{name.clone()}</option> }).collect_view();
        view! { <option value="" selected=true>{w.pref_add_source}</option> {free} }
    };
    let duplicates = move || {
        let n = bench.found.with(|found| found.as_ref().map_or(0, |f| f.dropped.duplicate));
        (n > 0).then(|| view! { <p class="s muted">{fill(w.pref_duplicates, &[("n", &format::count(n))])}</p> })
    };
    let add = move |e| {
        bench.add_source(&event_target_value(&e));
        bench.offset.set(0);
    };
    view! {
        <section class="card">
            <div class="card-h"><h2>{w.pref_sources}</h2></div>
            <div class="stack tight">
                {rows}{duplicates}
                <div class="input sel"><select aria-label=w.pref_add_source data-testid="source-add" on:change=add>{options}</select></div>
            </div>
        </section>
    }
}

fn row(source: PairSource, count: Option<SourceCount>) -> impl IntoView {
    let w = ui::words();
    let bench = bench();
    let count = count.unwrap_or_default();
    let of =
        fill(w.pref_source_counts, &[("kept", &format::count(count.kept)), ("found", &format::count(count.found))]);
    let ties = (count.ties > 0).then(|| fill(w.pref_ties_out, &[("n", &format::count(count.ties))]));
    let agreed = count.agreement.map(|share| fill(w.pref_agree_n, &[("share", &format::percent(share))]));
    let alike = count.with_votes.map(|with| {
        let counts = [("agreed", with.agreed), ("n", with.pairs)].map(|(name, n)| (name, format::count(n)));
        fill(w.pref_votes_agree_n, &counts.each_ref().map(|(name, n)| (*name, n.as_str())))
    });
    let origins = count.origins.iter().map(|origin| super::origin_word(*origin).to_owned());
    let about = origins.chain([of]).chain(ties).chain(agreed).chain(alike).collect::<Vec<_>>().join(" · ");
    let problem = count.problem.map(|problem| view! { <ProblemNote problem warn=true /> });
    let name = source.dataset;
    let (weighed, removed) = (name.clone(), name.clone());
    let weigh = move |e| {
        let value = event_target_value(&e).trim().parse::<f64>().ok().filter(|w| (0.0..=100.0).contains(w));
        bench.sources.update(|all| {
            if let Some(source) = all.iter_mut().find(|s| s.dataset == weighed) {
                source.weight = value.unwrap_or(1.0);
            }
        });
    };
    let remove = move |_| {
        bench.offset.set(0);
        bench.sources.update(|all| all.retain(|s| s.dataset != removed));
    };
    view! {
        <li class="source" data-testid=format!("source-{name}")>
            {icon("data", 16)}
            <span>{name.clone()}</span>
            <span class="pair">
                <span class="input times"><input inputmode="decimal" aria-label=fill(w.pref_weight, &[("name", &name)])
                    prop:value=format::number(source.weight) on:change=weigh /><span class="unit">"×"</span></span>
                <button type="button" class="btn quiet icon s" aria-label=fill(w.pref_remove_source, &[("name", &name)]) on:click=remove>{icon("x", 14)}</button>
            </span>
            <div><small>{about}</small>{problem}</div>
        </li>
    }
}
