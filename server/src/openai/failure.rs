//! Failures as OpenAI's clients read them: `{"error": {"message", "type", "param", "code"}}`. Of problem details they
//! would show the status alone.

use crate::error::Failure;
use api::Problem;
use axum::{
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

/// The same answer in that form, if it tells of a failure.
pub fn failure_of(response: Response) -> Response {
    let Some(failure) = response.extensions().get::<Failure>().cloned() else { return response };
    let problem = failure.problems.first().cloned().unwrap_or_default();
    let mut answer = (failure.status, axum::Json(body(failure.status, &problem))).into_response();
    for name in [header::WWW_AUTHENTICATE, header::RETRY_AFTER, header::CONNECTION, header::ALLOW] {
        if let Some(value) = response.headers().get(&name) {
            answer.headers_mut().insert(name, value.clone());
        }
    }
    answer
}

/// The body of a failed answer, and the `data:` of a stream that fails on its way.
pub fn body(status: StatusCode, problem: &Problem) -> Value {
    let kind = match status.as_u16() {
        401 => "authentication_error",
        403 | 421 => "permission_error",
        429 => "rate_limit_error",
        500.. => "server_error",
        _ => "invalid_request_error",
    };
    let code = if problem.code == "no_token" { "invalid_api_key" } else { &problem.code };
    json!({ "error": { "message": problem.to_string(), "type": kind, "param": problem.field, "code": code } })
}
