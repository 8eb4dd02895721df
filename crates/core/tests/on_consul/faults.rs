//! Consul that resets, dies, stalls and comes back.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use plinth_core::Error;
use plinth_core::consul::{PutOptions, Read, watch, watch_from};
use plinth_core::discovery::{Discovery, DiscoverySettings};
use plinth_core::registration::{Owner, Registrar, Registration, SelfRegistration, SelfState, Status};
use plinth_testbed::chaos::{Mode, Proxy};
use plinth_testbed::consul::RealConsul;
use plinth_testbed::{eventually, holds};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;

use crate::server::{Server, client, impatient, scenarios, web};

scenarios!(
    a_dead_connection_is_an_error_in_time,
    watches_survive_every_mode,
    discovery_serves_the_last_good,
    an_index_that_went_backwards
);

const SOON: Duration = Duration::from_secs(15);

async fn proxied(server: &Server) -> (Proxy, SocketAddr) {
    let proxy = Proxy::start(server.addr()).await;
    let addr = proxy.addr();
    (proxy, addr)
}

async fn a_dead_connection_is_an_error_in_time(server: Server) {
    let (proxy, addr) = proxied(&server).await;
    let client = impatient(addr);
    let patient = server.client();
    patient.kv().put("k", Bytes::new(), PutOptions::default()).await.unwrap();
    let index = patient.kv().get("k", &Read::default()).await.unwrap().index;

    let started = Instant::now();
    let blocked = tokio::spawn({
        let client = client.clone();
        async move { client.kv().get("k", &Read::after(index, Duration::from_secs(3))).await }
    });
    eventually("the query blocks", SOON, || {
        let in_use = client.blocking_in_use();
        async move { holds(in_use == 1, format!("{in_use}")) }
    })
    .await;
    proxy.set(Mode::BlackHole);
    let error = blocked.await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
    // wait + wait/16 + request timeout = 3687 ms.
    assert!(started.elapsed() < Duration::from_millis(4600), "took {:?}", started.elapsed());
    let error = client.status().leader().await.unwrap_err();
    assert!(error.is_unavailable(), "{error}");

    // Pooled connections from before are not what the next request waits on.
    proxy.set(Mode::Pass);
    client.status().leader().await.unwrap();
    for (mode, status) in [(Mode::Reset, None), (Mode::Status500, Some(500)), (Mode::Refuse, None)] {
        proxy.set(mode);
        // Open connections learn of the new mode a moment later.
        eventually("the mode shows", SOON, || async {
            match client.status().leader().await {
                Ok(leader) => Err(format!("{mode:?}: {leader:?}")),
                Err(error) => {
                    let right = error.status() == status && error.is_unavailable();
                    holds(right, format!("{mode:?}: {error}"))
                }
            }
        })
        .await;
    }
    proxy.set(Mode::Pass);
    eventually("it works again", SOON, || async { client.status().leader().await.map(drop) }).await;
}

async fn watches_survive_every_mode(server: Server) {
    let (proxy, addr) = proxied(&server).await;
    let direct = server.client();
    let read = Read { wait: Some(Duration::from_millis(300)), ..Read::default() };
    let mut replies =
        watch(&impatient(addr), read, |client, read| async move { client.kv().get("k", &read).await });
    for (round, mode) in [Mode::Reset, Mode::BlackHole, Mode::Status500, Mode::Refuse, Mode::ResetAfter(20)]
        .into_iter()
        .enumerate()
    {
        proxy.set(mode);
        tokio::time::timeout(SOON, async { while replies.next().await.unwrap().is_ok() {} })
            .await
            .unwrap_or_else(|_| panic!("{mode:?} must show as an error"));
        let value = Bytes::from(format!("value {round}"));
        direct.kv().put("k", value.clone(), PutOptions::default()).await.unwrap();
        proxy.set(Mode::Pass);
        let arrived = tokio::time::timeout(SOON, async {
            loop {
                if let Ok(reply) = replies.next().await.unwrap()
                    && reply.value.is_some_and(|pair| pair.value == value)
                {
                    return;
                }
            }
        });
        arrived.await.unwrap_or_else(|_| panic!("the write made during {mode:?} must arrive"));
    }
}

