//! Verified tokens, one cache a worker thread: a signature is checked once, times at every use.
//!
//! Entries carry the serial of the compiled plugin that verified them, so a new configuration never sees old ones.

use std::cell::RefCell;
use std::collections::HashMap;

use foldhash::fast::RandomState;

use super::Verified;

/// Entries of one half; two halves make a cache that forgets what was not used lately.
const HALF: usize = 2048;
/// Longer tokens are verified each time rather than kept.
const LONGEST: usize = 4096;

type Half = HashMap<Box<str>, (u64, Verified), RandomState>;

#[derive(Default)]
struct Cache {
    young: Half,
    old: Half,
}

thread_local! {
    static CACHE: RefCell<Cache> = RefCell::default();
}

pub(super) fn get(serial: u64, token: &str) -> Option<Verified> {
    CACHE.with_borrow_mut(|cache| {
        if let Some((owner, verified)) = cache.young.get(token) {
            return (*owner == serial).then(|| verified.clone());
        }
        let (token, (owner, verified)) = cache.old.remove_entry(token)?;
        if owner != serial {
            return None;
        }
        cache.insert(token, owner, verified.clone());
        Some(verified)
    })
}

pub(super) fn put(serial: u64, token: String, verified: Verified) {
    if token.len() <= LONGEST {
        CACHE.with_borrow_mut(|cache| cache.insert(token.into(), serial, verified));
    }
}

impl Cache {
    fn insert(&mut self, token: Box<str>, serial: u64, verified: Verified) {
        if self.young.len() >= HALF {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(token, (serial, verified));
    }
}

/// Entries kept by this thread.
#[cfg(test)]
pub(super) fn len() -> usize {
    CACHE.with_borrow(|cache| cache.young.len() + cache.old.len())
}
