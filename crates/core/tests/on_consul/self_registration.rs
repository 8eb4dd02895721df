//! A service that registers itself.

use std::time::{Duration, Instant};

use plinth_core::consul::Read;
use plinth_core::consul::wire::{CatalogDeregistration, HealthCheck, NodeVerb, TxnOp};
use plinth_core::discovery::{Discovery, DiscoverySettings};
use plinth_core::registration::{
    Owner, Registrar, Registration, SelfRegistration, SelfState, Status, node_name,
};
use plinth_testbed::{eventually, holds};
use tokio::runtime::Handle;

use crate::server::{Server, scenarios, web};

scenarios!(
    comes_and_goes,
    comes_back_when_removed,
    yields_to_a_newer_process,
    waits_for_the_id,
    a_killed_one_is_back_at_once
);

const SOON: Duration = Duration::from_secs(10);

async fn passing(registrar: &Registrar) -> usize {
    registrar.client().health().service("web", true, &[], &Read::default()).await.unwrap().value.len()
}

async fn comes_and_goes(server: Server) {
    let registrar = Registrar::new(server.client());
    let own = SelfRegistration::start(registrar.clone(), web("web-1"), Owner::process("web"));
    assert!(own.registered().await);
    assert!(own.state().is_registered());
    assert_eq!(passing(&registrar).await, 1, "passing from the start");
    own.deregister().await.unwrap();
    assert_eq!(passing(&registrar).await, 0);
    assert!(registrar.get("web-1").await.unwrap().is_none());
}

async fn comes_back_when_removed(server: Server) {
    let registrar = Registrar::new(server.client());
    let own = SelfRegistration::start(registrar.clone(), web("web-1"), Owner::process("web"));
    assert!(own.registered().await);
    registrar.deregister("web-1", None).await.unwrap();
    eventually("it registers again", SOON, || async {
        let found = passing(&registrar).await;
        holds(found == 1, format!("{found} passing"))
    })
    .await;

    // Only the node is taken away; the document stays. The next touch of the document shows it.
    let what = CatalogDeregistration { node: node_name("web-1"), ..CatalogDeregistration::default() };
    registrar.client().catalog().deregister(&what).await.unwrap();
    assert_eq!(passing(&registrar).await, 0);
    let (document, index) = registrar.get("web-1").await.unwrap().unwrap();
    let spaced = serde_json::to_string_pretty(&document).unwrap();
    let ops = [TxnOp::kv_cas("plinth/instances/web-1", spaced.into(), index)];
    registrar.client().txn(&ops).await.unwrap();
    eventually("its node is back", SOON, || async {
        let found = passing(&registrar).await;
        holds(found == 1, format!("{found} passing"))
    })
    .await;
    own.deregister().await.unwrap();
}

async fn yields_to_a_newer_process(server: Server) {
    let registrar = Registrar::new(server.client());
    let old = SelfRegistration::start(registrar.clone(), web("web-1"), Owner::process("web"));
    assert!(old.registered().await);
    let newer = Registration { port: 9999, ..web("web-1") };
    let new = SelfRegistration::start(registrar.clone(), newer, Owner::process("web"));
    assert!(new.registered().await);
    eventually("the old one knows", SOON, || {
        let state = old.state();
        async move { holds(state == SelfState::Superseded, format!("{state:?}")) }
    })
    .await;
    old.deregister().await.unwrap();
    let holder = registrar.get("web-1").await.unwrap().unwrap().0;
    assert_eq!(holder.registration.port, 9999, "the old one's goodbye does not touch the new one");
    new.deregister().await.unwrap();
}

async fn waits_for_the_id(server: Server) {
    let registrar = Registrar::new(server.client());
    registrar.register(&web("web-1"), &Owner::new("somebody"), Status::Passing).await.unwrap();
    let own = SelfRegistration::start(registrar.clone(), web("web-1"), Owner::process("web"));
    eventually("it is refused", SOON, || {
        let state = own.state();
        async move { holds(matches!(state, SelfState::Refused { .. }), format!("{state:?}")) }
    })
    .await;
    registrar.deregister("web-1", None).await.unwrap();
    tokio::time::timeout(SOON, own.registered()).await.expect("it takes the id when it is free");
    own.deregister().await.unwrap();
}

async fn a_killed_one_is_back_at_once(server: Server) {
    let registrar = Registrar::new(server.client());
    let discovery = Discovery::start(server.client(), DiscoverySettings::default(), &Handle::current());
    let mut living = SelfRegistration::start(registrar.clone(), web("web-1"), Owner::process("web"));
    assert!(living.registered().await);
    let mut fastest = Duration::MAX;
    for port in 7001..7006 {
        // Dropped without a goodbye, as by SIGKILL.
        drop(living);
        // Its aggregator has noticed meanwhile.
        let checks =
            registrar.client().health().node(&node_name("web-1"), &Read::default()).await.unwrap().value;
        let dead = HealthCheck { status: "critical".into(), ..checks[0].clone() };
        registrar.client().txn(&[TxnOp::check(NodeVerb::Cas, dead)]).await.unwrap();
        assert_eq!(passing(&registrar).await, 0);
        let started = Instant::now();
        let reborn = Registration { port, ..web("web-1") };
        living = SelfRegistration::start(registrar.clone(), reborn, Owner::process("web"));
        assert!(living.registered().await);
        let SelfState::Registered { index } = living.state() else { panic!("{:?}", living.state()) };
        let snapshot = discovery.service_at("web", index, SOON).await.unwrap();
        assert_eq!(snapshot.passing().map(|instance| instance.port).collect::<Vec<_>>(), [port]);
        fastest = fastest.min(started.elapsed());
    }
    // The bar holds for the fastest: a busy machine delays some rounds, waiting for a probe or a poll would delay all.
    assert!(fastest < Duration::from_millis(300), "the fastest of 5 took {fastest:?}");
}
