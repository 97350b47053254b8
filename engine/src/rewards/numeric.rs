//! 1 for an answer that comes to the same number as the row's, 0 otherwise, by the rules of GSM8K (Cobbe et al., 2021): the
//! number after `####`, otherwise the last one.

use super::{Attempt, Reward, Scorer, each, exact::said, hit};
use crate::{Result, entry::Entry};
use api::{Card, Problems, RunConfig, Text};
use serde_json::json;
use std::sync::atomic::AtomicBool;

pub struct Numeric;

impl Entry for Numeric {
    fn card(&self) -> Card {
        Card {
            name: "numeric".into(),
            title: Text::new("Numeric answer", "数值答案"),
            help: Text::new(
                "1 if the answer comes to the row's number, as in GSM8K (#### 42, or the last number).",
                "回答得出与样本相同的数值时为 1，规则同 GSM8K（#### 42，或最后一个数）。",
            ),
            schema: json!({"type": "object", "properties": {}}),
        }
    }
}

impl Reward for Numeric {
    fn needs_reference(&self) -> bool {
        true
    }

    fn start(&self, _: &RunConfig) -> Result<Box<dyn Scorer>, Problems> {
        Ok(Box::new(Equal))
    }
}

struct Equal;

impl Scorer for Equal {
    fn score(&mut self, attempts: &[Attempt], _: &AtomicBool) -> Result<Vec<Option<f64>>> {
        each(attempts, |attempt| {
            let wanted = attempt.reference.as_deref().and_then(number);
            let close = |a: f64, b: f64| (a - b).abs() <= 1e-6 * b.abs().max(1.0);
            hit(number(&attempt.text).zip(wanted).is_some_and(|(a, b)| close(a, b)))
        })
    }
}

/// The number that an answer comes to.
pub(super) fn number(text: &str) -> Option<f64> {
    match text.rsplit_once("####") {
        Some((_, rest)) => numbers(rest).next(),
        None => numbers(said(text)).last(),
    }
}

/// Numbers in a text. Commas count between thousands alone, a minus where no word or number stands before it, so that neither
/// lists nor ranges and dates become numbers that nobody said.
fn numbers(text: &str) -> impl Iterator<Item = f64> + '_ {
    let bytes = text.as_bytes();
    let digits = move |from: usize| bytes.iter().skip(from).take_while(|byte| byte.is_ascii_digit()).count();
    let mut at = 0;
    std::iter::from_fn(move || {
        loop {
            let start = at + text[at..].find(|c: char| c.is_ascii_digit())?;
            let first = digits(start);
            at = start + first;
            while first <= 3 && bytes.get(at) == Some(&b',') && digits(at + 1) == 3 {
                at += 4;
            }
            while bytes.get(at) == Some(&b'.') && digits(at + 1) > 0 {
                at += 1 + digits(at + 1);
            }
            let before = &text[..start];
            let point = before.ends_with('.');
            let sign = before.trim_end_matches(['.', '$', '€', '¥']).strip_suffix(['-', '−']);
            let minus = sign.is_some_and(|before| !before.ends_with(char::is_alphanumeric));
            let digits = text[start..at].replace(',', "");
            let word = format!("{}{}{digits}", if minus { "-" } else { "" }, if point { "0." } else { "" });
            // Dates and versions such as 1.2.3 are no numbers.
            if let Ok(number) = word.parse() {
                return Some(number);
            }
        }
    })
}
