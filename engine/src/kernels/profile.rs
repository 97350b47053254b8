//! Where the time goes: seconds of each operation by name, counted while [`enable`]d. Off, a call costs one relaxed load. Each is
//! also a beat of the worker's [`pulse`](crate::pulse).

use crate::pulse;
use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

static ON: AtomicBool = AtomicBool::new(false);
static SPENT: Mutex<BTreeMap<&'static str, (u64, f64)>> = Mutex::new(BTreeMap::new());

/// Counts from now on.
pub fn enable() {
    ON.store(true, Ordering::Relaxed);
}

/// Does `f`, as the operation `name`. Seconds are those of the calling thread, so that an operation on all threads is
/// counted once; operations inside one another are counted in both.
pub fn time<T>(name: &'static str, f: impl FnOnce() -> T) -> T {
    pulse::beat();
    if !ON.load(Ordering::Relaxed) {
        return f();
    }
    let begun = Instant::now();
    let result = f();
    let seconds = begun.elapsed().as_secs_f64();
    let mut spent = SPENT.lock().unwrap_or_else(PoisonError::into_inner);
    let (calls, sum) = spent.entry(name).or_default();
    *calls += 1;
    *sum += seconds;
    result
}

/// Name, calls and seconds of each operation since the last `take`, the longest first.
pub fn take() -> Vec<(&'static str, u64, f64)> {
    let spent = std::mem::take(&mut *SPENT.lock().unwrap_or_else(PoisonError::into_inner));
    let mut spent: Vec<_> = spent.into_iter().map(|(name, (calls, seconds))| (name, calls, seconds)).collect();
    spent.sort_by(|a, b| b.2.total_cmp(&a.2));
    spent
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{thread::sleep, time::Duration};

    #[test]
    fn time_is_counted_by_name_once_enabled() {
        assert_eq!(time("test off", || 1), 1);
        enable();
        for _ in 0..2 {
            time("test long", || sleep(Duration::from_millis(20)));
        }
        assert_eq!(time("test short", || 2), 2);
        // Other tests of this process may be counted as well.
        let spent: Vec<_> = take().into_iter().filter(|s| s.0.starts_with("test ")).collect();
        assert_eq!(spent.iter().map(|s| (s.0, s.1)).collect::<Vec<_>>(), [("test long", 2), ("test short", 1)]);
        assert!(spent[0].2 >= 0.04);
    }
}
