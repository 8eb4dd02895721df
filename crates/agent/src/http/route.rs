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
    AgentHost,
    AgentJoin,
    AgentLeave,
    AgentMaintenance,
    AgentMembers,
    AgentMetrics,
    AgentMonitor,
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
    CatalogGatewayServices,
    CatalogNode,
    CatalogNodeServices,
    CatalogNodes,
    CatalogRegister,
    CatalogService,
    CatalogServices,
    Config,
    ConfigApply,
    ConnectAgentRoots,
    ConnectAuthorize,
    ConnectConfiguration,
    ConnectLeaf,
    ConnectRoots,
    CoordinateDatacenters,
    CoordinateNode,
    CoordinateNodes,
    CoordinateUpdate,
    DiscoveryChain,
    EventFire,
    EventList,
    HealthChecks,
    HealthConnect,
    HealthIngress,
    HealthNode,
    HealthService,
    HealthState,
    Intention,
    IntentionCheck,
    IntentionMatch,
    Intentions,
    Kv,
    OperatorAutopilot,
    OperatorHealth,
    OperatorKeyring,
    OperatorRaft,
    OperatorRaftPeer,
    Queries,
    Query,
    Root,
    SessionCreate,
    SessionDestroy,
    SessionInfo,
    SessionList,
    SessionNode,
    SessionRenew,
    Snapshot,
    StatusLeader,
    StatusPeers,
    Txn,
    UiGatewayServices,
    UiNode,
    UiNodes,
    UiServices,
}

use Endpoint as E;

