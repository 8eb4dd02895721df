//! Indexes of prefixes, found once per version: to find one, all keys below the prefix are looked at, and thousands may wait
//! for the same.

use std::collections::HashMap;

use parking_lot::RwLock;

use crate::state::State;

/// Most prefixes remembered; beyond it all are forgotten.
const MOST: usize = 1024;

/// The version a prefix was looked at, and its index then.
type Seen = (u64, u64);

#[derive(Debug, Default)]
pub struct PrefixIndexes(RwLock<HashMap<Box<str>, Seen, foldhash::fast::RandomState>>);

impl PrefixIndexes {
    /// The same as [`State::kv_prefix_index`].
    pub fn of(&self, state: &State, prefix: &str) -> u64 {
        let version = state.index();
        if let Some((seen, index)) = self.0.read().get(prefix)
            && *seen == version
        {
            return *index;
        }
        let index = state.kv_prefix_index(prefix);
        let mut all = self.0.write();
        match all.get_mut(prefix) {
            // somebody looked at a newer version meanwhile
            Some(known) if known.0 > version => {}
            Some(known) => *known = (version, index),
            None => {
                if all.len() >= MOST {
                    all.clear();
                }
                all.insert(Box::from(prefix), (version, index));
            }
        }
        index
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Command;
    use crate::state::command::{DeleteMode, SetMode};

    #[test]
    fn it_says_what_the_state_says_in_whatever_order_versions_are_asked_for() {
        let indexes = PrefixIndexes::default();
        let mut versions = vec![State::default()];
        for step in 0..40_u64 {
            let mut next = versions.last().cloned().unwrap_or_default();
            let key = format!("{}/{}", step % 3, step % 5);
            let command = match step % 7 {
                6 => Command::KvDelete { key, mode: DeleteMode::One },
                _ => Command::KvSet { key, value: step.to_string().into(), flags: 0, mode: SetMode::Plain },
            };
            next.apply(&command, step);
            versions.push(next);
        }
        for round in 0..200_usize {
            let state = &versions[round * 17 % versions.len()];
            for prefix in ["", "0/", "1/", "2/4", "9/"] {
                assert_eq!(
                    indexes.of(state, prefix),
                    state.kv_prefix_index(prefix),
                    "{prefix} at {}",
                    state.index()
                );
            }
        }
    }

    #[test]
    fn prefixes_of_the_clients_choice_fill_no_memory() {
        let indexes = PrefixIndexes::default();
        for number in 0..3 * MOST {
            indexes.of(&State::default(), &number.to_string());
        }
        assert!(indexes.0.read().len() <= MOST);
    }
}
