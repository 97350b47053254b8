//! Voting: two answers side by side, by keys alone. Who wrote which isn't known to the page. Each vote is on the server's disk
//! before the next pair is shown.

use super::bench;
use crate::{
    client, format,
    i18n::fill,
    parts::{
        Empty,
        job::Bar,
        note::{problem_notes, wait},
    },
    store::store,
    ui,
};
use api::{
    Problem,
    preference::{Ballot, BallotPair, CastVote, Vote},
    routes,
};
use leptos::{ev, prelude::*, task::spawn_local};

#[component]
pub fn VoteCard() -> impl IntoView {
    let w = ui::words();
    let (bench, store) = (bench(), store());
    let ballot = RwSignal::new(None::<Ballot>);
    let problems = RwSignal::new(Vec::<Problem>::new());
    let saving = RwSignal::new(false);
    let route = move || routes::fill(routes::PREFERENCES_VOTES, &bench.voting.get_untracked());
    let taken = move |reply: client::Result<Ballot>, dataset: String| {
        if bench.voting.get_untracked() != dataset {
            return; // Another one is voted on by now.
        }
        match reply {
            Ok(found) => {
                problems.set(Vec::new());
                ballot.set(Some(found));
            }
            Err(found) => problems.set(found),
        }
    };
    Effect::new(move || {
        let dataset = bench.voting.get();
        ballot.set(None);
        problems.set(Vec::new());
        if !dataset.is_empty() {
            spawn_local(async move { taken(client::get::<Ballot>(&route()).await, dataset) });
        }
    });
    let cast = move |vote: Vote| {
        let next = ballot.with_untracked(|b| b.as_ref().and_then(|b| b.next.first().map(|pair| pair.id.clone())));
        let undoable = ballot.with_untracked(|b| b.as_ref().is_some_and(|b| b.undoable));
        let pair = match vote {
            Vote::Undo if undoable => String::new(),
            Vote::Undo => return,
            _ => match next {
                Some(id) => id,
                None => return,
            },
        };
        if saving.get_untracked() {
            return;
        }
        saving.set(true);
        let dataset = bench.voting.get_untracked();
        spawn_local(async move {
            taken(client::post::<_, Ballot>(&route(), &CastVote { pair, vote }).await, dataset);
            saving.set(false);
            bench.votes.update(|n| *n += 1);
        });
    };
    let keys = window_event_listener(ev::keydown, move |event| {
        let held = event.ctrl_key() || event.meta_key() || event.alt_key() || event.repeat();
        if held || ui::is_typing(&event) {
            return;
        }
        let vote = match event.key().as_str() {
            "1" | "ArrowLeft" => Vote::Left,
            "2" | "ArrowRight" => Vote::Right,
            "0" => Vote::Tie,
            "s" | "S" => Vote::Skip,
            "u" | "U" => Vote::Undo,
            _ => return,
        };
        event.prevent_default();
        cast(vote);
    });
    on_cleanup(move || keys.remove());
    let progress = move || {
        ballot.with(|b| {
            b.as_ref().map(|b| {
                let slots = [("done", format::count(b.voted)), ("total", format::count(b.pairs))];
                fill(w.pref_progress, &slots.each_ref().map(|(name, value)| (*name, value.as_str())))
            })
        })
    };
    let share = Signal::derive(move || ballot.with(|b| b.as_ref().map(|b| b.voted as f64 / b.pairs.max(1) as f64)));
    let pair = Memo::new(move |_| ballot.with(|b| b.as_ref().map(|b| b.next.first().cloned())));
    let body = move || match (bench.voting.with(String::is_empty), pair.get()) {
        (true, _) => {
            view! { <Empty symbol="pref" title=w.pref_none_title.into() text=w.pref_none_help.into() /> }.into_any()
        }
        (false, None) if problems.with(Vec::is_empty) => wait(5).into_any(),
        (false, None) => ().into_any(),
        (false, Some(None)) => {
            let of = |f: fn(&Ballot) -> u64| ballot.with(|b| b.as_ref().map_or(0, f)).to_string();
            let [n, ties, skipped] = [of(|b| b.voted), of(|b| b.ties), of(|b| b.skipped)];
            let text = fill(w.pref_done_help, &[("n", &n), ("ties", &ties), ("skipped", &skipped)]);
            view! { <div data-testid="vote-done"><Empty symbol="check" title=w.pref_done_title.into() text /></div> }
                .into_any()
        }
        (false, Some(Some(pair))) => sides(pair).into_any(),
    };
    let button = move |vote: Vote, key: &'static str, word: &'static str, testid: &'static str| {
        view! {
            <button type="button" class="btn" data-testid=testid disabled=move || !matches!(pair.get(), Some(Some(_)))
                on:click=move |_| cast(vote)><kbd>{key}</kbd>{word}</button>
        }
    };
    let options = move || {
        let now = bench.voting.get();
        let names = store.datasets.with(|all| {
            all.iter().flatten().filter(|d| d.kind == "instructions").map(|d| d.name.clone()).collect::<Vec<_>>()
        });
        let one = |name: String| {
            let selected = name == now;
            view! { <option value=name.clone() selected=selected>{name.clone()}</option> }
        };
        let none = now.is_empty();
        view! { <option value="" selected=none>{w.pref_choose}</option> {names.into_iter().map(one).collect_view()} }
    };
    view! {
        <section class="card" aria-labelledby="vote-title">
            <div class="card-h">
                <h2 id="vote-title">{w.pref_which}</h2>
                <span class="sub num" data-testid="vote-progress" aria-live="polite">{progress}</span>
                <div class="input sel pref-select push">
                    <select aria-label=w.pref_answers_of data-testid="vote-dataset" on:change=move |e| bench.vote_on(&event_target_value(&e))>{options}</select>
                </div>
            </div>
            {move || share.get().is_some().then(|| view! { <div class="pref-bar"><Bar share label=w.pref_which thin=true /></div> })}
            {move || problem_notes(problems.get())}
            {body}
            {move || (!bench.voting.with(String::is_empty)).then(|| view! {
                <div class="stack mt">
                    <div class="vote" role="group" aria-label=w.pref_vote>
                        {button(Vote::Left, "1", w.pref_left, "vote-left")} {button(Vote::Right, "2", w.pref_right, "vote-right")}
                        {button(Vote::Tie, "0", w.pref_tie, "vote-tie")} {button(Vote::Skip, "S", w.pref_skip, "vote-skip")}
                    </div>
                    <div class="row pref-under">
                        <button type="button" class="btn quiet s" data-testid="vote-undo" on:click=move |_| cast(Vote::Undo)
                            disabled=move || !ballot.with(|b| b.as_ref().is_some_and(|b| b.undoable))><kbd>"U"</kbd>{w.pref_undo}</button>
                        <span class="xs muted">{move || if saving.get() { w.pref_saving } else { w.pref_saved }}</span>
                    </div>
                </div>
            })}
        </section>
    }
}

fn sides(pair: BallotPair) -> impl IntoView {
    let w = ui::words();
    let side = |letter: &'static str, label: &'static str, text: String| {
        view! {
            <article class="side" aria-label=label data-testid=format!("vote-{letter}")>
                <div class="who"><b>{letter}</b></div><p class="plain">{text}</p>
            </article>
        }
    };
    view! {
        <div class="stack" data-testid="vote-pair" data-pair=pair.id>
            <div class="msg me"><p class="plain">{pair.prompt}</p></div>
            <div class="sides">{side("A", w.pref_answer_a, pair.left)}{side("B", w.pref_answer_b, pair.right)}</div>
        </div>
    }
}
