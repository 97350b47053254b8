//! Against what the trainer itself reads, with the starter's tokenizer.

use super::*;
use api::data::Flaw;
use serde_json::{Value, json};
use std::fs;
use std::time::Duration;

/// A data folder with the starter and datasets: name, file, content. Its entries in `dataset_info.json` are `{"file_name"}`.
pub fn home(datasets: &[(&str, &str, &str)]) -> (tempfile::TempDir, Places) {
    let dir = tempfile::tempdir().unwrap();
    let places = Places { home: dir.path().into(), hub_cache: dir.path().join("hub") };
    fs::create_dir_all(places.models()).unwrap();
    fs::create_dir_all(places.datasets()).unwrap();
    let starter = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/starter");
    std::os::unix::fs::symlink(starter.canonicalize().unwrap(), places.models().join("starter")).unwrap();
    let entries = datasets.iter().map(|(name, file, _)| (name.to_string(), json!({ "file_name": file })));
    let info = Value::Object(entries.collect());
    fs::write(places.datasets().join("dataset_info.json"), info.to_string()).unwrap();
    for (_, file, content) in datasets {
        fs::write(places.datasets().join(file), content).unwrap();
    }
    (dir, places)
}

pub fn config(value: Value) -> RunConfig {
    RunConfig(value.as_object().unwrap().clone())
}

/// SHA-256 of each sample that a run would train on.
fn trained_on(places: &Places, dataset: &str, more: Value) -> Vec<String> {
    let mut config = config(more);
    config.set("model_name_or_path", "starter");
    config.set("dataset", dataset);
    let prepared = prepare::prepare(&config, places, &mut |_, _| Ok(())).unwrap();
    let sha256 = |i: u32| {
        let batch = prepared.samples.batch(&[i]).unwrap();
        let mut words = batch.ids.clone();
        batch.rows.iter().for_each(|row| words[*row as usize + 1] |= 1 << 31);
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect()
    };
    (0..prepared.samples.len() as u32).map(sha256).collect()
}

#[test]
fn tokens_shown_are_tokens_trained_on() {
    let rows = json!([
        {"instruction": "Who are you?", "input": "", "output": "I am Lathe."},
        {"instruction": "说", "input": "“你好” 🙂", "output": "你好，世界！🙂 naïve\n\tend"},
        {"instruction": "Count", "input": "to forty", "output": "one two three four five six seven ".repeat(20)},
    ]);
    let texts = "{\"text\": \"plain text of a page\"}\n{\"text\": \"and another, longer one\"}\n";
    let (_dir, places) = home(&[("rows", "rows.json", &rows.to_string()), ("texts", "texts.jsonl", texts)]);
    let show =
        |name: &str, row: u64, more: Value| tokens(&places.datasets(), name, row, &config(more), &places).unwrap();
    for more in [
        json!({}),
        json!({"cutoff_len": 48}),
        json!({"cutoff_len": 48, "train_on_prompt": true}),
        json!({"template": "chatml", "mask_history": true}),
        json!({"stage": "pt", "packing": false, "cutoff_len": 48}),
    ] {
        let wanted = trained_on(&places, "rows", more.clone());
        let shown: Vec<String> = (0..3).map(|row| show("rows", row, more.clone()).sha256).collect();
        assert_eq!(shown, wanted, "{more}");
    }
    let pt = json!({"stage": "pt", "packing": false, "cutoff_len": 6});
    let mut entry: Value =
        serde_json::from_str(&fs::read_to_string(places.datasets().join("dataset_info.json")).unwrap()).unwrap();
    entry["texts"]["columns"] = json!({"prompt": "text"});
    fs::write(places.datasets().join("dataset_info.json"), entry.to_string()).unwrap();
    let shown: Vec<String> = (0..2).map(|row| show("texts", row, pt.clone()).sha256).collect();
    assert_eq!(shown, trained_on(&places, "texts", pt));

    // What is cut off is shown, too, and the tokens together are the text.
    let cut = show("rows", 2, json!({"cutoff_len": 48}));
    assert_eq!((cut.kept, cut.cutoff_len), (48, 48));
    assert!(cut.tokens.len() > 48 && cut.trained < 48 && cut.tokens[0].special);
    let text: String = cut.tokens.iter().map(|token| token.text.as_str()).collect();
    assert!(text.contains("Count\nto forty") && text.contains("six seven one two"), "{text}");
    let chinese = show("rows", 1, json!({}));
    let text: String = chinese.tokens.iter().map(|token| token.text.as_str()).collect();
    assert!(text.contains("\\x") || text.contains("你好"), "{text}");
    assert!(chinese.tokens.iter().all(|token| !token.text.is_empty() && !token.text.contains('\u{FFFD}')));

    let no_row = tokens(&places.datasets(), "rows", 3, &config(json!({})), &places).unwrap_err().into_problem();
    assert_eq!((no_row.code.as_str(), no_row.field.as_deref()), ("no_row", Some("row")));
}

