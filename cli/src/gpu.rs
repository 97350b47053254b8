//! The CUDA worker beside this program, and the GPUs that it finds.

use crate::outcome::{Failure, Outcome};
use api::{
    Problem, RunConfig,
    device::{DeviceChoice, Probe},
};
use std::{
    io::Read,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

const WORKER: &str = "lathe-cuda-worker";
/// A driver that doesn't answer within this time counts as none.
const LIMIT: Duration = Duration::from_secs(30);

/// The CUDA worker, if it stands beside this program and this program isn't it.
pub fn worker() -> Option<PathBuf> {
    let own = std::env::current_exe().ok().filter(|_| !cfg!(feature = "cuda"))?;
    let real = own.canonicalize().ok();
    [Some(own), real].into_iter().flatten().map(|own| own.with_file_name(WORKER)).find(|path| path.is_file())
}

/// The GPUs that it finds; asked once.
pub fn probe() -> &'static Probe {
    static FOUND: OnceLock<Probe> = OnceLock::new();
    FOUND.get_or_init(|| match worker() {
        Some(worker) => ask(&worker),
        None if cfg!(feature = "cuda") => engine::device::probe(),
        None => Probe { gpus: Vec::new(), problem: Some(no_worker()) },
    })
}

/// Continues as the CUDA worker, with the same words, if the device of the configuration comes to a GPU.
pub fn hand_over(config: &RunConfig) -> Outcome {
    let choice = DeviceChoice::read(config.text("device")).map_err(Failure::wrong)?;
    let Some(worker) = worker() else { return Ok(()) };
    let fits = match choice {
        DeviceChoice::Cpu => false,
        DeviceChoice::Auto | DeviceChoice::Cuda(None) => !probe().gpus.is_empty(),
        DeviceChoice::Cuda(Some(n)) => n < probe().gpus.len(),
    };
    match (fits, &probe().problem) {
        (true, _) => {
            let error = Command::new(&worker).args(std::env::args_os().skip(1)).exec();
            Err(Failure::io(&worker, error))
        }
        (false, Some(problem)) if matches!(choice, DeviceChoice::Cuda(_)) => {
            Err(Failure::wrong(problem.clone().field("device")))
        }
        _ => Ok(()),
    }
}

/// `lathe-cuda-worker --probe`: the GPUs as JSON on stdout, or why there are none, also on stderr.
pub fn print() -> ExitCode {
    let found = engine::device::probe();
    println!("{}", serde_json::to_string(&found).unwrap_or_default());
    match found.problem {
        None => ExitCode::SUCCESS,
        Some(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}

fn ask(worker: &Path) -> Probe {
    let child =
        Command::new(worker).arg("--probe").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let said = child.and_then(|mut child| listen(&mut child));
    let problem = match said {
        Ok((out, err)) => match serde_json::from_str::<Probe>(&out) {
            Ok(found) => return found,
            Err(_) => broken(&err),
        },
        Err(error) => broken(&error.to_string()),
    };
    Probe { gpus: Vec::new(), problem: Some(problem) }
}

/// What a short-lived process writes to stdout and stderr.
fn listen(child: &mut Child) -> std::io::Result<(String, String)> {
    let begun = Instant::now();
    while child.try_wait()?.is_none() {
        if begun.elapsed() > LIMIT {
            child.kill()?;
            child.wait()?;
            return Err(std::io::Error::other(format!("no answer within {} seconds", LIMIT.as_secs())));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    // An answer is far smaller than what a pipe holds.
    let (mut out, mut err) = (String::new(), String::new());
    child.stdout.take().map(|pipe| pipe.take(1 << 16).read_to_string(&mut out)).transpose()?;
    child.stderr.take().map(|pipe| pipe.take(1 << 16).read_to_string(&mut err)).transpose()?;
    Ok((out, err))
}

/// The loader names the library that it misses, before anything of the worker runs.
fn missing_library(text: &str) -> Option<&str> {
    let rest = text.split_once("error while loading shared libraries: ")?.1;
    rest.split_once(": ").map(|(library, _)| library)
}

fn broken(text: &str) -> Problem {
    let Some(library) = missing_library(text) else {
        let text = text.lines().next().unwrap_or("it said nothing").trim_end_matches('.');
        return Problem::new(
            "cuda_worker",
            format!("{WORKER} can't be started: {text}."),
            format!("无法启动 {WORKER}：{text}。"),
        )
        .hint("Build it again with `make build CUDA=1`.", "请用 `make build CUDA=1` 重新构建。");
    };
    let problem = Problem::new(
        "cuda_library",
        format!("{WORKER} can't be started: {library} is missing."),
        format!("无法启动 {WORKER}：缺少 {library}。"),
    );
    if library.starts_with("libcuda.") {
        return problem.hint(
            "It comes with the NVIDIA driver: install that, version 580 or newer.",
            "它随 NVIDIA 驱动提供：请安装 580 或更新版本的驱动。",
        );
    }
    problem.hint(
        "Install the libraries of CUDA 13, or put them into a folder named cuda beside the worker; the README says where they come from.",
        "请安装 CUDA 13 的库，或把它们放入工作进程旁名为 cuda 的文件夹；来源见 README。",
    )
}

fn no_worker() -> Problem {
    Problem::new(
        "no_cuda_worker",
        format!("There is no {WORKER} beside this program."),
        format!("此程序旁没有 {WORKER}。"),
    )
    .hint("Build it with `make build CUDA=1`.", "请用 `make build CUDA=1` 构建。")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn answer(script: &str) -> Probe {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(WORKER);
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        ask(&path)
    }

    #[test]
    fn what_a_worker_says_becomes_gpus_or_one_clear_problem() {
        let found = answer(r#"echo '{"gpus":[{"index":0,"name":"H","memory":5}]}'"#);
        assert_eq!((found.gpus.len(), found.problem), (1, None));
        let loader = "echo \"$0: error while loading shared libraries: libcuda.so.1: cannot open shared object file\" >&2; exit 127";
        let problem = answer(loader).problem.unwrap();
        assert_eq!(problem.code, "cuda_library");
        assert!(problem.message.contains("libcuda.so.1 is missing") && problem.hint.contains("driver"), "{problem}");
        let problem = answer(&loader.replace("libcuda.so.1", "libcublas.so.13")).problem.unwrap();
        assert!(problem.hint.contains("README"), "{problem}");
        assert_eq!(answer("exit 3").problem.unwrap().code, "cuda_worker");
    }
}
