//! Asked to stop, by SIGTERM or Ctrl-C, a worker saves the step that it has made and ends.

use crate::common::{Chance, Home, Result, checkpoints, faults, last_word, measured};
use nix::sys::signal::Signal;
use serde_json::json;
use std::{path::Path, time::Duration};

fn has_begun(dir: &Path) -> bool {
    dir.join("events.jsonl").exists()
}

/// R11. The second signal comes in every third run.
#[test]
fn r11_a_stopped_run_is_saved_at_its_step_and_goes_on_to_the_same_bits() {
    let home = Home::new();
    let config = home.config(json!({"num_train_epochs": 2, "lora_dropout": 0.1, "save_steps": 0}));
    let mut unbroken = home.run("unbroken", config.clone());
    assert!(unbroken.wait().success());
    let (whole, expected) = (unbroken.begun.elapsed(), Result::of(&unbroken.dir));
    let mut chance = Chance::new();
    let (mut stopped, mut at_once) = (0, 0);
    for n in 0..(faults() / 5).max(6) {
        let mut worker = home.run(&format!("run-{n}"), config.clone());
        let dir = worker.dir.clone();
        worker.wait_until(has_begun);
        let pause = chance.of(whole);
        if worker.wait_for(pause).is_none() {
            worker.signal(if n % 2 == 0 { Signal::SIGTERM } else { Signal::SIGINT });
            let twice = n % 3 == 2;
            if twice {
                worker.wait_for(chance.of(Duration::from_millis(20)));
                if worker.child.try_wait().unwrap().is_none() {
                    worker.signal(Signal::SIGTERM);
                }
            }
            let most = Duration::from_secs(if twice { 1 } else { 10 });
            let status = worker.wait_for(most).unwrap_or_else(|| panic!("run {n} is there after {most:?}"));
            // The second signal ends it with 130, unless it had saved before.
            assert!(status.success() || twice && status.code() == Some(130), "run {n}: {status}");
            if status.success() {
                let (outcome, problem) = last_word(&dir);
                assert!(outcome == "stopped" || outcome == "succeeded", "run {n}: {outcome} {problem}");
                let last = measured(&dir).keys().map(|(step, _)| *step).max().unwrap_or(0);
                assert!(
                    last == 0 || checkpoints(&dir).last().is_some_and(|(step, _)| *step == last),
                    "run {n}: {last}"
                );
                stopped += usize::from(outcome == "stopped");
            } else {
                at_once += 1;
            }
            assert!(home.start(&dir, &[]).wait().success(), "run {n}");
        }
        assert_eq!(Result::of(&dir), expected, "run {n}");
    }
    eprintln!("{stopped} stopped and saved, {at_once} ended by a second signal");
    assert!(stopped > 0);
}
