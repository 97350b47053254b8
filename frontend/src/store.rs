//! What the page knows: jobs, curves, models, datasets, and the toasts. One copy for all pages, fed by [`crate::events`].

use crate::{client, i18n::Language, ui::Ui};
use api::{
    Catalog, Job, JobKind, JobState, Problem,
    data::DatasetInfo,
    job::{Checkpoint, Feed, Metric},
    model::ModelInfo,
    queue::Queue,
    routes::{self, System},
};
use gloo_timers::future::TimeoutFuture;
use leptos::{prelude::*, task::spawn_local};
use std::{collections::HashMap, sync::Arc};

/// Jobs that are asked for at once.
const PAGE: usize = 500;

#[derive(Clone, Copy)]
pub struct Store {
    pub catalog: RwSignal<Option<Arc<Catalog>>>,
    pub system: RwSignal<Option<System>>,
    /// Newest first; nothing before the first answer.
    pub jobs: RwSignal<Option<Vec<Job>>>,
    /// Whether the server has older ones.
    pub has_older: RwSignal<bool>,
    /// Time and id of the last one of the last page. Older ones may be known, from a search.
    page_end: RwSignal<Option<(f64, String)>>,
    pub queue: RwSignal<Option<Queue>>,
    pub models: RwSignal<Option<Vec<ModelInfo>>>,
    pub datasets: RwSignal<Option<Vec<DatasetInfo>>>,
    /// Points of the runs that are being looked at, in the order of steps.
    pub metrics: RwSignal<HashMap<String, Vec<Metric>>>,
    pub checkpoints: RwSignal<HashMap<String, Vec<Checkpoint>>>,
    pub notes: RwSignal<HashMap<String, Vec<Problem>>>,
    pub online: RwSignal<bool>,
    pub toasts: RwSignal<Vec<Toast>>,
    /// The page's own, since what answers come back to after a while knows no context.
    language: RwSignal<Language>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Toast {
    pub id: u64,
    pub text: String,
    pub hint: String,
    pub bad: bool,
}

impl Store {
    pub fn provide(ui: Ui) -> Self {
        let store = Self {
            catalog: RwSignal::new(None),
            system: RwSignal::new(None),
            jobs: RwSignal::new(None),
            has_older: RwSignal::new(false),
            page_end: RwSignal::new(None),
            queue: RwSignal::new(None),
            models: RwSignal::new(None),
            datasets: RwSignal::new(None),
            metrics: RwSignal::default(),
            checkpoints: RwSignal::default(),
            notes: RwSignal::default(),
            online: RwSignal::new(true),
            toasts: RwSignal::default(),
            language: ui.language,
        };
        provide_context(store);
        store
    }

    /// Asks for everything anew: at the start, and after the connection was lost.
    pub fn refresh(self) {
        self.refresh_jobs();
        self.refresh_queue();
        self.refresh_system();
        self.refresh_models();
        self.refresh_datasets();
        if self.catalog.with_untracked(Option::is_none) {
            spawn_local(async move {
                if let Ok(catalog) = client::get::<Catalog>(routes::CATALOG).await {
                    self.catalog.set(Some(Arc::new(catalog)));
                }
            });
        }
        for job in self.metrics.with_untracked(|all| all.keys().cloned().collect::<Vec<_>>()) {
            self.watch(&job);
        }
        for job in self.checkpoints.with_untracked(|all| all.keys().cloned().collect::<Vec<_>>()) {
            self.ask_checkpoints(&job);
        }
    }

    pub fn refresh_system(self) {
        self.ask(routes::SYSTEM, self.system);
    }

    pub fn refresh_jobs(self) {
        spawn_local(async move {
            match client::get::<Vec<Job>>(&format!("{}?limit={PAGE}", routes::JOBS)).await {
                Ok(found) => {
                    self.end_page(&found);
                    self.jobs.set(Some(found));
                }
                Err(problems) if self.online.get_untracked() => self.complain(&problems),
                Err(_) => {}
            }
        });
    }

    /// Loads the next page of the list.
    pub fn load_older(self) {
        let Some((time, id)) = self.page_end.get_untracked() else { return };
        spawn_local(async move {
            match client::get::<Vec<Job>>(&format!("{}?limit={PAGE}&before={time},{id}", routes::JOBS)).await {
                Ok(found) => {
                    self.end_page(&found);
                    found.into_iter().for_each(|job| self.put(job));
                }
                Err(problems) => self.complain(&problems),
            }
        });
    }

