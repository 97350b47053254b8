//! Attacks by files and templates of others, each test named after its row. Those on GGUF are in `engine/src/files/museum.rs`.
#![allow(clippy::unwrap_used)]

use api::Problem;
use engine::{
    data::{ChatTemplate, reader},
    files::{ModelFiles, ModelTokenizer, read_adapter},
};
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// What a person is told; fails if it isn't a problem, or says nothing in one language.
#[track_caller]
fn problem<T>(result: engine::Result<T>) -> Problem {
    let Err(error) = result else { panic!("no problem") };
    let problem = error.into_problem();
    assert_ne!(problem.code, "internal", "{problem:?}");
    assert!(problem.zh.as_ref().is_some_and(|zh| !zh.message.is_empty()), "{problem:?}");
    problem
}

/// The folder of a Llama without weights.
fn folder() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let config = json!({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 4, "hidden_size": 2,
        "intermediate_size": 2, "num_hidden_layers": 1, "num_attention_heads": 1, "rms_norm_eps": 1e-6});
    fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    dir
}

fn safetensors(header: &str, data: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; data]].concat()
}

#[test]
fn m02_pickle_files_are_refused_by_name() {
    for name in ["pytorch_model.bin", "model.pt", "model.pth", "last.ckpt", "weights.pkl", "MODEL.BIN", "x.pickle"] {
        let dir = folder();
        // What would run, if anything did.
        fs::write(dir.path().join(name), b"cos\nsystem\n(S'touch pwn'\ntR.").unwrap();
        for path in [dir.path().to_path_buf(), dir.path().join(name)] {
            let problem = problem(ModelFiles::open(&path));
            assert!(problem.message.contains("pickle formats are never loaded"), "{name}: {}", problem.message);
            assert!(problem.hint.contains("safetensors"), "{}", problem.hint);
        }
    }
    let dir = tempfile::tempdir().unwrap();
    fs::write(
        dir.path().join("adapter_config.json"),
        r#"{"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["q_proj"]}"#,
    )
    .unwrap();
    fs::write(dir.path().join("adapter_model.bin"), b"cos\nsystem\n").unwrap();
    assert_eq!(problem(read_adapter(dir.path(), &candle_core::Device::Cpu)).code, "pickle");
}

/// M02: candle compiles a reader of pickle, which nothing here may call; clippy refuses it by `clippy.toml`.
#[test]
fn m02_no_code_of_ours_reads_pickle() {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let lint = fs::read_to_string(root.join("clippy.toml")).unwrap();
    for path in ["candle_core::pickle::read_all", "VarBuilderArgs::from_pth", "candle_core::pickle::PthTensors::new"] {
        assert!(lint.contains(path), "clippy.toml doesn't name {path}");
    }
    for file in sources(&[root.join("engine/src"), root.join("cli/src"), root.join("server/src")]) {
        let text = fs::read_to_string(&file).unwrap();
        for word in ["candle_core::pickle", "from_pth", "PthTensors", "serde_pickle"] {
            assert!(!text.contains(word), "{}: {word}", file.display());
        }
    }
}

fn sources(folders: &[PathBuf]) -> Vec<PathBuf> {
    let (mut folders, mut files) = (folders.to_vec(), Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            match entry.path() {
                path if path.is_dir() => folders.push(path),
                path if path.extension().is_some_and(|ending| ending == "rs") => files.push(path),
                _ => {}
            }
        }
    }
    assert!(!files.is_empty());
    files
}

fn render(source: &str) -> engine::Result<String> {
    let template = ChatTemplate::new(source, Some("<s>"), Some("</s>"))?;
    template.render_values(&[json!({"role": "user", "content": "hi"})], None, true, &serde_json::Map::new())
}

