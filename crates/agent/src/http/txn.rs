//! `/v1/txn`.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::StatusCode;
use serde::Serialize;
use serde_json::Value;

use super::decode::{self, Fields, Malformed, Place, Times};
use super::kv::{Shown, shown};
use super::query::ReadOptions;
use super::reply::{Handled, Reply};
use super::{Call, Server, cached, catalog};
use crate::engine::now;
use crate::state::command::TxnOp;
use crate::state::model::{Check, Node, Proxy, Service};
use crate::state::txn::{TxnFailure, TxnResult, failures, ids};
use crate::state::{Command, Outcome, State};

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
        let reads = ops.iter().all(TxnOp::reads_only);
        if reads {
            // it does as other reads are asked to, as far as it goes
            cached::check_header(call.headers)?;
            ReadOptions::parse(&call.query)?;
        }
        self.same_datacenter(call)?;
        let state = self.engine.state();
        let outcome = if let Some(refused) = refused(&state, &ops) {
            refused
        } else if reads {
            state.read_txn(&ops, now())
        } else {
            drop(state);
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
            let given = fields.take(&["Service"]).unwrap_or_default();
            let nameless = verb == "get" && lacks(&given, "ID");
            let mut service = decode::service(given, SERVICE)?;
            if nameless {
                service.id.clear();
            }
            // not taken over by a transaction
            service.kind.clear();
            service.tagged_addresses = None;
            service.proxy = Proxy::default();
            service.connect.clear();
            fields.finish()?;
            Some(TxnOp::Service { verb, node, service: Box::new(service) })
        } else if let Some(check) = fields.take(&["Check"]) {
            let mut fields = Fields::new(check)?;
            let verb = fields.text(&["Verb"])?;
            let given = fields.take(&["Check"]).unwrap_or_default();
            let nameless = verb == "get" && lacks(&given, "CheckID");
            let mut check = decode::check(given, Times::Either)?;
            if nameless {
                check.check_id.clear();
            }
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

/// Whether an object does not say its id. What is written is then called by its name, what is read is not found.
fn lacks(object: &Value, id: &str) -> bool {
    let says = |(name, value): (&String, &Value)| name.eq_ignore_ascii_case(id) && *value != "";
    !object.as_object().is_some_and(|fields| fields.iter().any(says))
}

/// What Consul refuses of operations that the state would take.
fn refused(state: &State, ops: &[TxnOp]) -> Option<Outcome> {
    let now = now();
    let faults = failures(ops, |op| fault_of_form(op).or_else(|| state.txn_fault(op, now)));
    if !faults.is_empty() {
        return Some(Outcome::TxnFailed(faults));
    }
    let mut faults = failures(ops, fault_of_meta);
    if faults.is_empty() {
        return None;
    }
    // found while the others are tried, so these have their faults told too
    let sound = |(at, _): &(usize, &TxnOp)| faults.iter().all(|fault| fault.op_index != *at);
    let (places, rest): (Vec<usize>, Vec<TxnOp>) =
        ops.iter().enumerate().filter(sound).map(|(at, op)| (at, op.clone())).unzip();
    if let Outcome::TxnFailed(others) = state.read_txn(&rest, now) {
        let moved = |fault: TxnFailure| Some(TxnFailure { op_index: *places.get(fault.op_index)?, ..fault });
        faults.extend(others.into_iter().filter_map(moved));
    }
    faults.sort_by_key(|fault| fault.op_index);
    Some(Outcome::TxnFailed(faults))
}

fn fault_of_form(op: &TxnOp) -> Option<String> {
    match op {
        TxnOp::Kv { verb, key, .. } if verb == "get-tree" && key.is_empty() => {
            Some("Must provide key".to_owned())
        }
        TxnOp::Node { verb, node } if verb != "get" && !node.node.is_empty() && !node.id.is_empty() => {
            ids::node_id(&node.id).err().map(|why| format!("Bad node ID: {why}"))
        }
        TxnOp::Service { verb, service, .. } if verb != "get" => catalog::fault_of_form(service),
        _ => None,
    }
}

fn fault_of_meta(op: &TxnOp) -> Option<String> {
    match op {
        TxnOp::Service { verb, node, service } if verb == "set" || verb == "cas" => {
            catalog::fault_of_meta(node, service)
        }
        _ => None,
    }
}

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
