//! The least that speaks the protocol between server and worker, without any model. The tests start it in the place of
//! `lathe worker`; whoever writes another worker can begin here.
//!
//! `RUN_DIR` does the job of `RUN_DIR/spec.json`; `--ask` answers one question; `--chat` echoes; `--device cuda:N` may
//! come before. What a job does is in
//! its configuration: `steps`, `step_ms`, `save_steps`, `fail`, `exit`, `deaf` (to SIGTERM), `garbage`, `beats` (signs of
//! life), `lingers` (after its last word), `chatter` (bytes in the log for each step), `child` (starts a process),
//! `clock_jumps` (by so many seconds after half the steps).

use api::{
    Event, Line, Outcome, Plan, Problem, RunConfig,
    chat::{Command, FinishReason, LoadChat, Reply, Usage},
    data::{Columns, DatasetInfo, Edit, Edited, Preview, PreviewRow, Statistics, TokenPreview},
    hub::{HubSource, PullPlan},
    job::Spec,
    model::ModelInfo,
    preference::{Ballot, Pairs, Vote},
    question::{Answer, CheckReply, Question},
};
use std::{
    collections::HashMap,
    error::Error,
    fs::{self, File, OpenOptions},
    io::{BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::signal::unix::{SignalKind, signal};

type Result<T = ()> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let task = if words.first().is_some_and(|word| word == "--device") { words.get(2) } else { words.first() };
    match task.map(String::as_str) {
        Some("--ask") => ask(),
        Some("--chat") => chat().await,
        Some(dir) => job(Path::new(dir)).await,
        None => Err("RUN_DIR, --ask or --chat".into()),
    }
}

/// Appends numbered lines, each whole: the file, how many it has, and how far the clock is wrong.
struct Events(File, u64, f64);

impl Events {
    fn open(dir: &Path) -> Result<Self> {
        let path = dir.join("events.jsonl");
        let file = OpenOptions::new().create(true).append(true).open(&path)?;
        Ok(Self(file, BufReader::new(File::open(&path)?).lines().count() as u64, 0.0))
    }

    fn say(&mut self, event: Event) -> Result {
        self.1 += 1;
        let time = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64() + self.2;
        let line = serde_json::to_string(&Line { seq: self.1, time, event })?;
        Ok(self.0.write_all(format!("{line}\n").as_bytes())?)
    }
}

async fn job(dir: &Path) -> Result {
    let lock = File::create(dir.join("worker.lock"))?;
    lock.try_lock()?;
    let stop = Arc::new(AtomicBool::new(false));
    let (flag, mut term) = (stop.clone(), signal(SignalKind::terminate())?);
    tokio::spawn(async move {
        while term.recv().await.is_some() {
            flag.store(true, Ordering::Relaxed);
        }
    });
    let spec: Spec = serde_json::from_slice(&fs::read(dir.join("spec.json"))?)?;
    let config = &spec.config;
    eprintln!("worker of {}", spec.id);
    let mut events = Events::open(dir)?;
    events.say(Event::Started { pid: std::process::id(), version: "stand-in".into() })?;
    if config.get("beats").is_some() {
        tokio::spawn(beat(dir.to_owned()));
    }
    if config.get("child").is_some() {
        let child = std::process::Command::new("sleep").arg("600").spawn()?;
        fs::write(dir.join("child"), child.id().to_string())?;
    }
    let steps = number(config, "steps", 10);
    events.say(Event::Planned { plan: Box::new(Plan { steps, ..Plan::default() }) })?;
    if config.get("garbage").is_some() {
        events.0.write_all(
            b"{\"seq\":3,\"time\":1,\"type\":\"metrics\",\"values\":{\"loss\":NaN}}\nnot json\n\xff\xfe\n\n",
        )?;
    }
    let first = if config.get("resume_from_checkpoint").is_some() { last_checkpoint(dir) + 1 } else { 1 };
    for step in first..=steps {
        if stop.load(Ordering::Relaxed) && config.get("deaf").is_none() {
            save(dir, &mut events, step - 1)?;
            return events.say(Event::Finished {
                outcome: Outcome::Stopped,
                problem: None,
                summary: Default::default(),
            });
        }
        tokio::time::sleep(Duration::from_millis(number(config, "step_ms", 5))).await;
        #[allow(clippy::cast_precision_loss)]
        let loss = 1.0 / step as f64;
        if let Some(jump) = config.get("clock_jumps").and_then(serde_json::Value::as_f64).filter(|_| step == steps / 2)
        {
            events.2 = jump;
        }
        if let Some(length) = config.get("chatter").and_then(serde_json::Value::as_u64) {
            eprintln!("{}", "x".repeat(usize::try_from(length)?));
        }
        events.say(Event::Metrics { step, epoch: 0.0, values: [("loss".to_owned(), loss)].into() })?;
        if step % number(config, "save_steps", 10) == 0 {
            save(dir, &mut events, step)?;
        }
    }
    if let Some(code) = config.get("exit") {
        std::process::exit(code.as_i64().unwrap_or(1).try_into()?);
    }
    if config.get("fail").is_some() {
        let problem =
            Problem::new("diverged", "The loss isn't finite.", "损失不是有限值。").hint("Lower it.", "请降低。");
        let (outcome, summary) = (Outcome::Failed, Default::default());
        return events.say(Event::Finished { outcome, problem: Some(problem), summary });
    }
    events.say(Event::Artifact { path: ".".into(), bytes: 1 })?;
    let summary = [("train_loss".to_owned(), 0.5)].into();
    events.say(Event::Finished { outcome: Outcome::Succeeded, problem: None, summary })?;
    if config.get("lingers").is_some() {
        std::future::pending::<()>().await;
    }
    Ok(())
}

/// Signs of life, as the worker gives them, and faster.
async fn beat(dir: PathBuf) -> Result {
    for work in 0u64.. {
        let time = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
        let part = dir.join("heartbeat.json.part");
        fs::write(&part, serde_json::json!({ "time": time, "work": work }).to_string())?;
        fs::rename(part, dir.join("heartbeat.json"))?;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

fn save(dir: &Path, events: &mut Events, step: u64) -> Result {
    let name = format!("checkpoint-{step}");
    fs::create_dir_all(dir.join(&name))?;
    events.say(Event::Checkpoint { step, name, bytes: 0, best: false })
}

fn last_checkpoint(dir: &Path) -> u64 {
    let names = fs::read_dir(dir).into_iter().flatten().flatten().filter_map(|e| e.file_name().into_string().ok());
    names.filter_map(|name| name.strip_prefix("checkpoint-")?.parse().ok()).max().unwrap_or(0)
}

fn number(config: &RunConfig, key: &str, default: u64) -> u64 {
    config.get(key).and_then(serde_json::Value::as_u64).unwrap_or(default)
}

fn ask() -> Result {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    let datasets = PathBuf::from(std::env::var_os("LATHE_HOME").ok_or("no LATHE_HOME")?).join("datasets");
    let info = |name: &str| DatasetInfo { name: name.into(), file: name.into(), ..Default::default() };
    let answer = match serde_json::from_str(&text)? {
        Question::Check { config } if config.get("crash").is_some() => std::process::exit(3),
        Question::Check { config } if config.get("steps").is_some_and(|s| !s.is_u64()) => {
            let problem = Problem::new("type", "steps is not a number.", "steps 不是数字。").field("steps");
            Answer::Checked { reply: Box::new(CheckReply { plan: None, problems: vec![problem] }) }
        }
        Question::Check { config } => {
            let plan = Plan { steps: number(&config, "steps", 10), ..Plan::default() };
            Answer::Checked { reply: Box::new(CheckReply { plan: Some(plan), problems: Vec::new() }) }
        }
        Question::Measure { .. } => {
            let plan = Plan { measured: true, ..Plan::default() };
            Answer::Checked { reply: Box::new(CheckReply { plan: Some(plan), problems: Vec::new() }) }
        }
        Question::Datasets => {
            let names = fs::read_dir(datasets)?.flatten().filter_map(|e| e.file_name().into_string().ok());
            Answer::Datasets { datasets: names.map(|name| info(&name)).collect() }
        }
        Question::Rows { dataset, wanted } => {
            let offset = wanted.offset;
            let raw = serde_json::to_value(&wanted)?;
            let rows = offset..offset + wanted.limit;
            let rows = rows.map(|index| PreviewRow { index, raw: raw.clone(), ..Default::default() }).collect();
            Answer::Rows { preview: Preview { dataset: info(&dataset), offset, rows, more: true } }
        }
        Question::Columns { .. } => Answer::Columns { columns: Columns::default() },
        Question::Tokens { row, .. } => Answer::Tokens { preview: TokenPreview { row, ..Default::default() } },
        Question::Statistics { .. } => Answer::Statistics { statistics: Statistics::default() },
        Question::Edit { dataset, edit: Edit::Delete { rows }, .. } => {
            Answer::Edited { edited: Edited { dataset: info(&dataset), rows: rows.len() as u64 } }
        }
        Question::Edit { dataset, .. } => Answer::Edited { edited: Edited { dataset: info(&dataset), rows: 0 } },
        Question::Export { dataset, .. } if dataset == "missing" => Answer::Failed {
            problems: vec![Problem::new("unknown_dataset", "There is no such dataset.", "没有该数据集。")],
        },
        // Ends on the way, if `dataset` says so.
        Question::Export { dataset, .. } => {
            println!("{}\nthe file", serde_json::to_string(&Answer::Exporting)?);
            std::process::exit(i32::from(dataset == "dying"));
        }
        Question::Register { name, file } => {
            let text = fs::read(datasets.join(&file))?;
            match serde_json::from_slice::<Vec<serde_json::Value>>(&text) {
                Ok(rows) => {
                    let dataset = DatasetInfo { name, file, rows: rows.len() as u64, ..Default::default() };
                    Answer::Registered { dataset }
                }
                Err(error) => Answer::Failed {
                    problems: vec![Problem::new(
                        "dataset_not_json",
                        format!("{file}: {error}."),
                        format!("{file}：{error}。"),
                    )],
                },
            }
        }
        Question::Forget { .. } => Answer::Forgotten,
        Question::PlanPull { wanted, preferred } => {
            let source = HubSource { ms_hub_url: Some(wanted.id), split: wanted.split, ..Default::default() };
            Answer::PullPlanned { plan: PullPlan { name: "rows".into(), hub: preferred, source } }
        }
        Question::ChooseFiles { source, names, .. } => {
            Answer::Chosen { names: names.into_iter().filter(|name| name.contains(source.split())).collect() }
        }
        Question::RegisterPulled { plan } => Answer::Registered { dataset: info(&plan.name) },
        Question::Pairs { wanted } => {
            let kept = wanted.sources.len() as u64;
            Answer::Pairs { pairs: Pairs { found: 2 * kept, kept, offset: wanted.offset, ..Pairs::default() } }
        }
        Question::BuildPairs { wanted } => Answer::Registered { dataset: info(&wanted.name) },
        Question::Ballot { dataset, cast } => {
            let voted = u64::from(cast.is_some_and(|cast| cast.vote != Vote::Undo));
            Answer::Ballot { ballot: Ballot { dataset, voted, ..Ballot::default() } }
        }
        // What it can see of the environment.
        Question::Models => {
            let names = std::env::vars().map(|(name, _)| ModelInfo { name, ..Default::default() });
            Answer::Models { models: names.collect() }
        }
    };
    println!("{}", serde_json::to_string(&answer)?);
    Ok(())
}

async fn chat() -> Result {
    let (sender, mut lines) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(std::io::Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    let load: LoadChat = serde_json::from_str(&lines.recv().await.ok_or("no model")?)?;
    if load.model_name_or_path == "missing" {
        let problem = Problem::new("model_missing", "There is no model missing.", "没有模型 missing。");
        return say(&Reply::Failed { id: String::new(), problem });
    }
    say(&Reply::Ready { model: load.model_name_or_path.clone(), seconds: 0.1, bytes: 7 })?;
    let stopped: Arc<Mutex<HashMap<String, Arc<AtomicBool>>>> = Arc::default();
    let flag = |id: &str| {
        let mut all = stopped.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(id.to_owned()).or_default().clone()
    };
    // Ends when the server closes the pipe.
    while let Some(line) = lines.recv().await {
        match serde_json::from_str(&line)? {
            Command::Stop { id } => {
                eprintln!("stop {id}");
                if let Some(home) = std::env::var_os("LATHE_HOME") {
                    fs::write(Path::new(&home).join("stopped"), &id)?;
                }
                flag(&id).store(true, Ordering::Relaxed);
            }
            // Each text gets its length, and nothing is read behind `max_length`.
            Command::Score { id, texts, max_length } if load.adapter_name_or_path.is_some() => {
                let score = |text: &String| text.len().min(max_length.unwrap_or(usize::MAX)) as f64;
                say(&Reply::Scores { id, scores: texts.iter().map(score).collect() })?;
            }
            Command::Score { id, .. } => {
                let problem = Problem::new("no_value_head", "There is no value head.", "没有价值头。");
                say(&Reply::Failed { id, problem })?;
            }
            // Each text gets its length.
            Command::Embed { id, texts } => {
                let embeddings = texts.iter().map(|text| vec![text.len() as f32]).collect();
                say(&Reply::Embeddings { id, embeddings, tokens: texts.len() as u64 })?;
            }
            Command::Generate { id, messages, prompt, .. } => {
                let stop = flag(&id);
                let text = prompt.or(messages.last().map(|m| m.content.clone())).unwrap_or_default();
                tokio::spawn(async move { answer(id, text, stop).await });
            }
        }
    }
    Ok(())
}

/// Says the words again, one by one.
async fn answer(id: String, text: String, stop: Arc<AtomicBool>) -> Result {
    let mut usage = Usage::default();
    for word in text.split_inclusive(' ') {
        if word == "die" {
            std::process::abort();
        }
        if stop.load(Ordering::Relaxed) {
            say(&Reply::Ended { id: id.clone(), index: 0, finish_reason: FinishReason::Cancelled })?;
            return say(&Reply::Done { id, usage });
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        usage.completion_tokens += 1;
        say(&Reply::Text { id: id.clone(), index: 0, text: word.into(), logprobs: Vec::new() })?;
    }
    say(&Reply::Ended { id: id.clone(), index: 0, finish_reason: FinishReason::Stop })?;
    say(&Reply::Done { id, usage })
}

fn say(reply: &Reply) -> Result {
    println!("{}", serde_json::to_string(reply)?);
    Ok(std::io::stdout().flush()?)
}
