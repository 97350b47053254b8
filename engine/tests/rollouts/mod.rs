//! The stages that sample: what is kept when something fails, which prompts are learned from, what references and validations
//! are made of.

use super::*;
use api::Problem;
use engine::make::{Endpoint, Options, Said, Teacher};
use std::sync::atomic::AtomicBool;

/// Scores each text by a rule, and is away from some request on.
struct Scorer {
    rule: fn(&str) -> f64,
    requests: u64,
}

impl Teacher for Scorer {
    fn name(&self) -> String {
        "scorer".into()
    }

    fn answer(&mut self, _: &[Message], _: &Options, _: &AtomicBool) -> engine::Result<Said> {
        Err(engine::Error::Internal("it scores alone".into()))
    }

    fn scores(&mut self, texts: &[String], _: &AtomicBool) -> engine::Result<Vec<f64>> {
        if self.requests == 0 {
            return Err(Problem::new("teacher_unreachable", "It is away.", "无法连接。").field("base_url").into());
        }
        self.requests -= 1;
        Ok(texts.iter().map(|text| (self.rule)(text)).collect())
    }
}

/// Another number for each text.
fn any(text: &str) -> f64 {
    text.bytes().fold(7u64, |sum, byte| sum * 31 % 1009 + u64::from(byte)) as f64 / 100.0
}

/// As [`Home::run`], with a scorer that answers so many requests.
fn scored(home: &Home, name: &str, mut config: Value, rule: fn(&str) -> f64, requests: u64) -> Ended {
    (config["reward_funcs"], config["reward_url"]) = (json!("http"), json!("http://localhost:9/score"));
    let (dir, spec) = (home.path().join("runs").join(name), jobs::spec(JobKind::Train, config_of(config)));
    let connect = |_: &Endpoint| -> engine::Result<Box<dyn Teacher>> { Ok(Box::new(Scorer { rule, requests })) };
    jobs::heard(&dir, None, |sink, stop| {
        run::run_prepared(&spec, None, &dir, &places(home.path()), &connect, sink, stop)
    })
}

