//! One instance as this replica knows it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use plinth_core::consul::wire::HealthCheck;
use plinth_core::health::{ProbeLoop, ProbeOutcome, Status, Thresholds, Tracker};
use plinth_core::registration::Document;

use super::target::{self, Target, Watched};

/// How long the answer to our own write is believed before the watch's word. By then the watch has caught up; if it has
/// not, a compare-and-set on the watch's word loses and nothing is harmed.
const OWN_WRITE: Duration = Duration::from_secs(5);

/// A probe's result that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastProbe {
    pub at: Timestamp,
    pub status: Status,
    pub output: String,
}

/// Why an instance is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// Critical for longer than `deregister_after`.
    Critical,
    /// Its lease has been gone for more than twice its TTL.
    Expired,
}

impl Removal {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::Expired => "expired",
        }
    }
}

/// What this replica knows of an instance, and what it does about it when it owns it.
#[derive(Debug)]
pub struct Case {
    pub document: Arc<Document>,
    pub document_index: u64,
    pub owned: bool,
    pub last: Option<LastProbe>,
    /// Moves when what is probed, or whether it is, changes: results of before do not count.
    pub epoch: u64,
    watched: Watched,
    seen: Option<HealthCheck>,
    ours: Option<(HealthCheck, Instant)>,
    tracker: Option<Tracker>,
    schedule: Option<ProbeLoop>,
    next_probe: Instant,
    probing: bool,
    critical_since: Option<Instant>,
    lease_missing: Option<Instant>,
    /// A write or removal is on its way.
    pub writing: bool,
    /// No write before this: after a failed one, or one that the brake held back.
    pub not_before: Instant,
}

impl Case {
    pub fn new(document: Arc<Document>, document_index: u64, now: Instant) -> Self {
        Self {
            watched: Watched::of(&document.registration),
            document,
            document_index,
            owned: false,
            last: None,
            epoch: 0,
            seen: None,
            ours: None,
            tracker: None,
            schedule: None,
            next_probe: now,
            probing: false,
            critical_since: None,
            lease_missing: None,
            writing: false,
            not_before: now,
        }
    }

    pub fn target(&self) -> Option<&Target> {
        match &self.watched {
            Watched::Probed(target) => Some(target),
            Watched::Not | Watched::Lease { .. } => None,
        }
    }

    /// The check as it is in the catalog, as far as known here.
    pub fn check(&self) -> Option<&HealthCheck> {
        match (&self.ours, &self.seen) {
            (Some((ours, _)), Some(seen)) if ours.modify_index > seen.modify_index => Some(ours),
            (_, seen) => seen.as_ref(),
        }
    }

    pub fn status(&self) -> Option<Status> {
        // A word that nobody knows is no reason to call an instance well.
        self.check().map(|check| check.status.parse().unwrap_or(Status::Critical))
    }

    /// Takes the catalog's word in. True when something about it changed.
    pub fn catalog(
        &mut self,
        document: &Arc<Document>,
        document_index: u64,
        check: Option<&HealthCheck>,
        leased: bool,
        thresholds: Thresholds,
        now: Instant,
    ) -> bool {
        let before = self.status();
        let registered_again = document_index != self.document_index;
        if registered_again {
            self.document = Arc::clone(document);
            self.document_index = document_index;
            let watched = Watched::of(&document.registration);
            if watched != self.watched {
                self.watched = watched;
                self.restart(thresholds, now);
            }
            // A new process, likely: look at once, and its time critical begins anew.
            self.next_probe = now;
            self.critical_since = None;
        }
        let moved = self.seen.as_ref() != check;
        if moved {
            self.seen = check.cloned();
        }
        if self.ours.as_ref().is_some_and(|(ours, at)| {
            now >= *at + OWN_WRITE || check.is_some_and(|check| check.modify_index >= ours.modify_index)
        }) {
            self.ours = None;
        }
        let lease_moved = leased == self.lease_missing.is_some();
        self.lease_missing = if leased { None } else { self.lease_missing.or(Some(now)) };
        if let (Some(status), true) = (self.status(), self.status() != before) {
            // Somebody else turned it: go on from there.
            match &mut self.tracker {
                Some(tracker) => tracker.adopt(status),
                None if self.owned => self.restart(thresholds, now),
                None => {}
            }
        }
        self.note_critical(now);
        registered_again || moved || lease_moved
    }

