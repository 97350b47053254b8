//! Tuning types on linears against PEFT on tiny models: logits, losses, gradients, files. The expected values and the
//! program that made them are in `fixtures/adapters`.
#![allow(clippy::unwrap_used)]

mod common;

use api::{JobKind, Outcome, RunConfig, params::ModelParams};
use candle_core::{DType, Device, Tensor};
use common::{
    Case, distance,
    jobs::{self, Ended, config_of, places},
    read_json, read_tensors, relative_distance,
};
use engine::{
    adapters::{self, Base, Precision, Tuning},
    files::ModelFiles,
    model::{Attach, Batch, Grads, Model, Source, Store, Weights, build, families::family},
};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::{Path, PathBuf},
};

/// Euclidean norm of the difference, as a share of PEFT's.
const NEAR: f32 = 1e-5;

const MADE: [&str; 11] = [
    "dora",
    "bias-all",
    "gpt2-dora",
    "pissa",
    "olora",
    "ia3",
    "gpt2-ia3",
    "oft",
    "oft-shared",
    "adalora-begin",
    "adalora",
];

/// One folder of `fixtures/adapters`.
struct Made {
    name: &'static str,
    dir: PathBuf,
    case: Case,
    loss: f64,
    tensors: HashMap<String, Tensor>,
}

impl Made {
    fn splits(&self) -> bool {
        ["pissa", "olora"].contains(&self.name)
    }
}

fn made(name: &'static str) -> Made {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/adapters").join(name);
    let expected: Value = read_json(&dir.join("expected.json"));
    let tensors = read_tensors(&dir.join("expected.safetensors"));
    let case = Case::open(expected["model"].as_str().unwrap());
    Made { name, dir, case, loss: expected["loss"].as_f64().unwrap(), tensors }
}

#[test]
fn logits_losses_and_gradients_are_those_of_peft() {
    for made in MADE.map(made) {
        let (tuning, mut store) = (adapters::read(&made.dir).unwrap(), Store::default());
        let mut model = opened(&made.case, tuning.as_ref(), &mut store, DType::F32);
        tuning.place(&model).unwrap();
        check_logits(&made, &model);
        for recompute in [false, true] {
            model.recompute = recompute;
            let (loss, grads) = learn(&made.case, &model);
            assert!((loss / made.loss - 1.0).abs() < 1e-5, "{}: the loss is {loss}, not {}", made.name, made.loss);
            let expected = made.tensors.iter().filter_map(|(key, g)| Some((key.strip_prefix("grad.")?, g)));
            let mut worst = 0f32;
            for (name, expected) in expected.clone() {
                let gradient = grads.get(name).unwrap_or_else(|| panic!("{}: {name} got no gradient", made.name));
                let gradient = store.get(name).unwrap().stored(gradient.clone()).unwrap();
                let off = relative_distance(&gradient, expected);
                assert!(off < NEAR, "{}: the gradient of {name} is off by {off} of its norm", made.name);
                worst = worst.max(off);
            }
            println!("{}: the worst gradient is off by {worst:.1e}", made.name);
            // Frozen weights hold none.
            let names: BTreeSet<&str> = grads.iter().map(|(name, _)| name).collect();
            assert_eq!(names, expected.map(|(name, _)| name).collect(), "{}", made.name);
            assert_eq!(names.len(), store.trainable().count(), "{}", made.name);
        }
    }
}

/// In bf16 the same, as exactly as that type allows.
#[test]
fn bf16_is_near() {
    for made in MADE.map(made) {
        let (tuning, mut store) = (adapters::read(&made.dir).unwrap(), Store::default());
        let model = opened(&made.case, tuning.as_ref(), &mut store, DType::BF16);
        tuning.place(&model).unwrap();
        let (loss, grads) = learn(&made.case, &model);
        assert!((loss / made.loss - 1.0).abs() < 0.02, "{}: the loss is {loss}, not {}", made.name, made.loss);
        let names: Vec<&str> = made.tensors.keys().filter_map(|key| key.strip_prefix("grad.")).collect();
        let all = |of: &dyn Fn(&str) -> Tensor| {
            let flat: Vec<Tensor> = names.iter().map(|name| of(name).flatten_all().unwrap()).collect();
            Tensor::cat(&flat, 0).unwrap()
        };
        let ours = all(&|name| store.get(name).unwrap().stored(grads.get(name).unwrap().clone()).unwrap());
        let off = relative_distance(&ours, &all(&|name| made.tensors[&format!("grad.{name}")].clone()));
        assert!(off < 0.1, "{}: the gradient is off by {off} of its norm", made.name);
    }
}

