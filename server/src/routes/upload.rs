//! Uploads: streamed to `uploads/`, counted, then moved into `datasets/`. Whatever fails, nothing is left behind.

use crate::{
    error::{Failure, Reply},
    home::{Home, is_name},
};
use api::Problem;
use axum::{
    extract::{Multipart, multipart::Field},
    http::StatusCode,
};
use cap_std::fs::{Dir, OpenOptions};
use std::{
    io,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};
use tokio::{fs::File, io::AsyncWriteExt};

/// Longest wait for the next piece.
const IDLE: Duration = Duration::from_secs(60);
/// Disk space that stays free.
const SPARE: u64 = 256 << 20;
/// The free space is looked at each time that so much was written.
const LOOK: u64 = 32 << 20;

/// A file in the dataset folder that belongs to no dataset yet. Dropped without [`keep`](Self::keep), it is deleted.
pub struct Uploaded {
    pub name: String,
    file: Removed,
}

/// A file of a folder that is deleted when this is dropped.
struct Removed {
    folder: Dir,
    name: Option<String>,
}

impl Uploaded {
    pub fn file_name(&self) -> String {
        self.file.name.clone().unwrap_or_default()
    }

    pub fn keep(mut self) {
        self.file.name = None;
    }

    /// Moves a file of `uploads/` that is whole into the dataset folder.
    pub fn take(home: &Home, upload: &str, name: String, stored: &str) -> Reply<Self> {
        let moved = || move_in(&home.uploads_dir()?, upload, home.datasets_dir()?, stored);
        Ok(Self { name, file: moved().map_err(not_stored)? })
    }

    /// Moves it back to where it came from.
    pub fn give_back(mut self, home: &Home, upload: &str) -> Reply<()> {
        let file = self.file.name.take().unwrap_or_default();
        let moved = || self.file.folder.rename(file, &home.uploads_dir()?, upload);
        moved().map_err(not_stored)
    }
}

impl Drop for Removed {
    fn drop(&mut self) {
        if let Some(name) = self.name.take() {
            let _ = self.folder.remove_file(name);
        }
    }
}

/// Reads the form: `file`, and `name` before or after it.
pub async fn receive(home: &Home, mut form: Multipart, limit: u64) -> Reply<Uploaded> {
    let (mut name, mut file) = (None, None);
    for _ in 0..16 {
        let field = tokio::time::timeout(IDLE, form.next_field()).await.map_err(|_| cut_off())?;
        let Some(field) = field.map_err(|_| cut_off())? else { break };
        match field.name() {
            Some("name") => name = Some(short_text(field).await?),
            Some("file") if file.is_none() => {
                let given = field.file_name().unwrap_or_default().to_owned();
                stored_name(&given)?;
                file = Some((given, store(home, field, limit).await?));
            }
            _ => {}
        }
    }
    let (given, part) = file.ok_or_else(no_file)?;
    let name = name.as_deref().map(str::trim).filter(|name| !name.is_empty());
    let (name, stored) = names(name, &given)?;
    Uploaded::take(home, part.name.as_deref().unwrap_or_default(), name, &stored)
}

/// The names of a dataset and of its file: the given ones if they are plain; the file's gives the dataset's.
pub fn names(name: Option<&str>, file: &str) -> Reply<(String, String)> {
    let stored = stored_name(file)?;
    let name = name.unwrap_or(stored.rsplit_once('.').map_or(stored.as_str(), |(stem, _)| stem)).to_owned();
    if is_dataset_name(&name) { Ok((name, stored)) } else { Err(bad_name(&name)) }
}

/// Refuses at once what says itself that it is too large, or larger than the disk; what is written is counted all the same.
pub fn check_length(home: &Home, bytes: u64, limit: u64) -> Reply<()> {
    if bytes > limit {
        return Err(too_large(limit));
    }
    let free = home.free().map_err(|e| Failure::io(["Storing the upload", "保存上传的文件"], &e))?;
    if bytes.saturating_add(SPARE) > free { Err(no_room(free)) } else { Ok(()) }
}

pub fn not_a_form() -> Failure {
    let problem =
        Problem::new("not_a_form", "The upload isn't multipart/form-data.", "上传的内容不是 multipart/form-data。");
    let problem = problem.hint("Send a form with the fields name and file.", "请发送含 name 和 file 字段的表单。");
    Failure::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, problem)
}

