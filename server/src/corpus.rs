//! What reads requests, over the committed corpus of `fuzz/`: the door against a small model of it, names against real files,
//! configurations against their own text, uploads against what was sent.
#![allow(clippy::unwrap_used)]

#[path = "../../fuzz/src/plain.rs"]
mod plain;

use crate::{
    error::Failure,
    home::{Home, is_name},
    routes::{self, upload},
    security::{Guard, Rules},
};
use axum::{
    body::Body,
    extract::{FromRequest, Multipart, Request},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri},
    response::IntoResponse,
};
use std::{
    io::Read,
    os::unix::fs::symlink,
    sync::{LazyLock, Mutex, PoisonError},
};
use tempfile::TempDir;
use tower::ServiceExt;

const TARGETS: &plain::Targets = &[("door", door), ("names", names), ("config", config), ("upload", upload)];

#[test]
fn what_was_ever_found_holds() {
    plain::replay(TARGETS);
}

#[test]
fn changed_bytes_break_nothing() {
    plain::change_a_little(TARGETS);
}

/// `LATHE_FUZZ_SECONDS=60 cargo test -p server --lib corpus -- --ignored --nocapture`
#[test]
#[ignore = "takes a minute for each target"]
fn changed_bytes_for_long() {
    plain::change_for_long(TARGETS);
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    static RUNTIME: LazyLock<tokio::runtime::Runtime> =
        LazyLock::new(|| tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap());
    RUNTIME.block_on(future)
}

/// B12: the first line is method and address, each further one a header. The guard lets through what the model does.
fn door(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.split('\n');
    let Some((method, uri)) = lines.next().and_then(|line| line.split_once(' ')) else { return };
    let (Ok(method), Ok(uri)) = (method.parse::<Method>(), uri.parse::<Uri>()) else { return };
    let mut headers = HeaderMap::new();
    for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_bytes(value.as_bytes())) {
            headers.append(name, value);
        }
    }
    let expected = model(&method, &uri, &headers);
    let mut request = Request::new(Body::empty());
    (*request.method_mut(), *request.uri_mut(), *request.headers_mut()) = (method, uri, headers);
    let shown = format!("{request:?}");
    let rules = Rules::new("127.0.0.1:7860".parse().unwrap(), &["studio.example".into()], None, None).unwrap();
    let router = tower::service_fn(|_: Request| async { Ok(StatusCode::IM_A_TEAPOT.into_response()) });
    let got = block_on(Guard::new(router, rules).oneshot(request)).unwrap().status().as_u16();
    assert_eq!(got, expected, "{shown}");
}

/// What the door should do, said in another way: sets of whole strings.
fn model(method: &Method, uri: &Uri, headers: &HeaderMap) -> u16 {
    let all = |name: &str| -> Vec<String> {
        let values = headers.get_all(name).iter();
        values.map(|value| String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase()).collect()
    };
    let hosts = all("host");
    let [host] = &hosts[..] else { return 421 };
    let ours = ["localhost:7860", "127.0.0.1:7860", "[::1]:7860"];
    let number =
        |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) && text.parse::<u16>().is_ok();
    let is_given = host == "studio.example" || host.strip_prefix("studio.example:").is_some_and(number);
    // Leading zeros of a port are a way to write it.
    let plain =
        host.rsplit_once(':').map_or(host.clone(), |(name, port)| format!("{name}:{}", port.trim_start_matches('0')));
    if !ours.contains(&plain.as_str()) && !is_given {
        return 421;
    }
    if uri.authority().is_some_and(|authority| authority.as_str().to_ascii_lowercase() != *host) {
        return 421;
    }
    let reads = method == Method::GET || method == Method::HEAD;
    let origins = all("origin");
    let own = [format!("http://{host}"), format!("https://{host}")];
    if origins.len() > 1 || origins.iter().any(|origin| !own.contains(origin)) {
        return 403;
    }
    let first = |name: &str| headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let is_link = reads
        && first("sec-fetch-mode").as_deref() == Some("navigate")
        && first("sec-fetch-dest").as_deref() == Some("document")
        && !uri.path().starts_with("/api")
        && !uri.path().starts_with("/v1")
        && !uri.path().starts_with("/answer")
        && !uri.path().starts_with("/ws");
    match first("sec-fetch-site").as_deref() {
        None | Some("same-origin") => 418,
        Some("none") if reads => 418,
        Some("none") => 403,
        Some(_) if is_link => 418,
        Some(_) => 403,
    }
}

