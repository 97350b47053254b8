//! Metrics of a run in words, as the catalog has them.

use crate::{i18n::fill, store::store, ui};
use api::{
    Job,
    catalog::{Better, MetricCard},
    job::validated,
};
use leptos::prelude::*;

/// The stage whose metrics a run tells.
pub fn stage(job: &Job) -> String {
    job.config.text("stage").unwrap_or("sft").to_owned()
}

/// What runs of a stage tell, in the order in which it is shown; nothing before the catalog is there.
pub fn cards(stage: &str) -> Vec<MetricCard> {
    store().catalog.with(|catalog| catalog.as_ref().and_then(|c| c.metrics.get(stage).cloned()).unwrap_or_default())
}

/// What a metric is called; one that nobody knows goes by its name.
pub fn title(stage: &str, name: &str) -> String {
    let title = store().catalog.with(|c| c.as_ref().and_then(|c| c.metric(stage, name)).map(|card| card.title.clone()));
    let title = title.map_or_else(|| name.to_owned(), |title| ui::language().of(&title));
    if validated(name).is_some() { fill(ui::words().of_validation, &[("name", &title)]) } else { title }
}

/// What a metric is and which way it should go, in a line; nothing of one that nobody knows.
pub fn help(stage: &str, name: &str) -> Option<String> {
    let w = ui::words();
    let card = store().catalog.with(|c| c.as_ref().and_then(|c| c.metric(stage, name)).cloned())?;
    let better = card.better.map(|better| match better {
        Better::Higher => w.better_higher,
        Better::Lower => w.better_lower,
    });
    let help = ui::language().of(&card.help);
    Some(match better {
        Some(better) => fill(w.two_sentences, &[("first", &help), ("second", better)]),
        None => help,
    })
}
