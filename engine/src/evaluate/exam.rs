//! Exams of questions with four choices: the answer is the letter that the model finds likeliest behind the question.

use super::subjects::{CATEGORIES, Subjects};
use crate::{
    Error, Result,
    data::reader,
    generate::Held,
    loaded::Loaded,
    model::{Model, Network, Piece},
};
use api::{
    Problem,
    data::Message,
    params::{EvalParams, ExamLanguage},
};
use csv::ReaderBuilder;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

const LETTERS: [&str; 4] = ["A", "B", "C", "D"];

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Question {
    pub subject: String,
    pub question: String,
    pub choices: [String; 4],
    /// 0 is A.
    pub answer: usize,
}

/// The questions of an exam, and those that may stand before them as examples.
#[derive(Debug, Default)]
pub struct Exam {
    pub questions: Vec<Question>,
    /// Of the exam's own examples, where it has some; else each question's are the first others of its subject.
    pub examples: Vec<Question>,
}

/// What became of a question.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Answered {
    pub subject: String,
    pub wanted: char,
    pub given: char,
    /// Log probability of each letter among the four.
    pub logprobs: [f64; 4],
}

/// Right answers among all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Score {
    pub right: usize,
    pub of: usize,
}

#[derive(Clone, Debug, Serialize)]
pub struct ExamReport {
    pub task: String,
    pub n_shot: usize,
    pub accuracy: f64,
    pub total: Score,
    pub categories: BTreeMap<&'static str, Score>,
    pub subjects: BTreeMap<String, Score>,
    #[serde(skip)]
    pub answers: Vec<Answered>,
}

impl Exam {
    /// Reads the exam that `task` names: a file or a folder, or `NAME_SPLIT` in `task_dir`.
    pub fn open(task: &str, task_dir: &Path) -> Result<Self> {
        let (name, split) = task.rsplit_once('_').unwrap_or((task, "test"));
        let named = Path::new(task);
        let place = if named.exists() { named.to_path_buf() } else { task_dir.join(name) };
        if place.is_file() {
            return Ok(Self { questions: questions_of(&place)?, examples: Vec::new() });
        }
        if !place.is_dir() {
            return Err(not_found(task, &place).into());
        }
        let split = if split == "validation" { "val" } else { split };
        let of = |split: &str| -> Result<Vec<Question>> {
            let mut files = csv_files(&place.join(split));
            files.sort();
            let all = files.iter().map(|file| questions_of(file)).collect::<Result<Vec<_>>>()?;
            Ok(all.into_iter().flatten().collect())
        };
        let mut exam = Self { questions: of(split)?, examples: of("dev")? };
        if exam.questions.is_empty() {
            // The folder of a split itself.
            let all = csv_files(&place).iter().map(|file| questions_of(file)).collect::<Result<Vec<_>>>()?;
            exam.questions = all.into_iter().flatten().collect();
        }
        if exam.questions.is_empty() { Err(not_found(task, &place).into()) } else { Ok(exam) }
    }

    /// What stands before question `number`.
    fn shots(&self, number: usize, count: usize) -> Vec<&Question> {
        let question = &self.questions[number];
        let same = |other: &&Question| other.subject == question.subject;
        if !self.examples.is_empty() {
            return self.examples.iter().filter(same).take(count).collect();
        }
        let others = self.questions.iter().enumerate().filter(|(i, _)| *i != number).map(|(_, other)| other);
        others.filter(same).take(count).collect()
    }
}

fn csv_files(dir: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    files.filter(|path| path.extension().is_some_and(|ending| ending == "csv")).collect()
}

