//! A run's checkpoints, and the tail of its log.

use crate::{
    client, format,
    i18n::fill,
    parts::{dialog::CopyButton, icon},
    store::store,
    ui,
};
use api::routes;
use gloo_timers::future::TimeoutFuture;
use leptos::{html, prelude::*, task::spawn_local};

/// Lines of the log that are asked for.
const LINES: usize = 200;

#[component]
pub fn Checkpoints(id: String, active: Memo<bool>) -> impl IntoView {
    let w = ui::words();
    let store = store();
    let rows = move || {
        let list = store.checkpoints.with(|all| all.get(&id).cloned()).unwrap_or_default();
        if list.is_empty() {
            let text = if active.get() { w.checkpoints_none } else { w.no_checkpoints };
            return view! { <p class="s muted">{text}</p> }.into_any();
        }
        let evaluations =
            store.metrics.with(|all| all.get(&id).map(|m| super::loss::series(m, "eval_loss")).unwrap_or_default());
        let rows = list.into_iter().map(|c| {
            let title = if c.name == "final" { w.final_name.to_owned() } else { fill(w.step_name, &[("step", &format::count(c.step))]) };
            let at = (c.name == "final").then(|| fill(w.step_checkpoint, &[("step", &format::count(c.step))]));
            let loss = evaluations.iter().find(|p| p.0 as u64 == c.step).map(|p| format!("{} {}", w.validation, format::measure(p.1)));
            let about = [at, loss, Some(format::bytes(c.bytes))].into_iter().flatten().collect::<Vec<_>>().join(" · ");
            let query = format!("run={id}&checkpoint={}", c.name);
            view! {
                <li data-testid=format!("checkpoint-{}", c.name)>
                    {icon("check", 16)}
                    <span>{title}<small>{about}</small></span>
                    <span class="pair s"><a href=format!("/chat?{query}")>{w.chat}</a><a href=format!("/export?{query}")>{w.export}</a></span>
                </li>
            }
        });
        view! { <ul class="ticks">{rows.collect_view()}</ul> }.into_any()
    };
    view! { <section class="card"><div class="card-h"><h2>{w.checkpoints}</h2></div>{rows}</section> }
}

/// Follows the log while the run is active and the view is at its end.
#[component]
pub fn Log(id: String, active: Memo<bool>) -> impl IntoView {
    let w = ui::words();
    let text = RwSignal::new(String::new());
    let node = NodeRef::<html::Pre>::new();
    let path = format!("{}?lines={LINES}", routes::fill(routes::JOB_LOG, &id));
    spawn_local(async move {
        // Once more after the end, for the last lines; then again only if the run is resumed.
        let mut due = 1;
        loop {
            let running = match active.try_get_untracked() {
                None => return,
                Some(running) => running,
            };
            if running {
                due = 2;
            }
            if due > 0
                && let Ok(found) = client::get_text(&path).await
            {
                due -= 1;
                let at_end = node
                    .try_get_untracked()
                    .flatten()
                    .is_none_or(|pre| pre.scroll_height() - pre.scroll_top() - pre.client_height() < 40);
                if text.try_set(found).is_some() {
                    return;
                }
                TimeoutFuture::new(30).await;
                if let Some(pre) = node.try_get_untracked().flatten().filter(|_| at_end) {
                    pre.set_scroll_top(pre.scroll_height());
                }
            }
            TimeoutFuture::new(2_000).await;
        }
    });
    let empty = move || text.with(|t| t.trim().is_empty());
    view! {
        <section class="card">
            <div class="card-h">
                <h2>{w.log}</h2>
                {move || active.get().then(|| view! { <span class="sub">{w.following}</span> })}
                <CopyButton text=text.into() quiet=true />
            </div>
            <pre class="log" tabindex="0" aria-label=w.log node_ref=node data-testid="run-log">
                {move || if empty() { w.log_empty.to_owned() } else { text.get() }}
            </pre>
        </section>
    }
}
