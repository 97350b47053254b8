//! L09: how soon the studio answers, and what it takes while nothing happens.

use super::{
    Plan, Result, Row, median, megabytes, ms,
    studio::{Studio, memory},
};
use std::time::Duration;

pub async fn quick(plan: &Plan) -> Result<Row> {
    // The first start unpacks the starter model; a person sees the others.
    let first = Studio::start(plan).await?;
    let began = ms(first.began);
    let (mut home, mut again) = (first.end()?, Vec::new());
    for _ in 0..5 {
        let studio = Studio::start_at(plan, home).await?;
        again.push(ms(studio.began));
        home = studio.end()?;
    }
    let studio = Studio::start_at(plan, home).await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let idle = memory(studio.pid(), "VmRSS");
    Ok(Row::new("L09", "start to the first answer, and three seconds of rest")
        .at_most("start", median(&mut again), "ms", 300.0)
        .with("very first start", began, "ms")
        .at_most("idle", megabytes(idle), "MB", 40.0))
}
