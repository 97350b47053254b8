//! The page's one event stream. Messages are gathered and applied ten times a second at most; a lost connection is tried
//! again, and everything is asked anew once it stands.

use crate::store::Store;
use api::{job::Feed, routes};
use gloo_timers::callback::{Interval, Timeout};
use leptos::prelude::*;
use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};
use wasm_bindgen::{JsCast, prelude::Closure};
use web_sys::{Event, EventSource, MessageEvent, PageTransitionEvent};

/// Asks for everything, and follows the server for as long as the page lives.
pub fn follow(store: Store) {
    store.refresh();
    connect(store, true);
    Interval::new(15_000, move || {
        if !document().hidden() && store.online.get_untracked() {
            store.refresh_system();
        }
    })
    .forget();
    let back = Closure::<dyn Fn(PageTransitionEvent)>::new(move |event: PageTransitionEvent| {
        if event.persisted() {
            connect(store, false);
        }
    });
    let _ = window().add_event_listener_with_callback("pageshow", back.as_ref().unchecked_ref());
    back.forget();
}

fn connect(store: Store, first: bool) {
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
    let first = Cell::new(first);
    let opened = Closure::<dyn Fn(Event)>::new(move |event: Event| {
        // The server's first message is called so too.
        if event.has_type::<MessageEvent>() {
            return;
        }
        store.online.set(true);
        // What changed between the first answers and now, or while the connection was lost.
        if first.replace(false) { store.refresh_jobs() } else { store.refresh() }
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
    // A page that is left keeps no connection: browsers allow six to a host. One that is come back to takes a new one.
    let left = Closure::<dyn Fn()>::new(move || source.close());
    let _ = window().add_event_listener_with_callback("pagehide", left.as_ref().unchecked_ref());
    left.forget();
    feed.forget();
    opened.forget();
    lost.forget();
}

fn again(store: Store) {
    Timeout::new(3_000, move || connect(store, false)).forget();
}
