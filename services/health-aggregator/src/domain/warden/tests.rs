//! Wardens in a world of virtual time: a catalog with compare-and-set, targets that are well or not, replicas that come and go.

use plinth_core::registration::{CheckSpec, Registration, Timing};
use proptest::prelude::*;

use super::*;
use crate::domain::brake::Answer;

const INTERVAL: Duration = Duration::from_secs(10);
const STEP: Duration = Duration::from_millis(100);
const THRESHOLDS: Thresholds = Thresholds { success: 1, failure: 2 };

/// What was written or removed, and when.
#[derive(Debug, Clone, PartialEq)]
enum Event {
    Wrote(String, Status),
    Removed(String, Removal),
}

struct Replica {
    warden: Warden,
    /// Sees every target as down, whatever it is.
    blind: bool,
    alive: bool,
    probes: HashMap<String, u32>,
}

struct World {
    start: Instant,
    now: Instant,
    index: u64,
    catalog: Catalog,
    down: BTreeSet<String>,
    replicas: Vec<Replica>,
    events: Vec<(Duration, Event)>,
    dirty: bool,
    consul_away: bool,
}

impl World {
    fn new(replicas: usize) -> Self {
        let replica = |n: usize| Replica {
            warden: Warden::new(format!("h{n}"), THRESHOLDS),
            blind: false,
            alive: true,
            probes: HashMap::new(),
        };
        let start = Instant::now();
        let mut world = Self {
            start,
            now: start,
            index: 1,
            catalog: Catalog::default(),
            down: BTreeSet::new(),
            replicas: (0..replicas).map(replica).collect(),
            events: Vec::new(),
            dirty: true,
            consul_away: false,
        };
        world.tell_members();
        world
    }

    fn tell_members(&mut self) {
        let live: Vec<String> =
            (0..self.replicas.len()).filter(|n| self.replicas[*n].alive).map(|n| format!("h{n}")).collect();
        for replica in &mut self.replicas {
            replica.warden.members(live.clone(), self.now);
        }
    }

    fn register(&mut self, registration: Registration, status: Status) {
        self.index += 1;
        let id = registration.service_id.clone();
        let document = Document {
            registration,
            owner: "me".into(),
            incarnation: None,
            registered_at: Timestamp::UNIX_EPOCH,
            updated_at: Timestamp::UNIX_EPOCH,
        };
        let check = HealthCheck {
            status: status.as_str().into(),
            service_id: id.clone(),
            modify_index: self.index,
            ..HealthCheck::default()
        };
        Arc::make_mut(&mut self.catalog.documents).insert(id.clone(), (Arc::new(document), self.index));
        Arc::make_mut(&mut self.catalog.checks).insert(id, check);
        self.dirty = true;
    }

    fn probed(&mut self, count: usize) {
        for n in 0..count {
            self.register(probed(n), Status::Passing);
        }
    }

