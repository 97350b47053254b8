//! What the numbers of a run depend on, and what of it is no longer as a checkpoint has it.

use super::{Manifest, Origin, name};
use crate::catalog::catalog;
use api::{Problem, RunConfig, params};
use serde_json::{Map, Value};
use std::path::Path;

/// Arguments of the groups that change no number, or that are compared by what they name.
const HARMLESS: [&str; 6] =
    ["model_name_or_path", "adapter_name_or_path", "device", "dataset_dir", "eval_dataset", "gradient_checkpointing"];

/// Arguments outside the group of the data that change which tokens are learned.
const SHAPES_ROWS: [&str; 5] = ["template", "add_tokens", "add_special_tokens", "seed", "stage"];

/// All arguments that the numbers of a run depend on, with their values or defaults.
pub fn settings(config: &RunConfig) -> Map<String, Value> {
    let catalog = catalog();
    let word = |key: &str, usual: &str| config.text(key).unwrap_or(usual).to_string();
    let (stage, adapter) = (word("stage", "sft"), word("finetuning_type", "lora"));
    let groups = catalog.groups.iter().filter(|group| group.name != "output").map(|group| &group.schema);
    let cards = catalog.stages.iter().filter(|card| card.name == stage);
    let cards = cards.chain(catalog.adapters.iter().filter(|card| card.name == adapter)).map(|card| &card.schema);
    let all = groups.chain(cards).flat_map(|schema| params::settled(config, schema));
    all.filter(|(key, _)| !HARMLESS.contains(&key.as_str())).collect()
}

/// A problem that lists what changed since a checkpoint was made, with both values; nothing if nothing did.
pub fn changes(checkpoint: &Path, then: &Manifest, settings: &Map<String, Value>, origin: &Origin) -> Option<Problem> {
    let mut changed: Vec<(&str, String, String)> = Vec::new();
    for (key, now) in settings {
        if let Some(before) = then.settings.get(key).filter(|before| *before != now) {
            changed.push((key, shown(before), shown(now)));
        }
    }
    let differs = |then: &str, now: &str| !then.is_empty() && then != now;
    let base_differs = differs(&then.origin.base, &origin.base);
    if base_differs {
        changed.push(("model_name_or_path", short(&then.origin.base), short(&origin.base)));
    }
    // Other rows follow from other settings of the data, and from another tokenizer.
    let data = params::schema::<params::DataParams>();
    let shapes = |key: &str| SHAPES_ROWS.contains(&key) || !data["properties"][key].is_null();
    let rows_follow = base_differs || changed.iter().any(|(key, ..)| shapes(key));
    if !rows_follow && differs(&then.origin.data, &origin.data) {
        changed.push(("dataset", short(&then.origin.data), short(&origin.data)));
    }
    if changed.is_empty() {
        return None;
    }
    let name = name(checkpoint);
    let listed = |between: &str| {
        changed.iter().map(|(key, then, now)| format!("{key} {then} → {now}")).collect::<Vec<_>>().join(between)
    };
    let problem = Problem::new(
        "settings_changed",
        format!("Not all is as it was for {name}: {}.", listed("; ")),
        format!("与 {name} 时不同：{}。", listed("；")),
    );
    Some(
        problem
            .hint(
                "Put it back to go on exactly, or set accept_changes to go on with it, or resume_mode to weights for a new start.",
                "改回后可精确继续；设置 accept_changes 可带着更改继续；将 resume_mode 设为 weights 则重新开始。",
            )
            .field("accept_changes"),
    )
}

/// A note where another number of threads or another processor may round otherwise than what made the checkpoint.
pub fn not_bit_exact(then: &Manifest, now: &Origin) -> Option<Problem> {
    let then = &then.origin;
    if then.threads == 0 {
        return None;
    }
    let rows = [
        (["threads", "线程数"], then.threads.to_string(), now.threads.to_string()),
        (["instructions", "指令集"], then.instructions.clone(), now.instructions.clone()),
        (["device", "设备"], then.device.clone(), now.device.clone()),
        (["version", "版本"], then.version.clone(), now.version.clone()),
    ];
    let differ: Vec<_> = rows.iter().filter(|(_, then, now)| then != now).collect();
    if differ.is_empty() {
        return None;
    }
    let listed = |language: usize, between: &str| {
        let each = |(what, then, now): &&([&str; 2], String, String)| format!("{} {then} → {now}", what[language]);
        differ.iter().map(each).collect::<Vec<_>>().join(between)
    };
    Some(Problem::new(
        "not_bit_exact",
        format!(
            "From here on the run is not bit-exact: {}. Last digits may differ from an unbroken run.",
            listed(0, "; ")
        ),
        format!("此后的运行并非逐位精确：{}。末位数字可能与未中断的运行不同。", listed(1, "；")),
    ))
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "–".into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The beginning of a hash.
fn short(hash: &str) -> String {
    format!("sha256 {}…", hash.get(..12).unwrap_or(hash))
}
