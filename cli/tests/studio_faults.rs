//! Several studios for one data folder or one port, and how a studio ends, with the real binary.
#![allow(clippy::unwrap_used)]

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};
use tempfile::TempDir;

fn studio(home: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lathe"));
    command.args(["webui", "--json"]).args(words).env_clear().env("HOME", home).env("LATHE_HOME", home.join("lathe"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A studio that answers, and its address.
fn started(home: &Path, words: &[&str]) -> (Child, String) {
    let mut child = studio(home, words).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let said: Value = serde_json::from_str(&line).expect("the studio didn't start");
    (child, said["url"].as_str().unwrap().to_owned())
}

fn code_and_problem(output: &Output) -> (i32, String) {
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap_or(-1), text)
}

fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
}

#[test]
fn r12_a_second_studio_says_who_has_the_folder_and_ends_at_once() {
    let home = TempDir::new().unwrap();
    let (mut first, url) = started(home.path(), &["--port", "0"]);
    let since = Instant::now();
    let output = studio(home.path(), &["--port", "0"]).output().unwrap();
    let took = since.elapsed();
    let (code, text) = code_and_problem(&output);
    assert_eq!(code, 3, "{text}");
    assert!(text.contains(&url) && text.contains(&format!("pid {}", first.id())), "{text}");
    assert!(took < Duration::from_secs(1), "{took:?}");
    // Killed, it holds nothing up.
    first.kill().unwrap();
    first.wait().unwrap();
    let (mut next, _) = started(home.path(), &["--port", "0"]);
    next.kill().unwrap();
    next.wait().unwrap();
}

#[test]
fn r12_of_many_that_start_at_once_exactly_one_wins() {
    let many = std::env::var("LATHE_FAULTS").ok().and_then(|n| n.parse().ok()).unwrap_or(12);
    let home = TempDir::new().unwrap();
    let mut all: Vec<Child> = (0..many).map(|_| studio(home.path(), &["--port", "0"]).spawn().unwrap()).collect();
    let end = Instant::now() + Duration::from_secs(10 + many / 4);
    let mut lost = 0;
    while lost + 1 < all.len() {
        assert!(Instant::now() < end, "{lost} of {} ended", all.len());
        std::thread::sleep(Duration::from_millis(50));
        lost = all
            .iter_mut()
            .filter_map(|child| child.try_wait().unwrap())
            .inspect(|s| assert_eq!(s.code(), Some(3)))
            .count();
    }
    let place = all.iter_mut().position(|child| child.try_wait().unwrap().is_none()).unwrap();
    let winner = &mut all[place];
    let mut line = String::new();
    BufReader::new(winner.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("http://127.0.0.1"), "{line}");
    winner.kill().unwrap();
    winner.wait().unwrap();
}

#[test]
fn r12_a_taken_port_is_named_and_no_other_one_is_used() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let home = TempDir::new().unwrap();
    let output = studio(home.path(), &["--port", &port]).output().unwrap();
    let (code, text) = code_and_problem(&output);
    assert_eq!(code, 3, "{text}");
    assert!(text.contains(&format!("127.0.0.1:{port}")) && text.contains("--port"), "{text}");
}

#[test]
fn a_studio_ends_with_the_first_signal_and_logs_json_without_its_token() {
    let home = TempDir::new().unwrap();
    let mut child = studio(home.path(), &["--port", "0", "--log-format", "json"])
        .env("LATHE_TOKEN", "not-to-be-logged-0123456789")
        .env("RUST_LOG", "debug")
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let url: Value = serde_json::from_str(&line).unwrap();
    let address = url["url"].as_str().unwrap().strip_prefix("http://").unwrap().to_owned();
    let mut socket = std::net::TcpStream::connect(&address).unwrap();
    let request =
        format!("GET /?token=not-to-be-logged-0123456789 HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    let id = answer.lines().find_map(|line| line.strip_prefix("x-request-id: ")).unwrap().to_owned();
    let since = Instant::now();
    signal(&child, Signal::SIGTERM);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(since.elapsed() < Duration::from_secs(3), "{:?}", since.elapsed());
    let mut log = String::new();
    child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    assert!(!log.contains("not-to-be-logged"), "{log}");
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let of_request = lines.iter().find(|line| line["span"]["id"] == id.as_str()).unwrap_or_else(|| panic!("{log}"));
    assert_eq!((&of_request["span"]["path"], &of_request["span"]["method"]), (&"/".into(), &"GET".into()));
}
