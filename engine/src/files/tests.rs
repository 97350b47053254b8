//! Model files made in the test: what is well-formed opens and gives the numbers that went in; what is not is a
//! problem, never a panic.

use super::*;
use crate::kernels::quantised::Quantised;
use candle_core::quantized::GgmlDType;
use std::{
    fs,
    io::{Seek, SeekFrom, Write},
};

/// A small GGUF writer, independent of the reader.
#[derive(Default)]
pub struct Gguf {
    values: Vec<u8>,
    value_count: u64,
    infos: Vec<u8>,
    tensor_count: u64,
    data: Vec<u8>,
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

impl Gguf {
    fn value(mut self, key: &str, kind: u32, bytes: &[u8]) -> Self {
        put_text(&mut self.values, key);
        self.values.extend(kind.to_le_bytes());
        self.values.extend(bytes);
        self.value_count += 1;
        self
    }

    pub fn number(self, key: &str, value: u32) -> Self {
        self.value(key, 4, &value.to_le_bytes())
    }

    pub fn float(self, key: &str, value: f32) -> Self {
        self.value(key, 6, &value.to_le_bytes())
    }

    pub fn flag(self, key: &str, value: bool) -> Self {
        self.value(key, 7, &[value.into()])
    }

    pub fn text(self, key: &str, value: &str) -> Self {
        let mut bytes = Vec::new();
        put_text(&mut bytes, value);
        self.value(key, 8, &bytes)
    }

    fn array(self, key: &str, kind: u32, count: usize, items: &[u8]) -> Self {
        let mut bytes = kind.to_le_bytes().to_vec();
        bytes.extend((count as u64).to_le_bytes());
        bytes.extend(items);
        self.value(key, 9, &bytes)
    }

    pub fn texts(self, key: &str, items: &[&str]) -> Self {
        let mut bytes = Vec::new();
        items.iter().for_each(|item| put_text(&mut bytes, item));
        self.array(key, 8, items.len(), &bytes)
    }

    pub fn ints(self, key: &str, items: &[i32]) -> Self {
        let bytes: Vec<u8> = items.iter().flat_map(|item| item.to_le_bytes()).collect();
        self.array(key, 5, items.len(), &bytes)
    }

    pub fn floats(self, key: &str, items: &[f32]) -> Self {
        let bytes: Vec<u8> = items.iter().flat_map(|item| item.to_le_bytes()).collect();
        self.array(key, 6, items.len(), &bytes)
    }

    /// `shape` as PyTorch has it.
    pub fn tensor(mut self, name: &str, shape: &[usize], kind: u32, bytes: &[u8]) -> Self {
        put_text(&mut self.infos, name);
        self.infos.extend((shape.len() as u32).to_le_bytes());
        shape.iter().rev().for_each(|dim| self.infos.extend((*dim as u64).to_le_bytes()));
        self.infos.extend(kind.to_le_bytes());
        self.infos.extend((self.data.len() as u64).to_le_bytes());
        self.data.extend(bytes);
        self.data.resize(self.data.len().next_multiple_of(32), 0);
        self.tensor_count += 1;
        self
    }

    pub fn floats_tensor(self, name: &str, shape: &[usize], seed: u32) -> Self {
        let bytes: Vec<u8> = numbers(shape.iter().product(), seed).iter().flat_map(|x| x.to_le_bytes()).collect();
        self.tensor(name, shape, 0, &bytes)
    }

