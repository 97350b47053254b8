//! The guard before everything else, also before routes that don't exist: which names of ours a request may use, which
//! pages may ask, and the token. Localhost is no protection by itself: any web page can reach it.

use crate::error::{Error, Failure};
use api::Problem;
use axum::{
    body::Body,
    extract::Request,
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header, uri::Authority},
    response::{IntoResponse, Response},
};
use sha2::{Digest, Sha256};
use std::{
    convert::Infallible,
    future::Future,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tower::Service;

/// Headers of every answer.
const HEADERS: [(HeaderName, &str); 5] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// Wrong tokens a minute before all of them are refused unseen.
const GUESSES: u32 = 10;

/// What the guard lets pass.
pub struct Rules {
    port: u16,
    /// Host names besides localhost, in lower case.
    names: Vec<String>,
    /// True when others can reach the port: then any address of this machine is a good name, since there is a token.
    is_open: bool,
    token: Option<[u8; 32]>,
    guesses: Mutex<(Option<Instant>, u32)>,
}

impl Rules {
    /// Rules for a server that listens on `address`. One that others can reach must have a token.
    pub fn new(address: SocketAddr, names: &[String], token: Option<&str>) -> Result<Self, Error> {
        let token = token.filter(|token| !token.is_empty());
        let is_open = !address.ip().is_loopback();
        if is_open && token.is_none() {
            return Err(Error::NeedsToken { host: address.ip() });
        }
        if let Some(token) = token
            && (token.len() < 16 || !token.bytes().all(|b| b.is_ascii_graphic()))
        {
            return Err(Error::BadToken { length: token.chars().count() });
        }
        let mut names: Vec<String> = names.iter().map(|name| name.to_ascii_lowercase()).collect();
        if !address.ip().is_unspecified() {
            names.push(bracketed(address.ip()));
        }
        let token = token.map(|token| Sha256::digest(token.as_bytes()).into());
        Ok(Self { port: address.port(), names, is_open, token, guesses: Mutex::default() })
    }

    /// Why the request must not be answered.
    fn refuse(&self, request: &Request) -> Option<Response> {
        let Some(host) = self.host(request) else { return Some(foreign_host().into_response()) };
        if !is_own_page(request, &host) {
            return Some(foreign_page().into_response());
        }
        let expected = self.token.as_ref()?;
        if request.uri().path() == api::routes::HEALTH {
            return None;
        }
        match self.check_token(request, expected) {
            Token::Good => None,
            Token::New(token) => Some(welcome(&token, self.port)),
            Token::None => Some(no_token(request.headers())),
            Token::TooMany => Some(too_many()),
        }
    }

    /// The one name that the request calls us by, with its port, if it is one of ours.
    fn host(&self, request: &Request) -> Option<String> {
        let mut given = request.headers().get_all(header::HOST).iter();
        let host = given.next()?.to_str().ok()?.to_ascii_lowercase();
        if given.next().is_some() {
            return None;
        }
        if request.uri().authority().is_some_and(|named| named.as_str().to_ascii_lowercase() != host) {
            return None;
        }
        let authority: Authority = host.parse().ok()?;
        let has_user = host.contains('@');
        let port = match host.strip_prefix(authority.host())? {
            "" => 80,
            port => port.strip_prefix(':').filter(|p| p.bytes().all(|b| b.is_ascii_digit()))?.parse().ok()?,
        };
        let name = authority.host();
        let is_ours = ["localhost", "127.0.0.1", "[::1]"].contains(&name)
            || self.names.iter().any(|own| own == name)
            || (self.is_open && is_address(name));
        (!has_user && port == self.port && is_ours).then_some(host)
    }

    fn check_token(&self, request: &Request, expected: &[u8; 32]) -> Token {
        let bearer = request.headers().get(header::AUTHORIZATION).and_then(|v| v.to_str().ok());
        let bearer = bearer.and_then(|value| {
            let (scheme, token) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned())
        });
        let cookie = cookie(request.headers(), &cookie_name(self.port));
        let link =
            (request.method() == Method::GET && request.uri().path() == "/").then(|| in_link(request.uri())).flatten();
        if bearer.is_none() && cookie.is_none() && link.is_none() {
            return Token::None;
        }
        let mut guesses = self.guesses.lock().unwrap_or_else(PoisonError::into_inner);
        if guesses.0.is_none_or(|since| since.elapsed() >= Duration::from_secs(60)) {
            *guesses = (Some(Instant::now()), 0);
        }
        if guesses.1 >= GUESSES {
            return Token::TooMany;
        }
        let is_good = |token: &Option<String>| token.as_ref().is_some_and(|token| is_equal(token, expected));
        if is_good(&link) {
            return link.map_or(Token::None, Token::New);
        }
        if is_good(&bearer) || is_good(&cookie) {
            return Token::Good;
        }
        guesses.1 += 1;
        Token::None
    }
}

