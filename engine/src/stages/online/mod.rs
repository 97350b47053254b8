//! What the stages that learn from what the model says (`grpo`, `ppo`) share: a step takes prompts from the rows, samples
//! answers with the present weights, has them rewarded, and learns from them. What a step sampled is used in that step alone.

mod alarm;
mod metrics;
mod policy;
mod prompts;
mod record;
mod steps;

use super::{Setting, ppo::Moments};
pub use alarm::Alarms;
pub use metrics::metrics;
pub use policy::{Clip, Level, Part, clipped};
pub use prompts::{Prompt, room};
pub use steps::{Policy, steps};

use crate::{
    Error, Result,
    data::{Encoder, Samples},
    generate::batch::{Answer, Ask, answers},
    kernels::head::Scale,
    loaded::ends,
    model::{Batch, Grads, Model, Weights},
    random::mix,
    rewards::{Attempt, Rewards, Worth},
    train::{Average, Run},
};
use api::{
    Problem,
    catalog::{main_ui, ui},
    job::validation_name,
    params::{self, GenerateParams},
    rollout,
};
use candle_core::Tensor;
use record::Recorder;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::atomic::AtomicBool,
    time::{Duration, Instant},
};

/// How answers are sampled, in the names of generation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RolloutParams {
    /// The longest answer that is sampled.
    #[schemars(range(min = 1, max = 131072), extend("ui" = main_ui(["Longest answer", "最大回答长度"], "采样回答的最大长度。", ["Higher: room for long answers, slower steps", "调高：允许更长的回答，每步更慢"]), "unit" = "tokens"))]
    pub max_new_tokens: usize,
    /// How freely answers are sampled; probabilities in the loss are those at this temperature.
    #[schemars(range(min = 0.01, max = 10.0), extend("ui" = ui(["Temperature", "温度"], "采样的随机程度；损失中的概率按此温度计算。", ["Higher: more varied answers to compare; usual 0.7 to 1", "调高：可比较的回答更多样；常用 0.7 到 1"])))]
    pub temperature: f64,
    /// Only the likeliest tokens that together have this share are sampled from; 1: all.
    #[schemars(range(min = 0.01, max = 1.0), extend("ui" = ui(["Top p", "Top p"], "只从累计概率达到此值的最可能词元中采样；1 为全部。", ["Usually 1, so that all can be learned", "通常为 1，以便学到全部"])))]
    pub top_p: f64,
    /// Only so many likeliest tokens are sampled from; 0: all.
    #[schemars(extend("ui" = ui(["Top k", "Top k"], "只从最可能的若干词元中采样；0 为全部。", ["Usually 0", "通常为 0"])))]
    pub top_k: usize,
}

impl Default for RolloutParams {
    fn default() -> Self {
        Self { max_new_tokens: 256, temperature: 1.0, top_p: 1.0, top_k: 0 }
    }
}

impl RolloutParams {
    fn generation(&self) -> GenerateParams {
        GenerateParams {
            max_new_tokens: self.max_new_tokens,
            do_sample: true,
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: self.top_k,
            repetition_penalty: 1.0,
            ..GenerateParams::default()
        }
    }
}

/// One sampled answer with all that is known of it.
#[derive(Clone, Debug, Default)]
pub struct Episode {
    pub attempt: Attempt,
    /// Whether it came to its end.
    pub whole: bool,
    pub worth: Worth,
    /// For each of its tokens; empty where it isn't needed.
    pub old: Vec<f32>,
    pub reference: Vec<f32>,
    pub advantages: Vec<f32>,
    /// What learning from it found, means over its tokens.
    pub clipped: f64,
    pub kl: f64,
    pub entropy: f64,
}

impl Episode {
    /// Tokens of the answer.
    pub fn len(&self) -> usize {
        self.attempt.ids.len()
    }
}

/// What one step sampled.
#[derive(Debug, Default)]
pub struct Rollouts {
    /// The step that may learn from them.
    step: u64,
    /// Those of a prompt together. The first `learned` of them teach something; the others were drawn in vain.
    episodes: Vec<Episode>,
    learned: usize,
    /// Answers of each prompt.
    pub each: usize,
    pub took: Duration,
    /// Tokens sampled, also of answers that others took the place of.
    pub tokens: usize,
    /// Share of the prompts that others were drawn in place of, and of those whose rewards are still all alike.
    pub resampled: f64,
    pub alike: f64,
}

