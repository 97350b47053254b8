//! What the browser tests work at: the real `lathe` with a data folder of its own, and Chromium driven by chromedriver.

use fantoccini::{Client, ClientBuilder, Locator, elements::Element, error::CmdError};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// The studio as a person starts it, on a free port.
pub struct Studio {
    child: Child,
    /// `127.0.0.1:PORT`
    pub address: String,
    pub home: PathBuf,
    dir: TempDir,
}

impl Studio {
    /// # Panics
    /// If the user interface is not built, or the studio doesn't say within a minute where it is.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// As [`start`](Self::start), with these words on its command line.
    pub fn start_with(words: &[&str]) -> Self {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../static/dist/index.html");
        assert!(page.exists(), "static/dist holds no user interface: run `make ui` first, then these tests");
        let dir = TempDir::new().unwrap();
        let home = dir.path().join("home");
        let mut child = Command::new(env!("CARGO_BIN_EXE_lathe"))
            .args(["--port", "0", "--json", "--home"])
            .arg(&home)
            .args(words)
            .env("HF_HOME", dir.path().join("hub"))
            .env("HF_HUB_OFFLINE", "1")
            .env_remove("LATHE_TOKEN")
            .stdout(Stdio::piped())
            .stderr(File::create(dir.path().join("studio.log")).unwrap())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready: Value = serde_json::from_str(&line).unwrap_or_else(|_| {
            panic!("the studio didn't start: {line:?}\n{}", tail(&dir.path().join("studio.log")));
        });
        let address = ready["url"].as_str().unwrap().trim_start_matches("http://").to_owned();
        Self { child, address, home, dir }
    }

    /// One request to the studio, past the browser: status and JSON body.
    pub fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        let (status, text) = http(&self.address, method, path, body).unwrap();
        (status, serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    /// What the newest worker of a run said first: its process.
    pub fn worker_of(&self, run: &str) -> i32 {
        let events = fs::read_to_string(self.home.join("runs").join(run).join("events.jsonl")).unwrap();
        let mut lines = events.lines().filter_map(|l| serde_json::from_str::<Value>(l).ok());
        let pid = lines.rfind(|l| l["type"] == "started").unwrap()["pid"].as_i64().unwrap();
        i32::try_from(pid).unwrap()
    }
}

impl Drop for Studio {
    fn drop(&mut self) {
        // Its workers outlive the studio on purpose; these must not.
        let (_, jobs) = http(&self.address, "GET", "/api/jobs", None).unwrap_or_default();
        let jobs: Value = serde_json::from_str(&jobs).unwrap_or_default();
        let id = |job: &Value| job["id"].as_str().map(str::to_owned);
        let running = jobs.as_array().into_iter().flatten().filter(|job| job["state"] == "running").filter_map(id);
        for run in running.filter(|run| self.home.join("runs").join(run).join("events.jsonl").exists()) {
            end(self.worker_of(&run), nix::sys::signal::Signal::SIGKILL);
        }
        end(self.child.id() as i32, nix::sys::signal::Signal::SIGTERM);
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("---- the studio's log\n{}", tail(&self.dir.path().join("studio.log")));
        }
    }
}

pub fn end(pid: i32, signal: nix::sys::signal::Signal) {
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal);
}

/// A Chromium with an empty profile.
pub struct Browser {
    driver: Child,
    address: String,
    session: String,
    pub client: Client,
    _profile: TempDir,
}

impl Browser {
    pub async fn open() -> Self {
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver is missing: `make test` installs it (Debian: chromium chromium-driver)");
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port = lines.by_ref().map_while(Result::ok).find_map(|line| {
            let (_, rest) = line.split_once("successfully on port ")?;
            rest.trim_end_matches('.').parse::<u16>().ok()
        });
        // The rest is read, so that the driver never waits for a reader.
        std::thread::spawn(move || lines.for_each(drop));
        let address = format!("127.0.0.1:{}", port.expect("chromedriver didn't say its port"));
        let profile = TempDir::new().unwrap();
        let mut options = json!({
            "args": [
                "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
                "--disable-background-networking", "--disable-component-update", "--disable-sync",
                "--window-size=1280,1000", format!("--user-data-dir={}", profile.path().display()),
            ],
            "prefs": { "intl.accept_languages": "en-US" },
        });
        if let Some(chromium) =
            ["/usr/bin/chromium", "/usr/bin/chromium-browser"].into_iter().find(|p| Path::new(p).exists())
        {
            options["binary"] = chromium.into();
        }
        let wanted = json!({ "goog:chromeOptions": options, "goog:loggingPrefs": { "browser": "ALL" } });
        let wanted = wanted.as_object().cloned().unwrap();
        let connecting =
            ClientBuilder::new(HttpConnector::new()).capabilities(wanted).connect(&format!("http://{address}")).await;
        let client = match connecting {
            Ok(client) => client,
            Err(error) => {
                let _ = driver.kill();
                panic!("Chromium didn't start: {error}");
            }
        };
        let session = client.session_id().await.unwrap().unwrap();
        Self { driver, address, session, client, _profile: profile }
    }

