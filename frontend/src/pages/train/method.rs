//! The third choice: what is learned, what is trained, and a preset that fills in the rest.

use crate::{form::train_form, store::store, ui};
use api::Card;
use leptos::prelude::*;

#[component]
pub fn MethodCard() -> impl IntoView {
    let w = ui::words();
    let language = ui::language();
    let form = train_form();
    let store = store();
    let stages = move || store.catalog.with(|c| c.as_ref().map(|c| c.stages.clone()).unwrap_or_default());
    let adapters = move || store.catalog.with(|c| c.as_ref().map(|c| c.adapters.clone()).unwrap_or_default());
    let presets = move || {
        let presets = store.catalog.with(|c| c.as_ref().map(|c| c.presets.clone()).unwrap_or_default());
        if presets.is_empty() {
            return None;
        }
        let cards = presets.into_iter().map(|preset| {
            let name = preset.name.clone();
            let checked = move || form.preset.with(|p| p.as_deref() == Some(name.as_str()));
            let (title, help) = (language.of(&preset.title), language.of(&preset.help));
            let testid = format!("preset-{}", preset.name);
            view! {
                <label class="pick" data-testid=testid>
                    <input type="radio" name="preset" prop:checked=checked on:change=move |_| form.apply(&preset) />
                    <span class="name">{title}</span><span class="what">{help}</span>
                </label>
            }
        });
        Some(view! {
            <div class="rule"><div class="field">
                <span class="label" id="preset-label">{w.preset}</span>
                <div class="picks six" role="radiogroup" aria-labelledby="preset-label">{cards.collect_view()}</div>
            </div></div>
        })
    };
    view! {
        <section class="card" aria-labelledby="s3">
            <div class="step"><i>"3"</i><h2 id="s3">{w.method}</h2></div>
            <div class="grid pairs">
                <Choice key="stage" label=w.goal cards=Signal::derive(stages) chosen=Signal::derive(move || form.stage()) />
                <Choice key="finetuning_type" label=w.tuning cards=Signal::derive(adapters) chosen=Signal::derive(move || form.adapter()) />
            </div>
            {presets}
        </section>
    }
}

/// One card of a registry: short words side by side, a list when there are many.
#[component]
fn Choice(key: &'static str, label: &'static str, cards: Signal<Vec<Card>>, chosen: Signal<String>) -> impl IntoView {
    let language = ui::language();
    let form = train_form();
    let pick = move |name: String| form.values.set_key(key, name.into());
    let help = move || {
        let chosen = chosen.get();
        cards.with(|all| all.iter().find(|c| c.name == chosen).map(|c| language.of(&c.help)))
    };
    let problem = move || {
        form.values.problem_of(key).map(|p| view! { <p class="err">{p.message_in(language.tag()).to_owned()}</p> })
    };
    let control = move || {
        let all = cards.get();
        if all.len() > 5 {
            let options = all.into_iter().map(|card| {
                let name = card.name.clone();
                view! { <option value=card.name.clone() selected=move || chosen.with(|c| *c == name)>{language.of(&card.title)}</option> }
            });
            let options = options.collect_view();
            return view! {
                <div class="input sel"><select aria-label=label on:change=move |e| pick(event_target_value(&e))>{options}</select></div>
            }
            .into_any();
        }
        let options = all.into_iter().map(|card| {
            let (name, value) = (card.name.clone(), card.name.clone());
            view! {
                <label data-testid=format!("{key}-{}", card.name)>
                    <input type="radio" name=key prop:checked=move || chosen.with(|c| *c == name) on:change=move |_| pick(value.clone()) />
                    {language.of(&card.title)}
                </label>
            }
        });
        view! { <div class="seg fill" role="radiogroup" aria-label=label>{options.collect_view()}</div> }.into_any()
    };
    view! {
        <fieldset class="field" id=crate::form::field_id(key) class:bad=move || form.values.problem_of(key).is_some()>
            <span class="label">{label}<span class="key">{key}</span></span>
            {control}
            <p class="help">{help}</p>
            {problem}
        </fieldset>
    }
}
