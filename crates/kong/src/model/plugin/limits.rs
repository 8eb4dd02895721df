//! rate-limiting, response-ratelimiting, and the Redis they count in.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::or_default;

/// Window lengths, longest last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Period {
    Second,
    Minute,
    Hour,
    Day,
    Month,
    Year,
}

impl Period {
    pub const ALL: [Period; 6] =
        [Period::Second, Period::Minute, Period::Hour, Period::Day, Period::Month, Period::Year];

    pub fn as_str(self) -> &'static str {
        match self {
            Period::Second => "second",
            Period::Minute => "minute",
            Period::Hour => "hour",
            Period::Day => "day",
            Period::Month => "month",
            Period::Year => "year",
        }
    }
}

/// A number of requests for each period; at least one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeriodLimits {
    pub second: Option<f64>,
    pub minute: Option<f64>,
    pub hour: Option<f64>,
    pub day: Option<f64>,
    pub month: Option<f64>,
    pub year: Option<f64>,
}

impl PeriodLimits {
    /// The configured ones, shortest window first.
    pub fn iter(&self) -> impl Iterator<Item = (Period, f64)> + use<> {
        let values = [self.second, self.minute, self.hour, self.day, self.month, self.year];
        Period::ALL.into_iter().zip(values).filter_map(|(period, limit)| limit.map(|limit| (period, limit)))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LimitBy {
    Consumer,
    Credential,
    Ip,
    Service,
    Header,
    Path,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    Local,
    Redis,
}

/// Not in Kong, whose windows are fixed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WindowType {
    /// Windows of the UTC clock.
    Fixed,
    /// The last minute, hour, ...: the fixed window before counts by the part of it that still lies in the last one.
    Sliding,
}

/// Not in Kong: what happens to requests while Redis does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnRedisFailure {
    /// They pass uncounted.
    Open,
    /// 503.
    Closed,
    /// This gateway counts alone, against its share of the limits.
    Local,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RateLimitingConfig {
    #[serde(flatten)]
    pub periods: PeriodLimits,
    pub limit_by: LimitBy,
    pub header_name: Option<String>,
    pub path: Option<String>,
    pub policy: Policy,
    #[serde(deserialize_with = "or_default")]
    pub fault_tolerant: bool,
    #[serde(deserialize_with = "or_default")]
    pub hide_client_headers: bool,
    pub error_code: u16,
    pub error_message: String,
    /// Seconds; -1 counts at once.
    pub sync_rate: Option<f64>,
    pub redis: RedisConfig,
    /// Unset: fixed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window_type: Option<WindowType>,
    /// Unset: as `fault_tolerant` says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_redis_failure: Option<OnRedisFailure>,
    /// This gateway's part of each limit while it counts alone, 0 to 1; unset: 0.5.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local_share: Option<f64>,
}

impl RateLimitingConfig {
    /// The configured limits, shortest window first.
    pub fn limits(&self) -> impl Iterator<Item = (Period, f64)> + use<> {
        self.periods.iter()
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResponseRateLimitingConfig {
    pub header_name: String,
    pub limit_by: LimitBy,
    pub policy: Policy,
    #[serde(deserialize_with = "or_default")]
    pub fault_tolerant: bool,
    pub redis: RedisConfig,
    #[serde(deserialize_with = "or_default")]
    pub block_on_first_violation: bool,
    #[serde(deserialize_with = "or_default")]
    pub hide_client_headers: bool,
    pub limits: BTreeMap<String, PeriodLimits>,
}

/// The password is a secret: `Debug` hides it.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct RedisConfig {
    pub host: Option<String>,
    pub port: u16,
    /// Milliseconds; an upper bound.
    pub timeout: u32,
    pub username: Option<String>,
    pub password: Option<String>,
    #[serde(deserialize_with = "or_default")]
    pub database: u32,
    #[serde(deserialize_with = "or_default")]
    pub ssl: bool,
    #[serde(deserialize_with = "or_default")]
    pub ssl_verify: bool,
    pub server_name: Option<String>,
}

impl std::fmt::Debug for RedisConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisConfig")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("database", &self.database)
            .finish_non_exhaustive()
    }
}
