//! A studio with a data folder of its own, and what its processes take.

use super::{Plan, Result, client::Client};
use api::routes::{HEALTH, JOBS};
use hyper::Method;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::{Value, json};
use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use tempfile::TempDir;

pub struct Studio {
    pub address: SocketAddr,
    pub home: TempDir,
    child: Child,
    /// From the start of the process to its first answer.
    pub began: Duration,
}

impl Studio {
    pub async fn start(plan: &Plan) -> Result<Self> {
        Self::start_at(plan, TempDir::new()?).await
    }

    /// On a data folder that may hold something.
    pub async fn start_at(plan: &Plan, home: TempDir) -> Result<Self> {
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let started = Instant::now();
        let mut child = Command::new(&plan.program)
            .arg("--home")
            .arg(home.path())
            .args(["webui", "--port", &port.to_string()])
            .env_remove("LATHE_TOKEN")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        loop {
            if let Ok(mut client) = Client::connect(address).await
                && client.get(HEALTH).await.is_ok_and(|(status, _)| status.is_success())
            {
                break;
            }
            if let Some(status) = child.try_wait()? {
                return Err(format!("the studio ended with {status}").into());
            }
            if started.elapsed() > Duration::from_secs(60) {
                let _ = child.kill();
                return Err("the studio didn't answer within a minute".into());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(Self { address, home, child, began: started.elapsed() })
    }

    pub async fn client(&self) -> Result<Client> {
        Client::connect(self.address).await
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Starts a training of some twenty steps a second that goes on until the studio ends, and waits for its first steps.
    pub async fn train(&self) -> Result<Training> {
        let config = json!({
            "model_name_or_path": "starter", "stage": "sft", "finetuning_type": "lora", "dataset": "instructions_en",
            "max_steps": 1_000_000, "save_steps": 0, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 1
        });
        let new = json!({ "kind": "train", "name": "load", "config": config });
        let job = self.client().await?.ask(Method::POST, JOBS, Some(&new)).await?;
        let id = job["id"].as_str().ok_or("the job has no id")?.to_owned();
        let events = self.home.path().join("runs").join(&id).join("events.jsonl");
        let training = Training { id, events };
        let begun = Instant::now();
        while training.step() < 20 {
            if begun.elapsed() > Duration::from_secs(120) {
                return Err("the training made no 20 steps within two minutes".into());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(training)
    }
}

impl Studio {
    /// Ends it and gives its folder back.
    pub fn end(mut self) -> Result<TempDir> {
        Ok(std::mem::replace(&mut self.home, TempDir::new()?))
    }
}

impl Drop for Studio {
    fn drop(&mut self) {
        // Workers outlive their server, and this one's training would go on for ever.
        for pid in descendants(self.pid()) {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), nix::sys::signal::Signal::SIGKILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub struct Training {
    pub id: String,
    events: PathBuf,
}

impl Training {
    /// The last step that it told.
    pub fn step(&self) -> u64 {
        let text = tail(&self.events, 64 << 10);
        let steps = text.lines().rev().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        steps.filter(|line| line["type"] == "metrics").find_map(|line| line["step"].as_u64()).unwrap_or(0)
    }

    /// Steps a second over a while.
    pub async fn pace(&self, over: Duration) -> f64 {
        let (from, since) = (self.step(), Instant::now());
        tokio::time::sleep(over).await;
        (self.step() - from) as f64 / since.elapsed().as_secs_f64()
    }
}

/// The end of a file, beginning with a whole line.
fn tail(path: &Path, bytes: u64) -> String {
    use std::io::{Read, Seek, SeekFrom};
    let read = || -> std::io::Result<String> {
        let mut file = fs::File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(bytes)))?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        let text = String::from_utf8_lossy(&text).into_owned();
        Ok(if length > bytes { text.split_once('\n').map_or(text.clone(), |(_, rest)| rest.into()) } else { text })
    };
    read().unwrap_or_default()
}

/// Bytes of memory that a process has now (`VmRSS`) or had at most (`VmHWM`).
pub fn memory(pid: u32, field: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) * 1024
}

/// Begins the peak anew (proc(5), `clear_refs`).
pub fn forget_peak(pid: u32) {
    let _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
}

/// Clock ticks that a process has computed.
pub fn ticks(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields = text.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
    fields.split_whitespace().skip(11).take(2).filter_map(|n| n.parse::<u64>().ok()).sum()
}

/// All processes below one.
pub fn descendants(pid: u32) -> Vec<u32> {
    let parent = |pid: u32| -> Option<u32> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        text.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
    };
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let all: Vec<(u32, u32)> = all
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, parent(pid)?)))
        .collect();
    let (mut found, mut next) = (vec![pid], 0);
    while let Some(above) = found.get(next).copied() {
        found.extend(all.iter().filter(|(_, parent)| *parent == above).map(|(pid, _)| *pid));
        next += 1;
    }
    found.split_off(1)
}

/// As many files as the system allows: each connection is one.
pub fn raise_open_files() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// The most memory that any process of a studio has while `until` isn't done.
pub async fn highest<T>(studio: &Studio, until: impl Future<Output = T>) -> (T, u64) {
    let mut most = 0;
    tokio::pin!(until);
    loop {
        tokio::select! {
            done = &mut until => return (done, most),
            () = tokio::time::sleep(Duration::from_millis(20)) => {
                let all = descendants(studio.pid()).into_iter().chain([studio.pid()]);
                most = all.map(|pid| memory(pid, "VmRSS")).max().unwrap_or(0).max(most);
            }
        }
    }
}
