//! The run's figures: tiles above, and a small chart of each metric but the loss.

use super::loss::series;
use crate::{
    curve::ema,
    format,
    i18n::fill,
    parts::{
        chart::{small_svg, width_of},
        job::seconds,
        metric,
    },
    store::store,
    ui,
};
use api::{
    Job,
    catalog::MetricCard,
    job::{Metric, validation_name},
};
use leptos::{html, prelude::*};
use std::collections::BTreeSet;

#[component]
pub fn Tiles(job: Memo<Option<Job>>) -> impl IntoView {
    let w = ui::words();
    let language = ui::language();
    let store = store();
    let tiles = move || {
        let job = job.get()?;
        let points = store.metrics.with(|all| all.get(&job.id).cloned()).unwrap_or_default();
        let losses = ema(&series(&points, "loss"), 0.8);
        let (first, last) = (losses.first()?.1, losses.last()?.1);
        let moved = (last - first).abs() > first.abs() * 1e-3;
        let (word, class) = if last <= first { (w.from_value, "d good") } else { (w.up_from_value, "d") };
        let rewards = ema(&series(&points, "reward"), 0.8);
        let reward = rewards.first().zip(rewards.last()).map(|(first, now)| {
            let (word, class) = if now.1 >= first.1 { (w.up_from_value, "d good") } else { (w.from_value, "d") };
            let detail = fill(word, &[("value", &format::measure(first.1))]);
            tile(w.reward_smoothed, format::measure(now.1), "", detail, class).into_any()
        });
        let validation = series(&points, "eval_loss");
        let best = validation.iter().min_by(|a, b| a.1.total_cmp(&b.1)).copied();
        let validation = validation.last().map(|now| {
            let best = best.map(|b| fill(w.best_step, &[("step", &format::count(b.0 as u64))]));
            tile(w.validation_loss, format::measure(now.1), "", best.unwrap_or_default(), "d").into_any()
        });
        let speed = job
            .progress
            .latest
            .get("tokens_per_s")
            .copied()
            .or_else(|| series(&points, "tokens_per_s").last().map(|p| p.1));
        let pace = points.first().zip(points.last()).filter(|(a, b)| b.step > a.step && b.time > a.time);
        let pace = pace.map(|(a, b)| format::duration((b.time - a.time) / (b.step - a.step) as f64, language));
        let pace = pace.map(|p| fill(w.s_a_step, &[("time", &p)])).unwrap_or_default();
        let speed = speed
            .map(|s| tile(w.speed, format::count(s.max(0.0).round() as u64), w.tokens_per_s, pace, "d").into_any());
        let trainable = job.plan.as_ref().map(|p| {
            let share = format::percent(p.trainable as f64 / p.parameters.max(1) as f64);
            let of = fill(w.share_of, &[("share", &share), ("total", &format::short(p.parameters))]);
            tile(w.trainable, format::short(p.trainable), "", of, "d").into_any()
        });
        let time = (!job.state.is_active()).then(|| seconds(&job)).flatten();
        let time = time.map(|s| tile(w.time, format::duration(s, language), "", String::new(), "d").into_any());
        let loss = tile(
            w.loss_smoothed,
            format::measure(last),
            "",
            if moved { fill(word, &[("value", &format::measure(first))]) } else { String::new() },
            class,
        );
        Some(view! { <div class="tiles">{reward}{loss}{validation}{speed}{trainable}{time}</div> })
    };
    view! { {tiles} }
}

fn tile(key: &'static str, value: String, unit: &'static str, detail: String, class: &'static str) -> impl IntoView {
    view! {
        <div class="tile">
            <div class="k">{key}</div>
            <div class="v">{value}{(!unit.is_empty()).then(|| view! { <small>" "{unit}</small> })}</div>
            <div class=class>{detail}</div>
        </div>
    }
}

