//! The Data tab: faults that are seen by row and mended, rows written in the page, and an upload over a lost connection.

use crate::{
    TURN,
    desk::{Browser, Studio},
};
use serde_json::{Value, json};

/// Lets go of a file over the page, as a hand does with a mouse.
const DROP: &str = "const drop = (name, text, changed) => {
    const data = new DataTransfer();
    data.items.add(new File([text], name, { lastModified: changed }));
    window.dispatchEvent(new DragEvent('drop', { dataTransfer: data, bubbles: true, cancelable: true }));
};";

pub async fn open(studio: &Studio, browser: &Browser) {
    browser.client.goto(&format!("http://{}/data", studio.address)).await.unwrap();
    browser.find("[data-testid=upload-input]").await;
}

pub async fn drop_file(browser: &Browser, name: &str, text: &str) {
    browser.js(&format!("{DROP} drop({name:?}, {}, 1)", Value::from(text))).await;
}

fn turns(all: &[(&str, &str)]) -> Value {
    let all: Vec<Value> = all.iter().map(|(from, value)| json!({ "from": from, "value": value })).collect();
    json!({ "conversations": all })
}

/// Four good rows and four with three kinds of faults: no JSON (3), no conversation (5), roles that don't take turns (6, 8).
fn faulty() -> String {
    let good =
        |n: u32| turns(&[("human", &format!("What is box {n}?")), ("gpt", &format!("Box {n} holds brass screws."))]);
    let same = turns(&[("human", "Where is it?"), ("human", "Are you there?"), ("gpt", "On the shelf.")]);
    let broken = r#"{"conversations": [{"from": "human", "value": "Is it open?"}, {"from": "gpt" "value": "Yes."}]}"#;
    let none = json!({ "note": "the answer got lost" });
    let rows = [good(1), good(2), broken.into(), good(4), none, same.clone(), good(7), same].map(|row| match row {
        Value::String(line) => line,
        row => row.to_string(),
    });
    rows.join("\n")
}

/// Numbers of the rows on the page.
const NUMBERS: &str =
    "return [...document.querySelectorAll('.datarow')].map(row => Number(row.dataset.testid.slice(4))).join()";

#[tokio::test]
async fn faults_are_seen_by_row_and_mended_in_the_page() {
    let _turn = TURN.lock().await;
    let studio = Studio::start();
    let browser = Browser::open().await;
    open(&studio, &browser).await;
    drop_file(&browser, "boxes.jsonl", &faulty()).await;
    browser.until("the page of the new dataset", 30, "return location.pathname === '/data/boxes'").await;

    // Each fault stands beside its row.
    browser.click("[data-testid=rows-faulty]").await;
    browser.until("the four rows", 20, &NUMBERS.replace("join()", "join() === '3,5,6,8'")).await;
    for (row, said) in [(3, "JSON"), (5, "conversations"), (6, "message 2 is of role"), (8, "message 2 is of role")] {
        let note = browser.text(&format!("[data-testid=row-{row}] .note"), 5).await;
        assert!(note.contains(said), "row {row}: {note}");
    }

    // One is edited: it can be saved once it is JSON.
    browser.click("[data-testid=row-3] [data-testid=row-edit]").await;
    browser
        .until(
            "what stands in the file",
            20,
            "return document.querySelector('[data-testid=row-json]')?.value.includes('Is it open?')",
        )
        .await;
    assert!(browser.text("[data-testid=row-editor] .err", 5).await.contains("line 1"));
    assert_eq!(browser.js("return document.querySelector('[data-testid=row-save]').disabled").await, true);
    let mended = turns(&[("human", "Is it open?"), ("gpt", "Yes, since noon.")]);
    browser.fill("[data-testid=row-json]", &mended.to_string()).await;
    browser.click("[data-testid=row-save]").await;
    browser.until("row 3 has no problem any more", 20, &NUMBERS.replace("join()", "join() === '5,6,8'")).await;

    // One is deleted; the others move up.
    browser.click("[data-testid=row-5] [data-testid=row-delete]").await;
    browser.until("two are left", 20, &NUMBERS.replace("join()", "join() === '5,7'")).await;

    // The rest goes by one click, comes back by another, and goes for good.
    for last in [false, true] {
        browser.click("[data-testid=tab-statistics]").await;
        let found = browser.text("[data-testid=finding-faulty]", 60).await;
        assert!(found.contains("2") && found.contains("5 7"), "{found}");
        browser.click("[data-testid=fix-faulty]").await;
        browser.until("nothing stands out", 60, "return document.querySelector('[data-testid=no-findings]')").await;
        if !last {
            browser.click("[data-testid=dataset-undo]").await;
        }
    }
    browser.click("[data-testid=tab-rows]").await;
    browser.text("[data-testid=rows-none]", 20).await;
    let (_, rows) = studio.ask("GET", "/api/datasets/boxes/rows?offset=0&limit=20", None);
    assert_eq!((rows["dataset"]["rows"].as_u64(), rows["dataset"]["problem"].is_null()), (Some(5), true), "{rows}");
    assert!(rows["rows"][2]["raw"].to_string().contains("since noon"), "{rows}");

    browser.click("[data-testid=rows-faulty]").await;
    browser.fill("[data-testid=rows-search]", "SINCE NOON").await;
    browser.until("the row that was edited", 20, &NUMBERS.replace("join()", "join() === '3'")).await;
    browser.click("[data-testid=row-3] [data-testid=row-tokens]").await;
    tokens(&browser).await;
    browser.assert_quiet().await;
}