    /// True when that changed.
    pub fn set_owned(&mut self, owned: bool, thresholds: Thresholds, now: Instant) -> bool {
        if owned == self.owned {
            return false;
        }
        self.owned = owned;
        self.restart(thresholds, now);
        true
    }

    /// Begins to watch, from the status that the catalog has: taking over starts no alarm.
    fn restart(&mut self, thresholds: Thresholds, now: Instant) {
        self.epoch += 1;
        self.probing = false;
        self.last = None;
        self.next_probe = now;
        let interval = self.target().filter(|_| self.owned).map(|target| target.interval);
        self.schedule = interval.map(ProbeLoop::new);
        self.tracker =
            self.status().filter(|_| interval.is_some()).map(|status| Tracker::new(thresholds, status));
    }

    /// The probe to start now, if one is due.
    pub fn start_probe(&mut self, now: Instant) -> Option<&Target> {
        if self.tracker.is_none() || self.probing || now < self.next_probe {
            return None;
        }
        self.next_probe = now + self.schedule.as_mut()?.next_interval();
        self.probing = true;
        self.target()
    }

    pub fn probed(&mut self, outcome: &ProbeOutcome, at: Timestamp) {
        self.probing = false;
        if let Some(tracker) = &mut self.tracker {
            tracker.observe(outcome.status);
            self.last = Some(LastProbe { at, status: outcome.status, output: outcome.output.clone() });
        }
    }

    /// Whatever was on its way never ended.
    pub fn give_up(&mut self) {
        self.probing = false;
        self.writing = false;
    }

    /// What the catalog should say, if this replica has an opinion.
    pub fn wanted(&self, now: Instant) -> Option<(Status, String)> {
        match &self.watched {
            Watched::Not => None,
            Watched::Probed(_) => {
                let (tracker, last) = (self.tracker.as_ref()?, self.last.as_ref()?);
                Some((tracker.status(), last.output.clone()))
            }
            Watched::Lease { ttl } => match self.lease_missing {
                None => Some((Status::Passing, "heartbeats come".to_owned())),
                // The registration makes its lease just after its document: one TTL of patience.
                Some(since) if now >= since + *ttl => Some((Status::Critical, "TTL expired".to_owned())),
                Some(_) => None,
            },
        }
    }

    /// Whether it is time to remove it.
    pub fn removal(&self, now: Instant) -> Option<Removal> {
        if self.expires_at().is_some_and(|at| now >= at) {
            return Some(Removal::Expired);
        }
        // Not on the catalog's word alone: the last look must have been bad too.
        let seen_bad = self.last.as_ref().is_some_and(|last| last.status == Status::Critical);
        (seen_bad && self.removable_at().is_some_and(|at| now >= at)).then_some(Removal::Critical)
    }

    fn expires_at(&self) -> Option<Instant> {
        Some(self.lease_missing? + target::lease(&self.document.registration)? * 2)
    }

    fn removable_at(&self) -> Option<Instant> {
        Some(self.critical_since? + self.target()?.deregister_after?)
    }

    pub fn wrote(&mut self, check: HealthCheck, now: Instant) {
        self.ours = Some((check, now));
        self.note_critical(now);
    }

    /// Another writer was first; the watch tells what it wrote.
    pub fn lost(&mut self) {
        self.ours = None;
    }

    fn note_critical(&mut self, now: Instant) {
        self.critical_since = match self.status() {
            Some(Status::Critical) => self.critical_since.or(Some(now)),
            _ => None,
        };
    }

    /// When to look at this case again if nothing happens before.
    pub fn wake(&self, now: Instant) -> Option<Instant> {
        if !self.owned {
            return None;
        }
        let probe = (self.tracker.is_some() && !self.probing).then_some(self.next_probe);
        // Past deadlines wait for what holds them up: a write on its way, the brake, a probe's word.
        let later = |at: Option<Instant>| at.map(|at| at.max(self.not_before)).filter(|at| *at > now);
        let lease_over = match &self.watched {
            Watched::Lease { ttl } => self.lease_missing.map(|since| since + *ttl),
            _ => None,
        };
        let held = (self.not_before > now && !self.writing).then_some(self.not_before);
        [probe, later(self.expires_at()), later(self.removable_at()), later(lease_over), held]
            .into_iter()
            .flatten()
            .min()
    }
}
