//! The crate `rs-consul`, as a program of its own (`rust/`).

use std::process::Command;
use std::time::Duration;

use crate::side::{Side, tool};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "has to be built first: cargo xtask conformance"]
async fn rs_consul_on_agent() {
    rs_consul(&Side::agent().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "has to be built first: cargo xtask conformance"]
async fn rs_consul_on_consul() {
    rs_consul(&Side::consul().await);
}

fn rs_consul(side: &Side) {
    let program = tool("clients/rs-consul/debug/rs-consul-client", "the program in tests/conformance/rust");
    let ran = side.run("rs-consul", Command::new(program), Duration::from_secs(60));
    assert!(ran.status.success(), "{}: {}\n{}", side.name, ran.status, ran.output);
    assert_eq!(ran.output, "kv ok\nlocks ok\ncatalog ok\n", "{}", side.name);
}
