//! A model file that is cut while a worker reads it ends that worker with a sentence that names the file.

use crate::common::{Chance, Home, faults, last_word};
use serde_json::json;
use std::{fs, time::Duration};

/// R22.
#[test]
fn r22_a_model_file_cut_while_it_loads_ends_the_worker_with_its_name() {
    let home = Home::new();
    let model = home.large_model();
    let file = model.join("model.safetensors");
    let whole = fs::read(&file).unwrap();
    let mut chance = Chance::new();
    let mut cut = 0;
    for n in 0..(faults() / 10).max(4) {
        fs::write(&file, &whole).unwrap();
        let config = home.config(json!({"model_name_or_path": model, "max_steps": 1, "run_name": n}));
        let mut worker = home.run(&format!("cut-{n}"), config);
        worker.wait_until(|dir| dir.join("events.jsonl").exists());
        worker.wait_for(chance.of(Duration::from_millis(60)));
        let left = (whole.len() as f64 * chance.share()) as u64;
        fs::File::options().write(true).open(&file).unwrap().set_len(left).unwrap();
        let status = worker.wait();
        let (outcome, problem) = last_word(&worker.dir);
        // It may have read everything before.
        assert!(status.code() == Some(i32::from(outcome == "failed")), "{status} {outcome}");
        if outcome == "failed" {
            cut += 1;
            let message = problem["message"].as_str().unwrap();
            assert!(message.contains("model.safetensors"), "{message}");
            assert!(!problem["hint"].as_str().unwrap().is_empty());
        }
    }
    eprintln!("{cut} workers were hit");
    assert!(cut > 0);
}
