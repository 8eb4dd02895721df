//! acl: which groups of consumers may pass.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use http::{HeaderName, StatusCode};
use plinth_kong::AclConfig;
use uuid::Uuid;

use super::auth::{Directory, Groups};
use crate::context::{EarlyResponse, RequestContext};

const GROUPS: HeaderName = HeaderName::from_static("x-consumer-groups");

#[derive(Debug)]
pub(super) struct Acl {
    /// The lists' groups, and whether being in one of them is wanted.
    groups: BTreeSet<String>,
    allow: bool,
    hide_groups_header: bool,
    directory: Arc<HashMap<Uuid, Groups>>,
}

impl Acl {
    pub fn new(config: &AclConfig, directory: &Directory) -> Acl {
        let allow = config.deny.is_empty();
        let list = if allow { &config.allow } else { &config.deny };
        Acl {
            groups: list.iter().cloned().collect(),
            allow,
            hide_groups_header: config.hide_groups_header,
            directory: Arc::clone(&directory.groups),
        }
    }

    pub fn access(&self, ctx: &mut RequestContext) -> Option<EarlyResponse> {
        let forbidden =
            || Some(EarlyResponse::error(StatusCode::FORBIDDEN, "You cannot consume this service"));
        let Some(consumer) = &ctx.consumer else {
            if ctx.credential.is_some() {
                return forbidden();
            }
            return Some(EarlyResponse::error(StatusCode::UNAUTHORIZED, "Unauthorized"));
        };
        let own = self.directory.get(&consumer.id);
        let listed = own.is_some_and(|own| own.names.iter().any(|group| self.groups.contains(group)));
        if listed != self.allow {
            return forbidden();
        }
        let header = own.and_then(|own| own.header.as_ref()).filter(|_| !self.hide_groups_header);
        match header {
            Some(header) => ctx.head.headers.insert(GROUPS, header.clone()),
            None => ctx.head.headers.remove(GROUPS),
        };
        None
    }
}
