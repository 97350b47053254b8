//! The page that asks for the token: a form without a script, in the studio's own style.

use super::{
    Peer,
    key::{Key, Shown},
};
use crate::ui;
use axum::{
    Form,
    body::Body,
    extract::{FromRequest, Request},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    response::Response,
};
use serde::Deserialize;
use std::net::{IpAddr, Ipv4Addr};

/// Where whoever is let in is led to; never to a place that the request names.
pub const STUDIO: &str = "/";
pub const TOO_MANY: [&str; 2] = ["Too many wrong tokens; wait a minute.", "错误的令牌次数过多，请等待一分钟。"];
const WRONG: [&str; 2] = ["This isn't the token.", "令牌不正确。"];

/// The form may go to this server alone. With `no-referrer` a browser would send `Origin: null` with it.
const POLICY: &str = "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; \
    frame-ancestors 'none'";
const REFERRER: &str = "same-origin";

#[derive(Deserialize)]
struct Given {
    token: String,
}

/// Whether a browser asks for a page, not a program or a script for data.
pub fn is_wanted(request: &Request) -> bool {
    let accepts = request.headers().get(header::ACCEPT).and_then(|v| v.to_str().ok());
    matches!(*request.method(), Method::GET | Method::HEAD) && accepts.is_some_and(|v| v.contains("text/html"))
}

/// Answers the form.
pub async fn sign_in(key: &Key, request: Request) -> Response {
    let ip = request.extensions().get::<Peer>().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.ip);
    let (parts, body) = request.into_parts();
    let form = Request::from_parts(parts.clone(), body);
    let again = |status, said| page(&parts.headers, status, Some(said));
    let Ok(Form(Given { token })) = Form::from_request(form, &()).await else {
        return again(StatusCode::BAD_REQUEST, WRONG);
    };
    match key.try_token(token.trim(), ip, Shown::Good) {
        Shown::Good => key.enter(&parts.headers).await,
        Shown::TooMany => again(StatusCode::TOO_MANY_REQUESTS, TOO_MANY),
        _ => again(StatusCode::UNAUTHORIZED, WRONG),
    }
}

/// The page, with what went wrong before, in the language that the browser asks for; in both if it asks for neither.
pub fn page(headers: &HeaderMap, status: StatusCode, said: Option<[&str; 2]>) -> Response {
    let languages = languages(headers);
    let text = |[en, zh]: [&str; 2]| -> String {
        let each = languages.iter().map(|tag| match *tag {
            "en" => format!("<span lang=\"en\">{en}</span>"),
            _ => format!("<span lang=\"zh-CN\">{zh}</span>"),
        });
        each.collect::<Vec<_>>().join(" · ")
    };
    let style = ui::style().map(|name| format!("<link rel=\"stylesheet\" href=\"/{name}\">")).unwrap_or_default();
    let said = said.map(|said| format!("<p class=\"said\" role=\"alert\" id=\"said\">{}</p>", text(said)));
    let body = format!(
        "<!doctype html><html lang=\"{lang}\"><head><meta charset=\"utf-8\">\
        <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
        <meta name=\"color-scheme\" content=\"light dark\"><title>Lathe</title>\
        <link rel=\"icon\" href=\"/favicon.svg\" type=\"image/svg+xml\">{style}</head><body><main class=\"door\">\
        <div class=\"brand\"><img src=\"/favicon.svg\" alt=\"\" width=\"26\" height=\"26\"><span>Lathe</span></div>\
        <form class=\"card stack\" method=\"post\" action=\"/login\"><h1>{title}</h1>\
        <div class=\"field\"><label for=\"token\">{label}</label><div class=\"input mono\">\
        <input id=\"token\" name=\"token\" type=\"password\" required autofocus autocomplete=\"current-password\" \
        spellcheck=\"false\"></div><p class=\"help\">{help}</p></div>{said}\
        <button class=\"btn primary l\" type=\"submit\">{enter}</button></form></main></body></html>",
        lang = if languages == ["zh"] { "zh-CN" } else { "en" },
        title = text(["Who is there?", "请先验证身份"]),
        label = text(["Token", "令牌"]),
        help = text([
            "The one that this studio was started with: --token, LATHE_TOKEN, or the file token in its data folder.",
            "即启动本工作室时使用的令牌：--token、LATHE_TOKEN，或数据文件夹中的 token 文件。",
        ]),
        enter = text(["Open the studio", "进入工作室"]),
        said = said.unwrap_or_default(),
    );
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static(REFERRER));
    headers.insert(header::VARY, HeaderValue::from_static("accept-language"));
    if status == StatusCode::TOO_MANY_REQUESTS {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("60"));
    }
    response
}

/// The first language of ours that the browser names.
fn languages(headers: &HeaderMap) -> &'static [&'static str] {
    let wanted = headers.get(header::ACCEPT_LANGUAGE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let mut tags = wanted.split(',').map(|tag| tag.trim().to_ascii_lowercase());
    let found = tags.find_map(|tag| match tag.get(..2) {
        Some("en") => Some(["en"].as_slice()),
        Some("zh") => Some(["zh"].as_slice()),
        _ => None,
    });
    found.unwrap_or(&["en", "zh"])
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_page_speaks_the_language_of_the_browser() {
        for (given, expected) in [
            ("de, zh-CN;q=0.9, en;q=0.8", ["zh"].as_slice()),
            ("en-GB", &["en"]),
            ("ZH", &["zh"]),
            ("fr", &["en", "zh"]),
            ("", &["en", "zh"]),
            ("é", &["en", "zh"]),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT_LANGUAGE, HeaderValue::from_str(given).unwrap());
            assert_eq!(languages(&headers), expected, "{given:?}");
        }
    }
}
