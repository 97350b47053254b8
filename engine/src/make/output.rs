//! The rows that a job made: a line each, on the disk as soon as it is made.

use crate::{
    Error, Result,
    data::{Registry, Row, Source, preview},
};
use api::Problem;
use serde_json::{Map, Value, json};
use std::{
    fs::{self, File, OpenOptions},
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
};

/// What follows the name of the dataset of answers that the teacher isn't sure of.
const UNSURE: &str = "unsure";

pub struct Output {
    dir: PathBuf,
    job: String,
    sure: Lines,
    /// Made with its first row.
    unsure: Lines,
    /// Rows of this job from before it was stopped or killed.
    pub earlier: Vec<Earlier>,
}

/// What is needed of an earlier row to go on behind it.
#[derive(Debug)]
pub struct Earlier {
    pub instruction: String,
    /// The row of the source that it answers, if it does.
    pub row: Option<u64>,
}

/// A file of rows that is also a dataset.
struct Lines {
    name: String,
    path: PathBuf,
    file: Option<File>,
    rows: u64,
}

impl Output {
    /// The rows of `job` in the dataset folder, under `name`. Rows of anything else under that name are never touched.
    pub fn open(dir: PathBuf, name: &str, job: &str) -> Result<Self> {
        preview::check_name(name).map_err(at_output)?;
        let mut earlier = Vec::new();
        let sure = Lines::open(&dir, name, job, &mut earlier)?;
        let unsure = Lines::open(&dir, &format!("{name}_{UNSURE}"), job, &mut earlier)?;
        Ok(Self { dir, job: job.to_owned(), sure, unsure, earlier })
    }

    /// Rows of the new dataset.
    pub fn rows(&self) -> u64 {
        self.sure.rows
    }

    pub fn unsure_rows(&self) -> u64 {
        self.unsure.rows
    }

    /// Adds a row: a question and its answer, and where they come from.
    pub fn add(&mut self, instruction: &str, output: &str, provenance: Map<String, Value>) -> Result<()> {
        self.sure.add(&row(instruction, output, provenance, &self.job))
    }

    /// As [`add`](Self::add), for the second dataset.
    pub fn add_unsure(&mut self, instruction: &str, output: &str, provenance: Map<String, Value>) -> Result<()> {
        self.unsure.add(&row(instruction, output, provenance, &self.job))
    }

    /// Makes datasets of the files that have rows; the first one with its bytes, if it has.
    pub fn register(&self) -> Result<Option<(PathBuf, u64)>> {
        for lines in [&self.sure, &self.unsure] {
            let known = Registry::open(&self.dir)?.entries().iter().any(|entry| entry.name == lines.name);
            if lines.rows > 0 && !known {
                let entry = json!({ "file_name": file_name(&lines.name) });
                preview::add(&self.dir, &lines.name, entry.as_object().cloned().unwrap_or_default())?;
            }
        }
        if self.sure.rows == 0 {
            return Ok(None);
        }
        let path = &self.sure.path;
        Ok(Some((path.clone(), fs::metadata(path).map_err(Error::io(path))?.len())))
    }
}

impl Lines {
    fn open(dir: &Path, name: &str, job: &str, earlier: &mut Vec<Earlier>) -> Result<Self> {
        let path = dir.join(file_name(name));
        let registry = Registry::open(dir)?;
        let entry = registry.entries().iter().find(|entry| entry.name == name);
        if entry.is_some_and(|entry| entry.source != Source::File(file_name(name))) {
            return Err(at_output(preview::taken(name)));
        }
        let mut lines = Self { name: name.to_owned(), path, file: None, rows: 0 };
        match lines.read(job, earlier)? {
            true => Ok(lines),
            false => Err(at_output(preview::taken(name))),
        }
    }

    /// Reads the rows that are there and cuts off a last one that isn't whole; false if one isn't of this job.
    fn read(&mut self, job: &str, earlier: &mut Vec<Earlier>) -> Result<bool> {
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(true),
            Err(e) => return Err(Error::io(&self.path)(e)),
        };
        let (mut reader, mut line, mut whole) = (BufReader::new(file), Vec::new(), 0);
        loop {
            line.clear();
            let read = reader.read_until(b'\n', &mut line).map_err(Error::io(&self.path))?;
            if !line.ends_with(b"\n") {
                break;
            }
            let row: Value = serde_json::from_slice(&line).unwrap_or_default();
            let provenance = &row["provenance"];
            if provenance["job"] != job {
                return Ok(false);
            }
            let instruction = row["instruction"].as_str().unwrap_or_default().to_owned();
            earlier.push(Earlier { instruction, row: provenance["row"].as_u64() });
            self.rows += 1;
            whole += read as u64;
        }
        let file = OpenOptions::new().append(true).open(&self.path).map_err(Error::io(&self.path))?;
        if !line.is_empty() {
            file.set_len(whole).map_err(Error::io(&self.path))?;
        }
        self.file = Some(file);
        Ok(true)
    }

    fn add(&mut self, row: &Row) -> Result<()> {
        let mut line = serde_json::to_vec(row).map_err(|e| Error::Internal(e.to_string()))?;
        line.push(b'\n');
        let file = match &mut self.file {
            Some(file) => file,
            None => {
                let options = OpenOptions::new().create_new(true).append(true).open(&self.path);
                self.file.insert(options.map_err(Error::io(&self.path))?)
            }
        };
        file.write_all(&line).map_err(Error::io(&self.path))?;
        self.rows += 1;
        Ok(())
    }
}

fn row(instruction: &str, output: &str, mut provenance: Map<String, Value>, job: &str) -> Row {
    provenance.insert("job".into(), job.into());
    let columns = [("instruction", instruction.into()), ("input", "".into()), ("output", output.into())];
    let columns = columns.into_iter().chain([("provenance", Value::Object(provenance))]);
    columns.map(|(name, value)| (name.to_owned(), value)).collect()
}

fn file_name(name: &str) -> String {
    format!("{name}.jsonl")
}

fn at_output(error: Error) -> Error {
    let problem: Problem = error.into_problem();
    problem.field("output_dataset").into()
}
