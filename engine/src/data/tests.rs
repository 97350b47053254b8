//! Templates against what transformers rendered (`tests/fixtures/templates.py` made the fixtures), and whole datasets:
//! loading, previews, registration, bad input.

use super::*;
use api::data::{Message, RowsWanted};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A JSON object as a row.
pub(super) fn row(value: Value) -> Row {
    value.as_object().unwrap().clone()
}

/// `value` read as a row of a dataset whose `dataset_info.json` says `entry`.
pub(super) fn example_of(format: &dyn Format, entry: Value, value: Value) -> Result<Example, Box<Problem>> {
    let mut entry = row(entry);
    entry.insert("file_name".into(), "x.json".into());
    format.example(&row(value), &info::Entry::parse("x", &Value::Object(entry)))
}

fn fixture() -> Value {
    serde_json::from_str(include_str!("../../tests/fixtures/templates.json")).unwrap()
}

/// Data beside the repository, or in the folder that `LATHE_DATA` names; tests that want it pass where it is absent.
fn outside(path: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("LATHE_DATA").map(PathBuf::from);
    let folder = folder.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data"));
    Some(folder.join(path)).filter(|path| path.exists())
}

/// What the template makes of a conversation of the fixture; `None` if it refuses.
fn rendered(fixture: &Value, source: &str, conversation: &str, prompt: bool) -> Option<String> {
    let words = fixture["words"].as_object().unwrap().clone();
    let template = ChatTemplate::new(source, words["bos_token"].as_str(), words["eos_token"].as_str()).unwrap();
    let [messages, tools] = fixture["conversations"][conversation].as_array().unwrap().as_slice() else { panic!() };
    let tools = Some(tools).filter(|tools| !tools.is_null());
    template.render_values(messages.as_array().unwrap(), tools, prompt, &words).ok()
}

/// Compares every text of `expected` (conversation → without and with generation prompt); where transformers refuses,
/// nothing is asked.
fn compare(name: &str, source: &str, expected: &Value, fixture: &Value, view: impl Fn(String) -> String) -> usize {
    let mut compared = 0;
    for (conversation, texts) in expected.as_object().unwrap() {
        for (i, wanted) in texts.as_array().unwrap().iter().enumerate().filter(|(_, wanted)| !wanted.is_null()) {
            let text = rendered(fixture, source, conversation, i == 1).map(&view);
            assert_eq!(text.as_deref(), wanted.as_str(), "{name}: {conversation}");
            compared += 1;
        }
    }
    compared
}

#[test]
fn own_templates_render_as_in_transformers() {
    let fixture = fixture();
    for (name, expected) in fixture["own"].as_object().unwrap() {
        assert!(compare(name, template::named(name).unwrap(), expected, &fixture, |text| text) > 30);
    }
    assert_eq!(fixture["own"].as_object().unwrap().len(), template::NAMES.len());
}

