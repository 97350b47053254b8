//! The best checkpoint of a run by a metric of its validation, as transformers has it: `load_best_model_at_end`,
//! `metric_for_best_model`, `greater_is_better`. Whatever is best is saved, so that it can be loaded.

use super::folder;
use crate::{Result, data::Needs, stages::Stage};
use api::{
    Problem,
    job::{validated, validation_name},
    params::OutputParams,
};
use serde_json::Value;
use std::{collections::BTreeMap, path::Path};

#[derive(Clone, Debug, PartialEq)]
pub struct Best {
    /// As validations name it, with `eval_` before it.
    pub metric: String,
    greater: bool,
    /// Step and value of the best checkpoint.
    saved: Option<(u64, f64)>,
    /// Of a better model that isn't saved yet.
    due: Option<(u64, f64)>,
}

impl Best {
    /// What a run looks for, if it does.
    pub fn wanted(output: &OutputParams, stage: &dyn Stage) -> Option<Self> {
        let named = output.metric_for_best_model.as_deref().map(str::trim).filter(|name| !name.is_empty());
        if named.is_none() && !output.load_best_model_at_end {
            return None;
        }
        let usual = if stage.needs() == Needs::Prompts { "reward" } else { "loss" };
        let plain = plain(named.unwrap_or(usual));
        let greater = output.greater_is_better.unwrap_or(!plain.ends_with("loss"));
        Some(Self { metric: validation_name(plain), greater, saved: None, due: None })
    }

    /// Refuses a wish that no validation can meet.
    pub fn check(output: &OutputParams, stage: &dyn Stage, validates: bool) -> Result<()> {
        let Some(best) = Self::wanted(output, stage) else { return Ok(()) };
        if !validates {
            let field = if output.load_best_model_at_end { "load_best_model_at_end" } else { "metric_for_best_model" };
            return Err(Problem::new(
                "no_validation",
                format!("{field} is set, but there is no validation set that says which checkpoint is best."),
                format!("已设置 {field}，但没有用来判断最佳检查点的验证集。"),
            )
            .hint("Set val_size, for example to 0.1, or eval_dataset.", "请设置 val_size（例如 0.1）或 eval_dataset。")
            .field(field)
            .into());
        }
        let known = known(stage);
        if known.iter().any(|name| *name == plain(&best.metric)) {
            return Ok(());
        }
        let (metric, known) = (&best.metric, known.iter().map(|name| validation_name(name)).collect::<Vec<_>>());
        Err(Problem::new(
            "unknown_metric",
            format!("metric_for_best_model is {metric}, which no validation of this stage measures."),
            format!("metric_for_best_model 为 {metric}，此阶段的验证不测量它。"),
        )
        .hint(format!("Known: {}.", known.join(", ")), format!("可用：{}。", known.join("、")))
        .field("metric_for_best_model")
        .into())
    }

    /// Takes up what a validation found at a step.
    pub fn measured(&mut self, step: u64, values: &BTreeMap<String, f64>) -> Result<()> {
        let Some(value) = values.get(&self.metric) else {
            let (metric, known) = (&self.metric, values.keys().cloned().collect::<Vec<_>>());
            return Err(Problem::new(
                "unknown_metric",
                format!("metric_for_best_model is {metric}, but the validation measured other figures."),
                format!("metric_for_best_model 为 {metric}，但验证测得的是其他指标。"),
            )
            .hint(format!("It measured {}.", known.join(", ")), format!("测得：{}。", known.join("、")))
            .field("metric_for_best_model")
            .into());
        };
        if value.is_finite() && self.saved.is_none_or(|(_, best)| self.is_better(*value, best)) {
            self.due = Some((step, *value));
        }
        Ok(())
    }

    /// Takes up the best of earlier validations whose checkpoints stand in the run folder.
    pub fn restore(&mut self, history: &[Value], dir: &Path) {
        for entry in history {
            let (Some(step), Some(value)) = (entry["step"].as_u64(), entry[&self.metric].as_f64()) else { continue };
            let better = self.saved.is_none_or(|(_, best)| self.is_better(value, best));
            if better && dir.join(folder(step)).is_dir() {
                self.saved = Some((step, value));
            }
        }
    }

    /// Whether the present step is better than what was saved.
    pub fn is_due(&self) -> bool {
        self.due.is_some()
    }

    /// Step and value of the best, the present one included.
    pub fn at(&self) -> Option<(u64, f64)> {
        self.due.or(self.saved)
    }

    /// The folder of the best checkpoint in its run's, the present one included.
    pub fn name(&self) -> Option<String> {
        self.at().map(|(step, _)| folder(step))
    }

    /// Hears whether the present step was saved. If not, what was best before stays so.
    pub fn settle(&mut self, saved: bool) {
        let due = self.due.take();
        if saved {
            self.saved = due.or(self.saved);
        }
    }

    fn is_better(&self, value: f64, than: f64) -> bool {
        if self.greater { value > than } else { value < than }
    }
}

fn plain(metric: &str) -> &str {
    validated(metric).unwrap_or(metric)
}

/// What validations of a stage may measure.
fn known(stage: &dyn Stage) -> Vec<String> {
    match stage.needs() {
        Needs::Prompts => vec!["reward".into()],
        _ => std::iter::once("loss".into()).chain(stage.metrics().into_iter().map(|card| card.name)).collect(),
    }
}
