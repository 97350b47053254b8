//! Group relative policy optimization (Shao et al., 2024): several answers to each prompt, each learned from by how much better
//! than the others it is worth. DAPO, Dr. GRPO, GSPO, RLOO and REINFORCE++ are settings of it. Names and defaults are TRL's.

mod advantage;
mod check;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use super::{
    Found, Objective, Sampled, Setting, Stage,
    online::{self, Clip, Episode, Level, Online, Policy, RolloutParams, Rollouts, State, each_token, remember},
    reference::{Reference, ReferenceParams},
};
use crate::{
    Error, Result,
    data::Needs,
    entry::{Entry, joined},
    model::{Batch, Grads, Network, Store},
    random::mix,
    rewards::{self, Rewards},
    train::{Run, Update},
};
use advantage::{Estimator, Scale};
use api::{
    Card, Outcome, Problems, RunConfig, Text,
    catalog::{MetricCard, main_ui, ui},
    params::{self, ModelParams, TrainParams},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{path::Path, sync::atomic::Ordering, time::Instant};

pub struct Grpo;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct GrpoParams {
    /// Answers that are sampled for each prompt and compared; two or more. It divides batch size times accumulation, which
    /// count answers here.
    #[schemars(range(min = 1, max = 1024), extend("ui" = main_ui(["Answers per prompt", "每组回答数"], "每个提示采样并相互比较的回答数，至少两个。批大小乘以累积步数（此处按回答计）须为其倍数。", ["Higher: a surer comparison, slower; usual 4 to 16", "调高：比较更可靠，更慢；常用 4 到 16"])))]
    pub num_generations: usize,
    /// Updates that learn from what a step sampled.
    #[schemars(range(min = 1, max = 64), extend("ui" = ui(["Updates per step", "每步更新次数"], "对一步采样的回答进行多少次更新。", ["Higher: uses samples more, less steady", "调高：样本利用更充分，但不够稳定"])))]
    pub num_iterations: usize,
    /// What the distance (KL) from the reference costs; 0: nothing, and no reference is asked.
    #[schemars(range(min = 0.0, max = 10.0), extend("ui" = main_ui(["KL penalty", "KL 惩罚"], "偏离参考模型（KL）的代价；0 表示不惩罚，也不计算参考模型。", ["Higher: stays closer to the start; usual 0 to 0.04", "调高：更接近起点；常用 0 到 0.04"])))]
    pub beta: f64,
    /// How far the ratio of new to old probability may fall below 1 or rise above it and still count, unless epsilon_low and
    /// epsilon_high say otherwise.
    #[schemars(range(min = 0.0, max = 1.0), extend("ui" = ui(["Clip range", "裁剪范围"], "新旧概率之比偏离 1 多少以内仍计入；可由 epsilon_low 与 epsilon_high 分别设定两侧。", ["Lower: smaller changes in a step", "调低：每步变化更小"])))]
    pub epsilon: f64,
    /// How far the ratio may fall below 1. Empty: as epsilon.
    #[schemars(range(min = 0.0, max = 1.0), extend("ui" = ui(["Lower clip range", "裁剪下界"], "比值可低于 1 多少。留空则同 epsilon。", ["Higher: words may be unlearned faster", "调高：词可更快被遗忘"])))]
    pub epsilon_low: Option<f64>,
    /// How far the ratio may rise above 1. Empty: as epsilon. DAPO: 0.28.
    #[schemars(range(min = 0.0, max = 10.0), extend("ui" = ui(["Upper clip range", "裁剪上界"], "比值可高于 1 多少。留空则同 epsilon。DAPO 为 0.28。", ["Higher: unlikely words may grow faster, entropy stays", "调高：低概率词可更快增长，保持熵"])))]
    pub epsilon_high: Option<f64>,
    /// The largest ratio that counts at all. Empty: none.
    #[schemars(range(min = 1.0, max = 1000.0), extend("ui" = ui(["Largest ratio", "最大比值"], "可计入的最大比值。留空则不限。", ["Keeps single words from tearing the weights", "避免个别词造成过大更新"])))]
    pub delta: Option<f64>,
    /// How the loss is averaged: over all tokens of the step (dapo), of the micro-batch (bnpo), first over each answer (grpo), or
    /// by the longest answer, the same for all (dr_grpo).
    #[schemars(extend("ui" = ui(["Average", "损失平均方式"], "损失如何平均：按整步所有词元（dapo）、按微批词元（bnpo）、先按每个回答（grpo）、按最大长度（dr_grpo）。", ["grpo favours short good answers", "grpo 偏向较短的好回答"])))]
    pub loss_type: LossType,
    /// What rewards are divided by: the deviation of their group, of the whole step (batch), or nothing (none, Dr. GRPO).
    #[schemars(extend("ui" = ui(["Scale of rewards", "奖励缩放"], "奖励除以什么：组内标准差（group）、整步标准差（batch）或不除（none，Dr. GRPO）。", ["group: small differences count as much as large ones", "group：小差异与大差异同样重要"])))]
    pub scale_rewards: Scale,
    /// Whose ratio is clipped: each token's, or that of the whole answer (sequence, GSPO).
    #[schemars(extend("ui" = ui(["Ratio of", "重要性采样层级"], "裁剪谁的比值：每个词元（token）或整个回答（sequence，即 GSPO）。", ["sequence: steadier for long answers and experts", "sequence：长回答与 MoE 更稳"])))]
    pub importance_sampling_level: Level,
    /// What an answer is compared with: its group's mean (group), the others of its group (rloo), all answers of the step
    /// (reinforce_plus_plus), or first its group's mean and then all (reinforce_plus_plus_baseline).
    #[schemars(extend("ui" = ui(["Advantage", "优势估计"], "回答与什么比较：组均值（group）、同组其他回答（rloo）、本步全部回答（reinforce_plus_plus）、先减组均值再按全部归一（reinforce_plus_plus_baseline）。", ["group is GRPO", "group 即 GRPO"])))]
    pub advantage_estimator: Estimator,
    /// Draw other prompts in place of those whose answers are all worth the same, since there is nothing to learn from these
    /// (DAPO).
    #[schemars(extend("ui" = ui(["Dynamic sampling", "动态采样"], "若某提示的回答奖励全部相同，则换用新的提示重新采样（DAPO）。", ["On: each step learns more, takes longer", "开启：每步学得更多，耗时更长"])))]
    pub dynamic_sample: bool,
    /// How often a step draws other prompts at most.
    #[schemars(range(min = 0, max = 100), extend("ui" = ui(["Drawn again", "最多重采样次数"], "动态采样每步最多换取新提示的次数。", ["", ""])))]
    pub max_resample_times: u64,
    /// Don't learn from answers that were cut at the longest length (DAPO).
    #[schemars(extend("ui" = ui(["Skip cut answers", "忽略被截断的回答"], "不从达到最大长度而被截断的回答中学习（DAPO）。", ["On: length alone isn't punished", "开启：不会仅因过长而受罚"])))]
    pub mask_truncated_completions: bool,
}

impl Default for GrpoParams {
    fn default() -> Self {
        Self {
            num_generations: 8,
            num_iterations: 1,
            beta: 0.0,
            epsilon: 0.2,
            epsilon_low: None,
            epsilon_high: None,
            delta: None,
            loss_type: LossType::Dapo,
            scale_rewards: Scale::Group,
            importance_sampling_level: Level::Token,
            advantage_estimator: Estimator::Group,
            dynamic_sample: false,
            max_resample_times: 3,
            mask_truncated_completions: false,
        }
    }
}

/// How the loss of tokens becomes that of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum LossType {
    Dapo,
    Bnpo,
    Grpo,
    DrGrpo,
}

