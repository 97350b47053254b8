//! Hostile values and files, met by the real engine behind the real server.

use crate::desk::Studio;
use serde_json::{Value, json};
use std::{fs, os::unix::fs::PermissionsExt, process::Command};

/// M29: every numeric argument of the catalog, with every number that isn't for it. Problems name the field; nothing breaks.
#[test]
fn m29_every_numeric_argument_survives_every_number() {
    let studio = Studio::start_with(&[], &[]);
    let (_, catalog) = studio.ask("GET", "/api/catalog", None);
    let mut fields = Vec::new();
    numeric(&catalog, &mut fields);
    fields.sort();
    fields.dedup();
    assert!(fields.len() > 40, "{fields:?}");
    let numbers = [json!(-1), json!(1e308), json!(u64::MAX), json!("x"), json!([1]), json!(-0.5)];
    for number in numbers {
        // All at once: what is wrong is told of each.
        let mut config = json!({ "model_name_or_path": "starter", "dataset": "identity" });
        for field in &fields {
            config[field] = number.clone();
        }
        let (status, reply) = studio.ask("POST", "/api/check", Some(&config));
        assert_eq!(status, 200, "{number}: {reply}\n{}", studio.log());
        let named: Vec<_> = reply["problems"].as_array().unwrap().iter().filter_map(|p| p["field"].as_str()).collect();
        assert!(named.len() > 20, "{number}: only {named:?}");
        for problem in reply["problems"].as_array().unwrap() {
            assert!(!problem["zh"]["message"].as_str().unwrap_or_default().is_empty(), "{problem}");
        }
    }
}

/// Names of the properties that a schema calls numbers.
fn numeric(value: &Value, fields: &mut Vec<String>) {
    if let Some(properties) = value["properties"].as_object() {
        for (name, property) in properties {
            let kind = property["type"].to_string();
            if kind.contains("integer") || kind.contains("number") {
                fields.push(name.clone());
            }
        }
    }
    match value {
        Value::Object(all) => all.values().for_each(|value| numeric(value, fields)),
        Value::Array(all) => all.iter().for_each(|value| numeric(value, fields)),
        _ => {}
    }
}

/// M33: no archive is taken apart; what is uploaded as one is refused by its kind, and nothing of it is left.
#[test]
fn m23_m33_archives_are_refused() {
    let studio = Studio::start_with(&[], &[]);
    let before = fs::read_dir(studio.home.join("datasets")).unwrap().count();
    for name in ["a.zip", "a.tar", "a.tar.gz", "a.tgz", "a.7z", "a.rar", "a.zst", "a.json.zip"] {
        let body = format!(
            "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\r\nPK\u{3}\u{4}../../x\r\n--b--\r\n"
        );
        let (status, text) = studio.ask_text("POST", "/api/datasets", "multipart/form-data; boundary=b", &body);
        assert!(matches!(status, 400 | 422), "{name}: {status} {text}");
        let problem: Value = serde_json::from_str(&text).unwrap();
        assert!(!problem["problems"][0]["hint"].as_str().unwrap().is_empty(), "{name}: {text}");
    }
    assert_eq!(fs::read_dir(studio.home.join("datasets")).unwrap().count(), before);
    assert_eq!(fs::read_dir(studio.home.join("uploads")).unwrap().count(), 0);
}

