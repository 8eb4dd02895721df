//! Many services at one real Consul with its limit of 200 connections per client address.

use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use plinth_core::discovery::{Discovery, DiscoverySettings};
use plinth_core::registration::{Owner, Registrar, Registration, Status};
use plinth_testbed::consul::RealConsul;
use plinth_testbed::{eventually, holds};
use tokio::runtime::Handle;

use crate::server::{client, web};

const SERVICES: usize = 500;
/// Few: beside the watches they count against the server's 200 connections, closed ones until it has noticed.
const REGISTERED_AT_ONCE: usize = 4;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_services() {
    let consul = RealConsul::start().await;
    let registrar = Registrar::new(client(consul.addr));
    let register = |n: usize, port: u16| {
        let registrar = registrar.clone();
        let registration =
            Registration { service_name: format!("svc-{n}"), port, ..web(&format!("svc-{n}-a")) };
        async move { registrar.register(&registration, &Owner::new("me"), Status::Passing).await.unwrap().index }
    };
    let index = futures_util::stream::iter(0..SERVICES)
        .map(|n| register(n, 1000))
        .buffer_unordered(REGISTERED_AT_ONCE)
        .fold(0, |most, index| async move { u64::max(most, index) })
        .await;

    let settings =
        DiscoverySettings { sweep_interval: Duration::from_secs(2), ..DiscoverySettings::default() };
    let discovery = Discovery::start(client(consul.addr), settings, &Handle::current());
    let started = Instant::now();
    let held: Vec<_> = (0..SERVICES).map(|n| discovery.subscribe(&format!("svc-{n}"))).collect();
    let known = |port: u16| {
        held.iter()
            .filter(|one| {
                one.borrow().is_some_and(|snapshot| snapshot.instances.iter().any(|i| i.port == port))
            })
            .count()
    };
    eventually("all are known", Duration::from_secs(60), || {
        let found = known(1000);
        async move { holds(found == SERVICES, format!("{found} known")) }
    })
    .await;
    let first = started.elapsed();
    let status = discovery.status();
    assert_eq!((status.watches, status.swept), (90, SERVICES - 90));
    assert!(status.last_error.is_none(), "no connection was refused: {status:?}");

    // Each instance moves to another port; watched and swept services all follow.
    let changed = Instant::now();
    futures_util::stream::iter(0..SERVICES)
        .map(|n| register(n, 2000))
        .buffer_unordered(REGISTERED_AT_ONCE)
        .count()
        .await;
    eventually("all have changed", Duration::from_secs(60), || {
        let found = known(2000);
        async move { holds(found == SERVICES, format!("{found} changed")) }
    })
    .await;
    let status = discovery.status();
    assert!(status.last_error.is_none(), "no connection was refused: {status:?}");
    assert!(discovery.services().unwrap().index >= index);
    println!("{SERVICES} services known after {first:?}, all changes seen after {:?}", changed.elapsed());
}
