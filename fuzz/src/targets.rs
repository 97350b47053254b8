//! One function for each fuzz target: bytes in, and what must hold of whatever the engine makes of them. The fuzzer calls
//! them with bytes of its own, `engine/tests/corpus.rs` with the committed corpus.

use api::{Line, Problem, data::Message};
use engine::{
    Error,
    data::{
        ChatTemplate, EncodeOptions, Encoder, Example, FORMATS, Registry, SpecialTokens,
        example::{self, to_values},
        info, reader, template,
    },
    files::{ModelFiles, ModelTokenizer},
    train::checkpoint::Manifest,
};
use serde_json::{Map, Value, json};
use std::{
    fs,
    ops::ControlFlow,
    path::{Component, Path},
    sync::{Arc, LazyLock},
};

/// What a target does with its bytes.
pub type Target = fn(&[u8]);

/// Name and function of each target.
pub const TARGETS: &[(&str, Target)] = &[
    ("json", json),
    ("jsonl", jsonl),
    ("csv", csv),
    ("text", text),
    ("gzip", gzip),
    ("parquet", parquet),
    ("arrow", arrow),
    ("dataset_info", dataset_info),
    ("rows", rows),
    ("template", template),
    ("render", render),
    ("tokenizer", tokenizer),
    ("gguf", gguf),
    ("safetensors", safetensors),
    ("manifest", manifest),
    ("events", events),
];

/// A `.json` file: what serde_json takes as a list has exactly these rows.
pub fn json(bytes: &[u8]) {
    let read = read("a.json", bytes);
    let text = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    if let Ok(list) = serde_json::from_slice::<Vec<Value>>(text) {
        agree(&read.expect("a list is read"), &list.into_iter().map(Some).collect::<Vec<_>>());
    }
}

/// A `.jsonl` file: each line of a UTF-8 text is the row that serde_json makes of it.
pub fn jsonl(bytes: &[u8]) {
    let read = read("a.jsonl", bytes);
    let begins_a_list = |text: &str| text.trim_ascii_start().starts_with('[');
    if let Some(text) = utf8(bytes).filter(|text| !begins_a_list(text)) {
        let rows: Vec<Option<Value>> = lines(text).map(|line| serde_json::from_str(line).ok()).collect();
        agree(&read.expect("lines hide nothing"), &rows);
    }
}

/// A `.csv` and a `.tsv` file: every row is an object of texts.
pub fn csv(bytes: &[u8]) {
    for name in ["a.csv", "a.tsv"] {
        for row in read(name, bytes).into_iter().flatten().flatten() {
            let row = row.as_object().expect("a row with columns");
            assert!(row.len() <= 1000 && row.values().all(|cell| cell.is_string() || cell.is_null()));
        }
    }
}

/// A `.txt` file in any encoding: UTF-8 gives its lines.
pub fn text(bytes: &[u8]) {
    let read = read("a.txt", bytes);
    if let Some(text) = utf8(bytes) {
        let rows: Vec<Option<Value>> = lines(text).map(|line| Some(json!({ "text": line }))).collect();
        agree(&read.expect("lines hide nothing"), &rows);
    }
}

/// A gzipped `.jsonl` file.
pub fn gzip(bytes: &[u8]) {
    let _ = read("a.jsonl.gz", bytes);
}

/// A `.parquet` file.
pub fn parquet(bytes: &[u8]) {
    let _ = read("a.parquet", bytes);
}

/// An `.arrow` file or stream.
pub fn arrow(bytes: &[u8]) {
    let _ = read("a.arrow", bytes);
}

/// A `dataset_info.json`: no dataset leads out of its folder.
pub fn dataset_info(bytes: &[u8]) {
    let folder = tempfile::tempdir().expect("a folder");
    let inside = folder.path().join("data");
    fs::create_dir_all(inside.join("folder")).expect("a folder");
    for file in ["a.json", "data/a.json", "data/folder/b.csv"] {
        fs::write(folder.path().join(file), "[]").expect("a file");
    }
    fs::write(inside.join(info::FILE), bytes).expect("a file");
    let inside = inside.canonicalize().expect("a folder");
    let registry = match Registry::open(&inside) {
        Ok(registry) => registry,
        Err(error) => return check(error.into_problem()),
    };
    for entry in registry.entries() {
        match registry.entry(&entry.name).and_then(|entry| registry.files(entry)) {
            Ok(files) => assert!(files.iter().all(|f| f.canonicalize().expect("it exists").starts_with(&inside))),
            Err(error) => check(error.into_problem()),
        }
    }
}

