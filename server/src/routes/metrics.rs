//! `/metrics`: the state of the server in the text format of Prometheus.

use crate::{
    error::Reply,
    kernel::Fields,
    router::{Content, Route},
    state::State as App,
};
use api::routes::METRICS;
use axum::{
    extract::State,
    http::{Method, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use std::{fmt::Write, fs, sync::atomic::Ordering};

const MEDIA: &str = "text/plain; version=0.0.4; charset=utf-8";

pub fn routes() -> Vec<Route> {
    vec![
        Route::new(Method::GET, METRICS, "Counts of the server for Prometheus", get(metrics))
            .gives(StatusCode::OK, Content::of::<String>("text/plain")),
    ]
}

async fn metrics(State(app): State<App>) -> Reply<Response> {
    let mut page = Page::default();
    page.gauge("lathe_info", "The version that runs", &[(format!("version=\"{}\"", escaped(&app.version)), 1.0)]);
    let by_state = app.store.count_by_state().await?;
    let states = by_state.iter().map(|(state, count)| (format!("state=\"{}\"", escaped(state)), float(*count)));
    page.gauge("lathe_jobs", "Jobs by state", &states.collect::<Vec<_>>());
    let queue = app.supervisor.queue().await?;
    page.gauge("lathe_queue_length", "Jobs that wait", &[one(queue.waiting.len())]);
    page.gauge("lathe_queue_paused", "1 while the queue is paused", &[one(usize::from(queue.paused))]);
    page.gauge("lathe_workers", "Jobs that run, downloads among them", &[one(app.supervisor.running())]);
    let pending = app.store.pending_deliveries().await?;
    page.gauge(
        "lathe_webhook_pending",
        "Messages that the webhook didn't take yet",
        &[(String::new(), float(pending))],
    );
    let counters = &app.counters;
    page.counter(
        "lathe_steps_total",
        "Training steps read",
        &[(String::new(), big(counters.steps.load(Ordering::Relaxed)))],
    );
    page.counter("lathe_events_total", "Messages to pages", &[(String::new(), float(app.store.feeds().newest()))]);
    page.gauge("lathe_event_subscribers", "Pages that listen", &[(String::new(), float(counters.subscribers()))]);
    let answers = counters.answers();
    let label = |status: &u16| format!("status=\"{status}\"");
    let counts: Vec<_> = answers.iter().map(|(status, (count, _))| (label(status), big(*count))).collect();
    page.counter("lathe_http_requests_total", "Requests by status", &counts);
    let times: Vec<_> = answers.iter().map(|(status, (_, seconds))| (label(status), *seconds)).collect();
    page.counter("lathe_http_request_seconds_total", "Time until answers began, by status", &times);
    page.process();
    Ok(([(header::CONTENT_TYPE, MEDIA)], page.0).into_response())
}

/// The text, line by line.
#[derive(Default)]
struct Page(String);

impl Page {
    fn gauge(&mut self, name: &str, help: &str, values: &[(String, f64)]) {
        self.family("gauge", name, help, values);
    }

    fn counter(&mut self, name: &str, help: &str, values: &[(String, f64)]) {
        self.family("counter", name, help, values);
    }

    fn family(&mut self, kind: &str, name: &str, help: &str, values: &[(String, f64)]) {
        // Writing to a String can't fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in values {
            let labels = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
            let _ = writeln!(self.0, "{name}{labels} {value}");
        }
    }

    /// What the kernel knows of this process.
    fn process(&mut self) {
        let status = Fields::read("/proc/self/status");
        if let Some(bytes) = status.as_ref().and_then(|status| status.bytes("VmRSS")) {
            self.gauge("process_resident_memory_bytes", "Memory of the server", &[(String::new(), big(bytes))]);
        }
        if let Some(threads) = status.as_ref().and_then(|status| status.number("Threads")) {
            self.gauge("process_threads", "Threads of the server", &[(String::new(), big(threads))]);
        }
        if let Ok(files) = fs::read_dir("/proc/self/fd") {
            self.gauge("process_open_fds", "Open files of the server", &[one(files.count())]);
        }
    }
}

/// A label's value as the format wants it.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn one(count: usize) -> (String, f64) {
    (String::new(), big(count as u64))
}

#[allow(clippy::cast_precision_loss)]
fn big(count: u64) -> f64 {
    count as f64
}

#[allow(clippy::cast_precision_loss)]
fn float(count: i64) -> f64 {
    count as f64
}
