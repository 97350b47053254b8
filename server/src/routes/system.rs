//! The catalog, the machine, and what a configuration would do.

use crate::{
    error::{Failure, Reply},
    extract::{Json, bounded},
    gate::loading,
    kernel,
    router::{Content, Route},
    state::State as App,
};
use api::{
    Problem, RunConfig,
    chat::ChatState,
    question::{Answer, CheckReply, Question},
    routes::{CATALOG, CHECK, CONFIG, HEALTH, MEASURE, SYSTEM, System},
};
use axum::{
    extract::{Request, State},
    http::{Method, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};

/// The largest configuration text in bytes.
const LARGEST_CONFIG: usize = 1 << 20;

#[derive(Serialize, JsonSchema)]
struct Health {
    /// `ok`; where one model is served by itself, `healthy`.
    status: &'static str,
    /// That model.
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<String>,
}

pub fn health_routes() -> Vec<Route> {
    vec![
        Route::new(Method::GET, HEALTH, "Whether the server answers", get(health))
            .gives(StatusCode::OK, Content::json::<Health>()),
    ]
}

pub fn routes() -> Vec<Route> {
    vec![
        Route::new(Method::GET, CATALOG, "What there is to choose from", get(catalog))
            .gives(StatusCode::OK, Content::json::<api::Catalog>()),
        Route::new(Method::GET, SYSTEM, "This computer", get(system)).gives(StatusCode::OK, Content::json::<System>()),
        Route::new(Method::POST, CHECK, "The plan of a training run, or every problem", post(check))
            .takes(Content::json::<RunConfig>())
            .gives(StatusCode::OK, Content::json::<CheckReply>()),
        Route::new(Method::POST, MEASURE, "The plan of a training run, by two steps of it", post(measure))
            .takes(Content::json::<RunConfig>())
            .gives(StatusCode::OK, Content::json::<CheckReply>()),
        Route::new(Method::POST, CONFIG, "Read a configuration from YAML or JSON", post(config))
            .takes(Content::of::<String>("text/plain"))
            .gives(StatusCode::OK, Content::json::<RunConfig>()),
    ]
}

async fn health(State(app): State<App>) -> Reply<axum::Json<Health>> {
    match &app.served {
        None if app.supervisor.is_ready() => Ok(axum::Json(Health { status: "ok", model: None })),
        Some(id) => {
            let model = app.chats.get(id)?;
            let path = model.load.model_name_or_path;
            match model.state {
                ChatState::Ready => Ok(axum::Json(Health { status: "healthy", model: Some(path) })),
                _ => Err(loading()),
            }
        }
        None => Err(loading()),
    }
}

async fn catalog(State(app): State<App>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], app.catalog.clone()).into_response()
}

async fn system(State(app): State<App>) -> Reply<axum::Json<System>> {
    let system = tokio::task::spawn_blocking(move || {
        let (memory_total, memory_used) = memory();
        System {
            version: app.version.clone(),
            home: app.home.path().to_string_lossy().into_owned(),
            cores: std::thread::available_parallelism().map_or(1, |n| n.get() as u64),
            memory_total,
            memory_used,
            disk_free: app.home.free().unwrap_or(0),
            processor: app.processor.clone(),
            confinement: app.confinement,
            has_token: app.has_token,
        }
    });
    Ok(axum::Json(system.await.map_err(Failure::internal)?))
}

async fn check(State(app): State<App>, Json(config): Json<RunConfig>) -> Reply<axum::Json<CheckReply>> {
    match app.ask.ask(&Question::Check { config }).await? {
        Answer::Checked { reply } => Ok(axum::Json(*reply)),
        other => Err(crate::ask::unexpected(&other)),
    }
}

async fn measure(State(app): State<App>, Json(config): Json<RunConfig>) -> Reply<axum::Json<CheckReply>> {
    match app.ask.ask_patiently(&Question::Measure { config }).await? {
        Answer::Checked { reply } => Ok(axum::Json(*reply)),
        other => Err(crate::ask::unexpected(&other)),
    }
}