/// MMLU's files have no header; C-Eval's and CMMLU's name their columns. The name of a CSV file is its subject.
fn questions_of(path: &Path) -> Result<Vec<Question>> {
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let subject = ["_test", "_val", "_dev"].iter().find_map(|end| stem.strip_suffix(end)).unwrap_or(&stem);
    let mut found = Vec::new();
    if path.extension().is_some_and(|ending| ending == "csv") {
        let bytes = fs::read(path).map_err(Error::io(path))?;
        let mut reader = ReaderBuilder::new().has_headers(false).flexible(true).from_reader(bytes.as_slice());
        let mut columns = vec!["question".to_owned(), "a".into(), "b".into(), "c".into(), "d".into(), "answer".into()];
        for (line, record) in reader.records().enumerate() {
            let record = record.map_err(|_| no_question(path, line + 1))?;
            let cells = || record.iter().map(|cell| cell.trim().to_lowercase());
            if line == 0 && cells().any(|cell| cell == "answer") {
                columns = cells().collect();
                continue;
            }
            let cell = |name: &str| columns.iter().position(|column| column == name).and_then(|i| record.get(i));
            found.push(question(subject, cell).ok_or_else(|| no_question(path, line + 1))?);
        }
        return Ok(found);
    }
    reader::read_raw(path, &mut |row, raw| {
        let value = raw.value.map_err(|problem| *problem)?;
        let cell = |name: &str| {
            let text = |name: &str| value.get(name).and_then(Value::as_str);
            text(name).or_else(|| text(&name.to_uppercase()))
        };
        let own = cell("subject").unwrap_or(subject);
        found.push(question(own, cell).ok_or_else(|| no_question(path, row as usize + 1))?);
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(found)
}

fn question<'a>(subject: &str, cell: impl Fn(&str) -> Option<&'a str>) -> Option<Question> {
    let text = |name: &str| cell(name).map(|text| text.trim().to_owned());
    let answer = text("answer")?;
    Some(Question {
        subject: subject.to_owned(),
        question: text("question")?,
        choices: [text("a")?, text("b")?, text("c")?, text("d")?],
        answer: LETTERS.iter().position(|letter| *letter == answer.to_uppercase())?,
    })
}

/// The words around a question, as Hendrycks et al. and C-Eval have them.
struct Words {
    head: fn(&str) -> String,
    answer: &'static str,
    /// Between the words for the answer and the letter, where both are one text.
    blank: &'static str,
}

impl Words {
    fn of(language: ExamLanguage) -> Self {
        match language {
            ExamLanguage::En => Self {
                head: |subject| {
                    format!(
                        "The following are multiple choice questions (with answers) about {}.\n\n",
                        subject.replace('_', " ")
                    )
                },
                answer: "\nAnswer:",
                blank: " ",
            },
            ExamLanguage::Zh => Self {
                head: |subject| {
                    format!("以下是中国关于{}考试的单项选择题，请选出其中的正确答案。\n\n", subject.replace('_', " "))
                },
                answer: "\n答案：",
                blank: "",
            },
        }
    }

    fn ask(&self, question: &Question) -> String {
        let choices = LETTERS.iter().zip(&question.choices).map(|(letter, text)| format!("\n{letter}. {text}"));
        question.question.clone() + &choices.collect::<String>() + self.answer
    }

    /// One text that the model goes on with.
    fn plain(&self, shots: &[&Question], question: &Question) -> String {
        let shown = shots.iter().map(|shot| format!("{}{}{}\n\n", self.ask(shot), self.blank, LETTERS[shot.answer]));
        (self.head)(&question.subject) + &shown.collect::<String>() + &self.ask(question)
    }

    /// A conversation: each example is a question with its answer.
    fn conversation(&self, shots: &[&Question], question: &Question) -> Vec<Message> {
        let mut messages: Vec<Message> = Vec::new();
        for shot in shots {
            messages.push(Message::new("user", self.ask(shot)));
            messages.push(Message::new("assistant", LETTERS[shot.answer]));
        }
        messages.push(Message::new("user", self.ask(question)));
        messages[0].content = (self.head)(&question.subject) + &messages[0].content;
        messages
    }
}

/// What takes an exam.
pub struct Examinee<'a> {
    loaded: &'a Loaded,
    words: Words,
    /// By the chat template, rather than as one text to go on with.
    talks: bool,
    shots: usize,
    /// The token of each letter.
    letters: [u32; 4],
}

impl<'a> Examinee<'a> {
    pub fn new(loaded: &'a Loaded, params: &EvalParams, talks: bool) -> Result<Self> {
        let words = Words::of(params.lang);
        let before = if talks { String::new() } else { format!("{}{}", words.answer, words.blank) };
        let token = |letter: &str| {
            let ids = loaded.encoder.rendered_ids(&format!("{before}{letter}"))?;
            ids.last().copied().ok_or_else(|| Error::Internal("a letter without a token".into()))
        };
        let letters = [token("A")?, token("B")?, token("C")?, token("D")?];
        Ok(Self { loaded, words, talks, shots: params.n_shot, letters })
    }

    /// The prompt of a question: with as many examples as the context holds.
    pub fn prompt(&self, exam: &Exam, number: usize) -> Result<Vec<u32>> {
        let question = &exam.questions[number];
        let mut shots = exam.shots(number, self.shots);
        let most = self.loaded.model.decoder()?.context();
        loop {
            let ids = match self.talks {
                true => self.loaded.encoder.prompt(&self.words.conversation(&shots, question), None)?,
                false => self.loaded.encoder.plain_ids(&self.words.plain(&shots, question))?,
            };
            if ids.len() <= most {
                return Ok(ids);
            }
            if shots.pop().is_none() {
                return Err(too_long(number, ids.len(), most).into());
            }
        }
    }

