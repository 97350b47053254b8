//! The committed corpus (`fuzz/corpus/TARGET`) replayed as an ordinary test, and a fuzzer without knowledge of the code, for
//! machines without nightly Rust: small changes to the corpus, one after another.

use std::{
    fs,
    io::Write,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

/// Name and function of each target.
pub type Targets = [(&'static str, fn(&[u8]))];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz")
}

fn corpus(target: &str) -> Vec<PathBuf> {
    let folder = folder().join("corpus").join(target);
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{target} has no corpus");
    files
}

/// Every file of the corpus: made by hand, or once found.
pub fn replay(targets: &Targets) {
    for (name, target) in targets {
        for file in corpus(name) {
            // Shown where the target panics.
            println!("{}", file.display());
            target(&fs::read(&file).unwrap());
        }
    }
}

/// A few changed files of each, always the same.
pub fn change_a_little(targets: &Targets) {
    for (name, target) in targets {
        mutate(name, *target, 1, |tried, _| tried < 60);
    }
}

/// For `LATHE_FUZZ_SECONDS` each (60), of one target alone with `LATHE_FUZZ_TARGET`; `fuzz/LEDGER.md` gets a line for each.
pub fn change_for_long(targets: &Targets) {
    let seconds = std::env::var("LATHE_FUZZ_SECONDS").map_or(60, |seconds| seconds.parse().unwrap());
    let only = std::env::var("LATHE_FUZZ_TARGET").unwrap_or_default();
    let seed = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
    for (name, target) in targets.iter().filter(|(name, _)| only.is_empty() || *name == only) {
        let tried = mutate(name, *target, seed | 1, |_, time| time < Duration::from_secs(seconds));
        record(name, tried, seconds, "0");
        println!("{name}: {tried} files in {seconds} s");
    }
}

/// A line of the ledger.
fn record(target: &str, executions: usize, seconds: u64, findings: &str) {
    let date = Command::new("date").args(["-u", "+%F"]).output().unwrap().stdout;
    let date = String::from_utf8_lossy(&date).trim().to_owned();
    let mut ledger = fs::OpenOptions::new().append(true).open(folder().join("LEDGER.md")).unwrap();
    writeln!(ledger, "| {target} | plain | {date} | {executions} | {seconds} | {findings} |").unwrap();
}

/// Runs the target on changed files of its corpus, as long as `go_on` says by their number and the time. A file that
/// breaks it is kept in the folder for temporary files, and its name told. Gives the number of files.
fn mutate(name: &str, target: fn(&[u8]), seed: u64, go_on: impl Fn(usize, Duration) -> bool) -> usize {
    let files: Vec<Vec<u8>> = corpus(name).iter().map(|file| fs::read(file).unwrap()).collect();
    let (mut random, mut tried, begun) = (Random(seed), 0, Instant::now());
    while go_on(tried, begun.elapsed()) {
        let mut bytes = files[random.below(files.len())].clone();
        for _ in 0..=random.below(6) {
            change(&mut bytes, &files, &mut random);
        }
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(&bytes))) {
            let path = std::env::temp_dir().join(format!("lathe-{name}-{tried}"));
            fs::write(&path, &bytes).unwrap();
            let said = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
            panic!("{name} breaks on {}: {said:?}", path.display());
        }
        tried += 1;
    }
    tried
}

/// One change: bytes replaced, taken out, doubled, put in from another file, or a number made extreme.
fn change(bytes: &mut Vec<u8>, files: &[Vec<u8>], random: &mut Random) {
    const WORDS: [&[u8]; 12] = [
        b"\"",
        b"\\u",
        b"[",
        b"}",
        b"\n",
        b"\0",
        b"\xFF\xFE",
        b"\xF0\x9D",
        b"{{",
        b"%}",
        b"1e999",
        b"\xFF\xFF\xFF\x7F",
    ];
    let at = random.below(bytes.len() + 1);
    let end = (at + random.below(16)).min(bytes.len());
    match random.below(7) {
        0 if at < bytes.len() => bytes[at] = random.next() as u8,
        1 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
        2 => drop(bytes.drain(at..end)),
        3 => {
            let part = bytes[at..end].to_vec();
            bytes.splice(at..at, part);
        }
        4 => drop(bytes.splice(at..at, WORDS[random.below(WORDS.len())].iter().copied())),
        5 => {
            let other = &files[random.below(files.len())];
            let from = random.below(other.len() + 1);
            let part = other[from..(from + random.below(64)).min(other.len())].to_vec();
            bytes.splice(at..at, part);
        }
        _ => bytes.truncate(at),
    }
}

/// xorshift64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}
