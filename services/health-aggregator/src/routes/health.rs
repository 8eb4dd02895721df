//! Roll-ups and instances.

use std::collections::BTreeMap;

use axum::extract::State;
use jiff::Timestamp;
use plinth_core::health::Overall;
use plinth_kit::auth::Caller;
use plinth_kit::problem::{Json, Path, Problem, Query};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::AppState;
use crate::Error;
use crate::domain::brake::{Answer, Engagement};
use crate::domain::case::Case;
use crate::domain::ownership;
use crate::domain::rollup::{self, Tally};
use crate::domain::warden::Warden;

/// The whole system at a glance.
#[derive(Debug, Serialize, ToSchema)]
pub struct SystemHealth {
    /// `healthy`, `degraded` or `unhealthy`.
    #[schema(value_type = String)]
    status: Overall,
    #[schema(value_type = String, format = DateTime)]
    timestamp: Timestamp,
    services: ServiceCounts,
    instances: InstanceCounts,
    /// What people should look at now.
    alerts: Vec<Alert>,
    replicas: Replicas,
}

#[derive(Debug, Default, Serialize, ToSchema)]
pub struct ServiceCounts {
    total: u32,
    healthy: u32,
    degraded: u32,
    unhealthy: u32,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct InstanceCounts {
    total: u32,
    passing: u32,
    warning: u32,
    critical: u32,
}

/// Something that needs a human eye.
#[derive(Debug, Serialize, ToSchema)]
pub struct Alert {
    /// `brake`: this replica holds back changes for the worse. `silent_replica`: one is registered and does not answer.
    kind: &'static str,
    message: String,
    /// Seconds since it began, where known.
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds: Option<u64>,
}

/// Who shares the work, as this replica sees it.
#[derive(Debug, Serialize, ToSchema)]
pub struct Replicas {
    /// The one that answers.
    id: String,
    live: Vec<String>,
    silent: Vec<String>,
    /// Instances that this replica probes.
    owned: usize,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct ServiceList {
    services: Vec<ServiceSummary>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct ServiceSummary {
    name: String,
    #[schema(value_type = String)]
    status: Overall,
    instances: InstanceCounts,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct ServiceHealth {
    #[serde(flatten)]
    summary: ServiceSummary,
    details: Vec<InstanceHealth>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct InstanceHealth {
    service_id: String,
    address: String,
    port: u16,
    /// `passing`, `warning` or `critical`, as the catalog has it.
    status: &'static str,
    /// What the check said at the last transition, or at the last probe when this replica makes them.
    output: String,
    /// Last probe by this replica; null when another one probes it.
    #[schema(value_type = Option<String>, format = DateTime)]
    last_check: Option<Timestamp>,
    /// When the status last changed.
    #[schema(value_type = Option<String>, format = DateTime)]
    last_transition: Option<Timestamp>,
    /// The replica that probes it.
    probed_by: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct ProbedInstances {
    instances: Vec<ProbedInstance>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct ProbedInstance {
    service_id: String,
    /// What the last probe found; the catalog's status may lag behind it by the thresholds.
    status: &'static str,
    #[schema(value_type = String, format = DateTime)]
    last_check: Timestamp,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct InstanceFilter {
    /// Only instances of these services; may be repeated. None: all.
    #[serde(default)]
    service: Vec<String>,
}

/// How the whole system is.
#[utoipa::path(get, path = "/api/v1/health/system", tag = "health", responses(
    (status = 200, body = SystemHealth), (status = 401, body = Problem), (status = 403, body = Problem),
    (status = 503, body = Problem, description = "nothing was read from Consul yet")))]
pub async fn system(State(state): State<AppState>, caller: Caller) -> Result<Json<SystemHealth>, Problem> {
    caller.require("health", "read", None)?;
    state.require_catalog()?;
    let (tallies, brake, owned) = {
        let warden = state.warden.lock();
        (tallies(&warden), warden.brake(), warden.owned())
    };
    let members = state.members.borrow().clone();
    let mut alerts = Vec::new();
    if let Some(brake) = brake {
        let seconds = Some(brake.since.elapsed().as_secs());
        alerts.push(Alert { kind: "brake", message: brake_message(&brake, owned), seconds });
    }
    for peer in &members.silent {
        let message = format!("the replica {} is registered and does not answer", peer.id);
        alerts.push(Alert { kind: "silent_replica", message, seconds: None });
    }
    let ids = |peers: Vec<crate::tasks::peer::Peer>| peers.into_iter().map(|peer| peer.id).collect();
    let (live, silent) = (ids(members.live), ids(members.silent));
    Ok(Json(SystemHealth {
        status: rollup::system(tallies.values()),
        timestamp: Timestamp::now(),
        services: service_counts(&tallies),
        instances: counts(&tallies.values().fold(Tally::default(), |sum, tally| sum + *tally)),
        alerts,
        replicas: Replicas { id: state.me, live, silent, owned },
    }))
}

/// How each service is.
#[utoipa::path(get, path = "/api/v1/health/services", tag = "health", responses(
    (status = 200, body = ServiceList), (status = 401, body = Problem),
    (status = 503, body = Problem, description = "nothing was read from Consul yet")))]
pub async fn services(State(state): State<AppState>, caller: Caller) -> Result<Json<ServiceList>, Problem> {
    state.require_catalog()?;
    let tallies = tallies(&state.warden.lock());
    // What the caller may not read is not there for it.
    let readable = tallies.into_iter().filter(|(name, _)| caller.allows("health", "read", Some(name)));
    Ok(Json(ServiceList { services: readable.map(|(name, tally)| summary(name, &tally)).collect() }))
}

/// How one service is, instance by instance.
#[utoipa::path(get, path = "/api/v1/health/services/{name}", tag = "health",
    params(("name" = String, Path, description = "name of the service")), responses(
    (status = 200, body = ServiceHealth), (status = 401, body = Problem), (status = 403, body = Problem),
    (status = 404, body = Problem, description = "no instance of it is registered"),
    (status = 503, body = Problem, description = "nothing was read from Consul yet")))]
