//! The npm package `consul`: `node/client.cjs` uses every part of it.

use std::process::Command;
use std::time::Duration;

use crate::side::{Side, on_both, script, tool};

on_both!(npm_consul);

async fn npm_consul(side: &Side) {
    let mut node = Command::new("node");
    node.arg(script("node/client.cjs")).env("CONSUL_PACKAGE", tool("clients/node", "the npm package consul"));
    let ran = side.run("node", node, Duration::from_secs(60));
    assert!(ran.status.success(), "{}: {}\n{}", side.name, ran.status, ran.output);
    assert_eq!(ran.output.matches(" ok\n").count(), 10, "{}: {}", side.name, ran.output);
}