/// M13, M28: names of hosts, modules and objects of Python stand for nothing in a template.
#[test]
fn m13_a_template_reaches_nothing_outside() {
    for source in [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__init__.__globals__ }}",
        "{{ self.__init__.__globals__.__builtins__.__import__('os').popen('touch pwn').read() }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ config.items() }}",
        "{{ request.application.__globals__ }}",
        "{{ open('/etc/passwd').read() }}",
        "{{ eval('1') }}",
        "{{ env('HOME') }}",
        "{{ lipsum.__globals__['os'] }}",
        "{% include '/etc/passwd' %}",
        "{% import '/etc/passwd' as x %}{{ x }}",
        "{% extends '/etc/passwd' %}",
        "{% from 'os' import system %}{{ system('id') }}",
    ] {
        let text = render(source).unwrap_or_default();
        assert!(!text.contains("root:") && !text.contains("uid=") && !text.contains("/home"), "{source}: {text}");
        assert!(text.trim().is_empty() || text == "undefined" || text == "none", "{source}: {text}");
    }
    assert!(!Path::new("pwn").exists());
}

/// M28: what takes long, grows without end, or nests too deep is refused within seconds.
#[test]
fn m28_templates_without_end_are_refused() {
    let begun = Instant::now();
    for (what, source) in [
        ("50,000 nested ifs", "{% if 1 %}".repeat(50_000) + &"{% endif %}".repeat(50_000)),
        ("a macro that calls itself", "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}".into()),
        ("a long range", "{% for i in range(10**9) %}x{% endfor %}".into()),
        ("ranges in ranges", "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}".into()),
        ("a long text", "{{ 'a' * 10**9 }}".into()),
        ("a text for ever", "{% for i in range(99999) %}{{ 'a' * 9999 }}{% endfor %}".into()),
        ("nested lists", "{{ ".to_owned() + &"[".repeat(10_000) + &"]".repeat(10_000) + " }}"),
        ("a source of 2 MiB", "x".repeat(2 << 20)),
        ("a chain of filters", format!("{{{{ 1{} }}}}", "|list".repeat(100_000))),
        ("a sum", format!("{{{{ 1{} }}}}", "+1".repeat(400_000))),
        ("50,000 branches", format!("{{% if 0 %}}{}{{% endif %}}", "{% elif 0 %}x".repeat(50_000))),
        ("a chain behind braces", format!("{{{{ [{{'a': {{}}}}]{} }}}}", "|list".repeat(100_000))),
        ("parentheses", format!("{{{{ {}1{} }}}}", "(".repeat(10_000), ")".repeat(10_000))),
    ] {
        let begun = Instant::now();
        if let Err(error) = render(&source) {
            problem::<()>(Err(error));
        } else {
            panic!("{what} is rendered");
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "{what} took {:?}", begun.elapsed());
    }
    println!("{:?}", begun.elapsed());
}

/// M33: a file whose name ends as an archive's does is no dataset, whatever is in it; a gzipped one has one file in it.
#[test]
fn m33_archives_are_no_datasets() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["a.zip", "a.tar", "a.tar.gz", "a.tgz", "a.7z", "a.tar.zst", "a.json.zip", "a.xz"] {
        let path = dir.path().join(name);
        fs::write(&path, b"PK\x03\x04../../x").unwrap();
        let problem = problem(reader::count(&path));
        assert!(problem.message.contains(name), "{}", problem.message);
    }
}

