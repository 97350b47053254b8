//! The files that tools of the field read: `trainer_log.jsonl`, `trainer_state.json`, `train_results.json`.

use super::checkpoint::Best;
use crate::{Error, Result, files::atomic::write_atomically};
use api::{
    job::validated,
    params::{OutputParams, TrainParams},
};
use serde_json::{Map, Value, json};
use std::{
    collections::BTreeMap,
    fs::OpenOptions,
    io::Write,
    path::{Path, PathBuf},
    time::Instant,
};

/// Writes LLaMA-Factory's log lines and keeps transformers' log history.
pub struct TrainerLog {
    dir: PathBuf,
    total: u64,
    settings: Settings,
    begun: Instant,
    first: u64,
    /// Sums and counts of loss and metrics since the last line.
    sums: BTreeMap<String, (f64, f64)>,
    pub history: Vec<Value>,
}

/// Values that are told as they are at a step, or not at all; the others as means since the last line.
const PRESENT: [&str; 3] = ["learning_rate", "grad_norm", "tokens_per_s"];

/// What `trainer_state.json` says of the run's arguments.
struct Settings {
    epochs: f64,
    batch: usize,
    logging_steps: u64,
    eval_steps: u64,
    save_steps: u64,
}

impl TrainerLog {
    /// `first` is the number of steps made before this process, `history` theirs.
    pub fn new(
        dir: &Path,
        total: u64,
        train: &TrainParams,
        output: &OutputParams,
        first: u64,
        history: Vec<Value>,
    ) -> Self {
        let settings = Settings {
            epochs: train.num_train_epochs,
            batch: train.per_device_train_batch_size,
            logging_steps: output.logging_steps.max(1),
            eval_steps: output.eval_steps,
            save_steps: output.save_steps,
        };
        Self { dir: dir.into(), total, settings, begun: Instant::now(), first, sums: BTreeMap::new(), history }
    }

    /// One optimizer step.
    pub fn step(&mut self, step: u64, epoch: f64, values: &BTreeMap<String, f64>) -> Result<()> {
        for (name, value) in values.iter().filter(|(name, _)| !PRESENT.contains(&name.as_str())) {
            let sum = self.sums.entry(name.clone()).or_default();
            *sum = (sum.0 + value, sum.1 + 1.0);
        }
        if !step.is_multiple_of(self.settings.logging_steps) && step != self.total {
            return Ok(());
        }
        let means = std::mem::take(&mut self.sums).into_iter().map(|(name, (sum, count))| (name, sum / count));
        let mut means: BTreeMap<String, f64> = means.collect();
        let rate = values.get("learning_rate").copied().unwrap_or(0.0);
        let norm = values.get("grad_norm").copied().unwrap_or(0.0);
        let mut entry = json!({"epoch": epoch, "grad_norm": norm, "learning_rate": rate, "step": step});
        means.iter().for_each(|(name, mean)| entry[name] = json!(mean));
        self.history.push(entry);
        means.insert("lr".into(), rate);
        self.line(step, epoch, &means)
    }

    /// One evaluation: `eval_loss` and metrics.
    pub fn evaluation(&mut self, step: u64, epoch: f64, values: &BTreeMap<String, f64>) -> Result<()> {
        let mut entry = json!({"epoch": epoch, "step": step});
        values.iter().for_each(|(name, value)| entry[name] = json!(value));
        self.history.push(entry);
        self.line(step, epoch, values)
    }

    /// transformers' `TrainerState`.
    pub fn state(&self, step: u64, epoch: f64, best: Option<&Best>) -> Value {
        let Settings { epochs, batch, logging_steps, eval_steps, save_steps } = self.settings;
        let (best_step, best_metric) = best.and_then(Best::at).unzip();
        let best_place = best.and_then(Best::name).map(|name| self.dir.join(name));
        json!({
            "best_global_step": best_step, "best_metric": best_metric, "best_model_checkpoint": best_place,
            "epoch": epoch, "eval_steps": eval_steps, "global_step": step,
            "is_hyper_param_search": false, "is_local_process_zero": true, "is_world_process_zero": true,
            "log_history": self.history, "logging_steps": logging_steps, "max_steps": self.total,
            "num_input_tokens_seen": 0, "num_train_epochs": epochs.ceil() as u64, "save_steps": save_steps,
            "stateful_callbacks": {}, "total_flos": 0.0, "train_batch_size": batch,
            "trial_name": null, "trial_params": null
        })
    }

