//! One run: how far it is, its curve, its log, its checkpoints, and what can be done with it.

mod actions;
mod loss;
mod resume;
mod rollouts;
mod side;
mod small;

pub use actions::delete_job;

use crate::{
    app::title,
    format,
    i18n::{Language, fill},
    pages::train_facts,
    parts::{
        Empty, ProblemNote,
        job::{Bar, badge, clock, datasets, left, method, model_name, now, seconds, share, status},
        metric,
        note::wait,
        queue::StartsAgain,
    },
    store::store,
    ui,
};
use api::{Job, JobKind, JobState};
use gloo_timers::callback::Interval;
use leptos::prelude::*;
use leptos_router::hooks::use_params_map;

#[component]
pub fn RunPage() -> impl IntoView {
    let w = ui::words();
    let store = store();
    let params = use_params_map();
    let id = Memo::new(move |_| params.with(|p| p.get("id").unwrap_or_default()));
    // One that is too old for the list is asked for by itself.
    let missing = RwSignal::new(None::<String>);
    let known = Memo::new(move |_| {
        let (listed, id) = (store.jobs.with(Option::is_some), id.get());
        let found = listed && store.job(&id).is_some();
        (found || (listed && missing.with(|m| m.as_ref() == Some(&id)))).then_some(found)
    });
    Effect::new(move || {
        if known.get().is_none() && store.jobs.with(Option::is_some) {
            store.find(id.get(), missing);
        }
    });
    move || {
        let id = id.get();
        title(&id);
        match known.get() {
            None => view! { <section class="card">{wait(6)}</section> }.into_any(),
            Some(false) => {
                let title = fill(w.run_not_found, &[("id", &id)]);
                view! {
                    <section class="card">
                        <Empty symbol="runs" title text=w.run_not_found_help.into()><a class="btn" href="/runs">{w.all_runs}</a></Empty>
                    </section>
                }
                .into_any()
            }
            Some(true) => {
                store.watch(&id);
                store.ask_checkpoints(&id);
                view! { <Known id /> }.into_any()
            }
        }
    }
}

#[component]
fn Known(id: String) -> impl IntoView {
    let w = ui::words();
    let store = store();
    let job = {
        let id = id.clone();
        Memo::new(move |last: Option<&Option<Job>>| store.job(&id).or_else(|| last.cloned().flatten()))
    };
    let with = move |f: fn(&Job) -> String| job.with(|job| job.as_ref().map(f).unwrap_or_default());
    let state = Memo::new(move |_| job.with(|job| job.as_ref().map_or(JobState::Queued, |j| j.state)));
    let kind = job.with_untracked(|j| j.as_ref().map_or(JobKind::Train, |j| j.kind));
    let sampling = job.with_untracked(|j| j.as_ref().filter(|j| rollouts::samples(j)).map(metric::stage));
    let about = move || {
        let parts = [with(model_name), with(datasets), with(method), with(started)];
        parts.into_iter().filter(|p| !p.is_empty()).collect::<Vec<_>>().join(" · ")
    };
    let problem = move || {
        let problem = job.with(|job| job.as_ref().and_then(|j| j.problem.clone()))?;
        let warn = state.get() == JobState::Interrupted;
        let again = job.with(|job| job.as_ref().and_then(|j| j.restart.clone()));
        let again = again.map(|restart| view! { <p class="s mt" data-testid="run-again"><StartsAgain restart /></p> });
        Some(view! { <div data-testid="run-problem"><ProblemNote problem warn />{again}</div> })
    };
    let stalled = move || {
        let since = job.with(|job| job.as_ref().and_then(|j| j.progress.stalled_since))?;
        let time = format::duration((now() - since).max(0.0).round(), ui::language());
        let text = fill(w.stalled_for, &[("time", &time)]);
        Some(view! { <p class="s warnc" role="status" data-testid="run-stalled">{text}</p> })
    };
    let notes = {
        let id = id.clone();
        move || {
            let notes = store.notes.with(|all| all.get(&id).cloned()).unwrap_or_default();
            notes.into_iter().map(|problem| view! { <ProblemNote problem warn=true /> }).collect_view()
        }
    };
    let plan = move || {
        let plan = job.with(|job| job.as_ref().and_then(|j| j.plan.clone()))?;
        Some(
            view! { <section class="card plan"><div class="card-h flat"><h2>{w.plan}</h2></div>{train_facts(plan)}</section> },
        )
    };
    let active = Memo::new(move |_| state.get().is_active());
    view! {
        <header class="head">
            <div>
                <h1>{id.clone()}" "<span data-testid="run-state">{move || badge(state.get(), None)}</span></h1>
                <p class="state">{about}</p>
            </div>
            <actions::Actions job state />
        </header>
        <div class="stack">
            {problem}{stalled}
            <Progress job state />
            <small::Tiles job />
            <div class="split">
                <div class="stack">
                    <loss::LossCard id=id.clone() job />
                    <small::SmallCharts id=id.clone() job />
                    {sampling.map(|stage| view! { <rollouts::Rollouts id=id.clone() stage /> })}
                    <side::Log id=id.clone() active />
                </div>
                <aside class="stack">
                    {(kind == JobKind::Train).then(|| view! { <side::Checkpoints id=id.clone() active /> })}
                    {notes}
                    {plan}
                    {move || active.get().then(|| view! { <p class="s muted aside">{w.close_safe}</p> })}
                </aside>
            </div>
        </div>
        <actions::RunDock job state />
    }
    .into_any()
}

