//! What ModelScope says otherwise than Hugging Face: lists of files come in pages and tell the sha256 of each file, files
//! are asked for by query, and there is no commit.

use super::{
    Download, Hub, Kind, Repo,
    listing::{Listing, Sibling},
    problems,
    request::{self, Client},
};
use api::Problem;
use reqwest::Url;
use serde::Deserialize;
use sha2::{Digest, Sha256};

/// Files in a page of a dataset's list.
const PAGE: usize = 200;
/// More pages than any repository has.
const MOST_PAGES: usize = 5000;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[derive(Default)]
struct Answer {
    success: Option<bool>,
    message: String,
    data: Option<Data>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Data {
    files: Option<Vec<File>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct File {
    path: String,
    /// `tree` for a folder.
    #[serde(default)]
    r#type: String,
    #[serde(default)]
    size: Option<u64>,
    #[serde(default)]
    sha256: Option<String>,
    /// The commit that last changed the file.
    #[serde(default)]
    revision: Option<String>,
}

/// Every file. As there is no commit, the list itself is made into one: it changes when a file does.
pub async fn list(hub: &Hub, client: &Client, repo: Repo<'_>) -> Result<Listing, Problem> {
    let mut siblings = Vec::new();
    for page in 1..=MOST_PAGES {
        let url = list_url(hub, client, repo, page);
        let body = hub.text(client, &url, repo).await?;
        let bad = |what: &str| problems::bad_answer(&request::shown(&url), what);
        let answer: Answer = serde_json::from_slice(&body).map_err(|e| bad(&e.to_string()))?;
        if answer.success == Some(false) {
            return Err(bad(&answer.message));
        }
        let files = answer.data.and_then(|data| data.files).ok_or_else(|| bad("no list of files"))?;
        let is_last = files.len() < PAGE || hub.kind == Kind::Model;
        siblings.extend(files.into_iter().filter(|file| file.r#type != "tree").map(sibling));
        if is_last {
            break;
        }
    }
    let mut digest = Sha256::new();
    for file in &siblings {
        digest.update(format!("{}\n{}\n", file.name, file.etag));
    }
    let sha = digest.finalize().iter().take(20).map(|byte| format!("{byte:02x}")).collect();
    Ok(Listing { sha, siblings })
}

/// How a file is downloaded.
pub fn download(hub: &Hub, client: &Client, repo: Repo<'_>, file: &Sibling) -> Download {
    let mut url = client.url(["api", "v1", hub.kind.word()].into_iter().chain(repo.id.split('/')).chain(["repo"]));
    url.query_pairs_mut().append_pair("Revision", repo.revision).append_pair("FilePath", &file.name);
    Download { name: file.name.clone(), url, etag: file.etag.clone(), size: file.size }
}

fn list_url(hub: &Hub, client: &Client, repo: Repo<'_>, page: usize) -> Url {
    let leaf = if hub.kind == Kind::Dataset { "tree" } else { "files" };
    let mut url =
        client.url(["api", "v1", hub.kind.word()].into_iter().chain(repo.id.split('/')).chain(["repo", leaf]));
    let mut query = url.query_pairs_mut();
    query.append_pair("Revision", repo.revision).append_pair("Recursive", "true");
    if hub.kind == Kind::Dataset {
        query.append_pair("Root", "/");
        query.append_pair("PageNumber", &page.to_string()).append_pair("PageSize", &PAGE.to_string());
    }
    drop(query);
    url
}

fn sibling(file: File) -> Sibling {
    let sha256 = file.sha256.filter(|sha| sha.len() == 64).map(|sha| sha.to_ascii_lowercase());
    // Without a sum, the file at its commit stands for its content.
    let etag = sha256.unwrap_or_else(|| format!("{}@{}", file.path, file.revision.unwrap_or_default()));
    Sibling { name: file.path, size: file.size, etag: request::file_name(&etag) }
}
