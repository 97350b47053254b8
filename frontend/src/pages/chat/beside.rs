//! Side by side: one prompt to two models, and a vote that becomes a row of preferences.

use super::{
    answer::bottom,
    said::Answer,
    seat::Seat,
    talk::{End, Said, Talk, talk, write},
};
use crate::{
    client, format,
    i18n::fill,
    parts::{Empty, icon},
    store::{Store, store},
    ui,
};
use api::{
    chat::Generate,
    data::DatasetInfo,
    routes,
    session::{ChatVote, SessionContent, SessionMessage},
};
use leptos::{prelude::*, task::spawn_local};
use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering},
};

/// Lives as long as the page.
#[derive(Clone, Copy)]
pub struct Beside {
    pub is_on: RwSignal<bool>,
    /// The second model; the first is that of the conversation.
    pub seat: Seat,
    asked: RwSignal<Option<Asked>>,
    store: Store,
}

/// One prompt with both answers.
#[derive(Clone)]
struct Asked {
    system: String,
    prompt: String,
    answers: [Said; 2],
    /// Rows of the dataset of votes, once there is a vote. Outlives the page that it is cast on.
    voted: ArcRwSignal<Option<u64>>,
}

impl Beside {
    pub fn provide() {
        provide_context(Self {
            is_on: RwSignal::new(false),
            seat: Seat::new(),
            asked: RwSignal::new(None),
            store: store(),
        });
    }

    pub fn is_ready(self, talk: Talk) -> bool {
        talk.seat.is_ready() && self.seat.is_ready()
    }

    /// Sends the draft to both. False if there is nothing to send or one of them is missing.
    pub fn send(self, talk: Talk) -> bool {
        let prompt = talk.draft.get_untracked().trim().to_owned();
        let seats = [talk.seat, self.seat];
        let models = seats.map(|seat| seat.id().filter(|_| seat.is_ready()));
        let [Some(left), Some(right)] = models else { return false };
        if prompt.is_empty() || talk.writing.get_untracked() {
            return false;
        }
        talk.draft.set(String::new());
        let message = SessionMessage { role: "user".into(), content: prompt.clone(), ..SessionMessage::default() };
        let content =
            SessionContent { settings: talk.settings(), messages: vec![message], ..SessionContent::default() };
        let body = Generate { messages: content.conversation(), params: talk.params(), ..Generate::default() };
        let answers = seats.map(|seat| {
            let end = End { writing: true, ..End::default() };
            Said::new(0, false, seat.ready_name().unwrap_or_default(), String::new(), end)
        });
        let system = talk.system.get_untracked().trim().to_owned();
        self.asked.set(Some(Asked { system, prompt, answers: answers.clone(), voted: ArcRwSignal::new(None) }));
        talk.writing.set(true);
        bottom(true);
        let unfinished = Arc::new(AtomicU8::new(2));
        for (model, answer) in [left, right].into_iter().zip(answers) {
            let (body, unfinished) = (body.clone(), unfinished.clone());
            spawn_local(async move {
                write(&model, body, &answer, talk.aborts).await;
                if unfinished.fetch_sub(1, Ordering::Relaxed) == 1 {
                    talk.writing.set(false);
                    bottom(false);
                }
            });
        }
        true
    }

    /// Keeps that the answer `better` (0 or 1) is the better one.
    fn vote(self, asked: &Asked, better: usize) {
        let [chosen, rejected] = [&asked.answers[better], &asked.answers[1 - better]];
        let vote = ChatVote {
            system: asked.system.clone(),
            prompt: asked.prompt.clone(),
            chosen: chosen.text.get_untracked(),
            rejected: rejected.text.get_untracked(),
            chosen_by: chosen.by.clone(),
            rejected_by: rejected.by.clone(),
        };
        let voted = asked.voted.clone();
        spawn_local(async move {
            match client::post::<_, DatasetInfo>(routes::PREFERENCES_CHAT, &vote).await {
                Ok(dataset) => voted.set(Some(dataset.rows)),
                Err(problems) => self.store.complain(&problems),
            }
        });
    }
}

#[component]
pub fn Sides() -> impl IntoView {
    let w = ui::words();
    let (talk, beside) = (talk(), beside());
    let sides = move |asked: Asked| {
        let side = |letter: &'static str, said: Said| {
            view! {
                <article class="side" aria-label=letter data-testid=format!("beside-{letter}")>
                    <div class="msg"><Answer said testid="beside-text" /></div>
                </article>
            }
        };
        let [left, right] = asked.answers.clone();
        let prompt = asked.prompt.clone();
        view! {
            <div class="stack">
                <div class="msg me"><p class="plain">{prompt}</p></div>
                <div class="sides">{side("A", left)}{side("B", right)}</div>
                {move || vote_row(beside, talk, asked.clone())}
            </div>
        }
    };
    move || match beside.asked.get() {
        Some(asked) => sides(asked).into_any(),
        None => {
            view! { <Empty symbol="pref" title=w.beside_empty.into() text=w.beside_empty_help.into() /> }.into_any()
        }
    }
}

/// The vote, once both answers are there; behind it, where it went.
fn vote_row(beside: Beside, talk: Talk, asked: Asked) -> impl IntoView {
    let w = ui::words();
    if let Some(rows) = asked.voted.get() {
        let text = fill(w.beside_voted, &[("name", ChatVote::DATASET), ("n", &format::count(rows))]);
        let page = format!("/data/{}", ChatVote::DATASET);
        return view! {
            <p class="row pref-under" data-testid="beside-voted">{icon("check", 16)}<span>{text}</span><a href=page>{w.beside_open}</a></p>
        }
        .into_any();
    }
    let is_there = |said: &Said| !said.end.with(|end| end.writing) && !said.text.with(|text| text.trim().is_empty());
    let can_vote = !talk.writing.get() && asked.answers.iter().all(is_there);
    let button = |better: usize, word: &'static str, testid: &'static str| {
        let asked = asked.clone();
        view! {
            <button type="button" class="btn" data-testid=testid disabled=!can_vote on:click=move |_| beside.vote(&asked, better)>{word}</button>
        }
    };
    view! {
        <div class="stack">
            <div class="vote" role="group" aria-label=w.pref_vote>
                {button(0, w.pref_left, "beside-left")} {button(1, w.pref_right, "beside-right")}
            </div>
            <p class="xs muted pref-under row">{w.beside_help}</p>
        </div>
    }
    .into_any()
}

pub fn beside() -> Beside {
    expect_context()
}
