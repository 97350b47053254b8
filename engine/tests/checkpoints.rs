//! Checkpoints of real runs of a tiny model: what a crash, a full disk, other settings and other rows do to them; the best of
//! them; what a resumed run takes up; and exports that appear whole or not at all.
#![allow(clippy::unwrap_used)]

mod common;

use api::{
    Event, JobKind, Outcome, Problem, RunConfig,
    data::Message,
    job::Spec,
    params::{ComputeType, GenerateParams, ModelParams},
};
use common::Case;
use engine::{
    Places,
    files::disk::{Op, Verdict, observed},
    generate::Request,
    loaded::Loaded,
    run,
    train::checkpoint,
};
use serde_json::{Value, json};
use std::{
    cell::RefCell,
    fs, io,
    path::{Path, PathBuf},
    process::Command,
    rc::Rc,
    sync::atomic::{AtomicBool, Ordering},
};

/// A data folder with a tiny Llama and a dataset.
struct Home {
    dir: tempfile::TempDir,
    case: Case,
}

struct Ended {
    dir: PathBuf,
    outcome: Outcome,
    events: Vec<Event>,
}

/// How often faults are tried, if the environment variable `LATHE_FAULTS` doesn't say.
fn times(usual: usize) -> usize {
    std::env::var("LATHE_FAULTS").ok().and_then(|times| times.parse().ok()).unwrap_or(usual)
}

impl Home {
    fn new() -> Self {
        let (dir, case) = (tempfile::tempdir().unwrap(), Case::open("llama"));
        case.write_tokenizer();
        let home = Self { dir, case };
        fs::create_dir_all(home.path().join("datasets")).unwrap();
        home.write_rows(0);
        let info = json!({"rows": {"file_name": "rows.json", "columns": {"prompt": "text"}}});
        fs::write(home.path().join("datasets/dataset_info.json"), info.to_string()).unwrap();
        home
    }

    /// Sixteen rows of eight words; another `shift` gives others.
    fn write_rows(&self, shift: usize) {
        let word = |i: usize, j: usize| format!("t{}", 3 + (i * 7 + j * (j + 3) + shift) % 90);
        let text = |i: usize| (0..8).map(|j| word(i, j)).collect::<Vec<_>>().join(" ");
        let rows: Vec<Value> = (0..16).map(|i| json!({"text": text(i)})).collect();
        fs::write(self.path().join("datasets/rows.json"), Value::from(rows).to_string()).unwrap();
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn places(&self) -> Places {
        Places { home: self.path().into(), hub_cache: self.path().join("hub") }
    }

    /// Eight steps of LoRA with a checkpoint at each second one.
    fn config(&self, more: Value) -> Value {
        let mut config = json!({
            "model_name_or_path": self.case.model.path(), "stage": "pt", "finetuning_type": "lora", "dataset": "rows",
            "packing": false, "max_steps": 8, "per_device_train_batch_size": 2, "learning_rate": 0.01, "save_steps": 2,
            "lora_rank": 4, "lora_dropout": 0.1
        });
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        config
    }

    fn run(&self, name: &str, config: Value) -> Ended {
        self.stopped(name, config, None)
    }

    fn stopped(&self, name: &str, config: Value, stop_after: Option<u64>) -> Ended {
        let dir = self.path().join("runs").join(name);
        let config: RunConfig = serde_json::from_value(config).unwrap();
        let spec = Spec { id: name.into(), kind: JobKind::Train, config, after: None, created_at: 0.0 };
        self.work(&spec, &dir, stop_after)
    }

    fn export(&self, name: &str, adapter: &Path) -> Ended {
        let config = json!({
            "model_name_or_path": self.case.model.path(), "adapter_name_or_path": adapter,
            "export_dir": self.path().join("exports").join(name), "export_size": 0.00001
        });
        let config: RunConfig = serde_json::from_value(config).unwrap();
        let spec = Spec { id: name.into(), kind: JobKind::Export, config, after: None, created_at: 0.0 };
        self.work(&spec, &self.path().join("runs").join(name), None)
    }

    fn work(&self, spec: &Spec, dir: &Path, stop_after: Option<u64>) -> Ended {
        let (stop, mut events) = (AtomicBool::new(false), Vec::new());
        let mut sink = |event: Event| {
            if matches!(&event, Event::Metrics { step, .. } if Some(*step) == stop_after) {
                stop.store(true, Ordering::Relaxed);
            }
            events.push(event);
            Ok(())
        };
        let outcome = run::run(spec, dir, &self.places(), &mut sink, &stop).unwrap();
        Ended { dir: dir.into(), outcome, events }
    }
}

impl Ended {
    /// Step and loss, as bits.
    fn losses(&self) -> Vec<(u64, u64)> {
        let loss = |event: &Event| match event {
            Event::Metrics { step, values, .. } => Some((*step, values.get("loss")?.to_bits())),
            _ => None,
        };
        self.events.iter().filter_map(loss).collect()
    }