    pub fn header_len(&self) -> usize {
        24 + self.values.len() + self.infos.len()
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(3_u32.to_le_bytes());
        out.extend(self.tensor_count.to_le_bytes());
        out.extend(self.value_count.to_le_bytes());
        out.extend(&self.values);
        out.extend(&self.infos);
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend(&self.data);
        out
    }
}

/// Numbers between -1 and 1, always the same.
pub fn numbers(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(12_345);
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    std::iter::repeat_with(next).take(count).collect()
}

/// A one-layer Llama with two heads of 8 and a byte-level tokenizer of a few words.
pub fn tiny_gguf() -> Gguf {
    let (hidden, inner, vocab) = (16, 32, 12);
    let tokens = ["<eos>", "<bos>", "<pad>", "a", "b", "Ġ", "ab", "Ġa", "c", "1", "2", "Ċ"];
    let mut gguf = Gguf::default()
        .text("general.architecture", "llama")
        .number("llama.embedding_length", hidden as u32)
        .number("llama.feed_forward_length", inner as u32)
        .number("llama.block_count", 1)
        .number("llama.context_length", 64)
        .number("llama.attention.head_count", 2)
        .number("llama.attention.head_count_kv", 1)
        .float("llama.attention.layer_norm_rms_epsilon", 1e-5)
        .float("llama.rope.freq_base", 500_000.0)
        .text("tokenizer.ggml.model", "gpt2")
        .text("tokenizer.ggml.pre", "smollm")
        .texts("tokenizer.ggml.tokens", &tokens)
        .ints("tokenizer.ggml.token_type", &[3, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1])
        .texts("tokenizer.ggml.merges", &["a b", "Ġ a"])
        .number("tokenizer.ggml.eos_token_id", 0)
        .number("tokenizer.ggml.bos_token_id", 1)
        .number("tokenizer.ggml.padding_token_id", 2)
        .flag("tokenizer.ggml.add_bos_token", true)
        .text("tokenizer.chat_template", "{{ messages[0].content }}")
        .floats_tensor("token_embd.weight", &[vocab, hidden], 1)
        .floats_tensor("output_norm.weight", &[hidden], 2);
    for (i, (name, shape)) in [
        ("attn_norm", vec![hidden]),
        ("ffn_norm", vec![hidden]),
        ("attn_q", vec![hidden, hidden]),
        ("attn_k", vec![hidden / 2, hidden]),
        ("attn_v", vec![hidden / 2, hidden]),
        ("attn_output", vec![hidden, hidden]),
        ("ffn_gate", vec![inner, hidden]),
        ("ffn_up", vec![inner, hidden]),
        ("ffn_down", vec![hidden, inner]),
    ]
    .into_iter()
    .enumerate()
    {
        gguf = gguf.floats_tensor(&format!("blk.0.{name}.weight"), &shape, 10 + i as u32);
    }
    gguf
}

pub fn open_bytes(bytes: &[u8]) -> Result<ModelFiles> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    fs::write(&path, bytes).unwrap();
    ModelFiles::open(&path)
}

/// The problem that opening gives; its code and English message.
pub fn problem_of<T>(result: Result<T>) -> (String, String) {
    let Err(error) = result else { panic!("no problem") };
    let problem = error.into_problem();
    assert!(problem.zh.as_ref().is_some_and(|zh| !zh.message.is_empty() && !zh.hint.is_empty()), "{problem:?}");
    assert!(!problem.hint.is_empty(), "{problem:?}");
    (problem.code, problem.message)
}

#[test]
fn gguf_opens_as_a_hugging_face_model() {
    let files = open_bytes(&tiny_gguf().bytes()).unwrap();
    assert_eq!((files.format(), files.dtype()), ("gguf", "f32"));
    let config = files.config();
    assert_eq!(config["architectures"][0], "LlamaForCausalLM");
    assert_eq!(config["rms_norm_eps"], serde_json::json!(1e-5));
    assert_eq!(config["head_dim"], 8);
    assert_eq!(config["tie_word_embeddings"], true);
    assert_eq!(config["vocab_size"], 12);
    assert_eq!(config["rope_scaling"], Value::Null);
    assert_eq!(files.names().count(), 11);
    assert_eq!(files.parameters() * 4, files.bytes());
    assert_eq!(files.generation_eos(), [0]);
    let down = files.tensor("model.layers.0.mlp.down_proj.weight", DType::F32, &Device::Cpu).unwrap();
    assert_eq!(down.dims(), [16, 32]);
    assert_eq!(down.flatten_all().unwrap().to_vec1::<f32>().unwrap(), numbers(16 * 32, 18));
    assert_eq!(problem_of(files.tensor("lm_head.weight", DType::F32, &Device::Cpu)).0, "no_tensor");
}

