//! OpenAI's API, `/answer` and `/ws/chat`, with a stand-in for the worker that says the last message again.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Home, Studio, raw, start, try_start};
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use server::Serving;
use std::time::{Duration, Instant};
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest};

const KEY: &str = "sk-a-key-of-a-program";

async fn load(studio: &Studio, load: Value) -> String {
    let (status, chat) = studio.post("/api/chat", load).await;
    assert_eq!(status, 201, "{chat}");
    let id = chat["id"].as_str().unwrap().to_owned();
    let since = Instant::now();
    while studio.get(&format!("/api/chat/{id}")).await["state"] != "ready" {
        assert!(since.elapsed() < Duration::from_secs(10), "it is never ready");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    id
}

async fn served(home: &Home) -> Studio {
    let studio = start(home);
    load(&studio, json!({"model_name_or_path": "starter", "adapters": ["/runs/fine/checkpoint-5"]})).await;
    studio
}

fn ask(text: &str, more: Value) -> Value {
    let mut body = json!({"model": "starter", "messages": [{"role": "user", "content": text}]});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

/// Every `data:` of a stream, without the `[DONE]` that it has to end with.
async fn stream(studio: &Studio, path: &str, body: &Value) -> Vec<Value> {
    let response = studio.client.post(studio.url(path)).json(body).send().await.unwrap();
    assert_eq!(
        (response.status().as_u16(), &response.headers()["content-type"]),
        (200, &"text/event-stream".parse().unwrap())
    );
    let text = response.text().await.unwrap();
    let mut lines: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    assert_eq!(lines.pop(), Some("[DONE]"), "{text}");
    lines.into_iter().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn models_are_listed_and_named() {
    let home = Home::new();
    let studio = start(&home);
    assert_eq!(studio.get("/v1/models").await, json!({"object": "list", "data": []}));
    load(&studio, json!({"model_name_or_path": "starter", "adapters": ["/runs/fine/checkpoint-5"]})).await;
    let models = studio.get("/v1/models").await;
    let names: Vec<&str> = models["data"].as_array().unwrap().iter().map(|m| m["id"].as_str().unwrap()).collect();
    assert_eq!(names, ["starter", "fine/checkpoint-5"]);
    assert_eq!(studio.get("/v1/models/fine%2Fcheckpoint-5").await["object"], "model");
    // An adapter is a model of its own.
    let mut body = ask("one", json!({}));
    body["model"] = "fine/checkpoint-5".into();
    let (_, answer) = studio.post("/v1/chat/completions", body).await;
    assert_eq!(answer["choices"][0]["message"]["content"], "/runs/fine/checkpoint-5: one");
    assert_eq!(answer["model"], "fine/checkpoint-5");
}

#[tokio::test]
async fn a_conversation_is_answered_whole() {
    let home = Home::new();
    let studio = served(&home).await;
    let (status, answer) =
        studio.post("/v1/chat/completions", ask("one two", json!({"n": 2, "logprobs": true, "top_logprobs": 1}))).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!((&answer["object"], &answer["model"]), (&json!("chat.completion"), &json!("starter")));
    assert!(answer["id"].as_str().unwrap().starts_with("chatcmpl-"));
    assert_eq!(answer["usage"]["completion_tokens"], 4);
    assert_eq!(answer["usage"]["total_tokens"], 7);
    for index in 0..2 {
        let choice = &answer["choices"][index];
        assert_eq!((&choice["index"], &choice["finish_reason"]), (&json!(index), &json!("stop")));
        assert_eq!(choice["message"], json!({"role": "assistant", "content": "one two", "refusal": null}));
        let tokens = choice["logprobs"]["content"].as_array().unwrap();
        assert_eq!(tokens.len(), 2);
        assert_eq!((&tokens[0]["token"], &tokens[0]["bytes"]), (&json!("one "), &json!(b"one ")));
        assert_eq!(tokens[0]["top_logprobs"].as_array().unwrap().len(), 1);
    }
    let (_, plain) = studio.post("/v1/chat/completions", ask("<think>so</think>one", json!({}))).await;
    assert_eq!(plain["choices"][0]["message"]["reasoning_content"], "so");
    assert_eq!(
        (&plain["choices"][0]["message"]["content"], &plain["choices"][0]["logprobs"]),
        (&json!("one"), &Value::Null)
    );
}

#[tokio::test]
async fn a_conversation_is_answered_as_a_stream() {
    let home = Home::new();
    let studio = served(&home).await;
    let chunks = stream(
        &studio,
        "/v1/chat/completions",
        &ask("one two", json!({"stream": true, "n": 2, "stream_options": {"include_usage": true}})),
    )
    .await;
    assert!(chunks.iter().all(|c| c["object"] == "chat.completion.chunk" && c["id"] == chunks[0]["id"]));
    let usage = chunks.last().unwrap();
    assert_eq!((&usage["choices"], &usage["usage"]["completion_tokens"]), (&json!([]), &json!(4)));
    for index in 0..2 {
        let mine: Vec<&Value> = chunks.iter().map(|c| &c["choices"][0]).filter(|c| c["index"] == index).collect();
        assert_eq!(mine[0]["delta"], json!({"role": "assistant", "content": ""}));
        let text: String = mine.iter().filter_map(|c| c["delta"]["content"].as_str()).collect();
        assert_eq!(text, "one two");
        assert_eq!(
            (&mine.last().unwrap()["delta"], &mine.last().unwrap()["finish_reason"]),
            (&json!({}), &json!("stop"))
        );
        assert!(mine[..mine.len() - 1].iter().all(|c| c["finish_reason"].is_null()));
    }
    let chunks = stream(&studio, "/v1/chat/completions", &ask("one", json!({"stream": true}))).await;
    assert!(chunks.iter().all(|chunk| chunk["usage"].is_null()));
}

#[tokio::test]
async fn tools_are_called_whole_and_streamed() {
    let home = Home::new();
    let studio = served(&home).await;
    let tools = json!([{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {"of": {"type": "string"}}}}}]);
    // The stand-in writes a call where it has to, and else says the message again.
    let written = "<tool_call>{\"name\": \"look\", \"arguments\": {\"of\": \"it\"}}</tool_call>";
    for (text, choice) in [("hello", json!("required")), (written, json!("auto"))] {
        let body = ask(text, json!({"tools": tools, "tool_choice": choice}));
        let (status, answer) = studio.post("/v1/chat/completions", body.clone()).await;
        assert_eq!(status, 200, "{answer}");
        let choice = &answer["choices"][0];
        assert_eq!((&choice["finish_reason"], &choice["message"]["content"]), (&json!("tool_calls"), &Value::Null));
        let call = &choice["message"]["tool_calls"][0];
        assert_eq!(call["type"], "function");
        assert!(call["id"].as_str().unwrap().starts_with("call_"));
        assert_eq!(call["function"], json!({"name": "look", "arguments": "{\"of\": \"it\"}"}));

        let mut streamed = body;
        streamed["stream"] = true.into();
        let chunks = stream(&studio, "/v1/chat/completions", &streamed).await;
        let deltas: Vec<&Value> = chunks.iter().filter_map(|c| c["choices"][0]["delta"]["tool_calls"].get(0)).collect();
        assert_eq!(deltas[0]["function"], json!({"name": "look", "arguments": ""}));
        assert!(deltas.len() > 2, "the arguments come in pieces: {deltas:?}");
        assert!(deltas.iter().all(|delta| delta["index"] == 0));
        let arguments: String = deltas.iter().filter_map(|d| d["function"]["arguments"].as_str()).collect();
        assert_eq!(arguments, "{\"of\": \"it\"}");
        assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], "tool_calls");
    }
    let (_, answer) =
        studio.post("/v1/chat/completions", ask(written, json!({"tools": tools, "tool_choice": "none"}))).await;
    assert_eq!(answer["choices"][0]["message"]["content"], written);
}

