//! Every data file beside the repository (`../shared/data`, or where LATHE_DATA says): its rows as the format's definition
//! has them, computed here anew, and with the starter's tokenizer trained on exactly its answers. Passes where they are absent.
#![allow(clippy::unwrap_used)]

use api::data::Message;
use engine::{
    Error,
    data::{
        ChatTemplate, EncodeOptions, Encoder, Example, Registry, SpecialTokens,
        example::{self, is_answer},
        load::examples,
    },
    files::ModelFiles,
};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

fn folder() -> Option<PathBuf> {
    let folder = std::env::var_os("LATHE_DATA").map(PathBuf::from);
    let folder = folder.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data"));
    Some(folder).filter(|folder| folder.join("dataset_info.json").exists())
}

/// The rows of a file, read without Lathe.
fn raw(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    match path.extension().unwrap().to_str().unwrap() {
        "json" => serde_json::from_str(&text).unwrap(),
        "jsonl" => {
            text.lines().filter(|line| !line.is_empty()).map(|line| serde_json::from_str(line).unwrap()).collect()
        }
        _ => text.lines().filter(|line| !line.trim().is_empty()).map(|line| json!({ "text": line })).collect(),
    }
}

/// Every example of a dataset; a faulty row fails the test.
fn read(registry: &Registry, name: &str) -> (Vec<Example>, &'static str) {
    let entry = registry.entry(name).unwrap();
    let mut found = Vec::new();
    examples(registry, entry, u64::MAX, &mut |row, example| {
        assert_eq!(row, found.len() as u64 + 1);
        found.push(example.map_err(Error::Problem)?);
        Ok(ControlFlow::Continue(()))
    })
    .unwrap_or_else(|e| panic!("{name}: {e}"));
    (found, entry.format().unwrap().kind(entry).name())
}

fn text<'a>(row: &'a Value, key: &str) -> &'a str {
    row[key].as_str().unwrap()
}

/// A question and its answer: `instruction` and `input`, each on lines of their own.
fn alpaca(row: &Value) -> Example {
    let parts = [text(row, "instruction"), text(row, "input")];
    let question = parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("\n");
    let messages = vec![Message::new("user", question), Message::new("assistant", text(row, "output"))];
    Example { messages, ..Example::default() }
}

fn pair(row: &Value, question: &str, answer: &str) -> Example {
    let messages = vec![Message::new("user", text(row, question)), Message::new("assistant", text(row, answer))];
    Example { messages, ..Example::default() }
}

fn plain(row: &Value, column: &str) -> Example {
    Example { text: Some(text(row, column).into()), ..Example::default() }
}

/// ShareGPT's roles in ours; an empty system message is none.
fn sharegpt(row: &Value) -> Example {
    let message = |value: &Value| {
        let role = match text(value, "from") {
            "human" => "user",
            "gpt" => "assistant",
            "function_call" => "function",
            "observation" => "tool",
            other => other,
        };
        Message::new(role, text(value, "value"))
    };
    let messages = row["conversations"].as_array().unwrap().iter().map(message);
    let answer = |key: &str| row.get(key).map(message);
    let tools: Vec<Value> = row
        .get("tools")
        .map_or_else(Vec::new, |tools| serde_json::from_str(tools.as_str().unwrap()).unwrap_or_default());
    let tools: Vec<Value> = tools.into_iter().map(|tool| json!({ "type": "function", "function": tool })).collect();
    Example {
        messages: messages.filter(|m| m.role != "system" || !m.content.is_empty()).collect(),
        tools: (!tools.is_empty()).then_some(Value::Array(tools)),
        chosen: answer("chosen"),
        rejected: answer("rejected"),
        ..Example::default()
    }
}

fn kto(row: &Value) -> Example {
    let messages = row["messages"].as_array().unwrap().iter();
    let messages = messages.map(|value| Message::new(text(value, "role"), text(value, "content"))).collect();
    Example { messages, desirable: row["label"].as_bool(), ..Example::default() }
}

