//! The guard before everything else, also before routes that don't exist: which names of ours a request may use, which
//! pages may ask, and who may. Localhost is no protection by itself: any web page and any user of the machine reach it.
//!
//! | file | what |
//! |---|---|
//! | `origin` | names of ours (Host), pages of ours (Origin, Sec-Fetch-Site) |
//! | `key` | the token, keys of programs, guesses at them, sessions of browsers |
//! | `login` | the page that asks for the token |
//! | `neighbour` | whether another user of this machine is at the other end |
//! | `headers` | what every answer carries |

mod headers;
mod key;
mod login;
#[cfg(test)]
mod museum;
mod neighbour;
mod origin;

use crate::{
    error::{Error, Failure},
    home::Home,
    openai, ui,
};
use api::{
    Problem,
    routes::{ANSWER, CHAT_SOCKET, HEALTH, LOGIN, LOGOUT},
};
use axum::{
    extract::Request,
    http::{HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use key::{Key, Shown};
use origin::Names;
use std::{
    convert::Infallible,
    future::Future,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};
use tower::Service;

/// Who is at the other end of a connection; the listener puts it into each request.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    ip: IpAddr,
    /// Another user of this machine, who shares its loopback address.
    is_stranger: bool,
}

impl Peer {
    /// Who `address` is. Reads the kernel's table of connections where it may be another user of this machine.
    pub async fn of(address: SocketAddr, own: Option<SocketAddr>) -> Self {
        let ip = address.ip().to_canonical();
        let is_stranger = match own {
            Some(own) if ip.is_loopback() => {
                let look = tokio::task::spawn_blocking(move || neighbour::is_stranger(address, own));
                look.await.unwrap_or(true)
            }
            _ => false,
        };
        Self { ip, is_stranger }
    }
}

/// What the guard lets pass.
pub struct Rules {
    names: Names,
    key: Option<Arc<Key>>,
}

impl Rules {
    /// Rules for a server that listens on `address`. One that others can reach must have a token. Browsers that showed it
    /// are remembered in the data folder.
    pub fn new(address: SocketAddr, names: &[String], token: Option<&str>, home: Option<&Home>) -> Result<Self, Error> {
        let token = token.filter(|token| !token.is_empty());
        let is_open = !address.ip().is_loopback();
        if is_open && token.is_none() {
            return Err(Error::NeedsToken { host: address.ip() });
        }
        let key = token.map(|token| Key::new(token, address.port(), home).map(Arc::new)).transpose()?;
        Ok(Self { names: Names::new(address, names), key })
    }

    /// The same with keys that open what is for programs ([`is_for_programs`]), and nothing else.
    pub fn with_api_keys(self, keys: &[String]) -> Result<Self, Error> {
        if keys.is_empty() {
            return Ok(self);
        }
        let mut key = self.key.and_then(Arc::into_inner).unwrap_or_else(Key::without_token);
        keys.iter().try_for_each(|given| key.add_api_key(given))?;
        Ok(Self { key: Some(Arc::new(key)), ..self })
    }

    /// Without a token, every connection from this machine is asked whose it is.
    pub fn asks_who(&self) -> bool {
        self.key.as_ref().is_none_or(|key| !key.guards(false))
    }

    fn admit(&self, request: &Request) -> Admission {
        let Some(host) = self.names.host(request) else { return foreign_host().into() };
        if !origin::is_own_page(request, &host) {
            return foreign_page().into();
        }
        let (path, method) = (request.uri().path(), request.method());
        let is_reading = matches!(*method, Method::GET | Method::HEAD);
        if path == HEALTH && is_reading {
            return Admission::Pass;
        }
        let peer = request.extensions().get::<Peer>();
        let is_for_programs = is_for_programs(path);
        let Some(key) = self.key.as_ref().filter(|key| key.guards(is_for_programs)) else {
            return if peer.is_some_and(|peer| peer.is_stranger) { stranger().into() } else { Admission::Pass };
        };
        match (path, method) {
            (LOGIN, &Method::POST) => return Admission::Here(Answer::Login(key.clone())),
            (LOGOUT, &Method::POST) => return Admission::Here(Answer::Logout(key.clone())),
            _ if is_reading && ui::is_asset(path) => return Admission::Pass,
            _ => {}
        }
        let ip = peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.ip);
        match key.shown(request, ip, is_for_programs) {
            Shown::Good => Admission::Pass,
            Shown::InLink => Admission::Here(Answer::Enter(key.clone())),
            Shown::TooMany => too_many(request).into(),
            Shown::Nothing | Shown::Wrong if is_for_programs => no_api_key().into(),
            Shown::Nothing | Shown::Wrong => no_token(request).into(),
        }
    }
}