fn started(job: &Job) -> String {
    let language = ui::language();
    let w = language.words();
    match job.started_at {
        Some(time) => fill(w.started_at, &[("time", &clock(time, language))]),
        None => fill(w.created_at, &[("time", &clock(job.created_at, language))]),
    }
}

/// Step, epoch, time gone and left, and the bar. The clock goes on between two messages.
#[component]
fn Progress(job: Memo<Option<Job>>, state: Memo<JobState>) -> impl IntoView {
    let w = ui::words();
    let language = ui::language();
    let tick = RwSignal::new(now());
    // Stops with its owner.
    let _timer = StoredValue::new_local(Interval::new(1_000, move || {
        tick.try_set(now());
    }));
    let line = move || {
        let job = job.get()?;
        let progress = &job.progress;
        let planned = job.plan.as_ref().map(|p| p.epochs);
        let first = if state.get() == JobState::Queued && progress.done == 0 {
            w.waiting_turn.into()
        } else if progress.total > 0 {
            fill(w.step_of, &[("done", &format::count(progress.done)), ("total", &format::count(progress.total))])
        } else {
            w.preparing.into()
        };
        let epoch = planned.filter(|_| progress.done > 0).map(|total| {
            fill(
                w.epoch_of,
                &[
                    ("done", &format!("{:.2}", progress.epoch)),
                    ("total", &format::number((total * 100.0).round() / 100.0)),
                ],
            )
        });
        if state.get().is_active() {
            tick.track();
        }
        let gone = seconds(&job).map(|s| fill(w.gone, &[("time", &format::duration(s.round(), language))]));
        let (left, until) = match state.get() {
            JobState::Running => (
                left(progress, language),
                progress.seconds_left.map(|s| fill(w.done_at, &[("time", &clock(now() + s, language))])),
            ),
            state => {
                let text = if state == JobState::Succeeded { w.done_at } else { w.ended_at };
                (None, job.finished_at.map(|t| fill(text, &[("time", &clock(t, language))])))
            }
        };
        let comma = if language == Language::Chinese { "，" } else { ", " };
        let comma = (left.is_some() && until.is_some()).then_some(comma);
        Some(view! {
            <span><b data-testid="run-step">{first}</b></span>
            <span>{epoch}</span>
            <span>{status(progress, language).filter(|_| state.get().is_active())}</span>
            <span>{gone}</span>
            <span class="push"><b>{left}</b>{comma}{until}</span>
        })
    };
    let part = Signal::derive(move || {
        job.with(|job| job.as_ref().and_then(|j| share(&j.progress)))
            .or_else(|| (!state.get().is_active()).then_some(0.0))
    });
    view! { <Bar share=part label=w.training_progress>{line}</Bar> }
}
