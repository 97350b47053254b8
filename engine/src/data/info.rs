//! `dataset_info.json` as LLaMA-Factory defines it (its `data/parser.py` and `data/README.md`): which files are datasets,
//! and what their columns and roles are called.

use super::{Format, edit, format, hub};
use crate::{Error, Result, entry::unknown};
use api::{Problem, hub::HubSource};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// The file that lists the datasets of a folder.
pub const FILE: &str = "dataset_info.json";
/// Larger than any such file that people write.
const MAX_BYTES: u64 = 16 << 20;

/// The datasets of one folder. A bad entry carries its problem and hides nothing else.
#[derive(Clone, Debug)]
pub struct Registry {
    dir: PathBuf,
    /// Where downloads of hubs are looked for: the dataset folder, and Lathe's own where that is another.
    downloads: Vec<PathBuf>,
    entries: Vec<Entry>,
}

/// One dataset.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub name: String,
    pub source: Source,
    /// Name of the [`Format`].
    pub formatting: String,
    /// Rows hold a chosen and a rejected answer.
    pub ranking: bool,
    /// At most this many rows, if given.
    pub num_samples: Option<usize>,
    pub columns: Columns,
    pub tags: Tags,
    /// Whether it says what it was before its last change.
    pub changed: bool,
    /// Why it can't be used, if the entry itself is wrong.
    pub problem: Option<Problem>,
}

/// Where the rows are.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// File or folder, relative to the dataset folder, as written.
    File(String),
    /// On a hub (`hf_hub_url`, `ms_hub_url`, `om_hub_url`): read from what was downloaded.
    Hub(HubSource),
    /// By a script or in a cloud: named here, not on this computer.
    Remote(String),
}

/// Names of columns; `None` is a column that the dataset doesn't have.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Columns {
    pub prompt: Option<String>,
    pub query: Option<String>,
    pub response: Option<String>,
    pub history: Option<String>,
    pub messages: Option<String>,
    pub system: Option<String>,
    pub tools: Option<String>,
    pub images: Option<String>,
    pub videos: Option<String>,
    pub audios: Option<String>,
    pub chosen: Option<String>,
    pub rejected: Option<String>,
    pub kto_tag: Option<String>,
}

/// Names of keys and roles inside a message.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tags {
    pub role: Option<String>,
    pub content: Option<String>,
    pub user: Option<String>,
    pub assistant: Option<String>,
    pub observation: Option<String>,
    pub function: Option<String>,
    pub system: Option<String>,
}

impl Registry {
    /// Reads `dir/dataset_info.json`; a folder without one has no datasets yet. A file that is not JSON is a problem with
    /// line and column.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        let entries = read_raw(dir)?.iter().map(|(name, value)| Entry::parse(name, value)).collect();
        Ok(Self { dir: dir.to_path_buf(), downloads: vec![dir.to_path_buf()], entries })
    }

    /// Looks for downloads of hubs in the dataset folder `dir` as well.
    pub fn also_in(mut self, dir: &Path) -> Self {
        self.downloads.push(dir.to_path_buf());
        self
    }

    /// One dataset alone, whose file lies in `dir`.
    pub(super) fn of(dir: &Path, entry: Entry) -> Self {
        Self { dir: dir.to_path_buf(), downloads: Vec::new(), entries: vec![entry] }
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Every entry, in the order of the file.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The dataset of this name; an unknown name is a problem with the nearest known one, a bad entry its own problem.
    pub fn entry(&self, name: &str) -> Result<&Entry> {
        let entry = self.entries.iter().find(|entry| entry.name == name).ok_or_else(|| {
            let names = self.entries.iter().map(|entry| entry.name.as_str());
            unknown("unknown_dataset", ["dataset", "数据集"], name, names).field("dataset")
        })?;
        match &entry.problem {
            Some(problem) => Err(problem.clone().field("dataset").into()),
            None => Ok(entry),
        }
    }

    /// The files that hold the rows of `entry`, in order: one, or those of a folder by name. They lie in the dataset folder.
    pub fn files(&self, entry: &Entry) -> Result<Vec<PathBuf>> {
        let name = &entry.name;
        let file = match &entry.source {
            Source::File(file) => file,
            Source::Hub(source) => {
                return Ok(hub::local(&self.downloads, source).ok_or_else(|| hub::missing(name, source))?);
            }
            Source::Remote(place) => {
                return Err(Problem::new(
                    "dataset_remote",
                    format!("Dataset {name} comes from {place} and is not on this computer."),
                    format!("数据集 {name} 来自 {place}，不在本机。"),
                )
                .hint(
                    "Download its file, then upload it in the Data tab, or pick another dataset.",
                    "请先下载其文件并在“数据”页上传，或选择其他数据集。",
                )
                .field("dataset")
                .into());
            }
        };
        let path = confined(&self.dir, file).map_err(|problem| problem.field("dataset"))?;
        if !path.is_dir() {
            return Ok(vec![path]);
        }
        let (mut files, root) = (Vec::new(), self.dir.canonicalize().map_err(Error::io(&self.dir))?);
        for item in std::fs::read_dir(&path).map_err(Error::io(&path))? {
            let file = item.map_err(Error::io(&path))?.path();
            if file.is_file() && super::reader::kind(&file).is_some() {
                if file.canonicalize().is_ok_and(|real| !real.starts_with(&root)) {
                    return Err(outside(&file.display().to_string()).field("dataset").into());
                }
                files.push(file);
            }
        }
        files.sort();
        if files.is_empty() {
            let known = super::reader::known();
            return Err(Problem::new(
                "dataset_empty_folder",
                format!("Folder {file} of dataset {name} has no file that is read: {known}."),
                format!("数据集 {name} 的文件夹 {file} 中没有可读取的文件：{known}。"),
            )
            .hint("Put the data files there.", "请把数据文件放进去。")
            .field("dataset")
            .into());
        }
        Ok(files)
    }
}

