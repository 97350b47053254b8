//! The order in which jobs start, and what holds them up.

use crate::catalog::Text;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Of waiting jobs that fit a free device, one of a higher priority starts first; of one priority, the one before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    Low,
    #[default]
    Normal,
    High,
}

/// When an interrupted job starts again by itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Restart {
    /// The start that this will be since the job last got further, and how many there are at most.
    pub attempt: u32,
    pub of: u32,
    /// Seconds since 1970.
    pub at: f64,
}

/// Body of `GET /api/queue`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Queue {
    /// Nothing starts; what runs goes on.
    pub paused: bool,
    /// The next one first.
    pub waiting: Vec<Waiting>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Waiting {
    pub job: String,
    /// What it waits for; nothing if it starts at once.
    pub reason: Option<Text>,
}

/// Body of `POST /api/queue`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SetQueue {
    pub paused: bool,
}

/// Body of `POST /api/jobs/{id}/place`: what is given changes. A job that is put beside another one takes its priority.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Place {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<Priority>,
    /// The waiting job that it is put right before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// The waiting job that it is put right behind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub behind: Option<String>,
}
