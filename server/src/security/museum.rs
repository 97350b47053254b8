//! Attacks that other software of this kind has met, at the guard: each test is named after its row. The router behind the
//! guard is a stand-in that says which requests came through.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::routes;
use axum::{
    body::{Body, to_bytes},
    http::HeaderMap,
};
use tower::ServiceExt;

const TOKEN: &str = "correct-horse-battery-staple";
const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"];
const HOST: (&str, &str) = ("host", "localhost:7860");
/// What the stand-in says.
const PASSED: StatusCode = StatusCode::IM_A_TEAPOT;

fn rules(address: &str, token: Option<&str>) -> Arc<Rules> {
    Arc::new(Rules::new(address.parse().unwrap(), &["studio.example".into()], token, None).unwrap())
}

async fn ask(rules: &Arc<Rules>, method: &str, uri: &str, headers: &[(&str, &str)]) -> Response {
    ask_from(rules, method, uri, headers, None).await
}

async fn ask_from(
    rules: &Arc<Rules>,
    method: &str,
    uri: &str,
    headers: &[(&str, &str)],
    peer: Option<Peer>,
) -> Response {
    let router = tower::service_fn(|_: Request| async { Ok(PASSED.into_response()) });
    let mut request = axum::http::Request::builder().method(method).uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut request = request.body(Body::empty()).unwrap();
    if let Some(peer) = peer {
        request.extensions_mut().insert(peer);
    }
    Guard { inner: router, rules: rules.clone() }.oneshot(request).await.unwrap()
}

async fn status(rules: &Arc<Rules>, method: &str, uri: &str, headers: &[(&str, &str)]) -> u16 {
    ask(rules, method, uri, headers).await.status().as_u16()
}

/// Every path that the server knows, and some that it doesn't.
fn paths() -> Vec<String> {
    let known = routes::all().into_iter().map(|route| route.path.replace("{id}", "x").replace("{name}", "x"));
    let all: std::collections::BTreeSet<String> = known
        .chain(["/", "/openapi.json", "/nothing", "/api", "/api/nothing", "/v1/nothing", LOGIN, LOGOUT].map(Into::into))
        .collect();
    assert!(all.len() > 30, "the table of routes is seen");
    all.into_iter().collect()
}

/// Signs in by the link that is printed and gives the cookie, as a browser sends it back.
async fn cookie_of(rules: &Arc<Rules>) -> String {
    let entered = ask(rules, "GET", &format!("/?token={TOKEN}"), &[HOST]).await;
    assert_eq!(entered.status(), StatusCode::SEE_OTHER);
    let cookie = entered.headers()[header::SET_COOKIE].to_str().unwrap();
    cookie.split(';').next().unwrap().to_owned()
}

