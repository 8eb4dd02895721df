//! One step in an item's life.

use jiff::Timestamp;

use super::{ItemId, JsonText};

/// How a revision came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Written through the API.
    Put,
    /// Deleted through the API: a tombstone without a value.
    Delete,
    /// Found in Consul's KV, written there by somebody else, and taken over.
    External,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Delete => "delete",
            Self::External => "external",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        [Self::Put, Self::Delete, Self::External].into_iter().find(|kind| kind.as_str() == text)
    }
}

/// The time as the history keeps it: in microseconds, so that an item is told the same before and after it was stored.
pub fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now)
}

/// A row of an item's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revision {
    pub id: ItemId,
    /// Counts up from 1 per item and goes on after a deletion, so no number is ever used twice.
    pub revision: u64,
    pub kind: Kind,
    /// `None` in a tombstone.
    pub value: Option<JsonText>,
    pub description: Option<String>,
    /// Subject of the token that wrote it; `consul` for external revisions.
    pub author: String,
    /// When the item came into being, or came back after a deletion.
    pub item_created_at: Timestamp,
    pub created_at: Timestamp,
    /// Consul's index of the write that brought it into KV; `None` while that is still to be done.
    pub published_index: Option<u64>,
}

impl Revision {
    pub fn is_tombstone(&self) -> bool {
        self.value.is_none()
    }
}
