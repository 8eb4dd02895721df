//! Lists and single entities, in Kong's JSON.

use axum::Json;
use axum::extract::State as Extract;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use plinth_kit::problem::Problem;
use plinth_kong::Config;
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};

use super::{Message, Named, Parameters, State, not_found};

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
    fn answer(status: StatusCode, code: u8, name: &'static str, message: impl Into<String>) -> Response {
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

/// All entities of a collection; `None` for an unknown one.
fn all(config: &Config, collection: &str) -> Option<Vec<Value>> {
    fn values<T: Serialize>(items: &[T]) -> Vec<Value> {
        // entities are plain data: each has a JSON form
        items.iter().filter_map(|item| serde_json::to_value(item).ok()).collect()
    }
    Some(match collection {
        "services" => values(&config.services),
        "routes" => values(&config.routes),
        "plugins" => values(&config.plugins),
        "consumers" => values(&config.consumers),
        "certificates" => values(&config.certificates),
        "snis" => values(&config.snis),
        "ca_certificates" => values(&config.ca_certificates),
        "jwts" => values(&config.jwt_secrets),
        "key-auths" => values(&config.keyauth_credentials),
        "basic-auths" => values(&config.basicauth_credentials),
        "hmac-auths" => values(&config.hmacauth_credentials),
        "acls" => values(&config.acls),
        "upstreams" => {
            let mut upstreams = values(&config.upstreams);
            upstreams.iter_mut().filter_map(Value::as_object_mut).for_each(|upstream| {
                upstream.remove("targets");
            });
            upstreams
        }
        "targets" => config.upstreams.iter().flat_map(|upstream| targets(upstream)).collect(),
        _ => return None,
    })
}

fn targets(upstream: &plinth_kong::Upstream) -> Vec<Value> {
    let with_parent = |target: &plinth_kong::Target| {
        let mut value = serde_json::to_value(target).ok()?;
        value.as_object_mut()?.insert("upstream".to_owned(), json!({"id": upstream.id}));
        Some(value)
    };
    upstream.targets.iter().filter_map(with_parent).collect()
}

/// The field besides `id` that names an entity.
fn name_field(collection: &str) -> &'static str {
    match collection {
        "consumers" => "username",
        "plugins" => "instance_name",
        "targets" => "target",
        "jwts" | "key-auths" => "key",
        "basic-auths" | "hmac-auths" => "username",
        _ => "name",
    }
}

fn find(config: &Config, collection: &str, entity: &str) -> Option<Value> {
    let field = name_field(collection);
    all(config, collection)?
        .into_iter()
        .find(|value| value["id"].as_str() == Some(entity) || value[field].as_str() == Some(entity))
}

