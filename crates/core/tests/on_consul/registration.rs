//! Registration as design section 3 wants it.

use std::time::Duration;

use plinth_core::Error;
use plinth_core::consul::wire::{CheckOp, NodeVerb, TxnOp};
use plinth_core::consul::{Client, Read};
use plinth_core::registration::{
    CheckSpec, Owner, Registrar, Registration, Status, check_id, instance_key, lease_key, node_name,
};
use plinth_testbed::eventually;
use serde_json::json;

use crate::server::{Server, metadata, scenarios, web};

scenarios!(
    life,
    race_of_two_owners,
    race_of_many_writers,
    the_same_again_wakes_nobody,
    an_update_keeps_the_status,
    metadata_changes_wake_watchers,
    odd_ids,
    deregistration_rules,
    leases,
    an_expired_lease_is_noticed,
);

async fn status(client: &Client, id: &str) -> String {
    let checks = client.health().node(&node_name(id), &Read::default()).await.unwrap().value;
    checks.iter().find(|check| check.check_id == check_id(id)).expect("the check").status.clone()
}

async fn life(server: Server) {
    let client = server.client();
    let registrar = Registrar::new(client.clone());
    let registration = Registration {
        tags: vec!["a".into(), "b".into()],
        metadata: metadata(json!({"version": "1.0", "nested": {"x": [1, 2]}})),
        weight: 5,
        ..web("web-1")
    };
    let registered = registrar.register(&registration, &Owner::new("me"), Status::Critical).await.unwrap();
    assert!(registered.created && registered.index > 0 && registered.document_index > 0);

    let entries = client.health().service("web", false, &["a", "b"], &Read::default()).await.unwrap();
    assert!(entries.index >= registered.index);
    let entry = &entries.value[0];
    assert_eq!((entry.node.name.as_str(), entry.node.meta["plinth"].as_str()), ("plinth-web-1", "true"));
    assert_eq!((entry.service.address.as_str(), entry.service.port), ("127.0.0.1", 8001));
    assert_eq!(entry.service.weights.passing, 5);
    assert_eq!(entry.service.meta["version"], "1.0");
    assert!(!entry.service.meta.contains_key("nested"));
    let check = &entry.checks[0];
    assert_eq!((check.check_id.as_str(), check.status.as_str()), ("service:web-1", "critical"));
    assert_eq!(check.definition.http, "http://127.0.0.1:8001/health");
    assert_eq!(check.definition.interval, Some(Duration::from_secs(10)));
    assert_eq!(check.definition.deregister_critical_service_after, Some(Duration::from_secs(30)));

    let (document, index) = registrar.get("web-1").await.unwrap().unwrap();
    assert_eq!((&document.registration, index), (&registration, registered.document_index));
    assert_eq!(registrar.list().await.unwrap().len(), 1);

    let gone = registrar.deregister("web-1", Some(&Owner::new("me"))).await.unwrap().expect("an index");
    assert!(gone > registered.index);
    let after = client.health().service("web", false, &[], &Read::default()).await.unwrap();
    assert!(after.value.is_empty() && after.index >= gone);
    assert!(client.catalog().node("plinth-web-1", &Read::default()).await.unwrap().value.is_none());
    assert!(registrar.get("web-1").await.unwrap().is_none());
    assert!(registrar.deregister("web-1", None).await.unwrap().is_none());
}

async fn race_of_two_owners(server: Server) {
    let registrar = Registrar::new(server.client());
    for round in 0..20 {
        let id = format!("raced-{round}");
        let race = |owner: &'static str, port: u16| {
            let (registrar, registration) = (registrar.clone(), Registration { port, ..web(&id) });
            tokio::spawn(async move {
                registrar.register(&registration, &Owner::new(owner), Status::Critical).await
            })
        };
        let (one, two) = (race("one", 1001), race("two", 1002));
        let results = [one.await.unwrap(), two.await.unwrap()];
        let winners = results.iter().filter(|result| result.is_ok()).count();
        assert_eq!(winners, 1, "{results:?}");
        let holder = registrar.get(&id).await.unwrap().unwrap().0;
        for result in &results {
            match result {
                Ok(won) => assert_eq!(won.document, holder),
                Err(Error::OwnedByAnother { owner, .. }) => assert_eq!(owner, &holder.owner),
                Err(other) => panic!("{other}"),
            }
        }
        let entries = registrar.client().catalog().service("web", &[], &Read::default()).await.unwrap().value;
        let port = entries.iter().find(|entry| entry.service_id == id).unwrap().service_port;
        assert_eq!(port, holder.registration.port, "catalog and document are of one hand");
    }
}

