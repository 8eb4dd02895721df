use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::Value;

use super::super::tests::{Gateway, told};
use super::*;

const CONSUMERS: &str =
    "consumers: [{username: app, jwt_secrets: [{key: k, secret: hush}, {key: b, secret: aHVzaA==}]}]\n";

fn gateway(config: &str) -> Gateway {
    Gateway::new(&format!(
        "services: [{{host: h, routes: [{{paths: [/]}}]}}]\nplugins: [{{name: jwt, config: {config}}}]\n{CONSUMERS}"
    ))
}

fn signed(claims: &Value) -> String {
    encode(&Header::new(Algorithm::HS256), claims, &EncodingKey::from_secret(b"hush")).unwrap()
}

/// Any header and claims, with a signature that fits nothing.
fn forged(header: &str, claims: &str) -> String {
    format!("{}.{}.AAAA", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims))
}

/// Status, body and challenge; "ok" when it passes.
async fn outcome(gateway: &Gateway, token: &str) -> (u16, String, String) {
    let mut ctx = gateway.get("/", &[("authorization", &format!("Bearer {token}"))]);
    match gateway.access(&mut ctx).await {
        None => (0, "ok".to_owned(), String::new()),
        Some(answer) => {
            let (status, body) = told(&answer);
            (status, body, answer.headers[header::WWW_AUTHENTICATE].to_str().unwrap().to_owned())
        }
    }
}

#[tokio::test]
async fn every_refusal_in_kongs_words() {
    let gateway = gateway("{}");
    let hs = "{\"alg\":\"HS256\"}";
    for (token, body) in [
        ("rubbish".to_owned(), "{\"message\":\"Bad token; invalid JSON\"}"),
        (forged("{", "{}"), "{\"message\":\"Bad token; invalid JSON\"}"),
        (forged("{\"alg\":\"none\"}", "{}"), "{\"message\":\"Bad token; invalid alg\"}"),
        (forged(hs, "{}") + "*", "{\"message\":\"Bad token; invalid signature\"}"),
        (forged(hs, "{}") + ".x", "{\"message\":\"Bad token; invalid signature\"}"),
        (forged(hs, "{}"), "{\"message\":\"No mandatory 'iss' in claims\"}"),
        (forged(hs, "{\"iss\":\"\"}"), "{\"message\":\"Invalid 'iss' in claims\"}"),
        (forged(hs, "{\"iss\":\"x\"}"), "{\"message\":\"No credentials found for given 'iss'\"}"),
        (forged("{\"alg\":\"RS256\"}", "{\"iss\":\"k\"}"), "{\"message\":\"Invalid algorithm\"}"),
        (forged(hs, "{\"iss\":\"k\"}"), "{\"message\":\"Invalid signature\"}"),
    ] {
        let expected = (401, body.to_owned(), "Bearer error=\"invalid_token\"".to_owned());
        assert_eq!(outcome(&gateway, &token).await, expected, "{token}");
    }
    assert_eq!(outcome(&gateway, &signed(&json!({"iss": "k"}))).await.1, "ok");
    let answer = gateway.access(&mut gateway.get("/", &[])).await.unwrap();
    assert_eq!(told(&answer), (401, "{\"message\":\"Unauthorized\"}".to_owned()));
    assert_eq!(answer.headers[header::WWW_AUTHENTICATE], "Bearer");
}

#[tokio::test]
async fn times_are_checked_when_asked_for() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let unasked = gateway("{}");
    assert_eq!(outcome(&unasked, &signed(&json!({"iss": "k", "exp": 1}))).await.1, "ok");
    let gateway = gateway("{claims_to_verify: [exp, nbf, iat], maximum_expiration: 100, realm: r}");
    let good = json!({"iss": "k", "exp": now + 50, "nbf": now - 1, "iat": now - 1});
    assert_eq!(outcome(&gateway, &signed(&good)).await.1, "ok");
    for (claim, value, body) in [
        ("exp", json!(now - 1), "{\"exp\":\"token expired\"}"),
        ("exp", json!("soon"), "{\"exp\":\"must be a number\"}"),
        ("exp", json!(now + 500), "{\"exp\":\"exceeds maximum allowed expiration\"}"),
        ("nbf", json!(now + 50), "{\"nbf\":\"token not valid yet\"}"),
        ("iat", json!(now + 50), "{\"iat\":\"token issued in the future\"}"),
        ("iat", Value::Null, "{\"iat\":\"must be a number\"}"),
    ] {
        let mut claims = good.clone();
        claims[claim] = value;
        let expected = (401, body.to_owned(), "Bearer realm=\"r\" error=\"invalid_token\"".to_owned());
        assert_eq!(outcome(&gateway, &signed(&claims)).await, expected);
    }
}

