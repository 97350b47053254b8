//! `lathe data`: what stands in the dataset folder, what the trainer makes of it, and datasets as files.

use super::pairs;
use crate::{
    args::{Data, DataExport, DataPull, DataRender, DataRun, DataShow},
    config,
    environment::Environment,
    gpu, home,
    outcome::{Failure, Outcome, WRONG},
    pulls,
    runs::RunFolder,
    say::Say,
};
use api::{
    JobKind, Problem, RunConfig,
    data::{DatasetInfo, Finding, Flaw, PreviewRow, RowsWanted, Statistics, TokenPreview},
    hub::PullDataset,
    params::{self, DataParams},
    question::{Answer, Question},
};
use engine::{
    Places,
    data::{self, export::Export, inspect, preview, render::Rendering},
    prepare,
};
use std::{fs::File, io, path::PathBuf};

pub fn run(command: Data, environment: &Environment, say: &Say) -> Outcome {
    // The only one that needs no data folder.
    if let Data::Render(wanted) = command {
        return render(wanted, say);
    }
    home::set_up(&environment.home)?;
    let places = environment.places();
    match command {
        Data::List => list(&places, say),
        Data::Show(wanted) => show(wanted, &places, say),
        Data::Check(of) => check(&of, &places, say),
        Data::Export(wanted) => export(&wanted, &places),
        Data::Pairs(wanted) => pairs::run(wanted, &places, say),
        Data::Pull(wanted) => pull(wanted, environment, say),
        Data::Make { words, resume } => make(&words, resume, environment, say),
        Data::Render(_) => Ok(()),
    }
}

fn list(places: &Places, say: &Say) -> Outcome {
    match engine::ask::answer(Question::Datasets, places) {
        Answer::Datasets { datasets } => {
            let text = || datasets.iter().map(|d| line(d, say)).collect::<Vec<_>>().join("\n");
            say.result(&serde_json::json!({ "datasets": datasets }), text);
            Ok(())
        }
        Answer::Failed { problems } => Err(Failure::new(WRONG, problems)),
        _ => Ok(()),
    }
}

fn show(wanted: DataShow, places: &Places, say: &Say) -> Outcome {
    let DataShow { of, row: number, offset, rows } = wanted;
    let (config, dir) = read(&of, places)?;
    let one = number.map(|number| number - 1);
    let wanted = RowsWanted { offset: one.unwrap_or(offset), limit: one.map_or(rows, |_| 1), ..RowsWanted::default() };
    let shown = preview::rows(&dir, &of.name, &wanted).map_err(Failure::refused)?;
    let text = || shown.rows.iter().map(|r| row(r, say)).collect::<Vec<_>>().join("\n\n");
    let Some(one) = one else {
        say.result(&shown, text);
        return Ok(());
    };
    let tokens = inspect::tokens(&dir, &of.name, one, &config, places).map_err(Failure::refused)?;
    let both = serde_json::json!({ "row": shown.rows.first(), "tokens": tokens });
    say.result(&both, || format!("{}\n\n{}", text(), table(&tokens, say)));
    Ok(())
}

fn pull(wanted: DataPull, environment: &Environment, say: &Say) -> Outcome {
    let DataPull { id, hub, subset, split, name } = wanted;
    let wanted = PullDataset { id, hub, subset, split, name };
    let places = environment.places();
    let ask = |question| async {
        match engine::ask::answer(question, &places) {
            Answer::Failed { problems } => Err(problems.into_iter().next().unwrap_or_default()),
            answer => Ok(answer),
        }
    };
    let dir = places.datasets();
    let pulled = pulls::run(async |progress, cancel| {
        server::hub::pull_dataset(environment.hub.clone(), &dir, wanted, ask, progress, cancel).await
    });
    let dataset: DatasetInfo = pulled.map_err(pulls::failure)?;
    say.result(&dataset, || line(&dataset, say));
    Ok(())
}

fn check(of: &DataRun, places: &Places, say: &Say) -> Outcome {
    let (config, dir) = read(of, places)?;
    let found = inspect::statistics(&dir, &of.name, &config, places, None).map_err(Failure::refused)?;
    let wanted = RowsWanted { limit: preview::MAX_ROWS, faulty: true, ..RowsWanted::default() };
    let faulty = preview::rows(&dir, &of.name, &wanted).map_err(Failure::refused)?;
    let faults: Vec<Problem> = faulty.rows.into_iter().filter_map(|row| row.problem).collect();
    let text = || {
        let faults = faults.iter().map(|problem| say.problem(problem));
        faults.chain([report(&found, say)]).collect::<Vec<_>>().join("\n")
    };
    say.result(&serde_json::json!({ "statistics": found, "faults": faults }), text);
    Ok(())
}

fn export(wanted: &DataExport, places: &Places) -> Outcome {
    let (dir, formatting) = (places.datasets(), wanted.formatting.as_deref());
    let export = Export::begin(&dir, &wanted.name, wanted.file_type(), formatting).map_err(Failure::refused)?;
    let written = match &wanted.output {
        None => export.write(io::stdout()),
        Some(path) => {
            // Whole or not at all.
            let part = path.with_added_extension("part");
            let file = File::create(&part).map_err(|e| Failure::io(&part, e))?;
            let written = export.write(&file).and_then(|()| {
                let moved = file.sync_all().and_then(|()| std::fs::rename(&part, path));
                moved.map_err(engine::Error::io(path))
            });
            if written.is_err() {
                let _ = std::fs::remove_file(&part);
            }
            written
        }
    };
    written.map_err(|error| Failure::failed(error.into_problem()))
}

