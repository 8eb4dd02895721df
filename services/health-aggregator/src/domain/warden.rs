//! Decides what to do next. Fed with what happened, asked for what is due; the driver around it does the I/O.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use plinth_core::consul::wire::HealthCheck;
use plinth_core::health::{ProbeOutcome, ProbeTarget, Status, Thresholds};
use plinth_core::registration::Document;

use super::brake::{Answer, Brake, Engagement};
use super::case::{Case, Removal};
use super::ownership;

/// Pause after a write that failed, lost its race, or was held back by the brake.
const RETRY: Duration = Duration::from_secs(1);

/// What the catalog says, each part as of its own index.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    /// By service id, with the document's index.
    pub documents: Arc<BTreeMap<String, (Arc<Document>, u64)>>,
    /// The check of each instance, by service id.
    pub checks: Arc<HashMap<String, HealthCheck>>,
    /// Ids that hold a lease.
    pub leases: Arc<BTreeSet<String>>,
}

/// What to do. Each but `Ask` names an instance and is answered by the method of the same name in the past tense.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    Probe {
        id: Arc<str>,
        epoch: u64,
        service: String,
        probe: ProbeTarget,
        timeout: Duration,
    },
    /// Write this check if its index is still the catalog's.
    Write {
        id: Arc<str>,
        check: HealthCheck,
        from: Status,
        to: Status,
    },
    /// Remove document and node if neither document nor check has moved.
    Remove {
        id: Arc<str>,
        document_index: u64,
        check: HealthCheck,
        reason: Removal,
    },
    /// Have a peer look at these.
    Ask {
        ids: Vec<Arc<str>>,
    },
}

/// How a write or a removal ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The check as it is now; a removal has none.
    Done(Option<Box<HealthCheck>>),
    /// Somebody else was first.
    Conflict,
    Failed,
}

#[derive(Debug)]
pub struct Warden {
    me: String,
    members: Vec<String>,
    thresholds: Thresholds,
    cases: HashMap<Arc<str>, Case>,
    agenda: BTreeSet<(Instant, Arc<str>)>,
    /// Where each case stands on the agenda.
    places: HashMap<Arc<str>, Instant>,
    brake: Brake,
    asking: bool,
    /// Instances that this replica probes.
    owned: usize,
}

impl Warden {
    /// `me`: this replica's service id, a member from the start.
    pub fn new(me: impl Into<String>, thresholds: Thresholds) -> Self {
        let me = me.into();
        Self {
            members: vec![me.clone()],
            me,
            thresholds,
            cases: HashMap::new(),
            agenda: BTreeSet::new(),
            places: HashMap::new(),
            brake: Brake::default(),
            asking: false,
            owned: 0,
        }
    }

    pub fn cases(&self) -> impl Iterator<Item = (&Arc<str>, &Case)> {
        self.cases.iter()
    }

    pub fn case(&self, id: &str) -> Option<&Case> {
        self.cases.get(id)
    }

    /// How many instances this replica probes.
    pub fn owned(&self) -> usize {
        self.owned
    }

    pub fn live_members(&self) -> &[String] {
        &self.members
    }

    fn count_owned(&mut self) {
        self.owned = self.cases.values().filter(|case| case.owned && case.target().is_some()).count();
    }

    pub fn brake(&self) -> Option<Engagement> {
        self.brake.engaged()
    }

    /// The whole catalog as it is now.
    pub fn catalog(&mut self, catalog: &Catalog, now: Instant) {
        let gone: Vec<Arc<str>> =
            self.cases.keys().filter(|id| !catalog.documents.contains_key(&***id)).cloned().collect();
        for id in gone {
            self.cases.remove(&id);
            self.brake.clear(&id);
            self.unschedule(&id);
        }
        for (id, (document, index)) in catalog.documents.iter() {
            let (check, leased) = (catalog.checks.get(id), catalog.leases.contains(id));
            let key = match self.cases.get_key_value(id.as_str()) {
                Some((key, _)) => Arc::clone(key),
                None => Arc::from(id.as_str()),
            };
            let case = self
                .cases
                .entry(Arc::clone(&key))
                .or_insert_with(|| Case::new(Arc::clone(document), *index, now));
            let moved = case.catalog(document, *index, check, leased, self.thresholds, now);
            let owned = ownership::owner(id, &self.members) == Some(self.me.as_str());
            let turned = case.set_owned(owned, self.thresholds, now);
            if moved || turned {
                self.schedule(&key, now);
            }
        }
        self.count_owned();
    }

    /// The members that are alive; this replica is always one.
    pub fn members(&mut self, mut live: Vec<String>, now: Instant) {
        if !live.contains(&self.me) {
            live.push(self.me.clone());
        }
        live.sort_unstable();
        if live == self.members {
            return;
        }
        self.members = live;
        let mut turned = Vec::new();
        for (id, case) in &mut self.cases {
            let owned = ownership::owner(id, &self.members) == Some(self.me.as_str());
            if case.set_owned(owned, self.thresholds, now) {
                turned.push((Arc::clone(id), owned));
            }
        }
        for (id, owned) in turned {
            if !owned {
                self.brake.clear(&id);
            }
            self.schedule(&id, now);
        }
        self.count_owned();
    }

