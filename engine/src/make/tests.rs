use super::*;
use crate::data::preview;
use serde_json::{Value, json};
use std::{
    fs,
    path::Path,
    sync::{Arc, Mutex},
};

/// Says what its script has next; `None` asks the job to stop.
struct Scripted {
    script: Arc<Mutex<Vec<Option<Said>>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Teacher for Scripted {
    fn name(&self) -> String {
        "scripted".into()
    }

    fn answer(&mut self, messages: &[Message], _: &Options, stop: &AtomicBool) -> Result<Said> {
        self.asked.lock().unwrap().push(messages[0].content.clone());
        let mut script = self.script.lock().unwrap();
        let next = if script.is_empty() { said("the same old thing") } else { script.remove(0) };
        Ok(next.unwrap_or_else(|| {
            stop.store(true, Ordering::Relaxed);
            Said { text: "too late".into(), confidence: None, whole: true }
        }))
    }
}

fn said(text: &str) -> Option<Said> {
    Some(Said { text: text.into(), confidence: None, whole: true })
}

fn surely(text: &str, confidence: f64) -> Option<Said> {
    Some(Said { text: text.into(), confidence: Some(confidence), whole: true })
}

struct Home(tempfile::TempDir);

struct Ended {
    result: Result<(Outcome, BTreeMap<String, f64>)>,
    asked: Vec<String>,
    events: Vec<Event>,
}

impl Home {
    fn new(info: Value, files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("datasets")).unwrap();
        for (name, text) in files {
            fs::write(dir.path().join("datasets").join(name), text).unwrap();
        }
        fs::write(dir.path().join("datasets/dataset_info.json"), info.to_string()).unwrap();
        Self(dir)
    }

    fn places(&self) -> Places {
        Places { home: self.0.path().into(), hub_cache: self.0.path().join("hub") }
    }

    fn make(&self, id: &str, config: Value, script: Vec<Option<Said>>) -> Ended {
        let asked = Arc::default();
        let script = Arc::new(Mutex::new(script));
        let connect = |endpoint: &Endpoint| -> Result<Box<dyn Teacher>> {
            assert_eq!(endpoint.model, "m");
            Ok(Box::new(Scripted { script: Arc::clone(&script), asked: Arc::clone(&asked) }))
        };
        let mut events = Vec::new();
        let mut sink = |event: Event| {
            events.push(event);
            Ok(())
        };
        let mut config: RunConfig = serde_json::from_value(config).unwrap();
        config.set("base_url", "http://localhost/v1");
        config.set("teacher", "m");
        let stop = AtomicBool::new(false);
        let result = make(&config, id, &self.places(), &connect, &mut sink, &stop);
        let asked = std::mem::take(&mut *asked.lock().unwrap());
        Ended { result, asked, events }
    }

    fn rows(&self, name: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.0.path().join("datasets").join(name)).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn datasets(&self) -> &Path {
        self.0.path()
    }
}

fn seeds() -> Home {
    let rows = "{\"instruction\": \"Write a poem about the sea\"}\n{\"instruction\": \"Sort these numbers upwards\"}\n";
    Home::new(json!({ "seeds": { "file_name": "seeds.jsonl" } }), &[("seeds.jsonl", rows)])
}

