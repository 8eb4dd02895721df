//! The loop around the warden: carries out what it decides and tells it what came of it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use parking_lot::Mutex;
use plinth_core::Error;
use plinth_core::Secret;
use plinth_core::consul::Client;
use plinth_core::consul::wire::{CheckVerb, HealthCheck, Node, NodeVerb, TxnOp, TxnResult};
use plinth_core::health::{ProbeOutcome, ProbeTarget, Prober, Status};
use plinth_core::registration::{LAST_DEREGISTRATION, instance_key, node_name};
use tokio::sync::{Semaphore, watch as channel};
use tokio::task::{Id, JoinSet};

use super::members::Members;
use super::peer::Peer;
use crate::domain::brake::Answer;
use crate::domain::warden::{Action, Catalog, Outcome, Warden};
use crate::metrics::Metrics;
use crate::routes::internal::ProbeQuestion;

/// How long the first probes wait for the first round of looks at the other replicas, so that a replica that joins does
/// not probe everything once.
const SETTLE: Duration = Duration::from_secs(2);
/// How long a peer may take to look at the sample: its own probes have up to 5 s.
const PEER_TIMEOUT: Duration = Duration::from_secs(7);

/// What the loop works with. Cheap to clone.
#[derive(Clone)]
pub struct Patrol {
    pub warden: Arc<Mutex<Warden>>,
    pub client: Client,
    pub prober: Prober,
    pub metrics: Metrics,
    pub concurrency: Arc<Semaphore>,
    pub peer_token: Option<Secret>,
    pub catalog: channel::Receiver<Option<Catalog>>,
    pub members: channel::Receiver<Members>,
}

/// An action's end.
enum Done {
    Probed { id: Arc<str>, epoch: u64, outcome: ProbeOutcome },
    Written { id: Arc<str>, from: Status, to: Status, output: String, outcome: Outcome },
    Removed { id: Arc<str>, reason: &'static str, outcome: Outcome },
    Answered(Answer),
}

impl Patrol {
    /// Runs for ever; dropping it ends every probe and write on its way.
    pub async fn run(mut self) {
        let mut jobs: Jobs = Jobs::default();
        let settled = async {
            // An error means that nobody looks any more; then this replica goes on alone.
            let _ = self.members.wait_for(|members| members.settled).await;
        };
        let _ = tokio::time::timeout(SETTLE, settled).await;
        self.take_members();
        self.take_catalog();
        loop {
            self.start_due(&mut jobs);
            let wake = self.warden.lock().next();
            tokio::select! {
                Ok(()) = self.catalog.changed() => self.take_catalog(),
                Ok(()) = self.members.changed() => self.take_members(),
                Some((id, done)) = jobs.next() => self.take(id, done),
                () = sleep_until(wake) => {}
            }
        }
    }

    fn take_catalog(&mut self) {
        let catalog = self.catalog.borrow_and_update().clone();
        if let Some(catalog) = catalog {
            self.metrics.instances.set(catalog.documents.len() as i64);
            self.warden.lock().catalog(&catalog, Instant::now());
        }
    }

    fn take_members(&mut self) {
        let live: Vec<String> =
            self.members.borrow_and_update().live.iter().map(|peer| peer.id.clone()).collect();
        self.metrics.members.set(live.len() as i64 + 1);
        self.warden.lock().members(live, Instant::now());
    }

    fn start_due(&self, jobs: &mut Jobs) {
        let actions = {
            let mut warden = self.warden.lock();
            let actions = warden.due(Instant::now());
            self.metrics.owned.set(warden.owned() as i64);
            self.metrics.brake.set(i64::from(warden.brake().is_some()));
            actions
        };
        for action in actions {
            let patrol = self.clone();
            match action {
                Action::Probe { id, epoch, service, probe, timeout } => {
                    jobs.start(Some(Arc::clone(&id)), async move {
                        patrol.probe(id, epoch, (&service, &probe), timeout).await
                    });
                }
                Action::Write { id, check, from, to } => {
                    jobs.start(Some(Arc::clone(&id)), async move {
                        let output = check.output.clone();
                        let outcome = patrol.write(check).await;
                        Done::Written { id, from, to, output, outcome }
                    });
                }
                Action::Remove { id, document_index, check, reason } => {
                    jobs.start(Some(Arc::clone(&id)), async move {
                        let outcome = patrol.remove(&id, document_index, check).await;
                        Done::Removed { id, reason: reason.as_str(), outcome }
                    });
                }
                Action::Ask { ids } => {
                    jobs.start(None, async move { Done::Answered(patrol.ask(&ids).await) });
                }
            }
        }
    }

    async fn probe(
        &self,
        id: Arc<str>,
        epoch: u64,
        (service, probe): (&str, &ProbeTarget),
        timeout: Duration,
    ) -> Done {
        // Never closed, so an error cannot come; the probe would then go on without a permit.
        let _permit = self.concurrency.acquire().await;
        let outcome = self.prober.probe_service(service, probe, timeout).await;
        Done::Probed { id, epoch, outcome }
    }

