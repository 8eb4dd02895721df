//! `/v1/agent/check/` and `/v1/agent/checks`.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::agent::validate;
use super::decode::{self, Fields, Form, Malformed, Place};
use super::filter::{Filter, fields};
use super::health::listed_check;
use super::reply::{Handled, Reply};
use super::{Call, Server};
use crate::state::Command;
use crate::state::local::Runner;
use crate::state::model::{Check, Status};

/// Longest output kept, in bytes.
const LONGEST_OUTPUT: usize = 4096;

impl Server {
    pub(super) fn agent_checks(&self, call: &Call<'_>) -> Handled {
        let state = self.engine.state();
        let filter = self.lazy_filter(call, state.local_checks().next().is_some())?;
        let all: BTreeMap<&str, Cow<'_, Check>> = state
            .local_checks()
            .map(|c| (c.check.check_id.as_str(), listed_check(&c.check)))
            .filter(|(_, c)| filter.accepts(c))
            .collect();
        Ok(Reply::json(&all, call.pretty))
    }

    /// Consul checks what this filter selects only when it has an object to look at.
    fn lazy_filter(&self, call: &Call<'_>, any: bool) -> Result<Filter, Reply> {
        let Some(text) = call.query.filled("filter") else { return Ok(Filter::All) };
        Filter::readable(text).map_err(|why| Reply::internal(&super::unusable_filter(&why)))?;
        if any {
            Filter::parse(text, fields::CHECK).map_err(|why| Reply::internal(&why))
        } else {
            Ok(Filter::All)
        }
    }

    pub(super) async fn agent_check_register(&self, call: &Call<'_>) -> Handled {
        let failed = |Malformed(why)| Reply::bad(&format!("Request decode failed: {why}"));
        let mut check = decode::json(&call.body)
            .and_then(|value| decode::agent_check(value, Form::Alone))
            .map_err(failed)?;
        self.same_datacenter(call)?;
        if check.name.is_empty() {
            return Err(Reply::bad("Missing check name"));
        }
        validate(&check, "Bad check status")?;
        if check.id.is_empty() {
            check.id.clone_from(&check.name);
        }
        let state = self.engine.state();
        let service = state.local_service(&check.service_id).map(|s| &s.service);
        let local = self.local_check(check, service);
        let id = local.check.check_id.clone();
        let node = self.node_name().to_owned();
        self.engine.write(Command::AgentCheck { node, check: Box::new(local) }).await?;
        self.checks_changed(&[id]);
        Ok(Reply::ok())
    }

    pub(super) async fn agent_check_deregister(&self, call: &Call<'_>) -> Handled {
        if call.rest.is_empty() {
            return Err(Reply::internal("CheckID missing"));
        }
        let command =
            Command::AgentCheckRemove { node: self.node_name().to_owned(), id: call.rest.to_owned() };
        self.engine.write(command).await?;
        self.checks_changed(&[]);
        Ok(Reply::ok())
    }

    pub(super) async fn agent_check_report(&self, call: &Call<'_>, status: Status) -> Handled {
        let note = call.query.get("note").unwrap_or_default().to_owned();
        self.report(call.rest, status.as_str(), note).await
    }

    pub(super) async fn agent_check_update(&self, call: &Call<'_>) -> Handled {
        let failed = |Malformed(why)| Reply::bad(&format!("Request decode failed: {why}"));
        let place = Place { owner: "checkUpdate", ..Place::default() };
        let mut fields = decode::json(&call.body).and_then(|v| Fields::at(v, place)).map_err(failed)?;
        let status = fields.text(&["Status"]).map_err(failed)?;
        let output = fields.text(&["Output"]).map_err(failed)?;
        fields.finish().map_err(failed)?;
        if Status::parse(&status).is_none() {
            return Err(Reply::bad(&format!("Invalid check status: '{status}'")));
        }
        self.report(call.rest, &status, output).await
    }

    /// Takes a report for a TTL check and starts its time anew.
    async fn report(&self, id: &str, status: &str, mut output: String) -> Handled {
        let refused = || Reply::internal(&format!("CheckID {id:?} does not have associated TTL"));
        let state = self.engine.state();
        let (ttl, longest) =
            match state.local_check(id).map(|c| (&c.runner, c.longest_output(LONGEST_OUTPUT))) {
                Some((Runner::Ttl(ttl), longest)) => (*ttl, longest),
                _ => return Err(refused()),
            };
        if output.len() > longest {
            let total = output.len();
            let cut = output.floor_char_boundary(longest);
            output.truncate(cut);
            output = format!("{output} ... (captured {cut} of {total} bytes)");
        }
        let node = self.node_name().to_owned();
        let command =
            Command::AgentCheckStatus { node, id: id.to_owned(), status: status.to_owned(), output };
        // It came in time even when the disk is slow: armed after the write, an expiry could be queued behind this report.
        self.timers.arm_check(id, ttl);
        self.engine.write(command).await?;
        Ok(Reply::ok())
    }
}
