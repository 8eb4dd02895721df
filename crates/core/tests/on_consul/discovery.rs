//! Discovery: snapshots, reads after writes, idle ends, bounds.

use std::time::{Duration, Instant};

use plinth_core::consul::wire::AgentServiceRegistration;
use plinth_core::discovery::{Discovery, DiscoveryError, DiscoverySettings};
use plinth_core::registration::{Owner, Registrar, Registration, Status};
use plinth_testbed::{eventually, holds};
use serde_json::json;
use tokio::runtime::Handle;

use crate::server::{Server, metadata, scenarios, web};

scenarios!(
    snapshots,
    reads_after_writes,
    foreign_services,
    subscriptions,
    idle_watches_end,
    swept_services,
    many_documents
);

const SOON: Duration = Duration::from_secs(5);

fn start(server: &Server, settings: DiscoverySettings) -> Discovery {
    Discovery::start(server.client(), settings, &Handle::current())
}

async fn snapshots(server: Server) {
    let registrar = Registrar::new(server.client());
    let discovery = start(&server, DiscoverySettings::default());
    eventually("the list of names is there", SOON, || async {
        holds(discovery.services().is_some(), format!("{:?}", discovery.status()))
    })
    .await;
    let unknown = discovery.service("web").await.unwrap_err();
    assert_eq!(unknown, DiscoveryError::Unknown { name: "web".into() });
    assert_eq!(discovery.status().watches, 0, "unknown names open no watch");

    let details = json!({"deep": {"list": [1, 2.5, null]}, "number": 7});
    let registration = Registration {
        metadata: metadata(details.clone()),
        weight: 3,
        tags: vec!["t".into()],
        ..web("web-1")
    };
    let registered = registrar.register(&registration, &Owner::new("me"), Status::Warning).await.unwrap();
    let snapshot = discovery.service_at("web", registered.index, SOON).await.unwrap();
    let instance = &snapshot.instances[0];
    assert_eq!(json!(instance.metadata), details);
    assert_eq!((instance.status, instance.weight, instance.plinth), (Status::Warning, 3, true));
    assert_eq!((instance.address.as_str(), instance.port), ("127.0.0.1", 8001));
    assert!(instance.last_check.is_some());
    assert!(discovery.services().unwrap().names.contains_key("web"));
    assert!(discovery.try_service("web").is_some());

    // Only the metadata changes, and only deep inside.
    let changed =
        Registration { metadata: metadata(json!({"deep": {"list": [9]}, "number": 7})), ..registration };
    let index = registrar.register(&changed, &Owner::new("me"), Status::Warning).await.unwrap().index;
    let snapshot = discovery.service_at("web", index, SOON).await.unwrap();
    assert_eq!(json!(snapshot.instances[0].metadata["deep"]), json!({"list": [9]}));

    let index = registrar.deregister("web-1", None).await.unwrap().unwrap();
    let gone = discovery.service_at("web", index, SOON).await.unwrap_err();
    assert_eq!(gone, DiscoveryError::Unknown { name: "web".into() });
}

/// Killed hard and started again with its id: the newcomer is discoverable within 300 ms.
async fn reads_after_writes(server: Server) {
    let registrar = Registrar::new(server.client());
    let discovery = start(&server, DiscoverySettings::default());
    let replica = start(&server, DiscoverySettings::default());
    let mut fastest = Duration::MAX;
    for port in 9001..9021 {
        let started = Instant::now();
        let registration = Registration { port, ..web("web-1") };
        let owner = Owner::process("web");
        let index = registrar.register(&registration, &owner, Status::Passing).await.unwrap().index;
        for reader in [&discovery, &replica] {
            let snapshot = reader.service_at("web", index, SOON).await.unwrap();
            assert_eq!(snapshot.passing().map(|instance| instance.port).collect::<Vec<_>>(), [port]);
        }
        fastest = fastest.min(started.elapsed());
    }
    // Reading one's write holds in every round. The bar holds for the fastest: a busy machine delays some of them, a lost
    // wake-up or a poll instead of a watch would delay all.
    assert!(fastest < Duration::from_millis(300), "the fastest of 20 took {fastest:?}");
}

