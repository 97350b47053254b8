//! Evaluation against the reference packages, and as a job.
#![allow(clippy::unwrap_used)]

mod common;

use api::{JobKind, Outcome, RunConfig};
use common::jobs::{config_of, heard, places, spec};
use engine::{
    evaluate::{
        PREDICTIONS, REPORT, arguments,
        sacrebleu::{Tokenizer, corpus_bleu},
        similarity::Similarity,
    },
    run,
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::{fs, path::Path};

#[derive(Deserialize)]
struct Fixture {
    pairs: Vec<Pair>,
    corpora: Vec<Corpus>,
}

#[derive(Deserialize)]
struct Pair {
    predict: String,
    label: String,
    #[serde(rename = "bleu-4")]
    bleu_4: f64,
    #[serde(rename = "rouge-1")]
    rouge_1: f64,
    #[serde(rename = "rouge-2")]
    rouge_2: f64,
    #[serde(rename = "rouge-l")]
    rouge_l: f64,
}

#[derive(Deserialize)]
struct Corpus {
    tokenize: String,
    pairs: Vec<(String, String)>,
    score: f64,
}

fn fixture() -> Fixture {
    common::read_json(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/evaluate/similarity.json"))
}

#[test]
fn bleu_and_rouge_are_those_of_llama_factory() {
    for pair in fixture().pairs {
        let found = Similarity::of(&pair.predict, &pair.label);
        let found = [found.bleu_4, found.rouge_1, found.rouge_2, found.rouge_l];
        for (found, wanted) in found.into_iter().zip([pair.bleu_4, pair.rouge_1, pair.rouge_2, pair.rouge_l]) {
            assert!((found - wanted).abs() < 1e-6, "{found} is {wanted} of {:?} and {:?}", pair.predict, pair.label);
        }
    }
}

#[test]
fn corpus_bleu_is_that_of_sacrebleu() {
    for corpus in fixture().corpora {
        let tokenizer = if corpus.tokenize == "zh" { Tokenizer::Chinese } else { Tokenizer::Western };
        let pairs: Vec<(&str, &str)> = corpus.pairs.iter().map(|(p, l)| (p.as_str(), l.as_str())).collect();
        let found = corpus_bleu(&pairs, tokenizer);
        assert!((found - corpus.score).abs() < 1e-6, "{found} is {} of {:?}", corpus.score, corpus.pairs);
    }
}

/// The starter, a data folder with a small dataset, and an exam in each form.
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        let home = Self(tempfile::tempdir().unwrap());
        let data = home.0.path().join("datasets");
        fs::create_dir_all(&data).unwrap();
        let rows: Vec<Value> = (0..6)
            .map(|i| json!({ "instruction": format!("Say {i}."), "output": if i % 2 == 0 { "good" } else { "bad" } }))
            .collect();
        fs::write(data.join("rows.json"), Value::from(rows).to_string()).unwrap();
        fs::write(data.join("dataset_info.json"), r#"{"rows": {"file_name": "rows.json"}}"#).unwrap();
        home
    }

    fn config(&self, more: Value) -> RunConfig {
        let starter = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/starter");
        let mut config = json!({ "model_name_or_path": starter });
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        config_of(config)
    }

    /// The report and the summary of an evaluation that succeeds.
    fn evaluate(&self, more: Value) -> (Value, Value) {
        let (home, dir) = (self.0.path(), self.0.path().join("runs/eval"));
        fs::create_dir_all(&dir).unwrap();
        let spec = spec(JobKind::Evaluate, self.config(more));
        let ended = heard(&dir, None, |sink, stop| run::run(&spec, &dir, &places(home), sink, stop));
        assert_eq!(ended.outcome, Outcome::Succeeded, "{:?}", ended.events.last());
        let last = serde_json::to_value(ended.events.last().unwrap()).unwrap();
        (common::read_json(&dir.join(REPORT)), last["summary"].clone())
    }
}

#[test]
fn a_dataset_is_answered_and_compared() {
    let home = Home::new();
    let (report, summary) = home.evaluate(json!({ "eval_dataset": "rows", "max_new_tokens": 8, "max_samples": 5 }));
    let data = &report["data"];
    let loss = data["loss"].as_f64().unwrap();
    assert!(loss > 0.0 && (data["perplexity"].as_f64().unwrap() - loss.exp()).abs() < 1e-9);
    assert_eq!((&data["rows"], &data["predictions"]["rows"]), (&json!(5), &json!(5)));
    assert_eq!(data["predictions"]["classes"]["labels"], json!(["bad", "good"]));
    assert_eq!(summary["loss"], data["loss"]);
    let lines = fs::read_to_string(home.0.path().join("runs/eval").join(PREDICTIONS)).unwrap();
    let rows: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows.len(), 5);
    for (i, row) in rows.iter().enumerate() {
        assert!(row["prompt"].as_str().unwrap().contains(&format!("Say {i}.")), "{row}");
        assert_eq!(row["label"], if i % 2 == 0 { "good" } else { "bad" });
    }
    // Greedy, so the same again; and the loss alone is the same loss.
    let (again, _) = home.evaluate(json!({ "eval_dataset": "rows", "max_new_tokens": 8, "max_samples": 5 }));
    assert_eq!(again, report);
    let alone = json!({ "eval_dataset": "rows", "predict_with_generate": false, "max_samples": 5 });
    let (alone, _) = home.evaluate(alone);
    assert_eq!((&alone["data"]["loss"], &alone["data"]["predictions"]), (&data["loss"], &Value::Null));
}