#[test]
fn new_tasks_are_answered_filtered_and_say_where_they_come_from() {
    let home = seeds();
    let script = vec![
        said("Task 3: Name three birds of Europe\nand more"),
        said("Robin, wren, kite."),
        said("Write a poem about the sea."),          // a duplicate of a seed
        said("Write a poem about the deep blue sea"), // too similar
        said("Draw a map of Spain"),                  // no text
        said("Go"),                                   // too short
        said("  \n"),                                 // nothing
        said("Explain why bread rises in the oven"),
        said(" "), // no answer
        said("Explain how a lock of a canal works"),
        Some(Said { text: "It has two".into(), confidence: None, whole: false }),
        said("9. \"Translate good morning into French\""),
        said("Bonjour."),
    ];
    let ended = home.make("job", json!({ "dataset": "seeds", "num_rows": 2, "output_dataset": "new" }), script);
    let (outcome, summary) = ended.result.unwrap();
    assert_eq!(outcome, Outcome::Succeeded);
    let count = |name: &str| summary.get(name).copied().unwrap_or_default();
    let dropped =
        ["duplicate", "similar", "word", "length", "empty", "cut"].map(|why| count(&format!("dropped_{why}")));
    assert_eq!((count("rows"), dropped), (2.0, [1.0, 1.0, 1.0, 1.0, 2.0, 1.0]));
    let rows = home.rows("new.jsonl");
    assert_eq!(rows[0]["instruction"], "Name three birds of Europe");
    assert_eq!(
        (&rows[1]["instruction"], &rows[1]["output"]),
        (&json!("Translate good morning into French"), &json!("Bonjour."))
    );
    let from = &rows[0]["provenance"];
    assert_eq!(
        (&from["source"], &from["teacher"], &from["job"]),
        (&json!("self_instruct"), &json!("scripted"), &json!("job"))
    );
    assert_eq!(from["seed_rows"].as_array().map(Vec::len), Some(2));
    assert!(ended.asked[0].contains("Write a poem about the sea") && ended.asked[1] == "Name three birds of Europe");
    // It is a dataset that can be trained on.
    let info = preview::list(&home.places().datasets()).unwrap().into_iter().find(|d| d.name == "new").unwrap();
    assert_eq!((info.rows, info.problem), (2, None));
    assert!(matches!(ended.events.last(), Some(Event::Artifact { path, .. }) if path.ends_with("new.jsonl")));
}

#[test]
fn a_stopped_or_killed_job_goes_on_behind_its_rows() {
    let home = seeds();
    let config = json!({ "dataset": "seeds", "num_rows": 2 });
    let ended = home.make("job", config.clone(), vec![said("Name three birds of Europe"), said("Robin"), None]);
    assert_eq!(ended.result.unwrap().0, Outcome::Stopped);
    assert_eq!(home.rows("job.jsonl").len(), 1);
    // Killed in the middle of a line.
    let path = home.datasets().join("datasets/job.jsonl");
    let mut text = fs::read_to_string(&path).unwrap();
    text.push_str("{\"instruction\": \"hal");
    fs::write(&path, text).unwrap();
    let script = vec![said("Name three birds of Europe"), said("Sing a song of the railway"), said("Tschu")];
    let (outcome, summary) = home.make("job", config.clone(), script).result.unwrap();
    assert_eq!((outcome, summary["dropped_duplicate"], home.rows("job.jsonl").len()), (Outcome::Succeeded, 1.0, 2));
    // Rows of others are never touched.
    let mut taken = config;
    taken["output_dataset"] = "job".into();
    let problem = home.make("other", taken, Vec::new()).result.unwrap_err().into_problem();
    assert_eq!((problem.code.as_str(), problem.field.as_deref()), ("dataset_taken", Some("output_dataset")));
}

#[test]
fn a_teacher_that_repeats_itself_ends_the_job_with_a_sentence() {
    let home = seeds();
    let ended =
        home.make("job", json!({ "dataset": "seeds" }), vec![said("Name three birds of Europe"), said("Robin")]);
    let problem = ended.result.unwrap_err().into_problem();
    assert!(problem.code == "nothing_new" && problem.message.contains("2 rows"), "{problem}");
    assert_eq!(home.rows("job.jsonl").len(), 2, "'the same old thing' was new once");
    assert!(preview::list(&home.places().datasets()).unwrap().iter().any(|d| d.name == "job"));
}

