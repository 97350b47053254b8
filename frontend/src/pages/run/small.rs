//! The run's figures: tiles above, and small charts of the learning rate, the gradient norm and the speed.

use super::loss::series;
use crate::{
    curve::ema,
    format,
    i18n::fill,
    parts::{
        chart::{small_svg, width_of},
        job::seconds,
    },
    store::store,
    ui,
};
use api::Job;
use leptos::{html, prelude::*};

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
        Some(view! { <div class="tiles">{loss}{validation}{speed}{trainable}{time}</div> })
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
    let w = ui::words();
    let store = store();
    let total = Memo::new(move |_| {
        job.with(|j| j.as_ref().filter(|j| j.state.is_active()).map_or(0.0, |j| j.progress.total as f64))
    });
    let charts = [
        (w.learning_rate, "learning_rate", "c3"),
        (w.grad_norm, "grad_norm", "c4"),
        (w.tokens_each_second, "tokens_per_s", "c5"),
    ];
    let any = {
        let id = id.clone();
        Memo::new(move |_| store.metrics.with(|all| all.get(&id).is_some_and(|m| !m.is_empty())))
    };
    move || {
        let charts = charts.map(|(title, name, colour)| view! { <Small id=id.clone() title name colour total /> });
        any.get().then(|| view! { <section class="card"><div class="small-charts">{charts.into_iter().collect_view()}</div></section> })
    }
}

#[component]
fn Small(id: String, title: &'static str, name: &'static str, colour: &'static str, total: Memo<f64>) -> impl IntoView {
    let store = store();
    let node = NodeRef::<html::Div>::new();
    let width = width_of(node);
    let points =
        Memo::new(move |_| store.metrics.with(|all| all.get(&id).map(|m| series(m, name)).unwrap_or_default()));
    let figure = if name == "tokens_per_s" { format::rate } else { format::measure };
    let last = move || points.with(|p| p.last().map(|p| figure(p.1)));
    let drawing =
        move || points.with(|p| small_svg(p, total.get(), width.get().max(160.0), 112.0, colour, ui::words().step));
    view! {
        <div>
            <h3>{title} <span>{last}</span></h3>
            <div class="chart" node_ref=node role="img" aria-label=title>
                <svg viewBox=move || format!("0 0 {} 112", width.get().max(160.0))><g inner_html=drawing></g></svg>
            </div>
        </div>
    }
}
