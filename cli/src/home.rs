//! The data folder at the first start: the starter model and the demo datasets are unpacked out of the binary.

use crate::outcome::{Failure, Outcome};
use api::Problem;
use rust_embed::{Embed, EmbeddedFile};
use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

/// Not in the CUDA worker, which travels alone: `lathe` unpacks it.
#[derive(Embed)]
#[cfg_attr(not(feature = "cuda"), folder = "../models/starter")]
#[cfg_attr(feature = "cuda", folder = "../models/none")]
#[allow_missing = true]
struct Starter;

#[derive(Embed)]
#[folder = "../datasets"]
#[allow_missing = true]
struct Datasets;

/// Makes the folder and what is missing in it. Files that are there stay as they are, so that nothing that a person
/// changed is lost; `dataset_info.json` as well, once it exists.
pub fn set_up(home: &Path) -> Outcome {
    for name in ["datasets", "models", "runs", "exports"] {
        let path = home.join(name);
        // Its owner's alone: conversations and datasets are private.
        DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(|e| Failure::io(&path, e))?;
    }
    unpack(&home.join("models/starter"), Starter::iter(), Starter::get)?;
    // Where the list exists, its owner decides what is in it: a set that was deleted doesn't come back.
    if !home.join("datasets/dataset_info.json").exists() {
        unpack(&home.join("datasets"), Datasets::iter(), Datasets::get)?;
    }
    Ok(())
}

/// The token that the studio asks for, where the data folder has a file `token`.
///
/// # Errors
/// If others than its owner may read the file: then it keeps nobody out.
pub fn token(home: &Path) -> Outcome<Option<String>> {
    let path = home.join("token");
    let mode = match fs::metadata(&path) {
        Ok(meta) => meta.permissions().mode() & 0o777,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Failure::io(&path, error)),
    };
    if mode & 0o077 != 0 {
        let shown = path.display();
        return Err(Failure::wrong(
            Problem::new(
                "token_readable",
                format!("Others may read {shown} (mode {mode:o})."),
                format!("其他用户可以读取 {shown}（权限 {mode:o}）。"),
            )
            .hint(format!("Run: chmod 600 {shown}"), format!("请运行：chmod 600 {shown}")),
        ));
    }
    let text = fs::read_to_string(&path).map_err(|e| Failure::io(&path, e))?;
    Ok(Some(text.trim().to_owned()))
}

fn unpack(
    folder: &Path,
    names: impl Iterator<Item = std::borrow::Cow<'static, str>>,
    get: impl Fn(&str) -> Option<EmbeddedFile>,
) -> Outcome {
    let mut names: Vec<_> = names.filter(|name| !name.starts_with('.')).collect();
    // The list of datasets last: what it names is there when it appears.
    names.sort_by_key(|name| name == "dataset_info.json");
    for name in names {
        let path = folder.join(name.as_ref());
        if path.exists() {
            continue;
        }
        if let Some(file) = get(&name) {
            write(&path, &file.data).map_err(|e| Failure::io(&path, e))?;
        }
    }
    Ok(())
}

/// Whole or not at all, also when two processes start at once.
fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let part = path.with_added_extension(format!("{}.part", std::process::id()));
    fs::write(&part, bytes)?;
    fs::rename(&part, path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_a_person_changed_stays() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("datasets/dataset_info.json");
        fs::create_dir_all(own.parent().unwrap()).unwrap();
        fs::write(&own, "{}").unwrap();
        set_up(dir.path()).unwrap();
        set_up(dir.path()).unwrap();
        assert_eq!(fs::read_to_string(&own).unwrap(), "{}");
        assert_eq!(fs::read_dir(own.parent().unwrap()).unwrap().count(), 1, "deleted sets don't come back");
        assert!(dir.path().join("runs").is_dir());
    }

    #[test]
    fn missing_files_are_unpacked() {
        let dir = tempfile::tempdir().unwrap();
        set_up(dir.path()).unwrap();
        for name in Datasets::iter().filter(|n| !n.starts_with('.')) {
            assert_eq!(
                fs::read(dir.path().join("datasets").join(name.as_ref())).unwrap(),
                &*Datasets::get(&name).unwrap().data
            );
        }
        assert_eq!(
            Starter::iter().filter(|n| !n.starts_with('.')).count(),
            fs::read_dir(dir.path().join("models/starter")).map_or(0, |d| d.count())
        );
    }
}
