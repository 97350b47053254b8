//! The token, guesses at it, and the sessions of browsers that showed it.

use super::login;
use crate::{
    error::{Error, Failure},
    home::{Home, replace_file},
    random, time,
};
use axum::{
    body::Body,
    extract::Request,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use sha2::{Digest, Sha256};
use std::{
    collections::HashMap,
    fmt::Write,
    fs, io,
    net::IpAddr,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use subtle::{Choice, ConstantTimeEq};

/// Wrong tokens a minute from one address before all from there are refused unseen.
const GUESSES: u32 = 10;
/// Addresses whose guesses are counted. When there are more in a minute, all are refused: it is an attack.
const GUESSERS: usize = 4096;
const MINUTE: Duration = Duration::from_secs(60);
/// Seconds until a browser has to show the token again.
const LASTING: u64 = 30 * 24 * 60 * 60;
/// Browsers that are remembered; the one that came first goes when there are more.
const SESSIONS: usize = 256;

/// SHA-256 of a secret: what is compared and kept in its place.
type Hash = [u8; 32];

pub struct Key {
    /// Opens everything.
    token: Option<Hash>,
    /// Each opens what is for programs, and nothing else.
    programs: Vec<Hash>,
    /// Cookies don't know ports: two studios of one machine must not take each other's.
    cookie: String,
    guesses: Mutex<Guesses>,
    sessions: Arc<Sessions>,
}

/// What a request shows of itself.
pub enum Shown {
    Good,
    /// The right token in the address of the page.
    InLink,
    Nothing,
    Wrong,
    TooMany,
}

impl Key {
    pub fn new(token: &str, port: u16, home: Option<&Home>) -> Result<Self, Error> {
        if token.len() < 16 || !token.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(Error::BadToken { length: token.chars().count() });
        }
        let token: Hash = Sha256::digest(token.as_bytes()).into();
        let sessions = Arc::new(Sessions::open(home.map(|home| home.path().join("sessions")), token));
        let cookie = format!("lathe_{port}");
        Ok(Self { token: Some(token), programs: Vec::new(), cookie, guesses: Mutex::default(), sessions })
    }

    /// One that guards only what is for programs.
    pub fn without_token() -> Self {
        let (cookie, sessions) = (String::new(), Arc::new(Sessions::open(None, Hash::default())));
        Self { token: None, programs: Vec::new(), cookie, guesses: Mutex::default(), sessions }
    }

    pub fn add_api_key(&mut self, key: &str) -> Result<(), Error> {
        if key.is_empty() || !key.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(Error::BadApiKey);
        }
        self.programs.push(Sha256::digest(key.as_bytes()).into());
        Ok(())
    }

    /// Whether a request needs to show anything.
    pub fn guards(&self, is_for_programs: bool) -> bool {
        self.token.is_some() || (is_for_programs && !self.programs.is_empty())
    }

    /// Whoever has a session is not held up by somebody who guesses.
    pub fn shown(&self, request: &Request, from: IpAddr, is_for_programs: bool) -> Shown {
        let headers = request.headers();
        let is_home = request.method() == Method::GET && request.uri().path() == "/";
        let linked = request.uri().query().filter(|_| is_home).and_then(in_query);
        let linked = linked.map(|token| self.try_secret(token, from, Shown::InLink, false));
        if let Some(Shown::InLink) = linked {
            return Shown::InLink;
        }
        if cookie(headers, &self.cookie).is_some_and(|id| self.sessions.is_open(&id)) {
            return Shown::Good;
        }
        let borne = || bearer(headers).map(|secret| self.try_secret(secret, from, Shown::Good, is_for_programs));
        linked.or_else(borne).unwrap_or(Shown::Nothing)
    }

    /// Whether it is the token; wrong ones are counted.
    pub fn try_token(&self, token: &str, from: IpAddr, good: Shown) -> Shown {
        self.try_secret(token, from, good, false)
    }

    /// Compares with all that opens, in a time that says nothing of where they differ, and counts wrong ones.
    fn try_secret(&self, secret: &str, from: IpAddr, good: Shown, is_for_programs: bool) -> Shown {
        let mut guesses = lock(&self.guesses);
        if guesses.are_too_many(from) {
            return Shown::TooMany;
        }
        let given: Hash = Sha256::digest(secret.as_bytes()).into();
        let keys = if is_for_programs { self.programs.as_slice() } else { &[] };
        let is_one = self.token.iter().chain(keys).fold(Choice::from(0), |found, hash| found | given.ct_eq(hash));
        if bool::from(is_one) {
            return good;
        }
        guesses.count(from);
        Shown::Wrong
    }

    /// Begins a session and leads to the studio, without the token in its address.
    pub async fn enter(&self, headers: &HeaderMap) -> Response {
        let sessions = self.sessions.clone();
        let begun = tokio::task::spawn_blocking(move || sessions.begin()).await;
        match begun.map_err(Failure::internal) {
            Ok(Ok(id)) => home_with_cookie(&self.cookie, &id, LASTING, is_https(headers)),
            Ok(Err(error)) => Failure::io(["Keeping the session", "保存会话"], &error).into_response(),
            Err(failure) => failure.into_response(),
        }
    }

    /// Ends the session of the request.
    pub async fn leave(&self, headers: &HeaderMap) -> Response {
        if let Some(id) = cookie(headers, &self.cookie) {
            let sessions = self.sessions.clone();
            let ended = tokio::task::spawn_blocking(move || sessions.end(&id)).await;
            if let Err(error) = ended.unwrap_or_else(|error| Err(io::Error::other(error))) {
                return Failure::io(["Ending the session", "结束会话"], &error).into_response();
            }
        }
        home_with_cookie(&self.cookie, "", 0, is_https(headers))
    }
}

