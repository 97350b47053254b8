//! Jobs that follow each other: each begins once the one before it has succeeded, and works with its result.

use super::Supervisor;
use crate::{
    error::{Failure, Reply},
    store::Record,
};
use api::{Job, Problem, RunConfig, job::NewChain};
use serde_json::Value;
use std::path::PathBuf;

/// Jobs of one chain at most.
const LONGEST_CHAIN: usize = 16;

impl Supervisor {
    /// Puts all jobs of a chain in the queue, or none.
    pub async fn create_chain(&self, chain: NewChain) -> Reply<Vec<Job>> {
        let count = chain.jobs.len();
        if count == 0 || count > LONGEST_CHAIN {
            let problem = Problem::new(
                "chain_length",
                format!("The chain has {count} jobs, it may have 1 to {LONGEST_CHAIN}."),
                format!("任务链有 {count} 个任务，应为 1 到 {LONGEST_CHAIN} 个。"),
            );
            return Err(Failure::bad(problem.hint("Give jobs, in their order.", "请按顺序给出任务。").field("jobs")));
        }
        for (number, job) in chain.jobs.iter().enumerate() {
            check_references(&job.config, number)?;
        }
        let _gate = self.gate.lock().await;
        self.room_in_queue(count).await?;
        let mut records: Vec<Record> = Vec::new();
        for mut new in chain.jobs {
            let folder = |record: &Record| self.dir(&record.job.id);
            let folders: Vec<PathBuf> =
                records.iter().map(folder).collect::<Result<_, _>>().map_err(Failure::internal)?;
            new.config.0.values_mut().for_each(|value| put_folders(value, &folders));
            let mut record = self.fresh(new).await?;
            record.job.after = records.last().map(|before| before.job.id.clone());
            records.push(record);
        }
        self.enqueue(&records.iter().collect::<Vec<_>>()).await?;
        let mut jobs: Vec<Job> = records.into_iter().map(|record| record.job).collect();
        self.tell_reasons(&mut jobs).await?;
        Ok(jobs)
    }
}

/// Replaces `{run:N}` by the N-th folder.
fn put_folders(value: &mut Value, folders: &[PathBuf]) {
    match value {
        Value::String(text) => {
            for (number, folder) in folders.iter().enumerate() {
                *text = text.replace(&format!("{{run:{}}}", number + 1), &folder.display().to_string());
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| put_folders(item, folders)),
        Value::Object(fields) => fields.values_mut().for_each(|item| put_folders(item, folders)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Refuses references to jobs that don't come before the one with this number, from 0.
fn check_references(config: &RunConfig, number: usize) -> Reply<()> {
    for (key, value) in &config.0 {
        let text = value.to_string();
        for reference in text.split("{run:").skip(1) {
            let name = reference.split('}').next().unwrap_or_default();
            if !name.parse::<usize>().is_ok_and(|n| (1..=number).contains(&n)) {
                let problem = Problem::new(
                    "chain_reference",
                    format!("{key} names {{run:{name}}}, but only {number} jobs come before it in the chain."),
                    format!("{key} 引用了 {{run:{name}}}，但链中在它之前只有 {number} 个任务。"),
                );
                let problem = problem.hint("Count from 1, and name an earlier job.", "请从 1 数起，引用更早的任务。");
                return Err(Failure::bad(problem.field(key)));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn folders_stand_where_they_are_named() {
        let mut value = json!(["{run:1},/x", {"in": "{run:2}"}]);
        put_folders(&mut value, &["/a".into(), "/b".into()]);
        assert_eq!(value, json!(["/a,/x", {"in": "/b"}]));
    }

    #[test]
    fn only_earlier_jobs_may_be_named() {
        let config = |text: &str| RunConfig(json!({"reward_model": text}).as_object().unwrap().clone());
        assert!(check_references(&config("{run:1}"), 1).is_ok());
        for text in ["{run:2}", "{run:0}", "{run:x}", "{run:"] {
            assert!(check_references(&config(text), 1).is_err(), "{text}");
        }
    }
}
