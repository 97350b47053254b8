//! What every answer carries, whoever made it.

use axum::{
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::Response,
};

/// The studio's own pages: scripts, styles and requests from here alone, nothing inline.
const PAGE: &str = "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; img-src 'self' data:; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// Data, and files that people made: opened as a page it may do nothing at all.
const DATA: &str = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; sandbox";

const ALWAYS: [(HeaderName, &str); 5] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("permissions-policy"), "camera=(), microphone=(), geolocation=()"),
];

/// Adds them. A page may have a policy of its own, a file of the interface may be kept; all else is neither.
pub fn finish(mut response: Response) -> Response {
    let status = response.status();
    let headers = response.headers_mut();
    let media = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let (is_page, is_stream) = (media.starts_with(b"text/html"), media.starts_with(b"text/event-stream"));
    if is_stream {
        // What axum says of it is less.
        headers.remove(header::CACHE_CONTROL);
    }
    for (name, value) in ALWAYS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    let defaults = [
        (header::CONTENT_SECURITY_POLICY, if is_page { PAGE } else { DATA }),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    // "As before" has no content of its own: what it says replaces what the browser kept with the page.
    let defaults = defaults.into_iter().filter(|_| status != StatusCode::NOT_MODIFIED);
    for (name, value) in defaults {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}
