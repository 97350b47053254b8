//! Several answers to each prompt, from several checkpoints: what people and judges compare. Each checkpoint is loaded in
//! turn and answers all prompts.

use super::{
    Arguments, Work,
    output::answered,
    prompt_hash,
    teacher::{self, Connect, Teacher},
};
use crate::{Error, Places, Result, data::questions, random};
use api::{
    Outcome, Problem, Text,
    data::Message,
    params::{MakeParams, ModelParams},
};
use serde_json::{Map, Value, json};
use std::{
    collections::HashSet,
    ops::ControlFlow,
    time::{Duration, Instant},
};

/// Answers to each prompt where no number is given.
const USUAL: usize = 4;

/// Who answers, and how often each prompt.
struct Checkpoint {
    /// A model of this computer; without one, the server that the job names.
    model: Option<ModelParams>,
    /// The model that is to be trained.
    is_target: bool,
    samples: usize,
}

pub fn run(work: &mut Work, places: &Places, connect: Connect) -> Result<Outcome> {
    let arguments = work.arguments;
    let make = &arguments.make;
    let checkpoints = checkpoints(arguments)?;
    let source = questions::find(&make.dataset, places)?;
    let prompts = source.rows()?.min(make.num_rows.map_or(u64::MAX, |n| n as u64));
    let total = prompts * checkpoints.iter().map(|checkpoint| checkpoint.samples as u64).sum::<u64>();
    let place = |row: &Value, name: &str| row[name].as_u64();
    let earlier = work.output.earlier.iter().map(|row| &row.provenance);
    let done: HashSet<_> =
        earlier.map(|row| (place(row, "checkpoint"), place(row, "row"), place(row, "sample"))).collect();
    for (at, checkpoint) in checkpoints.iter().enumerate().filter(|(_, checkpoint)| checkpoint.samples > 0) {
        let wanted = |row: u64| {
            let sample = |sample: &u64| !done.contains(&(Some(at as u64), Some(row), Some(*sample)));
            (0..checkpoint.samples as u64).filter(sample).collect::<Vec<_>>()
        };
        if (0..prompts).all(|row| wanted(row).is_empty()) {
            continue;
        }
        work.tell(Text::new("Loading a checkpoint", "正在加载检查点"), work.output.rows(), total)?;
        let mut teacher = checkpoint.open(arguments, places, connect)?;
        let mut outcome = Outcome::Succeeded;
        let mut seen = Instant::now();
        source.each(&mut |row, question| {
            if row >= prompts {
                return Ok(ControlFlow::Break(()));
            }
            let Some(question) = question else {
                work.count("dropped_empty");
                return Ok(ControlFlow::Continue(()));
            };
            for sample in wanted(row) {
                match one(work, teacher.as_mut(), checkpoint, [at as u64, row, sample], &question) {
                    Ok(true) => work.made(work.output.rows(), None)?,
                    Ok(false) => {
                        outcome = Outcome::Stopped;
                        return Ok(ControlFlow::Break(()));
                    }
                    Err(Error::Problem(problem)) if problem.code == "prompt_length" => work.count("dropped_length"),
                    Err(error) => return Err(error),
                }
                if seen.elapsed() > Duration::from_secs(1) {
                    seen = Instant::now();
                    work.alive(work.output.rows(), total)?;
                }
            }
            Ok(ControlFlow::Continue(()))
        })?;
        if outcome == Outcome::Stopped {
            return Ok(outcome);
        }
    }
    work.alive(work.output.rows(), total)?;
    Ok(Outcome::Succeeded)
}

/// What is wrong with the checkpoints and numbers of a job.
pub fn check(arguments: &Arguments) -> Result<()> {
    checkpoints(arguments).map(|_| ())
}

/// Samples a prompt and writes the answer; false if the job is to stop.
fn one(
    work: &mut Work,
    teacher: &mut dyn Teacher,
    checkpoint: &Checkpoint,
    [at, row, sample]: [u64; 3],
    question: &str,
) -> Result<bool> {
    let prompt = [Message::new("user", question)];
    let options = work.options(random::mix(at ^ random::mix(row ^ random::mix(sample))));
    let Some(said) = work.ask(teacher, &prompt, &options)? else { return Ok(false) };
    if said.text.trim().is_empty() {
        work.count("dropped_empty");
        return Ok(true);
    }
    let make = &work.arguments.make;
    let generate = &work.arguments.generate;
    let provenance = json!({
        "source": "samples", "dataset": make.dataset, "row": row, "teacher": teacher.name(), "checkpoint": at,
        "sample": sample, "on_policy": checkpoint.is_target, "temperature": generate.temperature, "whole": said.whole,
        "prompt_hash": prompt_hash(&prompt)?,
    });
    let mut provenance: Map<String, Value> = provenance.as_object().cloned().unwrap_or_default();
    provenance.extend(make.adversarial.then(|| ("adversarial".to_owned(), true.into())));
    work.output.add(answered(question, said.text.trim()), provenance)?;
    Ok(true)
}

