//! Counters that are told to Redis every so often (`sync_rate`): requests wait for nobody, and gateways that share limits see each other's
//! requests that much later.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use foldhash::fast::RandomState;
use parking_lot::Mutex;
use plinth_kong::Period;
use redis::pipe;

use super::Client;
use crate::plugins::limits::{Limit, Scope, Usage, Window};
use crate::plugins::rate_limiting::redis_key;

/// Counters kept at most; beyond it new identifiers are not counted until windows end.
const MOST: usize = 262_144;
/// Counters told to Redis in one pipeline.
const BATCH: usize = 500;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    scope: Scope,
    who: Box<str>,
    period: Period,
}

#[derive(Clone, Copy, Debug)]
struct Count {
    window: Window,
    /// What Redis said last, all gateways together.
    told: u64,
    /// Counted here since.
    new: u64,
    /// Asked for since Redis was asked last.
    touched: bool,
}

/// The counters of one Redis and rate.
#[derive(Debug)]
pub(in crate::plugins) struct Synced {
    client: Arc<Client>,
    counts: Mutex<HashMap<Key, Count, RandomState>>,
}

impl Synced {
    pub fn start(client: Arc<Client>, rate: Duration) -> Arc<Synced> {
        let control = client.control.clone();
        let synced = Arc::new(Synced { client, counts: Mutex::default() });
        control.spawn(keep_in_step(Arc::downgrade(&synced), rate));
        synced
    }

    /// Counts a request unless one of its limits is used up; gives what was used before it, as far as is known here.
    pub fn take(&self, scope: Scope, who: &str, limits: &[Limit], now: SystemTime) -> Usage {
        let mut usage = Usage::default();
        let mut counts = self.counts.lock();
        let full = counts.len() >= MOST;
        for limit in limits {
            let window = Window::of(limit.period, now);
            let key = Key { scope, who: who.into(), period: limit.period };
            if full && !counts.contains_key(&key) {
                continue;
            }
            let fresh = Count { window, told: 0, new: 0, touched: true };
            let count = counts.entry(key).or_insert(fresh);
            if count.window.start < window.start {
                *count = fresh;
            }
            count.touched = true;
            usage[limit.period as usize] = count.told + count.new;
        }
        if limits.iter().all(|limit| usage[limit.period as usize] < limit.most) {
            for limit in limits {
                let key = Key { scope, who: who.into(), period: limit.period };
                if let Some(count) = counts.get_mut(&key) {
                    count.new += 1;
                }
            }
        }
        usage
    }

    /// Tells Redis what is new, and hears what the others counted.
    async fn step(&self, now: SystemTime) {
        let due: Vec<(Key, Window, u64)> = {
            let mut counts = self.counts.lock();
            counts.retain(|key, count| count.window.start >= Window::of(key.period, now).start);
            let touched = counts.iter_mut().filter(|(_, count)| count.touched);
            touched
                .map(|(key, count)| {
                    count.touched = false;
                    (key.clone(), count.window, count.new)
                })
                .collect()
        };
        for batch in due.chunks(BATCH) {
            let mut pipeline = pipe();
            for (key, window, new) in batch {
                let name = redis_key(key.scope, &key.who, *window, key.period);
                pipeline.cmd("INCRBY").arg(&name).arg(*new);
                pipeline.cmd("EXPIRE").arg(&name).arg(window.length).ignore();
            }
            let answer = match self.client.ask::<Vec<u64>>(pipeline) {
                Ok(question) => question.answer().await,
                Err(unavailable) => Err(unavailable),
            };
            let mut counts = self.counts.lock();
            for (at, (key, window, new)) in batch.iter().enumerate() {
                let Some(count) = counts.get_mut(key).filter(|count| count.window == *window) else {
                    continue;
                };
                match &answer {
                    Ok(told) => {
                        count.told = told.get(at).copied().unwrap_or(count.told);
                        count.new = count.new.saturating_sub(*new);
                    }
                    // It is told at the next step.
                    Err(_) => count.touched = true,
                }
            }
        }
    }
}

async fn keep_in_step(synced: Weak<Synced>, rate: Duration) {
    loop {
        tokio::time::sleep(rate).await;
        let Some(synced) = synced.upgrade() else { return };
        synced.step(SystemTime::now()).await;
    }
}
