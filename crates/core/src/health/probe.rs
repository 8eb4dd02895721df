//! One look at a target from outside: HTTP(S), TCP, gRPC health. The results follow Consul's rules.

mod connect;
mod grpc;
mod http;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Status;
use crate::identity::Identity;
use connect::{Believed, Roots, Trust};

/// What is kept of an answer's body, bytes, as in Consul.
pub const OUTPUT_LIMIT: usize = 4096;
/// Longest `output`: a body and what is said before it, which has the URL.
const LONGEST: usize = 2 * OUTPUT_LIMIT;

/// What to look at.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ProbeTarget {
    /// 2xx is passing, 429 warning, anything else critical. Redirects are not followed: a target that redirects its check is
    /// not the one that was asked, so 3xx is critical (Consul follows them).
    Http {
        /// `http://` or `https://`, with host, port and path.
        url: String,
        /// Default `GET`.
        method: String,
        /// Sent as they are; a `Host` among them replaces the URL's.
        headers: Vec<(String, String)>,
        body: String,
        tls_skip_verify: bool,
        /// PEM file to trust instead of the system's store.
        ca: Option<PathBuf>,
    },
    /// A connection that opens is passing. `addr` is `host:port`.
    Tcp { addr: String },
    /// `grpc.health.v1.Health/Check` for `service` (empty = the whole server): SERVING is passing, all else critical.
    Grpc { addr: String, service: String, tls: bool, tls_skip_verify: bool },
}

impl ProbeTarget {
    /// A plain `GET` of `url`.
    pub fn http(url: impl Into<String>) -> Self {
        Self::Http {
            url: url.into(),
            method: "GET".to_owned(),
            headers: Vec::new(),
            body: String::new(),
            tls_skip_verify: false,
            ca: None,
        }
    }

    /// The kind as Consul's check type: `http`, `tcp`, `grpc`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Http { .. } => "http",
            Self::Tcp { .. } => "tcp",
            Self::Grpc { .. } => "grpc",
        }
    }
}

/// Where to look when that is not where the target's own host leads: a balancer probes each address of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct At {
    /// The address to connect to.
    pub address: SocketAddr,
    /// Name for SNI and certificate in place of the target's host.
    pub server_name: Option<String>,
}

/// What was seen. A target that cannot be probed at all (bad URL, unreadable CA file) is critical, and `output` says why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeOutcome {
    pub status: Status,
    /// For people: `HTTP GET <url>: 200 OK Output: <body>`, `TCP connect <addr>: Success`; the body cut at `OUTPUT_LIMIT`.
    pub output: String,
    pub latency: Duration,
    /// No answer in time (as against a refusal or a bad answer).
    pub timed_out: bool,
    /// The HTTP status, if there was an answer.
    pub http_status: Option<u16>,
}

/// What a prober of one kind found, or why it could not find out.
struct Finding {
    status: Status,
    output: String,
    http_status: Option<u16>,
}

impl Finding {
    fn critical(output: String) -> Self {
        Self { status: Status::Critical, output, http_status: None }
    }
}

/// Makes probes. Each uses a connection of its own, closed afterwards: a check must see whether one can connect.
/// Cheap to clone; keeps the system's trust store once it was needed.
#[derive(Debug, Clone, Default)]
pub struct Prober {
    roots: Arc<Roots>,
    identity: Option<Identity>,
}

impl Prober {
    pub fn new() -> Self {
        Self::default()
    }

    /// Shows this identity to targets that ask for one. Where the service that is behind a target is known
    /// ([`Prober::probe_service`]) its certificate may also be one that the identity's roots verify for that service.
    #[must_use]
    pub fn with_identity(mut self, identity: Option<Identity>) -> Self {
        self.identity = identity;
        self
    }

    /// Looks once. Name resolution, connection, TLS and answer together get `timeout`.
    pub async fn probe(&self, target: &ProbeTarget, timeout: Duration) -> ProbeOutcome {
        self.look(target, None, None, timeout).await
    }

    /// Looks once at an instance of a service.
    pub async fn probe_service(
        &self,
        service: &str,
        target: &ProbeTarget,
        timeout: Duration,
    ) -> ProbeOutcome {
        self.look(target, None, Some(service), timeout).await
    }

    /// Looks once, at an address of the caller's; the target's own host and port are only what it is asked for.
    pub async fn probe_at(&self, at: &At, target: &ProbeTarget, timeout: Duration) -> ProbeOutcome {
        self.look(target, Some(at), None, timeout).await
    }

    async fn look(
        &self,
        target: &ProbeTarget,
        at: Option<&At>,
        service: Option<&str>,
        timeout: Duration,
    ) -> ProbeOutcome {
        let started = Instant::now();
        let looking = async {
            match target {
                ProbeTarget::Http { tls_skip_verify, ca, .. } => {
                    let believed = self.believed(*tls_skip_verify, ca.as_ref(), service);
                    http::look(&believed, target, at).await
                }
                ProbeTarget::Tcp { addr } => look_tcp(addr, at).await,
                ProbeTarget::Grpc { addr, service: asked_for, tls, tls_skip_verify } => {
                    let believed = tls.then(|| self.believed(*tls_skip_verify, None, service));
                    grpc::look(&grpc::Asked { addr, service: asked_for, believed, at }).await
                }
            }
        };
        let found = tokio::time::timeout(timeout, looking).await;
        let timed_out = found.is_err();
        let finding = found.unwrap_or_else(|_| {
            Finding::critical(format!("{}: timed out after {timeout:?}", subject(target)))
        });
        ProbeOutcome {
            status: finding.status,
            output: cut(finding.output),
            latency: started.elapsed(),
            timed_out,
            http_status: finding.http_status,
        }
    }
}

impl Prober {
    fn believed(&self, skip_verify: bool, ca: Option<&PathBuf>, service: Option<&str>) -> Believed<'_> {
        let trust = match (skip_verify, ca, service) {
            (true, ..) => Trust::Anyone,
            (false, Some(path), _) => Trust::File(path.clone()),
            (false, None, Some(service)) if self.identity.is_some() => Trust::Service(service.to_owned()),
            (false, None, _) => Trust::System,
        };
        Believed { trust, roots: &self.roots, identity: self.identity.as_ref() }
    }
}

/// See [`Prober::probe`].
pub async fn probe(prober: &Prober, target: &ProbeTarget, timeout: Duration) -> ProbeOutcome {
    prober.probe(target, timeout).await
}

async fn look_tcp(addr: &str, at: Option<&At>) -> Finding {
    match connect::tcp(addr, at).await {
        Ok(_) => Finding {
            status: Status::Passing,
            output: format!("TCP connect {addr}: Success"),
            http_status: None,
        },
        Err(e) => Finding::critical(format!("TCP connect {addr}: {e}")),
    }
}

fn subject(target: &ProbeTarget) -> String {
    match target {
        ProbeTarget::Http { url, method, .. } => format!("HTTP {method} {url}"),
        ProbeTarget::Tcp { addr } => format!("TCP connect {addr}"),
        ProbeTarget::Grpc { addr, service, .. } => grpc::subject(addr, service),
    }
}

fn cut(mut output: String) -> String {
    output.truncate(output.floor_char_boundary(LONGEST));
    output
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_cut_between_characters() {
        assert_eq!(cut("ü".repeat(6000)).len(), LONGEST);
        assert_eq!(cut(format!("a{}", "ü".repeat(6000))).len(), LONGEST - 1);
    }
}
