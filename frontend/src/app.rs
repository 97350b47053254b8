//! The application: what all pages share, and which page stands at which address.

use crate::{
    events,
    form::TrainForm,
    pages::{chat, data, export, preferences, run, runs, train},
    parts::{
        Empty,
        shell::{Rail, Toasts, TopBar},
    },
    store::Store,
    ui::{self, Ui},
};
use leptos::prelude::*;
use leptos_router::{
    components::{Route, Router, Routes},
    path,
};

#[component]
pub fn App() -> impl IntoView {
    let ui = Ui::provide();
    let store = Store::provide(ui);
    TrainForm::provide(store);
    chat::Talk::provide();
    chat::Beside::provide();
    export::ExportForm::provide(store);
    data::provide(store, ui);
    preferences::Bench::provide();
    events::follow(store);
    view! {
        <Router>
            // Drawn anew in the other language; what was entered lives outside.
            {move || {
                ui.language.track();
                view! { <Shell /> }
            }}
        </Router>
    }
}

#[component]
fn Shell() -> impl IntoView {
    view! {
        <a class="skip" href="#main">{ui::words().skip}</a>
        <div class="app">
            <Rail />
            <TopBar />
            <main class="page" id="main" tabindex="-1">
                <Routes fallback=NotFound>
                    <Route path=path!("/") view=train::Train />
                    <Route path=path!("/train") view=train::Train />
                    <Route path=path!("/data") view=data::Data />
                    <Route path=path!("/data/:name") view=data::Data />
                    <Route path=path!("/preferences") view=preferences::Preferences />
                    <Route path=path!("/runs") view=runs::Runs />
                    <Route path=path!("/runs/:id") view=run::RunPage />
                    <Route path=path!("/chat") view=chat::Chat />
                    <Route path=path!("/export") view=export::Export />
                </Routes>
            </main>
        </div>
        <Toasts />
    }
}

#[component]
fn NotFound() -> impl IntoView {
    let w = ui::words();
    title(w.not_found);
    view! {
        <section class="card">
            <Empty symbol="info" title=w.not_found.into() text=w.not_found_help.into()>
                <a class="btn" href="/">{w.train}</a>
            </Empty>
        </section>
    }
}

/// Names the page in the browser's title bar.
pub fn title(page: &str) {
    document().set_title(&format!("{page} · Lathe"));
}
