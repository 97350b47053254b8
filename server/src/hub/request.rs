//! Requests to the hub: redirects followed by hand so that the token stays with its host, and patience with a server
//! that is busy or cuts the line.

use super::{Hub, problems};
use api::{Problem, hub::HubName};
use reqwest::header::{AUTHORIZATION, COOKIE, HeaderMap, LOCATION, RANGE, RETRY_AFTER};
use reqwest::{Method, Response, StatusCode, Url};
use std::time::Duration;

/// Failures in a row, without a byte won, after which a request is given up.
pub const PATIENCE: u32 = 5;
/// The same for a host that can't be connected to at all.
const PATIENCE_TO_CONNECT: u32 = 3;
/// The longest wait that a server may ask for.
const LONGEST_WAIT: Duration = Duration::from_secs(120);
const REDIRECTS: usize = 10;

/// Why a request failed, and whether it is worth another try.
#[derive(Debug)]
pub enum Trouble {
    /// Try again after the wait that the server asked for, or after one that doubles.
    Again {
        problem: Problem,
        wait: Option<Duration>,
        patience: u32,
    },
    /// The server answered with a status that won't change by asking again.
    Status(u16, Problem),
    Over(Problem),
}

impl From<Problem> for Trouble {
    fn from(problem: Problem) -> Self {
        Self::Over(problem)
    }
}

/// Counts failures in a row and sleeps between them.
pub struct Retries {
    failures: u32,
    first_wait: Duration,
}

impl Retries {
    pub fn new(first_wait: Duration) -> Self {
        Self { failures: 0, first_wait }
    }

    /// Something was won since the last failure.
    pub fn forget(&mut self) {
        self.failures = 0;
    }

    /// Waits before the next try, or gives the problem back when there is to be none.
    pub async fn after(&mut self, trouble: Trouble) -> Result<(), Problem> {
        let (problem, wait, patience) = match trouble {
            Trouble::Status(_, problem) | Trouble::Over(problem) => return Err(problem),
            Trouble::Again { problem, wait, patience } => (problem, wait, patience),
        };
        self.failures += 1;
        if self.failures >= patience {
            return Err(problem);
        }
        let doubled = self.first_wait.saturating_mul(1 << (self.failures - 1).min(6));
        tokio::time::sleep(wait.unwrap_or(doubled)).await;
        Ok(())
    }
}

/// A client for one hub.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    endpoint: Url,
    token: Option<String>,
    hub: HubName,
}

/// What the hub says about a file before its content.
#[derive(Clone, Debug)]
pub struct Remote {
    pub commit: Option<String>,
    /// Safe as a file name.
    pub etag: String,
    pub size: Option<u64>,
}

impl Client {
    pub fn new(hub: &Hub) -> Result<Self, Problem> {
        let endpoint = &hub.endpoint;
        let host = endpoint.host_str().unwrap_or_default();
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("lathe/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(Duration::from_secs(15))
            .read_timeout(Duration::from_secs(60));
        if host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback()) {
            builder = builder.no_proxy();
        }
        let http = builder.build().map_err(|e| problems::unreachable(host, &e.to_string()))?;
        Ok(Self { http, endpoint: endpoint.clone(), token: hub.token.clone(), hub: hub.name })
    }

