//! basic-auth, hmac-auth, acl.

use serde::{Deserialize, Serialize};

use crate::model::{or_default, unset};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BasicAuthConfig {
    #[serde(deserialize_with = "or_default")]
    pub hide_credentials: bool,
    /// Consumer id or username.
    pub anonymous: Option<String>,
    pub realm: Option<String>,
}

/// Signature algorithms of hmac-auth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HmacAlgorithm {
    #[serde(rename = "hmac-sha1")]
    Sha1,
    #[serde(rename = "hmac-sha256")]
    Sha256,
    #[serde(rename = "hmac-sha384")]
    Sha384,
    #[serde(rename = "hmac-sha512")]
    Sha512,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HmacAuthConfig {
    #[serde(deserialize_with = "or_default")]
    pub hide_credentials: bool,
    /// Seconds the request's date may differ from this gateway's clock.
    pub clock_skew: f64,
    pub anonymous: Option<String>,
    #[serde(deserialize_with = "or_default")]
    pub validate_request_body: bool,
    #[serde(deserialize_with = "or_default")]
    pub enforce_headers: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub algorithms: Vec<HmacAlgorithm>,
    pub realm: Option<String>,
}

/// One of the lists is empty.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AclConfig {
    #[serde(with = "unset")]
    pub allow: Vec<String>,
    #[serde(with = "unset")]
    pub deny: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub hide_groups_header: bool,
    #[serde(deserialize_with = "or_default")]
    pub always_use_authenticated_groups: bool,
}
