//! The one stream of a page: what it missed, then what comes. Each page reads at its own pace from the feed; one that
//! never reads holds up nobody.

use crate::{
    error::Reply,
    router::{Content, Route},
    state::State as App,
    store::Row,
};
use api::{job::Feed, routes::EVENTS};
use axum::{
    extract::{Query, State},
    http::{HeaderMap, Method, StatusCode},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
    routing::get,
};
use futures::{Stream, StreamExt};
use serde::Deserialize;
use std::{collections::VecDeque, convert::Infallible, time::Duration};

/// A sign of life at least this often; also finds out that a page is gone.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

pub fn routes() -> Vec<Route> {
    vec![
        Route::new(
            Method::GET,
            EVENTS,
            "What happens, as server-sent events; goes on after Last-Event-ID",
            get(events),
        )
        .query("after", "As Last-Event-ID, for a first connection")
        .gives(StatusCode::OK, Content::of::<Feed>("text/event-stream")),
    ]
}

#[derive(Deserialize)]
struct EventsQuery {
    after: Option<i64>,
}

async fn events(State(app): State<App>, Query(query): Query<EventsQuery>, headers: HeaderMap) -> Reply<Response> {
    let newest = app.store.feeds().newest();
    let last = headers.get("last-event-id").and_then(|v| v.to_str().ok()?.trim().parse().ok());
    let mut first = VecDeque::new();
    let after = match last.or(query.after) {
        // A page that has just loaded: from here on. The event tells it from where.
        None => {
            first.push_back(Event::default().event("hello").id(newest.to_string()).data("{}"));
            newest
        }
        Some(seq) if seq >= 0 && seq <= newest && seq + 1 >= app.store.feed_oldest().await? => seq,
        // What it missed is no longer kept, or the database was made again.
        Some(_) => {
            let all = Feed::Changed { what: "all".into() };
            let body = serde_json::to_string(&all).unwrap_or_default();
            first.push_back(Event::default().event("feed").id(newest.to_string()).data(body));
            newest
        }
    };
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE);
    Ok(Sse::new(follow(app, first, after)).keep_alive(keep_alive).into_response())
}

/// `first`, then every row after `seq`.
fn follow(app: App, first: VecDeque<Event>, seq: i64) -> impl Stream<Item = Result<Event, Infallible>> {
    let news = app.store.feeds().watch();
    let rows = VecDeque::<Row>::new();
    let (subscription, ending) = (app.counters.subscribe(), app.ending.clone());
    let rows = futures::stream::unfold(
        (app, news, first, rows, seq),
        |(app, mut news, mut first, mut rows, mut seq)| async move {
            loop {
                if let Some(event) = first.pop_front() {
                    return Some((Ok(event), (app, news, first, rows, seq)));
                }
                if let Some((number, body)) = rows.pop_front() {
                    seq = number;
                    let event = Event::default().event("feed").id(number.to_string()).data(&*body);
                    return Some((Ok(event), (app, news, first, rows, seq)));
                }
                news.mark_unchanged();
                match app.store.feed_after(seq).await {
                    Ok(more) if !more.is_empty() => rows.extend(more),
                    Ok(_) => {
                        // Looks again after a while even if nobody says so.
                        if let Ok(Err(_)) = tokio::time::timeout(KEEP_ALIVE, news.changed()).await {
                            return None;
                        }
                    }
                    Err(error) => {
                        tracing::error!("events: {error}");
                        return None;
                    }
                }
            }
        },
    );
    // The subscription lives as long as the stream.
    rows.map(move |row| {
        let _ = &subscription;
        row
    })
    .take_until(ending.cancelled_owned())
}