/// Wrong tokens of this minute by where they came from.
#[derive(Default)]
struct Guesses {
    since: Option<Instant>,
    wrong: HashMap<IpAddr, u32>,
}

impl Guesses {
    fn are_too_many(&mut self, from: IpAddr) -> bool {
        if self.since.is_none_or(|since| since.elapsed() >= MINUTE) {
            *self = Self { since: Some(Instant::now()), wrong: HashMap::new() };
        }
        self.wrong.get(&network(from)).is_some_and(|wrong| *wrong >= GUESSES) || self.wrong.len() >= GUESSERS
    }

    fn count(&mut self, from: IpAddr) {
        *self.wrong.entry(network(from)).or_default() += 1;
    }
}

/// Who has one IPv6 address has the 2⁶⁴ of its network.
fn network(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(ip) => IpAddr::V6((ip.to_bits() >> 64 << 64).into()),
    }
}

/// Browsers that showed the token. The file, which outlives the server, holds hashes of the token with the session's id: it
/// opens nothing, and another token ends all sessions.
struct Sessions {
    file: Option<PathBuf>,
    token: Hash,
    /// When each ends, in seconds since 1970.
    open: Mutex<HashMap<Hash, u64>>,
}

impl Sessions {
    fn open(file: Option<PathBuf>, token: Hash) -> Self {
        let text = file.as_ref().and_then(|file| fs::read_to_string(file).ok()).unwrap_or_default();
        let line = |line: &str| {
            let (hash, end) = line.split_once(' ')?;
            Some((unhex(hash)?, end.parse().ok()?))
        };
        Self { file, token, open: Mutex::new(text.lines().filter_map(line).take(SESSIONS).collect()) }
    }

    /// The id of a new one: 256 random bits.
    fn begin(&self) -> io::Result<String> {
        let id = random::hex(32)?;
        let mut open = lock(&self.open);
        open.retain(|_, end| *end > now());
        while open.len() >= SESSIONS {
            let Some(first) = open.iter().min_by_key(|(_, end)| **end).map(|(hash, _)| *hash) else { break };
            open.remove(&first);
        }
        open.insert(self.hash(&id), now() + LASTING);
        self.write(&open)?;
        Ok(id)
    }

    fn is_open(&self, id: &str) -> bool {
        lock(&self.open).get(&self.hash(id)).is_some_and(|end| *end > now())
    }

    fn end(&self, id: &str) -> io::Result<()> {
        let mut open = lock(&self.open);
        if open.remove(&self.hash(id)).is_some() { self.write(&open) } else { Ok(()) }
    }

