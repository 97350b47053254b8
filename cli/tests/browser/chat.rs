//! The Chat tab: conversations that outlive a reload, and a vote between two answers that becomes data.

use crate::{
    TURN,
    desk::{Browser, Studio},
};
use serde_json::json;

async fn load(browser: &Browser, card: &str) {
    browser.click(&format!("[data-testid={card}-load]")).await;
    let ready = format!("return document.querySelector('[data-testid={card}-state].good')");
    browser.until("the model is loaded", 60, &ready).await;
}

/// Writes a message behind what stands in the field already, and sends it.
async fn say(browser: &Browser, text: &str) {
    browser.find("[data-testid=chat-input]").await.send_keys(text).await.unwrap();
    browser.click("[data-testid=chat-send]").await;
}

async fn answered(browser: &Browser, shown: &str, count: usize) {
    let done = format!(
        "const all = [...document.querySelectorAll('[data-testid={shown}]')];
         return document.querySelector('[data-testid=chat-send]') && all.length === {count} && all.every(e => e.innerText.trim())"
    );
    browser.until("whole answers", 60, &done).await;
}

const QUESTIONS: &str = "return [...document.querySelectorAll('.msg.me p')].map(p => p.innerText).join('|')";
const KEPT: &str = "return [...document.querySelectorAll('[data-testid=session]')].map(s => s.innerText).join('|')";

#[tokio::test]
async fn a_conversation_is_kept_and_two_answers_are_voted_on() {
    let _turn = TURN.lock().await;
    let studio = Studio::start();
    let browser = Browser::open().await;
    browser.client.goto(&format!("http://{}/chat", studio.address)).await.unwrap();
    load(&browser, "chat").await;
    browser.fill("#f-max_new_tokens", "12").await;
    browser.click("[data-testid=chat-before]").await;
    browser.fill("[data-testid=chat-system]", "Be brief.").await;
    browser.click("[data-testid=example-add]").await;
    browser.fill("[data-testid=example-user]", "Hello").await;
    browser.fill("[data-testid=example-assistant]", "Hello to you.").await;
    say(&browser, "Who are you?").await;
    answered(&browser, "chat-text", 1).await;

    // Edited, the message comes in the place of the one before.
    browser.click("[data-testid=chat-edit]").await;
    say(&browser, " Really?").await;
    answered(&browser, "chat-text", 1).await;
    assert_eq!(browser.js(QUESTIONS).await, "Who are you? Really?");
    browser.until("it is kept", 20, &format!("return (() => {{ {KEPT} }})().includes('Who are you?')")).await;
    browser.click("[data-testid=session-rename]").await;
    browser.fill("[data-testid=session-title]", "About you").await;
    let renamed = format!("return (() => {{ {KEPT} }})().startsWith('About you')");
    browser.until("the new title", 20, &renamed).await;

    browser.client.refresh().await.unwrap();
    browser.until("it is still there", 20, &renamed).await;
    browser.click("[data-testid=session] .open").await;
    answered(&browser, "chat-text", 1).await;
    assert_eq!(browser.js(QUESTIONS).await, "Who are you? Really?");
    let (_, sessions) = studio.ask("GET", "/api/sessions", None);
    let (_, session) = studio.ask("GET", &format!("/api/sessions/{}", sessions[0]["id"].as_str().unwrap()), None);
    assert_eq!(session["settings"]["system"], "Be brief.");
    assert_eq!(session["settings"]["examples"], json!([{ "user": "Hello", "assistant": "Hello to you." }]));
    assert!(session["messages"][1]["tokens"].as_u64().unwrap() > 0, "{session}");

    // Two answers to one prompt; the left one is better.
    browser.click("[data-testid=chat-beside]").await;
    load(&browser, "beside").await;
    say(&browser, "What can you do?").await;
    answered(&browser, "beside-text", 2).await;
    let left = browser.text("[data-testid=beside-A] [data-testid=beside-text]", 5).await;
    browser.click("[data-testid=beside-left]").await;
    let voted = browser.text("[data-testid=beside-voted]", 30).await;
    assert!(voted.contains("chat-votes") && voted.contains('1'), "{voted}");
    let (_, rows) = studio.ask("GET", "/api/datasets/chat-votes/rows?offset=0&limit=5", None);
    assert_eq!((&rows["dataset"]["kind"], &rows["dataset"]["rows"]), (&json!("preferences"), &json!(1)), "{rows}");
    let row = &rows["rows"][0]["raw"];
    assert_eq!((&row["instruction"], &row["system"]), (&json!("What can you do?"), &json!("Be brief.")));
    let squeezed = |text: &str| text.split_whitespace().collect::<String>();
    assert_eq!(squeezed(row["chosen"].as_str().unwrap()), squeezed(&left));
    say(&browser, "And then?").await;
    answered(&browser, "beside-text", 2).await;
    browser.click("[data-testid=beside-right]").await;
    browser
        .until("two rows", 30, "return document.querySelector('[data-testid=beside-voted]')?.innerText.includes('2')")
        .await;

    browser.click("[data-testid=chat-one]").await;
    browser.click("[data-testid=session-delete]").await;
    browser.click("[data-testid=session-delete-confirm]").await;
    browser.until("nothing is kept", 20, &format!("return (() => {{ {KEPT} }})() === '' || null")).await;
    assert_eq!(studio.ask("GET", "/api/sessions", None).1, json!([]));
    browser.assert_quiet().await;
}
