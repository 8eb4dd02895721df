//! The certificate authority's state: its configuration, its roots with their keys, and the last serial number.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Change, State, Table};

/// One root certificate. The newest is active; older ones stay trusted until they expire.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Root {
    /// SHA-1 of the certificate, in hexadecimal with colons: only a name.
    pub id: String,
    /// Subject.
    pub common_name: String,
    pub serial: u64,
    pub signing_key_id: String,
    /// RFC 3339.
    pub not_before: String,
    pub not_after: String,
    /// PEM.
    pub certificate: String,
    /// PEM. It never leaves the agent.
    pub key: String,
    pub key_type: String,
    pub key_bits: u32,
    /// The certificate of this root's key signed by the root before it: who trusts only that one trusts leaves too.
    pub cross_signed: Option<String>,
    /// Made elsewhere and given with its key: it is not replaced by itself.
    #[serde(default)]
    pub external: bool,
    pub active: bool,
    pub create_index: u64,
    pub modify_index: u64,
}

impl std::fmt::Debug for Root {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Root").field("id", &self.id).field("active", &self.active).finish_non_exhaustive()
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    pub provider: String,
    pub config: Map<String, Value>,
    /// Only shown: every root here is signed by the one before.
    #[serde(default)]
    pub force_without_cross_signing: bool,
    pub create_index: u64,
    pub modify_index: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Authority {
    /// A UUID: the trust domain is `<it>.consul`.
    pub cluster: String,
    pub settings: Settings,
    /// In the order they came; the active one is the last.
    pub roots: Vec<Root>,
    /// Of the last certificate signed.
    pub serial: u64,
}

impl Authority {
    pub fn trust_domain(&self) -> String {
        format!("{}.consul", self.cluster)
    }

    pub fn active(&self) -> Option<&Root> {
        self.roots.iter().rev().find(|root| root.active)
    }
}

impl State {
    pub fn authority(&self) -> Option<&Arc<Authority>> {
        self.authority.as_ref()
    }

    /// Sets up or changes the authority; a new root becomes the active one. Indexes are given here.
    pub(super) fn ca_set(
        &mut self,
        settings: &Settings,
        cluster: &str,
        root: Option<&Root>,
        change: &mut Change,
    ) {
        let mut authority = match &self.authority {
            Some(old) => (**old).clone(),
            None => Authority {
                cluster: cluster.to_owned(),
                settings: settings.clone(),
                roots: Vec::new(),
                serial: 0,
            },
        };
        let created = if self.authority.is_some() { authority.settings.create_index } else { change.index };
        authority.settings = settings.clone();
        authority.settings.create_index = created;
        authority.settings.modify_index = change.index;
        if let Some(root) = root {
            for old in authority.roots.iter_mut().filter(|old| old.active) {
                old.active = false;
                old.modify_index = change.index;
            }
            let mut root = root.clone();
            // one that was here before comes back as itself
            let known = authority.roots.iter().position(|old| old.id == root.id);
            let known = known.map(|at| authority.roots.remove(at));
            root.active = true;
            root.create_index = known.map_or(change.index, |known| known.create_index);
            root.modify_index = change.index;
            // the number of one made elsewhere is not of this authority; that of its certificate by the root before is
            let own = if root.external { authority.serial + 1 } else { root.serial };
            authority.serial = authority.serial.max(own);
            authority.roots.push(root);
        }
        self.authority = Some(Arc::new(authority));
        self.move_table(Table::Ca, change);
    }

    /// Takes the next serial number. It takes an index too: that of the certificate it is for.
    pub(super) fn ca_serial(&mut self, change: &mut Change) -> u64 {
        let Some(authority) = &mut self.authority else { return 0 };
        let authority = Arc::make_mut(authority);
        authority.serial += 1;
        change.moved = true;
        authority.serial
    }

    pub(super) fn ca_forget_root(&mut self, id: &str, change: &mut Change) {
        let Some(authority) = &mut self.authority else { return };
        if authority.roots.iter().any(|root| root.id == id && !root.active) {
            Arc::make_mut(authority).roots.retain(|root| root.id != id || root.active);
            self.move_table(Table::Ca, change);
        }
    }
}
