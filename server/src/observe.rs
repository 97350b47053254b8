//! What is known of the server itself: every request gets a number, is counted and logged; `/metrics` tells the counts.

use axum::{extract::Request, http::HeaderValue, response::Response};
use std::{
    collections::BTreeMap,
    convert::Infallible,
    future::Future,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tower::Service;
use tracing::Instrument;

/// The header of every answer that names its request; the log has the same number.
pub const REQUEST_ID: &str = "x-request-id";

/// Counted since the server started.
#[derive(Debug, Default)]
pub struct Counters {
    /// Answers by status, and the time until they began.
    answers: Mutex<BTreeMap<u16, (u64, Duration)>>,
    requests: AtomicU64,
    /// Training steps that were read.
    pub steps: AtomicU64,
    /// Pages that listen now.
    subscribers: AtomicI64,
}

impl Counters {
    /// Answers by status, with the seconds that they took to begin.
    pub fn answers(&self) -> BTreeMap<u16, (u64, f64)> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.iter().map(|(status, (count, time))| (*status, (*count, time.as_secs_f64()))).collect()
    }

    pub fn subscribers(&self) -> i64 {
        self.subscribers.load(Ordering::Relaxed)
    }

    /// Counts a page as listening for as long as what this gives lives.
    pub fn subscribe(self: &Arc<Self>) -> Subscription {
        self.subscribers.fetch_add(1, Ordering::Relaxed);
        Subscription(self.clone())
    }

    /// Passes a request on, and counts the answer.
    pub fn observe<S>(
        self: &Arc<Self>,
        mut inner: S,
        request: Request,
    ) -> impl Future<Output = Result<Response, Infallible>> + use<S>
    where
        S: Service<Request, Response = Response, Error = Infallible>,
    {
        let (since, counters) = (Instant::now(), self.clone());
        let id = format!("{}-{}", std::process::id(), self.requests.fetch_add(1, Ordering::Relaxed) + 1);
        // The path alone: behind the `?` may stand a token.
        let path = request.uri().path().chars().take(200).collect::<String>();
        let span = tracing::info_span!("request", id, method = %request.method(), path);
        let answer = span.in_scope(|| inner.call(request));
        let seen = async move {
            let mut response = answer.await?;
            let (status, time) = (response.status().as_u16(), since.elapsed());
            counters.answered(status, time);
            tracing::debug!(status, ms = time.as_millis(), "answered");
            if let Ok(id) = HeaderValue::from_str(&id) {
                response.headers_mut().insert(REQUEST_ID, id);
            }
            Ok(response)
        };
        seen.instrument(span)
    }

    fn answered(&self, status: u16, time: Duration) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let (count, total) = answers.entry(status).or_default();
        *count += 1;
        *total += time;
    }
}

pub struct Subscription(Arc<Counters>);

impl Drop for Subscription {
    fn drop(&mut self) {
        self.0.subscribers.fetch_sub(1, Ordering::Relaxed);
    }
}
