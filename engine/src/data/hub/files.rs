//! Which files of a repository hold the rows of a subset and a split.

use crate::{data::reader, entry::unknown};
use api::{Problem, hub::HubSource};
use regex::Regex;
use serde::Deserialize;
use std::{collections::BTreeMap, path::Path};

/// Longer patterns are no patterns of people.
const LONGEST_PATTERN: usize = 512;
/// Words in the names of files and folders that tell a split, as the `datasets` library knows them.
const WORDS: [(&str, &[&str]); 3] = [
    ("train", &["train", "training"]),
    ("validation", &["validation", "valid", "val", "dev"]),
    ("test", &["test", "testing", "eval", "evaluation"]),
];
/// Files that describe a dataset and hold no rows.
const ABOUT: [&str; 7] = [
    "dataset_info.json",
    "dataset_infos.json",
    "dataset_dict.json",
    "dataset.json",
    "state.json",
    "config.json",
    "requirements.txt",
];

/// The part of a README's YAML that counts here.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Card {
    configs: Vec<Config>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Config {
    config_name: String,
    data_files: Option<DataFiles>,
    data_dir: Option<String>,
    default: bool,
}

/// One pattern or several, for `train`; a pattern or several for each split.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum DataFiles {
    Patterns(OneOrMore),
    Splits(Vec<Split>),
    Map(BTreeMap<String, OneOrMore>),
}

#[derive(Debug, Deserialize)]
struct Split {
    split: String,
    path: OneOrMore,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

/// Of the `names` of a repository with this `readme`, those that hold the rows of `source`, in order.
pub fn choose(source: &HubSource, names: &[String], readme: &str) -> Result<Vec<String>, Problem> {
    let split = source.split();
    if split.contains(['[', '+']) {
        return Err(sliced(split));
    }
    let mut rows: Vec<&str> = names.iter().map(String::as_str).filter(|name| holds_rows(name)).collect();
    rows.sort_unstable();
    let configs = card(readme).configs;
    let config = pick(source.subset.as_deref(), &configs, &rows)?;
    let mut folder = source.folder.clone();
    if let Some(config) = config {
        if let Some(files) = &config.data_files {
            return by_patterns(&rows, &files.splits(), split);
        }
        folder = folder.or(config.data_dir.clone());
    } else if let Some(subset) = &source.subset {
        folder = folder.or(Some(subset.clone()).filter(|subset| subset != "default"));
    }
    let folder = folder.as_deref().map(|f| f.trim_matches('/')).filter(|f| !f.is_empty() && *f != ".");
    if let Some(folder) = folder {
        rows.retain(|name| name.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/')));
    }
    by_names(&rows, folder.map_or(0, |folder| folder.len() + 1), split)
}

impl DataFiles {
    fn splits(&self) -> Vec<(String, Vec<String>)> {
        match self {
            Self::Patterns(patterns) => vec![("train".into(), patterns.all())],
            Self::Splits(splits) => splits.iter().map(|s| (s.split.clone(), s.path.all())).collect(),
            Self::Map(map) => map.iter().map(|(split, patterns)| (split.clone(), patterns.all())).collect(),
        }
    }
}

impl OneOrMore {
    fn all(&self) -> Vec<String> {
        match self {
            Self::One(one) => vec![one.clone()],
            Self::More(more) => more.clone(),
        }
    }
}

/// The YAML between the two lines of `---` at the top; what can't be read says nothing.
fn card(readme: &str) -> Card {
    let text = readme.trim_start_matches('\u{FEFF}').replace("\r\n", "\n");
    let yaml = text.strip_prefix("---\n").and_then(|rest| rest.split_once("\n---"));
    yaml.and_then(|(yaml, _)| serde_saphyr::from_str(yaml).ok()).unwrap_or_default()
}

/// The configuration to read: the one asked for, the default one, or the only one. None where the card has none and
/// names decide.
fn pick<'a>(subset: Option<&str>, configs: &'a [Config], rows: &[&str]) -> Result<Option<&'a Config>, Problem> {
    let known = || configs.iter().map(|config| config.config_name.as_str());
    if let Some(subset) = subset {
        if let Some(config) = configs.iter().find(|config| config.config_name == subset) {
            return Ok(Some(config));
        }
        let is_folder = rows.iter().any(|name| name.strip_prefix(subset).is_some_and(|rest| rest.starts_with('/')));
        if is_folder || (subset == "default" && configs.is_empty()) {
            return Ok(None);
        }
        return Err(unknown("hub_no_subset", ["subset", "子集"], subset, known()).field("subset"));
    }
    let default = configs.iter().find(|config| config.default || config.config_name == "default");
    match (default, configs) {
        (Some(config), _) | (None, [config]) => Ok(Some(config)),
        (None, []) => Ok(None),
        (None, _) => Err(subset_missing(&known().collect::<Vec<_>>())),
    }
}

