//! Evaluation of a model: an exam, or a dataset whose answers it predicts. The results stand in the folder of the job.

pub mod classes;
pub mod entities;
pub mod exam;
pub mod numbers;
pub mod predict;
pub mod sacrebleu;
pub mod similarity;
mod subjects;

use crate::{Error, Places, Result, data::Registry, files::atomic, generate::Held, loaded::Loaded, run::Sink};
use api::{
    Event, Outcome, Problem, Problems, RunConfig, Text,
    params::{self, EvalParams, GenerateParams, ModelParams},
};
use exam::{Exam, ExamReport, Examinee};
use predict::{Compared, DataReport, Prediction};
use serde::Serialize;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

/// In the folder of the job: the report, and the predictions.
pub const REPORT: &str = "evaluation.json";
pub const PREDICTIONS: &str = "generated_predictions.jsonl";
/// The template that is none: questions of an exam are one text that the model goes on with.
const FEWSHOT: &str = "fewshot";
/// Longest prediction where nothing is said.
const LONGEST: usize = 512;

/// Everything that an evaluation was asked.
#[derive(Clone, Debug)]
pub struct Arguments {
    pub eval: EvalParams,
    pub model: ModelParams,
    pub generate: GenerateParams,
    datasets: PathBuf,
    /// Whether a template was named that is one.
    talks: bool,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exam: Option<ExamReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<DataReport>,
}

/// Arguments, checked; all problems at once. Predictions are greedy unless `do_sample` is given.
pub fn arguments(config: &RunConfig, places: &Places) -> Result<Arguments> {
    let schemas = [params::schema::<EvalParams>(), params::schema::<ModelParams>(), params::schema::<GenerateParams>()];
    let more = ["finetuning_type", "run_name", "dataset", "dataset_dir"];
    let mut problems = Problems(params::check_keys(config, &schemas, &more));
    let mut config = config.clone();
    if let (None, Some(dataset)) = (config.get("eval_dataset"), config.get("dataset").cloned()) {
        config.set("eval_dataset", dataset);
    }
    let eval = params::read::<EvalParams>(&config).map_err(|p| problems.0.extend(p.0));
    let model = params::read::<ModelParams>(&config).map_err(|p| problems.0.extend(p.0));
    let generate = params::read::<GenerateParams>(&config).map_err(|p| problems.0.extend(p.0));
    let (Ok(mut eval), Ok(mut model), Ok(mut generate)) = (eval, model, generate) else { return Err(problems.into()) };
    eval.task = eval.task.filter(|task| !task.trim().is_empty());
    eval.eval_dataset.retain(|name| !name.trim().is_empty());
    if eval.task.is_none() && eval.eval_dataset.is_empty() {
        problems.push(nothing_to_do());
    }
    generate.do_sample &= config.get("do_sample").is_some();
    generate.num_return_sequences = 1;
    if config.get("max_new_tokens").is_none() && config.get("max_length").is_none() {
        generate.max_new_tokens = LONGEST;
    }
    let talks = model.template.as_deref().is_some_and(|template| !template.is_empty() && template != FEWSHOT);
    if model.template.as_deref() == Some(FEWSHOT) {
        model.template = None;
    }
    let datasets = config.text("dataset_dir").map_or_else(|| places.datasets(), PathBuf::from);
    problems.or(Arguments { eval, model, generate, datasets, talks }).map_err(Into::into)
}

/// Evaluates, and writes the results into the folder `dir`. The summary has the figures by name.
pub fn evaluate(
    config: &RunConfig,
    dir: &Path,
    places: &Places,
    sink: Sink,
    stop: &AtomicBool,
) -> Result<(Outcome, BTreeMap<String, f64>)> {
    let arguments = arguments(config, places)?;
    let eval = &arguments.eval;
    // What is asked is read before the model, which takes longer.
    let exam = eval.task.as_ref().map(|task| Exam::open(task, Path::new(&eval.task_dir))).transpose()?;
    let mut rows = Vec::new();
    if !eval.eval_dataset.is_empty() {
        let registry = Registry::open(&arguments.datasets)?;
        for name in &eval.eval_dataset {
            rows.extend(predict::rows(&registry, name.trim(), eval.max_samples)?);
        }
    }
    let mut work = Work { sink, stop, told: None };
    work.tell(Text::new("Loading the model", "正在加载模型"), 0, 0)?;
    let loaded = Loaded::open(&arguments.model, places, eval.compute_type)?;
    let mut report = Report::default();
    if let Some(exam) = exam {
        let Some(taken) = take(&exam, &loaded, &arguments, &mut work)? else { return Ok(stopped()) };
        let results =
            eval.save_dir.as_deref().filter(|d| !d.is_empty()).map_or_else(|| dir.to_path_buf(), PathBuf::from);
        fs::create_dir_all(&results).map_err(Error::io(&results))?;
        write_json(&results.join("results.json"), &taken.letters())?;
        atomic::write_atomically(&results.join("results.log"), taken.log().as_bytes())?;
        report.exam = Some(taken);
    }
    if !eval.eval_dataset.is_empty() {
        let Some((found, predictions)) = on_data(&rows, &loaded, &arguments, &mut work)? else { return Ok(stopped()) };
        if !predictions.is_empty() {
            write_lines(&dir.join(PREDICTIONS), &predictions)?;
        }
        report.data = Some(found);
    }
    write_json(&dir.join(REPORT), &report)?;
    if let Some(file) = eval.output_file.as_deref().filter(|file| !file.is_empty()) {
        write_json(Path::new(file), &report)?;
    }
    Ok((Outcome::Succeeded, report.summary()))
}

