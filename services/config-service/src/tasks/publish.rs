//! Brings revisions into Consul's KV: the publisher of the outbox's `kv` lane.

use std::sync::Arc;

use bytes::Bytes;
use plinth_core::consul::wire::{KvOp, KvPair, KvVerb, TxnOp, TxnResult};
use plinth_core::consul::{Client, Read};
use plinth_events::{Message, PublishError, Publisher};

use crate::Error;
use crate::domain::{ItemId, JsonText, Revision};
use crate::store::{Publication, Store};

/// Written together with each deletion, so that a deletion has an index that readers can wait for. Holds the item.
pub const LAST_DELETION_KEY: &str = "plinth/config-last-deletion";
/// Tries against concurrent writers of the same KV key before the message is put back.
const ATTEMPTS: usize = 8;

/// Writes by check-and-set only: whatever another replica, a repeat after a crash or somebody with the `consul` command
/// did meanwhile is seen and judged anew, so an older revision cannot replace a newer one.
#[derive(Clone)]
pub struct KvPublisher {
    client: Client,
    store: Arc<dyn Store>,
}

enum Step {
    /// KV is where it should be (index, if known).
    Done(Option<u64>),
    Write(Vec<TxnOp>),
}

impl KvPublisher {
    pub fn new(client: Client, store: Arc<dyn Store>) -> Self {
        Self { client, store }
    }

    async fn bring(&self, id: &ItemId, number: u64) -> Result<(), Error> {
        let Some(head) = self.store.head(id).await? else {
            return Err(Error::CorruptRow(format!("{id} has an outbox row and no revision")));
        };
        // A newer revision has an outbox row of its own behind this one, or is in KV already.
        if head.revision > number {
            return Ok(());
        }
        let key = id.kv_key();
        for _ in 0..ATTEMPTS {
            let found = self.client.kv().get(&key, &Read::consistent()).await?;
            let index = match step(&key, &head, found.value.as_ref()) {
                Step::Done(index) => index.unwrap_or(0),
                Step::Write(operations) => match self.client.txn(&operations).await {
                    Ok(results) => index_of(&results.results),
                    // Somebody else was faster: look again.
                    Err(plinth_core::Error::TxnFailed { .. }) => continue,
                    Err(error) => return Err(error.into()),
                },
            };
            return self.store.set_published(id, head.revision, index).await;
        }
        Err(Error::Contended(key))
    }
}

/// What brings KV from `found` to `head`.
fn step(key: &str, head: &Revision, found: Option<&KvPair>) -> Step {
    match (&head.value, found) {
        (None, None) => Step::Done(None),
        (Some(value), Some(pair)) if pair.flags == head.revision => match JsonText::from_bytes(&pair.value) {
            // Another valid value under our number is somebody's edit: the reconciler's business.
            Ok(_) => Step::Done(Some(pair.modify_index)),
            Err(_) => Step::Write(vec![put(key, value, head.revision, pair.modify_index)]),
        },
        (Some(value), found) => {
            let index = found.map_or(0, |pair| pair.modify_index);
            Step::Write(vec![put(key, value, head.revision, index)])
        }
        (None, Some(pair)) => Step::Write(vec![
            TxnOp::kv_delete_cas(key, pair.modify_index),
            TxnOp::KV(KvOp {
                value: Bytes::from(format!("{}#{}", head.id, head.revision)),
                flags: head.revision,
                ..KvOp::new(KvVerb::Set, LAST_DELETION_KEY)
            }),
        ]),
    }
}

fn put(key: &str, value: &JsonText, revision: u64, index: u64) -> TxnOp {
    let value = Bytes::copy_from_slice(value.as_str().as_bytes());
    TxnOp::KV(KvOp { value, flags: revision, index, ..KvOp::new(KvVerb::Cas, key) })
}

/// All writes of a transaction share one index.
fn index_of(results: &[TxnResult]) -> u64 {
    results
        .iter()
        .filter_map(|result| match result {
            TxnResult::KV(pair) => Some(pair.modify_index),
            _ => None,
        })
        .max()
        .unwrap_or(0)
}

impl Publisher for KvPublisher {
    async fn publish(&self, message: &Message) -> Result<(), PublishError> {
        let publication: Publication = serde_json::from_str(&message.payload)
            .map_err(|_| PublishError::Refused("the outbox row is no publication".into()))?;
        let id = publication.id().map_err(|error| PublishError::Refused(error.to_string()))?;
        self.bring(&id, publication.revision).await.map_err(|error| {
            let text = plinth_core::error::chain(&error);
            match &error {
                Error::DatabaseAway(_) => PublishError::Unavailable(text),
                Error::Consul(cause) if cause.is_unavailable() => PublishError::Unavailable(text),
                _ => PublishError::Refused(text),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Key, Kind, Scope};
    use jiff::Timestamp;

    fn head(value: Option<&str>) -> Revision {
        Revision {
            id: ItemId { scope: Scope::parse("shop", "prod").unwrap(), key: Key::parse("k").unwrap() },
            revision: 5,
            kind: if value.is_some() { Kind::Put } else { Kind::Delete },
            value: value.map(|text| JsonText::parse(text).unwrap()),
            description: None,
            author: "ann".into(),
            item_created_at: Timestamp::UNIX_EPOCH,
            created_at: Timestamp::UNIX_EPOCH,
            published_index: None,
        }
    }

    fn pair(flags: u64, value: &'static str) -> KvPair {
        KvPair { flags, value: Bytes::from_static(value.as_bytes()), modify_index: 70, ..KvPair::default() }
    }

    fn written(head: &Revision, found: Option<&KvPair>) -> Vec<(KvVerb, u64, u64)> {
        match step("key", head, found) {
            Step::Done(_) => Vec::new(),
            Step::Write(operations) => operations
                .into_iter()
                .map(|operation| match operation {
                    TxnOp::KV(op) => (op.verb, op.flags, op.index),
                    other => panic!("not a KV operation: {other:?}"),
                })
                .collect(),
        }
    }

    #[test]
    fn writes_are_always_conditional() {
        let live = head(Some("1"));
        assert_eq!(written(&live, None), [(KvVerb::Cas, 5, 0)], "only if it is still missing");
        assert_eq!(written(&live, Some(&pair(4, "0"))), [(KvVerb::Cas, 5, 70)]);
        assert_eq!(written(&live, Some(&pair(99, "1"))), [(KvVerb::Cas, 5, 70)], "a number nobody gave out");
        assert_eq!(written(&live, Some(&pair(5, "1"))), []);
        assert_eq!(written(&live, Some(&pair(5, "2"))), [], "an edit is left to the reconciler");
        assert_eq!(written(&live, Some(&pair(5, "nope"))), [(KvVerb::Cas, 5, 70)]);
        let gone = head(None);
        assert_eq!(written(&gone, None), []);
        assert_eq!(written(&gone, Some(&pair(4, "0"))), [(KvVerb::DeleteCas, 0, 70), (KvVerb::Set, 5, 0)]);
    }
}
