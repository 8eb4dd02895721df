//! Follows when instances were last probed: asks every passing health-aggregator in the background, for the services
//! that were asked for lately. Requests never wait for it.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use plinth_core::discovery::{Discovery, Instance};
use plinth_core::identity::{Identity, MeshConnector};
use plinth_core::registration::host_port;
use plinth_kit::settings::Secret;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::answers::Answers;
use crate::domain::probed::{Probed, ProbedInstances};

/// The name under which health-aggregators register.
pub const AGGREGATOR: &str = "health-aggregator";
/// A whole exchange with one aggregator.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Largest answer taken.
const MAX_ANSWER: usize = 8 << 20;
/// Services per request, so that its line stays short.
const SERVICES_PER_REQUEST: usize = 50;

type Http = Client<MeshConnector, Empty<Bytes>>;

/// What the task works on.
pub struct Probes {
    pub discovery: Discovery,
    pub answers: Arc<Answers>,
    pub publish: Arc<ArcSwap<Probed>>,
    pub interval: Duration,
    /// A service nobody asked for this long is not followed any more.
    pub idle: Duration,
    pub token: Option<Secret>,
    /// Who asks; then only over TLS, and only who shows that it is a health-aggregator.
    pub identity: Option<Identity>,
}

#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("the request cannot be built")]
    Request(#[from] http::Error),
    #[error("no answer")]
    Transport(#[from] hyper_util::client::legacy::Error),
    #[error("no whole answer of acceptable size")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("no answer in time")]
    Late(#[from] tokio::time::error::Elapsed),
    #[error("status {0}")]
    Status(http::StatusCode),
    #[error("the answer is not understood")]
    Answer(#[from] serde_json::Error),
}

impl Probes {
    /// Runs until `stop`.
    ///
    /// # Errors
    /// TLS cannot be set up. Without answers the known times stay.
    pub async fn run(self, stop: CancellationToken) -> Result<(), plinth_core::Error> {
        if self.interval.is_zero() {
            return Ok(());
        }
        let http = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(30))
            .pool_max_idle_per_host(2)
            .build(MeshConnector::new(self.identity.as_ref(), AGGREGATOR, TIMEOUT)?);
        let mut timer = tokio::time::interval(self.interval);
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let idle_rounds =
            u32::try_from(self.idle.as_millis() / self.interval.as_millis().max(1)).unwrap_or(u32::MAX);
        let rounds = async {
            loop {
                timer.tick().await;
                let services = self.answers.sweep(idle_rounds);
                self.round(&http, &services).await;
            }
        };
        stop.run_until_cancelled(rounds).await.unwrap_or(Ok(()))
    }

    /// Asks everyone once and publishes the outcome if it is news.
    async fn round(&self, http: &Http, services: &[Box<str>]) {
        let aggregators = self.aggregators().await;
        if services.is_empty() || aggregators.is_empty() {
            return;
        }
        let questions = aggregators
            .iter()
            .flat_map(|base| services.chunks(SERVICES_PER_REQUEST).map(move |some| (base, some)));
        let asked = questions.map(|(base, some)| self.ask(http, base, some));
        let (mut answers, mut complete) = (Vec::new(), true);
        for result in futures_util::future::join_all(asked).await {
            match result {
                Ok(answer) => answers.push(answer),
                Err(error) => {
                    complete = false;
                    tracing::debug!(
                        error = &error as &dyn std::error::Error,
                        "no probe times from a health-aggregator"
                    );
                }
            }
        }
        let known = self.publish.load_full();
        // What an aggregator said that is silent now stays true until another one knows better.
        let probed = Probed::merge(answers, (!complete).then_some(&*known));
        if probed != *known {
            self.publish.store(Arc::new(probed));
        }
    }

    /// Where every aggregator that passes its checks answers.
    async fn aggregators(&self) -> Vec<String> {
        let Ok(snapshot) = self.discovery.service(AGGREGATOR).await else { return Vec::new() };
        snapshot.passing().map(|instance| base(instance, self.identity.is_some())).collect()
    }

    async fn ask(&self, http: &Http, base: &str, services: &[Box<str>]) -> Result<ProbedInstances, Refusal> {
        let query: Vec<String> = services
            .iter()
            .map(|name| format!("service={}", utf8_percent_encode(name, NON_ALPHANUMERIC)))
            .collect();
        let uri = format!("{base}/api/v1/health/instances?{}", query.join("&"));
        let mut request = http::Request::get(uri);
        if let Some(token) = &self.token {
            request = request.header(http::header::AUTHORIZATION, format!("Bearer {}", token.expose()));
        }
        let request = request.body(Empty::new())?;
        tokio::time::timeout(TIMEOUT, async {
            let answer = http.request(request).await?;
            if answer.status() != http::StatusCode::OK {
                return Err(Refusal::Status(answer.status()));
            }
            let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await.map_err(Refusal::Body)?;
            Ok(serde_json::from_slice(&body.to_bytes())?)
        })
        .await?
    }
}

/// `scheme://host:port`.
fn base(instance: &Instance, mesh: bool) -> String {
    let tls = mesh || instance.metadata.get("scheme").and_then(serde_json::Value::as_str) == Some("https");
    let scheme = if tls { "https" } else { "http" };
    format!("{scheme}://{}", host_port(&instance.address, instance.port))
}
