//! Votes of a person on pairs of answers. Each is a line of `datasets/.votes/NAME.jsonl` and on the disk before it is
//! answered; nothing is ever changed there, so whatever is killed loses nothing. A line names the better answer by its
//! hash, and the last line about a pair counts.

use super::answers::{self, Answer, Asked};
use crate::{
    Error, Places, Result,
    data::{preview, questions},
};
use api::{
    Problem,
    preference::{Ballot, BallotPair, CastVote, Pairing, Vote},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions},
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

/// Pairs that a page has ahead.
const AHEAD: usize = 3;

/// A line of the file.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Line {
    pair: String,
    vote: Vote,
    /// Hash of the better answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    better: Option<String>,
    /// Seconds since 1970.
    #[serde(default)]
    time: f64,
}

/// The votes of a dataset: the last line about each pair, and the pairs in the order of their last lines.
#[derive(Default)]
pub struct Record {
    lines: HashMap<String, Line>,
    order: Vec<String>,
}

/// What a record says of two answers.
pub enum Found {
    /// The place of the better one.
    Better(usize),
    Tie,
    Nothing,
}

/// What is asked next about the answers of `dataset`; with `cast`, behind that vote.
pub fn ballot(dataset: &str, cast: Option<&CastVote>, places: &Places) -> Result<Ballot> {
    preview::check_name(dataset).map_err(|error| Error::from(error.into_problem().field("dataset")))?;
    let asked = answers::read(dataset, &questions::of_dataset(dataset, places)?)?;
    let pairs = pairs(&asked);
    let dir = places.datasets();
    let mut record = Record::read(&dir, dataset)?;
    if let Some(cast) = cast {
        let line = line(cast, &pairs, &record)?;
        append(&dir, dataset, &line)?;
        record.take(line);
    }
    let mut ballot = Ballot { dataset: dataset.to_owned(), pairs: pairs.len() as u64, ..Ballot::default() };
    for pair in &pairs {
        match record.lines.get(&pair.id).map(|line| line.vote) {
            None | Some(Vote::Undo) if ballot.next.len() < AHEAD => ballot.next.push(pair.clone()),
            None | Some(Vote::Undo) => {}
            Some(vote) => {
                ballot.voted += 1;
                ballot.ties += u64::from(vote == Vote::Tie);
                ballot.skipped += u64::from(vote == Vote::Skip);
                ballot.undoable = true;
            }
        }
    }
    // What was taken back is asked again at once.
    if let Some(CastVote { vote: Vote::Undo, .. }) = cast
        && let Some(pair) = record.order.last().and_then(|id| pairs.iter().find(|pair| pair.id == *id))
    {
        ballot.next.retain(|next| next.id != pair.id);
        ballot.next.insert(0, pair.clone());
        ballot.next.truncate(AHEAD);
    }
    Ok(ballot)
}

/// All pairs of different answers, side by side: first a pair of each prompt, then a second one. Which stands left is a
/// matter of the pair's identity, so it says nothing about who wrote it and is the same when the page is loaded again.
fn pairs(asked: &[Asked]) -> Vec<BallotPair> {
    let mut rounds = Vec::<Vec<BallotPair>>::new();
    for asked in asked {
        let pair = |(a, b)| {
            let (a, b): (&Answer, &Answer) = (&asked.answers[a], &asked.answers[b]);
            let id = asked.pair(a, b);
            let (left, right) = if hash(&id, &a.text) < hash(&id, &b.text) { (a, b) } else { (b, a) };
            BallotPair { id, prompt: asked.prompt.clone(), left: left.text.clone(), right: right.text.clone() }
        };
        let mut all: Vec<BallotPair> = Pairing::All.couples(asked.answers.len()).map(pair).collect();
        all.sort_by(|a, b| a.id.cmp(&b.id));
        for (round, pair) in all.into_iter().enumerate() {
            if rounds.len() == round {
                rounds.push(Vec::new());
            }
            rounds[round].push(pair);
        }
    }
    rounds.into_iter().flatten().collect()
}

