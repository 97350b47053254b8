//! What each route does; one file for each part of the studio.

mod answer;
mod chat;
mod datasets;
mod events;
mod jobs;
mod metrics;
mod models;
mod preferences;
mod sessions;
mod socket;
mod system;
pub mod upload;
pub mod uploads;

use crate::{openai, router::Route};
#[cfg(test)]
pub use system::read_config;

/// Every route but `/openapi.json`, which is made from these.
pub fn all() -> Vec<Route> {
    let all = [
        system::routes(),
        metrics::routes(),
        jobs::routes(),
        events::routes(),
        datasets::routes(),
        uploads::routes(),
        preferences::routes(),
        models::routes(),
        sessions::routes(),
        chat::routes(),
    ];
    all.into_iter().flatten().chain(serving()).collect()
}

/// What a served model answers, with the studio around it or without.
pub fn serving() -> Vec<Route> {
    let all = [system::health_routes(), openai::routes(), chat::score_routes(), answer::routes(), socket::routes()];
    all.into_iter().flatten().collect()
}
