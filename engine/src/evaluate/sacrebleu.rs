//! Corpus BLEU with the defaults of sacreBLEU (Post, 2018): 4-grams, exponential smoothing, letters as they are, words by
//! the tokenizer `13a`, or for Chinese `zh`.

use super::similarity::matches;
use regex::Regex;
use std::sync::LazyLock;

/// How texts become words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tokenizer {
    Western,
    Chinese,
}

/// What mteval-v13a makes of Western text, one after another.
static RULES: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    let rules = [
        (r"([\{-~\[-` -&\(-\+:-@/])", " $1 "),
        (r"([^0-9])([\.,])", "$1 $2 "),
        (r"([\.,])([^0-9])", " $1 $2"),
        (r"([0-9])(-)", "$1 $2 "),
    ];
    rules.into_iter().filter_map(|(rule, by)| Some((Regex::new(rule).ok()?, by))).collect()
});

impl Tokenizer {
    /// The one that sacreBLEU's users take for these texts: `zh` if a fifth of the letters are Chinese.
    pub fn for_texts<'a>(texts: impl Iterator<Item = &'a str>) -> Self {
        let (mut chinese, mut letters) = (0_usize, 0_usize);
        for c in texts.flat_map(str::chars).filter(|c| c.is_alphanumeric()) {
            letters += 1;
            chinese += usize::from(('\u{4e00}'..='\u{9fff}').contains(&c));
        }
        if chinese * 5 > letters { Self::Chinese } else { Self::Western }
    }

    /// Its name in sacreBLEU.
    pub fn name(self) -> &'static str {
        match self {
            Self::Western => "13a",
            Self::Chinese => "zh",
        }
    }

    fn words(self, text: &str) -> Vec<String> {
        let text = text.trim_end();
        let mut text = match self {
            Self::Western => {
                let text = text.replace("<skipped>", "").replace("-\n", "").replace('\n', " ");
                let text = text.replace("&quot;", "\"").replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">");
                format!(" {text} ")
            }
            Self::Chinese => text.trim().chars().fold(String::new(), |mut spaced, c| {
                let blank = if is_chinese(c) { " " } else { "" };
                spaced.extend([blank, c.encode_utf8(&mut [0; 4]), blank]);
                spaced
            }),
        };
        for (rule, by) in RULES.iter() {
            text = rule.replace_all(&text, *by).into_owned();
        }
        text.split_whitespace().map(str::to_owned).collect()
    }
}

/// The ranges that sacreBLEU compares with. Its two of five digits are read there as a character and a digit, so that much
/// of what isn't Chinese (dashes, quotes, mathematics) is a word of its own, too.
fn is_chinese(c: char) -> bool {
    matches!(c, '\u{3400}'..='\u{4db5}' | '\u{4e00}'..='\u{9fa5}' | '\u{9fa6}'..='\u{9fbb}' | '\u{f900}'..='\u{fa2d}'
        | '\u{fa30}'..='\u{fa6a}' | '\u{fa70}'..='\u{fad9}' | '\u{2001}'..='\u{2a6d}' | '\u{2f81}'..='\u{2fa1}'
        | '\u{ff00}'..='\u{ffef}' | '\u{2e80}'..='\u{2eff}' | '\u{3000}'..='\u{303f}' | '\u{31c0}'..='\u{31ef}'
        | '\u{2f00}'..='\u{2fdf}' | '\u{2ff0}'..='\u{2fff}' | '\u{3100}'..='\u{312f}' | '\u{31a0}'..='\u{31bf}'
        | '\u{fe10}'..='\u{fe1f}' | '\u{fe30}'..='\u{fe4f}'
        | '\u{3200}'..='\u{32ff}' | '\u{3300}'..='\u{33ff}')
}

/// 0 to 100, of pairs of a prediction and its label.
pub fn corpus_bleu(pairs: &[(&str, &str)], tokenizer: Tokenizer) -> f64 {
    let (mut hits, mut all, mut found_length, mut wanted_length) = ([0; 4], [0; 4], 0, 0);
    for (found, wanted) in pairs {
        let (found, wanted) = (tokenizer.words(found), tokenizer.words(wanted));
        for n in 1..=4 {
            let (hit, of) = matches(&found, &wanted, n);
            hits[n - 1] += hit;
            all[n - 1] += of;
        }
        found_length += found.len();
        wanted_length += wanted.len();
    }
    if hits.iter().all(|hit| *hit == 0) || all.contains(&0) {
        return 0.0;
    }
    let brevity =
        if found_length < wanted_length { (1.0 - wanted_length as f64 / found_length as f64).exp() } else { 1.0 };
    let mut doubled = 1.0;
    let logs = hits.iter().zip(all).map(|(hit, all)| {
        if *hit > 0 {
            return (100.0 * *hit as f64 / all as f64).ln();
        }
        doubled *= 2.0;
        (100.0 / (doubled * all as f64)).ln()
    });
    brevity * (logs.sum::<f64>() / 4.0).exp()
}
