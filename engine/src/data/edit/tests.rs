//! Every kind of change, on every kind of file; what wasn't asked to change must be there byte for byte.

use super::*;
use crate::data::inspect::tests::{config, home};
use api::data::{Mapping, RowsWanted};
use serde_json::json;
use std::collections::BTreeMap;

fn change_of(places: &Places, name: &str, wanted: Edit, more: Value) -> Result<Edited> {
    edit(&places.datasets(), name, &wanted, &config(more), places)
}

fn text(places: &Places, file: &str) -> String {
    fs::read_to_string(places.datasets().join(file)).unwrap()
}

fn rows(places: &Places, name: &str) -> Vec<Value> {
    let wanted = RowsWanted { limit: 200, ..RowsWanted::default() };
    let preview = preview::rows(&places.datasets(), name, &wanted).unwrap();
    preview.rows.into_iter().map(|row| row.raw).collect()
}

const LINES: &str = "{\"instruction\": \"a\",   \"output\": 1.50}\n{\"instruction\": \"b\", output: x}\n\n{\"instruction\": \"c\", \"output\": \"z\", \"n\": 12345678901234567890123}\n";

#[test]
fn rows_that_stay_keep_their_bytes() {
    let array = "[\n  {\n    \"instruction\": \"a\",\n    \"output\": \"x\"\n  },\n  {\"instruction\": bad},\n  {\n    \"instruction\": \"c\",\n    \"output\": \"z\"\n  }\n]\n";
    let (_dir, places) = home(&[("l", "l.jsonl", LINES), ("a", "a.json", array)]);
    let new = json!({"instruction": "new", "output": "row"});
    let edited = change_of(&places, "l", Edit::Set { row: 1, raw: new.clone() }, json!({})).unwrap();
    assert_eq!((edited.rows, edited.dataset.rows, edited.dataset.undoable), (1, 3, true));
    let lines: Vec<&str> = LINES.lines().collect();
    assert_eq!(text(&places, "l.jsonl"), format!("{}\n{new}\n{}\n", lines[0], lines[3]));
    assert_eq!(text(&places, "l.jsonl.before"), LINES);
    let undone = change_of(&places, "l", Edit::Undo, json!({})).unwrap();
    assert!(!undone.dataset.undoable && !places.datasets().join("l.jsonl.before").exists());
    assert_eq!(text(&places, "l.jsonl"), LINES);
    let again = change_of(&places, "l", Edit::Undo, json!({})).unwrap_err().into_problem();
    assert_eq!(again.code, "nothing_to_undo");

    change_of(&places, "a", Edit::Add { rows: vec![new] }, json!({})).unwrap();
    let added =
        array.replace("\n  }\n]\n", "\n  },\n  {\n    \"instruction\": \"new\",\n    \"output\": \"row\"\n  }\n]\n");
    assert_eq!(text(&places, "a.json"), added);
    change_of(&places, "a", Edit::Delete { rows: vec![3] }, json!({})).unwrap();
    assert_eq!((text(&places, "a.json").as_str(), text(&places, "a.json.before")), (array, added));
    let dropped = change_of(&places, "a", Edit::Drop { flaw: Flaw::Faulty }, json!({})).unwrap();
    assert_eq!((dropped.rows, dropped.dataset.problem), (1, None));
    assert_eq!(rows(&places, "a").len(), 2);
    change_of(&places, "a", Edit::Delete { rows: vec![0, 1] }, json!({})).unwrap();
    assert_eq!(text(&places, "a.json"), "[]\n");
    let names: Vec<_> = fs::read_dir(places.datasets()).unwrap().flatten().map(|e| e.file_name()).collect();
    assert!(!names.iter().any(|name| name.to_string_lossy().ends_with(".new")), "{names:?}");
}

