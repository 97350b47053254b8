//! Downloads of models and datasets from a Hugging Face hub, a mirror of one or ModelScope, into Hugging Face's own cache
//! layout. The only place of Lathe that goes out to the network by itself.
//!
//! What a server sends is checked: names can't leave the cache, content must have the sha256 (or git object id) that
//! the hub promised, and the token goes to the configured host alone.

mod cache;
mod dataset;
mod listing;
mod modelscope;
mod problems;
pub(crate) mod request;

pub use dataset::pull_dataset;

use api::{Problem, hub::HubName};
use cache::RepoFolder;
use listing::{Listing, Sibling, Wanted};
use request::{Client, PATIENCE, Remote, Retries, Trouble};
use reqwest::{StatusCode, Url};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio_util::sync::CancellationToken;

/// What the environment says about the hub; read by `cli` only.
#[derive(Clone, Debug, Default)]
pub struct HubSettings {
    /// `HF_ENDPOINT`; huggingface.co where absent.
    pub endpoint: Option<String>,
    /// `HF_HOME`; the cache is its folder `hub`, the stored token its file `token`.
    pub home: PathBuf,
    /// `HF_TOKEN`.
    pub token: Option<String>,
    /// `HF_HUB_OFFLINE`.
    pub offline: bool,
    /// `MODELSCOPE_DOMAIN`; www.modelscope.cn where absent.
    pub modelscope: Option<String>,
    /// `MODELSCOPE_API_TOKEN`.
    pub modelscope_token: Option<String>,
    /// `USE_MODELSCOPE_HUB`.
    pub prefers_modelscope: bool,
}

impl HubSettings {
    /// Where a dataset is downloaded from that several hubs have: ModelScope if that was asked for, or if it is the only
    /// one with an address of its own.
    pub fn preferred(&self) -> HubName {
        let only_address = self.modelscope.is_some() && self.endpoint.is_none();
        if self.prefers_modelscope || only_address { HubName::Ms } else { HubName::Hf }
    }
}

/// What a repository holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Model,
    Dataset,
}

impl Kind {
    /// `models`, as addresses and folders have it.
    fn word(self) -> &'static str {
        match self {
            Self::Model => "models",
            Self::Dataset => "datasets",
        }
    }
}

/// A hub and the cache folder that belongs to it.
#[derive(Clone, Debug)]
pub struct Hub {
    pub name: HubName,
    pub kind: Kind,
    pub endpoint: Url,
    pub token: Option<String>,
    pub cache_dir: PathBuf,
    pub offline: bool,
    /// Wait after the first failure; it doubles with each further one.
    pub first_wait: Duration,
}

/// How far a download is, in bytes over all files, and the file at hand.
#[derive(Clone, Debug, PartialEq)]
pub struct Progress {
    pub done: u64,
    pub total: u64,
    pub file: String,
}

impl Hub {
    /// Hugging Face's hub of models, with its cache.
    pub fn from_settings(settings: HubSettings) -> Result<Self, Problem> {
        let stored = || fs::read_to_string(settings.home.join("token")).ok();
        Ok(Self {
            name: HubName::Hf,
            kind: Kind::Model,
            endpoint: address("HF_ENDPOINT", settings.endpoint.as_deref(), "https://huggingface.co")?,
            token: settings.token.or_else(stored).and_then(header_word),
            cache_dir: settings.home.join("hub"),
            offline: settings.offline,
            first_wait: Duration::from_millis(500),
        })
    }

    /// A hub of datasets; they go into the dataset folder `dir`.
    pub fn of_datasets(settings: HubSettings, name: HubName, dir: &Path) -> Result<Self, Problem> {
        let (given, token) = (settings.modelscope.clone(), settings.modelscope_token.clone());
        let hub = Self { name, kind: Kind::Dataset, ..Self::from_settings(settings)? };
        let hub = Self { cache_dir: dir.join(api::hub::FOLDER).join(name.word()), ..hub };
        if name == HubName::Hf {
            return Ok(hub);
        }
        let given = given.map(|a| if a.contains("://") { a } else { format!("https://{}", a.trim()) });
        let endpoint = address("MODELSCOPE_DOMAIN", given.as_deref(), "https://www.modelscope.cn")?;
        Ok(Self { endpoint, token: token.and_then(header_word), ..hub })
    }

