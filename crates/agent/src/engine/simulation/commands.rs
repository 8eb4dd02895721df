//! Random commands of every kind over few names, so that they meet.

use fastrand::Rng;

use crate::state::State;
use crate::state::command::{Command, DeleteMode, Registration, SetMode, Target, TxnOp};
use crate::state::model::{Behavior, Check, Node, Service, Session};

const KEYS: [&str; 5] = ["a", "a/b", "a/c", "b", "c"];
const SESSIONS: [&str; 3] = ["s1", "s2", "s3"];
const NODES: [&str; 2] = ["n1", "n2"];

fn pick(random: &mut Rng, words: &[&str]) -> String {
    words[random.usize(0..words.len())].to_owned()
}

/// Mostly small; some go over several sectors.
fn value(random: &mut Rng) -> bytes::Bytes {
    let length = if random.u8(0..8) == 0 { random.usize(0..2000) } else { random.usize(0..40) };
    (0..length).map(|_| random.u8(..)).collect::<Vec<_>>().into()
}

fn register(random: &mut Rng) -> Command {
    let node = pick(random, &NODES);
    let id = pick(random, &["i1", "i2"]);
    let service = Service {
        service: pick(random, &["web", "db"]),
        id: id.clone(),
        port: random.i64(0..3),
        ..Service::default()
    };
    let check = Check {
        node: node.clone(),
        check_id: pick(random, &["c1", "c2"]),
        status: pick(random, &["passing", "critical"]),
        service_id: if random.bool() { id } else { String::new() },
        ..Check::default()
    };
    Command::Register(Box::new(Registration {
        node: Node { node, address: "10.0.0.1".to_owned(), ..Node::default() },
        skip_node_update: random.bool(),
        service: Some(service),
        checks: if random.bool() { vec![check] } else { Vec::new() },
    }))
}

fn session(random: &mut Rng) -> Command {
    let id = pick(random, &SESSIONS);
    if random.u8(0..3) == 0 {
        return Command::SessionDestroy { id, expired: random.bool() };
    }
    Command::SessionCreate(Box::new(Session {
        id,
        node: pick(random, &NODES),
        behavior: if random.bool() { Behavior::Delete } else { Behavior::Release },
        lock_delay: random.u64(0..2) * 1_000_000_000,
        ..Session::default()
    }))
}

fn txn(random: &mut Rng) -> Command {
    let count = random.usize(1..4);
    let ops = (0..count).map(|_| TxnOp::Kv {
        verb: pick(random, &["set", "set", "set", "cas", "delete", "lock", "check-not-exists"]),
        key: pick(random, &KEYS),
        value: value(random),
        flags: 0,
        index: random.u64(0..20),
        session: pick(random, &SESSIONS),
    });
    Command::Txn(ops.collect())
}

/// Another state, mostly smaller than the one it takes the place of.
fn restore(random: &mut Rng) -> Command {
    let mut state = State::default();
    for at in 0..random.u64(0..4) {
        let command = if random.bool() { register(random) } else { txn(random) };
        // a refusal leaves the state as it was
        let _ = state.apply(&command, at).outcome;
    }
    Command::Restore(state.records().collect())
}

pub fn command(random: &mut Rng) -> Command {
    match random.u8(0..17) {
        0..7 => {
            let mode = match random.u8(0..6) {
                0 => SetMode::Cas(random.u64(0..20)),
                1 => SetMode::Acquire(pick(random, &SESSIONS)),
                2 => SetMode::Release(pick(random, &SESSIONS)),
                _ => SetMode::Plain,
            };
            Command::KvSet { key: pick(random, &KEYS), value: value(random), flags: random.u64(0..2), mode }
        }
        7 => Command::KvDelete { key: pick(random, &KEYS), mode: DeleteMode::One },
        8 => Command::KvDelete { key: pick(random, &KEYS), mode: DeleteMode::Prefix },
        9..12 => register(random),
        12 => Command::Deregister { node: pick(random, &NODES), target: Target::Node },
        13 => session(random),
        14 => restore(random),
        _ => txn(random),
    }
}
