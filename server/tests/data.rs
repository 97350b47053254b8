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
        if reply["type"] == "ended" {
            assert_eq!(reply["finish_reason"], "stop");
        } else if reply["type"] != "text" {
            assert!(events.next().await.is_none(), "nothing follows the last line");
            return (text, reply);
        }
        text += reply["text"].as_str().unwrap_or_default();
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
        assert_eq!(last["type"], "done");
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

#[tokio::test]
async fn a_reward_model_scores_texts() {
    let home = Home::new();
    let studio = start(&home);
    let ask = |model: &str, texts: Value| json!({"model": model, "messages": texts, "max_length": 4});
    let score = |body: Value| studio.post("/v1/score/evaluation", body);
    assert_eq!(score(ask("anything", json!(["abc"]))).await.0, 404);
    let reward = json!({"model_name_or_path": "starter", "adapter_name_or_path": "runs/reward"});
    let (_, chat) = studio.post("/api/chat", reward).await;
    let id = chat["id"].as_str().unwrap();
    until(&studio, id, "ready").await;
    // The only model may have any name.
    for name in ["gpt", id] {
        let (status, answer) = score(ask(name, json!(["abc", "abcdefg"]))).await;
        assert_eq!((status, &answer["scores"]), (200, &json!([3.0, 4.0])), "{answer}");
        assert_eq!((&answer["object"], &answer["model"]), (&json!("score.evaluation"), &json!(name)));
        assert!(answer["id"].as_str().unwrap().starts_with("scoreval-"));
    }
    let other = load(&studio, "starter").await;
    until(&studio, &other, "ready").await;
    assert_eq!(score(ask("gpt", json!(["abc"]))).await.0, 404);
    assert_eq!(score(ask("runs/reward", json!(["abc"]))).await.0, 200);
    let (status, answer) = score(ask(&other, json!(["abc"]))).await;
    assert_eq!((status, &answer["problems"][0]["code"]), (400, &json!("no_value_head")), "{answer}");
    assert_eq!(score(ask(id, json!([]))).await.0, 400);
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

/// The answer of a tus request: its status, its headers and its text.
async fn tus(studio: &Studio, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> (u16, Value, Value) {
    let mut request = studio.client.request(method.parse().unwrap(), studio.url(path)).body(body.to_owned());
    if !headers.iter().any(|(name, _)| *name == "tus-resumable") {
        request = request.header("tus-resumable", "1.0.0");
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = request.send().await.unwrap();
    let (status, found) = (response.status().as_u16(), response.headers().clone());
    let told = found.iter().map(|(name, value)| (name.to_string(), json!(value.to_str().unwrap())));
    let headers = Value::Object(told.collect());
    assert_eq!(headers["tus-resumable"], "1.0.0", "{method} {path}");
    (status, headers, serde_json::from_str(&response.text().await.unwrap()).unwrap_or(Value::Null))
}

/// Begins an upload; gives its path.
async fn begin(studio: &Studio, length: usize, metadata: &str) -> String {
    let headers = [("upload-length", length.to_string()), ("upload-metadata", metadata.to_owned())];
    let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
    let (status, headers, body) = tus(studio, "POST", "/api/uploads", &headers, "").await;
    assert_eq!(status, 201, "{body}");
    headers["location"].as_str().unwrap().to_owned()
}

const PIECE: (&str, &str) = ("content-type", "application/offset+octet-stream");

async fn piece(studio: &Studio, path: &str, offset: usize, bytes: &str) -> (u16, Value, Value) {
    tus(studio, "PATCH", path, &[PIECE, ("upload-offset", &offset.to_string())], bytes).await
}

async fn offset(studio: &Studio, path: &str) -> usize {
    let (status, headers, _) = tus(studio, "HEAD", path, &[], "").await;
    assert_eq!(status, 200);
    headers["upload-offset"].as_str().unwrap().parse().unwrap()
}

/// Sends the head of a piece of `length` bytes and some of them, and stays.
fn half_a_piece(studio: &Studio, path: &str, offset: usize, length: usize, bytes: &str) -> TcpStream {
    let mut socket = TcpStream::connect(studio.address).unwrap();
    let head = format!(
        "PATCH {path} HTTP/1.1\r\nHost: {}\r\nTus-Resumable: 1.0.0\r\nContent-Type: {}\r\nUpload-Offset: {offset}\r\nContent-Length: {length}\r\n\r\n{bytes}",
        studio.address, PIECE.1
    );
    socket.write_all(head.as_bytes()).unwrap();
    socket
}

async fn until_offset(studio: &Studio, path: &str, wanted: usize) {
    let since = Instant::now();
    while offset(studio, path).await != wanted {
        assert!(since.elapsed() < Duration::from_secs(5), "{wanted} bytes never come");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// `filename bXkuanNvbg==` is my.json, `name 5oiR55qE` is 我的.
const TOLD: &str = "filename bXkuanNvbg==,name 5oiR55qE";

#[tokio::test]
async fn an_upload_goes_on_after_a_dropped_connection_and_a_restart() {
    let home = Home::new();
    let studio = start(&home);
    let path = begin(&studio, ROWS.len(), TOLD).await;
    assert_eq!(offset(&studio, &path).await, 0);
    let cut_off = half_a_piece(&studio, &path, 0, ROWS.len(), &ROWS[..10]);
    until_offset(&studio, &path, 10).await;
    drop(cut_off);
    // The piece that was cut off lets go of the upload at once.
    let since = Instant::now();
    let mut status = 423;
    while status == 423 {
        assert!(since.elapsed() < Duration::from_secs(5));
        (status, _, _) = piece(&studio, &path, 10, &ROWS[10..15]).await;
    }
    assert_eq!((status, offset(&studio, &path).await), (204, 15));
    studio.crash().await;

    let studio = start(&home);
    let mut events = studio.events(Some(0)).await;
    assert_eq!(offset(&studio, &path).await, 15);
    let (status, headers, dataset) = piece(&studio, &path, 15, &ROWS[15..]).await;
    assert_eq!((status, &headers["upload-offset"]), (200, &json!(ROWS.len().to_string())), "{dataset}");
    assert_eq!((&dataset["name"], &dataset["file"], &dataset["rows"]), (&json!("我的"), &json!("my.json"), &json!(1)));
    assert_eq!(events.next().await.unwrap().1, json!({"type": "changed", "what": "datasets"}));
    assert_eq!(fs::read_to_string(home.path().join("datasets/my.json")).unwrap(), ROWS);
    assert!(files(&home.path().join("uploads")).is_empty());
    assert_eq!(tus(&studio, "HEAD", &path, &[], "").await.0, 404);
}

#[tokio::test]
async fn one_request_at_a_time_works_on_an_upload() {
    let home = Home::new();
    let studio = start(&home);
    let path = begin(&studio, ROWS.len(), TOLD).await;
    let _open = half_a_piece(&studio, &path, 0, ROWS.len(), &ROWS[..5]);
    until_offset(&studio, &path, 5).await;
    let (status, _, body) = piece(&studio, &path, 5, &ROWS[5..]).await;
    assert_eq!((status, &body["problems"][0]["code"]), (423, &json!("upload_busy")));
    // Who gives up doesn't wait for the other.
    assert_eq!(tus(&studio, "DELETE", &path, &[], "").await.0, 204);
    assert!(files(&home.path().join("uploads")).is_empty());
    assert_eq!(piece(&studio, &path, 5, &ROWS[5..]).await.0, 404);
}

#[tokio::test]
async fn hostile_uploads_are_refused() {
    let home = Home::new();
    let mut options = home.options();
    options.upload_limit = 1000;
    let studio = try_start(options).unwrap();
    fs::write(home.path().join("datasets/dataset_info.json"), r#"{"taken": {"file_name": "x.json"}}"#).unwrap();
    let code =
        |reply: (u16, Value, Value)| (reply.0, reply.2["problems"][0]["code"].as_str().unwrap_or_default().to_owned());
    for (headers, wanted) in [
        (vec![("upload-length", "5"), ("tus-resumable", "0.2.2")], (412, "tus_version")),
        (vec![("upload-metadata", TOLD)], (400, "bad_header")),
        (vec![("upload-defer-length", "1"), ("upload-metadata", TOLD)], (400, "bad_header")),
        (vec![("upload-length", "-5"), ("upload-metadata", TOLD)], (400, "bad_header")),
        (vec![("upload-length", "99999999999999999999"), ("upload-metadata", TOLD)], (400, "bad_header")),
        (vec![("upload-length", "1001"), ("upload-metadata", TOLD)], (413, "too_large")),
        (vec![("upload-length", "0"), ("upload-metadata", TOLD)], (400, "empty_file")),
        (vec![("upload-length", "5"), ("upload-metadata", "filename !!!")], (400, "bad_header")),
        (vec![("upload-length", "5"), ("upload-metadata", "filename /w==")], (400, "bad_header")),
        (vec![("upload-length", "5")], (400, "file_name")),
        // ../../evil.json, dataset_info.json, and my.json as ../x and as taken.
        (vec![("upload-length", "5"), ("upload-metadata", "filename Li4vLi4vZXZpbC5qc29u")], (400, "file_name")),
        (vec![("upload-length", "5"), ("upload-metadata", "filename ZGF0YXNldF9pbmZvLmpzb24=")], (400, "file_name")),
        (
            vec![("upload-length", "5"), ("upload-metadata", "filename bXkuanNvbg==,name Li4veA==")],
            (400, "dataset_name"),
        ),
        (
            vec![("upload-length", "5"), ("upload-metadata", "filename bXkuanNvbg==,name dGFrZW4=")],
            (409, "dataset_taken"),
        ),
    ] {
        let reply = code(tus(&studio, "POST", "/api/uploads", &headers, "").await);
        assert_eq!((reply.0, reply.1.as_str()), wanted, "{headers:?}");
    }
    assert!(files(&home.path().join("uploads")).is_empty());

    let path = begin(&studio, 8, TOLD).await;
    for (headers, wanted) in [
        (vec![("upload-offset", "0")], (415, "not_a_piece")),
        (vec![PIECE], (400, "bad_header")),
        (vec![PIECE, ("upload-offset", "x")], (400, "bad_header")),
        (vec![PIECE, ("upload-offset", "4")], (409, "other_offset")),
    ] {
        let reply = code(tus(&studio, "PATCH", &path, &headers, "[1,\n").await);
        assert_eq!((reply.0, reply.1.as_str()), wanted, "{headers:?}");
    }
    assert_eq!(code(piece(&studio, &path, 0, "more than eight bytes").await), (413, "too_large".into()));
    assert_eq!(offset(&studio, &path).await, 0);
    for id in ["..%2f..%2flathe", "x", &"0".repeat(32), &"A".repeat(32)] {
        let path = format!("/api/uploads/{id}");
        assert_eq!(piece(&studio, &path, 0, "x").await.0, 404, "{id}");
        assert_eq!(tus(&studio, "DELETE", &path, &[], "").await.0, 404, "{id}");
    }
    // A page of another origin, whatever the method.
    for method in ["POST", "PATCH", "DELETE", "HEAD", "OPTIONS"] {
        let request = studio.client.request(method.parse().unwrap(), studio.url("/api/uploads"));
        let response = request.header("origin", "http://evil.example").send().await.unwrap();
        assert_eq!(response.status(), 403, "{method}");
    }
    // What can't be read is told, and nothing stays.
    assert_eq!(piece(&studio, &path, 0, "[1,\n").await.0, 204);
    assert_eq!(code(piece(&studio, &path, 4, "2,,]").await), (422, "dataset_not_json".into()));
    assert!(files(&home.path().join("uploads")).is_empty());
    assert_eq!(files(&home.path().join("datasets")), ["dataset_info.json"]);
}

#[tokio::test]
async fn uploads_that_nobody_ends_are_cleared() {
    let home = Home::new();
    let studio = start(&home);
    let [old, new] = [begin(&studio, 10, TOLD).await, begin(&studio, 10, TOLD).await];
    studio.crash().await;
    let file = |path: &str| home.path().join("uploads").join(format!("{}.upload", path.rsplit('/').next().unwrap()));
    let two_days_ago = std::time::SystemTime::now() - Duration::from_secs(48 * 3600);
    fs::File::options().write(true).open(file(&old)).unwrap().set_modified(two_days_ago).unwrap();
    let studio = start(&home);
    let since = Instant::now();
    while files(&home.path().join("uploads")).len() > 2 {
        assert!(since.elapsed() < Duration::from_secs(5), "the old one stays");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(offset(&studio, &new).await, 0);
    let options = studio.client.request("OPTIONS".parse().unwrap(), studio.url("/api/uploads")).send().await.unwrap();
    assert_eq!(
        (options.status().as_u16(), &options.headers()["tus-extension"]),
        (204, &"creation,termination".parse().unwrap())
    );
}

#[tokio::test]
async fn a_dataset_is_looked_at_changed_and_downloaded() {
    let home = Home::new();
    let studio = start(&home);
    let mut events = studio.events(Some(0)).await;
    let preview = studio.get("/api/datasets/a/rows?offset=2&limit=1&search=%E4%BD%A0&faulty=true").await;
    assert_eq!(preview["rows"][0]["raw"], json!({"offset": 2, "limit": 1, "search": "你", "faulty": true}));
    assert_eq!(studio.get("/api/datasets/a/columns").await["found"], json!([]));
    let (status, tokens) = studio.post("/api/datasets/a/tokens", json!({"row": 7, "config": {"cutoff_len": 9}})).await;
    assert_eq!((status, &tokens["row"]), (200, &json!(7)));
    let (status, found) = studio.post("/api/datasets/a/statistics", json!({"model_name_or_path": "starter"})).await;
    assert_eq!((status, &found["findings"]), (200, &json!([])));
    let edit = json!({"edit": {"type": "delete", "rows": [1, 4]}});
    let (status, edited) = studio.post("/api/datasets/a/edit", edit).await;
    assert_eq!((status, &edited["rows"]), (200, &json!(2)), "{edited}");
    assert_eq!(events.next().await.unwrap().1, json!({"type": "changed", "what": "datasets"}));
    assert_eq!(studio.post("/api/datasets/a/edit", json!({"edit": {"type": "burn"}})).await.0, 400);

    let get = |path: &str| studio.client.get(studio.url(path)).send();
    let file = get("/api/datasets/%E6%88%91/file?type=parquet&formatting=openai").await.unwrap();
    assert_eq!(
        (file.status().as_u16(), &file.headers()["content-type"]),
        (200, &"application/octet-stream".parse().unwrap())
    );
    let named = file.headers()["content-disposition"].to_str().unwrap();
    assert_eq!(named, "attachment; filename=\"_.parquet\"; filename*=UTF-8''%E6%88%91.parquet");
    assert_eq!(file.text().await.unwrap(), "the file\n");
    assert_eq!(get("/api/datasets/missing/file").await.unwrap().status(), 422);
    assert_eq!(get("/api/datasets/a/file?type=exe").await.unwrap().status(), 400);
    // A worker that fails on the way must not look like a whole file.
    let whole = async { get("/api/datasets/dying/file").await?.text().await };
    assert!(whole.await.is_err());
}

#[tokio::test]
async fn pairs_are_counted_voted_on_and_made_a_dataset() {
    let home = Home::new();
    let studio = start(&home);
    let wanted = json!({ "sources": [{ "dataset": "a" }, { "dataset": "b", "weight": 2.0 }], "offset": 3 });
    let (status, pairs) = studio.post("/api/preferences/pairs", wanted.clone()).await;
    assert_eq!((status, &pairs["found"], &pairs["kept"], &pairs["offset"]), (200, &json!(4), &json!(2), &json!(3)));
    let ballot = studio.get("/api/preferences/votes/%E6%A0%B7%E6%9C%AC").await;
    assert_eq!((&ballot["dataset"], &ballot["voted"]), (&json!("样本"), &json!(0)));
    let (status, ballot) = studio.post("/api/preferences/votes/a", json!({ "pair": "x", "vote": "left" })).await;
    assert_eq!((status, &ballot["voted"]), (200, &json!(1)));
    let (status, problem) = studio.post("/api/preferences/votes/a", json!({ "pair": "x", "vote": "best" })).await;
    assert!((400..500).contains(&status), "{status} {problem}");
    let mut events = studio.events(Some(0)).await;
    let mut wanted = wanted;
    wanted["name"] = "pairs".into();
    let (status, dataset) = studio.post("/api/preferences/dataset", wanted).await;
    assert_eq!((status, &dataset["name"]), (201, &json!("pairs")));
    assert_eq!(events.next().await.unwrap().1, json!({"type": "changed", "what": "datasets"}));
}
