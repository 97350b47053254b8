//! Attacks on readers of GGUF that others have met, one file for each; every test is named after its row.

use super::{
    tests::{Gguf, open_bytes, problem_of, tiny_gguf},
    *,
};
use candle_core::Device;
use std::{fs, time::Instant};

/// What a file comes to: refused with a sentence, or open, and then each tensor is read or refused so.
fn withstand(what: &str, bytes: &[u8]) -> Option<String> {
    let begun = Instant::now();
    let found = match open_bytes(bytes) {
        Ok(files) => {
            if let Err(error) = files.tokenizer() {
                problem_of::<()>(Err(error));
            }
            for name in files.names() {
                if let Err(error) = files.tensor(name, DType::F32, &Device::Cpu) {
                    problem_of::<()>(Err(error));
                }
            }
            None
        }
        Err(error) => Some(problem_of::<()>(Err(error)).1),
    };
    assert!(begun.elapsed().as_secs() < 5, "{what} took {:?}", begun.elapsed());
    found
}

/// A header with one number of the file's beginning or metadata replaced.
fn with(edit: impl FnOnce(Gguf) -> Gguf) -> Vec<u8> {
    edit(tiny_gguf()).bytes()
}

/// M24: cut at 256 places, an import fails before anything is exported, and no byte of it comes from elsewhere.
#[test]
fn m24_a_tensor_larger_than_its_file_reads_nothing_else() {
    let whole = tiny_gguf().bytes();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    for n in 0..256 {
        let cut = n * (whole.len() - 33) / 255;
        fs::write(&path, &whole[..cut]).unwrap();
        let (code, message) = problem_of(ModelFiles::open(&path));
        assert!(matches!(code.as_str(), "file_truncated" | "bad_gguf"), "cut at {cut}: {message}");
    }
    // Cut after it was opened: a read says so and gives nothing.
    fs::write(&path, &whole).unwrap();
    let files = ModelFiles::open(&path).unwrap();
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(whole.len() as u64 / 2).unwrap();
    let failed = files.names().filter(|name| files.tensor(name, DType::F32, &Device::Cpu).is_err()).count();
    assert!(failed > 0);
}

/// M25: lengths, counts and divisors that lie, in files of some hundred bytes; refused at once and without the memory that
/// they claim.
#[test]
fn m25_small_files_with_large_numbers_are_refused() {
    let header = |version: u32, tensors: u64, values: u64, rest: &[u8]| {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(version.to_le_bytes());
        bytes.extend(tensors.to_le_bytes());
        bytes.extend(values.to_le_bytes());
        bytes.extend(rest);
        bytes
    };
    let text = |length: u64, bytes: &[u8]| [&length.to_le_bytes()[..], bytes].concat();
    let array = |kind: u32, count: u64| {
        [text(1, b"a"), 9_u32.to_le_bytes().to_vec(), kind.to_le_bytes().to_vec(), count.to_le_bytes().to_vec()]
            .concat()
    };
    let mut cases: Vec<(String, Vec<u8>)> = Vec::new();
    for number in [1 << 32, 1 << 40, 1 << 62, u64::MAX, u64::MAX - 7, i64::MAX as u64] {
        cases.push((format!("{number} tensors"), header(3, number, 0, &[])));
        cases.push((format!("{number} values"), header(3, 0, number, &[])));
        cases.push((format!("a key of {number}"), header(3, 0, 1, &text(number, b"k"))));
        cases.push((format!("an array of {number} bytes"), header(3, 0, 1, &array(0, number))));
        cases.push((format!("an array of {number} texts"), header(3, 0, 1, &array(8, number))));
        cases.push((format!("an array of {number} arrays"), header(3, 0, 1, &array(9, number))));
    }
    for version in [0, 1, 4, u32::MAX, 3_u32.swap_bytes()] {
        cases.push((format!("version {version}"), header(version, 0, 0, &[])));
    }
    cases.push(("nothing".into(), Vec::new()));
    cases.push(("the magic alone".into(), b"GGUF".to_vec()));
    assert!(cases.len() > 30);
    for (what, bytes) in cases {
        assert!(bytes.len() < 200);
        assert!(withstand(&what, &bytes).is_some(), "{what} is opened");
    }
}

