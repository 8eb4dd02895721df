//! Prometheus 2.24.1 with `consul_sd_configs` (Debian bullseye's build; bookworm's is compiled without): targets are
//! found, changed and removed.

use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use plinth_testbed::process::Process;
use plinth_testbed::upstream::Upstream;
use plinth_testbed::{PortLease, eventually, holds, http_client};
use serde_json::{Value, json};

use crate::side::{Side, on_both, tool};

on_both!(targets_follow_the_catalog);

/// Prometheus hands changes of its discovery on at most every 5 s.
const SOON: Duration = Duration::from_secs(30);

async fn targets_follow_the_catalog(side: &Side) {
    let exporters = [Upstream::start().await, Upstream::start().await];
    for exporter in &exporters {
        exporter.respond(|_| async {
            let metrics = Full::new(Bytes::from_static(b"# TYPE jobs gauge\njobs 7\n"));
            Response::builder().header("content-type", "text/plain; version=0.0.4").body(metrics).unwrap()
        });
    }
    register(side, "exp-1", exporters[0].addr.port(), &["metrics", "v1"]).await;
    side.put("/v1/agent/service/register", r#"{"Name":"unrelated","Tags":["v1"],"Port":9}"#).await;
    let port = PortLease::take();
    let mut prometheus = start(side, port.port());

    targets(
        side,
        &mut prometheus,
        port.port(),
        "the first",
        &json!([["exp-1", ",metrics,v1,", "blue", "up"]]),
    )
    .await;
    register(side, "exp-2", exporters[1].addr.port(), &["metrics", "v2"]).await;
    let both = json!([["exp-1", ",metrics,v1,", "blue", "up"], ["exp-2", ",metrics,v2,", "blue", "up"]]);
    targets(side, &mut prometheus, port.port(), "both", &both).await;
    register(side, "exp-1", exporters[0].addr.port(), &["metrics", "v3"]).await;
    let changed = json!([["exp-1", ",metrics,v3,", "blue", "up"], ["exp-2", ",metrics,v2,", "blue", "up"]]);
    targets(side, &mut prometheus, port.port(), "the changed tag", &changed).await;
    side.put("/v1/agent/service/deregister/exp-1", "").await;
    let left = json!([["exp-2", ",metrics,v2,", "blue", "up"]]);
    targets(side, &mut prometheus, port.port(), "the one left", &left).await;
    assert!(!exporters[1].requests().is_empty(), "it was scraped");
}

async fn register(side: &Side, id: &str, port: u16, tags: &[&str]) {
    let body = json!({
        "ID": id, "Name": "exporter", "Address": "127.0.0.1", "Port": port, "Tags": tags, "Meta": { "team": "blue" },
    });
    side.put("/v1/agent/service/register", body.to_string()).await;
}

fn start(side: &Side, port: u16) -> Process {
    let config = format!(
        "global: {{ scrape_interval: 1s, scrape_timeout: 1s }}
scrape_configs:
- job_name: consul
  consul_sd_configs:
  - server: '{}'
    refresh_interval: 1s
  relabel_configs:
  - {{ source_labels: [__meta_consul_tags], regex: '.*,metrics,.*', action: keep }}
  - {{ source_labels: [__meta_consul_service_id], target_label: id }}
  - {{ source_labels: [__meta_consul_tags], target_label: tags }}
  - {{ source_labels: [__meta_consul_service_metadata_team], target_label: team }}
",
        side.addr
    );
    let config = side.file("prometheus.yml", &config);
    let mut prometheus = Command::new(tool("prometheus-2.24.1/usr/bin/prometheus", "Prometheus 2.24.1"));
    prometheus
        .arg(format!("--config.file={}", config.display()))
        .arg(format!("--storage.tsdb.path={}", side.folder.path().join("prometheus").display()))
        .arg(format!("--web.listen-address=127.0.0.1:{port}"));
    side.start("prometheus", prometheus)
}

/// Waits until the targets are `wanted`: id, tags, team and health of each.
async fn targets(side: &Side, prometheus: &mut Process, port: u16, what: &str, wanted: &Value) {
    eventually(&format!("{}: Prometheus has {what}", side.name), SOON, || {
        prometheus.assert_running();
        async move {
            let url = format!("http://127.0.0.1:{port}/api/v1/targets?state=active");
            let answer = http_client::get(&url).await.map_err(|error| error.to_string())?;
            let answer: Value = serde_json::from_slice(answer.body()).map_err(|error| error.to_string())?;
            let found = answer["data"]["activeTargets"].as_array().cloned().unwrap_or_default();
            let mut found: Vec<Value> = found
                .iter()
                .map(|target| {
                    let labels = &target["labels"];
                    json!([labels["id"], labels["tags"], labels["team"], target["health"]])
                })
                .collect();
            found.sort_by_key(Value::to_string);
            holds(Value::from(found.clone()) == *wanted, Value::from(found).to_string())
        }
    })
    .await;
}
