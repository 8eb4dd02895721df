//! Encoded answers, kept as long as the index they were made at is the newest: a body is encoded once per
//! change and shared by all who ask or wait for it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::RwLock;

/// Most bytes kept; beyond it everything is dropped and the busy answers come back with their next request.
const MOST_BYTES: usize = 64 << 20;
/// Most bodies kept: questions are the client's to invent, and a small answer costs more than its bytes.
const MOST_BODIES: usize = 16 * 1024;

#[derive(Debug, Default)]
struct Kept {
    bodies: HashMap<String, (u64, Bytes), foldhash::fast::RandomState>,
    bytes: usize,
}

#[derive(Debug, Default)]
pub struct Cache {
    kept: RwLock<Kept>,
    encoded: AtomicU64,
}

impl Cache {
    /// The body for `key` at `index`, encoded now if nobody did before; `None` when it cannot be encoded.
    pub fn get_or_encode(
        &self,
        key: &str,
        index: u64,
        encode: impl FnOnce() -> Result<Bytes, serde_json::Error>,
    ) -> Option<Bytes> {
        if let Some((at, body)) = self.kept.read().bodies.get(key)
            && *at == index
        {
            return Some(body.clone());
        }
        let body = encode().ok()?;
        self.encoded.fetch_add(1, Ordering::Relaxed);
        let mut kept = self.kept.write();
        if kept.bytes + body.len() > MOST_BYTES || kept.bodies.len() >= MOST_BODIES {
            *kept = Kept::default();
        }
        let newer = kept.bodies.get(key).is_some_and(|(at, _)| *at > index);
        if !newer {
            kept.bytes += body.len() + key.len();
            if let Some((_, old)) = kept.bodies.insert(key.to_owned(), (index, body.clone())) {
                kept.bytes = kept.bytes.saturating_sub(old.len() + key.len());
            }
        }
        Some(body)
    }

    /// How many bodies were encoded so far.
    pub fn encoded(&self) -> u64 {
        self.encoded.load(Ordering::Relaxed)
    }
}
