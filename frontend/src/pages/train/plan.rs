//! What will happen if one presses Start, or every problem that stands in the way.

use crate::{
    form::train_form,
    format,
    i18n::{Language, fill},
    parts::{Empty, ProblemNote, icon, note::wait},
    store::store,
    ui,
};
use api::{Plan, Problem, plan::Fix};
use leptos::prelude::*;

/// Series colours of the parts of the memory.
const COLOURS: [&str; 5] = ["var(--s5)", "var(--s1)", "var(--s2)", "var(--s3)", "var(--s4)"];

#[component]
pub fn PlanCard(start: Callback<()>, starting: RwSignal<bool>) -> impl IntoView {
    let w = ui::words();
    let form = train_form();
    let problems = form.values.problems;
    let state = move || {
        let n = problems.with(Vec::len);
        if form.checking.get() {
            view! { <span class="badge bare push">{w.checking}</span> }.into_any()
        } else if n == 0 && form.plan.with(|plan| plan.as_ref().is_some_and(|plan| plan.fit.is_some())) {
            view! { <span class="badge warn push">{w.fit_not}</span> }.into_any()
        } else if form.plan.with(Option::is_some) && n == 0 {
            view! { <span class="badge good push">{w.ready}</span> }.into_any()
        } else if n > 0 {
            let text = if n == 1 { w.one_problem.to_owned() } else { fill(w.n_problems, &[("n", &n.to_string())]) };
            view! { <span class="badge bad push">{text}</span> }.into_any()
        } else {
            view! { <span class="badge bare push">{w.not_yet}</span> }.into_any()
        }
    };
    let body = move || match form.plan.get() {
        Some(plan) => facts(plan).into_any(),
        None if problems.with(Vec::is_empty) && form.checking.get() => wait(5).into_any(),
        None if problems.with(Vec::is_empty) => {
            view! { <Empty symbol="train" title=w.not_yet.into() text=w.plan_empty.into() /> }.into_any()
        }
        None => ().into_any(),
    };
    let notes = move || problems.get().into_iter().map(|p| note(p, false)).collect_view();
    let warnings = move || {
        let warnings = form.plan.with(|p| p.as_ref().map(|p| p.warnings.clone())).unwrap_or_default();
        warnings.into_iter().map(|p| note(p, true)).collect_view()
    };
    let ignored = move || {
        let names = form.plan.with(|p| p.as_ref().map(|p| p.ignored.join(", "))).filter(|n| !n.is_empty());
        names.map(|names| view! { <p class="xs muted">{fill(w.ignored_keys, &[("names", &names)])}</p> })
    };
    let basis = move || {
        let basis = form.plan.with(|p| p.as_ref().map(|p| ui::language().of(&p.basis))).filter(|b| !b.is_empty());
        let measured = form.plan.with(|p| p.as_ref().is_none_or(|p| p.measured));
        let measure = (!measured && form.chain.with(Option::is_none)).then(|| {
            view! {
                <button type="button" class="link" data-testid="plan-measure" disabled=form.measuring
                    on:click=move |_| form.measure()>
                    {move || if form.measuring.get() { w.measuring } else { w.measure }}
                </button>
            }
        });
        basis.map(|basis| view! { <p class="xs muted aside" data-testid="plan-basis">{basis}" "{measure}</p> })
    };
    let fit = move || form.plan.with(|p| p.as_ref().and_then(|p| p.fit.clone())).map(fit);
    let blocked = move || problems.with(|p| !p.is_empty()).then(|| view! { <p class="xs muted">{w.start_blocked}</p> });
    view! {
        <section class="card plan" data-testid="plan" aria-live="polite" class:stale=form.checking>
            <div class="card-h flat"><h2>{w.plan}</h2>{state}</div>
            {body}
            {notes}
            {fit}
            {warnings}
            {ignored}
            <div class="stack tight wide-only">
                <StartButton start starting large=true testid="train-start" />
                {blocked}
            </div>
        </section>
        {basis}
    }
}

