//! One table of routes: the router and `/openapi.json` are both made from it.

use crate::{error::Failure, openai, openapi, routes, state::State, ui};
use api::Problem;
use axum::{
    Router,
    body::{Body, to_bytes},
    extract::Request,
    http::{HeaderValue, Method, StatusCode, header},
    middleware::{Next, from_fn},
    response::{IntoResponse, Response},
    routing::MethodRouter,
};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use std::{any::Any, borrow::Cow, collections::BTreeMap, time::Duration};
use tower_http::{
    catch_panic::CatchPanicLayer,
    compression::{
        CompressionLayer, Predicate,
        predicate::{DefaultPredicate, NotForContentType},
    },
};

/// The media type of what is downloaded: never shown in the page, whatever it is.
pub const FILE: &str = "application/octet-stream";

/// One operation: where, what it takes, what it gives, and who does it.
pub struct Route {
    pub method: Method,
    pub path: &'static str,
    pub summary: &'static str,
    pub queries: Vec<Query>,
    pub body: Option<Content>,
    pub status: StatusCode,
    pub reply: Option<Content>,
    /// Whether its answer has to begin in time.
    hurried: bool,
    pub handler: MethodRouter<State>,
}

/// A parameter behind the `?`: its name, its JSON type, and what it says.
pub struct Query {
    pub name: &'static str,
    pub kind: &'static str,
    pub what: &'static str,
}

/// A media type and the schema of what it carries.
pub struct Content {
    pub media: &'static str,
    pub schema: fn(&mut SchemaGenerator) -> Schema,
}

impl Content {
    pub fn json<T: JsonSchema>() -> Self {
        Self { media: "application/json", schema: |generator| generator.subschema_for::<T>() }
    }

    pub fn of<T: JsonSchema>(media: &'static str) -> Self {
        Self { media, schema: |generator| generator.subschema_for::<T>() }
    }
}

impl Route {
    /// An operation that answers 200 with nothing described yet.
    pub fn new(method: Method, path: &'static str, summary: &'static str, handler: MethodRouter<State>) -> Self {
        let (queries, status) = (Vec::new(), StatusCode::OK);
        Self { method, path, summary, queries, body: None, status, reply: None, hurried: true, handler }
    }

    /// A number from 0 on behind the `?`.
    pub fn query(self, name: &'static str, what: &'static str) -> Self {
        self.query_of(name, "integer", what)
    }

    /// A parameter of another JSON type.
    pub fn query_of(mut self, name: &'static str, kind: &'static str, what: &'static str) -> Self {
        self.queries.push(Query { name, kind, what });
        self
    }

    /// May take as long as it needs to begin its answer.
    pub fn unhurried(mut self) -> Self {
        self.hurried = false;
        self
    }

    pub fn takes(mut self, body: Content) -> Self {
        self.body = Some(body);
        self
    }

    pub fn gives(mut self, status: StatusCode, reply: Content) -> Self {
        (self.status, self.reply) = (status, Some(reply));
        self
    }

    /// Answers 201 with the place of what it made.
    pub fn creates(mut self) -> Self {
        self.status = StatusCode::CREATED;
        self
    }

    pub fn gives_nothing(mut self) -> Self {
        self.status = StatusCode::NO_CONTENT;
        self
    }
}

/// Everything that the server answers, without the guard that stands before it.
pub fn router(state: State) -> Router {
    let routes = if state.served.is_some() { routes::serving } else { routes::all };
    let openapi = openapi::document(&routes());
    let mut paths: BTreeMap<&'static str, MethodRouter<State>> = BTreeMap::new();
    for route in routes() {
        let before = paths.remove(route.path).unwrap_or_default();
        let handler = if route.hurried { route.handler.route_layer(from_fn(in_time)) } else { route.handler };
        paths.insert(route.path, before.merge(handler));
    }
    let mut router = Router::new();
    for (path, methods) in paths {
        router = router.route(path, methods);
    }
    let router = if state.served.is_some() { router.fallback(nothing_else) } else { router.fallback(unknown) };
    router
        .route(api::routes::OPENAPI, axum::routing::get(move || openapi::answer(openapi.clone())))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(from_fn(problems_only))
        // Files that are downloaded leave as fast as the disk gives them.
        .layer(CompressionLayer::new().compress_when(DefaultPredicate::new().and(NotForContentType::const_new(FILE))))
        .with_state(state)
}