fn by_patterns(rows: &[&str], splits: &[(String, Vec<String>)], split: &str) -> Result<Vec<String>, Problem> {
    let Some((_, patterns)) = splits.iter().find(|(name, _)| name == split) else {
        return Err(no_split(split, &splits.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>()));
    };
    let mut chosen: Vec<String> = Vec::new();
    for pattern in patterns {
        let glob = glob(pattern).ok_or_else(|| bad_pattern(pattern))?;
        let matching = rows.iter().filter(|name| glob.is_match(name));
        for name in matching {
            if !chosen.iter().any(|c| c == name) {
                chosen.push((*name).to_owned());
            }
        }
    }
    if chosen.is_empty() { Err(nothing(split)) } else { Ok(chosen) }
}

/// By `SPLIT-00000-of-00005` where files have such names, otherwise by the words in names and folders, otherwise all are
/// `train`. `from`: where in a name the part begins that is looked at.
fn by_names(rows: &[&str], from: usize, split: &str) -> Result<Vec<String>, Problem> {
    let told = |of: fn(&str) -> Option<&str>| -> Vec<(&str, &str)> {
        rows.iter().filter_map(|name| Some((of(name.get(from..)?)?, *name))).collect()
    };
    let mut splits = told(sharded);
    if splits.is_empty() {
        splits = told(by_words);
    }
    if splits.is_empty() {
        splits = rows.iter().map(|name| ("train", *name)).collect();
    }
    let chosen: Vec<&str> = splits.iter().filter(|(of, _)| *of == split).map(|(_, name)| *name).collect();
    if chosen.is_empty() {
        let mut known: Vec<&str> = splits.iter().map(|(of, _)| *of).collect();
        known.sort_unstable();
        known.dedup();
        // A split that only the name of its file tells.
        let named = rows.iter().filter(|name| stem(name) == split).map(|name| (*name).to_owned());
        let named: Vec<String> = named.collect();
        return if named.is_empty() { Err(no_split(split, &known)) } else { Ok(named) };
    }
    Ok(of_one_kind(&chosen))
}

/// Beside rows there may be texts about them: the kind of file that most are of is read.
fn of_one_kind(names: &[&str]) -> Vec<String> {
    let kind = |name: &str| reader::kind(Path::new(name)).map(|(kind, _)| kind);
    let count = |of| names.iter().filter(|name| kind(name) == of).count();
    let most = names.iter().rev().map(|name| kind(name)).max_by_key(|of| count(*of)).flatten();
    names.iter().filter(|name| kind(name) == most).map(|name| (*name).to_owned()).collect()
}

fn holds_rows(name: &str) -> bool {
    let last = name.rsplit('/').next().unwrap_or(name);
    let hidden = name.split('/').any(|part| part.starts_with(['.', '_']));
    let about = ["README", "LICENSE", "NOTICE", "CITATION"].iter().any(|word| last.starts_with(word));
    !hidden && !about && !ABOUT.contains(&last) && reader::kind(Path::new(name)).is_some()
}

/// `train` of `data/train-00000-of-00005-0a1b.parquet`.
fn sharded(name: &str) -> Option<&str> {
    let last = name.rsplit('/').next()?;
    let at = last.find("-of-")?;
    let (before, after) = (last.get(..at)?, last.get(at + 4..)?);
    let is_number = |text: Option<&str>| text.is_some_and(|t| t.len() == 5 && t.bytes().all(|b| b.is_ascii_digit()));
    let (split, number) = before.rsplit_once('-')?;
    (is_number(Some(number)) && is_number(after.get(..5)) && !split.is_empty()).then_some(split)
}

/// The split that a word in the file's name tells, or in the names of its folders.
fn by_words(name: &str) -> Option<&str> {
    name.rsplit('/').find_map(|part| {
        let part = part.to_ascii_lowercase();
        let words: Vec<&str> = part.split(|c: char| "-._ 0123456789".contains(c)).collect();
        WORDS.iter().find(|(_, known)| known.iter().any(|word| words.contains(word))).map(|(split, _)| *split)
    })
}

