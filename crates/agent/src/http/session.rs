//! `/v1/session/`.

use std::time::Duration;

use http::StatusCode;
use serde::Serialize;
use serde_json::Value;

use super::decode::{self, Fields, Malformed, Place};
use super::kv::session_id;
use super::query::ReadOptions;
use super::reply::{Handled, Reply};
use super::{Call, Server};
use crate::duration;
use crate::engine::watch::Interest;
use crate::state::model::{Behavior, SERF_HEALTH, ServiceCheck, Session};
use crate::state::{Command, Table, Topic};

const SHORTEST_TTL: Duration = Duration::from_secs(10);
const LONGEST_TTL: Duration = Duration::from_secs(24 * 3600);
const DEFAULT_LOCK_DELAY: Duration = Duration::from_secs(15);

const WHOLE: Place = Place {
    owner: "",
    path: "",
    instead: "",
    whole: "value of type struct { LockDelay interface {}; *structs.Alias }",
};
const SERVICE_CHECK: Place = Place {
    owner: "",
    path: "",
    instead: "",
    whole: "struct field .ServiceChecks of type structs.ServiceCheck",
};

#[derive(Serialize)]
struct Created<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
}

impl Server {
    pub(super) async fn session_create(&self, call: &Call<'_>) -> Handled {
        let session = self
            .decode_session(&call.body)
            .map_err(|Malformed(why)| Reply::bad(&format!("Request decode failed: {why}")))??;
        self.same_datacenter(call)?;
        let (id, ttl) = (session.id.clone(), session.ttl.clone());
        self.engine.write(Command::SessionCreate(Box::new(session))).await?;
        if let Ok(ttl) = duration::parse(&ttl) {
            self.timers.arm_session(&id, ttl);
        }
        Ok(Reply::json(&Created { id: &id }, call.pretty))
    }

    fn decode_session(&self, body: &[u8]) -> Result<Result<Session, Reply>, Malformed> {
        let value = if body.is_empty() { Value::Null } else { decode::json(body)? };
        let mut fields = Fields::at(value, WHOLE)?;
        let (nodes_given, old_given) = (fields.has("NodeChecks"), fields.has("Checks"));
        let node = match fields.take(&["Node"]) {
            None => self.node_name().to_owned(),
            Some(given) => {
                fields.put_back("Node", given);
                fields.name(&["Node"])?
            }
        };
        let lock_delay = match fields.take(&["LockDelay"]) {
            None => DEFAULT_LOCK_DELAY,
            Some(Value::String(text)) => duration::parse(&text).map_err(Malformed)?,
            Some(value) if !value.is_number() => Duration::ZERO,
            // small numbers are seconds, others nanoseconds
            Some(value) => match value.as_f64().unwrap_or(0.0).max(0.0) {
                small if small < 1000.0 => Duration::from_secs_f64(small),
                nanos => Duration::from_nanos(nanos as u64),
            },
        };
        let named = fields.texts(&["NodeChecks"])?.unwrap_or_default();
        let old = fields.texts_of(&["Checks"], "types.CheckID")?.unwrap_or_default();
        let node_checks = match (nodes_given, old_given && old.is_empty()) {
            (true, _) => named,
            (false, true) => Vec::new(),
            (false, false) => vec![SERF_HEALTH.to_owned()],
        };
        // as in Consul: a list that says what there is anyway is not shown, and no node checks mean no checks
        let checks = if node_checks.is_empty() || old == [SERF_HEALTH] { Vec::new() } else { old };
        let service_checks = fields.list(&["ServiceChecks"])?.map(|checks| {
            checks
                .into_iter()
                .map(|value| {
                    let mut fields = Fields::at(value, SERVICE_CHECK)?;
                    Ok(ServiceCheck { id: fields.name(&["ID"])?, namespace: fields.text(&["Namespace"])? })
                })
                .collect::<Result<Vec<_>, Malformed>>()
        });
        let behavior = fields.text(&["Behavior"])?;
        let ttl = fields.text(&["TTL"])?;
        let session = Session {
            id: uuid::Uuid::new_v4().to_string(),
            name: fields.text(&["Name"])?,
            node,
            lock_delay: u64::try_from(lock_delay.as_nanos()).unwrap_or(u64::MAX),
            behavior: if behavior == "delete" { Behavior::Delete } else { Behavior::Release },
            ttl: ttl.clone(),
            node_checks,
            service_checks: service_checks.transpose()?,
            checks,
            create_index: 0,
            modify_index: 0,
        };
        if session.node.is_empty() {
            return Ok(Err(Reply::internal("Must provide Node")));
        }
        if !matches!(behavior.as_str(), "" | "release" | "delete") {
            return Ok(Err(Reply::internal(&format!("Invalid Behavior setting '{behavior}'"))));
        }
        Ok(check_ttl(&ttl).map(|()| session))
    }

