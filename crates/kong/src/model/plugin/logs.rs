//! Configurations of the plugins that send log entries elsewhere.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::{or_default, unset};

/// How entries wait, are gathered and are tried again. Kong's `queue` record. Times are seconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QueueConfig {
    /// Entries sent at once.
    pub max_batch_size: u32,
    /// How long a batch waits to become full.
    pub max_coalescing_delay: f64,
    /// Entries that may wait; a further one replaces the oldest.
    pub max_entries: u32,
    /// Bytes that may wait; unset = any number.
    pub max_bytes: Option<u64>,
    /// A batch is given up when it has failed for so long; negative = after the first failure.
    pub max_retry_time: f64,
    /// Pause after the first failure; each further one is twice as long.
    pub initial_retry_delay: f64,
    /// Longest pause.
    pub max_retry_delay: f64,
    /// 1: one batch after the other. -1: several at the same time.
    pub concurrency_limit: i32,
}

impl Default for QueueConfig {
    fn default() -> Self {
        QueueConfig {
            max_batch_size: 1,
            max_coalescing_delay: 1.0,
            max_entries: 10_000,
            max_bytes: None,
            max_retry_time: 60.0,
            initial_retry_delay: 0.01,
            max_retry_delay: 60.0,
            concurrency_limit: 1,
        }
    }
}

/// Methods http-log may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum HttpLogMethod {
    Post,
    Put,
    Patch,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HttpLogConfig {
    /// A URL; user and password in it become Basic authentication.
    pub http_endpoint: String,
    pub method: HttpLogMethod,
    pub content_type: String,
    /// Limit for connecting, sending and the answer, each. Milliseconds.
    pub timeout: f64,
    /// An idle connection is closed after so many milliseconds.
    pub keepalive: f64,
    #[serde(with = "unset")]
    pub headers: BTreeMap<String, String>,
    pub queue: QueueConfig,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TcpLogConfig {
    pub host: String,
    pub port: u16,
    /// Milliseconds.
    pub timeout: f64,
    /// An idle connection is closed after so many milliseconds.
    pub keepalive: f64,
    #[serde(deserialize_with = "or_default")]
    pub tls: bool,
    /// Server name of the handshake; the host when unset.
    pub tls_sni: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UdpLogConfig {
    pub host: String,
    pub port: u16,
    /// Milliseconds.
    pub timeout: f64,
}

/// Syslog severities, most urgent first: the value is the number in the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Emerg = 0,
    Alert,
    Crit,
    Err,
    Warning,
    Notice,
    Info,
    Debug,
}

/// Syslog facilities by name; [`Facility::code`] is the number in the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Facility {
    Kern,
    User,
    Mail,
    Daemon,
    Auth,
    Syslog,
    Lpr,
    News,
    Uucp,
    Cron,
    Authpriv,
    Ftp,
    Local0,
    Local1,
    Local2,
    Local3,
    Local4,
    Local5,
    Local6,
    Local7,
}

impl Facility {
    /// RFC 5424, table 1.
    pub fn code(self) -> u8 {
        let position = self as u8;
        // 12 to 15 have no names here.
        if position < Facility::Local0 as u8 { position } else { position + 4 }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SyslogConfig {
    /// Less urgent entries are left out.
    pub log_level: Severity,
    pub successful_severity: Severity,
    pub client_errors_severity: Severity,
    pub server_errors_severity: Severity,
    pub facility: Facility,
}
