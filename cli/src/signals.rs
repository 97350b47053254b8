//! Ctrl-C and SIGTERM: stop and save. A second one ends at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::signal::unix::{SignalKind, signal};

/// Becomes true with the first signal. From the return on none is lost.
pub fn stop_flag() -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    let (listens, heard) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
        runtime.block_on(async {
            let (Ok(mut terminate), Ok(mut interrupt)) =
                (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
            else {
                return;
            };
            let _ = listens.send(());
            let mut asked = async || tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} };
            asked().await;
            flag.store(true, Ordering::Relaxed);
            asked().await;
            std::process::exit(130);
        });
    });
    // An error: the thread is gone, and signals do what they do by themselves.
    let _ = heard.recv();
    stop
}

/// For the studio, which ends by itself with the first signal: a second one ends it at once.
pub fn end_on_second() {
    // The flag is of no interest.
    let _ = stop_flag();
}

/// For a conversation: while `busy`, a Ctrl-C becomes a true `stop`; otherwise it ends the program.
pub fn stop_answer(busy: Arc<AtomicBool>) -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    std::thread::spawn(move || {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
        runtime.block_on(async {
            loop {
                asked().await;
                if !busy.load(Ordering::Relaxed) || flag.swap(true, Ordering::Relaxed) {
                    std::process::exit(130);
                }
            }
        });
    });
    stop
}

/// Waits for one signal.
pub async fn asked() {
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
        }
        Err(_) => {
            let _ = tokio::signal::ctrl_c().await;
        }
    }
}