    fn hash(&self, id: &str) -> Hash {
        Sha256::new().chain_update(self.token).chain_update(id).finalize().into()
    }

    fn write(&self, open: &HashMap<Hash, u64>) -> io::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        let text = open.iter().fold(String::new(), |mut text, (hash, end)| {
            let _ = writeln!(text, "{} {end}", random::to_hex(hash));
            text
        });
        replace_file(file, text.as_bytes())
    }
}

fn now() -> u64 {
    time::now() as u64
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn unhex(text: &str) -> Option<Hash> {
    let digits = text.as_bytes();
    let byte = |i: usize| u8::from_str_radix(text.get(2 * i..2 * i + 2)?, 16).ok();
    let mut hash = [0; 32];
    for (i, place) in hash.iter_mut().enumerate() {
        *place = byte(i)?;
    }
    (digits.len() == 64).then_some(hash)
}

fn cookie(headers: &HeaderMap, name: &str) -> Option<String> {
    let all = headers.get_all(header::COOKIE).iter().filter_map(|v| v.to_str().ok());
    let mut pairs = all.flat_map(|v| v.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(key, _)| *key == name).map(|(_, value)| value.to_owned())
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn in_query(query: &str) -> Option<&str> {
    query.split('&').find_map(|pair| pair.strip_prefix("token="))
}

/// Whether the browser speaks TLS, to a proxy that stands before this server.
fn is_https(headers: &HeaderMap) -> bool {
    let begins = |name: &str, text: &str| headers.get(name).is_some_and(|v| v.as_bytes().starts_with(text.as_bytes()));
    begins("origin", "https://") || begins("x-forwarded-proto", "https")
}

/// Leads to the studio with a cookie that scripts can't read and other sites don't send.
fn home_with_cookie(name: &str, value: &str, seconds: u64, is_https: bool) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SEE_OTHER;
    let secure = if is_https { "; Secure" } else { "" };
    let cookie = format!("{name}={value}; Path=/; HttpOnly; SameSite=Strict; Max-Age={seconds}{secure}");
    if let Ok(cookie) = HeaderValue::from_str(&cookie) {
        response.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    response.headers_mut().insert(header::LOCATION, HeaderValue::from_static(login::STUDIO));
    response
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn sessions_outlive_the_server_and_end_with_the_token() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("sessions");
        let open = |token| Sessions::open(Some(file.clone()), token);
        let first = open([1; 32]);
        let [id, other] = [(); 2].map(|()| first.begin().unwrap());
        assert!(id != other && id.len() == 64);
        let second = open([1; 32]);
        assert!(second.is_open(&id) && second.is_open(&other) && !second.is_open(""));
        assert!(!open([2; 32]).is_open(&id), "another token");
        second.end(&other).unwrap();
        assert!(open([1; 32]).is_open(&id) && !open([1; 32]).is_open(&other));
        // Neither the token nor an id stands in the file, which is its owner's alone.
        let text = fs::read_to_string(&file).unwrap();
        assert!(!text.contains(&id) && !text.contains(&random::to_hex(&[1; 32])));
        assert_eq!(std::os::unix::fs::MetadataExt::mode(&fs::metadata(&file).unwrap()) & 0o777, 0o600);
        for _ in 0..SESSIONS + 5 {
            first.begin().unwrap();
        }
        assert_eq!(lock(&first.open).len(), SESSIONS);
    }

    #[test]
    fn one_guesser_locks_out_nobody_else() {
        let key = Key::new("0123456789abcdef", 1, None).unwrap();
        let [guesser, person]: [IpAddr; 2] = ["2001:db8::1", "10.0.0.2"].map(|ip| ip.parse().unwrap());
        let beside: IpAddr = "2001:db8::2".parse().unwrap();
        for _ in 0..GUESSES {
            assert!(matches!(key.try_token("guess", guesser, Shown::Good), Shown::Wrong));
        }
        for from in [guesser, beside] {
            assert!(matches!(key.try_token("0123456789abcdef", from, Shown::Good), Shown::TooMany));
        }
        assert!(matches!(key.try_token("0123456789abcdef", person, Shown::Good), Shown::Good));
    }
}