impl Entry {
    /// An entry from its value in `dataset_info.json`; whatever is wrong becomes its `problem`.
    pub fn parse(name: &str, value: &Value) -> Self {
        let mut faults = Vec::new();
        let empty = Map::new();
        let map = value.as_object().unwrap_or_else(|| {
            faults.push(["it is not an object".to_string(), "它不是对象".to_string()]);
            &empty
        });
        let mut text = |key: &str| match map.get(key) {
            None | Some(Value::Null) => None,
            Some(Value::String(s)) if !s.is_empty() => Some(s.clone()),
            Some(other) => {
                faults.push([format!("{key} is {other}, not a text"), format!("{key} 是 {other}，不是文本")]);
                None
            }
        };
        let formatting = text("formatting").unwrap_or_else(|| "alpaca".into());
        let on_hub = HubSource {
            hf_hub_url: text("hf_hub_url"),
            ms_hub_url: text("ms_hub_url"),
            om_hub_url: text("om_hub_url"),
            subset: text("subset"),
            split: text("split"),
            folder: text("folder"),
        };
        let is_on_hub = [&on_hub.hf_hub_url, &on_hub.ms_hub_url, &on_hub.om_hub_url].into_iter().any(Option::is_some);
        let remote = text("script_url").or_else(|| text("cloud_file_name"));
        let source = match (remote, text("file_name")) {
            _ if is_on_hub => Source::Hub(on_hub),
            (Some(place), _) => Source::Remote(place),
            (None, Some(file)) => Source::File(file),
            (None, None) => {
                faults.push(["it has no file_name".into(), "没有 file_name".into()]);
                Source::File(String::new())
            }
        };
        let num_samples = map.get("num_samples").and_then(Value::as_u64).map(|n| n as usize);
        let ranking = map.get("ranking").and_then(Value::as_bool).unwrap_or(false);
        let mut columns = Columns::parse(map.get("columns"));
        let mut tags = Tags::parse(map.get("tags"));
        if formatting == "openai" {
            if !map.contains_key("columns") {
                columns.messages = Some("messages".into());
                columns.tools = Some("tools".into());
            }
            if !map.contains_key("tags") {
                tags = Tags::openai();
            }
        }
        let mut problem = faults.into_iter().next().map(|[en, zh]| {
            Problem::new(
                "bad_dataset_entry",
                format!("Entry {name} of {FILE}: {en}."),
                format!("{FILE} 的条目 {name}：{zh}。"),
            )
            .hint(
                format!("Mend the entry in {FILE}, or delete it and upload the file again."),
                format!("请修正 {FILE} 中的这一条目，或删除后重新上传文件。"),
            )
        });
        if problem.is_none() {
            problem = format(&formatting).err().map(|e| {
                let mut p = e.into_problem();
                p.message = format!("Entry {name} of {FILE}: {}", p.message);
                if let Some(zh) = &mut p.zh {
                    zh.message = format!("{FILE} 的条目 {name}：{}", zh.message);
                }
                p
            });
        }
        let changed = map.contains_key(edit::BEFORE);
        Self { name: name.into(), source, formatting, ranking, num_samples, columns, tags, changed, problem }
    }

