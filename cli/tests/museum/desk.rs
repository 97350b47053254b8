//! The studio as a person starts it, on a free port with a data folder of its own, and its answers.

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

pub struct Studio {
    child: Child,
    address: String,
    token: String,
    pub home: PathBuf,
    dir: tempfile::TempDir,
}

impl Studio {
    /// Starts it with these variables and words beside its own.
    pub fn start_with(variables: &[(&str, &str)], words: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().canonicalize().unwrap().join("home");
        let log = |name: &str| File::create(dir.path().join(name)).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_lathe"))
            .args(["--port", "0", "--json", "--home"])
            .arg(&home)
            .args(words)
            .env("HF_HOME", dir.path().join("hub"))
            .env("HF_HUB_OFFLINE", "1")
            .env_remove("LATHE_TOKEN")
            .envs(variables.iter().copied())
            .stdout(Stdio::piped())
            .stderr(log("studio.log"))
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready: Value = serde_json::from_str(&line).unwrap_or_else(|_| {
            panic!("{line:?}\n{}", fs::read_to_string(dir.path().join("studio.log")).unwrap_or_default())
        });
        let address = ready["url"].as_str().unwrap().trim_start_matches("http://").to_owned();
        let token = words.iter().skip_while(|word| **word != "--token").nth(1).copied().unwrap_or_default().to_owned();
        Self { child, address, token, home, dir }
    }

    pub fn run(&self, id: &str) -> PathBuf {
        self.home.join("runs").join(id)
    }

    /// Status and JSON of an answer.
    pub fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        let (status, text) =
            self.ask_text(method, path, "application/json", &body.map(Value::to_string).unwrap_or_default());
        (status, serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    pub fn ask_text(&self, method: &str, path: &str, media: &str, body: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\nContent-Type: {media}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n",
            self.address, self.token
        );
        stream.write_all(head.as_bytes()).unwrap();
        let _ = stream.write_all(body.as_bytes());
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        (head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0), body.to_owned())
    }

    pub fn until(&self, id: &str, states: &[&str]) -> Value {
        self.wait(&format!("{id} is {states:?}"), || {
            let job = self.ask("GET", &format!("/api/jobs/{id}"), None).1;
            states.iter().any(|state| job["state"] == *state).then_some(job)
        })
    }

    pub fn until_step(&self, id: &str, step: u64) {
        self.wait(&format!("{id} makes step {step}"), || {
            let job = self.ask("GET", &format!("/api/jobs/{id}"), None).1;
            (job["progress"]["done"].as_u64() >= Some(step)).then_some(())
        });
    }

    /// The worker of a run, once it has begun.
    pub fn until_started(&self, id: &str) -> i64 {
        self.wait(&format!("{id} starts"), || {
            let events = fs::read_to_string(self.run(id).join("events.jsonl")).ok()?;
            let mut lines = events.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            lines.rfind(|line| line["type"] == "started")?["pid"].as_i64()
        })
    }

    fn wait<T>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let since = Instant::now();
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(since.elapsed() < Duration::from_secs(90), "not within 90 s: {what}\n{}", self.log());
            sleep(Duration::from_millis(20));
        }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("studio.log")).unwrap_or_default()
    }

    /// Files of the data folder and beside it that hold a text.
    pub fn files_with(&self, text: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![self.dir.path().to_path_buf()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap().flatten() {
                if entry.file_type().unwrap().is_dir() {
                    folders.push(entry.path());
                } else if has(&entry.path(), text.as_bytes()) {
                    found.push(entry.path());
                }
            }
        }
        found
    }
}

fn has(path: &Path, text: &[u8]) -> bool {
    fs::read(path).is_ok_and(|bytes| bytes.windows(text.len()).any(|part| part == text))
}

impl Drop for Studio {
    fn drop(&mut self) {
        for run in fs::read_dir(self.home.join("runs")).into_iter().flatten().flatten() {
            let held = File::open(run.path().join("worker.lock")).is_ok_and(|file| file.try_lock_shared().is_err());
            let events = fs::read_to_string(run.path().join("events.jsonl")).unwrap_or_default();
            let mut lines = events.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let pid = lines.rfind(|line| line["type"] == "started").and_then(|line| line["pid"].as_i64());
            if let Some(pid) = pid.filter(|_| held) {
                let _ = kill(Pid::from_raw(pid as i32), Signal::SIGKILL);
            }
        }
        let _ = kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM);
        let _ = self.child.wait();
    }
}
