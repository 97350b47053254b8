//! A data folder with a long history, and how long the studio takes with it: `history HOME WORKER [JOBS [POINTS]]`. Makes
//! the folder if it isn't there (10,000 jobs and 10 million points by default), serves it, and prints a table.

use server::{Options, Program, hub::HubSettings};
use sqlx::{ConnectOptions, Connection, sqlite::SqliteConnectOptions};
use std::{
    ffi::OsString,
    fs,
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Of the points, the first job has every tenth one: a run of a million steps.
const SHARE_OF_LONGEST: u64 = 10;

fn main() -> Result {
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    let [home, worker, rest @ ..] = words.as_slice() else { return Err("HOME WORKER [JOBS [POINTS]]".into()) };
    let number = |at: usize, default: u64| rest.get(at).and_then(|n| n.to_str()?.parse().ok()).unwrap_or(default);
    let (jobs, points) = (number(0, 10_000), number(1, 10_000_000));
    let home = Path::new(home);
    let env = vec![(OsString::from("LATHE_HOME"), home.as_os_str().to_owned())];
    let program = Program { path: worker.into(), args: Vec::new(), env, cuda: None };
    let hub = HubSettings { home: home.join("hf"), offline: true, ..Default::default() };
    let mut options = Options::new(home.into(), program, api::Catalog::default(), hub);
    options.port = 0;
    let runtime = server::runtime()?;
    if !home.join("lathe.db").exists() {
        // An empty one first, as the studio makes it.
        let (ready, address) = std::sync::mpsc::channel();
        let empty =
            runtime.spawn(server::serve(options.clone(), move |address| ready.send(address).unwrap_or_default()));
        address.recv()?;
        empty.abort();
        std::thread::sleep(Duration::from_millis(500));
        let since = Instant::now();
        runtime.block_on(fill(home, jobs, points))?;
        println!("{jobs} jobs and {points} points made in {:.1} s", since.elapsed().as_secs_f64());
    }
    let since = Instant::now();
    let (ready, address) = std::sync::mpsc::channel();
    runtime.spawn(server::serve(options, move |address| ready.send(address).unwrap_or_default()));
    let address = address.recv()?;
    println!("{:<44} {:>9.1} ms", "start", since.elapsed().as_secs_f64() * 1000.0);
    runtime.block_on(measure(address, jobs))
}

async fn fill(home: &Path, jobs: u64, points: u64) -> Result {
    let mut db = SqliteConnectOptions::new().filename(home.join("lathe.db")).connect().await?;
    let config = r#"{"model_name_or_path":"/models/SmolLM2-135M-Instruct","stage":"sft","dataset":"identity,alpaca_en_demo","finetuning_type":"lora","lora_rank":16,"learning_rate":0.0001,"num_train_epochs":3.0,"output_dir":null}"#;
    let progress = r#"{"done":900,"total":900,"status":null,"epoch":3.0,"latest":{"loss":1.2345678901234,"learning_rate":0.00001,"grad_norm":0.51234,"tokens_per_s":812.5},"seconds_left":null,"stalled_since":null}"#;
    let plan = serde_json::to_string(&api::Plan { steps: 900, ..Default::default() })?;
    let longest = points / SHARE_OF_LONGEST;
    let each = (points - longest) / jobs.saturating_sub(1).max(1);
    for number in 0..jobs {
        if number % 100 == 0 {
            sqlx::query("BEGIN").execute(&mut db).await?;
        }
        let id = format!("run-{number:05}");
        sqlx::query(
            "INSERT INTO jobs (id, kind, state, place, created_at, started_at, finished_at, config, progress, summary, plan, cursor)
             VALUES (?, 'train', 'succeeded', ?, ?, 1.0, 2.0, ?, ?, '{\"train_loss\":1.5}', ?, 2)",
        )
        .bind(&id)
        .bind(i64::try_from(number)?)
        .bind(1.7e9 + number as f64)
        .bind(config)
        .bind(progress)
        .bind(&plan)
        .execute(&mut db)
        .await?;
        let steps = if number == 0 { longest } else { each };
        sqlx::query(
            "WITH RECURSIVE s (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < ?2)
             INSERT INTO metrics SELECT ?1, n, 'train', n / 300.0, 1.7e9 + n,
                 '{\"loss\":' || (2.0 + (n * 7919 % 1000) / 1000.0) || ',\"learning_rate\":0.0001,\"grad_norm\":0.5,\"tokens_per_s\":812.5}' FROM s",
        )
        .bind(&id)
        .bind(i64::try_from(steps)?)
        .execute(&mut db)
        .await?;
        sqlx::query(
            "WITH RECURSIVE s (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < ?2)
             INSERT INTO metrics SELECT ?1, n * 100, 'eval', n / 3.0, 1.7e9 + n, '{\"eval_loss\":2.0}' FROM s",
        )
        .bind(&id)
        .bind(i64::try_from(steps / 100)?)
        .execute(&mut db)
        .await?;
        let dir = home.join("runs").join(&id);
        fs::create_dir_all(&dir)?;
        fs::write(
            dir.join("spec.json"),
            format!(r#"{{"id":"{id}","kind":"train","config":{config},"created_at":1.0}}"#),
        )?;
        fs::write(dir.join("events.jsonl"), "{}")?;
        if number % 100 == 99 || number + 1 == jobs {
            sqlx::query("COMMIT").execute(&mut db).await?;
        }
    }
    Ok(db.close().await?)
}

async fn measure(address: SocketAddr, jobs: u64) -> Result {
    let client = reqwest::Client::builder().no_proxy().build()?;
    let cursor = format!("{},run-{:05}", 1.7e9 + (jobs / 2) as f64, jobs / 2);
    let middle = format!("/api/jobs/run-{:05}", jobs / 2);
    for (what, path) in [
        ("list, newest 500", "/api/jobs".to_owned()),
        ("list, newest 50", "/api/jobs?limit=50".into()),
        ("list, 500 from the middle on", format!("/api/jobs?before={cursor}")),
        ("list, search that finds nothing", "/api/jobs?search=nothing%20at%20all".into()),
        ("queue", "/api/queue".into()),
        ("metrics page", "/metrics".into()),
        ("run, its job", middle.clone()),
        ("run, its curve", format!("{middle}/metrics")),
        ("run, its checkpoints", format!("{middle}/checkpoints")),
        ("longest run, its curve", "/api/jobs/run-00000/metrics".into()),
    ] {
        let mut times = Vec::new();
        let mut bytes = 0;
        for _ in 0..40 {
            let since = Instant::now();
            let answer = client.get(format!("http://{address}{path}")).send().await?.error_for_status()?;
            bytes = answer.bytes().await?.len();
            times.push(since.elapsed());
        }
        times.sort();
        let ms = |time: Duration| time.as_secs_f64() * 1000.0;
        println!(
            "{what:<44} {:>9.1} ms (median {:.1} ms, {bytes} bytes)",
            ms(times[times.len() - 1]),
            ms(times[times.len() / 2])
        );
    }
    for (what, id) in [("delete a run", 1), ("delete the longest run", 0)] {
        let since = Instant::now();
        client.delete(format!("http://{address}/api/jobs/run-{id:05}")).send().await?.error_for_status()?;
        println!("{what:<44} {:>9.1} ms", since.elapsed().as_secs_f64() * 1000.0);
    }
    let since = Instant::now();
    client.get(format!("http://{address}/api/jobs")).send().await?.error_for_status()?;
    println!("{:<44} {:>9.1} ms", "list, while its points go", since.elapsed().as_secs_f64() * 1000.0);
    Ok(())
}
