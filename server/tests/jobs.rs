//! The queue and the workers, with a stand-in for the worker.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Home, start, try_start, worker_pid};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use server::CudaWorker;
use std::{
    fs,
    time::{Duration, Instant},
};

fn signal(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).unwrap();
}

fn all_to(last: u64) -> Vec<u64> {
    (1..=last).collect()
}

#[tokio::test]
async fn jobs_run_one_by_one_in_the_order_asked() {
    let home = Home::new();
    let studio = start(&home);
    let mut ids = Vec::new();
    for (kind, name) in [("train", "same"), ("train", "same"), ("export", "last")] {
        ids.push(studio.job(kind, name, json!({"steps": 20, "step_ms": 5})).await);
    }
    assert_eq!(ids, ["same", "same-2", "last"]);
    assert_eq!(studio.get("/api/jobs/last").await["progress"]["status"]["en"], "Waiting for same");
    let mut before = 0.0;
    for id in &ids {
        let job = studio.until(id, "succeeded").await;
        let (started, finished) = (job["started_at"].as_f64().unwrap(), job["finished_at"].as_f64().unwrap());
        assert!(before <= started && started <= finished, "{id}");
        before = finished;
        assert_eq!(studio.steps(id).await, all_to(20));
        assert_eq!(job["summary"]["train_loss"], 0.5);
        assert_eq!(job["progress"]["total"], 20);
    }
    let listed = studio.get("/api/jobs").await;
    let listed: Vec<_> = listed.as_array().unwrap().iter().map(|job| job["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(listed, ["last", "same-2", "same"]);
    let checkpoints = studio.get("/api/jobs/same/checkpoints").await;
    let names: Vec<_> = checkpoints.as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["checkpoint-10", "checkpoint-20", "final"]);
    assert_eq!(checkpoints[2]["path"], fs::canonicalize(home.run("same")).unwrap().to_str().unwrap());
    let log = studio.client.get(studio.url("/api/jobs/same/log")).send().await.unwrap().text().await.unwrap();
    assert_eq!(log, "worker of same\n");
    assert_eq!(studio.get("/api/jobs/same/metrics?after=18").await.as_array().unwrap().len(), 2);
    // A folder that was taken away by hand leaves its name to the job that had it.
    fs::remove_dir_all(home.run("last")).unwrap();
    assert_eq!(studio.job("export", "last", json!({"steps": 1, "step_ms": 1})).await, "last-2");
}

#[tokio::test]
async fn rollouts_are_those_of_a_step() {
    let home = Home::new();
    let studio = start(&home);
    studio.job("train", "policy", json!({"steps": 2})).await;
    studio.until("policy", "succeeded").await;
    assert_eq!(studio.get("/api/jobs/policy/rollouts").await, json!([]));
    let sample = json!({
        "text": "4", "tokens": 2, "whole": true, "rewards": {"exact": 1.0}, "reward": 1.0, "advantage": 0.7,
        "clipped": 0.0, "kl": 0.1, "entropy": 1.5
    });
    let line = |step: u64, prompt: &str| json!({"step": step, "prompt": prompt, "samples": [sample]});
    let lines = [line(1, "a"), line(2, "b"), line(2, "c")].map(|line| line.to_string());
    // The worker is in the middle of the last line.
    let text = lines.join("\n") + "\n{\"step\": 3, \"pro";
    fs::write(home.run("policy").join("rollouts.jsonl"), text).unwrap();
    assert_eq!(studio.get("/api/jobs/policy/rollouts").await, json!([line(2, "b"), line(2, "c")]));
    assert_eq!(studio.get("/api/jobs/policy/rollouts?step=1").await, json!([line(1, "a")]));
    assert_eq!(studio.get("/api/jobs/policy/rollouts?step=9").await, json!([]));
    let nobody = studio.client.get(studio.url("/api/jobs/nobody/rollouts")).send().await.unwrap();
    assert_eq!(nobody.status(), 404);
}

#[tokio::test]
async fn each_gpu_takes_one_job_and_the_cpu_another() {
    let home = Home::new();
    let mut options = home.options();
    options.program.cuda = Some(CudaWorker { path: options.program.path.clone(), gpus: 2 });
    let studio = try_start(options).unwrap();
    for (name, device) in [("a", "auto"), ("b", "cuda"), ("c", ""), ("d", "cpu"), ("e", "cuda:1")] {
        studio.job("train", name, json!({"steps": 2000, "step_ms": 10, "device": device})).await;
    }
    let words = |name: &str| {
        let pid = worker_pid(&home.run(name)).unwrap();
        fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap().replace('\0', " ")
    };
    for (name, device) in [("a", "--device cuda:0 "), ("b", "--device cuda:1 "), ("d", "")] {
        studio.until_step(name, 1).await;
        let words = words(name);
        assert!(words.contains(device) && words.contains("--device") != device.is_empty(), "{name}: {words}");
    }
    for name in ["c", "e"] {
        assert_eq!(studio.get(&format!("/api/jobs/{name}")).await["state"], "queued", "{name}");
    }
    assert_eq!(studio.get("/api/jobs/e").await["progress"]["status"]["en"], "Waiting for b");
    studio.post("/api/jobs/a/stop", json!({})).await;
    studio.until_step("c", 1).await;
    assert!(words("c").contains("--device cuda:0 "));
    for name in ["b", "c", "d", "e"] {
        studio.post(&format!("/api/jobs/{name}/stop"), json!({})).await;
    }
}

#[tokio::test]
async fn a_killed_worker_is_told_of_within_seconds_and_its_run_goes_on() {
    let home = Home::new();
    let studio = start(&home);
    let id = studio.job("train", "run", json!({"steps": 60, "step_ms": 10})).await;
    studio.until_step(&id, 15).await;
    let pid = worker_pid(&home.run(&id)).unwrap();
    assert_eq!(fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap().trim(), "500");
    let environment = fs::read_to_string(format!("/proc/{pid}/environ")).unwrap();
    assert!(environment.contains("LATHE_HOME=") && !environment.contains("secret"));
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let group: i32 = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(2).unwrap().parse().unwrap();
    assert_eq!(group, pid, "in a process group of its own");
    let killed = Instant::now();
    signal(pid, Signal::SIGKILL);
    let job = studio.until(&id, "interrupted").await;
    assert!(killed.elapsed() < Duration::from_secs(2));
    let problem = &job["problem"];
    assert!(problem["message"].as_str().unwrap().contains("SIGKILL"), "{problem}");
    // Killed between a step and its checkpoint, the one before is the last.
    let checkpoints = studio.get("/api/jobs/run/checkpoints").await;
    let last = checkpoints.as_array().unwrap().last().unwrap()["step"].as_u64().unwrap();
    assert!((10..=job["progress"]["done"].as_u64().unwrap()).contains(&last), "{checkpoints}");
    let hint = problem["hint"].as_str().unwrap();
    assert!(hint.contains(&format!("checkpoint-{last} (step {last})")), "{problem}");
    assert!(problem["zh"]["hint"].as_str().unwrap().contains(&format!("checkpoint-{last}")), "{problem}");
    let (status, job) = studio.post("/api/jobs/run/resume", json!({})).await;
    assert_eq!((status, &job["config"]["resume_from_checkpoint"]), (200, &json!(true)));
    let job = studio.until(&id, "succeeded").await;
    assert_eq!(job["problem"], Value::Null);
    assert_eq!(studio.steps(&id).await, all_to(60));
    assert_eq!(studio.post("/api/jobs/run/resume", json!({})).await.0, 409);
}

#[tokio::test]
async fn stopping_saves_first_and_a_waiting_job_never_starts() {
    let home = Home::new();
    let studio = start(&home);
    let running = studio.job("train", "running", json!({"steps": 5000, "step_ms": 5})).await;
    let waiting = studio.job("train", "waiting", json!({})).await;
    studio.until_step(&running, 3).await;
    assert_eq!(studio.delete("/api/jobs/running").await, 409);
    assert_eq!(studio.post("/api/jobs/waiting/stop", json!({})).await.1["state"], "stopped");
    assert_eq!(studio.post("/api/jobs/running/stop", json!({})).await.1["state"], "stopping");
    let job = studio.until(&running, "stopped").await;
    let step = job["progress"]["done"].as_u64().unwrap();
    assert_eq!(studio.steps(&running).await, all_to(step));
    let checkpoints = studio.get("/api/jobs/running/checkpoints").await;
    assert_eq!(checkpoints.as_array().unwrap().last().unwrap()["step"], step);
    assert_eq!(studio.steps(&waiting).await, Vec::<u64>::new());
    assert_eq!(studio.post("/api/jobs/running/stop", json!({})).await.0, 409);
    assert_eq!(studio.delete("/api/jobs/running").await, 204);
    assert!(!home.run(&running).exists());
    assert_eq!(studio.delete("/api/jobs/running").await, 404);
}

#[tokio::test]
async fn a_chain_goes_on_by_itself_and_waits_for_what_stopped() {
    let home = Home::new();
    let studio = start(&home);
    let job = |name: &str, config: Value| json!({"kind": "train", "name": name, "config": config});
    let first = job("sft", json!({"steps": 60, "step_ms": 20}));
    let second = job("rm", json!({"steps": 2, "adapter_name_or_path": "{run:1}"}));
    let third = job("ppo", json!({"steps": 2, "adapter_name_or_path": "{run:1}", "reward_model": ["{run:2}"]}));
    let refused = studio.post("/api/chains", json!({"jobs": [second]})).await;
    assert_eq!((refused.0, &refused.1["problems"][0]["field"]), (400, &json!("adapter_name_or_path")));
    assert_eq!(studio.post("/api/chains", json!({"jobs": []})).await.0, 400);

    let (status, made) = studio.post("/api/chains", json!({"jobs": [first, second, third]})).await;
    assert_eq!((status, &made[1]["after"], &made[2]["after"]), (201, &json!("sft"), &json!("rm")));
    let folder = |id: &str| json!(fs::canonicalize(home.path()).unwrap().join("runs").join(id));
    assert_eq!(made[2]["config"]["adapter_name_or_path"], folder("sft"));
    assert_eq!(made[2]["config"]["reward_model"], json!([folder("rm")]));

    studio.until_step("sft", 3).await;
    assert_eq!(studio.get("/api/jobs/rm").await["progress"]["status"]["en"], "Waiting for sft");
    studio.post("/api/jobs/sft/stop", json!({})).await;
    studio.until("sft", "stopped").await;
    // What doesn't belong to the chain passes it by.
    let other = studio.job("train", "other", json!({"steps": 2})).await;
    studio.until(&other, "succeeded").await;
    let waiting = studio.get("/api/jobs/rm").await;
    assert_eq!((&waiting["state"], studio.steps("rm").await.len()), (&json!("queued"), 0));
    assert_eq!(waiting["progress"]["status"]["en"], "Waiting for sft, which was stopped: resume it");

    studio.post("/api/jobs/sft/resume", json!({})).await;
    let mut before = 0.0;
    for id in ["sft", "rm", "ppo"] {
        let job = studio.until(id, "succeeded").await;
        assert!(before <= job["started_at"].as_f64().unwrap(), "{id}");
        before = job["finished_at"].as_f64().unwrap();
    }
}

#[tokio::test]
async fn a_worker_that_never_stops_is_ended() {
    let home = Home::new();
    let mut options = home.options();
    options.stop_limit = Duration::from_secs(1);
    let studio = try_start(options).unwrap();
    let id = studio.job("train", "deaf", json!({"steps": 100_000, "deaf": true})).await;
    studio.until_step(&id, 1).await;
    let pid = worker_pid(&home.run(&id)).unwrap();
    studio.post("/api/jobs/deaf/stop", json!({})).await;
    let job = studio.until(&id, "interrupted").await;
    assert_eq!(job["problem"]["code"], "worker_too_slow");
    assert!(fs::metadata(format!("/proc/{pid}")).is_err());
}

#[tokio::test]
async fn failures_say_what_the_worker_said_or_how_it_ended() {
    let home = Home::new();
    let studio = start(&home);
    studio.job("train", "fails", json!({"steps": 2, "fail": true})).await;
    studio.job("train", "exits", json!({"steps": 2, "exit": 101})).await;
    studio.job("train", "garbage", json!({"steps": 3, "garbage": true})).await;
    let job = studio.until("fails", "failed").await;
    assert_eq!(job["problem"]["zh"]["message"], "损失不是有限值。");
    let job = studio.until("exits", "interrupted").await;
    assert!(job["problem"]["message"].as_str().unwrap().contains("exit code 101"));
    // Lines that can't be read are skipped; the run's own numbers all arrive.
    studio.until("garbage", "succeeded").await;
    assert_eq!(studio.steps("garbage").await, all_to(3));
}

#[tokio::test]
async fn training_goes_on_while_the_server_is_away() {
    let home = Home::new();
    let studio = start(&home);
    let id = studio.job("train", "run", json!({"steps": 120, "step_ms": 10})).await;
    studio.job("train", "next", json!({"steps": 2})).await;
    let mut events = studio.events(Some(0)).await;
    let mut seen = Vec::new();
    while seen.iter().filter(|(_, e): &&(i64, Value)| e["type"] == "metric").count() < 10 {
        seen.push(events.next().await.unwrap());
    }
    studio.crash().await;
    let before = worker_pid(&home.run(&id)).unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let studio = start(&home);
    assert_eq!(worker_pid(&home.run(&id)), Some(before), "the same worker");
    // The page comes back with the number of the last event it saw.
    let mut events = studio.events(Some(seen.last().unwrap().0)).await;
    while !seen.last().is_some_and(|(_, e)| e["job"]["id"] == "next" && e["job"]["state"] == "succeeded") {
        seen.push(events.next().await.unwrap());
    }
    let numbers: Vec<i64> = seen.iter().map(|(id, _)| *id).collect();
    assert_eq!(numbers, (1..=numbers.len() as i64).collect::<Vec<_>>(), "no gap and no duplicate");
    let of_run = seen.iter().filter(|(_, e)| e["type"] == "metric" && e["job"] == id.as_str());
    assert_eq!(of_run.map(|(_, e)| e["metric"]["step"].as_u64().unwrap()).collect::<Vec<_>>(), all_to(120));
    assert_eq!(studio.steps(&id).await, all_to(120));
    assert_eq!(studio.get("/api/jobs/run").await["state"], "succeeded");
}

#[tokio::test]
async fn a_run_that_died_with_the_server_is_interrupted() {
    let home = Home::new();
    let studio = start(&home);
    let id = studio.job("train", "run", json!({"steps": 5000, "step_ms": 5})).await;
    studio.until_step(&id, 12).await;
    studio.crash().await;
    signal(worker_pid(&home.run(&id)).unwrap(), Signal::SIGKILL);
    let studio = start(&home);
    let job = studio.until(&id, "interrupted").await;
    assert_eq!(job["problem"]["code"], "worker_gone");
    let last = job["progress"]["done"].as_u64().unwrap();
    assert_eq!(studio.steps(&id).await, all_to(last));
    // Stopping an adopted worker works, too.
    studio.post("/api/jobs/run/resume", json!({})).await;
    studio.until_step(&id, last + 5).await;
    studio.crash().await;
    let studio = start(&home);
    let since = Instant::now();
    while studio.post("/api/jobs/run/stop", json!({})).await.0 != 200 {
        assert!(since.elapsed() < Duration::from_secs(5));
    }
    studio.until(&id, "stopped").await;
}

#[tokio::test]
async fn runs_of_other_programs_are_found_and_the_database_can_be_made_again() {
    let home = Home::new();
    let elsewhere = tempfile::tempdir().unwrap();
    let studio = start(&home);
    let id = studio.job("train", "mine", json!({"steps": 12})).await;
    studio.until(&id, "succeeded").await;
    // As `lathe train output_dir=…` does it.
    let spec = json!({"id": "theirs", "kind": "train", "config": {"steps": 200, "step_ms": 10}, "created_at": 1.0});
    fs::write(elsewhere.path().join("spec.json"), spec.to_string()).unwrap();
    std::os::unix::fs::symlink(elsewhere.path(), home.run("theirs")).unwrap();
    let options = home.options();
    let mut worker = std::process::Command::new(options.program.path).arg(elsewhere.path()).spawn().unwrap();
    let since = Instant::now();
    while studio.client.get(studio.url("/api/jobs/theirs")).send().await.unwrap().status() != 200 {
        assert!(since.elapsed() < Duration::from_secs(5), "not found");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let job = studio.until("theirs", "running").await;
    assert_eq!(job["config"]["steps"], 200);
    studio.until_step("theirs", 50).await;
    worker.kill().unwrap();
    worker.wait().unwrap();
    let job = studio.until("theirs", "interrupted").await;
    let last = job["progress"]["done"].as_u64().unwrap();
    let (mine, points) = (studio.get("/api/jobs/mine").await, studio.get("/api/jobs/mine/metrics").await);
    studio.crash().await;
    for name in ["lathe.db", "lathe.db-wal", "lathe.db-shm"] {
        let _ = fs::remove_file(home.path().join(name));
    }
    fs::create_dir(home.run("no-spec")).unwrap();
    fs::create_dir(home.run("bad-spec")).unwrap();
    fs::write(home.run("bad-spec").join("spec.json"), "{").unwrap();
    let studio = start(&home);
    let since = Instant::now();
    while studio.get("/api/jobs").await.as_array().unwrap().len() < 2 {
        assert!(since.elapsed() < Duration::from_secs(5), "not found again");
    }
    studio.until("theirs", "interrupted").await;
    assert_eq!(studio.steps("theirs").await, all_to(last));
    assert_eq!(studio.until("mine", "succeeded").await, mine);
    assert_eq!(studio.get("/api/jobs/mine/metrics").await, points);
    assert_eq!(studio.delete("/api/jobs/theirs").await, 204);
    assert!(elsewhere.path().join("spec.json").exists(), "only the link goes");
    assert!(fs::symlink_metadata(home.run("theirs")).is_err());
}

#[tokio::test]
async fn a_download_is_a_job() {
    let home = Home::new();
    let studio = start(&home);
    let (status, job) = studio.post("/api/models/pull", json!({"id": "Org/Model"})).await;
    assert_eq!(status, 201);
    let job = studio.until(job["id"].as_str().unwrap(), "failed").await;
    assert_eq!((&job["kind"], &job["problem"]["code"]), (&json!("pull"), &json!("hub_offline")));
    assert_eq!(studio.post("/api/models/pull", json!({"id": ""})).await.0, 400);
}

#[tokio::test]
async fn a_data_folder_and_a_port_have_one_server() {
    let home = Home::new();
    let studio = start(&home);
    let Err(error) = try_start(home.options()) else { panic!("two servers") };
    assert!(error.is_held() && error.to_string().contains(&studio.address.to_string()), "{error}");
    let other = Home::new();
    let mut options = other.options();
    options.port = studio.address.port();
    let Err(error) = try_start(options) else { panic!("two servers") };
    assert!(error.is_held() && error.to_string().contains("in use"), "{error}");
    let mut options = other.options();
    options.host = [0, 0, 0, 0].into();
    let Err(error) = try_start(options) else { panic!("open to all") };
    assert!(error.is_usage(), "{error}");
    studio.crash().await;
    start(&home);
}