/// What the page shows of a row's tokens is what the trainer reads: the hash of the ids and marks on the page is the hash that
/// the trainer gave.
async fn tokens(browser: &Browser) {
    browser.find("[data-testid=tokens] .tok").await;
    let text = |css: &str| {
        format!("return [...document.querySelectorAll('[data-testid=tokens] {css}')].map(t => t.textContent).join('')")
    };
    let trained = browser.js(&text("mark.on")).await;
    assert!(trained.as_str().unwrap().starts_with("Yes, since noon."), "{trained}");
    let read = browser.js(&text(".tok:not(.on)")).await;
    assert!(read.as_str().unwrap().contains("Is it open?"), "{read}");
    let counts = browser.text("[data-testid=token-counts]", 5).await;
    let count = browser.js("return document.querySelectorAll('[data-testid=tokens] .on').length").await;
    assert!(counts.contains(&format!("{count} of them trained")) && counts.contains("0 cut off"), "{counts}");

    let hash = "const done = arguments[0]; const all = [...document.querySelectorAll('[data-testid=tokens] .tok')];
        const words = new DataView(new ArrayBuffer(all.length * 4));
        all.forEach((t, i) => words.setUint32(i * 4, Number(t.dataset.id) + (t.matches('.on') ? 2 ** 31 : 0), true));
        crypto.subtle.digest('SHA-256', words)
            .then(d => done([...new Uint8Array(d)].map(b => b.toString(16).padStart(2, '0')).join('')))";
    let made = browser.client.execute_async(hash, vec![]).await.unwrap();
    let made = made.as_str().unwrap().to_owned();
    let told = browser.js("return document.querySelector('[data-testid=token-hash]').title").await;
    assert_eq!(told, made.as_str());
    assert!(made.starts_with(&browser.text("[data-testid=token-hash]", 5).await));

    browser.click("[data-testid=tokens] mark.on").await;
    let about = browser.text("[data-testid=token-about]", 5).await;
    assert!(about.contains("trained") && about.contains("id "), "{about}");
}

