//! Problems with their next step, and what stands where there is nothing yet.

use crate::{parts::icon, ui};
use api::Problem;
use leptos::prelude::*;

/// A problem in the flow of the page: what, number, next step. `warn` for what doesn't stop anything.
#[component]
pub fn ProblemNote(
    problem: Problem,
    #[prop(optional)] warn: bool,
    /// Buttons or links that mend it.
    #[prop(optional)]
    children: Option<Children>,
) -> impl IntoView {
    let language = ui::language().tag();
    let message = problem.message_in(language).to_owned();
    let hint = problem.hint_in(language).to_owned();
    let hint = (!hint.is_empty()).then(|| view! { <span>{hint}</span> });
    let steps = problem.steps.iter().map(|step| view! { <li>{step.get(language).to_owned()}</li> }).collect_view();
    let steps = (!problem.steps.is_empty()).then(|| view! { <ul class="steps">{steps}</ul> });
    view! {
        <div class=if warn { "note warn" } else { "note bad" } role=(!warn).then_some("alert")>
            {icon(if warn { "warn" } else { "bad" }, 18)}
            <b>{message}</b>
            {hint}
            {steps}
            {children.map(|children| view! { <span class="acts">{children()}</span> })}
        </div>
    }
}

/// All problems of an answer, below each other.
pub fn problem_notes(problems: Vec<Problem>) -> impl IntoView {
    problems.into_iter().map(|problem| view! { <ProblemNote problem /> }).collect_view()
}

/// Nothing here yet: what it will hold, and the one way to begin.
#[component]
pub fn Empty(
    symbol: &'static str,
    title: String,
    text: String,
    #[prop(optional)] children: Option<Children>,
) -> impl IntoView {
    view! {
        <div class="empty">
            {icon(symbol, 34)}
            <h3>{title}</h3>
            <p>{text}</p>
            {children.map(|children| children())}
        </div>
    }
}

/// Loading, in the shape of what comes.
pub fn wait(lines: usize) -> impl IntoView {
    let lines: Vec<_> = (0..lines).map(|_| view! { <div class="wait"></div> }).collect();
    view! { <div class="stack waits" aria-busy="true" aria-label=ui::words().loading>{lines}</div> }
}