/// The vote as a line: of a pair that there is.
fn line(cast: &CastVote, pairs: &[BallotPair], record: &Record) -> Result<Line> {
    let last =
        || record.order.iter().rev().find(|id| record.lines.get(*id).is_some_and(|line| line.vote != Vote::Undo));
    let id = if cast.vote == Vote::Undo && cast.pair.is_empty() { last() } else { Some(&cast.pair) };
    let id = id.ok_or_else(nothing_to_undo)?;
    let pair = pairs.iter().find(|pair| pair.id == *id).ok_or_else(|| no_such_pair(id))?;
    let better = match cast.vote {
        Vote::Left => Some(hash(id, &pair.left)),
        Vote::Right => Some(hash(id, &pair.right)),
        Vote::Tie | Vote::Skip | Vote::Undo => None,
    };
    let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
    Ok(Line { pair: id.clone(), vote: cast.vote, better, time })
}

impl Record {
    /// The votes on the answers of `dataset` in the dataset folder `dir`. Lines that are no votes are passed over.
    pub fn read(dir: &Path, dataset: &str) -> Result<Self> {
        let mut record = Self::default();
        if preview::check_name(dataset).is_err() {
            return Ok(record); // Nobody can have voted on it.
        }
        let path = path(dir, dataset);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(record),
            Err(e) => return Err(Error::io(&path)(e)),
        };
        text.split(|byte| *byte == b'\n')
            .filter_map(|line| serde_json::from_slice(line).ok())
            .for_each(|line| record.take(line));
        Ok(record)
    }

    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// What it says of the pair `id` of these two answers.
    pub fn better(&self, id: &str, answers: [&str; 2]) -> Found {
        let Some(line) = self.lines.get(id) else { return Found::Nothing };
        let Some(better) = &line.better else {
            return if line.vote == Vote::Tie { Found::Tie } else { Found::Nothing };
        };
        answers.iter().position(|answer| hash(id, answer) == *better).map_or(Found::Nothing, Found::Better)
    }

    fn take(&mut self, line: Line) {
        self.order.retain(|id| *id != line.pair);
        self.order.push(line.pair.clone());
        self.lines.insert(line.pair.clone(), line);
    }
}

/// Adds a line and flushes it to the disk. A last line that isn't whole, of a machine that went off, gets its end first.
fn append(dir: &Path, dataset: &str, line: &Line) -> Result<()> {
    let path = path(dir, dataset);
    let write = || -> std::io::Result<()> {
        fs::create_dir_all(dir.join(FOLDER))?;
        let mut file = OpenOptions::new().create(true).read(true).append(true).open(&path)?;
        file.lock()?;
        let mut text = if is_torn(&mut file)? { vec![b'\n'] } else { Vec::new() };
        serde_json::to_writer(&mut text, line)?;
        text.push(b'\n');
        file.write_all(&text)?;
        file.sync_data()
    };
    write().map_err(Error::io(&path))
}

fn is_torn(file: &mut File) -> std::io::Result<bool> {
    if file.metadata()?.len() == 0 {
        return Ok(false);
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last != *b"\n")
}

const FOLDER: &str = ".votes";

fn path(dir: &Path, dataset: &str) -> PathBuf {
    dir.join(FOLDER).join(format!("{dataset}.jsonl"))
}

/// Of an answer in a pair: 16 hexadecimal digits.
fn hash(pair: &str, answer: &str) -> String {
    let digest = Sha256::new().chain_update(pair).chain_update([0]).chain_update(answer).finalize();
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

fn no_such_pair(id: &str) -> Error {
    let shown: String = id.chars().take(40).collect();
    Problem::new(
        "no_such_pair",
        format!("There is no pair {shown:?} among the answers any more."),
        format!("这些回答中已没有“{shown}”这一对。"),
    )
    .hint("Reload the page.", "请刷新页面。")
    .field("pair")
    .into()
}

fn nothing_to_undo() -> Error {
    Problem::new("nothing_to_undo", "There is no vote to take back.", "没有可撤销的投票。")
        .hint("Vote on a pair first.", "请先对一对回答投票。")
        .field("vote")
        .into()
}
