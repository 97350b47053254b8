//! What there is to choose from, collected from the registries: the form, the command line and the checks read this.

use crate::{
    adapters::ADAPTERS,
    data::FORMATS,
    data::template,
    entry::Entry,
    model::{encoder_decoder, families::FAMILIES},
    stages::STAGES,
    train,
};
use api::{
    Card, Catalog, Text,
    catalog::{Group, MetricCard, Preset},
    params::{
        self, DataParams, ExportParams, GenerateParams, MakeParams, ModelParams, OptimizerParams, OutputParams,
        QuantizationParams, TrainParams,
    },
};
use serde_json::{Map, Value, json};

pub fn catalog() -> Catalog {
    let group =
        |name: &str, en: &str, zh: &str, schema: Value| Group { name: name.into(), title: Text::new(en, zh), schema };
    Catalog {
        version: env!("CARGO_PKG_VERSION").into(),
        groups: vec![
            group("model", "Model", "模型", params::schema::<ModelParams>()),
            group("data", "Rows and template", "样本与模板", params::schema::<DataParams>()),
            group("train", "Optimizer", "优化器", params::schema::<TrainParams>()),
            group("optimizers", "More on optimizers", "更多优化器设置", params::schema::<OptimizerParams>()),
            group("quantization", "Quantised base", "量化基座", params::schema::<QuantizationParams>()),
            group("output", "Checkpoints and output", "检查点与输出", params::schema::<OutputParams>()),
        ],
        stages: cards(STAGES),
        adapters: cards(ADAPTERS),
        families: cards(FAMILIES).into_iter().chain(encoder_decoder::cards()).collect(),
        formats: cards(FORMATS),
        exports: vec![Card {
            name: "safetensors".into(),
            title: Text::new("Hugging Face folder", "Hugging Face 文件夹"),
            help: Text::new(
                "The adapter merged into its model, as transformers, vLLM and others load it.",
                "把适配器合并进模型，可由 transformers、vLLM 等直接加载。",
            ),
            schema: params::schema::<ExportParams>(),
        }],
        templates: template::NAMES.iter().map(|n| (*n).to_string()).collect(),
        presets: presets(),
        generation: Some(group("generation", "Generation", "生成", params::schema::<GenerateParams>())),
        export: Some(group("export", "Export", "导出", params::schema::<ExportParams>())),
        make: Some(group("make", "Making data", "生成数据", params::schema::<MakeParams>())),
        metrics: STAGES.iter().map(|stage| (stage.card().name, told(stage.metrics()))).collect(),
        ignored: params::ignored(),
    }
}

fn cards<T: Entry + ?Sized>(entries: &[&T]) -> Vec<Card> {
    entries.iter().map(|e| e.card()).collect()
}

/// What runs of a stage tell: its own metrics, then those of every run.
fn told(mut own: Vec<MetricCard>) -> Vec<MetricCard> {
    own.extend(train::metrics());
    own
}

fn presets() -> Vec<Preset> {
    let preset = |name: &str, title: [&str; 2], help: [&str; 2], values: Value| Preset {
        name: name.into(),
        title: Text::new(title[0], title[1]),
        help: Text::new(help[0], help[1]),
        values: values.as_object().cloned().unwrap_or_else(Map::new),
    };
    vec![
        preset(
            "persona",
            ["Remember", "记住"],
            [
                "A small model learns a few rows by heart: a name, a style, some facts.",
                "让小模型牢牢记住少量样本：名字、风格、一些事实。",
            ],
            json!({"num_train_epochs": 10.0, "learning_rate": 2e-3, "per_device_train_batch_size": 4,
                "gradient_accumulation_steps": 1, "lr_scheduler_type": "cosine", "warmup_ratio": 0.05, "cutoff_len": 512}),
        ),
        preset(
            "quick",
            ["Quick look", "快速一试"],
            ["200 rows, once. Does it work at all?", "200 行，学一遍。能跑通吗？"],
            json!({"max_samples": 200, "num_train_epochs": 1.0, "learning_rate": 5e-4, "per_device_train_batch_size": 4,
                "gradient_accumulation_steps": 1, "lr_scheduler_type": "cosine", "cutoff_len": 512}),
        ),
        preset(
            "standard",
            ["Standard", "标准"],
            ["For a few hundred rows or more: three times through, gently.", "适合数百行以上：温和地学三遍。"],
            json!({"num_train_epochs": 3.0, "learning_rate": 1e-4, "per_device_train_batch_size": 2,
                "gradient_accumulation_steps": 8, "lr_scheduler_type": "cosine", "warmup_ratio": 0.1}),
        ),
        preset(
            "careful",
            ["Careful", "谨慎"],
            ["As Standard, with 5 % held back to see whether it really learns.", "同标准，另留 5 % 检验是否真正学会。"],
            json!({"num_train_epochs": 3.0, "learning_rate": 1e-4, "per_device_train_batch_size": 2,
                "gradient_accumulation_steps": 8, "lr_scheduler_type": "cosine", "warmup_ratio": 0.1, "val_size": 0.05}),
        ),
        preset(
            "small",
            ["Small memory", "小内存"],
            ["One row at a time, activations computed again.", "一次一行，重算激活。"],
            json!({"num_train_epochs": 3.0, "learning_rate": 1e-4, "per_device_train_batch_size": 1,
                "gradient_accumulation_steps": 16, "lr_scheduler_type": "cosine", "gradient_checkpointing": true,
                "cutoff_len": 1024}),
        ),
    ]
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// What a parameter of every registry needs so that the form can draw it in both languages.
    #[test]
    fn every_parameter_can_be_drawn() {
        let catalog = catalog();
        for card in catalog.stages.iter().chain(&catalog.adapters) {
            assert!(!card.title.zh.is_empty() && !card.help.zh.is_empty(), "{} lacks Chinese", card.name);
            for (key, property) in card.schema["properties"].as_object().unwrap() {
                for path in ["/ui/label/en", "/ui/label/zh", "/ui/help_zh", "/description"] {
                    assert!(property.pointer(path).is_some(), "{key} lacks {path}");
                }
            }
        }
    }

    #[test]
    fn every_metric_is_told_of_once_and_in_both_languages() {
        for (stage, metrics) in catalog().metrics {
            for (at, metric) in metrics.iter().enumerate() {
                let Text { en, zh } = &metric.help;
                assert!(en.ends_with('.') && zh.ends_with('。'), "{stage}: {}", metric.name);
                assert!(!metric.title.en.is_empty() && !metric.title.zh.is_empty(), "{stage}: {}", metric.name);
                let twins = metrics.iter().skip(at + 1).filter(|other| other.name == metric.name);
                assert_eq!(twins.count(), 0, "{stage}: {}", metric.name);
            }
        }
    }

    #[test]
    fn presets_set_parameters_that_exist() {
        let catalog = catalog();
        let known: Vec<&str> = catalog.properties("sft", "lora").into_iter().map(|(_, key, _)| key).collect();
        for preset in &catalog.presets {
            for key in preset.values.keys() {
                assert!(known.contains(&key.as_str()), "{}: {key}", preset.name);
            }
        }
    }
}
