//! Whether a checkpoint is whole: every file as its manifest says, and no other.

use super::manifest::{self, Manifest};
use crate::{
    Error, Result,
    files::{digest, tensors},
};
use api::Text;
use serde::Serialize;
use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

/// What is wrong with one file of a checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Fault {
    pub file: String,
    /// A clause that names the file.
    pub what: Text,
}

/// What stands in the folder of a checkpoint.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub path: PathBuf,
    /// Of a readable manifest.
    pub step: Option<u64>,
    pub epoch: f64,
    pub bytes: u64,
    pub files: usize,
    /// In all files of tensors.
    pub tensors: usize,
    pub values: u64,
    /// The run's best one, as its newest checkpoint says.
    pub best: bool,
    pub faults: Vec<Fault>,
}

impl Fault {
    fn new(file: &str, en: impl AsRef<str>, zh: impl AsRef<str>) -> Self {
        Self {
            file: file.into(),
            what: Text::new(format!("{file} {}", en.as_ref()), format!("{file} {}", zh.as_ref())),
        }
    }
}

/// The faults of one checkpoint as one clause.
pub fn told(faults: &[Fault]) -> Text {
    let joined = |language: &str, between: &str| {
        faults.iter().map(|fault| fault.what.get(language)).collect::<Vec<_>>().join(between)
    };
    Text::new(joined("en", "; "), joined("zh", "；"))
}

/// The manifest of a checkpoint, or what is wrong with it.
pub fn manifest(checkpoint: &Path) -> Result<Manifest, Fault> {
    let fault = |en: &str, zh: &str| Fault::new(manifest::FILE, en, zh);
    let path = checkpoint.join(manifest::FILE);
    let unreadable = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => fault("is missing", "缺失"),
        _ => fault(&format!("can't be read: {error}"), &format!("无法读取：{error}")),
    };
    if fs::metadata(&path).map_err(unreadable)?.len() > manifest::LARGEST {
        return Err(fault("is too large", "过大"));
    }
    let found = Manifest::parse(&fs::read(&path).map_err(unreadable)?)
        .map_err(|what| fault(&format!("can't be used: {}", what.en), &format!("无法使用：{}", what.zh)))?;
    match super::step_of(checkpoint) {
        Some(step) if step != found.step => {
            Err(fault(&format!("is that of step {}", found.step), &format!("属于第 {} 步", found.step)))
        }
        _ => Ok(found),
    }
}

/// What is damaged in a checkpoint; nothing if it is whole.
pub fn damage(checkpoint: &Path) -> Vec<Fault> {
    let manifest = match manifest(checkpoint) {
        Ok(manifest) => manifest,
        Err(fault) => return vec![fault],
    };
    let check = |(name, (size, sum)): (&String, &(u64, String))| {
        let path = checkpoint.join(name);
        match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Some(Fault::new(name, "is missing", "缺失"));
            }
            Err(error) => return Some(unreadable(name, &error)),
            Ok(found) if !found.is_file() => return Some(Fault::new(name, "is no file", "不是文件")),
            // Told without reading it all.
            Ok(found) if found.len() != *size => {
                let n = found.len();
                return Some(Fault::new(
                    name,
                    format!("has {n} bytes instead of {size}"),
                    format!("有 {n} 字节，应为 {size}"),
                ));
            }
            Ok(_) => {}
        }
        match digest::of_file(&path) {
            Err(error) => Some(unreadable(name, &error)),
            Ok((_, found)) => {
                (found != *sum).then(|| Fault::new(name, "has changed since it was written", "写出后被更改"))
            }
        }
    };
    let mut faults: Vec<Fault> = manifest.files.iter().filter_map(check).collect();
    faults.extend(foreign(checkpoint, &manifest));
    faults
}

/// Files that the manifest doesn't name. Hidden ones are the system's: nothing of a checkpoint reads them.
fn foreign(checkpoint: &Path, manifest: &Manifest) -> Vec<Fault> {
    let names = fs::read_dir(checkpoint).into_iter().flatten().flatten();
    let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names
        .filter(|name| name != manifest::FILE && !name.starts_with('.') && !manifest.files.contains_key(name))
        .collect();
    names.sort();
    names.iter().map(|name| Fault::new(name, "is not of this checkpoint", "不属于此检查点")).collect()
}

fn unreadable(name: &str, error: &io::Error) -> Fault {
    Fault::new(name, format!("can't be read: {error}"), format!("无法读取：{error}"))
}

/// All that [`damage`] finds, and what stands in the files: their tensors' names, types and shapes must be readable.
pub fn verify(checkpoint: &Path) -> Report {
    report(checkpoint, damage(checkpoint))
}

/// What stands in the files without reading all of them: a manifest that can't be used and headers of tensors.
pub fn glance(checkpoint: &Path) -> Report {
    report(checkpoint, manifest(checkpoint).err().into_iter().collect())
}

fn report(checkpoint: &Path, faults: Vec<Fault>) -> Report {
    let mut report = Report {
        path: checkpoint.into(),
        step: None,
        epoch: 0.0,
        bytes: 0,
        files: 0,
        tensors: 0,
        values: 0,
        best: false,
        faults,
    };
    let Ok(manifest) = manifest(checkpoint) else { return report };
    report.best = checkpoint.parent().is_some_and(|run| super::best(run).as_deref() == Some(checkpoint));
    (report.step, report.epoch) = (Some(manifest.step), manifest.cursor.epoch);
    (report.bytes, report.files) = (manifest.bytes(), manifest.files.len());
    for name in manifest.files.keys().filter(|name| name.ends_with(".safetensors")) {
        if report.faults.iter().any(|fault| fault.file == *name) {
            continue;
        }
        match tensors::shapes(&checkpoint.join(name)) {
            Ok(shapes) => {
                report.tensors += shapes.len();
                report.values +=
                    shapes.iter().map(|(_, shape)| shape.iter().map(|n| *n as u64).product::<u64>()).sum::<u64>();
            }
            Err(error) => {
                let problem = error.into_problem();
                let [en, zh] = ["en", "zh"].map(|language| problem.message_in(language).to_string());
                report.faults.push(Fault::new(
                    name,
                    format!("has no readable tensors: {en}"),
                    format!("中的张量无法读取：{zh}"),
                ));
            }
        }
    }
    report
}

/// Size and SHA-256 of each file of a flat folder.
pub(super) fn listing(dir: &Path) -> Result<BTreeMap<String, (u64, String)>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir).map_err(Error::io(dir))? {
        let path = entry.map_err(Error::io(dir))?.path();
        files.insert(super::name(&path), digest::of_file(&path).map_err(Error::io(&path))?);
    }
    Ok(files)
}
