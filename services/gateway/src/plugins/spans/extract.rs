//! Trace context out of request headers. Malformed headers count as absent.

use http::HeaderMap;
use plinth_kong::TraceFormat;

use super::{SpanId, TraceContext, TraceId};

/// The context a format's headers carry; `None` when they say nothing.
pub(super) fn context(format: TraceFormat, headers: &HeaderMap) -> Option<TraceContext> {
    match format {
        TraceFormat::W3c => w3c(headers),
        TraceFormat::B3 | TraceFormat::B3Single => b3(headers),
        TraceFormat::Jaeger => jaeger(headers),
        TraceFormat::Ot => ot(headers),
        TraceFormat::Datadog => datadog(headers),
        TraceFormat::Aws => aws(headers),
        TraceFormat::Gcp => gcp(headers),
    }
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

fn is_hex(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Hex digits, right-aligned.
fn number(text: &str) -> Option<u128> {
    if is_hex(text) { u128::from_str_radix(text, 16).ok() } else { None }
}

/// Hex of any length up to 32 digits.
fn trace_id(text: &str) -> Option<TraceId> {
    let bytes = number(text)?.to_be_bytes();
    Some(TraceId { bytes, size: text.len().div_ceil(2) })
}

fn span_id(text: &str) -> Option<SpanId> {
    let value = number(text)?;
    u64::try_from(value).ok().map(u64::to_be_bytes)
}

fn exact_trace_id(text: &str) -> Option<TraceId> {
    matches!(text.len(), 16 | 32).then(|| trace_id(text)).flatten()
}

fn exact_span_id(text: &str) -> Option<SpanId> {
    (text.len() == 16).then(|| span_id(text)).flatten()
}

fn w3c(headers: &HeaderMap) -> Option<TraceContext> {
    let mut parts = text(headers, "traceparent")?.split('-');
    let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some()
        || version != "00"
        || trace.len() != 32
        || parent.len() != 16
        || flags.len() != 2
    {
        return None;
    }
    let trace = trace_id(trace).filter(|id| id.bytes != [0; 16])?;
    let span = span_id(parent).filter(|id| *id != [0; 8])?;
    let flags = number(flags)?;
    Some(TraceContext {
        trace: Some(trace),
        span: Some(span),
        sampled: Some(flags & 1 == 1),
        ..TraceContext::default()
    })
}

/// `b3` (or `tracestate: b3=…`) first; what it leaves open comes from the `x-b3-` headers.
fn b3(headers: &HeaderMap) -> Option<TraceContext> {
    let in_state = || {
        let states = headers.get_all("tracestate").iter();
        states.filter_map(|state| state.to_str().ok()?.strip_prefix("b3=")).next()
    };
    let single = text(headers, "b3").or_else(in_state);
    let mut context = single.map(b3_single).unwrap_or_default();
    context.single_header = single.is_some();
    let many = b3_many(headers);
    context.sampled = context.sampled.or(many.sampled);
    context.flags = context.flags.or(many.flags);
    if context.trace.is_none() {
        (context.trace, context.span, context.parent) = (many.trace, many.span, many.parent);
    }
    if context.trace.is_none() {
        (context.span, context.parent) = (None, None);
    }
    context.shared_span = true;
    let says = context.trace.is_some() || context.sampled.is_some() || context.flags.is_some();
    says.then_some(context)
}

fn b3_single(value: &str) -> TraceContext {
    let mut context = TraceContext::default();
    let decide = |context: &mut TraceContext, sampled: &str| match sampled {
        "1" => context.sampled = Some(true),
        "0" => context.sampled = Some(false),
        "d" => {
            context.sampled = Some(true);
            context.flags = Some("1".to_owned());
        }
        _ => {}
    };
    let parts: Vec<&str> = value.split('-').collect();
    match parts.as_slice() {
        [decision] => decide(&mut context, decision),
        [trace, span, rest @ ..] if rest.len() <= 2 => {
            let parent = rest.get(1).copied();
            let sampled = rest.first().copied().unwrap_or_default();
            let ids = (exact_trace_id(trace), exact_span_id(span), parent.map(exact_span_id));
            if let (Some(trace), Some(span), None | Some(Some(_))) = ids
                && matches!(sampled, "" | "0" | "1" | "d")
            {
                context.trace = Some(trace);
                context.span = Some(span);
                context.parent = ids.2.flatten();
                decide(&mut context, sampled);
            }
        }
        _ => {}
    }
    context
}

fn flag(value: &str) -> Option<bool> {
    match value {
        "1" | "true" => Some(true),
        "0" | "false" => Some(false),
        _ => None,
    }
}

fn b3_many(headers: &HeaderMap) -> TraceContext {
    let flags = text(headers, "x-b3-flags");
    let sampled = text(headers, "x-b3-sampled").and_then(flag);
    let mut context = TraceContext {
        sampled: if flags == Some("1") { Some(true) } else { sampled },
        flags: flags.map(str::to_owned),
        ..TraceContext::default()
    };
    let id = |name: &str| text(headers, name).map(exact_span_id);
    let trace = text(headers, "x-b3-traceid").map(exact_trace_id);
    let (span, parent) = (id("x-b3-spanid"), id("x-b3-parentspanid"));
    // One malformed id spoils them all.
    if trace != Some(None) && span != Some(None) && parent != Some(None) {
        context.trace = trace.flatten();
        context.span = span.flatten();
        context.parent = parent.flatten();
    }
    context
}

fn jaeger(headers: &HeaderMap) -> Option<TraceContext> {
    let mut parts = text(headers, "uber-trace-id")?.split(':');
    let (trace, span, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() || !(1..=2).contains(&flags.len()) {
        return None;
    }
    let trace = trace_id(trace).filter(|id| id.bytes != [0; 16])?;
    let span = span_id(span).filter(|id| *id != [0; 8])?;
    let parent = number(parent)?;
    let parent = u64::try_from(parent).ok().filter(|parent| *parent != 0).map(u64::to_be_bytes);
    Some(TraceContext {
        trace: Some(trace),
        span: Some(span),
        parent,
        shared_span: true,
        sampled: Some(number(flags)? & 1 == 1),
        baggage: baggage(headers, "uberctx-"),
        ..TraceContext::default()
    })
}

fn ot(headers: &HeaderMap) -> Option<TraceContext> {
    let sampled = text(headers, "ot-tracer-sampled").and_then(flag);
    let trace = text(headers, "ot-tracer-traceid").map(exact_trace_id);
    let span = text(headers, "ot-tracer-spanid").map(exact_span_id);
    let (trace, span) = match (trace, span) {
        (Some(None), _) | (_, Some(None)) | (None, _) => (None, None),
        (trace, span) => (trace.flatten(), span.flatten()),
    };
    let context = TraceContext {
        trace,
        span,
        sampled,
        baggage: baggage(headers, "ot-baggage-"),
        ..TraceContext::default()
    };
    (context.trace.is_some() || sampled.is_some()).then_some(context)
}

fn baggage(headers: &HeaderMap, prefix: &str) -> Vec<(String, String)> {
    let pairs = headers.iter().filter_map(|(name, value)| {
        let name = name.as_str().strip_prefix(prefix)?;
        let value = percent_encoding::percent_decode(value.as_bytes()).decode_utf8_lossy().into_owned();
        Some((name.to_owned(), value))
    });
    pairs.collect()
}

/// Decimal 64-bit ids.
fn datadog(headers: &HeaderMap) -> Option<TraceContext> {
    let sampled = match text(headers, "x-datadog-sampling-priority") {
        None => None,
        Some("1" | "2") => Some(true),
        Some("0" | "-1") => Some(false),
        Some(_) => return None,
    };
    let id = |name: &str| text(headers, name)?.trim().parse::<u128>().ok();
    let trace = id("x-datadog-trace-id").map(|id| TraceId { bytes: id.to_be_bytes(), size: 8 });
    let span = id("x-datadog-parent-id").and_then(|id| u64::try_from(id).ok()).map(u64::to_be_bytes);
    let context = TraceContext { trace, span: trace.and(span), sampled, ..TraceContext::default() };
    (trace.is_some() || sampled.is_some()).then_some(context)
}

/// `Root=1-<8 digits>-<24 digits>;Parent=<16 digits>;Sampled=1`
fn aws(headers: &HeaderMap) -> Option<TraceContext> {
    let mut context = TraceContext::default();
    for pair in text(headers, "x-amzn-trace-id")?.split(';') {
        let Some((key, value)) = pair.split_once('=') else { continue };
        let value = value.trim();
        match key.trim() {
            "Root" => {
                let mut parts = value.split('-');
                let (version, time, unique) = (parts.next()?, parts.next()?, parts.next()?);
                if parts.next().is_some() || version != "1" || time.len() != 8 || unique.len() != 24 {
                    return None;
                }
                context.trace = Some(trace_id(&format!("{time}{unique}"))?);
            }
            "Parent" => context.span = Some(exact_span_id(value)?),
            "Sampled" => {
                context.sampled = match value {
                    "1" => Some(true),
                    "0" => Some(false),
                    _ => return None,
                }
            }
            _ => {}
        }
    }
    (context != TraceContext::default()).then_some(context)
}

/// `<32 hex digits>/<decimal span>;o=1`
fn gcp(headers: &HeaderMap) -> Option<TraceContext> {
    let (trace, rest) = text(headers, "x-cloud-trace-context")?.split_once('/')?;
    let (span, options) = match rest.split_once(";o=") {
        Some((span, options)) => (span, Some(options)),
        None => (rest, None),
    };
    if trace.len() != 32 || trace.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return None;
    }
    Some(TraceContext {
        trace: Some(trace_id(trace)?),
        span: Some(span.parse::<u64>().ok()?.to_be_bytes()),
        sampled: Some(options == Some("1")),
        ..TraceContext::default()
    })
}
