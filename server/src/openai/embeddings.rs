//! `POST /v1/embeddings`: each text as the mean of a model's last hidden states over its tokens, of length 1.

use super::request::{Texts, refused};
use crate::{
    chat::check_size,
    error::Reply,
    extract,
    router::{Content, Route},
    state::State as App,
};
use api::routes::EMBEDDINGS;
use axum::{
    Json,
    extract::State,
    http::{Method, StatusCode},
    routing::post,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Deserialize, JsonSchema)]
struct EmbeddingsRequest {
    #[serde(default)]
    model: String,
    /// A text, or several.
    input: Texts,
    #[serde(default)]
    encoding_format: Encoding,
    /// Only that of the model.
    #[serde(default)]
    dimensions: Option<usize>,
}

#[derive(Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Encoding {
    #[default]
    Float,
    /// Of float32 in little-endian order.
    Base64,
}

#[derive(Serialize, JsonSchema)]
struct EmbeddingList {
    object: &'static str,
    data: Vec<Embedding>,
    model: String,
    usage: EmbeddingUsage,
}

#[derive(Serialize, JsonSchema)]
struct Embedding {
    object: &'static str,
    index: usize,
    embedding: Vector,
}

#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
enum Vector {
    Float(Vec<f32>),
    Base64(String),
}

#[derive(Serialize, JsonSchema)]
struct EmbeddingUsage {
    prompt_tokens: u64,
    total_tokens: u64,
}

pub fn routes() -> Vec<Route> {
    let route = Route::new(Method::POST, EMBEDDINGS, "Texts as vectors, by a loaded model", post(embed));
    vec![
        route
            .takes(Content::json::<EmbeddingsRequest>())
            .unhurried()
            .gives(StatusCode::OK, Content::json::<EmbeddingList>()),
    ]
}

async fn embed(
    State(app): State<App>,
    extract::Json(request): extract::Json<EmbeddingsRequest>,
) -> Reply<Json<EmbeddingList>> {
    let texts = request.input.into_texts("input")?;
    check_size(texts.len(), texts.iter().map(String::len).sum(), "input")?;
    let served = app.chats.serving(&request.model)?;
    let model = served.model.name.clone();
    let (embeddings, tokens) = app.chats.embed(&served, texts).await?;
    if let Some((asked, found)) = request.dimensions.zip(embeddings.first().map(Vec::len)).filter(|(a, f)| a != f) {
        return Err(refused(
            "dimensions",
            format!("dimensions is {asked}, and vectors of {model} have {found}."),
            format!("dimensions 为 {asked}，而 {model} 的向量有 {found} 维。"),
            ["Leave it out.", "请省略该参数。"],
        ));
    }
    let vector = |values: Vec<f32>| match request.encoding_format {
        Encoding::Float => Vector::Float(values),
        Encoding::Base64 => {
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            Vector::Base64(STANDARD.encode(bytes))
        }
    };
    let embedding = |(index, values)| Embedding { object: "embedding", index, embedding: vector(values) };
    Ok(Json(EmbeddingList {
        object: "list",
        data: embeddings.into_iter().enumerate().map(embedding).collect(),
        model,
        usage: EmbeddingUsage { prompt_tokens: tokens, total_tokens: tokens },
    }))
}