    /// `ENDPOINT/SEGMENT/SEGMENT…`, each segment percent-encoded.
    pub fn url<'a>(&self, segments: impl IntoIterator<Item = &'a str>) -> Url {
        let mut url = self.endpoint.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        url
    }

    /// The first bytes of a small answer, in full or not at all: at most `limit` bytes.
    pub async fn text(&self, url: Url, limit: usize) -> Result<Vec<u8>, Trouble> {
        let mut response = self.get(url.clone(), 0).await?;
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|e| lost(&url, &e))? {
            if body.len() + chunk.len() > limit {
                return Err(problems::bad_answer(&shown(&url), &format!("more than {limit} bytes")).into());
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    /// GET from byte `from` on; the answer is a success (200 or 206) or 416.
    pub async fn get(&self, mut url: Url, from: u64) -> Result<Response, Trouble> {
        for _ in 0..REDIRECTS {
            let response = self.send(Method::GET, &url, from).await?;
            match redirected(&url, &response)? {
                Some(next) => url = next,
                None => return Ok(response),
            }
        }
        Err(problems::bad_answer(&shown(&url), "too many redirects").into())
    }

    /// HEAD: etag, size and commit. The hub tells them in the answer that redirects to its storage, which is then not
    /// asked.
    pub async fn head(&self, mut url: Url) -> Result<Remote, Trouble> {
        let first = url.clone();
        let mut commit = None;
        for _ in 0..REDIRECTS {
            let response = self.send(Method::HEAD, &url, 0).await?;
            let headers = response.headers();
            commit = commit.or_else(|| header(headers, "x-repo-commit"));
            let next = redirected(&url, &response)?;
            let linked = header(headers, "x-linked-etag");
            let etag = if next.is_none() { linked.or_else(|| header(headers, "etag")) } else { linked };
            if let Some(etag) = etag {
                let length = header(headers, "content-length").filter(|_| next.is_none());
                let size = header(headers, "x-linked-size").or(length).and_then(|s| s.parse().ok());
                return Ok(Remote { commit, etag: file_name(&etag), size });
            }
            match next {
                Some(next) => url = next,
                None => break,
            }
        }
        Err(problems::bad_answer(&shown(&first), "no ETag").into())
    }

    async fn send(&self, method: Method, url: &Url, from: u64) -> Result<Response, Trouble> {
        let mut request = self.http.request(method, url.clone());
        if let Some(token) = self.token.as_ref().filter(|_| url.origin() == self.endpoint.origin()) {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
            if self.hub == HubName::Ms {
                // Where its programs put the token.
                request = request.header(COOKIE, format!("m_session_id={token}"));
            }
        }
        if from > 0 {
            request = request.header(RANGE, format!("bytes={from}-"));
        }
        let response = request.send().await.map_err(|e| lost(url, &e))?;
        let status = response.status();
        let fine = status.is_success() || status.is_redirection();
        if fine || (from > 0 && status == StatusCode::RANGE_NOT_SATISFIABLE) {
            return Ok(response);
        }
        Err(refused(url, status, response.headers()))
    }
}

/// A connection that failed or was cut.
pub fn lost(url: &Url, error: &reqwest::Error) -> Trouble {
    let mut reason: &dyn std::error::Error = error;
    while let Some(deeper) = reason.source() {
        reason = deeper;
    }
    let problem = problems::unreachable(&host(url), &reason.to_string());
    let patience = if error.is_connect() { PATIENCE_TO_CONNECT } else { PATIENCE };
    Trouble::Again { problem, wait: None, patience }
}

/// `host:port` for messages.
pub fn host(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or(host.to_string(), |port| format!("{host}:{port}"))
}

/// The address for messages, without a signed query or a password.
pub fn shown(url: &Url) -> String {
    format!("{}://{}{}", url.scheme(), host(url), url.path())
}

/// A header as text, without surrounding quotes.
pub fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name).and_then(|v| v.to_str().ok()).map(|v| v.trim().to_string()).filter(|v| !v.is_empty())
}

fn refused(url: &Url, status: StatusCode, headers: &HeaderMap) -> Trouble {
    let again = |problem, wait| Trouble::Again { problem, wait, patience: PATIENCE };
    match status.as_u16() {
        429 | 503 => {
            let asked = header(headers, RETRY_AFTER.as_str()).and_then(|s| s.parse().ok()).map(Duration::from_secs);
            let problem = problems::busy(&host(url), asked.unwrap_or(Duration::from_secs(60)).as_secs());
            if asked > Some(LONGEST_WAIT) { Trouble::Over(problem) } else { again(problem, asked) }
        }
        status @ (408 | 500..) => again(problems::status(&shown(url), status), None),
        status => Trouble::Status(status, problems::status(&shown(url), status)),
    }
}

/// Where a redirect leads; never from https to http, never to another scheme.
fn redirected(url: &Url, response: &Response) -> Result<Option<Url>, Problem> {
    if !response.status().is_redirection() {
        return Ok(None);
    }
    let bad = |what: &str| problems::bad_answer(&shown(url), what);
    let location = header(response.headers(), LOCATION.as_str()).ok_or_else(|| bad("a redirect without an address"))?;
    let next = url.join(&location).map_err(|_| bad("a redirect to no address"))?;
    match (url.scheme(), next.scheme()) {
        ("http", "http" | "https") | ("https", "https") => Ok(Some(next)),
        _ => Err(bad("a redirect to an unsafe address")),
    }
}

/// An etag as a file name: its own word where that is plain, otherwise a digest of it.
pub fn file_name(etag: &str) -> String {
    let word = etag.trim_start_matches("W/").trim_matches('"');
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if (1..=128).contains(&word.len())
        && word.chars().all(plain)
        && !word.starts_with('.')
        && !word.ends_with(".incomplete")
    {
        return word.to_string();
    }
    use sha2::Digest;
    let digest = sha2::Sha256::digest(etag.as_bytes());
    format!("etag-{}", digest.iter().take(16).map(|b| format!("{b:02x}")).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn etags_become_safe_file_names() {
        assert_eq!(file_name("\"abc123\""), "abc123");
        assert_eq!(file_name("W/\"5d-x\""), "5d-x");
        for hostile in ["\"../../x\"", "\"a/b\"", "\"\"", ".hidden", "x.incomplete"] {
            assert!(file_name(hostile).starts_with("etag-"), "{hostile}");
        }
    }
}
