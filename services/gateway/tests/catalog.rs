//! `*.service.consul` on the embedded agent and on real Consul: instances are found, the instance's port wins, a dead one is left.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/harness.rs"]
mod harness;

use std::net::SocketAddr;
use std::time::Duration;

use harness::{Client, Gateway};
use http::Method;
use plinth_agent::{Agent, Settings};
use plinth_testbed::consul::RealConsul;
use plinth_testbed::upstream::Upstream;
use plinth_testbed::{eventually, holds};

async fn register(agent: SocketAddr, id: &str, instance: SocketAddr) {
    let body = format!(
        "{{\"ID\": \"{id}\", \"Name\": \"user-service\", \"Address\": \"127.0.0.1\", \"Port\": {}}}",
        instance.port()
    );
    let url = format!("http://{agent}/v1/agent/service/register");
    let answer = plinth_testbed::http_client::send(Method::PUT, &url, &[], body).await.unwrap();
    assert_eq!(answer.status(), 200);
}

/// What answers Consul's API.
enum Catalog {
    Embedded(Box<Agent>),
    Real(Box<RealConsul>),
}

impl Catalog {
    async fn embedded() -> Self {
        let settings = Settings { http_port: 0, ..Settings::default() };
        Self::Embedded(Box::new(Agent::start(settings).await.unwrap()))
    }

    async fn real() -> Self {
        Self::Real(Box::new(RealConsul::start().await))
    }

    fn address(&self) -> SocketAddr {
        match self {
            Self::Embedded(agent) => agent.address(),
            Self::Real(consul) => consul.addr,
        }
    }

    async fn end(self) {
        match self {
            Self::Embedded(agent) => agent.shutdown().await,
            Self::Real(mut consul) => consul.kill(),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_share_the_traffic_and_a_dead_one_costs_no_request_on_the_embedded_agent() {
    instances_share_the_traffic_and_a_dead_one_costs_no_request(Catalog::embedded().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_share_the_traffic_and_a_dead_one_costs_no_request_on_real_consul() {
    instances_share_the_traffic_and_a_dead_one_costs_no_request(Catalog::real().await).await;
}

async fn instances_share_the_traffic_and_a_dead_one_costs_no_request(catalog: Catalog) {
    let (one, two) = (Upstream::start().await, Upstream::start().await);
    register(catalog.address(), "one", one.addr).await;
    register(catalog.address(), "two", two.addr).await;
    let config = "_format_version: \"3.0\"\nservices:\n- name: users\n  url: http://user-service.service.consul:1\n  \
                  retries: 3\n  routes:\n  - {name: r, paths: [/]}\n";
    let consul = format!("http://{}", catalog.address());
    let gateway = Gateway::start_with(config, &["--consul-address", &consul]).await;
    eventually("both instances get requests", Duration::from_secs(10), || async {
        let status = gateway.get("/").await.status();
        let (first, second) = (one.requests().len(), two.requests().len());
        holds(first > 3 && second > 3, format!("{status}: {first} and {second} requests"))
    })
    .await;
    let host = one.requests()[0].headers()["host"].to_str().unwrap().to_owned();
    assert_eq!(host, format!("user-service.service.consul:{}", one.addr.port()));

    two.kill();
    let mut client = Client::connect(gateway.proxy).await;
    for round in 0..500 {
        let (status, _, body) = client.get("/").await.unwrap();
        assert_eq!(status, 200, "request {round}: {}", String::from_utf8_lossy(&body));
    }
    let retries = gateway.metric("gateway_upstream_retries_total").await;
    assert!(retries < 50.0, "the dead instance left the rotation: {retries} retries");

    let three = Upstream::start().await;
    register(catalog.address(), "three", three.addr).await;
    eventually("a new instance gets requests", Duration::from_secs(10), || async {
        gateway.get("/").await;
        holds(!three.requests().is_empty(), "not yet")
    })
    .await;
    catalog.end().await;
    assert_eq!(
        client.get("/").await.unwrap().0,
        200,
        "without the catalog the last known instances serve on"
    );
}