/// llama.cpp's converter: `w.reshape(heads, 2, dim / 2, in).swapaxes(1, 2)`; the row of the file at
/// `head * dim + 2 * i + half` was Hugging Face's `head * dim + half * dim / 2 + i`.
#[test]
fn rows_of_q_and_k_stand_in_hugging_face_order() {
    let files = open_bytes(&tiny_gguf().bytes()).unwrap();
    for (name, rows, seed, dim) in [("q", 16, 12, 8), ("k", 8, 13, 8)] {
        let name = format!("model.layers.0.self_attn.{name}_proj.weight");
        let got = files.tensor(&name, DType::F32, &Device::Cpu).unwrap().to_vec2::<f32>().unwrap();
        let stored = numbers(rows * 16, seed);
        for (row, values) in got.iter().enumerate() {
            let (head, within) = (row / dim, row % dim);
            let (half, i) = (within / (dim / 2), within % (dim / 2));
            let at = head * dim + 2 * i + half;
            assert_eq!(values[..], stored[at * 16..at * 16 + 16], "{name} row {row}");
        }
    }
}

/// Every quantised type, as candle writes it, comes back as candle dequantises it; bytes pass through our reader.
#[test]
fn all_gguf_types_are_read() {
    let types: [(u32, GgmlDType); 15] = [
        (0, GgmlDType::F32),
        (1, GgmlDType::F16),
        (30, GgmlDType::BF16),
        (2, GgmlDType::Q4_0),
        (3, GgmlDType::Q4_1),
        (6, GgmlDType::Q5_0),
        (7, GgmlDType::Q5_1),
        (8, GgmlDType::Q8_0),
        (9, GgmlDType::Q8_1),
        (10, GgmlDType::Q2K),
        (11, GgmlDType::Q3K),
        (12, GgmlDType::Q4K),
        (13, GgmlDType::Q5K),
        (14, GgmlDType::Q6K),
        (15, GgmlDType::Q8K),
    ];
    let values = numbers(4 * 256, 7);
    let source = Tensor::from_vec(values.clone(), (4, 256), &Device::Cpu).unwrap();
    for (number, kind) in types {
        let quantised = QTensor::quantize(&source, kind).unwrap();
        let bytes = quantised.data().unwrap().to_vec();
        let gguf = tiny_gguf().tensor("output.weight", &[4, 256], number, &bytes).bytes();
        let files = open_bytes(&gguf).unwrap();
        let got = files.tensor("lm_head.weight", DType::F32, &Device::Cpu).unwrap();
        let expected = quantised.dequantize(&Device::Cpu).unwrap();
        assert_eq!(got.to_vec2::<f32>().unwrap(), expected.to_vec2::<f32>().unwrap(), "{kind:?}");
        let worst = (got - &source).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(worst < 0.5, "{kind:?} is off by {worst}");
        assert_eq!(files.tensor("lm_head.weight", DType::BF16, &Device::Cpu).unwrap().dtype(), DType::BF16);
    }
    let (code, message) = problem_of(open_bytes(&tiny_gguf().tensor("output.weight", &[4, 256], 39, &[]).bytes()));
    assert_eq!(code, "gguf_type");
    assert!(message.contains("MXFP4") && message.contains("output.weight"), "{message}");
}

/// The blocks of a quantised matrix, with the rows of q in Hugging Face's order, are the tensor that is read.
#[test]
fn quantised_blocks_are_kept_as_they_are() {
    let values = Tensor::from_vec(numbers(16 * 256, 7), (16, 256), &Device::Cpu).unwrap();
    for (kind, number) in [(GgmlDType::Q4_0, 2), (GgmlDType::Q8_0, 8), (GgmlDType::Q4K, 12), (GgmlDType::Q6K, 14)] {
        let packed = QTensor::quantize(&values, kind).unwrap().data().unwrap().to_vec();
        let gguf = tiny_gguf().tensor("blk.1.attn_q.weight", &[16, 256], number, &packed);
        let files = open_bytes(&gguf.bytes()).unwrap();
        let name = "model.layers.1.self_attn.q_proj.weight";
        let blocks = files.blocks(name).unwrap().unwrap();
        let quantised = Quantised::from_ggml(blocks.kind, &blocks.bytes, blocks.shape, &Device::Cpu).unwrap();
        let read = files.tensor(name, DType::F32, &Device::Cpu).unwrap();
        let off = (quantised.tensor().unwrap() - read).unwrap().abs().unwrap().max_all().unwrap();
        assert_eq!(off.to_scalar::<f32>().unwrap(), 0.0, "{kind:?}");
        assert_eq!(quantised.bytes(), packed.len());
        assert!(files.blocks("model.norm.weight").unwrap().is_none());
    }
}

