//! Lists and single entities, in Kong's JSON.

use axum::Json;
use axum::extract::State as Extract;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use plinth_kit::problem::Problem;
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};

use super::entities::{KINDS, Kind, of_nested, of_path};
use super::{Message, Named, Parameters, State, not_allowed, not_found, options};

/// One page of a list.
#[derive(Serialize, ToSchema)]
pub struct Page {
    /// The entities.
    data: Vec<Value>,
    /// Path of the next page; null on the last.
    next: Option<String>,
    /// `offset` of the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<String>,
}

/// Why an operation did not take place.
#[derive(Serialize, ToSchema)]
pub struct Refusal {
    /// Kong's number of the kind of error.
    code: u8,
    /// Its name.
    name: &'static str,
    /// What is wrong.
    message: String,
}

impl Refusal {
    pub fn answer(status: StatusCode, code: u8, name: &'static str, message: impl Into<String>) -> Response {
        (status, Json(Self { code, name, message: message.into() })).into_response()
    }
}

/// Parameters of lists. Read one by one, because Kong has an error of its own for each.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code, reason = "describes the parameters only")]
pub struct PageQuery {
    /// Entities on a page, 1 to 1000; 100 by default.
    size: Option<u32>,
    /// Where the page begins, from the page before.
    offset: Option<String>,
    /// Only entities with these tags: `a,b` both, `a/b` either.
    tags: Option<String>,
}

/// List a collection
///
/// In the order of the configuration.
#[utoipa::path(
    get, path = "/{collection}", tag = "entities",
    params(
        ("collection" = String, Path, description = "services, routes, upstreams, targets, plugins, consumers, certificates, snis, ca_certificates, jwts, key-auths, basic-auths, hmac-auths, acls, oauth2 or vaults", example = "services"),
        PageQuery,
    ),
    responses(
        (status = 200, description = "One page", body = Page),
        (status = 400, description = "A parameter is wrong", body = Refusal),
        (status = 401, description = "No valid token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The token has no gateway:admin", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "No such collection", body = Message),
    ),
)]
pub async fn list(
    Extract(state): Extract<State>,
    method: Method,
    path: Named,
    query: Parameters,
) -> Response {
    let Some(kind) = path.get("collection").and_then(|path| of_path(path)) else { return not_found().await };
    match method {
        Method::GET | Method::HEAD => {
            page(&format!("/{}", kind.path), kind.all(&state.0.configurator.current().config), &query)
        }
        Method::POST => unsupported("create", kind),
        Method::OPTIONS => options("GET, HEAD, OPTIONS, POST"),
        _ => not_allowed(),
    }
}

/// Get one entity
#[utoipa::path(
    get, path = "/{collection}/{entity}", tag = "entities",
    params(
        ("collection" = String, Path, description = "services, routes, upstreams, targets, plugins, consumers, certificates, snis, ca_certificates, jwts, key-auths, basic-auths, hmac-auths, acls, oauth2 or vaults", example = "services"),
        ("entity" = String, Path, description = "Its id, or its name (consumers and basic-auths: username, targets: target, jwts and key-auths: key)"),
    ),
    responses(
        (status = 200, description = "The entity as Kong writes it", body = Value),
        (status = 401, description = "No valid token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The token has no gateway:admin", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "No such collection or entity", body = Message),
    ),
)]
pub async fn one(Extract(state): Extract<State>, method: Method, path: Named) -> Response {
    let of = |name: &str| path.get(name).map_or("", String::as_str);
    let Some(kind) = of_path(of("collection")) else { return not_found().await };
    if let Some(answer) = refusal_of_one(&method, kind) {
        return answer;
    }
    match kind.find(&state.0.configurator.current().config, of("entity")) {
        None => not_found().await,
        Some(entity) => Json(entity).into_response(),
    }
}

