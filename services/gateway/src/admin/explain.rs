//! `/explain`: what would become of a request, and why.

use std::collections::HashSet;

use axum::Json;
use axum::extract::{RawQuery, State as Extract};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use plinth_kit::problem::Problem;
use serde_json::{Value, json};

use super::{Message, State};
use crate::router::{Ask, Verdict};
use crate::snapshot::{RouteEntry, Snapshot};

/// A request to be explained.
#[derive(Debug)]
struct Question {
    method: Method,
    host: Option<String>,
    path: String,
    headers: HeaderMap,
    sni: Option<String>,
    https: bool,
}

/// What becomes of a request, and why
///
/// The route that gets it, what it was chosen by, which other routes share its host and prefix and why they lost; the
/// plugins in their order, with the scope each configuration comes from; path and targets upstream. Nothing is sent.
#[utoipa::path(
    get, path = "/explain", tag = "node",
    params(
        ("method" = Option<String>, Query, description = "GET by default"),
        ("host" = Option<String>, Query, description = "Host header"),
        ("path" = Option<String>, Query, description = "Path, perhaps with a query; / by default"),
        ("header" = Option<Vec<String>>, Query, description = "`name:value`, any number of times"),
        ("sni" = Option<String>, Query, description = "Server name of the TLS handshake"),
        ("scheme" = Option<String>, Query, description = "http or https; https when sni is given"),
    ),
    responses(
        (status = 200, description = "The explanation", body = Value),
        (status = 400, description = "A parameter is wrong", body = Message),
        (status = 401, description = "No valid token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The token has no gateway:admin", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub async fn explain(Extract(state): Extract<State>, RawQuery(query): RawQuery) -> Response {
    match read(query.as_deref().unwrap_or_default()) {
        Err(why) => Message::answer(StatusCode::BAD_REQUEST, why),
        Ok(question) => Json(answer(&state.0.configurator.current(), &question)).into_response(),
    }
}

fn read(query: &str) -> Result<Question, String> {
    let mut question = Question {
        method: Method::GET,
        host: None,
        path: "/".to_owned(),
        headers: HeaderMap::new(),
        sni: None,
        https: false,
    };
    let mut scheme = None;
    for (name, value) in super::pairs(query) {
        match name.as_str() {
            "method" => {
                question.method = Method::from_bytes(value.to_ascii_uppercase().as_bytes())
                    .map_err(|_| format!("method: {value:?} is not a method"))?;
            }
            "host" => question.host = Some(value),
            "path" if value.starts_with('/') => question.path = value,
            "path" => return Err(format!("path: {value:?} should start with /")),
            "sni" => question.sni = Some(value),
            "scheme" if value == "http" || value == "https" => scheme = Some(value == "https"),
            "scheme" => return Err(format!("scheme: {value:?} is neither http nor https")),
            "header" => {
                let (name, value) =
                    value.split_once(':').ok_or_else(|| format!("header: {value:?} is not name:value"))?;
                let bad = || format!("header: {name:?} or its value cannot be in a request");
                let name = HeaderName::from_bytes(name.trim().as_bytes()).map_err(|_| bad())?;
                let value = HeaderValue::from_str(value.trim()).map_err(|_| bad())?;
                question.headers.append(name, value);
            }
            other => {
                return Err(format!("{other:?} is none of method, host, path, header, sni, scheme"));
            }
        }
    }
    question.https = scheme.unwrap_or(question.sni.is_some());
    Ok(question)
}

fn answer(snapshot: &Snapshot, question: &Question) -> Value {
    let (path, _) = question.path.split_once('?').unwrap_or((&question.path, ""));
    let ask = Ask {
        method: &question.method,
        path,
        host: question.host.as_deref(),
        headers: &question.headers,
        sni: question.sni.as_deref(),
        https: question.https,
    };
    let found = snapshot.router.find(&ask);
    let chosen = found.as_ref().and_then(|found| snapshot.routes.get(found.route));
    let mut seen = HashSet::new();
    let competitors: Vec<Value> = snapshot
        .router
        .explain(&ask)
        .into_iter()
        .filter(|one| {
            one.verdict != Verdict::Chosen && Some(one.route) != found.as_ref().map(|found| found.route)
        })
        .filter(|one| seen.insert(one.route))
        .filter_map(|one| {
            let entry = snapshot.routes.get(one.route)?;
            let why = match one.verdict {
                Verdict::Misses(criterion) => format!("{criterion} do not match"),
                Verdict::Later | Verdict::Chosen => {
                    chosen.map_or_else(String::new, |chosen| outranked(chosen, entry))
                }
            };
            Some(json!({"route": named(entry), "why": why}))
        })
        .collect();
    let plugins = plugins(snapshot, chosen);
    let upstream = chosen.zip(found.as_ref()).map(|(entry, found)| upstream(entry, found));
    json!({
        "generation": snapshot.generation,
        "request": {
            "method": question.method.as_str(), "host": question.host, "path": question.path,
            "sni": question.sni, "scheme": if question.https { "https" } else { "http" },
        },
        "outcome": outcome(chosen, question),
        "route": chosen.zip(found.as_ref()).map(|(entry, found)| json!({
            "id": entry.route.id, "name": entry.route.name,
            "matched": criteria(entry, found.prefix()),
            "captures": found.captures.iter().map(|(name, text)| (name.to_string(), json!(text))).collect::<serde_json::Map<_, _>>(),
        })),
        "competitors": competitors,
        "plugins": plugins,
        "upstream": upstream.flatten(),
    })
}

fn outcome(chosen: Option<&RouteEntry>, question: &Question) -> String {
    let Some(entry) = chosen else { return "404 no Route matched with those values".to_owned() };
    if entry.route.https_only() && !question.https {
        return match entry.route.https_redirect_status_code {
            426 => "426 Please use HTTPS protocol".to_owned(),
            status => format!("{status} to https"),
        };
    }
    match &entry.service {
        Some(service) => format!("proxied to {}", service.service.label()),
        None => "503 no Service found with those values, unless a plugin answers".to_owned(),
    }
}

fn named(entry: &RouteEntry) -> Value {
    let route = &entry.route;
    json!({
        "id": route.id, "name": route.name, "methods": route.methods, "hosts": route.hosts, "paths": route.paths,
        "headers": route.headers, "snis": route.snis, "regex_priority": route.regex_priority,
    })
}

/// Which kinds of criteria the route has: each counts, and all of them fit.
fn criteria(entry: &RouteEntry, prefix: &str) -> Value {
    let route = &entry.route;
    let mut criteria = serde_json::Map::new();
    if !route.methods.is_empty() {
        criteria.insert("methods".to_owned(), json!(route.methods));
    }
    if !route.hosts.is_empty() {
        criteria.insert("hosts".to_owned(), json!(route.hosts));
    }
    if !route.headers.is_empty() {
        criteria.insert("headers".to_owned(), json!(route.headers));
    }
    if !route.paths.is_empty() {
        criteria.insert("path".to_owned(), json!(prefix));
    }
    if !route.snis.is_empty() {
        criteria.insert("snis".to_owned(), json!(route.snis));
    }
    Value::Object(criteria)
}

/// The first of Kong's rules that puts one route before another.
fn outranked(chosen: &RouteEntry, other: &RouteEntry) -> String {
    let (one, two) = (&chosen.route, &other.route);
    let kinds = |route: &plinth_kong::Route| {
        [
            route.methods.is_empty(),
            route.hosts.is_empty(),
            route.headers.is_empty(),
            route.paths.is_empty(),
            route.snis.is_empty(),
        ]
        .iter()
        .filter(|empty| !**empty)
        .count()
    };
    let plain = |route: &plinth_kong::Route| {
        !route.hosts.is_empty() && !route.hosts.iter().any(|host| host.contains('*'))
    };
    let regex = |route: &plinth_kong::Route| route.paths.iter().any(|path| path.starts_with('~'));
    if kinds(one) != kinds(two) {
        return format!("has {} kinds of criteria, the chosen route {}", kinds(two), kinds(one));
    }
    if plain(one) != plain(two) {
        return "has a wildcard host; plain hosts come first".to_owned();
    }
    if one.headers.len() != two.headers.len() {
        return format!("names {} headers, the chosen route {}", two.headers.len(), one.headers.len());
    }
    if regex(one) != regex(two) {
        return "matches by a prefix; regular expressions come first".to_owned();
    }
    if regex(one) && one.regex_priority != two.regex_priority {
        return format!("has regex_priority {}, the chosen route {}", two.regex_priority, one.regex_priority);
    }
    if regex(one) {
        "ties; the greater id wins".to_owned()
    } else {
        "its path is shorter, or ties and its id is smaller".to_owned()
    }
}

/// The plugins that run, in their order, each with where its configuration comes from.
fn plugins(snapshot: &Snapshot, chosen: Option<&RouteEntry>) -> Vec<Value> {
    let config = &snapshot.config;
    let (route, service) = match chosen {
        Some(entry) => (Some(entry.route.id), entry.route.service),
        None => (None, None),
    };
    let here = |plugin: &&std::sync::Arc<plinth_kong::Plugin>| {
        plugin.enabled
            && plugin.route.is_none_or(|id| Some(id) == route)
            && plugin.service.is_none_or(|id| Some(id) == service)
    };
    let scope = |plugin: &plinth_kong::Plugin| {
        let words: Vec<&str> = [
            plugin.route.map(|_| "route"),
            plugin.service.map(|_| "service"),
            plugin.consumer.map(|_| "consumer"),
        ]
        .into_iter()
        .flatten()
        .collect();
        if words.is_empty() { "global".to_owned() } else { words.join("+") }
    };
    let mut all: Vec<_> = config.plugins.iter().filter(here).collect();
    all.sort_by_key(|plugin| {
        (
            std::cmp::Reverse(plugin.config.priority()),
            &plugin.name,
            std::cmp::Reverse(crate::plugins::specificity(plugin)),
        )
    });
    let mut taken = HashSet::new();
    all.into_iter()
        .map(|plugin| {
            // for everybody the most specific one without a consumer runs; with a consumer, for that consumer
            let runs = plugin.consumer.is_some() || taken.insert(&plugin.name);
            let consumer = plugin.consumer.and_then(|id| config.consumer(id)).map(|consumer| json!({
                "id": consumer.id, "username": consumer.username,
            }));
            json!({
                "name": plugin.name, "id": plugin.id, "priority": plugin.config.priority(), "scope": scope(plugin),
                "consumer": consumer, "runs": runs,
                "why": if runs { Value::Null } else { json!("a narrower scope has its own configuration") },
            })
        })
        .collect()
}

fn upstream(entry: &RouteEntry, found: &crate::router::Match<'_>) -> Option<Value> {
    let service = entry.service.as_ref()?;
    let path = plinth_kong::upstream_path(&service.path, &found.path, found.matched, entry.route.strip_path);
    let endpoints = service.upstream.endpoints();
    let targets: Vec<Value> = endpoints
        .balancer
        .endpoints()
        .iter()
        .map(|endpoint| {
            json!({
                "address": endpoint.address.to_string(), "weight": endpoint.weight,
                "available": endpoint.live.is_available(),
            })
        })
        .collect();
    Some(json!({
        "service": {"id": service.service.id, "name": service.service.name},
        "protocol": service.service.protocol.as_str(),
        "host": service.service.host,
        "path": plinth_kong::encode_path(&path),
        "preserve_host": entry.route.preserve_host,
        "targets": targets,
    }))
}
