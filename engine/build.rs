//! Tells the code that turns rows into tokens apart from every other version of it, so that the cache of encoded datasets
//! never gives what other code has made; and the whole engine, so that a run says which code computed it.

use std::{
    collections::hash_map::DefaultHasher,
    fs,
    hash::{Hash, Hasher},
    io,
    path::{Path, PathBuf},
};

/// What encoding depends on: the readers, formats and templates, and the versions of tokenizers, minijinja and so on.
const ENCODING: [&str; 3] = ["src/data", "src/files/tokenizer.rs", "../Cargo.lock"];
/// What a result depends on.
const CODE: [&str; 3] = ["src", "../api/src", "../Cargo.lock"];

fn main() -> io::Result<()> {
    CODE.iter().for_each(|source| println!("cargo::rerun-if-changed={source}"));
    println!("cargo::rustc-env=ENCODING={}", hash(&ENCODING)?);
    println!("cargo::rustc-env=CODE={}", hash(&CODE)?);
    Ok(())
}

fn hash(sources: &[&str]) -> io::Result<String> {
    let mut files = Vec::new();
    sources.iter().try_for_each(|source| list(Path::new(source), &mut files))?;
    files.sort();
    let mut hash = DefaultHasher::new();
    for file in files {
        fs::read(file)?.hash(&mut hash);
    }
    Ok(format!("{:016x}", hash.finish()))
}

fn list(path: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    if !path.is_dir() {
        files.push(path.into());
        return Ok(());
    }
    fs::read_dir(path)?.try_for_each(|entry| list(&entry?.path(), files))
}
