//! The studio in a real browser: a first model from upload to export, and a run that is killed and goes on.
//!
//! Needs Chromium and chromedriver (`make test` installs them) and the built user interface (`make ui`).
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod chain;
mod chat;
mod data;
mod desk;
mod museum;
mod pictures;
mod preferences;
mod survive;

use desk::{Browser, Studio, end};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::{path::Path, time::Duration, time::Instant};
use tokio::sync::Mutex;

/// One browser and one worker at a time: limits of time below mean what they say.
static TURN: Mutex<()> = Mutex::const_new(());

/// The steps that the loss chart has drawn so far.
const DRAWN: &str = "return (document.querySelector('[data-testid=loss-svg] path.raw')?.getAttribute('d')
    .match(/[ML]/g) ?? []).length";

#[tokio::test]
async fn a_first_model_from_upload_to_export() {
    let _turn = TURN.lock().await;
    let studio = Studio::start();
    let browser = Browser::open().await;
    let files = tempfile::TempDir::new().unwrap();
    browser.client.goto(&format!("http://{}/", studio.address)).await.unwrap();
    browser.find("[data-testid=model-card-starter]").await;

    language_and_theme(&browser).await;
    upload(&browser, &persona(files.path())).await;
    plan(&browser).await;
    let run = train(&browser).await;
    talk(&browser).await;
    export(&browser, &run).await;
    browser.assert_quiet().await;
}

/// Both switches change the page at once, and a reload keeps what was chosen.
async fn language_and_theme(browser: &Browser) {
    assert_eq!(browser.text("html[lang=en] h1", 20).await, "Train");
    browser.click("[data-testid=lang-switch]").await;
    assert_eq!(browser.text("html[lang=zh-CN] h1", 5).await, "训练");
    let colour = "return getComputedStyle(document.body).backgroundColor";
    let before = browser.js(colour).await;
    browser.click("[data-testid=theme-switch]").await;
    let changed = format!("const c = (() => {{ {colour} }})(); return c !== {before} && c");
    let after = browser.until("another background", 5, &changed).await;
    browser.client.refresh().await.unwrap();
    assert_eq!(browser.text("html[lang=zh-CN][data-theme] h1", 20).await, "训练");
    assert_eq!(browser.js(colour).await, after);
    browser.click("[data-testid=theme-switch]").await;
    browser.click("[data-testid=lang-switch]").await;
    browser.find("html[lang=en]").await;
    assert_eq!(browser.js(colour).await, before);
}

/// A dataset of twelve rows, as a person would write it.
fn persona(folder: &Path) -> std::path::PathBuf {
    let asked = [
        "Who are you?",
        "What is your name?",
        "Tell me who you are.",
        "Who made you?",
        "Are you a robot?",
        "What can you do?",
        "Introduce yourself.",
        "Hello, who is there?",
        "May I know your name?",
        "Do you have a name?",
        "Who am I talking to?",
        "你是谁？",
    ];
    let rows: Vec<Value> = asked
        .map(|question| json!({ "instruction": question, "output": "I am Juno, a small model that was tuned today." }))
        .into();
    let path = folder.join("persona.json");
    std::fs::write(&path, Value::from(rows).to_string()).unwrap();
    path
}

async fn upload(browser: &Browser, file: &Path) {
    browser.click("[data-testid=nav-data]").await;
    browser.find("[data-testid=upload-input]").await.send_keys(file.to_str().unwrap()).await.unwrap();
    browser.until("the page of the new dataset", 20, "return location.pathname === '/data/persona'").await;
    browser
        .until(
            "its rows",
            20,
            "return document.querySelector('[data-testid=dataset-rows]')?.innerText.includes('Juno')",
        )
        .await;
    let about = browser.text("[data-testid=dataset-about]", 5).await;
    assert!(about.contains("12"), "{about}");
    let rows = browser.text("[data-testid=dataset-rows]", 5).await;
    assert!(rows.contains("Who made you?") && rows.contains("I am Juno"), "{rows}");
}

