//! `lathe bench load`: what a studio of its own holds while a small model is trained in it. Each row is a promise with its
//! figure and the measurement beside it (rows L01 to L09 and R18 of the load table in docs/reliability.md).

mod chat;
mod client;
mod events;
mod history;
mod hostile;
mod rate;
mod start;
mod studio;
mod upload;
mod values;

use crate::{args::BenchLoad, outcome::Failure, say::Say};
use serde::Serialize;
use std::{collections::BTreeMap, path::PathBuf, time::Duration};
use studio::Studio;

type Error = Box<dyn std::error::Error + Send + Sync>;
type Result<T, E = Error> = std::result::Result<T, E>;

/// What was promised, what was seen, and whether it holds.
#[derive(Debug, Default, Serialize)]
pub struct Row {
    pub id: &'static str,
    pub load: String,
    /// Each figure with what it may be at most (or at least), where there is a limit.
    pub figures: Vec<Figure>,
    /// What went wrong, if the row could not be measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

#[derive(Debug, Serialize)]
pub struct Figure {
    pub name: &'static str,
    pub value: f64,
    pub unit: &'static str,
    #[serde(flatten)]
    pub bound: Option<Bound>,
}

#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

impl Row {
    fn new(id: &'static str, load: impl Into<String>) -> Self {
        Self { id, load: load.into(), ..Self::default() }
    }

    fn at_most(mut self, name: &'static str, value: f64, unit: &'static str, most: f64) -> Self {
        self.figures.push(Figure { name, value, unit, bound: Some(Bound::AtMost(most)) });
        self
    }

    fn at_least(mut self, name: &'static str, value: f64, unit: &'static str, least: f64) -> Self {
        self.figures.push(Figure { name, value, unit, bound: Some(Bound::AtLeast(least)) });
        self
    }

    fn with(mut self, name: &'static str, value: f64, unit: &'static str) -> Self {
        self.figures.push(Figure { name, value, unit, bound: None });
        self
    }

    pub fn holds(&self) -> bool {
        self.error.is_none() && self.figures.iter().all(Figure::holds)
    }
}

impl Figure {
    fn holds(&self) -> bool {
        match self.bound {
            None => true,
            Some(Bound::AtMost(most)) => self.value <= most,
            Some(Bound::AtLeast(least)) => self.value >= least,
        }
    }
}

/// How much of each load; the command's own numbers are those of the table.
pub struct Plan {
    pub program: PathBuf,
    pub seconds: Duration,
    pub subscribers: usize,
    pub gigabytes: f64,
    pub jobs: u64,
    pub points: u64,
}

/// Rows that can be asked for.
pub const ROWS: [&str; 10] = ["L01", "L02", "L03", "L04", "L05", "L06", "L07", "L08", "L09", "R18"];

pub fn run(args: &BenchLoad, say: &Say) -> std::result::Result<Vec<Row>, Failure> {
    let internal = |e: &dyn std::fmt::Display| Failure::failed(crate::outcome::internal(e));
    let plan = Plan {
        program: std::env::current_exe().map_err(|e| internal(&e))?,
        seconds: Duration::from_secs(args.seconds.into()),
        subscribers: args.subscribers as usize,
        gigabytes: args.gigabytes,
        jobs: args.jobs,
        points: args.points,
    };
    studio::raise_open_files();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|e| internal(&e))?;
    let mut rows = Vec::new();
    for id in ROWS.into_iter().filter(|id| args.rows.is_empty() || args.rows.iter().any(|row| row == id)) {
        say.note(&format!("{id} …"));
        let row = runtime.block_on(one(id, &plan));
        rows.push(row.unwrap_or_else(|error| Row { error: Some(error.to_string()), ..Row::new(id, "") }));
    }
    Ok(rows)
}

/// Each row has a studio and a data folder of its own.
async fn one(id: &'static str, plan: &Plan) -> Result<Row> {
    match id {
        "L01" => chat::streams(&Studio::start(plan).await?).await,
        "L02" => events::delivery(&Studio::start(plan).await?, plan).await,
        "L03" => upload::large(&Studio::start(plan).await?, plan).await,
        "L04" => upload::parsed(plan).await,
        "L05" => history::large(plan).await,
        "L06" => rate::mixed(&Studio::start(plan).await?, plan).await,
        "L07" => hostile::connections(&Studio::start(plan).await?, plan).await,
        "L08" => values::huge(&Studio::start(plan).await?, plan).await,
        "L09" => start::quick(plan).await,
        _ => events::slowdown(&Studio::start(plan).await?, plan).await,
    }
}

/// The rows as a table in Markdown.
pub fn table(rows: &[Row]) -> String {
    let figure = |figure: &Figure| {
        let Figure { name, value, unit, bound } = figure;
        let value = if value.abs() >= 100.0 { format!("{value:.0}") } else { format!("{value:.1}") };
        let bound = match bound {
            None => String::new(),
            Some(Bound::AtMost(most)) => format!(" (at most {most})"),
            Some(Bound::AtLeast(least)) => format!(" (at least {least})"),
        };
        format!("{name} {value} {unit}{bound}").replace("  ", " ")
    };
    let line = |row: &Row| {
        let seen = row.error.clone().unwrap_or_else(|| row.figures.iter().map(figure).collect::<Vec<_>>().join("; "));
        format!("| {} | {} | {seen} | {} |", row.id, row.load, if row.holds() { "yes" } else { "**no**" })
    };
    let head = ["| row | load | measured | held |".to_owned(), "|---|---|---|---|".to_owned()];
    head.into_iter().chain(rows.iter().map(line)).collect::<Vec<_>>().join("\n")
}

/// The value below which so large a share lies.
fn percentile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let place = (values.len() as f64 * share).ceil() as usize;
    values.get(place.saturating_sub(1)).copied().unwrap_or(f64::INFINITY)
}

fn median(values: &mut [f64]) -> f64 {
    percentile(values, 0.5)
}

/// How many percent slower the second of each pair is than the first, as a median.
fn slower(pairs: &[(f64, f64)]) -> f64 {
    median(&mut pairs.iter().map(|(alone, loaded)| (1.0 - loaded / alone) * 100.0).collect::<Vec<_>>())
}

/// Bytes as megabytes.
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// Milliseconds.
fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Counts by name, for answers of many kinds.
type Counts = BTreeMap<u16, usize>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_holds_when_every_figure_does() {
        let row = || Row::new("L01", "x").at_most("latency", 5.0, "ms", 5.0);
        assert!(row().holds());
        assert!(!row().at_least("streams", 31.0, "", 32.0).holds());
        assert!(table(&[row()]).ends_with("| L01 | x | latency 5.0 ms (at most 5) | yes |"));
        assert!(!Row { error: Some("gone".into()), ..row() }.holds());
    }

    #[test]
    fn percentiles_are_values_that_came() {
        let mut values: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!((percentile(&mut values, 0.99), median(&mut values)), (198.0, 100.0));
        assert_eq!(slower(&[(10.0, 9.0), (10.0, 9.8), (10.0, 10.0)]).round(), 2.0);
    }
}