impl Rollouts {
    /// The answers that teach something, for the updates of `step`. Those of any other step were sampled by weights that are
    /// gone.
    pub fn of(&mut self, step: u64) -> Result<&mut [Episode]> {
        match self.step == step {
            true => Ok(&mut self.episodes[..self.learned]),
            false => Err(Error::Internal(format!("rollouts of step {} are stale at step {step}", self.step))),
        }
    }
}

/// What a stage that samples has at hand.
pub struct Online {
    pub params: RolloutParams,
    pub rewards: Rewards,
    encoder: Encoder,
    ends: Vec<u32>,
    recorder: Recorder,
    /// Answers that go through the model together when it learns.
    pub together: usize,
    seed: u64,
}

/// Loop state that a checkpoint keeps besides weights and optimizer.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct State {
    /// Updates of the optimizer.
    pub updates: u64,
    /// The coefficient of an adaptive KL penalty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kl_coef: Option<f64>,
    /// Running mean, variance and count of scores, where they are normalised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scores: Option<Moments>,
    #[serde(default)]
    pub alarms: Alarms,
}

const STATE: &str = "rollout_state.json";

impl State {
    pub fn save(&self, dir: &Path) -> Result<()> {
        let text = serde_json::to_vec(self).map_err(|e| Error::Internal(e.to_string()))?;
        crate::files::atomic::write_atomically(&dir.join(STATE), &text)
    }

    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(STATE);
        let text = std::fs::read(&path).map_err(Error::io(&path))?;
        serde_json::from_slice(&text).map_err(|e| Error::Internal(format!("{}: {e}", path.display())))
    }
}

impl Online {
    pub fn begin(setting: &Setting, mut rewards: Rewards) -> Result<Self> {
        rewards.begin(setting)?;
        let prepared = setting.prepared;
        Ok(Self {
            params: params::read(setting.config)?,
            rewards,
            encoder: prepared.encoder.clone(),
            ends: ends(&prepared.files, &prepared.encoder),
            recorder: Recorder::default(),
            together: prepared.train.per_device_train_batch_size,
            seed: prepared.train.seed,
        })
    }

    /// Takes the prompts of the step, samples `each` answers to all of them and has these rewarded. With `dynamic`, prompts
    /// whose answers are all worth the same teach nothing: others are drawn in their place, so many times at most, and what
    /// is still alike then is not learned from (DAPO). Nothing if the run is to stop.
    pub fn sample(&mut self, run: &Run, each: usize, dynamic: Option<u64>) -> Result<Option<Rollouts>> {
        let begun = Instant::now();
        let seed = self.seed;
        let rows: Vec<u32> = run.sampler.step(run.step).into_iter().flatten().collect();
        let mut asked: BTreeSet<u32> = rows.iter().copied().collect();
        let draw = |attempt| Seed { seed, step: run.step, attempt, prompt: 0 };
        let first = self.answered(run, &run.samples, rows, &draw(0), each)?;
        let Some((mut groups, mut tokens)) = first else { return Ok(None) };
        let mut drawn = 0;
        for attempt in 1..=dynamic.unwrap_or(0) {
            let open: Vec<usize> = (0..groups.len()).filter(|i| alike(&groups[*i])).collect();
            let rows = prompts::fresh(run, &asked, open.len(), attempt);
            if rows.is_empty() {
                break;
            }
            drawn = drawn.max(rows.len());
            asked.extend(&rows);
            let found = self.answered(run, &run.samples, rows, &draw(attempt), each)?;
            let Some((found, more)) = found else { return Ok(None) };
            tokens += more;
            let telling = found.into_iter().filter(|group| !alike(group));
            open.into_iter().zip(telling).for_each(|(place, group)| groups[place] = group);
        }
        let share = |n: usize| n as f64 / groups.len().max(1) as f64;
        let (resampled, alike_groups) = (share(drawn), groups.iter().filter(|group| alike(group)).count());
        let alike_share = share(alike_groups);
        let mut learned = groups.iter().map(Vec::len).sum();
        if dynamic.is_some() {
            groups.sort_by_key(|group| alike(group));
            learned = groups.iter().filter(|group| !alike(group)).map(Vec::len).sum();
        }
        Ok(Some(Rollouts {
            step: run.step,
            each,
            took: begun.elapsed(),
            tokens,
            resampled,
            alike: alike_share,
            episodes: groups.into_iter().flatten().collect(),
            learned,
        }))
    }

