//! What tuning types say of adapter folders that don't fit.

use crate::{Error, Result, files::adapter::peft_type};
use api::Problem;
use std::path::Path;

/// A problem unless the folder has the `peft_type` that is wanted.
pub fn check_type(dir: &Path, wanted: &str) -> Result<()> {
    let (shown, found) = (dir.display(), peft_type(dir)?);
    if found == wanted {
        return Ok(());
    }
    Err(Problem::new(
        "adapter_kind",
        format!("{shown} has the peft_type {found}, not {wanted}."),
        format!("{shown} 的 peft_type 为 {found}，而不是 {wanted}。"),
    )
    .hint("Choose the finetuning_type of that adapter.", "请选择与该适配器一致的 finetuning_type。")
    .field("adapter_name_or_path")
    .into())
}

/// A tensor of an adapter has not the shape that this model needs.
pub fn other_shape(origin: &str, name: &str, found: &[usize], wanted: &[usize]) -> Error {
    other_model(origin, name, &format!("{found:?}"), &format!("{wanted:?}"))
}

/// As [`other_shape`], with words for the shapes.
pub fn other_model(origin: &str, name: &str, found: &str, wanted: &str) -> Error {
    Problem::new(
        "adapter_for_another_model",
        format!("{origin} was trained for another model: {name} has the shape {found}, this model needs {wanted}."),
        format!("{origin} 是为另一个模型训练的：{name} 的形状为 {found}，此模型需要 {wanted}。"),
    )
    .hint("Choose the model that the adapter was trained on.", "请选择训练该适配器时所用的模型。")
    .field("adapter_name_or_path")
    .into()
}

/// The result stands beside the weights and can't be merged into them.
pub fn beside(what: &str, what_zh: &str) -> Error {
    Problem::new(
        "not_mergeable",
        format!("This adapter is {what}, which no weight of the model can hold: it can't be merged."),
        format!("此适配器为{what_zh}，无法写入模型的权重，因此不能合并。"),
    )
    .hint(
        "Use the adapter folder itself: copy it, and load it with its base as adapter_name_or_path.",
        "请直接使用适配器文件夹：复制它，并与基础模型一起以 adapter_name_or_path 加载。",
    )
    .field("adapter_name_or_path")
    .into()
}