#[test]
fn both_answers_of_a_pair_are_shown_as_they_are_trained_on() {
    let pair = json!({"instruction": "Count to three", "chosen": "one two three four five six seven", "rejected": "nevermore"});
    let (_dir, places) = home(&[("pairs", "pairs.json", &json!([pair]).to_string())]);
    let info = json!({"pairs": {"file_name": "pairs.json", "ranking": true,
        "columns": {"chosen": "chosen", "rejected": "rejected"}}});
    fs::write(places.datasets().join("dataset_info.json"), info.to_string()).unwrap();
    for cutoff in [1024, 16] {
        let more = json!({"stage": "dpo", "cutoff_len": cutoff});
        let shown = tokens(&places.datasets(), "pairs", 0, &config(more.clone()), &places).unwrap();
        assert_eq!(vec![shown.sha256.clone()], trained_on(&places, "pairs", more));
        assert_eq!(shown.kept < shown.tokens.len() as u64, cutoff == 16);
        let kept: String = shown.tokens[..shown.kept as usize].iter().map(|token| token.text.as_str()).collect();
        assert!(kept.contains("one two") && kept.contains("nevermore"), "{kept}");
    }
    // A stage that learns from single answers looks at the chosen one.
    let alone = tokens(&places.datasets(), "pairs", 0, &config(json!({})), &places).unwrap();
    let text: String = alone.tokens.iter().map(|token| token.text.as_str()).collect();
    assert!(text.contains("five six seven") && !text.contains("nevermore"), "{text}");
}

#[test]
fn statistics_name_what_stands_out() {
    let row = |q: &str, a: &str| json!({"instruction": q, "output": a}).to_string();
    let long = "word ".repeat(200);
    let lines = [
        row("What is the capital of France?", "It is Paris, and that is in the north."),
        "{\"instruction\": \"broken\"".into(),
        row("What is the capital of France?", "It is Paris, and that is in the north."),
        row("请介绍一下你自己。", ""),
        row("Say it", &long),
        row(&long, "never reached"),
        json!({"instruction": "no answer"}).to_string(),
    ];
    let (_dir, places) = home(&[("rows", "rows.jsonl", &lines.join("\n"))]);
    let count = |more: Value, limit| statistics(&places.datasets(), "rows", &config(more), &places, limit).unwrap();
    let found = count(json!({"cutoff_len": 64}), None);
    assert_eq!((found.rows, found.complete, found.cutoff_len), (7, true, 64));
    let rows = |flaw: Flaw| found.findings.iter().find(|f| f.flaw == flaw).map(|f| f.first.clone()).unwrap_or_default();
    assert_eq!(rows(Flaw::Faulty), [1, 6]);
    assert_eq!(rows(Flaw::Duplicate), [2]);
    assert_eq!(rows(Flaw::EmptyAnswer), [3]);
    assert_eq!(rows(Flaw::Truncated), [4, 5]);
    assert_eq!(rows(Flaw::AllMasked), [5]);
    let problem = found.findings.iter().find_map(|f| f.problem.clone()).unwrap();
    assert!(problem.message.starts_with("Row 2 of dataset rows: it is not valid JSON: line 2"), "{problem}");
    assert_eq!(found.lengths.iter().map(|bar| bar.rows).sum::<u64>(), 5);
    assert!(found.tokens > 400 && found.trained < 200 && found.median < found.longest);
    assert_eq!(found.languages, [("en".to_string(), 4), ("zh".to_string(), 1)]);
    // Nothing is looked at in no time.
    let none = count(json!({}), Some(Duration::ZERO));
    assert_eq!((none.rows, none.complete), (0, false));
}
