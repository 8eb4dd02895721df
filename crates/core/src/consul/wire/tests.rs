use std::time::Duration;

use bytes::Bytes;
use serde_json::json;

use super::{
    CheckDefinition, HealthCheck, KvPair, KvVerb, Node, NodeVerb, ServiceEntry, SessionBehavior,
    SessionRequest, TxnAnswer, TxnOp, TxnResult,
};

#[test]
fn nulls_read_as_empty() {
    let entry: ServiceEntry = serde_json::from_value(json!({
        "Node": {"ID": null, "Node": "n", "Address": "10.0.0.1", "Meta": null, "TaggedAddresses": null},
        "Service": {"ID": "a", "Service": "web", "Tags": null, "Meta": null, "Weights": null, "Future": {"x": 1}},
        "Checks": null,
    }))
    .unwrap();
    assert_eq!(entry.node.name, "n");
    assert!(entry.service.tags.is_empty() && entry.checks.is_empty());
    assert_eq!(entry.service.weights.passing, 1);
}

#[test]
fn a_transaction_looks_as_consul_1_8_wants_it() {
    let check = HealthCheck {
        node: "plinth-a".into(),
        check_id: "service:a".into(),
        status: "passing".into(),
        definition: CheckDefinition {
            http: "http://127.0.0.1/".into(),
            interval: Some(Duration::from_secs(10)),
            ..CheckDefinition::default()
        },
        ..HealthCheck::default()
    };
    let ops = [
        TxnOp::kv_cas("k", Bytes::from_static(b"v"), 7),
        TxnOp::node(NodeVerb::Delete, Node { name: "plinth-a".into(), ..Node::default() }),
        TxnOp::check(NodeVerb::Cas, check),
    ];
    let wire = serde_json::to_value(&ops).unwrap();
    assert_eq!(wire[0], json!({"KV": {"Verb": "cas", "Key": "k", "Value": "dg==", "Index": 7}}));
    assert_eq!(wire[1], json!({"Node": {"Verb": "delete", "Node": {"Node": "plinth-a", "Address": ""}}}));
    assert_eq!(
        wire[2]["Check"]["Check"]["Definition"],
        json!({"HTTP": "http://127.0.0.1/", "Interval": "10s"})
    );
    assert_eq!(serde_json::to_value(KvVerb::CheckNotExists).unwrap(), json!("check-not-exists"));
}

#[test]
fn a_transaction_answer_reads_back() {
    let answer: TxnAnswer = serde_json::from_value(json!({
        "Results": [{"KV": {"LockIndex": 0, "Key": "k", "Flags": 18446744073709551615u64, "Value": null,
                            "CreateIndex": 8, "ModifyIndex": 9}}],
        "Errors": null, "Index": 0, "KnownLeader": true,
    }))
    .unwrap();
    let [TxnResult::KV(pair)] = answer.results.as_slice() else { panic!("{answer:?}") };
    assert_eq!((pair.flags, pair.modify_index), (u64::MAX, 9));
}

#[test]
fn values_are_base64_both_ways() {
    let pair = KvPair { key: "k".into(), value: Bytes::from_static(&[0, 255, 10]), ..KvPair::default() };
    let wire = serde_json::to_value(&pair).unwrap();
    assert_eq!(wire["Value"], "AP8K");
    assert_eq!(serde_json::from_value::<KvPair>(wire).unwrap(), pair);
}

#[test]
fn a_zero_lock_delay_is_sent() {
    let request = SessionRequest {
        node_checks: Some(Vec::new()),
        behavior: SessionBehavior::Delete,
        lock_delay: Some(Duration::ZERO),
        ttl: Some(Duration::from_secs(10)),
        ..SessionRequest::default()
    };
    assert_eq!(
        serde_json::to_value(&request).unwrap(),
        json!({"NodeChecks": [], "Behavior": "delete", "LockDelay": "0s", "TTL": "10s"})
    );
}