/// List what belongs to an entity
///
/// `/services/users/routes` is a list, `/routes/a/service` the one entity that the route refers to.
#[utoipa::path(
    get, path = "/{collection}/{entity}/{nested}", tag = "entities",
    params(
        ("collection" = String, Path, description = "services, routes, upstreams, targets, plugins, consumers, certificates, snis, ca_certificates, jwts, key-auths, basic-auths, hmac-auths, acls, oauth2 or vaults", example = "services"),
        ("entity" = String, Path, description = "Its id, or its name (consumers and basic-auths: username, targets: target, jwts and key-auths: key)"),
        ("nested" = String, Path, description = "A collection (key-auth, jwt, basic-auth, hmac-auth, acls below a consumer), or in the singular what the entity refers to", example = "routes"),
        PageQuery,
    ),
    responses(
        (status = 200, description = "One page, or the entity referred to", body = Page),
        (status = 400, description = "A parameter is wrong", body = Refusal),
        (status = 401, description = "No valid token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The token has no gateway:admin", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "No such collection or entity", body = Message),
    ),
)]
pub async fn nested(
    Extract(state): Extract<State>,
    method: Method,
    path: Named,
    query: Parameters,
) -> Response {
    let of = |name: &str| path.get(name).map_or("", String::as_str);
    let config = &state.0.configurator.current().config;
    let Some(kind) = of_path(of("collection")) else { return not_found().await };
    let Some(entity) = kind.find(config, of("entity")) else { return not_found().await };
    let singular = KINDS.iter().find(|other| other.reference() == of("nested"));
    if let Some(to) = singular.filter(|to| entity.get(to.reference()).is_some()) {
        if let Some(answer) = refusal_of_one(&method, to) {
            return answer;
        }
        let found = entity[to.reference()]["id"].as_str().and_then(|id| to.find(config, id));
        return match found {
            Some(found) => Json(found).into_response(),
            None => not_found().await,
        };
    }
    let Some(below) = of_nested(of("nested")) else { return not_found().await };
    let Some(own) = children(config, kind, &entity, below) else { return not_found().await };
    match method {
        Method::GET | Method::HEAD => {
            page(&format!("/{}/{}/{}", kind.path, of("entity"), of("nested")), own, &query)
        }
        Method::POST => unsupported("create", below),
        Method::OPTIONS => options("GET, HEAD, OPTIONS, POST"),
        _ => not_allowed(),
    }
}

/// Get one of the entities that belong to another
///
/// `/upstreams/users/targets/all` lists all targets.
#[utoipa::path(
    get, path = "/{collection}/{entity}/{nested}/{child}", tag = "entities",
    params(
        ("collection" = String, Path, description = "The outer collection", example = "services"),
        ("entity" = String, Path, description = "Id or name of the outer entity"),
        ("nested" = String, Path, description = "The inner collection", example = "routes"),
        ("child" = String, Path, description = "Id or name of the inner entity"),
    ),
    responses(
        (status = 200, description = "The entity as Kong writes it", body = Value),
        (status = 401, description = "No valid token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The token has no gateway:admin", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "No such collection or entity", body = Message),
    ),
)]
pub async fn child(
    Extract(state): Extract<State>,
    method: Method,
    path: Named,
    query: Parameters,
) -> Response {
    let of = |name: &str| path.get(name).map_or("", String::as_str);
    let config = &state.0.configurator.current().config;
    let Some(kind) = of_path(of("collection")) else { return not_found().await };
    let Some(entity) = kind.find(config, of("entity")) else { return not_found().await };
    let Some(below) = of_nested(of("nested")) else { return not_found().await };
    let Some(own) = children(config, kind, &entity, below) else { return not_found().await };
    if below.name == "targets" && of("child") == "all" {
        return match method {
            Method::GET | Method::HEAD => {
                page(&format!("/upstreams/{}/targets/all", of("entity")), own, &query)
            }
            Method::OPTIONS => options("GET, HEAD, OPTIONS"),
            _ => not_allowed(),
        };
    }
    if let Some(answer) = refusal_of_one(&method, below) {
        return answer;
    }
    let is = |value: &Value, field: &str| value[field].as_str() == Some(of("child"));
    let found =
        own.into_iter().find(|value| is(value, "id") || !below.key.is_empty() && is(value, below.key));
    match found {
        Some(found) => Json(found).into_response(),
        None => not_found().await,
    }
}

