//! Charts as SVG text: pure functions from points to markup. All text in them is figures and words of the interface.

use crate::{
    curve::{Point, bounds, log_ticks, thin, ticks},
    format,
};
use leptos::{html, prelude::*};
use std::fmt::Write;
use wasm_bindgen::{JsCast, prelude::Closure};

/// Where data stands on the picture: pixels and the ranges of both axes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Frame {
    pub width: f64,
    pub height: f64,
    pub left: f64,
    pub x: (f64, f64),
    pub y: (f64, f64),
    pub log: bool,
}

const TOP: f64 = 8.0;
const RIGHT: f64 = 10.0;
const BOTTOM: f64 = 26.0;

impl Frame {
    /// Pixel of a step.
    pub fn px(&self, x: f64) -> f64 {
        let span = (self.x.1 - self.x.0).max(1e-9);
        self.left + (self.width - self.left - RIGHT) * (x - self.x.0) / span
    }

    /// Pixel of a value. What a logarithmic axis can't show lies on its lower bound.
    pub fn py(&self, y: f64) -> f64 {
        let scale = |v: f64| if self.log { v.max(self.y.0).max(1e-12).ln() } else { v };
        let (low, high) = (scale(self.y.0), scale(self.y.1));
        TOP + (self.height - TOP - BOTTOM) * (1.0 - (scale(y) - low) / (high - low).max(1e-12))
    }

    /// Step at a pixel.
    pub fn step_at(&self, px: f64) -> f64 {
        self.x.0 + (px - self.left) / (self.width - self.left - RIGHT).max(1.0) * (self.x.1 - self.x.0)
    }

    fn columns(&self) -> usize {
        (self.width - self.left - RIGHT).max(50.0) as usize
    }

    fn path(&self, points: &[Point]) -> String {
        let mut out = String::with_capacity(points.len() * 14);
        for (i, (x, y)) in thin(points, self.columns()).into_iter().enumerate() {
            let _ = write!(out, "{}{:.1} {:.1}", if i == 0 { 'M' } else { 'L' }, self.px(x), self.py(y));
        }
        // One point is a dot: a line of no length has round ends.
        if points.len() == 1 {
            out.push_str("h0.01");
        }
        out
    }

    fn axes(&self, out: &mut String, step_word: &str, rows: usize) {
        let values = if self.log { log_ticks(self.y.0, self.y.1) } else { ticks(self.y.0, self.y.1, rows) };
        for v in values {
            let y = self.py(v);
            let class = if v == 0.0 && self.y.0 < 0.0 { "zero" } else { "gridline" };
            let _ = write!(
                out,
                r#"<line class="{class}" x1="{:.1}" x2="{:.1}" y1="{y:.1}" y2="{y:.1}"/><text x="{:.1}" y="{:.1}" text-anchor="end">{}</text>"#,
                self.left,
                self.width - RIGHT,
                self.left - 7.0,
                y + 4.0,
                axis_number(v)
            );
        }
        let base = self.height - BOTTOM;
        let _ = write!(
            out,
            r#"<line class="axis" x1="{:.1}" x2="{:.1}" y1="{base:.1}" y2="{base:.1}"/><text x="{:.1}" y="{:.1}" text-anchor="end">{step_word}</text>"#,
            self.left,
            self.width - RIGHT,
            self.width - RIGHT,
            base + 16.0
        );
        let wanted = if self.width < 420.0 { 3 } else { 8 };
        for v in ticks(self.x.0, self.x.1, wanted) {
            let x = self.px(v);
            if v.fract() == 0.0 && v > 0.0 && x < self.width - RIGHT - 44.0 {
                let _ = write!(
                    out,
                    r#"<text x="{x:.1}" y="{:.1}" text-anchor="middle">{}</text>"#,
                    base + 16.0,
                    format::count(v as u64)
                );
            }
        }
    }
}

/// What the loss chart shows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LossCurve {
    pub raw: Vec<Point>,
    pub smooth: Vec<Point>,
    pub validation: Vec<Point>,
    /// Last step of the run, if known.
    pub total: f64,
    /// Steps at which an epoch ends, with the number of the next one.
    pub epochs: Vec<(f64, u64)>,
}

