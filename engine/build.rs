//! Tells the code that turns rows into tokens apart from every other version of it, so that the cache of encoded datasets
//! never gives what other code has made.

use std::{
    collections::hash_map::DefaultHasher,
    fs,
    hash::{Hash, Hasher},
    io,
    path::{Path, PathBuf},
};

/// What encoding depends on: the readers, formats and templates, and the versions of tokenizers, minijinja and so on.
const SOURCES: [&str; 3] = ["src/data", "src/files/tokenizer.rs", "../Cargo.lock"];

fn main() -> io::Result<()> {
    let mut files = Vec::new();
    for source in SOURCES {
        println!("cargo::rerun-if-changed={source}");
        list(Path::new(source), &mut files)?;
    }
    files.sort();
    let mut hash = DefaultHasher::new();
    for file in files {
        fs::read(file)?.hash(&mut hash);
    }
    println!("cargo::rustc-env=ENCODING={:016x}", hash.finish());
    Ok(())
}

fn list(path: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    if !path.is_dir() {
        files.push(path.into());
        return Ok(());
    }
    fs::read_dir(path)?.try_for_each(|entry| list(&entry?.path(), files))
}