async fn config(request: Request) -> Reply<axum::Json<RunConfig>> {
    let bytes = bounded(request.into_body(), LARGEST_CONFIG).await?;
    let text = std::str::from_utf8(&bytes).map_err(|error| {
        let at = error.valid_up_to();
        let problem = Problem::new(
            "not_utf8",
            format!("The text isn't UTF-8 at byte {at}."),
            format!("文本在第 {at} 字节处不是 UTF-8。"),
        );
        Failure::bad(problem.hint("Save it as UTF-8.", "请以 UTF-8 编码保存。"))
    })?;
    Ok(axum::Json(read_config(text)?))
}

/// A flat map from YAML, of which JSON is a part. A problem names line and column.
pub fn read_config(text: &str) -> Reply<RunConfig> {
    let text = text.trim_start_matches('\u{feff}');
    if text.trim().is_empty() {
        return Ok(RunConfig::default());
    }
    let value: Value = serde_saphyr::from_str(text).map_err(|error| {
        let error = error.without_snippet();
        let (at_en, at_zh) = match error.location() {
            Some(at) => (
                format!(" at line {}, column {}", at.line(), at.column()),
                format!("（第 {} 行第 {} 列）", at.line(), at.column()),
            ),
            None => Default::default(),
        };
        let why = error.to_string();
        let why = why.lines().next().unwrap_or_default().trim_end_matches('.');
        let problem = Problem::new(
            "bad_config",
            format!("The configuration can't be read{at_en}: {why}."),
            format!("配置无法读取{at_zh}：{why}。"),
        );
        Failure::bad(problem.hint("Write one key: value a line.", "请每行写一个 key: value。"))
    })?;
    match value {
        Value::Object(map) => Ok(RunConfig(tidy(map))),
        Value::Null => Ok(RunConfig::default()),
        _ => {
            let problem = Problem::new(
                "bad_config",
                "The configuration isn't a map of keys and values.",
                "配置不是由键和值组成的映射。",
            );
            Err(Failure::bad(problem.hint("Write one key: value a line.", "请每行写一个 key: value。")))
        }
    }
}

/// YAML reads `1e-4`, without a point, as text; so do people not.
fn tidy(map: Map<String, Value>) -> Map<String, Value> {
    map.into_iter()
        .map(|(key, value)| {
            let number = value.as_str().and_then(|text| {
                let looks =
                    text.contains(['e', 'E']) && text.bytes().all(|b| b.is_ascii_digit() || b"eE+-.".contains(&b));
                looks.then(|| text.parse::<f64>().ok().filter(|n| n.is_finite())).flatten()
            });
            (key, number.map_or(value, Value::from))
        })
        .collect()
}

/// Memory of the machine and what of it is taken, in bytes; 0 where the kernel doesn't say.
fn memory() -> (u64, u64) {
    kernel::memory().map_or((0, 0), |memory| (memory.total, memory.total.saturating_sub(memory.available)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn yaml_and_json_become_the_same_map() {
        let yaml = read_config("### model\nmodel_name_or_path: starter\ndataset: a,b\nlearning_rate: 1e-4\nbf16: true\nlora_rank: 8\nsystem: null\n").unwrap();
        let json = read_config(r#"{"model_name_or_path":"starter","dataset":"a,b","learning_rate":0.0001,"bf16":true,"lora_rank":8,"system":null}"#).unwrap();
        assert_eq!(yaml, json);
        assert_eq!(yaml.keys().next(), Some("model_name_or_path"));
        assert_eq!(read_config(" \n").unwrap(), RunConfig::default());
        assert_eq!(read_config(&yaml.to_yaml()).unwrap(), json);
    }

    #[test]
    fn a_mistake_has_a_place() {
        let failure = read_config("a: 1\nb: [1, 2\nc: 3\n").unwrap_err();
        assert!(failure.problems[0].message.contains("line "), "{}", failure.problems[0].message);
        let twice = read_config("a: 1\na: 2\n").unwrap_err();
        assert!(twice.problems[0].message.contains("line 2"), "{}", twice.problems[0].message);
        assert!(read_config("- a\n- b\n").is_err());
        assert!(read_config("just words").is_err());
        let laughs = format!(
            "a: &a [x,x,x,x,x,x,x,x,x,x]\n{}",
            (b'b'..b'z')
                .map(|c| {
                    let (c, before) = (c as char, (c - 1) as char);
                    format!("{c}: &{c} [{}]\n", vec![format!("*{before}"); 10].join(","))
                })
                .collect::<String>()
        );
        assert!(read_config(&laughs).is_err());
        assert!(read_config(&"[".repeat(100_000)).is_err());
    }
}
