//! Datasets of hubs: which files of a repository hold the rows of an entry, and where they stand once downloaded.
//!
//! Files are found as the `datasets` library finds them: by the `configs` of the README's YAML, otherwise by their names.

mod files;

pub use files::choose;

use super::{Registry, info, preview};
use crate::{Error, Result};
use api::{
    Problem,
    data::DatasetInfo,
    hub::{FOLDER, HubName, HubSource, PullDataset, PullPlan, is_repo},
};
use serde_json::{Map, Value};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Names of a snapshot that are looked at; no repository of rows has more.
const MOST_FILES: usize = 200_000;
/// Folders within folders.
const DEEPEST: usize = 16;
/// The largest README that is read.
const LARGEST_README: u64 = 4 << 20;

/// The folder of a repository below `dir/.hub`.
pub fn folder(dir: &Path, hub: HubName, repo: &str) -> PathBuf {
    dir.join(FOLDER).join(hub.word()).join(format!("datasets--{}", repo.replace('/', "--")))
}

/// The downloaded files of a source, in order, from the first of `dirs` that has them; nothing if none has.
pub fn local(dirs: &[PathBuf], source: &HubSource) -> Option<Vec<PathBuf>> {
    let places = dirs.iter().flat_map(|dir| HubName::ALL.map(|hub| (dir, hub)));
    places.filter_map(|(dir, hub)| snapshot(dir, hub, source.on(hub)?)).find_map(|snapshot| {
        let chosen = choose(source, &names(&snapshot), &readme(&snapshot)).ok()?;
        Some(chosen.into_iter().map(|name| snapshot.join(name)).collect())
    })
}

/// What a download comes to: an entry by its name, or a repository by its id under a name that is free.
pub fn plan(dir: &Path, wanted: PullDataset, preferred: HubName) -> Result<PullPlan> {
    let PullDataset { id, hub, subset, split, name } = wanted;
    let registry = Registry::open(dir)?;
    let entry = registry.entries().iter().find(|entry| entry.name == id);
    let mut source = match entry.map(|entry| &entry.source) {
        Some(info::Source::Hub(source)) => source.clone(),
        Some(_) => return Err(not_on_a_hub(&id).into()),
        None if is_repo(&id) => match hub.unwrap_or(preferred) {
            HubName::Hf => HubSource { hf_hub_url: Some(id.clone()), ..HubSource::default() },
            HubName::Ms => HubSource { ms_hub_url: Some(id.clone()), ..HubSource::default() },
        },
        None => return Err(bad_id(&id).into()),
    };
    let given = source.clone();
    source.subset = subset.or(source.subset);
    source.split = split.or(source.split);
    let hub = match hub {
        Some(hub) => source.on(hub).map(|_| hub),
        None => source.hub(preferred),
    };
    let hub = hub.ok_or_else(|| nowhere(&id, &source))?;
    let repo = source.on(hub).unwrap_or_default();
    if !is_repo(repo) {
        return Err(bad_id(repo).into());
    }
    let made = || match entry {
        Some(entry) if source == given => entry.name.clone(),
        _ => name_of(&id, &source),
    };
    let name = name.unwrap_or_else(made);
    preview::check_name(&name)?;
    let taken = registry.entries().iter().any(|e| e.name == name && e.source != info::Source::Hub(source.clone()));
    if taken {
        return Err(preview::taken(&name));
    }
    Ok(PullPlan { name, hub, source })
}

/// Puts a downloaded dataset into `dataset_info.json` with the format of its first rows; an entry that names the same
/// files stays as it is. A dataset of no known format is kept too: its problem says so, and its columns can be named.
pub fn register(dir: &Path, plan: PullPlan) -> Result<DatasetInfo> {
    let PullPlan { name, source, .. } = plan;
    preview::check_name(&name)?;
    let files = local(&[dir.to_path_buf()], &source).ok_or_else(|| missing(&name, &source))?;
    let known =
        Registry::open(dir)?.entries().iter().any(|e| e.name == name && e.source == info::Source::Hub(source.clone()));
    if !known {
        let recognised = files.first().and_then(|file| preview::recognise(file, true).ok()).unwrap_or_default();
        let keys = serde_json::to_value(&source).map_err(|e| Error::Internal(e.to_string()))?;
        let mut entry: Map<String, Value> = keys.as_object().cloned().unwrap_or_default();
        entry.extend(recognised);
        preview::add(dir, &name, entry)?;
    }
    preview::one(dir, &name, None)
}