    /// The answers to questions that are read together.
    pub fn answer(&self, exam: &Exam, numbers: std::ops::Range<usize>, held: &mut Held) -> Result<Vec<Answered>> {
        let model: &Model = self.loaded.model.decoder()?;
        let model: &dyn Network = model;
        let prompts = numbers.clone().map(|number| self.prompt(exam, number)).collect::<Result<Vec<_>>>()?;
        let begun = prompts.iter().map(|prompt| held.begin(model, 0, prompt)).collect::<Result<Vec<_>>>()?;
        let pieces: Vec<Piece> = prompts
            .iter()
            .zip(&begun)
            .map(|(prompt, (sequence, read))| Piece { sequence: *sequence, ids: &prompt[*read..], wanted: true })
            .collect();
        let logits = held.step(model, &pieces)?;
        begun.iter().for_each(|(sequence, _)| held.release(*sequence));
        numbers.zip(logits).map(|(number, logits)| self.judge(&exam.questions[number], logits)).collect()
    }

    fn judge(&self, question: &Question, logits: Option<Vec<f32>>) -> Result<Answered> {
        let logits = logits.ok_or_else(|| Error::Internal("a question without logits".into()))?;
        let of = self.letters.map(|letter| logits.get(letter as usize).map_or(f64::NEG_INFINITY, |l| f64::from(*l)));
        let max = of.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum = of.iter().map(|logit| (logit - max).exp()).sum::<f64>().ln() + max;
        // Of equal letters the first, as argmax has it.
        let given = (0..4).rev().max_by(|a, b| of[*a].total_cmp(&of[*b])).unwrap_or(0);
        Ok(Answered {
            subject: question.subject.clone(),
            wanted: letter(question.answer),
            given: letter(given),
            logprobs: of.map(|logit| logit - sum),
        })
    }
}

fn letter(number: usize) -> char {
    char::from(b'A' + u8::try_from(number).unwrap_or(0))
}

impl ExamReport {
    pub fn of(task: &str, n_shot: usize, answers: Vec<Answered>) -> Self {
        let known = Subjects::of(answers.iter().map(|answer| answer.subject.as_str()));
        let (mut total, mut categories, mut subjects) = (Score::default(), BTreeMap::new(), BTreeMap::new());
        for answer in &answers {
            let category: &mut Score = categories.entry(known.category(&answer.subject)).or_default();
            let subject: &mut Score = subjects.entry(answer.subject.clone()).or_default();
            for score in [&mut total, category, subject] {
                score.of += 1;
                score.right += usize::from(answer.wanted == answer.given);
            }
        }
        Self { task: task.into(), n_shot, accuracy: total.share(), total, categories, subjects, answers }
    }

    /// As LLaMA-Factory's `results.log`: a line for each category, in percent.
    pub fn log(&self) -> String {
        let line = |name: &str, score: Score| format!("{name:>15}: {:.2}\n", 100.0 * score.share());
        let each = CATEGORIES.iter().filter_map(|name| Some(line(name, *self.categories.get(name)?)));
        line("Average", self.total) + &each.collect::<String>()
    }

    /// As its `results.json`: for each subject the letter of each question.
    pub fn letters(&self) -> BTreeMap<&str, BTreeMap<usize, char>> {
        let mut all: BTreeMap<&str, BTreeMap<usize, char>> = BTreeMap::new();
        for answer in &self.answers {
            let own = all.entry(answer.subject.as_str()).or_default();
            own.insert(own.len(), answer.given);
        }
        all
    }
}

impl Score {
    pub fn share(self) -> f64 {
        self.right as f64 / self.of.max(1) as f64
    }
}

fn not_found(task: &str, place: &Path) -> Problem {
    let shown = place.display();
    Problem::new(
        "no_exam",
        format!("There is no exam {task}: {shown} is no file and no folder with questions."),
        format!("找不到考试 {task}：{shown} 既不是题目文件，也不是含题目的文件夹。"),
    )
    .hint(
        "Give task=mmlu_test with task_dir set to the folder that holds mmlu/, or task=FILE.jsonl with the columns question, A, B, C, D and answer.",
        "请设置 task=mmlu_test 并让 task_dir 指向含 mmlu/ 的文件夹，或用 task=文件.jsonl（列为 question、A、B、C、D、answer）。",
    )
    .field("task")
}

fn no_question(path: &Path, row: usize) -> Error {
    let shown = path.display();
    Problem::new(
        "no_question",
        format!("Row {row} of {shown} is no question with four choices and an answer of A to D."),
        format!("{shown} 的第 {row} 行不是含四个选项且答案为 A 到 D 的题目。"),
    )
    .hint("Its columns are question, A, B, C, D and answer.", "其列应为 question、A、B、C、D 和 answer。")
    .field("task")
    .into()
}

fn too_long(number: usize, tokens: usize, most: usize) -> Problem {
    let row = number + 1;
    Problem::new(
        "prompt_length",
        format!("Question {row} has {tokens} tokens, the model takes {most}."),
        format!("第 {row} 题有 {tokens} 个词元，而模型最多 {most} 个。"),
    )
    .hint(
        "Take it out of the exam, or choose a model with a longer context.",
        "请从考试中去掉它，或选择上下文更长的模型。",
    )
    .field("task")
}
