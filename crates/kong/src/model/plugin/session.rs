//! Configuration of the session plugin.

use serde::{Deserialize, Serialize};

use crate::model::or_default;

/// When browsers send the cookie along from other sites.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SameSite {
    Strict,
    Lax,
    None,
    /// The browser decides: the cookie does not say.
    Default,
}

/// Times are seconds; 0 switches a limit off.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SessionConfig {
    /// Unset: made up by each process.
    pub secret: Option<String>,
    pub audience: String,
    /// Longest time without a request.
    pub idling_timeout: f64,
    /// Longest time until the cookie has to be renewed; it is after three quarters.
    pub rolling_timeout: f64,
    /// Longest time since it began.
    pub absolute_timeout: f64,
    pub cookie_name: String,
    pub cookie_path: String,
    pub cookie_domain: Option<String>,
    pub cookie_same_site: SameSite,
    #[serde(deserialize_with = "or_default")]
    pub cookie_http_only: bool,
    #[serde(deserialize_with = "or_default")]
    pub cookie_secure: bool,
    #[serde(deserialize_with = "or_default")]
    pub read_body_for_logout: bool,
    /// A second cookie, which outlives the browser's session and begins new ones.
    #[serde(deserialize_with = "or_default")]
    pub remember: bool,
    pub remember_cookie_name: String,
    /// Longest time between two sessions begun by it.
    pub remember_rolling_timeout: f64,
    /// Longest time since the authentication it stands for.
    pub remember_absolute_timeout: f64,
    #[serde(deserialize_with = "or_default")]
    pub logout_methods: Vec<String>,
    pub logout_query_arg: String,
    pub logout_post_arg: String,
}