/// On a phone the button and the sum of the plan stand above the navigation.
#[component]
pub fn Dock(start: Callback<()>, starting: RwSignal<bool>) -> impl IntoView {
    let w = ui::words();
    let language = ui::language();
    let form = train_form();
    let sum = move || {
        let n = form.values.problems.with(Vec::len);
        match form.plan.get() {
            Some(plan) => {
                let memory: u64 = plan.memory.iter().map(|p| p.bytes).sum();
                let time = plan.seconds.map(|s| format::time_left(s, language));
                let first = [time, (memory > 0).then(|| format::bytes(memory))]
                    .into_iter()
                    .flatten()
                    .collect::<Vec<_>>()
                    .join(" · ");
                let steps = fill(w.plan_line, &[("steps", &format::count(plan.steps))]);
                let warnings = plan.warnings.len();
                let warnings = (warnings > 0).then(|| fill(w.warnings_n, &[("n", &warnings.to_string())]));
                (first, [Some(steps), warnings].into_iter().flatten().collect::<Vec<_>>().join(" · "))
            }
            None if n > 0 => {
                let text = if n == 1 { w.one_problem.to_owned() } else { fill(w.n_problems, &[("n", &n.to_string())]) };
                let first = form.values.problems.with(|p| p.first().map(|p| p.message_in(language.tag()).to_owned()));
                (text, first.unwrap_or_default())
            }
            None => (if form.checking.get() { w.checking } else { w.not_yet }.to_owned(), String::new()),
        }
    };
    view! {
        <div class="dock">
            <div class="sum"><b>{move || sum().0}</b><small class="clip">{move || sum().1}</small></div>
            <StartButton start starting large=false testid="train-start-phone" />
        </div>
    }
}

#[component]
fn StartButton(start: Callback<()>, starting: RwSignal<bool>, large: bool, testid: &'static str) -> impl IntoView {
    let w = ui::words();
    let form = train_form();
    let ready = move || form.plan.with(Option::is_some) && form.values.problems.with(Vec::is_empty) && !starting.get();
    view! {
        <button type="button" class="btn primary" class:l=large class:block=large data-testid=testid
            disabled=move || !ready() on:click=move |_| start.run(())>
            {icon("play", 18)}{move || if starting.get() { w.starting } else { w.start }}
            {large.then(|| view! { <kbd>"Ctrl ↵"</kbd> })}
        </button>
    }
}

fn note(problem: Problem, warn: bool) -> impl IntoView {
    let w = ui::words();
    let form = train_form();
    let field = problem.field.clone();
    let show = field.map(|field| {
        let key = field.clone();
        view! {
            <button type="button" class="link" on:click=move |_| form.show(&key)>{w.show_field}</button>
            <code class="xs">{field}</code>
        }
    });
    match show {
        Some(show) => view! { <ProblemNote problem warn>{show}</ProblemNote> }.into_any(),
        None => view! { <ProblemNote problem warn /> }.into_any(),
    }
}

/// What makes a run fit that doesn't, for one click.
fn fit(fix: Fix) -> impl IntoView {
    let w = ui::words();
    let form = train_form();
    let (settings, memory, disk) = (fix.settings(), format::bytes(fix.memory), format::bytes(fix.disk));
    let text = fill(w.fit_text, &[("settings", &settings), ("memory", &memory), ("disk", &disk)]);
    view! {
        <div class="note warn" data-testid="plan-short">
            {icon("warn", 18)}
            <b>{w.fit_title}</b>
            <span>{text}</span>
            <span class="acts">
                <button type="button" class="btn" data-testid="plan-fit" on:click=move |_| form.take_up(&fix)>
                    {w.fit_apply}
                </button>
            </span>
        </div>
    }
}

