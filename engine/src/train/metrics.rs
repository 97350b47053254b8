//! What every run tells at its steps, in words.

use api::catalog::MetricCard;

pub fn metrics() -> Vec<MetricCard> {
    let card = MetricCard::new;
    vec![
        card("loss", ["Loss", "损失"], ["What each update lowers.", "每次更新所降低的量。"]),
        card("learning_rate", ["Learning rate", "学习率"], ["Size of each correction.", "每次修正的幅度。"]),
        card(
            "grad_norm",
            ["Gradient norm", "梯度范数"],
            [
                "Length of the gradient before it is clipped; jumps announce trouble.",
                "裁剪前梯度的长度；突增往往是不稳定的前兆。",
            ],
        ),
        card("tokens_per_s", ["Tokens each second", "每秒词元"], ["Speed of whole steps.", "整步的处理速度。"])
            .higher(),
        card(
            "penalty",
            ["Penalty", "附加惩罚"],
            ["What the tuning type adds to the loss.", "微调方法在损失之外附加的量。"],
        )
        .lower(),
    ]
}
