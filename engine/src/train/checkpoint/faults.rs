//! Crashes, full and faulty disks, damaged files: R02, R03, R06, R08, R09, R10 on the protocol itself. Every operation on the
//! disk goes through `files::disk`, so the lists of points below are the code's own: a new one is tested without being named.

use super::*;
use crate::{
    files::{
        atomic::write_atomically,
        disk::{Op, Verdict, observed},
        tensors,
    },
    random::Random,
};
use candle_core::Tensor;
use serde_json::json;
use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    io,
    rc::Rc,
};
use tempfile::TempDir;

/// How often random faults are tried, if the environment variable `LATHE_FAULTS` doesn't say.
fn times(usual: usize) -> usize {
    std::env::var("LATHE_FAULTS").ok().and_then(|times| times.parse().ok()).unwrap_or(usual)
}

/// A folder in memory, where there is one: a sync costs nothing there.
fn folder() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// Weights whose bytes tell their step.
fn values(step: u64, count: usize) -> BTreeMap<String, Tensor> {
    let row: Vec<f32> = (0..count).map(|i| step as f32 + i as f32 / 100.0).collect();
    BTreeMap::from([("layer.weight".to_string(), Tensor::from_vec(row, count, &Device::Cpu).unwrap())])
}

fn save(keeper: &mut Keeper, step: u64) -> Result<std::result::Result<Saved, api::Problem>> {
    let manifest = Manifest {
        step,
        run: "r".into(),
        cursor: Cursor { metrics: step, ..Cursor::default() },
        ..Manifest::default()
    };
    let optimizer = values(step + 1000, 40).into_iter().collect();
    keeper.save(manifest, &optimizer, &json!({"global_step": step}), |dir| {
        tensors::write(&dir.join("adapter_model.safetensors"), &values(step, 40))?;
        write_atomically(&dir.join("adapter_config.json"), "{}")
    })
}

/// A run folder with whole checkpoints of these steps.
fn run(steps: &[u64]) -> TempDir {
    let dir = folder();
    let mut keeper = Keeper::open(dir.path(), None, 0);
    steps.iter().for_each(|step| drop(save(&mut keeper, *step).unwrap().unwrap()));
    dir
}

/// What every test saves: one checkpoint more, and then the oldest goes.
fn next(dir: &Path) -> Result<std::result::Result<Saved, api::Problem>> {
    let mut keeper = Keeper::open(dir, Some(2), 0);
    let saved = save(&mut keeper, 15)?;
    if saved.is_ok() {
        keeper.prune(None, false)?;
    }
    Ok(saved)
}

fn newest_step(dir: &Path) -> Option<u64> {
    newest(dir).0.map(|(_, step)| step)
}

/// Which operations a fault is for.
type Kind = fn(&Op) -> bool;

/// An operation, as the crash model keeps it.
#[derive(Clone, Debug)]
enum Done {
    MakeDir(PathBuf),
    Create(PathBuf),
    Write(PathBuf, Vec<u8>),
    Sync(PathBuf),
    SyncDir(PathBuf),
    Rename(PathBuf, PathBuf),
    RemoveFile(PathBuf),
    RemoveDir(PathBuf),
}

/// The operations of `work`, with paths relative to `root`.
fn recorded(root: &Path, work: impl FnOnce()) -> Vec<Done> {
    let (all, base) = (Rc::new(RefCell::new(Vec::new())), root.to_path_buf());
    let list = all.clone();
    let observer = move |op: &Op| {
        let of = |path: &Path| path.strip_prefix(&base).unwrap().to_path_buf();
        let done = match op {
            Op::MakeDir(path) => Done::MakeDir(of(path)),
            Op::Create(path) => Done::Create(of(path)),
            Op::Write(path, bytes) => Done::Write(of(path), bytes.to_vec()),
            Op::Sync(path) => Done::Sync(of(path)),
            Op::SyncDir(path) => Done::SyncDir(of(path)),
            Op::Rename(from, to) => Done::Rename(of(from), of(to)),
            Op::RemoveFile(path) => Done::RemoveFile(of(path)),
            Op::RemoveDir(path) => Done::RemoveDir(of(path)),
            Op::Free(_) => return Ok(Verdict::Go),
        };
        list.borrow_mut().push(done);
        Ok(Verdict::Go)
    };
    observed(observer, work);
    all.take()
}

