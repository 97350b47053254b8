//! A row as the trainer reads it: its tokens, which of them are trained, and where it is cut.

use super::{
    opened::{Part, opened},
    statistics::no_model,
};
use crate::{
    client, format,
    i18n::{Words, fill},
    parts::note::{problem_notes, wait},
    ui,
};
use api::{
    Problem,
    data::{Token, TokenPreview, TokensWanted},
    routes,
};
use leptos::{ev::KeyboardEvent, prelude::*, task::spawn_local};
use wasm_bindgen::JsCast;

/// Tokens that are drawn at once; a longer row is opened bit by bit.
const DRAWN: usize = 3_000;

#[component]
pub fn Tokens() -> impl IntoView {
    let w = ui::words();
    let opened = opened();
    let row = Memo::new(move |_| opened.row.get().unwrap_or(0).min(opened.rows().saturating_sub(1)));
    let (preview, problems) = (RwSignal::new(None::<TokenPreview>), RwSignal::new(Vec::<Problem>::new()));
    Effect::new(move || {
        let wanted = row.get();
        opened.version.track();
        if !opened.has_model() {
            return;
        }
        let body = TokensWanted { row: wanted, config: opened.config() };
        spawn_local(async move {
            let found = client::post::<_, TokenPreview>(&opened.path(routes::DATASET_TOKENS), &body).await;
            if row.try_get_untracked() != Some(wanted) {
                return;
            }
            let (found, wrong) = match found {
                Ok(found) => (Some(found), Vec::new()),
                Err(wrong) => (None, wrong),
            };
            preview.set(found);
            problems.set(wrong);
        });
    });
    let body = move || {
        if !opened.has_model() {
            return no_model(w).into_any();
        }
        match preview.get() {
            Some(preview) => view! { <Preview preview /> }.into_any(),
            None if problems.with(Vec::is_empty) => wait(5).into_any(),
            None => problem_notes(problems.get()).into_any(),
        }
    };
    let read_by = move || opened.has_model().then(|| fill(w.as_model_reads, &[("model", &opened.model())]));
    view! {
        <div class="stack pad" data-testid="token-preview">
            <div class="row"><span class="s muted grow">{read_by}</span><RowChoice row /></div>
            {body}
        </div>
    }
}

/// Which row: the one before, by number, the next one.
#[component]
fn RowChoice(row: Memo<u64>) -> impl IntoView {
    let w = ui::words();
    let opened = opened();
    let go = move |row: u64| opened.go(Part::Tokens, Some(row));
    let typed = move |e| {
        if let Ok(number) = event_target_value(&e).trim().parse::<u64>() {
            go(number.clamp(1, opened.rows().max(1)) - 1);
        }
    };
    let total = move || fill(w.of_total, &[("total", &format::count(opened.rows()))]);
    view! {
        <div class="row nowrap rowpick">
            <button type="button" class="btn icon s" aria-label=w.row_before disabled=move || row.get() == 0
                on:click=move |_| go(row.get_untracked().saturating_sub(1))>"‹"</button>
            <div class="input find number"><input inputmode="numeric" aria-label=w.row data-testid="token-row"
                prop:value=move || (row.get() + 1).to_string() on:change=typed /></div>
            <span class="s muted num">{total}</span>
            <button type="button" class="btn icon s" aria-label=w.row_after data-testid="token-row-next"
                disabled=move || { row.get() + 1 >= opened.rows() } on:click=move |_| go(row.get_untracked() + 1)>"›"</button>
        </div>
    }
}

#[component]
fn Preview(preview: TokenPreview) -> impl IntoView {
    let w = ui::words();
    let ids = RwSignal::new(false);
    let (at, drawn) = (RwSignal::new(None::<usize>), RwSignal::new(DRAWN));
    let total = preview.tokens.len();
    let cut = (total as u64).saturating_sub(preview.kept);
    let trained_share = format::percent(preview.trained as f64 / preview.kept.max(1) as f64);
    let counts = fill(
        w.token_counts,
        &[
            ("kept", &format::count(preview.kept)),
            ("trained", &format::count(preview.trained)),
            ("share", &trained_share),
            ("cut", &format::count(cut)),
        ],
    );
    let template = match preview.template.as_str() {
        "model" => w.template_own.to_owned(),
        name => name.to_owned(),
    };
    let cutoff = fill(w.cut_at, &[("n", &format::count(preview.cutoff_len))]);
    let short: String = preview.sha256.chars().take(12).collect();
    let hash = preview.sha256.clone();
    let preview = StoredValue::new(preview);
    let tokens = move || {
        preview.with_value(|p| {
            let shown = p.tokens.iter().take(drawn.get()).enumerate();
            shown.map(|(i, token)| token_view(i, token, p.kept, &cutoff)).collect_view()
        })
    };
    let more = move || {
        let left = total.saturating_sub(drawn.get());
        (left > 0).then(|| {
            let text = fill(w.more_tokens, &[("n", &format::count(left as u64))]);
            view! { <button type="button" class="link s" on:click=move |_| drawn.update(|n| *n += DRAWN)>{text}</button> }
        })
    };
    let about = move || match at.get() {
        Some(at) => preview.with_value(|p| p.tokens.get(at).map(|token| about(at, token, p, w))),
        None => Some(w.token_help.to_owned()),
    };
    let key = move |e: KeyboardEvent| {
        let shown = total.min(drawn.get_untracked());
        if let Some(next) = moved(&e.key(), at.get_untracked(), shown) {
            e.prevent_default();
            at.set(Some(next));
        }
    };
    let point = move |target: Option<web_sys::EventTarget>| {
        let token =
            target.and_then(|t| t.dyn_into::<web_sys::Element>().ok()).and_then(|e| e.closest(".tok").ok().flatten());
        if let Some(index) = token.and_then(|e| e.get_attribute("data-i")?.parse().ok()) {
            at.set(Some(index));
        }
    };
    view! {
        <div class="row">
            <div class="legend grow">
                <span><b class="tok on">{w.token_trained}</b></span>
                <span><b class="tok">{w.token_read}</b></span>
                <span><b class="tok sp">{w.token_special}</b></span>
                <span><b class="tok cut">{w.token_cut}</b></span>
            </div>
            <label class="switch s middle">
                <input type="checkbox" data-testid="token-ids" prop:checked=ids on:change=move |e| ids.set(event_target_checked(&e)) />
                <span>{w.show_ids}</span>
            </label>
        </div>
        <p class="s num" data-testid="token-counts">{counts}</p>
        <div class="toks" class:ids=ids data-testid="tokens" tabindex="0" role="group" aria-label=w.tokens aria-describedby="token-about"
            on:keydown=key on:pointerover=move |e| point(e.target()) on:click=move |e| point(e.target())>
            {tokens} {more}
        </div>
        <p class="s muted num tokinfo" id="token-about" role="status" data-testid="token-about">{about}</p>
        <p class="xs muted">{w.template}": "{template}" · SHA-256 "<code data-testid="token-hash" title=hash>{short}</code></p>
        <Mark at />
    }
}

