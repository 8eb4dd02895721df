//! The current configuration as one immutable whole, and what changed since when.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Instant;

use super::{ItemId, JsonText, Key, Revision, Scope};

/// How many deletions are remembered by name; of older ones only the newest index is known.
pub const MAX_GONE: usize = 4096;

/// One current item.
#[derive(Debug, Clone)]
pub struct Entry {
    pub id: ItemId,
    pub revision: u64,
    pub value: JsonText,
    pub modify_index: u64,
    /// Description, author and times; `None` while the database cannot be asked.
    pub about: Option<Arc<Revision>>,
}

/// Everything below the KV prefix at one Consul index. Built whole, swapped whole.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Consul's index of the prefix.
    pub index: u64,
    pub entries: BTreeMap<ItemId, Arc<Entry>>,
    /// Deleted items and the index from which they were missing.
    gone: BTreeMap<ItemId, u64>,
    /// Deletions up to this index may have been forgotten.
    gone_floor: u64,
    pub built: Instant,
}

impl Snapshot {
    /// The state `entries` at `index`, which follows `previous`.
    pub fn follow(
        previous: Option<&Snapshot>,
        index: u64,
        entries: BTreeMap<ItemId, Arc<Entry>>,
        built: Instant,
    ) -> Self {
        // Without a predecessor nothing is known about deletions before this index.
        let Some(previous) = previous.filter(|previous| previous.index <= index) else {
            return Self { index, entries, gone: BTreeMap::new(), gone_floor: index, built };
        };
        let mut gone = previous.gone.clone();
        gone.retain(|id, _| !entries.contains_key(id));
        for id in previous.entries.keys().filter(|id| !entries.contains_key(*id)) {
            gone.insert(id.clone(), index);
        }
        let mut gone_floor = previous.gone_floor;
        while gone.len() > MAX_GONE {
            let Some(oldest) = gone.iter().min_by_key(|(_, at)| **at).map(|(id, _)| id.clone()) else {
                break;
            };
            gone_floor = gone_floor.max(gone.remove(&oldest).unwrap_or(0));
        }
        Self { index, entries, gone, gone_floor, built }
    }

    pub fn get(&self, id: &ItemId) -> Option<&Arc<Entry>> {
        self.entries.get(id)
    }

