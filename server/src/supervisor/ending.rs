//! What is said of a worker that is gone without a last word.

use crate::kernel;
use api::{
    Job, JobKind, Problem,
    job::{Checkpoint, Heartbeat},
    memory::Exhausted,
};
use nix::sys::signal::Signal;
use std::{fs, os::unix::process::ExitStatusExt, path::Path, process::ExitStatus};

/// A worker that was killed when it held this share of the memory had it run out, as far as one can know.
const FULL: f64 = 0.7;

/// How a worker ended, as far as one can know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Signal(i32),
    Code(i32),
    /// It was asked to stop, didn't within so many seconds, and was killed.
    TooSlow(u64),
    /// It wasn't our child, or the machine went off.
    Unknown,
}

impl From<ExitStatus> for Ending {
    fn from(status: ExitStatus) -> Self {
        match (status.signal(), status.code()) {
            (Some(signal), _) => Self::Signal(signal),
            (None, Some(code)) => Self::Code(code),
            (None, None) => Self::Unknown,
        }
    }
}

/// What to show: how the worker of the run folder ended, why that usually happens, and how to go on.
pub fn interrupted(job: &Job, ending: Ending, last: Option<&Checkpoint>, dir: Option<&Path>) -> Problem {
    if ending == Ending::Signal(Signal::SIGKILL as i32)
        && let Some((peak, limit)) = dir.and_then(memory_at_the_end).filter(|(peak, limit)| is_full(*peak, *limit))
    {
        let exhausted = Exhausted {
            step: job.progress.done,
            saved: last.map(|checkpoint| checkpoint.step),
            peak: Some(peak),
            limit: Some(limit),
            config: Some(&job.config),
            plan: job.plan.as_ref(),
        };
        return exhausted.problem();
    }
    let step = job.progress.done;
    let (at_en, at_zh) = match (job.kind, step) {
        (JobKind::Train, 0) => (" before the first step".into(), "（第 1 步之前）".into()),
        (JobKind::Train, _) => (format!(" after step {step}"), format!("（第 {step} 步之后）")),
        _ => (String::new(), String::new()),
    };
    let (code, en, zh) = match ending {
        Ending::Signal(number) => {
            let name = Signal::try_from(number).map_or_else(|_| format!("signal {number}"), |s| s.to_string());
            (
                "worker_killed",
                format!("The worker was ended by {name}{at_en}."),
                format!("工作进程被 {name} 终止{at_zh}。"),
            )
        }
        Ending::Code(code) => (
            "worker_failed",
            format!("The worker ended with exit code {code}{at_en}, without saying why."),
            format!("工作进程以退出码 {code} 结束{at_zh}，未说明原因。"),
        ),
        Ending::TooSlow(seconds) => (
            "worker_too_slow",
            format!("The worker didn't stop within {seconds} seconds and was ended{at_en}."),
            format!("工作进程在 {seconds} 秒内未能停止，已被强制结束{at_zh}。"),
        ),
        Ending::Unknown => (
            "worker_gone",
            format!(
                "The worker is gone without a last word{at_en}: killed, out of memory, or the machine was switched off."
            ),
            format!("工作进程已消失且没有留下结束信息{at_zh}：可能被终止、内存不足或机器关闭。"),
        ),
    };
    let (why_en, why_zh) = cause(job.kind, ending);
    let (next_en, next_zh) = next(job.kind, last);
    Problem::new(code, en, zh).hint(format!("{why_en}{next_en}"), format!("{why_zh}{next_zh}"))
}

/// The most bytes that a worker held by its last sign of life, and what there is to have.
fn memory_at_the_end(dir: &Path) -> Option<(u64, u64)> {
    let beat: Heartbeat = serde_json::from_slice(&fs::read(dir.join(Heartbeat::FILE)).ok()?).ok()?;
    Some((beat.peak_memory?, memory_of_the_machine()?))
}

#[allow(clippy::cast_precision_loss)]
fn is_full(peak: u64, limit: u64) -> bool {
    peak as f64 >= limit as f64 * FULL
}

/// Of this computer, or what the system lets this group of processes have.
fn memory_of_the_machine() -> Option<u64> {
    let total = kernel::memory()?.total;
    let limits = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let limits = limits.iter().filter_map(|file| fs::read_to_string(file).ok()?.trim().parse::<u64>().ok());
    Some(limits.fold(total, u64::min))
}

