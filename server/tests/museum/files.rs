//! Paths: what a request names is a name, never a way.

use crate::common::{Home, Studio, raw, request, start};
use serde_json::{Value, json};
use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

const CANARY: &str = "canary-outside-of-everything";

/// Ways out that other servers were taken on, encoded not at all, once, twice, wrongly.
fn ways() -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for depth in [1, 6] {
        for up in [
            "../",
            "..%2f",
            "%2e%2e/",
            "%2e%2e%2f",
            "%252e%252e%252f",
            "..\\",
            "..%5c",
            "....//",
            "..;/",
            "%c0%ae%c0%ae/",
            "%u002e%u002e/",
        ] {
            for end in ["etc/passwd", "elsewhere/secret", "lathe.db"] {
                all.push(format!("{}{end}", up.repeat(depth)));
            }
        }
    }
    let fixed = [
        "/etc/passwd",
        "//etc/passwd",
        "%2fetc%2fpasswd",
        "//proc/self/root/etc/passwd",
        "/proc/self/environ",
        "file:///etc/passwd",
        "file:%2f%2f%2fetc/passwd",
        "..%00/",
        "x%00.json",
        "%00",
        ".",
        "..",
        "...",
        "~",
        "~root",
        "C:\\Windows\\win.ini",
        "C:%5cWindows%5cwin.ini",
        "\\\\server\\share",
        "//?/C:/x",
        "x#/../../etc/passwd",
        "x%23..%2f..%2fetc%2fpasswd",
        "x?/../etc/passwd",
        "x/./../../etc/passwd",
        "x%20",
        "x.",
        "-rf",
        "--flag",
        "%ff%fe",
        "\u{202e}x",
    ];
    all.extend(fixed.map(String::from));
    assert!(all.len() > 80);
    all
}

/// A studio with a run and a dataset, and canaries beside its data folder.
async fn with_canaries(home: &Home) -> Studio {
    let studio = start(home);
    let id = studio.job("train", "run", json!({ "steps": 1 })).await;
    studio.until(&id, "succeeded").await;
    for file in ["elsewhere/secret", "home-sibling/secret"] {
        let path = home.path().join("outer").join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, CANARY).unwrap();
    }
    fs::write(home.path().join("token"), CANARY).unwrap();
    studio
}

fn tree(folder: &Path) -> Vec<String> {
    let mut all = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            }
            all.push(entry.path().display().to_string());
        }
    }
    all.retain(|path| !path.contains("lathe.db"));
    all.sort();
    all
}

#[tokio::test]
async fn m09_no_path_parameter_leads_to_a_file() {
    let home = Home::new();
    let studio = with_canaries(&home).await;
    let document = studio.get("/openapi.json").await;
    let known: Vec<String> = document["paths"].as_object().unwrap().keys().cloned().collect();
    let templates: Vec<&String> = known.iter().filter(|path| path.contains('{')).collect();
    assert!(templates.len() > 10);
    for way in ways() {
        for template in &templates {
            // Those that wait or start something per name are asked by the other methods.
            let path = template.replace("{id}", &way).replace("{name}", &way);
            if path.contains("/generate") || path.contains("/edit") || path.chars().any(char::is_whitespace) {
                continue;
            }
            if template.contains("{name}") {
                continue;
            }
            let (status, _, body) = request(&studio, "GET", &path, "");
            assert!(status != 500 && !body.contains(CANARY) && !body.contains("root:"), "GET {path}: {status} {body}");
        }
        for path in [format!("/{way}"), format!("/api/{way}"), format!("/assets/{way}")] {
            let (status, _, body) = request(&studio, "GET", &path, "");
            assert!(status != 500 && !body.contains(CANARY) && !body.contains("root:"), "GET {path}: {status} {body}");
        }
    }
    assert_eq!(
        raw(&studio, &format!("GET /health HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", studio.address)).0,
        200
    );
}

#[tokio::test]
async fn m31_what_deletes_is_led_nowhere_either() {
    let home = Home::new();
    let studio = with_canaries(&home).await;
    let before = tree(home.path());
    for way in ways() {
        for template in ["/api/jobs/{}", "/api/uploads/{}", "/api/chat/{}"] {
            let path = template.replace("{}", &way);
            if path.chars().any(char::is_whitespace) {
                continue;
            }
            let (status, _, body) = request(&studio, "DELETE", &path, "Tus-Resumable: 1.0.0\r\n");
            // `x?…` and `x#…` end the path before the way: they name something plain that isn't there.
            assert!(matches!(status, 400 | 404 | 405), "DELETE {path}: {status} {body}");
        }
    }
    assert_eq!(tree(home.path()), before);
}