#[tokio::test]
async fn texts_are_gone_on_with() {
    let home = Home::new();
    let studio = served(&home).await;
    let body = json!({"model": "starter", "prompt": ["a b", "c"], "n": 2, "echo": true, "logprobs": 1});
    let (status, answer) = studio.post("/v1/completions", body.clone()).await;
    assert_eq!(status, 200, "{answer}");
    let texts: Vec<&str> = answer["choices"].as_array().unwrap().iter().map(|c| c["text"].as_str().unwrap()).collect();
    assert_eq!(texts, ["a ba b", "a ba b", "cc", "cc"]);
    let logprobs = &answer["choices"][0]["logprobs"];
    assert_eq!((&logprobs["tokens"], &logprobs["text_offset"]), (&json!(["a ", "b"]), &json!([3, 5])));
    assert_eq!(logprobs["top_logprobs"][0], json!({"a ": -0.5}));
    let mut streamed = body;
    streamed["stream"] = true.into();
    let chunks = stream(&studio, "/v1/completions", &streamed).await;
    for (index, text) in texts.iter().enumerate() {
        let mine = chunks.iter().map(|c| &c["choices"][0]).filter(|c| c["index"] == index);
        assert_eq!(mine.filter_map(|c| c["text"].as_str()).collect::<String>(), **text);
    }
}

