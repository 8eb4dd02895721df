//! `/v1/discovery-chain/`: what configuration entries make of a connection to a service, compiled into one graph.

use std::time::Duration;

use http::Method;
use serde_json::{Map, Value};

use super::decode::{self, Malformed};
use super::query::ReadOptions;
use super::reply::{Handled, Reply};
use super::{Call, Server};
use crate::engine::watch::Interest;
use crate::schema;
use crate::state::{Table, Topic};

pub mod compile;
mod digest;
mod graph;
mod shapes;

use compile::{Overrides, Wanted};

const MESH_MODES: [&str; 4] = ["", "none", "local", "remote"];

impl Server {
    pub(super) async fn discovery_chain(&self, call: &Call<'_>) -> Handled {
        if call.rest.is_empty() {
            return Err(Reply::bad("Bad request: Missing chain name"));
        }
        let overrides = overrides(call)?;
        let options = ReadOptions::parse(&call.query)?;
        let interest = || Interest::One(Topic::Table(Table::Config));
        let state = self.wait(&options, interest, |s| s.table_index(Table::Config)).await;
        let Some(authority) = state.authority().filter(|_| self.connect) else {
            return Err(super::connect::disabled().without_answer());
        };
        self.same_datacenter(call).map_err(Reply::without_answer)?;
        let wanted = Wanted {
            service: call.rest,
            evaluate_in: call.query.filled("compile-dc").unwrap_or(self.datacenter()),
            used_in: self.datacenter(),
            trust_domain: &authority.trust_domain(),
            overrides,
        };
        let chain = compile::compile(&state, wanted).map_err(|why| Reply::internal(&why).without_answer())?;
        let reply = Reply::json(&shapes::Answer { chain }, call.pretty);
        Ok(reply.at(state.table_index(Table::Config)).effective(options.consistency))
    }
}

/// What a POST asks to be otherwise than the entries say.
fn overrides(call: &Call<'_>) -> Result<Overrides, Reply> {
    if *call.method != Method::POST {
        return Ok(Overrides::default());
    }
    let refused = |why: &str| Reply::bad(&format!("Bad request: Request decoding failed: {why}"));
    let given = match decode::json(&call.body).map_err(|Malformed(why)| refused(&why))? {
        Value::Null => Map::new(),
        Value::Object(given) => given,
        other => {
            let kind = decode::kind_of(&other, "");
            let text =
                format!("json: cannot unmarshal {kind} into Go value of type map[string]interface {{}}");
            return Err(refused(&text));
        }
    };
    let mut faults = schema::Faults::default();
    let read = schema::read(given, schema::CHAIN_OVERRIDES, "", &mut faults);
    if !faults.values.is_empty() {
        let list: Vec<String> = faults.values.iter().map(|fault| format!("* {fault}")).collect();
        return Err(refused(&format!("{} error(s) decoding:\n\n{}", list.len(), list.join("\n"))));
    }
    let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
    let mesh_gateway = text(read.get("OverrideMeshGateway").and_then(|mesh| mesh.get("Mode")));
    if !MESH_MODES.contains(&mesh_gateway.as_str()) {
        return Err(Reply::bad("Invalid OverrideMeshGateway.Mode parameter"));
    }
    let nanos = read.get("OverrideConnectTimeout").and_then(Value::as_i64).unwrap_or(0);
    Ok(Overrides {
        mesh_gateway,
        protocol: text(read.get("OverrideProtocol")),
        connect_timeout: Duration::from_nanos(u64::try_from(nanos).unwrap_or(0)),
    })
}