#[test]
fn sure_answers_become_rows_and_the_others_are_kept_apart() {
    let home = Home::new(json!({}), &[("texts.txt", "good film\nbad film\n\nodd film\n")]);
    let file = home.datasets().join("datasets/texts.txt").display().to_string();
    let config =
        json!({ "task": "pseudo_label", "dataset": file, "output_dataset": "mood", "question": "Mood of: {text}?" });
    let script = vec![surely("good", 0.95), None];
    let ended = home.make("job", config.clone(), script);
    assert_eq!(ended.result.unwrap().0, Outcome::Stopped);
    let ended = home.make("job", config.clone(), vec![surely("bad", 0.9), surely("?", 0.3)]);
    let (outcome, summary) = ended.result.unwrap();
    assert_eq!((outcome, summary["rows"], summary["unsure"]), (Outcome::Succeeded, 2.0, 1.0));
    assert_eq!(ended.asked, ["Mood of: bad film?", "Mood of: odd film?"], "the first row isn't asked again");
    let rows = home.rows("mood.jsonl");
    assert_eq!((&rows[0]["output"], &rows[0]["provenance"]["confidence"]), (&json!("good"), &json!(0.95)));
    assert_eq!(home.rows("mood_unsure.jsonl")[0]["instruction"], "Mood of: odd film?");

    let mut several = config.clone();
    (several["samples"], several["output_dataset"]) = (3.into(), "agreed".into());
    let script = ["yes", "Yes.", "no", "a", "b", "c", "x", "x", "x"].map(said).to_vec();
    several["confidence"] = 0.6.into();
    let (_, summary) = home.make("job2", several, script).result.unwrap();
    assert_eq!((summary["rows"], summary["unsure"]), (2.0, 1.0));

    let mut other = config;
    other["output_dataset"] = "third".into();
    let problem = home.make("job3", other, vec![said("no number")]).result.unwrap_err().into_problem();
    assert_eq!((problem.code.as_str(), problem.field.as_deref()), ("no_confidence", Some("samples")));
}

fn sampled() -> Home {
    let rows = [("q", "good"), ("q", "bad"), ("r", "long"), ("r", "short"), ("s", "same"), ("s", "other")];
    let rows: String = rows
        .map(|(q, a)| {
            json!({ "instruction": q, "output": a, "provenance": { "on_policy": a == "good" } }).to_string() + "\n"
        })
        .concat();
    Home::new(json!({ "s": { "file_name": "s.jsonl" } }), &[("s.jsonl", rows.as_str())])
}

#[test]
fn a_judge_is_asked_in_both_orders_and_ties_are_kept_apart() {
    let home = sampled();
    let config = json!({ "task": "judge", "dataset": "s", "output_dataset": "pairs", "criteria": "kind" });
    // Stopped in the middle of the second pair: its first verdict doesn't count.
    let ended = home.make("job", config.clone(), vec![said("[[A]]"), said("[[B]]"), said("[[A]]"), None]);
    assert_eq!(ended.result.unwrap().0, Outcome::Stopped);
    let rows = home.rows("pairs.jsonl");
    assert_eq!((&rows[0]["chosen"], &rows[0]["rejected"]), (&json!("good"), &json!("bad")));
    let from = &rows[0]["provenance"];
    assert_eq!((&from["source"], &from["verdicts"]), (&json!("judge"), &json!(["first", "first"])));
    assert_eq!(from["on_policy"], json!([true, false]));
    let places: Vec<_> = ["good", "bad"].map(|answer| ended.asked.iter().map(|a| a.find(answer)).collect()).to_vec();
    let [good, bad]: [Vec<_>; 2] = places.try_into().unwrap();
    assert!(good[0] < bad[0] && good[1] > bad[1] && ended.asked[0].contains("The better answer is kind"));
    // The judge that always likes the first one doesn't make a pair.
    let ended = home.make("job", config.clone(), vec![said("[[A]]"), said("[[A]]"), said("[[C]]"), said("Equal.")]);
    assert_eq!(ended.asked.len(), 4, "the first pair isn't asked again");
    let (outcome, summary) = ended.result.unwrap();
    assert_eq!((outcome, summary["rows"], summary["ties"], summary["unclear"]), (Outcome::Succeeded, 1.0, 2.0, 0.0));
    assert!((summary["agreement"] - 2.0 / 3.0).abs() < 1e-9);
    assert_eq!(home.rows("pairs_ties.jsonl").len(), 2);
    let datasets = preview::list(&home.places().datasets()).unwrap();
    let kinds: Vec<_> = datasets.iter().map(|d| (d.name.as_str(), d.kind.as_str())).collect();
    assert_eq!(kinds, [("s", "instructions"), ("pairs", "preferences")], "ties are no dataset");
    let wanted = serde_json::from_value(json!({ "sources": [{ "dataset": "pairs" }] })).unwrap();
    let pairs = crate::data::preference::pairs(&wanted, &home.places()).unwrap();
    assert_eq!((pairs.kept, pairs.sources[0].ties, pairs.on_policy), (1, 2, Some(0.5)));
    assert!((pairs.sources[0].agreement.unwrap() - 2.0 / 3.0).abs() < 1e-9);
    // Whoever speaks in riddles makes no pair either, and has no say in the agreement.
    let ended =
        home.make("job2", json!({ "task": "judge", "dataset": "s", "num_rows": 1 }), vec![said("hm"), said("B")]);
    let (_, summary) = ended.result.unwrap();
    assert_eq!((summary["rows"], summary["unclear"], summary.get("agreement")), (0.0, 1.0, None));
}

