//! A worker that may have no more memory ends alone, and says at which step, how much it held, and what helps.

use crate::common::{Home, checkpoints, faults, last_word};
use serde_json::json;
use std::{fs, time::Duration};

/// R14. The limit is one that holds the model and steps of short rows, and not the logits of a long one.
#[test]
fn r14_a_worker_out_of_memory_says_step_peak_and_three_remedies() {
    let home = Home::new();
    let mut rows: Vec<_> = (0..8).map(|i| json!({"instruction": "Short.", "output": format!("{i}")})).collect();
    rows.push(json!({"instruction": "Long.", "output": "On and on it goes. ".repeat(100)}));
    fs::write(home.path().join("datasets/numbers.json"), json!(rows).to_string()).unwrap();
    let more = json!({
        "model_name_or_path": home.large_model(), "per_device_train_batch_size": 2, "disable_shuffling": true,
        "cutoff_len": 250, "save_steps": 2, "num_train_epochs": 1
    });
    for n in 0..(faults() / 25).max(1) {
        let dir = home.prepare(&format!("full-{n}"), home.config(more.clone()));
        let mut worker = home.start(&dir, &[("LATHE_MAX_MEMORY", "450M")]);
        let status = worker.wait_for(Duration::from_secs(60)).expect("it hangs");
        let (outcome, problem) = last_word(&dir);
        assert_eq!((status.code(), outcome.as_str()), (Some(1), "failed"), "{problem}");
        assert_eq!(problem["code"], "out_of_memory", "{problem}");
        let message = problem["message"].as_str().unwrap();
        assert!(message.contains("after step 4") && message.contains("of 472 MB"), "{message}");
        assert!(problem["hint"].as_str().unwrap().contains("from step 4"), "{problem}");
        let steps = problem["steps"].as_array().unwrap();
        assert_eq!(steps.len(), 3, "{problem}");
        assert!(steps[0]["en"].as_str().unwrap().contains("MB instead of"), "{problem}");
        assert!(!dir.join("heartbeat.json").exists());
        // What it saved before is whole, and with room the run goes on from there.
        assert_eq!(checkpoints(&dir).last().unwrap().0, 4);
        assert!(home.start(&dir, &[]).wait().success());
    }
}

/// R14: the system takes the worker before whatever started it.
#[test]
fn r14_a_worker_offers_itself_first() {
    let home = Home::new();
    let dir = home.prepare("first", home.config(json!({"max_steps": 1})));
    let mut worker = home.start(&dir, &[]);
    assert!(worker.wait_until(|dir| dir.join("heartbeat.json").exists()).is_none());
    let score = fs::read_to_string(format!("/proc/{}/oom_score_adj", worker.child.id())).unwrap();
    assert_eq!(score.trim(), "500");
    assert!(worker.wait().success());
}

#[test]
fn a_limit_that_is_no_number_is_named() {
    let home = Home::new();
    let dir = home.prepare("bad", home.config(json!({"max_steps": 1})));
    assert_eq!(home.start(&dir, &[("LATHE_MAX_MEMORY", "much")]).wait().code(), Some(2));
    assert!(fs::read_to_string(dir.join("worker.log")).unwrap().contains("LATHE_MAX_MEMORY is \"much\""));
}