    fn end_page(self, page: &[Job]) {
        self.has_older.set(page.len() == PAGE);
        self.page_end.set(page.last().map(|job| (job.created_at, job.id.clone())));
    }

    /// Looks for runs among those that aren't loaded.
    pub fn search_older(self, words: &str) {
        let words = String::from(js_sys::encode_uri_component(words));
        spawn_local(async move {
            let path = format!("{}?limit=100&kind=train&search={words}", routes::JOBS);
            for job in client::get::<Vec<Job>>(&path).await.unwrap_or_default() {
                self.put(job);
            }
        });
    }

    /// Asks for one job; where there is none, says so in `missing`.
    pub fn find(self, id: String, missing: RwSignal<Option<String>>) {
        spawn_local(async move {
            match client::get::<Job>(&routes::fill(routes::JOB, &id)).await {
                Ok(job) => self.put(job),
                Err(_) => missing.set(Some(id)),
            }
        });
    }

    pub fn refresh_queue(self) {
        self.ask(routes::QUEUE, self.queue);
    }

    pub fn refresh_models(self) {
        self.ask(routes::MODELS, self.models);
    }

    pub fn refresh_datasets(self) {
        self.ask(routes::DATASETS, self.datasets);
    }

    /// Loads a run's curve, which then follows the feed.
    pub fn watch(self, job: &str) {
        let job = job.to_owned();
        self.metrics.update(|all| {
            all.entry(job.clone()).or_default();
        });
        spawn_local(async move {
            if let Ok(points) = client::get::<Vec<Metric>>(&routes::fill(routes::JOB_METRICS, &job)).await {
                self.metrics.update(|all| {
                    let curve = all.entry(job).or_default();
                    points.into_iter().for_each(|point| place(curve, point));
                });
            }
        });
    }

    pub fn ask_checkpoints(self, job: &str) {
        let job = job.to_owned();
        spawn_local(async move {
            if let Ok(mut found) = client::get::<Vec<Checkpoint>>(&routes::fill(routes::JOB_CHECKPOINTS, &job)).await {
                newest_first(&mut found);
                self.checkpoints.update(|all| {
                    all.insert(job, found);
                });
            }
        });
    }

    /// Takes in a message of the feed.
    pub fn apply(self, feed: Feed) {
        match feed {
            Feed::Job { job } => {
                let ended = !job.state.is_active();
                if ended && self.checkpoints.with_untracked(|all| all.contains_key(&job.id)) {
                    self.ask_checkpoints(&job.id);
                }
                if ended && job.kind == JobKind::Pull {
                    self.refresh_models();
                }
                self.put(*job);
            }
            Feed::Metric { job, metric } => self.metrics.update(|all| {
                if let Some(curve) = all.get_mut(&job) {
                    place(curve, metric);
                }
            }),
            // The list is asked for: with a new checkpoint an old one may have gone (`save_total_limit`).
            Feed::Checkpoint { job, .. } => {
                if self.checkpoints.with_untracked(|all| all.contains_key(&job)) {
                    self.ask_checkpoints(&job);
                }
            }
            Feed::Note { job, problem } => self.notes.update(|all| {
                let list = all.entry(job).or_default();
                if !list.contains(&problem) {
                    list.push(problem);
                }
            }),
            Feed::Queue { queue } => self.queue.set(Some(queue)),
            Feed::Gone { job } => self.forget(&job),
            Feed::Changed { what } => match what.as_str() {
                "models" => self.refresh_models(),
                "datasets" => self.refresh_datasets(),
                // More happened than the server remembers.
                "all" => self.refresh(),
                _ => {}
            },
        }
    }

    /// A dataset that came or changed.
    pub fn put_dataset(self, info: DatasetInfo) {
        self.datasets.update(|all| {
            let all = all.get_or_insert_default();
            all.retain(|known| known.name != info.name);
            all.push(info);
            all.sort_by(|a, b| a.name.cmp(&b.name));
        });
    }

    /// A job that came or changed.
    pub fn put(self, job: Job) {
        self.jobs.update(|jobs| {
            let jobs = jobs.get_or_insert_default();
            match jobs.iter_mut().find(|known| known.id == job.id) {
                Some(known) => *known = job,
                None => {
                    let at = jobs.partition_point(|known| known.created_at > job.created_at);
                    jobs.insert(at, job);
                }
            }
        });
    }