#[test]
fn snippets_render_as_in_transformers() {
    let fixture = fixture();
    let mut wrong = Vec::new();
    for pair in fixture["snippets"].as_array().unwrap() {
        let (source, wanted) = (pair[0].as_str().unwrap(), pair[1].as_str());
        let found = std::panic::catch_unwind(|| rendered(&fixture, source, "call", false)).unwrap_or_default();
        if wanted.is_some() && found.as_deref() != wanted {
            wrong.push(format!("{source}\n  wanted {wanted:?}\n  found  {found:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn real_templates_render_as_in_transformers() {
    let Some(folder) = outside("templates") else { return };
    let fixture = fixture();
    let digest = |text: String| -> String {
        Sha256::digest(text.as_bytes()).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    };
    for (name, expected) in fixture["real"].as_object().unwrap() {
        let Ok(source) = fs::read_to_string(folder.join(name)) else { continue };
        compare(name, &source, expected, &fixture, digest);
    }
}

#[test]
fn ids_of_smollm2_are_those_of_transformers() {
    let Some(folder) = std::env::var_os("LATHE_ORACLES").map(|f| PathBuf::from(f).join("smollm2")) else { return };
    let files = crate::files::ModelFiles::open(&folder).unwrap();
    let read = files.tokenizer().unwrap();
    let word = |token: &Option<(String, u32)>| token.as_ref().map(|(word, _)| word.clone());
    let source = read.chat_template.clone().unwrap();
    let template = ChatTemplate::new(&source, word(&read.bos).as_deref(), word(&read.eos).as_deref()).unwrap();
    let special = SpecialTokens { bos: read.bos.clone(), eos: read.eos.clone() };
    let encoder = Encoder::new(Arc::clone(&read.tokenizer), template, special, EncodeOptions::default()).unwrap();
    let fixture = fixture();
    for (conversation, expected) in fixture["smollm2"].as_object().unwrap() {
        let messages = fixture["conversations"][conversation][0].clone();
        let messages: Vec<Message> = serde_json::from_value(messages).unwrap();
        let example = Example { messages: messages.clone(), ..Example::default() };
        let ids = |value: &Value| -> Vec<u32> { serde_json::from_value(value.clone()).unwrap() };
        assert_eq!(encoder.conversation(&example).unwrap().ids, ids(&expected[0]), "{conversation}");
        assert_eq!(encoder.prompt(&messages, None).unwrap(), ids(&expected[1]), "{conversation}");
    }
}

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    files.iter().for_each(|(name, text)| fs::write(dir.path().join(name), text).unwrap());
    dir
}

/// Words are tokens: `0` unknown.
fn encoder() -> Encoder {
    let json = json!({"version": "1.0", "pre_tokenizer": {"type": "WhitespaceSplit"},
        "added_tokens": [{"id": 1, "content": "</s>", "special": true, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false}],
        "model": {"type": "WordLevel", "vocab": {"[UNK]": 0}, "unk_token": "[UNK]"}});
    let tokenizer = Arc::new(json.to_string().parse().unwrap());
    let template = ChatTemplate::new(template::named("alpaca").unwrap(), None, Some("</s>")).unwrap();
    let special = SpecialTokens { bos: None, eos: Some(("</s>".into(), 1)) };
    Encoder::new(tokenizer, template, special, EncodeOptions::default()).unwrap()
}

fn load(dir: &Path, names: &[&str], reading: Reading, options: &LoadOptions) -> Result<Dataset> {
    let names: Vec<String> = names.iter().map(|name| name.to_string()).collect();
    let (registry, encoder, cache) = (Registry::open(dir).unwrap(), encoder(), Cache::new(dir.join("cache")));
    let progress = &mut |_, _| Ok(());
    Loader { registry: &registry, encoder: &encoder, cache: &cache, reading, progress }.load(&names, options)
}

fn loaded(dir: &Path, names: &[&str], needs: Needs, cutoff_len: usize) -> Result<Dataset> {
    let options = LoadOptions { cutoff_len, blocks: needs == Needs::Text, ..LoadOptions::plain(needs) };
    load(dir, names, Reading::Whole, &options)
}

/// Tokens and targets of each sample of one dataset or several.
fn counted(dir: &Path, names: &[&str], needs: Needs, cutoff: usize) -> Vec<(usize, usize)> {
    let samples = loaded(dir, names, needs, cutoff).unwrap().samples;
    let read = |i| samples.batch(&[i as u32]).unwrap();
    let counts: Vec<_> = (0..samples.len()).map(|i| (read(i).ids.len(), read(i).targets.len())).collect();
    assert!(counts.iter().enumerate().all(|(i, n)| *n == (samples.length(i), samples.targets(i))));
    counts
}

#[test]
fn datasets_are_counted() {
    let dir = folder(&[
        (
            "dataset_info.json",
            r#"{"a": {"file_name": "a.json"}, "t": {"file_name": "t.txt", "columns": {"prompt": "text"}},
            "folder": {"file_name": "many"}}"#,
        ),
        ("a.json", r#"[{"instruction": "q", "output": "one two"}, {"instruction": "q q q q", "output": "x"}]"#),
        ("t.txt", "a b c\n\nd e f g\n"),
    ]);
    fs::create_dir(dir.path().join("many")).unwrap();
    for name in ["2.jsonl", "1.jsonl", "notes.md"] {
        fs::write(dir.path().join("many").join(name), r#"{"instruction": "q", "output": "x"}"#).unwrap();
    }
    let data = loaded(dir.path(), &["a", "folder"], Needs::Instructions, 100).unwrap();
    let samples = counted(dir.path(), &["a", "folder"], Needs::Instructions, 100);
    assert_eq!(samples.iter().map(|(_, targets)| *targets).collect::<Vec<_>>(), [3, 2, 2, 2]);
    let longest = samples.iter().map(|(n, _)| *n).max().unwrap();
    assert_eq!((data.samples.len(), data.samples.longest()), (4, longest));
    assert_eq!(data.datasets.iter().map(|d| d.samples).collect::<Vec<_>>(), [2, 2]);
    let short = loaded(dir.path(), &["a"], Needs::Instructions, longest - 1).unwrap();
    assert_eq!((short.truncated, short.notes[0].code.as_str()), (1, "truncated"));
    let none = loaded(dir.path(), &["a"], Needs::Instructions, 4).unwrap_err().into_problem();
    assert_eq!((none.code.as_str(), none.field.as_deref()), ("nothing_trained", Some("cutoff_len")));
    // Four and five tokens with the end of each: blocks of six.
    assert_eq!(counted(dir.path(), &["t"], Needs::Text, 6), [(6, 5), (3, 2)]);
    // Every stage on text takes conversations too, but not the other way round.
    assert!(counted(dir.path(), &["a"], Needs::Text, 100)[0].1 > 10);
    let wrong = loaded(dir.path(), &["t"], Needs::Instructions, 100).unwrap_err().into_problem();
    assert!(wrong.message.contains("plain text") && wrong.hint.contains("pt"), "{wrong}");
}

#[test]
fn pairs_and_marked_answers_are_samples_of_two_sequences() {
    let dir = folder(&[
        (
            "dataset_info.json",
            r#"{"p": {"file_name": "p.json", "ranking": true, "columns": {"chosen": "chosen", "rejected": "rejected"}},
            "k": {"file_name": "k.json", "columns": {"response": "output", "kto_tag": "tag"}},
            "t": {"file_name": "t.txt", "columns": {"prompt": "text"}}}"#,
        ),
        (
            "p.json",
            r#"[{"instruction": "q", "chosen": "a b c", "rejected": "d", "margin": 0.5},
            {"instruction": "q q", "chosen": "a", "rejected": "d e"}]"#,
        ),
        (
            "k.json",
            r#"[{"instruction": "q", "output": "a b c d", "tag": true}, {"instruction": "q q", "output": "e", "tag": false},
            {"instruction": "q", "output": "f g", "tag": true}]"#,
        ),
        ("t.txt", "a b c\n"),
    ]);
    let batch = |name: &str, needs: Needs, of: &[u32]| {
        loaded(dir.path(), &[name], needs, 1000).unwrap().samples.batch(of).unwrap()
    };
    let targets =
        |batch: &crate::model::Batch| -> Vec<usize> { batch.target_ranges().iter().map(|r| r.len()).collect() };
    let pairs = batch("p", Needs::Preferences, &[0, 1]);
    assert_eq!((targets(&pairs), pairs.marks.clone()), (vec![4, 2, 2, 3], vec![0.5, 0.5, 0.0, 0.0]));
    // The prompts of a pair are the same, and its answers end with it.
    let prompt = pairs.lengths[0] - 4;
    assert_eq!((pairs.lengths[1] - 2, pairs.lengths[3] - 3), (prompt, prompt + 1));
    assert_eq!(pairs.ids[..prompt], pairs.ids[pairs.lengths[0]..pairs.lengths[0] + prompt]);
    // Each answer with its mark, then the answer of the row before, which the first row has from the last.
    let marked = batch("k", Needs::Kto, &[0, 1, 2]);
    assert_eq!((targets(&marked), marked.marks.clone()), (vec![5, 3, 2, 5, 3, 2], vec![1., 1., 0., 0., 1., 1.]));
    // Texts and conversations in one run are told apart by their marks.
    assert_eq!(batch("t", Needs::Mixed, &[0]).marks, [1.0]);
    assert_eq!(loaded(dir.path(), &["p"], Needs::Preferences, 1000).unwrap().datasets[0].samples, 2);
    for (name, needs, stages) in [
        ("p", Needs::Instructions, "rm, dpo, ppo, grpo"),
        ("p", Needs::Kto, "rm, dpo, ppo, grpo"),
        ("k", Needs::Preferences, "kto, ppo, grpo"),
        ("t", Needs::Preferences, "pt, mixed, ppo, grpo"),
    ] {
        let problem = loaded(dir.path(), &[name], needs, 100).unwrap_err().into_problem();
        assert_eq!((problem.code.as_str(), problem.field.as_deref()), ("dataset_kind_mismatch", Some("dataset")));
        assert!(problem.hint.ends_with(&format!("a stage that takes it: {stages}.")), "{problem}");
    }
    let wrong = r#"[{"instruction": "q", "chosen": "a", "rejected": "d", "margin": "much"}]"#;
    fs::write(dir.path().join("p.json"), wrong).unwrap();
    let problem = loaded(dir.path(), &["p"], Needs::Preferences, 100).unwrap_err().into_problem();
    assert!(problem.message.contains("Row 1 of dataset p: column \"margin\" is \"much\", not a number"), "{problem}");
}

#[test]
fn what_was_encoded_is_found_again_until_anything_changes() {
    let dir = folder(&[
        ("dataset_info.json", r#"{"a": {"file_name": "a.json"}}"#),
        ("a.json", r#"[{"instruction": "q", "output": "one two"}, {"instruction": "q q", "output": "x"}]"#),
    ]);
    let kept = || fs::read_dir(dir.path().join("cache")).map_or(0, Iterator::count);
    let tokens = |cutoff| loaded(dir.path(), &["a"], Needs::Instructions, cutoff).unwrap().datasets[0].tokens;
    let all = tokens(100);
    // Another length cuts the same tokens; a plan of a small dataset encodes it, too.
    assert!(tokens(all as usize / 2 - 1) < all);
    let options = LoadOptions { cutoff_len: 100, ..LoadOptions::plain(Needs::Instructions) };
    assert_eq!(load(dir.path(), &["a"], Reading::Beginning, &options).unwrap().datasets[0].tokens, all);
    assert_eq!(kept(), 1);
    let begun = loaded(dir.path(), &["a"], Needs::Instructions, 100).unwrap().samples;
    fs::write(dir.path().join("a.json"), r#"[{"instruction": "q", "output": "one two three"}]"#).unwrap();
    assert!(tokens(100) < all);
    // The settings that another mask or other rows come of.
    loaded(dir.path(), &["a"], Needs::Text, 100).unwrap();
    load(dir.path(), &["a"], Reading::Whole, &LoadOptions { max_samples: Some(1), ..options }).unwrap();
    assert_eq!(kept(), 4);
    // Who reads what is no longer kept goes on.
    fs::remove_dir_all(dir.path().join("cache")).unwrap();
    assert_eq!(begun.batch(&[0, 1]).unwrap().ids.len() as u64, all);
}

#[test]
fn a_plan_of_a_large_dataset_is_an_estimate_and_keeps_nothing() {
    let dir = folder(&[("dataset_info.json", r#"{"a": {"file_name": "a.jsonl"}}"#)]);
    let row = format!("{{\"instruction\": \"q\", \"output\": \"{}\"}}\n", "word ".repeat(2000));
    fs::write(dir.path().join("a.jsonl"), row.repeat(4000)).unwrap();
    let options = LoadOptions { cutoff_len: 4000, ..LoadOptions::plain(Needs::Instructions) };
    let plan = load(dir.path(), &["a"], Reading::Beginning, &options).unwrap();
    assert!(!dir.path().join("cache").exists() || fs::read_dir(dir.path().join("cache")).unwrap().count() == 0);
    assert_eq!((plan.samples.len(), plan.rows, plan.notes[0].code.as_str()), (4000, 4000, "estimated"));
    assert!(plan.samples.batch(&[0]).is_err());
    let mut heard = Vec::new();
    let (registry, encoder) = (Registry::open(dir.path()).unwrap(), encoder());
    let cache = Cache::new(dir.path().join("cache"));
    let mut hear = |done, total| {
        heard.push((done, total));
        if done > 2000 { Err(crate::Error::Internal("stopped".into())) } else { Ok(()) }
    };
    let (reading, progress): (_, &mut dyn FnMut(u64, u64) -> Result<()>) = (Reading::Whole, &mut hear);
    let mut loader = Loader { registry: &registry, encoder: &encoder, cache: &cache, reading, progress };
    assert!(loader.load(&["a".into()], &options).is_err());
    assert!(heard.len() > 2 && heard.iter().all(|(_, total)| *total == 4000), "{heard:?}");
    let whole = load(dir.path(), &["a"], Reading::Whole, &options).unwrap();
    assert_eq!(plan.datasets, whole.datasets);
    assert_eq!(fs::read_dir(dir.path().join("cache")).unwrap().count(), 1);
}

#[test]
fn every_fault_is_told_with_its_row() {
    let dir = folder(&[
        (
            "dataset_info.json",
            r#"{"a": {"file_name": "a.json"}, "b": {"file_name": "b.jsonl"}, "c": {"file_name": "c.json"}}"#,
        ),
        ("a.json", r#"[{"instruction": "q", "output": "x"}, {"instruction": "q"}, 7]"#),
        ("b.jsonl", "{\"instruction\": \"q\", \"output\": \"x\"}\n{\"instruction\": q}\n"),
        ("c.json", "[]"),
    ]);
    let problems = loaded(dir.path(), &["a", "b", "nobody"], Needs::Instructions, 100).unwrap_err().into_problems();
    let messages: Vec<&str> = problems.iter().map(|p| p.message.as_str()).collect();
    assert_eq!(messages.len(), 4, "{messages:?}");
    assert!(messages[0].starts_with("Row 2 of dataset a: column \"output\" is missing"), "{messages:?}");
    assert!(messages[1].starts_with("Row 3 of dataset a: the row is a number"), "{messages:?}");
    assert!(messages[2].starts_with("Row 2 of dataset b: it is not valid JSON: line 2, column 17"), "{messages:?}");
    assert!(messages[3].contains("nobody"), "{messages:?}");
    assert!(problems.iter().all(|p| p.zh.as_ref().is_some_and(|zh| !zh.message.is_empty())));
    let empty = loaded(dir.path(), &["c"], Needs::Instructions, 100).unwrap_err().into_problem();
    assert_eq!(empty.code, "dataset_empty");
}

#[test]
fn a_file_is_registered_shown_and_forgotten() {
    let dir = folder(&[
        ("dataset_info.json", r#"{"old": {"file_name": "old.json", "note": "kept"}}"#),
        ("old.json", "[]"),
        (
            "chat.jsonl",
            "{\"messages\": [{\"role\": \"user\", \"content\": \"hi\"}, {\"role\": \"assistant\", \"content\": \"yo\"}]}\n{\"messages\": []}\n",
        ),
        ("broken.json", "[{\"a\": 1},]"),
        ("odd.json", "[{\"id\": 1, \"frage\": \"q\", \"antwort\": \"a\"}]"),
        ("numbers.json", "[1, 2]"),
    ]);
    let info = preview::register(dir.path(), "聊天", "chat.jsonl").unwrap();
    assert_eq!((info.rows, info.kind.as_str(), info.formatting.as_str()), (2, "instructions", "sharegpt"));
    assert!(info.problem.unwrap().message.starts_with("Row 2 of dataset 聊天"));
    let rows = |offset, limit| {
        let wanted = RowsWanted { offset, limit, ..RowsWanted::default() };
        preview::rows(dir.path(), "聊天", &wanted).unwrap()
    };
    let shown = rows(0, 10);
    assert_eq!(shown.rows[0].messages, [Message::new("user", "hi"), Message::new("assistant", "yo")]);
    assert!(shown.rows[1].problem.is_some() && shown.rows[1].raw["messages"].is_array());
    assert_eq!((rows(1, 1).rows[0].index, rows(0, 1).more, shown.more), (1, true, false));

    let code = |name: &str, file: &str| preview::register(dir.path(), name, file).unwrap_err().into_problem().code;
    assert_eq!(code("聊天", "chat.jsonl"), "dataset_taken");
    assert_eq!(code("../x", "chat.jsonl"), "dataset_name");
    assert_eq!(code("x", "../chat.jsonl"), "dataset_outside");
    assert_eq!(code("x", "broken.json"), "dataset_not_json");
    assert_eq!(code("x", "numbers.json"), "dataset_unknown");
    assert_eq!(code("x", "none.json"), "dataset_file_missing");

    // Columns of unknown names: registered all the same, and the problem says what is to be done.
    let odd = preview::register(dir.path(), "odd", "odd.json").unwrap();
    assert_eq!((odd.rows, odd.editable, odd.problem.unwrap().code.as_str()), (1, true, "dataset_unmapped"));
    let columns = preview::columns(dir.path(), "odd").unwrap();
    assert_eq!(columns.found, ["id", "frage", "antwort"]);
    let guess = columns.guess.unwrap();
    assert_eq!((guess.columns["prompt"].as_str(), guess.columns["response"].as_str()), ("frage", "antwort"));
    preview::forget(dir.path(), "odd").unwrap();

    let names = || preview::list(dir.path()).unwrap().into_iter().map(|d| d.name).collect::<Vec<_>>();
    assert_eq!(names(), ["old", "聊天"]);
    preview::forget(dir.path(), "聊天").unwrap();
    assert_eq!(names(), ["old"]);
    assert!(!dir.path().join("chat.jsonl").exists() && dir.path().join("old.json").exists());
    assert!(fs::read_to_string(dir.path().join("dataset_info.json")).unwrap().contains("\"note\": \"kept\""));
    assert_eq!(preview::forget(dir.path(), "chat").unwrap_err().into_problem().code, "unknown_dataset");
}

#[test]
fn llama_factorys_demo_data_is_read() {
    let Some(dir) = outside("") else { return };
    let registry = Registry::open(&dir).unwrap();
    assert_eq!(registry.entries().len(), 104);
    let counted = |name: &str| {
        let (mut rows, mut answers, entry) = (0, 0, registry.entry(name).unwrap());
        super::load::examples(&registry, entry, u64::MAX, &mut |_, example| {
            let example = example.map_err(crate::Error::Problem)?;
            rows += 1;
            answers += example.messages.iter().filter(|m| example::is_answer(m)).count();
            Ok(std::ops::ControlFlow::Continue(()))
        })
        .unwrap();
        (rows, answers, entry.format().unwrap().kind(entry).name())
    };
    assert_eq!(counted("identity"), (91, 91, "instructions"));
    assert_eq!(counted("alpaca_en_demo"), (999, 999, "instructions"));
    assert_eq!(counted("alpaca_zh_demo"), (1000, 1000, "instructions"));
    assert_eq!(counted("glaive_toolcall_en_demo"), (300, 746 + 211, "instructions"));
    assert_eq!(counted("dpo_en_demo"), (300, 263, "preferences"));
    assert_eq!(counted("kto_en_demo"), (300, 487, "kto"));
    assert_eq!(counted("wiki_demo").0, 30);
    assert_eq!(counted("c4_demo"), (300, 0, "text"));
    let remote = registry.files(registry.entry("lima").unwrap()).unwrap_err().into_problem();
    assert_eq!(remote.code, "dataset_not_downloaded");
}
