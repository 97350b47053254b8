//! The queue: the order of what waits, why it waits, and what starts again by itself.

use crate::{
    client, format,
    i18n::fill,
    parts::{
        icon,
        job::{now, order},
        shell::job_href,
    },
    store::{Store, store},
    ui,
};
use api::{
    Job, JobState,
    queue::{Place, Priority, Queue, Restart, SetQueue, Waiting},
    routes,
};
use gloo_timers::{callback::Interval, future::TimeoutFuture};
use leptos::{prelude::*, task::spawn_local};

/// Moves a job, or gives it another priority. What had the focus keeps it, wherever it stands then.
fn place(job: String, place: Place, focus: Option<String>) {
    let store = store();
    spawn_local(async move {
        if let Err(problems) = client::order(&routes::fill(routes::JOB_PLACE, &job), &place).await {
            store.complain(&problems);
        }
        store.refresh_queue();
        if let Some(id) = focus {
            TimeoutFuture::new(150).await;
            if let Some(element) = document().get_element_by_id(&id) {
                use wasm_bindgen::JsCast;
                let _ = element.dyn_ref::<web_sys::HtmlElement>().map(|e| e.focus());
            }
        }
    });
}

fn refreshed(store: Store, _taken: bool) {
    store.refresh_queue();
}

fn pause(paused: bool) {
    let store = store();
    spawn_local(async move {
        match client::post::<_, Queue>(routes::QUEUE, &SetQueue { paused }).await {
            Ok(queue) => store.queue.set(Some(queue)),
            Err(problems) => store.complain(&problems),
        }
    });
}

/// When a job starts again: a sentence that counts down.
#[component]
pub fn StartsAgain(restart: Restart) -> impl IntoView {
    let w = ui::words();
    let language = ui::language();
    let tick = RwSignal::new(now());
    // Stops with its owner.
    let _timer = StoredValue::new_local(Interval::new(1_000, move || {
        tick.try_set(now());
    }));
    move || {
        let left = (restart.at - tick.get()).max(0.0).ceil();
        let numbers = [("n", restart.attempt.to_string()), ("of", restart.of.to_string())];
        let time = if left > 0.0 { format::duration(left, language) } else { String::new() };
        let text = if left > 0.0 { w.starts_again } else { w.starts_again_now };
        fill(text, &[("time", &time), ("n", &numbers[0].1), ("of", &numbers[1].1)])
    }
}

/// Shown when something waits, starts again by itself, or the queue is paused.
#[component]
pub fn QueueCard() -> impl IntoView {
    let w = ui::words();
    let store = store();
    let paused = Memo::new(move |_| store.queue.with(|q| q.as_ref().is_some_and(|q| q.paused)));
    let waiting = Memo::new(move |_| store.queue.with(|q| q.as_ref().map(|q| q.waiting.clone()).unwrap_or_default()));
    let again = Memo::new(move |_| {
        let restarts = |job: &&Job| job.state == JobState::Interrupted && job.restart.is_some();
        store.jobs.with(|jobs| jobs.iter().flatten().filter(restarts).cloned().collect::<Vec<_>>())
    });
    let is_shown = Memo::new(move |_| paused.get() || !waiting.with(Vec::is_empty) || !again.with(Vec::is_empty));
    let dragged = RwSignal::new(None::<String>);
    let rows = move || {
        let all = waiting.get();
        let ids: Vec<String> = all.iter().map(|w| w.job.clone()).collect();
        let row = |(at, one): (usize, Waiting)| {
            let before = at.checked_sub(1).and_then(|at| ids.get(at).cloned());
            row(one, at, before, ids.get(at + 1).cloned(), dragged)
        };
        all.into_iter().enumerate().map(row).collect_view()
    };
    let pending = move || again.get().into_iter().map(pending).collect_view();
    let switch = move || {
        let (symbol, word) = if paused.get() { ("play", w.queue_go_on) } else { ("pause", w.queue_pause) };
        view! {
            <button type="button" class="btn s push" data-testid="queue-pause" on:click=move |_| pause(!paused.get_untracked())>
                {icon(symbol, 16)}{word}
            </button>
        }
    };
    let note = move || {
        paused
            .get()
            .then(|| view! { <p class="s warnc pad" role="status" data-testid="queue-paused">{w.queue_paused}</p> })
    };
    move || {
        is_shown.get().then(|| {
            view! {
                <section class="card flush" aria-labelledby="queue" data-testid="queue">
                    <div class="card-h"><h2 id="queue">{w.queue}</h2><span class="sub">{w.queue_help}</span>{switch}</div>
                    {note}
                    <ol class="queue">{rows}{pending}</ol>
                </section>
            }
        })
    }
}