    /// The task of an action ended without a result: do it again.
    pub fn crashed(&mut self, id: &Arc<str>, now: Instant) {
        let Some(case) = self.cases.get_mut(id) else { return };
        case.give_up();
        case.not_before = now + RETRY;
        self.schedule(id, now + RETRY);
    }

    pub fn probed(&mut self, id: &Arc<str>, epoch: u64, outcome: &ProbeOutcome, at: Timestamp, now: Instant) {
        let Some(case) = self.cases.get_mut(id).filter(|case| case.epoch == epoch) else { return };
        case.probed(outcome, at);
        if let (Some(target), Some(status)) = (case.target(), case.status()) {
            match outcome.status {
                Status::Passing => self.brake.clear(id),
                worse if worse > status => self.brake.bad(id, target.interval, now),
                _ => self.brake.written(id, now),
            }
        }
        self.schedule(id, now);
    }

    pub fn written(&mut self, id: &Arc<str>, outcome: Outcome, now: Instant) {
        let Some(case) = self.cases.get_mut(id) else { return };
        case.writing = false;
        match outcome {
            Outcome::Done(Some(check)) => {
                case.wrote(*check, now);
                self.brake.written(id, now);
            }
            Outcome::Done(None) | Outcome::Failed => case.not_before = now + RETRY,
            Outcome::Conflict => {
                case.lost();
                case.not_before = now + RETRY / 5;
            }
        }
        self.schedule(id, now);
    }

    pub fn removed(&mut self, id: &Arc<str>, outcome: &Outcome, now: Instant) {
        let Some(case) = self.cases.get_mut(id) else { return };
        case.writing = false;
        // The watch takes it from the list; this only keeps from removing it twice meanwhile.
        case.not_before = now + if matches!(outcome, Outcome::Done(_)) { 5 * RETRY } else { RETRY };
        self.schedule(id, now);
    }

    /// A peer's answer to `Action::Ask`. True when it engaged the brake.
    pub fn answered(&mut self, answer: Answer, now: Instant) -> bool {
        self.asking = false;
        let engaged = self.brake.answered(answer, now);
        if answer == Answer::Agrees {
            let held: Vec<Arc<str>> =
                self.cases.iter().filter(|(_, c)| c.owned).map(|(id, _)| id.clone()).collect();
            for id in held {
                if let Some(case) = self.cases.get_mut(&id) {
                    case.not_before = case.not_before.min(now);
                }
                self.schedule(&id, now);
            }
        }
        engaged
    }

    /// When something is due next.
    pub fn next(&self) -> Option<Instant> {
        self.agenda.first().map(|(at, _)| *at)
    }

    /// Everything that is due.
    pub fn due(&mut self, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        let owned = self.owned;
        while let Some((at, _)) = self.agenda.first()
            && *at <= now
            && let Some((_, id)) = self.agenda.pop_first()
        {
            self.places.remove(&id);
            self.act(&id, owned, now, &mut actions);
            if let Some(wake) = self.cases.get(&id).and_then(|case| case.wake(now)) {
                // Never in the same call again, whatever a case says.
                self.schedule(&id, wake.max(now + Duration::from_millis(1)));
            }
        }
        if !self.asking
            && let Some(ids) = self.brake.question(owned, now)
        {
            self.asking = true;
            actions.push(Action::Ask { ids });
        }
        actions
    }

    fn act(&mut self, id: &Arc<str>, owned: usize, now: Instant, actions: &mut Vec<Action>) {
        let Some(case) = self.cases.get_mut(id).filter(|case| case.owned) else { return };
        let epoch = case.epoch;
        if let Some(target) = case.start_probe(now) {
            let (service, probe, timeout) = (target.service.clone(), target.probe.clone(), target.timeout);
            actions.push(Action::Probe { id: Arc::clone(id), epoch, service, probe, timeout });
        }
        let (Some(check), Some(status)) = (case.check(), case.status()) else { return };
        if case.writing || now < case.not_before {
            return;
        }
        let action = if let Some(reason) = case.removal(now) {
            let check = check.clone();
            Some((
                true,
                Action::Remove { id: Arc::clone(id), document_index: case.document_index, check, reason },
            ))
        } else {
            case.wanted(now).filter(|(wanted, _)| *wanted != status).map(|(to, output)| {
                let notes = Timestamp::now().to_string();
                let check = HealthCheck { status: to.as_str().to_owned(), output, notes, ..check.clone() };
                (to > status, Action::Write { id: Arc::clone(id), check, from: status, to })
            })
        };
        let Some((for_the_worse, action)) = action else { return };
        if for_the_worse && !self.brake.allows(owned, now) {
            case.not_before = now + RETRY;
            return;
        }
        case.writing = true;
        actions.push(action);
    }

    fn schedule(&mut self, id: &Arc<str>, at: Instant) {
        match self.places.get(id) {
            Some(present) if *present <= at => return,
            Some(present) => {
                self.agenda.remove(&(*present, Arc::clone(id)));
            }
            None => {}
        }
        self.places.insert(Arc::clone(id), at);
        self.agenda.insert((at, Arc::clone(id)));
    }

    fn unschedule(&mut self, id: &Arc<str>) {
        if let Some(at) = self.places.remove(id) {
            self.agenda.remove(&(at, Arc::clone(id)));
        }
    }
}

#[cfg(test)]
mod tests;