/// Entities of `below` that refer to this one; `None` where they never do.
fn children(config: &plinth_kong::Config, kind: &Kind, entity: &Value, below: &Kind) -> Option<Vec<Value>> {
    let referring = match kind.name {
        "services" => ["routes", "plugins"].contains(&below.name),
        "routes" => below.name == "plugins",
        "upstreams" => below.name == "targets",
        "certificates" => ["snis", "services", "upstreams"].contains(&below.name),
        "consumers" => {
            ["plugins", "acls"].contains(&below.name)
                || below.name.ends_with("_credentials")
                || below.name == "jwt_secrets"
        }
        _ => false,
    };
    let field = match (kind.name, below.name) {
        ("certificates", "services" | "upstreams") => "client_certificate",
        _ => kind.reference(),
    };
    referring
        .then(|| below.all(config).into_iter().filter(|value| value[field]["id"] == entity["id"]).collect())
}

/// Pages, tags.
fn page(base: &str, mut entities: Vec<Value>, query: &Parameters) -> Response {
    let bad = |code: u8, name, message: String| Refusal::answer(StatusCode::BAD_REQUEST, code, name, message);
    let (mut from, mut size) = (0, 100);
    if let Some(offset) = query.get("offset") {
        match position(offset) {
            Some((at, of)) => (from, size) = (at, of),
            None => {
                return bad(
                    7,
                    "invalid offset",
                    format!("'{offset}' is not a valid offset: bad base64 encoding"),
                );
            }
        }
    }
    match query.get("size").map(|size| size.parse::<usize>()) {
        None => {}
        Some(Ok(wanted)) if (1..=1000).contains(&wanted) => size = wanted,
        Some(_) => return bad(9, "invalid size", "size must be an integer between 1 and 1000".to_owned()),
    }
    if let Some(tags) = query.get("tags") {
        if tags.contains(',') && tags.contains('/') || tags.is_empty() {
            let message = "invalid option (tags: invalid filter syntax)".to_owned();
            return bad(11, "invalid options", message);
        }
        entities.retain(|entity| has_tags(entity, tags));
    }
    let next = from.saturating_add(size);
    let offset = (entities.len() > next).then(|| URL_SAFE_NO_PAD.encode(format!("{next}:{size}")));
    let tags = query.get("tags").map(|tags| format!("&tags={}", super::escape(tags))).unwrap_or_default();
    Json(Page {
        data: entities.into_iter().skip(from).take(size).collect(),
        next: offset.as_ref().map(|offset| format!("{base}?offset={offset}{tags}")),
        offset,
    })
    .into_response()
}

/// Where an offset points, and the size of the pages it came from.
fn position(offset: &str) -> Option<(usize, usize)> {
    let text = String::from_utf8(URL_SAFE_NO_PAD.decode(offset).ok()?).ok()?;
    let (from, size) = text.split_once(':')?;
    Some((from.parse().ok()?, size.parse().ok().filter(|size| (1..=1000).contains(size))?))
}

/// `a,b` = both, `a/b` = either.
fn has_tags(entity: &Value, wanted: &str) -> bool {
    let has = |tag: &str| {
        entity["tags"].as_array().is_some_and(|tags| tags.iter().any(|own| own.as_str() == Some(tag)))
    };
    if wanted.contains('/') { wanted.split('/').any(has) } else { wanted.split(',').all(has) }
}

fn unsupported(verb: &str, kind: &Kind) -> Response {
    let message = format!("cannot {verb} '{}' entities when not using a database", kind.name);
    Refusal::answer(StatusCode::METHOD_NOT_ALLOWED, 12, "operation unsupported", message)
}

/// The answer to anything but reading one entity.
fn refusal_of_one(method: &Method, kind: &Kind) -> Option<Response> {
    Some(match *method {
        Method::GET | Method::HEAD => return None,
        Method::PUT => unsupported("create or update", kind),
        Method::PATCH => unsupported("update", kind),
        Method::DELETE => unsupported("remove", kind),
        Method::OPTIONS => options("DELETE, GET, HEAD, OPTIONS, PATCH, PUT"),
        _ => not_allowed(),
    })
}