    /// The rewarded answers to the prompts of some rows, and how many tokens these are; nothing if the run is to stop.
    fn answered(
        &mut self,
        run: &Run,
        samples: &Samples,
        rows: impl IntoIterator<Item = u32>,
        draw: &Seed,
        each: usize,
    ) -> Result<Option<(Groups, usize)>> {
        let prompts = prompts::of(samples, rows, &self.encoder)?;
        let seed = |prompt: u64| Seed { prompt, ..*draw }.each(each);
        let asks = prompts.iter().zip(0..).map(|(prompt, i)| Ask { prompt: prompt.ids.clone(), seeds: seed(i) });
        let asks: Vec<Ask> = asks.collect();
        let Some(said) = answers(run.model.decoder()?, &asks, &self.ends, &self.params.generation(), run.stop)? else {
            return Ok(None);
        };
        let tokens = said.iter().flatten().map(|answer| answer.ids.len()).sum();
        Ok(self.judged(&prompts, said, run.stop)?.map(|groups| (groups, tokens)))
    }

    /// Where a validation is due: the mean reward of one answer to each row that was held back.
    pub fn evaluate(&mut self, run: &mut Run) -> Result<()> {
        if !run.evaluates() {
            return Ok(());
        }
        // The same random numbers each time, so that the means can be compared.
        let draw = Seed { seed: self.seed, step: u64::MAX, attempt: 0, prompt: 0 };
        let rows = 0..run.eval.len() as u32;
        let answered = Average::instead(run.average.as_ref(), || self.answered(run, &run.eval, rows, &draw, 1))?;
        let Some((groups, _)) = answered else { return Ok(()) };
        let sum: f64 = groups.iter().flatten().map(|episode| episode.worth.total).sum();
        run.tell_validation(BTreeMap::from([(validation_name("reward"), sum / groups.len().max(1) as f64)]))
    }

    /// All answers with their rewards, those of a prompt together; nothing if the run is to stop.
    fn judged(&mut self, prompts: &[Prompt], said: Vec<Vec<Answer>>, stop: &AtomicBool) -> Result<Option<Groups>> {
        let mut attempts = Vec::new();
        for (prompt, answer) in
            prompts.iter().zip(&said).flat_map(|(prompt, said)| said.iter().map(move |a| (prompt, a)))
        {
            attempts.push(Attempt {
                prompt: prompt.text.clone(),
                text: prompts::decode(&self.encoder, &answer.ids, true)?,
                reference: prompt.reference.clone(),
                prompt_ids: prompt.ids.clone(),
                ids: answer.ids.clone(),
            });
        }
        let worth = self.rewards.score(&attempts, stop)?;
        if stop.load(std::sync::atomic::Ordering::Relaxed) {
            return Ok(None);
        }
        let mut all = attempts.into_iter().zip(worth);
        let episode = |(answer, (attempt, worth)): (Answer, (Attempt, Worth))| Episode {
            attempt,
            whole: answer.whole,
            worth,
            ..Episode::default()
        };
        let group = |said: Vec<Answer>| said.into_iter().zip(all.by_ref()).map(episode).collect();
        Ok(Some(said.into_iter().map(group).collect()))
    }

