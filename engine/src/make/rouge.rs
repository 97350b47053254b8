//! ROUGE-L (Lin, 2004): how much of two texts is the same words in the same order.

/// The F1 of the longest common subsequence, 0 to 1.
pub fn rouge_l(a: &[String], b: &[String]) -> f64 {
    if a.is_empty() || b.is_empty() {
        return 0.0;
    }
    let mut row = vec![0usize; b.len() + 1];
    for x in a {
        let mut diagonal = 0;
        for (j, y) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = if x == y { diagonal + 1 } else { above.max(row[j]) };
            diagonal = above;
        }
    }
    2.0 * row[b.len()] as f64 / (a.len() + b.len()) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::make::words;

    #[test]
    fn values_are_those_of_the_definition() {
        let score = |a: &str, b: &str| rouge_l(&words(a), &words(b));
        assert_eq!(score("police killed the gunman", "police killed the gunman"), 1.0);
        // The example of the paper: F1 of 3/4 and 3/4, of 2/4 and 2/4.
        assert_eq!(score("police killed the gunman", "police kill the gunman"), 0.75);
        assert_eq!(score("police killed the gunman", "the gunman kill police"), 0.5);
        assert_eq!(score("写一首诗", "写一首关于海的诗"), 2.0 * 4.0 / 12.0);
        assert_eq!((score("", "a"), score("A, b!", "a b")), (0.0, 1.0));
    }
}
