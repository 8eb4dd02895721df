//! Verified tokens, so that a signature is checked once and not with every request.

use std::collections::HashMap;

use aws_lc_rs::digest;
use parking_lot::RwLock;

use super::Caller;

/// Most tokens that are remembered.
const CAPACITY: usize = 4096;

struct Entry {
    caller: Caller,
    generation: u64,
    ends: u64,
}

/// Bounded; keyed by the token's SHA-256, so that no token can be read from memory and no comparison leaks one.
#[derive(Default)]
pub(super) struct TokenCache {
    entries: RwLock<HashMap<[u8; 32], Entry>>,
}

/// The key of a token.
pub(super) fn key_of(token: &str) -> [u8; 32] {
    let mut key = [0; 32];
    key.copy_from_slice(digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
    key
}

impl TokenCache {
    /// The caller of a token verified under this generation of keys and not ended at `now` (seconds).
    pub(super) fn get(&self, key: &[u8; 32], generation: u64, now: u64) -> Option<Caller> {
        let entries = self.entries.read();
        let entry = entries.get(key)?;
        (entry.generation == generation && now < entry.ends).then(|| entry.caller.clone())
    }

    pub(super) fn put(&self, key: [u8; 32], caller: Caller, generation: u64, ends: u64, now: u64) {
        let mut entries = self.entries.write();
        if entries.len() >= CAPACITY {
            entries.retain(|_, entry| entry.generation == generation && now < entry.ends);
        }
        if entries.len() >= CAPACITY {
            entries.clear();
        }
        entries.insert(key, Entry { caller, generation, ends });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forgets_ended_tokens_and_old_keys() {
        let cache = TokenCache::default();
        let key = key_of("token");
        cache.put(key, Caller::anonymous(), 1, 100, 0);
        assert!(cache.get(&key, 1, 99).is_some());
        assert!(cache.get(&key, 1, 100).is_none(), "ended");
        assert!(cache.get(&key, 2, 0).is_none(), "verified with keys that may be gone");
    }

    #[test]
    fn stays_bounded() {
        let cache = TokenCache::default();
        for number in 0..CAPACITY * 2 + 1 {
            cache.put(key_of(&number.to_string()), Caller::anonymous(), 1, 100, 0);
        }
        assert!(cache.entries.read().len() <= CAPACITY);
    }
}
