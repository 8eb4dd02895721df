//! `/v1/txn`.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::StatusCode;
use serde::Serialize;
use serde_json::Value;

use super::decode::{self, Fields, Malformed, Place, Times};
use super::kv::{Shown, shown};
use super::reply::{Handled, Reply};
use super::{Call, Server};
use crate::engine::now;
use crate::state::command::TxnOp;
use crate::state::model::{Check, Node, Service};
use crate::state::txn::{TxnFailure, TxnResult};
use crate::state::{Command, Outcome};

const MOST_OPS: usize = 64;

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Answer<'a> {
    results: Option<Vec<Item<'a>>>,
    errors: Option<Vec<Failure<'a>>>,
    #[serde(flatten)]
    read: Option<Read>,
}

/// What only read-only transactions add.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Read {
    index: u64,
    last_contact: u64,
    known_leader: bool,
    consistency_level: &'static str,
}

#[derive(Serialize)]
enum Item<'a> {
    #[serde(rename = "KV")]
    Kv(Shown<'a>),
    Node(&'a Node),
    Service(&'a Service),
    Check(&'a Check),
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Failure<'a> {
    op_index: usize,
    what: &'a str,
}

impl Server {
    pub(super) async fn txn(&self, call: &Call<'_>) -> Handled {
        let ops = self.decode_txn(&call.body)?;
        if ops.len() > MOST_OPS {
            let text = format!("Transaction contains too many operations ({} > {MOST_OPS})", ops.len());
            return Err(Reply::text(StatusCode::PAYLOAD_TOO_LARGE, &text));
        }
        self.same_datacenter(call)?;
        let reads = ops.iter().all(TxnOp::reads_only);
        let outcome = if reads {
            self.engine.state().read_txn(&ops, now())
        } else {
            self.engine.write(Command::Txn(ops)).await?.outcome
        };
        Ok(answer(&outcome, reads, call.pretty))
    }

    fn decode_txn(&self, body: &[u8]) -> Result<Vec<TxnOp>, Reply> {
        let failed = |Malformed(why)| Reply::bad(&format!("Failed to parse body: {why}"));
        let value = match decode::json(body).map_err(failed)? {
            Value::Null => return Ok(Vec::new()),
            Value::Array(ops) => ops,
            Value::Object(_) => {
                return Err(Reply::bad(
                    "Failed to parse body: json: cannot unmarshal object into Go value of type api.TxnOps",
                ));
            }
            other => {
                let kind = decode::kind_of(&other, "");
                let text = format!(
                    "Failed to parse body: json: cannot unmarshal {kind} into Go value of type api.TxnOps"
                );
                return Err(Reply::bad(&text));
            }
        };
        let ops =
            value.into_iter().map(|op| self.decode_op(op)).collect::<Result<Vec<_>, _>>().map_err(failed)?;
        let ops: Vec<TxnOp> = ops.into_iter().flatten().collect();
        for op in &ops {
            if let TxnOp::Kv { value, .. } = op {
                super::value_fits(value.len())?;
            }
        }
        Ok(ops)
    }

    fn decode_op(&self, op: Value) -> Result<Option<TxnOp>, Malformed> {
        let mut fields = Fields::at(op, Place { whole: "value of type api.TxnOp", ..Place::default() })?;
        let decoded = if let Some(kv) = fields.take(&["KV"]) {
            Some(decode_kv(kv)?)
        } else if let Some(node) = fields.take(&["Node"]) {
            let mut fields = Fields::new(node)?;
            let verb = fields.text(&["Verb"])?;
            let node = decode::node(fields.take(&["Node"]).unwrap_or_default(), self.datacenter())?;
            fields.finish()?;
            Some(TxnOp::Node { verb, node: Box::new(node) })
        } else if let Some(service) = fields.take(&["Service"]) {
            let mut fields = Fields::new(service)?;
            let verb = fields.text(&["Verb"])?;
            let node = fields.name(&["Node"])?;
            let service = decode::service(fields.take(&["Service"]).unwrap_or_default(), SERVICE)?;
            fields.finish()?;
            Some(TxnOp::Service { verb, node, service: Box::new(service) })
        } else if let Some(check) = fields.take(&["Check"]) {
            let mut fields = Fields::new(check)?;
            let verb = fields.text(&["Verb"])?;
            let mut check = decode::check(fields.take(&["Check"]).unwrap_or_default(), Times::Either)?;
            // not taken over by a transaction
            check.kind.clear();
            fields.finish()?;
            Some(TxnOp::Check { verb, check: Box::new(check) })
        } else {
            None
        };
        // The first in this order counts. Go's client sends the others as null.
        fields.ignore(&["KV", "Node", "Service", "Check"]);
        fields.finish()?;
        Ok(decoded)
    }
}

const KV: Place =
    Place { owner: "KVTxnOp", path: "KV.", instead: "", whole: "struct field TxnOp.KV of type api.KVTxnOp" };
const SERVICE: Place = Place { owner: "AgentService", path: "Service.Service.", instead: "", whole: "" };

/// Go says at which byte it gave up.
fn decode_base64(text: &str) -> Result<Vec<u8>, Malformed> {
    use base64::DecodeError;
    STANDARD.decode(text).map_err(|error| {
        let at = match error {
            DecodeError::InvalidByte(at, _) | DecodeError::InvalidLastSymbol(at, _) => at,
            DecodeError::InvalidLength(_) | DecodeError::InvalidPadding => text.len() / 4 * 4,
        };
        Malformed(format!("illegal base64 data at input byte {at}"))
    })
}

fn decode_kv(kv: Value) -> Result<TxnOp, Malformed> {
    let mut fields = Fields::at(kv, KV)?;
    let verb = fields.text(&["Verb"])?;
    let value = match fields.take(&["Value"]) {
        None => Vec::new(),
        Some(Value::String(text)) => decode_base64(&text)?,
        Some(other) => return Err(KV.mismatch(&other, "Value", "[]uint8")),
    };
    let op = TxnOp::Kv {
        verb,
        key: fields.text(&["Key"])?,
        value: Bytes::from(value),
        flags: fields.unsigned(&["Flags"])?,
        index: fields.unsigned(&["Index"])?,
        session: fields.text(&["Session"])?,
    };
    fields.ignore(&["Namespace", "Partition"]);
    fields.finish()?;
    Ok(op)
}

fn answer(outcome: &Outcome, reads: bool, pretty: bool) -> Reply {
    let (results, errors): (&[TxnResult], &[TxnFailure]) = match outcome {
        Outcome::Txn(results) => (results, &[]),
        Outcome::TxnFailed(failures) => (&[], failures),
        _ => (&[], &[]),
    };
    let failed = !errors.is_empty();
    let item = |result| match result {
        &TxnResult::Kv { ref entry, with_value } => Item::Kv(shown(entry, with_value)),
        TxnResult::Node(node) => Item::Node(node),
        TxnResult::Service(service) => Item::Service(service),
        TxnResult::Check(check) => Item::Check(check),
    };
    let answer = Answer {
        results: (!failed).then(|| results.iter().map(item).collect()),
        errors: failed
            .then(|| errors.iter().map(|e| Failure { op_index: e.op_index, what: &e.what }).collect()),
        read: reads.then_some(Read { index: 0, last_contact: 0, known_leader: true, consistency_level: "" }),
    };
    let status = if failed { StatusCode::CONFLICT } else { StatusCode::OK };
    let mut reply = Reply::json(&answer, pretty).with_status(status);
    if reads {
        reply = reply.with_header("x-consul-knownleader", "true").with_header("x-consul-lastcontact", "0");
    }
    reply
}