impl Entry for Grpo {
    fn card(&self) -> Card {
        let own =
            [params::schema::<GrpoParams>(), params::schema::<RolloutParams>(), params::schema::<ReferenceParams>()];
        Card {
            name: "grpo".into(),
            title: Text::new("Rewards (GRPO)", "奖励（GRPO）"),
            help: Text::new(
                "Answer by itself, several times, and learn from what is rewarded most (GRPO, DAPO, Dr. GRPO, GSPO, RLOO).",
                "让模型自己作答多次，从奖励更高的回答中学习（GRPO、DAPO、Dr. GRPO、GSPO、RLOO）。",
            ),
            schema: joined(own.into_iter().chain(rewards::schemas())),
        }
    }
}

impl Stage for Grpo {
    fn needs(&self) -> Needs {
        Needs::Prompts
    }

    fn drops_out(&self) -> bool {
        false
    }

    fn sampled(&self, config: &RunConfig, train: &TrainParams) -> Result<Option<Sampled>, Problems> {
        let params: GrpoParams = params::read(config)?;
        let answers = train.per_device_train_batch_size * train.gradient_accumulation_steps;
        let each = params.num_generations;
        if !answers.is_multiple_of(each) {
            return Err(check::not_divided(each, answers).into());
        }
        let tokens = params::read::<RolloutParams>(config)?.max_new_tokens;
        let times = params.num_iterations;
        Ok(Some(Sampled { prompts: answers / each, answers: each, tokens, times, updates: times }))
    }

