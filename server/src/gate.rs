//! What answers while the server loads: nothing but that it does. The port is open from the first moment on, so that
//! who waits for the studio can ask.

use crate::error::Failure;
use api::Problem;
use axum::{
    Router,
    extract::Request,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
};
use tower::Service;

/// Closed at first; a router opens it.
#[derive(Clone, Default)]
pub struct Gate(Arc<OnceLock<Router>>);

impl Gate {
    pub fn open(&self, router: Router) {
        let _ = self.0.set(router);
    }
}

impl Service<Request> for Gate {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        match self.0.get() {
            Some(router) => Box::pin(router.clone().call(request)),
            None => Box::pin(std::future::ready(Ok(loading().into_response()))),
        }
    }
}

/// The studio isn't ready yet.
pub fn loading() -> Failure {
    let problem = Problem::new("loading", "The studio is still loading.", "工作室仍在加载。");
    Failure::new(StatusCode::SERVICE_UNAVAILABLE, problem.hint("Ask again in a moment.", "请稍后再试。"))
}
