//! One setting, drawn from its schema: label, control, help, hint, problem, and what it was.

use crate::{
    form::{Values, field_id},
    i18n::fill,
    setting::{Kind, Setting, same},
    ui,
};
use leptos::{html, prelude::*};
use serde_json::Value;

#[component]
pub fn Field(setting: Setting, values: Values) -> impl IntoView {
    let w = ui::words();
    let language = ui::language();
    let key = setting.key.clone();
    let id = field_id(&key);
    let (label, help, hint) = (setting.label(language), setting.help(language), setting.hint(language));
    // Help that only repeats the label says nothing.
    let help = if help.trim_end_matches(['.', '。']) == label { String::new() } else { help };
    let setting = StoredValue::new(setting);
    let changed = Memo::new(move |_| setting.with_value(|s| values.is_changed(s)));
    let problem = {
        let key = key.clone();
        Memo::new(move |_| values.problem_of(&key))
    };
    let was = move || {
        changed.get().then(|| {
            let usual = setting.with_value(|s| spoken(s, &values.usual(s)));
            let text = if values.preset.with(|p| p.0.is_empty()) { w.default_value } else { w.preset_value };
            view! { <span class="was">{fill(text, &[("value", &usual)])}</span> }
        })
    };
    let error = move || {
        problem.get().map(|p| {
            let hint = p.hint_in(language.tag()).to_owned();
            view! { <p class="err" role="alert">{p.message_in(language.tag()).to_owned()} " " {hint}</p> }
        })
    };
    let bad = move || problem.with(Option::is_some);
    let kind = setting.with_value(Setting::kind);
    if kind == Kind::Switch {
        return view! {
            <div class="field" id=id class:changed=changed class:bad=bad>
                <label class="switch">
                    <input type="checkbox" prop:checked=move || setting.with_value(|s| values.current(s)) == true
                        on:change=move |e| setting.with_value(|s| values.put(s, event_target_checked(&e).into())) />
                    <span>{label}<small>{help}{(!hint.is_empty()).then(|| format!(" {hint}"))}</small></span>
                </label>
                <span class="key">{key}</span>
                {error}
            </div>
        }
        .into_any();
    }
    let control = match kind {
        Kind::MaybeSwitch => {
            choice(setting, values, vec![Value::Null, true.into(), false.into()], id.clone()).into_any()
        }
        Kind::Choice(all) => choice(setting, values, all, id.clone()).into_any(),
        kind => text(setting, values, kind == Kind::Number, id.clone()).into_any(),
    };
    let hint =
        (!hint.is_empty()).then(|| view! { <div class="hint"><span>{hint}</span><code>{key.clone()}</code></div> });
    view! {
        <div class="field" class:changed=changed class:bad=bad>
            <label for=id>{label}{was}<span class="key">{key}</span></label>
            {control}
            {(!help.is_empty()).then(|| view! { <p class="help">{help}</p> })}
            {error}
            {hint}
        </div>
    }
    .into_any()
}

/// A value in words, for summaries.
pub fn spoken(setting: &Setting, value: &Value) -> String {
    let w = ui::words();
    match value {
        Value::Null => w.empty_value.into(),
        Value::Bool(true) => w.on.into(),
        Value::Bool(false) => w.off.into(),
        other => {
            let text = setting.show(other);
            if text.is_empty() { w.empty_value.into() } else { text }
        }
    }
}

fn choice(setting: StoredValue<Setting>, values: Values, all: Vec<Value>, id: String) -> impl IntoView {
    let chosen = Memo::new(move |_| setting.with_value(|s| values.current(s)));
    let options = all
        .iter()
        .enumerate()
        .map(|(i, value)| {
            let text = setting.with_value(|s| spoken(s, value));
            let value = value.clone();
            view! { <option value=i.to_string() selected=move || same(&chosen.get(), &value)>{text}</option> }
        })
        .collect_view();
    let at = {
        let all = all.clone();
        move || all.iter().position(|v| same(v, &chosen.get())).map(|i| i.to_string()).unwrap_or_default()
    };
    let change = move |e| {
        let index: usize = event_target_value(&e).parse().unwrap_or(0);
        setting.with_value(|s| values.put(s, all.get(index).cloned().unwrap_or_default()));
    };
    view! { <div class="input sel"><select id=id prop:value=at on:change=change>{options}</select></div> }
}

fn text(setting: StoredValue<Setting>, values: Values, numeric: bool, id: String) -> impl IntoView {
    let node = NodeRef::<html::Input>::new();
    // The text stays as it is typed; it follows the value only while the cursor is elsewhere.
    let settle = move || {
        let Some(input) = node.get_untracked() else { return };
        let (text, parsed) = setting.with_value(|s| (s.show(&values.set_or_default(s)), s.parse(&input.value())));
        if !same(&parsed, &setting.with_value(|s| values.set_or_default(s))) || input.value().is_empty() {
            input.set_value(&text);
        }
    };
    Effect::new(move || {
        let _ = setting.with_value(|s| values.current(s));
        let Some(input) = node.get() else { return };
        let focused = document().active_element().is_some_and(|active| active.is_same_node(Some(&input)));
        if !focused {
            settle();
        }
    });
    let unit = setting.with_value(|s| s.unit().map(str::to_owned));
    let unit = unit.map(|unit| match (unit.as_str(), ui::language()) {
        ("tokens", crate::i18n::Language::Chinese) => "词元".to_owned(),
        _ => unit,
    });
    view! {
        <div class="input">
            <input id=id node_ref=node inputmode=numeric.then_some("decimal") autocomplete="off" spellcheck="false"
                placeholder=setting.with_value(|s| s.default().is_null().then(|| ui::words().empty_value))
                on:input=move |e| setting.with_value(|s| values.put(s, s.parse(&event_target_value(&e))))
                on:blur=move |_| settle() />
            {unit.map(|unit| view! { <span class="unit">{unit}</span> })}
        </div>
    }
}