#[component]
pub fn SmallCharts(id: String, job: Memo<Option<Job>>) -> impl IntoView {
    let store = store();
    let total = Memo::new(move |_| {
        job.with(|j| j.as_ref().filter(|j| j.state.is_active()).map_or(0.0, |j| j.progress.total as f64))
    });
    let stage = job.with_untracked(|job| job.as_ref().map(metric::stage)).unwrap_or_default();
    // Drawn anew only when a metric comes that no chart has yet.
    let names = {
        let (id, stage) = (id.clone(), stage.clone());
        Memo::new(move |_| {
            let cards = metric::cards(&stage);
            store.metrics.with(|all| all.get(&id).map(|points| names(points, &cards)).unwrap_or_default())
        })
    };
    move || {
        let charts: Vec<_> = names.get().into_iter().zip(COLOURS.into_iter().cycle()).collect();
        let charts = charts.into_iter().map(|(name, colour)| {
            let (title, help) = (metric::title(&stage, &name), metric::help(&stage, &name));
            view! { <Small id=id.clone() title help name colour total /> }
        });
        let charts = charts.collect_view();
        (!charts.is_empty()).then(|| view! { <section class="card"><div class="small-charts">{charts}</div></section> })
    }
}

const COLOURS: [&str; 5] = ["c3", "c4", "c5", "c1", "c2"];

/// Metrics that have a chart of their own, or none.
const ELSEWHERE: [&str; 3] = ["loss", "eval_loss", "epoch"];

/// The metrics of a run that get a small chart: those that are known in their order, a validation's behind that of the
/// training, and then the others.
fn names(points: &[Metric], known: &[MetricCard]) -> Vec<String> {
    let found: BTreeSet<&str> = points.iter().flat_map(|point| point.values.keys().map(String::as_str)).collect();
    let known = known.iter().flat_map(|card| [card.name.clone(), validation_name(&card.name)]);
    let mut names: Vec<String> = known.filter(|name| found.contains(name.as_str())).collect();
    let rest: Vec<&str> = found.into_iter().filter(|name| names.iter().all(|known| known != name)).collect();
    names.extend(rest.into_iter().map(str::to_owned));
    names.retain(|name| !ELSEWHERE.contains(&name.as_str()));
    names
}

#[component]
fn Small(
    id: String,
    title: String,
    help: Option<String>,
    name: String,
    colour: &'static str,
    total: Memo<f64>,
) -> impl IntoView {
    let store = store();
    let node = NodeRef::<html::Div>::new();
    let width = width_of(node);
    let figure = if name.ends_with("tokens_per_s") { format::rate } else { format::measure };
    let testid = format!("metric-{name}");
    let points =
        Memo::new(move |_| store.metrics.with(|all| all.get(&id).map(|m| series(m, &name)).unwrap_or_default()));
    let last = move || points.with(|p| p.last().map(|p| figure(p.1)));
    let drawing =
        move || points.with(|p| small_svg(p, total.get(), width.get().max(160.0), 112.0, colour, ui::words().step));
    view! {
        <div data-testid=testid>
            <h3>{title.clone()} <span>{last}</span></h3>
            {help.map(|help| view! { <p class="xs muted">{help}</p> })}
            <div class="chart" node_ref=node role="img" aria-label=title>
                <svg viewBox=move || format!("0 0 {} 112", width.get().max(160.0))><g inner_html=drawing></g></svg>
            </div>
        </div>
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_but_the_loss_has_a_chart() {
        let point = |names: &[&str]| {
            let values = names.iter().map(|name| ((*name).to_owned(), 1.0)).collect();
            Metric { step: 1, epoch: 0.0, time: 0.0, values }
        };
        let points = [
            point(&["loss", "grad_norm", "rewards/margins", "reward"]),
            point(&["eval_loss", "eval_reward", "learning_rate"]),
        ];
        let known =
            ["reward", "learning_rate", "loss", "grad_norm"].map(|name| MetricCard::new(name, [""; 2], [""; 2]));
        let expected = ["reward", "eval_reward", "learning_rate", "grad_norm", "rewards/margins"];
        assert_eq!(names(&points, &known), expected);
    }
}