/// List a collection
///
/// In the order of the configuration.
#[utoipa::path(
    get, path = "/{collection}", tag = "entities",
    params(
        ("collection" = String, Path, description = "services, routes, upstreams, targets, plugins, consumers, certificates, snis, ca_certificates, jwts, key-auths, basic-auths, hmac-auths or acls", example = "services"),
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
pub async fn list(Extract(state): Extract<State>, path: Named, query: Parameters) -> Response {
    let collection = path.get("collection").map_or("", String::as_str);
    let snapshot = state.0.configurator.current();
    match all(&snapshot.config, collection) {
        None => not_found().await,
        Some(entities) => page(&format!("/{collection}"), entities, &query),
    }
}

/// Get one entity
#[utoipa::path(
    get, path = "/{collection}/{entity}", tag = "entities",
    params(
        ("collection" = String, Path, description = "services, routes, upstreams, targets, plugins, consumers, certificates, snis, ca_certificates, jwts, key-auths, basic-auths, hmac-auths or acls", example = "services"),
        ("entity" = String, Path, description = "Its id, or its name (consumers and basic-auths: username, targets: target, jwts and key-auths: key)"),
    ),
    responses(
        (status = 200, description = "The entity as Kong writes it", body = Value),
        (status = 401, description = "No valid token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The token has no gateway:admin", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "No such collection or entity", body = Message),
    ),
)]
pub async fn one(Extract(state): Extract<State>, path: Named) -> Response {
    let of = |name: &str| path.get(name).map_or("", String::as_str);
    let snapshot = state.0.configurator.current();
    match find(&snapshot.config, of("collection"), of("entity")) {
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
        ("collection" = String, Path, description = "services, routes, upstreams, targets, plugins, consumers, certificates, snis, ca_certificates, jwts, key-auths, basic-auths, hmac-auths or acls", example = "services"),
        ("entity" = String, Path, description = "Its id, or its name (consumers and basic-auths: username, targets: target, jwts and key-auths: key)"),
        ("nested" = String, Path, description = "A collection, or in the singular what the entity refers to", example = "routes"),
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
pub async fn nested(Extract(state): Extract<State>, path: Named, query: Parameters) -> Response {
    let of = |name: &str| path.get(name).map_or("", String::as_str);
    let snapshot = state.0.configurator.current();
    let config = &snapshot.config;
    let (collection, nested) = (of("collection"), of("nested"));
    let Some(entity) = find(config, collection, of("entity")) else { return not_found().await };
    let id = entity["id"].clone();
    if let Some(reference) = entity.get(nested).and_then(|reference| reference["id"].as_str()) {
        let found = find(config, &format!("{nested}s"), reference);
        return match found {
            Some(found) => Json(found).into_response(),
            None => not_found().await,
        };
    }
    let parent = collection.trim_end_matches('s');
    let listed = match nested {
        "jwt" => "jwts",
        "key-auth" => "key-auths",
        "basic-auth" => "basic-auths",
        "hmac-auth" => "hmac-auths",
        other => other,
    };
    let Some(entities) = all(config, listed) else { return not_found().await };
    let own: Vec<Value> = entities.into_iter().filter(|value| value[parent]["id"] == id).collect();
    page(&format!("/{collection}/{}/{nested}", of("entity")), own, &query)
}

/// Pages, tags.
fn page(base: &str, mut entities: Vec<Value>, query: &Parameters) -> Response {
    let bad = |code: u8, name, message: &str| Refusal::answer(StatusCode::BAD_REQUEST, code, name, message);
    let size = match query.get("size").map(|size| size.parse::<usize>()) {
        None => 100,
        Some(Ok(size)) if (1..=1000).contains(&size) => size,
        Some(_) => return bad(9, "invalid size", "size must be an integer between 1 and 1000"),
    };
    let offset = match query.get("offset").map(|offset| offset.parse::<usize>()) {
        None => 0,
        Some(Ok(offset)) => offset,
        Some(Err(_)) => return bad(7, "invalid offset", "bad offset"),
    };
    if let Some(tags) = query.get("tags") {
        entities.retain(|entity| has_tags(entity, tags));
    }
    let next = offset.saturating_add(size);
    let more = entities.len() > next;
    Json(Page {
        data: entities.into_iter().skip(offset).take(size).collect(),
        next: more.then(|| format!("{base}?offset={next}&size={size}")),
        offset: more.then(|| next.to_string()),
    })
    .into_response()
}

/// `a,b` = both, `a/b` = either.
fn has_tags(entity: &Value, wanted: &str) -> bool {
    let has = |tag: &str| {
        entity["tags"].as_array().is_some_and(|tags| tags.iter().any(|own| own.as_str() == Some(tag)))
    };
    if wanted.contains('/') { wanted.split('/').any(has) } else { wanted.split(',').all(has) }
}

fn unsupported(verb: &str, collection: &str) -> Response {
    let message = format!("cannot {verb} '{collection}' entities when not using a database");
    Refusal::answer(StatusCode::METHOD_NOT_ALLOWED, 12, "operation unsupported", message)
}

async fn refused(verb: &str, state: State, path: Named) -> Response {
    let collection = path.get("collection").map_or("", String::as_str);
    if all(&state.0.configurator.current().config, collection).is_none() {
        return not_found().await;
    }
    unsupported(verb, collection)
}

/// Refused: there is no database
///
/// Entities are changed by a new configuration: `POST /config`. The same holds for PUT, PATCH and DELETE of an entity.
#[utoipa::path(
    post, path = "/{collection}", tag = "entities",
    params(
        ("collection" = String, Path, description = "services, routes, upstreams, targets, plugins, consumers, certificates, snis, ca_certificates, jwts, key-auths, basic-auths, hmac-auths or acls", example = "services"),
    ),
    responses(
        (status = 401, description = "No valid token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The token has no gateway:admin", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "No such collection", body = Message),
        (status = 405, description = "Always", body = Refusal),
    ),
)]
pub async fn refuse_create(Extract(state): Extract<State>, path: Named) -> Response {
    refused("create", state, path).await
}

/// Reading one entity, and why writing it does not work.
pub fn entity_methods() -> MethodRouter<State> {
    get(one)
        .put(|Extract(state): Extract<State>, path: Named| refused("create or update", state, path))
        .patch(|Extract(state): Extract<State>, path: Named| refused("update", state, path))
        .delete(|Extract(state): Extract<State>, path: Named| refused("remove", state, path))
}
