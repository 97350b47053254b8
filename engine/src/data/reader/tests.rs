#![allow(clippy::unwrap_used)]

use super::*;
use arrow::{
    array::{ArrayRef, Int64Array, StringArray},
    ipc::writer::{FileWriter, StreamWriter},
    record_batch::RecordBatch,
};
use flate2::{Compression, write::GzEncoder};
use parquet::arrow::ArrowWriter;
use std::{fs::File, io::Write, sync::Arc};

/// What a reading gives: every row, and the problem that ends it, if one does.
type Reading = (Vec<Result<Value, String>>, Option<String>);

/// Reads a file with these bytes.
fn read_all(name: &str, bytes: &[u8]) -> Reading {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    read_path(&path)
}

/// Reads the file, and counts it alike.
fn read_path(path: &Path) -> Reading {
    let (found, problem) = read_once(path);
    match &problem {
        None => assert_eq!(count(path).unwrap(), found.len() as u64),
        Some(problem) => assert_eq!(&count(path).unwrap_err().into_problem().message, problem),
    }
    (found, problem)
}

fn read_once(path: &Path) -> Reading {
    let mut found = Vec::new();
    let read = read(path, &mut |n, value| {
        assert_eq!(n as usize, found.len());
        found.push(value.map_err(|problem| {
            assert!(problem.zh.is_some() && !problem.hint.is_empty());
            problem.message
        }));
        Ok(ControlFlow::Continue(()))
    });
    let problem = read.err().map(|e| {
        let problem = e.into_problem();
        assert!(problem.zh.is_some() && !problem.hint.is_empty());
        problem.message
    });
    (found, problem)
}

fn rows(name: &str, bytes: &[u8]) -> Vec<Value> {
    let (rows, problem) = read_all(name, bytes);
    assert_eq!(problem, None);
    rows.into_iter().collect::<Result<_, _>>().unwrap()
}

/// The problem of the file.
fn fault(name: &str, bytes: &[u8]) -> String {
    read_all(name, bytes).1.unwrap()
}

/// The problem of row `row`, which hides no other.
fn row_fault(name: &str, bytes: &[u8], row: usize) -> String {
    let (rows, problem) = read_all(name, bytes);
    assert_eq!(problem, None);
    assert_eq!(rows.iter().filter(|row| row.is_err()).count(), 1, "{rows:?}");
    rows[row].clone().unwrap_err()
}

fn zipped(bytes: &[u8]) -> Vec<u8> {
    let mut zip = GzEncoder::new(Vec::new(), Compression::default());
    zip.write_all(bytes).unwrap();
    zip.finish().unwrap()
}

#[test]
fn every_kind_of_text_gives_rows() {
    assert_eq!(rows("a.json", b"\xEF\xBB\xBF [{\"a\": 1}, {\"a\": 2}]\n").len(), 2);
    assert_eq!(rows("a.json", b"{\"a\": 1}\n{\"a\": 2}").len(), 2);
    assert_eq!(rows("a.json", b"[1, \"two\", null, [3], {}, -4.5e1]").len(), 6);
    assert_eq!(rows("a.jsonl", b"\xEF\xBB\xBF{\"a\": 1}\r\n\r\n{\"a\": 2}").len(), 2);
    assert_eq!(rows("a.jsonl", b"[{\"a\": 1}]").len(), 1);
    assert_eq!(rows("a.TXT", "one\n\n 二 \r\n".as_bytes())[1]["text"], " 二 ");
    assert!(rows("empty.json", b"").is_empty() && rows("empty.json", b"[ ]").is_empty());
    assert!(rows("empty.csv", b"").is_empty() && rows("empty.jsonl", b"\n\n").is_empty());
    let brackets = br#"[{"a": "}]\"{[", "b": {"c": ["\\", "]"]}}, {"a": "\\\""}]"#;
    assert_eq!(rows("a.json", brackets)[0]["a"], "}]\"{[");
    assert_eq!(rows("a.json.gz", &zipped(brackets)).len(), 2);
    // In two parts, as some tools write it.
    assert_eq!(rows("a.jsonl.gz", &[zipped(b"{\"a\": 1}\n"), zipped(b"{\"a\": 2}\n")].concat()).len(), 2);
}

