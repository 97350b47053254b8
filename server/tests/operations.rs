//! What whoever runs the studio needs: whether it is well, what it counts, how it ends, and who is told.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Home, Process, start, try_start, worker_pid};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use server::Webhook;
use std::{
    collections::HashMap,
    io::{Read, Write},
    net::TcpListener,
    sync::mpsc,
    time::{Duration, Instant},
};

/// A message that somebody who listens got: path, headers, body.
type Got = (String, HashMap<String, String>, String);

/// Answers each request with the next status, the last one for ever; gives what was asked.
fn listener(statuses: &'static [&'static str]) -> (String, mpsc::Receiver<Got>) {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hook", socket.local_addr().unwrap());
    let (sender, got) = mpsc::channel();
    std::thread::spawn(move || {
        for (number, stream) in socket.incoming().enumerate() {
            let mut stream = stream.unwrap();
            let mut text = Vec::new();
            let head = loop {
                let mut piece = [0; 4096];
                let read = stream.read(&mut piece).unwrap();
                text.extend_from_slice(&piece[..read]);
                if let Some(end) = text.windows(4).position(|w| w == b"\r\n\r\n") {
                    break end;
                }
            };
            let lines = String::from_utf8(text[..head].to_vec()).unwrap();
            let headers: HashMap<String, String> = lines
                .lines()
                .filter_map(|line| line.split_once(": "))
                .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
                .collect();
            let length: usize = headers.get("content-length").and_then(|n| n.parse().ok()).unwrap_or(0);
            let mut body = text[head + 4..].to_vec();
            while body.len() < length {
                let mut piece = [0; 4096];
                let read = stream.read(&mut piece).unwrap();
                body.extend_from_slice(&piece[..read]);
            }
            let status = statuses.get(number).or(statuses.last()).unwrap();
            write!(
                stream,
                "HTTP/1.1 {status}\r\nlocation: /elsewhere\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            )
            .unwrap();
            let path = lines.split(' ').nth(1).unwrap_or_default().to_owned();
            if sender.send((path, headers, String::from_utf8(body).unwrap())).is_err() {
                return;
            }
        }
    });
    (url, got)
}

fn next(got: &mpsc::Receiver<Got>) -> (HashMap<String, String>, Value) {
    let (path, headers, body) = got.recv_timeout(Duration::from_secs(10)).expect("no message comes");
    assert_eq!(path, "/hook", "a redirect was followed");
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(b"a secret").unwrap();
    mac.update(body.as_bytes());
    let expected: String = mac.finalize().into_bytes().iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(headers["x-lathe-signature"], format!("sha256={expected}"));
    (headers, serde_json::from_str(&body).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_is_told_of_every_state_signed_and_again_until_it_takes_it() {
    // First a fault, then a redirect that must not be followed.
    let (url, got) = listener(&["500 No", "302 Found", "200 OK"]);
    let home = Home::new();
    let mut options = home.options();
    options.webhook = Some(Webhook { url: url.clone(), secret: Some("a secret".into()) });
    let studio = try_start(options).unwrap();
    studio.job("train", "run", json!({"steps": 3, "step_ms": 1})).await;
    studio.until("run", "succeeded").await;
    // A message that wasn't taken comes again with its number.
    let (mut seen, mut refused) = (HashMap::new(), Vec::new());
    for number in 0..5 {
        let (headers, message) = next(&got);
        assert_eq!(
            (&message["event"], &message["job"], &message["kind"]),
            (&json!("job"), &json!("run"), &json!("train"))
        );
        let id = headers["x-lathe-delivery"].clone();
        if number < 2 {
            refused.push(id);
        } else {
            seen.insert(message["state"].as_str().unwrap().to_owned(), (id, message));
        }
    }
    assert!(["queued", "running", "succeeded"].iter().all(|state| seen.contains_key(*state)), "{seen:?}");
    assert!(refused.iter().all(|id| seen.values().any(|(other, _)| other == id)), "{refused:?}");
    assert_eq!(seen["succeeded"].1["summary"]["train_loss"], 0.5);
    studio.job("train", "fails", json!({"steps": 1, "step_ms": 1, "fail": true})).await;
    let problem = loop {
        let (_, message) = next(&got);
        if message["state"] == "failed" {
            break message["problem"].clone();
        }
    };
    assert_eq!(problem["code"], "diverged");
    let bad = Home::new();
    let mut options = bad.options();
    options.webhook = Some(Webhook { url: "file:///etc/passwd".into(), secret: None });
    let Err(error) = try_start(options) else { panic!("any address") };
    assert!(error.is_usage(), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_webhook_was_not_told_outlives_the_server() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let home = Home::new();
    let mut options = home.options();
    options.webhook = Some(Webhook { url: format!("http://{closed}/hook"), secret: None });
    let studio = try_start(options).unwrap();
    studio.job("train", "run", json!({"steps": 3, "step_ms": 1})).await;
    studio.until("run", "succeeded").await;
    let metrics = studio.client.get(studio.url("/metrics")).send().await.unwrap().text().await.unwrap();
    assert_eq!(value(&metrics, "lathe_webhook_pending"), Some(3.0));
    studio.crash().await;
    let (url, got) = listener(&["200 OK"]);
    let mut options = home.options();
    options.webhook = Some(Webhook { url, secret: Some("a secret".into()) });
    let studio = try_start(options).unwrap();
    let mut states: Vec<String> = (0..3).map(|_| next(&got).1["state"].as_str().unwrap().to_owned()).collect();
    states.sort();
    assert_eq!(states, ["queued", "running", "succeeded"]);
    let since = Instant::now();
    loop {
        let metrics = studio.client.get(studio.url("/metrics")).send().await.unwrap().text().await.unwrap();
        if value(&metrics, "lathe_webhook_pending") == Some(0.0) {
            break;
        }
        assert!(since.elapsed() < Duration::from_secs(5), "{metrics}");
    }
}

/// A value of the page of metrics.
fn value(page: &str, name: &str) -> Option<f64> {
    page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

#[tokio::test]
async fn health_and_metrics_say_how_the_server_is() {
    let home = Home::new();
    let studio = start(&home);
    assert_eq!(studio.get("/health").await["status"], "ok");
    studio.job("train", "run", json!({"steps": 7, "step_ms": 1})).await;
    studio.until("run", "succeeded").await;
    studio.post("/api/queue", json!({"paused": true})).await;
    studio.job("train", "waits", json!({})).await;
    let mut events = studio.events(Some(0)).await;
    events.next().await.unwrap();
    let answer = studio.client.get(studio.url("/metrics")).send().await.unwrap();
    assert!(answer.headers()["content-type"].to_str().unwrap().starts_with("text/plain; version=0.0.4"));
    assert!(!answer.headers()["x-request-id"].is_empty());
    let page = answer.text().await.unwrap();
    for (name, expected) in [
        ("lathe_jobs{state=\"succeeded\"}", 1.0),
        ("lathe_jobs{state=\"queued\"}", 1.0),
        ("lathe_queue_length", 1.0),
        ("lathe_queue_paused", 1.0),
        ("lathe_steps_total", 7.0),
        ("lathe_event_subscribers", 1.0),
        ("lathe_workers", 0.0),
    ] {
        assert_eq!(value(&page, name), Some(expected), "{name} in\n{page}");
    }
    for name in [
        "process_resident_memory_bytes",
        "process_open_fds",
        "process_threads",
        "lathe_events_total",
        "lathe_http_requests_total{status=\"200\"}",
    ] {
        assert!(value(&page, name).is_some_and(|value| value > 0.0), "{name} in\n{page}");
    }
    // Every line is a comment or a name, perhaps labels, and a number.
    for line in page.lines() {
        assert!(
            line.starts_with("# ") || line.rsplit_once(' ').is_some_and(|(_, n)| n.parse::<f64>().is_ok()),
            "{line}"
        );
    }
    drop(events);
    let other = Home::new();
    let mut options = other.options();
    options.token = Some("0123456789abcdef".into());
    let closed = try_start(options).unwrap();
    assert_eq!(closed.client.get(closed.url("/metrics")).send().await.unwrap().status(), 401);
    assert_eq!(closed.client.get(closed.url("/health")).send().await.unwrap().status(), 200);
    let with = closed.client.get(closed.url("/metrics")).bearer_auth("0123456789abcdef").send().await.unwrap();
    assert_eq!(with.status(), 200);
    let page = with.text().await.unwrap();
    assert!(value(&page, "lathe_http_requests_total{status=\"401\"}") == Some(1.0), "refused ones count, too\n{page}");
}

#[tokio::test]
async fn an_end_lets_workers_go_on_and_streams_end() {
    let home = Home::new();
    let server = Process::start(&home, 10_000);
    server.studio.job("train", "run", json!({"steps": 300, "step_ms": 10})).await;
    server.studio.until_step("run", 3).await;
    let mut events = server.studio.events(Some(0)).await;
    let worker = worker_pid(&home.run("run")).unwrap();
    let since = Instant::now();
    assert_eq!(server.end(), Some(0));
    assert!(since.elapsed() < Duration::from_secs(3), "{:?}", since.elapsed());
    while events.next().await.is_some() {}
    assert_eq!(worker_pid(&home.run("run")), Some(worker), "the worker goes on");
    // Closed well: nothing is left beside the database.
    assert!(!home.path().join("lathe.db-wal").exists());
    let server = Process::start(&home, 10_000);
    assert_eq!(server.studio.get("/api/jobs/run").await["state"], "running");
    server.studio.until("run", "succeeded").await;
    assert_eq!(server.studio.steps("run").await, (1..=300).collect::<Vec<u64>>());
}