/// Marks the token that is spoken of, without drawing the others anew.
#[component]
fn Mark(at: RwSignal<Option<usize>>) -> impl IntoView {
    Effect::new(move |before: Option<Option<usize>>| {
        let now = at.get();
        for (index, on) in [(before.flatten(), false), (now, true)] {
            let Some(index) = index else { continue };
            let found = document().query_selector(&format!(".tok[data-i=\"{index}\"]")).ok().flatten();
            if let Some(token) = found {
                let _ = token.class_list().toggle_with_force("at", on);
            }
        }
        now
    });
}

fn token_view(index: usize, token: &Token, kept: u64, cutoff: &str) -> impl IntoView + use<> {
    let is_cut = index as u64 >= kept;
    let class = match (is_cut, token.trained, token.special) {
        (true, _, _) => "tok cut",
        (false, true, true) => "tok sp on",
        (false, true, false) => "tok on",
        (false, false, true) => "tok sp",
        (false, false, false) => "tok",
    };
    let border = (index as u64 == kept).then(|| view! { <span class="cutline">{cutoff.to_owned()}</span> });
    let (text, index, id) = (visible(&token.text), index.to_string(), token.id.to_string());
    // The break of a line end stands behind the token, so that its id stays beside it.
    let ends = token.text.len() - token.text.trim_end_matches('\n').len();
    let breaks = (ends > 0).then(|| "\n".repeat(ends));
    // Elements that say so to a screen reader too.
    let token = match class {
        "tok cut" => view! { <s class=class data-i=index data-id=id>{text}</s> }.into_any(),
        "tok on" | "tok sp on" => view! { <mark class=class data-i=index data-id=id>{text}</mark> }.into_any(),
        _ => view! { <span class=class data-i=index data-id=id>{text}</span> }.into_any(),
    };
    (border, token, breaks)
}

/// Line ends and tabs as signs. A line end within the text has its break behind it.
fn visible(text: &str) -> String {
    let within = text.trim_end_matches('\n');
    let end = "↵".repeat(text.len() - within.len());
    within.replace('\n', "↵\n").replace('\t', "⇥\t").replace('\r', "␍") + &end
}

fn about(index: usize, token: &Token, preview: &TokenPreview, w: &'static Words) -> String {
    let use_of = match (index as u64 >= preview.kept, token.trained) {
        (true, _) => w.token_cut,
        (false, true) => w.token_trained,
        (false, false) => w.token_read,
    };
    let text = format!("“{}”", token.text.replace('\n', "↵"));
    let special = if token.special { format!(" · {}", w.token_special) } else { String::new() };
    let place = fill(w.token_place, &[("id", &token.id.to_string()), ("n", &format::count(index as u64 + 1))]);
    format!("{text} · {place} · {use_of}{special}")
}

/// Where a key leads among `count` tokens.
fn moved(key: &str, at: Option<usize>, count: usize) -> Option<usize> {
    let last = count.checked_sub(1)?;
    match (key, at) {
        ("ArrowRight" | "ArrowLeft", None) | ("Home", _) => Some(0),
        ("ArrowRight", Some(at)) => Some((at + 1).min(last)),
        ("ArrowLeft", Some(at)) => Some(at.saturating_sub(1)),
        ("End", _) => Some(last),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_stay_within_the_row() {
        assert_eq!(moved("ArrowRight", None, 3), Some(0));
        assert_eq!(moved("ArrowRight", Some(2), 3), Some(2));
        assert_eq!(moved("ArrowLeft", Some(0), 3), Some(0));
        assert_eq!(moved("End", Some(0), 3), Some(2));
        assert_eq!(moved("ArrowRight", None, 0), None);
        assert_eq!(moved("a", Some(1), 3), None);
    }

    #[test]
    fn line_ends_are_seen() {
        assert_eq!(visible("a\n\tb\n\n"), "a↵\n⇥\tb↵↵");
    }
}
