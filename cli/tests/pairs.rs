//! `lathe data pairs`: from scores, rankings and votes to a dataset that trains.
#![allow(clippy::unwrap_used)]

mod common;

use serde_json::{Value, json};
use std::{fs, path::Path, process::Output};
use tempfile::TempDir;

/// A data folder with scored, ranked and twice answered questions.
fn home() -> TempDir {
    let home = TempDir::new().unwrap();
    let scored = json!([
        { "prompt": "Which is largest?", "answers": ["a", "b", "c"], "scores": [1, 5, 2] },
        { "prompt": "Who asks?", "answers": ["x", "y"], "scores": [3, 4], "adversarial": true },
    ]);
    let ranked = json!([{ "prompt": "Best first", "ranking": ["one", "two", "three"] }]);
    let answer = |text: &str| json!({ "instruction": "Long or short?", "input": "", "output": text });
    let answered = json!([answer("Long"), answer("Short")]);
    let datasets = home.path().join("datasets");
    fs::create_dir(&datasets).unwrap();
    let mut info = json!({});
    for (name, rows) in [("scored", scored), ("ranked", ranked), ("answered", answered)] {
        fs::write(datasets.join(format!("{name}.json")), rows.to_string()).unwrap();
        info[name] = json!({ "file_name": format!("{name}.json") });
    }
    fs::write(datasets.join("dataset_info.json"), info.to_string()).unwrap();
    home
}

fn lathe(home: &TempDir, words: &[&str]) -> Output {
    let words = [&["data", "pairs"], words].concat();
    common::lathe(home.path(), &words).env("LATHE_HOME", home.path()).output().unwrap()
}

fn told(home: &TempDir, words: &[&str]) -> Value {
    let output = lathe(home, &[words, &["--json"]].concat());
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)))
}

fn rows(home: &Path, name: &str) -> Vec<Value> {
    let text = fs::read_to_string(home.join(format!("datasets/{name}.jsonl"))).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn sources_are_counted_filtered_and_made_into_a_dataset() {
    let home = home();
    let all = told(&home, &["scored", "ranked"]);
    assert_eq!((&all["pairs"]["found"], &all["pairs"]["kept"], &all["dataset"]), (&json!(7), &json!(7), &Value::Null));
    let kept = |words: &[&str]| told(&home, words)["pairs"]["kept"].as_u64().unwrap();
    assert_eq!(kept(&["scored", "ranked", "--pairing", "adjacent"]), 2 + 1 + 2);
    assert_eq!(kept(&["scored", "--min-gap", "2"]), 2);
    assert_eq!(kept(&["scored", "--max-gap", "1"]), 2);
    assert_eq!(kept(&["scored", "--adversarial", "only"]), 1);
    assert_eq!(kept(&["scored", "--on-policy", "0.5"]), 0, "no row says who wrote it");

    let words = ["scored=2", "ranked", "--adversarial", "without", "--name", "best", "--formatting", "sharegpt"];
    let made = told(&home, &words);
    assert_eq!((&made["dataset"]["name"], &made["dataset"]["kind"]), (&json!("best"), &json!("preferences")));
    let best = rows(home.path(), "best");
    assert_eq!((made["pairs"]["rows"].as_u64(), best.len()), (Some(9), 9));
    assert_eq!(best.iter().filter(|row| row["provenance"]["dataset"] == "scored").count(), 6);
    assert_eq!((&best[0]["chosen"]["value"], &best[0]["rejected"]["value"]), (&json!("b"), &json!("c")));
    let marked = told(&home, &["ranked", "--name", "marked", "--rows", "kto"]);
    assert_eq!((&marked["dataset"]["kind"], &marked["dataset"]["rows"]), (&json!("kto"), &json!(2)));
}

#[test]
fn votes_count_and_a_judge_is_held_against_them() {
    let home = home();
    let judged = json!([{ "instruction": "Long or short?", "input": "", "chosen": "Short", "rejected": "Long",
        "provenance": { "source": "judge", "dataset": "answered", "verdicts": ["first", "first"] } }]);
    let datasets = home.path().join("datasets");
    fs::write(datasets.join("judged.json"), judged.to_string()).unwrap();
    let mut info: Value = serde_json::from_slice(&fs::read(datasets.join("dataset_info.json")).unwrap()).unwrap();
    info["judged"] = json!({ "file_name": "judged.json", "ranking": true });
    fs::write(datasets.join("dataset_info.json"), info.to_string()).unwrap();
    let places = engine::Places { home: home.path().into(), hub_cache: home.path().join("hub") };
    let ballot = engine::data::preference::votes::ballot("answered", None, &places).unwrap();
    let pair = &ballot.next[0];
    let vote = if pair.left == "Short" { api::preference::Vote::Left } else { api::preference::Vote::Right };
    let cast = api::preference::CastVote { pair: pair.id.clone(), vote };
    engine::data::preference::votes::ballot("answered", Some(&cast), &places).unwrap();

    // The same two answers: what the person said counts, as it comes first.
    let found = told(&home, &["answered", "judged"]);
    assert_eq!((&found["pairs"]["kept"], &found["pairs"]["dropped"]["duplicate"]), (&json!(1), &json!(1)));
    assert_eq!(found["pairs"]["sources"][0]["origins"], json!(["votes"]));
    assert_eq!(found["pairs"]["sources"][1]["with_votes"], json!({ "pairs": 1, "agreed": 1, "kappa": null }));
    let text = String::from_utf8(lathe(&home, &["answered", "judged"]).stdout).unwrap();
    assert!(text.contains("1 of 1 as the votes say") && text.contains("1 of 2 pairs kept"), "{text}");
}

#[test]
fn what_makes_no_sense_is_refused_and_writes_nothing() {
    let home = home();
    let refused = |words: &[&str], named: &str| {
        let output = lathe(&home, words);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{words:?}: {said}");
        assert!(said.contains(named), "{words:?}: {said}");
    };
    refused(&[], "DATASET");
    refused(&["missing"], "missing");
    refused(&["scored", "missing", "--name", "half"], "missing");
    refused(&["scored=often"], "often");
    refused(&["scored=-1"], "weight");
    refused(&["scored", "--pairing", "some"], "adjacent");
    refused(&["scored", "--min-gap", "3", "--max-gap", "1"], "min_gap");
    refused(&["scored", "--min-gap", "99", "--name", "none"], "No pair");
    refused(&["scored", "--name", "../out"], "../out");
    refused(&["scored", "--name", "scored"], "scored");
    let made = ["half", "none", "out"].map(|name| home.path().join(format!("datasets/{name}.jsonl")).exists());
    assert_eq!(made, [false; 3]);
}
