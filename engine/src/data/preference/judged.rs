//! What a judge said of two answers, asked in both orders, and how often the two agree.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{fs::File, io::BufRead, io::BufReader, path::Path};

/// What a judge says of two answers, whatever the order in which it saw them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    First,
    Second,
    Equal,
    /// Neither letter stands in what it said.
    Unclear,
}

/// Counts over the pairs that a judge has seen. A pair with a better answer is one on which both verdicts agree.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tally {
    pub better: u64,
    pub ties: u64,
    /// Ties on which the verdicts agree: twice equal.
    pub equal: u64,
    /// Ties of which one verdict or both were not understood.
    pub unclear: u64,
}

impl Tally {
    pub fn add(&mut self, verdicts: [Verdict; 2]) {
        match verdicts {
            [Verdict::First, Verdict::First] | [Verdict::Second, Verdict::Second] => self.better += 1,
            [Verdict::Equal, Verdict::Equal] => (self.ties, self.equal) = (self.ties + 1, self.equal + 1),
            both if both.contains(&Verdict::Unclear) => (self.ties, self.unclear) = (self.ties + 1, self.unclear + 1),
            _ => self.ties += 1,
        }
    }

    /// Share of the understood pairs on which both verdicts agree; nothing while there is none.
    pub fn agreement(&self) -> Option<f64> {
        let understood = self.better + self.ties - self.unclear;
        (understood > 0).then(|| (self.better + self.equal) as f64 / understood as f64)
    }
}

/// Calls `each` with the verdicts and the row of each line of a judge's file of ties, if there is one.
pub fn each_tie(ties: &Path, each: &mut dyn FnMut([Verdict; 2], &Value) -> Result<()>) -> Result<()> {
    let file = match File::open(ties) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::io(ties)(e)),
    };
    for line in BufReader::new(file).lines() {
        let row: Value = serde_json::from_str(&line.map_err(Error::io(ties))?).unwrap_or_default();
        if let Ok(verdicts) = serde_json::from_value(row["provenance"]["verdicts"].clone()) {
            each(verdicts, &row)?;
        }
    }
    Ok(())
}

/// The name of the file of ties beside the dataset `name`, without its ending.
pub fn ties_of(name: &str) -> String {
    format!("{name}_ties")
}