    /// Downloads what Lathe reads of `id` (`owner/name`, or `owner/name/file.gguf`) at `revision` (empty: `main`) and
    /// gives the snapshot folder, or the GGUF file in it when one was named. What is in the cache isn't downloaded
    /// again; what was cut off goes on where it stopped. The snapshot appears only when all of its files are there.
    pub async fn pull(
        &self,
        id: &str,
        revision: &str,
        progress: impl Fn(Progress) + Send + Sync,
        cancel: CancellationToken,
    ) -> Result<PathBuf, Problem> {
        let wanted = Wanted::parse(id)?;
        let revision = if revision.is_empty() { "main" } else { revision };
        if !listing::is_revision(revision) {
            return Err(problems::bad_revision(revision));
        }
        if self.offline {
            return Err(problems::offline(id));
        }
        tokio::select! {
            _ = cancel.cancelled() => Err(problems::cancelled(id)),
            result = self.pull_wanted(&wanted, revision, &progress) => result,
        }
    }

    async fn pull_wanted(
        &self,
        wanted: &Wanted,
        revision: &str,
        progress: &(impl Fn(Progress) + Send + Sync),
    ) -> Result<PathBuf, Problem> {
        let client = Client::new(self)?;
        let repo = Repo { id: &wanted.repo, revision };
        let listing = self.list(&client, repo).await?;
        let mut commit = listing.commit();
        let chosen = listing::choose(wanted, &listing)?;
        let files = self.resolve(&client, repo, &chosen, &mut commit).await?;
        let folder = self.folder(repo)?;
        let snapshot = self.obtain(&client, &folder, repo, commit, &files, progress).await?;
        Ok(wanted.file.as_ref().map_or(snapshot.clone(), |file| snapshot.join(file)))
    }

    fn folder(&self, repo: Repo<'_>) -> Result<RepoFolder, Problem> {
        let folder = RepoFolder::new(&self.cache_dir, self.kind, repo.id);
        folder.create()?;
        Ok(folder)
    }

    /// Every file of the repository.
    async fn list(&self, client: &Client, repo: Repo<'_>) -> Result<Listing, Problem> {
        if self.name == HubName::Ms {
            return modelscope::list(self, client, repo).await;
        }
        let words = ["api", self.kind.word()].into_iter().chain(repo.id.split('/'));
        let mut url = client.url(words.chain(["revision", repo.revision]));
        url.set_query(Some("blobs=true"));
        let body = self.text(client, &url, repo).await?;
        serde_json::from_slice(&body).map_err(|e| problems::bad_answer(&request::shown(&url), &e.to_string()))
    }

    /// A small answer, with patience.
    async fn text(&self, client: &Client, url: &Url, repo: Repo<'_>) -> Result<Vec<u8>, Problem> {
        const LARGEST_LISTING: usize = 32 << 20;
        let mut retries = Retries::new(self.first_wait);
        loop {
            match client.text(url.clone(), LARGEST_LISTING).await {
                Ok(body) => return Ok(body),
                Err(trouble) => retries.after(explained(trouble, repo)).await?,
            }
        }
    }

    /// Addresses, sizes and etags of files. `commit` is what is known of it before and after.
    async fn resolve(
        &self,
        client: &Client,
        repo: Repo<'_>,
        chosen: &[&Sibling],
        commit: &mut Option<String>,
    ) -> Result<Vec<Download>, Problem> {
        if self.name == HubName::Ms {
            return Ok(chosen.iter().map(|file| modelscope::download(self, client, repo, file)).collect());
        }
        let mut files = Vec::new();
        for file in chosen {
            // By commit where it is known: a push in the middle of the download can't mix two versions.
            let at = commit.as_deref().unwrap_or(repo.revision);
            // Models stand at the root of the hub, datasets below `datasets`.
            let root = Some(self.kind.word()).filter(|_| self.kind == Kind::Dataset);
            let words = root.into_iter().chain(repo.id.split('/')).chain(["resolve", at]);
            let url = client.url(words.chain(file.name.split('/')));
            let remote = self.head(client, &url, repo).await?;
            let told = remote.commit.clone().filter(|sha| is_commit(sha));
            if commit.is_some() && told.is_some() && *commit != told {
                return Err(problems::bad_answer(&request::shown(&url), "it belongs to another commit"));
            }
            *commit = commit.take().or(told);
            files.push(Download { name: file.name.clone(), url, size: remote.size.or(file.size), etag: remote.etag });
        }
        Ok(files)
    }