/// M35: headers that lie, each refused with a sentence; none takes memory or time for what it claims. LATHE_TENSORS=1000000
/// for as many as the row wants.
#[test]
fn m35_safetensors_that_lie_are_refused() {
    let dir = folder();
    let path = dir.path().join("model.safetensors");
    let named = |entry: &str| format!(r#"{{"model.embed_tokens.weight":{entry}}}"#);
    let tensors = std::env::var("LATHE_TENSORS").map_or(100_000, |n| n.parse().unwrap());
    let many: String =
        (0..tensors).map(|n| format!(r#""{n}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}},"#)).collect();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("nothing", Vec::new()),
        ("seven bytes", vec![0; 7]),
        ("no header", vec![0; 8]),
        ("a header of 2^63", [&(1_u64 << 63).to_le_bytes()[..], b"{}"].concat()),
        ("a header beyond the file", [&100_u64.to_le_bytes()[..], b"{}"].concat()),
        (
            "a shape that overflows",
            safetensors(&named(r#"{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}"#), 0),
        ),
        ("offsets the wrong way", safetensors(&named(r#"{"dtype":"F32","shape":[2],"data_offsets":[8,0]}"#), 8)),
        ("an unknown type", safetensors(&named(r#"{"dtype":"F1024","shape":[2],"data_offsets":[0,8]}"#), 8)),
        ("beyond the end", safetensors(&named(r#"{"dtype":"F32","shape":[4],"data_offsets":[0,16]}"#), 8)),
        (
            "other bytes than the shape says",
            safetensors(&named(r#"{"dtype":"F32","shape":[4],"data_offsets":[0,8]}"#), 8),
        ),
        (
            "a name twice",
            safetensors(
                r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#,
                8,
            ),
        ),
        (
            "overlap",
            safetensors(
                r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#,
                12,
            ),
        ),
        ("deep nesting", safetensors(&"[".repeat(100_000), 0)),
        ("metadata that is no text", safetensors(r#"{"__metadata__":{"a":{"b":[1]}},"a":3}"#, 0)),
    ];
    for (what, bytes) in cases {
        fs::write(&path, bytes).unwrap();
        let problem = problem(ModelFiles::open(dir.path()));
        assert!(problem.message.contains("model.safetensors"), "{what}: {}", problem.message);
    }
    // Large and honest: read or refused within seconds.
    for (what, header) in [
        ("very many tensors", format!("{{{}}}", many.trim_end_matches(','))),
        ("metadata of 90 MB", format!(r#"{{"__metadata__":{{"a":"{}"}}}}"#, "x".repeat(90_000_000))),
    ] {
        let begun = Instant::now();
        fs::write(&path, safetensors(&header, 0)).unwrap();
        if let Err(error) = ModelFiles::open(dir.path()) {
            problem::<()>(Err(error));
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "{what} took {:?}", begun.elapsed());
    }
}

/// M36: names inside a model folder are resolved in that folder alone.
#[test]
fn m36_names_in_a_model_folder_lead_nowhere_else() {
    let outer = tempfile::tempdir().unwrap();
    let secret = outer.path().join("secret.safetensors");
    fs::write(
        &secret,
        safetensors(r#"{"model.embed_tokens.weight":{"dtype":"F32","shape":[4,2],"data_offsets":[0,32]}}"#, 32),
    )
    .unwrap();
    for name in [
        "../secret.safetensors",
        secret.to_str().unwrap(),
        "./../secret.safetensors",
        "x/../../secret.safetensors",
        "secret",
        "",
        "..",
        "file:///secret.safetensors",
    ] {
        let dir = tempfile::tempdir_in(outer.path()).unwrap();
        fs::copy(folder().path().join("config.json"), dir.path().join("config.json")).unwrap();
        let index = json!({ "weight_map": { "model.embed_tokens.weight": name } });
        fs::write(dir.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
        let problem = problem(ModelFiles::open(dir.path()));
        assert!(problem.message.contains("index.json"), "{name}: {}", problem.message);
    }
    // A tokenizer that names files has none of them read: its canary is in nothing that is told of it.
    let dir = tempfile::tempdir().unwrap();
    let canary = outer.path().join("vocab.json");
    fs::write(&canary, r#"{"canary-of-a-vocabulary": 0}"#).unwrap();
    let config = json!({ "tokenizer_class": "GPT2Tokenizer", "vocab_file": canary, "merges_file": canary, "tokenizer_file": canary,
        "chat_template": { "path": canary }, "auto_map": { "AutoTokenizer": ["evil.py", null] } });
    fs::write(dir.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    let said = match ModelTokenizer::open(dir.path()) {
        Ok(found) => format!("{:?}", found.tokenizer.get_vocab(true)),
        Err(error) => error.into_problem().message,
    };
    assert!(!said.contains("canary-of-a-vocabulary"), "{said}");
    let _: Value = config;
}