enum Token {
    Good,
    /// Came in a link: to be kept in a cookie.
    New(String),
    None,
    TooMany,
}

/// `inner` behind the rules.
#[derive(Clone)]
pub struct Guard<S> {
    inner: S,
    rules: Arc<Rules>,
}

impl<S> Guard<S> {
    pub fn new(inner: S, rules: Rules) -> Self {
        Self { inner, rules: Arc::new(rules) }
    }
}

impl<S> Service<Request> for Guard<S>
where
    S: Service<Request, Response = Response, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let is_api = request.uri().path().starts_with("/api");
        if let Some(refused) = self.rules.refuse(&request) {
            return Box::pin(std::future::ready(Ok(finish(refused, true))));
        }
        let answer = self.inner.call(request);
        Box::pin(async move { Ok(finish(answer.await?, is_api)) })
    }
}

fn finish(mut response: Response, no_store: bool) -> Response {
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if no_store && !headers.contains_key(header::CACHE_CONTROL) {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    response
}

/// Whether a page of ours, a person, or a program asks; a page of another origin does not pass, except that a link may
/// lead to the UI.
fn is_own_page(request: &Request, host: &str) -> bool {
    let headers = request.headers();
    let is_reading = matches!(*request.method(), Method::GET | Method::HEAD);
    let mut origins = headers.get_all(header::ORIGIN).iter();
    if let Some(origin) = origins.next() {
        let origin = origin.to_str().unwrap_or_default().to_ascii_lowercase();
        let own = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        if own != Some(host) || origins.next().is_some() {
            return false;
        }
    }
    let text = |name: &str| headers.get(name).map(|v| v.to_str().unwrap_or("?"));
    match text("sec-fetch-site") {
        None | Some("same-origin") => true,
        Some("none") => is_reading,
        Some(_) => {
            is_reading
                && text("sec-fetch-mode") == Some("navigate")
                && text("sec-fetch-dest") == Some("document")
                && !request.uri().path().starts_with("/api")
        }
    }
}

fn is_equal(token: &str, expected: &[u8; 32]) -> bool {
    let given: [u8; 32] = Sha256::digest(token.as_bytes()).into();
    std::hint::black_box(given.iter().zip(expected).fold(0, |all, (a, b)| all | (a ^ b))) == 0
}

/// Cookies don't know ports: two studios of one machine must not take each other's.
fn cookie_name(port: u16) -> String {
    format!("lathe_{port}")
}

fn cookie(headers: &HeaderMap, name: &str) -> Option<String> {
    let all = headers.get_all(header::COOKIE).iter().filter_map(|v| v.to_str().ok());
    let mut pairs = all.flat_map(|v| v.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(key, _)| *key == name).map(|(_, value)| value.to_owned())
}

fn in_link(uri: &Uri) -> Option<String> {
    uri.query()?.split('&').find_map(|pair| pair.strip_prefix("token=")).map(ToOwned::to_owned)
}

fn bracketed(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    }
}

fn is_address(name: &str) -> bool {
    match name.strip_prefix('[') {
        Some(rest) => {
            rest.strip_suffix(']').is_some_and(|ip| ip.parse::<Ipv6Addr>().is_ok_and(|ip| !ip.is_unspecified()))
        }
        None => name.parse::<IpAddr>().is_ok_and(|ip| !ip.is_unspecified()),
    }
}