    fn start(&self, config: &RunConfig) -> Result<Box<dyn Objective>, Problems> {
        let params: GrpoParams = params::read(config)?;
        let sampling: RolloutParams = params::read(config)?;
        check::check(&params, &sampling)?;
        Ok(Box::new(Learner { params, rewards: Some(Rewards::of(config)?), running: None, state: State::default() }))
    }

    fn others(&self, config: &RunConfig) -> Result<Vec<(&'static str, ModelParams)>, Problems> {
        let mut others = rewards::others(config)?;
        if self.has_reference(config) {
            others.extend(params::read::<ReferenceParams>(config)?.others(config));
        }
        Ok(others)
    }

    fn has_reference(&self, config: &RunConfig) -> bool {
        params::read::<GrpoParams>(config).is_ok_and(|params| params.beta > 0.0)
    }

    fn metrics(&self) -> Vec<MetricCard> {
        online::metrics()
    }
}

struct Learner {
    params: GrpoParams,
    /// Until the run begins.
    rewards: Option<Rewards>,
    running: Option<Running>,
    state: State,
}

/// The reference is asked where a penalty holds the policy against it.
type Running = (Online, Option<Reference>);

impl Objective for Learner {
    fn begin(&mut self, setting: &Setting, _: &mut Store) -> Result<()> {
        let rewards = self.rewards.take().ok_or_else(|| Error::Internal("a run begins once".into()))?;
        let reference = (self.params.beta > 0.0).then(|| Reference::of(setting)).transpose()?;
        self.running = Some((Online::begin(setting, rewards)?, reference));
        Ok(())
    }

    fn save_state(&self, dir: &Path) -> Result<()> {
        self.state.save(dir)
    }

    fn restore_state(&mut self, checkpoint: &Path) -> Result<()> {
        self.state = State::read(checkpoint)?;
        Ok(())
    }

    fn updates(&self, _: u64) -> u64 {
        self.state.updates
    }

    fn loss(&mut self, _: &dyn Network, _: &Batch, _: f32, _: u64, _: &mut Grads) -> Result<Found> {
        Err(Error::Internal("answers are rewarded, not rows".into()))
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
        self.params.num_iterations > 1
    }

    fn step(&mut self, run: &mut Run) -> Result<bool> {
        let mut running = self.running.take().ok_or_else(|| Error::Internal("the run has not begun".into()))?;
        let made = self.make(run, &mut running);
        self.running = Some(running);
        made
    }
}

