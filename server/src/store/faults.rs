//! What a database goes through: killed writers, many writers, old and newer versions. A test here that needs a process
//! to kill starts this test program once more, with one of the tests that are ignored.

use super::*;
use crate::{home::is_name, supervisor::Attempts};
use api::job::{Checkpoint, Feed, Metric};
use sha2::{Digest, Sha256};
use sqlx::{ConnectOptions, Connection, SqliteConnection};
use std::{
    fs,
    io::{BufRead, BufReader, Read},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Instant,
};

/// How often something is tried: `LATHE_FAULTS`, or few times.
fn tries(few: u64) -> u64 {
    std::env::var("LATHE_FAULTS").ok().and_then(|n| n.parse().ok()).unwrap_or(few)
}

/// This program with one of the ignored tests below, which finds `path` and `number` in its environment.
fn again(test: &str, path: &Path, number: u64) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &format!("store::faults::{test}"), "--ignored", "--nocapture", "--test-threads=1"]);
    command.env("LATHE_TEST_PATH", path).env("LATHE_TEST_NUMBER", number.to_string());
    command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
}

fn told() -> (PathBuf, u64) {
    let text = |name: &str| std::env::var(name).unwrap_or_default();
    (text("LATHE_TEST_PATH").into(), text("LATHE_TEST_NUMBER").parse().unwrap_or(0))
}

