//! What the server answers, over real sockets.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Home, is_problem, raw, request, start, try_start};
use serde_json::{Value, json};
use std::{
    io::Write,
    net::{Shutdown, TcpStream},
    time::{Duration, Instant},
};

#[tokio::test]
async fn every_failure_is_a_problem_in_both_languages() {
    let home = Home::new();
    let studio = start(&home);
    let json = "Content-Type: application/json\r\n";
    let bad_json = format!("{json}Content-Length: 9\r\n\r\n{{\"kind\": ");
    let huge = format!("{json}Content-Length: 99999999999\r\n");
    for (method, path, extra, status) in [
        ("GET", "/api/nothing", "", 404),
        ("GET", "/api", "", 404),
        ("POST", "/api/nothing", "", 404),
        ("GET", "/api/jobs/none", "", 404),
        ("GET", "/api/jobs/..%2f..%2fetc", "", 404),
        ("GET", "/api/jobs/%ff", "", 400),
        ("DELETE", "/api/jobs/..", "", 404),
        ("GET", "/api/jobs/none/log", "", 404),
        ("GET", "/api/jobs?limit=-1", "", 400),
        ("GET", "/api/chat/none", "", 404),
        ("DELETE", "/api/chat/none", "", 404),
        ("DELETE", "/api/jobs", "", 405),
        ("BREW", "/api/jobs", "", 405),
        ("POST", "/", "", 405),
        ("POST", "/api/jobs", "Content-Length: 2\r\n\r\n{}", 415),
        ("POST", "/api/jobs", bad_json.as_str(), 400),
        ("POST", "/api/jobs", huge.as_str(), 413),
        ("POST", "/api/datasets", json, 415),
        ("GET", "/app.js.map", "", 404),
        ("GET", "/../../etc/passwd.txt", "", 404),
    ] {
        let answer = request(&studio, method, path, extra);
        assert_eq!(answer.0, status, "{method} {path}: {answer:?}");
        is_problem(&answer);
    }
    let (status, body) = studio.post("/api/jobs", json!({"kind": "train", "name": 7})).await;
    assert_eq!(status, 400);
    assert!(body["problems"][0]["message"].as_str().unwrap().contains("line 1 column"), "{body}");
    let (status, body) = studio.post("/api/check", json!({"crash": true})).await;
    assert_eq!((status, &body["problems"][0]["code"]), (502, &json!("worker_failed")));
}

#[tokio::test]
async fn the_guard_stands_before_every_route_and_method() {
    let home = Home::new();
    let studio = start(&home);
    let document = studio.get("/openapi.json").await;
    let paths: Vec<&String> = document["paths"].as_object().unwrap().keys().collect();
    for path in paths.into_iter().map(String::as_str).chain(["/", "/nothing", "/api/nothing", "/openapi.json"]) {
        for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"] {
            let path = path.replace("{id}", "x").replace("{name}", "x");
            let answer =
                raw(&studio, &format!("{method} {path} HTTP/1.1\r\nHost: evil.com\r\nConnection: close\r\n\r\n"));
            assert_eq!(answer.0, 421, "{method} {path}");
            assert!(answer.1.contains("content-security-policy: default-src 'none'"));
            assert!(answer.1.contains("x-content-type-options: nosniff"));
            if !matches!(method, "GET" | "HEAD") {
                let answer = request(&studio, method, &path, "Origin: null\r\n");
                assert_eq!(answer.0, 403, "{method} {path}");
            }
        }
    }
    assert_eq!(raw(&studio, "GET /health HTTP/1.0\r\n\r\n").0, 421, "no Host at all");
    let own = format!("Origin: http://{}\r\n", studio.address);
    assert_eq!(request(&studio, "POST", "/api/config", &format!("{own}Content-Length: 0\r\n")).0, 200);
    let ok = request(&studio, "GET", "/health", "");
    assert_eq!((ok.0, ok.2.as_str()), (200, "{\"status\":\"ok\"}"));
    assert!(!ok.1.contains("access-control-allow"));
}

#[tokio::test]
async fn a_token_opens_everything_and_nothing_opens_without() {
    let home = Home::new();
    let mut options = home.options();
    options.token = Some("correct-horse-battery".into());
    let studio = try_start(options).unwrap();
    let refused = request(&studio, "GET", "/api/jobs", "");
    assert_eq!(refused.0, 401);
    is_problem(&refused);
    assert_eq!(request(&studio, "GET", "/api/jobs", "Authorization: Bearer correct-horse-battery\r\n").0, 200);
    let linked = request(&studio, "GET", "/?token=correct-horse-battery", "");
    assert!(linked.1.contains("location: /\r\n") && linked.1.contains("httponly; samesite=strict"), "{linked:?}");
    let cookie = linked.1.lines().find_map(|line| line.strip_prefix("set-cookie: ")?.split(';').next()).unwrap();
    assert!(cookie.starts_with(&format!("lathe_{}=", studio.address.port())) && !cookie.contains("horse"), "{cookie}");
    let cookie = format!("Cookie: {cookie}\r\n");
    assert_eq!(request(&studio, "GET", "/api/jobs", &cookie).0, 200);
    assert_eq!(request(&studio, "GET", "/health", "").0, 200);
}

