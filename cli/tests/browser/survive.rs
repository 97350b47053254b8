//! A run that goes on otherwise, and one that is made to fit.

use crate::{
    TURN,
    desk::{Browser, Studio},
};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Asks for the job until it is as wanted; what it is then.
async fn until(studio: &Studio, id: &str, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    let begun = Instant::now();
    loop {
        let (_, job) = studio.ask("GET", &format!("/api/jobs/{id}"), None);
        if is(&job) {
            return job;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "never {what}: {job:#}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_stopped_run_goes_on_with_changes_that_are_confirmed() {
    let _turn = TURN.lock().await;
    let studio = Studio::start();
    let config = json!({
        "model_name_or_path": "starter", "dataset": "identity", "max_steps": 4000, "save_steps": 10,
        "save_total_limit": 2, "cutoff_len": 32, "per_device_train_batch_size": 1, "learning_rate": 1e-4
    });
    let new = json!({ "kind": "train", "name": "a", "config": config });
    assert_eq!(studio.ask("POST", "/api/jobs", Some(&new)).0, 201);
    until(&studio, "a", "saved", |job| job["progress"]["done"].as_u64() >= Some(20)).await;
    studio.ask("POST", "/api/jobs/a/stop", Some(&json!({})));
    let stopped = until(&studio, "a", "stopped", |job| job["state"] == "stopped").await;

    let browser = Browser::open().await;
    browser.client.goto(&format!("http://{}/runs/a", studio.address)).await.unwrap();
    browser.click("[data-testid=run-resume-as]").await;
    let choices = browser.text("[data-testid=resume-from]", 10).await;
    assert!(choices.contains("newest"), "{choices}");
    let label =
        "return document.querySelector('label[for=resume-learning_rate]').innerText.startsWith('Learning rate')";
    browser.until("settings have their names", 10, label).await;
    browser.fill("[data-testid=resume-learning_rate]", "0.0005").await;
    let changes = browser.text("[data-testid=resume-changes]", 5).await;
    assert!(changes.contains("0.0001 → 0.0005"), "{changes}");
    let is_off = "return document.querySelector('[data-testid=resume-act]').disabled";
    assert_eq!(browser.js(is_off).await, true, "it goes on without a confirmation");
    browser.click("label.switch:has([data-testid=resume-accept])").await;
    browser.until("it can go on", 5, "return !document.querySelector('[data-testid=resume-act]').disabled").await;
    browser.click("[data-testid=resume-act]").await;

    let done = stopped["progress"]["done"].as_u64().unwrap();
    let goes_on = |job: &Value| job["state"] == "running" && job["progress"]["done"].as_u64() > Some(done);
    let running = until(&studio, "a", "gone on", goes_on).await;
    assert_eq!(running["config"]["learning_rate"], 0.0005);
    browser.assert_quiet().await;
}

#[tokio::test]
async fn one_click_makes_a_run_fit() {
    let _turn = TURN.lock().await;
    let studio = Studio::start();
    let browser = Browser::open().await;
    browser.client.goto(&format!("http://{}/", studio.address)).await.unwrap();
    browser.click("[data-testid=model-card-starter]").await;
    browser.click("[data-testid=dataset-add]").await;
    browser.click("[data-testid=dataset-option-identity]").await;
    // A checkpoint at each of two million steps: no disk has the room.
    for (key, value) in [("max_steps", "2000000"), ("save_steps", "1")] {
        browser.fill("[data-testid=find-setting]", key).await;
        browser.fill(&format!("[data-testid=settings-found] #f-{key}"), value).await;
    }
    let why = browser.text("[data-testid=plan-short]", 30).await;
    assert!(why.contains("doesn't fit") && why.contains("save_total_limit"), "{why}");
    let is_named = "return document.querySelector('[data-testid=plan] .badge.warn')?.innerText === 'Too large'";
    browser.until("the plan says so", 30, is_named).await;
    browser.click("[data-testid=plan-fit]").await;
    browser.until("it fits", 30, "return !document.querySelector('[data-testid=plan-short]')").await;
    browser.until("it is ready", 30, "return document.querySelector('[data-testid=plan] .badge.good')").await;
    browser.assert_quiet().await;
}
