//! Shapes of the answers.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use crate::configuration::Configuration;
use crate::domain::precondition::etag;
use crate::domain::{Entry, JsonText, Kind, Revision, Scope, Snapshot};

/// A current item.
#[derive(Debug, Serialize, ToSchema)]
pub struct ItemView {
    #[schema(example = "database/host")]
    pub key: String,
    #[schema(example = "shop")]
    pub namespace: String,
    #[schema(example = "prod")]
    pub environment: String,
    /// Any JSON.
    #[schema(value_type = serde_json::Value)]
    pub value: JsonText,
    /// Counts the item's changes; 0: written into Consul by somebody else and not recorded yet.
    pub revision: u64,
    /// The same as `revision`.
    pub version: u64,
    pub description: Option<String>,
    /// RFC 3339. Like `updated_at` and `author` null only while the history cannot be reached.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub created_at: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub updated_at: Option<Timestamp>,
    /// Subject of the token that wrote it.
    pub author: Option<String>,
    /// Consul's index of the last change; null: not in Consul yet.
    pub modify_index: Option<u64>,
}

/// The items below a prefix, sorted by key.
#[derive(Debug, Serialize, ToSchema)]
pub struct ListView {
    pub items: Vec<ItemView>,
    /// Consul's index of this state.
    pub index: u64,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct NamespaceView {
    pub namespace: String,
    pub environment: String,
    /// Number of items.
    pub items: usize,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct NamespacesView {
    pub namespaces: Vec<NamespaceView>,
    pub index: u64,
}

/// One step in an item's history.
#[derive(Debug, Serialize, ToSchema)]
pub struct RevisionView {
    pub revision: u64,
    pub version: u64,
    /// `external`: found in Consul, written there by somebody else.
    pub kind: Kind,
    /// Absent in a deletion.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<serde_json::Value>)]
    pub value: Option<JsonText>,
    pub description: Option<String>,
    pub author: String,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// Consul's index at which it arrived there; null: not yet, or replaced before it could.
    pub modify_index: Option<u64>,
}

/// Newest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct RevisionsView {
    pub revisions: Vec<RevisionView>,
}

impl ItemView {
    pub fn of(entry: &Entry) -> Self {
        let about = entry.about.as_deref();
        Self {
            key: entry.id.key.as_str().to_owned(),
            namespace: entry.id.scope.namespace().to_owned(),
            environment: entry.id.scope.environment().to_owned(),
            value: entry.value.clone(),
            revision: entry.revision,
            version: entry.revision,
            description: about.and_then(|about| about.description.clone()),
            created_at: about.map(|about| about.item_created_at),
            updated_at: about.map(|about| about.created_at),
            author: about.map(|about| about.author.clone()),
            modify_index: Some(entry.modify_index),
        }
    }

    /// A revision that was just written; `None` for a tombstone.
    pub fn written(revision: &Revision, modify_index: Option<u64>) -> Option<Self> {
        Some(Self {
            key: revision.id.key.as_str().to_owned(),
            namespace: revision.id.scope.namespace().to_owned(),
            environment: revision.id.scope.environment().to_owned(),
            value: revision.value.clone()?,
            revision: revision.revision,
            version: revision.revision,
            description: revision.description.clone(),
            created_at: Some(revision.item_created_at),
            updated_at: Some(revision.created_at),
            author: Some(revision.author.clone()),
            modify_index,
        })
    }
}

impl ListView {
    pub fn of(snapshot: &Snapshot, scope: &Scope, prefix: &str) -> Self {
        let items = snapshot.list(scope, prefix).map(|entry| ItemView::of(entry)).collect();
        Self { items, index: snapshot.index }
    }
}

impl From<Revision> for RevisionView {
    fn from(revision: Revision) -> Self {
        Self {
            revision: revision.revision,
            version: revision.revision,
            kind: revision.kind,
            value: revision.value,
            description: revision.description,
            author: revision.author,
            created_at: revision.created_at,
            modify_index: revision.published_index.filter(|index| *index > 0),
        }
    }
}

/// `X-Plinth-Index`, and `X-Plinth-Snapshot-Age`: milliseconds since Consul last confirmed the state.
pub fn state_headers(configuration: &Configuration, snapshot: &Snapshot) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("x-plinth-index", HeaderValue::from(snapshot.index));
    let age = configuration.live.age().unwrap_or_default();
    let age = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
    headers.insert("x-plinth-snapshot-age", HeaderValue::from(age));
    headers
}

/// Adds the entity tag of a revision.
pub fn tagged(mut headers: HeaderMap, revision: u64) -> HeaderMap {
    if let Ok(tag) = HeaderValue::from_str(&etag(revision)) {
        headers.insert(header::ETAG, tag);
    }
    headers
}

/// A body with its headers.
pub fn answer(status: StatusCode, headers: HeaderMap, body: impl Serialize) -> Response {
    (status, headers, Json(body)).into_response()
}