/// Writes a field to `uploads/`.
async fn store(home: &Home, mut field: Field<'_>, limit: u64) -> Reply<Removed> {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let name = format!("{}-{}.part", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let failed = |e: io::Error| Failure::io(["Storing the upload", "保存上传的文件"], &e);
    let folder = home.uploads_dir().map_err(failed)?;
    let out = folder.open_with(&name, OpenOptions::new().create_new(true).write(true)).map_err(failed)?;
    let mut out = File::from_std(out.into_std());
    let part = Removed { folder, name: Some(name) };
    let (mut bytes, mut room) = (0u64, Room::of(home));
    loop {
        let piece = tokio::time::timeout(IDLE, field.chunk()).await.map_err(|_| cut_off())?;
        let Some(piece) = piece.map_err(|_| cut_off())? else { break };
        bytes += piece.len() as u64;
        if bytes > limit {
            return Err(too_large(limit));
        }
        room.check(bytes)?;
        out.write_all(&piece).await.map_err(failed)?;
    }
    out.flush().await.map_err(failed)?;
    out.sync_all().await.map_err(failed)?;
    if bytes == 0 {
        return Err(empty_file());
    }
    Ok(part)
}

/// The disk's free space, looked at from time to time while something is written.
pub struct Room<'a> {
    home: &'a Home,
    looked: Option<u64>,
}

impl<'a> Room<'a> {
    pub fn of(home: &'a Home) -> Self {
        Self { home, looked: None }
    }

    /// A failure if too little is left once `written` bytes are.
    pub fn check(&mut self, written: u64) -> Reply<()> {
        if self.looked.is_some_and(|at| written.saturating_sub(at) < LOOK) {
            return Ok(());
        }
        self.looked = Some(written);
        let free = self.home.free().map_err(not_stored)?;
        if free < SPARE { Err(no_room(free)) } else { Ok(()) }
    }
}

pub fn empty_file() -> Failure {
    let problem = Problem::new("empty_file", "The file is empty.", "文件为空。");
    Failure::bad(problem.hint("Choose a file with rows.", "请选择含有数据的文件。").field("file"))
}

fn not_stored(error: io::Error) -> Failure {
    Failure::io(["Storing the dataset", "保存数据集"], &error)
}

