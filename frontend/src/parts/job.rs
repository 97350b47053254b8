//! A job in words: its state, progress, model and data, times.

use crate::{
    client, format,
    i18n::{Language, Words, fill},
    store::{Store, store},
    ui,
};
use api::{Job, JobState, job::Progress, routes};
use leptos::{prelude::*, task::spawn_local};

/// Sends an order about a job (`POST`, without a body). What went wrong is shown; `then` hears whether it was taken.
pub fn order(route: &'static str, id: String, then: impl FnOnce(Store, bool) + 'static) {
    let store = store();
    spawn_local(async move {
        let sent = client::order(&routes::fill(route, &id), &serde_json::json!({})).await;
        if let Err(problems) = &sent {
            store.complain(problems);
        }
        then(store, sent.is_ok());
    });
}

pub fn state_word(state: JobState, w: &'static Words) -> &'static str {
    match state {
        JobState::Queued => w.queued,
        JobState::Running => w.running,
        JobState::Stopping => w.stopping,
        JobState::Succeeded => w.succeeded,
        JobState::Stopped => w.stopped,
        JobState::Failed => w.failed,
        JobState::Interrupted => w.interrupted,
    }
}

/// The state in a word, with a shape.
pub fn badge(state: JobState, share: Option<f64>) -> impl IntoView {
    let class = match state {
        JobState::Running | JobState::Stopping => "badge live",
        JobState::Succeeded => "badge good",
        JobState::Failed => "badge bad",
        JobState::Interrupted => "badge warn",
        JobState::Queued | JobState::Stopped => "badge",
    };
    let word = state_word(state, ui::words());
    let text = match share {
        Some(share) if state == JobState::Running => format!("{word} {}", format::percent(share.floor_percent())),
        _ => word.into(),
    };
    view! { <span class=class>{text}</span> }
}

/// The state of a job with its share, or that its worker has gone silent.
pub fn job_badge(job: &Job) -> impl IntoView + use<> {
    if job.progress.stalled_since.is_some() {
        return view! { <span class="badge warn">{ui::words().stalled}</span> }.into_any();
    }
    badge(job.state, share(&job.progress)).into_any()
}

trait FloorPercent {
    /// Rounded down to whole percent, so that 100 % means done.
    fn floor_percent(self) -> f64;
}

impl FloorPercent for f64 {
    fn floor_percent(self) -> f64 {
        (self * 100.0).floor() / 100.0
    }
}

/// Share done, if the total is known.
pub fn share(progress: &Progress) -> Option<f64> {
    (progress.total > 0).then(|| (progress.done as f64 / progress.total as f64).clamp(0.0, 1.0))
}

/// What a job does besides making steps, in words.
pub fn status(progress: &Progress, language: Language) -> Option<String> {
    progress.status.as_ref().map(|text| language.of(text)).filter(|text| !text.is_empty())
}

/// The model's short name.
pub fn model_name(job: &Job) -> String {
    format::last_part(job.config.text("model_name_or_path").unwrap_or("–")).to_owned()
}

/// The datasets' names, joined.
pub fn datasets(job: &Job) -> String {
    match job.config.get("dataset") {
        Some(serde_json::Value::Array(all)) => all.iter().filter_map(|v| v.as_str()).collect::<Vec<_>>().join(", "),
        Some(serde_json::Value::String(all)) => all.split(',').map(str::trim).collect::<Vec<_>>().join(", "),
        _ => String::new(),
    }
}

/// `SFT, LoRA 8`.
pub fn method(job: &Job) -> String {
    let stage = job.config.text("stage").unwrap_or("sft").to_uppercase();
    let tuning = job.config.text("finetuning_type").unwrap_or("lora");
    let rank = job.config.get("lora_rank").map(|rank| format!(" {rank}")).unwrap_or_default();
    match tuning {
        "lora" => format!("{stage}, LoRA{rank}"),
        other => format!("{stage}, {other}"),
    }
}

/// Seconds that the job took or has taken so far.
pub fn seconds(job: &Job) -> Option<f64> {
    let end = job.finished_at.or_else(|| job.state.is_active().then(now));
    job.started_at.zip(end).map(|(start, end)| (end - start).max(0.0))
}

pub fn left(progress: &Progress, language: Language) -> Option<String> {
    progress
        .seconds_left
        .map(|seconds| fill(language.words().left, &[("time", &format::time_left(seconds.max(1.0), language))]))
}

/// Seconds since 1970.
pub fn now() -> f64 {
    js_sys::Date::now() / 1000.0
}

/// `14:02` today, `Nov 20, 14:02` · `11月20日 14:02` before.
pub fn clock(seconds: f64, language: Language) -> String {
    let date = js_sys::Date::new(&(seconds * 1000.0).into());
    let today = js_sys::Date::new_0();
    let time = format!("{:02}:{:02}", date.get_hours(), date.get_minutes());
    let day = |d: &js_sys::Date| (d.get_full_year(), d.get_month(), d.get_date());
    if day(&date) == day(&today) {
        return time;
    }
    match language {
        Language::Chinese => format!("{}月{}日 {time}", date.get_month() + 1, date.get_date()),
        Language::English => {
            let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
            let month = months.get(date.get_month() as usize).copied().unwrap_or_default();
            format!("{month} {}, {time}", date.get_date())
        }
    }
}

/// A bar with its text above; `percent` moves it through the style sheet's `--v`.
#[component]
pub fn Bar(
    #[prop(into)] share: Signal<Option<f64>>,
    #[prop(into)] label: String,
    #[prop(optional)] thin: bool,
    #[prop(optional)] children: Option<Children>,
) -> impl IntoView {
    let percent = move || share.get().map(|s| format!("{:.1}%", s * 100.0));
    view! {
        <div class="prog" class:thin=thin role="progressbar" aria-label=label aria-valuemin="0" aria-valuemax="100"
            aria-valuenow=move || share.get().map(|s| format!("{:.0}", s * 100.0))>
            {children.map(|children| view! { <div class="txt">{children()}</div> })}
            <div class="bar" class:unknown=move || share.get().is_none()>
                <i style=("--v", move || percent().unwrap_or_else(|| "30%".into()))></i>
            </div>
        </div>
    }
}
