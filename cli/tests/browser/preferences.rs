//! The Preferences tab: votes by keys alone, which a reload doesn't lose, and a dataset made of them.

use crate::{
    TURN,
    data::{drop_file, open},
    desk::{Browser, Studio},
};
use serde_json::{Value, json};

/// Two answers to each of three questions, and what must stay hidden: who wrote them.
fn samples() -> String {
    let row = |question: &str, answer: &str| {
        json!({ "instruction": question, "input": "", "output": answer,
            "provenance": { "source": "samples", "teacher": "hidden-model", "on_policy": answer.starts_with("Long") } })
        .to_string()
    };
    let rows = [("When is it open?", "hours"), ("Who are you?", "names"), ("Where is it?", "places")]
        .map(|(question, what)| [row(question, &format!("Long {what}")), row(question, &format!("Short {what}"))]);
    rows.concat().join("\n")
}

const PAIR: &str = "document.querySelector('[data-testid=vote-pair]')?.dataset.pair";

/// Presses a key and waits until so many pairs are voted on.
async fn press(browser: &Browser, key: &str, voted: u32) {
    browser.find("body").await.send_keys(key).await.unwrap();
    voted_on(browser, voted).await;
}

async fn voted_on(browser: &Browser, voted: u32) {
    let shown = format!(
        "return document.querySelector('[data-testid=vote-progress]')?.innerText === '{voted} of 3' && \
         !document.body.innerText.includes('Saving…')"
    );
    browser.until(&format!("{voted} votes"), 20, &shown).await;
}

async fn pair(browser: &Browser) -> Value {
    browser.until("two answers", 20, &format!("return {PAIR}")).await
}

#[tokio::test]
async fn votes_by_keys_survive_a_reload_and_become_a_dataset() {
    let _turn = TURN.lock().await;
    let studio = Studio::start();
    let browser = Browser::open().await;
    open(&studio, &browser).await;
    drop_file(&browser, "answers.jsonl", &samples()).await;
    browser.until("the page of the new dataset", 30, "return location.pathname === '/data/answers'").await;

    browser.click("[data-testid=nav-preferences]").await;
    browser.find("[data-testid=vote-dataset] option[value=answers]").await;
    browser.find("[data-testid=vote-dataset]").await.select_by_value("answers").await.unwrap();
    voted_on(&browser, 0).await;
    let first = pair(&browser).await;
    let left = browser.text("[data-testid=vote-A] p", 5).await;
    let right = browser.text("[data-testid=vote-B] p", 5).await;
    assert_eq!(browser.js("return document.body.innerHTML.includes('hidden-model')").await, false);

    // The first one is voted on, and taken back, and voted on again.
    press(&browser, "2", 1).await;
    assert_ne!(pair(&browser).await, first);
    press(&browser, "u", 0).await;
    assert_eq!(pair(&browser).await, first);
    press(&browser, "1", 1).await;
    let second = pair(&browser).await;
    browser.client.refresh().await.unwrap();
    voted_on(&browser, 1).await;
    assert_eq!(pair(&browser).await, second, "the same pair is asked after a reload");
    press(&browser, "0", 2).await;
    let last = ["A", "B"].map(|side| format!("[data-testid=vote-{side}] p"));
    let last = [browser.text(&last[0], 5).await, browser.text(&last[1], 5).await];
    press(&browser, "2", 3).await;
    browser.text("[data-testid=vote-done]", 10).await;

    // Two pairs with a better answer; the tie is out.
    browser
        .until("two pairs", 20, "return document.querySelector('[data-testid=pairs-kept]')?.innerText.startsWith('2')")
        .await;
    browser.find("[data-testid=source-answers]").await;
    browser.fill("[data-testid=pairs-name]", "voted").await;
    browser.click("[data-testid=pairs-make]").await;
    let made = || studio.ask("GET", "/api/datasets/voted/rows?offset=0&limit=20", None).1;
    browser
        .until(
            "the new dataset",
            20,
            "return document.querySelector('[data-testid=toast]')?.innerText.includes('voted')",
        )
        .await;
    let rows = made();
    assert_eq!((&rows["dataset"]["kind"], &rows["dataset"]["rows"]), (&json!("preferences"), &json!(2)), "{rows}");
    let all = rows["rows"].as_array().unwrap();
    let row = all.iter().find(|row| row["raw"]["chosen"] == left.as_str()).expect("the left answer won");
    assert_eq!(row["raw"]["rejected"], right.as_str());

    // One key more, and Train is filled in and ready.
    let stage = |name: &str| format!("return JSON.parse(localStorage['lathe.form'] ?? '{{}}').stage === '{name}'");
    browser.find("[data-testid=pairs-train]").await.send_keys("\u{E007}").await.unwrap();
    browser.find("[data-testid=dataset-chip-pairs]").await;
    browser.until("the stage is filled in", 10, &stage("dpo")).await;
    let ready = "const b = document.querySelector('[data-testid=train-start]'); return b && !b.disabled";
    browser.until("DPO can start", 30, ready).await;

    // A judge that says the same of the first pair and the contrary of the last.
    let judged = |question: &Value, [chosen, rejected]: [&str; 2]| {
        json!({ "instruction": question, "input": "", "chosen": chosen, "rejected": rejected,
            "provenance": { "source": "judge", "dataset": "answers", "verdicts": ["first", "first"] } })
        .to_string()
    };
    let asked = |answer: &str| &all.iter().find(|row| row["raw"]["chosen"] == answer).unwrap()["raw"]["instruction"];
    let said = [judged(asked(&left), [&left, &right]), judged(asked(&last[1]), [&last[0], &last[1]])];
    browser.click("[data-testid=nav-data]").await;
    browser.find("[data-testid=upload-input]").await;
    drop_file(&browser, "judged.jsonl", &said.join("\n")).await;
    browser.until("the page of the new dataset", 30, "return location.pathname === '/data/judged'").await;
    browser.click("[data-testid=nav-preferences]").await;
    browser.find("[data-testid=source-add] option[value=judged]").await;
    browser.find("[data-testid=source-add]").await.select_by_value("judged").await.unwrap();
    assert!(browser.text("[data-testid=pairs-with-votes]", 20).await.starts_with("50"));
    let help = browser.text("[data-testid=pairs-with-votes-help]", 5).await;
    assert!(help.contains("2 pairs") && help.contains("kappa"), "{help}");

    browser.click("[data-testid=pairs-stage-rm]").await;
    browser.click("[data-testid=pairs-train]").await;
    browser.find("[data-testid=dataset-chip-pairs-2]").await;
    browser.until("the stage is filled in", 10, &stage("rm")).await;
    browser.assert_quiet().await;
}
