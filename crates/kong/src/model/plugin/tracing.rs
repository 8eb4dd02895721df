//! Configurations of the plugins that follow requests across services.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::QueueConfig;
use crate::model::{or_default, unset};

/// Header formats of trace context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TraceFormat {
    W3c,
    B3,
    B3Single,
    Jaeger,
    Ot,
    Datadog,
    Aws,
    Gcp,
}

impl TraceFormat {
    /// The order in which Kong looks for context when told to keep what it finds.
    pub const LOOKED_FOR: [TraceFormat; 7] = [
        TraceFormat::B3,
        TraceFormat::W3c,
        TraceFormat::Jaeger,
        TraceFormat::Ot,
        TraceFormat::Datadog,
        TraceFormat::Aws,
        TraceFormat::Gcp,
    ];
}

/// A format to write, or the one that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Inject {
    Preserve,
    #[serde(untagged)]
    Format(TraceFormat),
}

/// The old way to say what is read and written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HeaderType {
    Preserve,
    Ignore,
    #[serde(untagged)]
    Format(TraceFormat),
}

/// What trace context is read from and written to. Absent and empty lists differ: absent ones leave the say to
/// `header_type`, see [`Propagation::effective`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Propagation {
    pub extract: Option<Vec<TraceFormat>>,
    /// Headers removed after reading.
    pub clear: Option<Vec<String>>,
    pub inject: Option<Vec<Inject>>,
    pub default_format: TraceFormat,
}

/// Propagation as it is carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Propagate {
    /// The first that is found counts.
    pub extract: Vec<TraceFormat>,
    pub clear: Vec<String>,
    pub inject: Vec<Inject>,
    /// Written for `preserve` when nothing was found.
    pub default_format: TraceFormat,
}

impl Propagation {
    /// Any list of this record takes the say from the old fields.
    pub fn effective(&self, header_type: HeaderType, default_format: Option<TraceFormat>) -> Propagate {
        if self.extract.is_some() || self.clear.is_some() || self.inject.is_some() {
            return Propagate {
                extract: self.extract.clone().unwrap_or_default(),
                clear: self.clear.clone().unwrap_or_default(),
                inject: self.inject.clone().unwrap_or_default(),
                default_format: self.default_format,
            };
        }
        let default_format = default_format.unwrap_or(self.default_format);
        let (extract, inject) = match header_type {
            HeaderType::Preserve => (TraceFormat::LOOKED_FOR.to_vec(), vec![Inject::Preserve]),
            HeaderType::Ignore => (Vec::new(), vec![Inject::Format(default_format)]),
            HeaderType::Format(format) => {
                (TraceFormat::LOOKED_FOR.to_vec(), vec![Inject::Preserve, Inject::Format(format)])
            }
        };
        Propagate { extract, clear: Vec::new(), inject, default_format }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OpentelemetryConfig {
    /// OTLP over HTTP.
    pub traces_endpoint: Option<String>,
    pub logs_endpoint: Option<String>,
    #[serde(with = "unset")]
    pub headers: BTreeMap<String, String>,
    #[serde(with = "unset")]
    pub resource_attributes: BTreeMap<String, String>,
    pub queue: QueueConfig,
    /// Milliseconds.
    pub connect_timeout: u64,
    pub send_timeout: u64,
    pub read_timeout: u64,
    pub http_response_header_for_traceid: Option<String>,
    pub header_type: Option<HeaderType>,
    /// Share of traces begun here that are sent; unset = the gateway's `tracing.sampling_rate`.
    pub sampling_rate: Option<f64>,
    pub propagation: Propagation,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SpanName {
    #[serde(rename = "method")]
    Method,
    #[serde(rename = "method_path")]
    MethodPath,
}

/// How the durations of phases are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PhaseFlavor {
    Annotations,
    Tags,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StaticTag {
    pub name: String,
    pub value: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ZipkinConfig {
    pub local_service_name: String,
    /// Unset: headers are passed on, nothing is sent.
    pub http_endpoint: Option<String>,
    pub sample_ratio: Option<f64>,
    pub default_service_name: Option<String>,
    #[serde(deserialize_with = "or_default")]
    pub include_credential: bool,
    /// 8 or 16.
    pub traceid_byte_count: u8,
    pub header_type: HeaderType,
    pub default_header_type: TraceFormat,
    pub tags_header: String,
    #[serde(with = "unset")]
    pub static_tags: Vec<StaticTag>,
    pub http_span_name: SpanName,
    /// Milliseconds.
    pub connect_timeout: u64,
    pub send_timeout: u64,
    pub read_timeout: u64,
    pub http_response_header_for_traceid: Option<String>,
    pub phase_duration_flavor: PhaseFlavor,
    pub queue: QueueConfig,
    pub propagation: Propagation,
}
