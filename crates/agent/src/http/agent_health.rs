//! `/v1/agent/health/service/`: the agent's own view of a service, as a status code.

use http::StatusCode;
use serde::Serialize;

use super::Call;
use super::agent::{AgentService, WARNING_CODE};
use super::reply::{Handled, Reply};
use crate::state::State;
use crate::state::local::{LocalService, Runner};
use crate::state::model::Check;

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct View {
    aggregated_status: &'static str,
    service: Option<AgentService>,
    checks: Option<Vec<Shown>>,
}

/// A check in the form of Consul's client library, which this endpoint alone uses: no type, and an empty
/// definition spelled out.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Shown {
    node: String,
    #[serde(rename = "CheckID")]
    check_id: String,
    name: String,
    status: String,
    notes: String,
    output: String,
    #[serde(rename = "ServiceID")]
    service_id: String,
    service_name: String,
    service_tags: Option<Vec<String>>,
    #[serde(rename = "Type")]
    kind: &'static str,
    definition: Blank,
    create_index: u64,
    modify_index: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Blank {
    interval: &'static str,
    timeout: &'static str,
    deregister_critical_service_after: &'static str,
    #[serde(rename = "HTTP")]
    http: &'static str,
    header: Option<()>,
    method: &'static str,
    body: &'static str,
    #[serde(rename = "TLSSkipVerify")]
    tls_skip_verify: bool,
    #[serde(rename = "TCP")]
    tcp: &'static str,
}

const BLANK: Blank = Blank {
    interval: "0s",
    timeout: "0s",
    deregister_critical_service_after: "0s",
    http: "",
    header: None,
    method: "",
    body: "",
    tls_skip_verify: false,
    tcp: "",
};

fn shown(check: &Check) -> Shown {
    let check = check.clone();
    Shown {
        node: check.node,
        check_id: check.check_id,
        name: check.name,
        status: check.status,
        notes: check.notes,
        output: check.output,
        service_id: check.service_id,
        service_name: check.service_name,
        service_tags: check.service_tags,
        kind: "",
        definition: BLANK,
        create_index: 0,
        modify_index: 0,
    }
}

/// Worst of the checks; maintenance beats all.
fn view(state: &State, service: &LocalService) -> View {
    let mut status = "passing";
    let mut checks = Vec::new();
    for local in state.local_checks() {
        let of = &local.check.service_id;
        if !of.is_empty() && *of != service.service.id {
            continue;
        }
        status = match (status, local.check.status.as_str()) {
            _ if local.runner == Runner::Maintenance => "maintenance",
            ("maintenance", _) => "maintenance",
            ("critical", _) | (_, "critical") => "critical",
            ("warning", _) | (_, "warning") => "warning",
            _ => "passing",
        };
        checks.push(shown(&local.check));
    }
    View { aggregated_status: status, service: Some(service.into()), checks: Some(checks) }
}

fn code(status: &str) -> StatusCode {
    match status {
        "passing" => StatusCode::OK,
        "warning" => WARNING_CODE,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    }
}

pub(super) fn answer(state: &State, call: &Call<'_>, by_name: bool) -> Handled {
    let accept = call.headers.get(http::header::ACCEPT).and_then(|a| a.to_str().ok()).unwrap_or_default();
    let text = call.query.get("format") == Some("text") || accept == "text/plain";
    let views: Vec<View> = if by_name {
        state.local_services().filter(|s| s.service.service == call.rest).map(|s| view(state, s)).collect()
    } else {
        state.local_service(call.rest).map(|s| view(state, s)).into_iter().collect()
    };
    let order = ["passing", "warning", "critical", "maintenance"];
    let rank = |v: &View| order.iter().position(|s| *s == v.aggregated_status).unwrap_or(0);
    let worst = views.iter().max_by_key(|v| rank(v)).map(|v| v.aggregated_status);
    let (word, status) = match worst {
        Some(word) => (word, code(word)),
        None => ("critical", StatusCode::NOT_FOUND),
    };
    let reason = match (worst, by_name) {
        (Some(word), _) => word.to_owned(),
        (None, true) => format!("ServiceName {} Not Found", call.rest),
        (None, false) => format!("ServiceId {} not found", call.rest),
    };
    let reply = if text && worst.is_none() && !by_name {
        Reply::json(&reason, call.pretty).with_status(status)
    } else if text {
        let word = if worst.is_none() { reason.as_str() } else { word };
        let mut reply = Reply::text(status, word);
        reply.headers.insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("text/plain"));
        reply
    } else if by_name {
        Reply::json(&views, call.pretty).with_status(status)
    } else {
        let missing = View { aggregated_status: "critical", service: None, checks: None };
        Reply::json(views.first().unwrap_or(&missing), call.pretty).with_status(status)
    };
    Ok(reply.with_header("x-consul-reason", &reason))
}
