//! Everything that can go wrong in the engine, and how it reaches a person.

use api::{Problem, Problems};
use std::path::{Path, PathBuf};

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something that a person can mend: bad input, a missing file.
    #[error("{0}")]
    Problem(Box<Problem>),
    /// Several of these at once.
    #[error("{0}")]
    Problems(Problems),
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
    /// A promise of the code itself was broken; the message says which.
    #[error("{0}")]
    Internal(String),
}

impl Error {
    /// For `map_err` on file operations.
    pub fn io(path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        move |source| Self::Io { path, source }
    }

    /// The same as a problem of the argument `field`, if a person can mend it.
    pub fn at(self, field: &str) -> Self {
        match self {
            Self::Problem(problem) => problem.field(field).into(),
            other => other,
        }
    }

    /// All problems that this error stands for; at least one.
    pub fn into_problems(self) -> Vec<Problem> {
        match self {
            Self::Problem(problem) => vec![*problem],
            Self::Problems(problems) => problems.0,
            other => vec![other.into_problem()],
        }
    }

    /// The (first) problem that this error stands for.
    pub fn into_problem(self) -> Problem {
        match self {
            Self::Problem(problem) => *problem,
            Self::Problems(problems) => problems.0.into_iter().next().unwrap_or_default(),
            Self::Io { path, source } => io_problem(&path, &source),
            Self::Tensor(source) => Problem::new("tensor", source.to_string(), source.to_string())
                .hint("Please report this with the log of the run.", "请附上运行日志报告此问题。"),
            Self::Internal(text) => Problem::new("internal", text.clone(), text)
                .hint("Please report this with the log of the run.", "请附上运行日志报告此问题。"),
        }
    }
}

fn io_problem(path: &Path, source: &std::io::Error) -> Problem {
    let shown = path.display();
    match source.kind() {
        std::io::ErrorKind::NotFound => {
            Problem::new("not_found", format!("{shown} does not exist."), format!("{shown} 不存在。"))
                .hint("Check the path.", "请检查路径。")
        }
        std::io::ErrorKind::PermissionDenied => Problem::new(
            "no_permission",
            format!("{shown} may not be read or written."),
            format!("没有读写 {shown} 的权限。"),
        )
        .hint("Change its permissions or choose another place.", "请更改权限或换一个位置。"),
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Problem::new(
            "disk_full",
            format!("The disk is full: {shown} could not be written."),
            format!("磁盘已满：无法写入 {shown}。"),
        )
        .hint(
            "The last whole checkpoint is kept. Resume from it after one of these:",
            "最近的完整检查点已保留。完成以下任一项后可从它继续：",
        )
        .step("Free some space on this disk.", "在此磁盘上腾出空间。")
        .step(
            "Set save_total_limit: 1, so that fewer checkpoints are kept.",
            "设置 save_total_limit: 1，减少保留的检查点。",
        )
        .step("Set output_dir to a folder on another disk.", "把 output_dir 设到另一块磁盘上。"),
        _ => Problem::new("io", format!("{shown}: {source}."), format!("{shown}：{source}。"))
            .hint("Check the path and the disk.", "请检查路径和磁盘。"),
    }
}

impl From<Problem> for Error {
    fn from(problem: Problem) -> Self {
        Self::Problem(Box::new(problem))
    }
}

impl From<Box<Problem>> for Error {
    fn from(problem: Box<Problem>) -> Self {
        Self::Problem(problem)
    }
}

impl From<Problems> for Error {
    fn from(problems: Problems) -> Self {
        Self::Problems(problems)
    }
}
