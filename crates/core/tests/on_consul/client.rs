//! The typed client, call by call.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::HeaderValue;
use plinth_core::Error;
use plinth_core::consul::wire::{
    AgentServiceRegistration, CatalogDeregistration, SessionBehavior, SessionRequest, TxnOp, TxnResult,
};
use plinth_core::consul::{Client, PutOptions, Read, Settings, watch};
use plinth_testbed::{eventually, holds};

use crate::server::{Server, scenarios};

scenarios!(keys, locks, transactions, blocking, agent_services, errors, headers, saturation, crowded_watches);

async fn keys(server: Server) {
    let kv = server.client().kv();
    let value = Bytes::from_static(b"\x00binary\xff");
    for key in ["plain", "a/b/c", "with blank", "ü/ö", "percent%2Fslash", "q?x=1&y#z", "plus+sign"] {
        let options = PutOptions { flags: u64::MAX, ..PutOptions::default() };
        assert!(kv.put(key, value.clone(), options).await.unwrap(), "{key}");
        let pair = kv.get(key, &Read::default()).await.unwrap().value.expect(key);
        assert_eq!((pair.key.as_str(), &pair.value, pair.flags), (key, &value, u64::MAX));
    }
    let missing = kv.get("missing", &Read::default()).await.unwrap();
    assert!(missing.value.is_none() && missing.index > 0);
    assert!(kv.list("none/", &Read::default()).await.unwrap().value.is_empty());
    let listed = kv.list("a/", &Read::stale()).await.unwrap().value;
    assert_eq!(listed.len(), 1);
    let keys = kv.keys("", Some("/"), &Read::consistent()).await.unwrap().value;
    assert!(keys.contains(&"a/".to_owned()) && keys.contains(&"plain".to_owned()), "{keys:?}");

    let pair = kv.get("plain", &Read::default()).await.unwrap().value.unwrap();
    let cas = |index| PutOptions { cas: Some(index), ..PutOptions::default() };
    assert!(!kv.put("plain", Bytes::new(), cas(0)).await.unwrap());
    assert!(!kv.put("plain", Bytes::new(), cas(pair.modify_index + 1)).await.unwrap());
    assert!(kv.put("plain", Bytes::new(), cas(pair.modify_index)).await.unwrap());
    assert!(kv.get("plain", &Read::default()).await.unwrap().value.unwrap().value.is_empty());
    assert!(!kv.delete("plain", Some(1), false).await.unwrap());
    assert!(kv.delete("", None, true).await.unwrap());
    assert!(kv.keys("", None, &Read::default()).await.unwrap().value.is_empty());
}

async fn locks(server: Server) {
    let client = server.client();
    let request = SessionRequest {
        node_checks: Some(Vec::new()),
        behavior: SessionBehavior::Delete,
        lock_delay: Some(Duration::ZERO),
        ttl: Some(Duration::from_secs(10)),
        ..SessionRequest::default()
    };
    let (one, two) =
        (client.session().create(&request).await.unwrap(), client.session().create(&request).await.unwrap());
    let acquire = |session: &str| PutOptions { acquire: Some(session.to_owned()), ..PutOptions::default() };
    let kv = client.kv();
    assert!(kv.put("lock", Bytes::from_static(b"1"), acquire(&one)).await.unwrap());
    assert!(!kv.put("lock", Bytes::from_static(b"2"), acquire(&two)).await.unwrap());
    assert_eq!(
        kv.get("lock", &Read::default()).await.unwrap().value.unwrap().session.as_deref(),
        Some(one.as_str())
    );
    let renewed = client.session().renew(&one).await.unwrap().unwrap();
    assert_eq!((renewed.ttl, renewed.node_checks.len()), (Some(Duration::from_secs(10)), 0));
    client.session().destroy(&one).await.unwrap();
    assert!(client.session().renew(&one).await.unwrap().is_none());
    assert!(client.session().info(&one, &Read::default()).await.unwrap().value.is_none());
    assert!(kv.get("lock", &Read::default()).await.unwrap().value.is_none());
    assert!(kv.put("lock", Bytes::from_static(b"2"), acquire(&two)).await.unwrap());
    assert_eq!(client.session().list(&Read::default()).await.unwrap().value.len(), 1);
}