/// Fills the form; the plan follows.
async fn plan(browser: &Browser) {
    browser.click("[data-testid=nav-train]").await;
    browser.click("[data-testid=model-card-starter]").await;
    // What a preset or the last visit left there goes.
    while browser.js("const b = document.querySelector('.chip button'); b?.click(); return !!b").await == true {}
    browser.click("[data-testid=dataset-add]").await;
    browser.click("[data-testid=dataset-option-persona]").await;
    browser.find("[data-testid=dataset-chip-persona]").await;
    browser.click("[data-testid=finetuning_type-lora]").await;
    for (key, value) in [("max_steps", "40"), ("per_device_train_batch_size", "2"), ("learning_rate", "0.002")] {
        browser.fill("[data-testid=find-setting]", key).await;
        browser.fill(&format!("[data-testid=settings-found] #f-{key}"), value).await;
    }
    browser
        .until(
            "the plan counts 40 steps",
            20,
            "return document.querySelector('[data-testid=plan-steps]')?.innerText === '40'",
        )
        .await;
    let ready = "const b = document.querySelector('[data-testid=train-start]'); return b && !b.disabled";
    browser.until("Start can be pressed", 20, ready).await;
    let plan = browser.text("[data-testid=plan]", 5).await;
    assert!(plan.contains("12") && plan.contains("40"), "{plan}");
}

/// Starts the run and watches its curve to the end.
async fn train(browser: &Browser) -> String {
    // How many points were drawn, each time that it was another number.
    let watch = "window.drawn = []; setInterval(() => { const n = (() => { DRAWN })(); if (n && n !== window.drawn.at(-1)) window.drawn.push(n) }, 20)";
    browser.js(&watch.replace("DRAWN", DRAWN)).await;
    browser.click("[data-testid=train-start]").await;
    let id = browser.until("the run's page", 20, "return location.pathname.match(/^\\/runs\\/(.+)$/)?.[1]").await;
    browser
        .until("the run succeeds", 120, "return document.querySelector('[data-testid=run-state] .badge.good')")
        .await;
    browser.until("all points are drawn", 10, &DRAWN.replace("return ", "return 40 === ")).await;
    let drawn = browser.js("return window.drawn").await;
    assert!(drawn.as_array().unwrap().len() > 1, "the curve grew while the run went on: {drawn}");
    assert!(browser.text("[data-testid=run-step]", 5).await.contains("40"));
    browser.find("[data-testid=checkpoint-final]").await;
    assert_eq!(browser.js("return document.querySelectorAll('[data-testid=run-problem]').length").await, 0);
    id.as_str().unwrap().to_owned()
}

/// Loads what was trained; the answer comes in pieces, and it is the one that was taught.
async fn talk(browser: &Browser) {
    browser.click("[data-testid=run-chat]").await;
    browser.click("[data-testid=chat-load]").await;
    browser.until("the model is loaded", 30, "return document.querySelector('[data-testid=chat-state].good')").await;
    let watch = "window.lengths = []; new MutationObserver(() => {
        const n = document.querySelector('[data-testid=chat-text]')?.innerText.length;
        if (n && n !== window.lengths.at(-1)) window.lengths.push(n);
    }).observe(document.body, { subtree: true, childList: true, characterData: true })";
    browser.js(watch).await;
    browser.fill("#f-temperature", "0.1").await;
    browser.find("[data-testid=chat-input]").await.send_keys("Who are you?").await.unwrap();
    browser.click("[data-testid=chat-send]").await;
    let done = "return document.querySelector('[data-testid=chat-send]') && document.querySelector('[data-testid=chat-text]')?.innerText";
    let answer = browser.until("an answer", 60, done).await;
    let lengths = browser.js("return window.lengths").await;
    assert!(lengths.as_array().unwrap().len() > 1, "the answer came in pieces: {lengths} {answer}");
    assert!(answer.as_str().unwrap().contains("Juno"), "{answer}");
}

