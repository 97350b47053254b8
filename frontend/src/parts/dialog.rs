//! Dialogs: native, modal, closed by Escape or a click beside them.

use crate::ui;
use leptos::{html, prelude::*};

/// Shown while `open` is true.
#[component]
pub fn Dialog(
    open: RwSignal<bool>,
    title: Signal<String>,
    /// Wider, for text.
    #[prop(optional)]
    wide: bool,
    children: Children,
) -> impl IntoView {
    let node = NodeRef::<html::Dialog>::new();
    Effect::new(move || {
        let Some(dialog) = node.get() else { return };
        if open.get() && !dialog.open() {
            let _ = dialog.show_modal();
        } else if !open.get() && dialog.open() {
            dialog.close();
        }
    });
    let beside = move |event: leptos::ev::MouseEvent| {
        let target = event.target().map(wasm_bindgen::JsValue::from);
        if target == node.get_untracked().map(wasm_bindgen::JsValue::from) {
            open.set(false);
        }
    };
    view! {
        <dialog node_ref=node class:wide=wide aria-label=title on:close=move |_| open.set(false) on:click=beside>
            <div class="inside">
                <h2>{title}</h2>
                {children()}
            </div>
        </dialog>
    }
}

/// Asks before what can't be undone. The button repeats the action; the other one says what stays.
#[component]
pub fn Confirm(
    open: RwSignal<bool>,
    title: Signal<String>,
    text: &'static str,
    /// Icon of the action.
    symbol: &'static str,
    action: &'static str,
    #[prop(optional)] other: Option<&'static str>,
    act: Callback<()>,
    #[prop(optional)] testid: &'static str,
) -> impl IntoView {
    view! {
        <Dialog open title>
            <p class="soft">{text}</p>
            <div class="row end">
                <button type="button" class="btn" on:click=move |_| open.set(false)>{other.unwrap_or(ui::words().keep)}</button>
                <button type="button" class="btn danger" data-testid=testid
                    on:click=move |_| { open.set(false); act.run(()); }>
                    {crate::parts::icon(symbol, 18)}{action}
                </button>
            </div>
        </Dialog>
    }
}

/// Puts a text into the clipboard and says so.
#[component]
pub fn CopyButton(text: Signal<String>, #[prop(optional)] quiet: bool) -> impl IntoView {
    let copied = RwSignal::new(false);
    let copy = move |_| {
        let text = text.get_untracked();
        leptos::task::spawn_local(async move {
            let done = wasm_bindgen_futures::JsFuture::from(window().navigator().clipboard().write_text(&text)).await;
            copied.set(done.is_ok());
            gloo_timers::future::TimeoutFuture::new(2_000).await;
            copied.try_set(false);
        });
    };
    let w = ui::words();
    view! {
        <button type="button" class="btn s" class:quiet=quiet on:click=copy>
            {move || if copied.get() { crate::parts::icon("check", 16).into_any() } else { crate::parts::icon("copy", 16).into_any() }}
            {move || if copied.get() { w.copied } else { w.copy }}
        </button>
    }
}
