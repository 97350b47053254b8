//! PEFT adapters: `adapter_config.json` and `adapter_model.safetensors`, as PEFT 0.18 writes and reads them.

use super::{
    atomic::write_atomically,
    export::is_vocabulary,
    folder,
    safetensors::read_header,
    source::Source,
    tensors,
    tokenizer::{read_json, wrong_file},
};
use crate::{Error, Result};
use api::Problem;
use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};
use std::{collections::BTreeMap, path::Path};

/// The version of PEFT whose keys are written.
pub const PEFT_VERSION: &str = "0.18.1";
const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
/// What PEFT puts before the names of the model's own parts.
const PREFIX: &str = "base_model.model.";

/// `adapter_config.json`. Keys that have no field here are kept in `other`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AdapterConfig {
    pub peft_type: String,
    pub task_type: Option<String>,
    pub base_model_name_or_path: Option<String>,
    /// Rank.
    pub r: usize,
    /// The product of B and A is multiplied by this over `r` (over its square root with `use_rslora`).
    pub lora_alpha: f64,
    pub lora_dropout: f64,
    pub target_modules: Option<Targets>,
    pub exclude_modules: Option<Targets>,
    /// Modules trained and saved whole.
    pub modules_to_save: Option<Vec<String>>,
    /// `none`, `all` or `lora_only`.
    pub bias: String,
    pub use_rslora: bool,
    pub use_dora: bool,
    /// Ranks and alphas of modules that differ, by name or regular expression.
    pub rank_pattern: BTreeMap<String, usize>,
    pub alpha_pattern: BTreeMap<String, f64>,
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// Names of linears (their last parts), or one regular expression over whole names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Targets {
    Pattern(String),
    Names(Vec<String>),
}

impl Default for AdapterConfig {
    fn default() -> Self {
        Self {
            peft_type: "LORA".into(),
            task_type: Some("CAUSAL_LM".into()),
            base_model_name_or_path: None,
            r: 8,
            lora_alpha: 8.0,
            lora_dropout: 0.0,
            target_modules: None,
            exclude_modules: None,
            modules_to_save: None,
            bias: "none".into(),
            use_rslora: false,
            use_dora: false,
            rank_pattern: BTreeMap::new(),
            alpha_pattern: BTreeMap::new(),
            other: Map::new(),
        }
    }
}

impl AdapterConfig {
    /// The keys with their values, all that PEFT writes, sorted as it does.
    pub fn to_json(&self) -> Result<Value> {
        let mut all = defaults();
        let own = serde_json::to_value(self).map_err(|error| Error::Internal(error.to_string()))?;
        all.extend(own.as_object().into_iter().flatten().map(|(key, value)| (key.clone(), value.clone())));
        all.insert("inference_mode".into(), json!(true));
        // PEFT writes whole numbers as such.
        if self.lora_alpha.fract() == 0.0 && self.lora_alpha.abs() < 1e15 {
            all.insert("lora_alpha".into(), json!(self.lora_alpha as i64));
        }
        all.sort_keys();
        Ok(Value::Object(all))
    }

    /// Keys set to something that changes the result and that is not known here, with their values. `fan_in_fan_out`
    /// isn't one: it says how the base model stores its weights, which is known from the model.
    pub fn unsupported(&self) -> Vec<(&str, &Value)> {
        let names = [
            "alora_invocation_tokens",
            "arrow_config",
            "layer_replication",
            "lora_bias",
            "target_parameters",
            "trainable_token_indices",
            "use_qalora",
            "use_bdlora",
        ];
        let set = |value: &Value| match value {
            Value::Null | Value::Bool(false) => false,
            Value::Array(items) => !items.is_empty(),
            Value::Object(items) => !items.is_empty(),
            _ => true,
        };
        names.into_iter().filter_map(|name| Some((name, self.other.get(name)?))).filter(|(_, v)| set(v)).collect()
    }
}

/// Reads an adapter: its configuration, and its tensors in their stored type by the name of the model's part
/// (`model.layers.0.self_attn.q_proj.lora_A.weight`, without `base_model.model.` and `.default`).
pub fn read_adapter(dir: impl AsRef<Path>, device: &Device) -> Result<(AdapterConfig, BTreeMap<String, Tensor>)> {
    let dir = dir.as_ref();
    Ok((read_config(dir)?, read_tensors(dir, device)?))
}

/// The tensors of a PEFT folder of any type, named as [`read_adapter`] says.
pub fn read_tensors(dir: &Path, device: &Device) -> Result<BTreeMap<String, Tensor>> {
    let path = dir.join(WEIGHTS);
    if !path.exists() {
        return Err(match folder::pickle_in(dir)? {
            Some(pickle) => folder::pickle(&pickle),
            None => missing(dir, WEIGHTS),
        }
        .into());
    }
    let tensors = tensors::read(&path, device)?;
    Ok(tensors.into_iter().map(|(name, tensor)| (plain_name(&name), tensor)).collect())
}

