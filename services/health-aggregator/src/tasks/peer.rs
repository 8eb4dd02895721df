//! Calls between replicas. They go through the same prober as everything else: one connection each, a deadline.

use std::time::Duration;

use plinth_core::Secret;
use plinth_core::health::{ProbeTarget, Prober, Status};
use plinth_core::registration::{Registration, host_port};
use serde::de::DeserializeOwned;

use crate::routes::internal::{Identity, ProbeAnswer, ProbeQuestion};

/// Name under which this service's replicas are registered.
pub const SERVICE: &str = "health-aggregator";

/// How one replica reaches another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    pub id: String,
    base: String,
    tls_skip_verify: bool,
}

impl Peer {
    /// The registration tells whether the replica serves TLS. With mutual TLS (`mesh`) that is no question, and the replica has to
    /// show that it is one; without, its certificate is for its clients to verify.
    pub fn of(registration: &Registration, mesh: bool) -> Self {
        let url = registration.check.target(&registration.address, registration.port).unwrap_or_default();
        let named = registration.metadata.get("scheme").and_then(serde_json::Value::as_str);
        let tls = mesh || named == Some("https") || url.starts_with("https://");
        let scheme = if tls { "https" } else { "http" };
        let tls_skip_verify = tls && !mesh;
        let base = format!("{scheme}://{}", host_port(&registration.address, registration.port));
        Self { id: registration.service_id.clone(), base, tls_skip_verify }
    }

    /// Whether it answers, and answers as the one it is registered as: after a restart under another id its old id must
    /// not keep counting as alive.
    pub async fn is_alive(&self, prober: &Prober, timeout: Duration) -> bool {
        let target = self.target("GET", "/api/v1/internal/member", String::new(), None);
        answer::<Identity>(prober, &target, timeout).await.is_ok_and(|identity| identity.id == self.id)
    }

    /// Has it look at instances now.
    ///
    /// # Errors
    /// Why there is no answer, for the log.
    pub async fn look(
        &self,
        prober: &Prober,
        question: &ProbeQuestion,
        token: Option<&Secret>,
        timeout: Duration,
    ) -> Result<ProbeAnswer, String> {
        let body = serde_json::to_string(question).map_err(|e| e.to_string())?;
        answer(prober, &self.target("POST", "/api/v1/internal/probe", body, token), timeout).await
    }

    fn target(&self, method: &str, path: &str, body: String, token: Option<&Secret>) -> ProbeTarget {
        let mut headers = vec![("Accept".to_owned(), "application/json".to_owned())];
        if !body.is_empty() {
            headers.push(("Content-Type".to_owned(), "application/json".to_owned()));
        }
        if let Some(token) = token {
            headers.push(("Authorization".to_owned(), format!("Bearer {}", token.expose())));
        }
        ProbeTarget::Http {
            url: format!("{}{path}", self.base),
            method: method.to_owned(),
            headers,
            body,
            tls_skip_verify: self.tls_skip_verify,
            ca: None,
        }
    }
}

async fn answer<T: DeserializeOwned>(
    prober: &Prober,
    target: &ProbeTarget,
    timeout: Duration,
) -> Result<T, String> {
    let outcome = prober.probe_service(SERVICE, target, timeout).await;
    if outcome.status != Status::Passing {
        return Err(outcome.output);
    }
    let body = outcome.output.split_once(" Output: ").map_or("", |(_, body)| body);
    serde_json::from_str(body).map_err(|e| format!("{e} in {body:?}"))
}