/// Refused: there is no database
///
/// Entities are changed by a new configuration: `POST /config`. The same holds for PUT, PATCH and DELETE of an entity.
#[utoipa::path(
    post, path = "/{collection}", tag = "entities",
    params(
        ("collection" = String, Path, description = "services, routes, upstreams, targets, plugins, consumers, certificates, snis, ca_certificates, jwts, key-auths, basic-auths, hmac-auths, acls, oauth2 or vaults", example = "services"),
    ),
    responses(
        (status = 401, description = "No valid token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The token has no gateway:admin", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "No such collection", body = Message),
        (status = 405, description = "Always", body = Refusal),
    ),
)]
#[allow(dead_code, reason = "describes what `list` answers to POST")]
pub fn refuse_create() {}

/// Tags in use
///
/// Each with the entity that has it. `/tags/X` is about one tag.
#[utoipa::path(
    get, path = "/tags", tag = "entities",
    responses(
        (status = 200, description = "Entity and tag in `data`", body = Page),
        (status = 401, description = "No valid token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The token has no gateway:admin", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub async fn tags(Extract(state): Extract<State>, path: Named, query: Parameters) -> Response {
    let config = &state.0.configurator.current().config;
    let wanted = path.get("tag");
    let mut found = Vec::new();
    for kind in KINDS {
        for entity in kind.all(config) {
            for tag in entity["tags"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                if wanted.is_none_or(|wanted| wanted == tag) {
                    found.push(json!({"entity_name": kind.name, "entity_id": entity["id"], "tag": tag}));
                }
            }
        }
    }
    let base = wanted.map_or_else(|| "/tags".to_owned(), |tag| format!("/tags/{}", super::escape(tag)));
    page(&base, found, &query)
}

/// Every path there is
#[utoipa::path(
    get, path = "/endpoints", tag = "node",
    responses(
        (status = 200, description = "Paths in `data`", body = Page),
        (status = 401, description = "No valid token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The token has no gateway:admin", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub async fn endpoints() -> Response {
    let own = [
        "/",
        "/config",
        "/endpoints",
        "/explain",
        "/metrics",
        "/plugins/enabled",
        "/proxy-cache",
        "/proxy-cache/{cache_key}",
        "/proxy-cache/{plugin_id}/caches/{cache_key}",
        "/schemas/{name}",
        "/schemas/plugins/{name}",
        "/status",
        "/tags",
        "/tags/{tags}",
    ];
    let mut paths: Vec<String> = own.map(str::to_owned).to_vec();
    for kind in KINDS {
        paths.push(format!("/{}", kind.path));
        paths.push(format!("/{0}/{{{0}}}", kind.path));
    }
    for (outer, inner) in [
        ("services", &["routes", "plugins"][..]),
        ("routes", &["plugins", "service"]),
        ("consumers", &["plugins", "acls", "key-auth", "jwt", "basic-auth", "hmac-auth", "oauth2"]),
        ("upstreams", &["targets", "health", "targets/all"]),
        ("certificates", &["snis"]),
    ] {
        paths.extend(inner.iter().map(|inner| format!("/{outer}/{{{outer}}}/{inner}")));
    }
    paths.sort();
    Json(json!({"data": paths, "next": null})).into_response()
}

/// The fields of an entity
///
/// `/schemas/routes`; of a plugin's configuration `/schemas/plugins/jwt`.
#[utoipa::path(
    get, path = "/schemas/{name}", tag = "entities",
    params(("name" = String, Path, description = "A collection", example = "services")),
    responses(
        (status = 200, description = "Kong's description of the fields", body = Value),
        (status = 401, description = "No valid token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The token has no gateway:admin", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "No such collection", body = Message),
    ),
)]
pub async fn schema(path: Named) -> Response {
    let name = path.get("name").map_or("", String::as_str);
    let name = of_path(name).map_or(name, |kind| kind.name);
    match plinth_kong::schema_of(name) {
        Some(schema) => Json(schema).into_response(),
        None => Message::answer(StatusCode::NOT_FOUND, format!("No entity named '{name}'")),
    }
}

/// The same for a plugin.
pub async fn plugin_schema(path: Named) -> Response {
    let name = path.get("name").map_or("", String::as_str);
    match plinth_kong::plugin_schema_of(name) {
        Some(schema) => Json(schema).into_response(),
        None => Message::answer(StatusCode::NOT_FOUND, format!("No plugin named '{name}'")),
    }
}
