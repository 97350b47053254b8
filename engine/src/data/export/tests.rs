//! What is written is read again; rows as they stand keep their bytes.

use super::*;
use crate::data::inspect::tests::home;
use crate::data::preview;
use serde_json::json;
use std::fs;

fn written(dir: &Path, name: &str, file_type: FileType, formatting: Option<&str>) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    Export::begin(dir, name, file_type, formatting)?.write(&mut bytes)?;
    Ok(bytes)
}

/// The rows of a file with these bytes.
fn read(ending: &str, bytes: &[u8]) -> Vec<Value> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(format!("x.{ending}"));
    fs::write(&path, bytes).unwrap();
    let mut rows = Vec::new();
    reader::read(&path, &mut |_, value| {
        rows.push(value.unwrap());
        Ok(ControlFlow::Continue(()))
    })
    .unwrap();
    rows
}

const TYPES: [(FileType, &str); 5] = [
    (FileType::Json, "json"),
    (FileType::Jsonl, "jsonl"),
    (FileType::Csv, "csv"),
    (FileType::Parquet, "parquet"),
    (FileType::Arrow, "arrow"),
];

#[test]
fn rows_are_the_same_in_every_kind_of_file() {
    let rows = vec![
        json!({"instruction": "a,\"b\"\n好", "n": 1, "x": 0.5, "list": [{"from": "a", "value": "b"}], "mixed": 1}),
        json!({"instruction": "", "n": -7, "x": 2, "list": [], "mixed": "text", "later": true}),
        json!({"instruction": null, "list": [{"from": "c", "extra": 3}], "mixed": {"k": [1]}}),
    ];
    let (_dir, places) = home(&[("r", "r.json", &json!(rows).to_string())]);
    for (file_type, ending) in TYPES {
        let back = read(ending, &written(&places.datasets(), "r", file_type, None).unwrap());
        assert_eq!(back.len(), 3, "{ending}");
        match file_type {
            FileType::Json | FileType::Jsonl => assert_eq!(back, rows),
            FileType::Csv => {
                assert_eq!((&back[0]["instruction"], &back[0]["n"]), (&rows[0]["instruction"], &json!("1")));
                assert_eq!(back[0]["list"], json!(rows[0]["list"].to_string()));
                assert_eq!(back[2]["mixed"], json!("{\"k\":[1]}"));
                assert_eq!(back[0]["later"], Value::Null);
            }
            FileType::Parquet | FileType::Arrow => {
                assert_eq!((&back[0]["n"], &back[1]["x"], &back[1]["later"]), (&json!(1), &json!(2.0), &json!(true)));
                assert_eq!(back[2]["list"], json!([{"from": "c", "value": null, "extra": 3}]));
                let mixed: Vec<&Value> = back.iter().map(|row| &row["mixed"]).collect();
                assert_eq!(mixed, [&json!("1"), &json!("text"), &json!("{\"k\":[1]}")]);
            }
        }
    }
}

#[test]
fn json_keeps_its_bytes_and_its_faulty_rows() {
    let lines = "{\"instruction\": \"a\",  \"n\": 12345678901234567890123}\n{broken\n{\"instruction\": \"b\", \"output\": 1e2}\n";
    let (_dir, places) = home(&[("l", "l.jsonl", lines), ("t", "t.csv", "instruction,output\na,b\nonly one\n")]);
    let dir = places.datasets();
    assert_eq!(written(&dir, "l", FileType::Jsonl, None).unwrap(), lines.as_bytes());
    let array = String::from_utf8(written(&dir, "l", FileType::Json, None).unwrap()).unwrap();
    assert!(array.contains("12345678901234567890123") && array.contains("{broken"), "{array}");
    let table = String::from_utf8(written(&dir, "t", FileType::Jsonl, None).unwrap()).unwrap();
    assert_eq!(table, "{\"instruction\":\"a\",\"output\":\"b\"}\n\"only one\"\n");
    for (name, file_type) in [("l", FileType::Csv), ("l", FileType::Parquet), ("t", FileType::Arrow)] {
        let problem = written(&dir, name, file_type, None).unwrap_err().into_problem();
        assert!(problem.message.starts_with(&format!("Row 2 of dataset {name}")), "{problem}");
    }
}

#[test]
fn conversations_are_written_in_every_format_and_read_again() {
    let rows = json!([
        {"conversations": [
            {"from": "system", "value": "S"}, {"from": "human", "value": "q"}, {"from": "gpt", "value": "a"},
            {"from": "human", "value": "r"}, {"from": "gpt", "value": "b"}]},
        {"conversations": [{"from": "human", "value": "x"}, {"from": "gpt", "value": "y"}]}]);
    let call = "{\"name\": \"f\", \"arguments\": {\"a\": 1}}";
    let tools = json!([{"conversations": [
        {"from": "human", "value": "q"}, {"from": "function_call", "value": call},
        {"from": "observation", "value": "1"}, {"from": "gpt", "value": "a"}],
        "tools": "[{\"name\": \"f\"}]"}]);
    let (_dir, places) = home(&[("c", "c.json", &rows.to_string()), ("f", "f.json", &tools.to_string())]);
    let dir = places.datasets();
    fs::write(dir.join("dataset_info.json"), "{}").unwrap();
    for name in ["c", "f"] {
        preview::register(&dir, name, &format!("{name}.json")).unwrap();
    }
    let shown = |name: &str| -> Vec<_> {
        let wanted = api::data::RowsWanted { limit: 9, ..Default::default() };
        let preview = preview::rows(&dir, name, &wanted).unwrap();
        preview.rows.into_iter().map(|row| (row.messages, row.problem)).collect()
    };
    for (name, formatting) in [("c", "alpaca"), ("c", "sharegpt"), ("c", "openai"), ("f", "sharegpt"), ("f", "openai")]
    {
        for (file_type, ending) in
            [(FileType::Json, "json"), (FileType::Jsonl, "jsonl"), (FileType::Parquet, "parquet")]
        {
            let again = format!("{name}-{formatting}-{ending}");
            let file = format!("{again}.{ending}");
            fs::write(dir.join(&file), written(&dir, name, file_type, Some(formatting)).unwrap()).unwrap();
            assert_eq!(preview::register(&dir, &again, &file).unwrap().problem, None, "{again}");
            if name == "c" {
                assert_eq!(shown(&again), shown(name), "{again}");
            } else {
                let roles = |name: &str| shown(name)[0].0.iter().map(|m| m.role.clone()).collect::<Vec<_>>();
                assert_eq!(roles(&again), roles(name), "{again}");
            }
        }
    }
    let no_place = written(&dir, "f", FileType::Json, Some("alpaca")).unwrap_err().into_problem();
    assert!(no_place.message.starts_with("Row 1 of dataset f: Alpaca's columns"), "{no_place}");
    let unknown = written(&dir, "c", FileType::Json, Some("alpacca")).unwrap_err().into_problem();
    assert_eq!(unknown.field.as_deref(), Some("formatting"));
}
