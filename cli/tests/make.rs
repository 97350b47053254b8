//! `lathe data make` with a teacher behind a stand-in of an OpenAI-compatible server, from the command line to the dataset.
#![allow(clippy::unwrap_used)]

mod common;

use serde_json::{Value, json};
use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    process::Output,
    sync::{Arc, Mutex},
};
use tempfile::TempDir;

/// Answers requests one after the other with what `say` makes of the last message; after 503 for the first one.
fn teacher(say: impl Fn(&str) -> String + Send + 'static) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/v1", listener.local_addr().unwrap());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let Some((head, body)) = request(&stream) else { continue };
            let is_first = log.lock().unwrap().is_empty();
            log.lock().unwrap().push(head);
            let (status, body) = if is_first {
                ("503 Busy", String::new())
            } else {
                let text = say(body["messages"][0]["content"].as_str().unwrap());
                let logprob = if text == "unclear" { -3.0 } else { -0.01 };
                let answer = json!({ "choices": [{ "message": { "content": text }, "finish_reason": "stop",
                    "logprobs": { "content": [{ "logprob": logprob }] } }] });
                ("200 OK", answer.to_string())
            };
            let _ = write!(
                stream,
                "HTTP/1.1 {status}\r\ncontent-length: {}\r\nretry-after: 0\r\nconnection: close\r\n\r\n{body}",
                body.len()
            );
        }
    });
    (address, seen)
}

fn request(stream: &TcpStream) -> Option<(String, Value)> {
    let mut reader = BufReader::new(stream);
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
        if line == "\r\n" {
            break;
        }
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        head.push_str(&line);
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((head, serde_json::from_slice(&body).ok()?))
}

fn lathe(home: &Path, words: &[&str]) -> Output {
    common::lathe(home, words).env("LATHE_TEACHER_API_KEY", "sk-verysecret").output().unwrap()
}

fn rows(home: &Path, name: &str) -> Vec<Value> {
    let text = fs::read_to_string(home.join("lathe/datasets").join(name)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn new_rows_come_from_seeds() {
    let home = TempDir::new().unwrap();
    let seeds = home.path().join("seeds.jsonl");
    fs::write(&seeds, "{\"instruction\": \"Write a poem about rain\"}\n{\"instruction\": \"Add two numbers\"}\n")
        .unwrap();
    let made = Mutex::new(0);
    let (address, seen) = teacher(move |asked| {
        if !asked.contains("Task 1:") {
            return format!("Answer to {asked}");
        }
        let mut made = made.lock().unwrap();
        *made += 1;
        let tasks =
            ["Write a poem about rain", "List four rivers of Asia", "Explain what a prime is", "Spell the word ocean"];
        tasks[(*made - 1) % tasks.len()].to_owned()
    });
    let (dataset, base_url) = (format!("dataset={}", seeds.display()), format!("base_url={address}"));
    let words = ["data", "make", "--json", &dataset, &base_url, "teacher=big", "num_rows=3", "output_dataset=new"];
    let output = lathe(home.path(), &words);
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{out}{err}");
    let last: Value = serde_json::from_str(out.lines().last().unwrap()).unwrap();
    assert_eq!((&last["outcome"], &last["summary"]["rows"]), (&json!("succeeded"), &json!(3.0)));
    assert_eq!(last["summary"]["dropped_duplicate"], 1.0);
    let rows = rows(home.path(), "new.jsonl");
    assert_eq!(rows[0]["output"], "Answer to List four rivers of Asia");
    assert!(rows[0]["provenance"]["teacher"].as_str().unwrap().starts_with("big at 127.0.0.1"));
    // The key was shown to the teacher and is written nowhere.
    assert!(seen.lock().unwrap().iter().all(|head| head.to_lowercase().contains("bearer sk-verysecret")));
    let job = home.path().join("lathe/runs/made-seeds");
    for entry in fs::read_dir(&job).unwrap().flatten() {
        assert!(!fs::read_to_string(entry.path()).unwrap().contains("sk-verysecret"), "{:?}", entry.path());
    }
    assert!(!(out + &err).contains("sk-verysecret"));
    // It is a dataset like any other.
    let shown = lathe(home.path(), &["data", "show", "new", "--json"]);
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!((&shown["dataset"]["rows"], &shown["rows"][0]["messages"][0]["role"]), (&json!(3), &json!("user")));
}

#[test]
fn rows_without_answers_get_those_that_are_sure() {
    let home = TempDir::new().unwrap();
    let texts = home.path().join("texts.txt");
    fs::write(&texts, "a fine day\nhm\n").unwrap();
    let (address, _) = teacher(|asked| if asked.contains("fine") { "good" } else { "unclear" }.to_owned());
    let (dataset, base_url) = (format!("dataset={}", texts.display()), format!("base_url={address}"));
    let words = [
        "data",
        "make",
        "task=pseudo_label",
        &dataset,
        &base_url,
        "teacher=big",
        "question=Mood?",
        "output_dataset=mood",
    ];
    let output = lathe(home.path(), &words);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(rows(home.path(), "mood.jsonl")[0]["instruction"], "Mood?\na fine day");
    assert_eq!(rows(home.path(), "mood_unsure.jsonl")[0]["output"], "unclear");
    // A wrong request is refused before anything is written.
    let output = lathe(home.path(), &["data", "make", "dataset=nothing", "--json"]);
    assert_eq!(output.status.code(), Some(2));
    let problems: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(problems["problems"].as_array().unwrap().len(), 2, "{problems}");
}