/// M25: a head count of zero divides nothing, and so on for each number that something is divided by or allocated from.
#[test]
fn m25_numbers_of_the_model_that_divide_or_allocate() {
    let whole = tiny_gguf().bytes();
    for key in [
        "llama.attention.head_count",
        "llama.attention.head_count_kv",
        "llama.embedding_length",
        "llama.feed_forward_length",
        "llama.block_count",
        "llama.context_length",
    ] {
        let place = whole.windows(key.len()).position(|part| part == key.as_bytes()).unwrap() + key.len() + 4;
        for number in [0_u32, 1, 3, 513, 1 << 20, i32::MAX as u32, u32::MAX] {
            let mut bytes = whole.clone();
            bytes[place..place + 4].copy_from_slice(&number.to_le_bytes());
            withstand(&format!("{key} = {number}"), &bytes);
        }
    }
}

/// M27: the files that broke other readers of this format, one for each.
#[test]
fn m27_files_that_broke_others_are_refused() {
    let huge_shape = |dims: &[usize]| with(|gguf| gguf.tensor("output.weight", dims, 0, &[0; 64]));
    for (what, bytes) in [
        ("ne overflow to a small number", huge_shape(&[1 << 31, 1 << 31, 4])),
        ("ne overflow to zero", huge_shape(&[1 << 32, 1 << 32])),
        ("a tensor of zero", huge_shape(&[0])),
        ("nine dimensions", huge_shape(&[1; 9])),
        ("alignment 0", with(|gguf| gguf.number("general.alignment", 0))),
        ("alignment 24", with(|gguf| gguf.number("general.alignment", 24))),
        ("alignment 2^31", with(|gguf| gguf.number("general.alignment", 1 << 31))),
        ("an unknown type", with(|gguf| gguf.tensor("output.weight", &[16], 255, &[0; 64]))),
        ("the same tensor twice", with(|gguf| gguf.floats_tensor("output_norm.weight", &[16], 1))),
        ("a name of a megabyte", with(|gguf| gguf.floats_tensor(&"x".repeat(1 << 20), &[1], 1))),
    ] {
        assert!(withstand(what, &bytes).is_some(), "{what} is opened");
    }
    // Ids and pieces beyond the vocabulary, byte pieces that are no bytes: refused, or never indexed by.
    for (what, bytes) in [
        ("an end beyond the vocabulary", with(|gguf| gguf.number("tokenizer.ggml.unknown_token_id", u32::MAX))),
        ("types beyond the vocabulary", with(|gguf| gguf.ints("tokenizer.ggml.other", &[6; 100]))),
        ("a byte piece of minus one", sentence_piece(&["<unk>", "<s>", "</s>", "<0x-1>", "a"], &[2, 3, 3, 6, 1])),
        ("a byte piece of 256", sentence_piece(&["<unk>", "<s>", "</s>", "<0x100>", "a"], &[2, 3, 3, 6, 1])),
        ("a byte piece without digits", sentence_piece(&["<unk>", "<s>", "</s>", "<0x>", "a"], &[2, 3, 3, 6, 1])),
        ("fewer types than pieces", sentence_piece(&["<unk>", "<s>", "</s>", "a", "b"], &[2])),
        ("no pieces", sentence_piece(&[], &[])),
    ] {
        withstand(what, &bytes);
    }
}

/// The tiny model with a tokenizer of SentencePiece in the place of its own.
fn sentence_piece(pieces: &[&str], kinds: &[i32]) -> Vec<u8> {
    Gguf::default()
        .text("general.architecture", "llama")
        .number("llama.embedding_length", 16)
        .number("llama.feed_forward_length", 32)
        .number("llama.block_count", 0)
        .number("llama.attention.head_count", 2)
        .float("llama.attention.layer_norm_rms_epsilon", 1e-5)
        .text("tokenizer.ggml.model", "llama")
        .texts("tokenizer.ggml.tokens", pieces)
        .ints("tokenizer.ggml.token_type", kinds)
        .floats("tokenizer.ggml.scores", &vec![0.0; pieces.len()])
        .floats_tensor("token_embd.weight", &[pieces.len().max(1), 16], 1)
        .floats_tensor("output_norm.weight", &[16], 2)
        .bytes()
}
