//! Catalog entries to instances. Pure.

use serde_json::{Map, Value};

use super::{CheckView, Instance};
use crate::consul::wire::ServiceEntry;
use crate::health::Status;
use crate::registration::{DOCUMENT_MARK, NODE_MARK};

pub(super) fn is_plinth(entry: &ServiceEntry) -> bool {
    entry.node.meta.get(NODE_MARK.0).map(String::as_str) == Some(NODE_MARK.1)
}

/// Hash of the document's metadata; none: the document has no metadata, so it need not be read.
pub(super) fn document_mark(entry: &ServiceEntry) -> Option<&str> {
    if !is_plinth(entry) {
        return None;
    }
    entry.service.meta.get(DOCUMENT_MARK).map(String::as_str)
}

/// `metadata` is the document's, when there is one.
pub(super) fn instance(entry: &ServiceEntry, metadata: Option<&Map<String, Value>>) -> Instance {
    let ServiceEntry { node, service, checks } = entry;
    let checks: Vec<CheckView> = checks
        .iter()
        .map(|check| CheckView {
            id: check.check_id.clone(),
            name: check.name.clone(),
            status: check.status.parse().unwrap_or(Status::Critical),
            output: check.output.clone(),
        })
        .collect();
    Instance {
        service_id: service.id.clone(),
        service_name: service.service.clone(),
        node: node.name.clone(),
        address: if service.address.is_empty() { node.address.clone() } else { service.address.clone() },
        port: service.port,
        tags: service.tags.clone(),
        metadata: metadata.cloned().unwrap_or_else(|| meta_as_json(entry)),
        weight: service.weights.passing,
        status: checks.iter().map(|check| check.status).max().unwrap_or(Status::Passing),
        checks,
        plinth: is_plinth(entry),
        modify_index: service.modify_index,
        last_check: last_check(entry),
    }
}

fn meta_as_json(entry: &ServiceEntry) -> Map<String, Value> {
    let visible = entry.service.meta.iter().filter(|(key, _)| key.as_str() != DOCUMENT_MARK);
    visible.map(|(key, value)| (key.clone(), Value::from(value.as_str()))).collect()
}

/// Plinth keeps the time of the last transition in the notes of its checks.
fn last_check(entry: &ServiceEntry) -> Option<jiff::Timestamp> {
    if !is_plinth(entry) {
        return None;
    }
    entry.checks.iter().filter_map(|check| check.notes.parse().ok()).max()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{document_mark, instance};
    use crate::consul::wire::{HealthCheck, ServiceEntry};
    use crate::health::Status;

    fn entry(statuses: &[&str]) -> ServiceEntry {
        let mut entry = ServiceEntry::default();
        entry.node.address = "10.0.0.9".into();
        entry.service.id = "a".into();
        entry.service.meta.insert("zone".into(), "b".into());
        entry.service.meta.insert("plinth_doc".into(), "00".into());
        entry.checks = statuses
            .iter()
            .map(|status| HealthCheck {
                status: (*status).into(),
                notes: "x".into(),
                ..HealthCheck::default()
            })
            .collect();
        entry
    }

    #[test]
    fn the_worst_check_decides() {
        assert_eq!(instance(&entry(&[]), None).status, Status::Passing);
        assert_eq!(instance(&entry(&["passing", "warning"]), None).status, Status::Warning);
        assert_eq!(instance(&entry(&["critical", "warning"]), None).status, Status::Critical);
        assert_eq!(instance(&entry(&["passing", "maintenance"]), None).status, Status::Critical);
    }

    #[test]
    fn an_empty_service_address_is_the_nodes() {
        assert_eq!(instance(&entry(&[]), None).address, "10.0.0.9");
    }

    #[test]
    fn others_marks_are_not_believed() {
        let mut foreign = entry(&[]);
        assert_eq!(document_mark(&foreign), None);
        assert_eq!(json!(instance(&foreign, None).metadata), json!({"zone": "b"}));
        foreign.node.meta.insert("plinth".into(), "true".into());
        assert_eq!(document_mark(&foreign), Some("00"));
    }
}
