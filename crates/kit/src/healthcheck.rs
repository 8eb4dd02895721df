//! `<service> healthcheck`: asks the running service how it is, with the same settings. For container health checks: an
//! image without a shell or curl needs no other program.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use http::StatusCode;

use crate::outbound::{Outbound, OutboundError};
use crate::service::{Service, ServiceSettings, StatusListen};
use crate::settings::Reader;

/// Longest wait for the answer, below the shortest time-out that container runtimes use in practice.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Answers are a few words.
const ANSWER_LIMIT: usize = 64 << 10;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Probe {
    /// Whether the process answers at all.
    #[default]
    Live,
    /// Whether requests may be sent to it.
    Ready,
}

impl FromStr for Probe {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Probe, &'static str> {
        match text {
            "live" => Ok(Probe::Live),
            "ready" => Ok(Probe::Ready),
            _ => Err("can be asked for live or ready"),
        }
    }
}

/// Why a health check fails.
#[derive(Debug, thiserror::Error)]
pub enum HealthcheckError {
    #[error("{url} answered {status}: {}", body.trim())]
    Status { url: String, status: StatusCode, body: String },
    #[error("{url} does not answer")]
    Call { url: String, source: OutboundError },
    #[error("no runtime")]
    Runtime(#[from] std::io::Error),
}

/// Asks the service that listens on `address` in plain HTTP.
///
/// # Errors
/// No answer in time, or one other than 200.
pub async fn healthcheck(address: SocketAddr, probe: Probe) -> Result<(), HealthcheckError> {
    let path = match probe {
        Probe::Live => "/health/live",
        Probe::Ready => "/health/ready",
    };
    let url = format!("http://{}{path}", reachable(address));
    let called = async { Outbound::new()?.get(&url, TIMEOUT, ANSWER_LIMIT).await };
    let answer = called.await.map_err(|source| HealthcheckError::Call { url: url.clone(), source })?;
    if answer.status() == StatusCode::OK {
        return Ok(());
    }
    let body = String::from_utf8_lossy(answer.body()).into_owned();
    Err(HealthcheckError::Status { url, status: answer.status(), body })
}

/// Where to ask; a fault of the settings when nothing there can be asked.
pub(crate) fn target(reader: &mut Reader, service: &Service, settings: &ServiceSettings) -> SocketAddr {
    let status = match (service.status_port, settings.listen) {
        (Some(port), _) => {
            let default = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            // the service's own notation may have words behind the address
            let given: Option<String> = reader.opt("status_listen", "");
            let given = given.as_deref().and_then(|text| text.split_whitespace().next());
            given.map_or(Ok(StatusListen(Some(default))), str::parse).unwrap_or_default()
        }
        (None, Some(listen))
            if settings.status_listen.0.is_none() && settings.tls.is_none() && settings.mtls.is_none() =>
        {
            StatusListen(Some(listen))
        }
        _ => settings.status_listen,
    };
    status.0.unwrap_or_else(|| {
        reader.fault("status_listen", "is needed for healthcheck: the other listeners want TLS or a token");
        SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
    })
}

/// The check as the whole of a process.
pub(crate) fn run(target: SocketAddr, probe: Probe) -> Result<(), HealthcheckError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(healthcheck(target, probe))
}

/// What listens on every address also listens on loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}
