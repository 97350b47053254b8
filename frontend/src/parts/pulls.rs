//! Downloads of models or of datasets: those that run, and the newest one if it failed.

use super::{
    ProblemNote,
    job::{Bar, left, share, status},
};
use crate::{format, i18n::fill, store::store, ui};
use api::{Job, JobKind, JobState};
use leptos::prelude::*;

/// `key` is the argument by which a job names what it downloads; `testid` begins the names of the parts for tests.
#[component]
pub fn Pulls(key: &'static str, testid: &'static str) -> impl IntoView {
    let store = store();
    move || {
        let pulls = store.jobs_of(JobKind::Pull).into_iter().filter(|job| job.config.text(key).is_some());
        let shown =
            pulls.enumerate().filter(|(i, job)| job.state.is_active() || (*i == 0 && job.state == JobState::Failed));
        shown.map(|(_, job)| one(job, key, testid)).collect_view()
    }
}

fn one(job: Job, key: &str, testid: &str) -> impl IntoView {
    let (w, language) = (ui::words(), ui::language());
    if let Some(problem) = job.problem.clone().filter(|_| !job.state.is_active()) {
        return view! { <div class="mt" data-testid=format!("{testid}-problem")><ProblemNote problem /></div> }
            .into_any();
    }
    let name = job.config.text(key).unwrap_or(&job.id).to_owned();
    let amount = (job.progress.total > 0).then(|| {
        let total = format::bytes(job.progress.total);
        fill(w.of_bytes, &[("done", &format::bytes(job.progress.done)), ("total", &total)])
    });
    let amount = [status(&job.progress, language), amount, left(&job.progress, language)];
    view! {
        <div class="mt-2" data-testid=format!("{testid}-progress")>
            <Bar share=Signal::stored(share(&job.progress)) label=name.clone()>
                <span><b>{fill(w.pulling, &[("name", &name)])}</b></span>
                <span class="push">{amount.into_iter().flatten().collect::<Vec<_>>().join(", ")}</span>
            </Bar>
        </div>
    }
    .into_any()
}
