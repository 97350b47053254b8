//! [`Error`]: why the server can't start. [`Failure`]: why a request failed, as RFC 9457 problem details.

use api::{Problem, Problems, problem::ProblemBody};
use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use std::{io, net::SocketAddr, path::PathBuf};

/// Why the server can't start, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{} can't be used as data folder: {source}", path.display())]
    Home { path: PathBuf, source: io::Error },
    #[error("the data folder {} is in use by {holder}", path.display())]
    HomeInUse { path: PathBuf, holder: String },
    #[error("{address} is in use by another program")]
    AddressInUse { address: SocketAddr },
    #[error("can't listen on {address}: {source}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("listening on {host}, which others can reach, needs a token")]
    NeedsToken { host: std::net::IpAddr },
    #[error("the token has {length} characters, must be 16 or more of printable ASCII")]
    BadToken { length: usize },
    #[error("an API key is empty, or not of printable ASCII")]
    BadApiKey,
    #[error("{0}")]
    Model(Problem),
    #[error("the webhook isn't an http or https address")]
    Webhook,
    #[error("the database {} can't be used: {source}", path.display())]
    Database { path: PathBuf, source: sqlx::Error },
    #[error("the database {} was written by another version of Lathe", path.display())]
    Newer { path: PathBuf },
    #[error("SQLite {version} is linked, 3.51.3 or newer is needed")]
    Sqlite { version: String },
}

impl Error {
    /// True when something else holds the port or the data folder: exit code 3.
    pub fn is_held(&self) -> bool {
        matches!(self, Self::HomeInUse { .. } | Self::AddressInUse { .. })
    }

    /// True when the request itself was wrong: exit code 2.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::NeedsToken { .. } | Self::BadToken { .. } | Self::BadApiKey | Self::Webhook)
    }

    /// The same in both languages, with the next step.
    pub fn problem(&self) -> Problem {
        let en = sentence(self.to_string());
        match self {
            Self::Home { path, source } => {
                Problem::new("home", en, format!("{} 不能用作数据文件夹：{source}。", path.display())).hint(
                    "Choose a folder that you may write to with --home.",
                    "请用 --home 选择一个可写的文件夹。",
                )
            }
            Self::HomeInUse { path, holder } => {
                Problem::new("home_in_use", en, format!("数据文件夹 {} 正被 {holder} 使用。", path.display())).hint(
                    "Use the studio that is running, stop it, or choose another folder with --home.",
                    "请使用已在运行的工作室，或将其停止，或用 --home 选择其他文件夹。",
                )
            }
            Self::AddressInUse { address } => {
                Problem::new("port_in_use", en, format!("{address} 已被其他程序占用。")).hint(
                    "Stop that program, or choose another port with --port.",
                    "请停止该程序，或用 --port 选择其他端口。",
                )
            }
            Self::Listen { address, source } => {
                Problem::new("listen", en, format!("无法监听 {address}：{source}。")).hint(
                    "Choose another address or port with --host and --port.",
                    "请用 --host 和 --port 选择其他地址或端口。",
                )
            }
            Self::NeedsToken { host } => {
                Problem::new("needs_token", en, format!("监听 {host} 会让他人能够访问，必须设置令牌。")).hint(
                    "Set a token of 16 or more characters, or listen on 127.0.0.1.",
                    "请设置至少 16 个字符的令牌，或监听 127.0.0.1。",
                )
            }
            Self::BadToken { length } => {
                Problem::new("bad_token", en, format!("令牌有 {length} 个字符，应至少为 16 个可打印的 ASCII 字符。"))
                    .hint("Choose a longer token.", "请使用更长的令牌。")
            }
            Self::BadApiKey => Problem::new("bad_api_key", en, "API 密钥为空，或含有不可打印的 ASCII 字符。").hint(
                "Write API_KEY as one key, or several with commas between, without spaces.",
                "请将 API_KEY 写成一个密钥，或用逗号分隔的多个密钥，不含空格。",
            ),
            Self::Model(problem) => problem.clone(),
            Self::Webhook => Problem::new("bad_webhook", en, "Webhook 不是 http 或 https 地址。").hint(
                "Give the whole address, for example https://example.org/hook.",
                "请给出完整地址，例如 https://example.org/hook。",
            ),
            Self::Database { path, source } => {
                Problem::new("database", en, format!("无法使用数据库 {}：{source}。", path.display())).hint(
                    "If the disk is full, make room. The database can be made again: move it away, runs are found in runs/.",
                    "如果磁盘已满，请腾出空间。数据库可以重建：将其移走，运行记录会从 runs/ 中找回。",
                )
            }
            Self::Newer { path } => {
                Problem::new("database_newer", en, format!("数据库 {} 由另一版本的 Lathe 写成。", path.display())).hint(
                    "Start the newest Lathe, or choose another folder with --home.",
                    "请使用最新版本的 Lathe，或用 --home 选择其他文件夹。",
                )
            }
            Self::Sqlite { version } => {
                Problem::new("sqlite", en, format!("链接的 SQLite 版本为 {version}，需要 3.51.3 或更高版本。"))
                    .hint("Build Lathe with its locked dependencies.", "请用锁定的依赖版本构建 Lathe。")
            }
        }
    }
}

