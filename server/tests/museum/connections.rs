//! Connections that give nothing, take nothing, or stop on the way.

use crate::common::{Home, request, start};
use std::{
    fs,
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    time::{Duration, Instant},
};

/// L07 in small: half-open, slow-writing and never-reading clients (LATHE_HOSTILE of them, 300 by default) hold up nobody.
#[tokio::test]
async fn l07_hostile_connections_hold_up_nobody() {
    let home = Home::new();
    let studio = start(&home);
    let count = std::env::var("LATHE_HOSTILE").map_or(300, |n| n.parse().unwrap());
    let host = studio.address;
    let mut hostile = Vec::new();
    for n in 0..count {
        let mut socket = TcpStream::connect(host).unwrap();
        match n % 3 {
            // Nothing but the beginning, ever.
            0 => socket.write_all(b"GET /health HTT").unwrap(),
            // A body that never comes.
            1 => socket
                .write_all(format!("POST /api/check HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n{{").as_bytes())
                .unwrap(),
            // Answers that are never read.
            _ => {
                let ask = format!("GET /openapi.json HTTP/1.1\r\nHost: {host}\r\n\r\n").repeat(20);
                socket.write_all(ask.as_bytes()).unwrap();
            }
        }
        hostile.push(socket);
    }
    let mut times = Vec::new();
    for _ in 0..100 {
        let since = Instant::now();
        assert_eq!(request(&studio, "GET", "/health", "").0, 200);
        times.push(since.elapsed());
    }
    times.sort();
    assert!(times[98] < Duration::from_millis(200), "p99 {:?} among {count} hostile connections", times[98]);
    println!("{count} hostile connections: p50 {:?}, p99 {:?}", times[50], times[98]);

    // A header that doesn't come is waited for 10 seconds and no longer, also when a byte comes every second.
    let mut slow = TcpStream::connect(host).unwrap();
    let since = Instant::now();
    slow.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    slow.write_all(b"GET /health HTTP/1.1\r\n").unwrap();
    let closed = loop {
        let _ = slow.write_all(b"X");
        match slow.read(&mut [0; 256]) {
            Ok(_) => break since.elapsed(),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => break since.elapsed(),
        }
        assert!(since.elapsed() < Duration::from_secs(14), "it is never closed");
    };
    assert!(closed > Duration::from_secs(8), "{closed:?}");
}

/// L03, S11 in small: bytes are counted as they come, whatever was said of them, and what breaks off leaves nothing.
#[tokio::test]
async fn l03_uploads_are_counted_and_leave_nothing_behind() {
    let home = Home::new();
    let mut options = home.options();
    options.upload_limit = 4 << 20;
    let studio = crate::common::try_start(options).unwrap();
    let host = studio.address;
    let head = "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.json\"\r\n\r\n";
    let tail = "\r\n--b--\r\n";
    let send = |content: &[u8], cut: Option<usize>| -> u16 {
        let mut socket = TcpStream::connect(host).unwrap();
        let start = format!(
            "POST /api/datasets HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Type: multipart/form-data; boundary=b\r\nTransfer-Encoding: chunked\r\n\r\n"
        );
        let body = [head.as_bytes(), content, tail.as_bytes()].concat();
        let mut bytes = start.into_bytes();
        for piece in body.chunks(64 << 10) {
            bytes.extend(format!("{:x}\r\n", piece.len()).bytes());
            bytes.extend(piece);
            bytes.extend(b"\r\n");
        }
        bytes.extend(b"0\r\n\r\n");
        bytes.truncate(cut.unwrap_or(bytes.len()));
        let _ = socket.write_all(&bytes);
        if cut.is_some() {
            let _ = socket.shutdown(Shutdown::Both);
            return 0;
        }
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut answer = Vec::new();
        let _ = socket.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0)
    };
    let rows = |bytes: usize| format!("[\"{}\"]", "x".repeat(bytes - 4)).into_bytes();
    let left = || {
        let of = |folder: &str| fs::read_dir(home.path().join(folder)).unwrap().count();
        (of("uploads"), of("datasets"))
    };
    let before = left();
    let whole = head.len() + (1 << 20) + 500;
    for cut in (0..20).map(|n| 100 + n * whole / 21) {
        send(&rows(1 << 20), Some(cut));
    }
    let since = Instant::now();
    while left() != before && since.elapsed() < Duration::from_secs(5) {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(left(), before, "20 uploads that broke off");
    // Without a length: at the limit it is taken, one byte over it isn't.
    assert_eq!(send(&rows((4 << 20) + 1), None), 413);
    assert_eq!(left(), before);
    assert_eq!(send(&rows(4 << 20), None), 201);
    assert_eq!(left(), (before.0, before.1 + 1));

    // Four at once of many megabytes don't stay in memory.
    let memory = || -> u64 {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    };
    let begun = memory();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| send(&rows(4 << 20), None));
        }
    });
    assert!(memory() < begun + (64 << 10), "{} kB more", memory() - begun);
}

/// S11: what is one over a documented limit is refused by a sentence, what is at it is not.
#[tokio::test]
async fn s11_limits_hold_at_their_edge() {
    use serde_json::json;
    let home = Home::new();
    let studio = start(&home);
    for (length, expected) in [(200, 201), (201, 400)] {
        let body = json!({ "kind": "train", "name": "n".repeat(length), "config": { "steps": 1 } });
        assert_eq!(studio.post("/api/jobs", body).await.0, expected, "a name of {length}");
    }
    for (length, expected) in [((16 << 20) - 12, 200), (16 << 20, 413)] {
        let (status, answer) = studio.post("/api/check", json!({ "text": "x".repeat(length) })).await;
        assert_eq!(status, expected, "a body of {length} and a little: {answer:.200}");
    }
    for (length, expected) in [(1 << 20, 200), ((1 << 20) + 1, 413)] {
        let text = format!("a: {}", "x".repeat(length - 3));
        let status = studio.client.post(studio.url("/api/config")).body(text).send().await.unwrap().status();
        assert_eq!(status, expected, "a configuration of {length}");
    }
    // 64 uploads may be begun.
    for n in 0..65 {
        let answer = studio
            .client
            .post(studio.url("/api/uploads"))
            .header("tus-resumable", "1.0.0")
            .header("upload-length", "10")
            .header("upload-metadata", "filename YS5qc29u")
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), if n < 64 { 201 } else { 429 }, "upload {n}");
    }
    for (length, is_taken) in [(48 << 10, true), (80 << 10, false)] {
        let (status, ..) = request(&studio, "GET", "/health", &format!("X: {}\r\n", "x".repeat(length)));
        assert_eq!(status == 200, is_taken, "a header of {length}");
    }
}
