//! The page's one event stream. Messages are gathered and applied ten times a second at most; a lost connection is tried
//! again, and everything is asked anew once it stands.

use crate::store::Store;
use api::{job::Feed, routes};
use gloo_timers::callback::Timeout;
use leptos::prelude::*;
use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};
use wasm_bindgen::{JsCast, prelude::Closure};
use web_sys::{EventSource, MessageEvent};

/// Follows the server for as long as the page lives.
pub fn follow(store: Store) {
    let Ok(source) = EventSource::new(routes::EVENTS) else {
        again(store);
        return;
    };
    let pending: Rc<RefCell<Vec<Feed>>> = Rc::default();
    let feed = Closure::<dyn Fn(MessageEvent)>::new(move |message: MessageEvent| {
        let Some(feed) = message.data().as_string().and_then(|text| serde_json::from_str(&text).ok()) else { return };
        pending.borrow_mut().push(feed);
        if pending.borrow().len() == 1 {
            let pending = pending.clone();
            Timeout::new(100, move || {
                let gathered = std::mem::take(&mut *pending.borrow_mut());
                gathered.into_iter().for_each(|feed| store.apply(feed));
            })
            .forget();
        }
    });
    let stands = Rc::new(Cell::new(false));
    let opened = stands.clone();
    let opened = Closure::<dyn Fn()>::new(move || {
        opened.set(true);
        store.online.set(true);
        store.refresh();
    });
    let lost = {
        let source = source.clone();
        Closure::<dyn Fn()>::new(move || {
            store.online.set(false);
            // The browser tries again by itself, unless the answer was no stream at all.
            if source.ready_state() == EventSource::CLOSED {
                again(store);
            }
        })
    };
    let _ = source.add_event_listener_with_callback("feed", feed.as_ref().unchecked_ref());
    source.set_onopen(Some(opened.as_ref().unchecked_ref()));
    source.set_onerror(Some(lost.as_ref().unchecked_ref()));
    // A stream that is slow to begin keeps no page empty.
    Timeout::new(1_500, move || {
        if !stands.get() {
            store.refresh();
        }
    })
    .forget();
    feed.forget();
    opened.forget();
    lost.forget();
}

fn again(store: Store) {
    Timeout::new(3_000, move || follow(store)).forget();
}
