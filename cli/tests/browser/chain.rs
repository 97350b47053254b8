//! Learning from feedback: SFT, reward model and PPO from the one switch of the Train tab, and what the policy sampled.

use crate::{
    TURN,
    desk::{Browser, Studio},
};
use serde_json::Value;
use std::time::{Duration, Instant};

#[tokio::test]
async fn one_switch_trains_a_reward_model_and_a_policy_by_it() {
    let _turn = TURN.lock().await;
    let studio = Studio::start();
    let browser = Browser::open().await;
    browser.client.goto(&format!("http://{}/", studio.address)).await.unwrap();
    browser.click("[data-testid=model-card-starter]").await;
    while browser.js("const b = document.querySelector('.chip button'); b?.click(); return !!b").await == true {}
    browser.click("[data-testid=stage-ppo]").await;
    browser.click("[data-testid=dataset-add]").await;
    browser.click("[data-testid=dataset-option-identity]").await;
    browser.click("[data-testid=chain] .switch").await;
    for (select, dataset) in [("chain-sft", "identity"), ("chain-rm", "preferences_en")] {
        browser.find(&format!("[data-testid={select}] option[value={dataset}]")).await;
        browser.find(&format!("[data-testid={select}]")).await.select_by_value(dataset).await.unwrap();
    }
    for (key, value) in [
        ("max_steps", "2"),
        ("max_samples", "8"),
        ("per_device_train_batch_size", "2"),
        ("gradient_accumulation_steps", "1"),
        ("max_new_tokens", "8"),
    ] {
        browser.fill("[data-testid=find-setting]", key).await;
        browser.fill(&format!("[data-testid=settings-found] #f-{key}"), value).await;
    }
    let planned = "const b = document.querySelector('[data-testid=train-start]');
        return document.querySelector('[data-testid=plan-steps]')?.innerText === '2' && b && !b.disabled";
    browser.until("all three are planned", 60, planned).await;
    browser.click("[data-testid=train-start]").await;
    browser.until("a run's page", 20, "return location.pathname.startsWith('/runs/')").await;

    let policy = ended(&studio).await;
    browser.click("[data-testid=nav-runs]").await;
    browser.click(&format!("a[href='/runs/{policy}']")).await;
    inspector(&browser).await;
    // Metrics have names that people read.
    let chart = browser.text("[data-testid=metric-value_loss]", 10).await;
    assert!(chart.starts_with("Value loss") && chart.contains("Lower is better."), "{chart}");
    browser.assert_quiet().await;
}

/// Waits until all three runs have succeeded, each with what those before it made; the id of the last one.
async fn ended(studio: &Studio) -> String {
    let begun = Instant::now();
    loop {
        let (_, jobs) = studio.ask("GET", "/api/jobs", None);
        let of = |stage: &str| {
            let jobs = jobs.as_array().into_iter().flatten();
            jobs.clone().find(|job| job["config"]["stage"] == stage).unwrap_or_else(|| panic!("no {stage}: {jobs:?}"))
        };
        let chain = ["sft", "rm", "ppo"].map(of);
        let text = |job: &Value, key: &str| job["config"][key].as_str().unwrap_or_default().to_owned();
        if chain.iter().all(|job| job["state"] == "succeeded") {
            let [sft, rm, ppo] = chain.map(|job| job["id"].as_str().unwrap());
            assert!(text(chain[1], "adapter_name_or_path").ends_with(sft), "{}", chain[1]);
            assert!(text(chain[2], "adapter_name_or_path").ends_with(sft), "{}", chain[2]);
            assert!(text(chain[2], "reward_model").ends_with(rm), "{}", chain[2]);
            return ppo.to_owned();
        }
        let is_going = |job: &&Value| ["queued", "running", "succeeded"].iter().any(|state| job["state"] == *state);
        assert!(chain.iter().all(is_going) && begun.elapsed() < Duration::from_secs(180), "{jobs:#}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Of each sample: what was asked and said, the reward by part, the advantage, and how far the policy moved at it.
async fn inspector(browser: &Browser) {
    let samples = browser.text("[data-testid=rollouts] tbody", 20).await;
    assert!(samples.contains("Reward model"), "the part of the reward is named: {samples}");
    let prompt = browser.text("[data-testid=rollouts] .prompt", 5).await;
    assert!(!prompt.is_empty());
    let figures = "return [...document.querySelectorAll('[data-testid=rollouts] tbody tr')].map(row =>
        [...row.querySelectorAll('td.num')].map(cell => [cell.dataset.l, parseFloat(cell.innerText)]))";
    let rows = browser.js(figures).await;
    let rows = rows.as_array().unwrap();
    assert_eq!(rows.len(), 2, "a step has two prompts: {rows:?}");
    for row in rows {
        let row: Vec<(&str, f64)> =
            row.as_array().unwrap().iter().map(|cell| (cell[0].as_str().unwrap(), cell[1].as_f64().unwrap())).collect();
        assert_eq!(
            row.iter().map(|cell| cell.0).collect::<Vec<_>>(),
            ["Reward", "Advantage", "Clipped", "KL", "Entropy"]
        );
        assert!((0.0..=100.0).contains(&row[2].1) && row[4].1 > 0.0, "{row:?}");
    }
    browser
        .until(
            "the newest step",
            5,
            "return document.querySelector('[data-testid=rollouts-step]')?.innerText.includes('2')",
        )
        .await;
    browser.click("[data-testid=rollouts-before]").await;
    browser
        .until(
            "the one before",
            10,
            "return document.querySelector('[data-testid=rollouts-step]')?.innerText.includes('1')",
        )
        .await;
}
