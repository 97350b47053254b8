//! Pictures of every page with real data, for eyes and for the README: `scripts/screenshots.sh`.

use crate::desk::{Browser, Studio};
use serde_json::{Value, json};
use std::{env, fs, path::Path, path::PathBuf, time::Duration};

/// Width and height of the window, and its name.
const SIZES: [(u64, u64, &str); 2] = [(1440, 900, "1440"), (360, 740, "360")];

#[tokio::test]
#[ignore = "takes pictures, checks nothing: scripts/screenshots.sh"]
async fn pictures() {
    let folder =
        PathBuf::from(env::var_os("LATHE_PICTURES").expect("LATHE_PICTURES names the folder for the pictures"));
    fs::create_dir_all(&folder).unwrap();
    let studio = Studio::start();
    let browser = Browser::open().await;
    let page = |path: &str| format!("http://{}{path}", studio.address);

    // A run that is done, a conversation with it, and its export.
    let settings = json!({
        "learning_rate": 2e-3, "num_train_epochs": 8.0, "per_device_train_batch_size": 4, "lora_rank": 16,
        "val_size": 0.1, "eval_steps": 20, "save_steps": 60, "save_total_limit": 3,
    });
    start(&studio, "ada", "identity", &settings);
    wait(&studio, "ada", "succeeded").await;
    let adapter = studio.home.join("runs/ada");
    let merge = json!({ "model_name_or_path": "starter", "adapter_name_or_path": adapter });
    let job = json!({ "kind": "export", "name": "ada-merged", "config": merge });
    assert!(studio.ask("POST", "/api/jobs", Some(&job)).0 < 300);
    browser.client.goto(&page("/chat?run=ada")).await.unwrap();
    browser.click("[data-testid=chat-load]").await;
    for question in ["Who are you?", "你是谁？"] {
        browser
            .until("the model is loaded", 60, "return document.querySelector('[data-testid=chat-state].good')")
            .await;
        browser.fill("#f-temperature", "0.1").await;
        browser.find("[data-testid=chat-input]").await.send_keys(question).await.unwrap();
        browser.click("[data-testid=chat-send]").await;
        browser.until("the answer", 60, "return document.querySelector('[data-testid=chat-send]')").await;
    }

    // One that goes on: the README's picture is taken on its way.
    let settings = json!({
        "learning_rate": 2e-3, "num_train_epochs": 10.0, "per_device_train_batch_size": 2, "lora_rank": 16,
        "val_size": 0.1, "eval_steps": 25, "save_steps": 100, "save_total_limit": 2,
    });
    start(&studio, "harbour-library", "identity", &settings);
    step(&browser, "/runs/harbour-library", "nav-runs").await;
    size(&browser, 1440, 900).await;
    let far =
        "const b = document.querySelector('[role=progressbar]'); return Number(b?.getAttribute('aria-valuenow')) >= 70";
    browser.until("the run is well on its way", 300, far).await;
    picture(&browser, &folder.join("studio.png")).await;
    wait(&studio, "harbour-library", "succeeded").await;
    let settings =
        json!({ "max_steps": 5_000, "per_device_train_batch_size": 4, "save_steps": 500, "save_total_limit": 2 });
    start(&studio, "long", "instructions_en,instructions_zh", &settings);
    step(&browser, "/data/identity", "nav-data").await;
    browser.click("[data-testid=dataset-train]").await;
    browser.until("the plan", 20, "return document.querySelector('[data-testid=plan-steps]')").await;

    for language in ["en", "zh-CN"] {
        for theme in ["light", "dark"] {
            switch(&browser, "lang", language, "lang-switch").await;
            switch(&browser, "data-theme", theme, "theme-switch").await;
            for (name, path, nav) in [
                ("train", "/", "nav-train"),
                ("data", "/data/identity", "nav-data"),
                ("preferences", "/preferences", "nav-preferences"),
                ("runs", "/runs", "nav-runs"),
                ("run", "/runs/ada", "nav-runs"),
                ("running", "/runs/long", "nav-runs"),
                ("chat", "/chat", "nav-chat"),
                ("export", "/export", "nav-export"),
            ] {
                step(&browser, path, nav).await;
                for (width, height, size_name) in SIZES {
                    size(&browser, width, height).await;
                    if width == 360 {
                        let sideways = browser.js("return document.documentElement.scrollWidth > innerWidth").await;
                        assert_eq!(sideways, false, "{name} is wider than a phone ({language})");
                    }
                    picture(&browser, &folder.join(format!("{name}-{size_name}-{language}-{theme}.png"))).await;
                }
            }
        }
    }
}

fn start(studio: &Studio, name: &str, dataset: &str, settings: &Value) {
    let mut config = json!({ "model_name_or_path": "starter", "dataset": dataset, "finetuning_type": "lora" });
    config.as_object_mut().unwrap().extend(settings.as_object().cloned().unwrap());
    let job = json!({ "kind": "train", "name": name, "config": config });
    let (status, job) = studio.ask("POST", "/api/jobs", Some(&job));
    assert!(status < 300, "{job}");
}

async fn wait(studio: &Studio, job: &str, state: &str) {
    let path = format!("/api/jobs/{job}");
    for _ in 0..3000 {
        let (_, job) = studio.ask("GET", &path, None);
        if job["state"] == state {
            return;
        }
        assert!(job["state"] == "queued" || job["state"] == "running", "{job}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{job} is not {state} after five minutes");
}

/// Goes to a page without loading anew, so that the conversation stays.
async fn step(browser: &Browser, path: &str, nav: &str) {
    let click = |css: &str| format!("document.querySelector({css:?})?.click()");
    browser.js(&click(&format!("[data-testid={nav}]"))).await;
    let there = |path: &str| format!("return location.pathname === {path:?} && document.querySelector('h1')");
    let root = format!("/{}", path.split('/').nth(1).unwrap());
    browser
        .until(path, 20, &format!("return location.pathname.startsWith({root:?}) && document.querySelector('h1')"))
        .await;
    if path != root {
        let link = format!("a[href='{path}']");
        browser.until(&link, 20, &format!("return document.querySelector({link:?})")).await;
        browser.js(&click(&link)).await;
    }
    browser.until(path, 20, &there(path)).await;
}

async fn switch(browser: &Browser, attribute: &str, value: &str, button: &str) {
    for _ in 0..2 {
        if browser.js(&format!("return document.documentElement.getAttribute({attribute:?})")).await == value {
            return;
        }
        browser.js(&format!("document.querySelector('[data-testid={button}]').click()")).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn size(browser: &Browser, width: u64, height: u64) {
    let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
    browser.devtools("Emulation.setDeviceMetricsOverride", &metrics);
    // Charts and what comes late follow.
    tokio::time::sleep(Duration::from_millis(700)).await;
}

async fn picture(browser: &Browser, path: &Path) {
    fs::write(path, browser.client.screenshot().await.unwrap()).unwrap();
}
