//! The loss: raw thin, smoothed thick, validation as circles, with a readout by pointer or arrow keys.

use crate::{
    curve::{Point, ema, nearest},
    format,
    i18n::fill,
    parts::{
        Empty,
        chart::{Frame, LossCurve, loss_svg, width_of},
    },
    store::store,
    ui,
};
use api::{Job, job::Metric};
use leptos::{html, prelude::*};

/// Rows of the table behind the chart at most.
const ROWS: usize = 500;

/// Values of one metric by step.
pub fn series(points: &[Metric], name: &str) -> Vec<Point> {
    points.iter().filter_map(|m| m.values.get(name).map(|v| (m.step as f64, *v))).collect()
}

#[component]
pub fn LossCard(id: String, job: Memo<Option<Job>>) -> impl IntoView {
    let w = ui::words();
    let store = store();
    let beta = RwSignal::new(0.8);
    let log = RwSignal::new(false);
    // The step under the pointer.
    let at = RwSignal::new(None::<f64>);
    let node = NodeRef::<html::Div>::new();
    let width = width_of(node);
    let raw = {
        let id = id.clone();
        Memo::new(move |_| store.metrics.with(|all| all.get(&id).map(|m| series(m, "loss")).unwrap_or_default()))
    };
    let validation = {
        let id = id.clone();
        Memo::new(move |_| store.metrics.with(|all| all.get(&id).map(|m| series(m, "eval_loss")).unwrap_or_default()))
    };
    let total = Memo::new(move |_| {
        job.with(|job| {
            let active = job.as_ref().is_some_and(|j| j.state.is_active());
            job.as_ref().filter(|_| active).map_or(0.0, |j| j.progress.total as f64)
        })
    });
    let per_epoch = Memo::new(move |_| {
        job.with(|j| j.as_ref().and_then(|j| j.plan.as_ref().map(|p| (p.steps_per_epoch, p.epochs))))
    });
    let curve = Memo::new(move |_| {
        let raw = raw.get();
        let epochs = per_epoch.get().map(|(steps, epochs)| {
            let whole = if steps > 0 { epochs.ceil().min(50.0) as u64 } else { 0 };
            (1..whole).map(|e| ((e * steps) as f64, e + 1)).collect()
        });
        LossCurve {
            smooth: ema(&raw, beta.get()),
            raw,
            validation: validation.get(),
            total: total.get(),
            epochs: epochs.unwrap_or_default(),
        }
    });
    let frame = Memo::new(move |_| {
        let width = width.get().max(240.0);
        curve.with(|c| c.frame(width, if width < 480.0 { 230.0 } else { 300.0 }, log.get()))
    });
    let drawing = move || curve.with(|c| loss_svg(c, &frame.get(), w.step, w.epoch_n));
    let shown = Memo::new(move |_| {
        let at = at.get()?;
        curve.with(|c| nearest(&c.raw, at).map(|i| (c.raw[i], c.smooth[i].1)))
    });
    let point = move |e: leptos::ev::PointerEvent| {
        let Some(node) = node.get_untracked() else { return };
        let x = f64::from(e.client_x()) - node.get_bounding_client_rect().left();
        at.set(Some(frame.get_untracked().step_at(x)));
    };
    let key = move |e: leptos::ev::KeyboardEvent| {
        let by = match e.key().as_str() {
            "ArrowLeft" => -1i64,
            "ArrowRight" => 1,
            "PageUp" => -10,
            "PageDown" => 10,
            "Escape" => {
                at.set(None);
                return;
            }
            _ => return,
        };
        e.prevent_default();
        curve.with_untracked(|c| {
            let last = c.raw.len().saturating_sub(1) as i64;
            let now = at.get_untracked().and_then(|x| nearest(&c.raw, x)).map_or(last, |i| i as i64);
            if let Some(p) = c.raw.get((now + by).clamp(0, last.max(0)) as usize) {
                at.set(Some(p.0));
            }
        });
    };
    let readout = {
        let id = id.clone();
        move || {
            let ((step, raw), smooth) = shown.get()?;
            let frame = frame.get();
            let metric = store.metrics.with(|all| {
                all.get(&id)
                    .and_then(|m| m.iter().find(|m| m.step as f64 == step && m.values.contains_key("loss")).cloned())
            });
            let evaluated = curve.with(|c| c.validation.iter().find(|p| p.0 == step).map(|p| p.1));
            Some(view! { <Readout frame step raw smooth metric evaluated /> })
        }
    };
    let hair = move || {
        shown.get().map(|((step, _), smooth)| {
            let f = frame.get();
            view! {
                <line class="hair" x1=f.px(step) x2=f.px(step) y1="8" y2=f.height - 26.0 />
                <circle class="at" cx=f.px(step) cy=f.py(smooth) r="3.5" />
            }
        })
    };
    let empty = Memo::new(move |_| raw.with(Vec::is_empty));
    let view_box = move || frame.with(|f| format!("0 0 {} {}", f.width, f.height));
    view! {
        <section class="card" aria-labelledby="loss-h" data-testid="loss-chart">
            <div class="chart-bar">
                <h2 id="loss-h">{w.loss}</h2>
                <div class="legend">
                    <span><i class="thin k1"></i>{w.each_step}</span><span><i class="line k1"></i>{w.smoothed}</span>
                    {move || (!validation.with(Vec::is_empty)).then(|| view! { <span><i class="dot k2"></i>{w.validation}</span> })}
                </div>
                <div class="row push">
                    <label class="row smoothing" for="smoothing">{w.smoothing}
                        <span class="slide">
                            <input id="smoothing" type="range" min="0" max="0.99" step="0.01" prop:value=move || beta.get().to_string()
                                style=("--v", move || format!("{:.0}%", beta.get() / 0.99 * 100.0))
                                on:input=move |e| if let Ok(value) = event_target_value(&e).parse() { beta.set(value) } />
                            <output class="num">{move || format::number(beta.get())}</output>
                        </span>
                    </label>
                    <div class="seg s" role="radiogroup" aria-label=w.scale>
                        <label><input type="radio" name="scale" prop:checked=move || !log.get() on:change=move |_| log.set(false) />{w.linear}</label>
                        <label><input type="radio" name="scale" prop:checked=log on:change=move |_| log.set(true) />{w.logarithmic}</label>
                    </div>
                </div>
            </div>
            <div class="chart" node_ref=node tabindex="0" role="img" aria-label=w.chart_help class:vh=empty
                on:pointermove=point on:pointerdown=point on:pointerleave=move |_| at.set(None) on:keydown=key on:blur=move |_| at.set(None)>
                <svg viewBox=view_box data-testid="loss-svg">
                    <g inner_html=drawing></g>
                    {hair}
                </svg>
                {readout}
            </div>
            {move || empty.get().then(|| view! { <Empty symbol="train" title=w.loss.into() text=w.no_points.into() /> })}
            {move || (!empty.get()).then(|| view! { <Table curve /> })}
        </section>
    }
}

