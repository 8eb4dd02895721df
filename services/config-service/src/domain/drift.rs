//! What to do when Consul's KV and the history disagree, because somebody wrote KV without us, Consul lost data, or a
//! publication was cut short.

use super::{JsonText, Revision};

/// An item as KV has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KvState {
    /// The revision, when we wrote it.
    pub flags: u64,
    /// `None` when it is not JSON or too large.
    pub value: Option<JsonText>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    InSync,
    /// KV lacks the newest revision, has an older one or something that is no value: publish the newest again.
    Republish,
    /// KV has a value that the history has not: somebody else wrote it. It is the current value, so record it.
    Adopt,
    /// KV has something that is no value, and there is no item of that name: leave it alone.
    Ignore,
}

/// `head` is the item's newest revision, `same` the one whose number KV's flags carry.
///
/// A missing KV entry is never read as a deletion: items are deleted through the API, while a Consul that was restored
/// from an old snapshot or lost its data would otherwise take the whole configuration with it.
pub fn judge(head: Option<&Revision>, same: Option<&Revision>, kv: Option<&KvState>) -> Verdict {
    match (head, kv) {
        (None, None) => Verdict::InSync,
        (Some(head), None) if head.is_tombstone() => Verdict::InSync,
        (Some(_), None) => Verdict::Republish,
        (None, Some(kv)) if kv.value.is_none() => Verdict::Ignore,
        (None, Some(_)) => Verdict::Adopt,
        (Some(_), Some(kv)) if kv.value.is_none() => Verdict::Republish,
        (Some(head), Some(kv)) => {
            let is_head = head.value == kv.value;
            if is_head && kv.flags == head.revision {
                Verdict::InSync
            } else if is_head || same.is_some_and(|same| same.value == kv.value) {
                Verdict::Republish
            } else {
                Verdict::Adopt
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{ItemId, Key, Kind, Scope};
    use jiff::Timestamp;

    fn revision(revision: u64, value: Option<&str>) -> Revision {
        Revision {
            id: ItemId { scope: Scope::parse("shop", "prod").unwrap(), key: Key::parse("k").unwrap() },
            revision,
            kind: if value.is_some() { Kind::Put } else { Kind::Delete },
            value: value.map(|text| JsonText::parse(text).unwrap()),
            description: None,
            author: "test".into(),
            item_created_at: Timestamp::UNIX_EPOCH,
            created_at: Timestamp::UNIX_EPOCH,
            published_index: None,
        }
    }

    fn kv(flags: u64, value: &str) -> KvState {
        KvState { flags, value: JsonText::parse(value).ok() }
    }

    #[test]
    fn judges() {
        let (one, two, gone) = (revision(1, Some("1")), revision(2, Some("2")), revision(3, None));
        let cases = [
            ("nothing at all", None, None, None, Verdict::InSync),
            ("as published", Some(&two), Some(&two), Some(kv(2, "2")), Verdict::InSync),
            ("deleted here and there", Some(&gone), None, None, Verdict::InSync),
            ("lost by Consul", Some(&two), None, None, Verdict::Republish),
            ("older state came back", Some(&two), Some(&one), Some(kv(1, "1")), Verdict::Republish),
            ("deleted item came back", Some(&gone), Some(&two), Some(kv(2, "2")), Verdict::Republish),
            ("the value without its number", Some(&two), None, Some(kv(0, "2")), Verdict::Republish),
            ("garbage over an item", Some(&two), None, Some(kv(0, "nope")), Verdict::Republish),
            ("garbage elsewhere", None, None, Some(kv(0, "nope")), Verdict::Ignore),
            ("somebody's new value", Some(&two), None, Some(kv(0, "9")), Verdict::Adopt),
            ("somebody's value under our number", Some(&two), Some(&two), Some(kv(2, "9")), Verdict::Adopt),
            ("somebody's value after a deletion", Some(&gone), None, Some(kv(0, "9")), Verdict::Adopt),
            ("somebody's new item", None, None, Some(kv(0, "9")), Verdict::Adopt),
            ("from a future we do not know", Some(&two), None, Some(kv(7, "9")), Verdict::Adopt),
        ];
        for (what, head, same, kv, expected) in cases {
            assert_eq!(judge(head, same, kv.as_ref()), expected, "{what}");
        }
    }
}