#[test]
fn a_cut_gguf_is_a_problem_wherever_it_is_cut() {
    let gguf = tiny_gguf();
    let bytes = gguf.bytes();
    let end = gguf.header_len() + 200;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    fs::write(&path, &bytes).unwrap();
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    let mut cuts: Vec<usize> = (0..end).chain((end..bytes.len() - 32).step_by(97)).collect();
    cuts.reverse();
    for cut in cuts {
        file.set_len(cut as u64).unwrap();
        let (code, message) = problem_of(ModelFiles::open(&path));
        assert!(matches!(code.as_str(), "file_truncated" | "bad_gguf"), "cut at {cut}: {message}");
        assert!(message.contains("m.gguf"), "{message}");
    }
}

/// Each byte of the header turned over, one at a time: opens or is refused, and whatever opens can be read.
#[test]
fn a_damaged_gguf_never_panics() {
    let gguf = tiny_gguf();
    let bytes = gguf.bytes();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    fs::write(&path, &bytes).unwrap();
    let mut file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    let mut poke = |at: usize, value: u8| {
        file.seek(SeekFrom::Start(at as u64)).unwrap();
        file.write_all(&[value]).unwrap();
    };
    for (at, byte) in bytes.iter().copied().enumerate().take(gguf.header_len()) {
        for value in [0xff, byte.wrapping_add(1)] {
            poke(at, value);
            if let Ok(files) = ModelFiles::open(&path) {
                let _ = files.tokenizer();
                for name in files.names().take(3) {
                    let _ = files.tensor(name, DType::F32, &Device::Cpu);
                }
            }
        }
        poke(at, byte);
    }
}

#[test]
fn hostile_gguf_headers_are_refused() {
    let size = |dims: &[u64]| {
        let mut gguf = tiny_gguf();
        put_text(&mut gguf.infos, "output.weight");
        gguf.infos.extend((dims.len() as u32).to_le_bytes());
        dims.iter().for_each(|dim| gguf.infos.extend(dim.to_le_bytes()));
        gguf.infos.extend(0_u32.to_le_bytes());
        gguf.infos.extend(0_u64.to_le_bytes());
        gguf.tensor_count += 1;
        gguf.bytes()
    };
    let mut many_tensors = tiny_gguf();
    many_tensors.tensor_count = u64::MAX;
    let mut many_values = tiny_gguf();
    many_values.value_count = 1 << 60;
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("dimension", size(&[1 << 40, 1 << 40])),
        ("dimension", size(&[1 << 63, 2])),
        ("dimension 0", size(&[0, 4])),
        ("output.weight", size(&[1 << 50])),
        ("dimensions", size(&[2, 2, 2, 2, 2])),
        ("overlap", size(&[4])),
        ("number of tensors", many_tensors.bytes()),
        ("number of metadata", many_values.bytes()),
        ("twice", tiny_gguf().number("llama.block_count", 1).bytes()),
        ("twice", tiny_gguf().floats_tensor("output_norm.weight", &[16], 1).bytes()),
        ("alignment", tiny_gguf().number("general.alignment", 24).bytes()),
        ("alignment", tiny_gguf().number("general.alignment", 0).bytes()),
        ("array", tiny_gguf().array("x", 9, 1, &[]).bytes()),
        ("cut short", tiny_gguf().array("x", 8, usize::MAX, &[]).bytes()),
        ("blocks of 32", tiny_gguf().tensor("output.weight", &[4, 16], 8, &[0; 68]).bytes()),
        ("type 13", tiny_gguf().value("x", 13, &[]).bytes()),
        ("rope_freqs", tiny_gguf().floats_tensor("rope_freqs.weight", &[4], 3).bytes()),
        ("no known decoder", tiny_gguf().floats_tensor("blk.0.attn_sinks.weight", &[4], 3).bytes()),
    ];
    for (expected, bytes) in cases {
        let (_, message) = problem_of(open_bytes(&bytes));
        assert!(message.contains(expected), "{expected}: {message}");
    }
}