#[tokio::test]
async fn m14_names_in_bodies_are_no_paths() {
    let home = Home::new();
    let studio = with_canaries(&home).await;
    let before = tree(&home.path().join("outer"));
    for way in ways() {
        // The name that a person wishes for a job is made plain; the folder is one of ours whatever it was.
        let (status, job) =
            studio.post("/api/jobs", json!({ "kind": "train", "name": way, "config": { "steps": 1 } })).await;
        if status == 201 {
            let id = job["id"].as_str().unwrap();
            let is_plain = id.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c)) && !id.starts_with('.');
            assert!(is_plain && (1..=64).contains(&id.len()), "{way:?} became {id:?}");
            assert!(
                home.run(id)
                    .join("spec.json")
                    .canonicalize()
                    .map_or(true, |p| p.starts_with(home.path().canonicalize().unwrap()))
            );
        }
    }
    assert_eq!(tree(&home.path().join("outer")), before);
    // 64 characters are a name, 65 and anything odd are not: nothing is made of them.
    for (name, expected) in
        [("a".repeat(64), 404), ("a".repeat(65), 404), (".a".into(), 404), ("a b".replace(' ', "%20"), 404)]
    {
        assert_eq!(request(&studio, "GET", &format!("/api/jobs/{name}/log"), "").0, expected, "{name}");
    }
}

#[tokio::test]
async fn m19_m22_an_upload_is_found_by_128_bits_and_not_by_a_path() {
    let home = Home::new();
    let studio = with_canaries(&home).await;
    let mut ids = Vec::new();
    for n in 0..4 {
        // filename: a.json, name: aN
        let metadata = format!("filename YS5qc29u,name {}", ["YTA=", "YTE=", "YTI=", "YTM="][n]);
        let begun = studio
            .client
            .post(studio.url("/api/uploads"))
            .header("tus-resumable", "1.0.0")
            .header("upload-length", "10")
            .header("upload-metadata", metadata)
            .send()
            .await
            .unwrap();
        assert_eq!(begun.status(), 201);
        let place = begun.headers()["location"].to_str().unwrap().to_owned();
        ids.push(place.rsplit('/').next().unwrap().to_owned());
    }
    for id in &ids {
        assert!(id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
        let first = &id[..8];
        assert_eq!(ids.iter().filter(|other| other.starts_with(first)).count(), 1, "nobody guesses the next: {ids:?}");
        for other in [
            id.to_uppercase(),
            format!("{id}0"),
            id[..31].into(),
            format!("{id}%00"),
            format!("./{id}"),
            format!("{id}.json"),
        ] {
            let status = request(&studio, "HEAD", &format!("/api/uploads/{other}"), "Tus-Resumable: 1.0.0\r\n").0;
            assert!(matches!(status, 400 | 404), "{other}: {status}");
        }
        assert_eq!(request(&studio, "HEAD", &format!("/api/uploads/{id}"), "Tus-Resumable: 1.0.0\r\n").0, 200);
    }
}

#[tokio::test]
async fn m05_a_link_that_is_swapped_in_shows_nothing_outside() {
    let home = Home::new();
    let studio = with_canaries(&home).await;
    let run = home.run("run");
    let secret = home.path().join("outer/elsewhere/secret");
    // Links that stand there already: to a file, out of the run through a folder, and along /proc.
    fs::remove_file(run.join("worker.log")).unwrap();
    for way in [
        secret.clone(),
        "../../outer/elsewhere/secret".into(),
        Path::new("/proc/self/root").join(secret.strip_prefix("/").unwrap()),
    ] {
        symlink(&way, run.join("worker.log")).unwrap();
        let (_, _, body) = request(&studio, "GET", "/api/jobs/run/log", "");
        assert!(!body.contains(CANARY), "{}: {body}", way.display());
        fs::remove_file(run.join("worker.log")).unwrap();
    }
    // One that comes and goes between a look and an opening.
    let tries = std::env::var("LATHE_RACES").map_or(300, |n| n.parse().unwrap());
    let stop = Arc::new(AtomicBool::new(false));
    let (flag, folder, target) = (stop.clone(), run.clone(), secret.clone());
    let swaps = std::thread::spawn(move || {
        let mut swaps = 0;
        while !flag.load(Ordering::Relaxed) {
            fs::write(folder.join("a"), "the log\n").unwrap();
            fs::rename(folder.join("a"), folder.join("worker.log")).unwrap();
            symlink(&target, folder.join("b")).unwrap();
            fs::rename(folder.join("b"), folder.join("worker.log")).unwrap();
            swaps += 1;
        }
        swaps
    });
    let mut seen = 0;
    for _ in 0..tries {
        let text = studio.client.get(studio.url("/api/jobs/run/log")).send().await.unwrap().text().await.unwrap();
        assert!(!text.contains(CANARY), "{text}");
        seen += u32::from(text == "the log\n");
    }
    stop.store(true, Ordering::Relaxed);
    assert!(swaps.join().unwrap() > 10 && seen > 0, "the race was run");
}

/// A sibling of the data folder whose name begins as it does is not in it.
#[tokio::test]
async fn m05_a_sibling_folder_is_outside() {
    let home = Home::new();
    let studio = with_canaries(&home).await;
    for way in ["../home-sibling/secret", "..%2fhome-sibling%2fsecret"] {
        let (status, _, body) = request(&studio, "GET", &format!("/api/jobs/{way}/log"), "");
        assert!(status == 404 && !body.contains(CANARY), "{way}: {status} {body}");
    }
}

#[tokio::test]
async fn m15_what_people_made_is_saved_and_never_shown() {
    let home = Home::new();
    let studio = start(&home);
    let response = studio.client.get(studio.url("/api/datasets/%3Cscript%3E/file?type=jsonl")).send().await.unwrap();
    assert_eq!(response.status(), 200);
    let text = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
    assert!(text("content-disposition").starts_with("attachment; filename=\"_script_.jsonl\""));
    assert_eq!(
        (text("content-type").as_str(), text("x-content-type-options").as_str()),
        ("application/octet-stream", "nosniff")
    );
    let policy = text("content-security-policy");
    assert!(policy.starts_with("default-src 'none'") && policy.ends_with("sandbox"), "{policy}");
    // Names and contents that are a page elsewhere are data here.
    for path in ["/api/jobs", "/api/datasets", "/openapi.json", "/api/system"] {
        let response = studio.client.get(studio.url(path)).send().await.unwrap();
        let media = response.headers()["content-type"].to_str().unwrap();
        assert!(media.starts_with("application/json"), "{path}: {media}");
    }
}

#[tokio::test]
async fn m16_the_data_folder_has_no_address() {
    let home = Home::new();
    let studio = with_canaries(&home).await;
    for file in [
        "lathe.db",
        "lock",
        "token",
        "sessions",
        "runs/run/spec.json",
        "runs/run/events.jsonl",
        "datasets/dataset_info.json",
        "models/starter/config.json",
    ] {
        for path in [
            format!("/{file}"),
            format!("/static/{file}"),
            format!("/file={file}"),
            format!("/api/{file}"),
            format!("/api/file?path={file}"),
        ] {
            let (status, _, body) = request(&studio, "GET", &path, "");
            let is_page = status == 200 && body.to_ascii_lowercase().contains("<!doctype html>");
            // Kept conversations, of which there are none; nothing of the file.
            let is_list = path == "/api/sessions" && (status, body.as_str()) == (200, "[]");
            assert!((400..500).contains(&status) || is_page || is_list, "{path}: {status} {body}");
            assert!(!body.contains(CANARY) && !body.contains("SQLite"), "{path}");
        }
    }
}

/// The handlers open nothing by a path: names that came in a request go through the handles of `home.rs`.
#[test]
fn s08_handlers_open_files_through_one_module() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/routes");
    let mut files = 0;
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let text = fs::read_to_string(entry.path()).unwrap();
        let code = text
            .split("#[cfg(test)]")
            .next()
            .unwrap()
            .replace("cap_std::fs", "")
            // What the system says of this process and machine.
            .replace("std::fs::read_to_string(\"/proc/", "")
            .replace("fs::read_to_string(\"/proc/", "")
            .replace("fs::read_dir(\"/proc/", "")
            .replace("use std::fs;", "");
        files += 1;
        for forbidden in [
            "std::fs",
            "fs::read",
            "fs::write",
            "fs::remove",
            "fs::rename",
            "fs::metadata",
            "File::open",
            "File::create",
            "open_ambient",
        ] {
            assert!(!code.contains(forbidden), "{}: {forbidden}", entry.path().display());
        }
    }
    assert!(files > 5);
}

