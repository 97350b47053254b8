//! A data folder with a tiny model, and workers in it.

use candle_core::{Device, Tensor};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// How many faults of the most important kind.
pub fn faults() -> usize {
    std::env::var("LATHE_FAULTS").ok().and_then(|n| n.parse().ok()).unwrap_or(50)
}

/// Random numbers that are the same in each run of the tests, or those of `LATHE_FAULTS_SEED`.
pub struct Chance(u64);

impl Chance {
    pub fn new() -> Self {
        let seed = std::env::var("LATHE_FAULTS_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or(6);
        eprintln!("LATHE_FAULTS_SEED={seed}");
        Self(seed)
    }

    /// Uniform in [0, 1): SplitMix64.
    pub fn share(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    pub fn of(&mut self, most: Duration) -> Duration {
        most.mul_f64(self.share())
    }
}

/// A data folder with a tiny random model and the rows that it learns.
pub struct Home(TempDir);

impl Home {
    pub fn new() -> Self {
        let home = Self(TempDir::new().unwrap());
        let (shape, data) = (home.path().join("models/shape"), home.path().join("datasets"));
        fs::create_dir_all(&shape).unwrap();
        fs::create_dir_all(&data).unwrap();
        fs::create_dir_all(home.path().join("runs")).unwrap();
        let starter = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/starter");
        for name in ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"] {
            fs::copy(starter.join(name), shape.join(name)).unwrap();
        }
        let config = json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 4096, "hidden_size": 32,
            "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
            "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "tie_word_embeddings": true, "dtype": "bfloat16",
            "initializer_range": 0.1, "rope_theta": 10000.0
        });
        fs::write(shape.join("config.json"), config.to_string()).unwrap();
        let rows =
            (0..48).map(|i| json!({"instruction": format!("What is {i}?"), "output": format!("It is number {i}.")}));
        fs::write(data.join("numbers.json"), Value::from_iter(rows).to_string()).unwrap();
        fs::write(data.join("dataset_info.json"), r#"{"numbers": {"file_name": "numbers.json"}}"#).unwrap();
        let base = json!({
            "model_name_or_path": shape, "train_from_scratch": true, "finetuning_type": "full", "dataset": "numbers",
            "max_steps": 1, "learning_rate": 0.0
        });
        assert!(home.run("base", base).wait().success());
        home
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// A run of the tiny model with these settings beside the usual ones.
    pub fn config(&self, more: Value) -> Value {
        let mut config = json!({
            "model_name_or_path": self.path().join("runs/base"), "dataset": "numbers", "learning_rate": 0.01,
            "per_device_train_batch_size": 2, "resume_from_checkpoint": true, "logging_steps": 1
        });
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        config
    }

    /// A model whose embedding is so large that its reading takes time, and its logits memory.
    pub fn large_model(&self) -> PathBuf {
        self.model("large", 400_000, 0.02)
    }

    /// The tiny model with another embedding: so many rows, of values around this size.
    pub fn model(&self, name: &str, rows: usize, size: f32) -> PathBuf {
        let folder = self.path().join("models").join(name);
        fs::create_dir_all(&folder).unwrap();
        for entry in fs::read_dir(self.path().join("runs/base")).unwrap().flatten().filter(|e| e.path().is_file()) {
            fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
        }
        let mut config: Value = serde_json::from_slice(&fs::read(folder.join("config.json")).unwrap()).unwrap();
        config["vocab_size"] = json!(rows);
        fs::write(folder.join("config.json"), config.to_string()).unwrap();
        let file = folder.join("model.safetensors");
        let mut tensors = candle_core::safetensors::load(&file, &Device::Cpu).unwrap();
        let embedding = tensors.get_mut("model.embed_tokens.weight").unwrap();
        let values = (0..rows * 32).map(|i| ((i % 13) as f32 - 6.0) * size).collect();
        *embedding = Tensor::from_vec(values, (rows, 32), &Device::Cpu).unwrap().to_dtype(embedding.dtype()).unwrap();
        candle_core::safetensors::save(&tensors, &file).unwrap();
        folder
    }

    /// Writes the specification of a run; its folder.
    pub fn prepare(&self, id: &str, config: Value) -> PathBuf {
        let dir = self.path().join("runs").join(id);
        fs::create_dir_all(&dir).unwrap();
        let spec = json!({"id": id, "kind": "train", "config": config, "created_at": 0.0});
        fs::write(dir.join("spec.json"), spec.to_string()).unwrap();
        dir
    }

    /// Prepares a run and starts its worker.
    pub fn run(&self, id: &str, config: Value) -> Worker {
        self.start(&self.prepare(id, config), &[])
    }

    /// Starts the worker of a run folder as the server does, with these variables beside its own.
    pub fn start(&self, dir: &Path, env: &[(&str, &str)]) -> Worker {
        let log = fs::File::options().create(true).append(true).open(dir.join("worker.log")).unwrap();
        let mut command = lathe(self.path(), &["worker"]);
        let child = command.arg(dir).envs(env.iter().copied()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        Worker { dir: dir.to_path_buf(), child, begun: Instant::now() }
    }
}

/// The binary on a data folder, with nothing of this machine's environment.
pub fn lathe(home: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lathe"));
    command.args(words).env_clear().envs([("HOME", home), ("LATHE_HOME", home)]);
    command.env("RAYON_NUM_THREADS", "2").stdin(Stdio::null());
    command
}

/// A worker that lives, or has just ended.
pub struct Worker {
    pub dir: PathBuf,
    pub child: Child,
    pub begun: Instant,
}

impl Worker {
    /// Waits for its end, which must come within a minute.
    pub fn wait(&mut self) -> ExitStatus {
        self.wait_for(Duration::from_secs(60)).unwrap_or_else(|| panic!("{}: still there", self.dir.display()))
    }

    /// Its end, if that comes in time.
    pub fn wait_for(&mut self, most: Duration) -> Option<ExitStatus> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return Some(status);
            }
            if begun.elapsed() >= most {
                return None;
            }
            sleep(Duration::from_micros(200));
        }
    }

    /// Waits until `reached`, or for its end, which is then given.
    pub fn wait_until(&mut self, reached: impl Fn(&Path) -> bool) -> Option<ExitStatus> {
        while !reached(&self.dir) {
            if let Some(status) = self.child.try_wait().unwrap() {
                return Some(status);
            }
            sleep(Duration::from_micros(200));
        }
        None
    }

    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The whole lines of a run's events.
