//! What stands around every page: the rail with the run in progress, the bar of a phone, and the toasts.

use crate::{
    client, format,
    i18n::{Language, Words, fill},
    parts::{
        icon,
        icon::mark,
        job::{Bar, left, share, state_word},
    },
    store::store,
    ui::{self, Ui},
};
use api::{Job, JobKind, routes::Confinement};
use leptos::prelude::*;
use leptos_router::hooks::use_location;

#[component]
pub fn Rail() -> impl IntoView {
    let w = ui::words();
    let store = store();
    let path = use_location().pathname;
    let link = move |href: &'static str, name: &'static str, symbol: &'static str, word: [&'static str; 2]| {
        let here = move || {
            let path = path.get();
            let same = path == href || (href == "/" && path == "/train");
            (same || (href != "/" && path.starts_with(&format!("{href}/")))).then_some("page")
        };
        let testid = format!("nav-{name}");
        let count = move || match name {
            "runs" => {
                store.jobs.with(|all| all.as_ref().map(|all| all.iter().filter(|j| j.kind == JobKind::Train).count()))
            }
            "data" => store.datasets.with(|all| all.as_ref().map(Vec::len)),
            _ => None,
        };
        let count = move || count().filter(|n| *n > 0).map(|n| view! { <span class="n">{n}</span> });
        view! {
            <a href=href class="top" aria-current=here data-testid=testid>
                {icon(symbol, 18)}<span class="long">{word[0]}</span><span class="short">{word[1]}</span>{count}
            </a>
        }
    };
    view! {
        <nav class="rail" aria-label=w.main_nav>
            <a class="brand" href="/">{mark()}<span>"Lathe"</span></a>
            <div class="nav">
                {link("/", "train", "train", [w.train; 2])} {link("/data", "data", "data", [w.data; 2])}
                {link("/preferences", "preferences", "pref", [w.preferences, w.preferences_short])}
            </div>
            <div class="nav">
                {link("/runs", "runs", "runs", [w.runs; 2])} {link("/chat", "chat", "chat", [w.chat; 2])}
                {link("/export", "export", "export", [w.export; 2])}
            </div>
            <div class="rail-end"><RailJob /><Machine /><div class="pair switches">{switches("")}</div></div>
        </nav>
    }
}

/// The strip above the page on a phone: name, language, theme.
#[component]
pub fn TopBar() -> impl IntoView {
    view! {
        <div class="topbar phone-only">
            <a class="brand" href="/">{mark()}<span>"Lathe"</span></a>
            <div class="pair">{switches("-phone")}</div>
        </div>
    }
}

fn switches(suffix: &'static str) -> impl IntoView {
    let w = ui::words();
    let ui = expect_context::<Ui>();
    view! {
        <button type="button" class="btn quiet s" lang=ui::language().other().tag()
            data-testid=format!("lang-switch{suffix}") on:click=move |_| ui.switch_language()>
            {icon("lang", 16)}<span>{w.other_language}</span>
        </button>
        <button type="button" class="btn quiet s" title=w.theme_switch aria-label=w.theme_switch
            data-testid=format!("theme-switch{suffix}") on:click=move |_| ui.switch_theme()>
            {icon("theme", 16)}<span>{w.theme}</span>
        </button>
    }
}

/// Where a job is looked at.
pub fn job_href(job: &Job) -> String {
    match job.kind {
        JobKind::Train => format!("/runs/{}", job.id),
        JobKind::Export => "/export".into(),
        JobKind::Evaluate => "/runs".into(),
        JobKind::Pull if job.config.text("id").is_some() => "/data".into(),
        JobKind::Pull => "/".into(),
        JobKind::Make if matches!(job.config.text("task"), Some("samples" | "judge")) => "/preferences".into(),
        JobKind::Make => "/data".into(),
    }
}

