//! Servers and workers that are killed, stopped or hang, pages that come and go; with a studio in a process of its own
//! and the stand-in for the worker. `LATHE_FAULTS` says how often each is tried.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Home, Process, Studio, start, try_start, worker_pid};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use std::{
    collections::HashSet,
    fs,
    path::Path,
    time::{Duration, Instant},
};

fn tries(few: u64) -> u64 {
    std::env::var("LATHE_FAULTS").ok().and_then(|n| n.parse().ok()).unwrap_or(few)
}

fn signal(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).unwrap();
}

/// It may just have ended by itself.
fn kill_if_there(pid: i32) {
    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
}

fn all_to(last: u64) -> Vec<u64> {
    (1..=last).collect()
}

/// Numbers that look like chance and are the same each time (splitmix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % end
    }
}

#[tokio::test]
async fn r04_a_killed_server_leaves_training_alone_and_takes_it_up_again() {
    let (home, mut dice) = (Home::new(), Dice(4));
    let steps = 150 * tries(4);
    let mut server = Process::start(&home, 10_000);
    server.studio.job("train", "run", json!({"steps": steps, "step_ms": 5, "save_steps": 1000})).await;
    server.studio.until_step("run", 3).await;
    let worker = worker_pid(&home.run("run")).unwrap();
    let mut last = 0;
    for round in 0..tries(4) {
        tokio::time::sleep(Duration::from_millis(dice.below(300))).await;
        server.kill();
        let away = Instant::now();
        server = Process::start(&home, 10_000);
        let job = server.studio.get("/api/jobs/run").await;
        assert!(away.elapsed() < Duration::from_secs(5), "{:?}", away.elapsed());
        if job["state"] != "succeeded" {
            assert_eq!(
                (&job["state"], worker_pid(&home.run("run"))),
                (&json!("running"), Some(worker)),
                "round {round}"
            );
        }
        let done = job["progress"]["done"].as_u64().unwrap();
        assert!(done >= last, "round {round}");
        last = done;
    }
    server.studio.until("run", "succeeded").await;
    // The list is thinned, so that a long run is read in pieces.
    let mut seen = Vec::new();
    while let points = server.studio.get(&format!("/api/jobs/run/metrics?after={}", seen.len())).await
        && !points.as_array().unwrap().is_empty()
    {
        seen.extend(points.as_array().unwrap().iter().map(|p| p["step"].as_u64().unwrap()));
        assert!(steps <= 1500, "pieces");
    }
    assert_eq!(seen, all_to(steps), "every step once");
    let text = fs::read_to_string(home.run("run").join("events.jsonl")).unwrap();
    assert_eq!(text.matches("\"started\"").count(), 1, "one worker from the first step to the last");
}

#[tokio::test]
async fn r05_a_machine_that_goes_off_leaves_an_interrupted_run_that_goes_on() {
    let (home, mut dice) = (Home::new(), Dice(5));
    let mut server = Process::start(&home, 60_000);
    server.studio.job("train", "run", json!({"steps": 100_000, "step_ms": 4, "save_steps": 10})).await;
    let mut reached = 12;
    for round in 0..tries(4) {
        server.studio.until_step("run", reached).await;
        tokio::time::sleep(Duration::from_millis(dice.below(60))).await;
        let worker = worker_pid(&home.run("run")).unwrap();
        // In either order.
        if round % 2 == 0 {
            server.kill();
            signal(worker, Signal::SIGKILL);
        } else {
            signal(worker, Signal::SIGKILL);
            server.kill();
        }
        server = Process::start(&home, 60_000);
        let job = server.studio.get("/api/jobs/run").await;
        assert_eq!(job["state"], "interrupted", "round {round}");
        let checkpoints = server.studio.get("/api/jobs/run/checkpoints").await;
        let step = checkpoints.as_array().unwrap().last().unwrap()["step"].as_u64().unwrap();
        let hint = job["problem"]["hint"].as_str().unwrap();
        assert!(hint.contains(&format!("checkpoint-{step} (step {step})")), "{hint}");
        assert!(job["restart"]["at"].as_f64().is_some(), "{job}");
        let done = job["progress"]["done"].as_u64().unwrap();
        assert!(step <= done && done - step < 10, "{step} of {done}");
        assert_eq!(server.studio.post("/api/jobs/run/resume", json!({})).await.0, 200);
        reached = done + 5;
    }
    server.studio.until_step("run", reached).await;
    server.studio.post("/api/jobs/run/stop", json!({})).await;
    server.studio.until("run", "stopped").await;
}