fn foreign_host() -> Failure {
    let problem = Problem::new(
        "foreign_host",
        "The request doesn't name this server by one of its own names.",
        "请求所用的主机名不属于本服务器。",
    );
    let problem =
        problem.hint("Open the address that Lathe printed when it started.", "请使用 Lathe 启动时显示的地址。");
    Failure::new(StatusCode::MISDIRECTED_REQUEST, problem)
}

fn foreign_page() -> Failure {
    let problem =
        Problem::new("foreign_page", "The request comes from a page of another origin.", "请求来自其他来源的页面。");
    let problem = problem.hint("Use the studio's own page, or a program.", "请使用工作室自身的页面，或使用程序访问。");
    Failure::new(StatusCode::FORBIDDEN, problem)
}

fn too_many() -> Response {
    let problem = Problem::new("too_many_guesses", "Too many wrong tokens.", "错误的令牌次数过多。");
    let problem = problem.hint("Wait a minute, then try again.", "请等待一分钟后重试。");
    let mut response = Failure::new(StatusCode::TOO_MANY_REQUESTS, problem).into_response();
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("60"));
    response
}

fn no_token(headers: &HeaderMap) -> Response {
    let wants_page = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).is_some_and(|v| v.contains("text/html"));
    let mut response = if wants_page {
        const PAGE: &str = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Lathe</title><h1>A token is needed</h1>\
            <p>Open this address with <code>/?token=…</code> at its end, with the token that Lathe was started with.</p>\
            <h1 lang=\"zh\">需要令牌</h1><p lang=\"zh\">请在地址末尾加上 <code>/?token=…</code>，使用启动 Lathe 时的令牌。</p></html>";
        (StatusCode::UNAUTHORIZED, [(header::CONTENT_TYPE, "text/html; charset=utf-8")], PAGE).into_response()
    } else {
        let problem = Problem::new("no_token", "The right token is missing.", "缺少正确的令牌。");
        let problem =
            problem.hint("Send Authorization: Bearer with the token.", "请发送 Authorization: Bearer 加令牌。");
        Failure::new(StatusCode::UNAUTHORIZED, problem).into_response()
    };
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

