//! Self-Instruct (Wang et al., 2022): the teacher sees some tasks and writes another one, then answers it. What is like an
//! earlier task, what text can't do and what has no answer is dropped.

use super::{PATIENCE, Work, output::answered as answered_row, prompt_hash, rouge::rouge_l, teacher::Teacher, words};
use crate::{Places, Result, data::questions, random::Random};
use api::{Outcome, Problem, data::Message, params::MakeParams};
use serde_json::{Map, Value, json};
use std::ops::ControlFlow;

/// Stream of the random numbers that choose examples.
const STREAM: u64 = 0x5EED;
/// Seeds that are read.
const MOST_SEEDS: usize = 10_000;
/// Rows that are made where no number is asked for.
const USUAL_ROWS: usize = 100;
/// Of the examples, one in so many is a task that was made: in the paper two of eight.
const MADE_SHARE: usize = 4;
/// Tokens that a new task may have, where an answer may have more.
const LONGEST_TASK: usize = 256;
/// Longer seeds are shown cut.
const LONGEST_EXAMPLE: usize = 1000;

/// A task that new ones are compared with, and may follow the example of.
struct Task {
    text: String,
    words: Vec<String>,
    from: Origin,
}

#[derive(Clone, Copy, PartialEq)]
enum Origin {
    /// A row of the dataset of seeds, from 0.
    Seed(u64),
    /// A row that this job made, from 0.
    Made(u64),
}

pub fn run(work: &mut Work, teacher: &mut dyn Teacher, places: &Places) -> Result<Outcome> {
    let arguments = work.arguments;
    let make = &arguments.make;
    let wanted = make.num_rows.unwrap_or(USUAL_ROWS) as u64;
    let mut tasks = seeds(make, places)?;
    let made = work.output.earlier.iter().enumerate();
    tasks.extend(made.map(|(i, row)| Task::new(&row.instruction, Origin::Made(i as u64))));
    // After a stop, other examples than the first time.
    let start = work.output.rows();
    let mut random = Random::new(work.arguments.generate.seed.unwrap_or(0), STREAM ^ start.rotate_left(32));
    let mut turn = start << 20;
    let mut barren = 0;
    work.alive(start, wanted)?;
    while work.output.rows() < wanted {
        turn += 2;
        let chosen = examples(&tasks, make.examples, &mut random);
        let prompt = prompt(&chosen.iter().map(|i| tasks[*i].text.as_str()).collect::<Vec<_>>());
        let mut options = work.options(turn);
        options.generate.max_new_tokens = options.generate.max_new_tokens.min(LONGEST_TASK);
        let Some(said) = work.ask(teacher, &prompt, &options)? else { return Ok(Outcome::Stopped) };
        let made = match task(&said.text, make, &tasks) {
            Ok(task) => answered(work, teacher, task, turn + 1)?,
            Err(why) => Some(Err(why)),
        };
        match made {
            None => return Ok(Outcome::Stopped),
            Some(Err(why)) => {
                work.count(why);
                barren += 1;
                work.alive(work.output.rows(), wanted)?;
                if barren >= PATIENCE {
                    return Err(nothing_new(work, teacher).into());
                }
            }
            Some(Ok((text, answer))) => {
                barren = 0;
                let row = work.output.rows();
                let from: Vec<Origin> = chosen.iter().map(|i| tasks[*i].from).collect();
                work.output.add(answered_row(&text, &answer), provenance(make, teacher, &from, &prompt)?)?;
                tasks.push(Task::new(&text, Origin::Made(row)));
                work.made(row + 1, None)?;
            }
        }
    }
    Ok(Outcome::Succeeded)
}

impl Task {
    fn new(text: &str, from: Origin) -> Self {
        Self { text: text.to_owned(), words: words(text), from }
    }
}