/// A row in each format that recognises it, then as every template shows it to the model: trained tokens are answers.
pub fn rows(bytes: &[u8]) {
    let Ok(Value::Object(row)) = serde_json::from_slice::<Value>(bytes) else { return };
    for format in FORMATS {
        let Some(mut entry) = format.recognise(&row) else { continue };
        entry.insert("file_name".into(), "a.json".into());
        let entry = info::Entry::parse("a", &Value::Object(entry));
        assert_eq!(entry.problem, None, "what is recognised is an entry");
        match format.example(&row, &entry) {
            Ok(example) => encode(&example),
            Err(problem) => check(*problem),
        }
    }
}

/// A chat template, and behind a zero byte the conversation that it renders, as transformers takes it.
pub fn template(bytes: &[u8]) {
    let mut parts = bytes.splitn(2, |b| *b == 0);
    let Some(Ok(source)) = parts.next().map(std::str::from_utf8) else { return };
    let given = parts.next().and_then(|rest| serde_json::from_slice(rest).ok());
    let messages: Vec<Value> = given.unwrap_or_else(|| to_values(&talk(), source.contains("tool_calls")));
    let template = match ChatTemplate::new(source, Some("<s>"), Some("</s>")) {
        Ok(template) => template,
        Err(error) => return check(error.into_problem()),
    };
    for prompt in [false, true] {
        match template.render_values(&messages, Some(&json!([{"function": {"name": "f"}}])), prompt, &Map::new()) {
            Ok(text) => assert!(text.len() <= template::MAX_OUTPUT),
            Err(error) => check(error.into_problem()),
        }
    }
    let messages = talk();
    encode_with(template, &Example { messages, ..Example::default() });
}

/// A conversation as transformers takes it, rendered by every named template: bounded, or a problem.
pub fn render(bytes: &[u8]) {
    static TEMPLATES: LazyLock<Vec<ChatTemplate>> = LazyLock::new(|| {
        let sources = template::NAMES.iter().map(|name| template::named(name).expect("a named template"));
        sources.map(|source| ChatTemplate::new(source, Some("<s>"), Some("</s>")).expect("it compiles")).collect()
    });
    let Ok(messages) = serde_json::from_slice::<Vec<Value>>(bytes) else { return };
    for template in TEMPLATES.iter() {
        for prompt in [false, true] {
            match template.render_values(&messages, None, prompt, &Map::new()) {
                Ok(text) => assert!(text.len() <= template::MAX_OUTPUT),
                Err(error) => check(error.into_problem()),
            }
        }
    }
}

/// A `tokenizer.json` and, behind a zero byte, a `tokenizer_config.json`.
pub fn tokenizer(bytes: &[u8]) {
    let folder = tempfile::tempdir().expect("a folder");
    let mut parts = bytes.splitn(2, |b| *b == 0);
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        if let Some(part) = parts.next() {
            fs::write(folder.path().join(name), part).expect("a file");
        }
    }
    match ModelTokenizer::open(folder.path()) {
        Ok(found) => assert!(found.rows() > 0 || found.bos.is_none()),
        Err(error) => check(error.into_problem()),
    }
}

/// A GGUF file's header with its tokenizer.
pub fn gguf(bytes: &[u8]) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.gguf");
    fs::write(&path, bytes).expect("a file");
    open(&path);
}

/// The header of a safetensors file, in the folder of a tiny Llama.
pub fn safetensors(bytes: &[u8]) {
    let folder = tempfile::tempdir().expect("a folder");
    let config = json!({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 4, "hidden_size": 2,
        "intermediate_size": 2, "num_hidden_layers": 1, "num_attention_heads": 1, "rms_norm_eps": 1e-6});
    fs::write(folder.path().join("config.json"), config.to_string()).expect("a file");
    fs::write(folder.path().join("model.safetensors"), bytes).expect("a file");
    open(folder.path());
}

/// The manifest of a checkpoint: what is read names plain files alone, and is read again as it is written.
pub fn manifest(bytes: &[u8]) {
    match Manifest::parse(bytes) {
        Ok(found) => {
            let is_plain = |name: &String| Path::new(name).components().eq([Component::Normal(name.as_ref())]);
            assert!(found.files.keys().all(is_plain));
            let again = Manifest::parse(&found.sealed()).expect("what is sealed is read");
            assert_eq!((again.step, again.serial, &again.files), (found.step, found.serial, &found.files));
        }
        Err(what) => assert!(!what.en.is_empty() && !what.zh.is_empty()),
    }
}

/// A worker's `events.jsonl`, line by line: what is read is written as it was understood.
pub fn events(bytes: &[u8]) {
    for line in bytes.split(|b| *b == b'\n') {
        let Ok(line) = serde_json::from_slice::<Line>(line) else { continue };
        let text = serde_json::to_vec(&line).expect("it is written");
        let again: Line = serde_json::from_slice(&text).expect("what is written is read");
        assert_eq!(again, line);
    }
}

