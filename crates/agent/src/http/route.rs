//! The route table, on one page. A pattern that ends in `/` takes everything below it.

/// What answers a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    Acl,
    AgentCheckDeregister,
    AgentCheckFail,
    AgentCheckPass,
    AgentCheckRegister,
    AgentCheckUpdate,
    AgentCheckWarn,
    AgentChecks,
    AgentForceLeave,
    AgentHealthById,
    AgentHealthByName,
    AgentJoin,
    AgentLeave,
    AgentMaintenance,
    AgentMembers,
    AgentMetrics,
    AgentReload,
    AgentSelf,
    AgentService,
    AgentServiceDeregister,
    AgentServiceMaintenance,
    AgentServiceRegister,
    AgentServices,
    CatalogConnect,
    CatalogDatacenters,
    CatalogDeregister,
    CatalogNode,
    CatalogNodeServices,
    CatalogNodes,
    CatalogRegister,
    CatalogService,
    CatalogServices,
    ConnectDisabled,
    ConnectRoots,
    CoordinateDatacenters,
    CoordinateNode,
    CoordinateNodes,
    EventFire,
    EventList,
    HealthChecks,
    HealthConnect,
    HealthNode,
    HealthService,
    HealthState,
    Kv,
    OperatorAutopilot,
    OperatorHealth,
    OperatorRaft,
    Root,
    SessionCreate,
    SessionDestroy,
    SessionInfo,
    SessionList,
    SessionNode,
    SessionRenew,
    StatusLeader,
    StatusPeers,
    Txn,
}

use Endpoint as E;

/// Pattern, allowed methods, endpoint. Longer patterns win.
#[rustfmt::skip]
const ROUTES: &[(&str, &str, Endpoint)] = &[
    ("/", "GET", E::Root),
    ("/v1/acl/", "GET,PUT,POST,DELETE", E::Acl),
    ("/v1/agent/token/", "PUT", E::Acl),
    ("/v1/agent/self", "GET", E::AgentSelf),
    ("/v1/agent/members", "GET", E::AgentMembers),
    ("/v1/agent/metrics", "GET", E::AgentMetrics),
    ("/v1/agent/reload", "PUT", E::AgentReload),
    ("/v1/agent/join/", "PUT", E::AgentJoin),
    ("/v1/agent/leave", "PUT", E::AgentLeave),
    ("/v1/agent/force-leave/", "PUT", E::AgentForceLeave),
    ("/v1/agent/maintenance", "PUT", E::AgentMaintenance),
    ("/v1/agent/services", "GET", E::AgentServices),
    ("/v1/agent/service/", "GET", E::AgentService),
    ("/v1/agent/service/register", "PUT", E::AgentServiceRegister),
    ("/v1/agent/service/deregister/", "PUT", E::AgentServiceDeregister),
    ("/v1/agent/service/maintenance/", "PUT", E::AgentServiceMaintenance),
    ("/v1/agent/checks", "GET", E::AgentChecks),
    ("/v1/agent/check/register", "PUT", E::AgentCheckRegister),
    ("/v1/agent/check/deregister/", "PUT", E::AgentCheckDeregister),
    ("/v1/agent/check/pass/", "PUT", E::AgentCheckPass),
    ("/v1/agent/check/warn/", "PUT", E::AgentCheckWarn),
    ("/v1/agent/check/fail/", "PUT", E::AgentCheckFail),
    ("/v1/agent/check/update/", "PUT", E::AgentCheckUpdate),
    ("/v1/agent/health/service/id/", "GET", E::AgentHealthById),
    ("/v1/agent/health/service/name/", "GET", E::AgentHealthByName),
    ("/v1/agent/connect/authorize", "POST", E::ConnectDisabled),
    ("/v1/agent/connect/ca/roots", "GET", E::ConnectDisabled),
    ("/v1/agent/connect/ca/leaf/", "GET", E::ConnectDisabled),
    ("/v1/catalog/register", "PUT", E::CatalogRegister),
    ("/v1/catalog/deregister", "PUT", E::CatalogDeregister),
    ("/v1/catalog/datacenters", "GET", E::CatalogDatacenters),
    ("/v1/catalog/nodes", "GET", E::CatalogNodes),
    ("/v1/catalog/services", "GET", E::CatalogServices),
    ("/v1/catalog/service/", "GET", E::CatalogService),
    ("/v1/catalog/connect/", "GET", E::CatalogConnect),
    ("/v1/catalog/node/", "GET", E::CatalogNode),
    ("/v1/catalog/node-services/", "GET", E::CatalogNodeServices),
    ("/v1/connect/ca/roots", "GET", E::ConnectRoots),
    ("/v1/connect/ca/configuration", "GET,PUT", E::ConnectDisabled),
    ("/v1/coordinate/datacenters", "GET", E::CoordinateDatacenters),
    ("/v1/coordinate/nodes", "GET", E::CoordinateNodes),
    ("/v1/coordinate/node/", "GET", E::CoordinateNode),
    ("/v1/event/fire/", "PUT", E::EventFire),
    ("/v1/event/list", "GET", E::EventList),
    ("/v1/health/node/", "GET", E::HealthNode),
    ("/v1/health/checks/", "GET", E::HealthChecks),
    ("/v1/health/state/", "GET", E::HealthState),
    ("/v1/health/service/", "GET", E::HealthService),
    ("/v1/health/connect/", "GET", E::HealthConnect),
    ("/v1/kv/", "GET,PUT,DELETE", E::Kv),
    ("/v1/operator/raft/configuration", "GET", E::OperatorRaft),
    ("/v1/operator/autopilot/configuration", "GET", E::OperatorAutopilot),
    ("/v1/operator/autopilot/health", "GET", E::OperatorHealth),
    ("/v1/session/create", "PUT", E::SessionCreate),
    ("/v1/session/destroy/", "PUT", E::SessionDestroy),
    ("/v1/session/info/", "GET", E::SessionInfo),
    ("/v1/session/node/", "GET", E::SessionNode),
    ("/v1/session/list", "GET", E::SessionList),
    ("/v1/session/renew/", "PUT", E::SessionRenew),
    ("/v1/status/leader", "GET", E::StatusLeader),
    ("/v1/status/peers", "GET", E::StatusPeers),
    ("/v1/txn", "PUT", E::Txn),
];