/// The starter's tokenizer and template.
fn encoder() -> Encoder {
    let starter = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/starter");
    let tokenizer = ModelFiles::open(starter).unwrap().tokenizer().unwrap();
    let eos = tokenizer.eos.as_ref().map(|(word, _)| word.as_str());
    let template = ChatTemplate::new(tokenizer.chat_template.as_deref().unwrap(), None, eos).unwrap();
    let special = SpecialTokens { bos: tokenizer.bos.clone(), eos: tokenizer.eos.clone() };
    let options = EncodeOptions::default();
    Encoder::new(tokenizer.tokenizer.clone(), template, special, options).unwrap()
}

/// Each trained part is one answer with its end, and every answer is one.
fn learns_its_answers(encoder: &Encoder, example: &Example, name: &str) {
    let sequence = encoder.conversation(example).unwrap_or_else(|e| panic!("{name}: {e}"));
    let decode = |ids: &[u32]| encoder.tokenizer().decode(ids, false).unwrap();
    if let Some(text) = &example.text {
        assert_eq!((sequence.targets(), sequence.trained[0]), (sequence.len() - 1, false), "{name}");
        assert_eq!(decode(&sequence.ids), format!("{text}<|im_end|>"), "{name}");
        return;
    }
    let mut learned: Vec<Vec<u32>> = Vec::new();
    for (i, id) in sequence.ids.iter().enumerate().filter(|(i, _)| sequence.trained[*i]) {
        if !sequence.trained[i - 1] {
            learned.push(Vec::new());
        }
        learned.last_mut().unwrap().push(*id);
    }
    let learned: Vec<String> = learned.iter().map(|ids| decode(ids)).collect();
    let answers = example.messages.iter().filter(|m| is_answer(m));
    assert_eq!(learned, answers.map(|m| format!("{}<|im_end|>", m.content)).collect::<Vec<_>>(), "{name}");
}

