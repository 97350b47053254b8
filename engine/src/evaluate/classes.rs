//! Predictions that are one of a few labels.

use serde::Serialize;
use std::collections::BTreeMap;

/// More different labels than these are no classes.
pub const MOST_LABELS: usize = 64;

/// How predictions meet labels. A prediction that is no label counts as wrong, and stands in the last column.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Classes {
    /// In alphabetical order.
    pub labels: Vec<String>,
    /// `confusion[wanted][given]`, with one more column for what is no label.
    pub confusion: Vec<Vec<usize>>,
    pub accuracy: f64,
    pub macro_f1: f64,
}

impl Classes {
    /// Of pairs of a prediction and its label; None if there are more labels than classes have.
    pub fn of<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)> + Clone) -> Option<Self> {
        let mut numbers: BTreeMap<&str, usize> = BTreeMap::new();
        for (_, wanted) in pairs.clone() {
            numbers.insert(wanted.trim(), 0);
            if numbers.len() > MOST_LABELS {
                return None;
            }
        }
        numbers.values_mut().enumerate().for_each(|(i, number)| *number = i);
        let mut confusion = vec![vec![0; numbers.len() + 1]; numbers.len()];
        let mut numbered = Vec::new();
        for (given, wanted) in pairs {
            let wanted = numbers[wanted.trim()];
            let given = numbers.get(given.trim()).copied().unwrap_or(numbers.len());
            confusion[wanted][given] += 1;
            numbered.push((wanted, given));
        }
        let right = numbered.iter().filter(|(wanted, given)| wanted == given).count();
        Some(Self {
            labels: numbers.keys().map(|label| (*label).to_owned()).collect(),
            confusion,
            accuracy: right as f64 / numbered.len().max(1) as f64,
            macro_f1: macro_f1(&numbered, numbers.len()),
        })
    }
}

/// Of pairs `(wanted, given)`: the mean over the labels of `2 hits / (wanted + given)`.
pub fn macro_f1(pairs: &[(usize, usize)], labels: usize) -> f64 {
    let of = |label: usize| {
        let count = |of: &dyn Fn(&(usize, usize)) -> bool| pairs.iter().filter(|pair| of(pair)).count() as f64;
        let both = count(&|(wanted, _)| *wanted == label) + count(&|(_, given)| *given == label);
        2.0 * count(&|pair| *pair == (label, label)) / both.max(1.0)
    };
    (0..labels).map(of).sum::<f64>() / labels.max(1) as f64
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_f1_of_labels_is_that_of_scikit_learn() {
        // Recall and precision: 2/3 and 2/3, 1/2 and 1/3, 0 and 0.
        let pairs = [(0, 0), (0, 0), (0, 1), (1, 1), (1, 0), (2, 1)];
        let expected = (2.0 / 3.0 + 2.0 / 5.0 + 0.0) / 3.0;
        assert!((macro_f1(&pairs, 3) - expected).abs() < 1e-12);
    }

    #[test]
    fn what_is_no_label_is_wrong_and_has_a_column() {
        let pairs = [("good", "good"), (" bad\n", "bad"), ("who knows", "bad"), ("good", "bad")];
        let classes = Classes::of(pairs.into_iter()).unwrap();
        assert_eq!(classes.labels, ["bad", "good"]);
        assert_eq!(classes.confusion, [vec![1, 1, 1], vec![0, 1, 0]]);
        assert_eq!(classes.accuracy, 0.5);
        // bad: 2 * 1 / (3 + 1); good: 2 * 1 / (1 + 2).
        assert!((classes.macro_f1 - (0.5 + 2.0 / 3.0) / 2.0).abs() < 1e-12);
        let many: Vec<String> = (0..65).map(|i| i.to_string()).collect();
        assert_eq!(Classes::of(many.iter().map(|text| ("", text.as_str()))), None);
    }
}
