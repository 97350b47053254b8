//! The user interface, embedded in the binary.

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use rust_embed::RustEmbed;
use std::borrow::Cow;

#[derive(RustEmbed)]
#[folder = "../static/dist"]
struct Dist;

/// The file at `path`; the page itself for any other path without a file's ending, since the UI has routes of its own.
pub fn page(path: &str, headers: &HeaderMap) -> Response {
    let name = path.trim_start_matches('/');
    let name = if name.is_empty() { "index.html" } else { name };
    if let Some(response) = file(name, headers) {
        return response;
    }
    let last = name.rsplit('/').next().unwrap_or_default();
    if last.contains('.') && name != "index.html" {
        return crate::error::Failure::missing(["file", "文件"], path).into_response();
    }
    file("index.html", headers).unwrap_or_else(not_built)
}

/// Whether `path` is a file of the interface that pages refer to: nothing in it is anybody's.
pub fn is_asset(path: &str) -> bool {
    let name = path.trim_start_matches('/');
    !name.starts_with('.') && !name.ends_with(".html") && Dist::get(name).is_some()
}

/// The name of the style sheet, once the interface is built.
pub fn style() -> Option<String> {
    Dist::iter().find(|name| name.ends_with(".css")).map(Cow::into_owned)
}

fn file(name: &str, headers: &HeaderMap) -> Option<Response> {
    let file = Dist::get(name).filter(|_| !name.starts_with('.'))?;
    let hash = file.metadata.sha256_hash();
    let etag = format!("\"{}\"", hash[..12].iter().map(|b| format!("{b:02x}")).collect::<String>());
    let cache = if is_hashed(name) { "public, max-age=31536000, immutable" } else { "no-cache" };
    // Compressed on the way, the tag comes back as a weak one.
    let known = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|v| v.to_str().ok());
    let is_known = known.flat_map(|v| v.split(',')).any(|tag| tag.trim().trim_start_matches("W/") == etag);
    let mut response = if is_known {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        let body = match file.data {
            Cow::Borrowed(bytes) => Body::from(bytes),
            Cow::Owned(bytes) => Body::from(bytes),
        };
        let mime = mime_guess::from_path(name).first_or_octet_stream();
        let mime = if mime.type_() == "text" { format!("{mime}; charset=utf-8") } else { mime.to_string() };
        ([(header::CONTENT_TYPE, mime)], body).into_response()
    };
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(cache));
    if let Ok(etag) = HeaderValue::from_str(&etag) {
        headers.insert(header::ETAG, etag);
    }
    Some(response)
}

/// True for a name that changes with its content, `name-0123456789abcdef.ext` or `name.0123….ext`.
fn is_hashed(name: &str) -> bool {
    let Some((stem, _)) = name.rsplit_once('.') else { return false };
    // `app-HASH_bg.wasm` is how wasm-bindgen names things.
    let stem = stem.strip_suffix("_bg").unwrap_or(stem);
    let last = stem.rsplit(['-', '.']).next().unwrap_or_default();
    last.len() >= 8 && last.len() < stem.len() && last.bytes().all(|b| b.is_ascii_hexdigit())
}

fn not_built() -> Response {
    const PAGE: &str = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Lathe</title>\
        <h1>The user interface isn't built</h1><p>Run <code>make build</code> in the repository and start Lathe again. \
        The API works: see <a href=\"/openapi.json\">/openapi.json</a>.</p>\
        <h1 lang=\"zh\">用户界面尚未构建</h1><p lang=\"zh\">请在代码仓库中运行 <code>make build</code>，然后重新启动 Lathe。</p></html>";
    (StatusCode::OK, [(header::CONTENT_TYPE, "text/html; charset=utf-8"), (header::CACHE_CONTROL, "no-store")], PAGE)
        .into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_hashed_names_are_kept_for_ever() {
        for name in
            ["app-0123456789abcdef.js", "app-0123456789abcdef_bg.wasm", "style.deadbeef.css", "assets/x-12345678.js"]
        {
            assert!(is_hashed(name), "{name}");
        }
        for name in ["index.html", "app.js", "deadbeef.js", "app-short1.js", "favicon.svg", "app_bg.wasm"] {
            assert!(!is_hashed(name), "{name}");
        }
    }
}