    fn status(&self, n: usize) -> Option<&str> {
        self.catalog.checks.get(&format!("i{n}")).map(|check| check.status.as_str())
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.step();
        }
    }

    fn step(&mut self) {
        self.now += STEP;
        if std::mem::take(&mut self.dirty) && !self.consul_away {
            for replica in self.replicas.iter_mut().filter(|replica| replica.alive) {
                replica.warden.catalog(&self.catalog, self.now);
            }
        }
        for n in 0..self.replicas.len() {
            if self.replicas[n].alive {
                for action in self.replicas[n].warden.due(self.now) {
                    self.carry_out(n, action);
                }
            }
        }
    }

    fn carry_out(&mut self, n: usize, action: Action) {
        let now = self.now;
        match action {
            Action::Probe { id, epoch, .. } => {
                *self.replicas[n].probes.entry(id.to_string()).or_default() += 1;
                let outcome = outcome(self.looks(n, &id));
                self.replicas[n].warden.probed(&id, epoch, &outcome, Timestamp::UNIX_EPOCH, now);
            }
            Action::Write { id, check, to, .. } => {
                let outcome = self.write(&id, check, to);
                self.replicas[n].warden.written(&id, outcome, now);
            }
            Action::Remove { id, document_index, check, reason } => {
                let outcome = self.remove(&id, document_index, &check, reason);
                self.replicas[n].warden.removed(&id, &outcome, now);
            }
            Action::Ask { ids } => {
                let peer = (0..self.replicas.len()).find(|peer| *peer != n && self.replicas[*peer].alive);
                let answer = match peer {
                    None => Answer::Absent,
                    Some(peer) => {
                        let bad = ids.iter().filter(|id| self.looks(peer, id) != Status::Passing).count();
                        if bad * 2 > ids.len() { Answer::Agrees } else { Answer::Disagrees }
                    }
                };
                self.replicas[n].warden.answered(answer, now);
            }
        }
    }

    fn looks(&self, replica: usize, id: &str) -> Status {
        if self.replicas[replica].blind || self.down.contains(id) {
            Status::Critical
        } else {
            Status::Passing
        }
    }

    fn write(&mut self, id: &str, check: HealthCheck, to: Status) -> Outcome {
        if self.consul_away {
            return Outcome::Failed;
        }
        match Arc::make_mut(&mut self.catalog.checks).get_mut(id) {
            Some(present) if present.modify_index == check.modify_index => {
                self.index += 1;
                *present = HealthCheck { modify_index: self.index, ..check };
                let written = present.clone();
                self.dirty = true;
                self.events.push((self.now - self.start, Event::Wrote(id.to_owned(), to)));
                Outcome::Done(Some(Box::new(written)))
            }
            _ => Outcome::Conflict,
        }
    }

    fn remove(&mut self, id: &str, document_index: u64, check: &HealthCheck, reason: Removal) -> Outcome {
        let same = self.catalog.documents.get(id).is_some_and(|(_, index)| *index == document_index)
            && self.catalog.checks.get(id).is_some_and(|present| present.modify_index == check.modify_index);
        if self.consul_away || !same {
            return if same { Outcome::Failed } else { Outcome::Conflict };
        }
        Arc::make_mut(&mut self.catalog.documents).remove(id);
        Arc::make_mut(&mut self.catalog.checks).remove(id);
        self.dirty = true;
        self.events.push((self.now - self.start, Event::Removed(id.to_owned(), reason)));
        Outcome::Done(None)
    }

    fn wrote_critical(&self) -> usize {
        self.events.iter().filter(|(_, event)| matches!(event, Event::Wrote(_, Status::Critical))).count()
    }
}

fn probed(n: usize) -> Registration {
    let mut registration = Registration::new("web", format!("i{n}"), "10.0.0.1", 80);
    registration.check =
        CheckSpec::Tcp { target: None, timing: Timing { interval: INTERVAL, ..Timing::default() } };
    registration
}

fn outcome(status: Status) -> ProbeOutcome {
    ProbeOutcome {
        status,
        output: status.to_string(),
        latency: Duration::ZERO,
        timed_out: false,
        http_status: None,
    }
}

#[test]
fn a_death_is_written_in_time_once_and_removed_later() {
    let mut world = World::new(1);
    world.probed(10);
    world.run(INTERVAL * 2);
    assert_eq!(world.events, [], "nothing changes, nothing is written");
    world.down.insert("i3".into());
    let died = world.now - world.start;
    world.run(INTERVAL * 2 + STEP * 2);
    assert_eq!(world.status(3), Some("critical"));
    world.run(Duration::from_secs(60));
    let [(wrote, Event::Wrote(id, Status::Critical)), (removed, Event::Removed(gone, Removal::Critical))] =
        world.events.as_slice()
    else {
        panic!("{:?}", world.events)
    };
    assert_eq!((id.as_str(), gone.as_str()), ("i3", "i3"));
    assert!(*wrote > died && *wrote <= died + INTERVAL * 2 + STEP);
    let critical = *removed - *wrote;
    assert!(critical >= Duration::from_secs(30) && critical <= Duration::from_secs(31), "{critical:?}");
}

