//! What SECURITY.md says is there to be said, and to be run.

use std::{fs, path::Path};

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// M12, S13: the four settings, how to report in private, and denial of service in scope.
#[test]
fn s13_the_promises_are_written_down() {
    let text = fs::read_to_string(root().join("SECURITY.md")).unwrap();
    for heading in ["## Local", "## Deployed", "## Shared", "## Supply chain", "## Reporting"] {
        assert!(text.lines().any(|line| line == heading), "{heading}");
    }
    assert!(text.contains("privately") && text.contains("denial of service included"));
}

/// Each test that it names exists: a promise without one is a wish.
#[test]
fn m12_every_promise_has_a_test() {
    let text = fs::read_to_string(root().join("SECURITY.md")).unwrap();
    let mut sources = String::new();
    let mut folders = ["api", "engine", "server", "cli"].map(|folder| root().join(folder)).to_vec();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                sources.push_str(&fs::read_to_string(path).unwrap());
            }
        }
    }
    let quoted = text.split('`').skip(1).step_by(2);
    let is_row = |word: &&str| word.len() == 3 && word[1..].bytes().all(|b| b.is_ascii_digit());
    let rows: Vec<&str> = quoted.filter(is_row).collect();
    assert!(rows.len() > 25, "{rows:?}");
    for row in rows {
        // One test may be that of two rows.
        let is_named = sources.contains(&format!("fn {row}_")) || sources.contains(&format!("_{row}_"));
        assert!(is_named, "no test is named after {row}");
    }
}
