//! Who is asking, and whether they may.

use http::{HeaderValue, Method, StatusCode, header};

use super::{Gateway, ROUTE, told, with_route};

#[tokio::test]
async fn key_auth_finds_hides_and_refuses() {
    let gateway = with_route(
        "plugins: [{name: key-auth, config: {hide_credentials: true, realm: x}}]
consumers: [{username: u, custom_id: c, keyauth_credentials: [{key: k}]}]",
    );
    let mut ctx = gateway
        .get("/?a=1&apikey=k&b=2", &[("x-consumer-username", "forged"), ("x-anonymous-consumer", "true")]);
    assert!(gateway.access(&mut ctx).await.is_none());
    assert_eq!(ctx.upstream_query.as_deref(), Some("a=1&b=2"));
    assert_eq!(ctx.head.headers["x-consumer-username"], "u");
    assert_eq!(ctx.head.headers["x-consumer-custom-id"], "c");
    assert!(!ctx.head.headers.contains_key("x-anonymous-consumer"));
    let refused = async |uri: &str, headers: &[(&'static str, &str)]| {
        let answer = gateway.access(&mut gateway.get(uri, headers)).await.unwrap();
        assert_eq!(answer.headers[header::WWW_AUTHENTICATE], "Key realm=\"x\"");
        told(&answer).1
    };
    assert_eq!(refused("/", &[]).await, "error: No API key found in request");
    assert_eq!(refused("/?apikey=no", &[]).await, "error: Unauthorized");
    assert_eq!(refused("/?apikey=a&apikey=b", &[]).await, "error: Duplicate API key found");
    assert_eq!(refused("/?apikey=k", &[("apikey", "no")]).await, "error: Unauthorized");
}

#[tokio::test]
async fn anonymous_goes_on_without_a_credential() {
    let gateway =
        with_route("plugins: [{name: key-auth, config: {anonymous: guest}}]\nconsumers: [{username: guest}]");
    let mut ctx = gateway.get("/", &[("x-credential-identifier", "forged")]);
    assert!(gateway.access(&mut ctx).await.is_none());
    assert_eq!(ctx.head.headers["x-anonymous-consumer"], "true");
    assert_eq!(ctx.head.headers["x-consumer-username"], "guest");
    assert!(!ctx.head.headers.contains_key("x-credential-identifier"));
    assert!(ctx.credential.is_none());
    let broken = with_route("plugins: [{name: key-auth, config: {anonymous: nobody}}]");
    let answer = broken.access(&mut broken.get("/", &[])).await.unwrap();
    assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR);
}

/// All authentication plugins pass, or any, and who the request is then.
#[tokio::test]
async fn several_authentications_are_and_or_or() {
    let with = |anonymous: &str| {
        with_route(&format!(
            "plugins: [{{name: key-auth, config: {{{anonymous}}}}}, {{name: basic-auth, config: {{{anonymous}}}}}]
consumers:
- {{username: keyed, keyauth_credentials: [{{key: k}}]}}
- {{username: named, basicauth_credentials: [{{username: u, password: 'p:w'}}]}}
- {{username: guest}}"
        ))
    };
    // u:p:w and u:wrong
    let (key, name, wrong) =
        (("apikey", "k"), ("authorization", "Basic dTpwOnc="), ("authorization", "Basic dTp3cm9uZw=="));
    for (anonymous, headers, expected) in [
        ("", vec![key, name], Ok("named")),
        ("", vec![key], Err(401)),
        ("", vec![name], Err(401)),
        ("", vec![key, wrong], Err(401)),
        ("anonymous: guest", vec![key, name], Ok("keyed")),
        ("anonymous: guest", vec![key], Ok("keyed")),
        ("anonymous: guest", vec![name], Ok("named")),
        ("anonymous: guest", vec![key, wrong], Ok("keyed")),
        ("anonymous: guest", vec![wrong], Ok("guest")),
        ("anonymous: guest", vec![], Ok("guest")),
        ("anonymous: nobody", vec![], Err(500)),
    ] {
        let gateway = with(anonymous);
        let mut ctx = gateway.get("/", &headers);
        let answer = gateway.access(&mut ctx).await;
        let found = match &answer {
            None => Ok(ctx.head.headers["x-consumer-username"].to_str().unwrap()),
            Some(answer) => Err(answer.status.as_u16()),
        };
        assert_eq!(found, expected, "{anonymous} {headers:?}");
    }
}

