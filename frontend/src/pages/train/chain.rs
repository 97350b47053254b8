//! Before PPO: SFT and the reward model, from the same form.

use crate::{
    chain::{Chain, ends_with},
    form::train_form,
    format,
    i18n::fill,
    store::store,
    ui,
};
use api::data::DatasetInfo;
use leptos::prelude::*;

#[component]
pub fn ChainCard() -> impl IntoView {
    let w = ui::words();
    let language = ui::language();
    let form = train_form();
    let on = Memo::new(move |_| form.chain.with(Option::is_some));
    let fields = move || {
        on.get().then(|| {
            let plans = move || {
                let line = |plan: api::Plan| {
                    let time = plan.seconds.map(|s| format::time_left(s, language)).unwrap_or_default();
                    let words =
                        [("stage", plan.stage.as_str()), ("steps", &format::count(plan.steps)), ("time", &time)];
                    view! { <p class="xs muted">{fill(w.chain_line, &words)}</p> }
                };
                form.before.get().into_iter().map(line).collect_view()
            };
            view! {
                <div class="grid pairs mt">
                    <Dataset label=w.chain_sft testid="chain-sft" kind="instructions"
                        get=|chain| chain.sft.clone() put=|chain, name| chain.sft = name />
                    <Dataset label=w.chain_rm testid="chain-rm" kind="preferences"
                        get=|chain| chain.rm.clone() put=|chain, name| chain.rm = name />
                </div>
                {plans}
            }
        })
    };
    move || {
        ends_with(&form.stage()).then(|| {
            view! {
                <section class="card" aria-labelledby="chain" data-testid="chain">
                    <div class="step"><h2 id="chain">{w.chain}</h2></div>
                    <p class="soft s">{w.chain_help}</p>
                    <label class="switch mt">
                        <input type="checkbox" data-testid="chain-on" prop:checked=on
                            on:change=move |e| form.chain.set(event_target_checked(&e).then(Chain::default)) />
                        <span>{w.chain_switch}</span>
                    </label>
                    {fields}
                </section>
            }
        })
    }
}

/// One of the datasets of a kind.
#[component]
fn Dataset(
    label: &'static str,
    testid: &'static str,
    kind: &'static str,
    get: fn(&Chain) -> String,
    put: fn(&mut Chain, String),
) -> impl IntoView {
    let w = ui::words();
    let form = train_form();
    let chosen = Memo::new(move |_| form.chain.with(|chain| chain.as_ref().map(get).unwrap_or_default()));
    let options = move || {
        let fits = |d: &&DatasetInfo| d.kind == kind && d.problem.is_none();
        let names: Vec<String> =
            store().datasets.with(|all| all.iter().flatten().filter(fits).map(|d| d.name.clone()).collect());
        let option = |name: String| {
            let (value, shown) = (name.clone(), name.clone());
            view! { <option value=value selected=move || chosen.with(|c| *c == name)>{shown}</option> }
        };
        names.into_iter().map(option).collect_view()
    };
    let change = move |name: String| {
        form.chain.update(|chain| {
            if let Some(chain) = chain {
                put(chain, name);
            }
        });
    };
    view! {
        <div class="field">
            <label for=testid>{label}</label>
            <div class="input sel">
                <select id=testid data-testid=testid on:change=move |e| change(event_target_value(&e))>
                    <option value="" selected=move || chosen.with(String::is_empty)>{w.choose_dataset}</option>
                    {options}
                </select>
            </div>
        </div>
    }
}
