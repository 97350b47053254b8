//! All training runs: found by name or setting, filtered by state, opened or deleted.

use crate::{
    app::title,
    format,
    i18n::fill,
    pages::run::delete_job,
    parts::{
        Empty,
        dialog::Confirm,
        icon,
        job::{clock, datasets, job_badge, method, model_name, seconds},
        note::wait,
        queue::{QueueCard, StartsAgain},
    },
    store::store,
    ui,
};
use api::{Job, JobKind, JobState};
use leptos::prelude::*;

#[derive(Clone, Copy, PartialEq)]
enum Filter {
    All,
    Active,
    Done,
    Early,
}

impl Filter {
    fn fits(self, state: JobState) -> bool {
        match self {
            Self::All => true,
            Self::Active => state.is_active(),
            Self::Done => state == JobState::Succeeded,
            Self::Early => !state.is_active() && state != JobState::Succeeded,
        }
    }
}

#[component]
pub fn Runs() -> impl IntoView {
    let w = ui::words();
    title(w.runs);
    let store = store();
    let (query, filter) = (RwSignal::new(String::new()), RwSignal::new(Filter::All));
    let doomed = RwSignal::new(None::<String>);
    let asking = RwSignal::new(false);
    let runs = move || store.jobs_of(JobKind::Train);
    let lead = move || {
        let runs = runs();
        let active = runs.iter().filter(|j| j.state.is_active()).count();
        let done = runs.len() - active;
        (!runs.is_empty()).then(|| fill(w.runs_lead, &[("active", &active.to_string()), ("done", &done.to_string())]))
    };
    let seg = move |this: Filter, word: &'static str| {
        let n = move || runs().iter().filter(|j| this.fits(j.state)).count();
        view! {
            <label>
                <input type="radio" name="filter" prop:checked=move || filter.get() == this on:change=move |_| filter.set(this) />
                {word} <small>{n}</small>
            </label>
        }
    };
    let shown = move || {
        let query = query.get().to_lowercase();
        let fits = |job: &Job| {
            let text = format!("{} {}", job.id, job.config.to_yaml()).to_lowercase();
            filter.get().fits(job.state) && query.split_whitespace().all(|word| text.contains(word))
        };
        runs().into_iter().filter(fits).collect::<Vec<_>>()
    };
    // What isn't loaded is looked for by the server, once the typing pauses.
    Effect::new(move || {
        let words = query.get();
        if words.trim().is_empty() || !store.has_older.get_untracked() {
            return;
        }
        leptos::task::spawn_local(async move {
            gloo_timers::future::TimeoutFuture::new(300).await;
            if query.try_get_untracked().is_some_and(|now| now == words) {
                store.search_older(&words);
            }
        });
    });
    let ask = move |id: String| {
        doomed.set(Some(id));
        asking.set(true);
    };
    let body = move || {
        if store.jobs.with(Option::is_none) {
            return view! { <section class="card">{wait(5)}</section> }.into_any();
        }
        if runs().is_empty() {
            return view! {
                <section class="card">
                    <Empty symbol="runs" title=w.no_runs.into() text=w.no_runs_help.into()>
                        <a class="btn" href="/">{icon("plus", 18)}{w.new_run}</a>
                    </Empty>
                </section>
            }
            .into_any();
        }
        let rows = shown();
        let none = rows.is_empty().then(|| {
            let all = move |_| {
                query.set(String::new());
                filter.set(Filter::All);
            };
            view! { <div class="pad s muted">{w.no_run_matches}" "<button type="button" class="link" on:click=all>{w.show_all}</button></div> }
        });
        let rows = rows.into_iter().map(|job| row(job, ask)).collect_view();
        let older = store.has_older.get().then(|| {
            view! { <div class="pad"><button type="button" class="btn s" data-testid="runs-older" on:click=move |_| store.load_older()>{w.show_older}</button></div> }
        });
        view! {
            <section class="card flush"><div class="scroll">
                <table class="table stacked" data-testid="runs-table">
                    <thead><tr>
                        <th>{w.run}</th><th>{w.state}</th><th>{w.model_and_data}</th><th>{w.method}</th>
                        <th class="num">{w.loss}</th><th class="num">{w.validation_loss}</th><th class="num">{w.time}</th>
                        <th class="num narrow-hide">{w.started}</th><th><span class="vh">{w.actions}</span></th>
                    </tr></thead>
                    <tbody class="mid">{rows}</tbody>
                </table>
                {none}
            </div>{older}</section>
        }
        .into_any()
    };
    let name = move || doomed.get().unwrap_or_default();
    view! {
        <header class="head">
            <div><h1>{w.runs}</h1><p class="state">{lead}</p></div>
            <div class="acts"><a class="btn primary" href="/">{icon("plus", 18)}{w.new_run}</a></div>
        </header>
        <div class="stack">
            <QueueCard />
            <div class="row filters">
                <div class="input">{icon("search", 16)}
                    <input aria-label=w.find_run placeholder=w.find_run_hint prop:value=query on:input=move |e| query.set(event_target_value(&e)) />
                </div>
                <div class="seg" role="radiogroup" aria-label=w.state>
                    {seg(Filter::All, w.all)}{seg(Filter::Active, w.active)}{seg(Filter::Done, w.done)}{seg(Filter::Early, w.ended_early)}
                </div>
            </div>
            {body}
        </div>
        <Confirm open=asking title=Signal::derive(move || fill(w.delete_run_title, &[("name", &name())]))
            text=w.delete_run_help symbol="trash" action=w.delete_run
            act=Callback::new(move |()| if let Some(id) = doomed.get_untracked() { delete_job(id) }) />
    }
}

fn row(job: Job, ask: impl Fn(String) + Copy + Send + 'static) -> impl IntoView {
    let w = ui::words();
    let language = ui::language();
    let id = job.id.clone();
    let latest = |name: &str| job.progress.latest.get(name).or(job.summary.get(name)).copied();
    let loss = latest("loss").or_else(|| latest("train_loss"));
    let figure = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), format::measure);
    let again = job.restart.clone().map(|restart| view! { <small><StartsAgain restart /></small> });
    let problem = job.problem.as_ref().map(|p| {
        let class = if job.state == JobState::Interrupted { "warnc" } else { "badc" };
        view! { <small class=class>{p.message_in(language.tag()).to_owned()}</small> }
    });
    let time = seconds(&job).map_or_else(|| "–".to_owned(), |s| format::duration(s.round(), language));
    let active = job.state.is_active();
    let delete = {
        let id = id.clone();
        move |_| ask(id.clone())
    };
    view! {
        <tr data-testid=format!("run-row-{id}")>
            <td class="name"><a href=format!("/runs/{id}")>{id.clone()}</a>{problem}{again}</td>
            <td data-l=w.state>{job_badge(&job)}</td>
            <td class="full model">{model_name(&job)}<small>{datasets(&job)}</small></td>
            <td class="nowrap" data-l=w.method>{method(&job)}</td>
            <td class="num" data-l=w.loss>{figure(loss)}</td>
            <td class="num" data-l=w.validation_loss>{figure(latest("eval_loss"))}</td>
            <td class="num" data-l=w.time>{time}</td>
            <td class="num narrow-hide" data-l=w.started>{clock(job.started_at.unwrap_or(job.created_at), language)}</td>
            <td class="end hide">
                {(!active).then(|| view! {
                    <button type="button" class="btn quiet icon s" title=w.delete_run aria-label=format!("{}: {id}", w.delete_run) on:click=delete>{icon("trash", 16)}</button>
                })}
            </td>
        </tr>
    }
}