/// Deletes what was downloaded for a source, except what another entry reads.
pub fn forget(dir: &Path, source: &HubSource, others: &[info::Entry]) -> Result<()> {
    for hub in HubName::ALL {
        let Some(repo) = source.on(hub).filter(|repo| is_repo(repo)) else { continue };
        let is_shared = others.iter().any(|e| matches!(&e.source, info::Source::Hub(s) if s.on(hub) == Some(repo)));
        let folder = folder(dir, hub, repo);
        if !is_shared && folder.symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
            fs::remove_dir_all(&folder).map_err(Error::io(&folder))?;
        }
    }
    Ok(())
}

/// What to do about a dataset that isn't downloaded.
pub fn missing(name: &str, source: &HubSource) -> Problem {
    if source.hub(HubName::Hf).is_none() {
        return nowhere(name, source).field("dataset");
    }
    let shown = source.shown();
    Problem::new(
        "dataset_not_downloaded",
        format!("Dataset {name} is on a hub ({shown}) and not on this computer yet."),
        format!("数据集 {name} 在数据集库上（{shown}），尚未下载到本机。"),
    )
    .hint(
        format!("Press Download in the Data tab, or run `lathe data pull {name}`."),
        format!("请在“数据”页点击“下载”，或运行 `lathe data pull {name}`。"),
    )
    .field("dataset")
}

/// The folder of the files that a download left.
fn snapshot(dir: &Path, hub: HubName, repo: &str) -> Option<PathBuf> {
    let folder = is_repo(repo).then(|| folder(dir, hub, repo))?;
    let commit = fs::read_to_string(folder.join("refs").join(hub.revision())).ok()?;
    let commit = Some(commit.trim()).filter(|c| !c.is_empty() && c.bytes().all(|b| b.is_ascii_hexdigit()))?;
    Some(folder.join("snapshots").join(commit)).filter(|path| path.is_dir())
}

/// The text of a snapshot's README; nothing for one that is too large or not there.
fn readme(snapshot: &Path) -> String {
    let path = snapshot.join("README.md");
    let is_small = fs::metadata(&path).is_ok_and(|meta| meta.len() < LARGEST_README);
    if is_small { fs::read_to_string(&path).unwrap_or_default() } else { String::new() }
}

/// Files of a folder, with their paths below it.
fn names(snapshot: &Path) -> Vec<String> {
    let mut names = Vec::new();
    let mut folders = vec![(snapshot.to_path_buf(), String::new(), 0)];
    while let Some((folder, before, depth)) = folders.pop() {
        for item in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let Ok(name) = item.file_name().into_string() else { continue };
            let (path, name) = (item.path(), format!("{before}{name}"));
            if path.is_file() && names.len() < MOST_FILES {
                names.push(name);
            } else if path.is_dir() && depth < DEEPEST {
                folders.push((path, format!("{name}/"), depth + 1));
            }
        }
    }
    names
}

/// A dataset name out of an id: `owner/name` with `subset` and a split other than `train`.
fn name_of(id: &str, source: &HubSource) -> String {
    let last = id.rsplit('/').next().unwrap_or(id);
    let split = source.split.as_deref().filter(|split| *split != "train");
    let parts: Vec<&str> = [Some(last), source.subset.as_deref(), split].into_iter().flatten().collect();
    let word = |c: char| if c.is_alphanumeric() || "_-.".contains(c) { c } else { '_' };
    let name: String = parts.join("_").chars().map(word).take(64).collect();
    name.trim_start_matches('.').to_owned()
}

fn bad_id(id: &str) -> Problem {
    let shown: String = id.chars().take(100).collect();
    Problem::new(
        "hub_bad_id",
        format!("{shown:?} is neither a dataset of the list nor the id of one on a hub."),
        format!("“{shown}”既不是列表中的数据集，也不是有效的数据集编号。"),
    )
    .hint("Write it as owner/name, for example tatsu-lab/alpaca.", "请写成 所有者/名称，例如 tatsu-lab/alpaca。")
    .field("id")
}

fn not_on_a_hub(name: &str) -> Problem {
    Problem::new(
        "dataset_not_on_hub",
        format!("Dataset {name} isn't on a hub: its entry names a file or another place."),
        format!("数据集 {name} 不在数据集库上：其条目指向文件或其他位置。"),
    )
    .hint("Give the id of a dataset on a hub, owner/name.", "请填写数据集编号：所有者/名称。")
    .field("id")
}

