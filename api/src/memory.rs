//! What is said where memory ran out, by the worker itself or by the server for a worker that the system ended.

use crate::{
    config::RunConfig,
    plan::{Plan, gigabytes},
    problem::Problem,
};

/// The code of the problem.
pub const OUT_OF_MEMORY: &str = "out_of_memory";

/// What is known of a worker whose memory ran out.
#[derive(Clone, Debug, Default)]
pub struct Exhausted<'a> {
    /// Steps that it had made, and the step of the last checkpoint.
    pub step: u64,
    pub saved: Option<u64>,
    /// The most bytes that it held, and that it might have held.
    pub peak: Option<u64>,
    pub limit: Option<u64>,
    pub config: Option<&'a RunConfig>,
    pub plan: Option<&'a Plan>,
}

impl Exhausted<'_> {
    /// The problem with at least three next steps, with numbers where the plan knows some.
    pub fn problem(&self) -> Problem {
        let (mut en, mut zh) = match self.step {
            0 => ("The memory ran out before the first step was made".into(), "内存不足，第 1 步尚未完成".into()),
            n => (format!("The memory ran out after step {n}"), format!("第 {n} 步之后内存不足")),
        };
        if let Some(peak) = self.peak {
            en += &format!(": the worker held {}", gigabytes(peak));
            zh += &format!("：工作进程占用 {}", gigabytes(peak));
        }
        if let Some(limit) = self.limit {
            en += &format!(" of {} that it might have", gigabytes(limit));
            zh += &format!("，上限为 {}", gigabytes(limit));
        }
        let problem = Problem::new(OUT_OF_MEMORY, format!("{en}."), format!("{zh}。"));
        let problem = match self.saved {
            Some(step) => problem.hint(
                format!("Resume it from step {step} after one of these:"),
                format!("完成以下任一项后，可从第 {step} 步继续："),
            ),
            None => problem.hint("Start it again after one of these:", "完成以下任一项后重新开始："),
        };
        self.remedies(problem)
    }

    fn remedies(&self, problem: Problem) -> Problem {
        let now = self.plan.map(|plan| plan.memory.iter().map(|part| part.bytes).sum());
        let known = self.plan.map(|plan| plan.remedies.as_slice()).unwrap_or_default();
        let problem = problem.steps(known.iter().take(3).map(|fix| fix.step(now)));
        let number = |key: &str| self.config.and_then(|config| config.get(key)?.as_u64());
        let mut more = Vec::new();
        if let (true, Some(batch @ 2..)) = (known.is_empty(), number("per_device_train_batch_size")) {
            let half = batch / 2;
            more.push((
                format!("Set per_device_train_batch_size: {half} instead of {batch}."),
                format!("把 per_device_train_batch_size 从 {batch} 改为 {half}。"),
            ));
        }
        more.extend([
            (
                "Close other programs, or run on a computer with more memory.".to_string(),
                "关闭其他程序，或换用内存更大的电脑。".to_string(),
            ),
            ("Choose a smaller model, or one in fewer bits.".into(), "选择更小的模型，或位数更低的版本。".into()),
            ("Set a shorter cutoff_len.".into(), "把 cutoff_len 设得更短。".into()),
        ]);
        let missing = 3usize.saturating_sub(problem.steps.len());
        more.into_iter().take(missing).fold(problem, |problem, (en, zh)| problem.step(en, zh))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Fix, Part};
    use serde_json::json;

    #[test]
    fn there_are_three_ways_on_in_both_languages_whatever_is_known() {
        let mut config = RunConfig::default();
        config.set("per_device_train_batch_size", 4);
        let mut changes = RunConfig::default();
        changes.set("gradient_checkpointing", json!(true));
        let plan = Plan {
            memory: vec![Part { bytes: 3_400_000_000, ..Part::default() }],
            remedies: vec![Fix { changes, memory: 1_200_000_000, disk: 0 }],
            ..Plan::default()
        };
        let known = Exhausted {
            step: 12,
            saved: Some(10),
            peak: Some(3_000_000_000),
            limit: Some(3_100_000_000),
            config: Some(&config),
            plan: Some(&plan),
        };
        for (exhausted, says) in [
            (known.clone(), "after step 12: the worker held 3.0 GB of 3.1 GB"),
            (Exhausted { plan: None, ..known.clone() }, "after step 12"),
            (Exhausted::default(), "before the first step"),
        ] {
            let problem = exhausted.problem();
            assert!(problem.code == "out_of_memory" && problem.message.contains(says), "{problem}");
            assert_eq!(problem.steps.len(), 3, "{problem}");
            assert!(problem.steps.iter().all(|step| !step.en.is_empty() && !step.zh.is_empty()));
        }
        let steps = known.problem().steps;
        assert_eq!(steps[0].en, "Set gradient_checkpointing: true: about 1.2 GB instead of 3.4 GB.");
        assert!(Exhausted { plan: None, ..known }.problem().steps[0].en.contains("2 instead of 4"));
    }
}
