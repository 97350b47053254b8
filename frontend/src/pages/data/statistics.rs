//! What a dataset holds, counted with the model and the settings of Train: lengths, trained share, what stands out and what
//! mends it.

use super::{
    histogram,
    opened::{Opened, Part, opened},
};
use crate::{
    client, format,
    i18n::{Words, fill},
    parts::{Empty, chart::width_of, icon, job::Bar, note::problem_notes},
    ui,
};
use api::{
    Problem,
    data::{Edit, Finding, Flaw, Statistics},
    routes,
};
use leptos::{html, prelude::*, task::spawn_local};

/// Rows of a finding that are linked.
const LINKED: usize = 8;
/// Languages that are named.
const LANGUAGES: usize = 4;

/// Counted when it is opened, since that takes seconds, and again after each change.
#[component]
pub fn StatisticsPart() -> impl IntoView {
    let w = ui::words();
    let opened = opened();
    let (found, problems) = (RwSignal::new(None::<Statistics>), RwSignal::new(Vec::<Problem>::new()));
    Effect::new(move || {
        let version = opened.version.get();
        if !opened.has_model() {
            return;
        }
        found.set(None);
        problems.set(Vec::new());
        let config = opened.config();
        spawn_local(async move {
            let answer = client::post::<_, Statistics>(&opened.path(routes::DATASET_STATISTICS), &config).await;
            if opened.version.try_get_untracked() != Some(version) {
                return;
            }
            match answer {
                Ok(statistics) => found.try_set(Some(statistics)).map(drop),
                Err(wrong) => problems.try_set(wrong).map(drop),
            };
        });
    });
    let body = move || {
        if !opened.has_model() {
            return no_model(w).into_any();
        }
        match found.get() {
            Some(statistics) => results(statistics, opened, w).into_any(),
            None if problems.with(Vec::is_empty) => {
                let by = fill(w.as_model_reads, &[("model", &opened.model())]);
                let text = view! { <b>{w.counting}</b><span>{by}</span> };
                view! { <Bar share=Signal::stored(None) label=w.counting>{text}</Bar> }.into_any()
            }
            None => problem_notes(problems.get()).into_any(),
        }
    };
    view! { <div class="stack pad" data-testid="statistics">{body}</div> }
}

/// Tokens need a model; there is none in the form of Train.
pub fn no_model(w: &'static Words) -> impl IntoView {
    view! {
        <Empty symbol="train" title=w.no_model_chosen.into() text=w.no_model_chosen_help.into()>
            <a class="btn" href="/train">{w.train}</a>
        </Empty>
    }
}

fn results(found: Statistics, opened: Opened, w: &'static Words) -> impl IntoView {
    let findings = match found.findings.is_empty() {
        true => view! { <p class="note good" data-testid="no-findings">{icon("check", 18)}<b>{w.nothing_stands_out}</b></p> }.into_any(),
        false => found.findings.iter().map(|f| finding(f, opened, w)).collect_view().into_any(),
    };
    let by = fill(w.as_model_reads, &[("model", &opened.model())]);
    let partly = (!found.complete).then(|| {
        let badge = fill(w.first_rows_only, &[("n", &format::count(found.rows))]);
        view! { <span class="badge warn">{badge}</span> <span class="s muted">{w.fix_reaches_all}</span> }
    });
    view! {
        <div class="row"><span class="s muted">{by}</span>{partly}</div>
        <section class="stack tight"><h3>{w.findings}</h3>{findings}</section>
        <div class="cols2">
            <section><h3>{w.lengths} " " <span class="sub muted s">{w.tokens_a_row}</span></h3><Lengths found=found.clone() /></section>
            <section><h3>{w.at_a_glance}</h3>{glance(&found, w)}</section>
        </div>
    }
}

#[component]
fn Lengths(found: Statistics) -> impl IntoView {
    let w = ui::words();
    let node = NodeRef::<html::Div>::new();
    let width = width_of(node);
    let over: u64 = found.findings.iter().filter(|f| f.flaw == Flaw::Truncated).map(|f| f.rows).sum();
    let slots = [("n", format::count(over)), ("cutoff", format::count(found.cutoff_len))];
    let slots = slots.each_ref().map(|(name, value)| (*name, value.as_str()));
    let said = fill(if over == 0 { w.none_longer } else { w.some_longer }, &slots);
    let table = found.lengths.iter().filter(|bar| bar.rows > 0).map(|bar| {
        let range = format!("{} – {}", format::count(bar.from), format::count(bar.to.saturating_sub(1)));
        view! { <tr><td class="num">{range}</td><td class="num">{format::count(bar.rows)}</td></tr> }
    });
    let table = table.collect_view();
    let drawn = move || {
        let svg = histogram::svg(&found.lengths, found.cutoff_len, "cutoff_len", width.get().max(200.0), 170.0);
        view! { <svg height="170" viewBox=format!("0 0 {} 170", width.get().max(200.0)) role="img" aria-label=w.lengths inner_html=svg data-testid="histogram"></svg> }
    };
    view! {
        <div class="chart" node_ref=node>{drawn}</div>
        <p class="s muted">{said}</p>
        <details class="more"><summary>{w.show_table}</summary><div class="scroll tall"><table class="table tight">
            <thead><tr><th class="num">{w.tokens}</th><th class="num">{w.rows}</th></tr></thead><tbody>{table}</tbody>
        </table></div></details>
    }
}