#[test]
fn merged_models_have_the_logits_of_the_adapter() {
    for made in MADE.map(made) {
        made.case.write_tokenizer();
        let home = tempfile::tempdir().unwrap();
        let out = home.path().join("merged");
        let config = json!({
            "model_name_or_path": made.case.model.path(), "adapter_name_or_path": made.dir, "export_dir": out,
            "export_dtype": "float32",
        });
        run(JobKind::Export, config, home.path());
        check_logits(&made, &opened_folder(&out, &(), &mut Store::default(), DType::F32));
    }
}

/// What was read is saved as PEFT saved it: names, values and what of the configuration changes the result.
#[test]
fn saved_again_the_files_are_those_of_peft() {
    for made in MADE.map(made) {
        let files = ModelFiles::open(made.case.model.path()).unwrap();
        let (tuning, mut store) = (adapters::read(&made.dir).unwrap(), Store::default());
        let model = opened(&made.case, tuning.as_ref(), &mut store, DType::F32);
        tuning.place(&model).unwrap();
        let saved = tempfile::tempdir().unwrap();
        tuning.save(saved.path(), &model, &store, &Base { files: &files, name: "tiny" }, Precision::Storage).unwrap();
        let [ours, theirs] = [saved.path(), &made.dir].map(|dir| read_tensors(&dir.join("adapter_model.safetensors")));
        for (name, theirs) in theirs.iter().filter(|(_, tensor)| tensor.elem_count() > 0) {
            let ours = ours.get(name).unwrap_or_else(|| panic!("{}: {name} was not saved", made.name));
            assert_eq!(distance(ours, theirs), 0.0, "{}: {name}", made.name);
        }
        assert!(ours.len() <= theirs.len(), "{}", made.name);
        let [ours, theirs] = [saved.path(), &made.dir].map(|dir| read_json::<Value>(&dir.join("adapter_config.json")));
        let same = [
            "peft_type",
            "base_model_name_or_path",
            "fan_in_fan_out",
            "use_rslora",
            "use_dora",
            "r",
            "rank_pattern",
            "init_lora_weights",
            "bias",
            "modules_to_save",
            "oft_block_size",
            "block_share",
            "num_cayley_neumann_terms",
            "init_r",
        ];
        // An adapter without all its triples names those that it has.
        for key in same.into_iter().filter(|key| !(made.name.starts_with("adalora") && *key == "rank_pattern")) {
            if !ours[key].is_null() && !theirs[key].is_null() {
                assert_eq!(ours[key], theirs[key], "{}: {key}", made.name);
            }
        }
    }
}

/// A pass through the base is that of a model to which nothing is attached.
#[test]
fn nothing_acts_in_a_pass_through_the_base() {
    for made in MADE.map(made).into_iter().filter(|made| !["bias-all", "gpt2-dora"].contains(&made.name)) {
        let (tuning, mut store) = (adapters::read(&made.dir).unwrap(), Store::default());
        let model = opened(&made.case, tuning.as_ref(), &mut store, DType::F32);
        tuning.place(&model).unwrap();
        let plain = opened(&made.case, &(), &mut Store::default(), DType::F32);
        let batch = batch(&made.case);
        let (base, plain) =
            (model.log_probs(&batch, Weights::Base).unwrap(), plain.log_probs(&batch, Weights::Tuned).unwrap());
        let off = base.iter().zip(&plain).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        // PiSSA and OLoRA split the weight, and their sum is rounded once more.
        assert!(if made.splits() { off < 1e-4 } else { off == 0.0 }, "{}: off by {off}", made.name);
        assert_ne!(model.log_probs(&batch, Weights::Tuned).unwrap(), plain, "{}", made.name);
    }
}

