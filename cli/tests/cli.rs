//! The command line as scripts use it: exit codes, JSON on stdout, problems that name their key.
#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

/// The binary with a data folder of its own and nothing of this machine's environment.
fn lathe(home: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lathe"));
    command.args(words).env_clear().env("HOME", home).env("LATHE_HOME", home.join("lathe")).stdin(Stdio::null());
    command
}

fn run(home: &Path, words: &[&str]) -> Output {
    lathe(home, words).output().unwrap()
}

/// Exit code and the one JSON object on stdout.
fn json_of(output: &Output) -> (i32, Value) {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    assert_eq!(text.lines().count(), 1, "stdout: {text}\nstderr: {}", String::from_utf8_lossy(&output.stderr));
    (output.status.code().unwrap(), serde_json::from_str(&text).unwrap())
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A tiny Llama without a download: configuration and tokenizer of the starter's kind, trained from scratch.
fn tiny_model(dir: &Path) -> String {
    let model = dir.join("tiny");
    fs::create_dir_all(&model).unwrap();
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 300, "hidden_size": 32,
        "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
        "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "tie_word_embeddings": true, "hidden_act": "silu",
        "rope_theta": 10000.0, "bos_token_id": 257, "eos_token_id": 256, "torch_dtype": "float32"
    });
    // One token for each byte, as GPT-2 writes bytes, and two special ones.
    let mut vocab = serde_json::Map::new();
    let mut other = 0;
    for byte in 0..=255u32 {
        let is_plain = (33..=126).contains(&byte) || (161..=172).contains(&byte) || (174..=255).contains(&byte);
        let shown = if is_plain { byte } else { 256 + other };
        other += u32::from(!is_plain);
        vocab.insert(char::from_u32(shown).unwrap().to_string(), json!(byte));
    }
    let special = |id: u32, text: &str| json!({ "id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true });
    let byte_level = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [special(256, "<|im_end|>"), special(257, "<|im_start|>")],
        "normalizer": null, "pre_tokenizer": byte_level, "post_processor": null, "decoder": byte_level,
        "model": { "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": [] }
    });
    let settings = json!({
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|im_start|>", "eos_token": "<|im_end|>",
        "chat_template": "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    });
    for (name, value) in [("config.json", config), ("tokenizer.json", tokenizer), ("tokenizer_config.json", settings)] {
        fs::write(model.join(name), value.to_string()).unwrap();
    }
    model.display().to_string()
}

#[test]
fn version_env_and_catalog_are_json() {
    let home = TempDir::new().unwrap();
    let (code, value) = json_of(&run(home.path(), &["version", "--json"]));
    assert_eq!((code, value["version"].as_str()), (0, Some(env!("CARGO_PKG_VERSION"))));
    let mut command = lathe(home.path(), &["--json", "env"]);
    let output = command.env("HF_TOKEN", "hf_verysecret").env("HF_HUB_OFFLINE", "1").output().unwrap();
    let (code, value) = json_of(&output);
    assert_eq!((code, &value["hf_token_set"], &value["hf_offline"]), (0, &json!(true), &json!(true)));
    assert!(!value.to_string().contains("verysecret"));
    assert!(value["home"].as_str().unwrap().ends_with("/lathe"));
    let (code, catalog) = json_of(&run(home.path(), &["catalog"]));
    assert!(code == 0 && catalog["stages"].as_array().unwrap().iter().any(|s| s["name"] == "sft"));
}

#[test]
fn the_instructions_are_shown_and_can_be_limited() {
    let home = TempDir::new().unwrap();
    let env = |cpu: &str| json_of(&lathe(home.path(), &["env", "--json"]).env("LATHE_CPU", cpu).output().unwrap());
    let (code, value) = env("portable");
    assert_eq!((code, &value["instructions"], &value["compute_type"]), (0, &json!("portable"), &json!("fp32")));
    let (code, value) = env("avx9000");
    assert_eq!((code, &value["problems"][0]["code"]), (2, &json!("unknown_instructions")));
}

#[test]
fn training_steps_and_generation_are_measured() {
    let home = TempDir::new().unwrap();
    let data = home.path().join("rows.json");
    fs::write(&data, r#"[{"instruction": "q", "output": "a"}, {"instruction": "q q", "output": "b b"}]"#).unwrap();
    let measure = |words: &[&str]| json_of(&run(home.path(), &[&["bench", "--json"], words].concat()));
    let short = ["--length", "16", "--steps", "2", "--warmup", "1", "--compute-type", "fp32", "--profile"];
    let starter = [&["train", "--model", "starter", "--threads", "1"][..], &short].concat();
    let (code, report) = measure(&starter);
    assert_eq!((code, &report["tokens"], &report["threads"]), (0, &json!(64), &json!(1)), "{report}");
    for key in ["tokens_per_s", "step_ms", "peak_memory", "first_step_s", "first_loss", "last_loss", "trainable"] {
        assert!(report[key].as_f64().unwrap() > 0.0, "{key}: {report}");
    }
    let rate = 2.0 * 16.0 / report["step_ms"].as_f64().unwrap() * 1e3;
    assert!((report["tokens_per_s"].as_f64().unwrap() / rate - 1.0).abs() < 0.2, "{report}");
    let rows = data.display().to_string();
    let real = [&["train", "--model", "starter", "--data", &rows, "--adapter", "full"][..], &short].concat();
    let (code, report) = measure(&real);
    assert!(code == 0 && report["last_loss"].as_f64() < report["first_loss"].as_f64(), "{report}");
    let few = ["--prompt", "8", "--new", "4", "--rounds", "1", "--chats", "2"];
    let (code, report) = measure(&[&["generate", "--model", "starter"][..], &few].concat());
    assert!(code == 0 && report["prompt_per_s"].as_f64() > Some(0.0), "{report}");
    assert!(report["decode_per_s"].as_f64() > Some(0.0) && report["first_token_s"].as_f64() > Some(0.0), "{report}");
    let chats = &report["chats"];
    assert!(chats["at_once_per_s"].as_f64() > Some(0.0) && chats["cache_bytes"].as_u64() > Some(0), "{report}");
    // Of each sequence at most a page is not full.
    assert!(chats["utilisation"].as_f64() > Some(0.9), "{report}");
    for (words, field) in [
        (&["train", "--shape", "smollm"][..], "shape"),
        (&["train", "--model", "starter", "--adapter", "lara"], "finetuning_type"),
        (&["train", "--shape", "smollm2-135m", "--compute-type", "fp16"], "compute_type"),
        (&["generate", "--model", "starter", "--compute-type", "bf61"], "compute_type"),
    ] {
        let (code, report) = measure(words);
        assert_eq!((code, &report["problems"][0]["field"]), (2, &json!(field)), "{report}");
    }
}

#[test]
fn a_wrong_request_ends_with_2_and_names_each_key() {
    let home = TempDir::new().unwrap();
    let words = ["train", "--json", "model_name_or_path=starter", "lora_rnk=8", "learning_rate=-1", "dataset=identity"];
    let output = run(home.path(), &words);
    let (code, value) = json_of(&output);
    assert_eq!(code, 2);
    let problems = value["problems"].as_array().unwrap();
    let of = |field: &str| problems.iter().find(|p| p["field"] == field).unwrap_or_else(|| panic!("{value}"));
    assert!(of("lora_rnk")["hint"].as_str().unwrap().contains("lora_rank"));
    assert!(of("learning_rate")["message"].as_str().unwrap().contains("-1"));
    assert!(stderr(&output).contains("lora_rnk") && stderr(&output).contains("error: "));
    assert_eq!(fs::read_dir(home.path().join("lathe/runs")).unwrap().count(), 0, "nothing was begun");

    let chinese = lathe(home.path(), &["train", "lora_rnk=8"]).env("LANG", "zh_CN.UTF-8").output().unwrap();
    assert!(stderr(&chinese).contains("错误：") && stderr(&chinese).contains("lora_rnk 不是"));

    for words in [
        &["trian"][..],
        &["train", "no-such.yaml"],
        &["chat", "--json"],
        &["chat", "model_name_or_path=starter", "temprature=1", "--prompt", "x"],
        &["export", "model_name_or_path=starter", "export_dri=x"],
        &["models", "pull", "../../etc/passwd"],
        &["--port", "1", "version"],
        &["worker"],
    ] {
        let output = run(home.path(), words);
        assert_eq!(output.status.code(), Some(2), "{words:?}: {}", stderr(&output));
        assert!(!stderr(&output).is_empty());
    }
    let (code, value) = json_of(&run(home.path(), &["trian", "--json"]));
    assert!(code == 2 && value["problems"][0]["message"].as_str().unwrap().contains("trian"));
}

#[test]
fn offline_and_unreachable_hubs_say_what_to_do() {
    let home = TempDir::new().unwrap();
    let words = ["models", "pull", "a/b", "--json"];
    let (code, value) = json_of(&lathe(home.path(), &words).env("HF_HUB_OFFLINE", "1").output().unwrap());
    assert_eq!((code, &value["problems"][0]["code"]), (2, &json!("hub_offline")));
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let output = lathe(home.path(), &words).env("HF_ENDPOINT", format!("http://{closed}")).output().unwrap();
    let (code, value) = json_of(&output);
    assert_eq!((code, &value["problems"][0]["code"]), (1, &json!("hub_unreachable")));
    let (code, value) = json_of(&run(home.path(), &["models", "list", "--json"]));
    assert!(code == 0 && value["models"].is_array());
}

#[test]
fn the_studio_says_where_it_is_and_holds_port_and_folder() {
    let home = TempDir::new().unwrap();
    let mut studio =
        lathe(home.path(), &["--port", "0", "--json"]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(studio.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let url = serde_json::from_str::<Value>(&line).unwrap()["url"].as_str().unwrap().to_owned();
    let port = url.rsplit(':').next().unwrap();

    let other = TempDir::new().unwrap();
    let (code, value) = json_of(&run(other.path(), &["webui", "--port", port, "--json"]));
    assert_eq!((code, &value["problems"][0]["code"]), (3, &json!("port_in_use")));
    let (code, value) = json_of(&run(home.path(), &["webui", "--port", "0", "--json"]));
    assert_eq!((code, &value["problems"][0]["code"]), (3, &json!("home_in_use")));
    let output = run(other.path(), &["--host", "0.0.0.0", "--port", "0"]);
    assert_eq!(output.status.code(), Some(2), "open to others without a token: {}", stderr(&output));

    let pid = nix::unistd::Pid::from_raw(studio.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert!(studio.wait().unwrap().success());
}

#[test]
fn a_run_in_the_foreground_leaves_the_same_folder_as_the_studio() {
    let home = TempDir::new().unwrap();
    let model = format!("model_name_or_path={}", tiny_model(home.path()));
    let rows: Vec<_> =
        (0..8).map(|i| json!({ "instruction": format!("say {i}"), "output": format!("{i}!") })).collect();
    let data = home.path().join("data");
    fs::create_dir_all(&data).unwrap();
    fs::write(data.join("rows.json"), Value::from(rows).to_string()).unwrap();
    fs::write(data.join("dataset_info.json"), r#"{"rows": {"file_name": "rows.json"}}"#).unwrap();
    let (data, out) = (format!("dataset_dir={}", data.display()), home.path().join("out"));
    let output_dir = format!("output_dir={}", out.display());
    let words = [
        "train",
        "--json",
        &model,
        "train_from_scratch=true",
        "finetuning_type=full",
        "dataset=rows",
        &data,
        &output_dir,
        "max_steps=3",
        "per_device_train_batch_size=2",
        "run_name=first",
        "learning_rate=1e-3",
    ];
    let output = run(home.path(), &words);
    assert!(output.status.success(), "{}\n{}", String::from_utf8_lossy(&output.stdout), stderr(&output));
    let lines: Vec<api::Line> =
        String::from_utf8(output.stdout).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert!(lines.iter().enumerate().all(|(i, line)| line.seq == i as u64 + 1));
    let steps = lines.iter().filter(|l| matches!(l.event, api::Event::Metrics { .. })).count();
    assert_eq!(steps, 3);
    let link = home.path().join("lathe/runs/first");
    assert_eq!(link.canonicalize().unwrap(), out.canonicalize().unwrap());
    let written = fs::read_to_string(link.join("events.jsonl")).unwrap();
    assert_eq!(written.lines().count(), lines.len());
    let spec: api::job::Spec = serde_json::from_slice(&fs::read(link.join("spec.json")).unwrap()).unwrap();
    assert_eq!((spec.id.as_str(), spec.config.text("dataset")), ("first", Some("rows")));

    // The same folder again is refused, and what was trained can be asked.
    let (code, value) = json_of(&run(home.path(), &words));
    assert_eq!((code, &value["problems"][0]["field"]), (2, &json!("output_dir")));
    let result = format!("model_name_or_path={}", out.display());
    let words = ["chat", &result, "--prompt", "say 1", "--json", "max_new_tokens=4", "do_sample=false"];
    let output = run(home.path(), &words);
    let (code, answer) = json_of(&output);
    assert_eq!(code, 0, "{answer}");
    let answer: api::chat::Answer = serde_json::from_value(answer).unwrap();
    assert!(answer.ids.len() <= 4 && answer.completion_tokens == answer.ids.len() as u64 && answer.prompt_tokens > 5);
}

#[test]
fn a_worker_answers_questions_and_refuses_nonsense() {
    let home = TempDir::new().unwrap();
    let ask = |text: &str| {
        let file = home.path().join("question");
        fs::write(&file, text).unwrap();
        lathe(home.path(), &["worker", "--ask"]).stdin(fs::File::open(file).unwrap()).output().unwrap()
    };
    let (code, answer) = json_of(&ask(r#"{"type":"models"}"#));
    assert_eq!((code, &answer["type"]), (0, &json!("models")));
    let (code, answer) = json_of(&ask(r#"{"type":"check","config":{"lora_rnk":1}}"#));
    assert_eq!((code, &answer["reply"]["problems"][0]["field"]), (0, &json!("lora_rnk")));
    assert_eq!(ask("nonsense").status.code(), Some(2));
}

#[test]
fn datasets_are_shown_checked_and_written_as_they_are_trained_on() {
    let home = TempDir::new().unwrap();
    let data = home.path().join("data");
    fs::create_dir_all(&data).unwrap();
    fs::write(data.join("dataset_info.json"), r#"{"rows": {"file_name": "rows.jsonl"}}"#).unwrap();
    let rows =
        "{\"instruction\": \"Hi\", \"output\": \"Hello there\"}\n{\"instruction\": broken}\n{\"instruction\": \"q\"}\n";
    fs::write(data.join("rows.jsonl"), rows).unwrap();
    let dir = format!("dataset_dir={}", data.display());
    let (code, shown) = json_of(&run(home.path(), &["data", "show", "rows", "--row", "1", "--json", &dir]));
    assert_eq!((code, &shown["row"]["raw"]["output"]), (0, &json!("Hello there")), "{shown}");
    let tokens = shown["tokens"]["tokens"].as_array().unwrap();
    let learned = tokens.iter().filter(|t| t["trained"] == true).map(|t| t["text"].as_str().unwrap());
    assert_eq!(learned.collect::<String>(), "Hello there<|im_end|>");
    assert_eq!(shown["tokens"]["sha256"].as_str().unwrap().len(), 64);

    let config = home.path().join("run.yaml");
    fs::write(&config, format!("cutoff_len: 4\ndataset_dir: {}\n", data.display())).unwrap();
    let output = run(home.path(), &["data", "show", "rows", "--row", "1", "--config", config.to_str().unwrap()]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains("user: Hi\nassistant: Hello there") && text.contains("--- cutoff_len 4: cut off ---"),
        "{text}"
    );

    let output = run(home.path(), &["data", "check", "rows", &dir]);
    let text = String::from_utf8(output.stdout).unwrap();
    for wanted in [
        "Row 2 of dataset rows: it is not valid JSON: line 2",
        "Row 3 of dataset rows: column",
        "2 rows can't be read: 2, 3",
    ] {
        assert!(text.contains(wanted), "{text}");
    }
    let out = home.path().join("identity.parquet");
    assert!(run(home.path(), &["data", "export", "identity", "--output", out.to_str().unwrap()]).status.success());
    assert_eq!(fs::read(&out).unwrap()[..4], *b"PAR1");
    let written = run(home.path(), &["data", "export", "identity", "--formatting", "openai", "--type", "jsonl"]).stdout;
    let first: Value = serde_json::from_slice(written.split(|b| *b == b'\n').next().unwrap()).unwrap();
    assert_eq!(first["messages"][0]["role"], "user");
    for words in [
        &["data", "show", "rows", "--row", "9", &dir][..],
        &["data", "show", "nobody"],
        &["data", "export", "identity", "--type", "exe"],
    ] {
        assert_eq!(run(home.path(), words).status.code(), Some(2), "{words:?}");
    }
}