fn stem(name: &str) -> &str {
    let last = name.rsplit('/').next().unwrap_or(name);
    last.split('.').next().unwrap_or(last)
}

/// A shell pattern with `*`, `**`, `?`, `[…]` and `{a,b}` as a regular expression; a folder stands for all below it.
fn glob(pattern: &str) -> Option<Regex> {
    if pattern.len() > LONGEST_PATTERN {
        return None;
    }
    let pattern = pattern.trim_start_matches("./").trim_start_matches('/');
    let mut out = String::from("^");
    let mut rest = pattern.chars().peekable();
    let mut braces = 0;
    while let Some(c) = rest.next() {
        match c {
            '*' if rest.next_if_eq(&'*').is_some() => {
                out.push_str(if rest.next_if_eq(&'/').is_some() { "(?:.*/)?" } else { ".*" });
            }
            '*' => out.push_str("[^/]*"),
            '?' => out.push_str("[^/]"),
            '[' => {
                let inside: String = rest.by_ref().take_while(|c| *c != ']').collect();
                let inside = inside.replace('\\', r"\\").replace('[', r"\[");
                out.push_str(&format!(
                    "[{}]",
                    inside.strip_prefix('!').map_or(inside.clone(), |not| format!("^{not}"))
                ));
            }
            '{' => {
                braces += 1;
                out.push_str("(?:");
            }
            '}' if braces > 0 => {
                braces -= 1;
                out.push(')');
            }
            ',' if braces > 0 => out.push('|'),
            c => out.push_str(&regex::escape(c.encode_utf8(&mut [0; 4]))),
        }
    }
    out.push_str(if pattern.ends_with('/') || pattern.is_empty() { ".*$" } else { "$" });
    Regex::new(&out).ok()
}

fn sliced(split: &str) -> Problem {
    Problem::new(
        "hub_split_slice",
        format!("split {split:?} is a part or a sum of splits; Lathe reads whole ones."),
        format!("split“{split}”是切片或多个划分之和；Lathe 只读取完整的划分。"),
    )
    .hint("Name one split, and set num_samples for a part of it.", "请写一个划分的名字，只取一部分可设 num_samples。")
    .field("split")
}

fn no_split(split: &str, known: &[&str]) -> Problem {
    if known.is_empty() {
        return nothing(split);
    }
    unknown("hub_no_split", ["split", "划分"], split, known.iter().copied()).field("split")
}

fn nothing(split: &str) -> Problem {
    let known = reader::known();
    Problem::new(
        "hub_no_data",
        format!("The repository has no data file for the split {split} of a kind that is read: {known}."),
        format!("该数据集的划分 {split} 没有可读取的数据文件：{known}。"),
    )
    .hint(
        "Look at its files on the hub; give --subset or --split if it has several.",
        "请查看其在数据集库上的文件；若有多个子集或划分，请指定 subset 或 split。",
    )
    .field("id")
}

fn subset_missing(known: &[&str]) -> Problem {
    let (en, zh) = (known.join(", "), known.join("、"));
    Problem::new(
        "hub_which_subset",
        format!("The dataset has {} subsets; one must be named.", known.len()),
        format!("该数据集有 {} 个子集，需要指定其中一个。", known.len()),
    )
    .hint(format!("Choose one: {en}."), format!("请选择：{zh}。"))
    .field("subset")
}