#[tokio::test]
async fn the_description_names_every_route() {
    let home = Home::new();
    let studio = start(&home);
    let document = studio.get("/openapi.json").await;
    use api::routes::*;
    for (path, methods) in [
        (HEALTH, &["get"][..]),
        (CATALOG, &["get"]),
        (SYSTEM, &["get"]),
        (CHECK, &["post"]),
        (MEASURE, &["post"]),
        (CONFIG, &["post"]),
        (JOBS, &["get", "post"]),
        (JOB, &["delete", "get"]),
        (JOB_STOP, &["post"]),
        (JOB_RESUME, &["post"]),
        (JOB_METRICS, &["get"]),
        (JOB_LOG, &["get"]),
        (JOB_CHECKPOINTS, &["get"]),
        (EVENTS, &["get"]),
        (MODELS, &["get"]),
        (MODELS_PULL, &["post"]),
        (DATASETS, &["get", "post"]),
        (DATASET, &["delete"]),
        (DATASET_ROWS, &["get"]),
        (DATASET_COLUMNS, &["get"]),
        (DATASET_TOKENS, &["post"]),
        (DATASET_STATISTICS, &["post"]),
        (DATASET_EDIT, &["post"]),
        (DATASET_FILE, &["get"]),
        (PREFERENCES_PAIRS, &["post"]),
        (PREFERENCES_DATASET, &["post"]),
        (PREFERENCES_VOTES, &["get", "post"]),
        (UPLOADS, &["options", "post"]),
        (UPLOAD, &["delete", "head", "patch"]),
        (CHAT, &["get", "post"]),
        (CHAT_MODEL, &["delete", "get"]),
        (CHAT_GENERATE, &["post"]),
        (SCORE, &["post"]),
        (CHAT_COMPLETIONS, &["post"]),
        (COMPLETIONS, &["post"]),
        (EMBEDDINGS, &["post"]),
        (V1_MODELS, &["get"]),
        (V1_MODEL, &["get"]),
        (ANSWER, &["get"]),
        (CHAT_SOCKET, &["get"]),
        (SESSIONS, &["get", "post"]),
        (SESSION, &["delete", "get", "put"]),
        (PREFERENCES_CHAT, &["post"]),
        (CHAINS, &["post"]),
        (JOB_ROLLOUTS, &["get"]),
        (JOB_PLACE, &["post"]),
        (QUEUE, &["get", "post"]),
        (METRICS, &["get"]),
    ] {
        let mut described: Vec<_> = document["paths"][path].as_object().unwrap().keys().map(String::as_str).collect();
        described.sort_unstable();
        assert_eq!(described, methods, "{path}");
        // What isn't described isn't answered.
        for method in ["GET", "POST", "PUT", "DELETE", "PATCH"] {
            let filled = path.replace("{id}", "x").replace("{name}", "x");
            if !methods.contains(&method.to_ascii_lowercase().as_str()) {
                assert_eq!(request(&studio, method, &filled, "").0, 405, "{method} {path}");
            }
        }
    }
    assert_eq!(document["paths"].as_object().unwrap().len(), 49);
    // Every type that is referred to is described.
    let text = document.to_string();
    for name in text.split("#/components/schemas/").skip(1).filter_map(|rest| rest.split('"').next()) {
        assert!(document["components"]["schemas"][name].is_object(), "{name}");
    }
    assert!(document["components"]["schemas"]["Job"]["properties"]["state"].is_object());
}

#[tokio::test]
async fn a_page_that_never_reads_holds_up_nobody() {
    let home = Home::new();
    let studio = start(&home);
    let mut pages = Vec::new();
    for _ in 0..50 {
        let mut page = TcpStream::connect(studio.address).unwrap();
        let ask = format!("GET /api/events HTTP/1.1\r\nHost: {}\r\nLast-Event-ID: 0\r\n\r\n", studio.address);
        page.write_all(ask.as_bytes()).unwrap();
        pages.push(page);
    }
    let since = Instant::now();
    let id = studio.job("train", "run", json!({"steps": 500, "step_ms": 1})).await;
    studio.until(&id, "succeeded").await;
    assert!(since.elapsed() < Duration::from_secs(8), "{:?}", since.elapsed());
    // One that reads later still gets everything.
    let mut events = studio.events(Some(0)).await;
    let (mut number, mut steps) = (0, 0);
    while steps < 500 {
        let (id, event) = events.next().await.unwrap();
        number += 1;
        assert_eq!(id, number);
        steps += u64::from(event["type"] == "metric");
    }
    drop(pages);
}