/// Moves the upload under a name that no other file has.
fn move_in(from: &Dir, upload: &str, folder: Dir, name: &str) -> io::Result<Removed> {
    let (stem, ending) = name.rsplit_once('.').unwrap_or((name, ""));
    for number in 1..1000 {
        let name = if number == 1 { name.to_owned() } else { format!("{stem}-{number}.{ending}") };
        // Takes the name first; then the rename replaces only our own empty file.
        match folder.open_with(&name, OpenOptions::new().create_new(true).write(true)) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            Err(error) => return Err(error),
        }
        let moved = Removed { folder, name: Some(name.clone()) };
        from.rename(upload, &moved.folder, &name)?;
        return Ok(moved);
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

async fn short_text(mut field: Field<'_>) -> Reply<String> {
    let mut bytes = Vec::new();
    while let Some(piece) = field.chunk().await.map_err(|_| cut_off())? {
        bytes.extend_from_slice(&piece);
        if bytes.len() > 1024 {
            return Err(bad_name(&String::from_utf8_lossy(&bytes)));
        }
    }
    String::from_utf8(bytes).map_err(|e| bad_name(&e.to_string()))
}

/// The name that a file is stored under: the given one if it is plain, otherwise one made of its plain letters.
fn stored_name(given: &str) -> Reply<String> {
    if is_name(given) && given.contains('.') && given != "dataset_info.json" {
        return Ok(given.to_owned());
    }
    let is_hostile = given.contains(['/', '\\']) || given.contains("..") || given.chars().any(char::is_control);
    let ending = given.rsplit_once('.').map_or("", |(_, ending)| ending);
    let is_ending = !ending.is_empty() && ending.len() <= 8 && ending.bytes().all(|b| b.is_ascii_alphanumeric());
    if is_hostile || !is_ending || given == "dataset_info.json" {
        return Err(bad_file_name(given));
    }
    let stem = &given[..given.len() - ending.len() - 1];
    let plain: String =
        stem.chars().map(|c| if c.is_ascii_alphanumeric() || "_-".contains(c) { c } else { '-' }).collect();
    let plain: String = plain.trim_matches('-').chars().take(48).collect();
    let plain = if plain.is_empty() { "dataset" } else { &plain };
    let name = format!("{plain}.{ending}");
    if is_name(&name) { Ok(name) } else { Ok(format!("dataset.{ending}")) }
}

/// Letters and digits of any script, `_`, `-`; 64 at most.
fn is_dataset_name(name: &str) -> bool {
    (1..=64).contains(&name.chars().count())
        && name.starts_with(char::is_alphanumeric)
        && name.chars().all(|c| c.is_alphanumeric() || "_-".contains(c))
}

fn short(name: &str) -> String {
    name.chars().take(80).collect()
}

fn bad_name(name: &str) -> Failure {
    let name = short(name);
    let problem = Problem::new(
        "dataset_name",
        format!("{name:?} can't be the name of a dataset."),
        format!("{name:?} 不能作为数据集名称。"),
    );
    let problem = problem.hint(
        "Use letters, digits, _ and -, at most 64, beginning with a letter or digit.",
        "请使用字母、数字、汉字、_ 和 -，最多 64 个字符，并以字母、数字或汉字开头。",
    );
    Failure::bad(problem.field("name"))
}

fn bad_file_name(name: &str) -> Failure {
    let name = short(name);
    let problem = Problem::new("file_name", format!("{name:?} can't be the name of a dataset file."), {
        format!("{name:?} 不能作为数据集的文件名。")
    });
    let problem = problem.hint(
        "Rename it, for example to my-data.json or my-data.jsonl.",
        "请重命名，例如 my-data.json 或 my-data.jsonl。",
    );
    Failure::bad(problem.field("file"))
}

fn no_file() -> Failure {
    let problem = Problem::new("no_file", "The form has no file.", "表单中没有文件。");
    Failure::bad(problem.hint("Choose a file.", "请选择文件。").field("file"))
}

fn cut_off() -> Failure {
    let problem =
        Problem::new("cut_off", "The upload was cut off; nothing of it is kept.", "上传中断，未保留任何内容。");
    Failure::bad(problem.hint("Send it again.", "请重新上传。"))
}

fn too_large(limit: u64) -> Failure {
    let size = |bytes: u64| if bytes >= 1 << 30 { format!("{} GiB", bytes >> 30) } else { format!("{bytes} B") };
    let problem = Problem::new(
        "too_large",
        format!("The file is larger than {}.", size(limit)),
        format!("文件大于 {}。", size(limit)),
    );
    let problem =
        problem.hint("Split it, or put it into the dataset folder by hand.", "请拆分文件，或手动放入数据集文件夹。");
    Failure::new(StatusCode::PAYLOAD_TOO_LARGE, problem.field("file"))
}

fn no_room(free: u64) -> Failure {
    let (free, spare) = (free >> 20, SPARE >> 20);
    let problem = Problem::new(
        "disk_full",
        format!("{free} MiB of disk space are left, which is too little: {spare} MiB have to stay free."),
        format!("磁盘剩余 {free} MiB，空间不足：需保留 {spare} MiB。"),
    );
    Failure::new(
        StatusCode::INSUFFICIENT_STORAGE,
        problem.hint("Make room, then send it again.", "请腾出空间后重新上传。"),
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn stored_names_are_plain() {
        for (given, stored) in [
            ("data.json", "data.json"),
            ("My Data (1).jsonl", "My-Data--1.jsonl"),
            ("我的数据.json", "dataset.json"),
            (".json", "dataset.json"),
            ("-x.csv", "x.csv"),
        ] {
            assert_eq!(stored_name(given).unwrap(), stored);
        }
        for bad in [
            "",
            "x",
            "../x.json",
            "/etc/passwd",
            "a/b.json",
            "a\\b.json",
            "..\\x.json",
            "x..json/",
            "x\0.json",
            "x.j/n",
            "dataset_info.json",
            "C:\\x.json",
            "x.%2e%2e",
        ] {
            assert!(stored_name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn dataset_names_may_be_chinese() {
        for good in ["identity", "我的数据", "a-b_c", "9"] {
            assert!(is_dataset_name(good));
        }
        for bad in ["", "-a", "a b", "a/b", "../a", "a.b", "a\n", &"字".repeat(65)] {
            assert!(!is_dataset_name(bad), "{bad}");
        }
    }

    #[test]
    fn a_file_never_replaces_another() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("x.json"), "first").unwrap();
        std::fs::write(dir.path().join("1.part"), "second").unwrap();
        let open = || Dir::open_ambient_dir(dir.path(), cap_std::ambient_authority()).unwrap();
        let moved = move_in(&open(), "1.part", open(), "x.json").unwrap();
        assert_eq!(std::fs::read_to_string(dir.path().join("x-2.json")).unwrap(), "second");
        assert_eq!(std::fs::read_to_string(dir.path().join("x.json")).unwrap(), "first");
        assert!(!dir.path().join("1.part").exists());
        drop(moved);
        assert!(!dir.path().join("x-2.json").exists());
    }
}
