//! Attacks on a worker from within, and what its process looks like from outside.
#![cfg(target_os = "linux")]

use crate::desk::Studio;
use cli::confine::{Bounds, Confinement, offered};
use engine::Places;
use serde_json::json;
use std::{
    fs, io,
    net::{TcpListener, TcpStream, UdpSocket},
    os::unix::{fs::symlink, net::UnixListener},
    path::{Path, PathBuf},
    process::Command,
};

const INSIDE: &str = "LATHE_TEST_INSIDE";

/// Runs [`s09_inside`] in a process of its own, confined to a data folder, and believes what it reports.
#[test]
fn s09_a_confined_worker_gets_out_nowhere() {
    if offered() != Confinement::Whole {
        eprintln!("this kernel can't confine wholly: nothing is tested");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    for folder in ["home/models/m", "home/datasets", "home/runs/r", "home/exports", "hub", "elsewhere"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    for file in
        ["home/token", "home/sessions", "elsewhere/secret", "home/models/m/config.json", "home/runs/r/spec.json"]
    {
        fs::write(root.join(file), "here").unwrap();
    }
    symlink(root.join("elsewhere/secret"), root.join("home/models/m/linked.json")).unwrap();
    symlink("/etc/passwd", root.join("home/runs/r/passwd")).unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["confined::s09_inside", "--exact", "--ignored", "--nocapture", "--test-threads", "1"])
        .env(INSIDE, &root)
        .env("HF_TOKEN", "canary-of-this-test")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
    for untouched in ["home/token", "elsewhere/secret"] {
        assert_eq!(fs::read_to_string(root.join(untouched)).unwrap(), "here", "{untouched}");
    }
    assert_eq!(fs::read_dir(root.join("elsewhere")).unwrap().count(), 1);
}

#[test]
#[ignore = "the inner process of s09_a_confined_worker_gets_out_nowhere"]
fn s09_inside() {
    let root = PathBuf::from(std::env::var_os(INSIDE).expect("started by the outer test"));
    let home = root.join("home");
    let run = home.join("runs/r");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let parent = std::os::unix::process::parent_id();
    let places = Places { home: home.clone(), hub_cache: root.join("hub") };
    let found = Bounds::of(&places, &json!({})).writes(&run).confine();
    assert_eq!(found, Confinement::Whole);

    // What it is for still works.
    assert_eq!(fs::read_to_string(home.join("models/m/config.json")).unwrap(), "here");
    fs::write(run.join("a.part"), "x").unwrap();
    fs::rename(run.join("a.part"), run.join("a")).unwrap();
    fs::create_dir_all(run.join("checkpoint-1")).unwrap();
    fs::rename(run.join("a"), run.join("checkpoint-1/a")).unwrap();
    fs::write(home.join("cache/x"), "x").unwrap();
    assert!(fs::read_to_string("/proc/meminfo").unwrap().contains("MemTotal"));
    std::thread::spawn(|| fs::read("/dev/urandom/..").is_err()).join().unwrap();

    let status = fs::read_to_string("/proc/thread-self/status").unwrap();
    assert!(status.contains("NoNewPrivs:\t1") && status.contains("Seccomp:\t2"), "{status}");
    let denied = |what: &str, result: io::Result<()>| {
        let error = result.expect_err(what);
        let kinds = [io::ErrorKind::PermissionDenied, io::ErrorKind::CrossesDevices];
        assert!(kinds.contains(&error.kind()), "{what}: {error}");
    };
    let read = |path: &Path| fs::read(path).map(drop);
    denied("the token", read(&home.join("token")));
    denied("the sessions", read(&home.join("sessions")));
    denied("the data folder", fs::read_dir(&home).map(drop));
    denied("a file elsewhere", read(&root.join("elsewhere/secret")));
    denied("through a link of a model", read(&home.join("models/m/linked.json")));
    denied("through a link of the run", read(&run.join("passwd")));
    denied(
        "through /proc",
        read(&Path::new("/proc/self/root").join(root.join("elsewhere/secret").strip_prefix("/").unwrap())),
    );
    denied("a system file", read(Path::new("/etc/passwd")));
    denied("secrets of the parent", read(&PathBuf::from(format!("/proc/{parent}/environ"))));
    denied("memory of the parent", read(&PathBuf::from(format!("/proc/{parent}/mem"))));
    denied("write elsewhere", fs::write(root.join("elsewhere/new"), "x"));
    denied("write beside the run", fs::write(home.join("runs/other"), "x"));
    denied("change a model", fs::write(home.join("models/m/config.json"), "x"));
    denied("delete a model", fs::remove_file(home.join("models/m/config.json")));
    denied("write through a link", fs::write(run.join("passwd"), "x"));
    denied("move out", fs::rename(run.join("checkpoint-1/a"), root.join("elsewhere/a")));
    denied("link in", fs::hard_link(root.join("elsewhere/secret"), run.join("hard")));
    symlink(root.join("elsewhere"), run.join("way")).unwrap();
    denied("through a new link", read(&run.join("way/secret")));
    denied("connect", TcpStream::connect(address).map(drop));
    denied("listen", TcpListener::bind("127.0.0.1:0").map(drop));
    denied("names of the network", UdpSocket::bind("127.0.0.1:0").map(drop));
    denied("a program", Command::new("/bin/true").status().map(drop));
    fs::write(run.join("own.sh"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(run.join("own.sh"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    denied("an own program", Command::new(run.join("own.sh")).status().map(drop));
    let signal = nix::sys::signal::kill(nix::unistd::Pid::from_raw(parent as i32), None);
    assert_eq!(signal, Err(nix::errno::Errno::EPERM), "a signal to the parent");
    // A socket that is a file may stand in the run folder alone.
    assert!(UnixListener::bind(root.join("elsewhere/s")).is_err());
}

/// The workers that the studio starts are confined and know no secrets; they still do their work.
#[tokio::test]
async fn m07_a_worker_of_the_studio_is_confined_and_sees_no_secrets() {
    let secrets =
        [("HF_TOKEN", "canary-hf"), ("AWS_SECRET_ACCESS_KEY", "canary-aws"), ("LATHE_TEACHER_API_KEY", "canary-key")];
    let studio = Studio::start_with(&secrets, &["--token", "canary-of-the-studio"]);
    let (status, job) = studio.ask(
        "POST",
        "/api/jobs",
        Some(&json!({ "kind": "train", "name": "r", "config": {
            "model_name_or_path": "starter", "dataset": "identity", "max_steps": 400, "finetuning_type": "lora",
        }})),
    );
    assert_eq!(status, 201, "{job}");
    let id = job["id"].as_str().unwrap();
    let pid = studio.until_started(id);
    let proc = |file: &str| String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/{file}")).unwrap()).into_owned();
    for file in ["environ", "cmdline"] {
        assert!(!proc(file).contains("canary"), "{file}: {}", proc(file));
    }
    let words: Vec<String> = proc("cmdline").split('\0').filter(|word| !word.is_empty()).map(Into::into).collect();
    assert_eq!(words[1..], ["worker", "--home", studio.home.to_str().unwrap(), studio.run(id).to_str().unwrap()]);
    if offered() == Confinement::Whole {
        let status = proc("status");
        assert!(status.contains("NoNewPrivs:\t1") && status.contains("Seccomp:\t2"), "{status}");
    }
    studio.until_step(id, 1);
    let (status, _) = studio.ask("POST", &format!("/api/jobs/{id}/stop"), None);
    assert_eq!(status, 200);
    let job = studio.until(id, &["stopped", "succeeded"]);
    assert!(job["problem"].is_null(), "{job}");
    // S10: what was planted stands nowhere in the data folder, the log of the worker and that of the studio.
    let found = studio.files_with("canary");
    assert!(found.is_empty(), "{found:?}");
}