/// M02, M03: there is no way to have a pickle loaded, also none with a flag.
#[test]
fn m03_no_argument_allows_pickle() {
    let studio = Studio::start_with(&[], &[]);
    let (_, catalog) = studio.ask("GET", "/api/catalog", None);
    let text = catalog.to_string();
    for word in ["trust_remote_code", "weights_only", "allow_pickle", "unsafe"] {
        let named = text.contains(&format!("\"{word}\":"));
        assert!(!named, "{word} is an argument");
    }
    let model = studio.home.join("models/old");
    fs::create_dir_all(&model).unwrap();
    fs::write(model.join("config.json"), r#"{"model_type": "llama"}"#).unwrap();
    for file in ["pytorch_model.bin", "model.pt", "model.ckpt", "model.pkl"] {
        fs::write(model.join(file), b"\x80\x04cos\nsystem\n").unwrap();
        let config = json!({ "model_name_or_path": "old", "dataset": "identity", "trust_remote_code": true });
        let (_, reply) = studio.ask("POST", "/api/check", Some(&config));
        let all = reply["problems"].to_string();
        assert!(all.contains("pickle formats are never loaded"), "{file}: {reply}");
        fs::remove_file(model.join(file)).unwrap();
    }
}

/// M36, S14: what a run and an export leave says nothing of where it was made or by whom.
#[test]
fn s14_exports_say_nothing_of_this_machine() {
    let studio = Studio::start_with(&[("USER", "canary-user")], &[]);
    let (status, job) = studio.ask(
        "POST",
        "/api/jobs",
        Some(&json!({ "kind": "train", "config": {
            "model_name_or_path": "starter", "dataset": "identity", "max_steps": 1, "finetuning_type": "lora",
        }})),
    );
    assert_eq!(status, 201, "{job}");
    let run = job["id"].as_str().unwrap().to_owned();
    let done = studio.until(&run, &["succeeded", "failed"]);
    assert_eq!(done["state"], "succeeded", "{done}");
    let adapter = studio.run(&run);
    let (status, job) = studio.ask(
        "POST",
        "/api/jobs",
        Some(&json!({ "kind": "export", "config": {
            "model_name_or_path": "starter", "adapter_name_or_path": adapter.to_str().unwrap(),
        }})),
    );
    assert_eq!(status, 201, "{job}");
    let export = job["id"].as_str().unwrap().to_owned();
    let done = studio.until(&export, &["succeeded", "failed"]);
    assert_eq!(done["state"], "succeeded", "{done}");
    let home = studio.home.to_str().unwrap();
    let exported = studio.home.join("exports").join(&export);
    let mut files: Vec<_> = fs::read_dir(&exported).unwrap().flatten().map(|entry| entry.path()).collect();
    assert!(files.len() > 3);
    files.extend(["adapter_config.json", "adapter_model.safetensors", "README.md"].map(|name| adapter.join(name)));
    for file in files.iter().filter(|file| file.is_file()) {
        let bytes = fs::read(file).unwrap();
        for secret in [home, "canary-user", "/root/", "/home/"] {
            let found = bytes.windows(secret.len()).any(|part| part == secret.as_bytes());
            assert!(!found, "{} has {secret}", file.display());
        }
    }
}

/// S10: what opens the studio is its owner's alone, and what was planted in the environment is in no answer.
#[test]
fn s10_the_data_folder_is_its_owners_alone() {
    let secrets = [("HF_TOKEN", "canary-hf"), ("MODELSCOPE_API_TOKEN", "canary-ms")];
    let studio = Studio::start_with(&secrets, &["--token", "canary-of-the-studio"]);
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&studio.home), 0o700);
    let (status, _) =
        studio.ask_text("POST", "/login", "application/x-www-form-urlencoded", "token=canary-of-the-studio");
    assert_eq!(status, 303);
    assert_eq!(mode(&studio.home.join("sessions")), 0o600);
    for path in
        ["/api/system", "/api/catalog", "/api/jobs", "/api/models", "/api/datasets", "/openapi.json", "/api/nothing"]
    {
        let (_, text) = studio.ask_text("GET", path, "text/plain", "");
        assert!(!text.contains("canary"), "{path}: {text}");
    }
    let (_, text) = studio.ask_text("POST", "/api/models/pull", "application/json", "{\"id\": \"a/b\"}");
    assert!(!text.contains("canary"), "{text}");
    let found = studio.files_with("canary");
    assert!(found.is_empty(), "{found:?}");
}

/// S01: beyond this machine only with a token, else the command line says so and ends with 2.
#[test]
fn s01_another_address_needs_a_token() {
    let dir = tempfile::tempdir().unwrap();
    for host in ["0.0.0.0", "::"] {
        let output = Command::new(env!("CARGO_BIN_EXE_lathe"))
            .args(["--host", host, "--port", "0", "--json", "--home"])
            .arg(dir.path())
            .env_remove("LATHE_TOKEN")
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2), "{host}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("needs_token"), "{output:?}");
    }
    // A token in the data folder that others can read is none.
    fs::write(dir.path().join("token"), "0123456789abcdef\n").unwrap();
    for (mode, expected) in [(0o644, Some(2)), (0o640, Some(2))] {
        fs::set_permissions(dir.path().join("token"), PermissionsExt::from_mode(mode)).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_lathe"))
            .args(["--port", "0", "--json", "--home"])
            .arg(dir.path())
            .env_remove("LATHE_TOKEN")
            .output()
            .unwrap();
        assert_eq!(output.status.code(), expected, "{output:?}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("token_readable"), "{output:?}");
    }
}

/// M37: the command line speaks to no server, so that no token of ours goes to whoever listens on a port.
#[test]
fn m37_the_token_is_given_to_nobody() {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src");
    let mut folders = vec![std::path::PathBuf::from(source)];
    let mut users = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            if entry.path().is_dir() {
                folders.push(entry.path());
                continue;
            }
            let text = fs::read_to_string(entry.path()).unwrap();
            assert!(!text.contains("bearer_auth") && !text.contains("AUTHORIZATION"), "{}", entry.path().display());
            if text.contains("environment.token") {
                users.push(entry.file_name().into_string().unwrap());
            }
        }
    }
    users.sort();
    assert_eq!(users, ["about.rs", "webui.rs"], "one says whether there is one, the server compares it");
}
