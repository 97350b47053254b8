//! Watches a run for what makes all further steps worthless, so that it ends at its last good step with the cause and ways
//! on instead of computing nothing for hours.

use api::{Problem, params::TrainParams};

/// Steps in a row without loss and gradient after which nothing more is to be expected.
const SILENT: u32 = 5;

/// What it has seen so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sentinel {
    silent: u32,
}

impl Sentinel {
    /// After step `step`, from 1, was made with this mean loss and norm of the gradient.
    pub fn look(&mut self, step: u64, loss: f64, norm: f64) -> Result<(), Problem> {
        if step == 1 && norm == 0.0 && loss != 0.0 {
            return Err(no_gradient(loss));
        }
        self.silent = if loss == 0.0 && norm == 0.0 { self.silent + 1 } else { 0 };
        if self.silent >= SILENT { Err(no_loss(step)) } else { Ok(()) }
    }
}

/// Loss or gradient of a step is no number, or a trained value became infinite. `kept` steps were made before.
pub fn diverged(kept: u64, loss: f64, norm: f64, train: &TrainParams) -> Problem {
    let (step, rate) = (kept + 1, train.learning_rate);
    let (what, zh) = match (loss.is_finite(), norm.is_finite()) {
        (false, _) => (format!("The loss became {loss}"), format!("损失变为 {loss}")),
        (true, false) if loss == 0.0 => {
            (format!("The loss is exactly 0 and the gradient's norm {norm}"), format!("损失恰为 0，梯度范数为 {norm}"))
        }
        (true, false) => (format!("The gradient's norm became {norm}"), format!("梯度范数变为 {norm}")),
        (true, true) => ("A trained value became infinite".to_string(), "有训练参数变为无穷大".to_string()),
    };
    let slower = rate / 4.0;
    let problem = Problem::new(
        "diverged",
        format!("{what} at step {step} with learning_rate {rate}. The step before it is kept."),
        format!("第 {step} 步{zh}，learning_rate 为 {rate}。已保留前一步的结果。"),
    );
    let problem = match kept {
        0 => problem.step(
            format!("Start again with learning_rate: {slower:e}."),
            format!("以 learning_rate: {slower:e} 重新开始。"),
        ),
        _ => problem.step(
            format!("Resume from step {kept} with learning_rate: {slower:e}."),
            format!("以 learning_rate: {slower:e} 从第 {kept} 步继续。"),
        ),
    };
    let problem = match train.max_grad_norm {
        norm if norm > 0.0 => problem.step(
            format!("Start again with max_grad_norm: {} and warmup_ratio: 0.1.", norm / 2.0),
            format!("以 max_grad_norm: {} 和 warmup_ratio: 0.1 重新开始。", norm / 2.0),
        ),
        _ => problem.step(
            "Start again with max_grad_norm: 1.0; gradients are not clipped now.",
            "以 max_grad_norm: 1.0 重新开始；目前未裁剪梯度。",
        ),
    };
    let problem = problem.step(
        format!("Start again with compute_type: fp32, or look at the rows around step {step} for damaged ones."),
        format!("以 compute_type: fp32 重新开始，或检查第 {step} 步附近是否有损坏的样本。"),
    );
    problem.field("learning_rate")
}

/// The samples of a step have no token that is trained.
pub fn no_targets(step: u64) -> Problem {
    Problem::new(
        "no_targets",
        format!("No token of the samples of step {step} is trained, so there is nothing to learn from them."),
        format!("第 {step} 步的样本中没有任何参与训练的词元，无从学习。"),
    )
    .step("Set a longer cutoff_len: answers behind it are cut off.", "调大 cutoff_len：超出部分的回答会被截掉。")
    .step("Look at the tokens of these rows in the Data tab.", "在数据页查看这些样本的词元。")
    .step("Set train_on_prompt: true if the rows have no answers.", "如果样本没有回答，请设置 train_on_prompt: true。")
    .field("cutoff_len")
}