async fn is_sound(path: &Path) -> bool {
    let mut connection: SqliteConnection = SqliteConnectOptions::new().filename(path).connect().await.unwrap();
    let found: String = sqlx::query_scalar("PRAGMA integrity_check").fetch_one(&mut connection).await.unwrap();
    let broken = sqlx::query("PRAGMA foreign_key_check").fetch_all(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    found == "ok" && broken.is_empty()
}

fn point(step: u64) -> Metric {
    Metric { step, epoch: 0.5, time: 1.0, values: [("loss".to_owned(), 1.0)].into() }
}

/// Changes of every kind in one transaction, as the supervisor makes them.
async fn mixed(store: &Store, id: &str, step: u64) {
    let mut change = store.begin().await.unwrap();
    let mut record = match change.job(id).await.unwrap() {
        Some(record) => record,
        None => {
            let record = Record::example(id);
            change.insert_job(&record).await.unwrap();
            record
        }
    };
    record.cursor += 100;
    record.attempts = Attempts { count: 1, furthest: step, ..Attempts::default() };
    change.save_job(&record).await.unwrap();
    change.add_metric(id, &point(step)).await.unwrap();
    if step.is_multiple_of(10) {
        let name = format!("checkpoint-{step}");
        change.add_checkpoint(id, &Checkpoint { name, step, bytes: 1, path: String::new() }).await.unwrap();
    }
    if step.is_multiple_of(37) {
        change.move_to_end(id).await.unwrap();
    }
    change.tell(&Feed::Job { job: Box::new(record.job) }).await.unwrap();
    change.commit().await.unwrap();
}

#[tokio::test]
#[ignore = "started by r16_killed_writers_lose_nothing_that_was_acknowledged"]
async fn writes_until_it_is_killed() {
    let (path, round) = told();
    let store = Store::open(&path).await.unwrap().with_deliveries();
    for number in 0.. {
        let id = format!("job-{round}-{number}");
        mixed(&store, &id, 1 + number).await;
        println!("ack {id}");
        if number % 7 == 6 {
            let mut change = store.begin().await.unwrap();
            change.doom_job(&format!("job-{round}-{}", number - 3)).await.unwrap();
            change.commit().await.unwrap();
            println!("doomed job-{round}-{}", number - 3);
        }
    }
}

#[tokio::test]
async fn r16_killed_writers_lose_nothing_that_was_acknowledged() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("lathe.db");
    let (mut kept, mut doomed) = (Vec::new(), Vec::new());
    for round in 0..tries(4) {
        let mut writer = again("writes_until_it_is_killed", &path, round);
        let mut lines = BufReader::new(writer.stdout.take().unwrap()).lines().map_while(std::io::Result::ok);
        // Another moment each time, also while the database is being made.
        let lines_to_read = [40, 1, 97, 13, 230, 5][(round % 6) as usize];
        let mut read = Vec::new();
        read.extend(
            lines.by_ref().filter(|line| line.contains("ack ") || line.contains("doomed ")).take(lines_to_read),
        );
        writer.kill().unwrap();
        writer.wait().unwrap();
        // What it said before it died counts, too.
        read.extend(lines);
        for line in read {
            if let Some((_, id)) = line.split_once("ack ") {
                kept.push(id.to_owned());
            } else if let Some((_, id)) = line.split_once("doomed ") {
                doomed.push(id.to_owned());
            }
        }
        let store = Store::open(&path).await.unwrap();
        for id in &kept {
            assert_eq!(store.job(id).await.unwrap().is_none(), doomed.contains(id), "{id} of round {round}");
        }
        store.close().await;
        assert!(is_sound(&path).await, "round {round}");
    }
    assert!(kept.len() > 50, "{}", kept.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r16_thirty_two_writers_are_never_locked_out() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("lathe.db");
    let store = Store::open(&path).await.unwrap();
    let seconds = std::env::var("LATHE_SECONDS").ok().and_then(|n| n.parse().ok()).unwrap_or(3);
    let end = Instant::now() + Duration::from_secs(seconds);
    let writers = (0..32).map(|number| {
        let store = store.clone();
        tokio::spawn(async move {
            let (id, mut step) = (format!("writer-{number}"), 0);
            while Instant::now() < end {
                step += 1;
                // Any "database is locked" ends the test here.
                mixed(&store, &id, step).await;
                assert!(store.job(&id).await.unwrap().is_some());
            }
            (id, step)
        })
    });
    let written = futures::future::join_all(writers).await;
    let mut total = 0;
    for writer in written {
        let (id, steps) = writer.unwrap();
        let points = store.metrics(&id, 0, 1_000_000).await.unwrap();
        assert_eq!(points.iter().map(|p| p.step).collect::<Vec<_>>(), (1..=steps).collect::<Vec<_>>(), "{id}");
        assert!(steps > 0, "{id} never had its turn");
        total += steps;
    }
    println!("{total} transactions of 32 writers in {seconds} s");
    store.close().await;
    assert!(is_sound(&path).await);
}

/// A database as it was after a number of migrations, with something in every table.
async fn of_version(path: &Path, version: i64) {
    let options =
        SqliteConnectOptions::new().filename(path).create_if_missing(true).journal_mode(SqliteJournalMode::Wal);
    let pool = SqlitePoolOptions::new().max_connections(1).connect_with(options).await.unwrap();
    MIGRATIONS.run_to(version, &pool).await.unwrap();
    for sql in [
        "INSERT INTO jobs (id, kind, state, place, created_at, config, progress, summary, cursor)
         VALUES ('old', 'train', 'queued', 1, 5.0, '{\"steps\":3}', '{\"done\":0,\"total\":0,\"status\":null,\"epoch\":0.0,\"latest\":{},\"seconds_left\":null}', '{}', 12)",
        "INSERT INTO metrics VALUES ('old', 1, 'train', 0.5, 1.0, '{\"loss\":1.0}'), ('old', 1, 'eval', 0.5, 1.0, '{\"eval_loss\":2.0}')",
        "INSERT INTO checkpoints VALUES ('old', 'checkpoint-1', 1, 10)",
        "INSERT INTO feed (body) VALUES ('{}')",
    ] {
        sqlx::query(sql).execute(&pool).await.unwrap();
    }
    pool.close().await;
}

async fn holds_the_old_job(path: &Path) {
    let store = Store::open(path).await.unwrap();
    let record = store.job("old").await.unwrap().unwrap();
    assert_eq!((record.cursor, record.job.created_at, record.restarts), (12, 5.0, false));
    assert_eq!(store.queued().await.unwrap().len(), 1);
    assert_eq!(store.metrics("old", -1, 100).await.unwrap().len(), 2);
    assert_eq!(store.checkpoints("old").await.unwrap().len(), 1);
    assert_eq!(store.feeds().newest(), 1);
    mixed(&store, "new", 1).await;
    store.close().await;
    assert!(is_sound(path).await);
}

fn versions() -> Vec<i64> {
    MIGRATIONS.iter().map(|m| m.version).collect()
}

#[tokio::test]
async fn r17_databases_of_every_earlier_version_open_and_are_kept() {
    for version in versions() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("lathe.db");
        of_version(&path, version).await;
        holds_the_old_job(&path).await;
        let backup = home.path().join(format!("lathe.db.backup-{version}"));
        assert_eq!(backup.exists(), Some(&version) != versions().last(), "{version}");
        if backup.exists() {
            assert!(is_sound(&backup).await);
            let mut connection = SqliteConnectOptions::new().filename(&backup).connect().await.unwrap();
            let last: i64 = sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations")
                .fetch_one(&mut connection)
                .await
                .unwrap();
            connection.close().await.unwrap();
            assert_eq!(last, version);
        }
        assert!(!home.path().join("lathe.db.part").exists());
    }
}

