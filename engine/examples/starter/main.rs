//! Makes what the starter model is trained from: a corpus of short English and Chinese conversations, a tokenizer
//! learned from it, and the settings of the training run. The same seed gives the same files.
//!
//!     cargo run --release -p engine --example starter -- OUT_DIR --seed 1
//!     lathe train OUT_DIR/pretrain.yaml
//!     cargo run --release -p engine --example starter -- spread OUT_DIR/run OUT_DIR/corpus.jsonl MODEL_DIR

mod chinese;
mod english;
mod persona;
mod rng;
mod seeds;
mod spread;
mod tokenizer;
mod words;

use english::Turns;
use rng::Rng;
use serde_json::json;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

pub type Failure = Box<dyn std::error::Error>;

#[derive(Default)]
pub struct Chat {
    pub system: Option<String>,
    /// What the person says, and the answer.
    pub turns: Turns,
}

/// Text of the project's own that the tokenizer should know well, though the model never reads it.
const DATASETS: [&str; 6] = [
    include_str!("../../../datasets/identity.json"),
    include_str!("../../../datasets/instructions_en.json"),
    include_str!("../../../datasets/instructions_zh.json"),
    include_str!("../../../datasets/chats.json"),
    include_str!("../../../datasets/text_en.txt"),
    include_str!("../../../datasets/text_zh.txt"),
];

fn main() -> Result<(), Failure> {
    let (mut out, mut seed, mut rows) = (None, 1, 60_000);
    let mut words = env::args().skip(1).peekable();
    if words.next_if_eq("spread").is_some() {
        let paths: Vec<PathBuf> = words.map(PathBuf::from).collect();
        let [from, corpus, to] = paths.as_slice() else { return Err("usage: starter spread FROM CORPUS TO".into()) };
        return spread::spread(from, corpus, to);
    }
    while let Some(word) = words.next() {
        let mut number = || words.next().and_then(|w| w.parse().ok()).ok_or(format!("{word} needs a number"));
        match word.as_str() {
            "--seed" => seed = number()?,
            "--rows" => rows = number()?,
            _ if out.is_none() && !word.starts_with('-') => out = Some(PathBuf::from(word)),
            _ => return Err("usage: starter OUT_DIR [--seed 1] [--rows 60000]".into()),
        }
    }
    let out = out.ok_or("usage: starter OUT_DIR [--seed 1] [--rows 60000]")?;
    fs::create_dir_all(&out)?;

    let mut rng = Rng::new(seed);
    let chats: Vec<Chat> = (0..rows).map(|_| chat(&mut rng)).collect();
    let rendered: Vec<String> = chats.iter().map(tokenizer::render).collect();

    let mut lines = String::new();
    for text in &rendered {
        writeln!(lines, "{}", json!({ "text": text }))?;
    }
    fs::write(out.join("corpus.jsonl"), lines)?;
    let info = json!({"corpus": {"file_name": "corpus.jsonl", "columns": {"prompt": "text"}}});
    tokenizer::save(&out, "dataset_info.json", &info)?;

    // What is said, without the marks of the template, is what the merges are learned from.
    let mut texts: Vec<String> = chats
        .into_iter()
        .flat_map(|c| c.system.into_iter().chain(c.turns.into_iter().flat_map(|(u, a)| [u, a])))
        .collect();
    texts.truncate(40_000);
    texts.extend(
        DATASETS.iter().flat_map(|text| std::iter::repeat_n(text.replace("\\n", "\n").replace("\\\"", "\""), 20)),
    );
    texts.extend(std::iter::repeat_n(include_str!("characters.txt").to_string(), 60));
    let tokenizer = tokenizer::train(&texts)?;
    let folder = out.join("starter");
    tokenizer::write(&folder, &tokenizer)?;

    let mut tokens = 0;
    for text in &rendered {
        tokens += tokenizer.encode(text.as_str(), false).map_err(|e| e.to_string())?.len() + 1;
    }
    fs::write(out.join("pretrain.yaml"), settings(&out))?;
    let bytes: usize = rendered.iter().map(String::len).sum();
    println!(
        "{rows} conversations, {bytes} bytes, {tokens} tokens ({:.1} each), {} in the vocabulary",
        tokens as f64 / rows.max(1) as f64,
        tokenizer.get_vocab_size(true)
    );
    Ok(())
}

/// One conversation: a topic or several, at times after a system prompt that does not matter to it.
fn chat(rng: &mut Rng) -> Chat {
    if rng.chance(16) {
        return persona::chat(rng);
    }
    let zh = rng.chance(50);
    let topics = if zh { chinese::TOPICS } else { english::TOPICS };
    let all: usize = topics.iter().map(|(weight, _)| weight).sum();
    let count = *rng.pick(&[1, 1, 1, 1, 2, 3]);
    let mut chat = Chat::default();
    for _ in 0..count {
        let mut at = rng.below(all);
        for (weight, topic) in topics {
            if at < *weight {
                chat.turns.extend(topic(rng));
                break;
            }
            at -= weight;
        }
    }
    if rng.chance(8) {
        let system = if zh { "你是一个乐于助人的助手。" } else { "You are a helpful assistant." };
        chat.system = Some(system.into());
    }
    chat
}

/// The run that trains the starter: all weights, from random ones, on every token of the corpus.
fn settings(out: &Path) -> String {
    let out = out.display();
    format!(
        "# Trains the starter model from random weights: lathe train {out}/pretrain.yaml
model_name_or_path: {out}/starter
train_from_scratch: true
stage: pt
finetuning_type: full
dataset_dir: {out}
dataset: corpus
cutoff_len: 256
# Not joined: a conversation must not see the persona of the one before it. 16 of them are about 1100 tokens.
packing: false
per_device_train_batch_size: 16
gradient_accumulation_steps: 1
max_steps: 1750
learning_rate: 2.0e-3
lr_scheduler_type: cosine
warmup_steps: 50
weight_decay: 0.1
adam_beta2: 0.95
max_grad_norm: 1.0
logging_steps: 10
save_steps: 0
seed: 1
output_dir: {out}/run
overwrite_output_dir: true
"
    )
}
