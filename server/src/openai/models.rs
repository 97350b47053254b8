//! `/v1/models`: each loaded model, and each adapter on one, is a model of its own name.

use crate::{
    chat::ServedModel,
    error::Reply,
    router::{Content, Route},
    state::State as App,
};
use api::routes::{V1_MODEL, V1_MODELS};
use axum::{
    Json,
    extract::{Path, State},
    http::{Method, StatusCode},
    routing::get,
};
use schemars::JsonSchema;
use serde::Serialize;

#[derive(Serialize, JsonSchema)]
struct ModelCard {
    id: String,
    object: &'static str,
    /// When it was loaded, in seconds since 1970.
    created: u64,
    owned_by: &'static str,
}

#[derive(Serialize, JsonSchema)]
struct ModelList {
    object: &'static str,
    data: Vec<ModelCard>,
}

pub fn routes() -> Vec<Route> {
    vec![
        Route::new(Method::GET, V1_MODELS, "Models that answer, as OpenAI's clients list them", get(list))
            .gives(StatusCode::OK, Content::json::<ModelList>()),
        Route::new(Method::GET, V1_MODEL, "One of them", get(one)).gives(StatusCode::OK, Content::json::<ModelCard>()),
    ]
}

async fn list(State(app): State<App>) -> Json<ModelList> {
    Json(ModelList { object: "list", data: app.chats.served().into_iter().map(card).collect() })
}

async fn one(State(app): State<App>, Path(name): Path<String>) -> Reply<Json<ModelCard>> {
    app.chats.serving(&name).map(|served| Json(card(served.model)))
}

fn card(model: ServedModel) -> ModelCard {
    ModelCard { id: model.name, object: "model", created: model.created, owned_by: "lathe" }
}
