//! The number that an answer comes to, as GSM8K is scored (Cobbe et al., 2021).

use regex::Regex;
use std::sync::LazyLock;

static NUMBER: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"-?[$￥¥]?\d[\d,]*(?:\.\d+)?").ok());

/// What stands behind `####`, or else in `\boxed{}`, or else the last number of the text.
pub fn final_number(text: &str) -> Option<f64> {
    let numbers = NUMBER.as_ref()?;
    let value = |text: &str| text.replace([',', '$', '￥', '¥'], "").parse::<f64>().ok();
    for mark in ["####", "\\boxed{"] {
        if let Some((_, rest)) = text.rsplit_once(mark)
            && let Some(found) = numbers.find(rest)
        {
            return value(found.as_str());
        }
    }
    value(numbers.find_iter(text).last()?.as_str())
}

/// Whether both come to the same number. A label without one is met by nothing.
pub fn same_number(prediction: &str, label: &str) -> bool {
    matches!((final_number(prediction), final_number(label)), (Some(a), Some(b)) if (a - b).abs() <= 1e-6 * b.abs().max(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_is_found_wherever_it_stands() {
        for (text, number) in [
            ("He has 3 + 4 = 7.\n#### 7", Some(7.0)),
            ("#### 1,234.50", Some(1234.5)),
            ("It costs $18 a day, so $126 a week.", Some(126.0)),
            ("Between 3-5: \\boxed{-12} then 9", Some(-12.0)),
            ("#### none, but 5", Some(5.0)),
            ("no number", None),
            ("", None),
        ] {
            assert_eq!(final_number(text), number, "{text}");
        }
        assert!(same_number("The answer is 7.0", "#### 7") && !same_number("8", "#### 7") && !same_number("", ""));
    }
}
