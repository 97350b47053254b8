//! A teacher behind a stand-in of an OpenAI-compatible server, which is busy, away, or something else altogether.
#![allow(clippy::unwrap_used)]

use api::{Problem, data::Message, params::GenerateParams};
use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::post,
};
use serde_json::{Value, json};
use server::teacher::{Said, Teacher, TeacherSettings};
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

#[derive(Clone, Default)]
struct Mock {
    /// What is answered, in order; then always the last one.
    script: Arc<Mutex<Vec<(u16, Value)>>>,
    seen: Arc<Mutex<Vec<(HeaderMap, Value)>>>,
}

async fn answer(State(mock): State<Mock>, headers: HeaderMap, Json(body): Json<Value>) -> Response {
    mock.seen.lock().unwrap().push((headers, body));
    let mut script = mock.script.lock().unwrap();
    let (status, body) = if script.len() > 1 { script.remove(0) } else { script[0].clone() };
    let elsewhere = [("location", "/elsewhere"), ("retry-after", "0")];
    (StatusCode::from_u16(status).unwrap(), elsewhere, Json(body)).into_response()
}

async fn start(script: Vec<(u16, Value)>) -> (Mock, String) {
    let mock = Mock { script: Arc::new(Mutex::new(script)), ..Mock::default() };
    let app = Router::new().route("/v1/chat/completions", post(answer)).route("/elsewhere", post(answer));
    let app = app.with_state(mock.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}/v1/", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    (mock, address)
}

fn says(text: &str) -> Value {
    json!({ "choices": [{ "message": { "role": "assistant", "content": text }, "finish_reason": "stop" }] })
}

fn settings(url: Option<&str>) -> TeacherSettings {
    TeacherSettings { key: Some("sk-secret".into()), url: url.map(String::from) }
}

async fn ask(address: &str, settings: &TeacherSettings, surely: bool) -> Result<Said, Problem> {
    let mut teacher = Teacher::new(address, "big", settings)?;
    teacher.first_wait = Duration::from_millis(5);
    let params = GenerateParams { max_new_tokens: 7, seed: Some(u64::MAX), ..GenerateParams::default() };
    teacher.answer(&[Message::new("user", "why?")], &params, surely).await
}

#[tokio::test]
async fn an_answer_has_its_confidence_and_a_busy_server_is_asked_again() {
    let busy = || json!({ "error": { "message": "too many requests" } });
    let sure = json!({ "choices": [{ "message": { "content": "because" }, "finish_reason": "length",
        "logprobs": { "content": [{ "token": "be", "logprob": 0.5f64.ln() }, { "token": "cause", "logprob": 0.125f64.ln() }] } }] });
    let (mock, address) = start(vec![(429, busy()), (500, json!(null)), (200, sure)]).await;
    let said = ask(&address, &settings(None), true).await.unwrap();
    assert_eq!((said.text.as_str(), said.whole), ("because", false));
    assert!((said.confidence.unwrap() - 0.25).abs() < 1e-12);
    let seen = mock.seen.lock().unwrap();
    let (headers, body) = &seen[2];
    assert_eq!((seen.len(), &headers["authorization"]), (3, &"Bearer sk-secret".parse().unwrap()));
    assert_eq!((&body["model"], &body["max_tokens"], &body["logprobs"]), (&json!("big"), &json!(7), &json!(true)));
    assert_eq!((&body["seed"], &body["messages"][0]["content"]), (&json!(0x7FFF_FFFF), &json!("why?")));
}

#[tokio::test]
async fn a_reward_server_scores_texts_at_the_address_as_given() {
    let short = (200, json!({"scores": [0.5]}));
    let (mock, address) = start(vec![(503, json!({})), short, (200, json!({"scores": [0.5, -2]}))]).await;
    let address = address.replace("/v1/", "/elsewhere");
    let mut scorer = Teacher::new(&address, "policy", &settings(None)).unwrap();
    scorer.first_wait = Duration::from_millis(5);
    let texts = ["Hi! Hello.".to_owned(), "Hi! No.".to_owned()];
    assert_eq!(scorer.scores(&texts).await.unwrap(), [0.5, -2.0]);
    assert_eq!(mock.seen.lock().unwrap()[2].1, json!({"model": "policy", "messages": texts}));
    let (_, other) = start(vec![(200, says("hello"))]).await;
    let mut scorer = Teacher::new(&other.replace("/v1/", "/elsewhere"), "policy", &settings(None)).unwrap();
    scorer.first_wait = Duration::from_millis(5);
    let problem = scorer.scores(&texts).await.unwrap_err();
    assert_eq!((problem.code.as_str(), problem.hint.contains("scores")), ("reward_answer", true));
}

#[tokio::test]
async fn the_key_goes_to_its_server_alone() {
    let (mock, address) = start(vec![(200, says("x"))]).await;
    ask(&address, &settings(Some("https://api.example/v1")), false).await.unwrap();
    ask(&address, &settings(Some(&address)), false).await.unwrap();
    let seen = mock.seen.lock().unwrap();
    assert_eq!([0, 1].map(|i| seen[i].0.contains_key("authorization")), [false, true]);
    assert!(seen[0].1.get("logprobs").is_none());
}

#[tokio::test]
async fn what_stays_wrong_ends_with_a_sentence() {
    let message = json!({ "error": { "message": "no\ncredit" } });
    for (status, body, code, asked) in [
        (429, message.clone(), "teacher_busy", 8),
        (401, message.clone(), "teacher_key", 1),
        (400, message.clone(), "teacher_answer", 1),
        (307, json!(null), "teacher_answer", 1),
        (200, json!({ "choices": [] }), "teacher_answer", 3),
        (200, json!("<html>"), "teacher_answer", 3),
    ] {
        let (mock, address) = start(vec![(status, body)]).await;
        let problem = ask(&address, &settings(None), false).await.unwrap_err();
        assert_eq!((problem.code.as_str(), mock.seen.lock().unwrap().len()), (code, asked), "{problem}");
        assert!(problem.zh.is_some() && !problem.hint.is_empty() && !problem.message.contains("sk-secret"));
    }
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let problem = ask(&format!("http://{closed}"), &settings(None), false).await.unwrap_err();
    assert_eq!(problem.code, "teacher_unreachable");
    assert_eq!(ask("file:///etc", &settings(None), false).await.unwrap_err().code, "bad_base_url");
}