#[test]
fn tables_have_columns() {
    let table = "instruction,input,output\r\n\"a \"\"b\"\", c\",,\"two\nlines\"\r\nd,e,f\r\n";
    let found = rows("a.csv", table.as_bytes());
    assert_eq!(found[0], serde_json::json!({"instruction": "a \"b\", c", "input": null, "output": "two\nlines"}));
    assert_eq!(found.len(), 2);
    assert_eq!(rows("a.csv", b"a;b\n1,5;2\n")[0], serde_json::json!({"a": "1,5", "b": "2"}));
    assert_eq!(rows("a.tsv", b"a\tb\n1\t2\n")[0]["b"], "2");
    assert!(row_fault("a.csv", b"a,b\n1,2\n1,2,3\n4,5\n", 1).contains("3 cells"));
    assert!(row_fault("a.csv", b"a,b\n1,\xFF\n4,5\n", 0).contains("\"b\" is not UTF-8 text (line 2"));
    assert!(fault("a.csv", b"a,b,a\n1,2,3\n").contains("two columns with the name \"a\""));
    assert!(fault("a.csv", "x,".repeat(1_000_000).as_bytes()).contains("1000 at most"));
}

#[test]
fn other_encodings_are_recognised() {
    let text = "{\"问题\": \"你好，世界\"}\n{\"问题\": \"再见\"}\n";
    let utf16 = |swap: bool| -> Vec<u8> {
        text.encode_utf16().flat_map(|u| if swap { u.to_be_bytes() } else { u.to_le_bytes() }).collect()
    };
    let gbk = encoding_rs::GBK.encode(text).0.into_owned();
    let mut marked = vec![0xFF, 0xFE];
    marked.extend(utf16(false));
    for bytes in [text.as_bytes().to_vec(), utf16(false), utf16(true), marked, gbk.clone(), zipped(&gbk)] {
        let name = if bytes.starts_with(&[0x1F, 0x8B]) { "a.jsonl.gz" } else { "a.jsonl" };
        let found = rows(name, &bytes);
        assert_eq!((found.len(), &found[0]["问题"]), (2, &Value::from("你好，世界")));
    }
    // Longer than what is looked at, with characters across the borders of buffers.
    let long = "中文".repeat(300_000);
    let found = rows("a.txt", &encoding_rs::GBK.encode(&format!("{long}\n好\n")).0);
    assert_eq!((found[0]["text"].as_str(), &found[1]["text"]), (Some(&*long), &Value::from("好")));
    assert!(fault("a.txt", &[0xFF; 400]).contains("is not text in UTF-8, UTF-16 or GBK"));
    assert!(fault("a.txt", b"\xFE\xFF\xD8\x00\x00a").contains("is not text in UTF-16BE"));
}

#[test]
fn faults_name_line_and_column() {
    assert!(row_fault("a.json", b"[\n  {\"a\": 1},\n  {\"a\" 2}\n]", 1).contains("line 3, column 8"));
    assert!(row_fault("a.jsonl", b"{\"a\": 1}\n{\"a\": }\n{}", 1).contains("line 2, column 7"));
    assert!(row_fault("a.jsonl", b"{\"a\": \"\\ud800\"}\n{}", 0).contains("line 1"));
    assert!(row_fault("a.jsonl", b"{\"a\": \"\0\"}\n{}", 0).contains("line 1, column 8"));
    assert!(row_fault("a.json", b"[{\"a\": \"\xFF\"}, 1]", 0).contains("line 1"));
    assert!(row_fault("a.txt", b"fine, and a good deal longer than its fault\n\xC4\n", 1).contains("line 2, column 1"));
    assert!(fault("a.json", b"[{\"a\": 1}").contains("line 1, column 10"));
    assert!(fault("a.json", b"[{\"a\": 1} {\"a\": 2}]").contains("line 1, column 11: expected `,` or `]`"));
    assert!(fault("a.json", b"[{\"a\": 1},\n]").contains("line 2, column 1: expected value"));
    assert!(fault("a.json", b"[1]\n x").contains("line 2, column 2: trailing characters"));
    assert!(fault("a.json", b"hello").contains("line 1, column 1"));
    assert!(fault("a.json", b"[\n{\"a\": \"x},\n{\"a\": 2}]").contains("line 3, column 1: control character"));
    assert!(fault("a.xlsx", b"a,b").contains(".jsonl"));
    assert!(fault("a.json.gz", b"[]").contains("no whole gzip file"));
    assert!(fault("a.json.gz", &zipped(&[b' '; 99])[..20]).contains("no whole gzip file"));
    assert!(fault("a.parquet", b"PAR1").contains("can't be read as Parquet"));
    assert!(fault("a.arrow", b"ARROW1").contains("can't be read as Arrow"));
}