    /// Runs a script in the page.
    pub async fn js(&self, script: &str) -> Value {
        self.client.execute(script, vec![]).await.unwrap_or_else(|e| panic!("{e}\n{script}"))
    }

    /// Asks the page again and again until the script gives something that is true in JavaScript's sense.
    ///
    /// # Panics
    /// After `seconds`, with what the page shows.
    pub async fn until(&self, what: &str, seconds: u64, script: &str) -> Value {
        let start = Instant::now();
        loop {
            let value = self.js(script).await;
            if !matches!(value, Value::Null | Value::Bool(false)) && value != "" && value != 0 {
                return value;
            }
            if start.elapsed() > Duration::from_secs(seconds) {
                let page = self.js("return location.href + '\\n' + document.body.innerText").await;
                let page = page.as_str().unwrap_or_default();
                panic!("not within {seconds} s: {what}\n---- the page\n{page}\n---- its console\n{:#}", self.console());
            }
            tokio::time::sleep(Duration::from_millis(40)).await;
        }
    }

    /// Text of the first element that fits, once it shows one.
    pub async fn text(&self, css: &str, seconds: u64) -> String {
        let script = format!("return document.querySelector({css:?})?.innerText.trim()");
        self.until(css, seconds, &script).await.as_str().unwrap_or_default().to_owned()
    }

    pub async fn find(&self, css: &str) -> Element {
        let wait = self.client.wait().at_most(Duration::from_secs(20)).every(Duration::from_millis(40));
        match wait.for_element(Locator::Css(css)).await {
            Ok(element) => element,
            Err(error) => panic!("{css}: {error}\n{}", self.js("return document.body.innerText").await),
        }
    }

    /// Clicks as a person does: once the element is there, enabled and in nothing's way.
    pub async fn click(&self, css: &str) {
        let ready = format!(
            "const e = document.querySelector({css:?}); return e && !e.disabled && e.getClientRects().length > 0"
        );
        let start = Instant::now();
        loop {
            self.until(&format!("{css} can be clicked"), 20, &ready).await;
            let error: CmdError = match self.client.find(Locator::Css(css)).await {
                Ok(element) => match element.click().await {
                    Ok(()) => return,
                    Err(error) => error,
                },
                Err(error) => error,
            };
            // Drawn anew between the two, or still moving.
            assert!(start.elapsed() < Duration::from_secs(20), "{css}: {error}");
            tokio::time::sleep(Duration::from_millis(40)).await;
        }
    }

    /// Writes into a field in place of what stands there, and leaves it.
    pub async fn fill(&self, css: &str, text: &str) {
        self.click(css).await;
        let field = self.find(css).await;
        field.send_keys("\u{E009}a\u{E000}").await.unwrap();
        field.send_keys(text).await.unwrap();
        self.js("document.activeElement?.blur()").await;
    }

    /// What the page said on its console since the last time: errors, warnings, violations of the content policy.
    pub fn console(&self) -> Value {
        let path = format!("/session/{}/se/log", self.session);
        let (_, text) = http(&self.address, "POST", &path, Some(&json!({ "type": "browser" }))).unwrap();
        serde_json::from_str::<Value>(&text).unwrap()["value"].take()
    }

    /// A command of Chromium's own protocol.
    pub fn devtools(&self, command: &str, parameters: &Value) {
        let path = format!("/session/{}/goog/cdp/execute", self.session);
        let (status, text) =
            http(&self.address, "POST", &path, Some(&json!({ "cmd": command, "params": parameters }))).unwrap();
        assert_eq!(status, 200, "{text}");
    }

    /// # Panics
    /// If the console holds an error: of a script, of the network, or a violation of the content policy.
    pub async fn assert_quiet(&self) {
        self.js("console.error('the last word')").await;
        let mut bad: Vec<Value> = self.console().as_array().cloned().unwrap_or_default();
        bad.retain(|line| line["level"] == "SEVERE");
        let last = bad.pop().expect("the console can be read");
        assert!(last["message"].as_str().unwrap().contains("the last word"), "{last}");
        assert!(bad.is_empty(), "the console complains: {bad:#?}");
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Ends Chromium; the driver alone would leave it behind.
        let _ = http(&self.address, "DELETE", &format!("/session/{}", self.session), None);
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

/// A request on a connection of its own.
fn http(address: &str, method: &str, path: &str, body: Option<&Value>) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let body = body.map(Value::to_string).unwrap_or_default();
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )?;
    let mut stream = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") && stream.read_line(&mut head)? > 0 {}
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    let head = head.to_ascii_lowercase();
    let length = head.split("content-length:").nth(1).and_then(|s| s.lines().next()?.trim().parse().ok());
    // chromedriver keeps the connection open; what has no length ends with it.
    let mut body = Vec::new();
    stream.take(length.unwrap_or(u64::MAX)).read_to_end(&mut body)?;
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}
