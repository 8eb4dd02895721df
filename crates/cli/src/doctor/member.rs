//! One replica of a service: whether it can be asked, what it says, what its figures mean.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use plinth_core::consul::wire::ServiceEntry;
use plinth_core::registration::host_port;
use plinth_kit::outbound::Outbound;
use serde_json::Value;

use super::exposition::{label, samples, value};
use super::finding::Finding;

const ANSWER_LIMIT: usize = 8 << 20;
/// Beyond the first a clock is worth a look, beyond the second tokens are refused (`auth.leeway`).
const CLOCK: (f64, f64) = (2.0, 30.0);
const DAY: f64 = 86_400.0;

/// A replica as the catalog has it.
pub struct Member {
    pub id: String,
    pub version: String,
    /// Its worst check in the catalog.
    status: String,
    output: String,
    base: String,
    /// False where health can only be asked behind TLS or not at all.
    has_status: bool,
}

/// What it answered.
pub struct Seen {
    /// The body of `/health`, and this machine's clock when it came.
    health: Result<(Value, Timestamp), String>,
    metrics: String,
}

impl Member {
    pub fn new(service: &'static str, entry: &ServiceEntry) -> Self {
        let meta = &entry.service.meta;
        let address =
            if entry.service.address.is_empty() { &entry.node.address } else { &entry.service.address };
        let status_port = meta.get("status_port").and_then(|port| port.parse::<u16>().ok());
        let scheme = meta.get("scheme").map_or("http", String::as_str);
        let base = match status_port {
            Some(port) => format!("http://{}", host_port(address, port)),
            None => format!("{scheme}://{}", host_port(address, entry.service.port)),
        };
        let worst = |status: &str| entry.checks.iter().find(|check| check.status == status);
        let worst = worst("critical").or_else(|| worst("warning"));
        Self {
            id: entry.service.id.clone(),
            version: meta.get("version").cloned().unwrap_or_default(),
            status: worst.map_or_else(|| "passing".to_owned(), |check| check.status.clone()),
            output: worst.map(|check| check.output.clone()).unwrap_or_default(),
            base,
            has_status: status_port.is_some() || (scheme == "http" && service != "gateway"),
        }
    }

    pub async fn look(&self, outbound: &Outbound, timeout: Duration) -> Seen {
        if !self.has_status {
            return Seen { health: Err(String::new()), metrics: String::new() };
        }
        let get = async |path: &str| {
            let url = format!("{}{path}", self.base);
            let answer = outbound.get(&url, timeout, ANSWER_LIMIT).await;
            answer.map_err(|error| format!("{url}: {}", plinth_kit::problem::chain(&error)))
        };
        let health = get("/health").await.and_then(|answer| {
            let body = serde_json::from_slice(answer.body());
            body.map(|body| (body, Timestamp::now())).map_err(|_| format!("{}/health is not JSON", self.base))
        });
        let metrics = get("/metrics").await.map(|answer| String::from_utf8_lossy(answer.body()).into_owned());
        Seen { health, metrics: metrics.unwrap_or_default() }
    }
}

/// What is right and wrong with a replica.
pub fn judge(member: &Member, seen: &Seen, now: Timestamp, certificate_days: u32) -> Vec<Finding> {
    let id = &member.id;
    let mut findings = vec![in_catalog(member)];
    match &seen.health {
        Err(_) if !member.has_status => findings.push(
            Finding::warning(
                id,
                "reachable",
                "cannot be asked from here: it has no status listener that others reach",
            )
            .with("set status_listen to an address of the same host, such as 0.0.0.0:8007"),
        ),
        Err(why) => findings.push(
            Finding::problem(id, "reachable", why.clone())
                .with("look whether it runs, and whether its address in the catalog is reachable from here"),
        ),
        Ok((body, at)) => {
            findings.extend(components(id, body));
            findings.extend(clock(id, body, *at));
        }
    }
    findings.extend(figures(member, &seen.metrics, now, certificate_days));
    findings
}

fn in_catalog(member: &Member) -> Finding {
    let finding = |message| match member.status.as_str() {
        "passing" => Finding::ok(&member.id, "catalog", "passing"),
        "warning" => Finding::warning(&member.id, "catalog", message),
        _ => Finding::problem(&member.id, "catalog", message),
    };
    let line = member.output.lines().next().unwrap_or_default();
    let found = finding(format!("{}: {line}", member.status));
    if member.status == "passing" {
        return found;
    }
    found.with("callers do not get this replica; its check says why")
}

