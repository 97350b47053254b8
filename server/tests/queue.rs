//! The order of the queue, its pause, and jobs that start again by themselves.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Home, Studio, start, try_start, worker_pid};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use server::Restarts;
use std::{
    fs,
    time::{Duration, Instant},
};

/// Starts again at once, almost.
fn eager(home: &Home, most: u32) -> Studio {
    let mut options = home.options();
    options.restarts = Restarts { most, first: Duration::from_millis(50), longest: Duration::from_secs(1) };
    try_start(options).unwrap()
}

async fn order(studio: &Studio) -> Vec<String> {
    let queue = studio.get("/api/queue").await;
    queue["waiting"].as_array().unwrap().iter().map(|w| w["job"].as_str().unwrap().to_owned()).collect()
}

/// Jobs by the time of their start.
async fn started(studio: &Studio) -> Vec<String> {
    let jobs = studio.get("/api/jobs").await;
    let mut jobs: Vec<(f64, String)> = jobs
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|job| Some((job["started_at"].as_f64()?, job["id"].as_str()?.to_owned())))
        .collect();
    jobs.sort_by(|a, b| a.0.total_cmp(&b.0));
    jobs.into_iter().map(|(_, id)| id).collect()
}

fn kill_worker(home: &Home, id: &str) {
    kill(Pid::from_raw(worker_pid(&home.run(id)).unwrap()), Signal::SIGKILL).unwrap();
}

