//! Fixtures, comparisons and the Python oracle, for the tests of this folder.
#![allow(dead_code, clippy::unwrap_used)]

pub mod jobs;

use candle_core::{DType, Device, Tensor};
use serde::Deserialize;
use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    process::Command,
};
use tempfile::TempDir;

/// One folder of `fixtures/parity`; what stands in it is told by `make.py` there.
pub struct Case {
    pub name: String,
    /// A complete model folder; goes with the case.
    pub model: TempDir,
    /// The PEFT adapter for it.
    pub adapter: PathBuf,
    pub expected: Expected,
    pub tensors: HashMap<String, Tensor>,
}

#[derive(Deserialize)]
pub struct Expected {
    pub ids: Vec<Vec<u32>>,
    pub mask: Vec<Vec<u8>>,
    pub greedy: Vec<Vec<u32>>,
    pub lora_greedy: Vec<Vec<u32>>,
    pub loss: f64,
    pub loss_each: Vec<f64>,
    pub lora_loss: f64,
    /// The case whose weights and adapter this one takes.
    pub weights: Option<String>,
}

pub const CASES: [&str; 24] = [
    "llama",
    "llama-bias",
    "llama-linear",
    "llama-dynamic",
    "llama-yarn",
    "llama-llama3",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma2",
    "gemma3_text",
    "gemma3_text-5",
    "phi3",
    "phi3-long",
    "glm",
    "glm4",
    "internlm2",
    "internlm3",
    "olmo2",
    "granite",
    "gpt2",
    "gpt_neox",
    "mixtral",
    "qwen3_moe",
];

impl Case {
    pub fn open(name: &str) -> Self {
        let folder = fixtures().join(name);
        let expected: Expected = read_json(&folder.join("expected.json"));
        let source = fixtures().join(expected.weights.as_deref().unwrap_or(name));
        let model = tempfile::tempdir().unwrap();
        std::fs::copy(folder.join("config.json"), model.path().join("config.json")).unwrap();
        std::fs::copy(source.join("model.safetensors"), model.path().join("model.safetensors")).unwrap();
        let tensors = read_tensors(&folder.join("expected.safetensors"));
        Self { name: name.into(), model, adapter: source.join("adapter"), expected, tensors }
    }

    /// Gives the model a tokenizer, one word for each id: `t0`, `t1` ….
    pub fn write_tokenizer(&self) {
        let config: serde_json::Value = read_json(&self.model.path().join("config.json"));
        let words = config["vocab_size"].as_u64().unwrap();
        let vocab: serde_json::Map<_, _> = (0..words).map(|i| (format!("t{i}"), i.into())).collect();
        let tokenizer = serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
            "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
            "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "t0"},
        });
        std::fs::write(self.model.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    }

    /// The expected tensors whose names begin with `prefix`, by the rest of the name.
    pub fn with_prefix(&self, prefix: &str) -> BTreeMap<String, Tensor> {
        let of = |(name, tensor): (&String, &Tensor)| Some((name.strip_prefix(prefix)?.to_string(), tensor.clone()));
        self.tensors.iter().filter_map(of).collect()
    }
}

pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity")
}

pub fn read_json<T: for<'a> Deserialize<'a>>(path: &Path) -> T {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

pub fn read_tensors(path: &Path) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(path, &Device::Cpu).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Largest absolute difference. The shapes must be equal, and no value may be infinite or not a number.
pub fn distance(actual: &Tensor, expected: &Tensor) -> f32 {
    assert_eq!(actual.dims(), expected.dims());
    let (actual, expected) = (values(actual), values(expected));
    assert!(actual.iter().all(|v| v.is_finite()), "a value is infinite or not a number");
    actual.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Euclidean norm of the difference, as a share of that of `expected`.
pub fn relative_distance(actual: &Tensor, expected: &Tensor) -> f32 {
    assert_eq!(actual.dims(), expected.dims());
    let (actual, expected) = (values(actual), values(expected));
    let norm = |v: &mut dyn Iterator<Item = f32>| v.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt();
    let difference = norm(&mut actual.iter().zip(&expected).map(|(a, b)| a - b));
    assert!(difference.is_finite(), "a value is infinite or not a number");
    (difference / norm(&mut expected.iter().copied()).max(1e-12)) as f32
}

pub fn values(t: &Tensor) -> Vec<f32> {
    t.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// PyTorch, transformers and PEFT with SmolLM2, as `scripts/oracle-venv.sh` makes them.
pub struct Oracle {
    folder: PathBuf,
    /// For files that go to and fro.
    pub work: TempDir,
}

impl Oracle {
    /// What the environment variable `LATHE_ORACLES` names; without it says that `test` is skipped.
    pub fn open(test: &str) -> Option<Self> {
        let Some(folder) = std::env::var_os("LATHE_ORACLES").map(PathBuf::from) else {
            eprintln!(
                "{test}: skipped, LATHE_ORACLES is not set. scripts/oracle-venv.sh DIR makes what it should name."
            );
            return None;
        };
        for part in ["venv/bin/python", "smollm2/config.json", "smollm2-f32/config.json", "smollm2.gguf"] {
            assert!(folder.join(part).exists(), "LATHE_ORACLES is {}, which has no {part}", folder.display());
        }
        Some(Self { folder, work: tempfile::tempdir().unwrap() })
    }

    pub fn path(&self, part: &str) -> PathBuf {
        self.folder.join(part)
    }

    pub fn write_json(&self, name: &str, value: &serde_json::Value) -> PathBuf {
        let path = self.work.path().join(name);
        std::fs::write(&path, value.to_string()).unwrap();
        path
    }

    /// Runs a program of `tests/oracle`; what it prints, read as JSON.
    pub fn ask(&self, program: &str, arguments: &[&Path]) -> serde_json::Value {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracle").join(program);
        let output = Command::new(self.path("venv/bin/python"))
            .arg("-B")
            .arg(script)
            .args(arguments)
            .env("OMP_NUM_THREADS", "2")
            .output()
            .unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{program}: {err}");
        serde_json::from_str(out.lines().last().unwrap_or_default())
            .unwrap_or_else(|e| panic!("{program}: {e}\n{out}\n{err}"))
    }
}
