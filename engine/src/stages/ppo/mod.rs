//! Proximal policy optimization (Schulman et al., 2017; Ouyang et al., 2022): a policy with a value head, scored by a reward
//! model and held near its reference. Names and defaults are LLaMA-Factory's, of the rest TRL's.

mod gae;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

pub use gae::Moments;

use super::{
    Found, Objective, Sampled, Setting, Stage,
    online::{self, Clip, Episode, Level, Online, Policy, RolloutParams, Rollouts, State, each_token, policy_gradient},
    reference::{Reference, ReferenceParams},
    value_head::ValueHead,
};
use crate::{
    Error, Result,
    data::Needs,
    entry::{Entry, joined},
    kernels,
    model::{Batch, Grads, Network, Store, Weights},
    random::{Random, mix},
    rewards::{self, Rewards},
    train::{Run, Update},
};
use api::{
    Card, Outcome, Problem, Problems, RunConfig, Text,
    catalog::{MetricCard, main_ui, ui},
    params::{self, ModelParams, TrainParams},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{path::Path, sync::atomic::Ordering, time::Instant};

/// Stream of the random numbers that order a step's answers.
const STREAM: u64 = 0x990;

pub struct Ppo;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PpoParams {
    /// Batches of prompts that are answered in a step before it learns.
    #[schemars(range(min = 1, max = 1024), extend("ui" = ui(["Batches per step", "缓冲批数"], "每步在学习之前回答多少批提示。", ["Higher: steadier steps, slower", "调高：每步更稳，更慢"])))]
    pub ppo_buffer_size: usize,
    /// How often a step learns from its answers.
    #[schemars(range(min = 1, max = 64), extend("ui" = main_ui(["Epochs per step", "每步轮数"], "每步对其回答学习多少轮。", ["Higher: uses answers more, less steady; usual 1 to 4", "调高：利用更充分，但不够稳定；常用 1 到 4"])))]
    pub ppo_epochs: usize,
    /// Bring scores to mean 0 and deviation 1, over all steps so far.
    #[schemars(extend("ui" = ui(["Normalise scores", "分数归一化"], "把分数按至今所有步归一为均值 0、标准差 1。", ["For reward models with large scores", "适合分数较大的奖励模型"])))]
    pub ppo_score_norm: bool,
    /// Bring the rewards of a step's tokens to deviation 1.
    #[schemars(extend("ui" = ui(["Whiten rewards", "奖励白化"], "把一步中各词元的奖励缩放到标准差 1。", ["Usually off", "通常关闭"])))]
    pub ppo_whiten_rewards: bool,
    /// The distance (KL, nats an answer) that the penalty is adapted to; 0: the penalty stays as it is.
    #[schemars(range(min = 0.0, max = 1000.0), extend("ui" = ui(["KL target", "KL 目标"], "自适应惩罚所追求的每个回答的 KL（奈特）；0 表示惩罚系数固定。", ["Higher: may go further from the start", "调高：允许离起点更远"])))]
    pub ppo_target: f64,
    /// What the distance from the reference costs at first.
    #[schemars(range(min = 0.0, max = 100.0), extend("ui" = main_ui(["KL penalty", "KL 惩罚"], "偏离参考模型的初始代价。", ["Higher: stays closer to the start", "调高：更接近起点"])))]
    pub init_kl_coef: f64,
    /// Answers over which an adaptive penalty changes by a fifth at most.
    #[schemars(range(min = 1.0, max = 1e9), extend("ui" = ui(["KL horizon", "KL 时域"], "自适应惩罚在多少个回答内至多变化五分之一。", ["Lower: adapts faster", "调低：调整更快"])))]
    pub horizon: f64,
    /// What a reward counts one token earlier.
    #[schemars(range(min = 0.0, max = 1.0), extend("ui" = ui(["Discount", "折扣"], "奖励每提前一个词元的折扣。", ["Usually 1", "通常为 1"])))]
    pub gamma: f64,
    /// How far ahead advantages look: 0 to the next value, 1 to the end.
    #[schemars(range(min = 0.0, max = 1.0), extend("ui" = ui(["Lambda (GAE)", "Lambda（GAE）"], "优势估计向前看多远：0 只看下一个价值，1 看到结尾。", ["Lower: steadier, more biased", "调低：更稳，偏差更大"])))]
    pub lam: f64,
    /// How far the ratio of new to old probability may leave 1 and still count.
    #[schemars(range(min = 0.0, max = 1.0), extend("ui" = ui(["Clip range", "裁剪范围"], "新旧概率之比可偏离 1 多少而仍计入。", ["Lower: smaller changes in a step", "调低：每步变化更小"])))]
    pub cliprange: f64,
    /// How far a value may move in a step and still count.
    #[schemars(range(min = 0.0, max = 1000.0), extend("ui" = ui(["Clip range of values", "价值裁剪范围"], "价值在一步中可移动多少而仍计入。", ["Lower: values follow slower", "调低：价值跟随更慢"])))]
    pub cliprange_value: f64,
    /// What the loss of the values counts beside that of the policy.
    #[schemars(range(min = 0.0, max = 100.0), extend("ui" = ui(["Weight of the value loss", "价值损失权重"], "价值损失相对策略损失的权重。", ["", ""])))]
    pub vf_coef: f64,
}

impl Default for PpoParams {
    fn default() -> Self {
        Self {
            ppo_buffer_size: 1,
            ppo_epochs: 4,
            ppo_score_norm: false,
            ppo_whiten_rewards: false,
            ppo_target: 6.0,
            init_kl_coef: 0.2,
            horizon: 10_000.0,
            gamma: 1.0,
            lam: 0.95,
            cliprange: 0.2,
            cliprange_value: 0.2,
            vf_coef: 0.1,
        }
    }
}

impl Entry for Ppo {
    fn card(&self) -> Card {
        let own =
            [params::schema::<PpoParams>(), params::schema::<RolloutParams>(), params::schema::<ReferenceParams>()];
        Card {
            name: "ppo".into(),
            title: Text::new("Reward model (PPO)", "奖励模型（PPO）"),
            help: Text::new(
                "Answer by itself and learn from the scores of a reward model, with a value head (PPO).",
                "让模型自己作答，借助价值头从奖励模型的分数中学习（PPO）。",
            ),
            schema: joined(own.into_iter().chain(rewards::schemas())),
        }
    }
}

impl Stage for Ppo {
    fn needs(&self) -> Needs {
        Needs::Prompts
    }

    fn drops_out(&self) -> bool {
        false
    }

    fn sampled(&self, config: &RunConfig, train: &TrainParams) -> Result<Option<Sampled>, Problems> {
        let params: PpoParams = params::read(config)?;
        let batch = train.per_device_train_batch_size * train.gradient_accumulation_steps;
        let tokens = params::read::<RolloutParams>(config)?.max_new_tokens;
        let (prompts, updates) = (batch * params.ppo_buffer_size, params.ppo_buffer_size * params.ppo_epochs);
        Ok(Some(Sampled { prompts, answers: 1, tokens, times: params.ppo_epochs, updates }))
    }

    fn start(&self, config: &RunConfig) -> Result<Box<dyn Objective>, Problems> {
        let params: PpoParams = params::read(config)?;
        params::read::<RolloutParams>(config)?;
        if rewards::asked(config)?.is_empty() {
            return Err(no_reward_model().into());
        }
        let rewards = Some(Rewards::of(config)?);
        Ok(Box::new(Learner { params, rewards, running: None, head: None, state: State::default() }))
    }

    fn others(&self, config: &RunConfig) -> Result<Vec<(&'static str, ModelParams)>, Problems> {
        let mut others = rewards::others(config)?;
        others.extend(params::read::<ReferenceParams>(config)?.others(config));
        Ok(others)
    }

    fn has_reference(&self, _: &RunConfig) -> bool {
        true
    }

    fn metrics(&self) -> Vec<MetricCard> {
        let card = MetricCard::new;
        let mut all = online::metrics();
        all.extend([
            card(
                "policy_loss",
                ["Policy loss", "策略损失"],
                ["The clipped loss of the answers; it swings around 0.", "回答的裁剪损失，在 0 附近波动。"],
            ),
            card(
                "value_loss",
                ["Value loss", "价值损失"],
                ["How far the value head's predictions are off, squared.", "价值头预测误差的平方。"],
            )
            .lower(),
            card(
                "explained_variance",
                ["Explained variance", "解释方差"],
                [
                    "How well the value head predicts returns: 1 fully, 0 not at all.",
                    "价值头对回报的预测能力：1 为完全，0 为毫无。",
                ],
            )
            .higher(),
            card(
                "kl_coef",
                ["KL coefficient", "KL 系数"],
                ["What a nat of distance from the reference costs in reward.", "偏离参考模型每奈特所扣除的奖励。"],
            ),
        ]);
        all
    }
}

struct Learner {
    params: PpoParams,
    /// Until the run begins.
    rewards: Option<Rewards>,
    running: Option<Running>,
    head: Option<ValueHead>,
    state: State,
}

struct Running {
    online: Online,
    reference: Reference,
    /// Answers of an update.
    update: usize,
    seed: u64,
}

/// What a step's learning found: means over its updates.
#[derive(Default)]
struct Learned {
    policy_loss: f64,
    value_loss: f64,
    norm: f64,
    rate: f64,
    explained: f64,
}

impl Objective for Learner {
    fn begin(&mut self, setting: &Setting, store: &mut Store) -> Result<()> {
        let rewards = self.rewards.take().ok_or_else(|| Error::Internal("a run begins once".into()))?;
        let train = &setting.prepared.train;
        self.head = Some(ValueHead::trained(setting, store)?);
        self.running = Some(Running {
            online: Online::begin(setting, rewards)?,
            reference: Reference::of(setting)?,
            update: train.per_device_train_batch_size * train.gradient_accumulation_steps,
            seed: train.seed,
        });
        Ok(())
    }

    fn save(&self, dir: &Path) -> Result<()> {
        self.head()?.save(dir)
    }

    fn save_state(&self, dir: &Path) -> Result<()> {
        self.state.save(dir)
    }

    fn restore(&mut self, checkpoint: &Path) -> Result<()> {
        self.head()?.restore(checkpoint)
    }

    fn restore_state(&mut self, checkpoint: &Path) -> Result<()> {
        self.state = State::read(checkpoint)?;
        Ok(())
    }

    fn updates(&self, _: u64) -> u64 {
        self.state.updates
    }

    fn loss(&mut self, _: &dyn Network, _: &Batch, _: f32, _: u64, _: &mut Grads) -> Result<Found> {
        Err(Error::Internal("answers are scored, not rows".into()))
    }

    fn train(&mut self, run: &mut Run) -> Result<Outcome> {
        online::steps(self, run)
    }
}

impl Policy for Learner {
    fn state(&mut self) -> &mut State {
        &mut self.state
    }

    fn updates_often(&self) -> bool {
        self.params.ppo_epochs * self.params.ppo_buffer_size > 1
    }

    fn step(&mut self, run: &mut Run) -> Result<bool> {
        let mut running = self.running.take().ok_or_else(|| Error::Internal("the run has not begun".into()))?;
        let made = self.make(run, &mut running);
        self.running = Some(running);
        made
    }
}

impl Learner {
    fn make(&mut self, run: &mut Run, running: &mut Running) -> Result<bool> {
        let begun = Instant::now();
        let sampled = match run.stop.load(Ordering::Relaxed) {
            true => None,
            false => running.online.sample(run, 1, None)?,
        };
        let Some(mut rollouts) = sampled else { return Ok(false) };
        let coef = self.coef();
        let learned = self.learn(run, running, &mut rollouts)?;
        run.step += 1;
        let mut values = running.online.tell(run, &rollouts, begun, &mut self.state.alarms)?;
        let loss = learned.policy_loss + self.params.vf_coef * learned.value_loss;
        let more = [
            ("loss", loss),
            ("policy_loss", learned.policy_loss),
            ("value_loss", learned.value_loss),
            ("explained_variance", learned.explained),
            ("kl_coef", coef),
            ("learning_rate", learned.rate),
            ("grad_norm", learned.norm),
        ];
        values.extend(more.map(|(name, value)| (name.to_owned(), value)));
        run.tell(values)?;
        running.online.evaluate(run)?;
        run.save_if_due(self)?;
        Ok(true)
    }

    fn head(&self) -> Result<&ValueHead> {
        self.head.as_ref().ok_or_else(|| Error::Internal("the run has not begun".into()))
    }

    /// What the distance from the reference costs now.
    fn coef(&self) -> f64 {
        self.state.kl_coef.unwrap_or(self.params.init_kl_coef)
    }

    /// Learns from what the step sampled.
    fn learn(&mut self, run: &mut Run, running: &Running, rollouts: &mut Rollouts) -> Result<Learned> {
        let values = self.judge(run, running, rollouts.of(run.step)?)?;
        let (mut learned, mut made) = (Learned::default(), 0.0);
        for epoch in 0..self.params.ppo_epochs as u64 {
            // With what this step's weights sampled, and nothing older.
            let episodes = rollouts.of(run.step)?;
            let mut order: Vec<usize> = (0..episodes.len()).collect();
            Random::new(mix(running.seed ^ mix(run.step)), STREAM + epoch).shuffle(&mut order);
            for (update, chosen) in order.chunks(running.update).enumerate() {
                let place = mix(run.step ^ mix((epoch << 32) | update as u64));
                let (policy, value, rate, norm) = self.update(run, running, episodes, chosen, &values, place)?;
                learned.policy_loss += policy;
                learned.value_loss += value;
                learned.norm += norm;
                learned.rate = rate;
                made += 1.0;
            }
        }
        for mean in [&mut learned.policy_loss, &mut learned.value_loss, &mut learned.norm] {
            *mean /= f64::max(made, 1.0);
        }
        let pairs = values.iter().flat_map(|(values, returns)| values.iter().copied().zip(returns.iter().copied()));
        learned.explained = gae::explained(pairs);
        Ok(learned)
    }

    /// Puts what is known of each answer in place: probabilities, advantages; gives its values and returns.
    fn judge(&mut self, run: &Run, running: &Running, episodes: &mut [Episode]) -> Result<Vec<(Vec<f32>, Vec<f32>)>> {
        let (params, temperature) = (&self.params, running.online.params.temperature as f32);
        let together = running.online.together;
        let (mut all_values, model) = (Vec::with_capacity(episodes.len()), run.model.decoder()?);
        for some in episodes.chunks_mut(together) {
            let batch = online::batch(some);
            let h = model.states(&batch, Weights::Tuned)?;
            let (old, values) = (model.outlook(&h, &batch.targets, temperature)?, self.head()?.forward(&h)?);
            for (episode, own) in some.iter_mut().zip(batch.target_ranges()) {
                episode.old = old.log_probs[own.clone()].to_vec();
                all_values.push(values[own].to_vec());
            }
        }
        let of = |batch: &Batch| running.reference.log_probs_at(model, batch, temperature);
        each_token(episodes, together, of, |episode, found| episode.reference = found)?;

        let mut scores: Vec<f64> = episodes.iter().map(|episode| episode.worth.total).collect();
        if params.ppo_score_norm {
            let moments = self.state.scores.get_or_insert_default();
            moments.hear(&scores);
            scores.iter_mut().for_each(|score| *score = moments.normalise(*score));
        }
        let mut rewards = gae::rewards(episodes, &scores, self.coef());
        if params.ppo_whiten_rewards {
            gae::whiten(&mut rewards, false);
        }
        let found = rewards.iter().zip(&all_values);
        let found = found.map(|(rewards, values)| gae::advantages(rewards, values, params.gamma, params.lam));
        let (mut advantages, returns): (gae::ByToken, Vec<Vec<f32>>) = found.unzip();
        gae::whiten(&mut advantages, true);
        for (episode, advantages) in episodes.iter_mut().zip(advantages) {
            episode.advantages = advantages.into_iter().map(|advantage| advantage as f32).collect();
        }
        if params.ppo_target > 0.0 {
            let apart = episodes.iter().flat_map(|e| e.old.iter().zip(&e.reference));
            let kl =
                apart.map(|(old, reference)| f64::from(old - reference)).sum::<f64>() / episodes.len().max(1) as f64;
            self.state.kl_coef = Some(gae::adapted(self.coef(), kl, params.ppo_target, episodes.len(), params.horizon));
        }
        Ok(all_values.into_iter().zip(returns).collect())
    }

    /// One update along the answers `chosen`: losses of policy and values, learning rate, norm.
    fn update(
        &mut self,
        run: &mut Run,
        running: &Running,
        episodes: &mut [Episode],
        chosen: &[usize],
        values: &[(Vec<f32>, Vec<f32>)],
        place: u64,
    ) -> Result<(f64, f64, f64, f64)> {
        let (params, head, model) = (&self.params, self.head()?, run.model.decoder()?);
        let temperature = running.online.params.temperature as f32;
        let clip = Clip { low: params.cliprange, high: params.cliprange, delta: None, level: Level::Token, beta: 0.0 };
        let weight = 1.0 / chosen.iter().map(|i| episodes[*i].len()).sum::<usize>().max(1) as f64;
        let (mut grads, mut policy_loss, mut value_loss) = (Grads::default(), 0.0, 0.0);
        for (micro, chosen) in chosen.chunks(running.online.together).enumerate() {
            let mut some: Vec<Episode> = chosen.iter().map(|i| std::mem::take(&mut episodes[*i])).collect();
            let (batch, random) = (online::batch(&some), mix(running.seed ^ mix(place ^ mix(micro as u64))));
            let weights = vec![weight; some.len()];
            let known = || chosen.iter().flat_map(|i| values[*i].0.iter().zip(&values[*i].1));
            let (policy, value) = model.learn_through(&batch, random, &mut grads, |h, grads| {
                let (policy, dh) = policy_gradient(model, h, (&mut some, &weights), &clip, temperature, grads)?;
                let found = head.forward(h)?.into_iter().zip(known());
                let found =
                    found.map(|(value, (old, wanted))| gae::value_loss(value, *old, *wanted, params.cliprange_value));
                let (losses, slopes): (Vec<f64>, Vec<f64>) = found.unzip();
                let slopes: Vec<f32> = slopes.iter().map(|slope| (params.vf_coef * weight * slope) as f32).collect();
                let more = head.backward(h, &slopes, grads)?;
                let dh = dh.map(|dh| kernels::add(dh, &more)).transpose()?;
                Ok(((policy, weight * losses.iter().sum::<f64>()), dh))
            })?;
            chosen.iter().zip(some).for_each(|(i, episode)| episodes[*i] = episode);
            policy_loss += policy;
            value_loss += value;
        }
        let Update { rate, norm, .. } = run.update(&mut grads, policy_loss + params.vf_coef * value_loss)??;
        self.state.updates = run.updates;
        Ok((policy_loss, value_loss, rate, norm))
    }
}

fn no_reward_model() -> Problem {
    Problem::new("no_reward_model", "PPO has no reward model to learn from.", "PPO 没有可供学习的奖励模型。")
        .hint(
            "Train one with the stage rm and set reward_model to its folder, or name reward_funcs.",
            "请先用 rm 阶段训练一个并将 reward_model 设为其文件夹，或设置 reward_funcs。",
        )
        .field("reward_model")
}