fn rollouts(ended: &Ended) -> Vec<Rollout> {
    let text = fs::read_to_string(ended.dir.join("rollouts.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_scorer_that_fails_costs_no_step_before() {
    let home = Home::new();
    for stage in ["grpo", "ppo"] {
        let mut config = home.config(stage, "lora");
        config["dynamic_sample"] = json!(false);
        let whole = scored(&home, &format!("whole-{stage}"), config.clone(), any, u64::MAX);
        assert_eq!(whole.outcome, Outcome::Succeeded, "{:?}", whole.events.last());
        assert!(whole.dir.join("checkpoint-4/rollout_state.json").exists());
        assert!(!whole.dir.join("rollout_state.json").exists(), "the result holds what only a resumed run needs");

        let name = format!("broken-{stage}");
        let first = scored(&home, &name, config.clone(), any, 2);
        let problem = first.problem();
        assert_eq!((problem.code.as_str(), problem.field.as_deref()), ("teacher_unreachable", Some("reward_url")));
        assert!(first.dir.join("checkpoint-2").exists() && !first.dir.join("checkpoint-3").exists());
        config["resume_from_checkpoint"] = json!(true);
        let second = scored(&home, &name, config, any, u64::MAX);
        assert_eq!(second.outcome, Outcome::Succeeded, "{:?}", second.events.last());
        let joined: Vec<u64> = first.losses().into_iter().chain(second.losses()).map(f64::to_bits).collect();
        assert_eq!(joined, whole.losses().into_iter().map(f64::to_bits).collect::<Vec<_>>(), "{stage}");
        assert!(second.weights() == whole.weights(), "{stage}: the weights differ");
    }
}

/// The first step moves nothing; the first update of the second one by so much that the next can't be made.
#[test]
fn a_step_that_fails_midway_is_taken_back() {
    let home = Home::new();
    let diverged = |name: &str, save_steps: u64| {
        let mut config = home.config("grpo", "full");
        let more = json!({
            "dynamic_sample": false, "learning_rate": 10.0, "lr_scheduler_type": "constant_with_warmup", "warmup_steps": 2,
            "save_steps": save_steps, "beta": 0.1, "num_iterations": 4, "temperature": 0.5, "ema_decay": 0.5
        });
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let ended = scored(&home, name, config, any, u64::MAX);
        let problem = ended.problem();
        assert!(problem.code == "diverged" && problem.message.contains("at step 2 "), "{problem:?}");
        ended.dir.join("checkpoint-1")
    };
    let (kept, written) = (diverged("kept", 0), diverged("written", 1));
    for file in ["model.safetensors", "optimizer.safetensors", "ema.safetensors", "rollout_state.json"] {
        assert!(fs::read(kept.join(file)).unwrap() == fs::read(written.join(file)).unwrap(), "{file} was changed");
    }
}

/// Prompts that teach nothing make room for others, and what is left of them counts nothing.
#[test]
fn dynamic_sampling_draws_other_prompts() {
    let home = Home::new();
    let mut config = home.config("grpo", "lora");
    config["max_resample_times"] = json!(20);
    let telling = |text: &str| if text.contains("What is 1") { any(text) } else { 0.0 };
    let ended = scored(&home, "telling", config.clone(), telling, u64::MAX);
    assert_eq!(ended.outcome, Outcome::Succeeded, "{:?}", ended.events.last());
    let all = rollouts(&ended);
    assert_eq!(all.len(), 8);
    for pair in all.chunks(2) {
        assert!(pair.iter().all(|rollout| rollout.prompt.contains("What is 1")), "{pair:?}");
        assert_ne!(pair[0].prompt, pair[1].prompt);
    }
    assert_eq!(ended.values("alike_share"), [0.0; 4]);

    let nothing = scored(&home, "nothing", config, |_| 1.0, u64::MAX);
    assert_eq!(nothing.outcome, Outcome::Succeeded, "{:?}", nothing.events.last());
    assert_eq!(nothing.values("alike_share"), [1.0; 4]);
    assert!(nothing.values("entropy").is_empty(), "the entropy of nothing is told");
    assert_eq!(nothing.losses(), [0.0; 4]);
}

/// `cutoff_len` is for prompts: what rewards compare with stays whole. A prompt needs room for an answer.
#[test]
fn prompts_are_held_to_the_context_and_references_stay_whole() {
    let home = Home::new();
    let row = |question: &str, answer: String| json!({"instruction": question, "input": "", "output": answer});
    let long = format!("{}#### 1005", "It is a number. ".repeat(60));
    let rows =
        [row("How many?", long.clone()), row("How much?", long.clone()), row(&"Which? ".repeat(300), "4".into())];
    fs::write(home.path().join("datasets/numbers.json"), Value::from(rows.to_vec()).to_string()).unwrap();
    let mut config = home.config("grpo", "lora");
    let more = json!({"reward_funcs": "numeric", "max_steps": 1, "beta": 0.0, "dynamic_sample": false});
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let problem = engine::prepare::plan(&config_of(config.clone()), &places(home.path())).err().unwrap().into_problem();
    assert_eq!((problem.code.as_str(), problem.field.as_deref()), ("no_room_for_answers", Some("cutoff_len")));
    assert!(problem.message.contains("256") && problem.hint.contains("255"), "{problem}");

    (config["cutoff_len"], config["max_new_tokens"]) = (json!(100), json!(250));
    let plan = engine::prepare::plan(&config_of(config.clone()), &places(home.path())).unwrap();
    let warned = |code: &str| plan.warnings.iter().any(|problem| problem.code == code);
    assert!(warned("little_room_for_answers") && warned("skipped") && plan.longest < 100, "{plan:?}");

    config["max_new_tokens"] = json!(5);
    let ended = home.run("whole-references", config);
    assert_eq!(ended.outcome, Outcome::Succeeded, "{:?}", ended.events.last());
    assert!(rollouts(&ended).iter().all(|rollout| rollout.reference.as_deref() == Some(long.as_str())));
    // Nothing is held against a reference.
    assert!(ended.values("kl").is_empty());
}

#[test]
fn validations_are_logged_and_made_with_the_average() {
    let home = Home::new();
    let rewards = |name: &str, ema_decay: f64| {
        let mut config = home.config("grpo", "lora");
        let more = json!({
            "dynamic_sample": false, "val_size": 4, "eval_steps": 2, "compute_type": "fp32", "ema_decay": ema_decay,
            "learning_rate": 0.1
        });
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let ended = scored(&home, name, config, any, u64::MAX);
        assert_eq!(ended.outcome, Outcome::Succeeded, "{:?}", ended.events.last());
        let found = ended.values("eval_reward");
        let read = |name: &str| fs::read_to_string(ended.dir.join(name)).unwrap();
        let results: Value = serde_json::from_str(&read("train_results.json")).unwrap();
        assert_eq!(results["eval_reward"], found[1]);
        assert_eq!(read("trainer_log.jsonl").matches("eval_reward").count(), 2);
        assert!(read("trainer_state.json").contains("eval_reward"));
        found
    };
    let (trained, average) = (rewards("trained", 0.0), rewards("average", 0.999_999));
    assert_eq!(trained.len(), 2);
    assert!(trained[0] != trained[1] && average[0] == average[1], "{trained:?} {average:?}");
}

/// What rewards need is looked at before a model is loaded, and named by the argument that asks for it.
#[test]
fn rewards_are_checked_with_the_plan() {
    let home = Home::new();
    for (more, code, field) in [
        (json!({"reward_funcs": "http", "reward_url": "foo"}), "bad_address", "reward_url"),
        (
            json!({"reward_funcs": "judge", "judge_model": "x", "judge_base_url": "foo"}),
            "bad_address",
            "judge_base_url",
        ),
        (json!({"reward_funcs": "judge", "judge_model": "nonexistent"}), "unknown_model", "judge_model"),
        (
            json!({"reward_funcs": "model", "reward_model": "x", "reward_model_type": "api"}),
            "bad_address",
            "reward_model",
        ),
        (json!({"reward_funcs": null, "reward_model": "nonexistent"}), "unknown_model", "reward_model"),
        (json!({"reward_funcs": "regex", "reward_model": "nonexistent"}), "reward_model_unused", "reward_model"),
        (json!({"packing": true}), "packing_prompts", "packing"),
    ] {
        let mut config = home.config("grpo", "lora");
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let problem = engine::prepare::plan(&config_of(config), &places(home.path())).err().unwrap().into_problem();
        assert_eq!((problem.code.as_str(), problem.field.as_deref()), (code, Some(field)), "{more}: {problem}");
        assert!(
            problem.zh.is_some() && !problem.hint.is_empty() && !problem.message.starts_with("base_url"),
            "{problem}"
        );
    }
    // A judge of this computer reads other tokens than the policy, and counts for the memory.
    let mut config = home.config("grpo", "lora");
    let alone = engine::prepare::plan(&config_of(config.clone()), &places(home.path())).unwrap();
    (config["reward_funcs"], config["judge_model"]) = (json!("judge"), json!(home.path().join("runs/base")));
    let plan = engine::prepare::plan(&config_of(config), &places(home.path())).unwrap();
    let bytes = |plan: &api::Plan| plan.memory.iter().map(|part| part.bytes).sum::<u64>();
    assert!(bytes(&plan) > bytes(&alone), "the judge takes no memory");
}
