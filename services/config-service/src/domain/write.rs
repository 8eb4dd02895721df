//! What a requested change means for an item's history.

use jiff::Timestamp;

use super::{ItemId, JsonText, Kind, Precondition, Revision};

/// A requested change of one item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub id: ItemId,
    pub action: Action,
    pub precondition: Precondition,
    pub author: String,
    pub at: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    Put {
        value: JsonText,
        /// Outer `None`: keep the one it has. Inner `None`: have none.
        description: Option<Option<String>>,
    },
    Delete,
    /// Take over what somebody else wrote into KV.
    Adopt {
        value: JsonText,
        /// KV's flags; the new revision is above them.
        flags: u64,
        /// The newest revision when KV was looked at: anything newer wins.
        expected_head: Option<u64>,
    },
}

/// Why a change was not made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The precondition does not hold for the live item's revision (`None`: there is no live item).
    Precondition {
        current: Option<u64>,
    },
    NotFound,
    /// Adoption came too late.
    Superseded,
}

/// The outcome of a change that is allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Append this revision.
    Append(Revision),
    /// The item is already as asked for.
    Unchanged,
}

impl Change {
    /// Decides on the change of an item whose newest revision is `head`.
    ///
    /// # Errors
    /// [`Refusal`]
    pub fn decide(&self, head: Option<&Revision>) -> Result<Decision, Refusal> {
        let live = head.filter(|head| !head.is_tombstone());
        let current = live.map(|live| live.revision);
        if !self.precondition.allows(current) {
            return Err(Refusal::Precondition { current });
        }
        match &self.action {
            Action::Put { value, description } => {
                let kept = live.and_then(|live| live.description.clone());
                let description = description.clone().unwrap_or(kept);
                // A repeated request is answered like the first and leaves no trace.
                if live.is_some_and(|l| l.value.as_ref() == Some(value) && l.description == description) {
                    return Ok(Decision::Unchanged);
                }
                Ok(Decision::Append(self.next(head, 0, Kind::Put, Some(value.clone()), description)))
            }
            Action::Delete if live.is_none() => Err(Refusal::NotFound),
            Action::Delete => Ok(Decision::Append(self.next(head, 0, Kind::Delete, None, None))),
            Action::Adopt { value, flags, expected_head } => {
                if head.map(|head| head.revision) != *expected_head {
                    return Err(Refusal::Superseded);
                }
                let description = live.and_then(|live| live.description.clone());
                Ok(Decision::Append(self.next(
                    head,
                    *flags,
                    Kind::External,
                    Some(value.clone()),
                    description,
                )))
            }
        }
    }

    fn next(
        &self,
        head: Option<&Revision>,
        above: u64,
        kind: Kind,
        value: Option<JsonText>,
        description: Option<String>,
    ) -> Revision {
        let live = head.filter(|head| !head.is_tombstone());
        Revision {
            id: self.id.clone(),
            revision: head.map_or(0, |head| head.revision).max(above).saturating_add(1),
            kind,
            value,
            description,
            author: self.author.clone(),
            item_created_at: live.map_or(self.at, |live| live.item_created_at),
            created_at: self.at,
            published_index: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Key, Scope};

    fn change(action: Action, precondition: Precondition, at: i64) -> Change {
        Change {
            id: ItemId { scope: Scope::parse("shop", "prod").unwrap(), key: Key::parse("k").unwrap() },
            action,
            precondition,
            author: "ann".into(),
            at: Timestamp::from_second(at).unwrap(),
        }
    }

    fn put(value: &str, description: Option<Option<&str>>) -> Action {
        Action::Put {
            value: JsonText::parse(value).unwrap(),
            description: description.map(|inner| inner.map(str::to_owned)),
        }
    }

    fn append(decision: Result<Decision, Refusal>) -> Revision {
        match decision {
            Ok(Decision::Append(revision)) => revision,
            other => panic!("no revision: {other:?}"),
        }
    }

    #[test]
    fn an_items_life() {
        let first = append(change(put("1", Some(Some("why"))), Precondition::Absent, 1).decide(None));
        assert_eq!((first.revision, first.kind), (1, Kind::Put));
        let second = append(change(put("2", None), Precondition::Revisions(vec![1]), 2).decide(Some(&first)));
        assert_eq!((second.revision, second.description.as_deref()), (2, Some("why")));
        assert_eq!(second.item_created_at, first.created_at);
        let again = change(put("2", None), Precondition::None, 3).decide(Some(&second));
        assert_eq!(again, Ok(Decision::Unchanged));
        let gone = append(change(Action::Delete, Precondition::None, 4).decide(Some(&second)));
        assert_eq!((gone.revision, gone.kind, gone.value.clone()), (3, Kind::Delete, None));
        assert_eq!(change(Action::Delete, Precondition::None, 5).decide(Some(&gone)), Err(Refusal::NotFound));
        let back = append(change(put("2", None), Precondition::Absent, 6).decide(Some(&gone)));
        assert_eq!((back.revision, back.description.as_deref()), (4, None));
        assert_eq!(back.item_created_at, back.created_at, "a new life");
    }

    #[test]
    fn preconditions_look_at_the_live_item() {
        let first = append(change(put("1", None), Precondition::None, 1).decide(None));
        let stale = change(put("2", None), Precondition::Revisions(vec![7]), 2).decide(Some(&first));
        assert_eq!(stale, Err(Refusal::Precondition { current: Some(1) }));
        let gone = append(change(Action::Delete, Precondition::None, 3).decide(Some(&first)));
        let dead = change(put("2", None), Precondition::Revisions(vec![2]), 4).decide(Some(&gone));
        assert_eq!(dead, Err(Refusal::Precondition { current: None }), "a tombstone matches nothing");
    }

    #[test]
    fn adoption_is_above_what_kv_says_and_gives_way() {
        let first = append(change(put("1", None), Precondition::None, 1).decide(None));
        let adopt = |flags, expected_head| {
            let value = JsonText::parse("9").unwrap();
            change(Action::Adopt { value, flags, expected_head }, Precondition::None, 2)
        };
        let taken = append(adopt(40, Some(1)).decide(Some(&first)));
        assert_eq!((taken.revision, taken.kind), (41, Kind::External));
        assert_eq!(adopt(0, None).decide(Some(&first)), Err(Refusal::Superseded));
        assert_eq!(append(adopt(0, None).decide(None)).revision, 1);
    }
}