    /// Items of the scope whose key begins with `prefix`, by key.
    pub fn list<'a>(
        &'a self,
        scope: &'a Scope,
        prefix: &'a str,
    ) -> impl Iterator<Item = &'a Arc<Entry>> + 'a {
        self.from(scope)
            .map(|(_, entry)| entry)
            .filter(move |entry| entry.id.key.as_str().starts_with(prefix))
    }

    /// The scopes that have items, with their number.
    pub fn scopes(&self) -> BTreeMap<&Scope, usize> {
        let mut scopes = BTreeMap::new();
        for id in self.entries.keys() {
            *scopes.entry(&id.scope).or_default() += 1;
        }
        scopes
    }

    /// Index of the item's last change. May be later than the truth (a forgotten deletion), never earlier.
    pub fn changed_at(&self, id: &ItemId) -> u64 {
        match (self.entries.get(id), self.gone.get(id)) {
            (Some(entry), _) => entry.modify_index,
            (None, Some(index)) => *index,
            (None, None) => self.gone_floor,
        }
    }

    /// Index of the last change below a prefix of a scope, by the same rule.
    pub fn changed_below(&self, scope: &Scope, prefix: &str) -> u64 {
        let put = self.list(scope, prefix).map(|entry| entry.modify_index);
        let gone = self
            .gone
            .iter()
            .filter(|(id, _)| id.scope == *scope && id.key.as_str().starts_with(prefix))
            .map(|(_, index)| *index);
        put.chain(gone).max().unwrap_or(0).max(self.gone_floor)
    }

    fn from<'a>(&'a self, scope: &'a Scope) -> impl Iterator<Item = (&'a ItemId, &'a Arc<Entry>)> + 'a {
        // No key sorts before "-" and the grammar lets none begin with it.
        let start = Key::parse("0").ok().map(|key| ItemId { scope: scope.clone(), key });
        let bound = start.map_or(Bound::Unbounded, Bound::Included);
        self.entries.range((bound, Bound::Unbounded)).take_while(move |(id, _)| id.scope == *scope)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(scope: &str, key: &str) -> ItemId {
        let (namespace, environment) = scope.split_once('/').unwrap();
        ItemId { scope: Scope::parse(namespace, environment).unwrap(), key: Key::parse(key).unwrap() }
    }

    fn entries(list: &[(&str, &str, u64)]) -> BTreeMap<ItemId, Arc<Entry>> {
        list.iter()
            .map(|(scope, key, index)| {
                let id = id(scope, key);
                let value = JsonText::parse("1").unwrap();
                let entry = Entry { id: id.clone(), revision: 1, value, modify_index: *index, about: None };
                (id, Arc::new(entry))
            })
            .collect()
    }

    fn scope(text: &str) -> Scope {
        id(text, "x").scope
    }

    fn keys(snapshot: &Snapshot, of: &str, prefix: &str) -> Vec<String> {
        snapshot.list(&scope(of), prefix).map(|entry| entry.id.key.as_str().to_owned()).collect()
    }

    #[test]
    fn lists_one_scope_by_key() {
        let state = entries(&[
            ("a/x", "z", 1),
            ("b/x", "0", 2),
            ("b/x", "Z", 3),
            ("b/x", "_a", 4),
            ("b/x", "db/host", 5),
            ("b/x", "db/port", 6),
            ("b/y", "a", 7),
            ("c/x", "a", 8),
        ]);
        let snapshot = Snapshot::follow(None, 9, state, Instant::now());
        assert_eq!(keys(&snapshot, "b/x", ""), ["0", "Z", "_a", "db/host", "db/port"]);
        assert_eq!(keys(&snapshot, "b/x", "db/"), ["db/host", "db/port"]);
        assert_eq!(keys(&snapshot, "none/x", ""), [""; 0]);
        let scopes: Vec<_> = snapshot.scopes().into_iter().map(|(scope, n)| (scope.to_string(), n)).collect();
        assert_eq!(
            scopes,
            [("a/x".into(), 1), ("b/x".into(), 5), ("b/y".into(), 1), ("c/x".into(), 1)]
                as [(String, usize); 4]
        );
    }

    #[test]
    fn knows_when_things_changed() {
        let first = Snapshot::follow(None, 10, entries(&[("b/x", "k", 4), ("b/x", "l", 7)]), Instant::now());
        assert_eq!(first.changed_at(&id("b/x", "k")), 4);
        assert_eq!(first.changed_at(&id("b/x", "missing")), 10, "it may have been deleted just before");
        let second = Snapshot::follow(Some(&first), 12, entries(&[("b/x", "l", 7)]), Instant::now());
        assert_eq!(second.changed_at(&id("b/x", "k")), 12);
        assert_eq!(second.changed_below(&scope("b/x"), "k"), 12);
        assert_eq!(second.changed_below(&scope("b/x"), "l"), 10);
        let third = Snapshot::follow(
            Some(&second),
            15,
            entries(&[("b/x", "l", 7), ("b/x", "k", 15)]),
            Instant::now(),
        );
        assert_eq!(third.changed_at(&id("b/x", "k")), 15);
        let fourth = Snapshot::follow(Some(&third), 16, third.entries.clone(), Instant::now());
        assert_eq!(fourth.changed_below(&scope("b/x"), ""), 15, "a change elsewhere is none here");
    }

    #[test]
    fn an_index_that_goes_back_starts_anew() {
        let first = Snapshot::follow(None, 100, entries(&[("b/x", "k", 90)]), Instant::now());
        let restored = Snapshot::follow(Some(&first), 5, entries(&[("b/x", "k", 3)]), Instant::now());
        assert_eq!(restored.changed_at(&id("b/x", "other")), 5);
    }

    #[test]
    fn forgets_old_deletions_towards_the_safe_side() {
        let many: Vec<(String, u64)> = (0..=MAX_GONE).map(|n| (format!("k{n}"), 1)).collect();
        let list: Vec<(&str, &str, u64)> =
            many.iter().map(|(key, index)| ("b/x", key.as_str(), *index)).collect();
        let full = Snapshot::follow(None, 1, entries(&list), Instant::now());
        let empty = Snapshot::follow(Some(&full), 2, BTreeMap::new(), Instant::now());
        assert_eq!(empty.gone.len(), MAX_GONE);
        assert_eq!(empty.changed_at(&id("b/x", "k0")), 2);
        assert_eq!(empty.changed_at(&id("b/x", "never-there")), 2);
    }
}
