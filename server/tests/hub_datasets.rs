//! Downloads of datasets against stand-ins of both hubs, which cut, limit and send elsewhere; and as jobs of the studio.
#![allow(clippy::unwrap_used)]

mod common;

use api::{
    Problem,
    data::DatasetInfo,
    hub::{HubName, HubSource, PullDataset, PullPlan},
    question::{Answer, Question},
};
use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, Method, Response, StatusCode},
};
use common::{Home, try_start};
use serde_json::{Value, json};
use server::hub::{HubSettings, Progress, pull_dataset};
use sha2::{Digest, Sha256};
use std::{
    collections::HashMap,
    fs,
    path::Path,
    sync::{Arc, Mutex},
};
use tokio_util::sync::CancellationToken;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const README: &str = "---\nconfigs: []\n---\n";

/// What was asked, and how often something still goes wrong.
#[derive(Default)]
struct Inner {
    seen: Vec<(Method, String, HeaderMap)>,
    cuts: u32,
    limits: u32,
    /// Files are served there instead.
    storage: Option<String>,
    broken: bool,
}

#[derive(Clone, Default)]
struct Mock(Arc<Mutex<Inner>>);

impl Mock {
    async fn start(inner: Inner) -> (Self, String) {
        let mock = Self(Arc::new(Mutex::new(inner)));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let app = axum::Router::new().fallback(answer).with_state(mock.clone());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        (mock, address)
    }

    /// Requests for the content of a file.
    fn gets(&self, name: &str) -> Vec<HeaderMap> {
        let inner = self.0.lock().unwrap();
        let of = inner.seen.iter().filter(|(method, path, _)| *method == Method::GET && path.contains(name));
        of.map(|(_, _, headers)| headers.clone()).collect()
    }
}

fn rows() -> Vec<u8> {
    (0..9000).flat_map(|i| format!("{{\"instruction\": \"{i}\", \"output\": \"{}\"}}\n", i * 7).into_bytes()).collect()
}

