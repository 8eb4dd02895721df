//! How long a start from disk takes with many instances, registered as Plinth's registrar does: one transaction each, with
//! the document, a node, a service and a check.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use plinth_agent::state::command::{Command, TxnOp};
use plinth_agent::state::model::{Check, Definition, Node, Service};
use plinth_agent::state::State;
use plinth_agent::storage::disk::RealDisk;
use plinth_agent::storage::{Entry, Folder, frame};

use crate::Fault;

const SERVICES: u64 = 2_000;
/// Instances of one group commit.
const TOGETHER: u64 = 64;
/// As the agent's.
const COMPACT_AFTER: u64 = 64 << 20;

fn register(n: u64) -> Command {
    let (name, id) = (format!("service-{}", n % SERVICES), format!("service-{}-{n}", n % SERVICES));
    let node = format!("plinth-{id}");
    let document = format!(
        r#"{{"service_name":"{name}","service_id":"{id}","address":"10.{}.{}.{}","port":8080,"tags":["v1","blue"],"metadata":{{"zone":"a","team":"payments","version":"1.4.2"}},"health_check":{{"type":"http","path":"/health","interval":"10s","timeout":"5s"}},"registered_at":"2026-11-25T20:00:00Z"}}"#,
        n >> 16 & 255, n >> 8 & 255, n & 255
    );
    let pairs = |pairs: &[(&str, &str)]| Some(pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect());
    let address = format!("10.{}.{}.{}", n >> 16 & 255, n >> 8 & 255, n & 255);
    let set = || "set".to_owned();
    Command::Txn(vec![
        TxnOp::Kv { verb: "cas".to_owned(), key: format!("plinth/instances/{id}"), value: document.into(), flags: 0, index: 0, session: String::new() },
        TxnOp::Node {
            verb: set(),
            node: Box::new(Node { node: node.clone(), address: address.clone(), datacenter: "dc1".to_owned(), meta: pairs(&[("plinth", "true")]), ..Node::default() }),
        },
        TxnOp::Service {
            verb: set(),
            node: node.clone(),
            service: Box::new(Service {
                id: id.clone(), service: name, tags: Some(vec!["v1".to_owned(), "blue".to_owned()]), address: address.clone(), port: 8080,
                meta: pairs(&[("zone", "a"), ("team", "payments"), ("version", "1.4.2")]), ..Service::default()
            }),
        },
        TxnOp::Check {
            verb: set(),
            check: Box::new(Check {
                node, check_id: format!("service:{id}"), name: "health".to_owned(), status: "passing".to_owned(), service_id: id,
                definition: Definition { interval: "10s".to_owned(), timeout: "5s".to_owned(), http: format!("http://{address}:8080/health"), ..Definition::default() },
                ..Check::default()
            }),
        },
    ])
}

fn open(dir: &Path) -> Result<(Folder, State, Duration), Fault> {
    let begun = Instant::now();
    let (folder, state) = Folder::open(Arc::new(RealDisk), dir)?;
    Ok((folder, state, begun.elapsed()))
}

fn size(dir: &Path) -> Result<u64, Fault> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir)? {
        bytes += entry?.metadata()?.len();
    }
    Ok(bytes >> 20)
}

/// Resident memory in MiB.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4 / 1024
}

pub fn run(place: &str, instances: u64) -> Result<(), Fault> {
    let dir = tempfile::tempdir_in(place)?;
    let dir = dir.path();
    let (mut folder, mut state, _) = open(dir)?;
    let (mut bytes, mut snapshots) = (Vec::new(), 0);
    for first in (0..instances).step_by(TOGETHER as usize) {
        bytes.clear();
        let start = frame::begin(&mut bytes);
        for n in first..instances.min(first + TOGETHER) {
            let command = register(n);
            let at = 1_700_000_000_000 + n;
            state.apply(&command, at).outcome?;
            frame::push(&mut bytes, &Entry { index: state.index(), at, command: &command })?;
        }
        frame::finish(&mut bytes, start);
        folder.append(&bytes)?;
        if folder.log_length() >= COMPACT_AFTER {
            folder.rotate()?.write(&state)?;
            snapshots += 1;
        }
    }
    drop((folder, state));
    println!("{instances} instances, {snapshots} snapshots taken on the way");
    println!("| folder | MiB | start s | resident MiB after |");
    println!("|---|---:|---:|---:|");
    let (mut folder, state, took) = open(dir)?;
    println!("| as the agent left it (snapshot and log) | {} | {:.2} | {} |", size(dir)?, took.as_secs_f64(), resident());
    folder.rotate()?.write(&state)?;
    drop((folder, state));
    let (_folder, state, took) = open(dir)?;
    println!("| a snapshot | {} | {:.2} | {} |", size(dir)?, took.as_secs_f64(), resident());
    assert_eq!(state.nodes().count() as u64, instances);
    Ok(())
}
