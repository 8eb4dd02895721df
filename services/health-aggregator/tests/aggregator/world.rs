//! Consul, upstreams that are well or not, and replicas of the aggregator.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::Full;
use jiff::Timestamp;
use plinth_agent::{Agent, Data};
use plinth_core::consul::{Client, Read, Settings};
use plinth_core::health::Status;
use plinth_core::registration::{CheckSpec, Owner, Registrar, Registration, Timing, check_id};
use plinth_testbed::consul::RealConsul;
use plinth_testbed::process::Process;
use plinth_testbed::upstream::Upstream;
use plinth_testbed::{PortLease, eventually, http_client};

#[derive(Debug, Clone, Copy)]
pub enum Kind {
    Embedded,
    Real,
}

/// What stands behind Consul's HTTP API.
pub enum Backend {
    Embedded { agent: Option<Agent>, port: PortLease, folder: tempfile::TempDir },
    Real(RealConsul),
}

impl Backend {
    pub async fn start(kind: Kind) -> Self {
        match kind {
            Kind::Real => Self::Real(RealConsul::start().await),
            Kind::Embedded => {
                let mut backend = Self::Embedded {
                    agent: None,
                    port: PortLease::take(),
                    folder: tempfile::tempdir().unwrap(),
                };
                backend.start_again().await;
                backend
            }
        }
    }

    pub fn addr(&self) -> std::net::SocketAddr {
        match self {
            Self::Embedded { port, .. } => ([127, 0, 0, 1], port.port()).into(),
            Self::Real(consul) => consul.addr,
        }
    }

    pub async fn kill(&mut self) {
        match self {
            Self::Embedded { agent, .. } => agent.take().unwrap().shutdown().await,
            Self::Real(consul) => consul.kill(),
        }
    }

    pub async fn start_again(&mut self) {
        match self {
            Self::Embedded { agent, port, folder } => {
                let settings = plinth_agent::Settings {
                    http_port: port.port(),
                    data: Data::Dir(folder.path().to_owned()),
                    shutdown_timeout: Duration::from_millis(100),
                    ..plinth_agent::Settings::default()
                };
                *agent = Some(Agent::start(settings).await.unwrap());
            }
            Self::Real(consul) => consul.start_again().await,
        }
    }
}

pub struct World {
    pub backend: Backend,
    pub client: Client,
    pub registrar: Registrar,
    upstream: Upstream,
    /// Paths that answer 503.
    down: Arc<Mutex<BTreeSet<String>>>,
    looks: Arc<AtomicUsize>,
}

impl World {
    pub async fn new(backend: Backend) -> Self {
        let client = Client::new(Settings::http(backend.addr())).unwrap();
        let upstream = Upstream::start().await;
        let (down, looks) = (Arc::new(Mutex::new(BTreeSet::<String>::new())), Arc::new(AtomicUsize::new(0)));
        let (unwell, counter) = (Arc::clone(&down), Arc::clone(&looks));
        upstream.respond(move |request| {
            counter.fetch_add(1, Ordering::Relaxed);
            let status = if unwell.lock().unwrap().contains(request.uri().path()) { 503 } else { 200 };
            async move { Response::builder().status(status).body(Full::<Bytes>::default()).unwrap() }
        });
        let registrar = Registrar::new(client.clone());
        Self { backend, client, registrar, upstream, down, looks }
    }

    /// An instance of `web` at the upstream, with a path of its own.
    pub async fn register(&self, id: &str, timing: Timing, status: Status) {
        let check = CheckSpec::Http {
            path: format!("/{id}"),
            method: None,
            headers: BTreeMap::new(),
            tls_skip_verify: false,
            timing,
        };
        self.register_with(id, check, status).await;
    }

    pub async fn register_with(&self, id: &str, check: CheckSpec, status: Status) {
        let name = id.split('-').next().unwrap();
        let registration =
            Registration { check, ..Registration::new(name, id, "127.0.0.1", self.upstream.addr.port()) };
        self.registrar.register(&registration, &Owner::new("test"), status).await.unwrap();
    }

