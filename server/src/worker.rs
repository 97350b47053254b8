//! Worker processes: how they are started, whether they live, how they are signalled. No shell, a fixed argument list,
//! an environment by allow-list.

use crate::{store::Worker, supervisor::Slot};
use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};
use std::{
    ffi::{OsStr, OsString},
    fs::{self, File, OpenOptions, TryLockError},
    io,
    path::{Path, PathBuf},
    process::Stdio,
};
use tokio::process::{Child, Command};

/// The program that does the work: `PROGRAM ARGS… RUN_DIR`, `PROGRAM ARGS… --ask`, `PROGRAM ARGS… --chat`.
#[derive(Clone, Debug)]
pub struct Program {
    pub path: PathBuf,
    pub args: Vec<OsString>,
    /// Its whole environment, of which only what [`allowed_environment`] lets pass is used.
    pub env: Vec<(OsString, OsString)>,
    /// Takes the same arguments, and `--device cuda:N` after them.
    pub cuda: Option<CudaWorker>,
}

/// The worker for GPUs, and how many it found.
#[derive(Clone, Debug)]
pub struct CudaWorker {
    pub path: PathBuf,
    pub gpus: usize,
}

/// Of an environment, what a worker may see: nothing that looks like a secret, nothing it doesn't need.
pub fn allowed_environment(
    all: impl IntoIterator<Item = (OsString, OsString)>,
) -> impl Iterator<Item = (OsString, OsString)> {
    all.into_iter().filter(|(name, _)| is_allowed(name))
}

impl Program {
    pub fn gpus(&self) -> usize {
        self.cuda.as_ref().map_or(0, |cuda| cuda.gpus)
    }

    /// Starts the job of a run folder. It outlives the server and belongs to no terminal. `secrets`: variables that it
    /// gets beside those that every worker may see.
    pub fn start_job(&self, dir: &Path, slot: Slot, secrets: &[&str]) -> io::Result<Child> {
        let log = OpenOptions::new().create(true).append(true).open(dir.join("worker.log"))?;
        let mut command = match (slot, &self.cuda) {
            (Slot::Gpu(n), Some(cuda)) => self.command(&cuda.path, Some(n)),
            _ => self.command(&self.path, None),
        };
        command.envs(self.env.iter().filter(|(name, _)| secrets.iter().any(|secret| name == secret)).cloned());
        command.arg(dir).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        spawn(command)
    }

    /// Starts a worker that answers one question. It needs no GPU to know what a run on one would do.
    pub fn start_question(&self) -> io::Result<Child> {
        start_piped(self.command(&self.path, self.cuda.as_ref().map(|_| 0)), "--ask")
    }

    /// Starts a worker that chats: on the last GPU, since training begins with the first.
    pub fn start_chat(&self) -> io::Result<Child> {
        let command = match &self.cuda {
            Some(cuda) => self.command(&cuda.path, cuda.gpus.checked_sub(1)),
            None => self.command(&self.path, None),
        };
        start_piped(command, "--chat")
    }

    fn command(&self, path: &Path, gpu: Option<usize>) -> Command {
        let mut command = Command::new(path);
        command.args(&self.args).env_clear().envs(allowed_environment(self.env.clone())).process_group(0);
        if let Some(n) = gpu {
            command.args(["--device".to_owned(), format!("cuda:{n}")]);
        }
        command
    }
}

impl Worker {
    /// The process that has this pid now, unless it has ended and only waits for its parent.
    pub fn find(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name, in parentheses, may hold anything: what counts comes after the last one.
        let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
        let is_running = fields.next().is_some_and(|state| !matches!(state, "Z" | "X"));
        let start = fields.nth(18)?.parse().ok()?;
        (is_running && pid > 0).then_some(Self { pid, start })
    }

    /// As [`find`](Self::find), if the process was there at `time` (seconds since 1970): a later one only has the same pid.
    pub fn find_at(pid: u32, time: f64) -> Option<Self> {
        let worker = Self::find(pid)?;
        let boot: f64 = fs::read_to_string("/proc/stat")
            .ok()?
            .lines()
            .find_map(|line| line.strip_prefix("btime "))
            .and_then(|seconds| seconds.trim().parse().ok())?;
        // USER_HZ is 100 on every Linux that candle runs on; `btime` is cut to whole seconds.
        #[allow(clippy::cast_precision_loss)]
        let started = boot + worker.start as f64 / 100.0;
        (started <= time + 2.0).then_some(worker)
    }

