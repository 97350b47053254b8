//! What hostile texts and hostile pages do in a real browser: nothing.

use crate::{
    TURN,
    desk::{Browser, Studio},
};
use serde_json::{Value, json};
use std::{
    io::{Read, Write},
    net::TcpListener,
};

/// Two hundred texts that are scripts elsewhere; each would call a dialog, a request, or leave a mark.
fn scripts() -> Vec<String> {
    let actions = [
        "alert(1)",
        "window.marked=1",
        "fetch('//127.0.0.1:1/x')",
        "new Image().src='//127.0.0.1:1/x'",
        "document.title='marked'",
        "location='//127.0.0.1:1/'",
        "eval('window.marked=1')",
        "top.marked=1",
    ];
    let frames: [fn(&str) -> String; 25] = [
        |a| format!("<script>{a}</script>"),
        |a| format!("<ScRiPt>{a}</sCrIpT>"),
        |a| format!("<script src=//127.0.0.1:1/x.js>{a}</script>"),
        |a| format!("<img src=x onerror=\"{a}\">"),
        |a| format!("<img src=x onerror={a}//"),
        |a| format!("<svg onload=\"{a}\">"),
        |a| format!("<svg><script>{a}</script></svg>"),
        |a| format!("<math><mtext><script>{a}</script></mtext></math>"),
        |a| format!("<iframe srcdoc=\"<script>{a}</script>\"></iframe>"),
        |a| format!("<iframe src=\"javascript:{a}\"></iframe>"),
        |a| format!("<a href=\"javascript:{a}\">x</a>"),
        |a| format!("[x](javascript:{a})"),
        |a| format!("[x](data:text/html,<script>{a}</script>)"),
        |a| format!("![x](x\" onerror=\"{a})"),
        |a| format!("<body onload=\"{a}\">"),
        |a| format!("<details open ontoggle=\"{a}\">"),
        |a| format!("<input autofocus onfocus=\"{a}\">"),
        |a| format!("<style>@import '//127.0.0.1:1/x'; body{{background:url(javascript:{a})}}</style>"),
        |a| format!("\"><script>{a}</script>"),
        |a| format!("'-{a}-'"),
        |a| format!("</textarea><script>{a}</script>"),
        |a| format!("</title><script>{a}</script>"),
        |a| format!("<object data=\"javascript:{a}\"></object>"),
        |a| format!("{{{{constructor.constructor('{a}')()}}}}"),
        |a| format!("\u{2028}<script>{a}</script>\u{202e}"),
    ];
    frames.iter().flat_map(|frame| actions.map(frame)).collect()
}

/// Nothing was run, shown or asked for.
async fn assert_untouched(browser: &Browser, studio: &Studio, where_: &str) {
    assert_eq!(browser.js("return window.marked ?? null").await, Value::Null, "{where_}");
    assert_ne!(browser.js("return document.title").await, "marked", "{where_}");
    let strange = format!(
        "return performance.getEntriesByType('resource').map(e => e.name).filter(n => !n.startsWith('http://{}/'))",
        studio.address
    );
    assert_eq!(browser.js(&strange).await, json!([]), "{where_}: something else was asked for");
    // An open dialog fails every command before this one; this one says so by name.
    assert!(browser.client.get_alert_text().await.is_err(), "{where_}: a dialog is open");
}

#[tokio::test]
async fn m17_hostile_texts_are_shown_as_texts() {
    let _turn = TURN.lock().await;
    let studio = Studio::start();
    let texts = scripts();
    assert_eq!(texts.len(), 200);
    let rows: Vec<Value> = texts.iter().map(|text| json!({ "instruction": text, "output": text })).collect();
    std::fs::write(studio.home.join("datasets/hostile.json"), Value::from(rows).to_string()).unwrap();
    let info = studio.home.join("datasets/dataset_info.json");
    let mut known: Value = serde_json::from_slice(&std::fs::read(&info).unwrap()).unwrap();
    known["hostile"] = json!({ "file_name": "hostile.json" });
    std::fs::write(&info, known.to_string()).unwrap();
    // Names and problems of runs, which are refused at the worker and say why.
    for text in texts.iter().step_by(20) {
        let job = json!({ "kind": "train", "name": text, "config": { "model_name_or_path": text, "dataset": text, "run_name": text } });
        assert_eq!(studio.ask("POST", "/api/jobs", Some(&job)).0, 201);
    }
    let browser = Browser::open().await;
    let goto = async |path: &str, css: &str| {
        browser.client.goto(&format!("http://{}{path}", studio.address)).await.unwrap();
        browser.find(css).await;
    };
    goto("/data/hostile", "[data-testid=dataset-rows]").await;
    browser
        .until("the rows", 20, "return document.querySelector('[data-testid=dataset-rows]')?.innerText.includes('<script>alert(1)</script>')")
        .await;
    assert_untouched(&browser, &studio, "rows").await;
    goto("/runs", "h1").await;
    browser.until("the runs", 20, "return document.body.innerText.includes('script')").await;
    assert_untouched(&browser, &studio, "runs").await;
    let jobs = studio.ask("GET", "/api/jobs", None).1;
    // One whose address is not a file's.
    let mut ids = jobs.as_array().unwrap().iter().filter_map(|job| job["id"].as_str());
    let id = ids.find(|id| !id.contains('.')).unwrap().to_owned();
    goto(&format!("/runs/{id}"), "h1").await;
    browser.until("why it failed", 60, "return document.querySelector('[data-testid=run-problem]')").await;
    assert_untouched(&browser, &studio, "a run").await;
    // A path that is a script, and one in the query.
    goto("/runs/%3Cscript%3Ealert(1)%3C%2Fscript%3E?x=%3Cscript%3Ealert(1)%3C/script%3E", "body").await;
    assert_untouched(&browser, &studio, "an address").await;
}