fn hash(path: &Path) -> Vec<u8> {
    Sha256::digest(fs::read(path).unwrap()).to_vec()
}

#[tokio::test]
async fn r17_a_newer_database_is_refused_and_stays_byte_for_byte() {
    let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (9999, 'x', 1, x'00', 0)";
    let changed = "UPDATE _sqlx_migrations SET checksum = x'00' WHERE version = 1";
    for sql in [newer, changed] {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("lathe.db");
        of_version(&path, 2).await;
        let mut connection = SqliteConnectOptions::new().filename(&path).connect().await.unwrap();
        sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        let before = hash(&path);
        assert!(matches!(Store::open(&path).await, Err(Error::Newer { .. })));
        assert_eq!(hash(&path), before);
        let names: Vec<_> = fs::read_dir(home.path()).unwrap().flatten().map(|e| e.file_name()).collect();
        assert!(names.iter().all(|name| !name.to_string_lossy().contains("backup")), "{names:?}");
    }
}

#[tokio::test]
#[ignore = "started by r17_a_migration_that_is_killed_anywhere_goes_on_at_the_next_start"]
async fn migrates_and_dies() {
    let (path, operations) = told();
    let options = SqliteConnectOptions::new().filename(&path).journal_mode(SqliteJournalMode::Wal);
    let pool = SqlitePoolOptions::new()
        .max_connections(1)
        // The virtual machine of SQLite asks after each of its instructions whether to go on.
        .after_connect(move |connection, _| {
            Box::pin(async move {
                let mut left = operations;
                connection.lock_handle().await?.set_progress_handler(1, move || {
                    left = left.saturating_sub(1);
                    if left == 0 {
                        std::process::abort();
                    }
                    true
                });
                Ok(())
            })
        })
        .connect_with(options)
        .await
        .unwrap();
    MIGRATIONS.run(&pool).await.unwrap();
    println!("survived");
}

#[tokio::test]
async fn r17_a_migration_that_is_killed_anywhere_goes_on_at_the_next_start() {
    // So many instructions that all migrations fit in, in steps that hit each statement.
    let (mut operations, mut deaths) = (1, 0);
    let stride = 1 + 400 / tries(16);
    loop {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("lathe.db");
        of_version(&path, 1).await;
        let mut child = again("migrates_and_dies", &path, operations);
        let mut text = String::new();
        child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        child.wait().unwrap();
        holds_the_old_job(&path).await;
        if text.contains("survived") {
            break;
        }
        deaths += 1;
        operations += stride + operations / 8;
    }
    assert!(deaths >= 5, "{deaths}");
    println!("killed {deaths} times, up to instruction {operations}");
}

#[test]
fn r17_migrations_that_were_released_never_change() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../migrations");
    let lock = fs::read_to_string(folder.join("lock")).unwrap();
    let mut locked: Vec<(String, String)> =
        lock.lines().filter_map(|line| line.split_once("  ")).map(|(sum, name)| (name.into(), sum.into())).collect();
    locked.sort();
    let mut found: Vec<(String, String)> = fs::read_dir(&folder)
        .unwrap()
        .flatten()
        .filter(|entry| entry.path().extension().is_some_and(|e| e == "sql"))
        .map(|entry| {
            let sum = hash(&entry.path()).iter().map(|b| format!("{b:02x}")).collect();
            (entry.file_name().into_string().unwrap(), sum)
        })
        .collect();
    found.sort();
    assert_eq!(found, locked, "a new migration gets a line by: sha256sum *.sql > lock");
    assert!(found.iter().all(|(name, _)| is_name(name)));
}