#[tokio::test]
async fn r05_whatever_is_killed_in_whatever_order_everything_queued_finishes() {
    let (home, mut dice) = (Home::new(), Dice(55));
    let mut server = Process::start(&home, 30);
    let mut names = Vec::new();
    for number in 0..4 {
        let name = format!("job-{number}");
        server.studio.job("train", &name, json!({"steps": 60, "step_ms": 4, "save_steps": 5})).await;
        names.push(name);
    }
    let chain = json!({"jobs": [
        {"kind": "train", "name": "sft", "config": {"steps": 40, "step_ms": 4, "save_steps": 5}},
        {"kind": "export", "name": "merged", "config": {"steps": 3, "adapter_name_or_path": "{run:1}"}},
    ]});
    assert_eq!(server.studio.post("/api/chains", chain).await.0, 201);
    names.extend(["sft".into(), "merged".into()]);
    for _ in 0..tries(6) {
        tokio::time::sleep(Duration::from_millis(80 + dice.below(250))).await;
        let workers = || names.iter().filter_map(|name| worker_pid(&home.run(name))).collect::<Vec<_>>();
        match dice.below(3) {
            0 => workers().into_iter().for_each(kill_if_there),
            1 => {
                server.kill();
                server = Process::start(&home, 30);
            }
            _ => {
                server.kill();
                workers().into_iter().for_each(kill_if_there);
                server = Process::start(&home, 30);
            }
        }
    }
    for name in &names {
        server.studio.until(name, "succeeded").await;
    }
    for number in 0..4 {
        assert_eq!(server.studio.steps(&format!("job-{number}")).await, all_to(60));
    }
}