fn glance(found: &Statistics, w: &'static Words) -> impl IntoView + use<> {
    let share = found.trained as f64 / found.tokens.max(1) as f64;
    let trained = fill(w.share_trained, &[("share", &format::percent(share))]);
    let languages: Vec<_> = found
        .languages
        .iter()
        .take(LANGUAGES)
        .map(|(tag, rows)| {
            format!("{} {}", language_word(tag, w), format::percent(*rows as f64 / found.rows.max(1) as f64))
        })
        .collect();
    let fact = |name: &'static str, value: String, small: Option<String>| {
        view! { <div><dt>{name}</dt><dd>{value}{small.map(|text| view! { <small>{text}</small> })}</dd></div> }
    };
    view! {
        <dl class="facts" data-testid="glance">
            {fact(w.rows, format::count(found.rows), None)}
            {fact(w.tokens, format::count(found.tokens), Some(trained))}
            {fact(w.median_length, format::count(found.median), None)}
            {fact(w.longest_length, format::count(found.longest), None)}
            {fact(w.language, languages.join(", "), None)}
        </dl>
    }
}

fn language_word<'a>(tag: &'a str, w: &'static Words) -> &'a str {
    match tag {
        "en" => w.lang_en,
        "zh" => w.lang_zh,
        "ja" => w.lang_ja,
        "ko" => w.lang_ko,
        "code" => w.lang_code,
        "other" => w.lang_other,
        tag => tag,
    }
}

/// What stands out, with its rows and what mends it.
fn finding(finding: &Finding, opened: Opened, w: &'static Words) -> impl IntoView + use<> {
    let (flaw, rows) = (finding.flaw, finding.rows);
    let title = fill(flaw_words(flaw, w), &[("n", &format::count(rows))]);
    let said = finding.problem.as_ref().map(|problem| problem.message_in(ui::language().tag()).to_owned());
    let links = finding.first.iter().take(LINKED).map(|row| row_link(flaw, *row, opened)).collect_view();
    let rest = (rows > finding.first.len().min(LINKED) as u64).then_some("…");
    let fixes = fixes(flaw, w).into_iter().map(|(name, word, edit)| {
        view! {
            <button type="button" class="btn s" data-testid=format!("fix-{name}") disabled=opened.busy
                on:click=move |_| opened.change(edit.clone())>{word}</button>
        }
    });
    let fixes = match opened.info.with_untracked(|info| info.as_ref().is_some_and(|d| d.editable)) {
        true => fixes.collect_view().into_any(),
        false => view! { <span class="s muted">{w.not_editable}</span> }.into_any(),
    };
    view! {
        <div class=if flaw == Flaw::Faulty { "note bad" } else { "note warn" } data-testid=format!("finding-{}", flaw_name(flaw))>
            {icon(if flaw == Flaw::Faulty { "bad" } else { "warn" }, 18)}
            <b>{title}</b>
            <span>{said}</span>
            <span class="rowlinks num">{w.row} " " {links} {rest}</span>
            <span class="acts">{fixes}</span>
        </div>
    }
}

/// Leads to the row: its tokens where they are what is odd about it.
fn row_link(flaw: Flaw, row: u64, opened: Opened) -> impl IntoView {
    let part = if matches!(flaw, Flaw::Truncated | Flaw::AllMasked) { Part::Tokens } else { Part::Rows };
    let go = move |_| {
        opened.faulty.set(false);
        opened.go(part, Some(row));
    };
    view! { <button type="button" class="link" on:click=go>{format::count(row + 1)}</button> " " }
}

fn flaw_words(flaw: Flaw, w: &'static Words) -> &'static str {
    match flaw {
        Flaw::Faulty => w.flaw_faulty,
        Flaw::Duplicate => w.flaw_duplicate,
        Flaw::EmptyAnswer => w.flaw_empty,
        Flaw::AllMasked => w.flaw_masked,
        Flaw::Truncated => w.flaw_truncated,
    }
}

fn flaw_name(flaw: Flaw) -> &'static str {
    match flaw {
        Flaw::Faulty => "faulty",
        Flaw::Duplicate => "duplicate",
        Flaw::EmptyAnswer => "empty",
        Flaw::AllMasked => "masked",
        Flaw::Truncated => "truncated",
    }
}

fn fixes(flaw: Flaw, w: &'static Words) -> Vec<(&'static str, &'static str, Edit)> {
    let drop = |word| (flaw_name(flaw), word, Edit::Drop { flaw });
    match flaw {
        Flaw::Truncated => {
            vec![("split", w.fix_split, Edit::Split), ("truncate", w.fix_truncate, Edit::Truncate), drop(w.fix_drop)]
        }
        Flaw::Duplicate => vec![drop(w.fix_keep_one)],
        _ => vec![drop(w.fix_drop)],
    }
}