async fn race_of_many_writers(server: Server) {
    let registrar = Registrar::new(server.client());
    let writers: Vec<_> = (0..8u16)
        .map(|writer| {
            let registrar = registrar.clone();
            let registration = Registration { port: 2000 + writer, ..web("shared") };
            tokio::spawn(async move {
                registrar.register(&registration, &Owner::new("one"), Status::Critical).await
            })
        })
        .collect();
    let mut created = 0;
    for writer in writers {
        created += usize::from(writer.await.unwrap().unwrap().created);
    }
    assert_eq!(created, 1, "all writers of one owner succeed and one of them was the first");
    let holder = registrar.get("shared").await.unwrap().unwrap().0;
    let entry = &registrar.client().catalog().service("web", &[], &Read::default()).await.unwrap().value[0];
    assert_eq!(entry.service_port, holder.registration.port);
}

async fn the_same_again_wakes_nobody(server: Server) {
    let client = server.client();
    let registrar = Registrar::new(client.clone());
    let owner = Owner::new("me");
    let first = registrar.register(&web("web-1"), &owner, Status::Critical).await.unwrap();
    let before = client.health().service("web", false, &[], &Read::default()).await.unwrap().index;
    let second = registrar.register(&web("web-1"), &owner, Status::Critical).await.unwrap();
    assert!(!second.created);
    assert_eq!((second.index, second.document_index), (first.index, first.document_index));
    assert_eq!(second.document, first.document);
    let after = client.health().service("web", false, &[], &Read::default()).await.unwrap().index;
    assert_eq!(after, before);
}

async fn set_status(client: &Client, id: &str, status: &str) {
    let checks = client.health().node(&node_name(id), &Read::default()).await.unwrap().value;
    let mut check = checks.into_iter().find(|check| check.check_id == check_id(id)).unwrap();
    check.status = status.into();
    client.txn(&[TxnOp::Check(CheckOp { verb: NodeVerb::Cas, check })]).await.unwrap();
}

async fn an_update_keeps_the_status(server: Server) {
    let client = server.client();
    let registrar = Registrar::new(client.clone());
    let owner = Owner::new("me");
    registrar.register(&web("web-1"), &owner, Status::Critical).await.unwrap();
    assert_eq!(status(&client, "web-1").await, "critical");
    set_status(&client, "web-1", "passing").await;
    let changed = Registration { port: 9001, ..web("web-1") };
    registrar.register(&changed, &owner, Status::Critical).await.unwrap();
    assert_eq!(status(&client, "web-1").await, "passing");
    let entry = &client.health().service("web", true, &[], &Read::default()).await.unwrap().value[0];
    assert_eq!(
        (entry.service.port, entry.checks[0].definition.http.as_str()),
        (9001, "http://127.0.0.1:9001/health")
    );
}

async fn metadata_changes_wake_watchers(server: Server) {
    let client = server.client();
    let registrar = Registrar::new(client.clone());
    let owner = Owner::new("me");
    let with = |value| Registration { metadata: metadata(value), ..web("web-1") };
    registrar.register(&with(json!({"deep": {"a": 1}})), &owner, Status::Critical).await.unwrap();
    let before = client.health().service("web", false, &[], &Read::default()).await.unwrap().index;
    let again = registrar.register(&with(json!({"deep": {"a": 2}})), &owner, Status::Critical).await.unwrap();
    assert!(again.index > before);
    let after = client.health().service("web", false, &[], &Read::default()).await.unwrap().index;
    assert_eq!(after, again.index);
}

async fn odd_ids(server: Server) {
    let client = server.client();
    let registrar = Registrar::new(client.clone());
    let owner = Owner::new("me");
    for id in ["host:8001", "a/b/c", "with blank", "ünïcode", "per%cent%2F", "q?a=b&c#d", "plus+"] {
        let registration = Registration { ttl: Some(Duration::from_secs(60)), ..web(id) };
        registrar.register(&registration, &owner, Status::Critical).await.unwrap();
        assert_eq!(registrar.get(id).await.unwrap().expect(id).0.registration.service_id, id);
        registrar.heartbeat(id, Some(&owner)).await.unwrap();
        assert_eq!(status(&client, id).await, "passing", "{id}");
        assert!(registrar.deregister(id, Some(&owner)).await.unwrap().is_some(), "{id}");
    }
    assert!(registrar.leases(&Read::default()).await.unwrap().value.is_empty());
    for id in ["", "a//b", "../x"] {
        let error = registrar.register(&web(id), &owner, Status::Critical).await.unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
    }
}