#[test]
fn samples_are_shared_out_and_go_on_where_they_stopped() {
    let home = seeds();
    let starter = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/starter");
    let config = json!({ "task": "samples", "dataset": "seeds", "output_dataset": "new", "samples": 2,
        "model_name_or_path": starter, "on_policy_share": 0.5, "max_new_tokens": 4, "adversarial": true, "seed": 3 });
    // The starter answers first, then the server.
    let ended = home.make("job", config.clone(), vec![said("one"), None]);
    assert_eq!(ended.result.unwrap().0, Outcome::Stopped);
    assert_eq!(home.rows("new.jsonl").len(), 3);
    let ended = home.make("job", config.clone(), vec![said("two")]);
    let (outcome, summary) = ended.result.unwrap();
    assert_eq!((outcome, summary["rows"], ended.asked.len()), (Outcome::Succeeded, 4.0, 1));
    let rows = home.rows("new.jsonl");
    let from = |name: &str| rows.iter().map(|row| row["provenance"][name].clone()).collect::<Vec<_>>();
    assert_eq!(from("on_policy"), [true, true, false, false]);
    assert_eq!(from("row"), [0, 1, 0, 1]);
    assert_eq!((&from("teacher")[2], &from("adversarial")[0]), (&json!("scripted"), &json!(true)));
    assert_eq!(rows[3]["output"], "two");
    assert_eq!(preview::one(&home.places().datasets(), "new", None).unwrap().problem, None);
}

#[test]
fn what_is_missing_is_said_at_once() {
    let home = seeds();
    let config = |value: Value| serde_json::from_value::<RunConfig>(value).unwrap();
    let fields = |value: Value| {
        let problems = arguments(&config(value), &home.places()).unwrap_err().into_problems();
        problems.into_iter().filter_map(|p| p.field).collect::<Vec<_>>()
    };
    assert_eq!(fields(json!({ "dataset": "sed" })), ["model_name_or_path", "dataset"]);
    assert_eq!(fields(json!({ "dataset": "seeds", "base_url": "http://x" })), ["teacher"]);
    assert_eq!(
        fields(json!({ "dataset": "seeds", "model_name_or_path": "x", "min_words": 9, "max_words": 3 })),
        ["min_words"]
    );
    assert_eq!(fields(json!({ "dataset": "seeds", "model_name_or_path": "x", "smaples": 3 })), ["smaples"]);
    let samples = |more: Value| {
        let mut config = json!({ "task": "samples", "dataset": "seeds", "model_name_or_path": "x" });
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        fields(config)
    };
    assert_eq!(samples(json!({ "samples": 1 })), ["samples"]);
    assert_eq!(samples(json!({ "on_policy_share": 0.5 })), ["checkpoints"]);
}

/// The model of this computer, with probabilities of its own.
#[test]
fn a_local_model_tells_how_sure_it_is() {
    let starter = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/starter");
    let rows =
        "{\"instruction\": \"Hello\", \"output\": \"\"}\n{\"instruction\": \"Who are you?\", \"output\": \"\"}\n";
    let home = Home::new(json!({ "q": { "file_name": "q.jsonl" } }), &[("q.jsonl", rows)]);
    let config = json!({ "task": "pseudo_label", "dataset": "q", "model_name_or_path": starter, "max_new_tokens": 12,
        "do_sample": false, "confidence": 0.0 });
    let config: RunConfig = serde_json::from_value(config).unwrap();
    let stop = AtomicBool::new(false);
    make(&config, "job", &home.places(), &no_endpoints, &mut |_| Ok(()), &stop).unwrap();
    let rows = home.rows("job.jsonl");
    let confidence: Vec<f64> = rows.iter().filter_map(|row| row["provenance"]["confidence"].as_f64()).collect();
    assert!(!confidence.is_empty() && confidence.iter().all(|c| (0.01..=1.0).contains(c)), "{rows:?}");
}