/// B11: whatever a request names, nothing outside the data folder is opened.
fn names(bytes: &[u8]) {
    static HOME: LazyLock<(TempDir, Home)> = LazyLock::new(|| {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(&dir.path().join("home")).unwrap();
        std::fs::write(dir.path().join("outside"), "canary").unwrap();
        std::fs::create_dir(home.runs().join("run")).unwrap();
        std::fs::write(home.runs().join("run/worker.log"), "log").unwrap();
        symlink(dir.path().join("outside"), home.runs().join("run/linked")).unwrap();
        symlink("../../../outside", home.runs().join("run/relative")).unwrap();
        (dir, home)
    });
    let text = String::from_utf8_lossy(bytes);
    let (id, file) = text.split_once('\n').unwrap_or((&text, "worker.log"));
    let mut read = String::new();
    if let Ok(Some(mut found)) = HOME.1.run_file(id, file) {
        assert!(is_name(id) && is_name(file), "{id:?} {file:?}");
        let _ = found.read_to_string(&mut read);
    }
    assert_ne!(read, "canary", "{id:?} {file:?}");
    let upload = upload::names(Some(id), file);
    assert!(upload.is_err() || upload.is_ok_and(|(_, stored)| is_name(&stored) && stored != "dataset_info.json"));
    assert_eq!(HOME.1.trash_run(&format!("{id}-not-there")).unwrap_or_default(), None);
    assert_eq!(std::fs::read(HOME.0.path().join("outside")).unwrap(), b"canary");
}

/// B09: what is read of a configuration is what its own text says again; what isn't is told in both languages.
fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match routes::read_config(text) {
        Ok(config) => assert_eq!(routes::read_config(&config.to_yaml()).unwrap(), config),
        Err(failure) => is_told(&failure),
    }
}

/// B10: behind a zero byte a form of any bytes, which leaves nothing if it fails; else a file, which is stored as it is.
fn upload(bytes: &[u8]) {
    static HOME: LazyLock<(TempDir, Home)> = LazyLock::new(|| {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(&dir.path().join("home")).unwrap();
        (dir, home)
    });
    // One at a time: the folders are counted.
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let home = &HOME.1;
    let (form, content) = match bytes.split_first() {
        Some((0, form)) => (form.to_vec(), None),
        _ if bytes.is_empty() || bytes.windows(5).any(|part| part == b"\r\n--b") => return,
        _ => {
            let head = b"--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.json\"\r\n\r\n".as_slice();
            ([head, bytes, b"\r\n--b--\r\n"].concat(), Some(bytes))
        }
    };
    let request = Request::builder().method("POST").header("content-type", "multipart/form-data; boundary=b");
    let request = request.body(Body::from(form)).unwrap();
    let received = block_on(async {
        let form = Multipart::from_request(request, &()).await.unwrap();
        upload::receive(home, form, 1 << 20).await
    });
    match received {
        Ok(received) => {
            let stored = std::fs::read(home.datasets().join(received.file_name())).unwrap();
            assert!(content.is_none_or(|content| content == stored));
        }
        Err(failure) => {
            assert!(content.is_none(), "{failure:?}");
            is_told(&failure);
        }
    }
    // Not kept, it is gone.
    assert_eq!(std::fs::read_dir(home.uploads()).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(home.datasets()).unwrap().count(), 0);
}

/// A failure of the request, not ours, that a person can use.
fn is_told(failure: &Failure) {
    assert!(failure.status.is_client_error(), "{failure:?}");
    for problem in &failure.problems {
        let zh = problem.zh.as_ref().expect("in both languages");
        assert!(!problem.message.is_empty() && !zh.message.is_empty() && !problem.hint.is_empty(), "{problem:?}");
    }
}
