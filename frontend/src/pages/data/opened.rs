//! The dataset that is open: which part of it is looked at, and how its rows are changed.

use crate::{
    client,
    form::{TrainForm, train_form},
    format,
    i18n::{Words, fill},
    store::{Store, store},
    ui,
};
use api::{
    Problem, RunConfig,
    data::{Columns, DatasetInfo, Edit, EditDataset, Edited, Preview, PreviewRow},
    routes,
};
use leptos::{prelude::*, task::spawn_local};
use leptos_router::{
    NavigateOptions,
    hooks::{use_navigate, use_query_map},
};

/// What is shown of a dataset. Stands in the address, so that a link or the browser's *back* leads to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Part {
    #[default]
    Rows,
    Tokens,
    Statistics,
    Columns,
}

impl Part {
    pub const ALL: [Self; 4] = [Self::Rows, Self::Tokens, Self::Statistics, Self::Columns];

    pub fn name(self) -> &'static str {
        match self {
            Self::Rows => "rows",
            Self::Tokens => "tokens",
            Self::Statistics => "statistics",
            Self::Columns => "columns",
        }
    }

    pub fn word(self, w: &'static Words) -> &'static str {
        match self {
            Self::Rows => w.rows,
            Self::Tokens => w.tokens,
            Self::Statistics => w.statistics,
            Self::Columns => w.columns,
        }
    }
}

#[derive(Clone, Copy)]
pub struct Opened {
    name: StoredValue<String>,
    pub info: Memo<Option<DatasetInfo>>,
    pub part: Memo<Part>,
    /// The row that a link leads to, from 0.
    pub row: Memo<Option<u64>>,
    /// Only rows with a problem are shown.
    pub faulty: RwSignal<bool>,
    /// Grows with each change; whoever shows something of the rows reads it again.
    pub version: RwSignal<u64>,
    /// A change is being made.
    pub busy: RwSignal<bool>,
    /// What was wrong with the last change.
    pub problems: RwSignal<Vec<Problem>>,
    /// Puts a query into the address.
    ask: Callback<String>,
    words: &'static Words,
    form: TrainForm,
    store: Store,
}

impl Opened {
    /// Opens a dataset for the components below.
    pub fn provide(name: &str) -> Self {
        let (store, name) = (store(), StoredValue::new(name.to_owned()));
        let (query, navigate) = (use_query_map(), use_navigate());
        let asked = move |key: &str| query.with(|q| q.get(key));
        let opened = Self {
            name,
            info: Memo::new(move |_| {
                let name = name.get_value();
                store.datasets.with(|all| all.iter().flatten().find(|d| d.name == name).cloned())
            }),
            part: Memo::new(move |_| {
                let part = asked("part").unwrap_or_default();
                Part::ALL.into_iter().find(|p| p.name() == part).unwrap_or_default()
            }),
            row: Memo::new(move |_| asked("row")?.parse::<u64>().ok()?.checked_sub(1)),
            faulty: RwSignal::new(untrack(|| asked("faulty")).is_some()),
            version: RwSignal::new(0),
            busy: RwSignal::new(false),
            problems: RwSignal::default(),
            ask: Callback::new(move |query: String| {
                let path = routes::fill("/data/{name}", &name.get_value());
                let options = NavigateOptions { scroll: false, ..NavigateOptions::default() };
                navigate(&format!("{path}?{query}"), options);
            }),
            words: ui::words(),
            form: train_form(),
            store,
        };
        provide_context(opened);
        opened
    }

    pub fn name(self) -> String {
        self.name.get_value()
    }

    /// A path of the server about this dataset.
    pub fn path(self, route: &str) -> String {
        routes::fill(route, &self.name.get_value())
    }

    /// Shows a part, and a row in it.
    pub fn go(self, part: Part, row: Option<u64>) {
        let row = row.map(|row| format!("&row={}", row + 1)).unwrap_or_default();
        self.ask.run(format!("part={}{row}", part.name()));
    }

    /// Shows the rows with problems alone.
    pub fn show_faulty(self) {
        self.faulty.set(true);
        self.ask.run(format!("part={}&faulty=1", Part::Rows.name()));
    }

    pub fn rows(self) -> u64 {
        self.info.with(|info| info.as_ref().map_or(0, |d| d.rows))
    }

    pub fn is_editable(self) -> bool {
        self.info.with(|info| info.as_ref().is_some_and(|d| d.editable))
    }

    /// The run that the form of Train describes: its model and settings say what tokens are and how many fit.
    pub fn config(self) -> RunConfig {
        untrack(|| self.form.config())
    }

    pub fn has_model(self) -> bool {
        !self.form.values.text("model_name_or_path").is_empty()
    }

    /// Short name of the model of [`Opened::config`].
    pub fn model(self) -> String {
        format::last_part(&self.form.values.text("model_name_or_path")).to_owned()
    }

    /// Changes the dataset.
    pub async fn edit(self, edit: Edit) -> client::Result<()> {
        self.busy.set(true);
        let body = EditDataset { edit, config: self.config() };
        let answer = client::post::<_, Edited>(&self.path(routes::DATASET_EDIT), &body).await;
        // The page may be another by now.
        self.busy.try_set(false);
        let edited = answer?;
        self.store.say(match edited.rows {
            0 => self.words.change_saved.to_owned(),
            rows => fill(self.words.rows_changed, &[("n", &format::count(rows))]),
        });
        self.store.put_dataset(edited.dataset);
        self.version.try_update(|version| *version += 1);
        self.problems.try_set(Vec::new());
        Ok(())
    }

    /// As [`Opened::edit`], with its problems at the head of the dataset.
    pub fn change(self, edit: Edit) {
        if self.busy.get_untracked() {
            return;
        }
        spawn_local(async move {
            if let Err(problems) = self.edit(edit).await {
                self.problems.try_set(problems);
            }
        });
    }

    /// One row with its texts whole.
    pub async fn row_alone(self, row: u64) -> client::Result<PreviewRow> {
        let path = format!("{}?offset={row}&limit=1", self.path(routes::DATASET_ROWS));
        let found = client::get::<Preview>(&path).await?;
        found.rows.into_iter().next().ok_or_else(|| vec![client::no_answer()])
    }

    /// The columns, as they are read and as they are in the file.
    pub async fn columns(self) -> client::Result<Columns> {
        client::get(&self.path(routes::DATASET_COLUMNS)).await
    }
}

pub fn opened() -> Opened {
    expect_context()
}