    /// Has the files in the cache and shows them, all at once, in the snapshot folder, which it gives.
    async fn obtain(
        &self,
        client: &Client,
        folder: &RepoFolder,
        repo: Repo<'_>,
        commit: Option<String>,
        files: &[Download],
        progress: &(impl Fn(Progress) + Send + Sync),
    ) -> Result<PathBuf, Problem> {
        let commit = commit.ok_or_else(|| problems::bad_answer(&request::shown(&self.endpoint), "no commit"))?;
        self.check_room(folder, files)?;
        let total = files.iter().filter_map(|f| f.size).sum();
        let mut before = 0;
        for file in files {
            let tell = |done: u64| progress(Progress { done: before + done, total, file: file.name.clone() });
            tell(0);
            let bytes = self.download(client, folder, file, &tell).await?;
            tell(bytes);
            before += bytes;
        }
        for file in files {
            folder.link(&commit, &file.name, &file.etag)?;
        }
        folder.set_ref(repo.revision, &commit)?;
        Ok(folder.snapshot(&commit))
    }

    async fn head(&self, client: &Client, url: &Url, repo: Repo<'_>) -> Result<Remote, Problem> {
        let mut retries = Retries::new(self.first_wait);
        loop {
            match client.head(url.clone()).await {
                Ok(remote) => return Ok(remote),
                Err(trouble) => retries.after(explained(trouble, repo)).await?,
            }
        }
    }

    /// Before the first byte: is there room for all that is missing?
    fn check_room(&self, folder: &RepoFolder, files: &[Download]) -> Result<(), Problem> {
        const SPARE: u64 = 64 << 20;
        let missing = |file: &Download| {
            let there = length(&folder.blob(&file.etag)).or_else(|| length(&folder.incomplete(&file.etag)));
            file.size.unwrap_or(0).saturating_sub(there.unwrap_or(0))
        };
        let needed = files.iter().map(missing).fold(0u64, u64::saturating_add);
        let free = cache::free_bytes(&self.cache_dir).map_err(|e| problems::io(&self.cache_dir, &e))?;
        if needed > 0 && needed.saturating_add(SPARE) > free {
            return Err(problems::no_room(&self.cache_dir, needed, free));
        }
        Ok(())
    }

    /// One file into `blobs/`, checked; gives its size. A second process that wants the same one waits here.
    async fn download(
        &self,
        client: &Client,
        folder: &RepoFolder,
        file: &Download,
        tell: &(impl Fn(u64) + Send + Sync),
    ) -> Result<u64, Problem> {
        let _lock = folder.lock(&file.etag).await?;
        let blob = folder.blob(&file.etag);
        if let Some(there) = length(&blob).filter(|&there| file.size.is_none_or(|size| size == there)) {
            return Ok(there);
        }
        let incomplete = folder.incomplete(&file.etag);
        let mut retries = Retries::new(self.first_wait);
        let mut furthest = length(&incomplete).unwrap_or(0);
        let mut damaged = false;
        loop {
            if let Err(trouble) = fetch(client, file, &incomplete, tell).await {
                let reached = length(&incomplete).unwrap_or(0);
                if reached > furthest {
                    furthest = reached;
                    retries.forget();
                }
                retries.after(trouble).await?;
                continue;
            }
            let Some(what) = check(&incomplete, file).await? else { break };
            fs::remove_file(&incomplete).map_err(|e| problems::io(&incomplete, &e))?;
            if std::mem::replace(&mut damaged, true) {
                return Err(problems::corrupt(&file.name, &what));
            }
        }
        fs::rename(&incomplete, &blob).map_err(|e| problems::io(&blob, &e))?;
        Ok(length(&blob).unwrap_or(0))
    }
}

/// A repository at a branch, tag or commit.
#[derive(Clone, Copy, Debug)]
struct Repo<'a> {
    /// `owner/name` or `name`, checked.
    id: &'a str,
    revision: &'a str,
}

/// One file to have in the cache.
struct Download {
    name: String,
    url: Url,
    etag: String,
    size: Option<u64>,
}

