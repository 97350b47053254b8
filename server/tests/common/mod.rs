//! A studio for tests: the server on a free port in a runtime of its own, with the stand-in worker of `examples/`.
#![allow(dead_code, clippy::unwrap_used)]

use futures::StreamExt;
use serde_json::{Value, json};
use server::{Error, Options, Program, hub::HubSettings};
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};
use tempfile::TempDir;

pub struct Studio {
    pub address: SocketAddr,
    pub client: reqwest::Client,
    runtime: Option<tokio::runtime::Runtime>,
    ended: Arc<AtomicBool>,
}

/// The data folder of a test.
pub struct Home(pub TempDir);

impl Home {
    pub fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn run(&self, id: &str) -> PathBuf {
        self.path().join("runs").join(id)
    }

    pub fn options(&self) -> Options {
        let own = std::env::current_exe().unwrap();
        let worker = own.parent().and_then(Path::parent).unwrap().join("examples/worker");
        assert!(worker.exists(), "the stand-in worker isn't built: cargo build -p server --examples");
        let mut env = vec![("LATHE_HOME".into(), self.path().into())];
        env.extend(["HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "LATHE_TOKEN"].map(|name| (name.into(), "secret".into())));
        let program = Program { path: worker, args: Vec::new(), env, cuda: None };
        let hub = HubSettings { home: self.path().join("hf"), offline: true, ..Default::default() };
        let mut options = Options::new(self.path().into(), program, api::Catalog::default(), hub);
        options.port = 0;
        options
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // No worker outlives its test.
        for run in std::fs::read_dir(self.path().join("runs")).into_iter().flatten().flatten() {
            if let Some(pid) = worker_pid(&run.path()) {
                let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
            }
        }
    }
}

/// The worker that holds a run folder now.
pub fn worker_pid(run: &Path) -> Option<i32> {
    let text = std::fs::read_to_string(run.join("events.jsonl")).ok()?;
    let started = text.lines().rev().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let pid = started.filter(|line| line["type"] == "started").find_map(|line| line["pid"].as_i64())?;
    let file = std::fs::File::open(run.join("worker.lock")).ok()?;
    file.try_lock_shared().is_err().then_some(pid as i32)
}

pub fn start(home: &Home) -> Studio {
    try_start(home.options()).unwrap()
}

pub fn try_start(options: Options) -> Result<Studio, Error> {
    let runtime = server::runtime().unwrap();
    let (ready, address) = mpsc::channel();
    let ended = Arc::new(AtomicBool::new(false));
    let flag = ended.clone();
    let failed = ready.clone();
    runtime.spawn(async move {
        // Set also when the runtime is dropped: the server's files are closed then.
        struct Ended(Arc<AtomicBool>);
        impl Drop for Ended {
            fn drop(&mut self) {
                self.0.store(true, Ordering::SeqCst);
            }
        }
        let _ended = Ended(flag);
        if let Err(error) = server::serve(options, move |address| ready.send(Ok(address)).unwrap()).await {
            let _ = failed.send(Err(error));
        }
    });
    let address = match address.recv_timeout(Duration::from_secs(10)).unwrap() {
        Ok(address) => address,
        Err(error) => {
            runtime.shutdown_background();
            return Err(error);
        }
    };
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    Ok(Studio { address, client, runtime: Some(runtime), ended })
}

/// A studio in a process of its own (`examples/studio.rs`), for tests that kill it.
pub struct Process {
    pub studio: Studio,
    child: std::process::Child,
}

impl Process {
    /// `restart_ms`: how soon an interrupted job starts again.
    pub fn start(home: &Home, restart_ms: u64) -> Self {
        let worker = home.options().program.path;
        let mut command = std::process::Command::new(worker.with_file_name("studio"));
        command.arg(home.path()).arg(&worker).env("LATHE_RESTART_MS", restart_ms.to_string());
        let mut child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.take().unwrap()), &mut line).unwrap();
        Self { studio: Studio::at(line.trim().parse().unwrap()), child }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// As `kill -9` does it.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends SIGTERM and waits; the exit code.
    pub fn end(mut self) -> Option<i32> {
        let pid = nix::unistd::Pid::from_raw(self.child.id().try_into().unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        self.child.wait().unwrap().code()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Studio {
    /// One that runs somewhere.
    pub fn at(address: SocketAddr) -> Self {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { address, client, runtime: None, ended: Arc::default() }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Ends the server as a crash would: nothing is said to anybody.
    pub async fn crash(mut self) {
        self.runtime.take().unwrap().shutdown_background();
        let since = Instant::now();
        while !self.ended.load(Ordering::SeqCst) {
            assert!(since.elapsed() < Duration::from_secs(5), "the server doesn't go");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    pub async fn get(&self, path: &str) -> Value {
        let response = self.client.get(self.url(path)).send().await.unwrap();
        let status = response.status();
        let text = response.text().await.unwrap();
        assert!(status.is_success(), "{path}: {status} {text}");
        serde_json::from_str(&text).unwrap()
    }

    pub async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        let response = self.client.post(self.url(path)).json(&body).send().await.unwrap();
        let status = response.status().as_u16();
        (status, serde_json::from_str(&response.text().await.unwrap()).unwrap_or(Value::Null))
    }

    pub async fn delete(&self, path: &str) -> u16 {
        self.client.delete(self.url(path)).send().await.unwrap().status().as_u16()
    }

    /// Queues a job; gives its id.
    pub async fn job(&self, kind: &str, name: &str, config: Value) -> String {
        let (status, job) = self.post("/api/jobs", json!({ "kind": kind, "name": name, "config": config })).await;
        assert_eq!(status, 201, "{job}");
        job["id"].as_str().unwrap().to_owned()
    }

    /// Waits until the job is in a state.
    pub async fn until(&self, id: &str, state: &str) -> Value {
        let since = Instant::now();
        loop {
            let job = self.get(&format!("/api/jobs/{id}")).await;
            if job["state"] == state {
                return job;
            }
            assert!(since.elapsed() < Duration::from_secs(15), "{id} isn't {state}: {job}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until the job has made a step.
    pub async fn until_step(&self, id: &str, step: u64) {
        let since = Instant::now();
        while self.get(&format!("/api/jobs/{id}")).await["progress"]["done"].as_u64().unwrap() < step {
            assert!(since.elapsed() < Duration::from_secs(15), "{id} never makes step {step}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn steps(&self, id: &str) -> Vec<u64> {
        let metrics = self.get(&format!("/api/jobs/{id}/metrics")).await;
        metrics.as_array().unwrap().iter().map(|m| m["step"].as_u64().unwrap()).collect()
    }

    /// Opens the event stream.
    pub async fn events(&self, last: Option<i64>) -> Events {
        let mut request = self.client.get(self.url("/api/events"));
        if let Some(last) = last {
            request = request.header("last-event-id", last.to_string());
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert!(!response.headers().contains_key("content-encoding"));
        Events { stream: Box::pin(response.bytes_stream()), text: String::new() }
    }
}

/// Status, headers and body of a request written byte by byte.
pub fn raw(studio: &Studio, request: &str) -> (u16, String, String) {
    let mut socket = TcpStream::connect(studio.address).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    // One that is refused before its end is answered all the same.
    let _ = socket.write_all(request.as_bytes());
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    (status, head.to_ascii_lowercase(), body.to_owned())
}

pub fn request(studio: &Studio, method: &str, path: &str, extra: &str) -> (u16, String, String) {
    let host = studio.address;
    raw(studio, &format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{extra}\r\n"))
}

/// The body of a failure, told in both languages with a next step.
pub fn is_problem(answer: &(u16, String, String)) -> Value {
    assert!(answer.1.contains("content-type: application/problem+json"), "{answer:?}");
    let body: Value = serde_json::from_str(&answer.2).unwrap();
    assert_eq!(body["status"], answer.0);
    for problem in body["problems"].as_array().unwrap() {
        assert!(!problem["message"].as_str().unwrap().is_empty());
        assert!(!problem["zh"]["message"].as_str().unwrap().is_empty(), "{problem}");
        assert!(!problem["hint"].as_str().unwrap_or_default().is_empty(), "{problem}");
    }
    assert!(!body["problems"].as_array().unwrap().is_empty());
    body
}

impl Drop for Studio {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

type Bytes = std::pin::Pin<Box<dyn futures::Stream<Item = reqwest::Result<axum::body::Bytes>> + Send>>;

/// Server-sent events as they come.
pub struct Events {
    stream: Bytes,
    text: String,
}

impl Events {
    pub fn of(response: reqwest::Response) -> Self {
        Self { stream: Box::pin(response.bytes_stream()), text: String::new() }
    }

    /// The next event: its number (0 without) and its data; nothing at the end of the stream.
    pub async fn next(&mut self) -> Option<(i64, Value)> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
                let id = field("id:").and_then(|id| id.parse().ok()).unwrap_or(0);
                let data = field("data:").map(|data| serde_json::from_str(data).unwrap());
                self.text = rest.to_owned();
                if let Some(data) = data {
                    return Some((id, data));
                }
                continue;
            }
            let piece =
                tokio::time::timeout(Duration::from_secs(15), self.stream.next()).await.expect("no event comes");
            self.text.push_str(std::str::from_utf8(&piece?.ok()?).unwrap());
        }
    }
}