    fn problem(&self) -> &Problem {
        match self.events.last() {
            Some(Event::Finished { problem: Some(problem), .. }) => problem,
            other => panic!("it went on: {other:?}"),
        }
    }

    fn notes(&self) -> Vec<&Problem> {
        self.events
            .iter()
            .filter_map(|event| if let Event::Note { problem } = event { Some(problem) } else { None })
            .collect()
    }

    /// Steps of the checkpoints that were told of, and of the best.
    fn saved(&self, best_alone: bool) -> Vec<u64> {
        let saved = |event: &Event| match event {
            Event::Checkpoint { step, best, .. } if *best || !best_alone => Some(*step),
            _ => None,
        };
        self.events.iter().filter_map(saved).collect()
    }

    fn weights(&self) -> Vec<u8> {
        fs::read(self.dir.join("adapter_model.safetensors")).unwrap()
    }

    fn state(&self) -> Value {
        serde_json::from_slice(&fs::read(self.dir.join("trainer_state.json")).unwrap()).unwrap()
    }
}

fn standing(dir: &Path) -> Vec<u64> {
    checkpoint::all(dir).into_iter().map(|(step, _)| step).collect()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        let place = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &place);
        } else {
            fs::copy(entry.path(), place).unwrap();
        }
    }
}

/// All files below a folder with their bytes.
fn content(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all: Vec<_> =
        fs::read_dir(dir).unwrap().flatten().map(|e| (e.path(), fs::read(e.path()).unwrap())).collect();
    all.sort();
    all.into_iter().map(|(path, bytes)| (path.strip_prefix(dir).unwrap().to_path_buf(), bytes)).collect()
}

/// What an operation does to what, without numbers that differ from run to run: the name of a point.
fn point(op: &Op) -> Option<String> {
    let name = |path: &Path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let plain = name.strip_prefix('.').and_then(|rest| rest.strip_suffix(".tmp"));
        plain.and_then(|rest| rest.rsplitn(3, '.').nth(2)).map(|of| format!("{of} beside")).unwrap_or(name)
    };
    Some(match op {
        Op::MakeDir(path) => format!("make {}", name(path)),
        Op::Create(path) => format!("create {}", name(path)),
        Op::Write(path, _) => format!("write {}", name(path)),
        Op::Sync(path) => format!("sync {}", name(path)),
        Op::SyncDir(path) => format!("sync folder {}", name(path)),
        Op::Rename(from, to) => format!("rename {} to {}", name(from), name(to)),
        Op::RemoveFile(path) | Op::RemoveDir(path) => format!("remove {}", name(path)),
        Op::Free(_) => return None,
    })
}

/// The points of some work, in their order.
fn points<T>(work: impl FnOnce() -> T) -> (Vec<String>, T) {
    let all = Rc::new(RefCell::new(Vec::new()));
    let list = all.clone();
    let observer = move |op: &Op| {
        list.borrow_mut().extend(point(op));
        Ok(Verdict::Go)
    };
    let done = observed(observer, work);
    (all.take(), done)
}

mod faults {
    use super::*;

