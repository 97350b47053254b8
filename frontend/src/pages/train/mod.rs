//! Train: a model, data, a method, and the plan that says what will happen.

mod chain;
mod data;
mod method;
mod model;
mod plan;
mod settings;
mod yaml;

pub use plan::facts;

use crate::{
    app::title,
    client,
    form::{focus, train_form},
    parts::{Dialog, dialog::CopyButton, icon},
    store::store,
    ui::{self, Ui},
};
use api::{
    Job, JobKind, RunConfig,
    job::{NewChain, NewJob},
    routes,
};
use leptos::{ev, prelude::*, task::spawn_local};
use leptos_router::hooks::use_navigate;

#[component]
pub fn Train() -> impl IntoView {
    let w = ui::words();
    title(w.train);
    let ui = expect_context::<Ui>();
    let form = train_form();
    let store = store();
    let (show_yaml, show_open) = (RwSignal::new(false), RwSignal::new(false));
    let starting = RwSignal::new(false);
    let navigate = use_navigate();
    let start = Callback::new(move |()| {
        if starting.get_untracked() || form.plan.with_untracked(Option::is_none) {
            return;
        }
        starting.set(true);
        let navigate = navigate.clone();
        let job = |config: RunConfig| {
            let name = config.text("run_name").unwrap_or_default().to_owned();
            NewJob::new(JobKind::Train, name, config)
        };
        let mut jobs: Vec<NewJob> = form.jobs().into_iter().map(job).collect();
        spawn_local(async move {
            let made = match jobs.len() {
                1 => client::post::<_, Job>(routes::JOBS, &jobs.remove(0)).await.map(|job| vec![job]),
                _ => client::post::<_, Vec<Job>>(routes::CHAINS, &NewChain { jobs }).await,
            };
            match made {
                Ok(jobs) => {
                    let href = jobs.first().map(|job| format!("/runs/{}", job.id)).unwrap_or_default();
                    jobs.into_iter().for_each(|job| store.put(job));
                    navigate(&href, Default::default());
                }
                Err(problems) => {
                    let (fields, others): (Vec<_>, Vec<_>) = problems.into_iter().partition(|p| p.field.is_some());
                    store.complain(&others);
                    if !fields.is_empty() {
                        form.values.problems.set(fields);
                        form.plan.set(None);
                    }
                }
            }
            starting.try_set(false);
        });
    });
    let keys = window_event_listener(ev::keydown, move |event| {
        if event.key() == "Enter" && (event.ctrl_key() || event.meta_key()) {
            event.prevent_default();
            start.run(());
        } else if event.key() == "/" && !ui::is_typing(&event) && !event.ctrl_key() && !event.meta_key() {
            event.prevent_default();
            focus("find-setting");
        }
    });
    on_cleanup(move || keys.remove());
    let yaml = Signal::derive(move || form.config().to_yaml());
    view! {
        <header class="head">
            <div><h1>{w.train}</h1><p class="state">{w.train_lead}</p></div>
            <div class="acts">
                <label class="switch s soft wide-only middle">
                    <input type="checkbox" prop:checked=ui.names on:change=move |e| ui.show_names(event_target_checked(&e)) />
                    <span>{w.argument_names}</span>
                </label>
                <button type="button" class="btn" data-testid="train-yaml" on:click=move |_| show_yaml.set(true)>{icon("file", 18)}{w.yaml}</button>
                <button type="button" class="btn" data-testid="train-open" on:click=move |_| show_open.set(true)>{icon("folder", 18)}{w.open_config}</button>
            </div>
        </header>
        <div class="split">
            <form class="stack wide" aria-label=w.settings on:submit=|e| e.prevent_default()>
                <model::ModelCard />
                <data::DataCard />
                <method::MethodCard />
                <chain::ChainCard />
                <settings::SettingsCard />
            </form>
            <aside class="stack stick" aria-label=w.plan><plan::PlanCard start starting /></aside>
        </div>
        <plan::Dock start starting />
        <Dialog open=show_yaml title=Signal::stored(w.yaml_title.to_owned()) wide=true>
            <p class="soft s">{w.yaml_help}</p>
            <pre class="log mt" data-testid="yaml-text" tabindex="0">{yaml}</pre>
            <div class="row end">
                <CopyButton text=yaml />
                <button type="button" class="btn s" on:click=move |_| show_yaml.set(false)>{w.close}</button>
            </div>
        </Dialog>
        <yaml::OpenConfig open=show_open />
    }
}
