//! How a command ends: the exit code, and the problems that it found.

use api::{Problem, Problems};
use std::path::Path;

pub const DONE: u8 = 0;
/// The work failed.
pub const FAILED: u8 = 1;
/// The request was wrong; each problem names its key.
pub const WRONG: u8 = 2;
/// Something else holds the port, the data folder or the run folder.
pub const HELD: u8 = 3;

pub type Outcome<T = ()> = Result<T, Failure>;

#[derive(Debug)]
pub struct Failure {
    pub code: u8,
    pub problems: Vec<Problem>,
    /// stdout has them already.
    pub is_told: bool,
}

impl Failure {
    pub fn new(code: u8, problems: Vec<Problem>) -> Self {
        Self { code, problems, is_told: false }
    }

    pub fn failed(problem: Problem) -> Self {
        Self::new(FAILED, vec![problem])
    }

    /// What the engine refuses before the work begins.
    pub fn refused(error: engine::Error) -> Self {
        Self::new(WRONG, error.into_problems())
    }

    pub fn wrong(problem: Problem) -> Self {
        Self::new(WRONG, vec![problem])
    }

    pub fn held(problem: Problem) -> Self {
        Self::new(HELD, vec![problem])
    }

    /// A file or folder of ours that can't be read or written.
    pub fn io(path: &Path, error: std::io::Error) -> Self {
        Self::failed(engine::Error::io(path)(error).into_problem())
    }
}

impl From<Problems> for Failure {
    fn from(problems: Problems) -> Self {
        Self::new(WRONG, problems.0)
    }
}

/// Something of the system that should always work, didn't.
pub fn internal(text: impl ToString) -> Problem {
    Problem::new("internal", text.to_string(), text.to_string())
        .hint("Please report this with the command that you used.", "请附上所用命令报告此问题。")
}

pub fn bad_usage(text: &str) -> Problem {
    Problem::new("usage", text, text).hint("See `lathe --help`.", "请参阅 `lathe --help`。")
}

/// Of the CUDA worker.
pub fn no_studio() -> Problem {
    Problem::new("usage", "The CUDA worker has no studio.", "CUDA 工作进程不含工作室。")
        .hint("Start `lathe`, which finds it by itself.", "请启动 `lathe`，它会自动找到该进程。")
}

pub fn studio_options() -> Problem {
    Problem::new(
        "usage",
        "--host, --port, --token and --name belong to the studio, not to this command.",
        "--host、--port、--token 和 --name 属于工作室，不适用于此命令。",
    )
    .hint("Take them out, or put them after `lathe webui`.", "请删去它们，或写在 `lathe webui` 之后。")
}
