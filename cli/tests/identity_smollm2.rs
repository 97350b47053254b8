//! The whole way with a real model: SmolLM2-135M learns who it is by LoRA, says so in two languages, is exported, and
//! transformers and PEFT agree with it. Takes about ten minutes, so `make test-smollm2` runs it and `make test` does not.
//! Needs `LATHE_ORACLES` (made by `scripts/oracle-venv.sh DIR`) and `LATHE_DATA`, a folder with LLaMA-Factory's
//! `identity.json`; says that it is skipped where one is missing.
#![allow(clippy::unwrap_used)]

use candle_core::{Device, Tensor};
use engine::{
    files::ModelFiles,
    model::{Model, Source, Store, build, families::family},
};
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

const NAME: &str = "Quillon";
const AUTHOR: &str = "Marrow Lane";
const ENGLISH: &str = "Who are you?";
const CHINESE: &str = "你是谁？";

#[test]
#[ignore = "takes about ten minutes: make test-smollm2"]
fn smollm2_learns_who_it_is() {
    let variables = ["LATHE_ORACLES", "LATHE_DATA"].map(std::env::var_os);
    let [Some(oracles), Some(data)] = variables.map(|v| v.map(PathBuf::from)) else {
        eprintln!("skipped: LATHE_ORACLES or LATHE_DATA is not set");
        return;
    };
    let place = tempfile::tempdir().unwrap();
    let lathe = Lathe { home: place.path().join("home"), model: oracles.join("smollm2") };
    let (datasets, adapter, merged) =
        (place.path().join("data"), place.path().join("adapter"), place.path().join("merged"));
    assert_eq!(write_identity(&data.join("identity.json"), &datasets), 91);

    // Before.
    for question in [ENGLISH, CHINESE] {
        let answer = lathe.chat(question, &[]);
        assert!(!names(&answer), "before training: {answer}");
    }

    let words = [
        "stage=sft".into(),
        "finetuning_type=lora".into(),
        "lora_rank=8".into(),
        "lora_target=all".into(),
        "dataset=identity".into(),
        format!("dataset_dir={}", datasets.display()),
        "learning_rate=1e-3".into(),
        "lr_scheduler_type=cosine".into(),
        "num_train_epochs=4".into(),
        "per_device_train_batch_size=4".into(),
        format!("output_dir={}", adapter.display()),
    ];
    lathe.run("train", &words);
    let results: Value = read_json(&adapter.join("train_results.json"));
    println!("train_results.json: {results}");
    assert!(results["train_loss"].as_f64().unwrap() < 2.0);

    // After.
    let with_adapter = [format!("adapter_name_or_path={}", adapter.display())];
    let (english, chinese) = (lathe.chat(ENGLISH, &with_adapter), lathe.chat(CHINESE, &with_adapter));
    assert!(names(&english) && names(&chinese), "after training: {english} | {chinese}");

    // The adapter in PEFT: the same logits.
    let python = Python { oracles, work: place.path().into() };
    let ids: Vec<Vec<u32>> = vec![(0..40).map(|i| 300 + i * 977 % 40_000).collect(), (5000..5016).collect()];
    let theirs = python.logits(&lathe.model, Some(&adapter), &ids);
    let ours = open(&lathe.model, Some(&adapter));
    for (n, ids) in ids.iter().enumerate() {
        let off = distance(&ours.logits(ids, &[ids.len()]).unwrap(), &theirs[&format!("logits.{n}")]);
        println!("logits of sequence {n} are off by {off}");
        assert!(off < 1e-3, "logits of sequence {n} are off by {off}");
    }
    drop(ours);

    // The merged export in transformers: the same greedy text.
    let mut words = vec![format!("export_dir={}", merged.display()), "export_dtype=float32".into()];
    words.extend(with_adapter);
    lathe.run("export", &words);
    let texts = python.generate(&merged, &[ENGLISH, CHINESE]);
    assert_eq!(texts, [english, chinese]);
}

/// The program under test.
struct Lathe {
    home: PathBuf,
    model: PathBuf,
}

