//! Icons: symbols of index.html, by name.

use leptos::prelude::*;

/// The icon `name` (of the sprite in index.html) at `size` pixels; decoration only, words stand beside it.
pub fn icon(name: &'static str, size: u32) -> impl IntoView {
    view! { <svg width=size height=size aria-hidden="true" inner_html=format!("<use href=\"#i-{name}\"/>")></svg> }
}

/// The mark of Lathe.
pub fn mark() -> impl IntoView {
    view! {
        <svg width="26" height="26" viewBox="0 0 26 26" fill="none" stroke="currentColor" stroke-width="2.2"
            stroke-linecap="round" aria-hidden="true">
            <path d="M3.5 22.5h19" />
            <path d="M6 18.5c5.5 0 12.5-1.5 12.5-8a6 6 0 0 0-12 0 4 4 0 0 0 8 0 2 2 0 0 0-4 0" />
        </svg>
    }
}