/// A found route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route<'a> {
    pub endpoint: Endpoint,
    /// Comma-separated, as in `Allow`.
    pub methods: &'static str,
    /// The path behind the pattern.
    pub rest: &'a str,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Found<'a> {
    Route(Route<'a>),
    /// The path lacks its final slash.
    Slash,
    Nothing,
}

pub fn find(path: &str) -> Found<'_> {
    let mut best: Option<(&str, &'static str, Endpoint)> = None;
    for (pattern, methods, endpoint) in ROUTES {
        let below = pattern.len() > 1 && pattern.ends_with('/');
        let fits = if below { path.starts_with(pattern) } else { path == *pattern };
        if fits && best.is_none_or(|(b, ..)| pattern.len() > b.len()) {
            best = Some((pattern, methods, *endpoint));
        }
        if below && path.len() + 1 == pattern.len() && pattern.starts_with(path) && best.is_none() {
            let exact = ROUTES.iter().any(|(p, ..)| *p == path);
            if !exact {
                return Found::Slash;
            }
        }
    }
    match best {
        Some((pattern, methods, endpoint)) => {
            Found::Route(Route { endpoint, methods, rest: &path[pattern.len()..] })
        }
        None => Found::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str) -> (Endpoint, &str) {
        match find(path) {
            Found::Route(route) => (route.endpoint, route.rest),
            other => panic!("{path}: {other:?}"),
        }
    }

    #[test]
    fn the_longest_pattern_wins() {
        assert_eq!(found("/v1/agent/service/register"), (E::AgentServiceRegister, ""));
        assert_eq!(found("/v1/agent/service/web 1"), (E::AgentService, "web 1"));
        assert_eq!(found("/v1/kv/a/b"), (E::Kv, "a/b"));
        assert_eq!(found("/v1/kv/"), (E::Kv, ""));
        assert_eq!(find("/v1/kv"), Found::Slash);
        assert_eq!(find("/v1/nope"), Found::Nothing);
        assert_eq!(find("/v1/agent/services/"), Found::Nothing);
    }
}
