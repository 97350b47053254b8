//! The studio in the browser: a client-side application that speaks to the server with the words of `api`.

mod app;
mod chain;
mod client;
mod curve;
mod events;
mod form;
mod format;
mod i18n;
mod markdown;
mod pages;
mod parts;
mod setting;
mod store;
mod stream;
mod ui;

fn main() {
    console_error_panic_hook::set_once();
    leptos::mount::mount_to_body(app::App);
}
