//! What zipkin and opentelemetry share: ids, and trace context in headers.

mod extract;
mod inject;

use http::{HeaderMap, HeaderName};
use plinth_kong::{Inject, Propagate, TraceFormat};

/// A span's name within its trace.
pub(super) type SpanId = [u8; 8];

/// A trace's name: 16 bytes, of which systems that know only 8 carry the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TraceId {
    pub bytes: [u8; 16],
    /// Bytes it came with (or was made of): formats that allow it get as many.
    pub size: usize,
}

impl TraceId {
    /// Random; `size` is 8 or 16.
    pub fn new(size: usize) -> TraceId {
        let mut bytes = fastrand::u128(1..).to_be_bytes();
        if size == 8 {
            bytes[..8].fill(0);
        }
        TraceId { bytes, size }
    }

    /// The last `size` bytes.
    pub fn last(&self, size: usize) -> &[u8] {
        &self.bytes[16 - size.min(16)..]
    }

    /// As hex, in the size it came with.
    pub fn hex(&self) -> String {
        hex(self.last(if self.size == 8 { 8 } else { 16 }))
    }
}

pub(super) fn new_span_id() -> SpanId {
    fastrand::u64(1..).to_be_bytes()
}

pub(super) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.map(|digit| char::from(DIGITS[usize::from(digit)])).collect()
}

/// What a request says about the trace it belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct TraceContext {
    pub trace: Option<TraceId>,
    pub span: Option<SpanId>,
    pub parent: Option<SpanId>,
    /// The caller's span and ours are one (b3, jaeger); otherwise `span` is our parent.
    pub shared_span: bool,
    pub sampled: Option<bool>,
    /// b3's `X-B3-Flags`: 1 asks for debugging.
    pub flags: Option<String>,
    /// b3 came in one header.
    pub single_header: bool,
    pub baggage: Vec<(String, String)>,
}

/// Reads what the request brings and removes what the configuration says.
pub(super) fn receive(how: &Propagate, headers: &HeaderMap) -> (Option<TraceFormat>, TraceContext) {
    for format in &how.extract {
        if let Some(context) = extract::context(*format, headers) {
            return (Some(*format), context);
        }
    }
    (None, TraceContext::default())
}

/// Removes configured headers and writes the context the upstream gets.
pub(super) fn pass_on(
    how: &Propagate,
    found: Option<TraceFormat>,
    context: &TraceContext,
    headers: &mut HeaderMap,
) {
    for name in &how.clear {
        headers.remove(name.as_str());
    }
    for inject in &how.inject {
        let format = match inject {
            Inject::Format(format) => *format,
            Inject::Preserve => match found.unwrap_or(how.default_format) {
                TraceFormat::B3 if context.single_header => TraceFormat::B3Single,
                format => format,
            },
        };
        inject::headers(format, context, headers);
    }
}

/// The configured name of a response header that shows the trace id.
pub(super) fn response_header(name: Option<&str>) -> Result<Option<HeaderName>, String> {
    name.map(|name| HeaderName::from_bytes(name.as_bytes()))
        .transpose()
        .map_err(|_| "in 'http_response_header_for_traceid': not a header name".to_owned())
}

#[cfg(test)]
mod tests;
