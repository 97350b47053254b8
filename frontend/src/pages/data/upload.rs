//! Uploading a file: dropped or chosen, with its progress, and what is wrong with it if something is.

use crate::{
    client, format,
    i18n::fill,
    parts::{ProblemNote, icon, job::Bar},
    store::store,
    ui,
};
use api::{Problem, data::DatasetInfo, routes};
use leptos::{html, prelude::*};
use leptos_router::hooks::use_navigate;
use wasm_bindgen::{JsCast, prelude::Closure};
use web_sys::{FormData, ProgressEvent, XmlHttpRequest};

#[derive(Clone, Debug, PartialEq)]
struct Sending {
    name: String,
    done: u64,
    total: u64,
}

#[component]
pub fn Upload() -> impl IntoView {
    let w = ui::words();
    let store = store();
    let over = RwSignal::new(false);
    let sending = RwSignal::new(None::<Sending>);
    let problems = RwSignal::new(Vec::<Problem>::new());
    let input = NodeRef::<html::Input>::new();
    let navigate = use_navigate();
    let done = Callback::new(move |result: client::Result<DatasetInfo>| {
        sending.set(None);
        match result {
            Ok(info) => {
                store.say(fill(w.uploaded, &[("name", &info.name), ("rows", &format::count(info.rows))]));
                let href = routes::fill("/data/{name}", &info.name);
                store.datasets.update(|all| {
                    let all = all.get_or_insert_default();
                    all.retain(|d| d.name != info.name);
                    all.push(info);
                    all.sort_by(|a, b| a.name.cmp(&b.name));
                });
                navigate(&href, Default::default());
            }
            Err(found) => problems.set(found),
        }
    });
    let send = move |files: Option<web_sys::FileList>| {
        let Some(file) = files.and_then(|files| files.get(0)) else { return };
        if sending.get_untracked().is_some() {
            return;
        }
        problems.set(Vec::new());
        let taken =
            store.datasets.with_untracked(|all| all.iter().flatten().map(|d| d.name.clone()).collect::<Vec<_>>());
        let name = free_name(&file.name(), &taken);
        sending.set(Some(Sending { name: name.clone(), done: 0, total: file.size() as u64 }));
        if post(&name, &file, sending, done).is_none() {
            done.run(Err(vec![client::no_answer()]));
        }
    };
    let dropped = move |e: leptos::ev::DragEvent| {
        e.prevent_default();
        over.set(false);
        send(e.data_transfer().and_then(|data| data.files()));
    };
    let progress = move || {
        sending.get().map(|s| {
            let sent = s.total > 0 && s.done >= s.total;
            let text = if sent { w.upload_checking } else { w.uploading };
            let amount = fill(w.of_bytes, &[("done", &format::bytes(s.done)), ("total", &format::bytes(s.total))]);
            let share = s.done as f64 / s.total.max(1) as f64;
            view! {
                <section class="card" data-testid="upload-progress">
                    <Bar share=Signal::stored(Some(share)) label=w.upload>
                        <span><b>{fill(text, &[("name", &s.name)])}</b></span><span class="push">{amount}</span>
                    </Bar>
                </section>
            }
        })
    };
    view! {
        <label class="drop" class:over=over
            on:dragover=move |e| { e.prevent_default(); over.set(true); } on:dragleave=move |_| over.set(false) on:drop=dropped>
            {icon("file", 26)}<b>{w.drop_here}</b><span>{w.drop_kinds}</span>
            <input class="vh" type="file" data-testid="upload-input" node_ref=input
                accept=".json,.jsonl,.ndjson,.txt,.csv,.tsv,.gz,.parquet,.arrow,.feather"
                on:change=move |_| if let Some(input) = input.get_untracked() { send(input.files()); input.set_value(""); } />
        </label>
        {progress}
        {move || problems.get().into_iter().map(|problem| view! { <div data-testid="upload-problem"><ProblemNote problem /></div> }).collect_view()}
    }
}

/// Posts the file; `fetch` can't tell how far an upload is.
fn post(
    name: &str,
    file: &web_sys::File,
    sending: RwSignal<Option<Sending>>,
    done: Callback<client::Result<DatasetInfo>>,
) -> Option<()> {
    let form = FormData::new().ok()?;
    form.append_with_str("name", name).ok()?;
    form.append_with_blob_and_filename("file", file, &file.name()).ok()?;
    let request = XmlHttpRequest::new().ok()?;
    request.open("POST", routes::DATASETS).ok()?;
    let progress = Closure::<dyn Fn(ProgressEvent)>::new(move |e: ProgressEvent| {
        sending.try_update(|s| {
            if let Some(s) = s {
                (s.done, s.total) = (e.loaded() as u64, e.total() as u64);
            }
        });
    });
    request.upload().ok()?.set_onprogress(Some(progress.as_ref().unchecked_ref()));
    progress.forget();
    let answer = request.clone();
    let ended = Closure::once_into_js(move || {
        let status = answer.status().unwrap_or(0);
        let body = answer.response_text().ok().flatten().unwrap_or_default();
        done.try_run(match status {
            0 => Err(vec![client::no_answer()]),
            200..300 => serde_json::from_str(&body).map_err(|_| vec![client::bad_answer(&status.to_string())]),
            _ => Err(client::problems(status, &body)),
        });
    });
    request.set_onloadend(Some(ended.unchecked_ref()));
    request.send_with_opt_form_data(Some(&form)).ok()
}

/// A dataset name out of a file name: letters, digits, `_` and `-`, and a number if it is taken.
fn free_name(file: &str, taken: &[String]) -> String {
    let file = crate::format::last_part(file);
    let stem = file.strip_suffix(".gz").unwrap_or(file);
    let stem = stem.rsplit_once('.').map_or(stem, |(stem, _)| stem);
    let word: String =
        stem.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).take(60).collect();
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
        assert_eq!(free_name("数据.csv", &[]), "dataset");
        assert_eq!(free_name("../../etc/passwd", &[]), "passwd");
        assert_eq!(free_name("rows.json.gz", &[]), "rows");
    }
}
