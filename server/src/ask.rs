//! Questions to the engine: one short-lived worker for each, a few at a time, bounded in time and size.

use crate::{
    error::{Failure, Reply},
    worker::Program,
};
use api::{
    Problem,
    question::{Answer, Question},
};
use axum::{body::Bytes, http::StatusCode};
use futures::Stream;
use std::{io, process::ExitStatus, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStderr, ChildStdout},
    sync::{OwnedSemaphorePermit, Semaphore},
};

const AT_ONCE: usize = 2;
const WAITING: usize = 32;
const LIMIT: Duration = Duration::from_secs(120);
/// A change of a dataset encodes and writes every row of it.
const LONG_LIMIT: Duration = Duration::from_secs(3600);
/// Datasets that are downloaded at once.
const EXPORTS: usize = 4;
const LARGEST_ANSWER: u64 = 64 << 20;
/// Of what it said on stderr, the end is kept for the server's log.
const LARGEST_LOG: u64 = 64 << 10;

#[derive(Clone)]
pub struct Ask {
    program: Arc<Program>,
    places: Arc<Semaphore>,
    queue: Arc<Semaphore>,
    exports: Arc<Semaphore>,
}

/// The bytes of an export as they come, and what has to live until they have come.
pub struct Exported {
    output: BufReader<ChildStdout>,
    child: Child,
    _place: OwnedSemaphorePermit,
}

impl Ask {
    pub fn new(program: Arc<Program>) -> Self {
        let [places, queue, exports] = [AT_ONCE, WAITING, EXPORTS].map(|n| Arc::new(Semaphore::new(n)));
        Self { program, places, queue, exports }
    }

    /// Asks and waits. [`Answer::Failed`] comes back as the failure that it is. Dropped, it ends the worker.
    pub async fn ask(&self, question: &Question) -> Reply<Answer> {
        self.ask_within(question, LIMIT).await
    }

    /// As [`ask`](Self::ask), for what may take long.
    pub async fn ask_patiently(&self, question: &Question) -> Reply<Answer> {
        self.ask_within(question, LONG_LIMIT).await
    }

    /// Asks for an export: what comes behind the line of its answer.
    pub async fn export(&self, question: &Question) -> Reply<Exported> {
        let place = self.exports.clone().try_acquire_owned().map_err(|_| busy())?;
        let (mut child, write, stdout, stderr) = self.start(question)?;
        tokio::spawn(read(stderr, LARGEST_LOG));
        let mut output = BufReader::with_capacity(1 << 18, stdout);
        let mut line = Vec::new();
        let first = async {
            let mut bounded = (&mut output).take(LARGEST_LOG);
            tokio::join!(write, bounded.read_until(b'\n', &mut line)).1
        };
        tokio::time::timeout(LIMIT, first).await.map_err(|_| too_slow())?.map_err(Failure::internal)?;
        match serde_json::from_slice(&line) {
            Ok(Answer::Exporting) => Ok(Exported { output, child, _place: place }),
            Ok(answer) => Err(expected(answer).map_or_else(|failure| failure, |other| unexpected(&other))),
            Err(_) => Err(broken(child.wait().await.map_err(Failure::internal)?)),
        }
    }

    async fn ask_within(&self, question: &Question, limit: Duration) -> Reply<Answer> {
        let _queue = self.queue.try_acquire().map_err(|_| busy())?;
        let _place = self.places.acquire().await.map_err(Failure::internal)?;
        expected(tokio::time::timeout(limit, self.run(question)).await.map_err(|_| too_slow())??)
    }

    /// Starts a worker; the future writes the question.
    fn start(&self, question: &Question) -> Reply<(Child, impl Future<Output = ()> + use<>, ChildStdout, ChildStderr)> {
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
        Ok((child, write, stdout, stderr))
    }

    async fn run(&self, question: &Question) -> Reply<Answer> {
        let (mut child, write, stdout, stderr) = self.start(question)?;
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

impl Exported {
    /// The bytes; an error at their end if the worker failed on the way.
    pub fn into_stream(self) -> impl Stream<Item = io::Result<Bytes>> {
        futures::stream::try_unfold(Some(self), |state| async {
            let Some(mut exported) = state else { return Ok(None) };
            let piece = Bytes::copy_from_slice(exported.output.fill_buf().await?);
            exported.output.consume(piece.len());
            if !piece.is_empty() {
                return Ok(Some((piece, Some(exported))));
            }
            let status = exported.child.wait().await?;
            if status.success() { Ok(None) } else { Err(io::Error::other(format!("the worker ended with {status}"))) }
        })
    }
}

/// [`Answer::Failed`] as the failure that it is.
fn expected(answer: Answer) -> Reply<Answer> {
    match answer {
        Answer::Failed { problems } => Err(Failure { status: StatusCode::UNPROCESSABLE_ENTITY, problems }),
        answer => Ok(answer),
    }
}

pub fn unexpected(answer: &Answer) -> Failure {
    let text: String = format!("{answer:?}").chars().take(200).collect();
    Failure::internal(format!("the worker answered something else: {text}"))
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