/// A page of another origin tries all that a page can: nothing happens, and it reads nothing.
#[tokio::test]
async fn s04_a_page_of_another_origin_changes_and_reads_nothing() {
    let _turn = TURN.lock().await;
    let studio = Studio::start();
    let page = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = page.local_addr().unwrap();
    let target = studio.address.clone();
    std::thread::spawn(move || {
        let body = "<!doctype html><title>evil</title><body><form id=f method=post target=g enctype=text/plain><input name='{\"kind\":\"train\",\"config\":{},\"x\":\"' value='\"}'></form><iframe name=g></iframe>";
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        for stream in page.incoming().flatten() {
            let mut stream = stream;
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    let browser = Browser::open().await;
    browser.client.goto(&format!("http://{address}/")).await.unwrap();
    let attack = r#"
        const to = 'http://TARGET', read = [], job = JSON.stringify({ kind: 'train', config: {} });
        const note = what => text => { if (text) read.push(what + ': ' + text) };
        for (const mode of ['no-cors', 'cors'])
            for (const type of ['text/plain', 'application/json'])
                await fetch(to + '/api/jobs', { method: 'POST', mode, headers: { 'content-type': type }, body: job, credentials: 'include' }).then(r => r.text()).then(note(mode)).catch(() => 0);
        for (const method of ['GET', 'DELETE', 'PUT'])
            await fetch(to + '/api/jobs', { method }).then(r => r.text()).then(note(method)).catch(() => 0);
        document.getElementById('f').action = to + '/api/jobs';
        document.getElementById('f').submit();
        const image = new Image(); image.src = to + '/favicon.svg';
        await new Promise(done => { image.onload = () => { note('image')('shown'); done() }; image.onerror = done });
        await new Promise(done => { const s = new EventSource(to + '/api/events'); s.onmessage = e => { note('events')(e.data); done() }; s.onopen = () => { note('events')('open'); done() }; s.onerror = () => { s.close(); done() } });
        await new Promise(done => { const s = new WebSocket('ws://TARGET/api/events'); s.onopen = () => { note('socket')('open'); done() }; s.onerror = done });
        const script = document.createElement('script'); script.src = to + '/api/catalog'; document.body.append(script);
        await new Promise(done => setTimeout(done, 700));
        return read;
    "#;
    let read = browser.js(&attack.replace("TARGET", &target)).await;
    assert_eq!(read, json!([]), "it read something");
    assert_eq!(studio.ask("GET", "/api/jobs", None).1, json!([]), "it changed something");
}

#[tokio::test]
async fn s02_a_person_signs_in_and_out() {
    let _turn = TURN.lock().await;
    let studio = Studio::start_with(&["--token", "correct-horse-battery"]);
    let browser = Browser::open().await;
    browser.client.goto(&format!("http://{}/runs", studio.address)).await.unwrap();
    assert_eq!(browser.text("h1", 10).await, "Who is there?");
    browser.fill("#token", "wrong-horse-battery").await;
    browser.click("button[type=submit]").await;
    assert_eq!(browser.text("#said", 10).await, "This isn't the token.");
    browser.fill("#token", "correct-horse-battery").await;
    if let Ok(folder) = std::env::var("LATHE_PICTURES") {
        std::fs::write(format!("{folder}/login.png"), browser.client.screenshot().await.unwrap()).unwrap();
    }
    browser.click("button[type=submit]").await;
    browser.find("[data-testid=model-card-starter]").await;
    assert_eq!(browser.js("return document.cookie").await, "", "no script reads the session");
    browser.client.refresh().await.unwrap();
    browser.find("[data-testid=model-card-starter]").await;
    browser.click("[data-testid=sign-out]").await;
    assert_eq!(browser.text("form h1", 10).await, "Who is there?");
}
