//! Values: numbers, texts and bodies that are extreme, forged or meant for another reader.

use crate::common::{Home, Studio, is_problem, raw, request, start, try_start};
use serde_json::{Value, json};
use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

fn post(studio: &Studio, path: &str, media: &str, body: &str) -> (u16, String, String) {
    request(studio, "POST", path, &format!("Content-Type: {media}\r\nContent-Length: {}\r\n\r\n{body}", body.len()))
}

#[tokio::test]
async fn m01_no_text_of_a_configuration_becomes_a_command() {
    let home = Home::new();
    let studio = start(&home);
    let mark = home.path().join("pwn");
    let marked = mark.display();
    for text in [
        format!(";touch {marked}"),
        format!("$(touch {marked})"),
        format!("`touch {marked}`"),
        format!("|touch {marked}"),
        format!("x\ntouch {marked}\n"),
        format!("x\0touch {marked}"),
        "--ask".into(),
        "--help".into(),
    ] {
        let config = json!({
            "steps": 2, "step_ms": 150, "model_name_or_path": text, "output_dir": text, "run_name": text, "dataset": text,
            "adapter_name_or_path": text, "template": text, text.clone(): text,
        });
        let (status, _) = studio.post("/api/check", config.clone()).await;
        assert_eq!(status, 200, "{text:?}");
        let id = studio.job("train", &text, config).await;
        // A fixed list of words: the program, and a folder of ours.
        let pid = until_pid(&home, &id).await;
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<_> = words.split(|b| *b == 0).filter(|word| !word.is_empty()).collect();
        if !words.is_empty() {
            let run = home.path().canonicalize().unwrap().join("runs").join(&id);
            assert_eq!(words[1..], [run.to_str().unwrap().as_bytes()], "{text:?}");
        }
        studio.until(&id, "succeeded").await;
    }
    assert!(!mark.exists());
}

