//! Who asks: the authorization server from end to end, tokens of an identity provider, sessions. Everything through a real gateway.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/harness.rs"]
mod harness;

use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use harness::{Gateway, config};
use http::{Method, Response};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use plinth_testbed::redis::Redis;
use plinth_testbed::upstream::Upstream;
use plinth_testbed::{PortLease, eventually, holds};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(20);
const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
/// The example of RFC 7636, appendix B.
const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";

fn body(answer: &Response<Bytes>) -> Value {
    serde_json::from_slice(answer.body())
        .unwrap_or_else(|_| panic!("{:?}: {}", answer.status(), String::from_utf8_lossy(answer.body())))
}

fn oauth2(upstream: SocketAddr, more: &str) -> String {
    format!(
        "{}plugins:
- name: oauth2
  config: {{scopes: [read, write], provision_key: provision, enable_authorization_code: true,
           enable_client_credentials: true, enable_password_grant: true, enable_introspection: true,
           accept_http_if_already_terminated: true, {more}}}
consumers:
- username: app
  oauth2_credentials:
  - {{name: web, client_id: web, client_secret: s3cret, redirect_uris: ['http://app.example/back?x=1']}}
- username: phone
  oauth2_credentials:
  - {{name: phone, client_id: phone, client_type: public, redirect_uris: ['phone://back']}}
",
        config(&[upstream], "")
    )
}

/// A gateway behind a proxy that ends TLS.
struct Server(Gateway);

impl Server {
    async fn start(upstream: SocketAddr, more: &str) -> Server {
        Server(Gateway::start_with(&oauth2(upstream, more), &["--trusted-ips", "127.0.0.1"]).await)
    }

    async fn post(&self, path: &str, form: &[(&str, &str)], headers: &[(&str, &str)]) -> Response<Bytes> {
        let pairs = form.iter().map(|(name, value)| {
            format!(
                "{name}={}",
                percent_encoding::utf8_percent_encode(value, percent_encoding::NON_ALPHANUMERIC)
            )
        });
        let form: Vec<String> = pairs.collect();
        let own = [("content-type", "application/x-www-form-urlencoded"), ("x-forwarded-proto", "https")];
        self.0.send(Method::POST, path, &[&own, headers].concat(), form.join("&")).await
    }

    async fn token(&self, form: &[(&str, &str)]) -> (u16, Value) {
        let answer = self.post("/oauth2/token", form, &[]).await;
        assert_eq!(answer.headers()["cache-control"], "no-store");
        (answer.status().as_u16(), body(&answer))
    }

    /// The code in the redirect that the login page gets.
    async fn code(&self, client: &str, more: &[(&str, &str)]) -> String {
        let form = [
            ("provision_key", "provision"),
            ("authenticated_userid", "u-1"),
            ("response_type", "code"),
            ("client_id", client),
            ("scope", "read"),
            ("state", "st ate"),
        ];
        let answer = self.post("/oauth2/authorize", &[&form, more].concat(), &[]).await;
        assert_eq!(answer.status(), 200, "{}", body(&answer));
        let redirect = body(&answer)["redirect_uri"].as_str().unwrap().to_owned();
        assert!(redirect.contains("state=st%20ate"), "{redirect}");
        let (_, rest) = redirect.split_once("code=").unwrap_or_else(|| panic!("{redirect}"));
        percent_encoding::percent_decode_str(rest.split('&').next().unwrap())
            .decode_utf8()
            .unwrap()
            .into_owned()
    }

    async fn get(&self, token: &str) -> Response<Bytes> {
        let bearer = format!("Bearer {token}");
        self.0.send(Method::GET, "/data", &[("authorization", &bearer)], "").await
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value}"))
}

