//! Filling the form from a YAML or JSON text.

use crate::{
    client,
    form::train_form,
    i18n::fill,
    parts::{Dialog, ProblemNote, icon},
    store::store,
    ui,
};
use api::{Problem, RunConfig, routes};
use leptos::{html, prelude::*, task::spawn_local};

#[component]
pub fn OpenConfig(open: RwSignal<bool>) -> impl IntoView {
    let w = ui::words();
    let form = train_form();
    let store = store();
    let text = RwSignal::new(String::new());
    let problems = RwSignal::new(Vec::<Problem>::new());
    let file = NodeRef::<html::Input>::new();
    let read = move |_| {
        let Some(input) = file.get_untracked() else { return };
        let Some(chosen) = input.files().and_then(|files| files.get(0)) else { return };
        spawn_local(async move {
            if let Ok(value) = wasm_bindgen_futures::JsFuture::from(chosen.text()).await {
                text.set(value.as_string().unwrap_or_default());
            }
            input.set_value("");
        });
    };
    let send = move |_| {
        spawn_local(async move {
            match client::post_text::<RunConfig>(routes::CONFIG, text.get_untracked()).await {
                Ok(config) => {
                    let n = config.0.len().to_string();
                    form.fill(config);
                    problems.set(Vec::new());
                    text.set(String::new());
                    open.set(false);
                    store.say(fill(w.form_filled, &[("n", &n)]));
                }
                Err(found) => problems.set(found),
            }
        });
    };
    view! {
        <Dialog open title=Signal::stored(w.open_title.to_owned()) wide=true>
            <p class="soft s">{w.open_help}</p>
            <div class="field mt">
                <label for="config-text">{w.paste_here}</label>
                <div class="input"><textarea id="config-text" class="mono" rows="12" spellcheck="false" data-testid="config-text"
                    prop:value=text on:input=move |e| text.set(event_target_value(&e))></textarea></div>
            </div>
            <div class="stack tight mt">{move || problems.get().into_iter().map(|problem| view! { <ProblemNote problem /> }).collect_view()}</div>
            <div class="row end">
                <label class="btn s">{icon("file", 16)}{w.choose_file}
                    <input class="vh" type="file" accept=".yaml,.yml,.json,.txt" node_ref=file on:change=read />
                </label>
                <button type="button" class="btn s" on:click=move |_| open.set(false)>{w.cancel}</button>
                <button type="button" class="btn primary s" data-testid="config-fill" disabled=move || text.with(|t| t.trim().is_empty()) on:click=send>{w.fill_form}</button>
            </div>
        </Dialog>
    }
}