#[test]
fn every_file_gives_what_its_definition_says() {
    let Some(folder) = folder() else { return };
    let registry = Registry::open(&folder).unwrap();
    assert_eq!(registry.entries().len(), 104);
    // Files that nobody has registered, with their columns: in a folder of their own, since links lead out of it.
    let own = tempfile::tempdir().unwrap();
    let choices = json!({"prompt": "question", "response": "answer"});
    let mut info = serde_json::Map::new();
    for (name, file, columns) in [
        ("gsm8k", "gsm8k/train.jsonl", choices.clone()),
        ("mmlu", "evaluation/mmlu_test_500.jsonl", choices.clone()),
        ("ceval", "evaluation/ceval_val_300.jsonl", choices.clone()),
        ("cmmlu", "evaluation/cmmlu_test_300.jsonl", choices),
        ("financial", "financial/fpb_allagree.alpaca.json", Value::Null),
        ("seed_tasks", "seed_tasks.jsonl", Value::Null),
    ] {
        let mut entry = json!({ "file_name": file.replace('/', "-") });
        if name == "seed_tasks" {
            entry["formatting"] = "self_instruct".into();
        }
        if !columns.is_null() {
            entry["columns"] = columns;
        }
        fs::copy(folder.join(file), own.path().join(file.replace('/', "-"))).unwrap();
        info.insert(name.into(), entry);
    }
    fs::write(own.path().join("dataset_info.json"), Value::Object(info).to_string()).unwrap();
    let unregistered = Registry::open(own.path()).unwrap();

    type Definition = fn(&Value) -> Example;
    let qa: Definition = |row| pair(row, "question", "answer");
    let text: Definition = |row| plain(row, "text");
    let files: [(&Registry, &str, &str, usize, &str, Definition); 14] = [
        (&registry, "identity", "identity.json", 91, "instructions", alpaca),
        (&registry, "alpaca_en_demo", "alpaca_en_demo.json", 999, "instructions", alpaca),
        (&registry, "alpaca_zh_demo", "alpaca_zh_demo.json", 1000, "instructions", alpaca),
        (&registry, "glaive_toolcall_en_demo", "glaive_toolcall_en_demo.json", 300, "instructions", sharegpt),
        (&registry, "dpo_en_demo", "dpo_en_demo.json", 300, "preferences", sharegpt),
        (&registry, "kto_en_demo", "kto_en_demo.json", 300, "kto", kto),
        (&registry, "wiki_demo", "wiki_demo.txt", 30, "text", text),
        (&registry, "c4_demo", "c4_demo.jsonl", 300, "text", text),
        (&unregistered, "gsm8k", "gsm8k/train.jsonl", 7473, "instructions", qa),
        (&unregistered, "mmlu", "evaluation/mmlu_test_500.jsonl", 500, "instructions", qa),
        (&unregistered, "ceval", "evaluation/ceval_val_300.jsonl", 300, "instructions", qa),
        (&unregistered, "cmmlu", "evaluation/cmmlu_test_300.jsonl", 300, "instructions", qa),
        (&unregistered, "financial", "financial/fpb_allagree.alpaca.json", 2264, "instructions", alpaca),
        (&unregistered, "seed_tasks", "seed_tasks.jsonl", 175, "instructions", |row| {
            let instance = &row["instances"][0];
            alpaca(
                &json!({"instruction": row["instruction"], "input": instance["input"], "output": instance["output"]}),
            )
        }),
    ];
    let encoder = encoder();
    let mut roles: BTreeMap<(&str, String), usize> = BTreeMap::new();
    for (registry, name, file, rows, kind, definition) in files {
        let (found, found_kind) = read(registry, name);
        assert_eq!((found.len(), found_kind), (rows, kind), "{name}");
        for (i, (example, row)) in found.iter().zip(raw(&folder.join(file))).enumerate() {
            assert_eq!(*example, definition(&row), "{name}, row {}", i + 1);
            example.messages.iter().for_each(|m| *roles.entry((name, m.role.clone())).or_default() += 1);
            // A preferred answer is encoded like any other.
            for answer in [&example.chosen, &example.rejected].into_iter().flatten() {
                let messages = example.messages.iter().chain([answer]).cloned().collect();
                learns_its_answers(&encoder, &Example { messages, ..Example::default() }, name);
            }
            if example.chosen.is_none() {
                learns_its_answers(&encoder, example, name);
            }
        }
    }
    let count = |name, role: &str| roles.get(&(name, role.to_string())).copied().unwrap_or(0);
    let glaive = ["user", "assistant", "function", "tool", "system"].map(|role| count("glaive_toolcall_en_demo", role));
    assert_eq!(glaive, [746, 746, 211, 211, 0]);
    assert_eq!(["user", "assistant", "system"].map(|role| count("dpo_en_demo", role)), [563, 263, 80]);
    assert_eq!(["user", "assistant"].map(|role| count("kto_en_demo", role)), [487, 487]);
    let (kto, _) = read(&registry, "kto_en_demo");
    assert_eq!(kto.iter().filter(|example| example.desirable == Some(true)).count(), 150);
    let (glaive, _) = read(&registry, "glaive_toolcall_en_demo");
    assert_eq!(glaive.iter().filter(|example| example.tools.is_some()).count(), 191);
    // What a call says is JSON with a name.
    let calls = glaive.iter().flat_map(|example| &example.messages).filter(|m| m.role == "function");
    assert!(calls.map(|m| example::function_calls(&m.content)).all(|calls| calls.len() == 1));
    // Every other file of the folder is a licence, a template or the list itself.
    let mut known: Vec<PathBuf> = files.iter().map(|(_, _, file, ..)| folder.join(file)).collect();
    known.push(folder.join("dataset_info.json"));
    let mut folders = vec![folder];
    while let Some(folder) = folders.pop() {
        for item in fs::read_dir(&folder).unwrap().map(|item| item.unwrap().path()) {
            let name = item.file_name().unwrap().to_string_lossy().to_lowercase();
            match item.is_dir() {
                true => folders.push(item),
                false if name.starts_with("license") || name == "source.md" || name.ends_with(".jinja") => {}
                false => assert!(known.contains(&item), "{} is not tested", item.display()),
            }
        }
    }
}