    /// The format of its rows.
    pub fn format(&self) -> Result<&'static dyn Format> {
        format(&self.formatting)
    }
}

impl Columns {
    /// With `columns` present, what it doesn't name doesn't exist; the defaults apply only where it is absent.
    fn parse(value: Option<&Value>) -> Self {
        let column = |key: &str, default: &str| named(value, key, default);
        Self {
            prompt: column("prompt", "instruction"),
            query: column("query", "input"),
            response: column("response", "output"),
            history: column("history", ""),
            messages: column("messages", "conversations"),
            system: column("system", ""),
            tools: column("tools", ""),
            images: column("images", ""),
            videos: column("videos", ""),
            audios: column("audios", ""),
            chosen: column("chosen", ""),
            rejected: column("rejected", ""),
            kto_tag: column("kto_tag", ""),
        }
    }
}

impl Tags {
    /// OpenAI's own words, for `formatting: openai` without tags.
    fn openai() -> Self {
        let [role, content, user, assistant, observation, function, system] =
            ["role", "content", "user", "assistant", "tool", "function", "system"].map(|s| Some(s.to_string()));
        Self { role, content, user, assistant, observation, function, system }
    }

    /// By the same rule as columns.
    fn parse(value: Option<&Value>) -> Self {
        let tag = |key: &str, default: &str| named(value, key, default);
        Self {
            role: tag("role_tag", "from"),
            content: tag("content_tag", "value"),
            user: tag("user_tag", "human"),
            assistant: tag("assistant_tag", "gpt"),
            observation: tag("observation_tag", "observation"),
            function: tag("function_tag", "function_call"),
            system: tag("system_tag", "system"),
        }
    }
}

/// The value of `key` in an object that replaces all defaults when it is present.
fn named(object: Option<&Value>, key: &str, default: &str) -> Option<String> {
    match object {
        Some(Value::Object(map)) => map.get(key).and_then(Value::as_str).map(String::from),
        _ => Some(default.to_string()).filter(|s| !s.is_empty()),
    }
}

/// The object in `dir/dataset_info.json`, key order kept; empty where there is no file.
pub(super) fn read_raw(dir: &Path) -> Result<Map<String, Value>> {
    let path = dir.join(FILE);
    if !dir.is_dir() {
        return Err(Problem::new(
            "no_dataset_folder",
            format!("The dataset folder {} does not exist.", dir.display()),
            format!("数据集文件夹 {} 不存在。", dir.display()),
        )
        .hint("Check dataset_dir.", "请检查 dataset_dir。")
        .field("dataset_dir")
        .into());
    }
    let bytes = match std::fs::metadata(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Map::new()),
        Err(e) => return Err(Error::io(&path)(e)),
        Ok(meta) if meta.len() > MAX_BYTES => {
            let en = format!("{} has {} bytes, more than {MAX_BYTES}.", path.display(), meta.len());
            let zh = format!("{} 有 {} 字节，超过 {MAX_BYTES}。", path.display(), meta.len());
            return Err(Problem::new("dataset_info_too_large", en, zh).into());
        }
        Ok(_) => std::fs::read(&path).map_err(Error::io(&path))?,
    };
    Ok(super::reader::from_json(&path, &bytes).map_err(|problem| problem.field("dataset_dir"))?)
}

/// `file` in `dir`, if it exists and doesn't lead out of it, by `..` or by a link.
pub(super) fn confined(dir: &Path, file: &str) -> Result<PathBuf, Problem> {
    let relative = Path::new(file);
    let plain = |c: std::path::Component| matches!(c, std::path::Component::Normal(_) | std::path::Component::CurDir);
    if file.is_empty() || !relative.components().all(plain) {
        return Err(outside(file));
    }
    let path = dir.join(relative);
    let missing = |path: &Path| {
        Problem::new(
            "dataset_file_missing",
            format!("The data file {} does not exist.", path.display()),
            format!("数据文件 {} 不存在。", path.display()),
        )
        .hint("Put it there, or upload it in the Data tab.", "请放回该文件，或在“数据”页上传。")
    };
    let (Ok(real), Ok(root)) = (path.canonicalize(), dir.canonicalize()) else { return Err(missing(&path)) };
    if real.starts_with(&root) { Ok(path) } else { Err(outside(file)) }
}

