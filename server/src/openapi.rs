//! `/openapi.json`, made from the table of routes and the types of the API.

use crate::router::{Content, Route};
use api::problem::ProblemBody;
use axum::{
    body::Bytes,
    http::header,
    response::{IntoResponse, Response},
};
use schemars::{SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

/// The OpenAPI 3.1 description of all routes.
pub fn document(routes: &[Route]) -> Bytes {
    let mut generator = SchemaSettings::draft2020_12()
        .with(|settings| settings.definitions_path = "/components/schemas".into())
        .into_generator();
    let problem = content(&Content::of::<ProblemBody>("application/problem+json"), &mut generator);
    let mut paths = Map::new();
    for route in routes {
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method.as_str().to_ascii_lowercase()] = operation(route, &problem, &mut generator);
    }
    let document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Lathe",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Fine-tuning of language models. Failures are problem details (RFC 9457) in English and Chinese.",
        },
        "paths": paths,
        "components": { "schemas": generator.take_definitions(true) },
    });
    document.to_string().into()
}

pub async fn answer(document: Bytes) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], document).into_response()
}

fn operation(route: &Route, problem: &Value, generator: &mut SchemaGenerator) -> Value {
    let mut parameters: Vec<Value> = route
        .path
        .split('/')
        .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
        .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }))
        .collect();
    parameters.extend(route.queries.iter().map(|query| {
        let mut schema = json!({ "type": query.kind });
        if query.kind == "integer" {
            schema["minimum"] = 0.into();
        }
        json!({ "name": query.name, "in": "query", "description": query.what, "schema": schema })
    }));
    let mut reply = json!({ "description": route.status.canonical_reason().unwrap_or("Done") });
    if let Some(content_type) = &route.reply {
        reply["content"] = content(content_type, generator);
    }
    let mut operation = json!({
        "summary": route.summary,
        "responses": { route.status.as_str(): reply, "default": { "description": "What is wrong", "content": problem } },
    });
    if !parameters.is_empty() {
        operation["parameters"] = parameters.into();
    }
    if let Some(body) = &route.body {
        operation["requestBody"] = json!({ "required": true, "content": content(body, generator) });
    }
    operation
}

fn content(content: &Content, generator: &mut SchemaGenerator) -> Value {
    let schema = (content.schema)(generator);
    json!({ content.media: { "schema": schema } })
}