/// Pages of the UI for everything that isn't the API's.
async fn unknown(request: Request) -> Response {
    let path = request.uri().path();
    let is_data = openai::is_of(path) || path == "/api" || path.starts_with("/api/");
    match *request.method() {
        _ if is_data => no_route(path),
        Method::GET | Method::HEAD => ui::page(path, request.headers()),
        _ => StatusCode::METHOD_NOT_ALLOWED.into_response(),
    }
}

/// Where one model is served, there are no pages.
async fn nothing_else(request: Request) -> Response {
    no_route(request.uri().path())
}

fn no_route(path: &str) -> Response {
    let Failure { status, mut problems } = Failure::missing(["route", "接口"], path);
    for problem in &mut problems {
        *problem =
            std::mem::take(problem).hint("See /openapi.json for what can be asked.", "可用的请求见 /openapi.json。");
    }
    Failure { status, problems }.into_response()
}

/// A hurried handler has so long to begin its answer. Questions to the engine have their own, shorter limit.
async fn in_time(request: Request, next: Next) -> Response {
    const LIMIT: Duration = Duration::from_secs(150);
    match tokio::time::timeout(LIMIT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => StatusCode::GATEWAY_TIMEOUT.into_response(),
    }
}

/// Whatever fails, also inside axum, says so as problem details.
async fn problems_only(request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    let status = response.status();
    let media = response.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let is_ours = media.starts_with("application/problem+json") || media.starts_with("text/html");
    if !(status.is_client_error() || status.is_server_error()) || is_ours {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let text = to_bytes(body, 4096).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let failure = Failure::new(status, explain(status, text.trim())).into_response();
    let (new, body) = failure.into_parts();
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.extensions.extend(new.extensions);
    if let Some(kind) = new.headers.get(header::CONTENT_TYPE) {
        parts.headers.insert(header::CONTENT_TYPE, kind.clone());
    }
    Response::from_parts(parts, body)
}

fn explain(status: StatusCode, text: &str) -> Problem {
    let problem = match status {
        StatusCode::METHOD_NOT_ALLOWED => {
            Problem::new("method_not_allowed", "This address doesn't take that method.", "该地址不支持此请求方法。")
        }
        StatusCode::GATEWAY_TIMEOUT => {
            Problem::new("too_slow", "The answer took too long.", "响应超时。").hint("Try again.", "请重试。")
        }
        StatusCode::PAYLOAD_TOO_LARGE => Problem::new("too_large", "The request is too large.", "请求过大。"),
        _ => {
            let text: Cow<str> = if text.is_empty() {
                status.canonical_reason().unwrap_or("The request failed").into()
            } else {
                text.into()
            };
            let text = text.trim_end_matches('.');
            Problem::new("bad_request", format!("{text}."), format!("请求有误：{text}。"))
        }
    };
    if problem.hint.is_empty() {
        problem.hint("See /openapi.json for what can be asked.", "可用的请求见 /openapi.json。")
    } else {
        problem
    }
}

fn panicked(cause: Box<dyn Any + Send + 'static>) -> Response<Body> {
    let text = cause
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| cause.downcast_ref::<&str>().copied())
        .unwrap_or("without a message");
    let mut response = Failure::internal(format!("a handler panicked: {text}")).into_response();
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use axum::routing::get;

    #[tokio::test]
    async fn r28_faults_a_panic_is_a_problem_with_a_number_and_others_go_on() {
        let router = Router::new()
            .route(
                "/panic",
                get(|| async {
                    if true {
                        panic!("secret path")
                    }
                }),
            )
            .route("/slow", get(|| tokio::time::sleep(Duration::from_millis(50))))
            .layer(CatchPanicLayer::custom(panicked))
            .layer(from_fn(problems_only));
        let counters = std::sync::Arc::new(crate::observe::Counters::default());
        let ask = |path: &str| {
            let request = Request::builder().uri(path).body(Body::empty()).unwrap();
            counters.observe(router.clone(), request)
        };
        // One that is on its way while another one breaks.
        let slow = tokio::spawn(ask("/slow"));
        let mut seen = std::collections::HashSet::new();
        for _ in 0..2 {
            let response = ask("/panic").await.unwrap();
            assert!(seen.insert(response.headers()[crate::observe::REQUEST_ID].clone()), "a number of its own");
            assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
            let body = to_bytes(response.into_body(), 10_000).await.unwrap();
            let body: api::problem::ProblemBody = serde_json::from_slice(&body).unwrap();
            assert_eq!(body.problems[0].code, "internal");
            assert!(!body.detail.contains("secret"));
        }
        assert_eq!(slow.await.unwrap().unwrap().status(), StatusCode::OK);
        assert_eq!(counters.answers()[&500].0, 2);
    }
}