fn outside(file: &str) -> Problem {
    Problem::new(
        "dataset_outside",
        format!("{file:?} leads out of the dataset folder."),
        format!("{file:?} 指向数据集文件夹之外。"),
    )
    .hint("Put the file into the dataset folder and name it there.", "请把文件放进数据集文件夹，只写其中的名字。")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn folder(info: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), info).unwrap();
        dir
    }

    #[test]
    fn columns_replace_all_defaults_when_present() {
        let dir = folder(
            r#"{"a": {"file_name": "a.json"}, "b": {"file_name": "b.json", "columns": {"prompt": "q"}},
                "c": {"hf_hub_url": "x/c", "file_name": "c.json", "formatting": "sharegpt", "tags": {"role_tag": "role"}}}"#,
        );
        let registry = Registry::open(dir.path()).unwrap();
        let [a, b, c] = registry.entries() else { panic!() };
        assert_eq!((a.formatting.as_str(), a.columns.query.as_deref()), ("alpaca", Some("input")));
        assert_eq!((b.columns.prompt.as_deref(), b.columns.response.as_deref()), (Some("q"), None));
        assert!(matches!(&c.source, Source::Hub(source) if source.hf_hub_url.as_deref() == Some("x/c")));
        assert_eq!((c.tags.role.as_deref(), c.tags.user.as_deref()), (Some("role"), None));
        assert_eq!(c.columns.messages.as_deref(), Some("conversations"));
    }

    #[test]
    fn a_bad_entry_hides_nothing_else() {
        let dir = folder(
            r#"{"bad": 3, "odd": {"file_name": "x.json", "formatting": "alpacca"}, "good": {"file_name": "g.json"}}"#,
        );
        let registry = Registry::open(dir.path()).unwrap();
        assert!(registry.entry("good").is_ok());
        let bad = registry.entry("bad").unwrap_err().into_problem();
        assert!(bad.message.contains("bad") && bad.zh.is_some(), "{bad:?}");
        let odd = registry.entry("odd").unwrap_err().into_problem();
        assert_eq!(odd.hint, "Did you mean alpaca?");
        let unknown = registry.entry("goood").unwrap_err().into_problem();
        assert_eq!(unknown.hint, "Did you mean good?");
    }

    #[test]
    fn broken_json_has_line_and_column() {
        let dir = folder("{\n  \"a\": {\"file_name\": \"a.json\"},\n  \"b\": oops\n}");
        let problem = Registry::open(dir.path()).unwrap_err().into_problem();
        assert!(problem.message.contains("line 3, column 8"), "{}", problem.message);
        assert!(problem.message.contains(FILE));
    }

    #[test]
    fn files_stay_in_the_folder() {
        let dir = folder("\u{feff}{}");
        assert!(Registry::open(dir.path()).unwrap().entries().is_empty());
        for file in ["../x.json", "/etc/passwd", "a/../../x", ""] {
            assert_eq!(confined(dir.path(), file).unwrap_err().code, "dataset_outside", "{file}");
        }
        assert_eq!(confined(dir.path(), "none.json").unwrap_err().code, "dataset_file_missing");
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink("/etc/passwd", dir.path().join("link.txt")).unwrap();
            assert_eq!(confined(dir.path(), "link.txt").unwrap_err().code, "dataset_outside");
            // Nor does a link in a folder of files.
            std::fs::create_dir(dir.path().join("many")).unwrap();
            std::os::unix::fs::symlink("/etc/passwd", dir.path().join("many/link.txt")).unwrap();
            std::fs::write(dir.path().join(FILE), r#"{"a": {"file_name": "many"}}"#).unwrap();
            let registry = Registry::open(dir.path()).unwrap();
            let leads_out = registry.files(registry.entry("a").unwrap()).unwrap_err().into_problem();
            assert_eq!(leads_out.code, "dataset_outside");
        }
    }
}