#[test]
fn one_bad_look_is_no_alarm_and_recovery_is_written_at_once() {
    let mut world = World::new(1);
    world.probed(4);
    world.run(INTERVAL);
    world.down.insert("i0".into());
    // Longer than most gaps between two looks, shorter than any two gaps: one bad look.
    world.run(INTERVAL.mul_f64(0.89));
    world.down.clear();
    world.run(INTERVAL * 3);
    assert_eq!(world.events, []);
    world.down.insert("i0".into());
    world.run(INTERVAL * 2 + STEP);
    assert_eq!(world.status(0), Some("critical"));
    world.down.clear();
    world.run(INTERVAL + STEP);
    assert_eq!(world.status(0), Some("passing"));
}

#[test]
fn a_new_instance_is_looked_at_at_once() {
    let mut world = World::new(2);
    world.register(probed(0), Status::Critical);
    world.run(STEP * 3);
    assert_eq!(world.status(0), Some("passing"));
}

#[test]
fn each_is_probed_by_exactly_one_and_a_takeover_is_silent() {
    let mut world = World::new(2);
    world.probed(40);
    world.run(INTERVAL * 3);
    for n in 0..40 {
        let id = format!("i{n}");
        let by: Vec<u32> = world.replicas.iter().map(|r| r.probes.get(&id).copied().unwrap_or(0)).collect();
        assert_eq!(by.iter().filter(|probes| **probes > 0).count(), 1, "{id}: {by:?}");
    }
    // The other replica's are known critical or in doubt; taking over must neither flap nor forget.
    world.down.insert("i1".into());
    world.run(INTERVAL * 2 + STEP * 2);
    let before = world.events.clone();
    let orphans: Vec<String> = world.replicas[0].probes.keys().cloned().collect();
    assert!(orphans.len() > 5, "{orphans:?}");
    world.replicas[0].alive = false;
    world.tell_members();
    world.replicas[1].probes.clear();
    world.run(STEP * 2);
    let probes = &world.replicas[1].probes;
    assert!(orphans.iter().all(|id| probes.contains_key(id)), "taken over and looked at at once");
    world.run(INTERVAL);
    assert_eq!(world.events, before, "no status changed by the takeover");
}

#[test]
fn a_blind_replica_writes_nothing_and_says_so() {
    for replicas in [1, 2] {
        let mut world = World::new(replicas);
        world.probed(30);
        world.run(INTERVAL * 2);
        world.replicas[0].blind = true;
        world.run(INTERVAL * 10);
        assert_eq!(world.events, [], "{replicas} replicas");
        let answer = if replicas == 1 { Answer::Absent } else { Answer::Disagrees };
        assert_eq!(world.replicas[0].warden.brake().map(|brake| brake.answer), Some(answer));
        world.replicas[0].blind = false;
        world.run(INTERVAL * 2);
        assert_eq!(world.replicas[0].warden.brake(), None);
        world.down.insert("i7".into());
        world.run(INTERVAL * 2 + STEP * 2);
        assert_eq!(world.status(7), Some("critical"), "free again");
    }
}

#[test]
fn a_real_outage_that_a_peer_sees_too_is_written() {
    let mut world = World::new(2);
    world.probed(30);
    world.run(INTERVAL * 2);
    world.down = (0..30).map(|n| format!("i{n}")).collect();
    world.run(INTERVAL * 4);
    assert_eq!(world.wrote_critical(), 30);
}

#[test]
fn one_that_registers_again_is_not_removed() {
    let mut world = World::new(1);
    world.probed(10);
    world.run(INTERVAL);
    world.down.insert("i2".into());
    while world.status(2) != Some("critical") {
        world.step();
    }
    world.run(Duration::from_secs(29));
    assert_eq!(world.status(2), Some("critical"));
    world.register(probed(2), Status::Critical);
    world.run(Duration::from_secs(5));
    assert_eq!(world.status(2), Some("critical"), "its time starts anew");
    world.down.clear();
    world.run(INTERVAL);
    assert_eq!(world.status(2), Some("passing"));
}

