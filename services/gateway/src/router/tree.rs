//! A radix tree over path prefixes. A changed tree shares all nodes with the old one but those on the way to the change.

use std::sync::Arc;

use super::part::Part;

/// Where a path stands in Kong's order; smaller is compared first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    /// All of [`Weight`](super::part::Weight) but the id, most important in the highest bits.
    pub weight: u64,
    /// Complement of the route's id: the greater id comes first.
    pub id: u128,
    /// Position of the path among the route's paths of the same weight.
    pub place: u16,
}

/// Something that stands at a prefix.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub rank: Rank,
    pub kind: Kind,
    pub part: Arc<Part>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// The route has no paths.
    Any,
    /// The prefix of that many bytes; reaching the node is the match.
    Prefix(u32),
    /// Index of the part's expression that has to be tried.
    Pattern(u32),
}

impl Entry {
    pub fn pattern(&self) -> Option<u32> {
        match self.kind {
            Kind::Pattern(index) => Some(index),
            _ => None,
        }
    }
}

/// Bytes an entry stands at, and the entry.
pub(super) type Keyed = (Box<[u8]>, Entry);

#[derive(Clone, Debug, Default)]
struct Node {
    /// Bytes between the parent and this node.
    label: Box<[u8]>,
    /// Sorted by rank.
    entries: Box<[Entry]>,
    /// Sorted by the first byte of their labels, which stands in front.
    children: Box<[(u8, Arc<Node>)]>,
}

/// Entries by prefix.
#[derive(Clone, Debug, Default)]
pub(super) struct Tree {
    /// Its label is empty, so that a walk always starts there.
    root: Option<Arc<Node>>,
}

impl Tree {
    pub fn build(mut keyed: Vec<Keyed>) -> Tree {
        keyed.sort_by(|(a, one), (b, other)| a.cmp(b).then_with(|| one.rank.cmp(&other.rank)));
        Tree { root: (!keyed.is_empty()).then(|| Arc::new(build(&keyed, 0, true))) }
    }

    pub fn is_empty(&self) -> bool {
        self.root.is_none()
    }

    /// The tree with one more entry.
    pub fn with(&self, key: &[u8], entry: Entry) -> Tree {
        match &self.root {
            None => Tree::build(vec![(key.into(), entry)]),
            Some(root) => Tree { root: Some(Arc::new(root.with(key, entry))) },
        }
    }

    /// The tree without the entry of that rank.
    pub fn without(&self, key: &[u8], rank: &Rank) -> Tree {
        Tree { root: self.root.as_ref().and_then(|root| root.without(key, rank)).map(Arc::new) }
    }

    /// Shows the entries of every key that the path begins with, shortest first.
    pub fn walk<'t>(&'t self, path: &str, mut visit: impl FnMut(&'t [Entry])) {
        let mut rest = path.as_bytes();
        let mut node = self.root.as_deref();
        while let Some(current) = node {
            let Some(tail) = rest.strip_prefix(&*current.label) else { return };
            rest = tail;
            if !current.entries.is_empty() {
                visit(&current.entries);
            }
            let Some(byte) = rest.first() else { return };
            node =
                current.child(*byte).ok().and_then(|at| current.children.get(at)).map(|(_, child)| &**child);
        }
    }
}

/// A node for keys that share their first `from` bytes.
fn build(keyed: &[Keyed], from: usize, root: bool) -> Node {
    let tail = |keyed: Option<&Keyed>| {
        keyed.map_or(&[][..], |(key, _)| key.get(from..).unwrap_or_default()).to_vec()
    };
    let (first, last) = (tail(keyed.first()), tail(keyed.last()));
    // Sorted keys: what the outer two share, all share.
    let shared = if root { 0 } else { common(&first, &last) };
    let depth = from + shared;
    let own = keyed.iter().take_while(|(key, _)| key.len() == depth).count();
    let (own, mut rest) = keyed.split_at(own);
    let mut children = Vec::new();
    while let Some(byte) = rest.first().and_then(|(key, _)| key.get(depth)).copied() {
        let same = rest.iter().take_while(|(key, _)| key.get(depth) == Some(&byte)).count();
        let (group, after) = rest.split_at(same);
        children.push((byte, Arc::new(build(group, depth, false))));
        rest = after;
    }
    Node {
        label: first.get(..shared).unwrap_or_default().into(),
        entries: own.iter().map(|(_, entry)| entry.clone()).collect(),
        children: children.into(),
    }
}

