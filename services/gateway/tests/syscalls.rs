//! The guard of the data plane's cost that noise cannot touch: system calls per proxied request.
//!
//! Four are needed (read and write on either side). A busy worker shares an `epoll_wait` among many requests (about 0.06
//! each), an idle one needs one for each event. So that the worker is busy whatever else the machine does, everything runs on
//! one processor and the gateway at the lowest priority: it gets the processor when all clients wait, and then finds all of
//! their requests. Connections are set up before counting begins.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/harness.rs"]
mod harness;

use std::process::Command;
use std::time::Duration;

use harness::{Binary, Client, config};
use plinth_testbed::process::Process;
use plinth_testbed::upstream::Upstream;
use plinth_testbed::{eventually, tools};
use rustix::process::Signal;

const CONNECTIONS: usize = 64;
const REQUESTS: usize = 100;
/// The design's bound, waits and background work included.
const MOST: f64 = 4.3;

#[test]
fn a_proxied_request_costs_little_more_than_four_system_calls() {
    on_one_processor();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(measure());
}

/// Confines this process, and with it all that it starts, to one of its processors.
fn on_one_processor() {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap().trim();
    let first = allowed.split([',', '-']).next().unwrap();
    let own = std::process::id().to_string();
    let done = Command::new("taskset").args(["-a", "-p", "-c", first, &own]).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

async fn measure() {
    let upstream = Upstream::start().await;
    let text = config(&[upstream.addr], "").replace("_timeout: 10000", "_timeout: 60000");
    let gateway = Binary::start_nice(&text, &["--workers", "1", "--config-poll", "1h"]).await;
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        clients.push(Client::connect(gateway.proxy).await);
    }
    let clients = drive(clients, 20).await;

    let folder = tempfile::tempdir().unwrap();
    let counts = folder.path().join("counts");
    let mut strace = attach(gateway.process.id(), &counts, folder.path()).await;
    drive(clients, REQUESTS).await;
    strace.signal(Signal::INT);
    strace.wait(Duration::from_secs(20));

    let table = std::fs::read_to_string(&counts).unwrap();
    let all = table.lines().filter_map(calls).sum::<u64>() as f64 / (CONNECTIONS * REQUESTS) as f64;
    assert!(all >= 4.0, "{all:.3} system calls per request: not all of them were counted\n{table}");
    assert!(all <= MOST, "{all:.3} system calls per request, at most {MOST} are allowed\n{table}");
    println!("{all:.3} system calls per request\n{table}");
}

/// Every client sends `rounds` requests, all clients at once.
async fn drive(clients: Vec<Client>, rounds: usize) -> Vec<Client> {
    let running: Vec<_> = clients
        .into_iter()
        .map(|mut client| {
            tokio::spawn(async move {
                for _ in 0..rounds {
                    assert_eq!(client.get("/").await.unwrap().0, 200);
                }
                client
            })
        })
        .collect();
    let mut clients = Vec::with_capacity(running.len());
    for client in running {
        clients.push(client.await.unwrap());
    }
    clients
}

/// strace counting the calls of all threads of `process`. Where tracing is forbidden the test fails: a guard that
/// skips guards nothing.
async fn attach(process: u32, counts: &std::path::Path, folder: &std::path::Path) -> Process {
    let program = tools::program("strace", "PLINTH_TEST_STRACE_BIN", &[], "the package strace");
    let mut command = Command::new(program);
    command.args(["-f", "-c", "-o"]).arg(counts).args(["-p", &process.to_string()]);
    let mut strace = Process::spawn("strace", command, folder);
    eventually("strace attaches to the gateway", Duration::from_secs(20), || {
        let (output, exited) = (strace.output(), strace.exited());
        assert!(
            exited.is_none(),
            "strace cannot trace the gateway, so system calls cannot be counted here. It needs ptrace: the same \
             user, no Yama restriction (kernel.yama.ptrace_scope = 0 or root), in a container CAP_SYS_PTRACE. It said:\n{output}"
        );
        async move { plinth_testbed::holds(output.contains("attached"), output) }
    })
    .await;
    strace
}

/// Calls in a line of strace's table: `% time, seconds, usecs/call, calls, [errors], syscall`.
fn calls(line: &str) -> Option<u64> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    fields.first()?.parse::<f64>().ok()?;
    if fields.last() == Some(&"total") { None } else { fields.get(3)?.parse().ok() }
}
