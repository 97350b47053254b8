//! The lengths of rows as bars with the line of `cutoff_len`: a pure function from counts to markup, which holds figures
//! and one word only.

use crate::{curve::ticks, format};
use api::data::Bar;
use std::fmt::Write;

const TOP: f64 = 18.0;
const BOTTOM: f64 = 22.0;
const SIDE: f64 = 6.0;

/// Bars behind `cutoff` have another class than those before it. `word` names the line.
pub fn svg(bars: &[Bar], cutoff: u64, word: &str, width: f64, height: f64) -> String {
    let end = bars.last().map_or(0, |bar| bar.to).max(1) as f64;
    let most = bars.iter().map(|bar| bar.rows).max().unwrap_or(0).max(1) as f64;
    let px = |tokens: f64| SIDE + (width - 2.0 * SIDE) * tokens / end;
    let base = height - BOTTOM;
    let mut out = String::with_capacity(8 * 1024);
    for bar in bars.iter().filter(|bar| bar.rows > 0) {
        let (from, to) = (px(bar.from as f64), px(bar.to as f64));
        // One row among thousands is still seen.
        let tall = ((base - TOP) * bar.rows as f64 / most).max(2.0);
        let class = if bar.from >= cutoff { "bar over" } else { "bar" };
        let _ = write!(
            out,
            r#"<rect class="{class}" x="{:.1}" y="{:.1}" width="{:.1}" height="{tall:.1}" rx="1.5"/>"#,
            from + 0.75,
            base - tall,
            (to - from - 1.5).max(1.0)
        );
    }
    let _ = write!(out, r#"<line class="axis" x1="{SIDE}" x2="{:.1}" y1="{base}" y2="{base}"/>"#, width - SIDE);
    let wanted = if width < 420.0 { 3 } else { 6 };
    for tick in ticks(0.0, end, wanted).into_iter().filter(|t| t.fract() == 0.0) {
        let x = px(tick);
        let anchor = if x < 20.0 {
            "start"
        } else if x > width - 24.0 {
            "end"
        } else {
            "middle"
        };
        let number = format::count(tick as u64);
        let _ = write!(out, r#"<text x="{x:.1}" y="{:.1}" text-anchor="{anchor}">{number}</text>"#, height - 5.0);
    }
    if cutoff > 0 && (cutoff as f64) <= end {
        let x = px(cutoff as f64);
        let (anchor, beside) = if x > width / 2.0 { ("end", x - 5.0) } else { ("start", x + 5.0) };
        let _ = write!(
            out,
            r#"<line class="limit" x1="{x:.1}" x2="{x:.1}" y1="2" y2="{base}"/><text class="limit" x="{beside:.1}" y="12" text-anchor="{anchor}">{word} {}</text>"#,
            format::count(cutoff)
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bars(rows: &[u64]) -> Vec<Bar> {
        rows.iter()
            .enumerate()
            .map(|(i, rows)| Bar { from: i as u64 * 10, to: i as u64 * 10 + 10, rows: *rows })
            .collect()
    }

    #[test]
    fn bars_behind_the_line_are_marked() {
        let svg = svg(&bars(&[5, 0, 3, 1]), 20, "cutoff", 400.0, 150.0);
        assert_eq!((svg.matches("\"bar\"").count(), svg.matches("\"bar over\"").count()), (1, 2));
        assert!(svg.contains("cutoff 20"));
    }

    #[test]
    fn a_line_far_behind_the_last_bar_is_left_out_and_nothing_is_infinite() {
        assert!(!svg(&bars(&[1]), 2048, "cutoff", 400.0, 150.0).contains("limit"));
        for odd in [svg(&[], 0, "cutoff", 0.0, 0.0), svg(&bars(&[0]), 5, "cutoff", 10.0, 10.0)] {
            assert!(!odd.contains("NaN") && !odd.contains("inf"), "{odd}");
        }
    }
}