impl LossCurve {
    /// A frame that holds all points and the steps to come.
    pub fn frame(&self, width: f64, height: f64, log: bool) -> Frame {
        let last = self.raw.last().map_or(0.0, |p| p.0);
        let values =
            || self.raw.iter().chain(&self.validation).map(|p| p.1).filter(|v| v.is_finite() && (!log || *v > 0.0));
        let (mut low, mut high) = values().fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(v), h.max(v)));
        if low > high {
            (low, high) = (if log { 0.1 } else { 0.0 }, 1.0);
        }
        let pad = ((high - low) * 0.06).max(high.abs() * 0.02).max(1e-9);
        let y = if log {
            (low * 0.94, high * 1.06)
        } else {
            ((low - pad).max(if low >= 0.0 { 0.0 } else { f64::MIN }), high + pad)
        };
        let first = self.raw.first().map_or(1.0, |p| p.0).min(1.0);
        Frame { width, height, left: 46.0, x: (first, last.max(self.total).max(first + 1.0)), y, log }
    }
}

/// The loss chart without its readout.
pub fn loss_svg(curve: &LossCurve, frame: &Frame, step_word: &str, epoch_word: &str) -> String {
    let mut out = String::with_capacity(16 * 1024);
    let base = frame.height - BOTTOM;
    if let Some((last, _)) = curve.raw.last()
        && *last < frame.x.1
    {
        let (from, to) = (frame.px(*last), frame.px(frame.x.1));
        let _ = write!(
            out,
            r#"<rect class="rest" x="{from:.1}" y="{TOP}" width="{:.1}" height="{:.1}"/>"#,
            to - from,
            base - TOP
        );
    }
    let shown = curve.epochs.len() <= 12;
    for (step, number) in curve.epochs.iter().filter(|_| shown) {
        let x = frame.px(*step);
        let _ = write!(out, r#"<line class="epoch" x1="{x:.1}" x2="{x:.1}" y1="{TOP}" y2="{base:.1}"/>"#);
        if frame.width > 480.0 && x < frame.width - 60.0 {
            let _ = write!(
                out,
                r#"<text x="{:.1}" y="{:.1}">{}</text>"#,
                x + 4.0,
                TOP + 9.0,
                epoch_word.replace("{n}", &number.to_string())
            );
        }
    }
    frame.axes(&mut out, step_word, 5);
    let _ = write!(out, r#"<path class="raw c1" d="{}"/>"#, frame.path(&curve.raw));
    let _ = write!(out, r#"<path class="smooth c1" d="{}"/>"#, frame.path(&curve.smooth));
    if curve.validation.len() > 1 {
        let _ = write!(out, r#"<path class="smooth dashed c2" d="{}"/>"#, frame.path(&curve.validation));
    }
    let best = curve.validation.iter().map(|p| p.1).fold(f64::MAX, f64::min);
    for (x, y) in &curve.validation {
        let (class, r) = if *y == best { ("dot best", 5.0) } else { ("dot", 3.5) };
        let _ = write!(out, r#"<circle class="{class}" cx="{:.1}" cy="{:.1}" r="{r}"/>"#, frame.px(*x), frame.py(*y));
    }
    out
}

/// A small chart of one value.
pub fn small_svg(points: &[Point], total: f64, width: f64, height: f64, colour: &str, step_word: &str) -> String {
    let values = points.iter().map(|p| p.1).filter(|v| v.is_finite());
    let (low, high) = values.fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(v), h.max(v)));
    let last = points.last().map_or(1.0, |p| p.0).max(total).max(2.0);
    let frame = Frame {
        width,
        height,
        left: 46.0,
        x: (points.first().map_or(1.0, |p| p.0).min(1.0), last),
        y: bounds(low, high),
        log: false,
    };
    let mut out = String::with_capacity(8 * 1024);
    frame.axes(&mut out, step_word, 3);
    let _ = write!(out, r#"<path class="smooth fine {colour}" d="{}"/>"#, frame.path(points));
    out
}

/// The width of an element in pixels, as it changes.
pub fn width_of(node: NodeRef<html::Div>) -> Signal<f64> {
    let width = RwSignal::new(0.0);
    Effect::new(move || {
        let Some(element) = node.get() else { return };
        let element: web_sys::Element = element.into();
        width.set(element.client_width() as f64);
        let watched = element.clone();
        let measure = Closure::<dyn Fn()>::new(move || {
            width.try_set(watched.client_width() as f64);
        });
        if let Ok(observer) = web_sys::ResizeObserver::new(measure.as_ref().unchecked_ref()) {
            observer.observe(&element);
        }
        // Lives as long as the observer, which goes with its element.
        measure.forget();
    });
    width.into()
}

fn axis_number(value: f64) -> String {
    if value.abs() >= 1000.0 && value.fract() == 0.0 {
        let sign = if value < 0.0 { "-" } else { "" };
        format!("{sign}{}", format::count(value.abs() as u64))
    } else {
        format::number((value * 1e9).round() / 1e9)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(n: usize) -> LossCurve {
        let raw: Vec<Point> = (1..=n).map(|i| (i as f64, 3.0 / i as f64 + 0.5)).collect();
        LossCurve {
            smooth: crate::curve::ema(&raw, 0.8),
            raw,
            validation: vec![(2.0, 2.5), (4.0, 1.5)],
            total: 100.0,
            epochs: vec![(50.0, 2)],
        }
    }

    #[test]
    fn the_frame_holds_every_point_and_the_steps_to_come() {
        for log in [false, true] {
            let curve = curve(60);
            let frame = curve.frame(800.0, 300.0, log);
            assert_eq!(frame.x, (1.0, 100.0));
            for (x, y) in curve.raw.iter().chain(&curve.smooth).chain(&curve.validation) {
                assert!((46.0..=790.0).contains(&frame.px(*x)) && (TOP..=274.0).contains(&frame.py(*y)), "{x} {y}");
            }
            assert!((frame.step_at(frame.px(42.0)) - 42.0).abs() < 1e-9);
        }
    }

    #[test]
    fn odd_curves_are_drawn_without_infinities() {
        let odd = [
            LossCurve::default(),
            curve(1),
            LossCurve { raw: vec![(1.0, 0.0), (2.0, 0.0)], ..LossCurve::default() },
            LossCurve { raw: vec![(1.0, 1e12), (2.0, -4.0)], ..LossCurve::default() },
        ];
        for curve in odd {
            for log in [false, true] {
                let svg = loss_svg(&curve, &curve.frame(300.0, 200.0, log), "step", "epoch {n}");
                assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
                let frame = curve.frame(300.0, 200.0, log);
                let mut inside = curve.raw.iter().map(|p| frame.py(p.1));
                assert!(inside.all(|y| (TOP - 0.01..=174.01).contains(&y)), "{curve:?}");
            }
        }
        assert!(!small_svg(&[], 0.0, 200.0, 100.0, "c1", "step").contains("NaN"));
    }

    #[test]
    fn values_below_zero_are_drawn_and_zero_is_a_line() {
        let small = |values: &[f64]| {
            let points: Vec<Point> = values.iter().enumerate().map(|(i, v)| (i as f64 + 1.0, *v)).collect();
            small_svg(&points, 0.0, 200.0, 112.0, "c1", "step")
        };
        // The path's heights lie between the top and the base line.
        let inside = |svg: &str| {
            let path = svg.split(r#" d=""#).nth(1).unwrap().split('"').next().unwrap();
            let heights: Vec<f64> =
                path.split(['M', 'L']).skip(1).map(|p| p.split_once(' ').unwrap().1.parse().unwrap()).collect();
            heights.iter().all(|y| (TOP..=112.0 - BOTTOM).contains(y)) && heights.iter().any(|y| *y != heights[0])
        };
        let across = small(&[-0.5, 0.2, 1.0]);
        assert!(inside(&across) && across.matches(r#"class="zero""#).count() == 1, "{across}");
        assert!(across.contains(">-0.5<") && across.contains(">0<"), "{across}");
        let below = small(&[-1250.0, -1240.0, -1230.0]);
        assert!(inside(&below) && below.contains(">-1,240<") && !below.contains("zero"), "{below}");
        assert!(!small(&[0.5, 1.0]).contains("zero"), "the base line is 0 already");
    }

    #[test]
    fn the_best_validation_point_is_filled_and_the_rest_is_shaded() {
        let svg = loss_svg(&curve(60), &curve(60).frame(800.0, 300.0, false), "step", "epoch {n}");
        assert_eq!(svg.matches("dot best").count(), 1);
        assert!(svg.contains("class=\"rest\"") && svg.contains("epoch 2"));
        let whole = LossCurve { total: 60.0, ..curve(60) };
        assert!(!loss_svg(&whole, &whole.frame(800.0, 300.0, false), "step", "").contains("class=\"rest\""));
    }
}
