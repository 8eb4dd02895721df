use std::time::Duration;

use jiff::Timestamp;

use super::super::plan::Plan;
use super::super::{CheckSpec, Document, Owner, Registration, Status, layout};
use super::may_remove;
use crate::Error;
use crate::consul::wire::{HealthCheck, TxnOp};

fn probed() -> Registration {
    Registration { check: CheckSpec::http("/health"), ..Registration::new("web", "web-1", "10.0.0.1", 80) }
}

fn document(registration: &Registration, owner: &Owner) -> Document {
    Document {
        registration: registration.clone(),
        owner: owner.subject.clone(),
        incarnation: owner.incarnation.clone(),
        registered_at: Timestamp::UNIX_EPOCH,
        updated_at: Timestamp::UNIX_EPOCH,
    }
}

fn check(status: &str) -> HealthCheck {
    HealthCheck {
        status: status.into(),
        output: "said".into(),
        notes: "then".into(),
        modify_index: 9,
        ..HealthCheck::default()
    }
}

#[test]
fn a_new_instance_has_the_initial_status_and_must_not_exist() {
    let plan = Plan::new(&probed(), &Owner::new("me"), Status::Critical, None, None, Timestamp::now());
    assert_eq!((plan.created, plan.expected, plan.check.status.as_str()), (true, 0, "critical"));
    let TxnOp::KV(document) = &plan.ops().unwrap()[0] else { panic!("first the document") };
    assert_eq!(document.index, 0);
}

#[test]
fn who_is_not_probed_begins_passing() {
    let mut registration = probed();
    registration.check = CheckSpec::None;
    let plan = Plan::new(&registration, &Owner::new("me"), Status::Critical, None, None, Timestamp::now());
    assert_eq!(plan.check.status, "passing");
    registration.check = CheckSpec::Ttl { ttl: Duration::from_secs(10) };
    let plan = Plan::new(&registration, &Owner::new("me"), Status::Critical, None, None, Timestamp::now());
    assert_eq!(plan.check.status, "passing");
}

#[test]
fn an_update_carries_the_status() {
    let owner = Owner::new("me");
    for status in ["passing", "warning", "critical"] {
        let before = Some((document(&probed(), &owner), 5));
        let plan =
            Plan::new(&probed(), &owner, Status::Critical, before, Some(check(status)), Timestamp::now());
        assert_eq!((plan.check.status.as_str(), plan.check.output.as_str()), (status, "said"));
        assert_eq!((plan.expected, plan.check.modify_index, plan.created), (5, 9, false));
    }
}

#[test]
fn a_new_process_gets_the_better_status() {
    let (old, new) = (Owner::process("me"), Owner::process("me"));
    let status = |owner: &Owner, initial, current: &str| {
        let before = Some((document(&probed(), &old), 5));
        Plan::new(&probed(), owner, initial, before, Some(check(current)), Timestamp::now()).check.status
    };
    assert_eq!(status(&new, Status::Passing, "critical"), "passing");
    assert_eq!(status(&new, Status::Critical, "passing"), "passing");
    assert_eq!(status(&old, Status::Passing, "critical"), "critical");
}

#[test]
fn the_same_again_is_written_byte_for_byte() {
    let owner = Owner::new("me");
    let before = document(&probed(), &owner);
    let same =
        Plan::new(&probed(), &owner, Status::Passing, Some((before.clone(), 5)), None, Timestamp::now());
    assert_eq!(layout::document_bytes(&same.document).unwrap(), layout::document_bytes(&before).unwrap());

    let changed = Registration { port: 81, ..probed() };
    let other =
        Plan::new(&changed, &owner, Status::Passing, Some((before.clone(), 5)), None, Timestamp::now());
    assert_eq!(other.document.registered_at, before.registered_at);
    assert!(other.document.updated_at > before.updated_at);
}

#[test]
fn only_the_owner_and_its_newest_process_may_remove() {
    let (old, new) = (Owner::process("me"), Owner::process("me"));
    let document = document(&probed(), &new);
    assert!(may_remove(&document, None).is_ok());
    assert!(may_remove(&document, Some(&new)).is_ok());
    assert!(may_remove(&document, Some(&Owner::new("me"))).is_ok());
    assert!(matches!(may_remove(&document, Some(&old)), Err(Error::Superseded { .. })));
    assert!(matches!(may_remove(&document, Some(&Owner::new("you"))), Err(Error::OwnedByAnother { .. })));
}