/// The component checks of `/health`.
fn components(id: &str, body: &Value) -> Vec<Finding> {
    let checks = body["checks"].as_object();
    let failing: Vec<Finding> = checks
        .into_iter()
        .flatten()
        .filter(|(_, check)| check["status"] == "fail")
        .map(|(name, check)| {
            let details =
                check["details"].as_str().map_or_else(|| check["details"].to_string(), str::to_owned);
            let message = format!("{name}: {details}");
            let found = match body["status"].as_str() {
                Some("unhealthy") => Finding::problem(id, "health", message),
                _ => Finding::warning(id, "health", message),
            };
            found.with(remedy(name))
        })
        .collect();
    if failing.is_empty() {
        let count = checks.map_or(0, serde_json::Map::len);
        return vec![Finding::ok(id, "health", format!("{count} checks pass"))];
    }
    failing
}

fn remedy(component: &str) -> &'static str {
    match component {
        "consul" | "catalog" | "discovery" | "snapshots" => {
            "this replica does not reach Consul: look at consul.address, its token and the network between them"
        }
        "sql" => {
            "look at database.url and whether the database takes connections; writes are refused meanwhile"
        }
        "outbox" | "rabbitmq" => "events wait in the outbox: look at events.url and whether RabbitMQ is up",
        "registration" => {
            "the replica is not in the catalog: another owner may hold its id, or Consul refuses writes"
        }
        "health_aggregator" => "start a health-aggregator: without one nobody probes instances",
        "brake" => "many instances turned at once: look at the network before you release it",
        "identity" => "look at mtls.source and whether Consul's CA or the certificate files can be read",
        _ => "its log has the whole reason",
    }
}

fn clock(id: &str, body: &Value, at: Timestamp) -> Option<Finding> {
    let theirs: Timestamp = body["timestamp"].as_str()?.parse().ok()?;
    let off = theirs.duration_since(at).as_secs_f64();
    let message = format!("its clock differs from this one by {off:.1} s");
    match off.abs() {
        off if off > CLOCK.1 => Some(
            Finding::problem(id, "clock", message)
                .with("synchronise the clocks (chrony, ntpd): tokens are refused"),
        ),
        off if off > CLOCK.0 => {
            Some(Finding::warning(id, "clock", message).with("synchronise the clocks (chrony, ntpd)"))
        }
        _ => None,
    }
}

fn figures(member: &Member, metrics: &str, now: Timestamp, certificate_days: u32) -> Vec<Finding> {
    let id = &member.id;
    let mut findings = Vec::new();
    if value(metrics, "gateway_config_last_reload_successful") == Some(0.0) {
        findings.push(
            Finding::problem(
                id,
                "configuration",
                "refused the configuration offered last; the one before runs",
            )
            .with("GET /status of the Admin API has the reason; `plinth gateway check FILE` finds it before"),
        );
    }
    let resident = value(metrics, "process_open_fds").zip(value(metrics, "process_max_fds"));
    if let Some((open, most)) = resident.filter(|(open, most)| *open > most * 0.8) {
        findings.push(
            Finding::warning(id, "descriptors", format!("{open} of {most} file descriptors are in use"))
                .with("raise the limit (ulimit -n, LimitNOFILE) or lower server.max_connections"),
        );
    }
    for (labels, end) in samples(metrics, "plinth_certificate_expiry_timestamp_seconds") {
        let days = (end - now.as_millisecond() as f64 / 1000.0) / DAY;
        let used = label(labels, "use").unwrap_or("tls");
        let message = format!("the {used} certificate ends in {days:.1} days");
        // leaves of Consul's authority live three days and are renewed by themselves
        let soon = if used == "mtls" { 0.25 } else { f64::from(certificate_days) };
        findings.push(match days {
            days if days <= 0.0 => {
                Finding::problem(id, "certificate", format!("the {used} certificate has ended"))
                    .with("replace the files (they are read again within 10 s), or look at Consul's CA")
            }
            days if days < soon => Finding::warning(id, "certificate", message)
                .with("renew it; files are read again within 10 s"),
            _ => Finding::ok(id, "certificate", message),
        });
    }
    findings
}

/// Replicas of different versions, as during a rolling update that stands still.
pub fn compare(members: &[Member], own: &str) -> Vec<Finding> {
    let versions: BTreeSet<&str> =
        members.iter().map(|member| member.version.as_str()).filter(|version| !version.is_empty()).collect();
    let listed = versions.iter().copied().collect::<Vec<_>>().join(", ");
    match versions.len() {
        0 => Vec::new(),
        1 if versions.contains(own) => vec![Finding::ok("all", "versions", listed)],
        1 => vec![
            Finding::warning("all", "versions", format!("all replicas are {listed}, this program is {own}"))
                .with("use the program of the same version"),
        ],
        _ => vec![
            Finding::warning("all", "versions", format!("replicas differ: {listed}"))
                .with("finish or roll back the update"),
        ],
    }
}

#[cfg(test)]
#[path = "member/tests.rs"]
mod tests;