fn common(one: &[u8], other: &[u8]) -> usize {
    one.iter().zip(other).take_while(|(a, b)| a == b).count()
}

impl Node {
    fn child(&self, byte: u8) -> Result<usize, usize> {
        self.children.binary_search_by_key(&byte, |(first, _)| *first)
    }

    /// `key` is what is left of it after the label.
    fn with(&self, key: &[u8], entry: Entry) -> Node {
        let Some(byte) = key.first() else {
            let mut entries = self.entries.to_vec();
            let at = entries.partition_point(|known| known.rank < entry.rank);
            entries.insert(at, entry);
            return Node { entries: entries.into(), ..self.clone() };
        };
        let mut children = self.children.to_vec();
        match self.child(*byte) {
            Err(at) => {
                let leaf = Node { label: key.into(), entries: [entry].into(), children: Box::default() };
                children.insert(at, (*byte, Arc::new(leaf)));
            }
            Ok(at) => {
                if let Some((_, child)) = children.get_mut(at) {
                    let shared = common(&child.label, key);
                    let rest = key.get(shared..).unwrap_or_default();
                    let grown = if shared == child.label.len() {
                        child.with(rest, entry)
                    } else {
                        child.split(shared).with(rest, entry)
                    };
                    *child = Arc::new(grown);
                }
            }
        }
        Node { children: children.into(), ..self.clone() }
    }

    /// A node for the first bytes of the label, with this one below it.
    fn split(&self, at: usize) -> Node {
        let (head, tail) = self.label.split_at(at);
        let byte = tail.first().copied().unwrap_or_default();
        let below = Node { label: tail.into(), ..self.clone() };
        Node { label: head.into(), entries: Box::default(), children: [(byte, Arc::new(below))].into() }
    }

    /// `None`: nothing is left.
    fn without(&self, key: &[u8], rank: &Rank) -> Option<Node> {
        let Some(byte) = key.first() else {
            let entries: Box<[Entry]> =
                self.entries.iter().filter(|entry| entry.rank != *rank).cloned().collect();
            return (!entries.is_empty() || !self.children.is_empty())
                .then(|| Node { entries, ..self.clone() });
        };
        let found = self.child(*byte).ok().and_then(|at| Some((at, self.children.get(at)?)));
        let Some((at, (_, child))) = found else { return Some(self.clone()) };
        let Some(rest) = key.strip_prefix(&*child.label) else { return Some(self.clone()) };
        let mut children = self.children.to_vec();
        match child.without(rest, rank) {
            Some(smaller) => {
                if let Some((_, child)) = children.get_mut(at) {
                    *child = Arc::new(smaller);
                }
            }
            None => {
                children.remove(at);
            }
        }
        (!children.is_empty() || !self.entries.is_empty())
            .then(|| Node { children: children.into(), ..self.clone() })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(id: u128) -> Entry {
        Entry { rank: Rank { weight: 0, id, place: 0 }, kind: Kind::Any, part: Arc::default() }
    }

    fn found(tree: &Tree, path: &str) -> Vec<u128> {
        let mut found = Vec::new();
        tree.walk(path, |entries| found.extend(entries.iter().map(|entry| entry.rank.id)));
        found.sort_unstable();
        found
    }

    proptest! {
        #[test]
        fn finds_exactly_the_prefixes(
            keys in prop::collection::vec("[a-c/]{0,5}", 0..20),
            removed in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
            path in "[a-c/]{0,8}",
            grown in 0..20_usize,
        ) {
            let keyed = |at: usize, key: &String| (key.as_bytes().into(), entry(at as u128));
            let grown = grown.min(keys.len());
            let built = keys[..grown].iter().enumerate().map(|(at, key)| keyed(at, key)).collect();
            let mut tree = Tree::build(built);
            for (at, key) in keys.iter().enumerate().skip(grown) {
                tree = tree.with(key.as_bytes(), entry(at as u128));
            }
            let mut gone = std::collections::HashSet::new();
            for index in removed.iter().filter(|_| !keys.is_empty()) {
                let at = index.index(keys.len());
                gone.insert(at);
                tree = tree.without(keys[at].as_bytes(), &entry(at as u128).rank);
            }
            let expected: Vec<u128> = keys
                .iter()
                .enumerate()
                .filter(|(at, key)| !gone.contains(at) && path.starts_with(*key))
                .map(|(at, _)| at as u128)
                .collect();
            prop_assert_eq!(found(&tree, &path), expected);
            if gone.len() == keys.len() {
                prop_assert!(tree.is_empty());
            }
        }
    }
}