#[tokio::test]
async fn expiry_is_checked_on_cached_tokens_too() {
    let gateway = gateway("{claims_to_verify: [exp]}");
    let now = SystemTime::now();
    let exp = now.duration_since(UNIX_EPOCH).unwrap().as_secs() + 60;
    let bearer = format!("Bearer {}", signed(&json!({"iss": "k", "exp": exp})));
    let mut ctx = gateway.get("/", &[("authorization", &bearer)]);
    assert!(gateway.access(&mut ctx).await.is_none());
    ctx.timing.started_at = now + Duration::from_secs(120);
    assert_eq!(told(&gateway.access(&mut ctx).await.unwrap()).1, "{\"exp\":\"token expired\"}");
}

#[tokio::test]
async fn tokens_in_several_places() {
    let gateway = gateway("{uri_param_names: [token], cookie_names: [jwt]}");
    let (one, other) = (signed(&json!({"iss": "k"})), signed(&json!({"iss": "k", "n": 1})));
    let uri = format!("/?token={one}");
    let cookie = |token: &str| format!("a=b; jwt={token}; c=d");
    assert!(gateway.access(&mut gateway.get(&uri, &[])).await.is_none());
    assert!(gateway.access(&mut gateway.get("/", &[("cookie", &cookie(&one))])).await.is_none());
    assert!(gateway.access(&mut gateway.get(&uri, &[("cookie", &cookie(&one))])).await.is_none());
    let answer = gateway.access(&mut gateway.get(&uri, &[("cookie", &cookie(&other))])).await.unwrap();
    assert_eq!(told(&answer).1, "{\"message\":\"Multiple tokens provided\"}");
}

#[tokio::test]
async fn the_upstream_is_told_who_asks() {
    let gateway = gateway("{}");
    let bearer = format!("bEARER   {}", signed(&json!({"iss": "k"})));
    let mut ctx = gateway.get("/", &[("authorization", &bearer), ("x-consumer-custom-id", "forged")]);
    assert!(gateway.access(&mut ctx).await.is_none());
    assert_eq!(ctx.head.headers["x-consumer-username"], "app");
    assert_eq!(ctx.head.headers["x-credential-identifier"], "k");
    assert!(!ctx.head.headers.contains_key("x-consumer-custom-id"));
    assert_eq!(ctx.consumer.unwrap().username.as_deref(), Some("app"));
}

#[tokio::test]
async fn preflights_may_be_left_alone() {
    let gateway = gateway("{run_on_preflight: false}");
    assert!(gateway.access(&mut gateway.request(Method::OPTIONS, "/", &[])).await.is_none());
    assert!(gateway.access(&mut gateway.get("/", &[])).await.is_some());
}

#[tokio::test]
async fn base64_secrets() {
    let gateway = gateway("{secret_is_base64: true}");
    assert_eq!(outcome(&gateway, &signed(&json!({"iss": "b"}))).await.1, "ok");
}

/// A gateway whose one credential has that algorithm and key.
fn asymmetric(algorithm: &str, pem: &str) -> Gateway {
    let pem = pem.trim_end().replace('\n', "\n      ");
    Gateway::new(&format!(
        "services: [{{host: h, routes: [{{paths: [/]}}]}}]
plugins: [{{name: jwt}}]
consumers:
- username: app
  jwt_secrets:
  - key: k
    algorithm: {algorithm}
    rsa_public_key: |
      {pem}
"
    ))
}

