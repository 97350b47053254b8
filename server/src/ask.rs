//! Questions to the engine: one short-lived worker for each, a few at a time, bounded in time and size.

use crate::{
    error::{Failure, Reply},
    worker::Program,
};
use api::{
    Problem,
    question::{Answer, Question},
};
use axum::http::StatusCode;
use std::{io, process::ExitStatus, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    sync::Semaphore,
};

const AT_ONCE: usize = 2;
const WAITING: usize = 32;
const LIMIT: Duration = Duration::from_secs(120);
const LARGEST_ANSWER: u64 = 64 << 20;
/// Of what it said on stderr, the end is kept for the server's log.
const LARGEST_LOG: u64 = 64 << 10;

#[derive(Clone)]
pub struct Ask {
    program: Arc<Program>,
    places: Arc<Semaphore>,
    queue: Arc<Semaphore>,
}

impl Ask {
    pub fn new(program: Arc<Program>) -> Self {
        Self { program, places: Arc::new(Semaphore::new(AT_ONCE)), queue: Arc::new(Semaphore::new(WAITING)) }
    }

    /// Asks and waits. [`Answer::Failed`] comes back as the failure that it is. Dropped, it ends the worker.
    pub async fn ask(&self, question: &Question) -> Reply<Answer> {
        let _queue = self.queue.try_acquire().map_err(|_| busy())?;
        let _place = self.places.acquire().await.map_err(Failure::internal)?;
        let answer = tokio::time::timeout(LIMIT, self.run(question)).await.map_err(|_| too_slow())??;
        match answer {
            Answer::Failed { problems } => Err(Failure { status: StatusCode::UNPROCESSABLE_ENTITY, problems }),
            answer => Ok(answer),
        }
    }

    async fn run(&self, question: &Question) -> Reply<Answer> {
        let text = serde_json::to_vec(question).map_err(Failure::internal)?;
        let mut child = self.program.start_question().map_err(|e| no_worker(&e))?;
        let (Some(mut stdin), Some(stdout), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(Failure::internal("the worker has no pipes"));
        };
        let write = async move {
            // One that doesn't read its question says why on stderr.
            let _ = stdin.write_all(&text).await;
            let _ = stdin.shutdown().await;
        };
        let ((), answer, log) = tokio::join!(write, read(stdout, LARGEST_ANSWER), read(stderr, LARGEST_LOG));
        let answer = answer.map_err(Failure::internal)?;
        if answer.len() as u64 > LARGEST_ANSWER {
            return Err(Failure::internal(format!("an answer of the worker is larger than {LARGEST_ANSWER} bytes")));
        }
        let status = child.wait().await.map_err(Failure::internal)?;
        serde_json::from_slice(&answer).map_err(|error| {
            let log = log.unwrap_or_default();
            tracing::error!("worker --ask: {status}, {error}; {}", String::from_utf8_lossy(&log).trim_end());
            broken(status)
        })
    }
}

/// Up to `most` bytes and one more, then closes the pipe.
async fn read(from: impl AsyncRead + Unpin, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(most + 1).read_to_end(&mut bytes).await?;
    Ok(bytes)
}

fn busy() -> Failure {
    let problem =
        Problem::new("busy", "The server has too many questions to answer.", "服务器正忙，待处理的请求过多。");
    Failure::new(StatusCode::SERVICE_UNAVAILABLE, problem.hint("Try again in a moment.", "请稍后重试。"))
}

fn too_slow() -> Failure {
    let seconds = LIMIT.as_secs();
    let problem = Problem::new(
        "too_slow",
        format!("There was no answer within {seconds} seconds."),
        format!("{seconds} 秒内没有得到答复。"),
    );
    let problem =
        problem.hint("Try with less data, for example with max_samples.", "请减少数据量，例如设置 max_samples。");
    Failure::new(StatusCode::GATEWAY_TIMEOUT, problem)
}

pub(crate) fn no_worker(error: &io::Error) -> Failure {
    let problem = Problem::new(
        "worker_start",
        format!("The worker can't be started: {error}."),
        format!("无法启动工作进程：{error}。"),
    );
    let problem =
        problem.hint("Check that Lathe is installed whole, then restart it.", "请确认 Lathe 安装完整，然后重新启动。");
    Failure::new(StatusCode::INTERNAL_SERVER_ERROR, problem)
}

fn broken(status: ExitStatus) -> Failure {
    let problem = Problem::new(
        "worker_failed",
        format!("The worker ended without an answer ({status})."),
        format!("工作进程未给出答复便已结束（{status}）。"),
    );
    let problem = problem
        .hint("The memory may have run out; the server's log says more.", "可能是内存不足；服务器日志中有更多信息。");
    Failure::new(StatusCode::BAD_GATEWAY, problem)
}
