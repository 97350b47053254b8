//! Conversations that are kept, and the messages of the WebSocket that holds one.

use crate::{
    chat::{FinishReason, LoadChat},
    data::Message,
    problem::Problem,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A conversation that is kept.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Session {
    pub id: String,
    /// Seconds since 1970.
    pub created_at: f64,
    pub changed_at: f64,
    #[serde(flatten)]
    pub content: SessionContent,
}

/// What a person or a program says of a conversation that is to be kept.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct SessionContent {
    /// Empty: the beginning of the first message.
    pub title: String,
    pub settings: SessionSettings,
    pub messages: Vec<SessionMessage>,
}

/// What stands before the messages of a conversation, and how it is answered.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct SessionSettings {
    /// The model that answered last.
    pub model: Option<LoadChat>,
    pub system: String,
    /// Questions with the answers that the model is shown as examples.
    pub examples: Vec<Example>,
    /// Parameters of the generation.
    pub params: Map<String, Value>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Example {
    pub user: String,
    pub assistant: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct SessionMessage {
    /// `user` or `assistant`.
    pub role: String,
    pub content: String,
    /// Of an answer: the model's name, how many tokens it has, and the seconds that it took.
    pub by: String,
    pub tokens: u64,
    pub seconds: f64,
    pub finish_reason: Option<FinishReason>,
}

impl SessionContent {
    /// What the model is given: the system message, the examples, and what was said; answers that were never written are
    /// left out.
    pub fn conversation(&self) -> Vec<Message> {
        let SessionSettings { system, examples, .. } = &self.settings;
        let system = Some(system.trim()).filter(|system| !system.is_empty()).map(|text| Message::new("system", text));
        let example = |one: &Example| [Message::new("user", &one.user), Message::new("assistant", &one.assistant)];
        let said = self.messages.iter().filter(|message| message.role == "user" || !message.content.is_empty());
        let said = said.map(|message| Message::new(&message.role, &message.content));
        let whole = |one: &&Example| !one.user.is_empty() && !one.assistant.is_empty();
        system.into_iter().chain(examples.iter().filter(whole).flat_map(example)).chain(said).collect()
    }

    /// The title, or one made of the first message.
    pub fn title(&self) -> String {
        if !self.title.trim().is_empty() {
            return self.title.trim().chars().take(Self::LONGEST_TITLE).collect();
        }
        let first = self.messages.first().map(|message| message.content.as_str()).unwrap_or_default();
        let words = first.split_whitespace().collect::<Vec<_>>().join(" ");
        words.chars().take(60).collect()
    }

    /// In characters.
    pub const LONGEST_TITLE: usize = 200;
}

/// A conversation in a list.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SessionInfo {
    pub id: String,
    pub title: String,
    /// Seconds since 1970.
    pub created_at: f64,
    pub changed_at: f64,
    /// How many it has.
    pub messages: u64,
}

/// What a client of the WebSocket says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Ask {
    /// Goes on with a conversation that is kept, or begins one; answered by [`Told::Session`]. Without it, the first
    /// message begins one.
    Open {
        #[serde(default)]
        session: Option<String>,
        /// A loaded model, by a name of `/v1/models`; without one, the first.
        #[serde(default)]
        model: Option<String>,
        #[serde(default)]
        system: Option<String>,
        #[serde(default)]
        params: Option<Map<String, Value>>,
    },
    /// A message to answer; answered by [`Told::Text`] and [`Told::Done`].
    Say { content: String },
    /// Ends the answer that is being written.
    Stop,
}

/// What the WebSocket tells.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Told {
    /// The conversation with all that was said.
    Session {
        session: Box<Session>,
    },
    /// More of the answer.
    Text {
        text: String,
    },
    /// The whole answer, which is kept by now.
    Done {
        message: SessionMessage,
    },
    Failed {
        problem: Problem,
    },
}

/// Body of `POST /api/preferences/chat`: which of two answers to one prompt a person likes better.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ChatVote {
    #[serde(default)]
    pub system: String,
    pub prompt: String,
    pub chosen: String,
    pub rejected: String,
    /// Names of the models.
    #[serde(default)]
    pub chosen_by: String,
    #[serde(default)]
    pub rejected_by: String,
}

impl ChatVote {
    /// The dataset that gets them.
    pub const DATASET: &str = "chat-votes";
}