    pub(super) async fn session_destroy(&self, call: &Call<'_>) -> Handled {
        let id = id_of(call)?;
        self.engine.write(Command::SessionDestroy { id: id.clone(), expired: false }).await?;
        self.timers.disarm_session(&id);
        Ok(Reply::json(&true, call.pretty))
    }

    pub(super) async fn session_renew(&self, call: &Call<'_>) -> Handled {
        let id = id_of(call)?;
        let state = self.engine.state();
        let Some(session) = state.session(&id) else {
            return Ok(Reply::not_found(&format!("Session id '{id}' not found")));
        };
        if let Ok(ttl) = duration::parse(&session.ttl) {
            self.timers.arm_session(&id, ttl);
        }
        Ok(Reply::json(&[&**session], call.pretty))
    }

    pub(super) async fn session_info(&self, call: &Call<'_>) -> Handled {
        let options = ReadOptions::parse(&call.query)?;
        let id = id_of(call).map_err(|refused| match refused.status {
            StatusCode::INTERNAL_SERVER_ERROR => refused.without_answer(),
            _ => refused,
        })?;
        let interest = || Interest::One(Topic::Table(Table::Sessions));
        // one session's own index, so that others coming and going do not wake
        let index_of = |s: &crate::state::State| {
            s.session(&id).map_or_else(|| s.table_index(Table::Sessions), |s| s.modify_index)
        };
        let state = self.wait(&options, interest, index_of).await;
        let found: Vec<&Session> = state.session(&id).map(|s| &**s).into_iter().collect();
        Ok(Reply::json(&found, call.pretty).at(index_of(&state)))
    }

    pub(super) async fn session_list(&self, call: &Call<'_>) -> Handled {
        let options = ReadOptions::parse(&call.query)?;
        let state = self.wait_table(&options, Table::Sessions).await;
        let all: Vec<&Session> = state.sessions().map(|s| &**s).collect();
        Ok(Reply::json(&all, call.pretty).at(state.table_index(Table::Sessions)))
    }

    pub(super) async fn session_node(&self, call: &Call<'_>) -> Handled {
        let options = ReadOptions::parse(&call.query)?;
        if call.rest.is_empty() {
            return Err(Reply::bad("Missing node name"));
        }
        let state = self.wait_table(&options, Table::Sessions).await;
        let all: Vec<&Session> = state.node_sessions(call.rest).into_iter().map(|s| &**s).collect();
        Ok(Reply::json(&all, call.pretty).at(state.table_index(Table::Sessions)))
    }
}

fn id_of(call: &Call<'_>) -> Result<String, Reply> {
    if call.rest.is_empty() { Err(Reply::bad("Missing session")) } else { session_id(call.rest) }
}

fn check_ttl(text: &str) -> Result<(), Reply> {
    if text.is_empty() {
        return Ok(());
    }
    let invalid = |why: String| Reply::internal(&format!("Session TTL '{text}' invalid: {why}"));
    let outside = |nanos: String| {
        Reply::internal(&format!(
            "Invalid Session TTL '{nanos}', must be between [{}={}]",
            duration::format(SHORTEST_TTL),
            duration::format(LONGEST_TTL)
        ))
    };
    if let Some(Ok(negative)) = text.strip_prefix('-').map(duration::parse) {
        return Err(outside(format!("-{}", negative.as_nanos())));
    }
    let ttl = duration::parse(text).map_err(invalid)?;
    if ttl.is_zero() || (SHORTEST_TTL..=LONGEST_TTL).contains(&ttl) {
        return Ok(());
    }
    Err(outside(ttl.as_nanos().to_string()))
}
