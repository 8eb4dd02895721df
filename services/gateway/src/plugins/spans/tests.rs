use http::HeaderValue;

use super::*;

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    pairs
        .iter()
        .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap()))
        .collect()
}

fn all() -> Propagate {
    Propagate {
        extract: TraceFormat::LOOKED_FOR.to_vec(),
        clear: Vec::new(),
        inject: vec![Inject::Preserve],
        default_format: TraceFormat::W3c,
    }
}

const TRACE: &str = "463ac35c9f6413ad48485a3953bb6124";
const SPAN: &str = "a2fb4a1d1a96d312";
const PARENT: &str = "0020000000000001";

/// Every format comes out as it came in: read, passed on unchanged, the same headers.
#[test]
fn every_format_is_kept() {
    let decimal_trace = 0x4848_5a39_53bb_6124_u64.to_string();
    let decimal_span = 0xa2fb_4a1d_1a96_d312_u64.to_string();
    for (format, sent) in [
        (TraceFormat::W3c, vec![("traceparent", format!("00-{TRACE}-{SPAN}-01"))]),
        (
            TraceFormat::B3,
            vec![
                ("x-b3-traceid", TRACE.to_owned()),
                ("x-b3-spanid", SPAN.to_owned()),
                ("x-b3-parentspanid", PARENT.to_owned()),
                ("x-b3-sampled", "1".to_owned()),
            ],
        ),
        (TraceFormat::B3, vec![("b3", format!("{TRACE}-{SPAN}-1-{PARENT}"))]),
        (TraceFormat::B3, vec![("b3", format!("{}-{SPAN}-d", &TRACE[16..]))]),
        (TraceFormat::B3, vec![("b3", "0".to_owned())]),
        (
            TraceFormat::Jaeger,
            vec![
                ("uber-trace-id", format!("{TRACE}:{SPAN}:{PARENT}:01")),
                ("uberctx-who", "me%20too".to_owned()),
            ],
        ),
        (
            TraceFormat::Ot,
            vec![
                ("ot-tracer-traceid", TRACE[16..].to_owned()),
                ("ot-tracer-spanid", SPAN.to_owned()),
                ("ot-tracer-sampled", "0".to_owned()),
                ("ot-baggage-a", "b".to_owned()),
            ],
        ),
        (
            TraceFormat::Datadog,
            vec![
                ("x-datadog-trace-id", decimal_trace),
                ("x-datadog-parent-id", decimal_span.clone()),
                ("x-datadog-sampling-priority", "1".to_owned()),
            ],
        ),
        (
            TraceFormat::Aws,
            vec![(
                "x-amzn-trace-id",
                format!("Root=1-{}-{};Parent={SPAN};Sampled=1", &TRACE[..8], &TRACE[8..]),
            )],
        ),
        (TraceFormat::Gcp, vec![("x-cloud-trace-context", format!("{TRACE}/{decimal_span};o=1"))]),
    ] {
        let pairs: Vec<(&'static str, &str)> =
            sent.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let (found, context) = receive(&all(), &headers(&pairs));
        assert_eq!(found, Some(format), "{pairs:?}");
        let mut out = HeaderMap::new();
        pass_on(&all(), found, &context, &mut out);
        assert_eq!(out, headers(&pairs));
    }
}

#[test]
fn malformed_context_counts_as_none() {
    for (name, value) in [
        ("traceparent", format!("00-{TRACE}-{SPAN}")),
        ("traceparent", format!("01-{TRACE}-{SPAN}-01")),
        ("traceparent", format!("00-{}-{SPAN}-01", "0".repeat(32))),
        ("traceparent", format!("00-{TRACE}-{SPAN}-01-x")),
        ("b3", "nothing-useful".to_owned()),
        ("tracestate", "vendor=1".to_owned()),
        ("x-b3-traceid", "123".to_owned()),
        ("uber-trace-id", "1:2:3".to_owned()),
        ("uber-trace-id", format!("0:{SPAN}:0:1")),
        ("x-datadog-sampling-priority", "7".to_owned()),
        ("x-amzn-trace-id", format!("Root=1-{TRACE}")),
        ("x-cloud-trace-context", TRACE.to_owned()),
    ] {
        let (found, context) = receive(&all(), &headers(&[(name, &value)]));
        assert_eq!((found, context), (None, TraceContext::default()), "{name}: {value}");
    }
}

#[test]
fn the_first_listed_format_counts_and_headers_are_cleared() {
    let w3c = format!("00-{TRACE}-{SPAN}-01");
    let mut request = headers(&[("traceparent", &w3c), ("x-datadog-trace-id", "5"), ("x-secret", "1")]);
    let how = Propagate {
        extract: vec![TraceFormat::Datadog, TraceFormat::W3c],
        clear: vec!["traceparent".to_owned(), "x-secret".to_owned()],
        inject: vec![Inject::Preserve, Inject::Format(TraceFormat::B3Single)],
        default_format: TraceFormat::W3c,
    };
    let (found, mut context) = receive(&how, &request);
    assert_eq!(found, Some(TraceFormat::Datadog));
    context.span = Some(7_u64.to_be_bytes());
    context.sampled = Some(false);
    pass_on(&how, found, &context, &mut request);
    assert!(!request.contains_key("traceparent") && !request.contains_key("x-secret"));
    assert_eq!(request["x-datadog-trace-id"], "5");
    assert_eq!(request["x-datadog-parent-id"], "7");
    assert_eq!(request["b3"], "0000000000000005-0000000000000007-0");
}

proptest::proptest! {
    /// Whatever clients send, reading does not fail and what is passed on can be read again.
    #[test]
    fn hostile_headers_do_no_harm(name in 0_usize..7, value in "[ -~]{0,80}") {
        let names = ["traceparent", "b3", "uber-trace-id", "x-amzn-trace-id", "x-cloud-trace-context", "x-b3-traceid", "x-datadog-trace-id"];
        let (found, context) = receive(&all(), &headers(&[(names[name], &value)]));
        let mut out = HeaderMap::new();
        pass_on(&all(), found, &context, &mut out);
        if found.is_some() && context.trace.is_some() && context.span.is_some() {
            let (again, same) = receive(&all(), &out);
            proptest::prop_assert_eq!(again, found);
            proptest::prop_assert_eq!(same.trace.unwrap().bytes, context.trace.unwrap().bytes);
        }
    }
}