/// The files of `owner/rows`.
fn files() -> [(&'static str, Vec<u8>); 3] {
    [("README.md", README.into()), ("data/train.jsonl", rows()), ("data/test.jsonl", b"{}\n".to_vec())]
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// Speaks both protocols.
async fn answer(State(mock): State<Mock>, request: Request) -> Response<Body> {
    let (method, uri, headers) = (request.method().clone(), request.uri().clone(), request.headers().clone());
    let mut inner = mock.0.lock().unwrap();
    inner.seen.push((method.clone(), uri.to_string(), headers.clone()));
    let (path, query) = (uri.path().to_owned(), uri.query().unwrap_or_default().to_owned());
    let query: HashMap<String, String> =
        reqwest::Url::parse(&format!("http://x/?{query}")).unwrap().query_pairs().into_owned().collect();
    let text = |value: Value| Response::new(Body::from(value.to_string()));
    let head = Response::builder();
    if inner.limits > 0 {
        inner.limits -= 1;
        return head.status(429).header("retry-after", 0).body(Body::empty()).unwrap();
    }
    let name = match path.as_str() {
        "/api/datasets/owner/rows/revision/main" => {
            let siblings: Vec<_> = files().iter().map(|(name, _)| json!({ "rfilename": name })).collect();
            return text(json!({ "sha": COMMIT, "siblings": siblings }));
        }
        "/api/v1/datasets/owner/rows/repo/tree" => {
            assert_eq!((query["Revision"].as_str(), query["Root"].as_str()), ("master", "/"));
            let (page, size): (usize, usize) =
                (query["PageNumber"].parse().unwrap(), query["PageSize"].parse().unwrap());
            // A first page full of other files, so that the second one is needed.
            let all: Vec<_> = (0..size)
                .map(|i| json!({ "Path": format!("pictures/{i}.png"), "Type": "blob", "Size": 1, "Revision": "a" }))
                .chain([json!({ "Path": "data", "Type": "tree" })])
                .chain(files().iter().map(|(name, bytes)| {
                    json!({ "Path": name, "Type": "blob", "Size": bytes.len(), "Sha256": sha256(bytes) })
                }))
                .collect();
            let page = all.chunks(size).nth(page - 1).unwrap_or_default();
            return text(json!({ "Code": 200, "Success": true, "Data": { "Files": page } }));
        }
        "/api/v1/datasets/owner/rows/repo" => query["FilePath"].clone(),
        path => match path.strip_prefix(&format!("/datasets/owner/rows/resolve/{COMMIT}/")) {
            Some(name) => name.to_owned(),
            None if path.contains("/denied/") => return head.status(403).body(Body::empty()).unwrap(),
            None => return head.status(404).body(Body::empty()).unwrap(),
        },
    };
    let Some((_, mut bytes)) = files().into_iter().find(|(known, _)| *known == name) else {
        return head.status(404).body(Body::empty()).unwrap();
    };
    let head = head.header("x-repo-commit", COMMIT).header("x-linked-etag", sha256(&bytes));
    let head = head.header("x-linked-size", bytes.len());
    if let Some(storage) = &inner.storage {
        return head.status(302).header("location", format!("{storage}{uri}")).body(Body::empty()).unwrap();
    }
    if inner.broken {
        bytes[0] ^= 1;
    }
    if method == Method::HEAD {
        return head.body(Body::empty()).unwrap();
    }
    let (size, from) = (bytes.len(), headers.get("range"));
    let from = from.map_or(0, |r| r.to_str().unwrap()[6..].trim_end_matches('-').parse().unwrap());
    let head = match from {
        0 => head,
        from => head
            .status(StatusCode::PARTIAL_CONTENT)
            .header("content-range", format!("bytes {from}-{}/{size}", size - 1)),
    };
    let head = head.header("content-length", size - from);
    if inner.cuts > 0 && name.ends_with("train.jsonl") {
        inner.cuts -= 1;
        let half = bytes[from..size / 2].to_vec();
        let pieces = [Ok(half), Err(std::io::Error::other("cut"))];
        let stream = futures::stream::unfold(pieces.into_iter(), |mut pieces| async move {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            pieces.next().map(|piece| (piece, pieces))
        });
        return head.body(Body::from_stream(stream)).unwrap();
    }
    head.body(Body::from(bytes.split_off(from))).unwrap()
}

fn settings(hub: HubName, address: &str, home: &Path) -> HubSettings {
    let settings = HubSettings {
        home: home.join("hf"),
        token: Some("hf_secret".into()),
        modelscope_token: Some("ms_secret".into()),
        ..HubSettings::default()
    };
    match hub {
        HubName::Hf => HubSettings { endpoint: Some(address.into()), ..settings },
        HubName::Ms => HubSettings { modelscope: Some(address.into()), prefers_modelscope: true, ..settings },
    }
}

/// The engine's part: one dataset, whose rows are in the files that a split names.
async fn ask(question: Question) -> Result<Answer, Problem> {
    Ok(match question {
        Question::PlanPull { wanted, preferred } => {
            let id = Some(wanted.id);
            let source = match preferred {
                HubName::Hf => HubSource { hf_hub_url: id, split: wanted.split, ..HubSource::default() },
                HubName::Ms => HubSource { ms_hub_url: id, split: wanted.split, ..HubSource::default() },
            };
            Answer::PullPlanned { plan: PullPlan { name: "rows".into(), hub: preferred, source } }
        }
        Question::ChooseFiles { source, names, readme } => {
            assert_eq!(readme, README);
            Answer::Chosen { names: names.into_iter().filter(|name| name.contains(source.split())).collect() }
        }
        Question::RegisterPulled { plan } => {
            Answer::Registered { dataset: DatasetInfo { name: plan.name, ..DatasetInfo::default() } }
        }
        other => panic!("{other:?}"),
    })
}

async fn pull(settings: HubSettings, dir: &Path, split: Option<&str>) -> Result<Vec<Progress>, Problem> {
    let told = Mutex::new(Vec::new());
    let wanted = PullDataset { id: "owner/rows".into(), split: split.map(String::from), ..PullDataset::default() };
    let progress = |p: Progress| told.lock().unwrap().push(p);
    let dataset = pull_dataset(settings, dir, wanted, ask, progress, CancellationToken::new()).await?;
    assert_eq!(dataset.name, "rows");
    Ok(told.into_inner().unwrap())
}

/// The folder in which the files of a download appear.
fn snapshot(dir: &Path, hub: HubName) -> std::path::PathBuf {
    let repo = dir.join(".hub").join(hub.word()).join("datasets--owner--rows");
    let commit = fs::read_to_string(repo.join("refs").join(hub.revision())).unwrap();
    repo.join("snapshots").join(commit)
}

#[tokio::test]
async fn both_hubs_are_resumed_checked_and_asked_once() {
    for hub in HubName::ALL {
        let home = tempfile::tempdir().unwrap();
        let (mock, address) = Mock::start(Inner { cuts: 1, limits: 1, ..Inner::default() }).await;
        let settings = settings(hub, &address, home.path());
        let told = pull(settings.clone(), home.path(), None).await.unwrap();
        let folder = snapshot(home.path(), hub);
        assert!(fs::read(folder.join("data/train.jsonl")).unwrap() == rows(), "{hub:?}");
        assert!(folder.join("README.md").exists() && !folder.join("data/test.jsonl").exists(), "{hub:?}");
        assert_eq!(told.last().map(|p| p.done), Some((README.len() + rows().len()) as u64));
        assert!(told.is_sorted_by_key(|p| p.done));
        let gets = mock.gets("train.jsonl");
        assert_eq!(gets.len(), 2, "{hub:?}");
        assert_eq!(gets[1]["range"], format!("bytes={}-", rows().len() / 2));
        let secret = if hub == HubName::Hf { "Bearer hf_secret" } else { "Bearer ms_secret" };
        assert!(gets.iter().all(|headers| headers["authorization"] == secret), "{hub:?}");

        // Another split joins the first; what is there isn't downloaded again.
        pull(settings.clone(), home.path(), Some("test")).await.unwrap();
        assert!(snapshot(home.path(), hub).join("data/test.jsonl").exists());
        pull(settings.clone(), home.path(), None).await.unwrap();
        assert_eq!(mock.gets("train.jsonl").len(), 2, "{hub:?}");
        // Offline, what is there is enough; what isn't says why.
        let offline = HubSettings { offline: true, ..settings };
        pull(offline.clone(), home.path(), None).await.unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        assert_eq!(pull(offline, elsewhere.path(), None).await.unwrap_err().code, "hub_offline");
    }
}

#[tokio::test]
async fn tokens_stay_with_their_host_and_damage_is_refused() {
    for hub in HubName::ALL {
        let home = tempfile::tempdir().unwrap();
        let (storage, storage_address) = Mock::start(Inner::default()).await;
        let (_hub, address) = Mock::start(Inner { storage: Some(storage_address), ..Inner::default() }).await;
        pull(settings(hub, &address, home.path()), home.path(), None).await.unwrap();
        let there = storage.gets("train.jsonl");
        let is_bare = |h: &HeaderMap| !h.contains_key("authorization") && !h.contains_key("cookie");
        assert!(there.len() == 1 && there.iter().all(is_bare), "{there:?}");

        let home = tempfile::tempdir().unwrap();
        let (_mock, address) = Mock::start(Inner { broken: true, ..Inner::default() }).await;
        let problem = pull(settings(hub, &address, home.path()), home.path(), None).await.unwrap_err();
        assert_eq!(problem.code, "hub_corrupt");
        let other = if hub == HubName::Hf { "MODELSCOPE_DOMAIN" } else { "HF_ENDPOINT" };
        assert!(!problem.hint.contains(other) && !problem.hint_in("zh").contains(other), "{problem}");
    }
}

#[tokio::test]
async fn refusals_name_the_settings_of_their_hub() {
    let home = tempfile::tempdir().unwrap();
    let (_mock, address) = Mock::start(Inner::default()).await;
    let wanted = PullDataset { id: "owner/denied".into(), ..PullDataset::default() };
    let settings = settings(HubName::Ms, &format!("{address}/denied/"), home.path());
    let pulled = pull_dataset(settings, home.path(), wanted, ask, |_| {}, CancellationToken::new()).await;
    let problem = pulled.unwrap_err();
    assert_eq!(problem.code, "hub_denied");
    assert!(problem.hint.contains("MODELSCOPE_API_TOKEN"), "{problem}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dataset_is_a_job_of_the_studio() {
    let home = Home::new();
    let (_mock, address) = Mock::start(Inner { cuts: 1, ..Inner::default() }).await;
    let mut options = home.options();
    options.hub = settings(HubName::Ms, &address, home.path());
    let studio = try_start(options).unwrap();
    let (status, job) = studio.post("/api/datasets/pull", json!({ "id": " owner/rows ", "split": "train" })).await;
    assert_eq!(status, 201, "{job}");
    assert_eq!((&job["kind"], &job["id"]), (&json!("pull"), &json!("pull-rows")));
    let job = studio.until("pull-rows", "succeeded").await;
    assert_eq!(job["artifact"], "rows");
    assert_eq!(job["progress"]["done"], job["progress"]["total"]);
    assert!(home.path().join("datasets/.hub/ms/datasets--owner--rows/snapshots").is_dir());
    let (status, answer) = studio.post("/api/datasets/pull", json!({ "id": " " })).await;
    assert_eq!((status, &answer["problems"][0]["field"]), (400, &json!("id")));
}