#[component]
fn Readout(
    frame: Frame,
    step: f64,
    raw: f64,
    smooth: f64,
    metric: Option<Metric>,
    evaluated: Option<f64>,
) -> impl IntoView {
    let w = ui::words();
    let x = frame.px(step);
    let left = if x > frame.width * 0.6 { (x - 176.0).max(0.0) } else { x + 14.0 };
    let rate = metric.as_ref().and_then(|m| m.values.get("learning_rate").copied());
    let epoch = metric.map(|m| format!("{} {:.2}", w.epoch, m.epoch));
    view! {
        <div class="tip" style:left=format!("{left:.0}px") style:top="16px">
            <div><span>{format!("{} {}", w.step, format::count(step as u64))}</span><span>{epoch}</span></div>
            <div><span><span class="swatch k1"></span>{w.smoothed}</span><b>{format::measure(smooth)}</b></div>
            <div><span>{w.raw}</span><b>{format::measure(raw)}</b></div>
            {evaluated.map(|v| view! { <div><span><span class="swatch k2"></span>{w.validation}</span><b>{format::measure(v)}</b></div> })}
            {rate.map(|v| view! { <div><span>{w.learning_rate}</span><b>{format::measure(v)}</b></div> })}
        </div>
    }
}

/// The same figures as a table, for eyes and readers that want them.
#[component]
fn Table(curve: Memo<LossCurve>) -> impl IntoView {
    let w = ui::words();
    let open = RwSignal::new(false);
    let rows = move || {
        curve.with(|c| {
            let every = c.raw.len().div_ceil(ROWS).max(1);
            let row = |i: usize| {
                let (step, raw) = c.raw[i];
                let validation = c.validation.iter().find(|p| p.0 == step).map(|p| format::measure(p.1));
                view! {
                    <tr>
                        <td class="num">{format::count(step as u64)}</td><td class="num">{format::measure(raw)}</td>
                        <td class="num">{format::measure(c.smooth[i].1)}</td><td class="num">{validation}</td>
                    </tr>
                }
            };
            (0..c.raw.len()).filter(|i| i % every == 0 || i + 1 == c.raw.len()).map(row).collect_view()
        })
    };
    let body = move || {
        open.get().then(|| {
            view! {
                <div class="scroll tall">
                    <table class="table tight">
                        <thead><tr><th class="num">{w.step}</th><th class="num">{w.raw}</th><th class="num">{w.smoothed}</th><th class="num">{w.validation}</th></tr></thead>
                        <tbody>{rows}</tbody>
                    </table>
                </div>
            }
        })
    };
    let total = move || fill(w.all_steps, &[("n", &format::count(curve.with(|c| c.raw.len()) as u64))]);
    view! {
        <button type="button" class="link s mt" aria-expanded=move || open.get().to_string() on:click=move |_| open.update(|o| *o = !*o)>{w.show_table}</button>
        {move || open.get().then(|| view! { <span class="xs muted">" "{total}</span> })}
        {body}
    }
}