pub async fn service(
    State(state): State<AppState>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Json<ServiceHealth>, Problem> {
    caller.require("health", "read", Some(&name))?;
    state.require_catalog()?;
    let warden = state.warden.lock();
    let mut tally = Tally::default();
    let mut details = Vec::new();
    for (_, case) in warden.cases().filter(|(_, case)| case.document.registration.service_name == name) {
        if let Some(status) = case.status() {
            tally.count(status);
        }
        details.push(instance(case, warden.live_members()));
    }
    if details.is_empty() {
        return Err(Error::UnknownService(name).into());
    }
    details.sort_unstable_by(|a, b| a.service_id.cmp(&b.service_id));
    Ok(Json(ServiceHealth { summary: summary(name, &tally), details }))
}

/// What this replica probes, with the time of each last probe. Ask every replica and take the newest.
#[utoipa::path(get, path = "/api/v1/health/instances", tag = "health", params(InstanceFilter), responses(
    (status = 200, body = ProbedInstances), (status = 401, body = Problem)))]
pub async fn instances(
    State(state): State<AppState>,
    caller: Caller,
    Query(filter): Query<InstanceFilter>,
) -> Result<Json<ProbedInstances>, Problem> {
    let warden = state.warden.lock();
    let mut instances: Vec<ProbedInstance> = warden
        .cases()
        .filter(|(_, case)| {
            let name = &case.document.registration.service_name;
            (filter.service.is_empty() || filter.service.contains(name))
                && caller.allows("health", "read", Some(name))
        })
        .filter_map(|(id, case)| {
            let last = case.last.as_ref().filter(|_| case.owned)?;
            Some(ProbedInstance {
                service_id: id.to_string(),
                status: last.status.as_str(),
                last_check: last.at,
            })
        })
        .collect();
    instances.sort_unstable_by(|a, b| a.service_id.cmp(&b.service_id));
    Ok(Json(ProbedInstances { instances }))
}

impl AppState {
    fn require_catalog(&self) -> Result<(), Error> {
        if self.catalog.borrow().is_some() { Ok(()) } else { Err(Error::NotReady) }
    }
}

pub fn brake_message(brake: &Engagement, owned: usize) -> String {
    let peer = match brake.answer {
        Answer::Disagrees => "another replica does not see that",
        Answer::Absent | Answer::Agrees => "no other replica can confirm that",
    };
    let bad = brake.bad;
    format!(
        "{bad} of {owned} instances turned bad at once from here and {peer}: changes for the worse are held back"
    )
}

fn tallies(warden: &Warden) -> BTreeMap<String, Tally> {
    rollup::services(
        warden
            .cases()
            .filter_map(|(_, case)| Some((case.document.registration.service_name.as_str(), case.status()?))),
    )
}

fn service_counts(tallies: &BTreeMap<String, Tally>) -> ServiceCounts {
    let mut counts = ServiceCounts::default();
    for tally in tallies.values() {
        counts.total += 1;
        match tally.overall() {
            Overall::Healthy => counts.healthy += 1,
            Overall::Degraded => counts.degraded += 1,
            Overall::Unhealthy => counts.unhealthy += 1,
        }
    }
    counts
}

fn counts(tally: &Tally) -> InstanceCounts {
    InstanceCounts {
        total: tally.total(),
        passing: tally.passing,
        warning: tally.warning,
        critical: tally.critical,
    }
}

fn summary(name: String, tally: &Tally) -> ServiceSummary {
    ServiceSummary { name, status: tally.overall(), instances: counts(tally) }
}

fn instance(case: &Case, members: &[String]) -> InstanceHealth {
    let registration = &case.document.registration;
    let last = case.last.as_ref().filter(|_| case.owned);
    let check = case.check();
    InstanceHealth {
        service_id: registration.service_id.clone(),
        address: registration.address.clone(),
        port: registration.port,
        status: case.status().map_or("unknown", |status| status.as_str()),
        output: match (last, check) {
            (Some(last), _) => last.output.clone(),
            (None, Some(check)) => check.output.clone(),
            (None, None) => String::new(),
        },
        last_check: last.map(|last| last.at),
        last_transition: check.and_then(|check| check.notes.parse().ok()),
        probed_by: case
            .target()
            .and_then(|_| ownership::owner(&registration.service_id, members))
            .map(str::to_owned),
    }
}