/// Pattern, allowed methods (none: the endpoint says), endpoint. Longer patterns win.
#[rustfmt::skip]
const ROUTES: &[(&str, &str, Endpoint)] = &[
    ("/", "", E::Root),
    ("/v1/acl/auth-method", "PUT", E::Acl),
    ("/v1/acl/auth-method/", "GET,PUT,DELETE", E::Acl),
    ("/v1/acl/auth-methods", "GET", E::Acl),
    ("/v1/acl/binding-rule", "PUT", E::Acl),
    ("/v1/acl/binding-rule/", "GET,PUT,DELETE", E::Acl),
    ("/v1/acl/binding-rules", "GET", E::Acl),
    ("/v1/acl/bootstrap", "PUT", E::Acl),
    ("/v1/acl/clone/", "PUT", E::Acl),
    ("/v1/acl/create", "PUT", E::Acl),
    ("/v1/acl/destroy/", "PUT", E::Acl),
    ("/v1/acl/info/", "GET", E::Acl),
    ("/v1/acl/list", "GET", E::Acl),
    ("/v1/acl/login", "POST", E::Acl),
    ("/v1/acl/logout", "POST", E::Acl),
    ("/v1/acl/policies", "GET", E::Acl),
    ("/v1/acl/policy", "PUT", E::Acl),
    ("/v1/acl/policy/", "GET,PUT,DELETE", E::Acl),
    ("/v1/acl/policy/name/", "GET", E::Acl),
    ("/v1/acl/replication", "GET", E::Acl),
    ("/v1/acl/role", "PUT", E::Acl),
    ("/v1/acl/role/", "GET,PUT,DELETE", E::Acl),
    ("/v1/acl/role/name/", "GET", E::Acl),
    ("/v1/acl/roles", "GET", E::Acl),
    ("/v1/acl/rules/translate", "POST", E::Acl),
    ("/v1/acl/rules/translate/", "GET", E::Acl),
    ("/v1/acl/token", "PUT", E::Acl),
    ("/v1/acl/token/", "GET,PUT,DELETE", E::Acl),
    ("/v1/acl/token/self", "GET", E::Acl),
    ("/v1/acl/tokens", "GET", E::Acl),
    ("/v1/acl/update", "PUT", E::Acl),
    ("/v1/agent/check/deregister/", "PUT", E::AgentCheckDeregister),
    ("/v1/agent/check/fail/", "PUT", E::AgentCheckFail),
    ("/v1/agent/check/pass/", "PUT", E::AgentCheckPass),
    ("/v1/agent/check/register", "PUT", E::AgentCheckRegister),
    ("/v1/agent/check/update/", "PUT", E::AgentCheckUpdate),
    ("/v1/agent/check/warn/", "PUT", E::AgentCheckWarn),
    ("/v1/agent/checks", "GET", E::AgentChecks),
    ("/v1/agent/connect/authorize", "POST", E::ConnectAuthorize),
    ("/v1/agent/connect/ca/leaf/", "GET", E::ConnectLeaf),
    ("/v1/agent/connect/ca/roots", "GET", E::ConnectAgentRoots),
    ("/v1/agent/force-leave/", "PUT", E::AgentForceLeave),
    ("/v1/agent/health/service/id/", "GET", E::AgentHealthById),
    ("/v1/agent/health/service/name/", "GET", E::AgentHealthByName),
    ("/v1/agent/host", "GET", E::AgentHost),
    ("/v1/agent/join/", "PUT", E::AgentJoin),
    ("/v1/agent/leave", "PUT", E::AgentLeave),
    ("/v1/agent/maintenance", "PUT", E::AgentMaintenance),
    ("/v1/agent/members", "GET", E::AgentMembers),
    ("/v1/agent/metrics", "GET", E::AgentMetrics),
    ("/v1/agent/monitor", "GET", E::AgentMonitor),
    ("/v1/agent/reload", "PUT", E::AgentReload),
    ("/v1/agent/self", "GET", E::AgentSelf),
    ("/v1/agent/service/", "GET", E::AgentService),
    ("/v1/agent/service/deregister/", "PUT", E::AgentServiceDeregister),
    ("/v1/agent/service/maintenance/", "PUT", E::AgentServiceMaintenance),
    ("/v1/agent/service/register", "PUT", E::AgentServiceRegister),
    ("/v1/agent/services", "GET", E::AgentServices),
    ("/v1/agent/token/", "PUT", E::Acl),
    ("/v1/catalog/connect/", "GET", E::CatalogConnect),
    ("/v1/catalog/datacenters", "GET", E::CatalogDatacenters),
    ("/v1/catalog/deregister", "PUT", E::CatalogDeregister),
    ("/v1/catalog/gateway-services/", "GET", E::CatalogGatewayServices),
    ("/v1/catalog/node-services/", "GET", E::CatalogNodeServices),
    ("/v1/catalog/node/", "GET", E::CatalogNode),
    ("/v1/catalog/nodes", "GET", E::CatalogNodes),
    ("/v1/catalog/register", "PUT", E::CatalogRegister),
    ("/v1/catalog/service/", "GET", E::CatalogService),
    ("/v1/catalog/services", "GET", E::CatalogServices),
    ("/v1/config", "PUT", E::ConfigApply),
    ("/v1/config/", "GET,DELETE", E::Config),
    ("/v1/connect/ca/configuration", "GET,PUT", E::ConnectConfiguration),
    ("/v1/connect/ca/roots", "GET", E::ConnectRoots),
    ("/v1/connect/intentions", "GET,POST", E::Intentions),
    ("/v1/connect/intentions/", "GET,PUT,DELETE", E::Intention),
    ("/v1/connect/intentions/check", "GET", E::IntentionCheck),
    ("/v1/connect/intentions/match", "GET", E::IntentionMatch),
    ("/v1/coordinate/datacenters", "GET", E::CoordinateDatacenters),
    ("/v1/coordinate/node/", "GET", E::CoordinateNode),
    ("/v1/coordinate/nodes", "GET", E::CoordinateNodes),
    ("/v1/coordinate/update", "PUT", E::CoordinateUpdate),
    ("/v1/discovery-chain/", "GET,POST", E::DiscoveryChain),
    ("/v1/event/fire/", "PUT", E::EventFire),
    ("/v1/event/list", "GET", E::EventList),
    ("/v1/health/checks/", "GET", E::HealthChecks),
    ("/v1/health/connect/", "GET", E::HealthConnect),
    ("/v1/health/ingress/", "GET", E::HealthIngress),
    ("/v1/health/node/", "GET", E::HealthNode),
    ("/v1/health/service/", "GET", E::HealthService),
    ("/v1/health/state/", "GET", E::HealthState),
    ("/v1/internal/acl/authorize", "POST", E::Acl),
    ("/v1/internal/ui/gateway-services-nodes/", "GET", E::UiGatewayServices),
    ("/v1/internal/ui/node/", "GET", E::UiNode),
    ("/v1/internal/ui/nodes", "GET", E::UiNodes),
    ("/v1/internal/ui/services", "GET", E::UiServices),
    ("/v1/kv/", "GET,PUT,DELETE", E::Kv),
    ("/v1/operator/autopilot/configuration", "GET,PUT", E::OperatorAutopilot),
    ("/v1/operator/autopilot/health", "GET", E::OperatorHealth),
    ("/v1/operator/keyring", "GET,POST,PUT,DELETE", E::OperatorKeyring),
    ("/v1/operator/raft/configuration", "GET", E::OperatorRaft),
    ("/v1/operator/raft/peer", "DELETE", E::OperatorRaftPeer),
    ("/v1/query", "GET,POST", E::Queries),
    ("/v1/query/", "", E::Query),
    ("/v1/session/create", "PUT", E::SessionCreate),
    ("/v1/session/destroy/", "PUT", E::SessionDestroy),
    ("/v1/session/info/", "GET", E::SessionInfo),
    ("/v1/session/list", "GET", E::SessionList),
    ("/v1/session/node/", "GET", E::SessionNode),
    ("/v1/session/renew/", "PUT", E::SessionRenew),
    ("/v1/snapshot", "GET,PUT", E::Snapshot),
    ("/v1/status/leader", "GET", E::StatusLeader),
    ("/v1/status/peers", "GET", E::StatusPeers),
    ("/v1/txn", "PUT", E::Txn),
];

/// The byte behind `/v1/`.
const FIRST_THAT_DIFFERS: usize = 4;