#[tokio::test]
async fn r13_a_clock_that_jumps_leaves_order_and_durations_whole() {
    let home = Home::new();
    let studio = start(&home);
    for (name, jump) in
        [("day-back", -86_400.0), ("day-on", 86_400.0), ("years-on", 315_360_000.0), ("hour-back", -3600.0)]
    {
        studio.job("train", name, json!({"steps": 20, "step_ms": 2, "clock_jumps": jump})).await;
        let job = studio.until(name, "succeeded").await;
        let (started, finished) = (job["started_at"].as_f64().unwrap(), job["finished_at"].as_f64().unwrap());
        assert!(finished >= started, "{name}: {started} to {finished}");
        assert_eq!(studio.steps(name).await, all_to(20), "{name}");
        assert_eq!(job["progress"]["seconds_left"], Value::Null);
    }
    // While it runs, nothing that is left is negative.
    studio.job("train", "watched", json!({"steps": 60, "step_ms": 5, "clock_jumps": -86_400.0})).await;
    loop {
        let job = studio.get("/api/jobs/watched").await;
        assert!(job["progress"]["seconds_left"].as_f64().is_none_or(|left| left >= 0.0), "{job}");
        if job["state"] == "succeeded" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn r15_a_worker_that_hangs_is_shown_and_left_alone() {
    let home = Home::new();
    let studio = start(&home);
    studio.job("train", "run", json!({"steps": 4000, "step_ms": 5, "beats": true})).await;
    studio.until_step("run", 5).await;
    let worker = worker_pid(&home.run("run")).unwrap();
    signal(worker, Signal::SIGSTOP);
    let since = Instant::now();
    let stalled = |job: &Value| job["progress"]["stalled_since"].as_f64();
    while stalled(&studio.get("/api/jobs/run").await).is_none() {
        assert!(since.elapsed() < Duration::from_secs(12), "never shown as stalled");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(since.elapsed() > Duration::from_secs(6), "three beats have to be missed");
    let silence = std::env::var("LATHE_SECONDS").ok().and_then(|n| n.parse().ok()).unwrap_or(9);
    tokio::time::sleep(Duration::from_secs(silence).saturating_sub(since.elapsed())).await;
    let job = studio.get("/api/jobs/run").await;
    assert_eq!((&job["state"], worker_pid(&home.run("run"))), (&json!("running"), Some(worker)), "not killed");
    signal(worker, Signal::SIGCONT);
    let since = Instant::now();
    while stalled(&studio.get("/api/jobs/run").await).is_some() {
        assert!(since.elapsed() < Duration::from_secs(5), "still shown as stalled");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    studio.post("/api/jobs/run/stop", json!({})).await;
    studio.until("run", "stopped").await;
    // One that gives no signs of life at all is not called stalled.
    studio.job("train", "mute", json!({"steps": 4000, "step_ms": 5})).await;
    studio.until_step("mute", 5).await;
    signal(worker_pid(&home.run("mute")).unwrap(), Signal::SIGSTOP);
    tokio::time::sleep(Duration::from_secs(8)).await;
    assert_eq!(stalled(&studio.get("/api/jobs/mute").await), None);
}

#[tokio::test]
async fn r15_a_worker_that_said_its_last_word_and_stays_is_ended() {
    let home = Home::new();
    let studio = start(&home);
    studio.job("train", "run", json!({"steps": 2, "step_ms": 1, "lingers": true})).await;
    studio.until("run", "succeeded").await;
    let since = Instant::now();
    let worker = worker_pid(&home.run("run")).unwrap();
    while worker_pid(&home.run("run")).is_some() {
        assert!(since.elapsed() < Duration::from_secs(20), "still there");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(since.elapsed() > Duration::from_secs(12), "it gets a moment: {:?}", since.elapsed());
    tokio::time::sleep(Duration::from_millis(500)).await;
    let job = studio.get("/api/jobs/run").await;
    assert_eq!((&job["state"], &job["problem"], &job["restart"]), (&json!("succeeded"), &Value::Null, &Value::Null));
    assert!(!is_there(worker));
}

/// The times between steps of a run, the middle one, in seconds.
async fn pace(studio: &Studio, id: &str) -> f64 {
    let points = studio.get(&format!("/api/jobs/{id}/metrics")).await;
    let times: Vec<f64> = points.as_array().unwrap().iter().map(|p| p["time"].as_f64().unwrap()).collect();
    let mut between: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    between.sort_by(f64::total_cmp);
    between[between.len() / 2]
}

#[tokio::test]
async fn r18_pages_that_never_read_hold_up_nobody() {
    let home = Home::new();
    let studio = start(&home);
    let config = json!({"steps": 200, "step_ms": 5, "chatter": 20_000});
    let mut best = f64::MAX;
    for attempt in 0..4 {
        studio.job("train", "alone", config.clone()).await;
        let alone = if attempt == 0 { "alone".into() } else { format!("alone-{}", attempt + 1) };
        studio.until(&alone, "succeeded").await;
        // They ask from the first message on, and take nothing of the answer.
        let request = format!("GET /api/events?after=0 HTTP/1.1\r\nHost: {}\r\n\r\n", studio.address);
        let deaf: Vec<_> = (0..tries(60))
            .map(|_| {
                let mut socket = std::net::TcpStream::connect(studio.address).unwrap();
                std::io::Write::write_all(&mut socket, request.as_bytes()).unwrap();
                socket
            })
            .collect();
        let mut reader = studio.events(None).await;
        let (first, _) = reader.next().await.unwrap();
        studio.job("train", "watched", config.clone()).await;
        let watched = if attempt == 0 { "watched".into() } else { format!("watched-{}", attempt + 1) };
        let mut last = first;
        loop {
            let (number, event) = reader.next().await.unwrap();
            assert_eq!(number, last + 1, "no gap and no duplicate");
            last = number;
            if event["job"]["id"] == watched.as_str() && event["job"]["state"] == "succeeded" {
                break;
            }
        }
        drop(deaf);
        assert_eq!(studio.steps(&watched).await, all_to(200));
        let log = fs::metadata(home.run(&watched).join("worker.log")).unwrap().len();
        assert!(log > 4_000_000, "{log}");
        best = best.min(pace(&studio, &watched).await / pace(&studio, &alone).await);
        if best <= 1.02 {
            break;
        }
    }
    // Other tests run beside this one: one undisturbed attempt is enough.
    assert!(best <= 1.02, "steps take {best:.3} times as long with pages that never read");
}

#[tokio::test]
async fn r19_pages_that_come_back_miss_nothing_and_see_nothing_twice() {
    let (home, mut dice) = (Home::new(), Dice(19));
    let mut server = Process::start(&home, 10_000);
    server.studio.job("train", "run", json!({"steps": 100_000, "step_ms": 2, "save_steps": 100})).await;
    let mut last = 0;
    let (mut steps, mut connections) = (Vec::new(), 0);
    let end = tries(80);
    while connections < end {
        // The server itself comes back now and then.
        if connections % 40 == 39 {
            server.kill();
            server = Process::start(&home, 10_000);
        }
        let mut events = server.studio.events(Some(last)).await;
        for _ in 0..dice.below(30) {
            let (number, event) = events.next().await.unwrap();
            assert_eq!(number, last + 1, "connection {connections}: {event}");
            last = number;
            if event["type"] == "metric" {
                steps.push(event["metric"]["step"].as_u64().unwrap());
            }
        }
        connections += 1;
    }
    assert_eq!(steps, all_to(steps.len() as u64), "the curve is whole");
    server.studio.post("/api/jobs/run/stop", json!({})).await;
    server.studio.until("run", "stopped").await;
}

/// Whether a process is there and no zombie.
fn is_there(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X'])))
}

/// Processes whose group is that of a worker.
fn of_group(group: i32) -> Vec<i32> {
    let all = fs::read_dir("/proc").unwrap().flatten().filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
    all.filter(|pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let its = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(2)?.parse::<i32>().ok());
        its == Some(group) && is_there(*pid)
    })
    .collect()
}

#[tokio::test]
async fn r20_a_stopped_worker_leaves_no_process_behind() {
    let home = Home::new();
    let mut options = home.options();
    options.stop_limit = Duration::from_secs(1);
    let studio = try_start(options).unwrap();
    for (name, config) in [
        ("obeys", json!({"steps": 100_000, "step_ms": 5, "child": true})),
        ("deaf", json!({"steps": 100_000, "step_ms": 5, "child": true, "deaf": true})),
        ("done", json!({"steps": 3, "step_ms": 5, "child": true})),
        ("crashes", json!({"steps": 3, "step_ms": 5, "child": true, "exit": 3})),
    ] {
        studio.job("train", name, config).await;
        studio.until_step(name, 1).await;
        let text = fs::read_to_string(home.run(name).join("events.jsonl")).unwrap();
        let line: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        let worker = i32::try_from(line["pid"].as_i64().unwrap()).unwrap();
        let since = Instant::now();
        studio.post(&format!("/api/jobs/{name}/stop"), json!({})).await;
        while !of_group(worker).is_empty() {
            assert!(since.elapsed() < Duration::from_secs(5), "{name}: {:?} are left", of_group(worker));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let child = fs::read_to_string(home.run(name).join("child")).unwrap().trim().parse().unwrap();
        assert!(!is_there(child), "{name}");
    }
}

#[tokio::test]
async fn r20_a_pid_that_is_somebody_elses_is_never_signalled() {
    let home = Home::new();
    let mut other = std::process::Command::new("sleep").arg("600").spawn().unwrap();
    let run = home.run("stale");
    fs::create_dir_all(&run).unwrap();
    let spec = json!({"id": "stale", "kind": "train", "config": {"steps": 3}, "created_at": 1.0});
    fs::write(run.join("spec.json"), spec.to_string()).unwrap();
    fs::write(run.join("worker.lock"), "").unwrap();
    // A worker of an hour ago had the pid that the other process has now.
    let hour_ago = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64() - 3600.0;
    let line = json!({"seq": 1, "time": hour_ago, "type": "started", "pid": other.id(), "version": "0"});
    fs::write(run.join("events.jsonl"), format!("{line}\n")).unwrap();
    let studio = start(&home);
    let job = studio.until("stale", "interrupted").await;
    assert_eq!(job["restart"], Value::Null, "not ours to start");
    assert_eq!(studio.post("/api/jobs/stale/stop", json!({})).await.0, 409);
    assert_eq!(studio.delete("/api/jobs/stale").await, 204);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(other.try_wait().unwrap().is_none(), "the other process was signalled");
    other.kill().unwrap();
    other.wait().unwrap();
}

#[tokio::test]
async fn r25_a_thousand_jobs_of_one_name_overwrite_nothing() {
    let home = Home::new();
    let studio = start(&home);
    studio.post("/api/queue", json!({"paused": true})).await;
    let mut ids = HashSet::new();
    let all = tries(200);
    while (ids.len() as u64) < all {
        let batch = 100.min(all - ids.len() as u64);
        let made = (0..batch).map(|number| {
            let config = json!({"steps": 1, "number": ids.len() as u64 + number});
            studio.job("train", "same", config)
        });
        let made = futures::future::join_all(made).await;
        for id in made {
            studio.post(&format!("/api/jobs/{id}/stop"), json!({})).await;
            assert!(ids.insert(id.clone()), "{id} twice");
        }
    }
    let mut numbers = HashSet::new();
    for id in &ids {
        let spec: Value = serde_json::from_slice(&fs::read(home.run(id).join("spec.json")).unwrap()).unwrap();
        assert_eq!(&spec["id"], id.as_str());
        assert!(numbers.insert(spec["config"]["number"].as_u64().unwrap()), "{id}");
    }
    assert_eq!(numbers.len() as u64, all);
}

#[tokio::test]
async fn r25_what_is_deleted_stays_within_the_home() {
    let (home, elsewhere) = (Home::new(), tempfile::tempdir().unwrap());
    let studio = start(&home);
    fs::write(elsewhere.path().join("weights"), "precious").unwrap();
    studio.job("train", "run", json!({"steps": 1, "step_ms": 1})).await;
    studio.until("run", "succeeded").await;
    std::os::unix::fs::symlink(elsewhere.path(), home.run("run").join("link")).unwrap();
    for hostile in ["..", "../datasets", "%2e%2e", "..%2fdatasets", "run%00", ".", "%2fetc"] {
        assert_ne!(studio.delete(&format!("/api/jobs/{hostile}")).await, 204, "{hostile}");
    }
    assert_eq!(studio.delete("/api/jobs/run").await, 204);
    let since = Instant::now();
    while fs::read_dir(home.path().join("runs")).unwrap().count() > 0 {
        assert!(since.elapsed() < Duration::from_secs(5), "the trash isn't emptied");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(fs::read_to_string(elsewhere.path().join("weights")).unwrap(), "precious");
    assert!(home.path().join("datasets").exists());
    // Trash that an ended server left goes at the next start.
    studio.crash().await;
    fs::create_dir(home.path().join("runs/.trash-old")).unwrap();
    let _studio = start(&home);
    let since = Instant::now();
    while home.path().join("runs/.trash-old").exists() {
        assert!(since.elapsed() < Duration::from_secs(5));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Open files, threads and children of a process.
fn taken(pid: u32) -> (usize, usize, usize) {
    let count = |path: &str| fs::read_dir(path).map_or(0, Iterator::count);
    let threads = count(&format!("/proc/{pid}/task"));
    let children = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten().map(|task| {
        let list = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        list.split_whitespace().count()
    });
    (count(&format!("/proc/{pid}/fd")), threads, children.sum())
}

#[tokio::test]
async fn r29_files_threads_and_children_come_back() {
    let home = Home::new();
    let server = Process::start(&home, 10_000);
    let studio = &server.studio;
    let rounds = tries(6);
    let mix = async |round: u64| {
        let id = studio.job("train", "run", json!({"steps": 3, "step_ms": 1})).await;
        let paths =
            ["/api/jobs", "/api/queue", "/health", "/metrics", "/api/jobs/nobody", "/", "/api/catalog", "/api/system"];
        let asked = (0..60).map(|n| studio.client.get(studio.url(paths[n % paths.len()])).send());
        futures::future::join_all(asked).await.into_iter().for_each(|answer| assert!(answer.unwrap().status() != 500));
        let mut events = studio.events(Some(0)).await;
        events.next().await.unwrap();
        studio.until(&id, "succeeded").await;
        if round.is_multiple_of(2) {
            assert_eq!(studio.delete(&format!("/api/jobs/{id}")).await, 204);
        }
    };
    mix(0).await;
    // Connections of clients, threads that wait for work: all go after some seconds.
    tokio::time::sleep(Duration::from_secs(6)).await;
    let before = taken(server.pid());
    for round in 0..rounds {
        mix(round).await;
    }
    let since = Instant::now();
    loop {
        let now = taken(server.pid());
        if now.0 <= before.0 && now.1 <= before.1 && now.2 == 0 {
            break;
        }
        assert!(since.elapsed() < Duration::from_secs(15), "{now:?} of files, threads and children, {before:?} before");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(Path::new(&format!("/proc/{}", server.pid())).exists());
}