pub fn events(dir: &Path) -> Vec<Value> {
    let text = fs::read_to_string(dir.join("events.jsonl")).unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

/// The run's last word: its outcome, and the problem if it failed.
pub fn last_word(dir: &Path) -> (String, Value) {
    let last = events(dir).pop().unwrap();
    assert_eq!(last["type"], "finished", "{last}");
    (last["outcome"].as_str().unwrap().to_owned(), last["problem"].clone())
}

/// All that a run measured, by step and name, as the bits of 64-bit numbers. A step that was made again must have measured
/// the same.
pub fn measured(dir: &Path) -> BTreeMap<(u64, String), u64> {
    let mut found = BTreeMap::new();
    let text = fs::read_to_string(dir.join("events.jsonl")).unwrap();
    for line in text.lines().filter(|line| line.contains(r#""type":"metrics""#)) {
        let event: Value = serde_json::from_str(line).unwrap();
        let step = event["step"].as_u64().unwrap();
        // The numbers as they are written: a JSON parser may round them.
        let values = line.split_once(r#""values":{"#).unwrap().1.split('}').next().unwrap();
        for (name, value) in values.split(',').map(|pair| pair.split_once(':').unwrap()) {
            let (key, bits) = ((step, name.trim_matches('"').to_owned()), value.parse::<f64>().unwrap().to_bits());
            if key.1 == "tokens_per_s" {
                continue;
            }
            if let Some(before) = found.insert(key.clone(), bits) {
                assert_eq!(before, bits, "{}: {key:?} was made twice and differs", dir.display());
            }
        }
    }
    found
}

/// What must be the same of a run that was broken off and one that wasn't.
#[derive(Debug, PartialEq)]
pub struct Result {
    pub measured: BTreeMap<(u64, String), u64>,
    pub weights: String,
    pub optimizer: String,
}

impl Result {
    /// Of a run that has succeeded.
    pub fn of(dir: &Path) -> Self {
        assert_eq!(last_word(dir).0, "succeeded", "{:?}", last_word(dir));
        let adapter = dir.join("adapter_model.safetensors");
        let weights = if adapter.exists() { adapter } else { dir.join("model.safetensors") };
        let (_, last) = checkpoints(dir).pop().unwrap();
        let hash = |path: &Path| engine::files::digest::of_file(path).unwrap().1;
        Self { measured: measured(dir), weights: hash(&weights), optimizer: hash(&last.join("optimizer.safetensors")) }
    }
}

/// Checkpoints by step.
pub fn checkpoints(dir: &Path) -> Vec<(u64, PathBuf)> {
    engine::train::checkpoint::all(dir)
}
