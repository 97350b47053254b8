//! The rollout inspector: what the policy sampled at a step, what each sample got for it, and how far the policy moved.

use crate::{
    client, format,
    i18n::fill,
    parts::{ProblemNote, icon, metric},
    store::store,
    ui,
};
use api::{
    Job, Problem,
    rollout::{Rollout, Sample},
    routes,
};
use gloo_timers::future::TimeoutFuture;
use leptos::{prelude::*, task::spawn_local};

/// Stages that learn from what they sample.
const GENERATING: [&str; 2] = ["ppo", "grpo"];
/// A run that makes many steps a second is looked at less often.
const PAUSE_MS: u32 = 500;

/// Whether a run has rollouts.
pub fn samples(job: &Job) -> bool {
    job.config.text("stage").is_some_and(|stage| GENERATING.contains(&stage))
}

#[component]
pub fn Rollouts(id: String, stage: String) -> impl IntoView {
    let w = ui::words();
    let store = store();
    // The step that is looked at; nothing follows the newest.
    let wanted = RwSignal::new(None::<u64>);
    let shown = RwSignal::new(None::<Vec<Rollout>>);
    let problems = RwSignal::new(Vec::<Problem>::new());
    let turn = RwSignal::new(0u64);
    let steps = {
        let id = id.clone();
        let sampled = |m: &&api::job::Metric| m.values.contains_key("reward");
        Memo::new(move |_| {
            let steps = |all: &Vec<api::job::Metric>| all.iter().filter(sampled).map(|m| m.step).collect::<Vec<_>>();
            store.metrics.with(|all| all.get(&id).map(steps)).unwrap_or_default()
        })
    };
    let newest = Memo::new(move |_| steps.with(|steps| steps.last().copied()));
    let route = routes::fill(routes::JOB_ROLLOUTS, &id);
    Effect::new(move || {
        let step = wanted.get();
        if step.is_none() {
            newest.track();
        }
        let now = turn.get_untracked() + 1;
        turn.set(now);
        let path = step.map_or(route.clone(), |step| format!("{route}?step={step}"));
        spawn_local(async move {
            TimeoutFuture::new(if step.is_none() { PAUSE_MS } else { 0 }).await;
            if turn.try_get_untracked() != Some(now) {
                return;
            }
            let reply = client::get::<Vec<Rollout>>(&path).await;
            if turn.try_get_untracked() != Some(now) {
                return;
            }
            match reply {
                Ok(found) => {
                    problems.set(Vec::new());
                    shown.set(Some(found));
                }
                Err(found) => problems.set(found),
            }
        });
    });
    let at = Memo::new(move |_| {
        let first = shown.with(|all| all.as_ref().and_then(|all| all.first().map(|rollout| rollout.step)));
        wanted.get().or(first)
    });
    let before = move || steps.with(|all| all.iter().rev().find(|step| Some(**step) < at.get()).copied());
    let after = move || steps.with(|all| all.iter().find(|step| at.get().is_some_and(|at| **step > at)).copied());
    let go = move |to: Option<u64>| {
        if to.is_some() {
            wanted.set(to);
        }
    };
    let body = move || {
        let found = problems.get();
        if !found.is_empty() {
            let notes = found.into_iter().map(|problem| view! { <ProblemNote problem warn=true /> }).collect_view();
            return view! { <div class="pad">{notes}</div> }.into_any();
        }
        let all = shown.get().unwrap_or_default();
        if all.is_empty() {
            return view! { <p class="pad s muted">{w.rollouts_none}</p> }.into_any();
        }
        let facts = figures(&all);
        view! { <div class="pad"><div class="big">{facts}</div></div> {all.into_iter().map(|one| rollout(one, &stage)).collect_view()} }
            .into_any()
    };
    view! {
        <section class="card flush" data-testid="rollouts">
            <div class="card-h">
                <h2>{w.rollouts}</h2>
                <span class="sub num" data-testid="rollouts-step">{move || at.get().map(|step| fill(w.step_checkpoint, &[("step", &format::count(step))]))}</span>
                <div class="row push">
                    <button type="button" class="btn s" data-testid="rollouts-before" disabled=move || before().is_none() on:click=move |_| go(before())>{w.rollouts_before}</button>
                    <button type="button" class="btn s" data-testid="rollouts-after" disabled=move || after().is_none() on:click=move |_| go(after())>{w.rollouts_after}</button>
                    <button type="button" class="btn quiet s" disabled=move || wanted.with(Option::is_none) on:click=move |_| wanted.set(None)>{icon("down", 16)}{w.rollouts_newest}</button>
                </div>
            </div>
            {body}
        </section>
    }
}

/// Means over all samples of the step.
fn figures(all: &[Rollout]) -> impl IntoView + use<> {
    let w = ui::words();
    let samples: Vec<&Sample> = all.iter().flat_map(|rollout| &rollout.samples).collect();
    let mean = |of: fn(&Sample) -> f64| samples.iter().map(|s| of(s)).sum::<f64>() / samples.len().max(1) as f64;
    let figure =
        |key: &'static str, value: String| view! { <div><div class="k">{key}</div><div class="v">{value}</div></div> };
    [
        figure(w.reward, format::measure(mean(|s| s.reward))),
        figure(w.kl, format::measure(mean(|s| s.kl))),
        figure(w.entropy, format::measure(mean(|s| s.entropy))),
        figure(w.clipped_share, format::percent(mean(|s| s.clipped))),
    ]
    .into_iter()
    .collect_view()
}

fn rollout(rollout: Rollout, stage: &str) -> impl IntoView + use<> {
    let w = ui::words();
    let reference = rollout.reference.map(|text| {
        view! { <p class="s"><b>{w.rollout_reference}</b>" "<span class="plain">{text}</span></p> }
    });
    let rows = rollout.samples.into_iter().map(|sample| {
        let part = |(name, value): (&String, &f64)| {
            let title = metric::title(stage, &format!("reward_{name}"));
            view! { <small class="muted">{format!("{title} {}", format::measure(*value))}</small> }
        };
        let parts = sample.rewards.iter().map(part).collect_view();
        let length = fill(w.tokens_n, &[("n", &format::count(sample.tokens))]);
        let cut = (!sample.whole).then(|| format!(" · {}", w.cut_length));
        view! {
            <tr>
                <td class="full" data-l=w.rollout_sample><div class="plain lines">{sample.text}</div><small class="muted">{length}{cut}</small></td>
                <td class="num" data-l=w.reward><b>{format::measure(sample.reward)}</b>{parts}</td>
                <td class="num" data-l=w.advantage>{format::measure(sample.advantage)}</td>
                <td class="num" data-l=w.clipped_share>{format::percent(sample.clipped)}</td>
                <td class="num" data-l=w.kl>{format::measure(sample.kl)}</td>
                <td class="num" data-l=w.entropy>{format::measure(sample.entropy)}</td>
            </tr>
        }
    });
    view! {
        <div class="rollout">
            <div><span class="xs muted">{w.pref_prompt}</span><p class="plain prompt s">{rollout.prompt}</p></div>
            {reference}
            <div class="scroll"><table class="table stacked tight">
                <thead><tr><th>{w.rollout_sample}</th><th class="num">{w.reward}</th><th class="num">{w.advantage}</th>
                    <th class="num">{w.clipped_share}</th><th class="num">{w.kl}</th><th class="num">{w.entropy}</th></tr></thead>
                <tbody>{rows.collect_view()}</tbody>
            </table></div>
        </div>
    }
}