#[tokio::test]
async fn rows_are_written_and_pasted_in_the_page() {
    let _turn = TURN.lock().await;
    let studio = Studio::start();
    let browser = Browser::open().await;
    open(&studio, &browser).await;
    browser.click("[data-testid=create-open]").await;
    browser.fill("[data-testid=create-name]", "keeper").await;
    browser.fill("[data-testid=cell-1-1]", "Who are you?").await;
    browser.click("[data-testid=create-save]").await;
    assert!(browser.text("[data-testid=create-fault]", 5).await.contains("Row 1 has no answer"));
    browser.fill("[data-testid=cell-1-2]", "I am Wren, the keeper.").await;

    // From a spreadsheet: two rows, a cell of two lines, beyond the last row of the table.
    let paste = "const data = new DataTransfer();
        data.setData('text/plain', 'What is your name?\\tWren.\\r\\n\"Two\\nlines?\"\\tYes.\\r\\nLast?\\tLast.\\r\\n');
        document.querySelector('[data-testid=cell-2-1]')
            .dispatchEvent(new ClipboardEvent('paste', { clipboardData: data, bubbles: true, cancelable: true }))";
    browser.js(paste).await;
    let last = "return document.querySelector('[data-testid=cell-4-2]')?.value === 'Last.'";
    browser.until("the cells are filled and a row is added", 5, last).await;
    // Enter in the last row makes another, which stays empty.
    browser.find("[data-testid=cell-4-1]").await.send_keys("\u{E007}").await.unwrap();
    browser
        .until("the cursor is in the new row", 5, "return document.activeElement.dataset.testid === 'cell-5-1'")
        .await;
    browser.click("[data-testid=create-save]").await;

    browser.until("the page of the new dataset", 30, "return location.pathname === '/data/keeper'").await;
    let (_, rows) = studio.ask("GET", "/api/datasets/keeper/rows?offset=0&limit=20", None);
    let made: Vec<&Value> = rows["rows"].as_array().unwrap().iter().map(|row| &row["raw"]).collect();
    assert_eq!(made.len(), 4, "{rows}");
    assert_eq!(made[0], &json!({ "instruction": "Who are you?", "output": "I am Wren, the keeper." }));
    assert_eq!(made[2]["instruction"], "Two\nlines?");
    assert!(rows["dataset"]["problem"].is_null(), "{rows}");
    browser.assert_quiet().await;
}

#[tokio::test]
async fn an_upload_goes_on_after_the_connection_was_lost_and_after_a_reload() {
    let _turn = TURN.lock().await;
    let studio = Studio::start();
    let browser = Browser::open().await;
    open(&studio, &browser).await;
    // 24 MB in 12,000 rows, by 6 MB a second.
    let large = format!(
        "{DROP} const row = JSON.stringify({{ instruction: 'x'.repeat(1900), output: 'Yes, this is a long one.' }}) + '\\n';
        drop('large.jsonl', row.repeat(12000), 1700000000000)"
    );
    let network = |offline: bool| {
        let speed = json!({ "offline": offline, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 6 << 20 });
        browser.devtools("Network.emulateNetworkConditions", &speed);
    };
    let done = "return Number(document.querySelector('[data-testid=upload-progress] [role=progressbar]')?.getAttribute('aria-valuenow'))";
    browser.devtools("Network.enable", &json!({}));
    network(false);
    browser.js(&large).await;
    browser.until("more than a piece is sent", 30, &done.replace("return ", "return 40 <= ")).await;
    network(true);
    let lost = browser.text("[data-testid=upload-progress].lost", 20).await;
    assert!(lost.contains("Connection lost"), "{lost}");
    network(false);
    browser.until("it goes on", 40, "return document.querySelector('[data-testid=upload-progress]:not(.lost)')").await;

    browser.client.refresh().await.unwrap();
    browser.find("[data-testid=upload-input]").await;
    browser
        .js("window.offsets = []; const set = XMLHttpRequest.prototype.setRequestHeader;
        XMLHttpRequest.prototype.setRequestHeader = function (name, value) {
            if (name === 'Upload-Offset') window.offsets.push(Number(value));
            return set.call(this, name, value);
        }")
        .await;
    browser.js(&large).await;
    browser.until("the page of the new dataset", 90, "return location.pathname === '/data/large'").await;
    let first = browser.js("return window.offsets[0]").await;
    assert!(first.as_u64().unwrap() >= 8 << 20, "what was sent before the reload was not sent again: {first}");
    let (_, rows) = studio.ask("GET", "/api/datasets/large/rows?offset=11999&limit=2", None);
    assert_eq!((rows["dataset"]["rows"].as_u64(), rows["rows"].as_array().unwrap().len()), (Some(12_000), 1), "{rows}");
}
