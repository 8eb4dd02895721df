//! request-transformer and response-transformer. Items are taken apart by [`crate::edit`].

use serde::{Deserialize, Serialize};

use crate::model::or_default;

/// Items of one operation on requests.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RequestEdits {
    #[serde(deserialize_with = "or_default")]
    pub body: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub headers: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub querystring: Vec<String>,
}

/// `replace` can do the path, too.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RequestReplacements {
    #[serde(flatten)]
    pub edits: RequestEdits,
    /// The whole upstream path, a template.
    pub uri: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RequestTransformerConfig {
    pub http_method: Option<String>,
    pub remove: RequestEdits,
    /// Items are `old:new`.
    pub rename: RequestEdits,
    pub replace: RequestReplacements,
    pub add: RequestEdits,
    pub append: RequestEdits,
}

/// How a JSON value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JsonType {
    Boolean,
    Number,
    String,
}

/// Items of `remove` and `rename` on answers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ResponseNames {
    #[serde(deserialize_with = "or_default")]
    pub json: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub headers: Vec<String>,
}

/// Items of `replace`, `add` and `append` on answers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ResponseEdits {
    #[serde(deserialize_with = "or_default")]
    pub json: Vec<String>,
    /// Beside `json`; missing ones are strings.
    #[serde(deserialize_with = "or_default")]
    pub json_types: Vec<JsonType>,
    #[serde(deserialize_with = "or_default")]
    pub headers: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResponseTransformerConfig {
    pub remove: ResponseNames,
    pub rename: ResponseNames,
    pub replace: ResponseEdits,
    pub add: ResponseEdits,
    pub append: ResponseEdits,
}

impl ResponseTransformerConfig {
    /// Whether bodies are rewritten.
    pub fn has_json(&self) -> bool {
        let names = [&self.remove, &self.rename].into_iter().any(|names| !names.json.is_empty());
        names || [&self.replace, &self.add, &self.append].into_iter().any(|edits| !edits.json.is_empty())
    }
}
