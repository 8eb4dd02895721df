//! What ends a request before the upstream sees it.

use http::{Method, header};

use super::{told, with_route};

#[tokio::test]
async fn addresses_decide_who_passes() {
    for (config, client, expected) in [
        ("deny: [192.0.2.0/24]", "192.0.2.7", Some((403, "error: IP address not allowed: 192.0.2.7"))),
        ("deny: [192.0.2.0/24]", "::ffff:192.0.2.7", Some((403, "error: IP address not allowed: 192.0.2.7"))),
        ("deny: [192.0.2.8]", "192.0.2.7", None),
        ("allow: [192.0.2.0/24]", "192.0.2.7", None),
        ("allow: ['2001:db8::/32']", "192.0.2.7", Some((403, "error: IP address not allowed: 192.0.2.7"))),
        ("allow: ['2001:db8::/32']", "2001:db8::5", None),
        (
            "allow: [0.0.0.0/0], deny: [192.0.2.7]",
            "192.0.2.7",
            Some((403, "error: IP address not allowed: 192.0.2.7")),
        ),
        ("deny: [192.0.2.7], status: 404, message: gone", "192.0.2.7", Some((404, "error: gone"))),
    ] {
        let gateway = with_route(&format!("plugins: [{{name: ip-restriction, config: {{{config}}}}}]"));
        let mut ctx = gateway.get("/", &[("x-forwarded-for", "10.0.0.1")]);
        ctx.client_ip = client.parse().unwrap();
        let found = gateway.access(&mut ctx).await.map(|answer| told(&answer));
        assert_eq!(found, expected.map(|(status, text)| (status, text.to_owned())), "{config} {client}");
    }
}

#[tokio::test]
async fn robots_stay_out() {
    let gateway =
        with_route("plugins: [{name: bot-detection, config: {allow: ['^nice'], deny: ['curl/\\d']}}]");
    let agent = |name| vec![("user-agent", name)];
    for (headers, expected) in [
        (vec![], None),
        (agent("Mozilla/5.0 Firefox/133.0"), None),
        (agent("Googlebot/2.1"), Some((403, "error: Forbidden"))),
        (agent("nice Googlebot/2.1"), None),
        (agent("curl/8"), Some((403, "error: Forbidden"))),
        ([agent("a"), agent("b")].concat(), Some((400, "error: Only one User-Agent header allowed"))),
    ] {
        let found = gateway.access(&mut gateway.get("/", &headers)).await.map(|answer| told(&answer));
        assert_eq!(found, expected.map(|(status, text)| (status, text.to_owned())), "{headers:?}");
    }
}

#[tokio::test]
async fn bodies_larger_than_allowed_are_refused() {
    let with = |config: &str| {
        with_route(&format!("plugins: [{{name: request-size-limiting, config: {{{config}}}}}]"))
    };
    let small = with("allowed_payload_size: 4, size_unit: bytes");
    let over = (413, "error: Request size limit exceeded".to_owned());
    for (headers, expected) in [
        (vec![("content-length", "4")], None),
        (vec![("content-length", "5")], Some(over.clone())),
        (vec![("content-length", "5"), ("expect", "100-Continue")], Some((417, over.1.clone()))),
        (vec![], None),
    ] {
        let found = small.access(&mut small.get("/", &headers)).await.map(|answer| told(&answer));
        assert_eq!(found, expected, "{headers:?}");
    }
    let kilobytes = with("allowed_payload_size: 1, size_unit: kilobytes");
    assert!(kilobytes.access(&mut kilobytes.get("/", &[("content-length", "1024")])).await.is_none());
    assert!(kilobytes.access(&mut kilobytes.get("/", &[("content-length", "1025")])).await.is_some());
    let strict = with("require_content_length: true");
    let answer = strict.access(&mut strict.get("/", &[])).await.unwrap();
    assert_eq!(told(&answer), (411, "error: A valid Content-Length header is required".to_owned()));
}

#[tokio::test]
async fn terminations_echo_the_request() {
    let gateway = with_route(
        "plugins: [{name: request-termination, config: {status_code: 404, echo: true, trigger: Echo-Me}}]",
    );
    assert!(gateway.access(&mut gateway.get("/", &[])).await.is_none());
    let headers = [
        ("host", "h.example:81"),
        ("echo-me", "1"),
        ("content-type", "application/json"),
        ("x-a", "1"),
        ("x-a", "2"),
    ];
    let mut ctx = gateway.request(Method::POST, "/p?a=1&a=2&b", &headers);
    let answer = gateway.send(&mut ctx, r#"{"k":"v"}"#).await.unwrap_err();
    assert_eq!(answer.headers[header::CONTENT_TYPE], "application/json");
    let (status, text) = told(&answer);
    let told: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((status, &told["message"]), (404, &"Not found".into()));
    let request = &told["request"];
    assert_eq!(
        (&request["scheme"], &request["host"], &request["port"]),
        (&"http".into(), &"h.example".into(), &81.into())
    );
    assert_eq!((&request["method"], &request["path"]), (&"POST".into(), &"/p".into()));
    assert_eq!(request["query"], serde_json::json!({"a": ["1", "2"], "b": true}));
    assert_eq!(request["headers"]["x-a"], serde_json::json!(["1", "2"]));
    assert_eq!((&request["body"]["k"], &request["raw_body"]), (&"v".into(), &r#"{"k":"v"}"#.into()));
}

#[tokio::test]
async fn termination_messages_and_triggers() {
    for (config, expected) in [
        ("{}", (503, "{\"message\":\"Service unavailable\"}")),
        ("{status_code: 404}", (404, "{\"message\":\"Not found\"}")),
        ("{status_code: 418}", (418, "")),
        ("{status_code: 200, message: hi}", (200, "{\"message\":\"hi\"}")),
        ("{status_code: 200, body: <a/>, content_type: text/xml}", (200, "<a/>")),
    ] {
        let gateway = with_route(&format!("plugins: [{{name: request-termination, config: {config}}}]"));
        let answer = gateway.access(&mut gateway.get("/", &[])).await.unwrap();
        assert_eq!(told(&answer), (expected.0, expected.1.to_owned()), "{config}");
    }
    let gateway = with_route("plugins: [{name: request-termination, config: {trigger: stop}}]");
    assert!(gateway.access(&mut gateway.get("/", &[])).await.is_none());
    assert!(gateway.access(&mut gateway.get("/?stop=1", &[])).await.is_some());
    assert!(gateway.access(&mut gateway.get("/", &[("stop", "1")])).await.is_some());
}