#[tokio::test]
async fn priorities_and_places_order_the_queue_also_after_a_crash() {
    let home = Home::new();
    let studio = start(&home);
    let mut events = studio.events(Some(0)).await;
    assert_eq!(studio.post("/api/queue", json!({"paused": true})).await.1["paused"], true);
    for name in ["a", "b", "c", "d"] {
        studio.job("train", name, json!({"steps": 2, "step_ms": 1})).await;
    }
    let (status, urgent) = studio
        .post("/api/jobs", json!({"kind": "train", "name": "urgent", "priority": "high", "config": {"steps": 2}}))
        .await;
    assert_eq!((status, &urgent["progress"]["status"]["en"]), (201, &json!("The queue is paused")));
    assert_eq!(order(&studio).await, ["urgent", "a", "b", "c", "d"]);
    let place = |id: &str, place: Value| {
        let (path, studio) = (format!("/api/jobs/{id}/place"), &studio);
        async move { studio.post(&path, place).await }
    };
    assert_eq!(place("d", json!({"before": "a"})).await.0, 200);
    assert_eq!(place("a", json!({"behind": "c"})).await.0, 200);
    assert_eq!(place("b", json!({"priority": "low"})).await.1["priority"], "low");
    assert_eq!(order(&studio).await, ["urgent", "d", "c", "a", "b"]);
    assert_eq!(place("c", json!({"before": "urgent"})).await.1["priority"], "high", "it takes its neighbour's");
    let wanted = ["c", "urgent", "d", "a", "b"];
    assert_eq!(order(&studio).await, wanted);
    for (id, body, status) in [
        ("nobody", json!({"priority": "low"}), 404),
        ("a", json!({"before": "nobody"}), 409),
        ("a", json!({"before": "a"}), 409),
        ("a", json!({"priority": "highest"}), 422),
        ("a", json!({"place": 3}), 422),
    ] {
        let (found, problem) = place(id, body.clone()).await;
        assert!(found == status || (status == 422 && found == 400), "{id} {body}: {found} {problem}");
        assert!(!problem["problems"][0]["message"].as_str().unwrap().is_empty());
    }
    // The page is told the same order.
    loop {
        let (_, event) = events.next().await.unwrap();
        let told =
            event["queue"]["waiting"].as_array().map(|all| all.iter().map(|w| w["job"].clone()).collect::<Vec<_>>());
        if told.is_some_and(|told| told == wanted.map(Value::from)) {
            break;
        }
    }
    studio.crash().await;
    let studio = start(&home);
    assert_eq!(order(&studio).await, wanted);
    assert_eq!(studio.get("/api/queue").await["paused"], true, "a pause outlives the server");
    studio.post("/api/queue", json!({"paused": false})).await;
    studio.until("b", "succeeded").await;
    assert_eq!(started(&studio).await, wanted);
    assert_eq!(order(&studio).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_pause_lets_what_runs_go_on() {
    let home = Home::new();
    let studio = start(&home);
    studio.job("train", "running", json!({"steps": 30, "step_ms": 10})).await;
    studio.until_step("running", 2).await;
    studio.post("/api/queue", json!({"paused": true})).await;
    studio.job("train", "waiting", json!({"steps": 2})).await;
    studio.until("running", "succeeded").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(studio.get("/api/jobs/waiting").await["state"], "queued");
    studio.post("/api/queue", json!({"paused": false})).await;
    studio.until("waiting", "succeeded").await;
}

#[tokio::test]
async fn a_killed_run_starts_again_by_itself_and_goes_on() {
    let home = Home::new();
    let studio = eager(&home, 5);
    let id = studio.job("train", "run", json!({"steps": 60, "step_ms": 10})).await;
    for step in [15, 35] {
        studio.until_step(&id, step).await;
        kill_worker(&home, &id);
        studio.until_step(&id, step + 5).await;
    }
    let job = studio.until(&id, "succeeded").await;
    assert_eq!((&job["restart"], &job["problem"]), (&Value::Null, &Value::Null));
    assert_eq!(studio.steps(&id).await, (1..=60).collect::<Vec<u64>>());
    let starts = fs::read_to_string(home.run(&id).join("events.jsonl")).unwrap();
    assert_eq!(starts.matches("\"started\"").count(), 3);
}

#[tokio::test]
async fn attempts_without_progress_are_counted_and_end() {
    let home = Home::new();
    let studio = eager(&home, 3);
    studio.job("train", "crash", json!({"steps": 4, "step_ms": 1, "exit": 101, "save_steps": 100})).await;
    let since = Instant::now();
    let mut seen = Vec::new();
    let job = loop {
        let job = studio.get("/api/jobs/crash").await;
        if let Some(attempt) = job["restart"]["attempt"].as_u64()
            && seen.last() != Some(&attempt)
        {
            assert_eq!((&job["state"], &job["restart"]["of"]), (&json!("interrupted"), &json!(3)));
            seen.push(attempt);
        }
        if job["state"] == "interrupted" && job["restart"].is_null() {
            break job;
        }
        assert!(since.elapsed() < Duration::from_secs(20), "{job}");
        tokio::time::sleep(Duration::from_millis(3)).await;
    };
    assert_eq!(seen, [2, 3]);
    let hint = job["problem"]["hint"].as_str().unwrap();
    assert!(hint.contains("started 3 times without getting beyond step 4"), "{hint}");
    // A person may try as often again.
    studio.post("/api/jobs/crash/resume", json!({})).await;
    let job = studio.until("crash", "interrupted").await;
    assert_eq!(job["restart"]["attempt"], 2);
}

#[tokio::test]
async fn what_failed_or_was_stopped_stays_so() {
    let home = Home::new();
    let studio = eager(&home, 5);
    studio.job("train", "fails", json!({"steps": 2, "fail": true})).await;
    studio.until("fails", "failed").await;
    // Asked to stop, deaf, and killed: a person wanted it to end.
    studio.job("train", "stopped", json!({"steps": 5000, "step_ms": 5})).await;
    studio.until_step("stopped", 3).await;
    studio.post("/api/jobs/stopped/stop", json!({})).await;
    studio.until("stopped", "stopped").await;
    // One whose restart a person takes back.
    studio.job("train", "taken-back", json!({"steps": 5000, "step_ms": 5})).await;
    studio.until_step("taken-back", 3).await;
    studio.post("/api/queue", json!({"paused": true})).await;
    kill_worker(&home, "taken-back");
    studio.until("taken-back", "queued").await;
    assert_eq!(studio.post("/api/jobs/taken-back/stop", json!({})).await.1["state"], "stopped");
    studio.post("/api/queue", json!({"paused": false})).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    for (id, state) in [("fails", "failed"), ("stopped", "stopped"), ("taken-back", "stopped")] {
        assert_eq!(studio.get(&format!("/api/jobs/{id}")).await["state"], state);
    }
    // With the switch off nothing starts by itself.
    studio.crash().await;
    let studio = eager(&home, 0);
    studio.job("train", "off", json!({"steps": 5000, "step_ms": 5})).await;
    studio.until_step("off", 3).await;
    kill_worker(&home, "off");
    let job = studio.until("off", "interrupted").await;
    assert_eq!(job["restart"], Value::Null);
    assert!(!job["problem"]["hint"].as_str().unwrap().contains("by itself"));
}

#[tokio::test]
async fn a_planned_start_and_the_queue_outlive_server_worker_and_database() {
    let home = Home::new();
    let studio = start(&home);
    studio.job("train", "run", json!({"steps": 100, "step_ms": 10})).await;
    studio.job("train", "later", json!({"steps": 2})).await;
    let first = json!({"kind": "train", "name": "urgent", "priority": "high", "config": {"steps": 2}});
    studio.post("/api/jobs", first).await;
    studio.until_step("run", 12).await;
    studio.crash().await;
    kill_worker(&home, "run");
    // The machine is switched on again, without its database.
    for name in ["lathe.db", "lathe.db-wal", "lathe.db-shm"] {
        let _ = fs::remove_file(home.path().join(name));
    }
    let studio = start(&home);
    let job = studio.until("run", "interrupted").await;
    assert_eq!((&job["restart"]["attempt"], &job["restart"]["of"]), (&json!(2), &json!(5)));
    let at = job["restart"]["at"].as_f64().unwrap();
    studio.until("later", "succeeded").await;
    studio.crash().await;
    let studio = eager(&home, 5);
    let again = studio.get("/api/jobs/run").await;
    assert!(again["restart"].is_null() || again["restart"]["at"] == at, "{again}");
    let job = studio.until("run", "succeeded").await;
    assert_eq!(job["config"]["resume_from_checkpoint"], true);
    assert_eq!(studio.steps("run").await, (1..=100).collect::<Vec<u64>>());
    let started = started(&studio).await;
    assert_eq!(started, ["urgent", "later", "run"], "priorities were found again");
}

#[tokio::test]
async fn a_chain_from_training_to_export_waits_for_a_link_that_starts_again() {
    let home = Home::new();
    let studio = eager(&home, 5);
    let chain = json!({"jobs": [
        {"kind": "train", "name": "sft", "config": {"steps": 40, "step_ms": 10}},
        {"kind": "export", "name": "merged", "config": {"steps": 2, "adapter_name_or_path": "{run:1}"}},
    ]});
    assert_eq!(studio.post("/api/chains", chain).await.0, 201);
    studio.until_step("sft", 12).await;
    kill_worker(&home, "sft");
    let merged = studio.until("merged", "succeeded").await;
    let sft = studio.get("/api/jobs/sft").await;
    assert_eq!(sft["state"], "succeeded");
    assert!(merged["started_at"].as_f64() >= sft["finished_at"].as_f64());
}

#[tokio::test]
async fn b15_b16_hostile_cursors_and_words_are_refused_or_find_nothing() {
    let home = Home::new();
    let studio = start(&home);
    for name in ["alpha", "beta", "gamma"] {
        studio.job("train", name, json!({"steps": 1, "step_ms": 1, "note": "50%_'quoted\" \\ 学习"})).await;
        studio.until(name, "succeeded").await;
    }
    let list = |query: Vec<(&'static str, String)>| {
        let url = reqwest::Url::parse_with_params(&studio.url("/api/jobs"), query).unwrap();
        let request = studio.client.get(url);
        async move {
            let response = request.send().await.unwrap();
            let status = response.status().as_u16();
            let body: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
            let ids = body.as_array().into_iter().flatten().map(|job| job["id"].as_str().unwrap().to_owned());
            (status, ids.collect::<Vec<_>>())
        }
    };
    let all = ["gamma", "beta", "alpha"];
    // Page by page, every job comes once.
    let (mut cursor, mut seen) = (None::<String>, Vec::new());
    loop {
        let mut query = vec![("limit", "1".to_owned())];
        query.extend(cursor.clone().map(|at| ("before", at)));
        let (status, page) = list(query).await;
        assert_eq!(status, 200);
        let Some(id) = page.first() else { break };
        let job = studio.get(&format!("/api/jobs/{id}")).await;
        cursor = Some(format!("{},{id}", job["created_at"]));
        seen.extend(page);
    }
    assert_eq!(seen, all);
    for (search, found) in [
        ("BETA", vec!["beta"]),
        ("50%_'quoted\\\"", all.to_vec()),
        ("学习 gam", vec!["gamma"]),
        ("%", all.to_vec()),
        ("'; DROP TABLE jobs; --", vec![]),
        ("\u{0}", vec![]),
        ("' OR 1=1", vec![]),
    ] {
        assert_eq!(
            list(vec![("search", search.to_owned())]).await,
            (200, found.iter().map(|s| (*s).to_owned()).collect()),
            "{search:?}"
        );
    }
    assert_eq!(list(vec![("search", "x ".repeat(5000))]).await.0, 200);
    for bad in ["", ",", "x,alpha", "nan,alpha", "inf,a", "1e999,a", "1", "\u{0}"] {
        assert_eq!(list(vec![("before", bad.to_owned())]).await.0, 400, "{bad:?}");
    }
    for (name, bad) in
        [("limit", "-1"), ("limit", "1e9"), ("state", "x"), ("kind", "'"), ("limit", "99999999999999999999")]
    {
        assert_eq!(list(vec![(name, bad.to_owned())]).await.0, 400, "{name} {bad:?}");
    }
    assert_eq!(list(vec![("state", "succeeded".into()), ("kind", "train".into())]).await.1, all);
    for last in ["-1", "9223372036854775807", "-9223372036854775808", "99999999999999999999", "x", "1;2", " ", "1e3"] {
        let response = studio.client.get(studio.url("/api/events")).header("last-event-id", last).send().await.unwrap();
        assert_eq!(response.status(), 200, "{last:?}");
    }
    for after in ["9223372036854775807", "-9223372036854775808", "0"] {
        let response = studio.client.get(studio.url(&format!("/api/events?after={after}"))).send().await.unwrap();
        assert_eq!(response.status(), 200, "{after}");
    }
    for after in ["18446744073709551615", "0"] {
        let response =
            studio.client.get(studio.url(&format!("/api/jobs/alpha/metrics?after={after}"))).send().await.unwrap();
        assert_eq!(response.status(), 200, "{after}");
    }
}