async fn transactions(server: Server) {
    let client = server.client();
    let done = client.txn(&[TxnOp::kv_cas("a", Bytes::from_static(b"1"), 0)]).await.unwrap();
    let [TxnResult::KV(pair)] = done.results.as_slice() else { panic!("{done:?}") };
    let index = pair.modify_index;
    let ops = [
        TxnOp::kv_set("b", Bytes::from_static(b"2")),
        TxnOp::kv_cas("a", Bytes::from_static(b"x"), 0),
        TxnOp::kv_get("missing"),
    ];
    let Err(Error::TxnFailed { errors }) = client.txn(&ops).await else { panic!("must be rolled back") };
    assert_eq!(errors.iter().map(|error| error.op_index).collect::<Vec<_>>(), [1, 2]);
    assert!(client.kv().get("b", &Read::default()).await.unwrap().value.is_none());
    client.txn(&[TxnOp::kv_delete_cas("a", index)]).await.unwrap();
    assert!(client.kv().get("a", &Read::default()).await.unwrap().value.is_none());
}

async fn blocking(server: Server) {
    let client = server.client();
    client.kv().put("k", Bytes::from_static(b"1"), PutOptions::default()).await.unwrap();
    let index = client.kv().get("k", &Read::default()).await.unwrap().index;

    let started = Instant::now();
    let unchanged = client.kv().get("k", &Read::after(index, Duration::from_millis(300))).await.unwrap();
    assert_eq!(unchanged.index, index);
    assert!(started.elapsed() >= Duration::from_millis(300));

    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.kv().get("k", &Read::after(index, Duration::from_secs(20))).await }
    });
    eventually("the query blocks", Duration::from_secs(5), || {
        let in_use = client.blocking_in_use();
        async move { holds(in_use == 1, format!("{in_use} in use")) }
    })
    .await;
    client.kv().put("k", Bytes::from_static(b"2"), PutOptions::default()).await.unwrap();
    let woken = waiting.await.unwrap().unwrap();
    assert!(woken.index > index);
    assert_eq!(woken.value.unwrap().value, Bytes::from_static(b"2"));
    assert!(woken.known_leader);
    assert_eq!(client.blocking_in_use(), 0);
}

async fn agent_services(server: Server) {
    let client = server.client();
    let registration = AgentServiceRegistration {
        id: "id with blank/slash".into(),
        name: "web".into(),
        tags: vec!["a".into()],
        address: "127.0.0.1".into(),
        port: 80,
        ..AgentServiceRegistration::default()
    };
    client.agent().register(&registration).await.unwrap();
    assert!(client.agent().services().await.unwrap().contains_key("id with blank/slash"));
    let found = client.health().service("web", true, &["a"], &Read::default()).await.unwrap();
    assert_eq!(found.value[0].service.port, 80);
    assert!(found.index > 0);
    assert!(client.health().service("web", true, &["b"], &Read::default()).await.unwrap().value.is_empty());
    assert_eq!(
        client.catalog().service("web", &[], &Read::default()).await.unwrap().value[0].service_port,
        80
    );
    assert_eq!(client.catalog().services(&Read::default()).await.unwrap().value["web"], ["a"]);
    client.agent().deregister("id with blank/slash").await.unwrap();
    assert!(client.catalog().service("web", &[], &Read::default()).await.unwrap().value.is_empty());

    assert!(client.status().leader().await.unwrap().is_some());
    assert!(!client.agent().self_().await.unwrap().version().is_empty());
    assert!(!client.catalog().nodes(&Read::default()).await.unwrap().value.is_empty());
    assert!(client.catalog().node("none", &Read::default()).await.unwrap().value.is_none());
    let what = CatalogDeregistration { node: "none".into(), ..CatalogDeregistration::default() };
    client.catalog().deregister(&what).await.unwrap();
}