fn seeds(make: &MakeParams, places: &Places) -> Result<Vec<Task>> {
    let mut tasks = Vec::new();
    questions::find(&make.dataset, places)?.each(&mut |row, question| {
        tasks.extend(question.map(|text| Task::new(&text, Origin::Seed(row))));
        Ok(if tasks.len() < MOST_SEEDS { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    })?;
    if tasks.is_empty() {
        return Err(Problem::new(
            "no_seeds",
            format!("{} has no row with a task.", make.dataset),
            format!("{} 中没有包含任务的行。", make.dataset),
        )
        .hint("Name the column of the tasks instruction.", "请将任务所在的列命名为 instruction。")
        .field("dataset")
        .into());
    }
    Ok(tasks)
}

/// Places of different tasks: mostly seeds, some that were made.
fn examples(tasks: &[Task], wanted: usize, random: &mut Random) -> Vec<usize> {
    let is_made = |i: &usize| matches!(tasks[*i].from, Origin::Made(_));
    let (mut made, mut seeds): (Vec<usize>, Vec<usize>) = (0..tasks.len()).partition(is_made);
    random.shuffle(&mut made);
    random.shuffle(&mut seeds);
    made.truncate(wanted / MADE_SHARE);
    seeds.truncate(wanted - made.len());
    seeds.extend(made);
    random.shuffle(&mut seeds);
    seeds
}

fn prompt(examples: &[&str]) -> Vec<Message> {
    let mut text = String::from(
        "Below are tasks, one a line. Write one more task of another kind, in the language of these, on one line and \
         without its answer.\n\n",
    );
    for (i, example) in examples.iter().enumerate() {
        let line: String =
            example.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(LONGEST_EXAMPLE).collect();
        text.push_str(&format!("Task {}: {line}\n", i + 1));
    }
    text.push_str(&format!("Task {}:", examples.len() + 1));
    vec![Message::new("user", text)]
}

/// The task in what the teacher said, or why it is dropped.
fn task(said: &str, make: &MakeParams, tasks: &[Task]) -> Result<String, &'static str> {
    let line = said.lines().map(str::trim).find(|line| !line.is_empty()).ok_or("dropped_empty")?;
    let text = unnumbered(line).trim_matches(['"', '“', '”', '*', ' ']).to_owned();
    let words = words(&text);
    if words.is_empty() {
        return Err("dropped_empty");
    }
    if !(make.min_words..=make.max_words).contains(&words.len()) {
        return Err("dropped_length");
    }
    let dropped = make.drop_words.iter().map(|word| super::words(word)).filter(|word| !word.is_empty());
    if dropped.into_iter().any(|word| words.windows(word.len()).any(|window| window == word)) {
        return Err("dropped_word");
    }
    if tasks.iter().any(|task| task.words == words) {
        return Err("dropped_duplicate");
    }
    if tasks.iter().any(|task| rouge_l(&task.words, &words) >= make.max_similarity) {
        return Err("dropped_similar");
    }
    Ok(text)
}

/// Without `Task 9:`, `9.` or a dash before it.
fn unnumbered(line: &str) -> &str {
    let rest = line.trim_start_matches(['-', '*', '#', ' ']);
    let rest = rest.strip_prefix("Task").or_else(|| rest.strip_prefix("任务")).unwrap_or(rest).trim_start();
    let digits = rest.trim_start_matches(|c: char| c.is_ascii_digit());
    match digits.strip_prefix([':', '.', ')', '：', '、']) {
        Some(text) => text.trim(),
        None => line,
    }
}

/// The task with its answer, or why it is dropped; nothing if the job is to stop.
fn answered(
    work: &mut Work,
    teacher: &mut dyn Teacher,
    task: String,
    turn: u64,
) -> Result<Option<Result<(String, String), &'static str>>> {
    let said = work.ask(teacher, &[Message::new("user", task.clone())], &work.options(turn))?;
    Ok(said.map(|said| match said.text.trim() {
        "" => Err("dropped_empty"),
        _ if !said.whole => Err("dropped_cut"),
        answer => Ok((task, answer.to_owned())),
    }))
}

fn provenance(
    make: &MakeParams,
    teacher: &dyn Teacher,
    from: &[Origin],
    prompt: &[Message],
) -> Result<Map<String, Value>> {
    let seeds: Vec<u64> =
        from.iter().filter_map(|f| if let Origin::Seed(row) = f { Some(*row) } else { None }).collect();
    let made: Vec<u64> =
        from.iter().filter_map(|f| if let Origin::Made(row) = f { Some(*row) } else { None }).collect();
    let value = json!({
        "source": "self_instruct", "dataset": make.dataset, "teacher": teacher.name(),
        "seed_rows": seeds, "made_rows": made, "prompt_hash": prompt_hash(prompt)?,
    });
    Ok(value.as_object().cloned().unwrap_or_default())
}

fn nothing_new(work: &Work, teacher: &dyn Teacher) -> Problem {
    let (name, rows) = (teacher.name(), work.output.rows());
    let why = work.counts.iter().max_by(|(_, a), (_, b)| a.total_cmp(b)).map_or("", |(name, _)| name);
    Problem::new(
        "nothing_new",
        format!(
            "{name} gave nothing usable {PATIENCE} times in a row (mostly {why}); {rows} rows were made and are kept."
        ),
        format!("{name} 连续 {PATIENCE} 次没有给出可用的内容（主要原因 {why}）；已生成的 {rows} 行会保留。"),
    )
    .hint(
        "Choose a stronger teacher, raise temperature or max_similarity, or add seeds.",
        "请换用更强的教师模型，调高 temperature 或 max_similarity，或增加种子任务。",
    )
    .field("model_name_or_path")
}
