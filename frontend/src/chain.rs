//! The chain of reinforcement learning from human feedback (Ouyang et al., 2022): SFT, reward model, PPO, out of one form.

use api::{RunConfig, params::SAVES_MODEL};

/// Datasets of the runs that come before PPO.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chain {
    /// Instructions for SFT.
    pub sft: String,
    /// Pairs for the reward model.
    pub rm: String,
}

/// Whether a run of this stage can be the last of a chain.
pub fn ends_with(stage: &str) -> bool {
    stage == "ppo"
}

impl Chain {
    /// The configurations of all three runs; `of` gives what the form says for a stage. `{run:N}` stands for the result of
    /// the N-th.
    pub fn jobs(&self, of: impl Fn(&str) -> RunConfig) -> Vec<RunConfig> {
        let mut jobs = self.checks(of);
        if let [sft, rm, ppo] = &mut jobs[..] {
            if is_whole(ppo) {
                rm.set("model_name_or_path", "{run:1}");
                ppo.set("model_name_or_path", "{run:1}");
            } else {
                // A new adapter stands on those of the form; an adapter that goes on holds what it was.
                let below = sft.text("adapter_name_or_path").filter(|_| sft.is_on("create_new_adapter"));
                let on = |run: &str| below.into_iter().chain([run]).collect::<Vec<_>>().join(",");
                let (first, second) = (on("{run:1}"), on("{run:2}"));
                for job in [&mut *rm, &mut *ppo] {
                    job.set("adapter_name_or_path", first.as_str());
                    job.remove("create_new_adapter");
                }
                ppo.set("reward_model", second);
            }
            if let Some(name) = ppo.text("run_name").map(str::to_owned) {
                sft.set("run_name", format!("{name}-sft"));
                rm.set("run_name", format!("{name}-rm"));
            }
        }
        jobs
    }

    /// As [`jobs`](Self::jobs), each from the model that the form names, so that it can be checked before the others have run.
    pub fn checks(&self, of: impl Fn(&str) -> RunConfig) -> Vec<RunConfig> {
        let (mut sft, mut rm, mut ppo) = (of("sft"), of("rm"), of("ppo"));
        for (config, dataset) in [(&mut sft, &self.sft), (&mut rm, &self.rm)] {
            config.set("dataset", (!dataset.is_empty()).then_some(dataset.as_str()));
            // Prompts may be mixed; each of these has one dataset.
            config.remove("interleave_probs");
            config.remove("mix_strategy");
        }
        let kind = if is_whole(&ppo) { "full" } else { "lora" };
        ppo.set("reward_model", "{run:2}");
        ppo.set("reward_model_type", kind);
        vec![sft, rm, ppo]
    }
}

/// Whether the result of a run is a model of its own, rather than an adapter.
fn is_whole(config: &RunConfig) -> bool {
    config.text("finetuning_type").is_some_and(|name| SAVES_MODEL.contains(&name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn form(tuning: &str, stage: &str) -> RunConfig {
        let mut config = RunConfig::default();
        for (key, value) in [
            ("model_name_or_path", json!("starter")),
            ("stage", json!(stage)),
            ("finetuning_type", json!(tuning)),
            ("dataset", json!(["prompts"])),
            ("run_name", json!("mine")),
        ] {
            config.set(key, value);
        }
        config
    }

    #[test]
    fn each_run_works_with_the_results_before_it() {
        let chain = Chain { sft: "identity".into(), rm: "pairs".into() };
        let jobs = chain.jobs(|stage| form("lora", stage));
        let of = |key: &str| jobs.iter().map(|job| job.text(key).unwrap_or("-").to_owned()).collect::<Vec<_>>();
        assert_eq!(of("adapter_name_or_path"), ["-", "{run:1}", "{run:1}"]);
        assert_eq!(of("reward_model"), ["-", "-", "{run:2}"]);
        assert_eq!(of("run_name"), ["mine-sft", "mine-rm", "mine"]);
        assert_eq!((of("dataset")[1].as_str(), jobs[2].get("dataset")), ("pairs", Some(&json!(["prompts"]))));
        let checks = chain.checks(|stage| form("lora", stage));
        assert_eq!((checks[1].text("adapter_name_or_path"), checks[2].text("reward_model")), (None, Some("{run:2}")));

        let stacked = chain.jobs(|stage| {
            let mut config = form("lora", stage);
            config.set("adapter_name_or_path", "mine");
            config.set("create_new_adapter", true);
            config
        });
        let of = |key: &str| stacked.iter().map(|job| job.text(key).unwrap_or("-").to_owned()).collect::<Vec<_>>();
        assert_eq!(of("adapter_name_or_path"), ["mine", "mine,{run:1}", "mine,{run:1}"]);
        assert_eq!(of("reward_model")[2], "mine,{run:2}");
        assert_eq!([0, 1, 2].map(|i| stacked[i].is_on("create_new_adapter")), [true, false, false]);

        let jobs = chain.jobs(|stage| form("full", stage));
        assert_eq!(jobs[2].text("model_name_or_path"), Some("{run:1}"));
        assert_eq!(jobs[2].text("reward_model_type"), Some("full"));
    }
}
