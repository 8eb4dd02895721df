//! What is registered with this agent itself, as opposed to the catalog: definitions of services and of the
//! checks the agent runs or waits for.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::model::{Check, Definition, Service, Status};

/// A service registered with the agent. Catalog indexes in `service` are not used here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LocalService {
    pub service: Service,
}

/// How the agent learns a check's status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Runner {
    /// Someone reports before the time is over.
    Ttl(Duration),
    Http {
        interval: Duration,
        timeout: Duration,
    },
    Tcp {
        interval: Duration,
        timeout: Duration,
    },
    Grpc {
        interval: Duration,
        timeout: Duration,
    },
    Alias,
    /// Set and removed by maintenance mode.
    Maintenance,
}

/// A check registered with the agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LocalCheck {
    /// As the agent shows it; the catalog's copy may lag behind in `output` only.
    pub check: Check,
    /// What to probe. The catalog of Consul 1.8 shows none of it for agent checks.
    pub target: Definition,
    pub runner: Runner,
    pub deregister_after: Option<Duration>,
    /// When it last became critical by a result (milliseconds since the epoch).
    pub critical_since: Option<u64>,
    /// Results of a kind in a row before the status turns; 0 and 1: at once.
    #[serde(default)]
    pub success_before_passing: u32,
    #[serde(default)]
    pub failures_before_critical: u32,
    /// Bytes kept of what a probe's answer or a report says, where that is less than always; 0: as always.
    #[serde(default)]
    pub output_max_size: usize,
}

impl LocalCheck {
    /// The most bytes of output kept, given what is kept of every check's.
    pub fn longest_output(&self, always: usize) -> usize {
        if self.output_max_size == 0 { always } else { always.min(self.output_max_size) }
    }

    /// A critical check that shows maintenance mode.
    pub fn maintenance(node: &str, service: Option<&Service>, reason: &str) -> LocalCheck {
        let (id, name, what) = match service {
            Some(service) => {
                (format!("_service_maintenance:{}", service.id), "Service Maintenance Mode", "service")
            }
            None => ("_node_maintenance".to_owned(), "Node Maintenance Mode", "node"),
        };
        let notes = if reason.is_empty() {
            format!(
                "Maintenance mode is enabled for this {what}, but no reason was provided. This is a default message."
            )
        } else {
            reason.to_owned()
        };
        LocalCheck {
            check: Check {
                node: node.to_owned(),
                check_id: id,
                name: name.to_owned(),
                status: Status::Critical.as_str().to_owned(),
                notes,
                service_id: service.map(|s| s.id.clone()).unwrap_or_default(),
                service_name: service.map(|s| s.service.clone()).unwrap_or_default(),
                service_tags: service.and_then(|s| s.tags.clone()),
                kind: "maintenance".to_owned(),
                ..Check::default()
            },
            target: Definition::default(),
            runner: Runner::Maintenance,
            deregister_after: None,
            critical_since: None,
            success_before_passing: 0,
            output_max_size: 0,
            failures_before_critical: 0,
        }
    }
}