async fn discovery_serves_the_last_good(server: Server) {
    let (proxy, addr) = proxied(&server).await;
    let registrar = Registrar::new(server.client());
    let settings = DiscoverySettings { wait: Duration::from_millis(500), ..DiscoverySettings::default() };
    let discovery = Discovery::start(impatient(addr), settings, &Handle::current());
    let index = registrar.register(&web("web-1"), &Owner::new("me"), Status::Passing).await.unwrap().index;
    discovery.service_at("web", index, SOON).await.unwrap();
    let held = discovery.subscribe("web");
    for mode in [Mode::Refuse, Mode::Status500, Mode::BlackHole] {
        proxy.set(mode);
        eventually("the loss is noticed", SOON, || {
            let status = discovery.status();
            async move { holds(!status.connected && status.last_error.is_some(), format!("{status:?}")) }
        })
        .await;
        assert_eq!(discovery.service("web").await.unwrap().instances.len(), 1, "{mode:?}");
        let old = discovery.service("web").await.unwrap().fetched;
        proxy.set(Mode::Pass);
        let registration = Registration { metadata: Default::default(), port: 9000, ..web("web-1") };
        registrar.register(&registration, &Owner::new("me"), Status::Passing).await.unwrap();
        let recovered = Instant::now();
        eventually("it is fresh again", SOON, || {
            let fresh = held.borrow().is_some_and(|snapshot| snapshot.fetched > old);
            let connected = discovery.status().connected;
            async move { holds(fresh && connected, format!("fresh {fresh}, connected {connected}")) }
        })
        .await;
        assert!(recovered.elapsed() < Duration::from_secs(7), "{mode:?}: took {:?}", recovered.elapsed());
    }
    assert_eq!(held.borrow().unwrap().instances[0].port, 9000);
}

/// The index went backwards without any error in between: the next query does not block, then blocking resumes.
async fn an_index_that_went_backwards(server: Server) {
    let client = server.client();
    client.kv().put("k", Bytes::from_static(b"old"), PutOptions::default()).await.unwrap();
    let read = Read { wait: Some(Duration::from_millis(500)), ..Read::default() };
    let mut replies =
        watch_from(&client, read, 1_000_000, |client, read| async move { client.kv().get("k", &read).await });
    let first = tokio::time::timeout(SOON, replies.next()).await.unwrap().unwrap().unwrap();
    assert!(first.index > 0 && first.index < 1_000_000);
    let second = tokio::time::timeout(SOON, replies.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(second.index, first.index);
    client.kv().put("k", Bytes::from_static(b"new"), PutOptions::default()).await.unwrap();
    tokio::time::timeout(SOON, async {
        while replies.next().await.unwrap().unwrap().value.unwrap().value != Bytes::from_static(b"new") {}
    })
    .await
    .unwrap();
}

/// Passes connections on to whatever address it holds at that moment.
async fn switchboard(first: SocketAddr) -> (SocketAddr, tokio::sync::watch::Sender<SocketAddr>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (sender, target) = tokio::sync::watch::channel(first);
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let target = *target.borrow();
            tokio::spawn(async move {
                if let Ok(mut server) = TcpStream::connect(target).await {
                    // However it ends, both sides see their connection end.
                    let _ended = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                }
            });
        }
    });
    (addr, sender)
}

/// Errors on the way are passed over: a slow machine has timeouts of its own.
async fn next_good<T>(replies: &mut (impl Stream<Item = Result<T, Error>> + Unpin)) -> T {
    loop {
        if let Ok(reply) = replies.next().await.unwrap() {
            return reply;
        }
    }
}

/// A server that lost its data comes back with low indexes: nobody waits for the old index.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_forgot_everything() {
    let (full, empty) = (RealConsul::start().await, RealConsul::start().await);
    let direct = client(full.addr);
    for n in 0..100 {
        direct.kv().put("k", Bytes::from(format!("{n}")), PutOptions::default()).await.unwrap();
    }
    client(empty.addr).kv().put("k", Bytes::from_static(b"new"), PutOptions::default()).await.unwrap();
    let (addr, target) = switchboard(full.addr).await;
    let proxy = Proxy::start(addr).await;
    let mut replies = watch(&impatient(proxy.addr()), Read::default(), |client, read| async move {
        client.kv().get("k", &read).await
    });
    let before = tokio::time::timeout(SOON, next_good(&mut replies)).await.unwrap();
    assert!(before.index > 100);

    proxy.set(Mode::Refuse);
    tokio::time::timeout(SOON, async { while replies.next().await.unwrap().is_ok() {} }).await.unwrap();
    target.send_replace(empty.addr);
    proxy.set(Mode::Pass);
    let after = tokio::time::timeout(SOON, next_good(&mut replies))
        .await
        .expect("the watch does not wait for an index of the past");
    assert_eq!(after.value.unwrap().value, Bytes::from_static(b"new"));
    assert!(after.index < before.index, "{} against {}", after.index, before.index);
}