#[tokio::test]
async fn public_key_algorithms() {
    let rsa = rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
    let p256 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let ed = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    for (name, algorithm, key) in [
        ("RS256", Algorithm::RS256, &rsa),
        ("RS384", Algorithm::RS384, &rsa),
        ("RS512", Algorithm::RS512, &rsa),
        ("PS256", Algorithm::PS256, &rsa),
        ("PS384", Algorithm::PS384, &rsa),
        ("PS512", Algorithm::PS512, &rsa),
        ("ES256", Algorithm::ES256, &p256),
        ("ES384", Algorithm::ES384, &p384),
        ("EdDSA", Algorithm::EdDSA, &ed),
    ] {
        let pem = key.serialize_pem();
        let signing = match algorithm {
            Algorithm::ES256 | Algorithm::ES384 => EncodingKey::from_ec_pem(pem.as_bytes()),
            Algorithm::EdDSA => EncodingKey::from_ed_pem(pem.as_bytes()),
            _ => EncodingKey::from_rsa_pem(pem.as_bytes()),
        };
        let token = encode(&Header::new(algorithm), &json!({"iss": "k"}), &signing.unwrap()).unwrap();
        let gateway = asymmetric(name, &key.public_key_pem());
        assert_eq!(outcome(&gateway, &token).await.1, "ok", "{name}");
        let tampered = token.replace(&token[token.len() - 10..], "AAAAAAAAAA");
        assert_eq!(outcome(&gateway, &tampered).await.1, "{\"message\":\"Invalid signature\"}", "{name}");
    }
}

#[tokio::test]
async fn hmac_algorithms() {
    for (name, algorithm) in [("HS384", Algorithm::HS384), ("HS512", Algorithm::HS512)] {
        let gateway = Gateway::new(&format!(
            "services: [{{host: h, routes: [{{paths: [/]}}]}}]\nplugins: [{{name: jwt}}]\n\
             consumers: [{{username: app, jwt_secrets: [{{key: k, secret: hush, algorithm: {name}}}]}}]"
        ));
        let claims = json!({"iss": "k"});
        let token = encode(&Header::new(algorithm), &claims, &EncodingKey::from_secret(b"hush")).unwrap();
        assert_eq!(outcome(&gateway, &token).await.1, "ok", "{name}");
        let other = outcome(&gateway, &signed(&claims)).await.1;
        assert_eq!(other, "{\"message\":\"Invalid algorithm\"}", "HS256 for {name}");
    }
}

/// What is wrong first is told first: token, key, algorithm, signature, then times.
#[tokio::test]
async fn checks_run_in_kongs_order() {
    let gateway = gateway("{claims_to_verify: [exp, nbf], maximum_expiration: 10}");
    let tampered = signed(&json!({"iss": "k", "exp": 1})).rsplit_once('.').unwrap().0.to_owned();
    assert_eq!(outcome(&gateway, &format!("{tampered}.AAAA")).await.1, "{\"message\":\"Invalid signature\"}");
    let late = signed(&json!({"iss": "k", "exp": 1, "nbf": "x"}));
    assert_eq!(outcome(&gateway, &late).await.1, "{\"exp\":\"token expired\",\"nbf\":\"must be a number\"}");
}

#[tokio::test]
async fn es512() {
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512).unwrap();
    let signing = aws_lc_rs::signature::EcdsaKeyPair::from_pkcs8(
        &aws_lc_rs::signature::ECDSA_P521_SHA512_FIXED_SIGNING,
        &pair.serialize_der(),
    );
    let message = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode("{\"alg\":\"ES512\"}"),
        URL_SAFE_NO_PAD.encode("{\"iss\":\"k\"}")
    );
    let signature = signing.unwrap().sign(&aws_lc_rs::rand::SystemRandom::new(), message.as_bytes()).unwrap();
    let gateway = asymmetric("ES512", &pair.public_key_pem());
    let token = format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()));
    assert_eq!(outcome(&gateway, &token).await.1, "ok");
}

#[tokio::test]
async fn a_public_key_is_no_hmac_secret() {
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let pem = pair.public_key_pem();
    let token = encode(
        &Header::new(Algorithm::HS256),
        &json!({"iss": "k"}),
        &EncodingKey::from_secret(pem.as_bytes()),
    );
    let gateway = asymmetric("EdDSA", &pem);
    assert_eq!(outcome(&gateway, &token.unwrap()).await.1, "{\"message\":\"Invalid algorithm\"}");
}

#[tokio::test]
async fn the_cache_is_bounded() {
    let gateway = gateway("{}");
    for n in 0..6000 {
        assert_eq!(outcome(&gateway, &signed(&json!({"iss": "k", "n": n}))).await.1, "ok");
    }
    assert!(cache::len() <= 2 * 2048, "{}", cache::len());
}
