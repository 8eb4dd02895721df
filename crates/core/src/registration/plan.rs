//! What one attempt to register writes, given what was read before. Pure.

use jiff::Timestamp;

use super::layout::{self, CheckState};
use super::registrar::Registered;
use super::{Document, Owner, Registration, Status};
use crate::Error;
use crate::consul::wire::{HealthCheck, NodeVerb, TxnOp, TxnResult};

/// One attempt: what will be written, given what was read. Pure.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) document: Document,
    /// Index the document must still have; 0: it must not exist.
    pub(super) expected: u64,
    pub(super) check: HealthCheck,
    pub(super) created: bool,
    /// The registration before this one had a TTL.
    pub(super) had_lease: bool,
}

impl Plan {
    pub(super) fn new(
        registration: &Registration,
        owner: &Owner,
        initial: Status,
        current: Option<(Document, u64)>,
        check: Option<HealthCheck>,
        now: Timestamp,
    ) -> Self {
        let expected = current.as_ref().map_or(0, |(_, index)| *index);
        let before = current.map(|(document, _)| document);
        let new_process = owner.incarnation.is_some()
            && before.as_ref().is_some_and(|document| document.incarnation != owner.incarnation);
        let state = state_of(registration, initial, check.as_ref(), new_process, now);
        let check_index = check.map_or(0, |check| check.modify_index);
        Self {
            created: before.is_none(),
            had_lease: before.as_ref().is_some_and(|document| document.registration.lease_ttl().is_some()),
            document: document_of(registration, owner, before, now),
            expected,
            check: HealthCheck { modify_index: check_index, ..layout::check(registration, state) },
        }
    }

    pub(super) fn ops(&self) -> Result<[TxnOp; 4], Error> {
        let registration = &self.document.registration;
        // A check that was read is replaced only as read: the aggregator may turn it at the same moment.
        let verb = if self.check.modify_index > 0 { NodeVerb::Cas } else { NodeVerb::Set };
        Ok([
            TxnOp::kv_cas(
                layout::instance_key(&registration.service_id),
                layout::document_bytes(&self.document)?,
                self.expected,
            ),
            TxnOp::node(NodeVerb::Set, layout::node(registration)),
            TxnOp::service(
                NodeVerb::Set,
                layout::node_name(&registration.service_id),
                layout::service(registration),
            ),
            TxnOp::check(verb, self.check.clone()),
        ])
    }

    /// The operations that compare an index: document and check.
    pub(super) fn may_be_stale(op_index: usize) -> bool {
        op_index == 0 || op_index == 3
    }

    pub(super) fn registered(self, results: &[TxnResult]) -> Registered {
        let (documents, catalog): (Vec<_>, Vec<_>) =
            results.iter().partition(|result| matches!(result, TxnResult::KV(_)));
        let newest =
            |results: Vec<&TxnResult>| results.into_iter().map(TxnResult::modify_index).max().unwrap_or(0);
        Registered {
            document: self.document,
            index: newest(catalog),
            document_index: newest(documents),
            created: self.created,
        }
    }
}

fn document_of(
    registration: &Registration,
    owner: &Owner,
    before: Option<Document>,
    now: Timestamp,
) -> Document {
    let registered_at = before.as_ref().map_or(now, |document| document.registered_at);
    let document = Document {
        registration: registration.clone(),
        owner: owner.subject.clone(),
        incarnation: owner.incarnation.clone(),
        registered_at,
        updated_at: now,
    };
    // Byte for byte what is there already: then nothing is written and no watcher wakes.
    match before {
        Some(before) if (Document { updated_at: before.updated_at, ..document.clone() }) == before => before,
        _ => document,
    }
}

fn state_of(
    registration: &Registration,
    initial: Status,
    check: Option<&HealthCheck>,
    new_process: bool,
    now: Timestamp,
) -> CheckState {
    let initial = if registration.check.is_probed() && registration.lease_ttl().is_none() {
        initial
    } else {
        Status::Passing
    };
    let fresh =
        |status, output: &str| CheckState { status, output: output.to_owned(), notes: now.to_string() };
    let Some(check) = check else { return fresh(initial, "registered") };
    let current = check.status.parse().unwrap_or(Status::Critical);
    // A registration is a sign of life for who is not probed and for a process that has just started.
    let better = new_process || !registration.check.is_probed() || registration.lease_ttl().is_some();
    if better && initial < current {
        return fresh(initial, "registered again");
    }
    CheckState { status: current, output: check.output.clone(), notes: check.notes.clone() }
}