    async fn write(&self, check: HealthCheck) -> Outcome {
        match self.client.txn(&[TxnOp::check(CheckVerb::Cas, check)]).await {
            Ok(results) => Outcome::Done(results.results.into_iter().find_map(|result| match result {
                TxnResult::Check(check) => Some(Box::new(check)),
                _ => None,
            })),
            Err(error) => self.refused(&error),
        }
    }

    /// Document, check and node go together, and only if document and check are as this replica saw them: an instance that
    /// registered again in between stays.
    async fn remove(&self, id: &str, document_index: u64, check: HealthCheck) -> Outcome {
        let node = Node { name: node_name(id), ..Node::default() };
        let note = serde_json::json!({"service_id": id, "at": Timestamp::now(), "by": uuid::Uuid::new_v4()});
        let ops = [
            TxnOp::kv_delete_cas(instance_key(id), document_index),
            TxnOp::check(CheckVerb::DeleteCas, check),
            TxnOp::node(NodeVerb::Delete, node),
            TxnOp::kv_set(LAST_DEREGISTRATION, note.to_string().into()),
        ];
        match self.client.txn(&ops).await {
            Ok(_) => Outcome::Done(None),
            Err(error) => self.refused(&error),
        }
    }

    fn refused(&self, error: &Error) -> Outcome {
        if matches!(error, Error::TxnFailed { .. }) {
            tracing::debug!(error = %plinth_core::error::chain(error), "another writer was first");
            self.metrics.write_conflicts.inc();
            return Outcome::Conflict;
        }
        tracing::debug!(error = %plinth_core::error::chain(error), "not written");
        self.metrics.write_failures.inc();
        Outcome::Failed
    }

    /// The first live peer's word.
    async fn ask(&self, ids: &[Arc<str>]) -> Answer {
        let peers: Vec<Peer> = self.members.borrow().live.clone();
        let question = ProbeQuestion { service_ids: ids.iter().map(ToString::to_string).collect() };
        for peer in peers {
            match peer.look(&self.prober, &question, self.peer_token.as_ref(), PEER_TIMEOUT).await {
                Ok(answer) => {
                    let bad = answer.results.iter().filter(|result| result.status != Status::Passing).count();
                    let agrees = !answer.results.is_empty() && bad * 2 > answer.results.len();
                    return if agrees { Answer::Agrees } else { Answer::Disagrees };
                }
                Err(why) => tracing::warn!(member = peer.id, error = why, "replica gives no second opinion"),
            }
        }
        Answer::Absent
    }

    fn take(&self, id: Option<Arc<str>>, done: Option<Done>) {
        let now = Instant::now();
        let mut warden = self.warden.lock();
        match done {
            Some(Done::Probed { id, epoch, outcome }) => {
                self.metrics.probes.with_label_values(&[outcome.status.as_str()]).inc();
                self.metrics.probe_duration.observe(outcome.latency.as_secs_f64());
                warden.probed(&id, epoch, &outcome, Timestamp::now(), now);
            }
            Some(Done::Written { id, from, to, output, outcome }) => {
                if matches!(outcome, Outcome::Done(_)) {
                    self.metrics.transitions.with_label_values(&[to.as_str()]).inc();
                    tracing::info!(service_id = &*id, %from, %to, output, "status changed");
                }
                warden.written(&id, outcome, now);
            }
            Some(Done::Removed { id, reason, outcome }) => {
                if matches!(outcome, Outcome::Done(_)) {
                    self.metrics.removals.with_label_values(&[reason]).inc();
                    tracing::warn!(service_id = &*id, reason, "instance removed");
                }
                warden.removed(&id, &outcome, now);
            }
            Some(Done::Answered(answer)) => {
                if warden.answered(answer, now) {
                    self.metrics.brake_engagements.inc();
                    tracing::error!(
                        owned = warden.owned(),
                        bad = warden.brake().map(|brake| brake.bad),
                        peer = ?answer,
                        "most instances turned bad at once and no other replica confirms it: changes for the worse are held back"
                    );
                }
            }
            None => match id {
                Some(id) => warden.crashed(&id, now),
                None => {
                    warden.answered(Answer::Absent, now);
                }
            },
        }
    }
}

/// Running actions and whom each is about, so that one that dies is noticed.
#[derive(Default)]
struct Jobs {
    running: JoinSet<Done>,
    about: HashMap<Id, Option<Arc<str>>>,
}

impl Jobs {
    fn start(&mut self, about: Option<Arc<str>>, job: impl Future<Output = Done> + Send + 'static) {
        let id = self.running.spawn(job).id();
        self.about.insert(id, about);
    }

    /// `None` when nothing runs. Without a result when the action's task died.
    async fn next(&mut self) -> Option<(Option<Arc<str>>, Option<Done>)> {
        match self.running.join_next_with_id().await? {
            Ok((id, done)) => Some((self.about.remove(&id).flatten(), Some(done))),
            Err(error) => {
                tracing::error!(%error, "an action's task died; it is done again");
                Some((self.about.remove(&error.id()).flatten(), None))
            }
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