    pub fn is_alive(self) -> bool {
        Self::find(self.pid) == Some(self)
    }

    /// Signals the process only (SIGTERM) or its group (SIGKILL), if it is still the same one.
    pub fn signal(self, signal: Signal) -> bool {
        let Some(pid) = i32::try_from(self.pid).ok().filter(|pid| *pid > 1 && self.is_alive()) else { return false };
        if signal == Signal::SIGKILL && killpg(Pid::from_raw(pid), signal).is_ok() {
            return true;
        }
        kill(Pid::from_raw(pid), signal).is_ok()
    }
}

/// Whether a worker holds the run folder. Looks without waiting; asked only of folders whose worker has begun.
pub fn is_locked(dir: &Path) -> bool {
    let Ok(file) = File::open(dir.join("worker.lock")) else { return false };
    matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock))
}

/// A worker that talks over its standard streams and ends with the server.
fn start_piped(mut command: Command, mode: &str) -> io::Result<Child> {
    command.arg(mode).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    spawn(command)
}

fn spawn(mut command: Command) -> io::Result<Child> {
    let child = command.spawn()?;
    if let Some(pid) = child.id() {
        // When memory runs out the kernel takes the worker, not the server.
        let _ = fs::write(format!("/proc/{pid}/oom_score_adj"), "500");
    }
    Ok(child)
}

fn is_allowed(name: &OsStr) -> bool {
    const NAMES: &[&str] = &[
        "PATH",
        "HOME",
        "USER",
        "LANG",
        "LANGUAGE",
        "TZ",
        "TMPDIR",
        "TERM",
        "NO_COLOR",
        "LD_LIBRARY_PATH",
        "HF_HOME",
        "HF_HUB_CACHE",
        "HF_HUB_OFFLINE",
        "XDG_CACHE_HOME",
        "XDG_DATA_HOME",
    ];
    const PREFIXES: &[&str] = &["LC_", "LATHE_", "RUST_", "RAYON_", "OMP_", "CUDA_", "NVIDIA_", "MODELSCOPE_CACHE"];
    const SECRETS: &[&str] = &["WEBHOOK", "TOKEN", "SECRET", "PASSWORD", "CREDENTIAL", "API_KEY"];
    let Some(name) = name.to_str() else { return false };
    let upper = name.to_ascii_uppercase();
    (NAMES.contains(&name) || PREFIXES.iter().any(|p| name.starts_with(p)))
        && !SECRETS.iter().any(|s| upper.contains(s))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn secrets_stay_out_of_the_environment() {
        let all = [
            "PATH",
            "HF_HOME",
            "HF_TOKEN",
            "LATHE_TEACHER_API_KEY",
            "LATHE_HOME",
            "LATHE_TOKEN",
            "AWS_SECRET_ACCESS_KEY",
            "LD_PRELOAD",
        ];
        let all = all.map(|name| (OsString::from(name), OsString::from("x")));
        let kept: Vec<_> = allowed_environment(all).map(|(name, _)| name.into_string().unwrap()).collect();
        assert_eq!(kept, ["PATH", "HF_HOME", "LATHE_HOME"]);
    }

    #[test]
    fn a_process_is_known_by_its_start() {
        let me = Worker::find(std::process::id()).unwrap();
        assert!(me.is_alive());
        let reused = Worker { start: me.start + 1, ..me };
        assert!(!reused.is_alive());
        assert!(!reused.signal(Signal::SIGTERM));
        assert_eq!(Worker::find_at(me.pid, crate::time::now()), Some(me));
        assert_eq!(Worker::find_at(me.pid, crate::time::now() - 3600.0 * 24.0), None);
        assert_eq!(Worker::find(0), None);
    }

    #[test]
    fn a_held_lock_is_seen_without_taking_it() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!is_locked(dir.path()));
        let file = File::create(dir.path().join("worker.lock")).unwrap();
        assert!(!is_locked(dir.path()));
        file.lock().unwrap();
        assert!(is_locked(dir.path()));
        drop(file);
        assert!(!is_locked(dir.path()));
    }
}
