//! Which pairs are kept, each filter with what it drops.

use super::bench;
use crate::{format, i18n::fill, ui};
use api::preference::{Adversarial, DroppedPairs, PairFilter, Pairing};
use leptos::prelude::*;

#[component]
pub fn FiltersCard() -> impl IntoView {
    let w = ui::words();
    let bench = bench();
    let dropped = move |text: &'static str, of: fn(&DroppedPairs) -> u64| {
        let said = move || {
            let n = bench.found.with(|found| found.as_ref().map_or(0, |f| of(&f.dropped)));
            fill(text, &[("n", &format::count(n))])
        };
        view! { <p class="help">{said}</p> }
    };
    let change = move |edit: &dyn Fn(&mut PairFilter)| {
        bench.offset.set(0);
        bench.filter.update(|filter| edit(filter));
    };
    let number = move |name: &'static str,
                       label: &'static str,
                       unit: &'static str,
                       help: AnyView,
                       get: fn(&PairFilter) -> String,
                       set: fn(&mut PairFilter, Option<f64>)| {
        view! {
            <div class="field">
                <label for=format!("pairs-{name}")>{label}</label>
                <div class="input">
                    <input id=format!("pairs-{name}") data-testid=format!("pairs-{name}") inputmode="decimal" autocomplete="off"
                        prop:value=move || bench.filter.with(get)
                        on:change=move |e| {
                            let value = event_target_value(&e).trim().parse::<f64>().ok().filter(|v| v.is_finite());
                            change(&|filter| set(filter, value));
                        } />
                    {(!unit.is_empty()).then(|| view! { <span class="unit">{unit}</span> })}
                </div>
                {help}
            </div>
        }
    };
    let pairing = [(Pairing::All, w.pref_pairing_all), (Pairing::Adjacent, w.pref_pairing_adjacent)].map(|(this, word)| {
        view! {
            <label>
                <input type="radio" name="pairing" prop:checked=move || bench.filter.with(|f| f.pairing == this) on:change=move |_| change(&|f| f.pairing = this) />
                {word}
            </label>
        }
    });
    let adversarial = [
        (Adversarial::Any, w.pref_adversarial_any),
        (Adversarial::Only, w.pref_adversarial_only),
        (Adversarial::Without, w.pref_adversarial_without),
    ]
    .map(|(this, word)| {
        view! {
            <label data-testid=format!("pairs-adversarial-{this:?}")>
                <input type="radio" name="adversarial" prop:checked=move || bench.filter.with(|f| f.adversarial == this) on:change=move |_| change(&|f| f.adversarial = this) />
                {word}
            </label>
        }
    });
    view! {
        <section class="card">
            <div class="card-h"><h2>{w.pref_filters}</h2></div>
            <div class="stack">
                {number("min-gap", w.pref_min_gap, "", dropped(w.pref_min_gap_help, |d| d.min_gap).into_any(),
                    |f| format::number(f.min_gap), |f, value| f.min_gap = value.unwrap_or(0.0))}
                {number("max-gap", w.pref_max_gap, "", dropped(w.pref_max_gap_help, |d| d.max_gap).into_any(),
                    |f| f.max_gap.map(format::number).unwrap_or_default(), |f, value| f.max_gap = value)}
                {number("on-policy", w.pref_on_policy, "%", dropped(w.pref_on_policy_help, |d| d.on_policy).into_any(),
                    |f| format::number(f.on_policy * 100.0), |f, value| f.on_policy = value.unwrap_or(0.0).clamp(0.0, 100.0) / 100.0)}
                <div class="field">
                    <span class="label" id="pairs-adversarial">{w.pref_adversarial}</span>
                    <div class="seg fill" role="radiogroup" aria-labelledby="pairs-adversarial">{adversarial.into_iter().collect_view()}</div>
                    {dropped(w.pref_adversarial_help, |d| d.adversarial)}
                </div>
                <div class="field">
                    <span class="label" id="pairs-pairing">{w.pref_pairing}</span>
                    <div class="seg fill" role="radiogroup" aria-labelledby="pairs-pairing">{pairing.into_iter().collect_view()}</div>
                </div>
            </div>
        </section>
    }
}