fn no_gradient(loss: f64) -> Problem {
    Problem::new(
        "no_gradient",
        format!("The loss of the first step is {loss}, but nothing that is trained has a gradient: it can't learn."),
        format!("第 1 步损失为 {loss}，但所有可训练参数的梯度均为 0：无法学习。"),
    )
    .step("Set compute_type: fp32: in bf16 small gradients vanish.", "设置 compute_type: fp32：bf16 下微小梯度会消失。")
    .step(
        "Start from another adapter, or from none: one whose factors are all zero stays as it is.",
        "换一个适配器或不用适配器：所有因子均为零的适配器不会改变。",
    )
    .step("Set lora_target: all, so that every linear is trained.", "设置 lora_target: all，训练所有线性层。")
    .field("finetuning_type")
}

fn no_loss(step: u64) -> Problem {
    Problem::new(
        "no_loss",
        format!(
            "Loss and gradient were exactly 0 in {SILENT} steps, up to step {step}: there is nothing left to learn."
        ),
        format!("截至第 {step} 步，连续 {SILENT} 步的损失与梯度恰为 0：已无可学内容。"),
    )
    .step("Use the result as it is: the run was saved at this step.", "直接使用结果：已在这一步保存。")
    .step(
        "Add rows, or check that the answers of the rows differ from what the model says anyway.",
        "增加样本，或检查样本的回答是否与模型原本的回答不同。",
    )
    .step("Train in fewer epochs, with num_train_epochs.", "用 num_train_epochs 减少训练轮数。")
    .field("dataset")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has_three_ways_on(problem: &Problem) {
        assert!(problem.steps.len() == 3 && problem.field.is_some(), "{problem}");
        assert!(problem.steps.iter().all(|step| !step.en.is_empty() && !step.zh.is_empty()));
        assert!(problem.zh.as_ref().is_some_and(|zh| !zh.message.is_empty()));
    }

    #[test]
    fn r21_every_way_to_diverge_is_told_with_its_step_and_three_ways_on() {
        let train = TrainParams { learning_rate: 1e-4, max_grad_norm: 0.0, ..TrainParams::default() };
        for (loss, norm, says) in [
            (f64::NAN, 1.0, "The loss became NaN at step 8"),
            (f64::INFINITY, 1.0, "The loss became inf"),
            (2.0, f64::NAN, "The gradient's norm became NaN"),
            (0.0, f64::NAN, "The loss is exactly 0 and the gradient's norm NaN"),
            (2.0, 1.0, "A trained value became infinite"),
        ] {
            let problem = diverged(7, loss, norm, &train);
            assert!(problem.message.starts_with(says), "{problem}");
            assert!(problem.steps[0].en.contains("step 7 with learning_rate: 2.5e-5"), "{problem}");
            has_three_ways_on(&problem);
        }
        assert!(diverged(0, f64::NAN, 1.0, &train).steps[0].en.starts_with("Start again"));
    }

    #[test]
    fn r21_a_run_without_gradient_or_loss_is_told_and_others_are_left_alone() {
        let dead = Sentinel::default().look(1, 2.3, 0.0).unwrap_err();
        assert_eq!(dead.code, "no_gradient");
        has_three_ways_on(&dead);
        has_three_ways_on(&no_targets(3));
        let mut sentinel = Sentinel::default();
        // Later steps may have no gradient, and steps without both come now and then.
        for (step, loss, norm) in [(1, 2.0, 1.0), (2, 2.0, 0.0), (3, 0.0, 0.0), (4, 0.0, 0.0), (5, 0.1, 0.1)] {
            assert!(sentinel.look(step, loss, norm).is_ok());
        }
        let told: Vec<bool> = (6..=10).map(|step| sentinel.look(step, 0.0, 0.0).is_err()).collect();
        assert_eq!(told, [false, false, false, false, true]);
        let silent = sentinel.look(11, 0.0, 0.0).unwrap_err();
        assert_eq!(silent.code, "no_loss");
        has_three_ways_on(&silent);
    }
}