#[tokio::test]
async fn texts_are_embedded_as_numbers_and_as_base64() {
    let home = Home::new();
    let studio = served(&home).await;
    let (status, floats) = studio.post("/v1/embeddings", json!({"model": "starter", "input": ["abc", "a"]})).await;
    assert_eq!((status, &floats["data"][0]["embedding"], &floats["data"][1]["index"]), (200, &json!([3.0]), &json!(1)));
    assert_eq!(floats["usage"], json!({"prompt_tokens": 2, "total_tokens": 2}));
    let (_, coded) =
        studio.post("/v1/embeddings", json!({"model": "starter", "input": "abc", "encoding_format": "base64"})).await;
    // 3.0 as float32, little-endian.
    assert_eq!(coded["data"][0]["embedding"], "AABAQA==");
    for (body, param) in [
        (json!({"input": [1, 2]}), "input"),
        (json!({"input": ""}), "input"),
        (json!({"input": "x", "dimensions": 7}), "dimensions"),
    ] {
        let (status, answer) = studio.post("/v1/embeddings", body).await;
        assert_eq!((status, &answer["error"]["param"]), (400, &json!(param)), "{answer}");
    }
}

#[tokio::test]
async fn failures_have_openais_form_and_name_the_field() {
    let home = Home::new();
    let studio = served(&home).await;
    for (path, body, status, param, code) in [
        (
            "/v1/chat/completions",
            json!({"model": "gpt", "messages": [{"role": "user", "content": "x"}]}),
            404,
            json!("model"),
            "model_not_found",
        ),
        ("/v1/chat/completions", ask("x", json!({"messages": []})), 400, json!("messages"), "invalid_value"),
        ("/v1/chat/completions", json!({"model": "starter"}), 400, Value::Null, "bad_json"),
        ("/v1/chat/completions", ask("x", json!({"stream": "yes"})), 400, json!("stream"), "bad_json"),
        ("/v1/chat/completions", ask("x", json!({"temperature": 9})), 400, json!("temperature"), "bad_value"),
        ("/v1/chat/completions", ask("x", json!({"max_tokens": 0})), 400, json!("max_tokens"), "bad_value"),
        ("/v1/chat/completions", ask("refuse", json!({})), 400, json!("messages"), "too_long"),
        ("/v1/chat/completions", ask("refuse", json!({"stream": true})), 400, json!("messages"), "too_long"),
        ("/v1/completions", json!({"model": "starter", "prompt": [1, 2]}), 400, json!("prompt"), "invalid_value"),
        ("/v1/nothing", json!({}), 404, Value::Null, "not_found"),
    ] {
        let (got, answer) = studio.post(path, body).await;
        let error = &answer["error"];
        assert_eq!((got, &error["param"]), (status, &param), "{path} {answer}");
        assert_eq!(error["type"], "invalid_request_error");
        assert!(!error["message"].as_str().unwrap().is_empty());
        assert_eq!(error["code"], code, "{answer}");
    }
    let answer = common::request(&studio, "GET", "/v1/chat/completions", "");
    assert_eq!(answer.0, 405);
    assert!(answer.1.contains("content-type: application/json") && answer.2.contains("\"error\""), "{answer:?}");
}