    pub fn forget(self, id: &str) {
        self.jobs.update(|jobs| jobs.iter_mut().for_each(|jobs| jobs.retain(|job| job.id != id)));
        self.metrics.update(|all| {
            all.remove(id);
        });
        self.checkpoints.update(|all| {
            all.remove(id);
        });
    }

    pub fn job(self, id: &str) -> Option<Job> {
        self.jobs.with(|jobs| jobs.iter().flatten().find(|job| job.id == id).cloned())
    }

    /// Jobs of a kind, newest first.
    pub fn jobs_of(self, kind: JobKind) -> Vec<Job> {
        self.jobs.with(|jobs| jobs.iter().flatten().filter(|job| job.kind == kind).cloned().collect())
    }

    /// The job that the rail shows: the one that runs, else the next one.
    pub fn active(self) -> Option<Job> {
        self.jobs.with(|jobs| {
            let active = || jobs.iter().flatten().filter(|job| job.state.is_active());
            active().find(|job| job.state != JobState::Queued).or_else(|| active().next_back()).cloned()
        })
    }

    /// Says something for a few seconds.
    pub fn say(self, text: String) {
        self.toast(text, String::new(), false);
    }

    /// Shows problems that belong to no field.
    pub fn complain(self, problems: &[Problem]) {
        let language = self.language.get_untracked().tag();
        for problem in problems.iter().take(3) {
            self.toast(problem.message_in(language).into(), problem.next_in(language).into(), true);
        }
    }

    fn toast(self, text: String, hint: String, bad: bool) {
        if self.toasts.with_untracked(|all| all.iter().any(|t| t.text == text)) {
            return;
        }
        let id = self.toasts.with_untracked(|all| all.last().map_or(0, |t| t.id + 1));
        self.toasts.update(|all| {
            all.push(Toast { id, text, hint, bad });
        });
        spawn_local(async move {
            TimeoutFuture::new(if bad { 12_000 } else { 6_000 }).await;
            self.toasts.update(|all| all.retain(|t| t.id != id));
        });
    }

    fn ask<T: serde::de::DeserializeOwned + Send + Sync + 'static>(
        self,
        route: &'static str,
        into: RwSignal<Option<T>>,
    ) {
        spawn_local(async move {
            match client::get::<T>(route).await {
                Ok(found) => into.set(Some(found)),
                Err(problems) if self.online.get_untracked() => self.complain(&problems),
                Err(_) => {}
            }
        });
    }
}

pub fn store() -> Store {
    expect_context()
}

/// Puts a point at its step. A step that is done again after a resume replaces the old one; an evaluation and a training
/// point of the same step stand beside each other.
pub fn place(curve: &mut Vec<Metric>, point: Metric) {
    let at = curve.partition_point(|known| (known.step, known.is_validation()) < (point.step, point.is_validation()));
    match curve.get_mut(at) {
        Some(known) if known.step == point.step && known.is_validation() == point.is_validation() => *known = point,
        _ => curve.insert(at, point),
    }
}

fn newest_first(list: &mut [Checkpoint]) {
    list.sort_by_key(|c| std::cmp::Reverse((c.step, c.name == "final")));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(step: u64, name: &str, value: f64) -> Metric {
        Metric { step, epoch: 0.0, time: 0.0, values: [(name.to_owned(), value)].into() }
    }

    #[test]
    fn points_stay_in_order_without_duplicates() {
        let mut curve = Vec::new();
        for p in [point(2, "loss", 2.0), point(1, "loss", 3.0), point(2, "eval_loss", 2.5), point(2, "loss", 1.5)] {
            place(&mut curve, p);
        }
        // That of a policy has no loss.
        place(&mut curve, point(1, "eval_reward", 0.5));
        let seen: Vec<_> = curve.iter().map(|m| (m.step, m.values.clone().into_iter().next())).collect();
        assert_eq!(
            seen,
            [
                (1, Some(("loss".into(), 3.0))),
                (1, Some(("eval_reward".into(), 0.5))),
                (2, Some(("loss".into(), 1.5))),
                (2, Some(("eval_loss".into(), 2.5)))
            ]
        );
    }
}