#[test]
fn an_exam_is_taken_from_each_form_of_file() {
    let home = Home::new();
    let question =
        |n: usize| [format!("What is {n} + 1?"), format!("{n}"), format!("{}", n + 1), "no".into(), "x".into()];
    let exams = home.0.path().join("evaluation");
    for folder in ["mmlu/test", "mmlu/dev", "ceval/val"] {
        fs::create_dir_all(exams.join(folder)).unwrap();
    }
    let plain = |n: usize| question(n).join(",") + ",B\n";
    fs::write(exams.join("mmlu/test/marketing_test.csv"), (0..5).map(plain).collect::<String>()).unwrap();
    fs::write(exams.join("mmlu/dev/marketing_dev.csv"), (5..7).map(plain).collect::<String>()).unwrap();
    let headed = |n: usize| format!("{n},{},B\n", question(n).join(","));
    let rows = (0..5).map(headed).collect::<String>();
    fs::write(exams.join("ceval/val/law_val.csv"), format!("id,question,A,B,C,D,answer\n{rows}")).unwrap();
    let lines = (0..5).map(|n| {
        let [text, a, b, c, d] = question(n);
        json!({ "subject": "anatomy", "question": text, "A": a, "B": b, "C": c, "D": d, "answer": "B" }).to_string()
            + "\n"
    });
    let file = home.0.path().join("exam.jsonl");
    fs::write(&file, lines.collect::<String>()).unwrap();
    for (task, category) in
        [("mmlu_test", "Other"), ("ceval_validation", "Humanities"), (file.to_str().unwrap(), "Other")]
    {
        let asked = json!({ "task": task, "task_dir": exams, "n_shot": 2, "max_samples": 4, "batch_size": 3 });
        let (report, summary) = home.evaluate(asked);
        let exam = &report["exam"];
        assert_eq!((&exam["total"]["of"], &exam["categories"][category]["of"]), (&json!(4), &json!(4)), "{exam}");
        assert_eq!(summary["accuracy"], exam["accuracy"]);
        let letters: Value = common::read_json(&home.0.path().join("runs/eval/results.json"));
        let given = letters.as_object().unwrap().values().next().unwrap();
        let right = given.as_object().unwrap().values().filter(|letter| **letter == "B").count();
        assert_eq!(exam["total"]["right"], right);
        let log = fs::read_to_string(home.0.path().join("runs/eval/results.log")).unwrap();
        assert!(log.contains("Average: ") && log.contains(category), "{log}");
    }
}

#[test]
fn nonsense_is_refused_by_name() {
    let home = Home::new();
    let problems = |more: Value| {
        let error = arguments(&home.config(more), &places(home.0.path())).unwrap_err();
        error.into_problems().into_iter().map(|p| (p.code, p.field.unwrap_or_default())).collect::<Vec<_>>()
    };
    assert_eq!(problems(json!({})), [("nothing_to_evaluate".to_owned(), "eval_dataset".to_owned())]);
    let fields: Vec<String> =
        problems(json!({ "task": "x", "n_shot": 99, "lang": "fr", "nshot": 1 })).into_iter().map(|(_, f)| f).collect();
    assert_eq!(fields, ["nshot", "lang", "n_shot"]);
    for task in ["mmlu_test", "/no/such.jsonl"] {
        let dir = home.0.path().join("runs/bad");
        fs::create_dir_all(&dir).unwrap();
        let spec = spec(JobKind::Evaluate, home.config(json!({ "task": task })));
        let ended = heard(&dir, None, |sink, stop| run::run(&spec, &dir, &places(home.0.path()), sink, stop));
        assert_eq!(ended.problem().code, "no_exam");
    }
}
