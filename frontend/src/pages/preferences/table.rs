//! The pairs that are kept.

use super::{PAGE, bench, origin_word};
use crate::{format, i18n::fill, ui};
use api::preference::{Origin, ShownPair};
use leptos::prelude::*;

const ORIGINS: [Origin; 5] = [Origin::Votes, Origin::Judge, Origin::Scores, Origin::Ranking, Origin::Pairs];

#[component]
pub fn PairsCard() -> impl IntoView {
    let w = ui::words();
    let bench = bench();
    let count = move || {
        bench.found.with(|found| {
            let found = found.as_ref()?;
            Some(fill(w.pref_kept_of, &[("kept", &format::count(found.kept)), ("found", &format::count(found.found))]))
        })
    };
    let choose = move |e| {
        let value = event_target_value(&e);
        bench.origin.set(ORIGINS.into_iter().find(|origin| format!("{origin:?}") == value));
        bench.offset.set(0);
    };
    let options = ORIGINS.map(|origin| {
        let selected = move || bench.origin.get() == Some(origin);
        view! { <option value=format!("{origin:?}") selected=selected>{origin_word(origin)}</option> }
    });
    let rows = move || {
        let pairs = bench.found.with(|found| found.as_ref().map(|f| f.pairs.clone())).unwrap_or_default();
        if pairs.is_empty() {
            return view! { <p class="pad s muted">{w.pref_no_pairs}</p> }.into_any();
        }
        view! {
            <div class="scroll">
                <table class="table stacked pairs" data-testid="pairs-table">
                    <thead><tr><th>{w.pref_prompt}</th><th>{w.column_chosen}</th><th>{w.column_rejected}</th>
                        <th>{w.pref_source}</th><th class="num">{w.pref_gap}</th></tr></thead>
                    <tbody>{pairs.into_iter().map(row).collect_view()}</tbody>
                </table>
            </div>
        }
        .into_any()
    };
    let pager = move || {
        let (offset, matching) = bench.found.with(|found| found.as_ref().map(|f| (f.offset, f.matching)))?;
        if matching <= PAGE {
            return None;
        }
        let end = (offset + PAGE).min(matching);
        let range = [("from", offset + 1), ("to", end), ("total", matching)].map(|(name, n)| (name, format::count(n)));
        let range = fill(w.range_of, &range.each_ref().map(|(name, n)| (*name, n.as_str())));
        Some(view! {
            <div class="row pager">
                <span class="s muted num">{range}</span>
                <span class="row push">
                    <button type="button" class="btn s" disabled=offset == 0 on:click=move |_| bench.offset.set(offset.saturating_sub(PAGE))>{w.previous}</button>
                    <button type="button" class="btn s" disabled=end == matching on:click=move |_| bench.offset.set(offset + PAGE)>{w.next}</button>
                </span>
            </div>
        })
    };
    view! {
        <section class="card flush">
            <div class="card-h">
                <h2>{w.pref_pairs}</h2><span class="sub num" data-testid="pairs-count">{count}</span>
                <div class="input sel pref-select push"><select aria-label=w.pref_source on:change=choose>
                    <option value="">{w.pref_all_sources}</option>{options.into_iter().collect_view()}
                </select></div>
            </div>
            {rows}{pager}
        </section>
    }
}

fn row(pair: ShownPair) -> impl IntoView {
    let w = ui::words();
    let tag = pair.adversarial.then(|| view! { <small>{w.pref_adversarial_tag}</small> });
    let gap = pair.gap.map_or_else(|| "–".to_owned(), format::measure);
    view! {
        <tr>
            <td class="full"><b class="lines">{pair.prompt}</b>{tag}</td>
            <td class="full" data-l=w.column_chosen><span class="lines">{pair.chosen}</span></td>
            <td class="full soft" data-l=w.column_rejected><span class="lines">{pair.rejected}</span></td>
            <td data-l=w.pref_source>{origin_word(pair.origin)}<small>{pair.dataset}</small></td>
            <td class="num" data-l=w.pref_gap>{gap}</td>
        </tr>
    }
}
