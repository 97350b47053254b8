//! How alike a prediction and its label are, as LLaMA-Factory measures it: BLEU-4 over characters (Papineni et al.,
//! 2002, with smoothing 3 of Chen and Cherry, 2014, as nltk computes it) and ROUGE-1, -2 and -L (Lin, 2004) over the words
//! that jieba finds, as rouge-chinese computes them.

use jieba_rs::Jieba;
use regex::Regex;
use serde::Serialize;
use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
    sync::LazyLock,
};

/// In percent, rounded to four digits as LLaMA-Factory does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Similarity {
    #[serde(rename = "bleu-4")]
    pub bleu_4: f64,
    #[serde(rename = "rouge-1")]
    pub rouge_1: f64,
    #[serde(rename = "rouge-2")]
    pub rouge_2: f64,
    #[serde(rename = "rouge-l")]
    pub rouge_l: f64,
}

/// Reads its dictionary at the first use.
static JIEBA: LazyLock<Jieba> = LazyLock::new(Jieba::new);

/// Letters and digits that are a word to jieba, if its dictionary doesn't say otherwise.
static RUN: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"[a-zA-Z0-9]+(?:\.[0-9]+)?%?").ok());

/// Where rouge-chinese ends a sentence, one after another.
static SENTENCES: LazyLock<Vec<Regex>> = LazyLock::new(|| {
    let patterns = [r"([。！？?])([^”’])", r"(\.{6})([^”’])", r"(…{2})([^”’])", r"([。！？?][”’])([^，。！？?])"];
    patterns.iter().filter_map(|pattern| Regex::new(pattern).ok()).collect()
});

impl Similarity {
    pub fn of(prediction: &str, label: &str) -> Self {
        let (found, wanted) = (words(prediction), words(label));
        let rouge = match (found.is_empty(), wanted.is_empty()) {
            (false, false) => [rouge_n(&found, &wanted, 1), rouge_n(&found, &wanted, 2), rouge_l(&found, &wanted)],
            _ => [0.0; 3],
        };
        let [rouge_1, rouge_2, rouge_l] = rouge.map(percent);
        let characters = |text: &str| text.chars().collect::<Vec<_>>();
        Self { bleu_4: percent(bleu_4(&characters(prediction), &characters(label))), rouge_1, rouge_2, rouge_l }
    }

    /// Zeros if there is none.
    pub fn mean(all: &[Self]) -> Self {
        let mean = |of: fn(&Self) -> f64| all.iter().map(of).sum::<f64>() / all.len().max(1) as f64;
        Self {
            bleu_4: mean(|s| s.bleu_4),
            rouge_1: mean(|s| s.rouge_1),
            rouge_2: mean(|s| s.rouge_2),
            rouge_l: mean(|s| s.rouge_l),
        }
    }
}

fn percent(share: f64) -> f64 {
    format!("{:.4}", share * 100.0).parse().unwrap_or(0.0)
}

/// What jieba cuts a text into, in sentences and words again as rouge-chinese does with the pieces joined by blanks.
fn words(text: &str) -> Vec<String> {
    let mut joined = JIEBA.cut(text, true).iter().flat_map(|token| apart(token.word)).collect::<Vec<_>>().join(" ");
    if joined.chars().all(is_space) {
        return Vec::new();
    }
    for pattern in SENTENCES.iter() {
        joined = pattern.replace_all(&joined, "$1\n$2").into_owned();
    }
    let sentences = joined.trim_end_matches(is_space).split('\n').filter(|sentence| !sentence.is_empty());
    // A sentence of blanks alone counts as a word without letters there.
    let each = |sentence: &str| {
        let words: Vec<String> = sentence.split(is_space).filter(|w| !w.is_empty()).map(str::to_owned).collect();
        if words.is_empty() { vec![String::new()] } else { words }
    };
    sentences.flat_map(each).collect()
}

/// jieba-rs keeps what a dot, a line or a dash joins (`i.e`, `2-3`) as one word; jieba knows only numbers with a fraction.
fn apart(word: &str) -> Vec<&str> {
    let joined = word.is_ascii() && word.contains(['.', '_', '-']) && !JIEBA.has_word(word);
    let Some(run) = RUN.as_ref().filter(|_| joined) else { return vec![word] };
    let (mut pieces, mut end) = (Vec::new(), 0);
    for found in run.find_iter(word) {
        pieces.extend([&word[end..found.start()], found.as_str()]);
        end = found.end();
    }
    pieces.push(&word[end..]);
    pieces.retain(|piece| !piece.is_empty());
    pieces
}

/// White space as Python has it.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// Of different n-grams: how often one comes doesn't count.
fn rouge_n(found: &[String], wanted: &[String], n: usize) -> f64 {
    let (found, wanted): (HashSet<_>, HashSet<_>) = (found.windows(n).collect(), wanted.windows(n).collect());
    let both = found.intersection(&wanted).count() as f64;
    f_measure(both / found.len().max(1) as f64, both / wanted.len().max(1) as f64)
}

/// By the longest common subsequence.
fn rouge_l(found: &[String], wanted: &[String]) -> f64 {
    let mut row = vec![0_usize; found.len() + 1];
    for word in wanted {
        let mut diagonal = 0;
        for (j, other) in found.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = if word == other { diagonal + 1 } else { above.max(row[j]) };
            diagonal = above;
        }
    }
    let longest = row[found.len()] as f64;
    f_measure(longest / found.len() as f64, longest / wanted.len() as f64)
}

/// With the small number that rouge-chinese adds.
fn f_measure(precision: f64, recall: f64) -> f64 {
    2.0 * (precision * recall / (precision + recall + 1e-8))
}

fn bleu_4<T: Eq + Hash>(found: &[T], wanted: &[T]) -> f64 {
    let precisions = [1, 2, 3, 4].map(|n| matches(found, wanted, n));
    if precisions[0].0 == 0 {
        return 0.0;
    }
    let brevity = if found.len() > wanted.len() { 1.0 } else { (1.0 - wanted.len() as f64 / found.len() as f64).exp() };
    let mut halves = 1.0;
    let logs = precisions.map(|(hits, all)| {
        let all = all.max(1) as f64;
        if hits > 0 {
            return (hits as f64 / all).ln();
        }
        halves /= 2.0;
        (halves / all).ln()
    });
    brevity * (logs.iter().sum::<f64>() / 4.0).exp()
}

/// n-grams of `found` that `wanted` has, each at most as often as there, and all of them.
pub(super) fn matches<T: Eq + Hash>(found: &[T], wanted: &[T], n: usize) -> (usize, usize) {
    let count = |text| {
        let mut counts: HashMap<&[T], usize> = HashMap::new();
        <[T]>::windows(text, n).for_each(|gram| *counts.entry(gram).or_default() += 1);
        counts
    };
    let (found, wanted) = (count(found), count(wanted));
    let hits = found.iter().map(|(gram, times)| wanted.get(gram).map_or(0, |most| *most.min(times))).sum();
    (hits, found.values().sum())
}