async fn deregistration_rules(server: Server) {
    let client = server.client();
    let registrar = Registrar::new(client.clone());
    let (old, new) = (Owner::process("me"), Owner::process("me"));
    registrar.register(&web("web-1"), &old, Status::Passing).await.unwrap();
    registrar.register(&web("web-1"), &new, Status::Passing).await.unwrap();
    let refused = registrar.deregister("web-1", Some(&old)).await;
    assert!(matches!(refused, Err(Error::Superseded { .. })), "{refused:?}");
    let refused = registrar.deregister("web-1", Some(&Owner::new("you"))).await;
    assert!(matches!(refused, Err(Error::OwnedByAnother { .. })), "{refused:?}");
    assert_eq!(status(&client, "web-1").await, "passing");

    // A node whose document somebody deleted by hand can still be removed.
    client.kv().delete(&instance_key("web-1"), None, false).await.unwrap();
    assert!(registrar.deregister("web-1", Some(&new)).await.unwrap().is_some());
    assert!(client.catalog().node(&node_name("web-1"), &Read::default()).await.unwrap().value.is_none());
}

async fn leases(server: Server) {
    let client = server.client();
    let registrar = Registrar::new(client.clone());
    let owner = Owner::new("me");
    let with_ttl = |seconds| Registration {
        check: CheckSpec::Ttl { ttl: Duration::from_secs(seconds) },
        ..web("web-1")
    };
    registrar.register(&with_ttl(60), &owner, Status::Critical).await.unwrap();
    assert_eq!(status(&client, "web-1").await, "passing");
    let beat = registrar.heartbeat("web-1", Some(&owner)).await.unwrap();
    assert_eq!(beat.ttl, Duration::from_secs(60));
    let session = async || {
        client
            .kv()
            .get(&lease_key("web-1"), &Read::default())
            .await
            .unwrap()
            .value
            .and_then(|pair| pair.session)
    };
    let first = session().await.unwrap();

    // The same TTL keeps the lease, another makes a new one, and none ends it.
    registrar.register(&with_ttl(60), &owner, Status::Critical).await.unwrap();
    assert_eq!(session().await.unwrap(), first);
    registrar.register(&with_ttl(30), &owner, Status::Critical).await.unwrap();
    assert_ne!(session().await.unwrap(), first);
    assert_eq!(registrar.leases(&Read::default()).await.unwrap().value.len(), 1);
    registrar.register(&web("web-1"), &owner, Status::Critical).await.unwrap();
    assert!(session().await.is_none());
    let error = registrar.heartbeat("web-1", Some(&owner)).await.unwrap_err();
    assert!(matches!(error, Error::NoLease { .. }), "{error}");

    let error = registrar.heartbeat("web-1", Some(&Owner::new("you"))).await.unwrap_err();
    assert!(matches!(error, Error::OwnedByAnother { .. }), "{error}");
    let error = registrar.heartbeat("nobody", None).await.unwrap_err();
    assert!(matches!(error, Error::NotRegistered { .. }), "{error}");

    // Deregistration takes the lease along.
    registrar.register(&with_ttl(10), &owner, Status::Critical).await.unwrap();
    registrar.deregister("web-1", None).await.unwrap();
    assert!(session().await.is_none());
    assert!(client.session().list(&Read::default()).await.unwrap().value.is_empty());
}

async fn an_expired_lease_is_noticed(server: Server) {
    let client = server.client();
    let registrar = Registrar::new(client.clone());
    let registration = Registration { ttl: Some(Duration::from_secs(10)), ..web("web-1") };
    registrar.register(&registration, &Owner::new("me"), Status::Critical).await.unwrap();
    eventually("Consul ends the session after at most twice its TTL", Duration::from_secs(25), || async {
        let held = registrar.leases(&Read::default()).await.unwrap().value;
        if held.is_empty() { Ok(()) } else { Err(format!("{held:?}")) }
    })
    .await;
    let error = registrar.heartbeat("web-1", None).await.unwrap_err();
    assert!(matches!(error, Error::LeaseLost { .. }), "{error}");
    registrar.register(&registration, &Owner::new("me"), Status::Critical).await.unwrap();
    registrar.heartbeat("web-1", None).await.unwrap();
}