fn open(path: &Path) {
    match ModelFiles::open(path) {
        Ok(files) => {
            assert!(files.names().all(|name| files.shape(name).is_ok()));
            if let Err(error) = files.tokenizer() {
                check(error.into_problem());
            }
        }
        Err(error) => check(error.into_problem()),
    }
}

/// The rows that were read are these, `None` for a faulty one; a row that names a key twice is faulty here alone.
fn agree(read: &[Result<Value, String>], rows: &[Option<Value>]) {
    assert_eq!(read.len(), rows.len());
    for (read, row) in read.iter().zip(rows).filter(|(read, _)| !read.as_ref().is_err_and(|e| e == "row_key_twice")) {
        assert_eq!(read.as_ref().ok(), row.as_ref());
    }
}

/// The rows of a file with these bytes, a code for each faulty one. Its rows are numbered without a gap, counted alike, and
/// what is wrong is told in both languages.
fn read(name: &str, bytes: &[u8]) -> Option<Vec<Result<Value, String>>> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join(name);
    fs::write(&path, bytes).expect("a file");
    let mut rows = Vec::new();
    let read = reader::read(&path, &mut |number, row| {
        assert_eq!(number, rows.len() as u64);
        rows.push(row.map_err(|problem| {
            let code = problem.code.clone();
            check(*problem);
            code
        }));
        Ok(ControlFlow::Continue(()))
    });
    let counted = reader::count(&path);
    match read {
        Ok(()) => {
            assert_eq!(counted.expect("what is read is counted"), rows.len() as u64);
            Some(rows)
        }
        Err(error) => {
            check(error.into_problem());
            None
        }
    }
}

fn utf8(bytes: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(bytes).ok()?;
    // Two characters of ASCII with a zero byte each are the beginning of UTF-16.
    (!text.contains('\0')).then(|| text.strip_prefix('\u{feff}').unwrap_or(text))
}

fn lines(text: &str) -> impl Iterator<Item = &str> {
    let lines = text.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line));
    lines.filter(|line| !line.bytes().all(|b| b.is_ascii_whitespace()))
}

/// A problem that a person can use.
fn check(problem: Problem) {
    assert!(!problem.message.is_empty() && !problem.code.is_empty());
    assert_ne!(problem.code, "internal", "{}", problem.message);
    let zh = problem.zh.expect("in both languages");
    assert!(!zh.message.is_empty() && zh.hint.is_empty() == problem.hint.is_empty(), "{}", problem.message);
}

fn talk() -> Vec<Message> {
    let call = r#"{"name": "f", "arguments": {"x": 1}}"#;
    [("system", "s"), ("user", "hi"), ("function", call), ("tool", "1"), ("assistant", "<think>t</think>\n\nyo ")]
        .map(|(role, content)| Message::new(role, content))
        .to_vec()
}

fn encode(example: &Example) {
    for name in template::NAMES {
        let source = template::named(name).expect("a named template");
        encode_with(ChatTemplate::new(source, Some("<s>"), Some("</s>")).expect("it compiles"), example);
    }
}

/// As many marks as ids, the first never trained, and a conversation with an answer has something to learn.
fn encode_with(template: ChatTemplate, example: &Example) {
    static BYTES: LazyLock<Arc<tokenizers::Tokenizer>> = LazyLock::new(|| {
        let alphabet = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet();
        let vocab: Map<String, Value> =
            alphabet.into_iter().enumerate().map(|(i, c)| (c.to_string(), i.into())).collect();
        let level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
        let tokenizer = json!({"version": "1.0", "pre_tokenizer": level, "post_processor": level, "decoder": level,
            "model": {"type": "BPE", "vocab": vocab, "merges": []}});
        Arc::new(tokenizer.to_string().parse().expect("a tokenizer"))
    });
    let options = EncodeOptions::default();
    let encoder = Encoder::new(BYTES.clone(), template, SpecialTokens::default(), options).expect("an encoder");
    match encoder.conversation(example) {
        Ok(found) => {
            assert_eq!(found.ids.len(), found.trained.len());
            assert!(!found.trained.first().is_some_and(|first| *first));
            let said: String =
                example.messages.iter().filter(|m| example::is_answer(m)).map(|m| m.content.trim()).collect();
            assert!(said.is_empty() || found.ids.len() < 2 || found.targets() > 0, "{example:?}");
        }
        Err(Error::Problem(problem)) => check(*problem),
        Err(other) => check(other.into_problem()),
    }
}