impl Learner {
    fn make(&mut self, run: &mut Run, (online, reference): &mut Running) -> Result<bool> {
        let begun = Instant::now();
        let dynamic = self.params.dynamic_sample.then_some(self.params.max_resample_times);
        let sampled = match run.stop.load(Ordering::Relaxed) {
            true => None,
            false => online.sample(run, self.params.num_generations, dynamic)?,
        };
        let Some(mut rollouts) = sampled else { return Ok(false) };
        let [loss, rate, norm] = self.learn(run, online, reference.as_ref(), &mut rollouts)?;
        run.step += 1;
        let mut values = online.tell(run, &rollouts, begun, &mut self.state.alarms)?;
        values.extend([("loss", loss), ("learning_rate", rate), ("grad_norm", norm)].map(|(n, v)| (n.into(), v)));
        run.tell(values)?;
        online.evaluate(run)?;
        run.save_if_due(self)?;
        Ok(true)
    }

    /// Learns from what the step sampled: the last update's loss, learning rate and norm.
    fn learn(
        &mut self,
        run: &mut Run,
        online: &Online,
        reference: Option<&Reference>,
        rollouts: &mut Rollouts,
    ) -> Result<[f64; 3]> {
        let (params, temperature) = (&self.params, online.params.temperature as f32);
        let (each, together) = (rollouts.each, online.together);
        let penalised = params.advantage_estimator.penalises_rewards() && reference.is_some();
        {
            let episodes = rollouts.of(run.step)?;
            if params.num_iterations > 1 || penalised {
                remember(run.model.decoder()?, episodes, together, temperature)?;
            }
            if let Some(reference) = reference {
                let of = |batch: &Batch| reference.log_probs_at(run.model.decoder()?, batch, temperature);
                each_token(episodes, together, of, |episode, found| episode.reference = found)?;
            }
            advantage::estimate(episodes, each, params);
        }
        let mut found = [0.0; 3];
        for iteration in 0..params.num_iterations as u64 {
            // With what this step's weights sampled, and nothing older.
            let episodes = rollouts.of(run.step)?;
            let (mut grads, mut loss) = (Grads::default(), 0.0);
            let weights = weights(episodes, params, together, online.params.max_new_tokens);
            let micro = episodes.chunks_mut(together).zip(weights.chunks(together)).enumerate();
            for (micro, (some, weights)) in micro {
                let place = mix(run.step ^ mix((iteration << 32) | micro as u64));
                let random = mix(run.params.seed ^ place);
                loss +=
                    online::learn(run.model.decoder()?, some, weights, &self.clip(), temperature, random, &mut grads)?;
            }
            let Update { rate, norm, .. } = run.update(&mut grads, loss)??;
            self.state.updates = run.updates;
            found = [loss, rate, norm];
        }
        Ok(found)
    }

    fn clip(&self) -> Clip {
        let params = &self.params;
        let in_loss = !params.advantage_estimator.penalises_rewards();
        Clip {
            low: params.epsilon_low.unwrap_or(params.epsilon),
            high: params.epsilon_high.unwrap_or(params.epsilon),
            delta: params.delta,
            level: params.importance_sampling_level,
            beta: if in_loss { params.beta } else { 0.0 },
        }
    }
}

/// What each token of each answer counts, so that the sum is the loss of the step: micro-batches have `together` answers, an
/// answer `longest` tokens at most.
fn weights(episodes: &[Episode], params: &GrpoParams, together: usize, longest: usize) -> Vec<f64> {
    let is_masked = |episode: &Episode| params.mask_truncated_completions && !episode.whole;
    let tokens =
        |some: &[Episode]| some.iter().filter(|e| !is_masked(e)).map(Episode::len).sum::<usize>().max(1) as f64;
    let all = episodes.len() as f64;
    let batches = episodes.chunks(together);
    let count = batches.len() as f64;
    let of = |some: &[Episode]| {
        let own = tokens(some);
        let weight = |episode: &Episode| match params.loss_type {
            _ if is_masked(episode) => 0.0,
            LossType::Grpo => 1.0 / (all * episode.len().max(1) as f64),
            LossType::Bnpo => 1.0 / (count * own),
            LossType::DrGrpo => 1.0 / (all * longest as f64),
            // As TRL has it, those that are left out count as tokens of the step.
            LossType::Dapo => 1.0 / episodes.iter().map(Episode::len).sum::<usize>().max(1) as f64,
        };
        some.iter().map(weight).collect::<Vec<_>>()
    };
    batches.flat_map(of).collect()
}
