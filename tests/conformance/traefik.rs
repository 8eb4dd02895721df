//! Traefik's `consulCatalog` provider: a service's tags make a route, its instances are balanced, and it ends with them.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Response};
use http_body_util::Full;
use plinth_testbed::process::Process;
use plinth_testbed::upstream::Upstream;
use plinth_testbed::{PortLease, eventually, holds, http_client};
use serde_json::json;

use crate::side::{Side, on_both, tool};

on_both!(routes_by_polling, routes_by_watching);

const SOON: Duration = Duration::from_secs(30);

async fn routes_by_polling(side: &Side) {
    routes(side, "--providers.consulcatalog.refreshinterval=200ms").await;
}

async fn routes_by_watching(side: &Side) {
    routes(side, "--providers.consulcatalog.watch=true").await;
}

async fn routes(side: &Side, how: &str) {
    let (first, second) = (named("first").await, named("second").await);
    let port = PortLease::take();
    let mut traefik = start(side, port.port(), how);
    answers(side, &mut traefik, port.port(), "shop.test", "no route yet", &["404"]).await;
    register(side, "shop-1", &first, "passing").await;
    answers(side, &mut traefik, port.port(), "shop.test", "the route", &["first"]).await;
    register(side, "shop-2", &second, "passing").await;
    answers(side, &mut traefik, port.port(), "shop.test", "both instances", &["first", "second"]).await;
    side.put("/v1/agent/check/fail/service:shop-1", "").await;
    answers(side, &mut traefik, port.port(), "shop.test", "the one that passes", &["second"]).await;
    side.put("/v1/agent/check/pass/service:shop-1", "").await;
    answers(side, &mut traefik, port.port(), "shop.test", "both again", &["first", "second"]).await;
    side.put("/v1/agent/service/deregister/shop-2", "").await;
    answers(side, &mut traefik, port.port(), "shop.test", "the one left", &["first"]).await;
    side.put("/v1/agent/service/deregister/shop-1", "").await;
    answers(side, &mut traefik, port.port(), "shop.test", "no route any more", &["404"]).await;
}

async fn named(name: &'static str) -> Upstream {
    let upstream = Upstream::start().await;
    upstream.respond(move |_| async move { Response::new(Full::new(Bytes::from_static(name.as_bytes()))) });
    upstream
}

async fn register(side: &Side, id: &str, upstream: &Upstream, status: &str) {
    let body = json!({
        "ID": id, "Name": "shop", "Address": "127.0.0.1", "Port": upstream.addr.port(),
        "Tags": ["traefik.enable=true", "traefik.http.routers.shop.rule=Host(`shop.test`)"],
        "Check": { "TTL": "1h", "Status": status },
    });
    side.put("/v1/agent/service/register", body.to_string()).await;
}

fn start(side: &Side, port: u16, how: &str) -> Process {
    let mut traefik = Command::new(tool("clients/python/bin/traefik", "Traefik"));
    traefik
        .arg(format!("--entrypoints.web.address=127.0.0.1:{port}"))
        .args(["--providers.consulcatalog=true", "--providers.consulcatalog.exposedbydefault=false", how])
        .arg(format!("--providers.consulcatalog.endpoint.address={}", side.addr))
        .args(["--providers.providersthrottleduration=100ms", "--log.level=INFO"])
        .args(["--global.checknewversion=false", "--global.sendanonymoususage=false"]);
    side.start("traefik", traefik)
}

/// Waits until requests for `host` are answered by exactly `wanted`, in ten requests in a row.
async fn answers(side: &Side, traefik: &mut Process, port: u16, host: &str, what: &str, wanted: &[&str]) {
    let wanted: BTreeSet<String> = wanted.iter().map(|name| (*name).to_owned()).collect();
    eventually(&format!("{}: Traefik has {what}", side.name), SOON, || {
        traefik.assert_running();
        let log = traefik.output();
        let wanted = &wanted;
        async move {
            let url = format!("http://127.0.0.1:{port}/");
            let mut seen = BTreeSet::new();
            for _ in 0..10 {
                let sent = http_client::send(Method::GET, &url, &[("host", host)], "").await;
                let answer = sent.map_err(|error| error.to_string())?;
                seen.insert(match answer.status().as_u16() {
                    200 => String::from_utf8_lossy(answer.body()).into_owned(),
                    status => status.to_string(),
                });
            }
            holds(seen == *wanted, format!("{seen:?}\n{log}"))
        }
    })
    .await;
}
