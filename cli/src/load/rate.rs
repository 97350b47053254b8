//! L06: a thousand requests a second while a model trains.

use super::{Counts, Plan, Result, Row, client::Client, percentile, slower, studio::Studio};
use api::routes::{CATALOG, JOB, JOB_METRICS, JOBS, SYSTEM, fill};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

const RATE: u32 = 1000;
const CONNECTIONS: u32 = 16;
/// Spells without and with the load, in turns.
const TURNS: u32 = 4;

pub async fn mixed(studio: &Studio, plan: &Plan) -> Result<Row> {
    let training = studio.train().await?;
    let spell = plan.seconds / TURNS;
    let (mut paces, mut waits, mut answers) = (Vec::new(), Vec::new(), Counts::new());
    for _ in 0..TURNS {
        let alone = training.pace(spell).await;
        // What a page asks for that comes back.
        let paths = [
            JOBS.to_owned(),
            fill(JOB, &training.id),
            format!("{}?after={}", fill(JOB_METRICS, &training.id), training.step()),
            SYSTEM.to_owned(),
            CATALOG.to_owned(),
            "/".to_owned(),
        ];
        let begun = Instant::now();
        let mut callers = tokio::task::JoinSet::new();
        for caller in 0..CONNECTIONS {
            let (client, paths) = (studio.client().await?, paths.clone());
            callers.spawn(call(client, paths, begun, spell, caller));
        }
        let loaded = training.pace(spell).await;
        while let Some(done) = callers.join_next().await {
            let (times, counts) = done??;
            waits.extend(times);
            counts.into_iter().for_each(|(status, n)| *answers.entry(status).or_default() += n);
        }
        paces.push((alone, loaded));
    }
    let errors = answers.iter().filter(|(status, _)| **status != 200).map(|(_, n)| n).sum::<usize>();
    let total = answers.values().sum::<usize>() as f64;
    Ok(Row::new("L06", format!("{RATE} mixed GET a second for {} s while a model trains", plan.seconds.as_secs()))
        .at_least("answered", total / (spell * TURNS).as_secs_f64(), "/s", f64::from(RATE) * 0.99)
        .at_most("p99", percentile(&mut waits, 0.99), "ms", 50.0)
        .at_most("errors", errors as f64, "", 0.0)
        .at_most("training slower by", slower(&paces), "%", 10.0))
}

/// Its share of the requests, each at its own moment; waits count from there, so that a slow answer isn't hidden by the
/// requests that it holds up.
async fn call(
    mut client: Client,
    paths: [String; 6],
    begun: Instant,
    spell: Duration,
    caller: u32,
) -> Result<(Vec<f64>, Counts)> {
    let (mut waits, mut counts) = (Vec::new(), Counts::new());
    let every = Duration::from_secs(1) * CONNECTIONS / RATE;
    let mut due = begun + Duration::from_secs(1) * caller / RATE;
    let mut turn = caller as usize;
    while due < begun + spell {
        sleep_until(due).await;
        let (status, _) = client.get(&paths[turn % paths.len()]).await?;
        waits.push(super::ms(due.elapsed()));
        *counts.entry(status.as_u16()).or_default() += 1;
        (turn, due) = (turn + 1, due + every);
    }
    Ok((waits, counts))
}