/// Whether `dir` is a PEFT folder.
pub fn is_adapter(dir: &Path) -> bool {
    dir.join(CONFIG).exists()
}

/// The type of a PEFT folder, for example `LORA`.
pub fn peft_type(dir: &Path) -> Result<String> {
    let config = read_map(dir)?;
    // Files of the first versions have none: there was only one type.
    Ok(config.get("peft_type").and_then(Value::as_str).unwrap_or("LORA").to_owned())
}

/// Rows of the embedding or the head that an adapter holds whole, if it does.
pub fn vocabulary(dir: &Path) -> Result<Option<u64>> {
    if read_map(dir)?.get("modules_to_save").and_then(Value::as_array).is_none_or(Vec::is_empty) {
        return Ok(None);
    }
    let entries = read_header(&Source::open(&dir.join(WEIGHTS))?)?;
    let whole = entries.iter().find(|entry| is_vocabulary(&plain_name(&entry.name)));
    Ok(whole.and_then(|entry| entry.shape.first()).map(|rows| *rows as u64))
}

/// Reads and checks `adapter_config.json` of a LoRA adapter alone.
pub fn read_config(dir: impl AsRef<Path>) -> Result<AdapterConfig> {
    let dir = dir.as_ref();
    let config: AdapterConfig = read_config_as(dir)?;
    if config.r == 0 || !config.lora_alpha.is_finite() {
        let found = format!("r is {}, lora_alpha is {}", config.r, config.lora_alpha);
        return Err(wrong_file(&dir.join(CONFIG), &found));
    }
    Ok(config)
}

/// `adapter_config.json` in the form of any type; null stands for the default.
pub fn read_config_as<T: DeserializeOwned>(dir: &Path) -> Result<T> {
    let config = Value::Object(read_map(dir)?);
    serde_json::from_value(config).map_err(|error| wrong_file(&dir.join(CONFIG), &error.to_string()))
}

/// `adapter_config.json` without the keys that are null.
fn read_map(dir: &Path) -> Result<Map<String, Value>> {
    if !dir.is_dir() {
        return Err(Error::io(dir)(std::io::ErrorKind::NotFound.into()));
    }
    let path = dir.join(CONFIG);
    if !path.exists() {
        return Err(missing(dir, CONFIG).into());
    }
    match read_json(&path)? {
        Value::Object(mut map) => {
            map.retain(|_, value| !value.is_null());
            Ok(map)
        }
        _ => Err(wrong_file(&path, "it is no object")),
    }
}

/// Writes an adapter into the existing folder `dir`: weights, configuration, model card. Names as in
/// [`read_adapter`]; types as they are (float32, float16 or bfloat16).
pub fn write_adapter(dir: impl AsRef<Path>, config: &AdapterConfig, tensors: &BTreeMap<String, Tensor>) -> Result<()> {
    let Value::Object(config) = config.to_json()? else { return Err(Error::Internal("no object".into())) };
    write_parts(dir.as_ref(), config, tensors)
}

/// As [`write_adapter`], with the configuration of any type that changes modules.
pub fn write_parts(dir: &Path, mut config: Map<String, Value>, tensors: &BTreeMap<String, Tensor>) -> Result<()> {
    let tensors = tensors.iter().map(|(name, tensor)| (format!("{PREFIX}{name}"), tensor.clone())).collect();
    config.sort_keys();
    let card = model_card(&config);
    write_folder(dir, &Value::Object(config), &tensors, &card)
}

/// Writes a PEFT folder of any type: `tensors` by the names that they have in the file, `config` with `peft_type`,
/// `card` as its README.md.
pub fn write_folder(dir: &Path, config: &Value, tensors: &BTreeMap<String, Tensor>, card: &str) -> Result<()> {
    tensors::write(&dir.join(WEIGHTS), tensors)?;
    let json = serde_json::to_string_pretty(config).map_err(|error| Error::Internal(error.to_string()))?;
    write_atomically(&dir.join(CONFIG), json)?;
    write_atomically(&dir.join("README.md"), card)
}

/// What `README.md` says of an adapter that is no LoRA.
pub struct Card<'a> {
    pub title: &'a str,
    pub tag: &'a str,
    pub base: &'a str,
    /// Whether PEFT reads the folder.
    pub in_peft: bool,
    pub rows: &'a [(&'a str, String)],
}

/// Writes an adapter that is no LoRA: `own` are the keys of its configuration besides those that all of PEFT's have.
pub fn write_own(
    dir: &Path,
    peft_type: &str,
    own: Map<String, Value>,
    tensors: &BTreeMap<String, Tensor>,
    card: &Card,
) -> Result<()> {
    let mut config = own;
    config.extend([
        ("auto_mapping".to_string(), Value::Null),
        ("base_model_name_or_path".into(), json!(card.base)),
        ("inference_mode".into(), json!(true)),
        ("modules_to_save".into(), Value::Null),
        ("peft_type".into(), json!(peft_type)),
        ("peft_version".into(), json!(PEFT_VERSION)),
        ("revision".into(), Value::Null),
        ("task_type".into(), json!("CAUSAL_LM")),
    ]);
    config.sort_keys();
    write_folder(dir, &Value::Object(config), tensors, &card.text())
}

