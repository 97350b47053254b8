//! The arithmetic of charts: smoothing, ticks, thinning. All pure.

/// A point: step and value.
pub type Point = (f64, f64);

/// Exponential moving average with the bias of its start corrected (as Adam does), so that it begins at the first value.
/// `beta` 0 gives the values themselves.
pub fn ema(points: &[Point], beta: f64) -> Vec<Point> {
    let beta = beta.clamp(0.0, 0.999);
    let (mut mean, mut weight) = (0.0, 0.0);
    points
        .iter()
        .map(|&(x, y)| {
            mean = beta * mean + (1.0 - beta) * y;
            weight = beta * weight + (1.0 - beta);
            (x, mean / weight)
        })
        .collect()
}

/// About `wanted` round values (1, 2 or 5 times a power of ten) from `low` to `high`.
pub fn ticks(low: f64, high: f64, wanted: usize) -> Vec<f64> {
    let span = high - low;
    if !span.is_finite() || span <= 0.0 || wanted == 0 {
        return vec![low];
    }
    let raw = span / wanted as f64;
    let power = 10f64.powf(raw.log10().floor());
    let step = power
        * match raw / power {
            m if m < 1.5 => 1.0,
            m if m < 3.0 => 2.0,
            m if m < 7.0 => 5.0,
            _ => 10.0,
        };
    let first = (low / step - 1e-9).ceil();
    (0..=wanted * 3).map(|i| (first + i as f64) * step).take_while(|v| *v <= high + step * 1e-9).map(clean).collect()
}

/// Bounds of an axis for values from `low` to `high`, with some room. What is never negative starts at 0; what always is
/// reaches up to 0 if that is no farther from it than its values are from each other, or if they are all the same.
pub fn bounds(low: f64, high: f64) -> (f64, f64) {
    let span = high - low;
    if !span.is_finite() || span < 0.0 || (low == 0.0 && high == 0.0) {
        return (0.0, 1.0);
    }
    let low = low.min(0.0);
    let high = if high < 0.0 && (span == 0.0 || -high <= span) { 0.0 } else { high };
    let room = (high - low) * 0.06;
    (if low < 0.0 { low - room } else { 0.0 }, if high == 0.0 { 0.0 } else { high + room })
}

/// Round values for a logarithmic axis.
pub fn log_ticks(low: f64, high: f64) -> Vec<f64> {
    if !(low > 0.0 && high > low && high.is_finite()) {
        return Vec::new();
    }
    let within = |factors: &[f64]| -> Vec<f64> {
        (low.log10().floor() as i32..=high.log10().ceil() as i32)
            .flat_map(|e| factors.iter().map(move |f| clean(f * 10f64.powi(e))))
            .filter(|v| *v >= low && *v <= high)
            .collect()
    };
    let few = within(&[1.0, 2.0, 5.0]);
    if few.len() >= 3 { few } else { within(&[1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]) }
}

/// At most two points (lowest and highest) for each of `columns` equal parts of the axis, so that spikes stay visible.
pub fn thin(points: &[Point], columns: usize) -> Vec<Point> {
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return Vec::new() };
    if points.len() <= columns * 2 || last.0 <= first.0 {
        return points.to_vec();
    }
    let column = |x: f64| ((x - first.0) / (last.0 - first.0) * columns as f64) as usize;
    let mut out = Vec::with_capacity(columns * 2 + 2);
    for part in points.chunk_by(|a, b| column(a.0) == column(b.0)) {
        let low = part.iter().copied().min_by(|a, b| a.1.total_cmp(&b.1));
        let high = part.iter().copied().max_by(|a, b| a.1.total_cmp(&b.1));
        if let (Some(low), Some(high)) = (low, high) {
            let (a, b) = if low.0 <= high.0 { (low, high) } else { (high, low) };
            out.push(a);
            if a != b {
                out.push(b);
            }
        }
    }
    out
}

/// Index of the point whose step is nearest to `x`; points are in the order of steps.
pub fn nearest(points: &[Point], x: f64) -> Option<usize> {
    let after = points.partition_point(|p| p.0 < x);
    let candidates = [after.checked_sub(1), Some(after).filter(|i| *i < points.len())];
    candidates.into_iter().flatten().min_by(|a, b| (points[*a].0 - x).abs().total_cmp(&(points[*b].0 - x).abs()))
}