#[test]
fn a_change_that_fails_changes_nothing() {
    let (_dir, places) = home(&[("l", "l.jsonl", LINES), ("broken", "b.json", "[{\"instruction\": \"a\"}")]);
    fs::create_dir(places.datasets().join("folder")).unwrap();
    fs::write(places.datasets().join("folder/x.jsonl"), LINES).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    fs::write(elsewhere.path().join("x.jsonl"), LINES).unwrap();
    std::os::unix::fs::symlink(places.datasets().join("l.jsonl"), places.datasets().join("link.jsonl")).unwrap();
    change(&places.datasets(), |entries| {
        entries.insert("folder".into(), json!({"file_name": "folder"}));
        entries.insert("link".into(), json!({"file_name": "link.jsonl"}));
        entries.insert("out".into(), json!({"file_name": elsewhere.path().join("x.jsonl")}));
        entries.insert("hub".into(), json!({"hf_hub_url": "a/b"}));
        Ok(())
    })
    .unwrap();
    let before = text(&places, "dataset_info.json");
    let code = |name: &str, wanted: Edit| change_of(&places, name, wanted, json!({})).unwrap_err().into_problem().code;
    let delete = || Edit::Delete { rows: vec![0] };
    assert_eq!(code("l", Edit::Delete { rows: vec![0, 3] }), "no_row");
    assert_eq!(code("l", Edit::Set { row: 3, raw: json!({}) }), "no_row");
    assert_eq!(code("l", Edit::Set { row: 0, raw: json!([1]) }), "row_not_object");
    assert_eq!(code("l", Edit::Set { row: 0, raw: json!("{\"a\": }") }), "row_not_json");
    assert_eq!(code("l", Edit::Add { rows: vec![json!({}), json!(3)] }), "row_not_object");
    assert_eq!(code("broken", delete()), "dataset_not_json");
    for name in ["folder", "link", "hub"] {
        assert_eq!(code(name, delete()), "not_editable", "{name}");
    }
    assert_eq!(code("out", delete()), "dataset_outside");
    assert_eq!(code("nobody", delete()), "unknown_dataset");
    assert_eq!(code("nobody", Edit::Undo), "unknown_dataset");
    assert_eq!((text(&places, "l.jsonl").as_str(), text(&places, "dataset_info.json")), (LINES, before));
    let listed = preview::list(&places.datasets()).unwrap();
    let editable: Vec<&str> = listed.iter().filter(|d| d.editable).map(|d| d.name.as_str()).collect();
    assert_eq!(editable, ["l", "broken"]);
    // Nothing to do is no change either.
    assert_eq!(change_of(&places, "l", Edit::Drop { flaw: Flaw::Duplicate }, json!({})).unwrap().rows, 0);
    assert!(!places.datasets().join("l.jsonl.before").exists());
}

#[test]
fn other_kinds_of_files_become_json_lines() {
    let csv = "instruction,output\na,x\nb,\"y, \"\"z\"\"\nand more\"\nfaulty\nc,w\n";
    let (_dir, places) = home(&[("t", "t.csv", csv), ("lines", "lines.txt", "one\ntwo\n\nthree\n")]);
    fs::write(places.datasets().join("t.jsonl"), "of somebody else").unwrap();
    let edited = change_of(&places, "t", Edit::Delete { rows: vec![0] }, json!({})).unwrap();
    assert_eq!((edited.dataset.file.as_str(), edited.dataset.rows), ("t-2.jsonl", 3));
    assert_eq!(
        text(&places, "t-2.jsonl"),
        "{\"instruction\":\"b\",\"output\":\"y, \\\"z\\\"\\nand more\"}\n\"faulty\"\n{\"instruction\":\"c\",\"output\":\"w\"}\n"
    );
    assert!(!places.datasets().join("t.csv").exists());
    change_of(&places, "t", Edit::Undo, json!({})).unwrap();
    assert_eq!(text(&places, "t.csv"), csv);
    assert!(!places.datasets().join("t-2.jsonl").exists() && !places.datasets().join("t.csv.before").exists());
    assert_eq!(text(&places, "t.jsonl"), "of somebody else");

    let edited = change_of(&places, "lines", Edit::Delete { rows: vec![1] }, json!({})).unwrap();
    assert_eq!((edited.dataset.kind.as_str(), edited.dataset.problem), ("text", None));
    assert_eq!(rows(&places, "lines"), [json!({"text": "one"}), json!({"text": "three"})]);
    preview::forget(&places.datasets(), "lines").unwrap();
    assert!(!places.datasets().join("lines.txt.before").exists() && !places.datasets().join("lines.jsonl").exists());
}

#[test]
fn texts_that_were_shown_cut_are_not_lost() {
    let long = "好".repeat(30_000);
    let row = json!({"instruction": long, "output": "x", "list": [{"value": long}]});
    let (_dir, places) = home(&[("l", "l.jsonl", &format!("{row}\n"))]);
    let wanted = RowsWanted { limit: 5, ..RowsWanted::default() };
    let mut shown = preview::rows(&places.datasets(), "l", &wanted).unwrap().rows.remove(0).raw;
    assert!(shown.to_string().len() < row.to_string().len() / 2);
    shown["output"] = "y".into();
    change_of(&places, "l", Edit::Set { row: 0, raw: shown.clone() }, json!({})).unwrap();
    let changed = json!({"instruction": long, "output": "y", "list": [{"value": long}]});
    assert_eq!(text(&places, "l.jsonl"), format!("{changed}\n"));
    shown["instruction"] = format!("x{}", shown["instruction"].as_str().unwrap()).into();
    let refused = change_of(&places, "l", Edit::Set { row: 0, raw: shown }, json!({})).unwrap_err().into_problem();
    assert_eq!(refused.code, "row_shown_cut");
    let whole = RowsWanted { limit: 1, ..RowsWanted::default() };
    assert_eq!(preview::rows(&places.datasets(), "l", &whole).unwrap().rows[0].raw, changed);
}