impl Card<'_> {
    fn text(&self) -> String {
        let Self { title, tag, base, in_peft, rows } = self;
        // A JSON string is a YAML string, whatever is in the name.
        let quoted = json!(base);
        let library = if *in_peft { "peft" } else { "lathe" };
        let others = if *in_peft { ", or with PEFT" } else { "; PEFT has none of this kind" };
        let rows: String = rows.iter().map(|(name, value)| format!("| {name} | {value} |\n")).collect();
        format!(
            "---\nbase_model: {quoted}\nlibrary_name: {library}\npipeline_tag: text-generation\n\
             tags:\n- {tag}\n- lathe\n---\n\n# {title}\n\nTrained with Lathe on top of `{base}`. Load it in Lathe as \
             `adapter_name_or_path`{others}.\n\n| | |\n|---|---|\n{rows}"
        )
    }
}

fn plain_name(name: &str) -> String {
    // Modules that are saved whole have no such part in newer files.
    let name = name.strip_prefix(PREFIX).unwrap_or(name).replace(".modules_to_save.", ".").replace(".base_layer.", ".");
    match name.strip_suffix(".default") {
        // DoRA's magnitude vector ends in the adapter's name.
        Some(name) => name.to_string(),
        None => name.replace(".default.", "."),
    }
}

/// Every key of PEFT's `LoraConfig` with the value it has when nobody sets it.
fn defaults() -> Map<String, Value> {
    let json = json!({
        "alora_invocation_tokens": null,
        "alpha_pattern": {},
        "arrow_config": null,
        "auto_mapping": null,
        "base_model_name_or_path": null,
        "bias": "none",
        "corda_config": null,
        "ensure_weight_tying": false,
        "eva_config": null,
        "exclude_modules": null,
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "layer_replication": null,
        "layers_pattern": null,
        "layers_to_transform": null,
        "loftq_config": {},
        "lora_alpha": 8,
        "lora_bias": false,
        "lora_dropout": 0.0,
        "megatron_config": null,
        "megatron_core": "megatron.core",
        "modules_to_save": null,
        "peft_type": "LORA",
        "peft_version": PEFT_VERSION,
        "qalora_group_size": 16,
        "r": 8,
        "rank_pattern": {},
        "revision": null,
        "target_modules": null,
        "target_parameters": null,
        "task_type": null,
        "trainable_token_indices": null,
        "use_dora": false,
        "use_qalora": false,
        "use_rslora": false,
    });
    match json {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// `README.md` with the front matter that hubs read, and the settings that its type has.
fn model_card(config: &Map<String, Value>) -> String {
    let text = |key: &str| match config.get(key) {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(text.clone()),
        Some(Value::Array(names)) => Some(names.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")),
        Some(other) => Some(other.to_string()),
    };
    let (base, kind) = (text("base_model_name_or_path"), text("peft_type").unwrap_or_default());
    let base = base.as_deref().unwrap_or("unknown");
    let rows: String = [
        ("rank", "r"),
        ("alpha", "lora_alpha"),
        ("dropout", "lora_dropout"),
        ("block size", "oft_block_size"),
        ("targets", "target_modules"),
    ]
    .iter()
    .filter_map(|(name, key)| Some(format!("| {name} | {} |\n", text(key)?)))
    .collect();
    // A JSON string is a YAML string, whatever is in the name.
    let (quoted, tag) = (json!(base), kind.to_lowercase());
    format!(
        "---\nbase_model: {quoted}\nlibrary_name: peft\npipeline_tag: text-generation\ntags:\n- {tag}\n- lathe\n---\n\n\
         # {kind} adapter\n\n\
         Trained with Lathe on top of `{base}`. Load it in Lathe as `adapter_name_or_path`, or with PEFT:\n\n\
         ```python\nfrom peft import AutoPeftModelForCausalLM\n\n\
         model = AutoPeftModelForCausalLM.from_pretrained(\"PATH_OF_THIS_FOLDER\")\n```\n\n\
         | | |\n|---|---|\n{rows}"
    )
}

fn missing(dir: &Path, file: &str) -> Problem {
    let shown = dir.display();
    Problem::new(
        "no_adapter",
        format!("{shown} is not a complete adapter: it has no {file}."),
        format!("{shown} 不是完整的适配器：缺少 {file}。"),
    )
    .hint(
        "Choose the folder that has adapter_config.json and adapter_model.safetensors.",
        "请选择包含 adapter_config.json 和 adapter_model.safetensors 的文件夹。",
    )
}