#[test]
fn the_caller_may_stop() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.json");
    std::fs::write(&path, "[1, 2, 3, oops").unwrap();
    let mut seen = 0;
    read(&path, &mut |_, _| {
        seen += 1;
        Ok(if seen == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })
    .unwrap();
    assert_eq!(seen, 2);
}

/// Rows beyond all measure are passed over without being held.
#[test]
fn an_endless_row_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for (name, start, faulty) in [("a.jsonl", "{}\n{\"a\":\"", true), ("a.json", "[{}, {\"a\":\"", false)] {
        let path = dir.path().join(name);
        std::fs::write(&path, start).unwrap();
        // Sparse: the file system makes the zeros.
        File::options().write(true).open(&path).unwrap().set_len(MAX_ROW as u64 + (3 << 20)).unwrap();
        let (rows, problem) = read_path(&path);
        assert_eq!((rows[0].is_ok(), problem.is_some()), (true, !faulty), "{problem:?}");
        assert!(
            !faulty || rows[1].as_ref().is_err_and(|e| e.contains("more than 64 MiB (from line 2")),
            "{:?}",
            rows[1]
        );
    }
    let path = dir.path().join("a.csv");
    std::fs::write(&path, "a\n\"").unwrap();
    File::options().write(true).open(&path).unwrap().set_len(MAX_ROW as u64 + (3 << 20)).unwrap();
    assert!(read_path(&path).1.unwrap().contains("row of more than 64 MiB"));
}

#[test]
fn a_zip_bomb_ends_early() {
    let bomb = zipped(&vec![b' '; 80 << 20]);
    assert!(bomb.len() < 100_000);
    assert!(fault("a.jsonl.gz", &bomb).contains("more than 400 times"));
}

#[test]
fn columnar_files_give_rows() {
    let dir = tempfile::tempdir().unwrap();
    let texts: Vec<Option<String>> = (0..3000).map(|i| (i % 7 != 0).then(|| format!("行 {i} \"quoted\"\n"))).collect();
    let columns: [(&str, ArrayRef); 2] = [
        ("instruction", Arc::new(StringArray::from(texts.clone()))),
        ("n", Arc::new(Int64Array::from_iter_values(0..3000))),
    ];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let path = |name: &str| dir.path().join(name);
    let mut parquet = ArrowWriter::try_new(File::create(path("a.parquet")).unwrap(), batch.schema(), None).unwrap();
    parquet.write(&batch).unwrap();
    parquet.close().unwrap();
    let mut file = FileWriter::try_new(File::create(path("file.arrow")).unwrap(), &batch.schema()).unwrap();
    file.write(&batch).unwrap();
    file.finish().unwrap();
    let mut stream = StreamWriter::try_new(File::create(path("stream.arrow")).unwrap(), &batch.schema()).unwrap();
    stream.write(&batch).unwrap();
    stream.finish().unwrap();
    for name in ["a.parquet", "file.arrow", "stream.arrow"] {
        let (rows, problem) = read_path(&path(name));
        assert_eq!((rows.len(), problem), (3000, None), "{name}");
        for (i, row) in rows.into_iter().enumerate() {
            let row = row.unwrap();
            assert_eq!((row["instruction"].as_str(), row["n"].as_u64()), (texts[i].as_deref(), Some(i as u64)));
        }
    }
}