    pub fn set_down(&self, id: &str, down: bool) {
        let path = format!("/{id}");
        let mut paths = self.down.lock().unwrap();
        if down {
            paths.insert(path)
        } else {
            paths.remove(&path)
        };
    }

    pub fn looks(&self) -> usize {
        self.looks.load(Ordering::Relaxed)
    }

    /// Status and modify index of each `web` instance's check.
    pub async fn checks(&self) -> BTreeMap<String, (String, u64)> {
        let checks = self.client.health().state("any", &Read::default()).await.unwrap().value;
        checks
            .into_iter()
            .filter(|check| check.service_name == "web" && check.check_id == check_id(&check.service_id))
            .map(|check| (check.service_id, (check.status, check.modify_index)))
            .collect()
    }

    /// Waits until the catalog has the instance in this status; its output.
    pub async fn reaches(&self, id: &str, status: &str, deadline: Duration) -> String {
        self.reached(id, status, deadline).await.0
    }

    /// The same with the last time at which it had not come to that.
    pub async fn reached(&self, id: &str, status: &str, deadline: Duration) -> (String, Instant) {
        let not_yet = Cell::new(Instant::now());
        let output = eventually(&format!("{id} is {status}"), deadline, || async {
            let looked = Instant::now();
            let checks =
                self.client.health().state("any", &Read::default()).await.map_err(|e| e.to_string())?;
            match checks.value.into_iter().find(|check| check.service_id == id) {
                Some(check) if check.status == status => Ok(check.output),
                other => {
                    not_yet.set(looked);
                    Err(format!("{other:?}"))
                }
            }
        })
        .await;
        (output, not_yet.get())
    }
}

/// One aggregator process.
pub struct Replica {
    pub process: Process,
    base: String,
    _folder: tempfile::TempDir,
}

impl Replica {
    pub async fn start(world: &World, failures: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_health-aggregator"));
        command.args([
            "--listen",
            "127.0.0.1:0",
            "--consul-address",
            &format!("http://{}", world.backend.addr()),
        ]);
        command.args(["--probe-failures", &failures.to_string(), "--shutdown-drain-delay", "0s"]);
        let mut process = Process::spawn("health-aggregator", command, folder.path());
        let base = eventually("the aggregator listens", Duration::from_secs(10), || {
            process.assert_running();
            let output = process.output();
            async move {
                let line = output.lines().find_map(|line| line.split_once("http listening on "));
                line.map(|(_, base)| base.trim().to_owned()).ok_or(output.clone())
            }
        })
        .await;
        eventually("the aggregator is ready", Duration::from_secs(10), || async {
            match http_client::get(&format!("{base}/health/ready")).await {
                Ok(answer) if answer.status() == StatusCode::OK => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
        Self { process, base, _folder: folder }
    }

    pub async fn get(&self, path: &str) -> (StatusCode, String) {
        let answer = http_client::get(&format!("{}{path}", self.base)).await.unwrap();
        (answer.status(), String::from_utf8_lossy(answer.body()).into_owned())
    }

    /// The value of the metric with this label.
    pub async fn metric(&self, name: &str, label: &str) -> Option<f64> {
        let (_, text) = self.get("/metrics").await;
        let line = text.lines().find(|line| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{') && rest.contains(label))
        })?;
        line.rsplit_once(' ')?.1.parse().ok()
    }

    /// What it probes, with the time of the last probe.
    pub async fn probed(&self) -> BTreeMap<String, Timestamp> {
        let (status, body) = self.get("/api/v1/health/instances").await;
        assert_eq!(status, StatusCode::OK, "{body}");
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        body["instances"]
            .as_array()
            .unwrap()
            .iter()
            .map(|i| {
                let at = i["last_check"].as_str().unwrap().parse().unwrap();
                (i["service_id"].as_str().unwrap().to_owned(), at)
            })
            .collect()
    }
}