fn cause(kind: JobKind, ending: Ending) -> (&'static str, &'static str) {
    const SIGKILL: i32 = Signal::SIGKILL as i32;
    const SIGABRT: i32 = Signal::SIGABRT as i32;
    const SIGBUS: i32 = Signal::SIGBUS as i32;
    match ending {
        Ending::Signal(SIGKILL | SIGABRT) if kind == JobKind::Train => (
            "Most often the memory ran out: lower per_device_train_batch_size or cutoff_len, or switch on gradient_checkpointing. ",
            "最常见的原因是内存不足：请减小 per_device_train_batch_size 或 cutoff_len，或开启 gradient_checkpointing。",
        ),
        Ending::Signal(SIGKILL | SIGABRT) => {
            ("Most often the memory ran out: close other programs. ", "最常见的原因是内存不足：请关闭其他程序。")
        }
        Ending::Signal(SIGBUS) => (
            "A model file was changed or cut while it was in use, or the disk failed. ",
            "模型文件在使用中被修改或截断，或磁盘出错。",
        ),
        Ending::Signal(_) | Ending::Code(_) => ("The log may say more. ", "日志中可能有更多信息。"),
        Ending::TooSlow(_) | Ending::Unknown => ("", ""),
    }
}

fn next(kind: JobKind, last: Option<&Checkpoint>) -> (String, String) {
    match (kind, last) {
        (JobKind::Train, Some(Checkpoint { name, step, .. })) => (
            format!("Resume it from {name} (step {step}), or start again."),
            format!("可从 {name}（第 {step} 步）继续，或重新开始。"),
        ),
        (JobKind::Train, None) => {
            ("There is no checkpoint yet: start it again.".into(), "尚无检查点：请重新开始。".into())
        }
        (JobKind::Pull, _) => {
            ("Start it again: it goes on where it stopped.".into(), "请重新开始：会从中断处继续下载。".into())
        }
        (JobKind::Make, _) => {
            ("Resume it: the rows made so far are kept.".into(), "可继续：已生成的数据会保留。".into())
        }
        (JobKind::Export | JobKind::Evaluate, _) => ("Start it again.".into(), "请重新开始。".into()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::store::Record;

    #[test]
    fn a_killed_run_names_signal_step_and_way_on() {
        let mut job = Record::example("a").job;
        job.progress.done = 31;
        let last = Checkpoint { name: "checkpoint-25".into(), step: 25, bytes: 1, path: String::new() };
        let problem = interrupted(&job, Ending::Signal(9), Some(&last), None);
        assert_eq!(problem.message, "The worker was ended by SIGKILL after step 31.");
        assert!(problem.hint.contains("gradient_checkpointing") && problem.hint.contains("checkpoint-25 (step 25)"));
        assert!(problem.message_in("zh").contains("第 31 步") && problem.hint_in("zh").contains("checkpoint-25"));
        let problem = interrupted(&job, Ending::Code(101), None, None);
        assert!(problem.message.contains("101") && problem.hint.contains("no checkpoint"));
    }

    #[test]
    fn r14_a_worker_killed_with_the_memory_full_ran_out_of_it() {
        let mut job = Record::example("a").job;
        job.progress.done = 31;
        let last = Checkpoint { name: "checkpoint-25".into(), step: 25, bytes: 1, path: String::new() };
        let dir = tempfile::tempdir().unwrap();
        let of_peak = |peak: u64| {
            let beat = Heartbeat { time: 1.0, work: 1, peak_memory: Some(peak) };
            fs::write(dir.path().join(Heartbeat::FILE), serde_json::to_vec(&beat).unwrap()).unwrap();
            interrupted(&job, Ending::Signal(9), Some(&last), Some(dir.path()))
        };
        let total = memory_of_the_machine().unwrap();
        let problem = of_peak(total / 10 * 9);
        assert_eq!((problem.code.as_str(), problem.steps.len()), ("out_of_memory", 3));
        assert!(problem.message.contains("after step 31") && problem.hint.contains("from step 25"), "{problem}");
        assert_eq!(of_peak(total / 10).code, "worker_killed");
        let other = interrupted(&job, Ending::Signal(11), Some(&last), Some(dir.path()));
        assert_eq!(other.code, "worker_killed");
    }
}