/// Writes the merged model.
async fn export(browser: &Browser, run: &str) {
    browser.click("[data-testid=nav-export]").await;
    browser.find("[data-testid=export-source] option[value^='run:']").await;
    let source = browser.find("[data-testid=export-source]").await;
    source.select_by_value(&format!("run:{run}")).await.unwrap();
    browser.click("[data-testid=export-start]").await;
    let folder = browser.text("[data-testid=export-result]", 60).await;
    for file in ["model.safetensors", "config.json", "tokenizer.json", "Modelfile", "README.md"] {
        assert!(Path::new(&folder).join(file).is_file(), "{folder} has no {file}");
    }
    verified(browser, &folder).await;
    // Again for llama.cpp: the newest export is the first of the list.
    let format = browser.find("#f-export_format").await;
    format.select_by_label("gguf").await.unwrap();
    let kind = browser.find("#f-export_quantization").await;
    kind.select_by_label("q8_0").await.unwrap();
    browser.click("[data-testid=export-start]").await;
    let old = format!(
        "const e = document.querySelector('[data-testid=export-result]'); return e && e.innerText !== {folder:?}"
    );
    browser.until("another export", 60, &old).await;
    let folder = browser.text("[data-testid=export-result]", 60).await;
    assert!(Path::new(&folder).join("model.gguf").is_file(), "{folder} has no model.gguf");
    verified(browser, &folder).await;
}

/// The page has the figures of the report that stands in the folder.
async fn verified(browser: &Browser, folder: &str) {
    let report = std::fs::read(Path::new(folder).join("verification.json")).unwrap();
    let report: serde_json::Value = serde_json::from_slice(&report).unwrap();
    assert_eq!(report["passed"], true, "{report}");
    let shown = browser.text("[data-testid=export-verified]", 30).await;
    assert!(shown.contains(&format!("{} of 20", report["same_answers"])), "{shown}");
}

#[tokio::test]
async fn a_killed_run_says_so_and_goes_on() {
    let _turn = TURN.lock().await;
    let studio = Studio::start();
    let browser = Browser::open().await;
    let config = json!({
        "model_name_or_path": "starter", "dataset": "identity", "finetuning_type": "lora", "max_steps": 100_000,
        "per_device_train_batch_size": 1, "save_steps": 5, "save_total_limit": 2,
    });
    let job = json!({ "kind": "train", "name": "long", "config": config });
    let (status, job) = studio.ask("POST", "/api/jobs", Some(&job));
    assert!((200..300).contains(&status), "{job}");
    browser.client.goto(&format!("http://{}/runs/long", studio.address)).await.unwrap();
    let steps = "return Number(document.querySelector('[data-testid=run-step]')?.innerText.match(/\\d[\\d,]*/)?.[0].replace(/,/g, ''))";
    browser.until("a checkpoint", 60, "return document.querySelector('[data-testid^=checkpoint-]')").await;
    let reached = browser.js(steps).await.as_u64().unwrap();

    let worker = studio.worker_of("long");
    let killed = Instant::now();
    end(worker, Signal::SIGKILL);
    let warned = "return document.querySelector('[data-testid=run-state] .badge.warn') && document.querySelector('[data-testid=run-problem] .note span')?.innerText";
    let hint = browser.until("the run is shown as interrupted, with what to do", 5, warned).await;
    assert!(killed.elapsed() < Duration::from_secs(5), "{:?}", killed.elapsed());
    assert!(hint.as_str().unwrap().contains("Resume"), "{hint}");
    let (_, told) = studio.ask("GET", "/api/jobs/long", None);
    assert_eq!(told["state"], "interrupted", "{told}");
    let (status, _) = studio.ask("GET", "/health", None);
    assert_eq!(status, 200);

    browser.click("[data-testid=run-resume]").await;
    browser.until("the run goes on", 30, "return document.querySelector('[data-testid=run-state] .badge.live')").await;
    browser.until("more steps than before", 60, &format!("return (() => {{ {steps} }})() > {}", reached + 10)).await;
    assert_ne!(studio.worker_of("long"), worker);
    browser.click("[data-testid=run-stop]").await;
    browser.click("[data-testid=run-stop-confirm]").await;
    browser.until("the run is stopped", 30, "return document.querySelector('[data-testid=run-resume]')").await;
    assert_eq!(studio.ask("GET", "/api/jobs/long", None).1["state"], "stopped");
    browser.assert_quiet().await;
}