/// Bodies of the whole API say nothing of where the server stands outside its data folder, and nothing of its code.
#[tokio::test]
async fn s12_failures_tell_no_paths_no_code_and_no_sql() {
    let home = Home::new();
    let studio = start(&home);
    let mut bodies = Vec::new();
    for (method, path, extra) in [
        ("GET", "/api/jobs/none", ""),
        ("GET", "/api/jobs?limit=x", ""),
        ("GET", "/api/jobs?limit=99999999999999999999", ""),
        ("GET", "/api/jobs/%27%3B%20DROP%20TABLE%20jobs--", ""),
        ("DELETE", "/api/jobs/'", ""),
        ("POST", "/api/jobs", "Content-Type: application/json\r\nContent-Length: 1\r\n\r\n{"),
        ("POST", "/api/chat", "Content-Type: application/json\r\nContent-Length: 2\r\n\r\n[]"),
        ("GET", "/api/datasets/%2e%2e/rows?offset=-1", ""),
        ("GET", "/api/events?after=x", ""),
        ("BREW", "/api/jobs", ""),
    ] {
        bodies.push(request(&studio, method, path, extra));
    }
    let (status, body): (u16, Value) = studio.post("/api/check", json!({ "crash": true })).await;
    assert_eq!(status, 502);
    bodies.push((status, String::new(), body.to_string()));
    for (status, _, body) in bodies {
        assert!(status >= 400, "{body}");
        for forbidden in [
            "/root",
            "/home/",
            ".rs:",
            "src/",
            "stack backtrace",
            "RUST_BACKTRACE",
            "SELECT",
            "sqlite",
            "SQLITE",
            "panicked",
        ] {
            assert!(!body.contains(forbidden), "{forbidden}: {body}");
        }
    }
}
