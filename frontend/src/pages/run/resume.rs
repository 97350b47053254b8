//! Going on with a run otherwise: from which checkpoint, with what of it, with which settings. What changes is listed and
//! confirmed before it is asked for.

use crate::{
    client,
    i18n::fill,
    parts::{Dialog, icon, source::checkpoint_name},
    setting::sections,
    store::store,
    ui,
};
use api::{Job, RunConfig, job::Resume, params::ResumeMode, routes};
use leptos::{prelude::*, task::spawn_local};
use serde_json::Value;

/// Settings that people change when they go on.
const CHANGEABLE: [&str; 5] =
    ["learning_rate", "num_train_epochs", "max_steps", "per_device_train_batch_size", "save_steps"];
/// The one of them that changes no number.
const HARMLESS: &str = "save_steps";
/// The newest, in the list of checkpoints.
const NEWEST: &str = "";

#[component]
pub fn ResumeDialog(open: RwSignal<bool>, job: Memo<Option<Job>>) -> impl IntoView {
    let (w, store) = (ui::words(), store());
    let language = ui::language();
    let id = move || job.with(|job| job.as_ref().map(|job| job.id.clone()).unwrap_or_default());
    let (from, mode, accepted) = (RwSignal::new(String::new()), RwSignal::new(ResumeMode::All), RwSignal::new(false));
    let texts = CHANGEABLE.map(|key| (key, RwSignal::new(String::new())));
    let before = move |key: &str| {
        job.with(|job| job.as_ref().and_then(|job| job.config.get(key).map(shown)).unwrap_or_default())
    };
    // What the job has is shown whenever the dialog opens.
    Effect::new(move || {
        if open.get() {
            texts.iter().for_each(|(key, text)| text.set(untrack(|| before(key))));
            accepted.set(false);
        }
    });
    let changed = move || -> Vec<(&'static str, String, String)> {
        let now = texts.iter().map(|(key, text)| (*key, before(key), text.get().trim().to_string()));
        now.filter(|(_, before, now)| before != now).collect()
    };
    // Rows that changed since are told of by the run itself, which then failed.
    let was_refused = move || {
        job.with(|job| job.as_ref().and_then(|job| job.problem.as_ref()).is_some_and(|p| p.code == "settings_changed"))
    };
    let to_confirm = move || {
        let changes = changed().iter().any(|(key, ..)| *key != HARMLESS);
        mode.get() != ResumeMode::Weights && (changes || was_refused())
    };
    let checkpoints = move || {
        let list = store.checkpoints.with(|all| all.get(&id()).cloned()).unwrap_or_default();
        let seeks_best = job.with(|job| {
            let config = job.as_ref().map(|job| job.config.clone()).unwrap_or_default();
            config.is_on("load_best_model_at_end") || config.text("metric_for_best_model").is_some()
        });
        let best = seeks_best.then(|| view! { <option value="best">{w.resume_best}</option> });
        let each = list.into_iter().rev().filter(|c| c.name != "final").map(|c| {
            let text = checkpoint_name(&c, language);
            view! { <option value=c.name>{text}</option> }
        });
        view! { <option value=NEWEST>{w.resume_newest}</option>{best}{each.collect_view()} }
    };
    let modes = [ResumeMode::All, ResumeMode::Optimizer, ResumeMode::Weights];
    let help = move || match mode.get() {
        ResumeMode::All => w.resume_all_help,
        ResumeMode::Optimizer => w.resume_optimizer_help,
        ResumeMode::Weights => w.resume_weights_help,
    };
    let act = move |_: leptos::ev::MouseEvent| {
        let mut settings = RunConfig::default();
        for (key, _, now) in changed() {
            let value =
                if now.is_empty() { Value::Null } else { serde_json::from_str(&now).unwrap_or(Value::String(now)) };
            settings.set(key, value);
        }
        let checkpoint = Some(from.get()).filter(|name| name != NEWEST);
        let wish = Resume { checkpoint, mode: mode.get(), settings, accept_changes: accepted.get() && to_confirm() };
        let path = routes::fill(routes::JOB_RESUME, &id());
        open.set(false);
        spawn_local(async move {
            match client::order(&path, &wish).await {
                Ok(()) => store.say(w.resumed_as.into()),
                Err(problems) => store.complain(&problems),
            }
        });
    };
    let known = Memo::new(move |_| {
        let sections = store.catalog.with(|catalog| catalog.as_ref().map(|all| sections(all, "", "")));
        sections.into_iter().flatten().flat_map(|section| section.settings).collect::<Vec<_>>()
    });
    let fields = texts.map(|(key, text)| {
        let name = format!("resume-{key}");
        let setting = move || known.with(|all| all.iter().find(|setting| setting.key == key).cloned());
        let label = move || setting().map(|setting| setting.label(language));
        let default = move || setting().map(|setting| setting.default().clone()).filter(|v| !v.is_null());
        view! {
            <div class="field">
                <label for=name.clone()>{label}" "<code class="xs">{key}</code></label>
                <div class="input">
                    <input id=name.clone() data-testid=name type="text" placeholder=move || default().as_ref().map(shown)
                        prop:value=text on:input=move |e| text.set(event_target_value(&e)) />
                </div>
            </div>
        }
    });
    let listed = move || {
        let rows = changed().into_iter().map(|(key, before, now)| {
            let text = |text: String| if text.is_empty() { "–".to_string() } else { text };
            view! { <li><code>{key}</code>" "{text(before)}" → "{text(now)}</li> }
        });
        let refused = was_refused().then(|| {
            let told = job.with(|job| job.as_ref().and_then(|job| job.problem.clone()));
            told.map(|problem| view! { <li>{problem.message_in(language.tag()).to_string()}</li> })
        });
        to_confirm().then(|| view! {
            <p class="soft s">{w.resume_changes}</p>
            <ul class="s" data-testid="resume-changes">{refused}{rows.collect_view()}</ul>
            <label class="switch">
                <input type="checkbox" data-testid="resume-accept" prop:checked=accepted on:change=move |e| accepted.set(event_target_checked(&e)) />
                <span>{w.resume_accept}</span>
            </label>
        })
    };
    view! {
        <Dialog open title=Signal::derive(move || fill(w.resume_title, &[("name", &id())]))>
            <div class="field">
                <label for="resume-from">{w.checkpoint}</label>
                <div class="input">
                    <select id="resume-from" data-testid="resume-from" on:change=move |e| from.set(event_target_value(&e))>{checkpoints}</select>
                </div>
            </div>
            <div class="field">
                <label for="resume-mode">{w.resume_mode}</label>
                <div class="input">
                    <select id="resume-mode" data-testid="resume-mode" on:change=move |e| mode.set(modes[event_target_value(&e).parse::<usize>().unwrap_or(0).min(2)])>
                        <option value="0">{w.resume_all}</option>
                        <option value="1">{w.resume_optimizer}</option>
                        <option value="2">{w.resume_weights}</option>
                    </select>
                </div>
                <p class="help">{help}</p>
            </div>
            {fields.into_iter().collect_view()}
            {listed}
            <div class="row end">
                <button type="button" class="btn" on:click=move |_| open.set(false)>{w.cancel}</button>
                <button type="button" class="btn primary" data-testid="resume-act" disabled=move || to_confirm() && !accepted.get() on:click=act>
                    {icon("play", 18)}{w.resume}
                </button>
            </div>
        </Dialog>
    }
}

/// A value as it is typed.
fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
