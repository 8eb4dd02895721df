use http::Method;

use super::super::tests::{Gateway, told};
use super::*;

fn gateway(config: &str) -> Gateway {
    Gateway::new(&format!(
        "services: [{{host: h, routes: [{{paths: [/]}}]}}]\nplugins: [{{name: key-auth}}, {{name: cors, config: {config}}}]"
    ))
}

const SEED: &str = "{origins: ['http://localhost:3000', 'https://app.example.com'], methods: [GET, POST], headers: [Accept, X-A], \
                    exposed_headers: [X-Auth-Token], credentials: true, max_age: 3600}";

async fn preflight(gateway: &Gateway, origin: &str) -> Option<EarlyResponse> {
    let asked = [
        ("origin", origin),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "X-Asked"),
    ];
    gateway.access(&mut gateway.request(Method::OPTIONS, "/", &asked)).await
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name).map(|value| value.to_str().unwrap())
}

#[tokio::test]
async fn preflights_are_answered_before_authentication() {
    let gateway = gateway(SEED);
    let answer = preflight(&gateway, "https://app.example.com").await.unwrap();
    assert_eq!(told(&answer), (200, String::new()));
    let headers = &answer.headers;
    assert_eq!(text(headers, "access-control-allow-origin"), Some("https://app.example.com"));
    assert_eq!(text(headers, "access-control-allow-methods"), Some("GET,POST"));
    assert_eq!(text(headers, "access-control-allow-headers"), Some("Accept,X-A"));
    assert_eq!(text(headers, "access-control-allow-credentials"), Some("true"));
    assert_eq!(text(headers, "access-control-max-age"), Some("3600"));
    assert_eq!(text(headers, "vary"), Some("Origin"));
    assert_eq!(text(headers, "access-control-expose-headers"), None);
}

#[tokio::test]
async fn other_options_requests_go_on() {
    let gateway = gateway(SEED);
    let answer = gateway
        .access(&mut gateway.request(Method::OPTIONS, "/", &[("origin", "http://localhost:3000")]))
        .await;
    assert_eq!(answer.unwrap().status, 401, "to authentication");
}

#[tokio::test]
async fn asked_headers_are_echoed_when_none_are_configured() {
    let answer = preflight(&gateway("{}"), "https://x.example").await.unwrap();
    assert_eq!(text(&answer.headers, "access-control-allow-headers"), Some("X-Asked"));
    assert_eq!(text(&answer.headers, "access-control-allow-origin"), Some("*"));
    assert_eq!(text(&answer.headers, "vary"), None);
    let methods = text(&answer.headers, "access-control-allow-methods").unwrap();
    assert_eq!(methods, "GET,HEAD,PUT,PATCH,POST,DELETE,OPTIONS,TRACE,CONNECT");
}

/// Allow-Origin and Vary of an answer for an origin.
fn marked(config: &str, origin: &str, upstream: &[(&'static str, &str)]) -> (Option<String>, Option<String>) {
    let gateway = gateway(config);
    let mut ctx =
        if origin.is_empty() { gateway.get("/", &[]) } else { gateway.get("/", &[("origin", origin)]) };
    let head = gateway.answer(&mut ctx, upstream);
    let value = |name| text(&head.headers, name).map(str::to_owned);
    (value("access-control-allow-origin"), value("vary"))
}

#[tokio::test]
async fn which_origin_is_allowed() {
    let two = "{origins: ['https://a.com', 'http://b.com:8080']}";
    let regex = "{origins: ['(.*\\.)?a\\.com', 'https://c\\.com:\\d+']}";
    for (config, origin, expected, vary) in [
        ("{}", "https://x.com", Some("*"), None),
        ("{origins: ['*']}", "", Some("*"), None),
        ("{origins: ['https://a.com']}", "https://x.com", Some("https://a.com"), Some("Origin")),
        ("{origins: ['https://a.com']}", "", Some("https://a.com"), Some("Origin")),
        (two, "https://a.com", Some("https://a.com"), Some("Origin")),
        (two, "https://a.com:443", Some("https://a.com:443"), Some("Origin")),
        (two, "http://a.com", None, Some("Origin")),
        (two, "http://b.com", None, Some("Origin")),
        (two, "http://b.com:8080", Some("http://b.com:8080"), Some("Origin")),
        (two, "", None, Some("Origin")),
        (regex, "https://x.a.com:9999", Some("https://x.a.com:9999"), Some("Origin")),
        (regex, "https://xa.com", None, Some("Origin")),
        (regex, "https://a.com.evil.org", None, Some("Origin")),
        (regex, "https://c.com:81", Some("https://c.com:81"), Some("Origin")),
        ("{origins: ['*'], credentials: true}", "https://x.com", Some("https://x.com"), Some("Origin")),
        ("{origins: ['*'], credentials: true}", "", Some("*"), None),
    ] {
        let found = marked(config, origin, &[]);
        assert_eq!((found.0.as_deref(), found.1.as_deref()), (expected, vary), "{config} {origin}");
    }
}

#[tokio::test]
async fn the_upstreams_own_mark_is_replaced() {
    let two = "{origins: ['https://a.com', 'https://b.com']}";
    let upstream = [("access-control-allow-origin", "*"), ("vary", "Accept-Encoding, origin")];
    assert_eq!(marked(two, "https://a.com", &upstream).0.as_deref(), Some("https://a.com"));
    assert_eq!(marked(two, "https://evil.com", &upstream).0, None);
    assert_eq!(marked(two, "https://a.com", &upstream).1.as_deref(), Some("Accept-Encoding, origin"));
}

#[tokio::test]
async fn preflights_may_go_on_to_the_upstream() {
    let gateway = gateway("{preflight_continue: true}");
    let answer = preflight(&gateway, "https://x.example").await.unwrap();
    assert_eq!(answer.status, 401, "to authentication, and its answer is marked like any other");
    let mut ctx = gateway.request(Method::OPTIONS, "/", &[("origin", "https://x.example")]);
    assert_eq!(text(&gateway.answer(&mut ctx, &[]).headers, "access-control-allow-origin"), Some("*"));
}

#[tokio::test]
async fn private_networks_are_allowed_when_configured_and_asked_for() {
    for (config, asked, expected) in [
        ("{private_network: true}", Some("true"), Some("true")),
        ("{private_network: true}", Some("false"), None),
        ("{private_network: true}", None, None),
        ("{}", Some("true"), None),
    ] {
        let gateway = gateway(config);
        let mut headers = vec![("origin", "https://x.example"), ("access-control-request-method", "GET")];
        headers.extend(asked.map(|asked| ("access-control-request-private-network", asked)));
        let answer = gateway.access(&mut gateway.request(Method::OPTIONS, "/", &headers)).await.unwrap();
        let found = text(&answer.headers, "access-control-allow-private-network");
        assert_eq!((answer.status.as_u16(), found), (200, expected), "{config} {asked:?}");
    }
}
