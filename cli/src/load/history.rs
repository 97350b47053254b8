//! L05: a studio with a long history.

use super::{Plan, Result, Row, client::Client, ms, percentile, studio::Studio};
use api::routes::{JOB, JOB_CHECKPOINTS, JOB_METRICS, JOBS, fill};
use hyper::Method;
use std::time::{Duration, Instant};

const TIMES: usize = 40;

pub async fn large(plan: &Plan) -> Result<Row> {
    let home = tempfile::TempDir::new()?;
    server::history::make(home.path(), plan.jobs, plan.points).await?;
    let studio = Studio::start_at(plan, home).await?;
    let mut client = studio.client().await?;
    let (middle, longest) = (format!("run-{:05}", plan.jobs / 2), "run-00000".to_owned());
    let list = slowest(&mut client, &[JOBS.to_owned(), format!("{JOBS}?search=nothing")]).await?;
    let page = |id: &str| [JOB, JOB_METRICS, JOB_CHECKPOINTS].map(|route| fill(route, id));
    let run = slowest(&mut client, &page(&middle)).await?;
    let long = slowest(&mut client, &page(&longest)).await?;
    let begun = Instant::now();
    client.ask(Method::DELETE, &fill(JOB, &longest), None).await?;
    let deleted = begun.elapsed();
    Ok(Row::new("L05", format!("{} jobs, {} points", plan.jobs, plan.points))
        .at_most("list p99", list, "ms", 100.0)
        .at_most("run page p99", run, "ms", 150.0)
        .at_most("page of the longest run p99", long, "ms", 150.0)
        .at_most("start", ms(studio.began), "ms", 2000.0)
        .at_most("deleting the longest run", ms(deleted), "ms", 200.0))
}

/// What a page asks for, all of it, many times: the 99th percentile in milliseconds.
async fn slowest(client: &mut Client, paths: &[String]) -> Result<f64> {
    let mut times = Vec::with_capacity(TIMES);
    for _ in 0..TIMES {
        let mut all = Duration::ZERO;
        for path in paths {
            let begun = Instant::now();
            let (status, body) = client.get(path).await?;
            all += begun.elapsed();
            if !status.is_success() {
                return Err(format!("{path}: {status}: {}", String::from_utf8_lossy(&body)).into());
            }
        }
        times.push(ms(all));
    }
    Ok(percentile(&mut times, 0.99))
}