    /// Writes down what the step sampled and learned, and gives what is told of it. To be called after `run.step` was raised.
    pub fn tell(
        &mut self,
        run: &mut Run,
        rollouts: &Rollouts,
        begun: Instant,
        alarms: &mut Alarms,
    ) -> Result<BTreeMap<String, f64>> {
        let episodes = &rollouts.episodes;
        let learned = &episodes[..rollouts.learned];
        self.recorder.write(run.dir, run.step, &groups(run.step, rollouts))?;
        let seconds = begun.elapsed().as_secs_f64().max(1e-9);
        let took = rollouts.took.as_secs_f64().max(1e-9);
        let mean = |of: &dyn Fn(&Episode) -> f64| episodes.iter().map(of).sum::<f64>() / episodes.len().max(1) as f64;
        // By tokens, as the loss has it, of what was learned from.
        let tokens = learned.iter().map(Episode::len).sum::<usize>() as f64;
        let by_token = |of: &dyn Fn(&Episode) -> f64| {
            learned.iter().map(|episode| of(episode) * episode.len() as f64).sum::<f64>() / tokens
        };
        let spread = episodes
            .chunks(rollouts.each.max(1))
            .map(|group| deviation(&group.iter().map(|episode| episode.worth.total).collect::<Vec<_>>()));
        let spread: Vec<f64> = spread.collect();
        let mut values: BTreeMap<String, f64> = [
            ("reward", mean(&|episode| episode.worth.total)),
            ("completion_length", mean(&|episode| episode.len() as f64)),
            ("truncated_share", mean(&|episode| f64::from(u8::from(!episode.whole)))),
            ("generation_share", took / seconds),
            ("rollout_tokens_per_s", rollouts.tokens as f64 / took),
            ("tokens_per_s", tokens / seconds),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        if rollouts.each > 1 {
            values.insert("reward_std".into(), spread.iter().sum::<f64>() / spread.len().max(1) as f64);
            values.insert("alike_share".into(), rollouts.alike);
            values.insert("resampled_share".into(), rollouts.resampled);
        }
        let names: std::collections::BTreeSet<&String> = episodes.iter().flat_map(|e| e.worth.parts.keys()).collect();
        for name in names {
            let parts: Vec<f64> = episodes.iter().filter_map(|e| e.worth.parts.get(name)).copied().collect();
            values.insert(format!("reward_{name}"), parts.iter().sum::<f64>() / parts.len() as f64);
        }
        if !learned.is_empty() {
            let entropy = by_token(&|episode| episode.entropy);
            let kl = learned.iter().any(|e| !e.reference.is_empty()).then(|| by_token(&|episode| episode.kl));
            values.extend(kl.map(|kl| ("kl".to_owned(), kl)));
            values.insert("entropy".into(), entropy);
            values.insert("clip_ratio".into(), by_token(&|episode| episode.clipped));
            for problem in alarms.hear(entropy, kl) {
                (run.sink)(api::Event::Note { problem })?;
            }
        }
        Ok(values)
    }
}

/// Answers, those of each prompt together.
type Groups = Vec<Vec<Episode>>;

/// As `rollouts.jsonl` has them.
fn groups(step: u64, rollouts: &Rollouts) -> Vec<rollout::Rollout> {
    let sample = |episode: &Episode| rollout::Sample {
        text: episode.attempt.text.clone(),
        tokens: episode.len() as u64,
        whole: episode.whole,
        rewards: episode.worth.parts.clone(),
        reward: episode.worth.total,
        advantage: episode.advantages.iter().map(|a| f64::from(*a)).sum::<f64>() / episode.len().max(1) as f64,
        clipped: episode.clipped,
        kl: episode.kl,
        entropy: episode.entropy,
    };
    let group = |episodes: &[Episode]| rollout::Rollout {
        step,
        prompt: episodes.first().map(|e| e.attempt.prompt.clone()).unwrap_or_default(),
        reference: episodes.first().and_then(|e| e.attempt.reference.clone()),
        samples: episodes.iter().map(sample).collect(),
    };
    rollouts.episodes.chunks(rollouts.each.max(1)).map(group).collect()
}

/// Prompts with their answers as one batch, the answers' tokens to be predicted.
pub fn batch(episodes: &[Episode]) -> Batch {
    let mut batch = Batch::default();
    for Episode { attempt, .. } in episodes {
        let first = batch.ids.len() + attempt.prompt_ids.len() - 1;
        batch.rows.extend((first..first + attempt.ids.len()).map(|row| row as u32));
        batch.targets.extend(&attempt.ids);
        batch.ids.extend(attempt.prompt_ids.iter().chain(&attempt.ids));
        batch.lengths.push(attempt.prompt_ids.len() + attempt.ids.len());
    }
    batch
}

/// For some answers at a time, what `of` gives for each token of a batch; `put` takes that of each answer.
pub fn each_token(
    episodes: &mut [Episode],
    together: usize,
    mut of: impl FnMut(&Batch) -> Result<Vec<f32>>,
    mut put: impl FnMut(&mut Episode, Vec<f32>),
) -> Result<()> {
    for some in episodes.chunks_mut(together.max(1)) {
        let all = of(&batch(some))?;
        let mut rest = all.as_slice();
        for episode in some {
            let (own, others) = rest.split_at(episode.len());
            rest = others;
            put(episode, own.to_vec());
        }
    }
    Ok(())
}

/// The probabilities of the tokens under the weights that sampled them.
pub fn remember(model: &Model, episodes: &mut [Episode], together: usize, temperature: f32) -> Result<()> {
    let of = |batch: &Batch| Ok(model.outlooks(batch, Weights::Tuned, temperature)?.log_probs);
    each_token(episodes, together, of, |episode, found| episode.old = found)
}

/// The clipped loss of some answers, whose tokens count as `weights` says for each answer, and the gradient of the normalised
/// hidden state h at their tokens; what was found of each answer is noted with it.
pub fn policy_gradient(
    model: &Model,
    h: &Tensor,
    (episodes, weights): (&mut [Episode], &[f64]),
    clip: &Clip,
    temperature: f32,
    grads: &mut Grads,
) -> Result<(f64, Option<Tensor>)> {
    let targets: Vec<u32> = episodes.iter().flat_map(|episode| &episode.attempt.ids).copied().collect();
    let outlook = model.outlook(h, &targets, temperature)?;
    let (mut loss, mut scales, mut start) = (0.0, Vec::with_capacity(targets.len()), 0);
    for (episode, weight) in episodes.iter_mut().zip(weights) {
        let own = start..start + episode.len();
        start = own.end;
        let Episode { old, reference, advantages, .. } = &*episode;
        let log_probs = &outlook.log_probs[own.clone()];
        let found = clipped(&Part { log_probs, old, reference, advantages, weight: *weight }, clip);
        loss += found.loss;
        // The head's loss is -log p.
        scales.extend(found.gradient.iter().map(|d| -d));
        (episode.clipped, episode.kl) = (found.clipped, found.kl);
        let entropies = &outlook.entropies[own];
        episode.entropy = entropies.iter().map(|e| f64::from(*e)).sum::<f64>() / entropies.len().max(1) as f64;
    }
    let found = model.head_loss_backward_at(h, &targets, Scale::Rows(&scales), temperature, grads)?;
    Ok((loss, found.hidden))
}

/// The clipped loss of some answers; adds its gradients to `grads`.
pub fn learn(
    model: &Model,
    episodes: &mut [Episode],
    weights: &[f64],
    clip: &Clip,
    temperature: f32,
    random: u64,
    grads: &mut Grads,
) -> Result<f64> {
    let all = batch(episodes);
    model.learn_through(&all, random, grads, |h, grads| {
        policy_gradient(model, h, (episodes, weights), clip, temperature, grads)
    })
}

/// Where the random numbers of a prompt's answers begin: a function of place and attempt, so that a resumed run samples what
/// an unbroken one would have.
struct Seed {
    seed: u64,
    step: u64,
    attempt: u64,
    prompt: u64,
}

impl Seed {
    fn each(&self, answers: usize) -> Vec<u64> {
        let prompt = [self.step, self.attempt, self.prompt].iter().fold(mix(self.seed), |key, n| mix(key ^ n));
        (0..answers as u64).map(|answer| mix(prompt ^ mix(answer))).collect()
    }
}

/// Whether answers are all worth the same, so that none is better than another.
fn alike(episodes: &[Episode]) -> bool {
    episodes.windows(2).all(|pair| pair[0].worth.total == pair[1].worth.total)
}

/// The deviation of a sample, with Bessel's correction, as torch has it; 0 of fewer than two.
pub fn deviation(values: &[f64]) -> f64 {
    let n = values.len() as f64;
    if values.len() < 2 {
        return 0.0;
    }
    let mean = values.iter().sum::<f64>() / n;
    (values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / (n - 1.0)).sqrt()
}

/// The problem of settings that belong together and don't.
pub fn mismatch(field: &str, message: [String; 2], hint: [String; 2]) -> Problem {
    let ([en, zh], [hint_en, hint_zh]) = (message, hint);
    Problem::new("bad_value", en, zh).hint(hint_en, hint_zh).field(field)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn stale_rollouts_are_refused() {
        let mut rollouts = Rollouts { step: 3, episodes: vec![Episode::default()], learned: 1, ..Rollouts::default() };
        assert_eq!(rollouts.of(3).unwrap().len(), 1);
        assert!(rollouts.of(4).unwrap_err().to_string().contains("stale"));
        assert!(rollouts.of(2).is_err());
    }

    #[test]
    fn answers_are_the_targets_of_a_batch() {
        let episode = |prompt: &[u32], ids: &[u32]| Episode {
            attempt: Attempt { prompt_ids: prompt.into(), ids: ids.into(), ..Attempt::default() },
            ..Episode::default()
        };
        let found = batch(&[episode(&[1, 2], &[3, 4]), episode(&[5], &[6])]);
        let trained = [vec![false, false, true, true], vec![false, true]];
        let expected = Batch::new([(&[1, 2, 3, 4][..], trained[0].as_slice()), (&[5, 6], &trained[1])]);
        assert_eq!(found, expected);
    }

    #[test]
    fn every_answer_has_random_numbers_of_its_own() {
        let mut all: Vec<u64> = Vec::new();
        for step in 0..5 {
            for attempt in 0..3 {
                (0..5).for_each(|prompt| all.extend(Seed { seed: 1, step, attempt, prompt }.each(4)));
            }
        }
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
    }
}