/// Two big figures, the parts of the memory, and the facts.
pub fn facts(plan: Plan) -> impl IntoView {
    let w = ui::words();
    let language = ui::language();
    let time = match plan.seconds {
        Some(seconds) => figures(seconds, language).into_any(),
        None => view! { <small>{w.time_unknown}</small> }.into_any(),
    };
    let memory: u64 = plan.memory.iter().map(|p| p.bytes).sum();
    let (amount, unit) = format::bytes_parts(memory);
    let total = store().system.with(|s| s.as_ref().map(|s| s.memory_total)).filter(|t| *t > 0);
    let of = total.map(|t| fill(w.of_total, &[("total", &format::bytes(t))])).unwrap_or_default();
    let share = |bytes: u64| bytes as f64 / memory.max(1) as f64;
    let parts = plan.memory.iter().enumerate().map(|(i, p)| {
        view! { <i style=("--w", format!("{:.2}%", share(p.bytes) * 100.0)) style=("--c", COLOURS[i % 5])></i> }
    });
    let legend = plan.memory.iter().enumerate().filter(|(_, p)| p.bytes > 0).map(|(i, p)| {
        view! { <span><i style=("--c", COLOURS[i % 5])></i>{format!("{} {}", language.of(&p.name), format::bytes(p.bytes))}</span> }
    });
    let trained = (plan.tokens > 0).then(|| {
        fill(w.share_trained, &[("share", &format::percent(plan.trained_tokens as f64 / plan.tokens as f64))])
    });
    let samples = [
        (plan.eval_samples > 0).then(|| fill(w.held_back, &[("n", &format::count(plan.eval_samples))])),
        (plan.truncated > 0).then(|| fill(w.cut_rows, &[("n", &format::count(plan.truncated))])),
        (plan.skipped > 0).then(|| fill(w.left_out, &[("n", &format::count(plan.skipped))])),
    ];
    let samples = samples.into_iter().flatten().map(|line| view! { <small>{line}</small> }).collect_view();
    let epochs = fill(
        w.epochs_times,
        &[
            ("epochs", &format::number((plan.epochs * 100.0).round() / 100.0)),
            ("steps", &format::count(plan.steps_per_epoch)),
        ],
    );
    let of_model = fill(
        w.share_of,
        &[
            ("share", &format::percent(plan.trainable as f64 / plan.parameters.max(1) as f64)),
            ("total", &format::short(plan.parameters)),
        ],
    );
    let device = [plan.device.clone(), plan.compute.clone()]
        .into_iter()
        .filter(|s| !s.is_empty())
        .collect::<Vec<_>>()
        .join(" · ");
    view! {
        <div class="big">
            <div><div class="k">{w.time}</div><div class="v">{time}</div></div>
            <div><div class="k">{w.memory}</div><div class="v">{amount}<small>" "{unit}</small></div><div class="k">{of}</div></div>
        </div>
        <div class="stack tight">
            <div class="parts" aria-hidden="true">{parts.collect_view()}</div>
            <div class="legend">{legend.collect_view()}</div>
        </div>
        <dl class="facts">
            <div><dt>{w.samples}</dt><dd>{format::count(plan.samples)}{samples}</dd></div>
            <div><dt>{w.tokens}</dt><dd>{format::count(plan.tokens)}{trained.map(|t| view! { <small>{t}</small> })}</dd></div>
            <div><dt>{w.steps}</dt><dd><span data-testid="plan-steps">{format::count(plan.steps)}</span><small>{epochs}</small></dd></div>
            <div><dt>{w.trainable}</dt><dd>{format::count(plan.trainable)}<small>{of_model}</small></dd></div>
            <div><dt>{w.disk}</dt><dd>{format::bytes(plan.disk)}</dd></div>
            <div><dt>{w.device}</dt><dd>{device}</dd></div>
        </dl>
    }
}

/// `3 min 30 s` with small units.
pub fn figures(seconds: f64, language: Language) -> impl IntoView {
    let rounded = if seconds < 600.0 { seconds } else { (seconds / 60.0).round() * 60.0 };
    format::parts(rounded, language)
        .into_iter()
        .map(|(n, unit)| view! { {n}<small>{format!(" {unit} ")}</small> })
        .collect_view()
}
