//! Reads the documents of instances, many at a time, and keeps what has not changed.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::build;
use crate::Error;
use crate::consul::wire::{ServiceEntry, TxnOp, TxnResult};
use crate::consul::{Client, MAX_TXN_OPS};
use crate::registration::{document_from, fingerprint, instance_key};

/// The metadata of one service's instances. Each is kept under its own fingerprint, so that an entry whose mark is another one
/// makes it be read again.
#[derive(Debug, Default)]
pub(super) struct Documents {
    known: HashMap<String, Known>,
}

#[derive(Debug)]
struct Known {
    mark: String,
    metadata: Arc<Map<String, Value>>,
}

impl Documents {
    pub(super) fn metadata(&self, service_id: &str) -> Option<&Map<String, Value>> {
        self.known.get(service_id).map(|known| &*known.metadata)
    }

    /// Reads what is missing or has changed and forgets who is gone. True when everything is known afterwards; false: ask again
    /// soon. A document that does not exist (its instance is being removed) counts as settled.
    pub(super) async fn update(&mut self, client: &Client, entries: &[ServiceEntry]) -> bool {
        let marks: HashMap<&str, &str> = entries
            .iter()
            .filter_map(|entry| Some((entry.service.id.as_str(), build::document_mark(entry)?)))
            .collect();
        self.known.retain(|id, _| marks.contains_key(id.as_str()));
        let wanted: Vec<&str> = marks
            .iter()
            .filter(|(id, mark)| self.known.get(**id).is_none_or(|known| known.mark != **mark))
            .map(|(id, _)| *id)
            .collect();
        let mut complete = true;
        for ids in wanted.chunks(MAX_TXN_OPS) {
            match read(client, ids).await {
                Ok(found) => self.known.extend(found),
                Err(error) => {
                    complete = false;
                    tracing::debug!(error = %crate::error::chain(&error), "instance documents cannot be read now");
                }
            }
        }
        complete
    }
}

async fn read(client: &Client, ids: &[&str]) -> Result<Vec<(String, Known)>, Error> {
    let mut ids = ids.to_vec();
    loop {
        let ops: Vec<TxnOp> = ids.iter().map(|id| TxnOp::kv_get(instance_key(id))).collect();
        match client.txn(&ops).await {
            Ok(answer) => return Ok(answer.results.iter().filter_map(known).collect()),
            // Every missing key is named, so one more round without them is enough (unless more have gone meanwhile).
            Err(Error::TxnFailed { errors }) if !errors.is_empty() => {
                let missing: Vec<usize> = errors.iter().map(|error| error.op_index).collect();
                let mut place = 0..;
                let before = ids.len();
                ids.retain(|_| place.next().is_some_and(|place| !missing.contains(&place)));
                if ids.is_empty() {
                    return Ok(Vec::new());
                }
                if ids.len() == before {
                    return Err(Error::TxnFailed { errors });
                }
            }
            Err(error) => return Err(error),
        }
    }
}

fn known(result: &TxnResult) -> Option<(String, Known)> {
    let TxnResult::KV(pair) = result else { return None };
    match document_from(&pair.key, &pair.value) {
        Ok(document) => {
            let metadata = document.registration.metadata;
            let known = Known { mark: fingerprint(&metadata), metadata: Arc::new(metadata) };
            Some((document.registration.service_id, known))
        }
        Err(error) => {
            tracing::warn!(key = %pair.key, error = %crate::error::chain(&error), "instance document left out");
            None
        }
    }
}