/// Adds to the incomplete file until it is whole, as far as one connection goes.
async fn fetch(
    client: &Client,
    file: &Download,
    path: &Path,
    tell: &(impl Fn(u64) + Send + Sync),
) -> Result<(), Trouble> {
    let io = |e: std::io::Error| Trouble::Over(problems::io(path, &e));
    let mut have = length(path).unwrap_or(0);
    if file.size.is_some_and(|size| have > size) {
        fs::remove_file(path).map_err(io)?;
        have = 0;
    }
    if file.size == Some(have) && have > 0 {
        return Ok(());
    }
    let mut response = client.get(file.url.clone(), have).await?;
    if response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
        // Without a known size that is how a whole file looks; the check that follows tells. Otherwise start over.
        if file.size.is_none() {
            return Ok(());
        }
        fs::remove_file(path).map_err(io)?;
        return Err(again(&file.url, "it refuses to resume"));
    }
    if response.status() != StatusCode::PARTIAL_CONTENT {
        have = 0; // The server sends the whole file whatever was asked.
    } else if !resumes_at(&response, have) {
        fs::remove_file(path).map_err(io)?;
        return Err(again(&file.url, "it resumes at the wrong byte"));
    }
    let mut options = tokio::fs::OpenOptions::new();
    options.create(true).write(true);
    let mut out = if have > 0 { options.append(true) } else { options.truncate(true) }.open(path).await.map_err(io)?;
    loop {
        let chunk = match response.chunk().await {
            Ok(Some(chunk)) => chunk,
            Ok(None) => break,
            Err(error) => {
                out.flush().await.map_err(io)?;
                return Err(request::lost(&file.url, &error));
            }
        };
        out.write_all(&chunk).await.map_err(io)?;
        have += chunk.len() as u64;
        tell(have.min(file.size.unwrap_or(have)));
        if file.size.is_some_and(|size| have > size) {
            break; // The check that follows says so.
        }
    }
    out.flush().await.map_err(io)?;
    out.sync_all().await.map_err(io)?;
    match file.size {
        Some(size) if have < size => Err(again(&file.url, &format!("it ended after {have} of {size} bytes"))),
        _ => Ok(()),
    }
}

/// What is wrong with the file, if anything.
async fn check(path: &Path, file: &Download) -> Result<Option<String>, Problem> {
    let (owned, etag, size) = (path.to_path_buf(), file.etag.clone(), file.size);
    let checked = tokio::task::spawn_blocking(move || cache::check(&owned, &etag, size)).await;
    checked.map_err(std::io::Error::other).flatten().map_err(|e| problems::io(path, &e))
}

/// The statuses that mean something about the repository, said so.
fn explained(trouble: Trouble, repo: Repo<'_>) -> Trouble {
    match trouble {
        Trouble::Status(status @ (401 | 403), _) => problems::denied(repo.id, status).into(),
        Trouble::Status(404, _) => problems::not_found(repo.id, repo.revision).into(),
        other => other,
    }
}

fn again(url: &Url, reason: &str) -> Trouble {
    Trouble::Again { problem: problems::unreachable(&request::host(url), reason), wait: None, patience: PATIENCE }
}

/// Whether a 206 answer begins at the byte asked for.
fn resumes_at(response: &reqwest::Response, have: u64) -> bool {
    let range = request::header(response.headers(), "content-range").unwrap_or_default();
    range.strip_prefix("bytes ").and_then(|r| r.split('-').next()).and_then(|start| start.parse().ok()) == Some(have)
}

/// The address that the variable gives, or the hub's own.
fn address(variable: &str, given: Option<&str>, own: &str) -> Result<Url, Problem> {
    let text = given.map(str::trim).filter(|a| !a.is_empty()).unwrap_or(own);
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    url.ok_or_else(|| problems::bad_endpoint(variable, text))
}

/// A token; what can't stand in a header is none.
fn header_word(token: String) -> Option<String> {
    let token = token.trim().to_string();
    (!token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic() && b != b';')).then_some(token)
}

fn is_commit(sha: &str) -> bool {
    (7..=64).contains(&sha.len()) && cache::is_hex(sha)
}

fn length(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().filter(|m| m.is_file()).map(|m| m.len())
}
