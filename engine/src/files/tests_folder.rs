//! Hugging Face folders, adapters, exports and names, on folders made in the test.

use super::{
    shard::Planned,
    tests::{numbers, open_bytes, problem_of, tiny_gguf},
    *,
};
use crate::Places;
use serde_json::json;
use std::fs;
use tempfile::TempDir;

const Q: &str = "model.layers.0.self_attn.q_proj.weight";

/// The tiny GGUF model as a Hugging Face folder `m`, exported in shards of `shard_bytes`.
fn tiny_folder(shard_bytes: u64) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m");
    let gguf = open_bytes_in(dir.path());
    export_to(&gguf, &path, shard_bytes).unwrap();
    (dir, path)
}

fn open_bytes_in(dir: &Path) -> ModelFiles {
    let path = dir.join("tiny.gguf");
    fs::write(&path, tiny_gguf().bytes()).unwrap();
    ModelFiles::open(&path).unwrap()
}

fn export_to(files: &ModelFiles, to: &Path, shard_bytes: u64) -> Result<Vec<PathBuf>> {
    let read = |name: &str| files.tensor(name, DType::F32, &Device::Cpu);
    write_model(to, files, &export::stored(files)?, shard_bytes, DType::F32, read, &mut |_, _| {})
}

fn values(files: &ModelFiles, name: &str) -> Vec<f32> {
    files.tensor(name, DType::F32, &Device::Cpu).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn edit_json(path: &Path, edit: impl FnOnce(&mut Value)) {
    let mut value: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    edit(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn an_exported_gguf_is_the_same_model_as_a_folder() {
    let gguf = open_bytes(&tiny_gguf().bytes()).unwrap();
    for (shard_bytes, shards) in [(u64::MAX, 1), (3000, 4), (1, 11)] {
        let (_dir, path) = tiny_folder(shard_bytes);
        let folder = ModelFiles::open(&path).unwrap();
        assert_eq!((folder.format(), folder.dtype()), ("safetensors", "f32"));
        assert_eq!(folder.sources.len(), shards);
        assert!(folder.names().eq(gguf_names().iter().map(String::as_str)));
        for name in folder.names() {
            assert_eq!(folder.shape(name).unwrap(), gguf_shape(name));
        }
        assert_eq!(values(&folder, "model.norm.weight"), numbers(16, 2));
        assert_eq!(folder.generation_eos(), [0]);
        assert_eq!(folder.config()["torch_dtype"], "float32");
        let tokenizer = folder.tokenizer().unwrap();
        let ids = |special| tokenizer.tokenizer.encode("ab a1<eos>", special).unwrap().get_ids().to_vec();
        assert_eq!((ids(false), ids(true)), (vec![6, 7, 9, 0], vec![1, 6, 7, 9, 0]));
        assert_eq!((tokenizer.bos, tokenizer.eos), (Some(("<bos>".into(), 1)), Some(("<eos>".into(), 0))));
        assert!(tokenizer.add_bos && tokenizer.chat_template.is_some());
        for name in TINY_FILES {
            assert!(path.join(name).exists(), "{name}");
        }
    }
    assert_eq!(gguf.format(), "gguf");
}

const TINY_FILES: [&str; 6] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
];

fn gguf_names() -> Vec<String> {
    open_bytes(&tiny_gguf().bytes()).unwrap().names().map(str::to_string).collect()
}

fn gguf_shape(name: &str) -> Vec<usize> {
    open_bytes(&tiny_gguf().bytes()).unwrap().shape(name).unwrap()
}

#[test]
fn an_export_keeps_the_files_and_writes_what_it_is_given() {
    let (dir, path) = tiny_folder(u64::MAX);
    edit_json(&path.join("config.json"), |config| config["_name_or_path"] = json!("/home/someone/model"));
    let files = ModelFiles::open(&path).unwrap();
    let to = dir.path().join("out");
    let mut heard = Vec::new();
    let double = |name: &str| Ok((files.tensor(name, DType::F32, &Device::Cpu)? * 2.0)?);
    let weights = export::stored(&files).unwrap();
    let written =
        write_model(&to, &files, &weights, 2000, DType::BF16, double, &mut |done, all| heard.push((done, all)))
            .unwrap();
    assert_eq!(heard.first().unwrap().0, 0);
    assert_eq!(heard.last().unwrap(), &(files.parameters() * 2, files.parameters() * 2));
    assert!(written.iter().all(|path| path.exists()) && written.len() > TINY_FILES.len());
    let out = ModelFiles::open(&to).unwrap();
    assert_eq!(out.dtype(), "bf16");
    assert_eq!(out.config()["torch_dtype"], "bfloat16");
    assert!(out.config().get("_name_or_path").is_none());
    for (a, b) in values(&out, Q).iter().zip(values(&files, Q)) {
        assert!((a - 2.0 * b).abs() <= 0.01 * b.abs());
    }
    let same = |name: &str| fs::read(path.join(name)).unwrap() == fs::read(to.join(name)).unwrap();
    assert!(same("tokenizer.json") && same("chat_template.jinja") && same("generation_config.json"));
    // An earlier export is replaced, without leaving shards of it.
    export_to(&files, &to, u64::MAX).unwrap();
    assert!(to.join("model.safetensors").exists() && !to.join("model.safetensors.index.json").exists());
}

#[test]
fn an_export_that_fails_leaves_nothing() {
    let (dir, path) = tiny_folder(u64::MAX);
    let files = ModelFiles::open(&path).unwrap();
    let to = dir.path().join("out");
    let weights = export::stored(&files).unwrap();
    let mut count = 0;
    let failing = |name: &str| {
        count += 1;
        if count == 4 { Err(Error::Internal("stop".into())) } else { files.tensor(name, DType::F32, &Device::Cpu) }
    };
    assert!(write_model(&to, &files, &weights, 1000, DType::F32, failing, &mut |_, _| {}).is_err());
    let wrong_shape = |_: &str| Ok(Tensor::zeros(3, DType::F32, &Device::Cpu)?);
    assert!(write_model(&to, &files, &weights, 1000, DType::F32, wrong_shape, &mut |_, _| {}).is_err());
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
    // A folder with other things, the model itself and the folder above it are no places.
    fs::create_dir(&to).unwrap();
    fs::write(to.join("thesis.docx"), "x").unwrap();
    assert!(problem_of(export_to(&files, &to, 1000)).1.contains("thesis.docx"));
    assert_eq!(problem_of(export_to(&files, &path, 1000)).0, "export_place");
    assert_eq!(problem_of(export_to(&files, dir.path(), 1000)).0, "export_place");
    assert!(to.join("thesis.docx").exists() && ModelFiles::open(&path).is_ok());
}

#[test]
fn tied_embeddings_are_not_written_twice() {
    let dir = tempfile::tempdir().unwrap();
    let (_keep, path) = tiny_folder(u64::MAX);
    let head = Planned { name: "lm_head.weight".into(), dtype: DType::F32, shape: vec![12, 16] };
    shard::write(&path.join("model-extra.safetensors"), &[head], |planned| {
        Ok(Tensor::zeros(planned.shape.as_slice(), DType::F32, &Device::Cpu)?)
    })
    .unwrap();
    fs::rename(path.join("model.safetensors"), path.join("model-main.safetensors")).unwrap();
    let files = ModelFiles::open(&path).unwrap();
    assert!(files.contains("lm_head.weight"));
    export_to(&files, &dir.path().join("out"), u64::MAX).unwrap();
    assert!(!ModelFiles::open(dir.path().join("out")).unwrap().contains("lm_head.weight"));
}

#[test]
fn broken_folders_are_problems_that_name_the_file() {
    let (dir, whole) = tiny_folder(3000);
    let damage = |case: &str, change: &dyn Fn(&Path)| {
        let path = dir.path().join(format!("case-{case}"));
        copy_folder(&whole, &path);
        change(&path);
        let result = ModelFiles::open(&path).and_then(|files| files.tokenizer());
        problem_of(result)
    };
    let remove = |name: &'static str| move |path: &Path| fs::remove_file(path.join(name)).unwrap();
    let write = |name: &'static str, text: &'static str| move |path: &Path| fs::write(path.join(name), text).unwrap();
    let only = |keep: &'static str| {
        move |path: &Path| {
            for entry in fs::read_dir(path).unwrap() {
                let entry = entry.unwrap();
                if entry.file_name().to_string_lossy().contains("safetensors") {
                    fs::remove_file(entry.path()).unwrap();
                }
            }
            if !keep.is_empty() {
                fs::write(path.join(keep), "x").unwrap();
            }
        }
    };
    let index = "model.safetensors.index.json";
    let second = "model-00002-of-00004.safetensors";
    type Change = Box<dyn Fn(&Path)>;
    let cases: Vec<(&str, &str, &str, Change)> = vec![
        ("a", "no_config", "config.json", Box::new(remove("config.json"))),
        ("b", "bad_model_file", "config.json", Box::new(write("config.json", "{\"a\": "))),
        ("c", "bad_model_file", "config.json", Box::new(write("config.json", "[]"))),
        ("d", "missing_shard", second, Box::new(remove(second))),
        ("e", "no_weights", "model.safetensors", Box::new(only(""))),
        ("f", "pickle", "pytorch_model.bin", Box::new(only("pytorch_model.bin"))),
        ("g", "pickle", "consolidated.00.pth", Box::new(only("consolidated.00.pth"))),
        ("h", "no_tokenizer", "tokenizer.json", Box::new(remove("tokenizer.json"))),
        ("i", "bad_model_file", "tokenizer.json", Box::new(write("tokenizer.json", "{}"))),
        ("j", "bad_model_file", index, Box::new(write(index, "{}"))),
        ("k", "bad_model_file", index, Box::new(write(index, r#"{"weight_map":{"a":"../x.safetensors"}}"#))),
        ("l", "bad_model_file", index, Box::new(write(index, r#"{"weight_map":{"a":"/x.safetensors"}}"#))),
        ("m", "file_truncated", second, Box::new(write(second, "1234"))),
        ("n", "bad_safetensors", second, Box::new(write(second, "\u{2}\0\0\0\0\0\0\0[]"))),
    ];
    for (case, code, word, change) in cases {
        let (got, message) = damage(case, &*change);
        assert!(got == code && message.contains(word), "{case}: {got}: {message}");
    }
    let (code, message) = damage("case-o", &|path| {
        edit_json(&path.join("tokenizer.json"), |tokenizer| tokenizer["model"]["vocab"]["zzz"] = json!(41));
    });
    assert!(code == "wrong_tokenizer" && message.contains("42") && message.contains("12"), "{message}");
}

#[test]
fn a_cut_or_lying_safetensors_is_a_problem() {
    let (dir, whole) = tiny_folder(u64::MAX);
    let bytes = fs::read(whole.join("model.safetensors")).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize + 8;
    let path = dir.path().join("cut.safetensors");
    let read = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        safetensors::read_header(&Source::open(&path).unwrap())
    };
    assert_eq!(read(&bytes).unwrap().len(), 11);
    for cut in (0..header + 64).chain((header..bytes.len()).step_by(131)) {
        let (code, message) = problem_of(read(&bytes[..cut]));
        assert!(code == "file_truncated" && message.contains("cut.safetensors"), "{cut}: {message}");
    }
    let with_header = |json: &str| {
        let mut out = (json.len() as u64).to_le_bytes().to_vec();
        out.extend(json.as_bytes());
        out.resize(out.len() + 64, 0);
        out
    };
    for json in [
        r#"{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,8]}}"#,
        r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}"#,
        r#"{"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}}"#,
        r#"{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}"#,
        r#"{"a":{"dtype":"Q7","shape":[1],"data_offsets":[0,4]}}"#,
        r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#,
        r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}"#,
        r#"{"a":{"dtype":"F32","shape":[17],"data_offsets":[0,68]}}"#,
        r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[18446744073709551612,18446744073709551615]}}"#,
        r#"{"a":1}"#,
        "[]",
    ] {
        problem_of(read(&with_header(json)));
    }
    let mut huge = bytes.clone();
    huge[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    assert_eq!(problem_of(read(&huge)).0, "bad_safetensors");
}

#[test]
fn a_file_that_is_no_model_is_refused_by_its_kind() {
    let dir = tempfile::tempdir().unwrap();
    for (name, code) in [
        ("model.pt", "pickle"),
        ("pytorch_model.BIN", "pickle"),
        ("model.safetensors", "not_a_model"),
        ("x.gguf", "file_truncated"),
        ("x.txt", "file_truncated"),
    ] {
        fs::write(dir.path().join(name), "GG").unwrap();
        assert_eq!(problem_of(ModelFiles::open(dir.path().join(name))).0, code, "{name}");
    }
    assert_eq!(problem_of(ModelFiles::open(dir.path().join("nothing"))).0, "not_found");
}

/// A file that is cut after it was opened: an error, and the process lives.
#[test]
fn weights_that_vanish_are_a_problem() {
    let (_dir, path) = tiny_folder(u64::MAX);
    let files = ModelFiles::open(&path).unwrap();
    let file = fs::OpenOptions::new().write(true).open(path.join("model.safetensors")).unwrap();
    file.set_len(2000).unwrap();
    let read = files.tensor("model.norm.weight", DType::F32, &Device::Cpu);
    assert_eq!(problem_of(read).0, "file_truncated");
}

#[test]
fn special_tokens_and_templates_are_found_wherever_they_stand() {
    let (_dir, path) = tiny_folder(u64::MAX);
    fs::remove_file(path.join("chat_template.jinja")).unwrap();
    fs::remove_file(path.join("special_tokens_map.json")).unwrap();
    let config = path.join("tokenizer_config.json");
    let open = || ModelFiles::open(&path).unwrap().tokenizer().unwrap();
    edit_json(&config, |config| {
        *config = json!({
            "bos_token": { "content": "<bos>", "lstrip": false }, "pad_token": null, "eos_token": "nowhere",
            "chat_template": [{ "name": "tool_use", "template": "T" }, { "name": "default", "template": "D" }],
            "added_tokens_decoder": {
                "12": { "content": "<new>", "special": true }, "77": { "content": "<far>", "special": true },
            },
        });
    });
    edit_json(&path.join("config.json"), |config| config["eos_token_id"] = json!([7, 0]));
    // The embedding has 12 rows, so the thirteenth token is too many.
    assert_eq!(problem_of(ModelFiles::open(&path).unwrap().tokenizer()).0, "wrong_tokenizer");
    let with_new = ModelTokenizer::open(&path).unwrap();
    assert_eq!(with_new.tokenizer.token_to_id("<new>"), Some(12));
    assert_eq!(with_new.tokenizer.token_to_id("<far>"), None);
    edit_json(&config, |config| config["added_tokens_decoder"] = json!({}));
    let tokenizer = open();
    assert_eq!(tokenizer.bos, Some(("<bos>".into(), 1)));
    assert_eq!((tokenizer.eos, tokenizer.pad), (None, None));
    assert_eq!(tokenizer.chat_template.as_deref(), Some("D"));
    assert!(tokenizer.add_bos, "the post-processor adds it");
    fs::write(path.join("special_tokens_map.json"), r#"{"eos_token": {"content": "<eos>"}}"#).unwrap();
    fs::write(path.join("chat_template.jinja"), "J").unwrap();
    edit_json(&config, |config| {
        config["add_bos_token"] = json!(false);
        config["eos_token"] = Value::Null;
    });
    let tokenizer = open();
    assert_eq!(tokenizer.eos, Some(("<eos>".into(), 0)));
    assert_eq!(tokenizer.chat_template.as_deref(), Some("J"));
    assert!(!tokenizer.add_bos);
    assert_eq!(ModelFiles::open(&path).unwrap().generation_eos(), [0]);
    fs::remove_file(path.join("generation_config.json")).unwrap();
    assert_eq!(ModelFiles::open(&path).unwrap().generation_eos(), [7, 0]);
}

#[test]
fn adapters_come_back_as_they_were_written() {
    let dir = tempfile::tempdir().unwrap();
    let tensor =
        |shape: (usize, usize), seed| Tensor::from_vec(numbers(shape.0 * shape.1, seed), shape, &Device::Cpu).unwrap();
    let module = "model.layers.0.self_attn.q_proj";
    let mut tensors: BTreeMap<String, Tensor> = BTreeMap::new();
    tensors.insert(format!("{module}.lora_A.weight"), tensor((2, 16), 1));
    tensors.insert(format!("{module}.lora_B.weight"), tensor((16, 2), 2));
    tensors.insert("lm_head.weight".into(), tensor((3, 16), 3).to_dtype(DType::BF16).unwrap());
    let config = AdapterConfig {
        base_model_name_or_path: Some("org/name\": x".into()),
        r: 2,
        lora_alpha: 4.0,
        target_modules: Some(Targets::Names(vec!["q_proj".into()])),
        ..AdapterConfig::default()
    };
    write_adapter(dir.path(), &config, &tensors).unwrap();
    let (read, back) = read_adapter(dir.path(), &Device::Cpu).unwrap();
    assert_eq!((read.r, read.lora_alpha, &read.target_modules), (2, 4.0, &config.target_modules));
    assert_eq!(read.base_model_name_or_path, config.base_model_name_or_path);
    assert!(read.unsupported().is_empty());
    assert!(back.keys().eq(tensors.keys()));
    let flat = |t: &Tensor| t.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    for (name, tensor) in &tensors {
        assert_eq!((back[name].dtype(), flat(&back[name])), (tensor.dtype(), flat(tensor)), "{name}");
    }
    let json: Value = serde_json::from_slice(&fs::read(dir.path().join("adapter_config.json")).unwrap()).unwrap();
    assert_eq!((&json["inference_mode"], &json["lora_alpha"]), (&json!(true), &json!(4)));
    assert_eq!(json.as_object().unwrap().len(), 36);
    assert!(json.as_object().unwrap().keys().is_sorted());
}

#[test]
fn adapters_of_others_are_read_tolerantly_and_bad_ones_are_problems() {
    let dir = tempfile::tempdir().unwrap();
    let open = || read_adapter(dir.path(), &Device::Cpu);
    assert!(problem_of(open()).1.contains("adapter_config.json"));
    let config = dir.path().join("adapter_config.json");
    fs::write(
        &config,
        r#"{"r": 4, "lora_alpha": 8, "bias": null, "target_modules": ".*_proj", "fan_in_fan_out": true, "lora_bias": true, "new": 1}"#,
    )
    .unwrap();
    assert!(problem_of(open()).1.contains("adapter_model.safetensors"));
    fs::write(dir.path().join("adapter_model.bin"), "x").unwrap();
    assert_eq!(problem_of(open()).0, "pickle");
    let names = ["base_model.model.a.lora_A.default.weight", "base_model.model.a.lora_magnitude_vector.default"];
    let plan = names.map(|name| Planned { name: name.into(), dtype: DType::F32, shape: vec![2] });
    let weights = dir.path().join("adapter_model.safetensors");
    shard::write(&weights, &plan, |_| Ok(Tensor::zeros(2, DType::F32, &Device::Cpu)?)).unwrap();
    let (read, tensors) = open().unwrap();
    assert!(tensors.keys().eq(["a.lora_A.weight", "a.lora_magnitude_vector"]));
    assert_eq!(read.target_modules, Some(Targets::Pattern(".*_proj".into())));
    assert_eq!(read.bias, "none");
    assert_eq!(read.unsupported(), [("lora_bias", &json!(true))]);
    assert_eq!(read.other["new"], 1);
    let bytes = fs::read(&weights).unwrap();
    for cut in [0, 7, 8, 100, bytes.len() - 1] {
        fs::write(&weights, &bytes[..cut]).unwrap();
        assert_eq!(problem_of(open()).0, "file_truncated", "{cut}");
    }
    for text in ["{\"r\": 0}", "{\"r\": -1}", "{\"r\": \"8\"}", "[]", "{"] {
        fs::write(&config, text).unwrap();
        assert_eq!(problem_of(open()).0, "bad_model_file", "{text}");
    }
}

#[test]
fn names_lead_to_models() {
    let (dir, tiny) = tiny_folder(u64::MAX);
    let places = Places { home: dir.path().join("home"), hub_cache: dir.path().join("hub") };
    fs::create_dir_all(places.models()).unwrap();
    copy_folder(&tiny, &places.models().join("starter"));
    copy_folder(&tiny, &places.models().join("mine"));
    fs::create_dir(places.models().join("empty")).unwrap();
    fs::write(places.models().join("small.gguf"), tiny_gguf().bytes()).unwrap();
    let cached = places.hub_cache.join("models--org--name");
    fs::create_dir_all(cached.join("refs")).unwrap();
    fs::create_dir_all(cached.join("snapshots")).unwrap();
    copy_folder(&tiny, &cached.join("snapshots").join("abc"));
    copy_folder(&tiny, &cached.join("snapshots").join("old"));
    fs::create_dir_all(places.hub_cache.join("models--org--half").join("blobs")).unwrap();

    let (code, _) = problem_of(locate("org/name", &places));
    assert_eq!(code, "incomplete_model");
    fs::write(cached.join("refs").join("main"), "../../..").unwrap();
    assert!(locate("org/name", &places).is_err());
    fs::write(cached.join("refs").join("main"), "abc\n").unwrap();
    for (name, path) in [
        ("starter", places.models().join("starter")),
        ("mine", places.models().join("mine")),
        ("small", places.models().join("small.gguf")),
        ("small.gguf", places.models().join("small.gguf")),
        ("org/name", cached.join("snapshots").join("abc")),
        (tiny.to_str().unwrap(), tiny.clone()),
    ] {
        assert_eq!(locate(name, &places).unwrap(), path, "{name}");
    }
    let Err(error) = locate("org/other", &places) else { panic!() };
    assert!(error.into_problem().hint.contains("lathe models pull org/other"));
    for name in ["", "../home", "nothing", "a/b/c", "x\0y"] {
        assert_eq!(problem_of(locate(name, &places)).0, "unknown_model", "{name}");
    }
    let models = list(&places);
    let seen: Vec<_> = models
        .iter()
        .map(|m| (m.name.as_str(), m.source.as_str(), m.problem.as_ref().map(|p| p.code.as_str())))
        .collect();
    assert_eq!(
        seen,
        [
            ("starter", "starter", None),
            ("empty", "home", Some("no_config")),
            ("mine", "home", None),
            ("small.gguf", "home", None),
            ("org/half", "hub", Some("incomplete_model")),
            ("org/name", "hub", None),
        ]
    );
    let small = &models[3];
    assert_eq!((small.format.as_str(), small.family.as_str(), small.context), ("gguf", "llama", 64));
    assert!(small.has_template && small.parameters > 0 && small.bytes > 0);
}