#[test]
fn llama3_rope_scaling_is_found_again() {
    // Wavelengths of the four pairs: 6, 167, 4443, 118141.
    let factors =
        |middle: f64| -> Vec<u8> { [1.0, 1.0, middle, 32.0].iter().flat_map(|x| (*x as f32).to_le_bytes()).collect() };
    let open = |middle| open_bytes(&tiny_gguf().tensor("rope_freqs.weight", &[4], 0, &factors(middle)).bytes());
    let wavelength = std::f64::consts::TAU * 500_000_f64.sqrt();
    let smooth = (8192.0 / wavelength - 1.0) / 3.0;
    let files = open(1.0 / ((1.0 - smooth) / 32.0 + smooth)).unwrap();
    assert!(!files.contains("rope_freqs.weight"));
    let expected = serde_json::json!({
        "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    });
    assert_eq!(files.config()["rope_scaling"], expected);
    assert_eq!(problem_of(open(7.0)).0, "gguf_rope");
}

#[test]
fn gguf_tokenizers_split_merge_and_add_bos() {
    let files = open_bytes(&tiny_gguf().bytes()).unwrap();
    let tokenizer = files.tokenizer().unwrap();
    assert_eq!(tokenizer.bos, Some(("<bos>".into(), 1)));
    assert_eq!(tokenizer.eos, Some(("<eos>".into(), 0)));
    assert!(tokenizer.add_bos);
    assert_eq!(tokenizer.chat_template.as_deref(), Some("{{ messages[0].content }}"));
    let ids = |text: &str, special| tokenizer.tokenizer.encode(text, special).unwrap().get_ids().to_vec();
    assert_eq!(ids("ab a12\n<eos>", false), [6, 7, 9, 10, 11, 0]);
    assert_eq!(ids("ab", true), [1, 6]);
    assert_eq!(tokenizer.tokenizer.decode(&[6, 7, 9, 0], true).unwrap(), "ab a1");
    let unknown = tiny_gguf_with_pre("viking");
    let (code, message) = problem_of(open_bytes(&unknown).unwrap().tokenizer());
    assert!(code == "gguf_tokenizer" && message.contains("viking"), "{message}");
}

fn tiny_gguf_with_pre(pre: &str) -> Vec<u8> {
    let mut bytes = tiny_gguf().bytes();
    let at = bytes.windows(6).position(|window| window == b"smollm").unwrap();
    bytes[at..at + 6].copy_from_slice(pre.as_bytes());
    bytes
}

#[test]
fn sentence_piece_prefers_better_scores_and_falls_back_to_bytes() {
    let tokens = ["<unk>", "<s>", "</s>", "<0xE4>", "<0xBD>", "<0xA0>", "▁", "a", "b", "c", "ab", "bc", "▁a", "▁ab"];
    let scores = [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -9.0, -10.0, -11.0, -12.0, -3.0, -2.0, -4.0, -5.0];
    let gguf = Gguf::default()
        .text("tokenizer.ggml.model", "llama")
        .texts(super::gguf_tokenizer::TOKENS, &tokens)
        .floats("tokenizer.ggml.scores", &scores)
        .ints("tokenizer.ggml.token_type", &[2, 3, 3, 6, 6, 6, 1, 1, 1, 1, 1, 1, 1, 1])
        .number("tokenizer.ggml.bos_token_id", 1)
        .number("tokenizer.ggml.eos_token_id", 2);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    fs::write(&path, gguf.bytes()).unwrap();
    let header = gguf::read_header(&Source::open(&path).unwrap()).unwrap();
    let tokenizer = gguf_tokenizer::open(&path, &header).unwrap().tokenizer;
    let ids = |text: &str, special| tokenizer.encode(text, special).unwrap().get_ids().to_vec();
    // bc (-2) wins over ab (-3), then ▁a (-4).
    assert_eq!(ids("abc", true), [1, 12, 11]);
    assert_eq!(ids("ab 你", false), [13, 6, 3, 4, 5]);
    assert_eq!(tokenizer.decode(&ids("ab 你", false), false).unwrap(), "ab 你");
    assert_eq!(ids("ab</s>", false), [13, 2]);
}
