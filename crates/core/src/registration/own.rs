//! A service that registers itself: registered at once, again whenever Consul has lost it, deregistered at the end.

use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{Document, Owner, Registered, Registrar, Registration, Status, layout};
use crate::Error;
use crate::consul::wire::KvPair;
use crate::consul::{Read, Reply, watch_from};
use crate::error::chain;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How long [`SelfRegistration::deregister`] takes at most.
const GOODBYE: Duration = Duration::from_secs(5);

/// Where a self-registration stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SelfState {
    /// Not registered yet, or lost and being repaired; the text is the last failure.
    Registering { last_error: Option<String> },
    /// In the catalog, as of Consul's last answer.
    Registered { index: u64 },
    /// Was registered when Consul last answered; now it does not.
    Unconfirmed { error: String },
    /// Another owner holds the service id; tried again every few seconds.
    Refused { owner: String },
    /// A newer process of the same owner has taken the service id; it is left to it unless it goes.
    Superseded,
}

impl SelfState {
    /// True while the catalog has (or as far as we know still has) this process.
    pub fn is_registered(&self) -> bool {
        matches!(self, Self::Registered { .. } | Self::Unconfirmed { .. })
    }
}

/// Keeps the calling process registered, with status passing from the start.
#[derive(Debug)]
pub struct SelfRegistration {
    registrar: Registrar,
    service_id: String,
    owner: Owner,
    state: watch::Receiver<SelfState>,
    stop: CancellationToken,
    task: Option<JoinHandle<()>>,
}

impl SelfRegistration {
    /// Starts on the current runtime. Use [`Owner::process`], so that a restart and its predecessor can be told apart.
    pub fn start(registrar: Registrar, registration: Registration, owner: Owner) -> Self {
        let (sender, state) = watch::channel(SelfState::Registering { last_error: None });
        let stop = CancellationToken::new();
        let keeper = Keeper {
            registrar: registrar.clone(),
            registration: registration.clone(),
            owner: owner.clone(),
            state: sender,
            stop: stop.clone(),
        };
        let task = Some(tokio::spawn(keeper.run()));
        Self { registrar, service_id: registration.service_id, owner, state, stop, task }
    }

    /// Waits until the catalog has this process; false when it was stopped before.
    pub async fn registered(&self) -> bool {
        self.state.clone().wait_for(SelfState::is_registered).await.is_ok()
    }

    pub fn state(&self) -> SelfState {
        self.state.borrow().clone()
    }

    /// Stops and takes this process (never a newer one) out of the catalog, within 5 s.
    pub async fn deregister(mut self) -> Result<(), Error> {
        self.stop.cancel();
        let service_id = self.service_id.clone();
        let goodbye = async {
            // A registration under way must be answered first, or it could arrive after the deregistration.
            if let Some(task) = self.task.take()
                && let Err(error) = task.await
            {
                tracing::error!(%error, "the self-registration task ended badly");
            }
            match self.registrar.deregister(&self.service_id, Some(&self.owner)).await {
                Ok(_) | Err(Error::Superseded { .. } | Error::OwnedByAnother { .. }) => Ok(()),
                Err(error) => Err(error),
            }
        };
        match tokio::time::timeout(GOODBYE, goodbye).await {
            Ok(result) => result,
            Err(_) => Err(Error::Timeout {
                method: "deregister".to_owned(),
                path: layout::instance_key(&service_id),
                after: GOODBYE,
            }),
        }
    }
}

impl Drop for SelfRegistration {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

struct Keeper {
    registrar: Registrar,
    registration: Registration,
    owner: Owner,
    state: watch::Sender<SelfState>,
    stop: CancellationToken,
}

/// What the document says about us.
#[derive(Debug, PartialEq, Eq)]
enum Standing {
    Ours,
    Gone,
    Superseded,
    Taken(String),
}

impl Keeper {
    async fn run(self) {
        while let Some(registered) = self.register().await {
            self.enter(SelfState::Registered { index: registered.index });
            if !self.watch_over(&registered).await {
                return;
            }
            self.enter(SelfState::Registering { last_error: None });
        }
    }

