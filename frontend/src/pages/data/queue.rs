//! The files on their way to the server: one after the other, each as often as the connection is lost. A file that is sent
//! again after a reload goes on where it was.

use super::tus::{Fault, Line, Sent};
use crate::{
    client, format,
    i18n::fill,
    parts::job::now,
    store::Store,
    ui::{self, Ui},
};
use api::{Problem, data::DatasetInfo, routes};
use gloo_timers::future::TimeoutFuture;
use leptos::{prelude::*, task::spawn_local};
use std::collections::VecDeque;
use web_sys::File;

/// Longest wait between two tries, in milliseconds.
const LONGEST_WAIT: u32 = 5_000;
/// An upload that vanishes at the server so often is given up.
const RESTARTS: u32 = 3;

/// One file in the list.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    pub id: u64,
    /// The dataset that it becomes.
    pub name: String,
    pub done: u64,
    pub total: u64,
    /// Time, in seconds, and bytes at which this page began to send.
    since: (f64, u64),
    pub state: State,
}

#[derive(Clone, Debug, PartialEq)]
pub enum State {
    Waiting,
    Sending,
    /// The connection is lost; it is tried again.
    Lost,
    Refused(Vec<Problem>),
}

/// Lives as long as the page: files go on being sent while one looks at another tab.
#[derive(Clone, Copy)]
pub struct Uploads {
    pub items: RwSignal<Vec<Item>>,
    /// Files that wait, with the numbers of their items.
    files: StoredValue<VecDeque<(u64, File)>, LocalStorage>,
    line: StoredValue<Line, LocalStorage>,
    running: StoredValue<bool>,
    next: StoredValue<u64>,
    /// Address of the last dataset that arrived.
    pub arrived: RwSignal<Option<String>>,
    store: Store,
    ui: Ui,
}

impl Uploads {
    pub fn provide(store: Store, ui: Ui) {
        provide_context(Self {
            items: RwSignal::default(),
            files: StoredValue::new_local(VecDeque::new()),
            line: StoredValue::new_local(Line::default()),
            running: StoredValue::new(false),
            next: StoredValue::new(0),
            arrived: RwSignal::new(None),
            store,
            ui,
        });
    }

    /// Puts a file at the end of the list; the dataset is called as its name says.
    pub fn add(self, file: File) {
        let id = self.next.get_value();
        self.next.set_value(id + 1);
        let mut taken: Vec<String> =
            self.store.datasets.with_untracked(|all| all.iter().flatten().map(|d| d.name.clone()).collect());
        self.items.with_untracked(|all| taken.extend(all.iter().map(|item| item.name.clone())));
        let name = free_name(&file.name(), &taken);
        let total = file.size() as u64;
        self.items.update(|all| {
            all.push(Item { id, name, done: 0, total, since: (0.0, 0), state: State::Waiting });
        });
        self.files.update_value(|files| files.push_back((id, file)));
        if !self.running.get_value() {
            self.running.set_value(true);
            spawn_local(async move {
                while let Some((id, file)) = self.files.try_update_value(VecDeque::pop_front).flatten() {
                    self.carry(id, &file).await;
                }
                self.running.set_value(false);
            });
        }
    }

    /// Nothing is on its way or was refused.
    pub fn is_idle(self) -> bool {
        self.items.with(Vec::is_empty)
    }

    /// Takes an item from the list; if it is being sent, that ends.
    pub fn drop_item(self, id: u64) {
        let sending = self.item(id).is_some_and(|item| matches!(item.state, State::Sending | State::Lost));
        self.items.update(|all| all.retain(|item| item.id != id));
        if sending {
            self.line.with_value(Line::cut);
        }
    }

    fn item(self, id: u64) -> Option<Item> {
        self.items.with_untracked(|all| all.iter().find(|item| item.id == id).cloned())
    }

    fn change(self, id: u64, change: impl FnOnce(&mut Item)) {
        self.items.update(|all| {
            if let Some(item) = all.iter_mut().find(|item| item.id == id) {
                change(item);
            }
        });
    }

    /// Brings one file over, however often the connection is lost.
    async fn carry(self, id: u64, file: &File) {
        let Some(item) = self.item(id) else { return };
        let key = format!("upload.{}:{}:{}", file.name(), file.size(), file.last_modified());
        let mut place = Place { url: ui::remembered(&key), offset: None };
        let (mut tries, mut restarts) = (0, 0);
        self.change(id, |item| (item.state, item.since) = (State::Sending, (now(), 0)));
        let result = loop {
            if self.item(id).is_none() {
                ui::remember(&key, None);
                if let Some(url) = place.url {
                    Line::give_up(&url).await;
                }
                return;
            }
            match self.step(id, file, &item.name, &mut place).await {
                Ok(None) => {
                    tries = 0;
                    ui::remember(&key, place.url.as_deref());
                }
                Ok(Some(info)) => break Ok(info),
                Err(Fault::Refused(problems)) => break Err(problems),
                Err(Fault::Gone) if restarts < RESTARTS => {
                    // What the last answer would have said, had it arrived.
                    if let Some(info) = self.known(&item.name).await {
                        break Ok(info);
                    }
                    restarts += 1;
                    place = Place::default();
                }
                Err(Fault::Gone) => break Err(vec![client::no_answer()]),
                Err(Fault::Lost) => {
                    place.offset = None;
                    self.change(id, |item| item.state = State::Lost);
                    TimeoutFuture::new((500 << tries).min(LONGEST_WAIT)).await;
                    tries = (tries + 1).min(8);
                }
            }
        };
        ui::remember(&key, None);
        match result {
            Ok(info) => self.arrive(id, info),
            Err(problems) => self.change(id, |item| item.state = State::Refused(problems)),
        }
    }

