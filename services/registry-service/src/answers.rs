//! Encoded answers of discover, kept per service for as long as its snapshot is the present one.
//!
//! The hot path is: look the service's entry up, see that it belongs to this very snapshot, find the filter among a
//! handful, hand out a reference to the bytes. Nothing is serialised and no instance is looked at.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use axum::http::HeaderValue;
use bytes::Bytes;
use parking_lot::RwLock;
use plinth_core::discovery::ServiceSnapshot;

use crate::domain::probed::Probed;
use crate::domain::selection::Filter;
use crate::domain::view;

/// Filters kept encoded per service; a filter beyond them is encoded each time it is asked for.
const FILTERS_PER_SERVICE: usize = 32;

/// Services kept; beyond them the answers of all are dropped and built anew (names come from the catalog only).
const SERVICES: usize = 4096;

/// One encoded answer.
#[derive(Debug, Clone)]
pub struct Answer {
    pub body: Bytes,
    /// The snapshot's index, ready as the value of `X-Plinth-Index`.
    pub index: HeaderValue,
}

/// The answers built from one snapshot and one set of probe times.
struct Encoded {
    snapshot: Arc<ServiceSnapshot>,
    probed: Arc<Probed>,
    index: HeaderValue,
    bodies: RwLock<Vec<(Filter, Bytes)>>,
    /// Sweeps since it was last asked for.
    idle: AtomicU32,
}

impl Encoded {
    fn new(snapshot: &Arc<ServiceSnapshot>, probed: &Arc<Probed>) -> Self {
        Self {
            snapshot: Arc::clone(snapshot),
            probed: Arc::clone(probed),
            index: HeaderValue::from(snapshot.index),
            bodies: RwLock::default(),
            idle: AtomicU32::new(0),
        }
    }

    fn belongs_to(&self, snapshot: &Arc<ServiceSnapshot>, probed: &Arc<Probed>) -> bool {
        Arc::ptr_eq(&self.snapshot, snapshot) && Arc::ptr_eq(&self.probed, probed)
    }

    fn answer(&self, filter: &Filter) -> Result<Answer, serde_json::Error> {
        // Written only when it changes something: all cores read this line all the time.
        if self.idle.load(Ordering::Relaxed) != 0 {
            self.idle.store(0, Ordering::Relaxed);
        }
        let known =
            self.bodies.read().iter().find(|(known, _)| known == filter).map(|(_, body)| body.clone());
        let body = match known {
            Some(body) => body,
            None => self.encode(filter)?,
        };
        Ok(Answer { body, index: self.index.clone() })
    }

    /// Two askers may encode the same at once; both get the same bytes and one of them is kept.
    fn encode(&self, filter: &Filter) -> Result<Bytes, serde_json::Error> {
        let body = view::encode(&self.snapshot, filter, &self.probed)?;
        let mut bodies = self.bodies.write();
        if bodies.len() < FILTERS_PER_SERVICE && bodies.iter().all(|(known, _)| known != filter) {
            bodies.push((filter.clone(), body.clone()));
        }
        Ok(body)
    }
}

/// The encoded answers of all services asked for.
#[derive(Default)]
pub struct Answers(RwLock<HashMap<Box<str>, Arc<Encoded>, foldhash::fast::RandomState>>);

impl Answers {
    /// The encoded answer for `filter` on `snapshot`.
    ///
    /// # Errors
    /// When the answer cannot be encoded.
    pub fn answer(
        &self,
        snapshot: &Arc<ServiceSnapshot>,
        filter: &Filter,
        probed: &Arc<Probed>,
    ) -> Result<Answer, serde_json::Error> {
        let known = self.0.read().get(snapshot.name.as_str()).cloned();
        match known {
            Some(encoded) if encoded.belongs_to(snapshot, probed) => encoded.answer(filter),
            _ => {
                let encoded = Arc::new(Encoded::new(snapshot, probed));
                let answer = encoded.answer(filter)?;
                self.keep(snapshot.name.as_str(), encoded);
                Ok(answer)
            }
        }
    }

    /// The services asked for within the last `idle_sweeps` calls of this; the others are forgotten.
    pub fn sweep(&self, idle_sweeps: u32) -> Vec<Box<str>> {
        let mut kept = self.0.write();
        kept.retain(|_, encoded| encoded.idle.fetch_add(1, Ordering::Relaxed) < idle_sweeps.max(1));
        kept.keys().cloned().collect()
    }

    fn keep(&self, name: &str, encoded: Arc<Encoded>) {
        let mut kept = self.0.write();
        if kept.len() >= SERVICES && !kept.contains_key(name) {
            kept.clear();
        }
        kept.insert(name.into(), encoded);
    }
}