#[tokio::test]
async fn m08_only_pages_of_ours_change_anything() {
    let rules = rules("127.0.0.1:7860", Some(TOKEN));
    let (cookie, bearer) = (cookie_of(&rules).await, format!("Bearer {TOKEN}"));
    let foreign = [
        "null",
        "",
        "http://evil.com",
        "https://evil.com:7860",
        "http://localhost.evil.com",
        "http://localhost:8000",
        "http://127.0.0.1:7860.evil",
        "http://127.0.0.1:7860",
        "http://localhost:7860.",
        "HTTP://EVIL.COM",
        "http://xn--80ak6aa92e.com",
        "file://",
    ];
    for path in paths() {
        for method in METHODS {
            for known in [None, Some(("cookie", cookie.as_str())), Some(("authorization", bearer.as_str()))] {
                let with = |extra: &[(&'static str, &'static str)]| -> Vec<(&str, &str)> {
                    [HOST].into_iter().chain(known).chain(extra.iter().copied()).collect()
                };
                for origin in foreign {
                    assert_eq!(
                        status(&rules, method, &path, &with(&[("origin", origin)])).await,
                        403,
                        "{method} {path} {origin:?}"
                    );
                }
                for site in ["cross-site", "same-site", "?"] {
                    let got = status(&rules, method, &path, &with(&[("sec-fetch-site", site)])).await;
                    assert_eq!(got, 403, "{method} {path} {site}");
                }
                // A link from elsewhere may lead to a page of ours, and do nothing.
                let link =
                    [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")];
                let is_data = ["/api", "/v1", "/answer", "/ws"].iter().any(|data| path.starts_with(data));
                let is_page = ["GET", "HEAD"].contains(&method) && !is_data;
                assert_eq!(status(&rules, method, &path, &with(&link)).await != 403, is_page, "{method} {path}");
                // Same origin: whoever is known comes through, except to what the guard answers itself.
                if known.is_some() && ![LOGIN, LOGOUT].contains(&path.as_str()) {
                    for own in ["http://localhost:7860", "HTTP://LOCALHOST:7860", "https://localhost:7860"] {
                        let got = status(&rules, method, &path, &with(&[("origin", own)])).await;
                        assert!(got == PASSED.as_u16() || path == "/health", "{method} {path}: {got}");
                    }
                }
            }
        }
    }
}

#[tokio::test]
async fn m10_nobody_is_led_to_a_place_that_a_request_names() {
    let rules = rules("127.0.0.1:7860", Some(TOKEN));
    for uri in [
        format!("/?token={TOKEN}&next=https://evil.com/"),
        format!("/?next=//evil.com&token={TOKEN}"),
        format!("/?redirect=%2f%2fevil.com&token={TOKEN}#//evil.com"),
    ] {
        let entered = ask(&rules, "GET", &uri, &[HOST]).await;
        assert_eq!(entered.headers()[header::LOCATION], "/", "{uri}");
    }
    let left = ask(&rules, "POST", "/logout?next=//evil.com", &[HOST]).await;
    assert_eq!(left.headers()[header::LOCATION], "/");
    for uri in ["//evil.com/", "/\\evil.com", "/%2f%2fevil.com?token=x"] {
        assert!(!ask(&rules, "GET", uri, &[HOST]).await.headers().contains_key(header::LOCATION), "{uri}");
    }
}

/// Names that rebinding, proxies and odd clients come with; on a server of this machine alone all are refused.
const FOREIGN_HOSTS: [&str; 20] = [
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
    "2130706433:7860",
    "0x7f.1:7860",
    "[::]:7860",
    "localhost:7860:7860",
    "localhost:+7860",
];

#[tokio::test]
async fn m21_only_own_names_are_answered() {
    let rules = rules("127.0.0.1:7860", None);
    for host in [
        "localhost:7860",
        "LOCALHOST:7860",
        "127.0.0.1:7860",
        "[::1]:7860",
        // Given with --name, also behind a proxy on its usual port.
        "studio.example:7860",
        "studio.example",
    ] {
        assert_eq!(status(&rules, "GET", "/", &[("host", host)]).await, 418, "{host}");
    }
    for host in FOREIGN_HOSTS {
        for method in METHODS {
            assert_eq!(status(&rules, method, "/api/jobs", &[("host", host)]).await, 421, "{method} {host:?}");
        }
    }
    assert_eq!(status(&rules, "GET", "/", &[]).await, 421);
    assert_eq!(status(&rules, "GET", "/", &[HOST, HOST]).await, 421, "two of them");
    assert_eq!(status(&rules, "GET", "http://evil.com/", &[HOST]).await, 421, "the request line names another");
    assert_eq!(status(&rules, "GET", "http://localhost:7860/", &[HOST]).await, 418);
}

#[tokio::test]
async fn s03_names_are_checked_where_others_can_reach_the_server() {
    let rules = rules("0.0.0.0:7860", Some(TOKEN));
    let bearer = format!("Bearer {TOKEN}");
    for host in FOREIGN_HOSTS.into_iter().filter(|host| !["192.168.1.5:7860", "127.0.0.2:7860"].contains(host)) {
        let got = status(&rules, "GET", "/api/jobs", &[("host", host), ("authorization", &bearer)]).await;
        assert_eq!(got, 421, "{host:?}");
    }
    let got = status(&rules, "GET", "/api/jobs", &[("host", "192.168.1.5:7860"), ("authorization", &bearer)]).await;
    assert_eq!(got, 418, "by its address, with the token");
}

#[tokio::test]
async fn m32_every_route_and_method_passes_the_guard_whatever_the_client_calls_itself() {
    let rules = rules("127.0.0.1:7860", None);
    for path in paths() {
        for method in METHODS {
            for agent in ["Mozilla/5.0", "curl/8", ""] {
                let agent = ("user-agent", agent);
                assert_eq!(status(&rules, method, &path, &[("host", "rebound.example:7860"), agent]).await, 421);
                assert_eq!(status(&rules, method, &path, &[HOST, agent, ("origin", "http://evil.com")]).await, 403);
            }
        }
    }
}

#[tokio::test]
async fn m34_a_token_in_the_address_is_swapped_for_a_session() {
    let rules = rules("127.0.0.1:7860", Some(TOKEN));
    let entered = ask(&rules, "GET", &format!("/?token={TOKEN}"), &[HOST]).await;
    assert_eq!(
        (entered.status().as_u16(), &entered.headers()[header::LOCATION]),
        (303, &HeaderValue::from_static("/"))
    );
    let cookie = entered.headers()[header::SET_COOKIE].to_str().unwrap().to_owned();
    for part in ["lathe_7860=", "; HttpOnly", "; SameSite=Strict", "; Path=/"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    assert!(!cookie.contains(TOKEN) && !cookie.contains("Secure"), "{cookie}");
    let secure = [HOST, ("origin", "https://localhost:7860")];
    let entered = ask(&rules, "GET", &format!("/?token={TOKEN}"), &secure).await;
    assert!(entered.headers()[header::SET_COOKIE].to_str().unwrap().ends_with("; Secure"));
    // Only of the page itself: the address of an API is logged and shared.
    assert_eq!(status(&rules, "GET", &format!("/api/jobs?token={TOKEN}"), &[HOST]).await, 401);

    let session = cookie.split(';').next().unwrap();
    assert_eq!(status(&rules, "GET", "/api/jobs", &[HOST, ("cookie", &format!("a=b; {session}"))]).await, 418);
    let other_port = session.replace("7860", "1");
    for wrong in [other_port.as_str(), "lathe_7860=", &format!("lathe_7860={TOKEN}"), &format!("{session}0")] {
        assert_eq!(status(&rules, "GET", "/api/jobs", &[HOST, ("cookie", wrong)]).await, 401, "{wrong}");
    }
    let left = ask(&rules, "POST", LOGOUT, &[HOST, ("cookie", session)]).await;
    assert!(left.headers()[header::SET_COOKIE].to_str().unwrap().contains("Max-Age=0"));
    assert_eq!(status(&rules, "GET", "/api/jobs", &[HOST, ("cookie", session)]).await, 401, "it has ended");
}

#[tokio::test]
async fn s01_others_need_a_token() {
    for (address, token) in [("0.0.0.0:1", None), ("[::]:1", Some("")), ("192.168.1.5:1", None)] {
        let refused = Rules::new(address.parse().unwrap(), &[], token, None);
        assert!(matches!(refused, Err(Error::NeedsToken { .. })), "{address}");
    }
    for (token, length) in [("short", 5), ("with space in it", 16), ("十六个字的令牌不是可打印的字符吗", 16)]
    {
        let refused = Rules::new("127.0.0.1:1".parse().unwrap(), &[], Some(token), None);
        assert!(matches!(refused, Err(Error::BadToken { length: found }) if found == length), "{token}");
    }
    assert!(Rules::new("[::1]:1".parse().unwrap(), &[], None, None).is_ok());
}

#[tokio::test]
async fn s02_without_the_token_only_health_and_assets_answer() {
    let rules = rules("127.0.0.1:7860", Some(TOKEN));
    for path in paths() {
        for method in METHODS {
            let got = status(&rules, method, &path, &[HOST]).await;
            let expected = match (path.as_str(), method) {
                (HEALTH, "GET" | "HEAD") => 418,
                // Empty, it is a wrong form.
                (LOGIN, "POST") => 400,
                (LOGOUT, "POST") => 303,
                _ => 401,
            };
            assert_eq!(got, expected, "{method} {path}");
        }
    }
    for path in ["/index.html", "/.gitkeep", "/../Cargo.toml", "/favicon.svg/../index.html"] {
        assert_eq!(status(&rules, "GET", path, &[HOST]).await, 401, "{path}");
    }
    if ui::is_asset("/favicon.svg") {
        assert_eq!(status(&rules, "GET", "/favicon.svg", &[HOST]).await, 418);
        assert_eq!(status(&rules, "POST", "/favicon.svg", &[HOST]).await, 401);
    }
}

#[tokio::test]
async fn s02_a_browser_is_asked_for_the_token_by_a_page_without_scripts() {
    let rules = rules("127.0.0.1:7860", Some(TOKEN));
    for (language, word, other) in [("en", "Who is there?", "令牌"), ("zh-CN", "令牌", "Who is there?")] {
        let asked = [HOST, ("accept", "text/html"), ("accept-language", language)];
        let page = ask(&rules, "GET", "/runs/x", &asked).await;
        assert_eq!(page.status(), StatusCode::UNAUTHORIZED);
        let policy = page.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap().to_owned();
        assert!(policy.starts_with("default-src 'none'") && policy.contains("form-action 'self'"), "{policy}");
        assert!(!policy.contains("script-src"), "{policy}");
        let body = to_bytes(page.into_body(), 1 << 16).await.unwrap();
        let body = String::from_utf8(body.to_vec()).unwrap();
        assert!(body.contains(word) && !body.contains(other), "{body}");
        assert!(
            body.contains("method=\"post\" action=\"/login\"") && !body.contains("<script") && !body.contains("style=")
        );
    }
}

#[tokio::test]
async fn s05_every_answer_of_the_guard_has_the_headers() {
    let rules = rules("127.0.0.1:7860", Some(TOKEN));
    for headers in [vec![], vec![HOST], vec![HOST, ("origin", "null")], vec![HOST, ("accept", "text/html")]] {
        for path in paths() {
            for method in METHODS {
                has_headers(ask(&rules, method, &path, &headers).await.headers(), &format!("{method} {path}"));
            }
        }
    }
}

pub fn has_headers(headers: &HeaderMap, what: &str) {
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let policy = text("content-security-policy");
    assert!(policy.starts_with("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{what}: {policy}");
    assert!(!policy.contains("unsafe-inline") && !policy.contains("'unsafe-eval'"), "{what}: {policy}");
    assert_eq!(text("x-content-type-options"), "nosniff", "{what}");
    assert_eq!(text("cross-origin-resource-policy"), "same-origin", "{what}");
    assert!(["no-referrer", "same-origin"].contains(&text("referrer-policy").as_str()), "{what}");
    assert_eq!(text("cache-control"), "no-store", "{what}");
    assert!(!headers.keys().any(|name| name.as_str().starts_with("access-control")), "{what}");
}

#[tokio::test]
async fn s06_ten_wrong_tokens_a_minute_and_no_more() {
    let rules = rules("0.0.0.0:7860", Some(TOKEN));
    let [guesser, person] =
        ["10.0.0.1", "10.0.0.2"].map(|ip| Some(Peer { ip: ip.parse().unwrap(), is_stranger: false }));
    let session = cookie_of(&rules).await;
    let good = format!("Bearer {TOKEN}");
    fn bearer(token: &str) -> [(&str, &str); 2] {
        [("host", "192.168.1.5:7860"), ("authorization", token)]
    }
    for n in 0..10 {
        // Right but for its end: nothing is told of how right it is.
        let wrong = format!("Bearer {}{n}", &TOKEN[..TOKEN.len() - 1]);
        assert_eq!(ask_from(&rules, "GET", "/api/jobs", &bearer(&wrong), guesser).await.status().as_u16(), 401);
    }
    let refused = ask_from(&rules, "GET", "/api/jobs", &bearer(&good), guesser).await;
    assert_eq!(
        (refused.status().as_u16(), &refused.headers()[header::RETRY_AFTER]),
        (429, &HeaderValue::from_static("60"))
    );
    // Who has a session, or guesses nothing, isn't held up by somebody who does.
    let with_session = [("host", "192.168.1.5:7860"), ("cookie", session.as_str())];
    assert_eq!(ask_from(&rules, "GET", "/api/jobs", &with_session, guesser).await.status(), PASSED);
    assert_eq!(ask_from(&rules, "GET", "/api/jobs", &bearer(&good), person).await.status(), PASSED);
}

#[tokio::test]
async fn s02_another_user_of_the_machine_is_turned_away() {
    let stranger = Some(Peer { ip: IpAddr::V4(Ipv4Addr::LOCALHOST), is_stranger: true });
    let open = rules("127.0.0.1:7860", None);
    for path in paths() {
        let got = ask_from(&open, "GET", &path, &[HOST], stranger).await.status().as_u16();
        assert_eq!(got, if path == HEALTH { 418 } else { 403 }, "{path}");
    }
    let locked = rules("127.0.0.1:7860", Some(TOKEN));
    let bearer = format!("Bearer {TOKEN}");
    let got = ask_from(&locked, "GET", "/api/jobs", &[HOST, ("authorization", &bearer)], stranger).await;
    assert_eq!(got.status(), PASSED, "who has the token is welcome");
}
