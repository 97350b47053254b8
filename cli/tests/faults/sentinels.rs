//! A run that can't get anywhere ends at once, at its last good step, and says why.

use crate::common::{Home, checkpoints, last_word, measured};
use serde_json::{Value, json};
use std::{fs, path::Path};

/// Fails, as `code` says, with three ways on; no line that it wrote has anything but numbers.
fn fails(home: &Home, id: &str, more: Value, code: &str) -> std::path::PathBuf {
    let mut worker = home.run(id, home.config(more));
    assert_eq!(worker.wait().code(), Some(1));
    let (outcome, problem) = last_word(&worker.dir);
    assert_eq!((outcome.as_str(), &problem["code"]), ("failed", &json!(code)), "{problem}");
    assert_eq!(problem["steps"].as_array().unwrap().len(), 3, "{problem}");
    for line in fs::read_to_string(worker.dir.join("events.jsonl")).unwrap().lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        let values = event["values"].as_object().into_iter().flat_map(|values| values.values());
        assert!(values.into_iter().all(Value::is_number), "{line}");
    }
    worker.dir.clone()
}

/// The last step that was told is the one that was saved.
fn kept(dir: &Path) -> u64 {
    let last = measured(dir).keys().map(|(step, _)| *step).max().unwrap_or(0);
    assert_eq!(checkpoints(dir).last().map_or(0, |(step, _)| *step), last);
    last
}

/// R21.
#[test]
fn r21_a_run_that_diverges_ends_within_a_step_and_keeps_its_last_good_one() {
    let home = Home::new();
    let more = json!({
        "finetuning_type": "full", "optim": "sgd", "learning_rate": 10.0, "max_grad_norm": 0.0, "weight_decay": 1.0,
        "max_steps": 400, "save_steps": 0
    });
    let dir = fails(&home, "diverges", more, "diverged");
    assert!(kept(&dir) < 400);
}

/// R21: what is trained has no gradient, since the model's embeddings are all zero.
#[test]
fn r21_a_run_whose_first_gradient_is_zero_ends_there() {
    let home = Home::new();
    let model = home.model("zero", 4096, 0.0);
    let dir = fails(&home, "dead", json!({"model_name_or_path": model, "max_steps": 50}), "no_gradient");
    assert_eq!(kept(&dir), 1);
}