#[test]
fn nothing_is_lost_unseen() {
    // Of a key that stands twice the first value would be gone.
    let twice = row_fault("a.json", b"[{},\n {\"a\": 1, \"b\": {\"c\": 1,\n \"c\": 2}}]", 1);
    assert!(twice.contains("key \"c\" stands in it twice: line 3, column"), "{twice}");
    assert!(
        row_fault("a.jsonl", b"{}\n{\"a\": 1, \"a\": 1}\n", 1).contains("\"a\" stands in it twice: line 2, column 12")
    );
    assert!(row_fault("a.jsonl", br#"{"a": "\udc00\ud800"}"#, 0).contains("line 1, column"));
    assert_eq!(rows("a.jsonl", br#"{"a": "\ud83d\ude38"}"#)[0]["a"], "😸");
    // A NUL is a character like others, but not inside JSON.
    assert_eq!(rows("a.txt", b"one\0two\n")[0]["text"], "one\0two");
    assert_eq!(rows("a.csv", b"a,b\n1\0,2\n")[0]["a"], "1\0");
    assert_eq!(rows("a.jsonl", br#"{"a": "\u0000"}"#)[0]["a"], "\0");
    let utf16: Vec<u8> = "{\"a\": 1}\n".encode_utf16().flat_map(u16::to_le_bytes).chain([0x20]).collect();
    assert!(fault("a.jsonl", &utf16).contains("is not text in UTF-16LE"));
}

#[test]
fn deep_nesting_is_a_fault_of_its_row() {
    let deep = |n: usize| format!("[{}{}, 2]", "[".repeat(n), "]".repeat(n));
    assert!(row_fault("a.json", deep(500_000).as_bytes(), 0).contains("of the file: recursion limit"));
    assert!(
        row_fault("a.json", format!("[{}1{}]", "{\"a\":".repeat(900), "}".repeat(900)).as_bytes(), 0)
            .contains("recursion")
    );
    assert!(fault("a.json", "[".repeat(3_000_000).as_bytes()).contains("line 1"));
}

/// What a footer says of the rest of the file is not believed.
#[test]
fn lying_footers_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.parquet");
    let column: ArrayRef = Arc::new(StringArray::from(vec!["some text"; 5000]));
    let batch = RecordBatch::try_from_iter([("text", column)]).unwrap();
    let mut writer = ArrowWriter::try_new(File::create(&path).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    let whole = std::fs::read(&path).unwrap();
    let footer = whole.len() - 8;
    for length in [0, 1, 7, footer as u32 - 1, footer as u32, u32::MAX / 2, u32::MAX] {
        let mut lying = whole.clone();
        lying[footer..footer + 4].copy_from_slice(&length.to_le_bytes());
        assert!(fault("a.parquet", &lying).contains("can't be read as Parquet"), "{length}");
    }
    // The metadata stay, the data behind them are gone.
    std::fs::write(&path, [&whole[..4], &whole[whole.len() / 2..]].concat()).unwrap();
    let (rows, problem) = read_once(&path);
    assert!(rows.len() < 5000 && problem.unwrap().contains("can't be read as Parquet"));
    assert!(fault("a.parquet", &whole[..whole.len() - 1]).contains("can't be read as Parquet"));
}

#[test]
fn ten_thousand_files_are_one_dataset() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("many")).unwrap();
    for i in 0..10_000 {
        std::fs::write(dir.path().join(format!("many/{i:05}.jsonl")), format!("{{\"text\": \"{i}\"}}\n")).unwrap();
    }
    std::fs::write(dir.path().join("many/04000.jsonl"), "{\"text\": oops}\n").unwrap();
    let info = r#"{"a": {"file_name": "many", "columns": {"prompt": "text"}}}"#;
    std::fs::write(dir.path().join("dataset_info.json"), info).unwrap();
    let registry = crate::data::Registry::open(dir.path()).unwrap();
    let mut seen = Vec::new();
    crate::data::load::examples(&registry, registry.entry("a").unwrap(), u64::MAX, &mut |row, example| {
        seen.push((row, example.map(|e| e.text.unwrap()).map_err(|p| p.message)));
        Ok(ControlFlow::Continue(()))
    })
    .unwrap();
    assert_eq!((seen.len(), &seen[9999]), (10_000, &(10_000, Ok("9999".to_string()))));
    let faulty: Vec<_> = seen.iter().filter_map(|(_, row)| row.as_ref().err()).collect();
    assert!(faulty.len() == 1 && faulty[0].starts_with("Row 4001 of dataset a"), "{faulty:?}");
}

/// `cargo test -p engine --lib two_gigabytes -- --ignored`
#[test]
#[ignore = "reads two sparse files of 2 GB"]
fn a_line_of_two_gigabytes_is_never_held() {
    let resident = || -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("0");
        peak.trim().trim_end_matches(" kB").parse().unwrap()
    };
    let dir = tempfile::tempdir().unwrap();
    let before = resident();
    for (name, start) in [("a.jsonl", "{}\n{\"a\":\""), ("a.txt", "one\n")] {
        let path = dir.path().join(name);
        std::fs::write(&path, start).unwrap();
        File::options().write(true).open(&path).unwrap().set_len(2 << 30).unwrap();
        let (rows, problem) = read_path(&path);
        assert_eq!((rows.len(), problem), (2, None));
        assert!(rows[1].as_ref().unwrap_err().contains("more than 64 MiB (from line 2"));
    }
    assert!(resident() - before < 300 << 10, "{} kB", resident() - before);
}
