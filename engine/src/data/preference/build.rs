//! A dataset made of pairs.

use super::{Kept, Pair, kept, prompt_of};
use crate::{
    Error, Places, Result,
    data::{Example, Format, Row, format, preview},
    files::write_atomically,
};
use api::{
    Problem,
    data::{DatasetInfo, Message},
    preference::{BuildPairs, PairRows},
};
use serde_json::{Map, Value, json};
use std::collections::{HashMap, hash_map::Entry};

/// Writes the pairs that the filters leave as the dataset `wanted.name` and registers it.
pub fn build(wanted: &BuildPairs, places: &Places) -> Result<DatasetInfo> {
    let (dir, name) = (places.datasets(), wanted.name.trim());
    preview::check_name(name)?;
    let path = dir.join(format!("{name}.jsonl"));
    if path.symlink_metadata().is_ok() {
        return Err(preview::taken(name));
    }
    let formatting = if wanted.formatting.is_empty() { "alpaca" } else { &wanted.formatting };
    let format = format(formatting)?;
    let Kept { pairs, counts, .. } = kept(&wanted.sources, &wanted.filter, places)?;
    let rows = match wanted.rows {
        PairRows::Ranking => ranking(&pairs, wanted, format)?,
        PairRows::Kto => ratings(&pairs, format)?,
    };
    let Some(first) = rows.first() else {
        let broken = counts.into_iter().find_map(|count| count.problem);
        return Err(broken.unwrap_or_else(no_pairs).into());
    };
    let mut entry =
        format.recognise(first).ok_or_else(|| Error::Internal(format!("{formatting} row not recognised")))?;
    if let Some(columns) = entry.get_mut("columns").and_then(Value::as_object_mut) {
        // Not every row has them.
        for column in ["system", "history", "tools"].into_iter().filter(|c| rows.iter().any(|row| row.contains_key(*c)))
        {
            columns.insert(column.into(), column.into());
        }
    }
    entry.shift_insert(0, "file_name".into(), format!("{name}.jsonl").into());
    let mut text = Vec::new();
    for row in &rows {
        serde_json::to_writer(&mut text, row).map_err(|e| Error::Internal(e.to_string()))?;
        text.push(b'\n');
    }
    write_atomically(&path, text)?;
    preview::add(&dir, name, entry).inspect_err(|_| drop(std::fs::remove_file(&path)))?;
    preview::one(&dir, name, Some(1))
}

/// A row with both answers for each pair, as often as the weight of its source says.
fn ranking(pairs: &[Pair], wanted: &BuildPairs, format: &dyn Format) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for pair in pairs {
        let source = wanted.sources.get(pair.source);
        let mut provenance = Map::new();
        provenance.insert("source".into(), json!(pair.origin));
        provenance.extend(source.map(|source| ("dataset".into(), source.dataset.as_str().into())));
        provenance.extend(pair.gap.map(|gap| ("gap".into(), gap.into())));
        provenance.extend(pair.on_policy.map(|own| ("on_policy".into(), json!(own))));
        provenance.extend(pair.adversarial.then(|| ("adversarial".into(), true.into())));
        let mut row = format.row(&pair.example)?;
        row.insert("provenance".into(), provenance.into());
        let times = pair.times(source.map_or(1.0, |source| source.weight));
        rows.extend((0..times).map(|_| row.clone()));
    }
    Ok(rows)
}

/// A row for each answer that won more often than it lost, or the other way round.
fn ratings(pairs: &[Pair], format: &dyn Format) -> Result<Vec<Row>> {
    let mut order = Vec::<(Example, i64)>::new();
    let mut places = HashMap::<(String, String), usize>::new();
    for pair in pairs {
        let [chosen, rejected] = pair.answers();
        for (answer, point) in [(chosen, 1), (rejected, -1)] {
            match places.entry((prompt_of(&pair.example), answer.to_owned())) {
                Entry::Occupied(at) => order[*at.get()].1 += point,
                Entry::Vacant(free) => {
                    free.insert(order.len());
                    let mut example = Example { chosen: None, rejected: None, ..pair.example.clone() };
                    example.messages.push(Message::new("assistant", answer));
                    order.push((example, point));
                }
            }
        }
    }
    let rated = order.into_iter().filter(|(_, points)| *points != 0);
    let rows = rated.map(|(example, points)| format.row(&Example { desirable: Some(points > 0), ..example }));
    Ok(rows.collect::<std::result::Result<_, _>>()?)
}

fn no_pairs() -> Problem {
    Problem::new("no_pairs", "No pair is left to make a dataset of.", "没有可用于生成数据集的回答对。")
        .hint("Vote on answers, add a source, or loosen the filters.", "请对回答投票、添加来源，或放宽筛选条件。")
        .field("sources")
}