#[tokio::test]
async fn basic_auth_knows_passwords_in_plain_and_hashed() {
    let id = "11111111-2222-4333-8444-555555555555";
    // printf '%s' "p:w$id" | sha1sum
    let hash = "5aa9a36565a2d67b50a16cf2ed2235781bb763df";
    for (head, password) in [("", "p:w"), ("_transform: false\n", hash)] {
        let gateway = Gateway::new(&format!(
            "{head}{ROUTE}plugins: [{{name: basic-auth, config: {{hide_credentials: true}}}}]
consumers: [{{id: {id}, username: c, basicauth_credentials: [{{username: u, password: '{password}'}}]}}]"
        ));
        for (name, value, expected) in [
            ("authorization", "Basic dTpwOnc=", Ok("u")),
            ("authorization", "basic   dTpwOnc=", Ok("u")),
            ("proxy-authorization", "Basic dTpwOnc=", Ok("u")),
            ("authorization", "Basic dTpw", Err("error: Unauthorized")),
            ("authorization", "Basic dTo=", Err("error: Unauthorized")),
            ("authorization", "Basic !!", Err("error: Unauthorized")),
            ("authorization", "Bearer dTpwOnc=", Err("error: Unauthorized")),
            ("x-none", "", Err("error: Unauthorized")),
        ] {
            let mut ctx = gateway.get("/", &[(name, value)]);
            let answer = gateway.access(&mut ctx).await;
            let told = answer.as_ref().map(|answer| {
                assert_eq!(answer.headers[header::WWW_AUTHENTICATE], "Basic realm=\"service\"");
                told(answer)
            });
            match expected {
                Ok(user) => {
                    assert_eq!(told, None, "{head} {value}");
                    assert_eq!(ctx.head.headers["x-credential-identifier"], user);
                    assert!(!ctx.head.headers.contains_key(name), "hidden");
                }
                Err(message) => assert_eq!(told, Some((401, message.to_owned())), "{head} {value}"),
            }
        }
    }
}

#[tokio::test]
async fn keys_are_found_in_bodies_and_hidden_there() {
    let gateway = with_route(
        "plugins: [{name: key-auth, config: {key_in_body: true, hide_credentials: true}}]
consumers: [{username: u, keyauth_credentials: [{key: k}]}]",
    );
    let part = |name: &str, value: &str| {
        format!("--X\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
    };
    let (form, json, multi) = (
        "application/x-www-form-urlencoded",
        "application/json; charset=utf-8",
        "multipart/form-data; boundary=X",
    );
    let whole = format!("{}{}--X--\r\n", part("apikey", "k"), part("b", "2"));
    let rest = format!("{}--X--\r\n", part("b", "2"));
    for (kind, body, expected) in [
        (form, "a=1&apikey=k&b=%20x", Ok("a=1&b=%20x")),
        (form, "apikey=k&apikey=k", Err("error: Duplicate API key found")),
        (form, "a=1", Err("error: No API key found in request")),
        (form, "apikey=no", Err("error: Unauthorized")),
        (json, r#"{"a": 1.0, "apikey":"k"}"#, Ok(r#"{"a":1.0}"#)),
        (json, r#"{"apikey":["k"]}"#, Err("error: Duplicate API key found")),
        (json, r#"{"apikey":5}"#, Err("error: No API key found in request")),
        (json, "{", Err("error: No API key found in request")),
        ("text/plain", "apikey=k", Err("error: No API key found in request")),
        (multi, &whole, Ok(rest.as_str())),
    ] {
        let mut ctx = gateway.request(Method::POST, "/", &[("content-type", kind)]);
        let sent = gateway.send(&mut ctx, body).await.map_err(|answer| told(&answer).1);
        assert_eq!(sent.as_deref().map_err(String::as_str), expected, "{kind} {body}");
    }
    // Header and query go before; a body that is too large for plugins is refused.
    let mut ctx = gateway.request(Method::POST, "/?apikey=k", &[("content-type", form)]);
    assert_eq!(gateway.send(&mut ctx, "apikey=no&a=1").await.unwrap(), "a=1");
    let mut ctx = gateway.request(Method::POST, "/", &[("content-type", form)]);
    let refused = gateway.send(&mut ctx, &"x".repeat(1025)).await.unwrap_err();
    assert_eq!((told(&refused).0, &refused.headers["connection"]), (413, &HeaderValue::from_static("close")));
}

#[tokio::test]
async fn groups_decide_who_passes() {
    let with = |config: &str| {
        with_route(&format!(
            "plugins: [{{name: key-auth, config: {{anonymous: guest}}}}, {{name: acl, config: {{{config}}}}}]
consumers:
- {{username: both, keyauth_credentials: [{{key: both}}], acls: [{{group: b}}, {{group: a}}]}}
- {{username: none, keyauth_credentials: [{{key: none}}]}}
- {{username: guest, acls: [{{group: g}}]}}"
        ))
    };
    for (config, key, expected) in [
        ("allow: [a, x]", "both", Ok(Some("b, a"))),
        ("allow: [a], hide_groups_header: true", "both", Ok(None)),
        ("allow: [x]", "both", Err(403)),
        ("allow: [a]", "none", Err(403)),
        ("allow: [g]", "", Ok(Some("g"))),
        ("deny: [a]", "both", Err(403)),
        ("deny: [x]", "both", Ok(Some("b, a"))),
        ("deny: [a]", "none", Ok(None)),
    ] {
        let gateway = with(config);
        let mut ctx = gateway.get("/", &[("apikey", key), ("x-consumer-groups", "forged")]);
        let found = match gateway.access(&mut ctx).await {
            None => Ok(ctx.head.headers.get("x-consumer-groups").map(|groups| groups.to_str().unwrap())),
            Some(answer) => {
                assert_eq!(told(&answer).1, "error: You cannot consume this service");
                Err(answer.status.as_u16())
            }
        };
        assert_eq!(found, expected, "{config} {key}");
    }
    let alone = with_route("plugins: [{name: acl, config: {allow: [a]}}]");
    let answer = alone.access(&mut alone.get("/", &[])).await.unwrap();
    assert_eq!(told(&answer), (401, "error: Unauthorized".to_owned()));
}