/// A request that failed: the status, and every problem.
#[derive(Clone, Debug)]
pub struct Failure {
    pub status: StatusCode,
    pub problems: Vec<Problem>,
}

pub type Reply<T> = std::result::Result<T, Failure>;

impl Failure {
    pub fn new(status: StatusCode, problem: Problem) -> Self {
        Self { status, problems: vec![problem] }
    }

    /// The request is wrong.
    pub fn bad(problem: Problem) -> Self {
        Self::new(StatusCode::BAD_REQUEST, problem)
    }

    /// It doesn't fit the state of things.
    pub fn conflict(problem: Problem) -> Self {
        Self::new(StatusCode::CONFLICT, problem)
    }

    /// There is nothing of that name. `what` in both languages, for example `["job", "任务"]`.
    pub fn missing(what: [&str; 2], name: &str) -> Self {
        let name: String = name.chars().take(100).collect();
        let problem = Problem::new("not_found", format!("There is no {} {name:?}.", what[0]), {
            format!("没有名为 {name:?} 的{}。", what[1])
        });
        Self::new(
            StatusCode::NOT_FOUND,
            problem.hint("It may have been deleted; reload the page.", "它可能已被删除；请刷新页面。"),
        )
    }

    /// Something of ours broke: logged here, said without details that don't concern the caller.
    pub fn internal(cause: impl std::fmt::Display) -> Self {
        tracing::error!("{cause}");
        let problem = Problem::new("internal", "Something inside the server failed.", "服务器内部出错。")
            .hint("Try again; the server's log says more.", "请重试；服务器日志中有更多信息。");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, problem)
    }

    /// An input or output error with a file of ours.
    pub fn io(doing: [&str; 2], error: &io::Error) -> Self {
        let full = error.kind() == io::ErrorKind::StorageFull;
        let problem = Problem::new(
            if full { "disk_full" } else { "io" },
            format!("{} failed: {error}.", doing[0]),
            format!("{}失败：{error}。", doing[1]),
        );
        let problem = if full {
            problem.hint("The disk is full: make room and try again.", "磁盘已满：请腾出空间后重试。")
        } else {
            problem.hint("Check the data folder and try again.", "请检查数据文件夹后重试。")
        };
        let status = if full { StatusCode::INSUFFICIENT_STORAGE } else { StatusCode::INTERNAL_SERVER_ERROR };
        Self::new(status, problem)
    }
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        // SQLITE_FULL
        if error.as_database_error().and_then(|e| e.code()).is_some_and(|code| code == "13") {
            return Self::io(["Writing the database", "写入数据库"], &io::ErrorKind::StorageFull.into());
        }
        Self::internal(error)
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self::bad(problem)
    }
}

impl From<Problems> for Failure {
    fn from(problems: Problems) -> Self {
        Self { status: StatusCode::BAD_REQUEST, problems: problems.0 }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let failure = self.clone();
        let first = self.problems.first().cloned().unwrap_or_default();
        let body = ProblemBody {
            kind: "about:blank".into(),
            title: self.status.canonical_reason().unwrap_or("Error").into(),
            status: self.status.as_u16(),
            detail: first.to_string(),
            problems: self.problems,
        };
        let json = serde_json::to_vec(&body).unwrap_or_default();
        let mut response = Response::new(Body::from(json));
        *response.status_mut() = self.status;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        // Where another form of it is needed, it is made from this.
        response.extensions_mut().insert(failure);
        if matches!(self.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("2"));
        }
        response
    }
}

fn sentence(text: String) -> String {
    let mut chars = text.chars();
    let first: String = chars.next().map(|c| c.to_uppercase().collect()).unwrap_or_default();
    format!("{first}{}.", chars.as_str())
}
