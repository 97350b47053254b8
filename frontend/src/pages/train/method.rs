//! The third choice: what is learned, what is trained, and a preset that fills in the rest.

use crate::{form::train_form, i18n::Words, store::store, ui};
use api::Card;
use leptos::prelude::*;

/// Cards that belong together, by name. What no family names comes last.
struct Family {
    title: fn(&'static Words) -> &'static str,
    names: &'static [&'static str],
}

const STAGES: &[Family] = &[
    Family { title: |w| w.family_examples, names: &["pt", "sft", "mixed", "distill"] },
    Family { title: |w| w.family_preferences, names: &["rm", "dpo", "kto"] },
    Family { title: |w| w.family_rewards, names: &["ppo", "grpo"] },
];

const TUNING: &[Family] = &[
    Family { title: |w| w.family_weights, names: &["full", "freeze"] },
    Family { title: |w| w.family_adapters, names: &["lora", "adalora", "oft", "ia3", "adapter"] },
    Family { title: |w| w.family_prompts, names: &["prefix", "prompt", "p_tuning"] },
];

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
                <Choice key="stage" label=w.goal families=STAGES cards=Signal::derive(stages) chosen=Signal::derive(move || form.stage()) />
                <Choice key="finetuning_type" label=w.tuning families=TUNING cards=Signal::derive(adapters) chosen=Signal::derive(move || form.adapter()) />
            </div>
            {presets}
        </section>
    }
}

/// More cards than this are shown in groups.
const ONE_LINE: usize = 5;

/// One card of a registry: short words side by side, in groups when there are many.
#[component]
fn Choice(
    key: &'static str,
    label: &'static str,
    families: &'static [Family],
    cards: Signal<Vec<Card>>,
    chosen: Signal<String>,
) -> impl IntoView {
    let w = ui::words();
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
    let option = move |card: Card| {
        let (name, value) = (card.name.clone(), card.name.clone());
        view! {
            <label data-testid=format!("{key}-{}", card.name)>
                <input type="radio" name=key prop:checked=move || chosen.with(|c| *c == name) on:change=move |_| pick(value.clone()) />
                {language.of(&card.title)}
            </label>
        }
    };
    let control = move || {
        let all = cards.get();
        if all.len() <= ONE_LINE {
            let options = all.into_iter().map(option).collect_view();
            return view! { <div class="seg fill" role="radiogroup" aria-label=label>{options}</div> }.into_any();
        }
        let groups = grouped(all, families).into_iter().map(|(family, cards)| {
            let title = family.map_or(w.family_more, |family| (family.title)(w));
            let options = cards.into_iter().map(option).collect_view();
            view! { <span class="family">{title}</span> <div class="seg wrap">{options}</div> }
        });
        view! { <div class="families" role="radiogroup" aria-label=label>{groups.collect_view()}</div> }.into_any()
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

/// The cards by family, in the order of the families and, within one, of their names.
fn grouped(mut cards: Vec<Card>, families: &'static [Family]) -> Vec<(Option<&'static Family>, Vec<Card>)> {
    let mut groups = Vec::new();
    for family in families {
        let place = |card: &Card| family.names.iter().position(|name| *name == card.name);
        let (mut found, rest): (Vec<Card>, Vec<Card>) = cards.into_iter().partition(|card| place(card).is_some());
        found.sort_by_key(place);
        cards = rest;
        groups.push((Some(family), found));
    }
    groups.push((None, cards));
    groups.retain(|(_, cards)| !cards.is_empty());
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards_are_grouped_and_none_is_lost() {
        let card = |name: &&str| Card {
            name: (*name).into(),
            title: api::Text::default(),
            help: api::Text::default(),
            schema: serde_json::Value::Null,
        };
        let cards = ["sft", "unlearn", "grpo", "dpo", "pt"].iter().map(card).collect();
        let names: Vec<Vec<String>> =
            grouped(cards, STAGES).into_iter().map(|(_, cards)| cards.into_iter().map(|c| c.name).collect()).collect();
        assert_eq!(names, [vec!["pt", "sft"], vec!["dpo"], vec!["grpo"], vec!["unlearn"]]);
    }
}
