//! A run's configuration out of a YAML (or JSON) file and `key=value` words after or instead of it.

use api::{Problem, Problems, RunConfig};
use serde_json::Value;
use std::fs;
use std::path::Path;

/// Files larger than this are no configuration.
const LARGEST: u64 = 1 << 20;

/// Reads the words of `lathe train [RUN.yaml] [key=value …]`; later ones win.
pub fn read(words: &[String]) -> Result<RunConfig, Problems> {
    let mut problems = Problems::default();
    let mut config = RunConfig::default();
    let (file, words) = match words.split_first() {
        Some((first, rest)) if !first.contains('=') || Path::new(first).is_file() => (Some(first), rest),
        _ => (None, words),
    };
    if let Some(file) = file {
        match from_file(Path::new(file)) {
            Ok(read) => config = read,
            Err(problem) => problems.push(problem),
        }
    }
    for word in words {
        if config.set_word(word).is_err() {
            problems.push(
                Problem::new("usage", format!("{word:?} is not key=value."), format!("{word:?} 不是 key=value 形式。"))
                    .hint("Write, for example, learning_rate=1e-4.", "请写成例如 learning_rate=1e-4。"),
            );
        }
    }
    problems.or(config)
}

fn from_file(path: &Path) -> Result<RunConfig, Problem> {
    let shown = path.display();
    let size = fs::metadata(path).map_err(|e| engine::Error::io(path)(e).into_problem())?.len();
    if size > LARGEST {
        return Err(Problem::new(
            "config_too_large",
            format!("{shown} has {size} bytes, a configuration has at most {LARGEST}."),
            format!("{shown} 有 {size} 字节，配置文件最大为 {LARGEST} 字节。"),
        )
        .hint("Give the YAML file of a run.", "请给出运行的 YAML 文件。"));
    }
    let text = fs::read_to_string(path).map_err(|e| engine::Error::io(path)(e).into_problem())?;
    from_yaml(&text).map_err(|what| {
        Problem::new(
            "config_not_yaml",
            format!("{shown} is not a configuration: {what}."),
            format!("{shown} 不是有效的配置：{what}。"),
        )
        .hint("It holds one `key: value` a line.", "每行应为一个 `key: value`。")
    })
}

/// JSON is YAML; an empty file is an empty configuration.
fn from_yaml(text: &str) -> Result<RunConfig, String> {
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(RunConfig::default());
    }
    match serde_saphyr::from_str::<Value>(text) {
        Ok(Value::Object(map)) => Ok(RunConfig(map)),
        Ok(_) => Err("it is no map of keys to values".into()),
        Err(error) => {
            let text = error.without_snippet().to_string();
            Err(text.trim_end_matches('.').to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn words(words: &[&str]) -> Result<RunConfig, Problems> {
        read(&words.iter().map(|w| w.to_string()).collect::<Vec<_>>())
    }

    #[test]
    fn a_llama_factory_file_reads_as_it_is_and_words_win() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run.yaml");
        fs::write(
            &path,
            "### model\nmodel_name_or_path: a/b\nlearning_rate: 1.0e-4\nbf16: true\ndataset: x,y # two\nseed: 1\n",
        )
        .unwrap();
        let config = words(&[path.to_str().unwrap(), "seed=2", "--lora_rank=4"]).unwrap();
        assert_eq!(
            serde_json::to_string(&config).unwrap(),
            r#"{"model_name_or_path":"a/b","learning_rate":0.0001,"bf16":true,"dataset":"x,y","seed":2,"lora_rank":4}"#
        );
    }

    #[test]
    fn every_wrong_word_and_file_is_named() {
        let problems = words(&["missing.yaml", "seed", "a=1"]).unwrap_err().0;
        assert!(problems[0].message.contains("missing.yaml") && problems[1].message.contains("seed"), "{problems:?}");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run.yaml");
        for (text, what) in [("- a\n- b\n", "no map"), ("a: [1,\nb: 2\n", "line"), ("a: 1\na: 2\n", "a")] {
            fs::write(&path, text).unwrap();
            let problems = words(&[path.to_str().unwrap()]).unwrap_err().0;
            assert!(problems[0].message.contains(what), "{problems:?}");
        }
    }
}
