//! Which handler answers which endpoint.

use http::StatusCode;

use super::reply::{Handled, Reply};
use super::route::Endpoint as E;
use super::{Call, Server};

impl Server {
    pub(super) async fn dispatch(&self, endpoint: E, call: &Call<'_>) -> Handled {
        use crate::state::model::Status;
        match endpoint {
            E::Kv => self.kv(call).await,
            E::HealthService => self.health_service(call, false).await,
            E::HealthConnect => self.health_service(call, true).await,
            E::HealthNode => self.health_node(call).await,
            E::HealthChecks => self.health_checks(call).await,
            E::HealthState => self.health_state(call).await,
            E::Txn => Box::pin(self.txn(call)).await,
            E::CatalogNodes => self.catalog_nodes(call).await,
            E::CatalogServices => self.catalog_services(call).await,
            E::CatalogService => self.catalog_service(call, false).await,
            E::CatalogConnect => self.catalog_service(call, true).await,
            E::CatalogNode => self.catalog_node(call, false).await,
            E::CatalogNodeServices => self.catalog_node(call, true).await,
            E::CatalogRegister => Box::pin(self.catalog_register(call)).await,
            E::CatalogDeregister => self.catalog_deregister(call).await,
            E::CatalogDatacenters => self.catalog_datacenters(call),
            E::SessionCreate => self.session_create(call).await,
            E::SessionDestroy => self.session_destroy(call).await,
            E::SessionRenew => self.session_renew(call).await,
            E::SessionInfo => self.session_info(call).await,
            E::SessionList => self.session_list(call).await,
            E::SessionNode => self.session_node(call).await,
            E::AgentServices => self.agent_services(call),
            E::AgentService => self.agent_service(call).await,
            E::AgentServiceRegister => Box::pin(self.agent_service_register(call)).await,
            E::AgentServiceDeregister => self.agent_service_deregister(call).await,
            E::AgentServiceMaintenance => self.agent_service_maintenance(call).await,
            E::AgentMaintenance => self.agent_maintenance(call).await,
            E::AgentChecks => self.agent_checks(call),
            E::AgentCheckRegister => Box::pin(self.agent_check_register(call)).await,
            E::AgentCheckDeregister => self.agent_check_deregister(call).await,
            E::AgentCheckPass => self.agent_check_report(call, Status::Passing).await,
            E::AgentCheckWarn => self.agent_check_report(call, Status::Warning).await,
            E::AgentCheckFail => self.agent_check_report(call, Status::Critical).await,
            E::AgentCheckUpdate => self.agent_check_update(call).await,
            E::AgentHealthById => self.agent_health(call, false),
            E::AgentHealthByName => self.agent_health(call, true),
            E::EventList => self.event_list(call).await,
            E::Queries => self.queries(call).await,
            E::Query => Box::pin(self.query(call)).await,
            E::ConfigApply => Box::pin(self.config_apply(call)).await,
            E::Config => self.config(call).await,
            E::CatalogGatewayServices => self.catalog_gateway_services(call).await,
            E::Intentions => Box::pin(self.intentions(call)).await,
            E::Intention => Box::pin(self.intention(call)).await,
            E::ConnectRoots => self.connect_roots(call, false).await,
            E::ConnectAgentRoots => self.connect_roots(call, true).await,
            E::ConnectConfiguration => Box::pin(self.connect_configuration(call)).await,
            E::ConnectLeaf => Box::pin(self.connect_leaf(call)).await,
            E::OperatorAutopilot => Box::pin(self.operator_autopilot(call)).await,
            E::HealthIngress => self.health_ingress(call).await,
            E::DiscoveryChain => self.discovery_chain(call).await,
            E::Snapshot => Box::pin(self.snapshot(call)).await,
            E::CoordinateNodes => self.coordinate_nodes(call).await,
            E::CoordinateNode => self.coordinate_node(call).await,
            E::CoordinateUpdate => Box::pin(self.coordinate_update(call)).await,
            E::UiNodes => self.ui_nodes(call).await,
            E::UiNode => self.ui_node(call).await,
            E::UiGatewayServices => self.ui_gateway_services(call).await,
            E::AgentHost => self.agent_host(call).await,
            E::UiServices => self.ui_services(call).await,
            other => self.dispatch_small(other, call),
        }
    }

    fn dispatch_small(&self, endpoint: E, call: &Call<'_>) -> Handled {
        match endpoint {
            E::Acl => Err(Reply::text(StatusCode::UNAUTHORIZED, "ACL support disabled")),
            E::StatusLeader => self.status_leader(call),
            E::StatusPeers => self.status_peers(call),
            E::AgentSelf => self.agent_self(call),
            E::AgentMembers => self.agent_members(call),
            E::AgentMetrics => self.agent_metrics(call),
            E::EventFire => self.event_fire(call),
            E::CoordinateDatacenters => self.coordinate_datacenters(call),
            E::OperatorRaft => self.operator_raft(call),
            E::OperatorHealth => self.operator_health(call),
            E::IntentionMatch => self.intention_match(call),
            E::IntentionCheck => self.intention_check(call),
            E::ConnectAuthorize => self.connect_authorize(call),
            E::OperatorRaftPeer => self.operator_raft_peer(call),
            E::OperatorKeyring => self.operator_keyring(call),
            E::AgentReload => Ok(Reply::ok()),
            E::AgentForceLeave => self.agent_force_leave(call),
            E::AgentJoin => self.agent_join(call),
            E::AgentLeave => Err(Reply::internal("this agent is single-node: it cannot leave a cluster")),
            E::AgentMonitor => self.agent_monitor(call),
            // everything above is named; a route without a handler is a fault of this program
            other => {
                tracing::error!(endpoint = ?other, "a route leads nowhere");
                Err(Reply::empty(StatusCode::NOT_FOUND))
            }
        }
    }
}