/// The run's arguments, and the folder that its datasets stand in.
fn read(of: &DataRun, places: &Places) -> Outcome<(RunConfig, PathBuf)> {
    let words: Vec<String> = of.config.iter().chain(&of.words).cloned().collect();
    let config = config::read(&words)?;
    let data: DataParams = params::read(&config)?;
    let dir = prepare::dataset_dir(&data, places);
    Ok((config, dir))
}

fn make(words: &[String], resume: Option<String>, environment: &Environment, say: &Say) -> Outcome {
    let places = environment.places();
    let folder = match resume {
        Some(id) => RunFolder::open(&places.runs().join(id))?,
        None => {
            let config = config::read(words)?;
            gpu::hand_over(&config)?;
            engine::make::arguments(&config, &places).map_err(Failure::refused)?;
            RunFolder::make(JobKind::Make, config, &places)?
        }
    };
    super::train::work(folder, None, environment, say)
}

fn render(wanted: DataRender, say: &Say) -> Outcome {
    let DataRender { template, messages, tools, bos, eos, add_generation_prompt } = wanted;
    let rendering = Rendering { template, messages, tools, bos, eos, add_generation_prompt };
    let text = data::render::render(&rendering).map_err(Failure::refused)?;
    match say.json {
        true => say.json(&serde_json::json!({ "text": text })),
        false => say.exactly(&text),
    }
    Ok(())
}

fn line(dataset: &DatasetInfo, say: &Say) -> String {
    let DatasetInfo { name, formatting, kind, rows, file, problem, .. } = dataset;
    let line = format!("{name:<28} {formatting:<9} {kind:<13} {rows:>8}  {file}");
    problem.as_ref().map_or(line.clone(), |p| format!("{line}\n{}", say.problem(p)))
}

fn row(row: &PreviewRow, say: &Say) -> String {
    let number = row.index + 1;
    if let Some(problem) = &row.problem {
        return format!("#{number}\n{}", say.problem(problem));
    }
    let messages: Vec<_> = row.messages.iter().map(|m| format!("{}: {}", m.role, m.content)).collect();
    let text = if messages.is_empty() { row.raw.to_string() } else { messages.join("\n") };
    format!("#{number}\n{text}")
}

/// A token a line: its place, its id, whether it is trained, its text.
fn table(tokens: &TokenPreview, say: &Say) -> String {
    let cut = if say.is_chinese() { "截断" } else { "cut off" };
    let mut lines: Vec<String> = Vec::with_capacity(tokens.tokens.len() + 2);
    for (place, token) in tokens.tokens.iter().enumerate() {
        if place as u64 == tokens.kept {
            lines.push(format!("--- cutoff_len {}: {cut} ---", tokens.cutoff_len));
        }
        let mark = if token.trained { '*' } else { ' ' };
        lines.push(format!("{place:>6} {:>7} {mark} {:?}", token.id, token.text));
    }
    let TokenPreview { kept, trained, template, sha256, .. } = tokens;
    let all = tokens.tokens.len();
    lines.push(match say.is_chinese() {
        true => format!("{all} 个词元，保留 {kept} 个，训练（*）{trained} 个；模板 {template}\nsha256 {sha256}"),
        false => format!("{all} tokens, {kept} kept, {trained} trained (*); template {template}\nsha256 {sha256}"),
    });
    lines.join("\n")
}

fn report(found: &Statistics, say: &Say) -> String {
    let Statistics { rows, tokens, trained, longest, median, cutoff_len, .. } = found;
    let languages: Vec<String> = found.languages.iter().map(|(language, rows)| format!("{language} {rows}")).collect();
    let languages = languages.join(", ");
    let mut lines = vec![match say.is_chinese() {
        true => format!(
            "{rows} 行，{tokens} 个词元，训练 {trained} 个\n长度：中位数 {median}，最长 {longest}，cutoff_len {cutoff_len}\n语言：{languages}"
        ),
        false => format!(
            "{rows} rows, {tokens} tokens, {trained} of them trained\nlength: median {median}, longest {longest}, cutoff_len {cutoff_len}\nlanguages: {languages}"
        ),
    }];
    let most = found.lengths.iter().map(|bar| bar.rows).max().unwrap_or(0).max(1);
    for bar in &found.lengths {
        let width = (bar.rows * 40).div_ceil(most) as usize;
        lines.push(format!("{:>8} {:<40} {}", bar.from, "#".repeat(width), bar.rows));
    }
    lines.extend(found.findings.iter().map(|finding| told(finding, say)));
    if found.findings.is_empty() {
        lines.push(if say.is_chinese() { "未发现问题。" } else { "Nothing stands out." }.into());
    }
    lines.join("\n")
}

/// A finding with its rows, from 1.
fn told(finding: &Finding, say: &Say) -> String {
    let [en, zh] = match finding.flaw {
        Flaw::Faulty => ["can't be read", "无法读取"],
        Flaw::Duplicate => ["duplicate an earlier one", "与之前的行重复"],
        Flaw::EmptyAnswer => ["have an empty answer", "回答为空"],
        Flaw::AllMasked => ["have no trained token", "没有可训练的词元"],
        Flaw::Truncated => ["are longer than cutoff_len", "超过 cutoff_len"],
    };
    let named: Vec<String> = finding.first.iter().map(|row| (row + 1).to_string()).collect();
    let more = if finding.rows > named.len() as u64 { ", …" } else { "" };
    let (rows, named) = (finding.rows, named.join(", "));
    let line = match say.is_chinese() {
        true => format!("{rows} 行{zh}：{named}{more}"),
        false => format!("{rows} rows {en}: {named}{more}"),
    };
    // One that only the template refuses isn't among the faults of the file.
    let template = finding.problem.as_ref().filter(|problem| !problem.code.starts_with("row_"));
    template.map_or(line.clone(), |p| format!("{line}\n  {}", say.problem(p)))
}
