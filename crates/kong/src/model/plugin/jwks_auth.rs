//! Configuration of the jwks-auth plugin, which Kong does not have.

use serde::{Deserialize, Serialize};

use crate::model::or_default;

/// What of a consumer the token's claim names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConsumerBy {
    Username,
    CustomId,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JwksAuthConfig {
    /// What tokens must have as `iss`; without `jwks_uri` also where the keys are found out.
    pub issuer: String,
    pub jwks_uri: Option<String>,
    /// Any of these has to be in the token's `aud`.
    pub audience: Vec<String>,
    /// All of these have to be in the token's `scope`.
    #[serde(deserialize_with = "or_default")]
    pub scopes_required: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub uri_param_names: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub cookie_names: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub header_names: Vec<String>,
    /// The claim that names the consumer.
    pub consumer_claim: String,
    #[serde(deserialize_with = "or_default")]
    pub consumer_by: Vec<ConsumerBy>,
    /// A token whose claim names no consumer is good all the same.
    #[serde(deserialize_with = "or_default")]
    pub consumer_optional: bool,
    /// Clock difference that is forgiven, seconds.
    pub leeway: u64,
    /// How often the keys are read again, seconds.
    pub refresh_interval: u64,
    /// Shortest time between two reads that tokens with unknown keys can cause, seconds.
    pub refresh_cooldown: u64,
    #[serde(deserialize_with = "or_default")]
    pub run_on_preflight: bool,
    /// Consumer id or username.
    pub anonymous: Option<String>,
    pub realm: Option<String>,
}
