//! A job that makes rows, as its pages list it.

use crate::{
    format,
    i18n::fill,
    parts::{
        ProblemNote,
        job::{Bar, badge, left, order, share, status},
    },
    store::Store,
    ui,
};
use api::{Job, JobKind, routes};
use leptos::prelude::*;

/// Jobs of these kinds of making, newest first.
pub fn jobs(store: Store, tasks: &'static [&'static str]) -> impl Iterator<Item = Job> {
    let task = |job: &Job| tasks.contains(&job.config.text("task").unwrap_or("self_instruct"));
    store.jobs_of(JobKind::Make).into_iter().filter(task)
}

/// The dataset that a job made.
pub fn made_dataset(job: &Job) -> Option<String> {
    job.artifact.as_deref().map(|path| format::last_part(path).trim_end_matches(".jsonl").to_owned())
}

/// A job: how far it is, or what became of it; it can be stopped, and taken up again. `also` stands
/// with its buttons.
pub fn making_job(job: Job, also: impl IntoView + 'static) -> impl IntoView {
    let (w, language) = (ui::words(), ui::language());
    let active = job.state.is_active();
    let progress = active.then(|| {
        let text = status(&job.progress, language).unwrap_or_default();
        let amount = fill(
            w.of_bytes,
            &[("done", &format::count(job.progress.done)), ("total", &format::count(job.progress.total))],
        );
        let rest = [Some(amount), left(&job.progress, language)].into_iter().flatten().collect::<Vec<_>>().join(", ");
        view! {
            <Bar share=Signal::stored(share(&job.progress)) label=w.make_data>
                <span><b>{text}</b></span><span class="push">{rest}</span>
            </Bar>
        }
    });
    let made = job.summary.get("rows").map(|rows| fill(w.rows_n, &[("n", &format::count(*rows as u64))]));
    let dropped: f64 = job.summary.iter().filter(|(name, _)| name.starts_with("dropped_")).map(|(_, n)| n).sum();
    let dropped = (dropped > 0.0).then(|| fill(w.make_dropped, &[("n", &format::count(dropped as u64))]));
    let agreed = job.summary.get("agreement").or(job.progress.latest.get("agreement"));
    let agreed = agreed.map(|share| fill(w.pref_agree_n, &[("share", &format::percent(*share))]));
    let ties = job.summary.get("ties").filter(|n| **n > 0.0);
    let ties = ties.map(|n| fill(w.pref_ties_out, &[("n", &format::count(*n as u64))]));
    let about = [made, agreed, ties, dropped].into_iter().flatten().collect::<Vec<_>>().join(" · ");
    let title = match made_dataset(&job) {
        Some(name) => view! { <a class="clip" href=routes::fill("/data/{name}", &name)>{name.clone()}</a> }.into_any(),
        None => view! { <b class="clip">{job.id.clone()}</b> }.into_any(),
    };
    let problem = job.problem.clone().filter(|_| !active).map(|problem| view! { <ProblemNote problem /> });
    let again = !active && job.state != api::JobState::Succeeded;
    let (stop_id, resume_id) = (job.id.clone(), job.id.clone());
    let stop = active.then(|| view! { <button type="button" class="btn quiet s" on:click=move |_| order(routes::JOB_STOP, stop_id.clone(), |_, _| ())>{w.stop}</button> });
    let resume = again.then(|| view! { <button type="button" class="btn quiet s" on:click=move |_| order(routes::JOB_RESUME, resume_id.clone(), |_, _| ())>{w.resume}</button> });
    view! {
        <div class="export" data-testid="make-job">
            <div class="row">{title}{badge(job.state, share(&job.progress))}<span class="push">{also}{stop}{resume}</span></div>
            <p class="xs muted">{about}</p>
            {progress}{problem}
        </div>
    }
}
