//! Who may link what. A crate that reaches something it shouldn't is found here, with the way it got there.
#![allow(clippy::unwrap_used)]

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::process::Command;

/// Names of crates and those that they link, without tests and build scripts, all features as the workspace has them.
struct Graph {
    edges: BTreeMap<String, BTreeSet<String>>,
    members: BTreeSet<String>,
    /// Where each package that isn't ours comes from.
    sources: BTreeMap<String, String>,
}

impl Graph {
    fn read() -> Self {
        let output = Command::new(env!("CARGO"))
            .args(["metadata", "--format-version", "1", "--locked", "--offline"])
            .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
            .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
        let name = |id: &Value| -> String {
            let packages = metadata["packages"].as_array().unwrap();
            packages.iter().find(|p| p["id"] == *id).unwrap()["name"].as_str().unwrap().to_owned()
        };
        let names: BTreeMap<&str, String> = metadata["resolve"]["nodes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|node| (node["id"].as_str().unwrap(), name(&node["id"])))
            .collect();
        let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for node in metadata["resolve"]["nodes"].as_array().unwrap() {
            let from = edges.entry(names[node["id"].as_str().unwrap()].clone()).or_default();
            for dep in node["deps"].as_array().unwrap() {
                if dep["dep_kinds"].as_array().unwrap().iter().any(|kind| kind["kind"].is_null()) {
                    from.insert(names[dep["pkg"].as_str().unwrap()].clone());
                }
            }
        }
        let members = metadata["workspace_members"].as_array().unwrap().iter().map(name).collect();
        let foreign = metadata["packages"].as_array().unwrap().iter().filter(|package| !package["source"].is_null());
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let sources = foreign.map(|package| (text(&package["name"]), text(&package["source"]))).collect();
        Self { edges, members, sources }
    }

    /// The way from one crate to another, if there is one.
    fn way(&self, from: &str, to: &str) -> Option<String> {
        let mut ways = VecDeque::from([vec![from]]);
        let mut seen = BTreeSet::from([from]);
        while let Some(way) = ways.pop_front() {
            let last = way[way.len() - 1];
            if last == to {
                return Some(way.join(" -> "));
            }
            for next in self.edges.get(last).into_iter().flatten() {
                if seen.insert(next) {
                    ways.push_back([way.as_slice(), &[next.as_str()]].concat());
                }
            }
        }
        None
    }

    #[track_caller]
    fn keeps_apart(&self, from: &str, others: &[&str]) {
        assert!(self.edges.contains_key(from), "there is no crate {from}");
        let ways: Vec<_> = others.iter().filter_map(|to| self.way(from, to)).collect();
        assert!(ways.is_empty(), "{ways:#?}");
    }

    fn members_of(&self, from: &str) -> Vec<&str> {
        self.edges[from].iter().map(String::as_str).filter(|name| self.members.contains(*name)).collect()
    }
}

#[test]
fn crates_link_what_the_design_allows() {
    let graph = Graph::read();
    // The test itself would be worthless if it saw nothing.
    assert!(graph.way("engine", "candle-core").is_some() && graph.way("server", "sqlx").is_some());
    assert!(graph.way("server", "hyper").is_some() && graph.way("cli", "candle-core").is_some());

    graph
        .keeps_apart("server", &["candle-core", "candle-nn", "tokenizers", "safetensors", "engine", "frontend", "cli"]);
    graph.keeps_apart(
        "engine",
        &[
            "reqwest",
            "hyper",
            "axum",
            "tokio",
            "mio",
            "socket2",
            "rustls",
            "sqlx",
            "sqlx-core",
            "libsqlite3-sys",
            "ureq",
        ],
    );
    graph.keeps_apart("engine", &["server", "frontend", "cli", "clap"]);
    graph.keeps_apart("api", &["tokio", "axum", "sqlx", "candle-core", "reqwest", "leptos", "wasm-bindgen"]);
    graph.keeps_apart("frontend", &["axum", "sqlx", "candle-core", "reqwest"]);

    assert_eq!(graph.members_of("api"), Vec::<&str>::new());
    assert_eq!(graph.members_of("engine"), ["api"]);
    assert_eq!(graph.members_of("server"), ["api"]);
    assert_eq!(graph.members_of("frontend"), ["api"]);
    assert_eq!(graph.members_of("cli"), ["api", "engine", "server"]);
}

/// The bans of `deny.toml` hold on every run, also where cargo-deny isn't installed.
#[test]
fn what_is_banned_is_not_linked() {
    let graph = Graph::read();
    let rules = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../deny.toml")).unwrap();
    let rules: Vec<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("{ name = ")).collect();
    assert!(rules.len() > 5);
    for rule in rules {
        let mut quoted = rule.split('"').skip(1).step_by(2);
        let name = quoted.next().unwrap();
        // Those that may bring it in all the same.
        let wrappers: Vec<&str> = if rule.contains("wrappers = [") {
            rule.split_once('[').unwrap().1.split_once(']').unwrap().0.split('"').skip(1).step_by(2).collect()
        } else {
            Vec::new()
        };
        let users = graph.edges.iter().filter(|(_, used)| used.contains(name)).map(|(user, _)| user.as_str());
        let users: Vec<&str> = users.filter(|user| !wrappers.contains(user)).collect();
        assert!(users.is_empty(), "{name} is linked by {users:?}");
        assert!(!wrappers.is_empty() || !graph.sources.contains_key(name), "{name} is in Cargo.lock");
    }
    let elsewhere: Vec<_> = graph.sources.iter().filter(|(_, source)| !source.starts_with("registry+")).collect();
    assert!(elsewhere.is_empty(), "{elsewhere:?}");
}

/// Modules of tests that have files of their own.
const TESTS: [&str; 4] = ["corpus", "faults", "museum", "simulation"];

/// Only `cli` reads argv and environment; only the server and cli open sockets.
#[test]
fn sources_keep_to_their_place() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let forbidden: [(&str, &[&str]); 3] = [
        ("api/src", &["std::env", "env::var", "env::args", "std::fs", "std::net"]),
        ("engine/src", &["env::var", "env::args", "env::home_dir", "env::temp_dir", "std::net", "process::Command"]),
        ("server/src", &["env::var", "env::args", "env::home_dir"]),
    ];
    let mut found = Vec::new();
    for (folder, words) in forbidden {
        let mut folders = vec![std::path::PathBuf::from(root).join(folder)];
        let mut files = 0;
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).unwrap().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|e| e == "rs") {
                    files += 1;
                    let text = std::fs::read_to_string(&path).unwrap();
                    // What stands in tests may do as it likes.
                    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
                    let name = path.file_stem().unwrap_or_default().to_string_lossy();
                    let is_test = name.starts_with("tests") || TESTS.contains(&&*name);
                    let hits = words.iter().filter(|word| !is_test && code.contains(**word));
                    found.extend(hits.map(|word| format!("{}: {word}", path.display())));
                }
            }
        }
        assert!(files > 0, "{folder} has no sources");
    }
    // `IpAddr` of an address that was handed in opens nothing.
    found.retain(|hit| !hit.contains("server/src") || !hit.ends_with("std::net"));
    assert!(found.is_empty(), "{found:#?}");
}