/// Removes what binary fractions leave behind: 0.30000000000000004 becomes 0.3.
fn clean(value: f64) -> f64 {
    format!("{value:.10e}").parse().unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(values: &[f64]) -> Vec<Point> {
        values.iter().enumerate().map(|(i, v)| (i as f64, *v)).collect()
    }

    #[test]
    fn smoothing_starts_at_the_first_value_and_keeps_a_constant() {
        assert_eq!(ema(&line(&[3.0, 1.0]), 0.8)[0].1, 3.0);
        for (_, y) in ema(&line(&[2.0; 50]), 0.99) {
            assert!((y - 2.0).abs() < 1e-12);
        }
        // By hand: (0.5·0.5·4 + 0.5·2) / 0.75
        assert!((ema(&line(&[4.0, 2.0]), 0.5)[1].1 - 2.0 / 0.75).abs() < 1e-12);
        assert_eq!(ema(&line(&[3.0, 1.0]), 0.0), line(&[3.0, 1.0]));
    }

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(ticks(1.18, 3.1, 4), [1.5, 2.0, 2.5, 3.0]);
        assert_eq!(ticks(0.0, 1e-4, 2), [0.0, 5e-5, 1e-4]);
        assert_eq!(ticks(0.0, 0.3, 3), [0.0, 0.1, 0.2, 0.3]);
        assert_eq!(ticks(2.0, 2.0, 4), [2.0]);
        assert!(ticks(f64::NAN, 1.0, 4).len() == 1);
    }

    #[test]
    fn ticks_below_zero_are_round_and_hold_it() {
        assert_eq!(ticks(-0.3, 0.3, 3), [-0.2, 0.0, 0.2]);
        assert_eq!(ticks(-265.0, 0.0, 2), [-200.0, -100.0, 0.0]);
        assert_eq!(ticks(-251.0, -239.0, 2), [-250.0, -245.0, -240.0]);
        let zero = ticks(-1.0, 1.0, 2)[1];
        assert!(zero == 0.0 && zero.is_sign_positive(), "it would be written -0");
    }

    #[test]
    fn an_axis_spans_the_data_and_zero_where_it_is_near() {
        let round = |(low, high): (f64, f64)| ((low * 1e3).round() / 1e3, (high * 1e3).round() / 1e3);
        for (values, axis) in [
            // Never negative: from 0.
            ((0.0, 2.0), (0.0, 2.12)),
            ((5.0, 5.0), (0.0, 5.3)),
            // Both sides.
            ((-1.0, 3.0), (-1.24, 3.24)),
            // Always negative: up to 0 if that is near, or if there is nothing else to see.
            ((-3.0, -1.0), (-3.18, 0.0)),
            ((-250.0, -240.0), (-250.6, -239.4)),
            ((-4.0, -4.0), (-4.24, 0.0)),
            ((-2.0, 0.0), (-2.12, 0.0)),
            // Nothing to span.
            ((0.0, 0.0), (0.0, 1.0)),
            ((f64::MAX, f64::MIN), (0.0, 1.0)),
        ] {
            assert_eq!(round(bounds(values.0, values.1)), axis, "{values:?}");
        }
    }

    #[test]
    fn logarithmic_ticks() {
        assert_eq!(log_ticks(0.5, 20.0), [0.5, 1.0, 2.0, 5.0, 10.0, 20.0]);
        assert_eq!(log_ticks(1.2, 1.9), [1.5]);
        assert!(log_ticks(0.0, 1.0).is_empty());
    }

    #[test]
    fn thinning_keeps_spikes() {
        let mut values = vec![1.0; 10_000];
        values[5_003] = 9.0;
        values[7_001] = -9.0;
        let thinned = thin(&line(&values), 100);
        assert!(thinned.len() <= 210);
        assert!(thinned.contains(&(5003.0, 9.0)) && thinned.contains(&(7001.0, -9.0)));
        assert!(thinned.windows(2).all(|w| w[0].0 < w[1].0));
    }

    #[test]
    fn the_nearest_point() {
        let points = [(1.0, 0.0), (5.0, 0.0), (9.0, 0.0)];
        assert_eq!([0.0, 2.9, 3.1, 99.0].map(|x| nearest(&points, x)), [Some(0), Some(0), Some(1), Some(2)]);
        assert_eq!(nearest(&[], 1.0), None);
    }
}