    /// The next request of an upload. Answers the dataset if that was the last one.
    async fn step(self, id: u64, file: &File, name: &str, place: &mut Place) -> Result<Option<DatasetInfo>, Fault> {
        let line = self.line.get_value();
        let Some(url) = place.url.clone() else {
            *place = Place { url: Some(line.create(file, name).await?), offset: Some(0) };
            return Ok(None);
        };
        let offset = match place.offset {
            Some(offset) => offset,
            None => {
                let offset = line.offset(&url).await?;
                self.change(id, |item| (item.state, item.done, item.since) = (State::Sending, offset, (now(), offset)));
                offset
            }
        };
        place.offset = Some(offset);
        match line.send(&url, file, offset, move |done| self.change(id, |item| item.done = done)).await? {
            Sent::Part(offset) => place.offset = Some(offset),
            Sent::Whole(info) => return Ok(Some(*info)),
        }
        Ok(None)
    }

    async fn known(self, name: &str) -> Option<DatasetInfo> {
        let all = client::get::<Vec<DatasetInfo>>(routes::DATASETS).await.ok()?;
        all.into_iter().find(|info| info.name == name)
    }

    fn arrive(self, id: u64, info: DatasetInfo) {
        let words = self.ui.language.get_untracked().words();
        self.items.update(|all| all.retain(|item| item.id != id));
        let said = if info.problem.is_none() { words.uploaded } else { words.uploaded_faulty };
        self.store.say(fill(said, &[("name", &info.name), ("rows", &format::count(info.rows))]));
        let unmapped = info.problem.as_ref().is_some_and(|problem| problem.code == "dataset_unmapped");
        let part = if unmapped { "?part=columns" } else { "" };
        self.arrived.set(Some(routes::fill("/data/{name}", &info.name) + part));
        self.store.put_dataset(info);
    }
}

/// Where an upload is: its address, and how many bytes the server has, as far as this page knows.
#[derive(Default)]
struct Place {
    url: Option<String>,
    offset: Option<u64>,
}

pub fn uploads() -> Uploads {
    expect_context()
}

/// Seconds until the file is over, by the speed so far; nothing in the first second.
pub fn seconds_left(item: &Item, now: f64) -> Option<f64> {
    let (since, from) = item.since;
    let (gone, sent) = (now - since, item.done.saturating_sub(from));
    let known = item.state == State::Sending && gone > 1.0 && sent > 0 && item.done < item.total;
    known.then(|| (item.total - item.done) as f64 * gone / sent as f64)
}

/// A dataset name out of a file name: letters and digits of any script, `_` and `-`, and a number if it is taken.
fn free_name(file: &str, taken: &[String]) -> String {
    let file = format::last_part(file);
    let stem = file.strip_suffix(".gz").unwrap_or(file);
    let stem = stem.rsplit_once('.').map_or(stem, |(stem, _)| stem);
    let word: String = stem.chars().map(|c| if c.is_alphanumeric() || c == '-' { c } else { '_' }).take(60).collect();
    let word = word.trim_matches(['_', '-']).to_owned();
    let word = if word.is_empty() { "dataset".to_owned() } else { word };
    let numbered = (2..).map(|n| format!("{word}_{n}"));
    std::iter::once(word.clone()).chain(numbered).find(|name| !taken.contains(name)).unwrap_or(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain_and_free() {
        assert_eq!(free_name("my rows (1).jsonl", &[]), "my_rows__1");
        assert_eq!(free_name("identity.json", &["identity".into(), "identity_2".into()]), "identity_3");
        assert_eq!(free_name("数据.csv", &[]), "数据");
        assert_eq!(free_name("().csv", &[]), "dataset");
        assert_eq!(free_name("../../etc/passwd", &[]), "passwd");
        assert_eq!(free_name("rows.json.gz", &[]), "rows");
    }

    #[test]
    fn time_left_is_told_by_the_speed_of_this_page() {
        let item = Item { id: 0, name: "rows".into(), done: 60, total: 100, since: (10.0, 40), state: State::Sending };
        assert_eq!(seconds_left(&item, 14.0), Some(8.0));
        assert_eq!(seconds_left(&item, 10.5), None);
        assert_eq!(seconds_left(&Item { state: State::Lost, ..item.clone() }, 14.0), None);
        assert_eq!(seconds_left(&Item { done: 100, ..item }, 14.0), None);
    }
}