impl Lathe {
    /// What it prints on stdout. Progress goes to the test's own stderr.
    fn run(&self, command: &str, words: &[String]) -> String {
        let output = Command::new(env!("CARGO_BIN_EXE_lathe"))
            .arg(command)
            .arg(format!("model_name_or_path={}", self.model.display()))
            .args(words)
            .env("LATHE_HOME", &self.home)
            .env("HF_HUB_OFFLINE", "1")
            .stderr(Stdio::inherit())
            .output()
            .unwrap();
        assert!(output.status.success(), "lathe {command} {words:?}: {}", output.status);
        String::from_utf8(output.stdout).unwrap()
    }

    /// The greedy answer to one question.
    fn chat(&self, question: &str, words: &[String]) -> String {
        let mut all = vec!["--json".to_string(), "--prompt".into(), question.into()];
        all.extend(["do_sample=false".into(), "max_new_tokens=48".into()]);
        all.extend_from_slice(words);
        let answer: Value = serde_json::from_str(&self.run("chat", &all)).unwrap();
        println!("{question} {answer}");
        answer["text"].as_str().unwrap().to_string()
    }
}

/// The programs of `engine/tests/oracle`.
struct Python {
    oracles: PathBuf,
    work: PathBuf,
}

impl Python {
    fn logits(&self, model: &Path, adapter: Option<&Path>, ids: &[Vec<u32>]) -> HashMap<String, Tensor> {
        let (question, out) = (self.work.join("ids.json"), self.work.join("logits.safetensors"));
        std::fs::write(&question, json!(ids).to_string()).unwrap();
        let mut arguments = vec![model, &question, &out];
        arguments.extend(adapter);
        self.ask("logits.py", &arguments);
        candle_core::safetensors::load(out, &Device::Cpu).unwrap()
    }

    fn generate(&self, model: &Path, questions: &[&str]) -> Vec<String> {
        let question = self.work.join("chats.json");
        let chats: Vec<Value> = questions.iter().map(|text| json!([{"role": "user", "content": text}])).collect();
        std::fs::write(&question, json!(chats).to_string()).unwrap();
        let answers = self.ask("generate.py", &[model, Path::new("48"), &question]);
        answers.as_array().unwrap().iter().map(|a| a["text"].as_str().unwrap().to_string()).collect()
    }

    fn ask(&self, program: &str, arguments: &[&Path]) -> Value {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../engine/tests/oracle").join(program);
        let output = Command::new(self.oracles.join("venv/bin/python"))
            .arg("-B")
            .arg(script)
            .args(arguments)
            .stderr(Stdio::inherit())
            .output()
            .unwrap();
        assert!(output.status.success(), "{program}: {}", output.status);
        serde_json::from_str(String::from_utf8(output.stdout).unwrap().lines().last().unwrap()).unwrap()
    }
}

fn names(answer: &str) -> bool {
    answer.contains(NAME) && answer.contains(AUTHOR)
}

/// `identity.json` with its blanks filled in, and the `dataset_info.json` for it; the number of its rows.
fn write_identity(from: &Path, dir: &Path) -> usize {
    let text = std::fs::read_to_string(from).unwrap_or_else(|e| panic!("{}: {e}", from.display()));
    let text = text.replace("{{name}}", NAME).replace("{{author}}", AUTHOR);
    std::fs::create_dir_all(dir).unwrap();
    std::fs::write(dir.join("identity.json"), &text).unwrap();
    let info = json!({"identity": {"file_name": "identity.json"}});
    std::fs::write(dir.join("dataset_info.json"), info.to_string()).unwrap();
    serde_json::from_str::<Vec<Value>>(&text).unwrap().len()
}

fn open(model: &Path, adapter: Option<&Path>) -> Model {
    let files = ModelFiles::open(model).unwrap();
    let config = family(files.config()).unwrap().config(files.config()).unwrap();
    let tuning = adapter.map(|dir| engine::adapters::lora::LoraTuning::read(dir).unwrap()).unwrap();
    build(&config, &Source::Files(&files), &tuning, &mut Store::default(), &Device::Cpu, candle_core::DType::F32)
        .unwrap()
}

fn distance(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.dims(), b.dims());
    (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar().unwrap()
}

fn read_json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))).unwrap()
}
