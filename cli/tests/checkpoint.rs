//! `lathe checkpoint`: what it says of whole and of damaged checkpoints, and how it ends.
#![allow(clippy::unwrap_used)]

mod common;

use common::lathe;
use serde_json::Value;
use std::{fs, path::Path, process::Output};
use tempfile::TempDir;

fn run(home: &Path, words: &[&str]) -> Output {
    lathe(home, words).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn r09_verify_names_each_damaged_file_and_ends_with_1() {
    let home = TempDir::new().unwrap();
    let train =
        ["train", "model_name_or_path=starter", "dataset=identity", "max_steps=2", "save_steps=1", "run_name=a"];
    let small = ["max_samples=8", "per_device_train_batch_size=1", "cutoff_len=64"];
    let trained = run(home.path(), &[&train[..], &small[..]].concat());
    assert!(trained.status.success(), "{}", text(&trained.stderr));
    let dir = home.path().join("lathe/runs/a");

    let whole = run(home.path(), &["checkpoint", "verify", "a", "--json"]);
    let found: Value = serde_json::from_slice(&whole.stdout).unwrap();
    assert_eq!((whole.status.code(), &found["whole"]), (Some(0), &Value::Bool(true)), "{found}");
    let steps: Vec<_> = found["checkpoints"].as_array().unwrap().iter().map(|c| c["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, [1, 2]);
    assert!(
        found["checkpoints"][0]["tensors"].as_u64().unwrap() > 10
            && found["checkpoints"][0]["values"].as_u64().unwrap() > 0
    );
    let list = run(home.path(), &["checkpoint", "list", dir.to_str().unwrap()]);
    assert!(list.status.success() && text(&list.stdout).lines().count() == 2, "{}", text(&list.stdout));

    for name in ["adapter_model.safetensors", "optimizer.safetensors"] {
        let path = dir.join("checkpoint-2").join(name);
        let mut bytes = fs::read(&path).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        fs::write(&path, bytes).unwrap();
    }
    let damaged = run(home.path(), &["checkpoint", "verify", "a"]);
    assert_eq!(damaged.status.code(), Some(1));
    let (said, told) = (text(&damaged.stdout), text(&damaged.stderr));
    for part in ["checkpoint-1", "whole", "adapter_model.safetensors has changed", "optimizer.safetensors has changed"]
    {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(told.contains("1 of 2 checkpoints") && told.contains("checkpoint-2"), "{told}");
    let one = run(home.path(), &["checkpoint", "verify", dir.join("checkpoint-1").to_str().unwrap()]);
    assert!(one.status.success(), "{}", text(&one.stderr));
    assert_eq!(run(home.path(), &["checkpoint", "verify", "nowhere"]).status.code(), Some(2));
}
