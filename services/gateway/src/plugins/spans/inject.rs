//! Trace context into the headers the upstream gets.

use http::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use plinth_kong::TraceFormat;

use super::{SpanId, TraceContext, TraceId, hex};

/// Sets one format's headers; those that need ids are left out without them.
pub(super) fn headers(format: TraceFormat, context: &TraceContext, headers: &mut HeaderMap) {
    let sampled = context.sampled == Some(true);
    let ids = context.trace.zip(context.span);
    let mut set = |name: &'static str, value: String| put(headers, name, &value);
    match (format, ids) {
        (TraceFormat::B3, ids) => {
            if let Some((trace, span)) = ids {
                set("x-b3-traceid", sized(&trace, 16));
                set("x-b3-spanid", hex(&span));
                if let Some(parent) = context.parent {
                    set("x-b3-parentspanid", hex(&parent));
                }
            }
            match &context.flags {
                Some(flags) => set("x-b3-flags", flags.clone()),
                None => set("x-b3-sampled", digit(sampled).to_owned()),
            }
        }
        (TraceFormat::B3Single, ids) => set("b3", b3_single(context, ids)),
        (TraceFormat::W3c, Some((trace, span))) => {
            set("traceparent", format!("00-{}-{}-0{}", hex(&trace.bytes), hex(&span), digit(sampled)));
        }
        (TraceFormat::Jaeger, Some((trace, span))) => {
            let parent = context.parent.map_or_else(|| "0".to_owned(), |parent| hex(&parent));
            let trace = sized(&trace, 16);
            set("uber-trace-id", format!("{trace}:{}:{parent}:0{}", hex(&span), digit(sampled)));
            baggage("uberctx-", context, headers);
        }
        (TraceFormat::Ot, Some((trace, span))) => {
            set("ot-tracer-traceid", sized(&trace, 8));
            set("ot-tracer-spanid", hex(&span));
            if context.sampled.is_some() {
                set("ot-tracer-sampled", digit(sampled).to_owned());
            }
            baggage("ot-baggage-", context, headers);
        }
        (TraceFormat::Datadog, ids) => {
            if let Some((trace, span)) = ids {
                set("x-datadog-trace-id", decimal(trace.last(8)));
                set("x-datadog-parent-id", decimal(&span));
            }
            if context.sampled.is_some() {
                set("x-datadog-sampling-priority", digit(sampled).to_owned());
            }
        }
        (TraceFormat::Aws, Some((trace, span))) => {
            let trace = hex(&trace.bytes);
            let (time, unique) = trace.split_at(8);
            let sampled = digit(sampled);
            set("x-amzn-trace-id", format!("Root=1-{time}-{unique};Parent={};Sampled={sampled}", hex(&span)));
        }
        (TraceFormat::Gcp, Some((trace, span))) => {
            let span = decimal(&span);
            set("x-cloud-trace-context", format!("{}/{span};o={}", hex(&trace.bytes), digit(sampled)));
        }
        (
            TraceFormat::W3c | TraceFormat::Jaeger | TraceFormat::Ot | TraceFormat::Aws | TraceFormat::Gcp,
            None,
        ) => {}
    }
}

fn put(headers: &mut HeaderMap, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(HeaderName::from_static(name), value);
    }
}

fn digit(sampled: bool) -> &'static str {
    if sampled { "1" } else { "0" }
}

/// In the size it came with where that is 8 or 16, else in the format's own.
fn sized(trace: &TraceId, otherwise: usize) -> String {
    hex(trace.last(if matches!(trace.size, 8 | 16) { trace.size } else { otherwise }))
}

fn decimal(bytes: &[u8]) -> String {
    bytes.iter().fold(0_u128, |value, byte| value << 8 | u128::from(*byte)).to_string()
}

fn b3_single(context: &TraceContext, ids: Option<(TraceId, SpanId)>) -> String {
    let sampled = match (&context.flags, context.sampled) {
        (Some(flags), _) if flags == "1" => Some("d"),
        (_, sampled) => sampled.map(digit),
    };
    let Some((trace, span)) = ids else { return sampled.unwrap_or("0").to_owned() };
    let mut value = format!("{}-{}", sized(&trace, 16), hex(&span));
    for part in [sampled.map(str::to_owned), context.parent.map(|parent| hex(&parent))].into_iter().flatten()
    {
        value.push('-');
        value.push_str(&part);
    }
    value
}

fn baggage(prefix: &str, context: &TraceContext, headers: &mut HeaderMap) {
    for (key, value) in &context.baggage {
        let value = utf8_percent_encode(value, NON_ALPHANUMERIC).to_string();
        let name = HeaderName::from_bytes(format!("{prefix}{key}").as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(&value)) {
            headers.insert(name, value);
        }
    }
}