/// No hub that Lathe speaks with, or not the one asked for, has it.
fn nowhere(name: &str, source: &HubSource) -> Problem {
    let shown = source.shown();
    Problem::new(
        "dataset_remote",
        format!("Dataset {name} can't be downloaded from there; its entry names {shown}."),
        format!("无法从该处下载数据集 {name}；其条目指向 {shown}。"),
    )
    .hint(
        "Lathe downloads from Hugging Face (hf_hub_url) and ModelScope (ms_hub_url): choose the other hub, or add one to the entry.",
        "Lathe 可从 Hugging Face（hf_hub_url）和 ModelScope（ms_hub_url）下载：请换一个，或在条目中补上。",
    )
    .field("id")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// A dataset folder in which a download left these files.
    fn downloaded(info: &str, repo: &str, files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(info::FILE), info).unwrap();
        let folder = folder(dir.path(), HubName::Ms, repo);
        fs::create_dir_all(folder.join("refs")).unwrap();
        fs::write(folder.join("refs/master"), "abc123").unwrap();
        for (name, text) in files {
            let path = folder.join("snapshots/abc123").join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        dir
    }

    const ROW: &str = "{\"instruction\": \"a\", \"output\": \"b\"}\n";

    #[test]
    fn an_entry_reads_what_was_downloaded_and_says_how_to_get_it() {
        let info = r#"{"x": {"hf_hub_url": "a/x", "ms_hub_url": "b/x"}, "y": {"hf_hub_url": "a/y"},
            "z": {"om_hub_url": "a/z"}, "t": {"ms_hub_url": "b/x", "split": "test"}}"#;
        let dir = downloaded(info, "b/x", &[("data/train-00000-of-00001.jsonl", ROW), ("README.md", "")]);
        let registry = Registry::open(dir.path()).unwrap();
        let files = |name: &str| registry.files(registry.entry(name).unwrap());
        assert!(files("x").unwrap()[0].ends_with("data/train-00000-of-00001.jsonl"));
        let problem = files("y").unwrap_err().into_problem();
        assert!(problem.hint.contains("lathe data pull y"), "{problem}");
        assert_eq!(files("t").unwrap_err().into_problem().code, "dataset_not_downloaded");
        assert_eq!(files("z").unwrap_err().into_problem().code, "dataset_remote");
        // From a dataset folder elsewhere, as well.
        let elsewhere = tempfile::tempdir().unwrap();
        fs::write(elsewhere.path().join(info::FILE), info).unwrap();
        let other = Registry::open(elsewhere.path()).unwrap().also_in(dir.path());
        assert_eq!(other.files(other.entry("x").unwrap()).unwrap(), files("x").unwrap());
    }

    #[test]
    fn a_pull_of_an_id_gets_a_name_and_an_entry() {
        let dir = downloaded(r#"{"f": {"file_name": "f.json"}}"#, "b/x", &[("en.jsonl", ROW)]);
        let wanted = |id: &str| PullDataset { id: id.into(), ..PullDataset::default() };
        let planned = plan(dir.path(), wanted("b/x"), HubName::Ms).unwrap();
        assert_eq!((planned.name.as_str(), planned.source.ms_hub_url.as_deref()), ("x", Some("b/x")));
        let info = register(dir.path(), planned.clone()).unwrap();
        assert_eq!((info.rows, info.problem), (1, None));
        // Once more, now by its name.
        assert_eq!(plan(dir.path(), wanted("x"), HubName::Hf).unwrap(), planned);
        assert_eq!(register(dir.path(), planned).unwrap().rows, 1);
        let named = PullDataset { split: Some("test".into()), ..wanted("x") };
        assert_eq!(plan(dir.path(), named, HubName::Hf).unwrap().name, "x_test");
        let code = |wanted: PullDataset| plan(dir.path(), wanted, HubName::Hf).unwrap_err().into_problem().code;
        assert_eq!(code(wanted("f")), "dataset_not_on_hub");
        assert_eq!(code(wanted("../x")), "hub_bad_id");
        assert_eq!(code(PullDataset { name: Some("f".into()), ..wanted("a/b") }), "dataset_taken");
        assert_eq!(code(PullDataset { hub: Some(HubName::Hf), ..wanted("x") }), "dataset_remote");
        // Deleted with what was downloaded.
        preview::forget(dir.path(), "x").unwrap();
        assert!(!folder(dir.path(), HubName::Ms, "b/x").exists());
    }
}
