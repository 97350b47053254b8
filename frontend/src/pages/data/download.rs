//! A dataset as a file: its type, and whether its rows are written as they stand or in another format.

use super::opened::Opened;
use crate::{
    client, format,
    i18n::fill,
    parts::{Dialog, icon, note::problem_notes},
    ui,
};
use api::{Problem, routes};
use leptos::{prelude::*, task::spawn_local};
use wasm_bindgen::JsCast;
use web_sys::{Blob, HtmlAnchorElement, Url};

/// Words of [`FileType`](api::data::FileType).
const TYPES: [&str; 5] = ["json", "jsonl", "csv", "parquet", "arrow"];

#[component]
pub fn Download(open: RwSignal<bool>, opened: Opened) -> impl IntoView {
    let w = ui::words();
    let (kind, formatting) = (RwSignal::new("json"), RwSignal::new(""));
    let (waiting, problems) = (RwSignal::new(false), RwSignal::new(Vec::<Problem>::new()));
    let types = TYPES.into_iter().map(move |name| choice("download-type", kind, name, name));
    let formats = [("", w.as_it_stands), ("alpaca", "alpaca"), ("sharegpt", "sharegpt"), ("openai", "openai")];
    let formats = formats.into_iter().map(move |(value, word)| choice("download-format", formatting, value, word));
    let start = move |_| {
        let (kind, formatting) = (kind.get(), formatting.get());
        let mut path = format!("{}?type={kind}", opened.path(routes::DATASET_FILE));
        if !formatting.is_empty() {
            path = format!("{path}&formatting={formatting}");
        }
        let name = format!("{}.{kind}", opened.name());
        waiting.set(true);
        spawn_local(async move {
            let found = client::get_blob(&path).await;
            if waiting.try_set(false).is_some() {
                return;
            }
            match found {
                Ok(blob) => {
                    save(&blob, &name);
                    problems.set(Vec::new());
                    open.set(false);
                }
                Err(found) => problems.set(found),
            }
        });
    };
    let size = move || opened.info.with(|info| info.as_ref().map(|d| format::bytes(d.bytes)));
    let help = move || size().map(|size| fill(w.download_help, &[("size", &size)]));
    view! {
        <Dialog open title=Signal::stored(fill(w.download_title, &[("name", &opened.name())]))>
            <p class="soft s">{help}</p>
            <div class="stack mt">
                <div class="field"><span class="label" id="download-type">{w.file_type}</span>
                    <div class="seg" role="radiogroup" aria-labelledby="download-type">{types.collect_view()}</div></div>
                <div class="field"><span class="label" id="download-format">{w.row_format}</span>
                    <div class="seg" role="radiogroup" aria-labelledby="download-format">{formats.collect_view()}</div></div>
                {move || problem_notes(problems.get())}
            </div>
            <div class="row end">
                <button type="button" class="btn" on:click=move |_| open.set(false)>{w.close}</button>
                <button type="button" class="btn primary" data-testid="download-start" disabled=waiting on:click=start>
                    {icon("down", 18)}{move || if waiting.get() { w.preparing } else { w.download }}
                </button>
            </div>
        </Dialog>
    }
}

fn choice(
    group: &'static str,
    chosen: RwSignal<&'static str>,
    value: &'static str,
    word: &'static str,
) -> impl IntoView {
    view! {
        <label><input type="radio" name=group value=value prop:checked=move || chosen.get() == value
            on:change=move |_| chosen.set(value) />{word}</label>
    }
}

/// Hands a file to the browser's downloads.
fn save(blob: &Blob, name: &str) {
    let Ok(url) = Url::create_object_url_with_blob(blob) else { return };
    if let Some(link) = document().create_element("a").ok().and_then(|e| e.dyn_into::<HtmlAnchorElement>().ok()) {
        link.set_href(&url);
        link.set_download(name);
        link.click();
    }
    let _ = Url::revoke_object_url(&url);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_knows_every_type() {
        for name in TYPES {
            assert!(serde_json::from_value::<api::data::FileType>(name.into()).is_ok(), "{name}");
        }
    }
}
