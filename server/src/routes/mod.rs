//! What each route does; one file for each part of the studio.

mod chat;
mod datasets;
mod events;
mod jobs;
mod metrics;
mod models;
mod preferences;
mod system;
pub mod upload;
pub mod uploads;

use crate::router::Route;
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
        chat::routes(),
    ];
    all.into_iter().flatten().collect()
}
