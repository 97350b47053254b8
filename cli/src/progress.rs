//! What a person sees of work that takes time, on stderr: a bar in a terminal, now and then a line elsewhere.

use crate::say::Say;
use api::{Event, JobKind, Line, Outcome, Plan, job::Spec};
use indicatif::{ProgressBar, ProgressStyle};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Between two lines where there is no bar.
const PACE: Duration = Duration::from_secs(2);

/// A bar of bytes.
pub fn bytes() -> ProgressBar {
    bar("{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} ETA {eta}")
}

/// Follows the events of a run.
pub struct Watch<'a> {
    say: &'a Say,
    /// The job that is followed, and what it does.
    job: String,
    kind: JobKind,
    bar: ProgressBar,
    told: Option<Instant>,
}

impl<'a> Watch<'a> {
    pub fn new(say: &'a Say, spec: &Spec) -> Self {
        Self {
            say,
            job: spec.id.clone(),
            kind: spec.kind,
            bar: bar("[{bar:30}] {pos}/{len} {msg} ETA {eta}"),
            told: None,
        }
    }

    pub fn line(&mut self, line: &Line) {
        match &line.event {
            Event::Started { .. } => {}
            Event::Status { text, done, total } => {
                let text = self.say.text(text).to_string();
                if *total > 0 {
                    self.bar.set_length(*total);
                    self.bar.set_position(*done);
                }
                if self.bar.is_hidden() && *done == 0 {
                    self.say.note(&text);
                }
                self.bar.set_message(text);
            }
            Event::Planned { plan } => {
                self.bar.set_length(plan.steps);
                self.above(&planned(plan, self.say.is_chinese()));
            }
            Event::Metrics { step, values, .. } => self.metrics(*step, values),
            Event::Checkpoint { name, bytes, .. } => {
                let megabytes = *bytes as f64 / 1e6;
                let (en, zh) =
                    (format!("Saved {name} ({megabytes:.1} MB)"), format!("已保存 {name}（{megabytes:.1} MB）"));
                self.above(if self.say.is_chinese() { &zh } else { &en });
            }
            Event::Note { problem } => {
                let hint = problem.hint_in(&self.say.language);
                self.above(&format!("{} {hint}", problem.message_in(&self.say.language)));
            }
            Event::Artifact { path, .. } => {
                self.bar.suspend(|| {
                    if !self.say.json {
                        self.say.line(path)
                    }
                });
            }
            Event::Finished { outcome, summary, .. } => {
                self.bar.finish_and_clear();
                if self.kind == JobKind::Make {
                    self.say.note(&listed(summary));
                    if *outcome == Outcome::Stopped {
                        let job = &self.job;
                        self.say.note(&match self.say.is_chinese() {
                            true => format!("已停止，已生成的数据会保留。用 lathe data make --resume {job} 继续。"),
                            false => format!("Stopped; the rows are kept. Go on with lathe data make --resume {job}."),
                        });
                    }
                } else if *outcome == Outcome::Stopped {
                    self.say.note(match self.say.is_chinese() {
                        true => "已停止并保存。用 resume_from_checkpoint=true 和同一 output_dir 继续。",
                        false => "Stopped and saved. Go on with resume_from_checkpoint=true and the same output_dir.",
                    });
                }
            }
        }
    }

    pub fn end(&self) {
        self.bar.finish_and_clear();
    }

    fn metrics(&mut self, step: u64, values: &BTreeMap<String, f64>) {
        let get = |name: &str| values.get(name).copied();
        if let Some(loss) = get("eval_loss") {
            return self.above(&format!("{step}: eval_loss {loss:.4}"));
        }
        let part = |name: &str, show: &dyn Fn(f64) -> String| get(name).map(show);
        let parts = [
            part("loss", &|v| format!("loss {v:.4}")),
            part("learning_rate", &|v| format!("lr {v:.2e}")),
            part("tokens_per_s", &|v| format!("{v:.0} tokens/s")),
        ];
        let text = parts.into_iter().flatten().collect::<Vec<_>>().join("  ");
        let text = if self.kind == JobKind::Make { listed(values) } else { text };
        self.bar.set_position(step);
        if self.bar.is_hidden() && !self.say.json && self.told.is_none_or(|told| told.elapsed() >= PACE) {
            self.told = Some(Instant::now());
            let of = self.bar.length().unwrap_or(0);
            self.say.note(&format!("{step}/{of}  {text}"));
        }
        self.bar.set_message(text);
    }

    /// A line that stays, above the bar.
    fn above(&self, text: &str) {
        self.bar.suspend(|| self.say.note(text));
    }
}

/// `rows 3  dropped_similar 1`.
fn listed(values: &BTreeMap<String, f64>) -> String {
    let shown = values.iter().map(|(name, value)| format!("{name} {}", (value * 100.0).round() / 100.0));
    shown.collect::<Vec<_>>().join("  ")
}

/// A plan in a line.
pub fn planned(plan: &Plan, chinese: bool) -> String {
    let Plan { model, samples, steps, trainable, device, compute, .. } = plan;
    let millions = *trainable as f64 / 1e6;
    let gigabytes = plan.memory.iter().map(|part| part.bytes).sum::<u64>() as f64 / 1e9;
    if chinese {
        return format!(
            "{model}：{samples} 条样本，{steps} 步，训练 {millions:.2}M 参数，约需 {gigabytes:.2} GB，{device} {compute}"
        );
    }
    format!(
        "{model}: {samples} samples, {steps} steps, {millions:.2}M parameters trained, about {gigabytes:.2} GB, {device} {compute}"
    )
}

fn bar(template: &str) -> ProgressBar {
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}
