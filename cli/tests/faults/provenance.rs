//! A run says what it was made of: it can be made again to the bit, and two runs can be held against each other.

use crate::common::{Home, lathe};
use serde_json::{Value, json};

fn object(output: &std::process::Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    serde_json::from_str(text.trim()).unwrap_or_else(|e| panic!("{e}: {text}{errors}"))
}

/// S: the same configuration gives the same file, and what doesn't is named.
#[test]
fn a_run_is_made_again_to_the_bit_and_what_differs_is_named() {
    let home = Home::new();
    let config = home.config(json!({"max_steps": 4, "lora_dropout": 0.1, "val_size": 0.1}));
    assert!(home.run("one", config.clone()).wait().success());
    let again = lathe(home.path(), &["rerun", "one", "--json"]).output().unwrap();
    let result = object(&again);
    assert_eq!((again.status.code(), &result["same"], &result["differences"]), (Some(0), &json!(true), &json!([])));
    assert!(result["results"]["adapter_model.safetensors"].as_str().unwrap().len() == 64);
    assert!(result["second"].as_str().unwrap().ends_with("runs/one-again"));

    // Other rows: the run is made again of something else, and that is what is told.
    let rows = home.path().join("datasets/numbers.json");
    let changed = std::fs::read_to_string(&rows).unwrap().replace("It is number", "This is No.");
    std::fs::write(&rows, changed).unwrap();
    let again = lathe(home.path(), &["rerun", "one", "--json"]).output().unwrap();
    let result = object(&again);
    assert_eq!((again.status.code(), &result["same"]), (Some(1), &json!(false)));
    let names: Vec<&str> =
        result["differences"].as_array().unwrap().iter().map(|d| d["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["data", "held_back", "adapter_model.safetensors"]);

    let mut other = config;
    other["seed"] = json!(7);
    assert!(home.run("two", other).wait().success());
    let output = lathe(home.path(), &["diff", "one", "two", "--json"]).output().unwrap();
    let result = object(&output);
    let of = |group: &str, name: &str| {
        let all = result["differences"].as_array().unwrap().iter();
        all.clone().find(|d| d["group"] == group && d["name"] == name).map(|d| d["values"].clone())
    };
    assert_eq!(of("config", "seed"), Some(json!([null, 7])));
    for (group, name) in [("input", "data"), ("input", "order"), ("result", "adapter_model.safetensors")] {
        assert!(of(group, name).is_some(), "{group} {name}: {result}");
    }
    assert!(
        of("metric", "train_loss").is_some() && of("input", "weights").is_none() && of("program", "code").is_none()
    );
    let text = lathe(home.path(), &["diff", "one", "two"]).output().unwrap();
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(text.lines().any(|line| line.starts_with("config") && line.contains("seed")), "{text}");

    for words in [&["rerun", "none"][..], &["diff", "one", "none"], &["diff", "one"]] {
        assert_eq!(lathe(home.path(), words).output().unwrap().status.code(), Some(2), "{words:?}");
    }
}
