//! Requests to the server. Whatever goes wrong becomes [`Problem`]s in both languages.

use crate::i18n::{CHINESE, ENGLISH, Words, fill};
use api::{Problem, problem::ProblemBody};
use gloo_net::http::{Request, RequestBuilder, Response};
use serde::{Serialize, de::DeserializeOwned};
use wasm_bindgen::JsCast;

pub type Result<T> = std::result::Result<T, Vec<Problem>>;

pub async fn get<T: DeserializeOwned>(path: &str) -> Result<T> {
    json(send(Request::get(path)).await?).await
}

pub async fn get_text(path: &str) -> Result<String> {
    send(Request::get(path)).await?.text().await.map_err(|_| vec![no_answer()])
}

/// An answer of any size; the browser may keep it on the disk.
pub async fn get_blob(path: &str) -> Result<web_sys::Blob> {
    let response: web_sys::Response = send(Request::get(path)).await?.into();
    let blob = response.blob().map_err(|_| vec![no_answer()])?;
    let blob = wasm_bindgen_futures::JsFuture::from(blob).await.map_err(|_| vec![no_answer()])?;
    Ok(blob.unchecked_into())
}

pub async fn post<B: Serialize, T: DeserializeOwned>(path: &str, body: &B) -> Result<T> {
    json(send_body(path, body).await?).await
}

pub async fn put<B: Serialize, T: DeserializeOwned>(path: &str, body: &B) -> Result<T> {
    let request = Request::put(path).json(body).map_err(|_| vec![no_answer()])?;
    json(checked(request.send().await.map_err(|_| vec![no_answer()])?).await?).await
}

/// As [`post`], when the answer's body is of no interest.
pub async fn order<B: Serialize>(path: &str, body: &B) -> Result<()> {
    send_body(path, body).await.map(|_| ())
}

pub async fn post_text<T: DeserializeOwned>(path: &str, text: String) -> Result<T> {
    let request = Request::post(path).header("content-type", "text/plain; charset=utf-8").body(text);
    let request = request.map_err(|_| vec![no_answer()])?;
    json(checked(request.send().await.map_err(|_| vec![no_answer()])?).await?).await
}

pub async fn delete(path: &str) -> Result<()> {
    send(Request::delete(path)).await.map(|_| ())
}

/// The problems in the body of a failed answer.
pub fn problems(status: u16, body: &str) -> Vec<Problem> {
    match serde_json::from_str::<ProblemBody>(body) {
        Ok(body) if !body.problems.is_empty() => body.problems,
        Ok(body) => {
            vec![Problem { code: "server".into(), message: body.title, hint: body.detail, ..Problem::default() }]
        }
        Err(_) => vec![bad_answer(&status.to_string())],
    }
}

pub fn no_answer() -> Problem {
    both("no_answer", |w| w.no_answer, |w| w.no_answer_hint, &[])
}

pub fn bad_answer(status: &str) -> Problem {
    both("bad_answer", |w| w.bad_answer, |w| w.bad_answer_hint, &[("status", status)])
}

pub fn stream_ended() -> Problem {
    both("stream_ended", |w| w.stream_ended, |w| w.stream_ended_hint, &[])
}

fn both(
    code: &str,
    message: impl Fn(&'static Words) -> &'static str,
    hint: impl Fn(&'static Words) -> &'static str,
    slots: &[(&str, &str)],
) -> Problem {
    Problem::new(code, fill(message(&ENGLISH), slots), fill(message(&CHINESE), slots))
        .hint(hint(&ENGLISH), hint(&CHINESE))
}

/// Ends the session; the page that asks for the token follows.
pub async fn sign_out() {
    // Its answer leads to the studio, which is closed now: nothing of it is of interest.
    let _ = Request::post(api::routes::LOGOUT).send().await;
    let _ = leptos::prelude::window().location().reload();
}

async fn send(request: RequestBuilder) -> Result<Response> {
    checked(request.send().await.map_err(|_| vec![no_answer()])?).await
}

async fn send_body<B: Serialize>(path: &str, body: &B) -> Result<Response> {
    let request = Request::post(path).json(body).map_err(|_| vec![no_answer()])?;
    checked(request.send().await.map_err(|_| vec![no_answer()])?).await
}

async fn checked(response: Response) -> Result<Response> {
    if response.ok() {
        return Ok(response);
    }
    let status = response.status();
    if status == 401 {
        // The session has ended: the page that asks for the token comes in the place of this one.
        let _ = leptos::prelude::window().location().reload();
    }
    Err(problems(status, &response.text().await.unwrap_or_default()))
}

async fn json<T: DeserializeOwned>(response: Response) -> Result<T> {
    let status = response.status();
    response.json().await.map_err(|_| vec![bad_answer(&status.to_string())])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failed_answer_is_a_problem() {
        let body =
            r#"{"type":"about:blank","title":"t","status":422,"detail":"d","problems":[{"code":"x","message":"m"}]}"#;
        assert_eq!(problems(422, body)[0].message, "m");
        let body = r#"{"type":"about:blank","title":"t","status":500,"detail":"d","problems":[]}"#;
        assert_eq!((problems(500, body)[0].message.as_str(), problems(500, body)[0].hint.as_str()), ("t", "d"));
        let problem = &problems(502, "<html>")[0];
        assert!(problem.message.contains("502") && problem.message_in("zh").contains("502"));
    }
}
