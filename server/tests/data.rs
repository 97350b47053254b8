//! Uploads and chat, with a stand-in for the worker.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Events, Home, Studio, start, try_start};
use serde_json::{Value, json};
use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::Path,
    time::{Duration, Instant},
};

const ROWS: &str = r#"[{"instruction": "a", "output": "b"}]"#;

/// The parts of a form: name, file name, content.
fn form(parts: &[(&str, &str, &str)]) -> String {
    let mut body = String::new();
    for (name, file, content) in parts {
        let file = if file.is_empty() { String::new() } else { format!("; filename=\"{file}\"") };
        body += &format!("--x\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\n\r\n{content}\r\n");
    }
    body + "--x--\r\n"
}

async fn upload(studio: &Studio, parts: &[(&str, &str, &str)]) -> (u16, Value) {
    let request = studio.client.post(studio.url("/api/datasets")).body(form(parts));
    let response = request.header("content-type", "multipart/form-data; boundary=x").send().await.unwrap();
    let status = response.status().as_u16();
    (status, serde_json::from_str(&response.text().await.unwrap()).unwrap())
}

fn files(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().flatten().map(|e| e.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_dataset_is_uploaded_listed_and_read() {
    let home = Home::new();
    let studio = start(&home);
    let mut events = studio.events(Some(0)).await;
    let (status, dataset) = upload(&studio, &[("file", "my.json", ROWS), ("name", "", "我的数据")]).await;
    assert_eq!((status, &dataset["name"], &dataset["rows"]), (201, &json!("我的数据"), &json!(1)), "{dataset}");
    assert_eq!(events.next().await.unwrap().1, json!({"type": "changed", "what": "datasets"}));
    let (status, dataset) = upload(&studio, &[("file", "my.json", ROWS)]).await;
    assert_eq!((status, &dataset["name"], &dataset["file"]), (201, &json!("my"), &json!("my-2.json")));
    assert_eq!(files(&home.path().join("datasets")), ["my-2.json", "my.json"]);
    assert!(files(&home.path().join("uploads")).is_empty());
    assert_eq!(studio.get("/api/datasets").await.as_array().unwrap().len(), 2);
    let preview = studio.get("/api/datasets/%E6%88%91%E7%9A%84/rows?offset=5&limit=3").await;
    assert_eq!((&preview["dataset"]["name"], &preview["rows"][2]["index"]), (&json!("我的"), &json!(7)));
    assert_eq!(studio.delete("/api/datasets/my").await, 204);
}

#[tokio::test]
async fn an_upload_that_fails_leaves_nothing() {
    let home = Home::new();
    let mut options = home.options();
    options.upload_limit = 100_000;
    let studio = try_start(options).unwrap();
    let large = "x".repeat(100_001);
    for (parts, status, code) in [
        (vec![("file", "bad.json", "[1,\n2,,")], 422, "dataset_not_json"),
        (vec![("file", "large.json", large.as_str())], 413, "too_large"),
        (vec![("file", "../../evil.json", ROWS)], 400, "file_name"),
        (vec![("file", "dataset_info.json", ROWS)], 400, "file_name"),
        (vec![("file", "a.json", ROWS), ("name", "", "../evil")], 400, "dataset_name"),
        (vec![("file", "a.json", "")], 400, "empty_file"),
        (vec![("name", "", "x")], 400, "no_file"),
    ] {
        let (got, body) = upload(&studio, &parts).await;
        assert_eq!((got, &body["problems"][0]["code"]), (status, &json!(code)), "{body}");
    }
    // Cut off in the middle, with and without a length told.
    let body = form(&[("file", "cut.json", ROWS)]);
    let half = &body[..body.len() - 20];
    for framing in [
        format!("Content-Length: {}\r\n\r\n{half}", body.len()),
        format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{half}\r\n", half.len()),
    ] {
        let mut socket = TcpStream::connect(studio.address).unwrap();
        let head = format!(
            "POST /api/datasets HTTP/1.1\r\nHost: {}\r\nContent-Type: multipart/form-data; boundary=x\r\n{framing}",
            studio.address
        );
        socket.write_all(head.as_bytes()).unwrap();
        let since = Instant::now();
        while files(&home.path().join("uploads")).is_empty() {
            assert!(since.elapsed() < Duration::from_secs(5));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        drop(socket);
        while !files(&home.path().join("uploads")).is_empty() {
            assert!(since.elapsed() < Duration::from_secs(5), "the cut upload stays");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    assert!(files(&home.path().join("datasets")).is_empty());
    assert!(files(&home.path().join("uploads")).is_empty());
}

async fn load(studio: &Studio, model: &str) -> String {
    let (status, chat) = studio.post("/api/chat", json!({"model_name_or_path": model})).await;
    assert_eq!((status, &chat["state"]), (201, &json!("loading")), "{chat}");
    chat["id"].as_str().unwrap().to_owned()
}

async fn until(studio: &Studio, id: &str, state: &str) -> Value {
    let since = Instant::now();
    loop {
        let chat = studio.get(&format!("/api/chat/{id}")).await;
        if chat["state"] == state {
            return chat;
        }
        assert!(since.elapsed() < Duration::from_secs(5), "{chat}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn generate(studio: &Studio, id: &str, text: &str) -> Events {
    let body = json!({"messages": [{"role": "user", "content": text}]});
    let response =
        studio.client.post(studio.url(&format!("/api/chat/{id}/generate"))).json(&body).send().await.unwrap();
    assert_eq!(response.status(), 200);
    Events::of(response)
}

async fn read(mut events: Events) -> (String, Value) {
    let mut text = String::new();
    loop {
        let (_, reply) = events.next().await.unwrap();
        if reply["type"] != "text" {
            assert!(events.next().await.is_none(), "nothing follows the last line");
            return (text, reply);
        }
        text += reply["text"].as_str().unwrap();
    }
}

#[tokio::test]
async fn one_model_answers_many_at_once() {
    let home = Home::new();
    let studio = start(&home);
    let id = load(&studio, "starter").await;
    assert_eq!(load_again(&studio).await, id, "the same model isn't loaded twice");
    assert_eq!(until(&studio, &id, "ready").await["bytes"], 7);
    let mut open = Vec::new();
    for n in 0..16 {
        open.push(generate(&studio, &id, &format!("{n} one two three")).await);
    }
    for (n, events) in open.into_iter().enumerate() {
        let (text, last) = read(events).await;
        assert_eq!(text, format!("{n} one two three"));
        assert_eq!((&last["type"], &last["finish_reason"]), (&json!("done"), &json!("stop")));
    }
    // Closing the stream stops the answer.
    let mut events = generate(&studio, &id, &"word ".repeat(500)).await;
    events.next().await.unwrap();
    drop(events);
    let since = Instant::now();
    while !home.path().join("stopped").exists() {
        assert!(since.elapsed() < Duration::from_secs(8), "it is never stopped");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(studio.delete(&format!("/api/chat/{id}")).await, 204);
    assert_eq!(studio.get("/api/chat").await, json!([]));
    assert_eq!(studio.post(&format!("/api/chat/{id}/generate"), json!({"messages": []})).await.0, 400);
}

async fn load_again(studio: &Studio) -> String {
    let (_, chat) = studio.post("/api/chat", json!({"model_name_or_path": "starter"})).await;
    chat["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_chat_worker_that_dies_takes_nothing_with_it() {
    let home = Home::new();
    let studio = start(&home);
    let id = load(&studio, "missing").await;
    assert_eq!(until(&studio, &id, "failed").await["problem"]["code"], "model_missing");
    let id = load(&studio, "starter").await;
    until(&studio, &id, "ready").await;
    let (other, dying) = (generate(&studio, &id, &"word ".repeat(500)).await, generate(&studio, &id, "I die").await);
    let (text, last) = read(dying).await;
    assert_eq!((text.as_str(), &last["problem"]["code"]), ("I ", &json!("chat_ended")), "{last}");
    assert_eq!(read(other).await.1["type"], "failed");
    let chat = until(&studio, &id, "failed").await;
    assert!(chat["problem"]["message"].as_str().unwrap().contains("signal: 6"), "{chat}");
    let body = json!({"messages": [{"role": "user", "content": "x"}]});
    assert_eq!(studio.post(&format!("/api/chat/{id}/generate"), body).await.0, 409);
    // And loads again.
    let id = load(&studio, "starter").await;
    until(&studio, &id, "ready").await;
    assert_eq!(read(generate(&studio, &id, "again").await).await.0, "again");
    studio.crash().await;
    let since = Instant::now();
    while chat_workers(home.path()) > 0 {
        assert!(since.elapsed() < Duration::from_secs(5), "a chat worker outlives the server");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Processes that hold a model for this data folder.
fn chat_workers(home: &Path) -> usize {
    let read = |path: &Path, name: &str| {
        let mut bytes = Vec::new();
        fs::File::open(path.join(name)).and_then(|mut file| file.read_to_end(&mut bytes)).ok();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let processes = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let home = format!("LATHE_HOME={}\0", home.display());
    processes.filter(|path| read(path, "cmdline").contains("--chat") && read(path, "environ").contains(&home)).count()
}
