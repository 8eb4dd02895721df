//! Lists and single entities, in Kong's JSON.

use axum::Json;
use axum::extract::State as Extract;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use plinth_kong::Config;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{Named, Parameters, State, not_found};

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

/// `GET /services`
pub async fn list(Extract(state): Extract<State>, path: Named, query: Parameters) -> Response {
    let collection = path.get("collection").map_or("", String::as_str);
    let snapshot = state.0.configurator.current();
    match all(&snapshot.config, collection) {
        None => not_found().await,
        Some(entities) => page(&format!("/{collection}"), entities, &query),
    }
}

/// `GET /services/users`
async fn one(Extract(state): Extract<State>, path: Named) -> Response {
    let of = |name: &str| path.get(name).map_or("", String::as_str);
    let snapshot = state.0.configurator.current();
    match find(&snapshot.config, of("collection"), of("entity")) {
        None => not_found().await,
        Some(entity) => Json(entity).into_response(),
    }
}

/// `GET /services/users/routes`, and `GET /routes/a/service` for the one an entity refers to.
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
    let bad = |code: u8, name: &str, message: &str| {
        let body = json!({"code": code, "name": name, "message": message});
        (StatusCode::BAD_REQUEST, Json(body)).into_response()
    };
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
    let more = entities.len() > offset.saturating_add(size);
    let mut body = Map::new();
    body.insert("data".to_owned(), entities.into_iter().skip(offset).take(size).collect());
    if more {
        let next = offset + size;
        body.insert("offset".to_owned(), next.to_string().into());
        body.insert("next".to_owned(), format!("{base}?offset={next}&size={size}").into());
    } else {
        body.insert("next".to_owned(), Value::Null);
    }
    Json(Value::Object(body)).into_response()
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
    let body = json!({"code": 12, "name": "operation unsupported", "message": message});
    (StatusCode::METHOD_NOT_ALLOWED, Json(body)).into_response()
}

async fn refused(verb: &str, state: State, path: Named) -> Response {
    let collection = path.get("collection").map_or("", String::as_str);
    if all(&state.0.configurator.current().config, collection).is_none() {
        return not_found().await;
    }
    unsupported(verb, collection)
}

/// `POST /services`: there is no database.
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