/// Ten steps with shrinking ranks: losses, penalties and what lives at the end.
#[test]
fn adalora_shares_out_ranks_as_peft_does() {
    let made = made("adalora-begin");
    let expected: Value = read_json(&made.dir.parent().unwrap().join("adalora-run.json"));
    let home = tempfile::tempdir().unwrap();
    let (dir, steps) = train(
        &made.case,
        home.path(),
        json!({
            "finetuning_type": "adalora", "adapter_name_or_path": made.dir, "tinit": 1, "tfinal": 3, "target_r": 2,
            "max_steps": 10, "learning_rate": 0.05, "adam_beta2": 0.999, "weight_decay": 0.0, "max_grad_norm": 1.0,
            "lr_scheduler_type": "constant",
        }),
    );
    for (n, (step, expected)) in steps.iter().zip(expected["steps"].as_array().unwrap()).enumerate() {
        for key in ["loss", "penalty", "grad_norm"] {
            let off = (step[key] / expected[key].as_f64().unwrap() - 1.0).abs();
            assert!(off < 1e-4, "step {n}: {key} is {}, not {}", step[key], expected[key]);
        }
    }
    assert_eq!(steps.len(), 10);
    let saved = read_tensors(&dir.join("adapter_model.safetensors"));
    for (name, sizes) in expected["sizes"].as_object().unwrap() {
        let alive: Vec<f32> =
            sizes.as_array().unwrap().iter().map(|s| s.as_f64().unwrap() as f32).filter(|s| *s != 0.0).collect();
        let ours = common::values(&saved[&format!("base_model.model.{name}")]);
        assert_eq!(ours.len(), alive.len(), "{name}");
        assert!(ours.iter().zip(&alive).all(|(a, b)| (a - b).abs() < 1e-4), "{name}: {ours:?} {alive:?}");
    }
}

/// PiSSA and OLoRA change nothing at the beginning; converted, an adapter is plain LoRA on the untouched base.
#[test]
fn converted_adapters_serve_the_untouched_base() {
    for init in ["pissa", "pissa_niter_8", "olora"] {
        let case = Case::open("llama");
        let home = tempfile::tempdir().unwrap();
        let settings = |convert: bool| {
            json!({
                "finetuning_type": "lora", "lora_rank": 3, "init_lora_weights": init, "pissa_convert": convert,
                "max_steps": 4, "learning_rate": 0.01, "lr_scheduler_type": "constant",
            })
        };
        let (plain, steps) = train(&case, &home.path().join("plain"), settings(false));
        let begun = case.expected.ids.iter().map(|ids| ids.len() - 1).sum::<usize>() as f64;
        let model = opened(&case, &(), &mut Store::default(), DType::F32);
        let all: Vec<Vec<bool>> = case.expected.ids.iter().map(|ids| vec![true; ids.len()]).collect();
        let batch = Batch::new(case.expected.ids.iter().zip(&all).map(|(ids, all)| (ids.as_slice(), all.as_slice())));
        let loss = model.loss(&batch).unwrap() / begun;
        assert!((steps[0]["loss"] / loss - 1.0).abs() < 1e-4, "{init}: {} instead of {loss}", steps[0]["loss"]);
        let (converted, _) = train(&case, &home.path().join("converted"), settings(true));
        let config: Value = read_json(&converted.join("adapter_config.json"));
        assert_eq!((&config["r"], &config["init_lora_weights"]), (&json!(6), &json!(true)));
        let logits = |dir: &Path| {
            let tuning = adapters::read(dir).unwrap();
            let model = opened(&case, tuning.as_ref(), &mut Store::default(), DType::F32);
            model.logits(&case.expected.ids[0], &[case.expected.ids[0].len()]).unwrap()
        };
        let off = relative_distance(&logits(&converted), &logits(&plain));
        assert!(off < 1e-4, "{init}: {off}");
        assert!(relative_distance(&logits(&plain), &case.tensors["logits.0"]) > 1e-2, "{init}: nothing was learned");
    }
}

/// PiSSA and OLoRA leave of each base weight what PEFT leaves, whose decompositions are float32.
#[test]
fn what_is_left_of_the_base_is_what_peft_leaves() {
    for made in ["pissa", "olora"].map(made) {
        let tuning = adapters::read(&made.dir).unwrap();
        let model = opened(&made.case, tuning.as_ref(), &mut Store::default(), DType::F32);
        let mut compared = 0;
        for (name, linear) in model.linears() {
            let Some(left) = made.tensors.get(&format!("left.{name}.weight")) else { continue };
            let off = relative_distance(&linear.weight.get(), left);
            assert!(off < NEAR, "{}: {name} is off by {off}", made.name);
            assert!(relative_distance(left, &plain_weight(&made.case, &name)) > 0.05, "{}: {name}", made.name);
            compared += 1;
        }
        assert_eq!(compared, 6, "{}", made.name);
    }
}