fn row(
    waiting: Waiting,
    at: usize,
    before: Option<String>,
    behind: Option<String>,
    dragged: RwSignal<Option<String>>,
) -> impl IntoView {
    let w = ui::words();
    let language = ui::language();
    let store = store();
    let id = waiting.job.clone();
    let job = store.job(&id);
    let href = job.as_ref().map_or_else(|| format!("/runs/{id}"), job_href);
    let priority = job.as_ref().map(|job| job.priority).unwrap_or_default();
    let reason = waiting.reason.as_ref().map_or_else(|| w.starts_next.to_owned(), |reason| language.of(reason));
    let step = |up: bool, to: Option<String>| {
        let (name, symbol, word) = if up { ("up", "up", w.move_up) } else { ("down", "down", w.move_down) };
        let (job, disabled, own) = (id.clone(), to.is_none(), format!("queue-{name}-{id}"));
        let focus = own.clone();
        let go = move |_| {
            let there = match up {
                true => Place { before: to.clone(), ..Place::default() },
                false => Place { behind: to.clone(), ..Place::default() },
            };
            place(job.clone(), there, Some(focus.clone()));
        };
        view! {
            <button type="button" class="btn quiet icon s" id=own.clone() data-testid=own title=word disabled=disabled
                aria-label=format!("{word}: {id}") on:click=go>{icon(symbol, 16)}</button>
        }
    };
    let choose = {
        let id = id.clone();
        move |e| {
            let priority = match event_target_value(&e).as_str() {
                "high" => Priority::High,
                "low" => Priority::Low,
                _ => Priority::Normal,
            };
            place(id.clone(), Place { priority: Some(priority), ..Place::default() }, None);
        }
    };
    let option = |value: &'static str, this: Priority, word: &'static str| {
        view! { <option value=value selected=this == priority>{word}</option> }
    };
    let drop = {
        let id = id.clone();
        move |e: web_sys::DragEvent| {
            e.prevent_default();
            let Some(moved) = dragged.get_untracked().filter(|moved| *moved != id) else { return };
            dragged.set(None);
            let from =
                store.queue.with_untracked(|q| q.iter().flat_map(|q| &q.waiting).position(|other| other.job == moved));
            // It takes the place of what it is dropped on.
            let there = match from.is_some_and(|from| from < at) {
                true => Place { behind: Some(id.clone()), ..Place::default() },
                false => Place { before: Some(id.clone()), ..Place::default() },
            };
            place(moved, there, None);
        }
    };
    let take = {
        let id = id.clone();
        move |e: web_sys::DragEvent| {
            if let Some(data) = e.data_transfer() {
                let _ = data.set_data("text/plain", &id);
            }
            dragged.set(Some(id.clone()));
        }
    };
    let over = move |e: web_sys::DragEvent| {
        if dragged.with_untracked(Option::is_some) {
            e.prevent_default();
        }
    };
    let stop = {
        let id = id.clone();
        move |_| order(routes::JOB_STOP, id.clone(), refreshed)
    };
    view! {
        <li draggable="true" data-testid=format!("queue-{id}") on:dragstart=take on:dragover=over on:drop=drop
            on:dragend=move |_| dragged.set(None)>
            <span class="num muted">{at + 1}</span>
            <span class="what"><a href=href>{id.clone()}</a><small>{reason}</small></span>
            <span class="input sel"><select aria-label=format!("{}: {id}", w.priority) data-testid=format!("queue-priority-{id}") on:change=choose>
                {option("high", Priority::High, w.priority_high)}
                {option("normal", Priority::Normal, w.priority_normal)}
                {option("low", Priority::Low, w.priority_low)}
            </select></span>
            <span class="acts">{step(true, before)}{step(false, behind)}
                <button type="button" class="btn quiet icon s" title=w.take_out aria-label=format!("{}: {id}", w.take_out)
                    data-testid=format!("queue-stop-{id}") on:click=stop>{icon("x", 16)}</button>
            </span>
        </li>
    }
}

/// An interrupted job that starts again by itself.
fn pending(job: Job) -> impl IntoView {
    let w = ui::words();
    let (href, id) = (job_href(&job), job.id);
    let button = |route: &'static str, name: &str, symbol: &'static str, word: &'static str| {
        let job = id.clone();
        view! {
            <button type="button" class="btn s" data-testid=format!("queue-{name}-{id}") aria-label=format!("{word}: {id}")
                on:click=move |_| order(route, job.clone(), refreshed)>{icon(symbol, 16)}{word}</button>
        }
    };
    view! {
        <li data-testid=format!("queue-again-{id}")>
            <span class="warnc">{icon("redo", 16)}</span>
            <span class="what"><a href=href>{id.clone()}</a><small>{job.restart.map(|restart| view! { <StartsAgain restart /> })}</small></span>
            <span class="acts wide">
                {button(routes::JOB_RESUME, "now", "play", w.start_now)}{button(routes::JOB_STOP, "never", "x", w.do_not_start)}
            </span>
        </li>
    }
}