fn bad_pattern(pattern: &str) -> Problem {
    let shown: String = pattern.chars().take(80).collect();
    Problem::new(
        "hub_bad_pattern",
        format!("The README names its files by {shown:?}, which is no pattern."),
        format!("README 用“{shown}”指定文件，但它不是有效的模式。"),
    )
    .hint("Choose another subset.", "请选择其他子集。")
    .field("subset")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn chosen(subset: &str, split: &str, names: &[&str], readme: &str) -> Result<Vec<String>, String> {
        let given = |text: &str| Some(text.to_owned()).filter(|t| !t.is_empty());
        let source = HubSource { subset: given(subset), split: given(split), ..HubSource::default() };
        let names: Vec<String> = names.iter().map(|n| n.to_string()).collect();
        choose(&source, &names, readme).map_err(|problem| problem.code)
    }

    #[test]
    fn by_the_names_of_files() {
        let shards = [
            "README.md",
            "data/train-00001-of-00002.parquet",
            "data/train-00000-of-00002.parquet",
            "data/train_sft-00000-of-00001-0a1b.parquet",
            "data/test-00000-of-00001.parquet",
        ];
        let both = ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"];
        assert_eq!(chosen("", "", &shards, "").unwrap(), both);
        assert_eq!(
            chosen("default", "train_sft", &shards, "").unwrap(),
            ["data/train_sft-00000-of-00001-0a1b.parquet"]
        );
        assert_eq!(chosen("", "dev", &shards, "").unwrap_err(), "hub_no_split");

        let words = ["my_train.jsonl.gz", "x/dev/a.csv", "eval.json", "notes.txt", "constraint.json"];
        assert_eq!(chosen("", "train", &words, "").unwrap(), ["my_train.jsonl.gz"]);
        assert_eq!(chosen("", "validation", &words, "").unwrap(), ["x/dev/a.csv"]);
        assert_eq!(chosen("", "test", &words, "").unwrap(), ["eval.json"]);

        let plain = ["b.jsonl", "a.jsonl", "sources.txt", ".cache/x.jsonl", "model.bin", "dataset_infos.json"];
        assert_eq!(chosen("", "", &plain, "").unwrap(), ["a.jsonl", "b.jsonl"]);
        assert_eq!(chosen("", "b", &plain, "").unwrap(), ["b.jsonl"], "the file's own name");
        assert_eq!(chosen("", "test", &["a.zip"], "").unwrap_err(), "hub_no_data");
        assert_eq!(chosen("", "train[:10%]", &plain, "").unwrap_err(), "hub_split_slice");

        let folders = ["en/train.jsonl", "zh/train.jsonl"];
        assert_eq!(chosen("zh", "", &folders, "").unwrap(), ["zh/train.jsonl"]);
        assert_eq!(chosen("fr", "", &folders, "").unwrap_err(), "hub_no_subset");
        let source = HubSource { folder: Some("./en/".into()), ..HubSource::default() };
        assert!(choose(&source, &folders.map(String::from), "").is_err(), "a folder is named as it stands");
        let source = HubSource { folder: Some("en".into()), ..HubSource::default() };
        assert_eq!(choose(&source, &folders.map(String::from), "").unwrap(), ["en/train.jsonl"]);
    }

    #[test]
    fn by_the_configs_of_the_readme() {
        let names = ["README.md", "en/a-1.jsonl", "en/deep/b.jsonl", "zh/a.csv", "raw/x.parquet", "old/train.jsonl"];
        let readme = "---\nlicense: mit\nconfigs:\n- config_name: en\n  data_files: \"en/**/*.jsonl\"\n\
            - config_name: zh\n  data_files:\n  - split: full\n    path: [zh/*.csv]\n  - split: none\n    path: 'zh/[!a]*'\n\
            - config_name: raw\n  data_dir: raw\n\
            - config_name: map\n  data_files: {train: 'en/{a,b}-?.jsonl', test: old/}\n---\n# Words\n";
        assert_eq!(chosen("en", "", &names, readme).unwrap(), ["en/a-1.jsonl", "en/deep/b.jsonl"]);
        assert_eq!(chosen("zh", "full", &names, readme).unwrap(), ["zh/a.csv"]);
        assert_eq!(chosen("zh", "", &names, readme).unwrap_err(), "hub_no_split");
        assert_eq!(chosen("zh", "none", &names, readme).unwrap_err(), "hub_no_data");
        assert_eq!(chosen("raw", "", &names, readme).unwrap(), ["raw/x.parquet"]);
        assert_eq!(chosen("map", "", &names, readme).unwrap(), ["en/a-1.jsonl"]);
        assert_eq!(chosen("map", "test", &names, readme).unwrap(), ["old/train.jsonl"]);
        assert_eq!(chosen("", "", &names, readme).unwrap_err(), "hub_which_subset");
        let one = "---\r\nconfigs:\r\n- config_name: x\r\n  default: true\r\n  data_files: zh/a.csv\r\n- config_name: y\r\n---\r\n";
        assert_eq!(chosen("", "", &names, one).unwrap(), ["zh/a.csv"]);
        // A README that can't be read says nothing.
        for broken in ["---\nconfigs: [\n---\n", "---\nconfigs: 3\n---\n", "no yaml", "---\nconfigs:\n"] {
            assert_eq!(chosen("", "", &names, broken).unwrap(), ["old/train.jsonl"], "{broken:?}");
        }
    }
}
