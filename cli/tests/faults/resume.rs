//! Killed at any moment, a run goes on as if nothing had been: to the last bit.

use crate::common::{Chance, Home, Result, faults};
use serde_json::{Value, json};
use std::{
    fs,
    os::unix::process::ExitStatusExt,
    path::Path,
    time::{Duration, Instant},
};

/// LoRA and full tuning, one micro-batch in a step and four, rows apart and packed; with dropout and two epochs always.
fn configs(home: &Home) -> Vec<(String, Value)> {
    let mut all = Vec::new();
    for tuning in ["lora", "full"] {
        for accumulation in [1, 4] {
            for packing in [false, true] {
                let more = json!({
                    "finetuning_type": tuning, "gradient_accumulation_steps": accumulation, "packing": packing,
                    "cutoff_len": 64, "lora_dropout": 0.1, "neftune_noise_alpha": 5.0, "num_train_epochs": 2,
                    "save_steps": if accumulation == 1 && !packing { 5 } else { 1 }, "val_size": 0.1, "save_total_limit": 2
                });
                let name = format!("{tuning}-{accumulation}-{}", if packing { "packed" } else { "apart" });
                all.push((name, home.config(more)));
            }
        }
    }
    all
}

/// Whether a checkpoint is being written.
fn is_saving(dir: &Path) -> bool {
    let names = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let is_whole = |name: &str| name.strip_prefix("checkpoint-").is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit()));
    names.filter_map(|name| name.into_string().ok()).any(|name| name.contains("checkpoint-") && !is_whole(&name))
}

/// R01. Of the kills, four in five come at a moment drawn from the whole run, one in five while a checkpoint is written.
#[test]
fn r01_a_run_killed_at_random_moments_ends_as_the_unbroken_one_to_the_bit() {
    let home = Home::new();
    let mut chance = Chance::new();
    let (mut kills, mut while_saving, mut resumed) = (0, 0, 0);
    let configs = configs(&home);
    for (n, (name, config)) in configs.iter().enumerate() {
        let mut unbroken = home.run(&format!("{name}-unbroken"), config.clone());
        assert!(unbroken.wait().success());
        let whole = unbroken.begun.elapsed();
        let expected = Result::of(&unbroken.dir);
        assert!(expected.measured.keys().any(|(_, name)| name == "eval_loss"));

        let wanted = faults() * (n + 1) / configs.len();
        let mut broken = 0;
        while kills < wanted {
            broken += 1;
            let dir = home.prepare(&format!("{name}-{broken}"), config.clone());
            loop {
                let mut worker = home.start(&dir, &[]);
                let ended = match chance.share() < 0.2 {
                    true => {
                        worker.wait_until(is_saving).or_else(|| worker.wait_for(chance.of(Duration::from_millis(4))))
                    }
                    false => worker.wait_for(chance.of(whole)),
                };
                if let Some(status) = ended {
                    assert!(status.success(), "{name}: {status}");
                    break;
                }
                let was_saving = is_saving(&dir);
                worker.child.kill().unwrap();
                let status = worker.wait();
                if status.signal().is_some() {
                    kills += 1;
                    while_saving += usize::from(was_saving);
                }
                if kills >= wanted {
                    assert!(home.start(&dir, &[]).wait().success(), "{name}");
                    break;
                }
            }
            assert_eq!(Result::of(&dir), expected, "{name}");
            resumed += 1;
        }
    }
    eprintln!("{kills} kills, {while_saving} of them inside a checkpoint, in {resumed} runs: nothing was lost");
    assert!(kills >= faults() && while_saving * 20 >= kills, "{kills} {while_saving}");
}

/// The measure of the test above: another seed is another run.
#[test]
fn r01_another_seed_is_seen_in_every_part_of_the_result() {
    let home = Home::new();
    let begun = Instant::now();
    let results = [1, 2].map(|seed| {
        let more = json!({"max_steps": 3, "seed": seed, "save_steps": 1, "val_size": 0.1});
        let mut worker = home.run(&format!("seed-{seed}"), home.config(more));
        assert!(worker.wait().success());
        Result::of(&worker.dir)
    });
    let [one, two] = &results;
    assert!(one.measured != two.measured && one.weights != two.weights && one.optimizer != two.optimizer);
    assert!(begun.elapsed() < Duration::from_secs(60));
}
