//! Downloads against a hub that cuts, corrupts, limits, redirects and lies.
#![allow(clippy::unwrap_used)]

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, Response};
use server::hub::{Hub, HubSettings, Progress};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const CONFIG: &[u8] = b"hello\n";
/// `git hash-object` of [`CONFIG`].
const CONFIG_ETAG: &str = "ce013625030ba8dba906f756967f9e9ca394464a";

/// What goes wrong, and how often it still does.
#[derive(Clone, Default)]
struct Faults {
    cuts: u32,
    corruptions: u32,
    limits: u32,
    retry_after: u64,
    ignore_range: bool,
    refuse_range: bool,
    /// Content is served there instead.
    storage: Option<String>,
    status: Option<u16>,
    extra_name: Option<String>,
    slow: bool,
}

#[derive(Clone, Debug)]
struct Seen {
    method: Method,
    path: String,
    range: Option<String>,
    token: Option<String>,
}

#[derive(Clone, Default)]
struct Mock {
    faults: Arc<Mutex<Faults>>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Mock {
    async fn start(faults: Faults) -> (Self, String) {
        let mock = Self { faults: Arc::new(Mutex::new(faults)), ..Self::default() };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let app = axum::Router::new().fallback(answer).with_state(mock.clone());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        (mock, address)
    }

    /// GETs of the weights.
    fn gets(&self) -> Vec<Seen> {
        let seen = self.seen.lock().unwrap();
        seen.iter().filter(|s| s.method == Method::GET && s.path.ends_with("model.safetensors")).cloned().collect()
    }
}

fn weights() -> Vec<u8> {
    (0..300_000u32).flat_map(|i| (i.wrapping_mul(2_654_435_761) >> 13).to_le_bytes()).collect()
}

fn weights_etag() -> String {
    Sha256::digest(weights()).iter().map(|b| format!("{b:02x}")).collect()
}

async fn answer(State(mock): State<Mock>, request: Request) -> Response<Body> {
    let path = request.uri().path().to_string();
    let text = |headers: &HeaderMap, name: &str| headers.get(name).map(|v| v.to_str().unwrap().to_string());
    let range = text(request.headers(), "range");
    let token = text(request.headers(), "authorization");
    let method = request.method().clone();
    mock.seen.lock().unwrap().push(Seen { method: method.clone(), path: path.clone(), range: range.clone(), token });
    let faults = mock.faults.lock().unwrap().clone();
    let plain = |status: u16| Response::builder().status(status).body(Body::empty()).unwrap();
    if let Some(status) = faults.status {
        return plain(status);
    }
    if path.starts_with("/api/models/") {
        let names = ["config.json", "model.safetensors", "pytorch_model.bin"];
        let siblings: Vec<_> = names.iter().copied().chain(faults.extra_name.as_deref()).collect();
        let siblings: Vec<_> = siblings.iter().map(|n| serde_json::json!({ "rfilename": n })).collect();
        let listing = serde_json::json!({ "sha": COMMIT, "siblings": siblings });
        return Response::new(Body::from(listing.to_string()));
    }
    let (content, etag) = match path.rsplit('/').next() {
        Some("config.json") => (CONFIG.to_vec(), CONFIG_ETAG.to_string()),
        Some("model.safetensors") => (weights(), weights_etag()),
        _ => return plain(404),
    };
    let head = Response::builder().header("x-repo-commit", COMMIT);
    let head = head.header("x-linked-etag", format!("\"{etag}\"")).header("x-linked-size", content.len());
    if let Some(storage) = &faults.storage {
        return head.status(302).header("location", format!("{storage}{path}")).body(Body::empty()).unwrap();
    }
    if method == Method::HEAD {
        return head.body(Body::empty()).unwrap();
    }
    if path.ends_with("config.json") {
        return head.body(Body::from(content)).unwrap();
    }
    serve(&mock, faults, head, content, range)
}

/// The weights, with all that can happen to them.
fn serve(
    mock: &Mock,
    faults: Faults,
    head: axum::http::response::Builder,
    mut content: Vec<u8>,
    range: Option<String>,
) -> Response<Body> {
    let mut left = mock.faults.lock().unwrap();
    if faults.limits > 0 {
        left.limits -= 1;
        return head.status(429).header("retry-after", faults.retry_after).body(Body::empty()).unwrap();
    }
    if range.is_some() && faults.refuse_range {
        return head.status(416).body(Body::empty()).unwrap();
    }
    let (size, mut from) = (content.len(), 0);
    if faults.corruptions > 0 {
        left.corruptions -= 1;
        content[1000] ^= 1;
    }
    let mut head = head.header("accept-ranges", "bytes");
    if let Some(range) = range.filter(|_| !faults.ignore_range) {
        from = range.trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap();
        head = head.status(206).header("content-range", format!("bytes {from}-{}/{size}", size - 1));
    }
    head = head.header("content-length", size - from);
    let end = if faults.cuts > 0 { size * 6 / 10 } else { size };
    left.cuts = faults.cuts.saturating_sub(1);
    let pieces: Vec<_> = content[from.min(end)..end].chunks(100_000).map(|c| Ok(Bytes::copy_from_slice(c))).collect();
    let slow = faults.slow;
    let cut = (end < size).then(|| Err(std::io::Error::other("cut")));
    let stream = futures::stream::unfold(pieces.into_iter().chain(cut), move |mut pieces| async move {
        tokio::time::sleep(Duration::from_millis(if slow { 300 } else { 5 })).await;
        pieces.next().map(|piece| (piece, pieces))
    });
    head.body(Body::from_stream(stream)).unwrap()
}

fn hub(endpoint: &str, home: &Path) -> Hub {
    let settings = HubSettings {
        endpoint: Some(endpoint.into()),
        home: home.into(),
        token: Some("hf_secret".into()),
        ..HubSettings::default()
    };
    Hub { first_wait: Duration::from_millis(5), ..Hub::from_settings(settings).unwrap() }
}

async fn pull(hub: &Hub) -> Result<std::path::PathBuf, api::Problem> {
    hub.pull("owner/name", "", |_| {}, CancellationToken::new()).await
}

fn assert_whole(snapshot: &Path) {
    assert!(fs::read(snapshot.join("model.safetensors")).unwrap() == weights());
    assert_eq!(fs::read(snapshot.join("config.json")).unwrap(), CONFIG);
    assert!(!snapshot.join("pytorch_model.bin").exists());
}

fn blobs(home: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(home.join("hub/models--owner--name/blobs")) else { return vec![] };
    let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn writes_the_cache_layout_once() {
    let home = tempfile::tempdir().unwrap();
    let (mock, address) = Mock::start(Faults::default()).await;
    let told = Mutex::new(Vec::<Progress>::new());
    let hub = hub(&address, home.path());
    let snapshot =
        hub.pull("owner/name", "main", |p| told.lock().unwrap().push(p), CancellationToken::new()).await.unwrap();
    let repo = home.path().join("hub/models--owner--name");
    assert_eq!(snapshot, repo.join("snapshots").join(COMMIT));
    assert_eq!(fs::read_to_string(repo.join("refs/main")).unwrap(), COMMIT);
    let link = fs::read_link(snapshot.join("config.json")).unwrap();
    assert_eq!(link, Path::new("../../blobs").join(CONFIG_ETAG));
    assert_whole(&snapshot);
    let total = (CONFIG.len() + weights().len()) as u64;
    let told = told.into_inner().unwrap();
    assert!(told.is_sorted_by_key(|p| p.done), "{told:?}");
    assert_eq!(told.last(), Some(&Progress { done: total, total, file: "model.safetensors".into() }));
    assert!(mock.gets().iter().all(|s| s.token.as_deref() == Some("Bearer hf_secret")));

    // A second pull, also one without the snapshot, downloads nothing.
    fs::remove_dir_all(repo.join("snapshots")).unwrap();
    assert_whole(&pull(&hub).await.unwrap());
    assert_eq!(mock.gets().len(), 1);
}

#[tokio::test]
async fn resumes_where_the_line_was_cut() {
    let home = tempfile::tempdir().unwrap();
    let (mock, address) = Mock::start(Faults { cuts: 1, ..Faults::default() }).await;
    assert_whole(&pull(&hub(&address, home.path())).await.unwrap());
    let ranges: Vec<_> = mock.gets().into_iter().map(|s| s.range).collect();
    assert_eq!(ranges, [None, Some(format!("bytes={}-", weights().len() * 6 / 10))]);
}

#[tokio::test]
async fn gives_up_a_line_that_is_always_cut_and_keeps_what_it_has() {
    let home = tempfile::tempdir().unwrap();
    let (mock, address) = Mock::start(Faults { cuts: 1000, ..Faults::default() }).await;
    assert_eq!(pull(&hub(&address, home.path())).await.unwrap_err().code, "hub_unreachable");
    assert!(mock.gets().len() < 10, "{}", mock.gets().len());
    let kept = home.path().join(format!("hub/models--owner--name/blobs/{}.incomplete", weights_etag()));
    assert_eq!(fs::metadata(&kept).unwrap().len() as usize, weights().len() * 6 / 10);
    assert!(!home.path().join("hub/models--owner--name/snapshots").exists());
    // The next pull, with the line mended, goes on there.
    mock.faults.lock().unwrap().cuts = 0;
    assert_whole(&pull(&hub(&address, home.path())).await.unwrap());
    assert!(mock.gets().last().unwrap().range.is_some());
}

#[tokio::test]
async fn starts_over_where_a_server_ignores_or_refuses_range() {
    for refuse_range in [false, true] {
        let home = tempfile::tempdir().unwrap();
        let faults = Faults { cuts: 1, ignore_range: true, refuse_range, ..Faults::default() };
        let (_mock, address) = Mock::start(faults).await;
        assert_whole(&pull(&hub(&address, home.path())).await.unwrap());
    }
}

#[tokio::test]
async fn downloads_a_damaged_file_again_once() {
    let home = tempfile::tempdir().unwrap();
    let (mock, address) = Mock::start(Faults { corruptions: 1, ..Faults::default() }).await;
    assert_whole(&pull(&hub(&address, home.path())).await.unwrap());
    assert_eq!(mock.gets().len(), 2);
}

#[tokio::test]
async fn refuses_a_file_that_stays_damaged() {
    let home = tempfile::tempdir().unwrap();
    let (mock, address) = Mock::start(Faults { corruptions: 1000, ..Faults::default() }).await;
    let problem = pull(&hub(&address, home.path())).await.unwrap_err();
    assert_eq!(problem.code, "hub_corrupt");
    assert!(problem.message.contains("model.safetensors") && problem.zh.is_some() && !problem.hint.is_empty());
    assert_eq!(mock.gets().len(), 2);
    assert_eq!(blobs(home.path()), [CONFIG_ETAG], "nothing damaged is left behind");
}

#[tokio::test]
async fn waits_as_long_as_the_server_asks() {
    let home = tempfile::tempdir().unwrap();
    let (_mock, address) = Mock::start(Faults { limits: 1, retry_after: 1, ..Faults::default() }).await;
    let start = Instant::now();
    assert_whole(&pull(&hub(&address, home.path())).await.unwrap());
    assert!(start.elapsed() >= Duration::from_secs(1));

    let home = tempfile::tempdir().unwrap();
    let (mock, address) = Mock::start(Faults { limits: 1000, retry_after: 3600, ..Faults::default() }).await;
    let problem = pull(&hub(&address, home.path())).await.unwrap_err();
    assert!(problem.code == "hub_busy" && problem.message.contains("3600"), "{problem}");
    assert_eq!(mock.gets().len(), 1);
}

#[tokio::test]
async fn m26_the_token_stays_with_its_host() {
    let home = tempfile::tempdir().unwrap();
    let (storage, storage_address) = Mock::start(Faults { cuts: 1, ..Faults::default() }).await;
    let (mock, address) = Mock::start(Faults { storage: Some(storage_address), ..Faults::default() }).await;
    assert_whole(&pull(&hub(&address, home.path())).await.unwrap());
    assert!(mock.seen.lock().unwrap().iter().all(|s| s.token.is_some()));
    let there = storage.seen.lock().unwrap().clone();
    assert!(there.len() >= 3 && there.iter().all(|s| s.token.is_none()), "{there:?}");
    assert!(there.iter().all(|s| s.method == Method::GET), "the hub itself tells etag and size");
}

#[tokio::test]
async fn two_pulls_at_once_share_one_download() {
    let home = tempfile::tempdir().unwrap();
    let (mock, address) = Mock::start(Faults { cuts: 1, ..Faults::default() }).await;
    let (one, two) = (hub(&address, home.path()), hub(&address, home.path()));
    let (one, two) = tokio::join!(pull(&one), pull(&two));
    assert_eq!(one, two);
    assert_whole(&one.unwrap());
    assert_eq!(mock.gets().len(), 2, "one cut, one resumed");
}

#[tokio::test]
async fn a_stopped_pull_keeps_what_it_has() {
    let home = tempfile::tempdir().unwrap();
    let (mock, address) = Mock::start(Faults { slow: true, ..Faults::default() }).await;
    let hub = hub(&address, home.path());
    let cancel = CancellationToken::new();
    let stop = |p: Progress| {
        if p.file == "model.safetensors" && p.done > 150_000 {
            cancel.cancel();
        }
    };
    assert_eq!(hub.pull("owner/name", "", stop, cancel.clone()).await.unwrap_err().code, "cancelled");
    mock.faults.lock().unwrap().slow = false;
    assert_whole(&pull(&hub).await.unwrap());
    assert!(mock.gets()[1].range.is_some());
}

#[tokio::test]
async fn says_what_to_do_when_the_hub_refuses() {
    for (status, code, word) in [
        (401, "hub_denied", "HF_TOKEN"),
        (403, "hub_denied", "licence"),
        (404, "hub_not_found", "spelling"),
        (500, "hub_status", "HF_ENDPOINT"),
    ] {
        let home = tempfile::tempdir().unwrap();
        let (_mock, address) = Mock::start(Faults { status: Some(status), ..Faults::default() }).await;
        let problem = pull(&hub(&address, home.path())).await.unwrap_err();
        assert_eq!(problem.code, code);
        assert!(problem.hint.contains(word), "{problem}");
    }
    let home = tempfile::tempdir().unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let problem = pull(&hub(&closed, home.path())).await.unwrap_err();
    assert!(problem.code == "hub_unreachable" && problem.hint.contains("fetch-smollm2.sh"), "{problem}");
}

#[tokio::test]
async fn nothing_is_written_for_hostile_names_or_offline() {
    let home = tempfile::tempdir().unwrap();
    let (_mock, address) =
        Mock::start(Faults { extra_name: Some("../../../evil.json".into()), ..Faults::default() }).await;
    let mut hub = hub(&address, home.path());
    assert_eq!(pull(&hub).await.unwrap_err().code, "hub_bad_name");
    hub.offline = true;
    assert_eq!(pull(&hub).await.unwrap_err().code, "hub_offline");
    assert_eq!(hub.pull("../x", "", |_| {}, CancellationToken::new()).await.unwrap_err().code, "hub_bad_id");
    assert_eq!(hub.pull("a/b", "../x", |_| {}, CancellationToken::new()).await.unwrap_err().code, "hub_bad_revision");
    assert!(!home.path().join("hub").exists());
    let settings = HubSettings { endpoint: Some("ftp://x".into()), ..HubSettings::default() };
    assert_eq!(Hub::from_settings(settings).unwrap_err().code, "hub_bad_endpoint");
}
