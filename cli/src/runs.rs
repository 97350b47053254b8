//! Run folders: `HOME/runs/ID`, or a folder of the person's own with a link to it there.

use crate::{
    events,
    outcome::{Failure, Outcome},
};
use api::{
    JobKind, Problem, RunConfig,
    job::{Spec, wished_id},
};
use engine::Places;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// A run folder that this process holds.
#[derive(Debug)]
pub struct RunFolder {
    pub spec: Spec,
    pub dir: PathBuf,
    _lock: File,
}

impl RunFolder {
    /// A new folder, or the one that `output_dir` names. That one must be empty, unless the run is resumed
    /// (`resume_from_checkpoint`) or may be written over (`overwrite_output_dir`): then its old run goes.
    pub fn make(kind: JobKind, config: RunConfig, places: &Places) -> Outcome<Self> {
        let runs = places.runs();
        let wish = wished_id(kind, config.text("run_name").unwrap_or_default(), &config);
        let output = config.text("output_dir").filter(|_| kind == JobKind::Train);
        let (id, dir) = match output {
            None => {
                let id = first_free(&wish, |id| fs::create_dir(runs.join(id))).map_err(|e| Failure::io(&runs, e))?;
                (id.clone(), runs.join(id))
            }
            Some(output) => {
                let dir = std::path::absolute(output).map_err(|e| Failure::io(Path::new(output), e))?;
                fs::create_dir_all(&dir).map_err(|e| Failure::io(&dir, e))?;
                let resumes =
                    config.get("resume_from_checkpoint").is_some_and(|v| v != &serde_json::Value::Bool(false));
                let overwrites = config.is_on("overwrite_output_dir");
                let occupied = fs::read_dir(&dir).map_err(|e| Failure::io(&dir, e))?.next().is_some();
                if occupied && !resumes && !overwrites {
                    return Err(Failure::wrong(output_exists(&dir)));
                }
                let lock = events::lock(&dir)?;
                if !resumes {
                    clear(&dir).map_err(|e| Failure::io(&dir, e))?;
                }
                let id = link(&runs, &wish, &dir).map_err(|e| Failure::io(&runs, e))?;
                return Self::hold(Spec { id, kind, config, after: None, created_at: events::now() }, dir, lock);
            }
        };
        let lock = events::lock(&dir)?;
        Self::hold(Spec { id, kind, config, after: None, created_at: events::now() }, dir, lock)
    }

    /// The folder that a worker was given, with the specification in it.
    pub fn open(dir: &Path) -> Outcome<Self> {
        let path = dir.join("spec.json");
        let text = fs::read(&path).map_err(|e| Failure::io(&path, e))?;
        let spec = serde_json::from_slice(&text).map_err(|e| {
            let shown = path.display();
            Failure::wrong(
                Problem::new(
                    "bad_spec",
                    format!("{shown} is no specification: {e}."),
                    format!("{shown} 不是有效的任务说明：{e}。"),
                )
                .hint("Start the run again from the studio.", "请在工作室中重新开始该运行。"),
            )
        })?;
        let lock = events::lock(dir)?;
        Ok(Self { spec, dir: dir.to_path_buf(), _lock: lock })
    }

    fn hold(spec: Spec, dir: PathBuf, lock: File) -> Outcome<Self> {
        let (path, part) = (dir.join("spec.json"), dir.join("spec.json.part"));
        let text = serde_json::to_vec_pretty(&spec).map_err(|e| Failure::io(&path, e.into()))?;
        fs::write(&part, text).and_then(|()| fs::rename(&part, &path)).map_err(|e| Failure::io(&path, e))?;
        Ok(Self { spec, dir, _lock: lock })
    }
}

