//! Figures as people read them: counts, sizes, times, rates. All pure.

use crate::i18n::Language;

/// `1,036`.
pub fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `134.5 M`, `5.2 M`, `812`.
pub fn short(value: u64) -> String {
    let scaled = |by: f64| trim(format!("{:.1}", value as f64 / by));
    match value {
        0..1_000 => value.to_string(),
        1_000..1_000_000 => format!("{} K", scaled(1e3)),
        1_000_000..1_000_000_000 => format!("{} M", scaled(1e6)),
        _ => format!("{} B", scaled(1e9)),
    }
}

/// `1.1 GB` (GB = 10⁹ bytes).
pub fn bytes(value: u64) -> String {
    let (amount, unit) = bytes_parts(value);
    format!("{amount} {unit}")
}

/// The figure and the unit of a size, to be set in two sizes of type.
pub fn bytes_parts(value: u64) -> (String, &'static str) {
    let v = value as f64;
    match value {
        0..1_000 => (value.to_string(), "B"),
        1_000..1_000_000 => (format!("{:.0}", v / 1e3), "KB"),
        1_000_000..10_000_000 => (trim(format!("{:.1}", v / 1e6)), "MB"),
        10_000_000..1_000_000_000 => (format!("{:.0}", v / 1e6), "MB"),
        1_000_000_000..100_000_000_000 => (format!("{:.1}", v / 1e9), "GB"),
        _ => (format!("{:.0}", v / 1e9), "GB"),
    }
}

/// A parameter's number: small ones as `5e-5`, no trailing zeros.
pub fn number(value: f64) -> String {
    if !value.is_finite() {
        return "–".into();
    }
    if value != 0.0 && (value.abs() < 1e-3 || value.abs() >= 1e15) { format!("{value:e}") } else { format!("{value}") }
}

/// A measured number with four significant figures: `1.284`, `0.4113`, `6.31e-5`, `2,148`.
pub fn measure(value: f64) -> String {
    if !value.is_finite() {
        return "–".into();
    }
    let size = value.abs();
    if size == 0.0 {
        "0".into()
    } else if size < 1e-3 {
        let text = format!("{value:.2e}");
        match text.split_once('e') {
            Some((mantissa, exponent)) => format!("{}e{exponent}", trim(mantissa.to_owned())),
            None => text,
        }
    } else if size < 100.0 {
        format!("{value:.3}")
    } else if size < 1000.0 {
        format!("{value:.1}")
    } else if value > 0.0 {
        count(value.round() as u64)
    } else {
        format!("{value:.0}")
    }
}

/// Things a second: `87`, `3.4`.
pub fn rate(value: f64) -> String {
    if value >= 9.95 { count(value.round() as u64) } else { trim(format!("{:.1}", value.max(0.0))) }
}

/// `1.8 %`.
pub fn percent(share: f64) -> String {
    let value = share * 100.0;
    if value > 0.0 && value < 0.01 {
        return "< 0.01 %".into();
    }
    let digits = if value < 1.0 {
        2
    } else if value < 10.0 {
        1
    } else {
        0
    };
    format!("{} %", trim(format!("{value:.digits$}")))
}

/// `2 min 06 s` · `2 分 06 秒`: to seconds under 2 hours, to minutes above.
pub fn duration(seconds: f64, language: Language) -> String {
    parts(seconds, language).into_iter().map(|(n, unit)| format!("{n} {unit}")).collect::<Vec<_>>().join(" ")
}

/// Time left, rounded as one can rely on it: to seconds under 10 minutes, to minutes under 2 hours, else to 10 minutes.
pub fn time_left(seconds: f64, language: Language) -> String {
    let step = match seconds {
        s if s < 600.0 => 1.0,
        s if s < 7200.0 => 60.0,
        _ => 600.0,
    };
    duration((seconds / step).round() * step, language)
}

/// Figures and units of a duration, to be set in two sizes of type.
pub fn parts(seconds: f64, language: Language) -> Vec<(String, &'static str)> {
    let zh = language == Language::Chinese;
    let unit = |en, chinese| if zh { chinese } else { en };
    let total = if seconds.is_finite() && seconds > 0.0 { seconds.min(1e12) } else { 0.0 };
    if total < 0.095 && total > 0.0 {
        return vec![(trim(format!("{:.2}", total.max(0.01))), unit("s", "秒"))];
    }
    if total < 9.95 && total > 0.0 {
        return vec![(trim(format!("{total:.1}")), unit("s", "秒"))];
    }
    let total = total.round() as u64;
    let (hours, minutes, rest) = (total / 3600, total / 60 % 60, total % 60);
    match total {
        0..60 => vec![(rest.to_string(), unit("s", "秒"))],
        60..7200 if rest == 0 => vec![((total / 60).to_string(), unit("min", "分"))],
        60..7200 => vec![((total / 60).to_string(), unit("min", "分")), (format!("{rest:02}"), unit("s", "秒"))],
        _ if minutes == 0 => vec![(hours.to_string(), unit("h", "小时"))],
        _ => vec![(hours.to_string(), unit("h", "小时")), (format!("{minutes:02}"), unit("min", "分"))],
    }
}

/// The last part of a path or of a hub id.
pub fn last_part(path: &str) -> &str {
    path.trim_end_matches(['/', '\\']).rsplit(['/', '\\']).next().unwrap_or(path)
}

fn trim(text: String) -> String {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Language::{Chinese, English};

    #[test]
    fn counts_and_sizes() {
        assert_eq!([0, 999, 1036, 1_234_567].map(count), ["0", "999", "1,036", "1,234,567"]);
        assert_eq!([812, 5_200_000, 134_515_008, 1_000_000_000].map(short), ["812", "5.2 M", "134.5 M", "1 B"]);
        assert_eq!([999, 8_000_000, 88_400_000, 1_100_000_000].map(bytes), ["999 B", "8 MB", "88 MB", "1.1 GB"]);
    }

    #[test]
    fn numbers() {
        assert_eq!([5e-5, 3.0, 0.0, 0.05, 1e-4].map(number), ["5e-5", "3", "0", "0.05", "1e-4"]);
        assert_eq!([1.2841, 6.31e-5, 2148.2, 0.0, f64::NAN].map(measure), ["1.284", "6.31e-5", "2,148", "0", "–"]);
        assert_eq!([0.018, 0.61, 0.0, 0.00001].map(percent), ["1.8 %", "61 %", "0 %", "< 0.01 %"]);
    }

    #[test]
    fn rates() {
        assert_eq!([87.5, 3.44, 2148.0, -1.0].map(rate), ["88", "3.4", "2,148", "0"]);
    }

    #[test]
    fn durations_in_both_languages() {
        assert_eq!(duration(126.0, English), "2 min 06 s");
        assert_eq!(duration(126.0, Chinese), "2 分 06 秒");
        assert_eq!(duration(3.25, English), "3.2 s");
        assert_eq!(duration(0.038, English), "0.04 s");
        assert_eq!(duration(7260.0, English), "2 h 01 min");
        assert_eq!(duration(-1.0, English), "0 s");
        assert_eq!(time_left(1234.0, English), "21 min");
        assert_eq!(time_left(9000.0, Chinese), "2 小时 30 分");
    }

    #[test]
    fn last_parts() {
        assert_eq!(last_part("/models/tiny/"), "tiny");
        assert_eq!(last_part("starter"), "starter");
    }
}