/// Of several adapters the last is trained on top of the others, or with `create_new_adapter` a new one.
#[test]
fn adapters_are_stacked() {
    let (first, second) = (made("ia3"), made("bias-all"));
    let names = format!("{}, {}", first.dir.display(), second.dir.display());
    let params = ModelParams { adapter_name_or_path: Some(names.clone()), ..ModelParams::default() };
    let stack = adapters::read_all(&params.adapters()).unwrap().unwrap();
    let ids = &first.case.expected.ids[0];
    let logits = |case: &Case, tuning: &dyn Tuning| {
        let model = opened(case, tuning, &mut Store::default(), DType::F32);
        tuning.place(&model).unwrap();
        model.logits(ids, &[ids.len()]).unwrap()
    };
    let both = logits(&first.case, stack.as_ref());
    // The same in two steps: the first merged, the second on what came out.
    first.case.write_tokenizer();
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("merged");
    let config = json!({
        "model_name_or_path": first.case.model.path(), "adapter_name_or_path": first.dir, "export_dir": out,
        "export_dtype": "float32",
    });
    run(JobKind::Export, config, home.path());
    let tuning = adapters::read(&second.dir).unwrap();
    let model = opened_folder(&out, tuning.as_ref(), &mut Store::default(), DType::F32);
    tuning.place(&model).unwrap();
    assert!(relative_distance(&both, &model.logits(ids, &[ids.len()]).unwrap()) < NEAR);

    let new = json!({
        "finetuning_type": "lora", "lora_rank": 2, "adapter_name_or_path": names, "create_new_adapter": true,
        "max_steps": 1, "learning_rate": 0.0,
    });
    let (dir, steps) = train(&first.case, &home.path().join("new"), new);
    let config: Value = read_json(&dir.join("adapter_config.json"));
    assert_eq!((&config["r"], &config["bias"]), (&json!(2), &json!("none")));
    // It begins where the stack is.
    let further =
        json!({"finetuning_type": "lora", "adapter_name_or_path": names, "max_steps": 1, "learning_rate": 0.0});
    let (_, again) = train(&first.case, &home.path().join("further"), further);
    assert!((steps[0]["loss"] / again[0]["loss"] - 1.0).abs() < 1e-5, "{steps:?} {again:?}");
}

/// LoRA+ moves B faster: a step of Adam has the size of its rate.
#[test]
fn lora_plus_has_its_own_rate_for_b() {
    let (case, home) = (Case::open("llama"), tempfile::tempdir().unwrap());
    let settings = json!({
        "finetuning_type": "lora", "loraplus_lr_ratio": 8.0, "init_lora_weights": "false", "max_steps": 1,
        "learning_rate": 0.001, "lr_scheduler_type": "constant", "weight_decay": 0.0,
    });
    let mut begun = settings.clone();
    begun["learning_rate"] = json!(0.0);
    let [after, before] = [("run", settings), ("begun", begun)].map(|(name, settings)| {
        read_tensors(&train(&case, &home.path().join(name), settings).0.join("adapter_model.safetensors"))
    });
    for (name, after) in &after {
        let moved = distance(after, &before[name]);
        let expected = if name.contains("lora_B") { 0.008 } else { 0.001 };
        assert!((moved / expected - 1.0).abs() < 0.01, "{name} moved by {moved}");
    }
}

#[test]
fn frozen_layers_hold_no_gradient() {
    let case = Case::open("llama");
    for (layers, modules, extra, expected) in [
        (1, "all", "", vec!["model.layers.1."]),
        (-1, "all", "norm", vec!["model.layers.0.", "model.norm."]),
        (2, "mlp", "embed_tokens", vec!["model.layers.0.mlp.", "model.layers.1.mlp.", "model.embed_tokens."]),
    ] {
        let config = json!({
            "freeze_trainable_layers": layers, "freeze_trainable_modules": modules, "freeze_extra_modules": extra
        });
        let config: RunConfig = serde_json::from_value(config).unwrap();
        let tuning = adapters::adapter("freeze").unwrap().start(&config, None).unwrap();
        let mut store = Store::default();
        let model = opened(&case, tuning.as_ref(), &mut store, DType::F32);
        let (_, grads) = learn(&case, &model);
        let names = |part: &str| grads.iter().filter(|(name, _)| name.starts_with(part)).count();
        assert!(expected.iter().all(|part| names(part) > 0), "{layers} {modules}");
        assert_eq!(expected.iter().map(|part| names(part)).sum::<usize>(), grads.iter().count());
        assert_eq!(store.trainable().count(), grads.iter().count());
        assert_eq!(tuning.count(&model.config).unwrap().0, store.count());
        // The gradients are those of training everything.
        for (name, gradient) in grads.iter() {
            let expected = &case.tensors[&format!("grad.{name}")];
            assert!(relative_distance(gradient, expected) < 1e-4, "{name}");
        }
    }
}