    /// Writes `trainer_state.json`, `train_results.json` and `all_results.json` at the end of a run that went through
    /// `samples` samples.
    pub fn finish(&self, step: u64, epoch: f64, samples: f64, best: Option<&Best>) -> Result<BTreeMap<String, f64>> {
        let seconds = self.begun.elapsed().as_secs_f64();
        let losses: Vec<f64> = self.history.iter().filter_map(|h| h["loss"].as_f64()).collect();
        let mut results = BTreeMap::from([
            ("epoch".to_string(), epoch),
            ("train_loss".to_string(), losses.iter().sum::<f64>() / losses.len().max(1) as f64),
            ("train_runtime".to_string(), seconds),
            ("train_samples_per_second".to_string(), samples / seconds.max(1e-9)),
            ("train_steps_per_second".to_string(), step.saturating_sub(self.first) as f64 / seconds.max(1e-9)),
        ]);
        let evaluated = self
            .history
            .iter()
            .rev()
            .filter_map(Value::as_object)
            .find(|h| h.keys().any(|name| validated(name).is_some()));
        let measured = evaluated.into_iter().flatten().filter(|(name, _)| validated(name).is_some());
        results.extend(measured.filter_map(|(name, value)| Some((name.clone(), value.as_f64()?))));
        for (name, value) in [
            ("trainer_state.json", self.state(step, epoch, best)),
            ("train_results.json", json!(results)),
            ("all_results.json", json!(results)),
        ] {
            write_atomically(&self.dir.join(name), pretty(&value).as_bytes())?;
        }
        Ok(results)
    }

    fn line(&self, step: u64, epoch: f64, values: &BTreeMap<String, f64>) -> Result<()> {
        let elapsed = self.begun.elapsed().as_secs_f64();
        let left = elapsed / step.saturating_sub(self.first).max(1) as f64 * self.total.saturating_sub(step) as f64;
        let mut line = Map::new();
        line.insert("current_steps".into(), step.into());
        line.insert("total_steps".into(), self.total.into());
        for (name, value) in values {
            line.insert(name.clone(), if name == "lr" { *value } else { round(*value) }.into());
        }
        line.insert("epoch".into(), round(epoch).into());
        line.insert("percentage".into(), ((step as f64 / self.total.max(1) as f64 * 1e4).round() / 100.0).into());
        line.insert("elapsed_time".into(), clock(elapsed).into());
        line.insert("remaining_time".into(), clock(left).into());
        let path = self.dir.join("trainer_log.jsonl");
        let mut file = OpenOptions::new().create(true).append(true).open(&path).map_err(Error::io(&path))?;
        writeln!(file, "{}", Value::Object(line)).map_err(Error::io(&path))
    }
}

pub(crate) fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default() + "\n"
}

fn round(x: f64) -> f64 {
    (x * 1e4).round() / 1e4
}

fn clock(seconds: f64) -> String {
    let s = seconds as u64;
    format!("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_state_says_the_settings_of_the_run() {
        let dir = tempfile::tempdir().unwrap();
        let train = TrainParams { per_device_train_batch_size: 3, num_train_epochs: 1.5, ..TrainParams::default() };
        let output = OutputParams { eval_steps: 7, save_steps: 11, logging_steps: 2, ..OutputParams::default() };
        let mut log = TrainerLog::new(dir.path(), 20, &train, &output, 0, Vec::new());
        for step in 1..=4 {
            log.step(step, 0.1, &BTreeMap::from([("loss".into(), step as f64)])).unwrap();
        }
        let state = log.state(4, 0.4, None);
        for (key, value) in
            [("eval_steps", 7), ("save_steps", 11), ("logging_steps", 2), ("train_batch_size", 3), ("max_steps", 20)]
        {
            assert_eq!(state[key], value, "{key}");
        }
        assert_eq!((&state["num_train_epochs"], &state["log_history"][1]["loss"]), (&json!(2), &json!(3.5)));
    }
}