async fn until_pid(home: &Home, id: &str) -> i32 {
    let since = Instant::now();
    loop {
        if let Some(pid) = crate::common::worker_pid(&home.run(id)) {
            return pid;
        }
        assert!(since.elapsed() < Duration::from_secs(10), "{id} has no worker");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// No route fetches an address for whoever asks (M18 is the same promise): what looks like one is text, and nobody is called.
#[tokio::test]
async fn m04_m18_no_address_in_a_request_is_fetched() {
    let home = Home::new();
    let studio = start(&home);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let here = listener.local_addr().unwrap();
    let (_, chat) = studio.post("/api/chat", json!({ "model_name_or_path": "echo" })).await;
    let id = chat["id"].as_str().unwrap().to_owned();
    for address in [
        format!("http://{here}/"),
        format!("http://{here}\\@evil/"),
        format!("http://2130706433:{}/", here.port()),
        "file:///etc/passwd".into(),
        "/etc/passwd".into(),
        "../../etc/passwd".into(),
        "http://169.254.169.254/latest/meta-data/".into(),
    ] {
        let parts = json!([{ "type": "image_url", "image_url": { "url": address } }]);
        for (path, body) in [
            ("/v1/chat/completions", json!({ "model": "x", "messages": [{ "role": "user", "content": parts }] })),
            (&*format!("/api/chat/{id}/generate"), json!({ "messages": [{ "role": "user", "content": parts }] })),
            ("/api/check", json!({ "steps": 1, "image_url": address, "media_dir": address })),
        ] {
            let (_, answer) = studio.post(path, body).await;
            assert!(!answer.to_string().contains("root:"), "{path} {address}");
        }
    }
    assert_eq!(listener.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "somebody was called");
}

/// M11, M18, M33 in the table of routes: no tunnel, no update, no archive, no fetching of addresses, nothing that runs words.
#[tokio::test]
async fn m11_nothing_is_downloaded_to_be_run() {
    let home = Home::new();
    let studio = start(&home);
    let document = studio.get("/openapi.json").await;
    for path in document["paths"].as_object().unwrap().keys() {
        let words: Vec<&str> = path.split('/').collect();
        for word in [
            "tunnel",
            "share",
            "update",
            "exec",
            "eval",
            "shell",
            "command",
            "plugin",
            "extension",
            "proxy",
            "fetch",
            "unzip",
        ] {
            assert!(!words.contains(&word), "{path}");
        }
    }
    // In the sources: the one thing that starts a program is the worker's module, without a shell.
    let mut starters = Vec::new();
    for (path, code) in sources() {
        if code.contains("Command::new(") {
            starters.push(path.file_name().unwrap().to_owned());
        }
        assert!(!code.contains("\"sh\"") && !code.contains("/bin/sh"), "{}", path.display());
    }
    assert_eq!(starters, ["worker.rs"]);
}

/// What each numeric field of the API makes of numbers that aren't for it: an answer with a sentence, never a failure of ours.
#[tokio::test]
async fn m29_extreme_numbers_are_refused_by_name() {
    let home = Home::new();
    let studio = start(&home);
    let (_, chat) = studio.post("/api/chat", json!({ "model_name_or_path": "echo" })).await;
    let id = chat["id"].as_str().unwrap().to_owned();
    let numbers =
        ["-1", "1e308", "NaN", "99999999999999999999999", "\"1\"", "[]", "{}", "1.5", "-9223372036854775809", "true"];
    for (path, field, valid) in [
        (format!("/api/chat/{id}/generate"), "max_new_tokens", "\"messages\":[]"),
        (format!("/api/chat/{id}/generate"), "temperature", "\"messages\":[]"),
        ("/v1/score/evaluation".into(), "max_length", "\"model\":\"x\",\"messages\":[]"),
        ("/api/datasets/x/tokens".into(), "row", "\"config\":{}"),
        ("/api/preferences/pairs".into(), "offset", "\"sources\":[]"),
    ] {
        for number in numbers {
            let answer = post(&studio, &path, "application/json", &format!("{{{valid},\"{field}\":{number}}}"));
            assert!(answer.0 < 500, "{path} {field}={number}: {answer:?}");
            if answer.0 >= 400 && path.starts_with("/v1") {
                assert!(answer.2.contains("\"error\""), "{answer:?}");
            } else if answer.0 >= 400 {
                is_problem(&answer);
            }
        }
    }
    for query in [
        "/api/jobs?limit=",
        "/api/datasets/x/rows?offset=",
        "/api/datasets/x/rows?limit=",
        "/api/events?after=x&after=",
    ] {
        for number in ["-1", "1e9", "NaN", "99999999999999999999999", "", "%00", "0x10", "[]"] {
            let answer = request(&studio, "GET", &format!("{query}{number}"), "");
            assert_eq!(answer.0, 400, "{query}{number}: {answer:?}");
            is_problem(&answer);
        }
    }
}

/// One request, whatever it is, ends at most itself.
#[tokio::test]
async fn m30_no_single_request_ends_the_server() {
    let home = Home::new();
    let studio = start(&home);
    let host = studio.address;
    for bytes in [
        "\0\0\0\0".to_owned(),
        "GET".into(),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(),
        "\x16\x03\x01\x02\x00\x01\x00\x01\u{fc}\x03\x03".into(),
        format!("GET / HTTP/1.1\r\nHost: {host}\r\nContent-Length: -1\r\n\r\n"),
        format!(
            "POST /api/jobs HTTP/1.1\r\nHost: {host}\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        ),
        format!("POST /api/jobs HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFF\r\n"),
        format!("GET /{} HTTP/1.1\r\nHost: {host}\r\n\r\n", "a".repeat(200_000)),
        format!("GET / HTTP/1.1\r\nHost: {host}\r\n{}\r\n", "X: y\r\n".repeat(5_000)),
        format!("GET / HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"),
        format!("CONNECT evil.com:443 HTTP/1.1\r\nHost: {host}\r\n\r\n"),
        format!("OPTIONS * HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"),
    ] {
        let mut socket = TcpStream::connect(host).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let _ = socket.write_all(bytes.as_bytes());
        let _ = socket.read(&mut [0; 512]);
        drop(socket);
        assert_eq!(request(&studio, "GET", "/health", "").0, 200, "{:?}", &bytes[..bytes.len().min(60)]);
    }
    // Deep nesting and endless lists of JSON and YAML are read to an end.
    for body in [
        "[".repeat(200_000),
        format!("{{\"a\":{}1{}}}", "[".repeat(5_000), "]".repeat(5_000)),
        "{\"a\":".repeat(50_000),
    ] {
        let answer = post(&studio, "/api/check", "application/json", &body);
        assert_eq!(answer.0, 400);
        is_problem(&answer);
        let answer = post(&studio, "/api/config", "text/plain", &body);
        assert_eq!(answer.0, 400);
    }
}

#[tokio::test]
async fn m38_hostile_yaml_is_refused_quickly() {
    let home = Home::new();
    let studio = start(&home);
    let laughs: String = (b'b'..b'z')
        .map(|c| {
            let (c, before) = (c as char, (c - 1) as char);
            format!("{c}: &{c} [{}]\n", vec![format!("*{before}"); 10].join(","))
        })
        .collect();
    let aliases = format!("a: &a x\nb: [{}]\n", vec!["*a"; 100_000].join(","));
    for yaml in [
        format!("a: &a [x,x,x,x,x,x,x,x,x,x]\n{laughs}"),
        aliases,
        "[".repeat(10_000),
        "a:\n".to_owned() + &(1..10_000).map(|n| format!("{}a:\n", " ".repeat(n % 900))).collect::<String>(),
        "a: 1\na: 2\n".into(),
        "x: !!python/object/apply:os.system ['touch pwn']\n- y".into(),
        "a: &a\n  b: *a\n".into(),
        "? [a, b]\n: c\n".into(),
    ] {
        let since = Instant::now();
        let answer = post(&studio, "/api/config", "text/plain", &yaml);
        assert!(since.elapsed() < Duration::from_secs(3), "{:?}", since.elapsed());
        assert!(matches!(answer.0, 400 | 413), "{yaml:.60}: {}", answer.0);
        is_problem(&answer);
    }
    // A tag is no command: the text stands for itself, or is refused.
    let answer = post(&studio, "/api/config", "text/plain", "system: !!python/name:os.system x\n");
    assert!(matches!(answer.0, 200 | 400), "{answer:?}");
}

/// The files of the server's sources, without tests.
fn sources() -> Vec<(PathBuf, String)> {
    let is_test = |entry: &fs::DirEntry| {
        ["faults.rs", "museum.rs", "corpus.rs", "simulation.rs"].iter().any(|name| entry.file_name() == *name)
    };
    let (mut found, mut folders) = (Vec::new(), vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            if entry.path().is_dir() {
                folders.push(entry.path());
            } else if !is_test(&entry) {
                let text = fs::read_to_string(entry.path()).unwrap();
                let code = text.split("#[cfg(test)]").next().unwrap().to_owned();
                found.push((entry.path(), code));
            }
        }
    }
    found
}

/// Every statement is a constant with bound values, or put together from constants. sqlx takes others only by a name that says
/// so.
#[test]
fn m39_no_statement_is_put_together_from_texts() {
    let mut statements = 0;
    for (path, code) in sources() {
        statements += code.matches("query").count();
        if code.contains("QueryBuilder") {
            let pushed = code.split(".push(").skip(1).chain(code.split("QueryBuilder::<Sqlite>::new(").skip(1));
            for text in pushed {
                assert!(text.starts_with('"'), "{}: {text:.40}", path.display());
            }
        }
        for forbidden in
            ["AssertSqlSafe", "format!(\"SELECT", "format!(\"INSERT", "format!(\"DELETE", "format!(\"UPDATE"]
        {
            assert!(!code.contains(forbidden), "{}: {forbidden}", path.display());
        }
    }
    assert!(statements > 10);
}

/// B16: texts that are SQL, or break it, are texts.
#[tokio::test]
async fn m39_texts_with_sql_in_them_are_texts() {
    let home = Home::new();
    let studio = start(&home);
    for text in [
        "'; DROP TABLE jobs; --",
        "\" OR 1=1 --",
        "%' AND '1'='1",
        "\u{0}",
        "_%\\",
        "x' UNION SELECT * FROM jobs --",
        "\u{fffd}\u{202e}",
    ] {
        let encoded = api::routes::fill("/api/jobs/{id}", text);
        assert!(matches!(request(&studio, "GET", &encoded, "").0, 400 | 404), "{text:?}");
        let search = api::routes::fill("/api/datasets/x/rows?search={name}", text);
        assert_eq!(request(&studio, "GET", &search, "").0, 200, "{text:?}");
        let id = studio.job("train", text, json!({ "steps": 1, "dataset": text })).await;
        let job = studio.until(&id, "succeeded").await;
        assert_eq!(job["config"]["dataset"], text);
    }
    let jobs = studio.get("/api/jobs").await;
    assert_eq!(jobs.as_array().unwrap().len(), 7);
}

/// M20's cause, in small: many who write at once.
#[tokio::test(flavor = "multi_thread")]
async fn m20_the_database_is_never_locked() {
    let home = Home::new();
    let studio = start(&home);
    let ask = |n: usize| {
        let body = json!({ "kind": "train", "name": format!("j{n}"), "config": { "steps": 1 } });
        studio.client.post(studio.url("/api/jobs")).json(&body).send()
    };
    let answers = futures::future::join_all((0..32).map(ask)).await;
    for answer in answers {
        assert_eq!(answer.unwrap().status(), 201);
    }
}

/// JSON routes take `application/json` alone: what a form or a plain request of another page could send is not read.
#[tokio::test]
async fn s04_simple_requests_are_not_read() {
    let home = Home::new();
    let studio = start(&home);
    let document = studio.get("/openapi.json").await;
    let mut asked = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        if methods["post"]["requestBody"]["content"].get("application/json").is_none() {
            continue;
        }
        let path = path.replace("{id}", "x").replace("{name}", "x");
        for media in
            ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/jsonx", "text/json"]
        {
            let answer = post(&studio, &path, media, "{}");
            assert_eq!(answer.0, 415, "{path} {media}: {answer:?}");
            asked += 1;
        }
        let answer = request(&studio, "POST", &path, "Content-Length: 2\r\n\r\n{}");
        assert_eq!(answer.0, 415, "{path} without a type");
    }
    assert!(asked > 30);
}

#[tokio::test]
async fn s05_every_answer_has_the_headers() {
    let home = Home::new();
    let studio = start(&home);
    let host = studio.address;
    let document = studio.get("/openapi.json").await;
    let mut paths: Vec<String> = document["paths"].as_object().unwrap().keys().cloned().collect();
    paths.extend(["/", "/nothing", "/app.js.map", "/openapi.json", "/favicon.svg", "/api/%ff"].map(String::from));
    for path in &paths {
        for method in ["GET", "HEAD", "PUT", "OPTIONS", "TRACE", "BREW"] {
            if path.contains("events") && method == "GET" {
                continue;
            }
            let path = path.replace("{id}", "x").replace("{name}", "x");
            let (status, head, _) =
                raw(&studio, &format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"));
            assert!(status > 0, "{method} {path}");
            for line in [
                "content-security-policy: default-src 'none'",
                "frame-ancestors 'none'",
                "x-content-type-options: nosniff",
                "referrer-policy: no-referrer",
                "cross-origin-resource-policy: same-origin",
                "cross-origin-opener-policy: same-origin",
                "x-frame-options: deny",
            ] {
                assert!(head.contains(line), "{method} {path} {status}: {line}\n{head}");
            }
            assert!(!head.contains("unsafe-inline") && !head.contains("access-control-"), "{head}");
            if path.starts_with("/api") || path.starts_with("/v1") || status >= 400 {
                assert!(head.contains("cache-control: no-store"), "{method} {path} {status}\n{head}");
            }
        }
    }
}

/// M06, S01: this machine alone, unless somebody says otherwise and has a token.
#[tokio::test]
async fn m06_it_listens_on_loopback_and_nobody_else_is_invited() {
    let home = Home::new();
    let studio = start(&home);
    let port = format!(":{:04X}", studio.address.port());
    let mut listening = 0;
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        for line in fs::read_to_string(table).unwrap_or_default().lines().skip(1) {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            if fields[3] == "0A" && fields[1].ends_with(&port) {
                assert_eq!(fields[1], format!("0100007F{port}"), "127.0.0.1 and nothing else");
                listening += 1;
            }
        }
    }
    assert_eq!(listening, 1);
    let preflight = request(
        &studio,
        "OPTIONS",
        "/api/jobs",
        &format!("Origin: http://{}\r\nAccess-Control-Request-Method: DELETE\r\n", studio.address),
    );
    assert!(!preflight.1.contains("access-control-allow"), "{preflight:?}");
    for host in ["0.0.0.0", "::"] {
        let mut options = Home::new().options();
        options.host = host.parse().unwrap();
        let Err(error) = try_start(options) else { panic!("{host} without a token") };
        assert!(error.is_usage(), "{error}");
    }
}

/// Another user of this machine reaches the port, and nothing behind it. Needs root, to become somebody else.
#[tokio::test]
async fn s02_another_user_of_this_machine_gets_nothing() {
    use std::os::unix::process::CommandExt;
    let home = Home::new();
    let studio = start(&home);
    let script = format!(
        "exec 3<>/dev/tcp/127.0.0.1/{port}; printf 'GET /api/jobs HTTP/1.1\\r\\nHost: {host}\\r\\nConnection: close\\r\\n\\r\\n' >&3; cat <&3",
        port = studio.address.port(),
        host = studio.address
    );
    let ask = |uid: Option<u32>| {
        let mut command = std::process::Command::new("bash");
        command.args(["-c", &script]).current_dir("/");
        if let Some(uid) = uid {
            command.uid(uid);
        }
        command.output().map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let Ok(own) = ask(None) else { return eprintln!("there is no bash: nothing is tested") };
    assert!(own.starts_with("HTTP/1.1 200"), "{own}");
    match ask(Some(65_534)) {
        Ok(other) => {
            assert!(other.starts_with("HTTP/1.1 403") && other.contains("other_user"), "{other}");
        }
        Err(error) => eprintln!("can't become another user ({error}): nothing is tested"),
    }
}

/// L08: single values that are huge are answered at once, by a sentence.
#[tokio::test]
async fn l08_huge_single_values_are_refused_quickly() {
    let home = Home::new();
    let studio = start(&home);
    let (_, chat) = studio.post("/api/chat", json!({ "model_name_or_path": "echo" })).await;
    let generate = format!("/api/chat/{}/generate", chat["id"].as_str().unwrap());
    let many: Vec<Value> = (0..100_000).map(|_| json!({ "role": "user", "content": "x" })).collect();
    for (what, path, body) in [
        (
            "a prompt of 8 MiB",
            generate.as_str(),
            json!({ "messages": [{ "role": "user", "content": "x".repeat(8 << 20) }] }),
        ),
        ("100,000 messages", generate.as_str(), json!({ "messages": many })),
        (
            "a configuration of 2 MiB",
            "/api/jobs",
            json!({ "kind": "train", "config": { "system": "x".repeat(2 << 20) } }),
        ),
        ("a name of 1 MiB", "/api/jobs", json!({ "kind": "train", "name": "x".repeat(1 << 20), "config": {} })),
        ("a body of 17 MiB", "/api/check", json!({ "system": "x".repeat(17 << 20) })),
    ] {
        let since = Instant::now();
        let (status, answer) = studio.post(path, body).await;
        assert!(matches!(status, 400 | 413 | 422), "{what}: {status} {answer:.200}");
        assert!(since.elapsed() < Duration::from_secs(2), "{what}: {:?}", since.elapsed());
        assert!(answer["problems"][0]["hint"].as_str().is_some_and(|hint| !hint.is_empty()), "{what}: {answer:.300}");
    }
}

/// B15: where a stream goes on is a number, or it begins anew; a page is asked for by a number or not at all.
#[tokio::test]
async fn b15_strange_cursors_begin_somewhere() {
    let home = Home::new();
    let studio = start(&home);
    let id = studio.job("train", "run", json!({ "steps": 3 })).await;
    studio.until(&id, "succeeded").await;
    let long = "9".repeat(1000);
    for last in ["-1", "0", "9223372036854775807", "-9223372036854775808", "1e9", "x", "", " 1", "0x1", "1;DROP", &long]
    {
        let response = studio.client.get(studio.url("/api/events")).header("last-event-id", last).send().await.unwrap();
        assert_eq!(response.status(), 200, "{last:?}");
        let first = crate::common::Events::of(response).next().await;
        assert!(first.is_some(), "{last:?} gets nothing");
    }
    for after in ["9223372036854775807", "18446744073709551615", "0"] {
        let points = studio.get(&format!("/api/jobs/{id}/metrics?after={after}")).await;
        assert_eq!(points.as_array().unwrap().len(), if after == "0" { 3 } else { 0 }, "{after}");
    }
}