/// What a plan counts is what is trained.
#[test]
fn counts_are_those_of_the_store() {
    for made in MADE.map(made).into_iter().filter(|made| made.name != "adalora") {
        let (tuning, mut store) = (adapters::read(&made.dir).unwrap(), Store::default());
        let model = opened(&made.case, tuning.as_ref(), &mut store, DType::F32);
        assert_eq!(tuning.count(&model.config).unwrap().0, store.count(), "{}", made.name);
    }
    for case in common::CASES.map(Case::open) {
        let model = opened(&case, &(), &mut Store::default(), DType::F32);
        let [mut named, mut built] = [
            model.config.tensors(),
            model.parameters().iter().map(|p| (p.name.clone(), p.get().elem_count() as u64)).collect(),
        ];
        named.sort();
        built.sort();
        assert_eq!(named, built, "{}", case.name);
    }
}

#[test]
fn nonsense_is_refused_with_its_field() {
    let case = Case::open("llama");
    case.write_tokenizer();
    let home = tempfile::tempdir().unwrap();
    for (settings, code, field, part) in [
        (json!({"finetuning_type": "lora", "lora_target": "q_porj"}), "no_target", "lora_target", "q_proj"),
        (json!({"finetuning_type": "lora", "rank_pattern": "q_proj"}), "bad_value", "rank_pattern", "q_proj=16"),
        (json!({"finetuning_type": "lora", "rank_pattern": {"q_proj": 0}}), "bad_value", "rank_pattern", "q_proj=16"),
        (json!({"finetuning_type": "lora", "init_lora_weights": "eva"}), "bad_value", "init_lora_weights", "olora"),
        (json!({"finetuning_type": "lora", "pissa_init": true, "lora_rank": 64}), "bad_rank", "lora_rank", "Lower"),
        (
            json!({"finetuning_type": "lora", "additional_target": "lm_haed"}),
            "bad_additional_target",
            "additional_target",
            "embed_tokens",
        ),
        (
            json!({"finetuning_type": "freeze", "freeze_trainable_layers": 0}),
            "nothing_trained",
            "freeze_trainable_layers",
            "2",
        ),
        (
            json!({"finetuning_type": "freeze", "freeze_trainable_modules": "atn"}),
            "no_target",
            "freeze_trainable_modules",
            "self_attn",
        ),
        (
            json!({"finetuning_type": "freeze", "freeze_extra_modules": "lm_haed"}),
            "no_target",
            "freeze_extra_modules",
            "embed_tokens",
        ),
        (
            json!({"finetuning_type": "ia3", "ia3_target": "k", "feedforward_modules": "d"}),
            "no_target",
            "feedforward_modules",
            "k",
        ),
        (json!({"finetuning_type": "oft", "oft_block_size": 8, "oft_rank": 4}), "oft_size", "oft_block_size", "0"),
        (json!({"finetuning_type": "adalora", "init_r": 4, "target_r": 8}), "bad_rank", "target_r", "init_r"),
        (json!({"finetuning_type": "adalora", "tinit": 5}), "no_budget_steps", "tinit", "Lower"),
        (
            json!({"finetuning_type": "lora", "quantization_bit": 4, "pissa_init": true}),
            "quantised_and_changed",
            "init_lora_weights",
            "init_lora_weights: true",
        ),
        (
            json!({
                "finetuning_type": "lora", "quantization_bit": 4, "create_new_adapter": true,
                "adapter_name_or_path": made("dora").dir,
            }),
            "quantised_and_changed",
            "adapter_name_or_path",
            "Export",
        ),
        (
            json!({"finetuning_type": "ia3", "adapter_name_or_path": made("oft").dir}),
            "adapter_kind",
            "adapter_name_or_path",
            "oft",
        ),
    ] {
        let config: RunConfig = serde_json::from_value(run_settings(&case, home.path(), settings.clone())).unwrap();
        let places = places(home.path());
        let Err(error) = engine::prepare::plan(&config, &places) else { panic!("{settings} was accepted") };
        let problems = error.into_problems();
        let found = problems.iter().find(|p| p.code == code).unwrap_or_else(|| panic!("{settings}: {problems:?}"));
        assert_eq!(found.field.as_deref(), Some(field), "{settings}");
        assert!(found.hint.contains(part), "{settings}: {}", found.hint);
        assert!(found.zh.as_ref().is_some_and(|zh| !zh.message.is_empty() && !zh.hint.is_empty()), "{found:?}");
    }
}