#[component]
fn RailJob() -> impl IntoView {
    let store = store();
    move || {
        let language = ui::language();
        store.active().map(|job| {
            let part = share(&job.progress);
            let loss = job.progress.latest.get("loss").map(|loss| format!("loss {}", format::measure(*loss)));
            let loss = loss.map(|text| if language == Language::Chinese { text.replace("loss", "损失") } else { text });
            view! {
                <a class="mini wide-only" href=job_href(&job) data-testid="rail-job">
                    <span class="t">
                        <span>{state_word(job.state, language.words())}</span>
                        <span>{part.map(|p| format!("{:.0} %", (p * 100.0).floor()))}</span>
                    </span>
                    <b>{job.id.clone()}</b>
                    <Bar share=Signal::stored(part) label=job.id.clone() thin=true />
                    <span class="t"><span>{loss}</span><span>{left(&job.progress, language)}</span></span>
                </a>
            }
        })
    }
}

#[component]
fn Machine() -> impl IntoView {
    let w = ui::words();
    let store = store();
    move || {
        store.system.get().map(|system| {
            let part = system.memory_used as f64 / system.memory_total.max(1) as f64;
            let cores = fill(w.cores, &[("n", &system.cores.to_string()), ("name", &system.processor)]);
            let used = format::bytes_parts(system.memory_used).0;
            view! {
                <div class="machine wide-only">
                    <span class="pair"><span>{w.memory}</span><span class="num">{format!("{used} / {}", format::bytes(system.memory_total))}</span></span>
                    <span class="parts"><i style=("--w", format!("{:.1}%", part * 100.0))></i></span>
                    <span class="pair">{icon("chip", 14)}<span>{cores}</span></span>
                    {unconfined(system.confinement, w)}
                    {system.has_token.then(|| view! {
                        <button type="button" class="link" data-testid="sign-out"
                            on:click=move |_| leptos::task::spawn_local(client::sign_out())>{w.sign_out}</button>
                    })}
                </div>
            }
        })
    }
}

/// Says where the system can't keep workers to their files.
fn unconfined(confinement: Confinement, w: &'static Words) -> Option<impl IntoView> {
    let (word, why) = match confinement {
        Confinement::Whole => return None,
        Confinement::Partly => (w.confined_partly, w.confined_partly_hint),
        Confinement::None => (w.confined_not, w.confined_not_hint),
    };
    Some(view! { <span class="pair" title=why data-testid="unconfined">{icon("warn", 14)}<span>{word}</span></span> })
}

/// News for a few seconds, and the word that the server doesn't answer.
#[component]
pub fn Toasts() -> impl IntoView {
    let w = ui::words();
    let store = store();
    let late = RwSignal::new(false);
    // A reconnect within two seconds is no news.
    Effect::new(move || {
        let online = store.online.get();
        if online {
            late.set(false);
        } else {
            leptos::task::spawn_local(async move {
                gloo_timers::future::TimeoutFuture::new(2_000).await;
                late.set(!store.online.get_untracked());
            });
        }
    });
    let offline = move || {
        late.get().then(|| {
            view! { <div class="toast" role="status">{icon("warn", 18)}<span><b>{w.offline}</b><br />{w.offline_hint}</span></div> }
        })
    };
    let each = move |toast: crate::store::Toast| {
        let id = toast.id;
        let close = move |_| store.toasts.update(|all| all.retain(|t| t.id != id));
        view! {
            <div class="toast" role=if toast.bad { "alert" } else { "status" } data-testid="toast">
                {icon(if toast.bad { "bad" } else { "check" }, 18)}
                <span><b>{toast.text}</b>{(!toast.hint.is_empty()).then(|| view! { <br />{toast.hint} })}</span>
                <button type="button" class="link" aria-label=w.dismiss on:click=close>{icon("x", 14)}</button>
            </div>
        }
    };
    view! {
        <div class="toasts" aria-live="polite">
            <For each=move || store.toasts.get() key=|toast| toast.id children=each />
            {offline}
        </div>
    }
}
