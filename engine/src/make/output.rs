//! The rows that a job made: a line each, on the disk as soon as it is made.

use crate::{
    Error, Result,
    data::{Registry, Row, Source, preference::judged, preview},
};
use api::Problem;
use serde_json::{Map, Value};
use std::{
    fs::{self, File, OpenOptions},
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
};

/// What a kind of job does with the rows that are not for the new dataset.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Apart {
    /// Answers that the teacher isn't sure of: a dataset of its own.
    Unsure,
    /// Pairs without a better answer: a file beside.
    Ties,
}

pub struct Output {
    dir: PathBuf,
    job: String,
    rows: Lines,
    kind: Apart,
    /// Made with its first row.
    apart: Lines,
    /// Rows of this job from before it was stopped or killed.
    pub earlier: Vec<Earlier>,
}

/// What is needed of an earlier row to go on behind it.
#[derive(Debug)]
pub struct Earlier {
    pub instruction: String,
    pub provenance: Value,
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
    pub fn open(dir: PathBuf, name: &str, job: &str, kind: Apart) -> Result<Self> {
        preview::check_name(name).map_err(at_output)?;
        let mut earlier = Vec::new();
        let rows = Lines::open(&dir, name, job, &mut earlier)?;
        let apart = Lines::open(&dir, &kind.name_beside(name), job, &mut earlier)?;
        Ok(Self { dir, job: job.to_owned(), rows, kind, apart, earlier })
    }

    /// Rows of the new dataset.
    pub fn rows(&self) -> u64 {
        self.rows.rows
    }

    pub fn apart_rows(&self) -> u64 {
        self.apart.rows
    }

    /// Adds a row, with where it comes from.
    pub fn add(&mut self, row: Row, provenance: Map<String, Value>) -> Result<()> {
        self.rows.add(row, provenance, &self.job)
    }

    /// As [`add`](Self::add), for those that are kept apart.
    pub fn add_apart(&mut self, row: Row, provenance: Map<String, Value>) -> Result<()> {
        self.apart.add(row, provenance, &self.job)
    }

    /// Makes datasets of the files that have rows; the first one with its bytes, if it has.
    pub fn register(&self) -> Result<Option<(PathBuf, u64)>> {
        let apart = (self.kind == Apart::Unsure).then_some(&self.apart);
        for lines in [&self.rows].into_iter().chain(apart) {
            let known = Registry::open(&self.dir)?.entries().iter().any(|entry| entry.name == lines.name);
            if lines.rows > 0 && !known {
                let mut entry = preview::recognise(&lines.path, false)?;
                entry.shift_insert(0, "file_name".into(), file_name(&lines.name).into());
                preview::add(&self.dir, &lines.name, entry)?;
            }
        }
        if self.rows.rows == 0 {
            return Ok(None);
        }
        let path = &self.rows.path;
        Ok(Some((path.clone(), fs::metadata(path).map_err(Error::io(path))?.len())))
    }
}

impl Apart {
    /// The name of what is kept beside the dataset `name`.
    pub fn name_beside(self, name: &str) -> String {
        match self {
            Self::Unsure => format!("{name}_unsure"),
            Self::Ties => judged::ties_of(name),
        }
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
            let mut row: Value = serde_json::from_slice(&line).unwrap_or_default();
            let provenance = row["provenance"].take();
            if provenance["job"] != job {
                return Ok(false);
            }
            let instruction = row["instruction"].as_str().unwrap_or_default().to_owned();
            earlier.push(Earlier { instruction, provenance });
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

    fn add(&mut self, mut row: Row, mut provenance: Map<String, Value>, job: &str) -> Result<()> {
        provenance.insert("job".into(), job.into());
        row.insert("provenance".into(), provenance.into());
        let mut line = serde_json::to_vec(&row).map_err(|e| Error::Internal(e.to_string()))?;
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

/// A question with its answer.
pub fn answered(instruction: &str, output: &str) -> Row {
    row(&[("instruction", instruction), ("input", ""), ("output", output)])
}

/// A question with two answers.
pub fn paired(instruction: &str, chosen: &str, rejected: &str) -> Row {
    row(&[("instruction", instruction), ("input", ""), ("chosen", chosen), ("rejected", rejected)])
}

fn row(columns: &[(&str, &str)]) -> Row {
    columns.iter().map(|(name, text)| ((*name).to_owned(), (*text).into())).collect()
}

fn file_name(name: &str) -> String {
    format!("{name}.jsonl")
}

fn at_output(error: Error) -> Error {
    let problem: Problem = error.into_problem();
    problem.field("output_dataset").into()
}