/// Killed and started again on its data: nothing registered is lost, and writers and watchers go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consul_restarts() {
    let mut consul = RealConsul::start().await;
    let client = client(consul.addr);
    let registrar = Registrar::new(client.clone());
    let discovery = Discovery::start(client.clone(), DiscoverySettings::default(), &Handle::current());
    let own = SelfRegistration::start(registrar.clone(), web("web-1"), Owner::process("w"));
    assert!(own.registered().await);
    let held = discovery.subscribe("web");
    eventually("it is discovered", SOON, || {
        let found = held.borrow().map_or(0, |snapshot| snapshot.instances.len());
        async move { holds(found == 1, format!("{found}")) }
    })
    .await;
    consul.kill();
    eventually("the loss is noticed", SOON, || {
        let (own, connected) = (own.state(), discovery.status().connected);
        async move { holds(own.is_registered() && !connected, format!("{own:?} {connected}")) }
    })
    .await;
    assert_eq!(held.borrow().unwrap().instances.len(), 1);
    consul.start_again().await;
    let back = Instant::now();
    let index = {
        let registration = Registration { service_name: "other".into(), ..web("other-1") };
        registrar.register(&registration, &Owner::new("me"), Status::Passing).await.unwrap().index
    };
    let other = discovery.service_at("other", index, SOON).await.unwrap();
    assert_eq!(other.instances.len(), 1);
    assert!(back.elapsed() < Duration::from_secs(6), "took {:?}", back.elapsed());
    eventually("the self-registration is confirmed", SOON, || {
        let own = own.state();
        async move { holds(matches!(own, SelfState::Registered { .. }), format!("{own:?}")) }
    })
    .await;
}

/// The in-memory agent is restarted empty on its port: who registered itself is back without anybody's help.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_agent_restarts_empty() {
    let settings = plinth_agent::Settings { http_port: 0, ..plinth_agent::Settings::default() };
    let agent = plinth_agent::Agent::start(settings.clone()).await.unwrap();
    let addr = agent.address();
    let registrar = Registrar::new(client(addr));
    let own = SelfRegistration::start(registrar.clone(), web("web-1"), Owner::process("web"));
    assert!(own.registered().await);
    let discovery = Discovery::start(client(addr), DiscoverySettings::default(), &Handle::current());
    let held = discovery.subscribe("web");
    eventually("it is discovered", SOON, || {
        let found = held.borrow().map_or(0, |snapshot| snapshot.instances.len());
        async move { holds(found == 1, format!("{found}")) }
    })
    .await;
    for n in 0..50 {
        registrar.client().kv().put("k", Bytes::from(format!("{n}")), PutOptions::default()).await.unwrap();
    }
    agent.shutdown().await;
    let again = plinth_agent::Settings { http_port: addr.port(), ..settings };
    let agent =
        eventually("the port is free again", SOON, || plinth_agent::Agent::start(again.clone())).await;
    eventually("it has registered again", SOON, || async {
        let found = registrar.get("web-1").await.map_err(|error| error.to_string())?;
        holds(found.is_some(), "not yet")
    })
    .await;
    let snapshot = eventually("the watch has followed", SOON, || {
        let snapshot = held.borrow().unwrap();
        async move {
            let state = format!("index {}, {} instances", snapshot.index, snapshot.instances.len());
            if snapshot.index < 50 && snapshot.instances.len() == 1 { Ok(snapshot) } else { Err(state) }
        }
    })
    .await;
    assert_eq!(snapshot.instances[0].status, Status::Passing);
    own.deregister().await.unwrap();
    agent.shutdown().await;
}