async fn foreign_services(server: Server) {
    let discovery = start(&server, DiscoverySettings::default());
    let mut registration =
        AgentServiceRegistration { name: "foreign".into(), port: 99, ..AgentServiceRegistration::default() };
    registration.meta.insert("plinth_doc".into(), "0123456789abcdef".into());
    registration.meta.insert("zone".into(), "b".into());
    server.client().agent().register(&registration).await.unwrap();
    let instance = eventually("the agent's service is found", SOON, || async {
        discovery.service("foreign").await.map(|snapshot| snapshot.instances[0].clone())
    })
    .await;
    assert!(!instance.plinth && instance.status == Status::Passing);
    assert_eq!(json!(instance.metadata), json!({"zone": "b"}));
    assert!(!instance.address.is_empty(), "the node's address stands in");
}

async fn subscriptions(server: Server) {
    let registrar = Registrar::new(server.client());
    let discovery =
        start(&server, DiscoverySettings { idle: Duration::ZERO, ..DiscoverySettings::default() });
    let mut subscription = discovery.subscribe("web");
    let empty = tokio::time::timeout(SOON, subscription.changed()).await.unwrap();
    assert!(empty.instances.is_empty(), "a service that is not there yet can be subscribed to");
    for round in 1..=5u16 {
        let registration = Registration { port: round, ..web(&format!("web-{round}")) };
        registrar.register(&registration, &Owner::new("me"), Status::Passing).await.unwrap();
        tokio::time::timeout(SOON, async {
            while subscription.changed().await.instances.len() != usize::from(round) {}
        })
        .await
        .expect("the change arrives");
    }
    let ids: Vec<_> = subscription.borrow().unwrap().instances.iter().map(|i| i.service_id.clone()).collect();
    assert_eq!(ids, ["web-1", "web-2", "web-3", "web-4", "web-5"]);
}

async fn idle_watches_end(server: Server) {
    let registrar = Registrar::new(server.client());
    let index = registrar.register(&web("web-1"), &Owner::new("me"), Status::Passing).await.unwrap().index;
    let discovery =
        start(&server, DiscoverySettings { idle: Duration::from_millis(50), ..DiscoverySettings::default() });
    let held = discovery.subscribe("web");
    discovery.service_at("web", index, SOON).await.unwrap();
    let watches = |wanted: usize| {
        let discovery = discovery.clone();
        async move {
            eventually("the number of watches", SOON, || {
                let found = discovery.status().watches;
                async move { holds(found == wanted, format!("{found}")) }
            })
            .await;
        }
    };
    watches(1).await;
    drop(held);
    watches(0).await;
    let again = discovery.service_at("web", index, SOON).await.unwrap();
    assert_eq!(again.instances.len(), 1, "asking opens it again");
    watches(1).await;
}

async fn swept_services(server: Server) {
    let registrar = Registrar::new(server.client());
    let settings = DiscoverySettings {
        max_watches: 1,
        sweep_interval: Duration::from_millis(200),
        ..DiscoverySettings::default()
    };
    let discovery = start(&server, settings);
    let (first, mut second) = (discovery.subscribe("first"), discovery.subscribe("second"));
    eventually("both are known", SOON, || async {
        let known = first.borrow().is_some() && second.borrow().is_some();
        holds(known, format!("{:?}", discovery.status()))
    })
    .await;
    let status = discovery.status();
    assert_eq!((status.watches, status.swept), (1, 1));

    let registration = Registration { service_name: "second".into(), ..web("s-1") };
    let index = registrar.register(&registration, &Owner::new("me"), Status::Passing).await.unwrap().index;
    // A reader that must see this write gets it read at once.
    let snapshot = discovery.service_at("second", index, SOON).await.unwrap();
    assert_eq!(snapshot.instances.len(), 1);
    tokio::time::timeout(SOON, async { while second.changed().await.instances.is_empty() {} }).await.unwrap();
}

/// More documents than go into one transaction, one of them missing.
async fn many_documents(server: Server) {
    let client = server.client();
    let registrar = Registrar::new(client.clone());
    let mut index = 0;
    for n in 0..70 {
        let registration =
            Registration { metadata: metadata(json!({"n": {"value": n}})), ..web(&format!("web-{n:02}")) };
        index = registrar.register(&registration, &Owner::new("me"), Status::Passing).await.unwrap().index;
    }
    client.kv().delete("plinth/instances/web-03", None, false).await.unwrap();
    let discovery = start(&server, DiscoverySettings::default());
    let snapshot = discovery.service_at("web", index, SOON).await.unwrap();
    assert_eq!(snapshot.instances.len(), 70);
    for (n, instance) in snapshot.instances.iter().enumerate() {
        let expected = if n == 3 { json!({}) } else { json!({"n": {"value": n}}) };
        assert_eq!(json!(instance.metadata), expected, "{n}");
    }
}
