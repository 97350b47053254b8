//! Preferences: answers that are voted on, judged or scored become pairs; filters keep the telling ones; one click makes a
//! dataset of them and opens Train.

mod filters;
mod jobs;
mod result;
mod sources;
mod table;
mod vote;

use crate::{
    app::title,
    client,
    parts::{icon, note::problem_notes},
    store::store,
    ui,
};
use api::{
    Problem,
    preference::{Origin, PairFilter, PairRows, PairSource, Pairs, PairsWanted},
    routes,
};
use gloo_timers::future::TimeoutFuture;
use leptos::{prelude::*, task::spawn_local};
use serde::{Deserialize, Serialize};

/// Pairs on a page of the table.
const PAGE: u64 = 20;
/// So long a filter rests before its pairs are counted.
const PAUSE_MS: u32 = 300;

/// What the workbench is set to. Lives as long as the page, and is there again when the page is reloaded.
#[derive(Clone, Copy)]
pub struct Bench {
    pub sources: RwSignal<Vec<PairSource>>,
    pub filter: RwSignal<PairFilter>,
    /// The dataset whose answers are voted on.
    pub voting: RwSignal<String>,
    pub stage: RwSignal<Stage>,
    /// Of the table.
    pub origin: RwSignal<Option<Origin>>,
    pub offset: RwSignal<u64>,
    /// Nothing before the first answer.
    pub found: RwSignal<Option<Pairs>>,
    pub problems: RwSignal<Vec<Problem>>,
    /// Counts up with each vote, which makes other pairs.
    pub votes: RwSignal<u64>,
    turn: RwSignal<u64>,
}

/// What the pairs are for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    #[default]
    Dpo,
    Rm,
    Kto,
}

impl Stage {
    pub const ALL: [Self; 3] = [Self::Dpo, Self::Rm, Self::Kto];

    pub fn name(self) -> &'static str {
        match self {
            Self::Dpo => "dpo",
            Self::Rm => "rm",
            Self::Kto => "kto",
        }
    }

    pub fn rows(self) -> PairRows {
        if self == Self::Kto { PairRows::Kto } else { PairRows::Ranking }
    }
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Remembered {
    sources: Vec<PairSource>,
    filter: PairFilter,
    voting: String,
    stage: Stage,
}

impl Bench {
    pub fn provide() {
        let stored: Remembered =
            ui::remembered("preferences").and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
        let bench = Self {
            sources: RwSignal::new(stored.sources),
            filter: RwSignal::new(stored.filter),
            voting: RwSignal::new(stored.voting),
            stage: RwSignal::new(stored.stage),
            origin: RwSignal::new(None),
            offset: RwSignal::new(0),
            found: RwSignal::new(None),
            problems: RwSignal::default(),
            votes: RwSignal::new(0),
            turn: RwSignal::new(0),
        };
        provide_context(bench);
        Effect::new(move || {
            let (sources, filter) = (bench.sources.get(), bench.filter.get());
            let kept = Remembered { sources, filter, voting: bench.voting.get(), stage: bench.stage.get() };
            ui::remember("preferences", serde_json::to_string(&kept).ok().as_deref());
        });
    }

    /// Adds a dataset, once.
    pub fn add_source(self, dataset: &str) {
        if !dataset.is_empty() && self.sources.with_untracked(|all| all.iter().all(|s| s.dataset != dataset)) {
            let source = PairSource { dataset: dataset.to_owned(), ..PairSource::default() };
            self.sources.update(|all| all.push(source));
        }
    }

    /// Votes on the answers of a dataset, which becomes a source.
    pub fn vote_on(self, dataset: &str) {
        self.add_source(dataset);
        self.voting.set(dataset.to_owned());
    }

    /// Asks for the pairs once the person pauses.
    fn count(self) {
        let wanted = PairsWanted {
            sources: self.sources.get(),
            filter: self.filter.get(),
            origin: self.origin.get(),
            offset: self.offset.get(),
            limit: PAGE,
        };
        let turn = self.turn.get_untracked() + 1;
        self.turn.set(turn);
        spawn_local(async move {
            TimeoutFuture::new(PAUSE_MS).await;
            if self.turn.get_untracked() != turn {
                return;
            }
            let reply = client::post::<_, Pairs>(routes::PREFERENCES_PAIRS, &wanted).await;
            if self.turn.get_untracked() != turn {
                return;
            }
            match reply {
                Ok(pairs) => {
                    self.problems.set(Vec::new());
                    self.found.set(Some(pairs));
                }
                Err(problems) => self.problems.set(problems),
            }
        });
    }
}

pub fn bench() -> Bench {
    expect_context()
}

#[component]
pub fn Preferences() -> impl IntoView {
    let w = ui::words();
    title(w.preferences);
    let (bench, store) = (bench(), store());
    Effect::new(move || {
        store.datasets.track();
        bench.votes.track();
        bench.count();
    });
    let problems = move || {
        let problems = bench.problems.get();
        (!problems.is_empty()).then(|| view! { <div class="stack">{problem_notes(problems)}</div> })
    };
    view! {
        <header class="head">
            <div><h1>{w.preferences}</h1><p class="state">{w.pref_lead}</p></div>
            <div class="acts">
                <a class="btn wide-only" href="#sample">{icon("plus", 18)}{w.pref_sample}</a>
                <result::TrainButton />
            </div>
        </header>
        <div class="split">
            <div class="stack">
                {problems}
                <vote::VoteCard />
                <table::PairsCard />
            </div>
            <aside class="stack">
                <result::ResultCard />
                <filters::FiltersCard />
                <sources::SourcesCard />
                <jobs::SampleCard />
                <jobs::JudgeCard />
            </aside>
        </div>
    }
}

/// What a pair's origin is called.
fn origin_word(origin: Origin) -> &'static str {
    let w = ui::words();
    match origin {
        Origin::Votes => w.pref_origin_votes,
        Origin::Judge => w.pref_origin_judge,
        Origin::Scores => w.pref_origin_scores,
        Origin::Ranking => w.pref_origin_ranking,
        Origin::Pairs => w.pref_origin_pairs,
    }
}