/// What an endpoint makes of `dc=` when it names another datacenter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Elsewhere {
    /// It does not look, or looks only after the body is read.
    Ignored,
    Refused,
    /// Refused with the headers of a read that never came to an answer.
    RefusedAsRead,
}

/// What an endpoint does with the parameters all requests may have, before it does anything else (seen on Consul 1.8.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Manners {
    /// `ns=` and the namespace header are refused.
    pub namespaced: bool,
    /// `index`, `wait` and consistency flags must be well-formed.
    pub parses: bool,
    pub elsewhere: Elsewhere,
}

impl Endpoint {
    pub fn manners(self) -> Manners {
        use Elsewhere::{Ignored, Refused, RefusedAsRead};
        let all = |namespaced, parses, elsewhere| Manners { namespaced, parses, elsewhere };
        match self {
            E::CatalogServices
            | E::CatalogService
            | E::CatalogConnect
            | E::CatalogNode
            | E::CatalogNodeServices
            | E::CatalogGatewayServices
            | E::HealthNode
            | E::HealthChecks
            | E::HealthState
            | E::HealthService
            | E::HealthConnect
            | E::HealthIngress
            | E::SessionInfo
            | E::SessionNode
            | E::UiGatewayServices
            | E::UiNode
            | E::UiNodes
            | E::UiServices
            | E::SessionList => all(true, true, RefusedAsRead),
            E::CatalogNodes
            | E::CoordinateNodes
            | E::CoordinateNode
            | E::ConnectRoots
            | E::Intentions
            | E::Queries
            | E::Query => all(false, true, RefusedAsRead),
            E::Kv | E::Config | E::SessionRenew => all(true, true, Refused),
            E::StatusLeader
            | E::StatusPeers
            | E::OperatorRaft
            | E::OperatorHealth
            | E::OperatorAutopilot
            | E::ConnectAgentRoots
            | E::Intention => all(false, true, Refused),
            E::ConnectLeaf | E::DiscoveryChain => all(true, true, Ignored),
            E::IntentionMatch | E::IntentionCheck | E::ConnectConfiguration => all(false, true, Ignored),
            E::SessionDestroy => all(true, false, Refused),
            E::EventFire | E::Snapshot => all(false, false, Refused),
            E::AgentService
            | E::AgentServices
            | E::AgentServiceRegister
            | E::AgentServiceDeregister
            | E::AgentChecks
            | E::AgentCheckRegister
            | E::AgentCheckDeregister
            | E::AgentCheckPass
            | E::AgentCheckWarn
            | E::AgentCheckFail
            | E::AgentHealthById
            | E::AgentHealthByName
            | E::ConnectAuthorize
            | E::CatalogRegister
            | E::CatalogDeregister
            | E::SessionCreate => all(true, false, Ignored),
            _ => all(false, false, Ignored),
        }
    }
}

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
    // the table is in order, so those that share this byte are together
    let byte = |path: &str| path.as_bytes().get(FIRST_THAT_DIFFERS).copied();
    let wanted = byte(path);
    let start = ROUTES.partition_point(|(pattern, ..)| byte(pattern) < wanted);
    let alike = ROUTES[start..].iter().take_while(|(pattern, ..)| byte(pattern) == wanted);
    for (pattern, methods, endpoint) in alike {
        let below = pattern.len() > 1 && pattern.ends_with('/');
        let fits = if below { path.starts_with(pattern) } else { path == *pattern };
        if fits && best.is_none_or(|(b, ..)| pattern.len() > b.len()) {
            best = Some((pattern, methods, *endpoint));
        }
        // even where a shorter pattern takes it
        let slashless = below && path.len() + 1 == pattern.len() && pattern.starts_with(path);
        if slashless && !ROUTES.iter().any(|(p, ..)| *p == path) {
            return Found::Slash;
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
    fn the_table_is_in_order() {
        assert!(ROUTES.is_sorted_by_key(|(pattern, ..)| pattern.as_bytes().get(FIRST_THAT_DIFFERS)));
        for (pattern, _, endpoint) in ROUTES {
            assert_eq!(found(pattern).0, *endpoint, "{pattern}");
        }
    }

    #[test]
    fn the_longest_pattern_wins() {
        assert_eq!(found("/v1/agent/service/register"), (E::AgentServiceRegister, ""));
        assert_eq!(found("/v1/agent/service/web 1"), (E::AgentService, "web 1"));
        assert_eq!(found("/v1/kv/a/b"), (E::Kv, "a/b"));
        assert_eq!(found("/v1/kv/"), (E::Kv, ""));
        assert_eq!(find("/v1/kv"), Found::Slash);
        assert_eq!(find("/v1/agent/service/maintenance"), Found::Slash);
        assert_eq!(found("/v1/acl/role"), (E::Acl, ""));
        assert_eq!(find("/v1/nope"), Found::Nothing);
        assert_eq!(find("/v1/agent/services/"), Found::Nothing);
    }
}
