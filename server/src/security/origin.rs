//! Which names of ours a request may use, and which pages may ask.

use axum::{
    extract::Request,
    http::{Method, header, uri::Authority},
};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// How this server may be called. Whoever can make a name lead here (DNS rebinding) still can't choose these.
pub struct Names {
    port: u16,
    /// Given by the person who started it, in lower case; behind a proxy they come with its port or none.
    given: Vec<String>,
    /// The address that it listens on.
    own: Option<String>,
    /// True when others can reach the port: then any address of this machine is a good name, since there is a token.
    is_open: bool,
}

impl Names {
    pub fn new(address: SocketAddr, names: &[String]) -> Self {
        let ip = address.ip();
        Self {
            port: address.port(),
            given: names.iter().map(|name| name.to_ascii_lowercase()).collect(),
            own: (!ip.is_unspecified()).then(|| bracketed(ip)),
            is_open: !ip.is_loopback(),
        }
    }

    /// The one name that the request calls us by, with its port, if it is one of ours.
    pub fn host(&self, request: &Request) -> Option<String> {
        let mut given = request.headers().get_all(header::HOST).iter();
        let host = given.next()?.to_str().ok()?.to_ascii_lowercase();
        if given.next().is_some() {
            return None;
        }
        if request.uri().authority().is_some_and(|named| named.as_str().to_ascii_lowercase() != host) {
            return None;
        }
        let authority: Authority = host.parse().ok()?;
        let name = authority.host();
        let port = match host.strip_prefix(name)? {
            "" => 80,
            port => port.strip_prefix(':').filter(|p| p.bytes().all(|b| b.is_ascii_digit()))?.parse().ok()?,
        };
        let is_ours = ["localhost", "127.0.0.1", "[::1]"].contains(&name)
            || self.own.as_deref() == Some(name)
            || (self.is_open && is_address(name));
        let is_given = self.given.iter().any(|given| given == name);
        (!host.contains('@') && (is_given || (is_ours && port == self.port))).then_some(host)
    }
}

/// Whether a page of ours, a person, or a program asks; a page of another origin does not pass, except that a link may
/// lead to the UI. What the browser calls itself (User-Agent) decides nothing.
pub fn is_own_page(request: &Request, host: &str) -> bool {
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
                && !["/api", "/v1", "/answer", "/ws"].iter().any(|data| request.uri().path().starts_with(data))
        }
    }
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
