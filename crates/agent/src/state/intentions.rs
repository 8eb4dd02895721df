//! Intentions: who may talk to whom over the mesh. The most specific one decides.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Change, Fault, State, Table, folded};

pub const WILDCARD: &str = "*";

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Intention {
    #[serde(rename = "ID")]
    pub id: String,
    pub description: String,
    #[serde(rename = "SourceNS")]
    pub source_ns: String,
    pub source_name: String,
    #[serde(rename = "DestinationNS")]
    pub destination_ns: String,
    pub destination_name: String,
    pub source_type: String,
    /// `allow` or `deny`.
    pub action: String,
    pub default_addr: String,
    pub default_port: i64,
    pub meta: std::collections::BTreeMap<String, String>,
    pub precedence: i64,
    /// RFC 3339.
    pub created_at: String,
    pub updated_at: String,
    /// Base64 of a digest of the definition.
    pub hash: String,
    pub create_index: u64,
    pub modify_index: u64,
}

/// Which side of an intention a lookup names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Source,
    Destination,
}

impl Intention {
    /// 9 for the most specific: an exact destination weighs more than an exact source.
    pub fn precedence_of(&self) -> i64 {
        let exact = |ns: &str, name: &str| i64::from(ns != WILDCARD) + i64::from(name != WILDCARD);
        let most = 3 + 3 * exact(&self.destination_ns, &self.destination_name);
        most - (2 - exact(&self.source_ns, &self.source_name))
    }

    fn pair(&self, side: Side) -> (&str, &str) {
        match side {
            Side::Source => (&self.source_ns, &self.source_name),
            Side::Destination => (&self.destination_ns, &self.destination_name),
        }
    }

    /// Intentions are found without regard to case.
    pub fn covers(&self, side: Side, ns: &str, name: &str) -> bool {
        let (own_ns, own_name) = self.pair(side);
        let fits = |own: &str, asked: &str| own == WILDCARD || folded(own) == folded(asked);
        fits(own_ns, ns) && fits(own_name, name)
    }

    /// Unlike what is found, what is decided about a source goes by its exact name.
    fn decides_about(&self, ns: &str, name: &str) -> bool {
        let fits = |own: &str, asked: &str| own == WILDCARD || own == asked;
        fits(&self.source_ns, ns) && fits(&self.source_name, name)
    }

    /// Whether another one is between the same two, without regard to case.
    fn is_between_those_of(&self, other: &Intention) -> bool {
        [Side::Source, Side::Destination].into_iter().all(|side| {
            let ((ns, name), (other_ns, other_name)) = (self.pair(side), other.pair(side));
            folded(ns) == folded(other_ns) && folded(name) == folded(other_name)
        })
    }

    /// `DENY default/a => default/b (ID: ..., Precedence: 9)`.
    pub fn told(&self) -> String {
        format!(
            "{} {}/{} => {}/{} (ID: {}, Precedence: {})",
            self.action.to_uppercase(),
            self.source_ns,
            self.source_name,
            self.destination_ns,
            self.destination_name,
            self.id,
            self.precedence
        )
    }

    fn order(&self) -> (std::cmp::Reverse<i64>, &str, &str, &str, &str) {
        (
            std::cmp::Reverse(self.precedence),
            &self.source_ns,
            &self.source_name,
            &self.destination_ns,
            &self.destination_name,
        )
    }
}

impl State {
    pub fn intention(&self, id: &str) -> Option<&Arc<Intention>> {
        self.intentions.get(id)
    }

    /// The most specific first.
    pub fn intentions(&self) -> Vec<&Arc<Intention>> {
        let mut all: Vec<_> = self.intentions.values().collect();
        all.sort_by(|a, b| a.order().cmp(&b.order()));
        all
    }

    /// Those that concern one side of a connection, the deciding one first.
    pub fn matching_intentions(&self, side: Side, (ns, name): (&str, &str)) -> Vec<&Arc<Intention>> {
        let mut all = self.intentions();
        all.retain(|intention| intention.covers(side, ns, name));
        all
    }

