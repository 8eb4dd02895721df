//! Configuration of the oauth2 plugin.

use serde::{Deserialize, Serialize};

use super::RedisConfig;
use crate::model::or_default;

/// When a client has to prove that it is the one that asked for a code (RFC 7636).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pkce {
    None,
    /// Public clients.
    Lax,
    /// All clients.
    Strict,
}

/// Where tokens are kept. Not in Kong, which keeps them in its database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OAuth2Storage {
    /// In the gateway's process: they end with it.
    Memory,
    Redis,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OAuth2Config {
    pub scopes: Option<Vec<String>>,
    #[serde(deserialize_with = "or_default")]
    pub mandatory_scope: bool,
    /// Shared with the login page. Without one no page can vouch for users.
    pub provision_key: Option<String>,
    /// Seconds; 0 never expires.
    pub token_expiration: u64,
    #[serde(deserialize_with = "or_default")]
    pub enable_authorization_code: bool,
    #[serde(deserialize_with = "or_default")]
    pub enable_implicit_grant: bool,
    #[serde(deserialize_with = "or_default")]
    pub enable_client_credentials: bool,
    #[serde(deserialize_with = "or_default")]
    pub enable_password_grant: bool,
    /// Answers `/oauth2/introspect` (RFC 7662). Not in Kong.
    #[serde(deserialize_with = "or_default")]
    pub enable_introspection: bool,
    #[serde(deserialize_with = "or_default")]
    pub hide_credentials: bool,
    #[serde(deserialize_with = "or_default")]
    pub accept_http_if_already_terminated: bool,
    /// Consumer id or username.
    pub anonymous: Option<String>,
    #[serde(deserialize_with = "or_default")]
    pub global_credentials: bool,
    pub auth_header_name: String,
    /// Seconds; 0 never expires.
    pub refresh_token_ttl: u64,
    #[serde(deserialize_with = "or_default")]
    pub reuse_refresh_token: bool,
    pub pkce: Pkce,
    pub realm: Option<String>,
    pub storage: OAuth2Storage,
    pub redis: RedisConfig,
}
