//! Makes the folder of a small model in mT5's shape, whose tokenizer is learned from files of rows or of plain text. Its
//! weights are then trained from random ones:
//!
//!     cargo run --release -p engine --example tiny_mt5 -- OUT_DIR FILE …
//!     lathe train model_name_or_path=OUT_DIR train_from_scratch=true finetuning_type=full stage=sft dataset=…
//!
//! Or, on nine tenths of a classification task, with accuracy and macro F1 on the rest:
//!
//!     lathe bench methods --model OUT_DIR --data FILE --methods full --steps 600 train_from_scratch=true …

mod make;

use make::{Failure, Size, write};
use serde_json::Value;
use std::{
    env, fs,
    path::{Path, PathBuf},
};

fn main() -> Result<(), Failure> {
    let paths: Vec<PathBuf> = env::args().skip(1).map(PathBuf::from).collect();
    let [out, files @ ..] = paths.as_slice() else { return Err("usage: tiny_mt5 OUT_DIR FILE …".into()) };
    let mut texts = Vec::new();
    for file in files {
        texts.extend(read(file)?);
    }
    write(out, &texts, &Size { vocabulary: 2000, width: 64, heads: 4, layers: 2 })
}

/// The texts of rows in JSON, or the lines of any other file.
fn read(file: &Path) -> Result<Vec<String>, Failure> {
    let text = fs::read_to_string(file)?;
    let Ok(Value::Array(rows)) = serde_json::from_str(&text) else {
        return Ok(text.lines().map(str::to_owned).collect());
    };
    let words = rows.iter().filter_map(Value::as_object).flat_map(|row| row.values().filter_map(Value::as_str));
    Ok(words.map(str::to_owned).collect())
}