enum Admission {
    Pass,
    /// Answered here, without the router.
    Here(Answer),
}

enum Answer {
    Refuse(Box<Response>),
    /// The token came in a link: a session begins.
    Enter(Arc<Key>),
    /// The form of the page that asks for it came.
    Login(Arc<Key>),
    Logout(Arc<Key>),
}

impl Answer {
    async fn make(self, request: Request) -> Response {
        match self {
            Self::Refuse(response) => *response,
            Self::Enter(key) => key.enter(request.headers()).await,
            Self::Login(key) => login::sign_in(&key, request).await,
            Self::Logout(key) => key.leave(request.headers()).await,
        }
    }
}

impl From<Response> for Admission {
    fn from(response: Response) -> Self {
        Self::Here(Answer::Refuse(Box::new(response)))
    }
}

impl From<Failure> for Admission {
    fn from(failure: Failure) -> Self {
        failure.into_response().into()
    }
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

    pub fn rules(&self) -> &Rules {
        &self.rules
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
        // Clients of OpenAI's API read no other form of failure.
        let finish = match openai::is_of(request.uri().path()) {
            true => |answer| headers::finish(openai::failure_of(answer)),
            false => headers::finish,
        };
        match self.rules.admit(&request) {
            Admission::Pass => {
                let answer = self.inner.call(request);
                Box::pin(async move { Ok(finish(answer.await?)) })
            }
            Admission::Here(answer) => Box::pin(async move { Ok(finish(answer.make(request).await)) }),
        }
    }
}

fn foreign_host() -> Failure {
    let problem = Problem::new(
        "foreign_host",
        "The request doesn't name this server by one of its own names.",
        "请求所用的主机名不属于本服务器。",
    );
    let problem = problem.hint(
        "Open the address that Lathe printed when it started; --name adds another host name.",
        "请使用 Lathe 启动时显示的地址；--name 可添加其他主机名。",
    );
    Failure::new(StatusCode::MISDIRECTED_REQUEST, problem)
}

fn foreign_page() -> Failure {
    let problem =
        Problem::new("foreign_page", "The request comes from a page of another origin.", "请求来自其他来源的页面。");
    let problem = problem.hint("Use the studio's own page, or a program.", "请使用工作室自身的页面，或使用程序访问。");
    Failure::new(StatusCode::FORBIDDEN, problem)
}

fn stranger() -> Failure {
    let problem = Problem::new(
        "other_user",
        "This studio belongs to another user of this machine.",
        "该工作室属于本机的另一位用户。",
    );
    let problem = problem.hint(
        "Start one of your own, or have this one started with a token.",
        "请启动您自己的工作室，或让其所有者以令牌启动。",
    );
    Failure::new(StatusCode::FORBIDDEN, problem)
}

/// For a browser the page that asks for the token, for a program a problem.
fn no_token(request: &Request) -> Response {
    if login::is_wanted(request) {
        return login::page(request.headers(), StatusCode::UNAUTHORIZED, None);
    }
    let problem = Problem::new("no_token", "The right token is missing.", "缺少正确的令牌。");
    let problem = problem.hint("Send Authorization: Bearer with the token.", "请发送 Authorization: Bearer 加令牌。");
    let mut response = Failure::new(StatusCode::UNAUTHORIZED, problem).into_response();
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

/// What programs of others ask: a key is enough for it.
fn is_for_programs(path: &str) -> bool {
    openai::is_of(path) || [ANSWER, CHAT_SOCKET].contains(&path)
}

fn no_api_key() -> Response {
    let problem = Problem::new("invalid_api_key", "The right API key is missing.", "缺少正确的 API 密钥。");
    let problem = problem.hint(
        "Send Authorization: Bearer with a key that the server was started with (API_KEY).",
        "请发送 Authorization: Bearer 加服务启动时设定的密钥（API_KEY）。",
    );
    let mut response = Failure::new(StatusCode::UNAUTHORIZED, problem).into_response();
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

fn too_many(request: &Request) -> Response {
    if login::is_wanted(request) {
        return login::page(request.headers(), StatusCode::TOO_MANY_REQUESTS, Some(login::TOO_MANY));
    }
    let problem = Problem::new("too_many_guesses", login::TOO_MANY[0], login::TOO_MANY[1]);
    let problem = problem.hint("Wait a minute, then try again.", "请等待一分钟后重试。");
    let mut response = Failure::new(StatusCode::TOO_MANY_REQUESTS, problem).into_response();
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("60"));
    response
}
