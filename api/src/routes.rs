//! Paths that the server serves and the browser asks for, once.

/// `GET` answers `{"status":"ok"}`, or 503 while the server still takes up what it finds.
pub const HEALTH: &str = "/health";
/// `GET` answers counts in the text format of Prometheus.
pub const METRICS: &str = "/metrics";
pub const OPENAPI: &str = "/openapi.json";
pub const CATALOG: &str = "/api/catalog";
pub const SYSTEM: &str = "/api/system";
/// `POST` a [`RunConfig`](crate::RunConfig), answers [`CheckReply`](crate::question::CheckReply).
pub const CHECK: &str = "/api/check";
/// `POST` a [`RunConfig`](crate::RunConfig): makes two steps of it, answers [`CheckReply`](crate::question::CheckReply).
pub const MEASURE: &str = "/api/measure";
/// `POST` YAML or JSON text, answers a [`RunConfig`](crate::RunConfig).
pub const CONFIG: &str = "/api/config";
/// `GET` lists [`Job`](crate::Job)s, newest first, from `?before=CREATED_AT,ID` on; `POST` a [`NewJob`](crate::job::NewJob), answers the `Job`.
pub const JOBS: &str = "/api/jobs";
/// `POST` a [`NewChain`](crate::job::NewChain), answers its [`Job`](crate::Job)s.
pub const CHAINS: &str = "/api/chains";
/// `GET` answers a [`Queue`](crate::queue::Queue); `POST` a [`SetQueue`](crate::queue::SetQueue) pauses it or lets it go on.
pub const QUEUE: &str = "/api/queue";
/// `GET`, `DELETE` one job.
pub const JOB: &str = "/api/jobs/{id}";
/// `POST` a [`Place`](crate::queue::Place): a waiting job's priority and place in the queue.
pub const JOB_PLACE: &str = "/api/jobs/{id}/place";
pub const JOB_STOP: &str = "/api/jobs/{id}/stop";
/// `POST`: an interrupted, stopped or failed training job goes on from its last whole checkpoint.
pub const JOB_RESUME: &str = "/api/jobs/{id}/resume";
/// `GET ?after=STEP`, answers [`Metric`](crate::job::Metric)s.
pub const JOB_METRICS: &str = "/api/jobs/{id}/metrics";
/// `GET ?lines=N`, answers the tail of `worker.log` as text.
pub const JOB_LOG: &str = "/api/jobs/{id}/log";
pub const JOB_CHECKPOINTS: &str = "/api/jobs/{id}/checkpoints";
/// `GET ?step=N` (the newest if none), answers the [`Rollout`](crate::rollout::Rollout)s of that step.
pub const JOB_ROLLOUTS: &str = "/api/jobs/{id}/rollouts";
/// `GET`: one SSE stream of [`Feed`](crate::job::Feed) for a page; replays from `Last-Event-ID` (or `?after=`).
/// Without either it begins with an event `hello` that carries only the number to go on from.
pub const EVENTS: &str = "/api/events";
pub const MODELS: &str = "/api/models";
pub const MODELS_PULL: &str = "/api/models/pull";
/// `GET` lists [`DatasetInfo`](crate::data::DatasetInfo)s; `POST` multipart (`name`, `file`), answers the new one.
pub const DATASETS: &str = "/api/datasets";
/// `POST` a [`PullDataset`](crate::hub::PullDataset), answers the [`Job`](crate::Job) that downloads it.
pub const DATASETS_PULL: &str = "/api/datasets/pull";
pub const DATASET: &str = "/api/datasets/{name}";
/// `GET ?offset=&limit=&search=&faulty=`, answers a [`Preview`](crate::data::Preview).
pub const DATASET_ROWS: &str = "/api/datasets/{name}/rows";
/// `POST` [`TokensWanted`](crate::data::TokensWanted), answers a [`TokenPreview`](crate::data::TokenPreview).
pub const DATASET_TOKENS: &str = "/api/datasets/{name}/tokens";
/// `POST` a [`RunConfig`](crate::RunConfig), answers [`Statistics`](crate::data::Statistics).
pub const DATASET_STATISTICS: &str = "/api/datasets/{name}/statistics";
/// `GET`, answers [`Columns`](crate::data::Columns).
pub const DATASET_COLUMNS: &str = "/api/datasets/{name}/columns";
/// `POST` an [`EditDataset`](crate::data::EditDataset), answers [`Edited`](crate::data::Edited).
pub const DATASET_EDIT: &str = "/api/datasets/{name}/edit";
/// `GET ?type=json|jsonl|csv|parquet|arrow&formatting=alpaca|sharegpt|openai`: the dataset as a file; its rows as they stand
/// if no formatting is asked for.
pub const DATASET_FILE: &str = "/api/datasets/{name}/file";
/// `POST` [`PairsWanted`](crate::preference::PairsWanted), answers [`Pairs`](crate::preference::Pairs).
pub const PREFERENCES_PAIRS: &str = "/api/preferences/pairs";
/// `POST` [`BuildPairs`](crate::preference::BuildPairs), answers the new [`DatasetInfo`](crate::data::DatasetInfo) (201).
pub const PREFERENCES_DATASET: &str = "/api/preferences/dataset";
/// `GET` the [`Ballot`](crate::preference::Ballot) on a dataset's answers; `POST` a
/// [`CastVote`](crate::preference::CastVote), answers the ballot behind it.
pub const PREFERENCES_VOTES: &str = "/api/preferences/votes/{name}";
/// Resumable uploads by the tus protocol 1.0 (creation, termination): `POST` with `Upload-Length` and `Upload-Metadata`
/// (`filename`, `name`) answers 201 with `Location`.
pub const UPLOADS: &str = "/api/uploads";
/// `HEAD` tells `Upload-Offset`; `PATCH` goes on from there, and the piece that completes the file answers a
/// [`DatasetInfo`](crate::data::DatasetInfo) (200) instead of 204; `DELETE` gives up.
pub const UPLOAD: &str = "/api/uploads/{id}";
/// `GET` lists [`ChatModel`](crate::chat::ChatModel)s; `POST` a [`LoadChat`](crate::chat::LoadChat) starts one.
pub const CHAT: &str = "/api/chat";
/// `GET`, `DELETE` (unload).
pub const CHAT_MODEL: &str = "/api/chat/{id}";
/// `POST` a [`Generate`](crate::chat::Generate), answers an event stream of [`Reply`](crate::chat::Reply). Closing it stops.
pub const CHAT_GENERATE: &str = "/api/chat/{id}/generate";
/// `POST`, `GET`, `DELETE`: OpenAI's API, whose requests and answers `/openapi.json` describes.
pub const CHAT_COMPLETIONS: &str = "/v1/chat/completions";
pub const COMPLETIONS: &str = "/v1/completions";
pub const EMBEDDINGS: &str = "/v1/embeddings";
pub const V1_MODELS: &str = "/v1/models";
pub const V1_MODEL: &str = "/v1/models/{id}";
/// `GET ?prompt=`: goes on with a text, answers `{"generated_text": …}`.
pub const ANSWER: &str = "/answer";
/// A WebSocket that keeps a [`Session`](crate::session::Session); its messages are [`Ask`](crate::session::Ask) and
/// [`Told`](crate::session::Told).
pub const CHAT_SOCKET: &str = "/ws/chat";
/// `GET` lists [`SessionInfo`](crate::session::SessionInfo)s, the last changed first; `POST` a
/// [`NewSession`](crate::session::NewSession), answers the [`Session`](crate::session::Session).
pub const SESSIONS: &str = "/api/sessions";
/// `GET`, `DELETE`; `PUT` a [`Session`](crate::session::Session) in the place of what was kept.
pub const SESSION: &str = "/api/sessions/{id}";
/// `POST` a [`ChatVote`](crate::session::ChatVote), answers the [`DatasetInfo`](crate::data::DatasetInfo) that has it now.
pub const PREFERENCES_CHAT: &str = "/api/preferences/chat";
/// `POST` a [`ScoreRequest`](crate::chat::ScoreRequest), answers a [`ScoreResponse`](crate::chat::ScoreResponse).
pub const SCORE: &str = "/v1/score/evaluation";

/// Puts a name in the place of `{id}` or `{name}`.
pub fn fill(route: &str, name: &str) -> String {
    let encoded: String = name
        .bytes()
        .map(|b| match b {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-' => (b as char).to_string(),
            _ => format!("%{b:02X}"),
        })
        .collect();
    route.replace("{id}", &encoded).replace("{name}", &encoded)
}

/// `POST` the token as a form begins a session, where there is a token; any answer leads to the studio or asks again.
pub const LOGIN: &str = "/login";
/// `POST` ends the session.
pub const LOGOUT: &str = "/logout";

/// How far the kernel keeps a worker to the files it needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Confinement {
    /// Files, network, programs.
    Whole,
    /// What an older kernel knows of it.
    Partly,
    #[default]
    None,
}

/// Answer of `GET /api/system`.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
pub struct System {
    pub version: String,
    pub home: String,
    pub cores: u64,
    /// Bytes.
    pub memory_total: u64,
    pub memory_used: u64,
    pub disk_free: u64,
    /// For example `AVX-512`.
    pub processor: String,
    /// How far the system keeps workers to their files.
    pub confinement: Confinement,
    /// Whether a token is asked for: then there is a session that can be ended.
    pub has_token: bool,
}