/// The first of `wish`, `wish-2`, `wish-3` … that `make` can make.
fn first_free(wish: &str, make: impl Fn(&str) -> io::Result<()>) -> io::Result<String> {
    for n in 1..=100_000 {
        let id = if n == 1 { wish.to_string() } else { format!("{wish}-{n}") };
        match make(&id) {
            Ok(()) => return Ok(id),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
    }
    Err(ErrorKind::AlreadyExists.into())
}

/// The id under which `runs` knows the folder, by a new link where it doesn't yet.
fn link(runs: &Path, wish: &str, dir: &Path) -> io::Result<String> {
    let real = dir.canonicalize()?;
    for entry in fs::read_dir(runs)?.flatten() {
        if entry.path().canonicalize().is_ok_and(|path| path == real)
            && let Ok(id) = entry.file_name().into_string()
        {
            return Ok(id);
        }
    }
    first_free(wish, |id| std::os::unix::fs::symlink(&real, runs.join(id)))
}

/// Takes out what an earlier run said and saved: it would be mixed up with this one's.
fn clear(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_checkpoint =
            name.strip_prefix("checkpoint-").is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
        if is_checkpoint && entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else if ["events.jsonl", "worker.log", "trainer_log.jsonl", "trainer_state.json"].contains(&name.as_str()) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn output_exists(dir: &Path) -> Problem {
    let shown = dir.display();
    Problem::new(
        "output_exists",
        format!("output_dir {shown} is not empty."),
        format!("output_dir {shown} 不是空文件夹。"),
    )
    .hint(
        "Choose another, go on with resume_from_checkpoint=true, or start over with overwrite_output_dir=true.",
        "请换一个文件夹，或用 resume_from_checkpoint=true 继续，或用 overwrite_output_dir=true 重新开始。",
    )
    .field("output_dir")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn places(home: &Path) -> Places {
        fs::create_dir_all(home.join("runs")).unwrap();
        Places { home: home.into(), hub_cache: home.join("hub") }
    }

    fn config(words: &[&str]) -> RunConfig {
        let mut config = RunConfig::default();
        words.iter().for_each(|w| config.set_word(w).unwrap());
        config
    }

    #[test]
    fn ids_are_made_of_names_and_are_never_taken_twice() {
        let home = tempfile::tempdir().unwrap();
        let places = places(home.path());
        let make = |words: &[&str]| RunFolder::make(JobKind::Train, config(words), &places).unwrap().spec.id;
        assert_eq!(make(&["model_name_or_path=a/SmolLM2.gguf"]), "SmolLM2-sft");
        assert_eq!(make(&["model_name_or_path=a/SmolLM2.gguf"]), "SmolLM2-sft-2");
        assert_eq!(make(&["run_name=../../my run", "model_name_or_path=x"]), "my-run");
        assert_eq!(make(&["model_name_or_path=模型", "stage=../.."]), "run");
    }

    #[test]
    fn an_output_folder_is_linked_and_not_written_over_unasked() {
        let (home, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let places = places(home.path());
        let output = format!("output_dir={}", out.path().join("x").display());
        let words = ["model_name_or_path=m", output.as_str()];
        let make = |more: &[&str]| RunFolder::make(JobKind::Train, config(&[&words, more].concat()), &places);
        let dir = make(&[]).unwrap().dir;
        assert_eq!(fs::canonicalize(home.path().join("runs/m-sft")).unwrap(), dir.canonicalize().unwrap());
        fs::create_dir(dir.join("checkpoint-5")).unwrap();
        fs::write(dir.join("events.jsonl"), "x").unwrap();
        let failure = make(&[]).unwrap_err();
        assert_eq!((failure.code, failure.problems[0].field.as_deref()), (2, Some("output_dir")));
        assert_eq!(make(&["resume_from_checkpoint=true"]).unwrap().spec.id, "m-sft");
        assert!(dir.join("checkpoint-5").exists() && dir.join("events.jsonl").exists());
        let held = make(&["overwrite_output_dir=true"]).unwrap();
        assert!(!dir.join("checkpoint-5").exists() && !dir.join("events.jsonl").exists());
        assert_eq!(make(&["overwrite_output_dir=true"]).unwrap_err().code, 3, "{:?} is held", held.dir);
        assert_eq!(fs::read_dir(home.path().join("runs")).unwrap().count(), 1);
    }
}
