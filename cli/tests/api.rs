//! `lathe api` with the starter: OpenAI's API, /answer and /health of a real model, as a program asks them.
#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Child, Command, Stdio},
};
use tempfile::TempDir;

const KEY: &str = "sk-a-key-of-a-program";

struct Served {
    child: Child,
    /// `127.0.0.1:PORT`
    address: String,
    _home: TempDir,
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Served {
    fn start(words: &[&str]) -> Self {
        let home = TempDir::new().unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_lathe"))
            .args(["--json", "api", "model_name_or_path=starter", "temperature=0"])
            .args(words)
            .env_clear()
            .envs([("API_KEY", KEY), ("API_PORT", "0"), ("API_MODEL_NAME", "small")])
            .env("HOME", home.path())
            .env("LATHE_HOME", home.path().join("lathe"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready: Value = serde_json::from_str(&line).unwrap();
        let address = ready["url"].as_str().unwrap().trim_start_matches("http://").trim_end_matches("/v1").to_owned();
        Self { child, address, _home: home }
    }

    /// Status and body.
    fn ask(&self, method: &str, path: &str, key: &str, body: Option<&Value>) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let body = body.map(Value::to_string).unwrap_or_default();
        write!(
            stream,
            "{method} {path} HTTP/1.0\r\nHost: {}\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.address,
            body.len()
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    fn get(&self, path: &str) -> Value {
        let (status, body) = self.ask("GET", path, KEY, None);
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap()
    }

    fn chat(&self, more: Value) -> Value {
        let (status, body) = self.ask("POST", "/v1/chat/completions", KEY, Some(&with_message(more)));
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    fn stream(&self, more: Value) -> Vec<Value> {
        let mut body = with_message(more);
        body["stream"] = true.into();
        let (status, text) = self.ask("POST", "/v1/chat/completions", KEY, Some(&body));
        assert_eq!(status, 200, "{text}");
        let mut lines: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
        assert_eq!(lines.pop(), Some("[DONE]"));
        lines.into_iter().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn with_message(more: Value) -> Value {
    let mut body =
        json!({"model": "small", "messages": [{"role": "user", "content": "Who are you?"}], "max_tokens": 12});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

#[test]
fn a_real_model_answers_programs() {
    let served = Served::start(&[]);
    assert_eq!(served.get("/health"), json!({"status": "healthy", "model": "starter"}));
    assert_eq!(served.get("/v1/models")["data"][0]["id"], "small");
    assert_eq!(served.ask("GET", "/v1/models", "wrong", None).0, 401);
    assert_eq!(served.ask("GET", "/", KEY, None).0, 404, "there is no studio");

    let whole = served.chat(json!({}));
    let text = whole["choices"][0]["message"]["content"].as_str().unwrap();
    assert!(!text.is_empty());
    assert_eq!(served.chat(json!({}))["choices"][0]["message"]["content"], text, "temperature=0 is the default here");
    let chunks = served.stream(json!({"stream_options": {"include_usage": true}, "logprobs": true, "top_logprobs": 2}));
    let said: String = chunks.iter().filter_map(|c| c["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(said, text);
    assert_eq!(chunks.last().unwrap()["usage"]["completion_tokens"], whole["usage"]["completion_tokens"]);
    assert!(
        chunks.iter().any(|c| c["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
            .as_array()
            .is_some_and(|t| t.len() == 2))
    );
    let seeded = |seed: u64| served.chat(json!({"temperature": 5, "top_p": 1, "top_k": 0, "seed": seed, "n": 2}));
    let texts = |answer: &Value| [0, 1].map(|i| answer["choices"][i]["message"]["content"].clone());
    assert_eq!(texts(&seeded(1)), texts(&seeded(1)));
    assert_ne!(texts(&seeded(1)), texts(&seeded(2)));

    // The starter never learned of tools; what it has to write is a call all the same.
    let look = json!({"type": "function", "function": {"name": "look", "parameters": {"type": "object",
        "properties": {"at": {"type": "string", "enum": ["here", "there"]}}, "required": ["at"], "additionalProperties": false}}});
    let forced = json!({"tools": [look], "tool_choice": "required", "max_tokens": 100});
    let called = served.chat(forced.clone());
    assert_eq!(called["choices"][0]["finish_reason"], "tool_calls", "{called}");
    let call = &called["choices"][0]["message"]["tool_calls"][0]["function"];
    let arguments: Value = serde_json::from_str(call["arguments"].as_str().unwrap()).unwrap();
    assert!(call["name"] == "look" && (arguments["at"] == "here" || arguments["at"] == "there"), "{call}");
    let deltas = served.stream(forced);
    let deltas: Vec<&Value> = deltas.iter().filter_map(|c| c["choices"][0]["delta"]["tool_calls"].get(0)).collect();
    let streamed: String = deltas.iter().filter_map(|d| d["function"]["arguments"].as_str()).collect();
    assert_eq!(streamed, call["arguments"].as_str().unwrap());
    assert!(deltas.len() > 2, "in pieces");

    let answer = served.get("/answer?prompt=Hello%20there&max_length=24&min_length=12");
    assert!(answer["generated_text"].as_str().unwrap().starts_with("Hello there"), "{answer}");
    let embedded = json!({"model": "small", "input": ["one", "two"]});
    let (status, embedded) = served.ask("POST", "/v1/embeddings", KEY, Some(&embedded));
    let embedded: Value = serde_json::from_str(&embedded).unwrap();
    assert_eq!((status, embedded["data"].as_array().unwrap().len()), (200, 2));
}