async fn errors(server: Server) {
    let client = server.client();
    let error = client.agent().register(&AgentServiceRegistration::default()).await.unwrap_err();
    assert_eq!(error.status(), Some(400));
    assert!(error.to_string().contains("Missing service name"), "{error}");
    assert!(!error.is_unavailable());
    let elsewhere = Read { dc: Some("nowhere".into()), ..Read::default() };
    let error = client.catalog().nodes(&elsewhere).await.unwrap_err();
    assert_eq!(error.status(), Some(500));
    assert!(error.is_unavailable() && error.to_string().contains("No path to datacenter"), "{error}");
}

async fn headers(server: Server) {
    let (seen, mut calls) = tokio::sync::mpsc::unbounded_channel();
    let client = server.client().with_header_hook(Arc::new(move |headers| {
        headers.insert("traceparent", HeaderValue::from_static("00-0-0-00"));
        seen.send(()).unwrap();
    }));
    client.status().leader().await.unwrap();
    assert!(calls.try_recv().is_ok());
}

async fn saturation(server: Server) {
    let settings = Settings {
        max_blocking: 1,
        // what the second query waits for the only place
        request_timeout: Duration::from_secs(1),
        ..Settings::http(server.addr())
    };
    let client = Client::new(settings).unwrap();
    server.client().kv().put("k", Bytes::new(), PutOptions::default()).await.unwrap();
    let index = server.client().kv().get("k", &Read::default()).await.unwrap().index;
    let read = Read::after(index, Duration::from_secs(20));
    let first = tokio::spawn({
        let (client, read) = (client.clone(), read.clone());
        async move { client.kv().get("k", &read).await }
    });
    eventually("the only place is taken", Duration::from_secs(5), || {
        let in_use = client.blocking_in_use();
        async move { holds(in_use == 1, format!("{in_use} in use")) }
    })
    .await;
    let error = client.kv().get("k", &read).await.unwrap_err();
    assert!(matches!(error, Error::Saturated { limit: 1 }), "{error}");
    // Plain requests pass all the same.
    client.kv().get("k", &Read::default()).await.unwrap();
    first.abort();
}

/// More watches than places: all of them see every change, none reports a failure.
async fn crowded_watches(server: Server) {
    let settings = Settings {
        max_blocking: 1,
        request_timeout: Duration::from_secs(1),
        ..Settings::http(server.addr())
    };
    let client = Client::new(settings).unwrap();
    let follow =
        |key: &'static str| {
            let mut replies = watch(&client, Read::default(), move |client, read| async move {
                client.kv().get(key, &read).await
            });
            let (sender, latest) = tokio::sync::watch::channel(Ok(None));
            tokio::spawn(async move {
                while let Some(reply) = replies.next().await {
                    let seen = reply
                        .map(|reply| reply.value.map(|pair| pair.value))
                        .map_err(|error| error.to_string());
                    let failed = seen.is_err();
                    drop(sender.send_replace(seen));
                    if failed {
                        return;
                    }
                }
            });
            latest
        };
    let mut all = [follow("one"), follow("two"), follow("three")];
    for round in 0..3 {
        let value = Bytes::from(format!("round {round}"));
        for key in ["one", "two", "three"] {
            server.client().kv().put(key, value.clone(), PutOptions::default()).await.unwrap();
        }
        for latest in &mut all {
            let arrived = latest.wait_for(|seen| seen.is_err() || *seen == Ok(Some(value.clone())));
            let seen = tokio::time::timeout(Duration::from_secs(10), arrived)
                .await
                .expect("in time")
                .unwrap()
                .clone();
            assert_eq!(seen, Ok(Some(value.clone())));
        }
    }
}
