//! `lathe data pairs`: what datasets of answers come to as pairs, and a dataset made of them. The same as the Preferences tab.

use crate::{
    args::DataPairs,
    outcome::{Failure, Outcome, WRONG},
    say::Say,
};
use api::{
    data::DatasetInfo,
    preference::{BuildPairs, Origin, PairFilter, Pairs, PairsWanted, SourceCount},
};
use engine::{Places, data::preference};
use serde_json::json;

/// Counts the pairs; with a name, also makes the dataset. A source that gives nothing is refused: no one looks on.
pub fn run(wanted: DataPairs, places: &Places, say: &Say) -> Outcome {
    let DataPairs { sources, name, rows, formatting, pairing, min_gap, max_gap, adversarial, on_policy } = wanted;
    let filter = PairFilter { pairing, min_gap, max_gap, adversarial, on_policy };
    let counted = PairsWanted { sources: sources.clone(), filter: filter.clone(), ..PairsWanted::default() };
    let found = preference::pairs(&counted, places).map_err(Failure::refused)?;
    let problems: Vec<_> = found.sources.iter().filter_map(|source| source.problem.clone()).collect();
    if !problems.is_empty() {
        return Err(Failure::new(WRONG, problems));
    }
    let made = match name {
        Some(name) => {
            let wanted = BuildPairs { name, sources, filter, rows, formatting: formatting.unwrap_or_default() };
            Some(preference::build(&wanted, places).map_err(Failure::refused)?)
        }
        None => None,
    };
    say.result(&json!({ "pairs": found, "dataset": made }), || report(&found, made.as_ref(), say));
    Ok(())
}

fn report(found: &Pairs, made: Option<&DatasetInfo>, say: &Say) -> String {
    let mut lines: Vec<String> = found.sources.iter().map(|count| source(count, say)).collect();
    let Pairs { found: all, kept, rows, dropped, .. } = found;
    lines.push(match say.is_chinese() {
        true => format!("共 {all} 对，保留 {kept} 对，按权重为 {rows} 行"),
        false => format!("{kept} of {all} pairs kept, {rows} rows by the weights of their sources"),
    });
    let drops = [
        (dropped.duplicate, ["duplicate", "重复"]),
        (dropped.min_gap, ["below min_gap", "低于 min_gap"]),
        (dropped.max_gap, ["above max_gap", "高于 max_gap"]),
        (dropped.adversarial, ["by the adversarial tag", "因对抗标签"]),
        (dropped.on_policy, ["for the on-policy share", "为达到自采样比例"]),
    ];
    let drops: Vec<String> = drops
        .into_iter()
        .filter(|(n, _)| *n > 0)
        .map(|(n, [en, zh])| if say.is_chinese() { format!("{zh} {n} 对") } else { format!("{n} {en}") })
        .collect();
    if !drops.is_empty() {
        let told = if say.is_chinese() { ["去掉：", "，"] } else { ["dropped: ", ", "] };
        lines.push(format!("{}{}", told[0], drops.join(told[1])));
    }
    if let Some(DatasetInfo { name, rows, file, .. }) = made {
        lines.push(match say.is_chinese() {
            true => format!("已生成数据集 {name}：{rows} 行，{file}"),
            false => format!("dataset {name}: {rows} rows, {file}"),
        });
    }
    lines.join("\n")
}

/// What one source gives, and how far its judge agrees with itself and with the votes.
fn source(count: &SourceCount, say: &Say) -> String {
    let SourceCount { dataset, origins, found, kept, ties, agreement, with_votes, .. } = count;
    let zh = say.is_chinese();
    let origins: Vec<&str> = origins.iter().map(|origin| origin_name(*origin)[usize::from(zh)]).collect();
    let mut parts = vec![match zh {
        true => format!("{found} 对，保留 {kept} 对"),
        false => format!("{found} pairs, {kept} kept"),
    }];
    if *ties > 0 {
        parts.push(if zh { format!("平局 {ties} 对") } else { format!("{ties} tied") });
    }
    if let Some(share) = agreement {
        let share = share * 100.0;
        parts.push(if zh {
            format!("评审一致率 {share:.0} %")
        } else {
            format!("judge agrees with itself on {share:.0} %")
        });
    }
    if let Some(with) = with_votes {
        let (agreed, pairs) = (with.agreed, with.pairs);
        let kappa = with.kappa.map(|kappa| format!(" (kappa {kappa:.2})")).unwrap_or_default();
        parts.push(match zh {
            true => format!("{pairs} 对中 {agreed} 对与投票一致{kappa}"),
            false => format!("{agreed} of {pairs} as the votes say{kappa}"),
        });
    }
    format!("{dataset:<28} {:<16} {}", origins.join(", "), parts.join(if zh { "，" } else { ", " }))
}

fn origin_name(origin: Origin) -> [&'static str; 2] {
    match origin {
        Origin::Votes => ["votes", "投票"],
        Origin::Judge => ["judge", "评审"],
        Origin::Scores => ["scores", "评分"],
        Origin::Ranking => ["ranking", "排名"],
        Origin::Pairs => ["pairs", "成对数据"],
    }
}