    /// The intention that decides about a connection, if there is one.
    pub fn deciding_intention(
        &self,
        source: (&str, &str),
        destination: (&str, &str),
    ) -> Option<&Arc<Intention>> {
        let concerned = self.matching_intentions(Side::Destination, destination);
        concerned.into_iter().find(|intention| intention.decides_about(source.0, source.1))
    }

    /// Another intention between the same two, which keeps this one from being taken. It is looked for before a write:
    /// logs of earlier versions, which compared with case, must still replay.
    pub fn twin_of(&self, intention: &Intention) -> Option<&Arc<Intention>> {
        let twin = |other: &&Arc<Intention>| other.id != intention.id && other.is_between_those_of(intention);
        self.intentions.values().find(twin)
    }

    pub(super) fn intention_set(&mut self, intention: &Intention, change: &mut Change) -> Result<(), Fault> {
        let mut stored = intention.clone();
        stored.precedence = stored.precedence_of();
        stored.modify_index = change.index;
        stored.create_index = change.index;
        if let Some(old) = self.intentions.get(intention.id.as_str()) {
            stored.create_index = old.create_index;
            stored.created_at.clone_from(&old.created_at);
        }
        let same = |other: &&Arc<Intention>| {
            other.id != stored.id
                && [Side::Source, Side::Destination]
                    .iter()
                    .all(|side| other.pair(*side) == stored.pair(*side))
        };
        if let Some(twin) = self.intentions.values().find(same) {
            return Err(Fault::IntentionTaken(twin.told()));
        }
        self.intentions.insert(Arc::from(stored.id.as_str()), Arc::new(stored));
        self.move_table(Table::Intentions, change);
        Ok(())
    }

    pub(super) fn intention_remove(&mut self, id: &str, change: &mut Change) {
        if self.intentions.remove(id).is_some() {
            self.move_table(Table::Intentions, change);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Command, State};

    fn intention(id: &str, source: &str, destination: &str, action: &str) -> Intention {
        Intention {
            id: id.to_owned(),
            source_ns: "default".to_owned(),
            source_name: source.to_owned(),
            destination_ns: "default".to_owned(),
            destination_name: destination.to_owned(),
            action: action.to_owned(),
            ..Intention::default()
        }
    }

    #[test]
    fn the_most_specific_decides() {
        let mut state = State::default();
        for (id, source, destination, action) in [
            ("1", "*", "*", "deny"),
            ("2", "a", "*", "allow"),
            ("3", "*", "b", "allow"),
            ("4", "a", "b", "deny"),
        ] {
            let command = Command::IntentionSet(Box::new(intention(id, source, destination, action)));
            state.apply(&command, 0).outcome.unwrap();
        }
        let order: Vec<_> = state.intentions().iter().map(|i| (i.id.as_str(), i.precedence)).collect();
        assert_eq!(order, [("4", 9), ("3", 8), ("2", 6), ("1", 5)]);
        let decides = |source, destination| {
            state.deciding_intention(("default", source), ("default", destination)).map(|i| i.action.as_str())
        };
        assert_eq!(decides("a", "b"), Some("deny"));
        assert_eq!(decides("q", "b"), Some("allow"));
        assert_eq!(decides("a", "zz"), Some("allow"));
        assert_eq!(decides("q", "zz"), Some("deny"));
        assert_eq!(decides("a", "B"), Some("deny"));
        assert_eq!(decides("A", "b"), Some("allow"));
        let twin = |source| intention("5", source, "b", "allow");
        assert_eq!(state.twin_of(&twin("A")).map(|found| found.id.as_str()), Some("4"));
        assert!(state.twin_of(&twin("c")).is_none());
        let twin = Command::IntentionSet(Box::new(twin("a")));
        assert!(matches!(state.apply(&twin, 0).outcome, Err(Fault::IntentionTaken(_))));
    }
}