/// Keeps the token in a cookie that scripts can't read, and takes it out of the address.
fn welcome(token: &str, port: u16) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SEE_OTHER;
    let cookie = format!("{}={token}; Path=/; HttpOnly; SameSite=Strict; Max-Age=31536000", cookie_name(port));
    if let Ok(cookie) = HeaderValue::from_str(&cookie) {
        response.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    response.headers_mut().insert(header::LOCATION, HeaderValue::from_static("/"));
    response
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef";

    fn rules(address: &str, token: Option<&str>) -> Rules {
        Rules::new(address.parse().unwrap(), &["studio.example".into()], token).unwrap()
    }

    fn status(rules: &Rules, method: &str, uri: &str, headers: &[(&str, &str)]) -> u16 {
        let mut request = axum::http::Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        rules.refuse(&request.body(Body::empty()).unwrap()).map_or(200, |r| r.status().as_u16())
    }

    #[test]
    fn only_own_names_are_answered() {
        let rules = rules("127.0.0.1:7860", None);
        for host in ["localhost:7860", "LOCALHOST:7860", "127.0.0.1:7860", "[::1]:7860", "studio.example:7860"] {
            assert_eq!(status(&rules, "GET", "/", &[("host", host)]), 200, "{host}");
        }
        for host in [
            "",
            ":7860",
            "localhost",
            "localhost:",
            "localhost:8000",
            "localhost:78600",
            "0.0.0.0:7860",
            "localhost.:7860",
            "evil.com",
            "evil.com:7860",
            "127.0.0.1:7860.evil",
            "localhost.evil.com:7860",
            "user@localhost:7860",
            "192.168.1.5:7860",
            "127.0.0.2:7860",
            "[::]:7860",
            "localhost:7860:7860",
            "localhost:+7860",
        ] {
            for method in ["GET", "HEAD", "POST", "DELETE", "OPTIONS", "TRACE", "BREW"] {
                assert_eq!(status(&rules, method, "/api/jobs", &[("host", host)]), 421, "{method} {host:?}");
            }
        }
        assert_eq!(status(&rules, "GET", "/", &[]), 421);
        assert_eq!(status(&rules, "GET", "/", &[("host", "localhost:7860"), ("host", "localhost:7860")]), 421);
        assert_eq!(status(&rules, "GET", "http://evil.com/", &[("host", "localhost:7860")]), 421);
        assert_eq!(status(&rules, "GET", "http://localhost:7860/", &[("host", "localhost:7860")]), 200);
    }

    #[test]
    fn only_own_pages_change_things() {
        let rules = rules("127.0.0.1:7860", None);
        let host = ("host", "localhost:7860");
        for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "BREW"] {
            for good in [None, Some(("origin", "http://localhost:7860")), Some(("sec-fetch-site", "same-origin"))] {
                let headers: Vec<_> = std::iter::once(host).chain(good).collect();
                assert_eq!(status(&rules, method, "/api/jobs", &headers), 200, "{method} {good:?}");
            }
            for bad in [
                "null",
                "",
                "http://evil.com",
                "http://localhost:8000",
                "http://127.0.0.1:7860",
                "http://localhost",
                "http://localhost.evil.com:7860",
                "http://localhost:7860.evil",
                "file://",
                "http://localhost:7860/",
                "http://xn--80ak6aa92e.com",
            ] {
                assert_eq!(status(&rules, method, "/api/jobs", &[host, ("origin", bad)]), 403, "{method} {bad}");
            }
            for bad in ["cross-site", "same-site", "none", "?"] {
                let navigation =
                    [host, ("sec-fetch-site", bad), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")];
                assert_eq!(status(&rules, method, "/", &navigation), 403, "{method} {bad}");
            }
        }
        let link =
            [host, ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")];
        assert_eq!(status(&rules, "GET", "/", &link), 200);
        assert_eq!(status(&rules, "GET", "/api/jobs", &link), 403);
        assert_eq!(
            status(&rules, "GET", "/app.js", &[host, ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors")]),
            403
        );
        assert_eq!(status(&rules, "GET", "/api/jobs", &[host, ("origin", "null")]), 403);
        let frame =
            [host, ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "iframe")];
        assert_eq!(status(&rules, "GET", "/", &frame), 403);
    }

    #[test]
    fn others_need_the_token() {
        assert!(matches!(Rules::new("0.0.0.0:1".parse().unwrap(), &[], None), Err(Error::NeedsToken { .. })));
        assert!(matches!(Rules::new("[::]:1".parse().unwrap(), &[], Some("")), Err(Error::NeedsToken { .. })));
        assert!(matches!(
            Rules::new("127.0.0.1:1".parse().unwrap(), &[], Some("short")),
            Err(Error::BadToken { length: 5 })
        ));
        let rules = rules("0.0.0.0:7860", Some(TOKEN));
        let host = ("host", "192.168.1.5:7860");
        let bearer = format!("Bearer {TOKEN}");
        assert_eq!(status(&rules, "GET", "/api/jobs", &[host, ("authorization", &bearer)]), 200);
        assert_eq!(status(&rules, "GET", "/api/jobs", &[host, ("cookie", &format!("a=b; lathe_7860={TOKEN}"))]), 200);
        assert_eq!(status(&rules, "GET", "/api/jobs", &[host, ("cookie", &format!("lathe_1={TOKEN}"))]), 401);
        assert_eq!(status(&rules, "GET", "/health", &[host]), 200);
        assert_eq!(status(&rules, "GET", &format!("/?token={TOKEN}"), &[host]), 303);
        assert_eq!(status(&rules, "GET", &format!("/api/jobs?token={TOKEN}"), &[host]), 401);
        for path in ["/", "/api/jobs", "/openapi.json", "/nothing"] {
            assert_eq!(status(&rules, "GET", path, &[host]), 401, "{path}");
        }
        for host in ["evil.com:7860", "0.0.0.0:7860"] {
            assert_eq!(status(&rules, "GET", "/", &[("host", host), ("authorization", &bearer)]), 421, "{host}");
        }
        let last = (0..12).map(|_| status(&rules, "GET", "/", &[host, ("authorization", "Bearer guess")])).last();
        assert_eq!(last, Some(429));
    }
}