#[tokio::test]
async fn a_stream_begins_now_or_says_that_it_lost_the_thread() {
    let home = Home::new();
    let studio = start(&home);
    let id = studio.job("train", "run", json!({"steps": 2})).await;
    studio.until(&id, "succeeded").await;
    let mut fresh = studio.events(None).await;
    let (now, open) = fresh.next().await.unwrap();
    assert!(now > 0 && open == json!({}));
    let mut lost = studio.events(Some(now + 1000)).await;
    assert_eq!(lost.next().await.unwrap(), (now, json!({"type": "changed", "what": "all"})));
    assert_eq!(studio.delete("/api/jobs/run").await, 204);
    assert_eq!(fresh.next().await.unwrap(), (now + 1, json!({"type": "gone", "job": "run"})));
    assert_eq!(lost.next().await.unwrap().0, now + 1);
}

#[tokio::test]
async fn slow_and_endless_headers_are_cut() {
    let home = Home::new();
    let studio = start(&home);
    let long = format!("X: {}\r\n", "x".repeat(100_000));
    let answer = request(&studio, "GET", "/health", &long);
    assert!(matches!(answer.0, 0 | 431), "{}", answer.0);
    let many: String = (0..200).map(|i| format!("X{i}: 1\r\n")).collect();
    assert!(matches!(request(&studio, "GET", "/health", &many).0, 0 | 431));
    let mut half = TcpStream::connect(studio.address).unwrap();
    half.write_all(b"GET /health HT").unwrap();
    half.shutdown(Shutdown::Write).unwrap();
    assert_eq!(request(&studio, "GET", "/health", "").0, 200);
}

#[tokio::test]
async fn a_configuration_is_read_and_the_machine_described() {
    let home = Home::new();
    let studio = start(&home);
    let yaml = "model_name_or_path: starter\nlearning_rate: 1e-4\n";
    let send = |text: &'static str| studio.client.post(studio.url("/api/config")).body(text).send();
    let read: Value = serde_json::from_str(&send(yaml).await.unwrap().text().await.unwrap()).unwrap();
    assert_eq!(read, json!({"model_name_or_path": "starter", "learning_rate": 1e-4}));
    let bad = send("a: [1,\nb").await.unwrap();
    assert_eq!(bad.status(), 400);
    assert!(bad.text().await.unwrap().contains("line "));
    let plan = studio.post("/api/check", json!({"steps": 7})).await.1;
    assert_eq!(plan["plan"]["steps"], 7);
    let measured = studio.post("/api/measure", json!({"steps": 7})).await.1;
    assert_eq!((&measured["plan"]["measured"], &measured["problems"]), (&json!(true), &json!([])));
    let problems = studio.post("/api/check", json!({"steps": "x"})).await.1;
    assert_eq!(problems["problems"][0]["field"], "steps");
    let system = studio.get("/api/system").await;
    assert!(system["memory_total"].as_u64().unwrap() > system["memory_used"].as_u64().unwrap(), "{system}");
    assert!(system["disk_free"].as_u64().unwrap() > 0 && system["cores"].as_u64().unwrap() > 0);
    assert!(studio.get("/api/catalog").await["stages"].is_array());
    // Nothing secret reaches a worker.
    let seen = studio.get("/api/models").await;
    let seen: Vec<_> = seen.as_array().unwrap().iter().map(|m| m["name"].as_str().unwrap()).collect();
    assert_eq!(seen, ["LATHE_HOME"]);
}

#[tokio::test]
async fn the_page_is_served_or_says_how_to_build_it() {
    let home = Home::new();
    let studio = start(&home);
    let page = request(&studio, "GET", "/", "");
    assert!(page.0 == 200 && page.1.contains("content-type: text/html"), "{page:?}");
    assert!(page.2.contains("<!doctype html>") || page.2.contains("<!DOCTYPE html>"));
    assert_eq!(request(&studio, "GET", "/runs/some-run", "").2, page.2, "the page has routes of its own");
    assert_eq!(request(&studio, "GET", "/.gitkeep", "").0, 404);
    if let Some(etag) = page.1.lines().find_map(|line| line.strip_prefix("etag: ")) {
        assert_eq!(request(&studio, "GET", "/", &format!("If-None-Match: {etag}\r\n")).0, 304);
    }
    let small = request(&studio, "GET", "/openapi.json", "Accept-Encoding: gzip\r\n");
    assert!(small.1.contains("content-encoding: gzip"));
}