#[test]
fn leases_expire_in_two_steps_and_come_back() {
    let ttl = Duration::from_secs(10);
    let mut world = World::new(1);
    let mut registration = Registration::new("job", "j", "10.0.0.1", 1);
    registration.ttl = Some(ttl);
    Arc::make_mut(&mut world.catalog.leases).insert("j".into());
    world.register(registration, Status::Passing);
    world.run(ttl * 5);
    assert_eq!(world.events, []);
    let leased = |world: &mut World, yes: bool| {
        let leases = Arc::make_mut(&mut world.catalog.leases);
        if yes {
            leases.insert("j".into());
        } else {
            leases.remove("j");
        }
        world.dirty = true;
    };
    leased(&mut world, false);
    world.run(ttl - STEP * 2);
    assert_eq!(world.events, [], "a lease that is being made anew is no alarm");
    world.run(STEP * 4);
    assert_eq!(world.catalog.checks["j"].status, "critical");
    leased(&mut world, true);
    world.run(STEP * 2);
    assert_eq!(world.catalog.checks["j"].status, "passing");
    leased(&mut world, false);
    world.run(ttl * 2 + STEP * 3);
    assert!(!world.catalog.checks.contains_key("j"));
    assert!(matches!(world.events.last(), Some((_, Event::Removed(_, Removal::Expired)))));
}

#[test]
fn what_happens_while_consul_is_away_is_written_when_it_is_back() {
    let mut world = World::new(2);
    world.probed(10);
    world.run(INTERVAL * 2);
    world.consul_away = true;
    world.down.insert("i5".into());
    world.run(INTERVAL * 4);
    assert_eq!(world.events, []);
    world.consul_away = false;
    world.run(Duration::from_secs(2));
    assert_eq!(world.status(5), Some("critical"));
    assert_eq!(world.wrote_critical(), 1);
}

#[test]
fn two_that_both_think_they_own_it_do_no_harm() {
    let mut world = World::new(2);
    world.probed(10);
    for replica in &mut world.replicas {
        let me = replica.warden.me.clone();
        replica.warden.members(vec![me], world.now);
    }
    world.run(INTERVAL * 2);
    world.down.insert("i4".into());
    world.run(INTERVAL * 2 + Duration::from_secs(20));
    assert_eq!(world.wrote_critical(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Targets fall and rise, replicas die, Consul goes away: at rest the catalog says what is, and nobody who was always well was ever
    /// called critical.
    #[test]
    fn the_catalog_ends_up_true(
        steps in proptest::collection::vec((0_u8..6, 0_usize..12, 1_u64..40), 1..25),
    ) {
        let mut world = World::new(3);
        world.probed(30);
        world.run(INTERVAL);
        let mut ever_down = BTreeMap::new();
        for (kind, n, seconds) in steps {
            match kind {
                0 | 1 => {
                    // A minority, so that the brake has no part in it.
                    world.down.insert(format!("i{n}"));
                    ever_down.insert(format!("i{n}"), ());
                }
                2 => {
                    world.down.remove(&format!("i{n}"));
                }
                3 => world.consul_away = !world.consul_away,
                4 => {
                    world.replicas[1 + n % 2].alive = false;
                    world.tell_members();
                }
                _ => {}
            }
            world.run(Duration::from_secs(seconds));
        }
        world.consul_away = false;
        world.dirty = true;
        world.run(INTERVAL * 3);
        for (id, check) in world.catalog.checks.iter() {
            prop_assert_eq!(check.status == "critical", world.down.contains(id), "{}", id);
            prop_assert!(check.status == "passing" || ever_down.contains_key(id));
        }
        for (_, event) in &world.events {
            let (Event::Wrote(id, _) | Event::Removed(id, _)) = event;
            prop_assert!(ever_down.contains_key(id), "{} was always well", id);
        }
    }
}