    /// Tries until it works; `None`: stopped.
    async fn register(&self) -> Option<Registered> {
        let mut failures = 0u32;
        loop {
            if self.stop.is_cancelled() {
                return None;
            }
            let error = match self.registrar.register(&self.registration, &self.owner, Status::Passing).await
            {
                Ok(registered) => return Some(registered),
                Err(error) => error,
            };
            failures = failures.saturating_add(1);
            let text = chain(&error);
            if failures == 1 {
                tracing::warn!(service_id = %self.registration.service_id, error = %text, "not registered yet");
            }
            let pause = match error {
                Error::OwnedByAnother { owner, .. } => {
                    self.enter(SelfState::Refused { owner });
                    LONGEST_PAUSE
                }
                _ => {
                    self.enter(SelfState::Registering { last_error: Some(text) });
                    pause_after(failures)
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.registrar.client().recovered() => {}
                () = self.stop.cancelled() => return None,
            }
        }
    }

    /// True: register again. False: stopped.
    async fn watch_over(&self, registered: &Registered) -> bool {
        let key = layout::instance_key(&self.registration.service_id);
        let mut document = watch_from(
            self.registrar.client(),
            Read::default(),
            registered.document_index,
            move |client, read| {
                let key = key.clone();
                async move { client.kv().get(&key, &read).await }
            },
        );
        let mut heart = self.registration.lease_ttl().map(|ttl| {
            let mut heart = tokio::time::interval(ttl / 3);
            heart.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            heart.reset();
            heart
        });
        loop {
            let again = tokio::select! {
                () = self.stop.cancelled() => return false,
                reply = document.next() => match reply {
                    Some(reply) => self.judge(reply).await,
                    None => return false,
                },
                () = beat(&mut heart) => self.heartbeat_lost().await,
            };
            if again {
                return true;
            }
        }
    }

    /// True: the registration is lost and nobody else's.
    async fn judge(&self, reply: Result<Reply<Option<KvPair>>, Error>) -> bool {
        let reply = match reply {
            Ok(reply) => reply,
            Err(error) => {
                if self.state.borrow().is_registered() {
                    self.enter(SelfState::Unconfirmed { error: chain(&error) });
                }
                return false;
            }
        };
        match standing(reply.value.as_ref(), &self.owner) {
            Standing::Gone => return true,
            Standing::Superseded => self.enter(SelfState::Superseded),
            Standing::Taken(owner) => self.enter(SelfState::Refused { owner }),
            Standing::Ours => {
                if self.has_lost_its_node().await {
                    return true;
                }
                self.enter(SelfState::Registered { index: reply.index });
            }
        }
        false
    }

    /// The document can outlive its node, when somebody deregisters the node alone. A failed read says nothing.
    async fn has_lost_its_node(&self) -> bool {
        let name = layout::node_name(&self.registration.service_id);
        match self.registrar.client().catalog().node(&name, &Read::consistent()).await {
            Ok(reply) => {
                reply.value.is_none_or(|node| !node.services.contains_key(&self.registration.service_id))
            }
            Err(_) => false,
        }
    }

    async fn heartbeat_lost(&self) -> bool {
        let heartbeat = self.registrar.heartbeat(&self.registration.service_id, Some(&self.owner)).await;
        matches!(heartbeat, Err(Error::LeaseLost { .. } | Error::NotRegistered { .. }))
    }

    fn enter(&self, state: SelfState) {
        let before = self.state.send_replace(state.clone());
        if std::mem::discriminant(&before) != std::mem::discriminant(&state) {
            tracing::info!(service_id = %self.registration.service_id, ?state, "self-registration");
        }
    }
}

async fn beat(heart: &mut Option<tokio::time::Interval>) {
    match heart {
        Some(heart) => {
            heart.tick().await;
        }
        None => std::future::pending().await,
    }
}

fn standing(pair: Option<&KvPair>, owner: &Owner) -> Standing {
    let Some(pair) = pair else { return Standing::Gone };
    match serde_json::from_slice::<Document>(&pair.value) {
        Ok(document) if document.owner != owner.subject => Standing::Taken(document.owner),
        Ok(document) if document.incarnation != owner.incarnation => Standing::Superseded,
        Ok(_) => Standing::Ours,
        // Somebody overwrote it with what is no document; only a person can sort that out.
        Err(_) => Standing::Taken("unreadable document".to_owned()),
    }
}

fn pause_after(failures: u32) -> Duration {
    let full = FIRST_PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(LONGEST_PAUSE);
    full.mul_f64(0.5 + 0.5 * fastrand::f64())
}