impl Checkpoint {
    fn open(&self, arguments: &Arguments, places: &Places, connect: Connect) -> Result<Box<dyn Teacher>> {
        match (&self.model, teacher::endpoint(&arguments.make)) {
            (Some(model), _) => teacher::local(model, places),
            (None, Some(endpoint)) => connect(&endpoint),
            (None, None) => Err(Error::Internal("a checkpoint is neither a model nor a server".into())),
        }
    }
}

/// The target first, then the others, then the server; each with its share of the samples.
fn checkpoints(arguments: &Arguments) -> Result<Vec<Checkpoint>> {
    let Arguments { make, model, .. } = arguments;
    let target = (!model.model_name_or_path.is_empty()).then(|| model.clone());
    let others = make.checkpoints.iter().map(|text| text.trim()).filter(|text| !text.is_empty()).map(|text| {
        let (name, adapter) = text.split_once(" + ").map_or((text, None), |(name, adapter)| (name, Some(adapter)));
        let (name, adapter_name_or_path) = (name.trim(), adapter.map(|adapter| adapter.trim().to_owned()));
        // A template that was chosen for one model says nothing about another.
        let template = model.template.clone().filter(|_| name == model.model_name_or_path);
        Some(ModelParams { model_name_or_path: name.to_owned(), adapter_name_or_path, template, ..model.clone() })
    });
    let server = teacher::endpoint(make).map(|_| None);
    let has_target = target.is_some();
    let models: Vec<Option<ModelParams>> = target.map(Some).into_iter().chain(others).chain(server).collect();
    let samples = make.samples.unwrap_or(USUAL);
    if samples < 2 {
        return Err(too_few(samples).into());
    }
    let shares = shares(make, samples, models.len(), has_target)?;
    let each = models.into_iter().zip(shares).enumerate();
    Ok(each.map(|(i, (model, samples))| Checkpoint { model, is_target: has_target && i == 0, samples }).collect())
}

/// How many of the samples come from each of `count` checkpoints, of which the first is the target.
fn shares(make: &MakeParams, samples: usize, count: usize, has_target: bool) -> Result<Vec<usize>> {
    let even =
        |samples: usize, count: usize| (0..count).map(move |i| samples / count + usize::from(i < samples % count));
    let Some(share) = make.on_policy_share.filter(|_| has_target) else { return Ok(even(samples, count).collect()) };
    let own = (share * samples as f64).round() as usize;
    if own < samples && count < 2 {
        return Err(no_others(share).into());
    }
    Ok([own].into_iter().chain(even(samples - own, count - 1)).collect())
}

fn too_few(samples: usize) -> Problem {
    Problem::new(
        "bad_value",
        format!("samples is {samples}, must be at least 2: one answer can't be compared."),
        format!("samples 为 {samples}，至少应为 2：只有一个回答无法比较。"),
    )
    .hint("Set it to 4.", "请设为 4。")
    .field("samples")
}

fn no_others(share: f64) -> Problem {
    Problem::new(
        "no_checkpoints",
        format!("on_policy_share is {share}, but no other checkpoint answers the rest."),
        format!("on_policy_share 为 {share}，但没有其他检查点提供其余回答。"),
    )
    .hint("Name other checkpoints, or leave it empty.", "请填写其他检查点，或将其留空。")
    .field("checkpoints")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_samples_are_shared_out() {
        let shares = |share: Option<f64>, samples, count| {
            let make = MakeParams { on_policy_share: share, ..MakeParams::default() };
            shares(&make, samples, count, true).map_err(|e| e.into_problem().field)
        };
        assert_eq!(shares(None, 5, 3).unwrap(), [2, 2, 1]);
        assert_eq!(shares(Some(0.75), 4, 2).unwrap(), [3, 1]);
        assert_eq!(shares(Some(0.0), 4, 3).unwrap(), [0, 2, 2]);
        assert_eq!(shares(Some(1.0), 4, 1).unwrap(), [4]);
        assert_eq!(shares(Some(0.5), 4, 1).unwrap_err().as_deref(), Some("checkpoints"));
    }
}
