//! OpenAI's API under `/v1`: what its clients send and expect, on the models that are loaded for chat.
//!
//! | file | what |
//! |---|---|
//! | `request` | bodies of requests, and the parameters of a generation that they ask for |
//! | `messages` | messages with parts and calls, as the chat templates take them |
//! | `tools` | which tools the template gets, and the form of an answer that has to call one |
//! | `chat`, `completions`, `embeddings`, `models` | one route each |
//! | `answers` | several answers, gathered or streamed |
//! | `failure` | why a request failed, as these clients read it |

mod answers;
mod chat;
mod completions;
mod embeddings;
mod failure;
mod messages;
mod models;
mod request;
mod tools;

pub use failure::failure_of;
pub use request::generation;

use crate::router::Route;

/// Whether a path belongs to this API.
pub fn is_of(path: &str) -> bool {
    path == "/v1" || path.starts_with("/v1/")
}

pub fn routes() -> Vec<Route> {
    [chat::routes(), completions::routes(), embeddings::routes(), models::routes()].into_iter().flatten().collect()
}
