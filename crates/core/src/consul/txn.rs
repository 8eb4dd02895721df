//! Transactions: up to 64 operations, all or nothing.

use super::Client;
use super::call::Call;
use super::wire::{TxnAnswer, TxnOp, TxnResult};
use crate::Error;

/// Operations that go into one transaction.
pub const MAX_TXN_OPS: usize = 64;

/// Results of a committed transaction; deletes leave none, so places need not match the operations'.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TxnResults {
    pub results: Vec<TxnResult>,
}

impl Client {
    /// Commits all operations or none. [`Error::TxnFailed`] lists every operation that failed.
    pub async fn txn(&self, ops: &[TxnOp]) -> Result<TxnResults, Error> {
        let answer = self.send(Call::put("/v1/txn").json(ops)?.also(&[409])).await?;
        // A 409 can also be plain text (from a proxy between); then it is an ordinary status error.
        if answer.status() == 409 {
            return Err(match answer.json::<TxnAnswer>() {
                Ok(parsed) => Error::TxnFailed { errors: parsed.errors },
                Err(_) => answer.into_error(),
            });
        }
        Ok(TxnResults { results: answer.json::<TxnAnswer>()?.results })
    }
}
