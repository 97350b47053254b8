//! What a stage that samples tells at its steps, in words.

use crate::rewards::REWARDS;
use api::{Card, catalog::MetricCard};

pub fn metrics() -> Vec<MetricCard> {
    let card = MetricCard::new;
    let mut all = vec![
        card(
            "reward",
            ["Reward", "奖励"],
            ["Mean over the sampled answers, all parts by their weights.", "所采样回答的平均值，各部分按权重相加。"],
        )
        .higher(),
        card(
            "kl",
            ["KL divergence", "KL 散度"],
            ["Distance from the reference, in nats a token.", "与参考模型的距离，每词元奈特数。"],
        ),
        card(
            "entropy",
            ["Entropy", "熵"],
            [
                "How open the next token is, in nats; near 0 all answers are alike.",
                "下一词元的不确定程度（奈特）；接近 0 时各回答雷同。",
            ],
        ),
        card(
            "clip_ratio",
            ["Clipped share", "裁剪比例"],
            [
                "Share of the tokens that moved beyond the clip range and counted no further.",
                "变化超出裁剪范围、不再计入的词元比例。",
            ],
        ),
        card(
            "reward_std",
            ["Spread of rewards", "奖励标准差"],
            ["Among the answers to a prompt; at 0 there is nothing to learn.", "同一提示各回答之间；为 0 时无可学习。"],
        ),
        card(
            "completion_length",
            ["Length of answers", "回答长度"],
            ["Mean over the sampled answers, in tokens.", "所采样回答的平均词元数。"],
        ),
        card(
            "truncated_share",
            ["Cut answers", "被截断的回答"],
            ["Share that reached max_new_tokens before its end.", "未结束就达到 max_new_tokens 的比例。"],
        )
        .lower(),
        card(
            "alike_share",
            ["Prompts without a difference", "无差别的提示"],
            ["Share whose answers are all worth the same and teach nothing.", "各回答奖励全部相同、无可学习的比例。"],
        )
        .lower(),
        card(
            "resampled_share",
            ["Prompts sampled again", "重新采样的提示"],
            ["Share that dynamic sampling gave other answers.", "由动态采样重新生成回答的比例。"],
        ),
        card(
            "rollout_tokens_per_s",
            ["Sampled tokens each second", "每秒采样词元"],
            ["Speed of sampling, with what judges the answers.", "采样的速度，含对回答的评分。"],
        )
        .higher(),
        card(
            "generation_share",
            ["Share of sampling", "采样耗时占比"],
            ["Part of a step's time that goes into sampling and judging.", "一步中用于采样与评分的时间比例。"],
        ),
    ];
    all.extend(REWARDS.iter().map(|reward| part(reward.card())));
    all
}

/// A part of the reward.
fn part(Card { name, title, help, .. }: Card) -> MetricCard {
    let help = [
        format!("A part of the reward, before its weight. {}", help.en),
        format!("奖励的一部分，未乘权重。{}", help.zh),
    ];
    MetricCard::new(&format!("reward_{name}"), [&title.en, &title.zh], [&help[0], &help[1]])
}