#[tokio::test]
async fn a_client_that_goes_away_stops_the_model() {
    let home = Home::new();
    let studio = served(&home).await;
    for is_streamed in [true, false] {
        let _ = std::fs::remove_file(home.path().join("stopped"));
        let body = ask(&"word ".repeat(2000), json!({"stream": is_streamed}));
        let asking = studio.client.post(studio.url("/v1/chat/completions")).json(&body);
        let asked = tokio::spawn(async move {
            let mut response = asking.send().await.unwrap();
            while response.chunk().await.unwrap().is_some() {}
        });
        tokio::time::sleep(Duration::from_millis(300)).await;
        asked.abort();
        let since = Instant::now();
        while !home.path().join("stopped").exists() {
            assert!(since.elapsed() < Duration::from_secs(10), "it is never stopped (streamed: {is_streamed})");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test]
async fn a_key_opens_what_is_for_programs_and_nothing_else() {
    let home = Home::new();
    let mut options = home.options();
    options.api_keys = vec![KEY.into(), "another-key".into()];
    let studio = try_start(options).unwrap();
    let ask = |path: &str, key: Option<&str>| {
        let key = key.map(|key| format!("Authorization: Bearer {key}\r\n")).unwrap_or_default();
        common::request(&studio, "GET", path, &key)
    };
    for path in ["/v1/models", "/answer?prompt=x", "/ws/chat", "/v1/nothing"] {
        for key in [None, Some("wrong")] {
            let answer = ask(path, key);
            assert_eq!(answer.0, 401, "{path}");
            assert!(answer.1.contains("www-authenticate: bearer"), "{answer:?}");
        }
        assert_ne!(ask(path, Some(KEY)).0, 401, "{path}");
        assert_ne!(ask(path, Some("another-key")).0, 401, "{path}");
    }
    let refused: Value = serde_json::from_str(&ask("/v1/models", None).2).unwrap();
    assert_eq!(refused["error"]["code"], "invalid_api_key", "{refused}");
    // The studio itself, without a token, belongs to this user; a key is of no use there.
    assert_eq!(ask("/api/chat", None).0, 200);
    // Guesses are counted.
    for _ in 0..10 {
        ask("/v1/models", Some("wrong"));
    }
    assert_eq!(ask("/v1/models", Some(KEY)).0, 429);
}

#[tokio::test]
async fn the_token_opens_the_api_and_a_key_doesnt_open_the_studio() {
    let home = Home::new();
    let mut options = home.options();
    (options.token, options.api_keys) = (Some("correct-horse-battery".into()), vec![KEY.into()]);
    let studio = try_start(options).unwrap();
    let ask =
        |path: &str, key: &str| common::request(&studio, "GET", path, &format!("Authorization: Bearer {key}\r\n")).0;
    assert_eq!((ask("/v1/models", "correct-horse-battery"), ask("/api/chat", "correct-horse-battery")), (200, 200));
    assert_eq!((ask("/v1/models", KEY), ask("/api/chat", KEY), ask("/v1modelsx", KEY)), (200, 401, 401));
}

#[tokio::test]
async fn a_prompt_is_gone_on_with_by_transformers_parameters() {
    let home = Home::new();
    let studio = served(&home).await;
    assert_eq!(studio.get("/answer?prompt=one%20two").await, json!({"generated_text": "one twoone two"}));
    let asked = "/answer?prompt=one&max_length=50&min_length=1&top_p=0.5&temperature=0.2&do_sample=True&repetition_penalty=1.1&no_repeat_ngram_size=2&num_beams=2&early_stopping=False";
    assert_eq!(studio.get(asked).await["generated_text"], "oneone");
    assert_eq!(studio.get("/answer?prompt=one&chat=true").await, json!({"generated_text": "one"}));
    for (path, status) in [
        ("/answer", 422),
        ("/answer?prompt=", 422),
        ("/answer?prompt=x&num_beams=many", 422),
        ("/answer?prompt=refuse", 500),
    ] {
        let answer = common::request(&studio, "GET", path, "");
        assert_eq!(answer.0, status, "{path}");
        let body = common::is_problem(&answer);
        assert!(!body["detail"].as_str().unwrap().is_empty());
    }
}

#[tokio::test]
async fn one_model_is_served_without_a_studio() {
    let home = Home::new();
    let mut options = home.options();
    let load = api::chat::LoadChat { model_name_or_path: "starter".into(), ..Default::default() };
    options.serving = Some(Serving { load, name: "gpt-3.5-turbo".into(), ..Serving::default() });
    let studio = try_start(options).unwrap();
    assert_eq!(studio.get("/health").await, json!({"status": "healthy", "model": "starter"}));
    assert_eq!(studio.get("/v1/models").await["data"][0]["id"], "gpt-3.5-turbo");
    let (status, _) = studio
        .post("/v1/chat/completions", json!({"model": "gpt-3.5-turbo", "messages": [{"role": "user", "content": "x"}]}))
        .await;
    assert_eq!(status, 200);
    for path in ["/", "/api/jobs", "/api/chat", "/runs/x"] {
        assert_eq!(common::request(&studio, "GET", path, "").0, 404, "{path}");
    }
}

#[tokio::test]
async fn a_model_that_cant_be_served_is_said() {
    let home = Home::new();
    let mut options = home.options();
    let load = api::chat::LoadChat { model_name_or_path: "missing".into(), ..Default::default() };
    options.serving = Some(Serving { load, ..Serving::default() });
    let error = try_start(options).map(|_| ()).unwrap_err();
    assert_eq!(error.problem().code, "model_missing");
}

/// A WebSocket's next message; pings are answered by the client itself.
async fn next(socket: &mut (impl StreamExt<Item = tokio_tungstenite::tungstenite::Result<Message>> + Unpin)) -> Value {
    loop {
        let message =
            tokio::time::timeout(Duration::from_secs(10), socket.next()).await.expect("nothing comes").unwrap();
        if let Message::Text(text) = message.unwrap() {
            return serde_json::from_str(&text).unwrap();
        }
    }
}

#[tokio::test]
async fn a_websocket_holds_a_session_that_outlives_it_and_the_server() {
    let home = Home::new();
    let studio = served(&home).await;
    let url = format!("ws://{}/ws/chat", studio.address);
    let (mut socket, _) = tokio_tungstenite::connect_async(&url).await.unwrap();
    let say = |value: Value| Message::text(value.to_string());
    socket.send(say(json!({"type": "open", "model": "starter", "system": "Be brief."}))).await.unwrap();
    let opened = next(&mut socket).await;
    let id = opened["session"]["id"].as_str().unwrap().to_owned();
    for text in ["hello there", "again"] {
        socket.send(say(json!({"type": "say", "content": text}))).await.unwrap();
        let mut answer = String::new();
        let done = loop {
            let told = next(&mut socket).await;
            match told["type"].as_str() {
                Some("text") => answer += told["text"].as_str().unwrap(),
                _ => break told,
            }
        };
        assert_eq!((&done["type"], &answer), (&json!("done"), &text.to_owned()), "{done}");
        assert_eq!((&done["message"]["content"], &done["message"]["by"]), (&json!(text), &json!("starter")));
    }
    // Stopped in the middle, what there is stays; what isn't understood ends nothing.
    socket.send(say(json!({"type": "say", "content": "word ".repeat(500)}))).await.unwrap();
    next(&mut socket).await;
    socket.send(say(json!({"type": "stop"}))).await.unwrap();
    while next(&mut socket).await["type"] != "done" {}
    socket.send(say(json!({"type": "dance"}))).await.unwrap();
    assert_eq!(next(&mut socket).await["problem"]["code"], "bad_message");
    socket.close(None).await.unwrap();
    studio.crash().await;

    let studio = served(&home).await;
    let (mut socket, _) = tokio_tungstenite::connect_async(format!("ws://{}/ws/chat", studio.address)).await.unwrap();
    socket.send(say(json!({"type": "open", "session": id}))).await.unwrap();
    let session = next(&mut socket).await["session"].take();
    let said: Vec<&str> =
        session["messages"].as_array().unwrap().iter().map(|m| m["content"].as_str().unwrap()).collect();
    assert_eq!((said.len(), &said[..4]), (6, ["hello there", "hello there", "again", "again"].as_slice()));
    assert_eq!((&session["settings"]["system"], &session["title"]), (&json!("Be brief."), &json!("hello there")));
    assert_eq!(session["messages"][5]["finish_reason"], "cancelled");
    socket.send(say(json!({"type": "open", "session": "none"}))).await.unwrap();
    assert_eq!(next(&mut socket).await["problem"]["code"], "not_found");
}

#[tokio::test]
async fn a_foreign_page_opens_no_websocket() {
    let home = Home::new();
    let studio = served(&home).await;
    let mut request = format!("ws://{}/ws/chat", studio.address).into_client_request().unwrap();
    request.headers_mut().insert("origin", "http://evil.example".parse().unwrap());
    assert!(tokio_tungstenite::connect_async(request).await.unwrap_err().to_string().contains("403"));
    let host = studio.address;
    let plain = raw(&studio, &format!("GET /ws/chat HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"));
    assert!((400..500).contains(&plain.0), "{plain:?}");
}

#[tokio::test]
async fn sessions_are_kept_renamed_and_forgotten() {
    let home = Home::new();
    let studio = start(&home);
    let content = json!({
        "settings": {"system": "Be brief.", "examples": [{"user": "a", "assistant": "b"}], "params": {"top_k": 3}},
        "messages": [{"role": "user", "content": "  Who are\n you? "}, {"role": "assistant", "content": "Ada.", "tokens": 2, "seconds": 0.5, "by": "starter"}],
    });
    let (status, session) = studio.post("/api/sessions", content.clone()).await;
    assert_eq!((status, &session["title"]), (201, &json!("Who are you?")), "{session}");
    let path = format!("/api/sessions/{}", session["id"].as_str().unwrap());
    let mut renamed = content;
    renamed["title"] = "About Ada".into();
    let put = studio.client.put(studio.url(&path)).json(&renamed).send().await.unwrap();
    assert_eq!(put.status(), 200);
    studio.crash().await;

    let studio = start(&home);
    let list = studio.get("/api/sessions").await;
    assert_eq!(
        (list.as_array().unwrap().len(), &list[0]["title"], &list[0]["messages"]),
        (1, &json!("About Ada"), &json!(2))
    );
    let kept = studio.get(&path).await;
    assert_eq!((&kept["messages"][1]["tokens"], &kept["settings"]["examples"][0]["user"]), (&json!(2), &json!("a")));
    assert_eq!((studio.delete(&path).await, studio.delete(&path).await), (204, 404));
    assert_eq!(studio.get("/api/sessions").await, json!([]));
}

#[tokio::test]
async fn votes_in_the_chat_become_rows() {
    let home = Home::new();
    let studio = start(&home);
    let vote = |chosen: &str| json!({"prompt": "Who?", "chosen": chosen, "rejected": "No.", "chosen_by": "b", "rejected_by": "a"});
    let (status, dataset) = studio.post("/api/preferences/chat", vote("Ada.")).await;
    assert_eq!((status, &dataset["name"]), (200, &json!("chat-votes")), "{dataset}");
    let rows: Value =
        serde_json::from_slice(&std::fs::read(home.path().join("datasets/chat-votes.json")).unwrap()).unwrap();
    assert_eq!(
        (&rows[0]["instruction"], &rows[0]["chosen"], &rows[0]["rejected"]),
        (&json!("Who?"), &json!("Ada."), &json!("No."))
    );
    assert_eq!(studio.post("/api/preferences/chat", vote(" ")).await.0, 400);
}
