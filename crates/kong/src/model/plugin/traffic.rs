//! ip-restriction, bot-detection, request-size-limiting, proxy-cache.

use serde::{Deserialize, Serialize};

use super::limits::RedisConfig;
use crate::model::{or_default, unset};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IpRestrictionConfig {
    /// Addresses and ranges.
    #[serde(with = "unset")]
    pub allow: Vec<String>,
    #[serde(with = "unset")]
    pub deny: Vec<String>,
    pub status: Option<u16>,
    pub message: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BotDetectionConfig {
    /// Regular expressions over the User-Agent.
    #[serde(deserialize_with = "or_default")]
    pub allow: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub deny: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SizeUnit {
    Megabytes,
    Kilobytes,
    Bytes,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RequestSizeLimitingConfig {
    pub allowed_payload_size: u64,
    pub size_unit: SizeUnit,
    #[serde(deserialize_with = "or_default")]
    pub require_content_length: bool,
}

impl RequestSizeLimitingConfig {
    /// The limit in bytes.
    pub fn bytes(&self) -> u64 {
        let unit = match self.size_unit {
            SizeUnit::Megabytes => 1 << 20,
            SizeUnit::Kilobytes => 1 << 10,
            SizeUnit::Bytes => 1,
        };
        self.allowed_payload_size.saturating_mul(unit)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CacheStrategy {
    Memory,
    /// Not in Kong's open-source plugin.
    Redis,
}

/// Kong's shared dictionary; this gateway has its own memory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CacheMemory {
    pub dictionary_name: String,
}

/// Which headers tell about the cache.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CacheHeaders {
    #[serde(deserialize_with = "or_default")]
    pub age: bool,
    #[serde(rename = "X-Cache-Status", deserialize_with = "or_default")]
    pub status: bool,
    #[serde(rename = "X-Cache-Key", deserialize_with = "or_default")]
    pub key: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProxyCacheConfig {
    pub response_code: Vec<u16>,
    pub request_method: Vec<String>,
    pub content_type: Vec<String>,
    /// Seconds.
    pub cache_ttl: u64,
    pub strategy: CacheStrategy,
    #[serde(deserialize_with = "or_default")]
    pub cache_control: bool,
    #[serde(deserialize_with = "or_default")]
    pub ignore_uri_case: bool,
    /// Seconds an entry is kept whatever its ttl.
    pub storage_ttl: Option<u64>,
    pub memory: CacheMemory,
    #[serde(with = "unset")]
    pub vary_query_params: Vec<String>,
    #[serde(with = "unset")]
    pub vary_headers: Vec<String>,
    pub response_headers: CacheHeaders,
    #[serde(skip_serializing_if = "CacheRedis::unused")]
    pub redis: CacheRedis,
}

/// Where `strategy: redis` keeps entries.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CacheRedis(pub RedisConfig);

impl CacheRedis {
    /// Kong has no such field, so it is shown only where it is in use.
    fn unused(&self) -> bool {
        self.0.host.is_none()
    }
}