#[test]
fn columns_are_mapped_and_mapped_back() {
    let (_dir, places) = home(&[("l", "l.jsonl", "{\"frage\": \"q\", \"antwort\": \"a\"}\n")]);
    let columns = |name: &str| preview::columns(&places.datasets(), name).unwrap();
    assert_eq!(columns("l").mapping.columns["prompt"], "instruction");
    let mapping = columns("l").guess.unwrap();
    let edited = change_of(&places, "l", Edit::Map { mapping: mapping.clone() }, json!({})).unwrap();
    assert_eq!((edited.dataset.problem, edited.dataset.undoable), (None, true));
    assert_eq!(columns("l").mapping, mapping);
    let wrong = |columns: &[(&str, &str)], formatting: &str| {
        let columns: BTreeMap<_, _> = columns.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect();
        let mapping = Mapping { formatting: formatting.into(), columns, ..Mapping::default() };
        change_of(&places, "l", Edit::Map { mapping }, json!({})).unwrap_err().into_problem().code
    };
    assert_eq!(wrong(&[("promt", "frage")], "alpaca"), "unknown_column");
    assert_eq!(wrong(&[], "alpacca"), "unknown_name");
    assert_eq!(columns("l").mapping, mapping);
    let undone = change_of(&places, "l", Edit::Undo, json!({})).unwrap();
    assert_eq!(undone.dataset.problem.unwrap().code, "dataset_unmapped");
}

#[test]
fn long_rows_are_cut_or_split_so_that_they_fit() {
    let turn = |n: usize| [format!("question {n}"), format!("answer number {n} of some length, so that it counts")];
    let turns: Vec<[String; 2]> = (0..6).map(turn).collect();
    let (history, last) = (&turns[..5], &turns[5]);
    let alpaca =
        json!({"instruction": last[0], "input": "more", "output": last[1], "history": history, "system": "S", "id": 7});
    let messages: Vec<Value> = turns
        .iter()
        .flat_map(|[q, a]| [json!({"from": "human", "value": q, "id": 1}), json!({"from": "gpt", "value": a})])
        .collect();
    let all = [vec![json!({"from": "system", "value": "S"})], messages].concat();
    let short = json!({"instruction": "q", "output": "a"});
    let one = json!({"instruction": "q", "output": "word ".repeat(300)});
    let (_dir, places) = home(&[
        ("a", "a.jsonl", &format!("{alpaca}\n{short}\n{{broken\n{one}\n")),
        ("s", "s.json", &json!([{"conversations": all}]).to_string()),
        ("t", "t.txt", &"some words of a text that goes on and on ".repeat(30)),
    ]);
    change(&places.datasets(), |entries| {
        let columns = json!({"prompt": "instruction", "query": "input", "response": "output", "history": "history", "system": "system"});
        entries["a"]["columns"] = columns;
        entries["s"]["formatting"] = "sharegpt".into();
        Ok(())
    })
    .unwrap();
    let limit = json!({"cutoff_len": 120, "template": "chatml"});
    let truncated = |name: &str, more: &Value| {
        let found = inspect::statistics(&places.datasets(), name, &config(more.clone()), &places, None).unwrap();
        found.findings.into_iter().find(|f| f.flaw == Flaw::Truncated).map_or(0, |f| f.rows)
    };
    assert_eq!((truncated("a", &limit), truncated("s", &limit)), (2, 1));

    let split = change_of(&places, "a", Edit::Split, limit.clone()).unwrap();
    assert_eq!(split.rows, 1);
    let parts = rows(&places, "a");
    let of_first: Vec<&Value> = parts.iter().filter(|row| row["id"] == 7).collect();
    assert!(of_first.len() > 1 && of_first.iter().all(|row| row["system"] == "S"));
    let pairs: Vec<Value> = of_first
        .iter()
        .flat_map(|row| {
            let own = json!([row["instruction"], row["output"]]);
            [row["history"].as_array().unwrap().clone(), vec![own]].concat()
        })
        .collect();
    assert_eq!(Value::from(pairs), json!(turns), "every turn is there once, in order");
    assert_eq!((&of_first[0]["input"], &of_first.last().unwrap()["input"]), (&json!(""), &json!("more")));
    assert_eq!(parts[of_first.len() + 1], json!("{broken"), "the faulty row is where it was");

    let cut = change_of(&places, "a", Edit::Truncate, limit.clone()).unwrap();
    assert_eq!((cut.rows, truncated("a", &limit)), (1, 0));
    let answer = rows(&places, "a").pop().unwrap()["output"].as_str().unwrap().len();
    assert!(answer > 100 && "word ".repeat(300).len() > answer, "{answer}");

    change_of(&places, "s", Edit::Split, limit.clone()).unwrap();
    let parts = rows(&places, "s");
    assert!(parts.len() > 1 && truncated("s", &limit) == 0);
    let lists: Vec<&Vec<Value>> = parts.iter().map(|row| row["conversations"].as_array().unwrap()).collect();
    assert!(lists.iter().all(|list| list[0]["value"] == "S"));
    let messages: Vec<Value> = lists.iter().flat_map(|list| list[1..].to_vec()).collect();
    assert_eq!(messages, all[1..]);

    let texts = json!({"stage": "pt", "packing": false, "cutoff_len": 40});
    assert_eq!(truncated("t", &texts), 1);
    change_of(&places, "t", Edit::Split, texts.clone()).unwrap();
    assert_eq!(truncated("t", &texts), 0);
    let words: Vec<String> = rows(&places, "t").iter().map(|row| row["text"].as_str().unwrap().into()).collect();
    assert_eq!(words.join(" "), "some words of a text that goes on and on ".repeat(30));
}