    /// The process that [`killed`] starts: does a job, and ends itself at an operation.
    #[test]
    #[ignore = "is started by other tests, in a process of its own"]
    fn child() {
        let Ok(asked) = std::env::var("LATHE_CHILD") else { return };
        let asked: Value = serde_json::from_str(&asked).unwrap();
        let text = |key: &str| asked[key].as_str().unwrap().to_string();
        let places = Places { home: text("home").into(), hub_cache: PathBuf::from(text("home")).join("hub") };
        let spec: Spec = serde_json::from_value(asked["spec"].clone()).unwrap();
        let (mut left, how) = (asked["at"].as_u64().unwrap_or(u64::MAX), text("how"));
        let observer = move |op: &Op| {
            if point(op).is_some() {
                if left == 0 {
                    match how.as_str() {
                        "abort" => std::process::abort(),
                        "panic" => panic!("the world has ended"),
                        _ => nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL).unwrap(),
                    }
                }
                left -= 1;
            }
            Ok(Verdict::Go)
        };
        let mut sink = |event: Event| {
            println!("LATHE {}", serde_json::to_string(&event).unwrap());
            Ok(())
        };
        let work = || run::run(&spec, Path::new(&text("dir")), &places, &mut sink, &AtomicBool::new(false));
        observed(observer, work).unwrap();
    }

    /// Does a job in a process of its own that ends at its `at`-th operation, and gives its events. `shell` goes before it.
    fn in_a_process(home: &Home, spec: &Spec, dir: &Path, at: Option<usize>, how: &str, shell: &str) -> Vec<Event> {
        let asked = json!({"home": home.path(), "spec": spec, "dir": dir, "at": at, "how": how});
        let program = std::env::current_exe().unwrap();
        let line = format!("{shell} exec \"$0\" --ignored --exact --nocapture faults::child");
        let output = Command::new("bash")
            .args(["-c", &line])
            .arg(program)
            .env("LATHE_CHILD", asked.to_string())
            .output()
            .unwrap();
        assert_eq!(output.status.success(), at.is_none(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        let events = text.lines().filter_map(|line| line.split_once("LATHE ").map(|(_, event)| event));
        events.map(|event| serde_json::from_str(event).unwrap()).collect()
    }

    fn spec(name: &str, config: Value) -> Spec {
        let config = serde_json::from_value(config).unwrap();
        Spec { id: name.into(), kind: JobKind::Train, config, after: None, created_at: 0.0 }
    }

    /// The worker ends at points of saves of a run, in each of three ways; resumed, it equals the unbroken run to the bit.
    #[test]
    fn r02_a_worker_that_ends_at_a_point_of_a_save_goes_on_to_the_bit() {
        let home = Home::new();
        let config = |more: Value| {
            let mut config = home.config(json!({"max_steps": 4, "save_steps": 1, "save_total_limit": 2}));
            config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            config
        };
        let (points, whole) = points(|| home.run("whole", config(json!({}))));
        assert_eq!(whole.outcome, Outcome::Succeeded);
        // The third save is the first that removes another.
        let of =
            |name: &str| points.iter().position(|point| point == name).unwrap_or_else(|| panic!("{name}: {points:?}"));
        let (first, last) = (of("make checkpoint-3.partial"), of("remove checkpoint-1.removed") + 1);
        assert!(last - first >= 25, "{} points", last - first);
        let some = times(6).clamp(1, last - first);
        for i in 0..some {
            let (at, how) = (first + i * (last - first) / some, ["kill", "abort", "panic"][i % 3]);
            let (name, point) = (format!("broken-{at}"), &points[at]);
            let dir = home.path().join("runs").join(&name);
            let told = in_a_process(&home, &spec(&name, config(json!({}))), &dir, Some(at), how, "");
            let told = told
                .iter()
                .filter_map(|event| if let Event::Checkpoint { step, .. } = event { Some(*step) } else { None });
            let (newest, told) = (checkpoint::newest(&dir).0.unwrap().1, told.max().unwrap());
            assert!(newest >= told && newest >= 2, "{how} at {point}: {newest} stands, {told} was told");
            let second = home.run(&name, config(json!({"resume_from_checkpoint": true})));
            assert_eq!(second.outcome, Outcome::Succeeded, "{how} at {point}: {:?}", second.events.last());
            assert_eq!(second.losses(), whole.losses()[newest as usize..], "{how} at {point}");
            assert!(second.weights() == whole.weights(), "{how} at {point}: the weights differ");
            assert!(second.notes().is_empty(), "{how} at {point}: {:?}", second.notes());
            let left: Vec<_> = content_names(&dir)
                .into_iter()
                .filter(|name| name.contains(".partial") || name.contains(".removed") || name.ends_with(".tmp"))
                .collect();
            assert!(left.is_empty(), "{left:?}");
        }
    }

    fn content_names(dir: &Path) -> Vec<String> {
        fs::read_dir(dir).unwrap().flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect()
    }

    /// Fails what is written into one checkpoint.
    fn full_at(step: u64) -> impl FnMut(&Op) -> io::Result<Verdict> {
        move |op| match op {
            Op::Write(path, _) if path.to_string_lossy().contains(&format!("checkpoint-{step}.partial")) => {
                Err(io::ErrorKind::StorageFull.into())
            }
            _ => Ok(Verdict::Go),
        }
    }

    #[test]
    fn r06_a_run_goes_on_when_a_checkpoint_finds_no_room() {
        let home = Home::new();
        let plain = home.run("plain", home.config(json!({})));
        let ended = observed(full_at(4), || home.run("full", home.config(json!({}))));
        assert_eq!(ended.outcome, Outcome::Succeeded, "{:?}", ended.events.last());
        assert_eq!((ended.saved(false), standing(&ended.dir)), (vec![2, 6, 8], vec![2, 6, 8]));
        let notes = ended.notes();
        assert_eq!(notes.len(), 1, "{notes:?}");
        let told = &notes[0].message;
        assert!(
            told.contains("step 4")
                && told.contains("are needed")
                && told.contains("are free")
                && told.contains("checkpoint-2"),
            "{told}"
        );
        assert!(ended.weights() == plain.weights(), "it trained otherwise");
        // At its end a run must be saved: failed, with a sentence, and the last good checkpoint stands.
        let ended = observed(full_at(8), || home.run("last", home.config(json!({}))));
        let problem = ended.problem();
        assert_eq!((ended.outcome, problem.code.as_str()), (Outcome::Failed, "save_failed"), "{problem}");
        assert!(problem.message.contains("checkpoint-6") && !problem.hint_in("zh").is_empty(), "{problem}");
        assert_eq!(standing(&ended.dir), [2, 4, 6]);
        let second = home.run("last", home.config(json!({"resume_from_checkpoint": true})));
        assert_eq!(second.outcome, Outcome::Succeeded);
        assert!(second.weights() == plain.weights());
    }

    /// The system itself refuses: no file may grow beyond so many blocks.
    #[test]
    fn r06_a_real_limit_of_the_system_is_told_and_survived() {
        let home = Home::new();
        let dir = home.path().join("runs/limited");
        let config = home.config(json!({"finetuning_type": "full"}));
        let events =
            in_a_process(&home, &spec("limited", config.clone()), &dir, None, "", "trap '' XFSZ; ulimit -f 100;");
        let Some(Event::Finished { outcome, problem: Some(problem), .. }) = events.last() else { panic!("{events:?}") };
        assert_eq!((*outcome, problem.code.as_str()), (Outcome::Failed, "save_failed"), "{problem}");
        let refused =
            events.iter().filter(|event| matches!(event, Event::Note { problem } if problem.code == "save_failed"));
        assert_eq!((refused.count(), standing(&dir)), (3, vec![]));
        let told = events.iter().any(|event| matches!(event, Event::Checkpoint { .. }));
        assert!(!told, "a checkpoint was told that isn't there");
        assert_eq!(home.run("limited", config).outcome, Outcome::Succeeded);
    }

    #[test]
    fn r07_a_run_without_room_is_refused_before_its_first_step() {
        let home = Home::new();
        for (name, more) in [("lora", json!({})), ("full", json!({"finetuning_type": "full", "ema_decay": 0.9}))] {
            let asked = Rc::new(RefCell::new(Vec::new()));
            let list = asked.clone();
            let ended = observed(
                move |op: &Op| {
                    if let Op::Free(path) = op {
                        list.borrow_mut().push(path.to_path_buf());
                    }
                    Ok(Verdict::Go)
                },
                || home.run(name, home.config(more.clone())),
            );
            // The plan asks of the data folder, all else of the disk that is written to.
            let asked = asked.borrow();
            assert!(asked.len() > 2 && asked[1..].iter().all(|path| *path == ended.dir), "another disk: {asked:?}");
            assert_eq!(asked[0], home.path());
            let real = checkpoint::folder_bytes(&ended.dir.join("checkpoint-8"));
            let plan = ended.events.iter().find_map(|event| match event {
                Event::Planned { plan } => Some(plan.clone()),
                _ => None,
            });
            let plan = plan.unwrap();
            let result = if name == "full" { plan.parameters * 2 } else { plan.trainable * 4 };
            // Two are kept, and a third is written. Room for checkpoints a twentieth larger than the real ones must do, and
            // room for smaller ones must not.
            let with_room = |share: f64| {
                let free = (1.2 * (result as f64 + 3.0 * share * real as f64)) as u64;
                let verdict =
                    move |op: &Op| if matches!(op, Op::Free(_)) { Verdict::AtMost(free) } else { Verdict::Go };
                let mut config = home.config(more.clone());
                config["save_total_limit"] = json!(2);
                observed(move |op: &Op| Ok(verdict(op)), || home.run(&format!("{name}-{share}"), config))
            };
            let (enough, lacking) = (with_room(1.05), with_room(0.95));
            assert_eq!(enough.outcome, Outcome::Succeeded, "{name}, {real} bytes: {:?}", enough.events.last());
            let problem = lacking.problem();
            assert_eq!(problem.code, "disk_full", "{problem}");
            assert!(problem.message.contains("are needed") && problem.message.contains("are free"), "{problem}");
            assert!(lacking.losses().is_empty(), "a step was made");
        }
    }

    #[test]
    fn r23_other_rows_are_told_and_refused() {
        let home = Home::new();
        let first = home.stopped("rows", home.config(json!({})), Some(3));
        assert_eq!(first.outcome, Outcome::Stopped);
        home.write_rows(1);
        let second = home.run("rows", home.config(json!({"resume_from_checkpoint": true})));
        let problem = second.problem();
        assert_eq!((problem.code.as_str(), problem.field.as_deref()), ("settings_changed", Some("accept_changes")));
        assert!(
            problem.message.contains("dataset sha256 ") && problem.message.matches("sha256").count() == 2,
            "{problem}"
        );
        assert!(second.losses().is_empty(), "a step was made");
        let third = home.run("rows", home.config(json!({"resume_from_checkpoint": true, "accept_changes": true})));
        assert_eq!(third.outcome, Outcome::Succeeded);
        assert!(third.notes().iter().any(|note| note.code == "settings_changed"), "{:?}", third.notes());
    }

    /// A dataset that changes or goes while a run learns from it changes nothing for the run.
    #[test]
    fn r23_a_dataset_that_goes_mid_run_is_missed_by_nobody() {
        let home = Home::new();
        let whole = home.run("whole", home.config(json!({})));
        let (dir, rows) = (home.path().join("runs/gone"), home.path().join("datasets/rows.json"));
        let (spec, mut events) = (spec("gone", home.config(json!({}))), Vec::new());
        let mut sink = |event: Event| {
            if matches!(event, Event::Metrics { step: 2, .. }) {
                fs::remove_file(&rows).unwrap();
            }
            events.push(event);
            Ok(())
        };
        let outcome = run::run(&spec, &dir, &home.places(), &mut sink, &AtomicBool::new(false)).unwrap();
        let ended = Ended { dir, outcome, events };
        assert_eq!((ended.outcome, ended.losses()), (Outcome::Succeeded, whole.losses()));
    }

    #[test]
    fn r24_changed_settings_are_listed_and_confirmed() {
        let home = Home::new();
        assert_eq!(home.stopped("drift", home.config(json!({})), Some(4)).outcome, Outcome::Stopped);
        // What changes no number is taken as it comes, a value written otherwise is the same.
        let copied = |name: &str| {
            copy(&home.path().join("runs/drift"), &home.path().join("runs").join(name));
            name.to_string()
        };
        let harmless =
            json!({"resume_from_checkpoint": true, "save_steps": 3, "logging_steps": 2, "learning_rate": "1e-2"});
        let ended = home.run(&copied("harmless"), home.config(harmless));
        assert_eq!((ended.outcome, ended.notes().len()), (Outcome::Succeeded, 0), "{:?}", ended.events.last());

        let changed = json!({
            "resume_from_checkpoint": true, "learning_rate": 0.02, "per_device_train_batch_size": 4, "cutoff_len": 6,
            "lora_alpha": 99
        });
        let refused = home.run(&copied("changed"), home.config(changed.clone()));
        let problem = refused.problem();
        assert_eq!(problem.code, "settings_changed");
        for part in [
            "learning_rate 0.01 → 0.02",
            "per_device_train_batch_size 2 → 4",
            "cutoff_len 2048 → 6",
            "lora_alpha ",
            "checkpoint-4",
        ] {
            assert!(problem.message.contains(part) && problem.message_in("zh").contains(part), "{part}: {problem}");
        }
        assert!(refused.losses().is_empty() && standing(&refused.dir) == [2, 4]);
        let mut accepted = changed;
        accepted["accept_changes"] = json!(true);
        let ended = home.run("changed", home.config(accepted));
        assert_eq!(ended.losses().first().map(|(step, _)| *step), Some(5));
        // A finished run says that nothing is left, and trains nothing silently.
        let again = home.run("changed", home.config(json!({
            "resume_from_checkpoint": true, "learning_rate": 0.02, "per_device_train_batch_size": 4, "cutoff_len": 6, "lora_alpha": 99
        })));
        assert!(
            again.losses().is_empty() && again.notes().iter().any(|note| note.code == "nothing_left"),
            "{:?}",
            again.events
        );
        // Longer than before is a change like any other.
        let longer = home.run(&copied("longer"), home.config(json!({"resume_from_checkpoint": true, "max_steps": 12})));
        assert!(longer.problem().message.contains("max_steps 8 → 12"), "{:?}", longer.events.last());
        // Another model under the same name is one, too.
        let model = home.case.model.path().join("model.safetensors");
        let mut bytes = fs::read(&model).unwrap();
        let at = bytes.len() / 2;
        bytes[at..at + 4].copy_from_slice(&[1, 2, 3, 4]);
        fs::write(&model, bytes).unwrap();
        let other = home.run(&copied("other"), home.config(json!({"resume_from_checkpoint": true})));
        assert!(other.problem().message.contains("model_name_or_path sha256"), "{:?}", other.events.last());
    }

    /// What a manifest says of threads and processor is compared, and a difference told.
    #[test]
    fn r24_another_processor_is_told_as_not_bit_exact() {
        let home = Home::new();
        assert_eq!(home.stopped("cpu", home.config(json!({})), Some(4)).outcome, Outcome::Stopped);
        let path = home.path().join("runs/cpu/checkpoint-4");
        let mut manifest = checkpoint::manifest(&path).unwrap();
        (manifest.origin.threads, manifest.origin.instructions) = (64, "abacus".into());
        fs::write(path.join(checkpoint::manifest::FILE), manifest.sealed()).unwrap();
        let ended = home.run("cpu", home.config(json!({"resume_from_checkpoint": true})));
        let note = ended.notes().into_iter().find(|note| note.code == "not_bit_exact").unwrap();
        assert!(
            note.message.contains("not bit-exact")
                && note.message.contains("64 →")
                && note.message.contains("abacus →"),
            "{note}"
        );
    }

    /// An export that ends at any of its points leaves nothing under its name but all of it.
    #[test]
    fn r26_an_export_appears_whole_or_not_at_all() {
        let home = Home::new();
        let adapter = home.run("adapter", home.config(json!({})));
        let (points, first) = points(|| home.export("first", &adapter.dir));
        assert_eq!(first.outcome, Outcome::Succeeded, "{:?}", first.events.last());
        let whole = content(&home.path().join("exports/first"));
        assert!(whole.len() > 4 && points.len() > 25, "{} files, {} points", whole.len(), points.len());
        let place = home.path().join("exports/broken");
        for (at, name) in points.iter().enumerate() {
            let mut count = 0;
            let end = move |op: &Op| {
                count += usize::from(point(op).is_some());
                if count > at { Err(io::Error::other("the world has ended")) } else { Ok(Verdict::Go) }
            };
            let ended = observed(end, || home.export("broken", &adapter.dir));
            let told = ended.events.iter().any(|event| matches!(event, Event::Artifact { .. }));
            assert!(place.exists() || !told, "{name}: it was told and isn't there");
            if place.exists() {
                assert!(content(&place) == whole, "{name}: half of it is visible");
                fs::remove_dir_all(&place).unwrap();
            }
        }
        // Processes that are killed: their litter goes with the next export.
        let config = json!({
            "model_name_or_path": home.case.model.path(), "adapter_name_or_path": adapter.dir, "export_dir": place,
            "export_size": 0.00001
        });
        let spec = Spec { kind: JobKind::Export, ..spec("broken", config) };
        for i in 0..times(3) {
            let at = i * points.len() / times(3);
            in_a_process(&home, &spec, &home.path().join("runs/broken"), Some(at), "kill", "");
            assert!(!place.exists() || content(&place) == whole, "killed at {}", points[at]);
            let _ = fs::remove_dir_all(&place);
        }
        let again = home.export("broken", &adapter.dir);
        assert_eq!(again.outcome, Outcome::Succeeded);
        assert!(content(&place) == whole);
        // What this process itself left is that of one that lives.
        let own = format!(".{}.", std::process::id());
        let names = content_names(&home.path().join("exports")).into_iter().filter(|name| !name.contains(&own));
        let names: Vec<_> = names.filter(|name| !["first", "broken"].contains(&name.as_str())).collect();
        assert!(names.is_empty(), "litter: {names:?}");
    }

    /// The exported model says what the adapter on its base says, 64 tokens to 20 questions, with the same special tokens.
    #[test]
    fn r27_an_exported_model_says_what_the_trained_one_says() {
        let home = Home::new();
        let starter = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/starter");
        let rows: Vec<Value> =
            (0..8).map(|i| json!({"instruction": format!("What is {i}?"), "output": format!("It is {i}.")})).collect();
        fs::write(home.path().join("datasets/rows.json"), Value::from(rows).to_string()).unwrap();
        fs::write(home.path().join("datasets/dataset_info.json"), r#"{"rows": {"file_name": "rows.json"}}"#).unwrap();
        let trained = home.run("trained", json!({
            "model_name_or_path": starter, "stage": "sft", "finetuning_type": "lora", "dataset": "rows", "max_steps": 4,
            "per_device_train_batch_size": 4, "learning_rate": 0.002, "save_steps": 0
        }));
        assert_eq!(trained.outcome, Outcome::Succeeded, "{:?}", trained.events.last());
        let place = home.path().join("exports/whole");
        let config = json!({
            "model_name_or_path": starter, "adapter_name_or_path": trained.dir, "export_dir": place,
            "export_dtype": "float32"
        });
        let spec = Spec { kind: JobKind::Export, ..spec("whole", config) };
        assert_eq!(home.work(&spec, &home.path().join("runs/whole"), None).outcome, Outcome::Succeeded);
        let load = |model: &Path, adapter: Option<&Path>| {
            let text = |path: &Path| path.display().to_string();
            let params = ModelParams {
                model_name_or_path: text(model),
                adapter_name_or_path: adapter.map(text),
                ..ModelParams::default()
            };
            Loaded::open(&params, &home.places(), ComputeType::Fp32).unwrap()
        };
        let (ours, exported) = (load(&starter, Some(&trained.dir)), load(&place, None));
        assert_eq!(ours.eos, exported.eos);
        let greedy = GenerateParams { do_sample: false, max_new_tokens: 64, ..GenerateParams::default() };
        let say = |loaded: &Loaded, prompt: &[u32]| {
            // No token ends it: all 64 are compared.
            let request = Request { eos: [].into(), ..loaded.request(prompt.to_vec(), greedy.clone()) };
            let mut engine = loaded.engine().unwrap();
            engine.answer(request, &AtomicBool::new(false), &mut |_, _| {}).unwrap().0.remove(0).ids
        };
        for i in 0..20 {
            let question = [Message::new("user", format!("Question {i}: what is {}?", i * 7))];
            let [ours_prompt, prompt] =
                [&ours, &exported].map(|loaded| loaded.encoder.prompt(&question, None).unwrap());
            assert_eq!(ours_prompt, prompt);
            let (said, again) = (say(&ours, &prompt), say(&exported, &prompt));
            assert_eq!(said.len(), 64);
            assert_eq!(said, again, "question {i}");
        }
    }

    /// A damaged checkpoint is passed over with its name, also one that was asked for.
    #[test]
    fn r09_a_run_goes_on_from_the_newest_whole_one_and_says_so() {
        let home = Home::new();
        let whole = home.run("whole", home.config(json!({})));
        assert_eq!(home.stopped("damaged", home.config(json!({})), Some(6)).outcome, Outcome::Stopped);
        let dir = home.path().join("runs/damaged");
        let weights = dir.join("checkpoint-6/adapter_model.safetensors");
        let mut bytes = fs::read(&weights).unwrap();
        bytes[5000] ^= 1;
        fs::write(&weights, bytes).unwrap();
        for (name, wish) in [("newest", json!(true)), ("named", json!(home.path().join("runs/named/checkpoint-6")))] {
            copy(&dir, &home.path().join("runs").join(name));
            let ended = home.run(name, home.config(json!({"resume_from_checkpoint": wish})));
            assert_eq!(ended.outcome, Outcome::Succeeded, "{:?}", ended.events.last());
            let note = &ended.notes()[0].message;
            for part in ["checkpoint-6", "adapter_model.safetensors", "checkpoint-4"] {
                assert!(note.contains(part), "{part}: {note}");
            }
            assert_eq!(ended.losses(), whole.losses()[4..]);
            assert!(ended.weights() == whole.weights());
        }
        let nowhere = home.run("nowhere", home.config(json!({"resume_from_checkpoint": dir.join("checkpoint-7")})));
        assert_eq!(nowhere.problem().field.as_deref(), Some("resume_from_checkpoint"));
    }
}

/// The best checkpoint by the validation stays, is told as transformers tells it, and is what the run ends with.
#[test]
fn the_best_checkpoint_is_kept_and_loaded() {
    let home = Home::new();
    // So large a learning rate that the validation gets worse at some time.
    let config = |more: Value| {
        let mut config = home.config(json!({
            "val_size": 4, "eval_steps": 1, "max_steps": 12, "save_steps": 3, "save_total_limit": 1, "learning_rate": 0.15,
            "lr_scheduler_type": "constant", "load_best_model_at_end": true, "lora_dropout": 0.0
        }));
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        config
    };
    for (name, metric, greater) in [("least", Value::Null, false), ("greatest", json!("loss"), true)] {
        let more = json!({"metric_for_best_model": metric, "greater_is_better": greater});
        let ended = home.run(name, config(more));
        assert_eq!(ended.outcome, Outcome::Succeeded, "{:?}", ended.events.last());
        let measured = ended.events.iter().filter_map(|event| match event {
            Event::Metrics { step, values, .. } => Some((*step, *values.get("eval_loss")?)),
            _ => None,
        });
        let better = |a: f64, b: f64| if greater { a > b } else { a < b };
        let best =
            measured.fold(
                (0, f64::NAN),
                |best, (step, value)| {
                    if best.1.is_nan() || better(value, best.1) { (step, value) } else { best }
                },
            );
        let state = ended.state();
        assert_eq!((state["best_global_step"].as_u64(), state["best_metric"].as_f64()), (Some(best.0), Some(best.1)));
        let path = ended.dir.join(format!("checkpoint-{}", best.0));
        assert_eq!(state["best_model_checkpoint"], json!(path));
        assert_eq!(ended.saved(true).last(), Some(&best.0));
        let mut left = vec![best.0, 12];
        left.dedup();
        assert_eq!(standing(&ended.dir), left, "the best, and the last beside it");
        let result = common::read_tensors(&ended.dir.join("adapter_model.safetensors"));
        let saved = common::read_tensors(&path.join("adapter_model.safetensors"));
        assert!(
            saved.iter().all(|(key, value)| common::distance(&result[key], value) == 0.0),
            "{name}: another result"
        );
        assert!(best.0 < 12 || greater, "the validation never got worse");
    }
    // A run that was broken off still knows its best.
    let whole = home.run("unbroken", config(json!({})));
    assert_eq!(home.stopped("broken", config(json!({})), Some(7)).outcome, Outcome::Stopped);
    let second = home.run("broken", config(json!({"resume_from_checkpoint": true})));
    let best = |ended: &Ended| ["best_global_step", "best_metric"].map(|key| ended.state()[key].clone());
    assert_eq!(best(&second), best(&whole));
    assert!(second.weights() == whole.weights());
}

#[test]
fn nonsense_about_the_best_is_refused() {
    let home = Home::new();
    for (more, field, part) in [
        (json!({"load_best_model_at_end": true}), "load_best_model_at_end", "validation"),
        (json!({"metric_for_best_model": "eval_loss"}), "metric_for_best_model", "validation"),
        (
            json!({"load_best_model_at_end": true, "val_size": 4, "metric_for_best_model": "bleu"}),
            "metric_for_best_model",
            "eval_bleu",
        ),
    ] {
        let ended = home.run("refused", home.config(more));
        let problem = ended.problem();
        assert_eq!(problem.field.as_deref(), Some(field), "{problem}");
        assert!(problem.message.contains(part) && !problem.hint_in("zh").is_empty(), "{problem}");
    }
}

/// What a resumed run takes up: all, the optimizer's moments, or the weights alone.
#[test]
fn a_resumed_run_takes_up_what_it_is_asked_to() {
    let home = Home::new();
    let whole = home.run("whole", home.config(json!({})));
    let losses = |name: &str, more: Value| {
        copy(&whole.dir, &home.path().join("runs").join(name));
        let ended = home.run(name, home.config(more));
        assert_eq!(ended.outcome, Outcome::Succeeded, "{:?}", ended.events.last());
        (ended.losses(), ended)
    };
    let from = whole.dir.join("checkpoint-4");
    let (all, _) = losses("all", json!({"resume_from_checkpoint": from}));
    assert_eq!(all, whole.losses()[4..]);
    let (weights, ended) =
        losses("weights", json!({"resume_from_checkpoint": from, "resume_mode": "weights", "learning_rate": 0.005}));
    let (moments, _) = losses("moments", json!({"resume_from_checkpoint": from, "resume_mode": "optimizer"}));
    // Both begin with the first rows and the weights of the checkpoint, and part where the moments tell.
    let steps = |losses: &[(u64, u64)]| losses.iter().map(|(step, _)| *step).collect::<Vec<_>>();
    assert_eq!((steps(&weights), steps(&moments)), ((1..=8).collect(), (1..=8).collect()));
    assert!(weights[0] == moments[0] && weights[0] != whole.losses()[0] && weights[1] != moments[1]);
    // A new start in the same folder: from here on the newest is the last that was saved, and a broken run goes on from that.
    assert_eq!(checkpoint::newest(&ended.dir).0.unwrap().1, 8);
    let name = "again";
    copy(&whole.dir, &home.path().join("runs").join(name));
    let restart = json!({"resume_from_checkpoint": from, "resume_mode": "optimizer"});
    assert_eq!(home.stopped(name, home.config(restart), Some(3)).outcome, Outcome::Stopped);
    assert_eq!(checkpoint::newest(&home.path().join("runs/again")).0.unwrap().1, 3);
    let second = home.run(name, home.config(json!({"resume_from_checkpoint": true})));
    assert_eq!(second.losses(), moments[3..], "the optimizer forgot what it had made before");
}
