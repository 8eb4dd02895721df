//! A radix tree over path prefixes, built once from sorted keys.

/// Something that stands at a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Entry {
    /// Rank of the part in the upper bits, position of the path within it in the lower 16.
    pub order: u64,
    pub kind: Kind,
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
    pub fn rank(&self) -> usize {
        (self.order >> 16) as usize
    }

    pub fn pattern(&self) -> Option<u32> {
        match self.kind {
            Kind::Pattern(index) => Some(index),
            _ => None,
        }
    }
}

#[derive(Debug, Default)]
struct Node {
    /// Bytes between the parent and this node.
    label: Box<[u8]>,
    /// Sorted by order.
    entries: Box<[Entry]>,
    /// First byte of each child's label, sorted.
    first: Box<[u8]>,
    /// Positions in `Tree::nodes`.
    children: Box<[u32]>,
}

/// Entries by prefix.
#[derive(Debug, Default)]
pub(super) struct Tree {
    nodes: Vec<Node>,
}

impl Tree {
    pub fn build(mut keyed: Vec<(Box<[u8]>, Entry)>) -> Tree {
        keyed.sort();
        let mut tree = Tree::default();
        if !keyed.is_empty() {
            tree.add(&keyed, 0);
        }
        tree.nodes.shrink_to_fit();
        tree
    }

    /// Adds a node for keys that share their first `from` bytes; returns its position.
    fn add(&mut self, keyed: &[(Box<[u8]>, Entry)], from: usize) -> u32 {
        let (first, last) = match keyed {
            [] => (&[][..], &[][..]),
            [first, .., last] => (&first.0[from..], &last.0[from..]),
            [only] => (&only.0[from..], &only.0[from..]),
        };
        // Sorted keys: what the outer two share, all share. The root's label stays empty so that a walk always starts there.
        let shared = if self.nodes.is_empty() {
            0
        } else {
            first.iter().zip(last).take_while(|(a, b)| a == b).count()
        };
        let at = self.nodes.len();
        let depth = from + shared;
        self.nodes.push(Node { label: first[..shared].into(), ..Node::default() });
        let own = keyed.iter().take_while(|(key, _)| key.len() == depth).count();
        let mut entries: Vec<Entry> = keyed[..own].iter().map(|(_, entry)| *entry).collect();
        entries.sort();
        let (mut firsts, mut children) = (Vec::new(), Vec::new());
        let mut rest = &keyed[own..];
        while let Some((key, _)) = rest.first() {
            let byte = key[depth];
            let same = rest.iter().take_while(|(key, _)| key[depth] == byte).count();
            firsts.push(byte);
            children.push(self.add(&rest[..same], depth));
            rest = &rest[same..];
        }
        self.nodes[at].entries = entries.into();
        self.nodes[at].first = firsts.into();
        self.nodes[at].children = children.into();
        u32::try_from(at).unwrap_or(u32::MAX)
    }

    /// Shows the entries of every key that the path begins with, shortest first.
    pub fn walk(&self, path: &str, mut visit: impl FnMut(&[Entry])) {
        let mut rest = path.as_bytes();
        let mut node = self.nodes.first();
        while let Some(current) = node {
            let Some(tail) = rest.strip_prefix(&*current.label) else { return };
            rest = tail;
            if !current.entries.is_empty() {
                visit(&current.entries);
            }
            let Some(byte) = rest.first() else { return };
            let Ok(child) = current.first.binary_search(byte) else { return };
            node = current.children.get(child).and_then(|at| self.nodes.get(*at as usize));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(order: u64) -> Entry {
        Entry { order, kind: Kind::Any }
    }

    proptest! {
        #[test]
        fn finds_exactly_the_prefixes(keys in prop::collection::vec("[a-c/]{0,5}", 0..20), path in "[a-c/]{0,8}") {
            let keyed = keys.iter().enumerate().map(|(at, key)| (key.as_bytes().into(), entry(at as u64))).collect();
            let mut found = Vec::new();
            Tree::build(keyed).walk(&path, |entries| found.extend(entries.iter().map(|entry| entry.order)));
            found.sort_unstable();
            let expected: Vec<u64> =
                keys.iter().enumerate().filter(|(_, key)| path.starts_with(*key)).map(|(at, _)| at as u64).collect();
            prop_assert_eq!(found, expected);
        }
    }
}
