//! A long history, made to measure how the studio holds it (`lathe bench load`, row L05).

use super::{Change, Record, Result, Store};
use crate::error::Error;
use api::{Job, JobKind, JobState, Plan, RunConfig, job::Progress};
use std::{fs, path::Path};

/// Of all points, the first job has every tenth one: a run of a million steps.
const SHARE_OF_LONGEST: u64 = 10;
/// Jobs that are written in one transaction.
const TOGETHER: u64 = 100;

/// Fills a data folder in which no studio runs with jobs that ended, `run-00000` first, and with points of their curves.
pub async fn make(home: &Path, jobs: u64, points: u64) -> std::result::Result<(), Error> {
    let path = home.join("lathe.db");
    let store = Store::open(&path).await?;
    let made = fill(&store, home, jobs, points).await;
    store.close().await;
    made.map_err(|source| Error::Database { path, source })
}

async fn fill(store: &Store, home: &Path, jobs: u64, points: u64) -> Result<()> {
    let longest = points / SHARE_OF_LONGEST;
    let each = (points - longest) / jobs.saturating_sub(1).max(1);
    let mut number = 0;
    while number < jobs {
        let mut change = store.begin().await?;
        for number in number..jobs.min(number + TOGETHER) {
            let record = ended(number);
            change.insert_job(&record).await?;
            change.save_job(&record).await?;
            change.make_points(&record.job.id, if number == 0 { longest } else { each }).await?;
            write_folder(home, &record.job)?;
        }
        change.commit().await?;
        number += TOGETHER;
    }
    Ok(())
}

/// A run that succeeded.
fn ended(number: u64) -> Record {
    let config = serde_json::json!({
        "model_name_or_path": "/models/SmolLM2-135M-Instruct", "stage": "sft", "dataset": "identity,alpaca_en_demo",
        "finetuning_type": "lora", "lora_rank": 16, "learning_rate": 1e-4, "num_train_epochs": 3.0
    });
    let config = RunConfig(config.as_object().cloned().unwrap_or_default());
    let began = 1.7e9 + number as f64;
    let mut record = Record::new(format!("run-{number:05}"), JobKind::Train, config, began);
    let latest = [("loss", 1.2345), ("learning_rate", 1e-5), ("grad_norm", 0.5), ("tokens_per_s", 812.5)];
    let latest = latest.map(|(name, value)| (name.to_owned(), value)).into();
    record.job = Job {
        state: JobState::Succeeded,
        started_at: Some(began),
        finished_at: Some(began + 900.0),
        progress: Progress { done: 900, total: 900, epoch: 3.0, latest, ..Progress::default() },
        plan: Some(Plan { steps: 900, ..Plan::default() }),
        summary: [("train_loss".to_owned(), 1.5)].into(),
        ..record.job
    };
    // All of its event file is read.
    record.cursor = EVENTS.len() as u64;
    record
}

const EVENTS: &str = "{}";

fn write_folder(home: &Path, job: &Job) -> Result<()> {
    let dir = home.join("runs").join(&job.id);
    let spec = serde_json::json!({
        "id": job.id, "kind": job.kind, "config": job.config, "created_at": job.created_at
    });
    fs::create_dir_all(&dir)?;
    fs::write(dir.join("spec.json"), spec.to_string())?;
    Ok(fs::write(dir.join("events.jsonl"), EVENTS)?)
}

const STEPS: &str = "WITH RECURSIVE s (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < ?2)
    INSERT INTO metrics (job, step, kind, epoch, time, value) SELECT ?1, n, 'train', n / 300.0, 1.7e9 + n,
        '{\"loss\":' || (2.0 + (n * 7919 % 1000) / 1000.0) || ',\"learning_rate\":0.0001,\"grad_norm\":0.5}' FROM s";
const VALIDATIONS: &str = "WITH RECURSIVE s (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < ?2 / 100)
    INSERT INTO metrics (job, step, kind, epoch, time, value)
    SELECT ?1, n * 100, 'eval', n / 3.0, 1.7e9 + n, '{\"eval_loss\":2.0}' FROM s";

impl Change {
    /// A point for each step, and a validation each hundred.
    async fn make_points(&mut self, job: &str, steps: u64) -> Result<()> {
        let steps = i64::try_from(steps).unwrap_or(i64::MAX);
        for query in [STEPS, VALIDATIONS] {
            sqlx::query(query).bind(job).bind(steps).execute(&mut *self.tx).await?;
        }
        Ok(())
    }
}