/// Makes every operation from the `at`-th on fail without effect: to the disk this is the end of the process.
fn ended_at(at: usize) -> impl FnMut(&Op) -> io::Result<Verdict> + 'static {
    let mut count = 0;
    move |op| {
        if !matches!(op, Op::Free(_)) {
            count += 1;
        }
        if count > at { Err(io::Error::other("the world has ended")) } else { Ok(Verdict::Go) }
    }
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap().flatten() {
        let place = to.join(entry.file_name());
        if entry.path().is_dir() {
            fs::create_dir(&place).unwrap();
            copy(&entry.path(), &place);
        } else {
            fs::copy(entry.path(), place).unwrap();
        }
    }
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().flatten().map(|e| e.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn r02_an_end_at_any_point_of_a_save_leaves_a_whole_checkpoint() {
    let template = run(&[5, 10]);
    let fresh = || {
        let dir = folder();
        copy(template.path(), dir.path());
        dir
    };
    let dir = fresh();
    let points = recorded(dir.path(), || drop(next(dir.path()).unwrap().unwrap()));
    assert!(points.len() >= 25, "{} points", points.len());
    for (at, point) in points.iter().enumerate() {
        for panics in [false, true] {
            let dir = fresh();
            let mut end = ended_at(at);
            let observer = move |op: &Op| end(op).inspect_err(|_| assert!(!panics, "the world has ended"));
            let work = || observed(observer, || next(dir.path()));
            let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            // It may be told only when it is there, and it is there only whole.
            let saved = matches!(&told, Ok(Ok(Ok(_))));
            let step = newest_step(dir.path()).unwrap();
            assert!(step == 15 || (step == 10 && !saved), "{point:?}: {step}, {told:?}");
            // The process that comes after it begins with a clean folder and saves.
            clear_leftovers(dir.path());
            assert!(names(dir.path()).iter().all(|name| step_of(Path::new(name)).is_some()), "{:?}", names(dir.path()));
            assert!(all(dir.path()).iter().all(|(_, path)| damage(path).is_empty()), "{point:?}");
            save(&mut Keeper::open(dir.path(), Some(2), 0), 20).unwrap().unwrap();
            assert_eq!(newest_step(dir.path()), Some(20), "{point:?}");
        }
    }
}

/// What a disk holds: files by number, with what was synced of them, and names in folders, of which some are not synced yet.
#[derive(Clone, Default)]
struct Disk {
    /// Content that lasts, and content that a running system sees.
    files: Vec<(Vec<u8>, Vec<u8>)>,
    /// Names that last, and what was done to names since, with the folder whose sync makes it last.
    names: BTreeMap<PathBuf, Entry>,
    pending: Vec<(PathBuf, Change)>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Entry {
    Folder,
    File(usize),
}

#[derive(Clone, Debug)]
enum Change {
    Put(PathBuf, Entry),
    Move(PathBuf, PathBuf),
    Drop(PathBuf),
}

impl Change {
    fn apply(&self, names: &mut BTreeMap<PathBuf, Entry>) {
        match self {
            Self::Put(path, entry) => drop(names.insert(path.clone(), *entry)),
            Self::Drop(path) => names.retain(|name, _| !name.starts_with(path)),
            Self::Move(from, to) => {
                let moved: Vec<_> =
                    names.iter().filter(|(name, _)| name.starts_with(from)).map(|(n, e)| (n.clone(), *e)).collect();
                if moved.is_empty() {
                    return;
                }
                names.retain(|name, _| !name.starts_with(from) && !name.starts_with(to));
                for (name, entry) in moved {
                    let rest = name.strip_prefix(from).unwrap();
                    names.insert(if rest == Path::new("") { to.clone() } else { to.join(rest) }, entry);
                }
            }
        }
    }
}

impl Disk {
    /// Takes in what stands in a folder, synced.
    fn of(root: &Path) -> Self {
        let mut disk = Self::default();
        let mut folders = vec![root.to_path_buf()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap().flatten() {
                let (path, name) = (entry.path(), entry.path().strip_prefix(root).unwrap().to_path_buf());
                if path.is_dir() {
                    disk.names.insert(name, Entry::Folder);
                    folders.push(path);
                } else {
                    let bytes = fs::read(path).unwrap();
                    disk.names.insert(name, Entry::File(disk.files.len()));
                    disk.files.push((bytes.clone(), bytes));
                }
            }
        }
        disk
    }

    /// Names as a running system sees them.
    fn seen(&self) -> BTreeMap<PathBuf, Entry> {
        let mut names = self.names.clone();
        self.pending.iter().for_each(|(_, change)| change.apply(&mut names));
        names
    }

    fn file(&self, path: &Path) -> usize {
        match self.seen()[path] {
            Entry::File(number) => number,
            Entry::Folder => panic!("{} is a folder", path.display()),
        }
    }

    fn change(&mut self, path: &Path, change: Change) {
        self.pending.push((path.parent().unwrap_or(Path::new("")).to_path_buf(), change));
    }

    fn apply(&mut self, done: &Done) {
        match done {
            Done::MakeDir(path) => self.change(path, Change::Put(path.clone(), Entry::Folder)),
            Done::Create(path) => {
                self.files.push(Default::default());
                self.change(path, Change::Put(path.clone(), Entry::File(self.files.len() - 1)));
            }
            Done::Write(path, bytes) => {
                let file = self.file(path);
                self.files[file].1.extend(bytes);
            }
            Done::Sync(path) => {
                let file = self.file(path);
                self.files[file].0 = self.files[file].1.clone();
            }
            Done::SyncDir(folder) => {
                let (lasting, pending) =
                    std::mem::take(&mut self.pending).into_iter().partition(|(of, _)| of == folder);
                self.pending = pending;
                let lasting: Vec<(PathBuf, Change)> = lasting;
                lasting.iter().for_each(|(_, change)| change.apply(&mut self.names));
            }
            Done::Rename(from, to) => self.change(to, Change::Move(from.clone(), to.clone())),
            Done::RemoveFile(path) | Done::RemoveDir(path) => self.change(path, Change::Drop(path.clone())),
        }
    }

    /// What stands there after a power cut. `keeps` says of each change of a name that was not synced whether it lasted,
    /// `length` how much of a file that was not synced did.
    fn after_a_cut(
        &self,
        mut keeps: impl FnMut(usize) -> bool,
        mut length: impl FnMut(usize, usize) -> usize,
    ) -> TempDir {
        let mut names = self.names.clone();
        for (i, (_, change)) in self.pending.iter().enumerate() {
            if keeps(i) {
                change.apply(&mut names);
            }
        }
        let root = folder();
        for (name, entry) in &names {
            let place = root.path().join(name);
            // A name in a folder whose own name was lost is lost with it.
            let held = name.parent().is_none_or(|p| p == Path::new("") || names.get(p) == Some(&Entry::Folder));
            match entry {
                _ if !held => {}
                Entry::Folder => fs::create_dir_all(place).unwrap(),
                Entry::File(number) => {
                    let (synced, seen) = &self.files[*number];
                    let mut bytes = seen[..length(synced.len(), seen.len())].to_vec();
                    // Of a file that grew without a sync, some systems keep the length and not the bytes.
                    if bytes.len() > synced.len() && number.is_multiple_of(2) {
                        bytes[synced.len()..].fill(0);
                    }
                    fs::create_dir_all(place.parent().unwrap()).unwrap();
                    fs::write(place, bytes).unwrap();
                }
            }
        }
        root
    }
}

#[test]
fn r03_every_crash_prefix_leaves_a_whole_checkpoint() {
    let dir = run(&[5, 10]);
    let mut disk = Disk::of(dir.path());
    let done = recorded(dir.path(), || drop(next(dir.path()).unwrap().unwrap()));
    let placed =
        done.iter().position(|op| matches!(op, Done::Rename(_, to) if to == Path::new("checkpoint-15"))).unwrap();
    let lasting =
        placed + done[placed..].iter().position(|op| matches!(op, Done::SyncDir(of) if of == Path::new(""))).unwrap();
    let removal =
        done.iter().position(|op| matches!(op, Done::Rename(from, _) if from == Path::new("checkpoint-5"))).unwrap();
    assert!(placed < lasting && lasting < removal, "{placed} {lasting} {removal}");
    let mut states = 0;
    for prefix in 0..=done.len() {
        if prefix > 0 {
            disk.apply(&done[prefix - 1]);
        }
        let mut check = |root: TempDir, policy: &str| {
            let step = newest_step(root.path())
                .unwrap_or_else(|| panic!("nothing is left after {prefix} operations, {policy}"));
            assert!(step == 10 || step == 15, "{step} after {prefix} operations, {policy}");
            assert!(step == 15 || prefix <= lasting, "it was told and is lost after {prefix} operations, {policy}");
            states += 1;
        };
        check(disk.after_a_cut(|_| true, |_, seen| seen), "all lasted");
        check(disk.after_a_cut(|_| false, |synced, _| synced), "nothing lasted that was not synced");
        check(disk.after_a_cut(|_| true, |synced, _| synced), "names lasted, content didn't");
        check(disk.after_a_cut(|_| false, |_, seen| seen), "content lasted, names didn't");
        for seed in 0..times(4) as u64 {
            let (mut name, mut cut) = (Random::new(seed, prefix as u64), Random::new(seed, 1000 + prefix as u64));
            let length = |synced: usize, seen: usize| synced + (cut.uniform() * (seen - synced + 1) as f64) as usize;
            check(disk.after_a_cut(|_| name.uniform() < 0.5, length), "some lasted, in any order");
        }
    }
    assert!(states >= 180, "{states} states");
}

/// The test of R03 sees a protocol that renames before it syncs.
#[test]
fn r03_the_crash_model_finds_a_rename_before_the_sync() {
    let dir = run(&[10]);
    let mut disk = Disk::of(dir.path());
    let done = recorded(dir.path(), || drop(save(&mut Keeper::open(dir.path(), None, 0), 15).unwrap().unwrap()));
    for op in done.iter().filter(|op| !matches!(op, Done::Sync(_))) {
        disk.apply(op);
    }
    let root = disk.after_a_cut(|_| true, |synced, _| synced);
    assert_eq!(newest_step(root.path()), Some(10));
    assert!(root.path().join("checkpoint-15").is_dir() && !damage(&root.path().join("checkpoint-15")).is_empty());
}

/// Fails operations that `hits` picks, by their number among those of their kind.
fn refusing(
    kind: Kind,
    at: usize,
    lasting: bool,
    error: impl Fn() -> io::Error + 'static,
) -> impl FnMut(&Op) -> io::Result<Verdict> + 'static {
    let (mut count, full) = (0, Cell::new(false));
    move |op| {
        // What is removed makes room again.
        if matches!(op, Op::RemoveDir(_) | Op::RemoveFile(_)) {
            full.set(false);
        }
        if kind(op) {
            count += 1;
            full.set(full.get() || count == at + 1);
            if full.get() && (lasting || count == at + 1) {
                return Err(error());
            }
        }
        Ok(Verdict::Go)
    }
}

fn count(kind: Kind) -> usize {
    let (dir, found) = (run(&[5, 10]), Rc::new(Cell::new(0)));
    let counter = found.clone();
    let observer = move |op: &Op| {
        counter.set(counter.get() + usize::from(kind(op)));
        Ok(Verdict::Go)
    };
    observed(observer, || drop(save(&mut Keeper::open(dir.path(), None, 0), 15).unwrap().unwrap()));
    found.get()
}

/// After a save that was refused: nothing of it is visible, all before it is whole, and the next one succeeds.
fn refused_and_then_saved(what: &str, observer: impl FnMut(&Op) -> io::Result<Verdict> + 'static) {
    let dir = run(&[5, 10]);
    let mut keeper = Keeper::open(dir.path(), None, 0);
    let problem = observed(observer, || save(&mut keeper, 15)).unwrap().expect_err(what);
    assert_eq!(problem.code, "save_failed", "{what}");
    assert!(problem.message.contains("step 15") && problem.message.contains("checkpoint-10"), "{what}: {problem}");
    assert!(problem.message_in("zh").contains("checkpoint-10") && !problem.hint_in("zh").is_empty());
    assert_eq!(names(dir.path()), ["checkpoint-10", "checkpoint-5"], "{what}");
    assert_eq!(newest_step(dir.path()), Some(10), "{what}");
    save(&mut keeper, 20).unwrap().unwrap();
    assert_eq!(newest_step(dir.path()), Some(20), "{what}");
}

#[test]
fn r06_a_disk_that_is_full_at_any_write_costs_that_save_alone() {
    let writes: Kind = |op| matches!(op, Op::Write(..) | Op::Create(_) | Op::MakeDir(_));
    let count = count(writes);
    assert!(count >= 11, "{count} writes");
    for at in 0..count {
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        refused_and_then_saved(&format!("write {at}"), refusing(writes, at, true, full));
    }
    // Known before: nothing is begun.
    let dir = run(&[10]);
    let mut keeper = Keeper::open(dir.path(), None, 5_000_000);
    let begun = Rc::new(Cell::new(0));
    let counter = begun.clone();
    let observer = move |op: &Op| match op {
        Op::Free(_) => Ok(Verdict::AtMost(1_200_000)),
        _ => {
            counter.set(counter.get() + 1);
            Ok(Verdict::Go)
        }
    };
    let problem = observed(observer, || save(&mut keeper, 15)).unwrap().unwrap_err();
    assert!(problem.message.contains("5.0 MB are needed") && problem.message.contains("1.2 MB are free"), "{problem}");
    assert_eq!(begun.get(), 0);
}

#[test]
fn r08_errors_of_the_disk_are_never_told_as_saved() {
    use nix::errno::Errno;
    let errors = [Errno::EIO, Errno::EROFS, Errno::EMFILE, Errno::EDQUOT];
    let kinds: [(&str, Kind); 6] = [
        ("sync", |op| matches!(op, Op::Sync(_))),
        ("sync of a folder", |op| matches!(op, Op::SyncDir(_))),
        ("write", |op| matches!(op, Op::Write(..))),
        ("create", |op| matches!(op, Op::Create(_))),
        ("rename", |op| matches!(op, Op::Rename(..))),
        ("folder", |op| matches!(op, Op::MakeDir(_))),
    ];
    for (what, kind) in kinds {
        for at in 0..count(kind) {
            let error = errors[at % errors.len()];
            let faulty = move || io::Error::from_raw_os_error(error as i32);
            refused_and_then_saved(&format!("{what} {at}: {error}"), refusing(kind, at, false, faulty));
        }
    }
    // What a system may do at any time is no error: short writes, and calls that a signal broke off.
    for (what, once) in [("short", Ok(Verdict::AtMost(7))), ("interrupted", Err(io::ErrorKind::Interrupted))] {
        let dir = run(&[10]);
        let mut odd = false;
        let observer = move |op: &Op| {
            odd = !odd;
            match op {
                Op::Write(..) if odd || once.is_ok() => once.map_err(io::Error::from),
                _ => Ok(Verdict::Go),
            }
        };
        observed(observer, || save(&mut Keeper::open(dir.path(), None, 0), 15)).unwrap().expect(what);
        assert_eq!(newest_step(dir.path()), Some(15), "{what}");
    }
}

/// The files of a checkpoint, the manifest among them.
fn files(checkpoint: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    names(checkpoint)
        .into_iter()
        .map(|name| (checkpoint.join(&name), fs::read(checkpoint.join(&name)).unwrap()))
        .collect()
}

#[test]
fn r09_every_damage_is_found_and_passed_over() {
    let dir = run(&[5, 10]);
    let (before, last) = (dir.path().join("checkpoint-5"), dir.path().join("checkpoint-10"));
    let whole = files(&last);
    let found = |what: &str| {
        let (newest, damaged) = newest(dir.path());
        assert_eq!(newest.map(|(_, step)| step), Some(5), "{what} was not found");
        assert!(
            damaged.len() == 1 && !told(&damaged[0].faults).en.is_empty() && !told(&damaged[0].faults).zh.is_empty(),
            "{what}"
        );
    };
    let mut random = Random::new(9, 0);
    let mut below = |n: usize| ((random.uniform() * n as f64) as usize).min(n - 1);
    let bytes: usize = whole.iter().map(|(_, bytes)| bytes.len()).sum();
    for _ in 0..times(1000) {
        let mut at = below(bytes);
        let (path, content) = whole
            .iter()
            .find(|(_, content)| {
                let here = at < content.len();
                at = if here { at } else { at - content.len() };
                here
            })
            .unwrap();
        let mut changed = content.clone();
        changed[at] ^= 1 << below(8);
        fs::write(path, &changed).unwrap();
        found(&format!("a bit of byte {at} of {}", path.display()));
        fs::write(path, content).unwrap();
    }
    for _ in 0..times(256) {
        let (path, content) = &whole[below(whole.len())];
        let length = below(content.len());
        fs::write(path, &content[..length]).unwrap();
        found(&format!("{} cut at {length}", path.display()));
        fs::write(path, content).unwrap();
    }
    for (path, content) in &whole {
        let name = path.display();
        fs::write(path, "").unwrap();
        found(&format!("{name} empty"));
        fs::remove_file(path).unwrap();
        found(&format!("{name} missing"));
        fs::create_dir(path).unwrap();
        found(&format!("{name} a folder"));
        fs::remove_dir(path).unwrap();
        fs::copy(before.join(path.file_name().unwrap()), path).unwrap();
        if fs::read(path).unwrap() != *content {
            found(&format!("{name} of another step"));
        }
        fs::write(path, content).unwrap();
    }
    fs::write(last.join("model.safetensors"), "x").unwrap();
    found("a file more");
    fs::remove_file(last.join("model.safetensors")).unwrap();
    let manifest = fs::read_to_string(last.join(manifest::FILE)).unwrap();
    for (from, to) in [
        ("\"step\": 10", "\"step\": 11"),
        ("\"serial\": 2", "\"serial\": 3"),
        ("\"run\": \"r\"", "\"run\": \"s\""),
        ("\"format\": 2", "\"format\": 3"),
    ] {
        assert!(manifest.contains(from), "{from}");
        fs::write(last.join(manifest::FILE), manifest.replace(from, to)).unwrap();
        found(to);
    }
    fs::write(last.join(manifest::FILE), manifest).unwrap();
    assert_eq!(newest_step(dir.path()), Some(10), "what was put back is whole");
    // Another checkpoint under its name.
    fs::remove_dir_all(&last).unwrap();
    fs::create_dir(&last).unwrap();
    copy(&before, &last);
    found("checkpoint-5 as checkpoint-10");
}

#[test]
fn r09_a_checkpoint_of_the_first_form_is_read() {
    let dir = run(&[5]);
    let path = dir.path().join("checkpoint-5");
    let files = manifest(&path).unwrap().files;
    fs::write(path.join(manifest::FILE), json!({"step": 5, "files": files}).to_string()).unwrap();
    assert_eq!(newest_step(dir.path()), Some(5));
    assert_eq!(verify(&path).step, Some(5));
    fs::write(path.join("adapter_config.json"), "[]").unwrap();
    assert_eq!(told(&damage(&path)).en, "adapter_config.json has changed since it was written");
}

#[test]
fn r10_two_that_were_read_back_and_the_best_always_stand() {
    for seed in 0..times(40) as u64 {
        let mut random = Random::new(seed, 10);
        let mut below = move |n: usize| ((random.uniform() * n as f64) as usize).min(n - 1);
        let dir = folder();
        let limit = 1 + below(4);
        let mut keeper = Keeper::open(dir.path(), Some(limit), 0);
        let (mut best, mut saved): (Option<String>, BTreeSet<u64>) = (None, BTreeSet::new());
        let whole = |dir: &Path| all(dir).iter().filter(|(_, path)| damage(path).is_empty()).count();
        for step in 1..=12 {
            match below(6) {
                // A worker that was killed and started again.
                0 => keeper = Keeper::open(dir.path(), Some(limit), 0),
                1 if all(dir.path()).len() > 2 => {
                    let (_, path) = all(dir.path()).swap_remove(0);
                    if best.as_deref() != path.file_name().unwrap().to_str() {
                        fs::write(path.join("adapter_config.json"), "damaged").unwrap();
                    }
                }
                _ => {}
            }
            if below(5) == 0 {
                let full =
                    refusing(|op| matches!(op, Op::Write(..)), below(5), true, || io::ErrorKind::StorageFull.into());
                observed(full, || save(&mut keeper, step)).unwrap().unwrap_err();
                continue;
            }
            save(&mut keeper, step).unwrap().unwrap();
            saved.insert(step);
            if below(3) == 0 {
                best = Some(format!("checkpoint-{step}"));
            }
            let (root, pinned) = (dir.path().to_path_buf(), best.clone());
            let observer = move |op: &Op| {
                if let Op::Rename(from, _) = op {
                    assert_ne!(pinned.as_deref(), from.file_name().unwrap().to_str(), "the best goes");
                    let left = all(&root).iter().filter(|(_, path)| path != from && damage(path).is_empty()).count();
                    assert!(left >= 2 || !damage(from).is_empty(), "{left} are left");
                }
                Ok(Verdict::Go)
            };
            observed(observer, || keeper.prune(best.as_deref(), false)).unwrap();
            let standing = whole(dir.path());
            assert!(
                standing >= saved.len().min(2) && all(dir.path()).len() <= limit.max(2),
                "seed {seed}, step {step}: {standing}"
            );
            assert!(best.as_ref().is_none_or(|best| dir.path().join(best).is_dir()));
        }
        keeper.prune(best.as_deref(), true).unwrap();
        let most = limit + usize::from(limit == 1 && best.is_some());
        assert!(all(dir.path()).len() <= most, "seed {seed}: {:?} with a limit of {limit}", names(dir.path()));
        assert_eq!(newest_step(dir.path()), saved.last().copied());
    }
}

/// A run that went back to an earlier checkpoint goes on from what it saved last, not from what once lay ahead.
#[test]
fn the_newest_is_what_was_saved_last() {
    let dir = run(&[5, 10, 15]);
    save(&mut Keeper::open(dir.path(), None, 0), 6).unwrap().unwrap();
    assert_eq!(newest_step(dir.path()), Some(6));
    save(&mut Keeper::open(dir.path(), Some(2), 0), 10).unwrap().unwrap();
    assert_eq!(newest_step(dir.path()), Some(10));
    assert_eq!(all(dir.path()).iter().map(|(step, _)| *step).collect::<Vec<_>>(), [5, 15, 6, 10]);
}