fn opened(case: &Case, attach: &dyn Attach, store: &mut Store, compute: DType) -> Model {
    opened_folder(case.model.path(), attach, store, compute)
}

fn opened_folder(folder: &Path, attach: &dyn Attach, store: &mut Store, compute: DType) -> Model {
    let files = ModelFiles::open(folder).unwrap();
    let config = family(files.config()).unwrap().config(files.config()).unwrap();
    build(&config, &Source::Files(&files), attach, store, &Device::Cpu, compute).unwrap()
}

fn plain_weight(case: &Case, name: &str) -> Tensor {
    read_tensors(&case.model.path().join("model.safetensors"))[&format!("{name}.weight")].clone()
}

fn check_logits(made: &Made, model: &Model) {
    for (n, ids) in made.case.expected.ids.iter().enumerate() {
        let logits = model.logits(ids, &[ids.len()]).unwrap();
        let off = relative_distance(&logits, &made.tensors[&format!("logits.{n}")]);
        assert!(off < NEAR, "{}: logits of sequence {n} are off by {off}", made.name);
    }
}

fn batch(case: &Case) -> Batch {
    let masks: Vec<Vec<bool>> = case.expected.mask.iter().map(|m| m.iter().map(|m| *m == 1).collect()).collect();
    Batch::new(case.expected.ids.iter().zip(&masks).map(|(ids, mask)| (ids.as_slice(), mask.as_slice())))
}

/// Mean loss over the targets, and its gradients.
fn learn(case: &Case, model: &Model) -> (f64, Grads) {
    let (batch, mut grads) = (batch(case), Grads::default());
    let targets = batch.targets.len() as f64;
    (model.learn(&batch, 1.0 / targets as f32, 0, &mut grads).unwrap() / targets, grads)
}

/// Settings of a run over both texts of a case in one batch; writes them as a dataset.
fn run_settings(case: &Case, home: &Path, more: Value) -> Value {
    let words = |ids: &Vec<u32>| ids.iter().map(|id| format!("t{id}")).collect::<Vec<_>>().join(" ");
    let rows: Vec<_> = case.expected.ids.iter().map(|ids| json!({"text": words(ids)})).collect();
    let info = json!({"two": {"file_name": "two.json", "columns": {"prompt": "text"}}});
    std::fs::create_dir_all(home).unwrap();
    std::fs::write(home.join("two.json"), json!(rows).to_string()).unwrap();
    std::fs::write(home.join("dataset_info.json"), info.to_string()).unwrap();
    let mut settings = json!({
        "model_name_or_path": case.model.path(), "stage": "pt", "compute_type": "fp32", "packing": false,
        "dataset": "two", "dataset_dir": home, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 1,
        "save_steps": 0, "max_steps": 4,
    });
    settings.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    settings
}

/// Trains; gives the folder and the values of each step.
fn train(case: &Case, home: &Path, more: Value) -> (PathBuf, Vec<BTreeMap<String, f64>>) {
    case.write_tokenizer();
    let ended = run(JobKind::Train, run_settings(case, home, more), home);
    let steps = ended.steps().cloned().collect();
    (ended.dir, steps)
}

fn run(kind: JobKind, config: Value, home: &Path) -> Ended {
    let ended = jobs::job(home, &home.join("run"), kind, config_of(config), None);
    assert_eq!(ended.outcome, Outcome::Succeeded, "{:?}", ended.events.last());
    ended
}
