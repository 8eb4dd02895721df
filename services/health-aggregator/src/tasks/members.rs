//! Which replicas are alive: each looks at all others every second, directly and not through Consul, so that the death of
//! one is known within seconds even while Consul is away.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use plinth_core::health::Prober;
use tokio::sync::watch as channel;
use tokio::time::{Instant, MissedTickBehavior};

use super::peer::{Peer, SERVICE};
use crate::domain::warden::Catalog;

/// The replicas but this one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Members {
    pub live: Vec<Peer>,
    /// Registered, but not answering (or not yet looked at).
    pub silent: Vec<Peer>,
    /// The first round of looks is over.
    pub settled: bool,
}

pub struct Looks {
    pub me: String,
    /// Replicas are spoken to with mutual TLS, whatever they are registered with.
    pub mesh: bool,
    pub interval: Duration,
    pub failures: u32,
    pub prober: Prober,
}

/// Runs until the receiver is gone.
pub async fn run(
    looks: Looks,
    catalog: channel::Receiver<Option<Catalog>>,
    publish: channel::Sender<Members>,
) {
    // How many looks in a row went without an answer. A member that is not in here was never seen alive.
    let mut silences: HashMap<String, u32> = HashMap::new();
    let mut ticks = tokio::time::interval_at(Instant::now(), looks.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut catalog = catalog;
    if catalog.wait_for(Option::is_some).await.is_err() {
        return;
    }
    loop {
        ticks.tick().await;
        let peers = peers(&looks, &catalog);
        silences.retain(|id, _| peers.iter().any(|peer| peer.id == *id));
        let timeout = looks.interval.min(Duration::from_secs(1));
        let answers = join_all(peers.iter().map(|peer| peer.is_alive(&looks.prober, timeout))).await;
        for (peer, alive) in peers.iter().zip(answers) {
            if alive {
                if silences.insert(peer.id.clone(), 0).is_none_or(|silence| silence >= looks.failures) {
                    tracing::info!(member = peer.id, "replica is alive");
                }
            } else if let Some(silence) = silences.get_mut(&peer.id) {
                *silence = silence.saturating_add(1);
                if *silence == looks.failures {
                    tracing::warn!(member = peer.id, "replica does not answer; its instances are taken over");
                }
            }
        }
        let (live, silent) =
            peers.into_iter().partition(|peer| silences.get(&peer.id).is_some_and(|n| *n < looks.failures));
        let members = Members { live, silent, settled: true };
        publish.send_if_modified(|present| {
            let changed = *present != members;
            *present = members;
            changed
        });
        if publish.is_closed() {
            return;
        }
    }
}

fn peers(looks: &Looks, catalog: &channel::Receiver<Option<Catalog>>) -> Vec<Peer> {
    let catalog = catalog.borrow();
    let documents = catalog.as_ref().map(|catalog| Arc::clone(&catalog.documents)).unwrap_or_default();
    documents
        .values()
        .map(|(document, _)| &document.registration)
        .filter(|registration| registration.service_name == SERVICE && registration.service_id != looks.me)
        .map(|registration| Peer::of(registration, looks.mesh))
        .collect()
}
