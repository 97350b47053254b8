//! Settings of GRPO that don't go together.

use super::{Estimator, GrpoParams, Scale};
use crate::stages::online::{RolloutParams, mismatch};
use api::{Problem, Problems};

/// All problems of the settings by themselves.
pub fn check(params: &GrpoParams, sampling: &RolloutParams) -> Result<(), Problems> {
    let mut problems = Problems::default();
    let mut refuse = |field: &str, message: [String; 2], hint: [&str; 2]| {
        problems.push(mismatch(field, message, hint.map(str::to_owned)));
    };
    if params.num_generations < 2 {
        let message = [
            "num_generations is 1: an answer alone has nothing to be compared with.".to_owned(),
            "num_generations 为 1：单个回答没有可比较的对象。".to_owned(),
        ];
        refuse(
            "num_generations",
            message,
            ["Set it to 2 or more; 4 to 16 are usual.", "请设为 2 或更多，常用 4 到 16。"],
        );
    }
    if sampling.top_k == 1 {
        let message = [
            "top_k is 1: all answers to a prompt are the same, so that none is better.".to_owned(),
            "top_k 为 1：同一提示的回答全部相同，无从比较。".to_owned(),
        ];
        refuse(
            "top_k",
            message,
            ["Set it to 0 for all tokens, or to 20 and more.", "请设为 0（全部词元）或 20 以上。"],
        );
    }
    let high = 1.0 + params.epsilon_high.unwrap_or(params.epsilon);
    if let Some(delta) = params.delta.filter(|delta| *delta < high) {
        let message = [
            format!("delta {delta} is below {high}, where the clip range ends, which would then never be reached."),
            format!("delta {delta} 低于裁剪上界 {high}，裁剪范围将永远达不到。"),
        ];
        let hint = [
            "Raise delta above 1 + epsilon_high, or leave it empty.",
            "请将 delta 调到 1 + epsilon_high 以上，或留空。",
        ];
        refuse("delta", message, hint);
    }
    let estimator = params.advantage_estimator;
    if params.scale_rewards != Scale::Group && estimator != Estimator::Group {
        let message = [
            "scale_rewards has no effect: only advantage_estimator group divides rewards.".to_owned(),
            "scale_rewards 不起作用：只有 advantage_estimator 为 group 时才缩放奖励。".to_owned(),
        ];
        let hint =
            ["Leave it out, or set advantage_estimator to group.", "请去掉它，或将 advantage_estimator 设为 group。"];
        refuse("scale_rewards", message, hint);
    }
    if params.dynamic_sample && estimator == Estimator::ReinforcePlusPlus {
        let message = [
            "dynamic_sample drops prompts whose answers are all worth the same, but reinforce_plus_plus compares answers of \
             all prompts and learns from these too."
                .to_owned(),
            "dynamic_sample 会丢弃回答奖励全部相同的提示，而 reinforce_plus_plus 跨提示比较，同样可从中学习。".to_owned(),
        ];
        let hint = [
            "Turn dynamic_sample off, or choose another advantage_estimator.",
            "请关闭 dynamic_sample，或更换 advantage_estimator。",
        ];
        refuse("dynamic_sample", message, hint);
    }
    problems.or(())
}

/// The problem of `each` answers a prompt that don't divide the `answers` of a step.
pub fn not_divided(each: usize, answers: usize) -> Problem {
    let choices: Vec<String> = (2..=answers).filter(|n| answers.is_multiple_of(*n)).map(|n| n.to_string()).collect();
    let message = [
        format!("num_generations {each} does not divide the {answers} answers of a step."),
        format!("num_generations {each} 不能整除每步的 {answers} 个回答。"),
    ];
    let what = [
        "A step has per_device_train_batch_size x gradient_accumulation_steps answers.",
        "每步回答数为 per_device_train_batch_size × gradient_accumulation_steps。",
    ];
    let next = match choices.is_empty() {
        true => [
            format!("Raise gradient_accumulation_steps, for example to {each}."),
            format!("请调大 gradient_accumulation_steps，例如设为 {each}。"),
        ],
        false => [
            format!("Set one of {}, or change these.", choices.join(", ")),
            format!("可设为 {}，或调整这两项。", choices.join("、")),
        ],
    };
    mismatch("num_generations", message, [format!("{} {}", what[0], next[0]), format!("{}{}", what[1], next[1])])
}