fn stopped() -> (Outcome, BTreeMap<String, f64>) {
    (Outcome::Stopped, BTreeMap::new())
}

fn take(exam: &Exam, loaded: &Loaded, arguments: &Arguments, work: &mut Work) -> Result<Option<ExamReport>> {
    let eval = &arguments.eval;
    let examinee = Examinee::new(loaded, eval, arguments.talks)?;
    let count = exam.questions.len().min(eval.max_samples.unwrap_or(usize::MAX));
    let (mut answers, mut held) = (Vec::with_capacity(count), Held::new(loaded.model.as_ref())?);
    while answers.len() < count {
        if work.stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let numbers = answers.len()..(answers.len() + eval.batch_size).min(count);
        answers.extend(examinee.answer(exam, numbers, &mut held)?);
        work.tell(Text::new("Taking the exam", "正在答题"), answers.len(), count)?;
    }
    Ok(Some(ExamReport::of(eval.task.as_deref().unwrap_or_default(), eval.n_shot, answers)))
}

fn on_data(
    rows: &[crate::data::Example],
    loaded: &Loaded,
    arguments: &Arguments,
    work: &mut Work,
) -> Result<Option<(DataReport, Vec<Prediction>)>> {
    let (eval, stop, count) = (&arguments.eval, work.stop, rows.len());
    let losses = predict::loss(loaded, rows, stop, &mut |done| {
        work.tell(Text::new("Computing the loss", "正在计算损失"), done, count)
    })?;
    let Some((sum, tokens)) = losses else { return Ok(None) };
    let loss = sum / tokens.max(1) as f64;
    let mut report = DataReport {
        datasets: eval.eval_dataset.clone(),
        rows: count,
        loss,
        perplexity: loss.exp(),
        tokens,
        predictions: None,
    };
    if !eval.predict_with_generate {
        return Ok(Some((report, Vec::new())));
    }
    let made = predict::predict(loaded, rows, &arguments.generate, stop, &mut |done| {
        work.tell(Text::new("Answering the rows", "正在逐行作答"), done, count)
    })?;
    let Some(predictions) = made else { return Ok(None) };
    report.predictions = (!predictions.is_empty()).then(|| Compared::of(&predictions));
    Ok(Some((report, predictions)))
}

/// Says how far it is, a few times a second at most.
struct Work<'a, 's> {
    sink: Sink<'s>,
    stop: &'a AtomicBool,
    told: Option<Instant>,
}

impl Work<'_, '_> {
    fn tell(&mut self, text: Text, done: usize, total: usize) -> Result<()> {
        if done < total && self.told.is_some_and(|told| told.elapsed() < Duration::from_millis(500)) {
            return Ok(());
        }
        self.told = Some(Instant::now());
        (self.sink)(Event::Status { text, done: done as u64, total: total as u64 })
    }
}

impl Report {
    /// Figures by name, as they are shown with the job.
    pub fn summary(&self) -> BTreeMap<String, f64> {
        let mut all = BTreeMap::new();
        let mut add = |name: &str, value: f64| {
            all.insert(name.to_owned(), value);
        };
        if let Some(exam) = &self.exam {
            add("accuracy", exam.accuracy);
            add("questions", exam.total.of as f64);
        }
        if let Some(data) = &self.data {
            add("rows", data.rows as f64);
            add("loss", data.loss);
            add("perplexity", data.perplexity);
            if let Some(compared) = &data.predictions {
                let Compared { similarity, sacrebleu, exact_match, classes, entities, numbers, .. } = compared;
                add("bleu-4", similarity.bleu_4);
                add("rouge-1", similarity.rouge_1);
                add("rouge-2", similarity.rouge_2);
                add("rouge-l", similarity.rouge_l);
                add("sacrebleu", *sacrebleu);
                add("exact_match", *exact_match);
                if let Some(classes) = classes {
                    add("label_accuracy", classes.accuracy);
                    add("macro_f1", classes.macro_f1);
                }
                entities.iter().for_each(|score| add("entity_f1", score.f1));
                numbers.iter().for_each(|share| add("number_accuracy", *share));
            }
        }
        all
    }
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value).map_err(|e| Error::Internal(e.to_string()))?;
    text.push('\n');
    atomic::write_atomically(path, text.as_bytes())
}

fn write_lines(path: &Path, predictions: &[Prediction]) -> Result<()> {
    let mut text = String::new();
    for prediction in predictions {
        text += &serde_json::to_string(prediction).map_err(|e| Error::Internal(e.to_string()))?;
        text.push('\n');
    }
    atomic::write_atomically(path, text.as_bytes())
}

fn nothing_to_do() -> Problem {
    Problem::new("nothing_to_evaluate", "Neither an exam nor a dataset is named.", "既未指定考试，也未指定数据集。")
        .hint(
            "Set task, for example to mmlu_test, or eval_dataset to the name of a dataset.",
            "请设置 task（例如 mmlu_test），或将 eval_dataset 设为数据集名称。",
        )
        .field("eval_dataset")
}
