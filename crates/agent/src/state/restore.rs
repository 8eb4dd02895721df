//! Another state in the place of this one.

use std::sync::Arc;

use super::image::Record;
use super::{Change, State, TABLES, Table, Topic};

const ALL: [Table; TABLES] = [
    Table::Nodes,
    Table::Services,
    Table::Checks,
    Table::Sessions,
    Table::Kv,
    Table::Queries,
    Table::Config,
    Table::Intentions,
    Table::Ca,
    Table::Coordinates,
];

impl State {
    /// Becomes what the records say. Objects keep their own indexes, which a check-and-set goes by; what a query reports is
    /// the index of the restore or higher, so that nobody who waits sees it go back, and all of them see the new state.
    pub(super) fn replace(&mut self, records: &[Record], change: &mut Change) {
        let mut new = State::default();
        for record in records {
            new.restore(record.clone());
        }
        change.index = change.index.max(new.index().saturating_add(1));
        let index = change.index;
        new.tables = [index; TABLES];
        new.extinction = index;
        new.tombstone_floor = index;
        new.restored = index;
        let groups = new.groups.iter().map(|(name, group)| {
            let mut group = super::Group::clone(group);
            group.index = index;
            (name.clone(), Arc::new(group))
        });
        new.groups = groups.collect();
        let old = std::mem::replace(self, new);
        for state in [&old, self] {
            let services = state.groups.keys().map(|name| Topic::Service(name.clone()));
            let keys = state.kv.keys().map(|key| Topic::Key(key.clone()));
            change.topics.extend(services.chain(keys));
        }
        change.topics.extend(ALL.map(Topic::Table));
        change.moved = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Command;
    use crate::state::command::SetMode;

    fn set(key: &str, value: &str) -> Command {
        Command::KvSet { key: key.into(), value: value.to_owned().into(), flags: 0, mode: SetMode::Plain }
    }

    #[test]
    fn everything_counts_as_changed_and_no_index_goes_back() {
        let mut state = State::default();
        state.apply(&set("a/kept", "old"), 0).outcome.unwrap();
        let records: Vec<Record> = state.records().collect();
        let saved = state.index();
        for n in 0..5 {
            state.apply(&set("a/kept", &n.to_string()), 0).outcome.unwrap();
        }
        state.apply(&set("b/gone", "x"), 0).outcome.unwrap();
        let before = state.index();
        let applied = state.apply(&Command::Restore(records), 0);
        applied.outcome.unwrap();
        assert_eq!(state.kv_get("a/kept").unwrap().value, "old");
        assert!(state.kv_get("b/gone").is_none());
        let indexes =
            [state.index(), state.kv_index("a/kept"), state.kv_index("b/gone"), state.kv_prefix_index("a/")];
        assert_eq!(indexes, [before + 1; 4]);
        for key in ["a/kept", "b/gone"] {
            assert!(applied.topics.contains(&Topic::Key(key.into())), "{key}");
        }
        assert_eq!(state.kv_get("a/kept").unwrap().modify_index, saved, "a check-and-set goes by it");
    }

    #[test]
    fn a_state_that_was_further_takes_its_index_along() {
        let mut far = State::default();
        for n in 0..9 {
            far.apply(&set("k", &n.to_string()), 0).outcome.unwrap();
        }
        let mut state = State::default();
        state.apply(&Command::Restore(far.records().collect()), 0).outcome.unwrap();
        assert_eq!(state.index(), far.index() + 1);
        state.apply(&set("k", "more"), 0).outcome.unwrap();
        assert_eq!(state.kv_index("k"), far.index() + 2);
    }
}