const WEB: [(&str, &str); 2] = [("client_id", "web"), ("client_secret", "s3cret")];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_credentials_open_the_way_to_the_upstream() {
    let upstream = Upstream::start().await;
    let server = Server::start(upstream.addr, "").await;
    let form = [&WEB[..], &[("grant_type", "client_credentials"), ("scope", "read write")]].concat();
    let (status, issued) = server.token(&form).await;
    assert_eq!((status, &issued["token_type"], &issued["expires_in"]), (200, &"bearer".into(), &7200.into()));
    assert!(issued.get("refresh_token").is_none(), "{issued}");
    assert_eq!(server.get(text(&issued["access_token"])).await.status(), 200);
    let sent = upstream.requests().pop().unwrap();
    assert_eq!(sent.headers()["x-consumer-username"], "app");
    assert_eq!(sent.headers()["x-credential-identifier"], "web");
    assert_eq!(sent.headers()["x-authenticated-scope"], "read write");
    assert!(!sent.headers().contains_key("x-authenticated-userid"));

    for (token, challenge, error) in [
        (
            None,
            "Bearer",
            json!({"error": "invalid_request", "error_description": "The access token is missing"}),
        ),
        (
            Some("Bearer nonsense"),
            "Bearer error=\"invalid_token\" error_description=\"The access token is invalid or has expired\"",
            json!({"error": "invalid_token", "error_description": "The access token is invalid or has expired"}),
        ),
    ] {
        let headers: Vec<(&str, &str)> = token.map(|token| ("authorization", token)).into_iter().collect();
        let refused = server.0.send(Method::GET, "/data", &headers, "").await;
        assert_eq!((refused.status().as_u16(), body(&refused)), (401, error));
        assert_eq!(refused.headers()["www-authenticate"], challenge);
    }
    let got = server.0.send(Method::GET, "/oauth2/token", &[], "").await;
    assert_eq!((got.status().as_u16(), text(&body(&got)["error"])), (405, "invalid_method"));
    server.0.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_refusal_of_the_token_endpoint() {
    let upstream = Upstream::start().await;
    let server = Server::start(upstream.addr, "").await;
    let credentials = ("grant_type", "client_credentials");
    for (form, status, error, description) in [
        (
            vec![("client_id", "web"), ("client_secret", "wrong"), credentials],
            400,
            "invalid_client",
            "Invalid client authentication",
        ),
        (
            vec![("client_id", "nobody"), ("client_secret", "s3cret"), credentials],
            400,
            "invalid_client",
            "Invalid client authentication",
        ),
        (vec![WEB[0], WEB[1], ("grant_type", "magic")], 400, "unsupported_grant_type", "Invalid grant_type"),
        (
            vec![WEB[0], WEB[1], credentials, ("scope", "admin")],
            400,
            "invalid_scope",
            "\"admin\" is an invalid scope",
        ),
        (
            vec![WEB[0], WEB[1], credentials, ("authenticated_userid", "x")],
            400,
            "invalid_provision_key",
            "Invalid provision_key",
        ),
        (
            vec![WEB[0], WEB[1], ("grant_type", "authorization_code"), ("code", "guess")],
            400,
            "invalid_request",
            "Invalid code",
        ),
        (
            vec![WEB[0], WEB[1], ("grant_type", "refresh_token"), ("refresh_token", "guess")],
            400,
            "invalid_request",
            "Invalid refresh_token",
        ),
        (
            vec![("client_id", "phone"), ("client_secret", "x"), credentials],
            400,
            "invalid_request",
            "client_secret is disallowed for public clients",
        ),
    ] {
        let (got, said) = server.token(&form).await;
        assert_eq!(
            (got, text(&said["error"]), text(&said["error_description"])),
            (status, error, description),
            "{form:?}"
        );
    }
    // Basic authentication is answered with its challenge.
    let basic = [("authorization", "Basic d2ViOndyb25n")];
    let refused = server.post("/oauth2/token", &[credentials], &basic).await;
    assert_eq!(refused.status(), 401);
    assert_eq!(refused.headers()["www-authenticate"], "Basic realm=\"OAuth2.0\"");
    let basic = [("authorization", "Basic d2ViOnMzY3JldA==")];
    assert_eq!(server.post("/oauth2/token", &[credentials], &basic).await.status(), 200);
    // Not over plain HTTP.
    let plain = server.0.send(Method::POST, "/oauth2/token", &[], "").await;
    assert_eq!((plain.status().as_u16(), text(&body(&plain)["error"])), (400, "access_denied"));
    assert!(upstream.requests().is_empty(), "nothing of this is the upstream's");
    server.0.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn codes_are_good_once_and_only_with_their_verifier() {
    let upstream = Upstream::start().await;
    let server = Server::start(upstream.addr, "").await;
    let pkce = [("code_challenge", CHALLENGE), ("code_challenge_method", "S256")];
    let exchange = async |code: &str, more: &[(&str, &str)]| {
        let form =
            [&[("client_id", "phone"), ("grant_type", "authorization_code"), ("code", code)], more].concat();
        server.token(&form).await
    };
    let code = server.code("phone", &pkce).await;
    let wrong = "x".repeat(43);
    let (status, said) = exchange(&code, &[("code_verifier", &wrong)]).await;
    assert_eq!((status, text(&said["error"])), (400, "invalid_grant"), "a wrong verifier");
    let (status, _) = exchange(&code, &[("code_verifier", VERIFIER)]).await;
    assert_eq!(status, 400, "and the code is used up");

    let code = server.code("phone", &pkce).await;
    let (status, said) = exchange(&code, &[]).await;
    assert_eq!(
        (status, text(&said["error_description"])),
        (400, "code_verifier is required for PKCE authorization requests")
    );

    let code = server.code("phone", &pkce).await;
    let (status, issued) = exchange(&code, &[("code_verifier", VERIFIER)]).await;
    assert_eq!(status, 200, "{issued}");
    assert_eq!(server.get(text(&issued["access_token"])).await.status(), 200);
    assert_eq!(upstream.requests().pop().unwrap().headers()["x-authenticated-userid"], "u-1");
    let (status, said) = exchange(&code, &[("code_verifier", VERIFIER)]).await;
    assert_eq!((status, text(&said["error_description"])), (400, "Invalid code"), "a code is good once");

    // A code of one client is nothing to another, and a public client has to bring a challenge.
    let code = server.code("web", &[]).await;
    let (status, _) = exchange(&code, &[("code_verifier", VERIFIER)]).await;
    assert_eq!(status, 400);
    for (more, error) in [
        (vec![("client_id", "phone")], "invalid_request"),
        (vec![("client_id", "web"), ("provision_key", "no")], "invalid_provision_key"),
        (vec![("client_id", "web"), ("redirect_uri", "http://evil.example/")], "invalid_request"),
        (vec![("client_id", "web"), ("response_type", "token")], "unsupported_response_type"),
        (vec![("client_id", "web"), ("authenticated_userid", " ")], "invalid_authenticated_userid"),
    ] {
        let mut form =
            vec![("provision_key", "provision"), ("authenticated_userid", "u"), ("response_type", "code")];
        form.retain(|(name, _)| !more.iter().any(|(other, _)| other == name));
        let answer = server.post("/oauth2/authorize", &[form, more.clone()].concat(), &[]).await;
        let said = String::from_utf8_lossy(answer.body()).replace("%5F", "_");
        assert_eq!(answer.status(), 400, "{more:?}");
        assert!(said.contains(error), "{more:?}: {said}");
        assert!(!said.contains("evil"), "nobody is sent to a URI that is not registered");
    }
    server.0.stop().await;
}

async fn refresh_rotates(server: &Server) {
    let code = server.code("web", &[]).await;
    let (_, first) =
        server.token(&[&WEB[..], &[("grant_type", "authorization_code"), ("code", &code)]].concat()).await;
    let refresh = async |token: &str| {
        server.token(&[&WEB[..], &[("grant_type", "refresh_token"), ("refresh_token", token)]].concat()).await
    };
    let old = text(&first["refresh_token"]);
    let (status, second) = refresh(old).await;
    assert_eq!(status, 200, "{second}");
    assert_ne!(text(&second["refresh_token"]), old);
    assert_eq!(
        server.get(text(&first["access_token"])).await.status(),
        401,
        "the old access token goes with it"
    );
    assert_eq!(server.get(text(&second["access_token"])).await.status(), 200);
    let (status, said) = refresh(old).await;
    assert_eq!(
        (status, text(&said["error_description"])),
        (400, "Invalid refresh_token"),
        "a refresh token is good once"
    );
    let stolen = [
        ("client_id", "phone"),
        ("grant_type", "refresh_token"),
        ("refresh_token", text(&second["refresh_token"])),
    ];
    assert_eq!(text(&server.token(&stolen).await.1["error"]), "invalid_client");
    assert_eq!(
        refresh(text(&second["refresh_token"])).await.0,
        200,
        "another client's attempt costs nothing"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refresh_tokens_rotate_and_expired_tokens_end() {
    let upstream = Upstream::start().await;
    let server = Server::start(upstream.addr, "token_expiration: 3").await;
    let form = [&WEB[..], &[("grant_type", "client_credentials")]].concat();
    let (_, issued) = server.token(&form).await;
    let token = text(&issued["access_token"]);
    assert_eq!(server.get(token).await.status(), 200);
    eventually("the token expires", PATIENCE, || async {
        let status = server.get(token).await.status();
        holds(status == 401, status.to_string())
    })
    .await;
    server.0.stop().await;
    let server = Server::start(upstream.addr, "").await;
    refresh_rotates(&server).await;
    server.0.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateways_share_tokens_through_redis_and_say_when_it_is_gone() {
    let upstream = Upstream::start().await;
    let redis = Redis::start().await;
    let url = redis.url();
    let address = url.trim_start_matches("redis://").split('/').next().unwrap();
    let (host, port) = address.rsplit_once(':').unwrap();
    let more = format!("storage: redis, redis: {{host: {host}, port: {port}}}");
    let (one, two) = (Server::start(upstream.addr, &more).await, Server::start(upstream.addr, &more).await);
    refresh_rotates(&one).await;
    let (_, issued) =
        one.token(&[&WEB[..], &[("grant_type", "client_credentials"), ("scope", "read")]].concat()).await;
    let token = text(&issued["access_token"]);
    assert_eq!(two.get(token).await.status(), 200);

    let about = two.post("/oauth2/introspect", &[&WEB[..], &[("token", token)]].concat(), &[]).await;
    let said = body(&about);
    assert_eq!(
        (&said["active"], &said["client_id"], &said["scope"]),
        (&true.into(), &"web".into(), &"read".into())
    );
    let about = two.post("/oauth2/introspect", &[&WEB[..], &[("token", "other")]].concat(), &[]).await;
    assert_eq!(body(&about), json!({"active": false}));
    let about = two.post("/oauth2/introspect", &[("client_id", "web"), ("token", token)], &[]).await;
    assert_eq!(about.status(), 401, "only clients are told");

    drop(redis);
    let refused = two.get(token).await;
    assert_eq!((refused.status().as_u16(), text(&body(&refused)["error"])), (503, "temporarily_unavailable"));
    one.0.stop().await;
    two.0.stop().await;
}

/// An identity provider with the keys it has at the moment.
struct Provider {
    upstream: Upstream,
    issuer: String,
}

struct Key {
    pair: rcgen::KeyPair,
    kid: &'static str,
}

impl Key {
    fn new(kid: &'static str) -> Key {
        Key { pair: rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap(), kid }
    }

    fn jwk(&self) -> Value {
        let raw = URL_SAFE_NO_PAD.encode(self.pair.public_key_raw());
        json!({"kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": self.kid, "x": raw})
    }

    fn sign(&self, claims: &Value) -> String {
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(self.kid.to_owned());
        let key = EncodingKey::from_ed_pem(self.pair.serialize_pem().as_bytes()).unwrap();
        encode(&header, claims, &key).unwrap()
    }
}

impl Provider {
    async fn start_on(address: SocketAddr) -> Provider {
        let upstream = Upstream::start_on(address).await;
        Provider { issuer: format!("http://{}", upstream.addr), upstream }
    }

    fn publish(&self, keys: &[&Key]) {
        let issuer = self.issuer.clone();
        let keys = json!({"keys": keys.iter().map(|key| key.jwk()).collect::<Vec<_>>()}).to_string();
        self.upstream.respond(move |request| {
            let (issuer, keys) = (issuer.clone(), keys.clone());
            async move {
                Response::new(match request.uri().path() {
                    "/.well-known/openid-configuration" => {
                        json!({"issuer": issuer, "jwks_uri": format!("{issuer}/keys")}).to_string().into()
                    }
                    _ => keys.into(),
                })
            }
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_of_a_provider_whose_keys_rotate_and_who_goes_away() {
    let upstream = Upstream::start().await;
    let lease = PortLease::take();
    let address = SocketAddr::from(([127, 0, 0, 1], lease.port()));
    let issuer = format!("http://{address}");
    let text = format!(
        "{}plugins:
- name: jwks-auth
  config: {{issuer: '{issuer}', audience: [api], scopes_required: [read], refresh_cooldown: 1}}
consumers: [{{username: ann, custom_id: sub-1}}]
",
        config(&[upstream.addr], "")
    );
    let gateway = Gateway::start(&text).await;
    let get = async |token: &str| {
        gateway.send(Method::GET, "/", &[("authorization", &format!("Bearer {token}"))], "").await
    };
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let claims = json!({"iss": issuer, "aud": ["api"], "sub": "sub-1", "exp": now + 600, "scope": "read x"});
    let (old, new) = (Key::new("old"), Key::new("new"));
    let early = get(&old.sign(&claims)).await;
    assert_eq!(early.status(), 503, "the provider is not there yet");
    assert_eq!(early.headers()["retry-after"], "1");

    let provider = Provider::start_on(address).await;
    provider.publish(&[&old]);
    let with_old = old.sign(&claims);
    eventually("the provider's keys are found", PATIENCE, || async {
        let answer = get(&with_old).await;
        holds(answer.status() == 200, format!("{answer:?}"))
    })
    .await;
    let sent = upstream.requests().pop().unwrap();
    assert_eq!(sent.headers()["x-consumer-username"], "ann");
    assert_eq!(sent.headers()["x-credential-identifier"], "sub-1");

    for (change, status, said) in [
        (json!({"aud": "other"}), 401, "the token is for another audience"),
        (json!({"iss": "http://evil.example"}), 401, "the token comes from another issuer"),
        (json!({"exp": now - 600}), 401, "the token has expired"),
        (json!({"scope": "write"}), 403, "the token lacks the scope read"),
        (json!({"sub": "nobody"}), 403, "the token's sub names no consumer"),
    ] {
        let mut claims = claims.clone();
        for (name, value) in change.as_object().unwrap() {
            claims[name] = value.clone();
        }
        let answer = get(&old.sign(&claims)).await;
        assert_eq!((answer.status().as_u16(), body(&answer)), (status, json!({"message": said})));
    }

    // A new key is noticed by the first token that names it; the old key's tokens end with it.
    provider.publish(&[&new]);
    eventually("the new key is used", PATIENCE, || async {
        let answer = get(&new.sign(&claims)).await;
        holds(answer.status() == 200, format!("{answer:?}"))
    })
    .await;
    assert_eq!(get(&with_old).await.status(), 401, "a token that was good before the rotation");

    // The provider goes away: what it said last stays true, across reloads as well.
    drop(provider);
    assert_eq!(get(&new.sign(&claims)).await.status(), 200);
    let before = gateway.metric("gateway_config_generation").await;
    std::fs::write(&gateway.file, text.replace("custom_id: sub-1", "custom_id: sub-1, tags: [a]")).unwrap();
    eventually("the reload", PATIENCE, || async {
        holds(gateway.metric("gateway_config_generation").await > before, "not yet")
    })
    .await;
    assert_eq!(get(&new.sign(&claims)).await.status(), 200);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_stands_for_a_key_until_logout() {
    let upstream = Upstream::start().await;
    let text = format!(
        "{}plugins:
- name: session
  config: {{secret: hush, cookie_secure: false, logout_methods: [POST]}}
- name: key-auth
  config: {{anonymous: guest}}
- name: request-termination
  consumer: guest
  config: {{status_code: 403}}
consumers: [{{username: guest}}, {{username: ann, keyauth_credentials: [{{key: k}}]}}]
",
        config(&[upstream.addr], "")
    );
    let gateway = Gateway::start(&text).await;
    assert_eq!(gateway.get("/").await.status(), 403);
    let answer = gateway.send(Method::GET, "/", &[("apikey", "k")], "").await;
    let cookie = answer.headers()["set-cookie"].to_str().unwrap().to_owned();
    assert!(cookie.ends_with("; Path=/; SameSite=Strict; HttpOnly"), "{cookie}");
    let pair = cookie.split(';').next().unwrap().to_owned();
    let with = async |method: Method, path: &str, cookie: &str| {
        gateway.send(method, path, &[("cookie", cookie)], "").await
    };
    let answer = with(Method::GET, "/", &pair).await;
    assert_eq!(answer.status(), 200);
    assert!(!answer.headers().contains_key("set-cookie"), "a fresh session is not written again");
    assert_eq!(upstream.requests().pop().unwrap().headers()["x-consumer-username"], "ann");
    let mut forged = pair.clone().into_bytes();
    let last = forged.len() - 5;
    forged[last] = if forged[last] == b'A' { b'B' } else { b'A' };
    assert_eq!(with(Method::GET, "/", std::str::from_utf8(&forged).unwrap()).await.status(), 403);
    let gone = with(Method::POST, "/?session_logout=1", &pair).await;
    assert_eq!(gone.status(), 200);
    assert!(gone.headers()["set-cookie"].to_str().unwrap().starts_with("session=; Max-Age=0"));
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_remembered_client_gets_a_new_session_when_the_old_one_is_gone() {
    let upstream = Upstream::start().await;
    let text = format!(
        "{}plugins:
- name: session
  config:
    secret: hush
    cookie_secure: false
    logout_methods: [POST]
    remember: true
    remember_rolling_timeout: 1000
- name: key-auth
  config: {{anonymous: guest}}
- name: request-termination
  consumer: guest
  config: {{status_code: 403}}
consumers: [{{username: guest}}, {{username: ann, keyauth_credentials: [{{key: k}}]}}]
",
        config(&[upstream.addr], "")
    );
    let gateway = Gateway::start(&text).await;
    let cookies = |answer: &http::Response<bytes::Bytes>| -> Vec<String> {
        let all = answer.headers().get_all("set-cookie").iter();
        all.map(|cookie| cookie.to_str().unwrap().to_owned()).collect()
    };
    let pair = |cookie: &str| cookie.split(';').next().unwrap().to_owned();
    let with = async |method: Method, path: &str, cookie: &str| {
        gateway.send(method, path, &[("cookie", cookie)], "").await
    };
    let set = cookies(&gateway.send(Method::GET, "/", &[("apikey", "k")], "").await);
    let [session, remember] = &set[..] else { panic!("{set:?}") };
    assert!(session.starts_with("session=") && !session.contains("Max-Age"), "{session}");
    assert!(remember.starts_with("remember=") && remember.contains("; Max-Age=1000;"), "{remember}");

    // the browser was closed: the session's cookie is gone
    let answer = with(Method::GET, "/", &pair(remember)).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(upstream.requests().pop().unwrap().headers()["x-consumer-username"], "ann");
    let again = cookies(&answer);
    assert_eq!(again.len(), 2, "{again:?}");
    assert!(cookies(&with(Method::GET, "/", &pair(&again[0])).await).is_empty(), "the new session is good");

    // neither cookie is good under the other's name
    for (name, cookie) in [("session", remember), ("remember", session)] {
        let moved = format!("{name}={}", pair(cookie).split_once('=').unwrap().1);
        assert_eq!(with(Method::GET, "/", &moved).await.status(), 403, "{name}");
    }

    let gone = cookies(&with(Method::POST, "/?session_logout=1", &pair(remember)).await);
    assert_eq!(gone.len(), 2, "{gone:?}");
    assert!(
        gone[0].starts_with("session=; Max-Age=0") && gone[1].starts_with("remember=; Max-Age=0"),
        "{gone:?}"
    );
    gateway.stop().await;
}
