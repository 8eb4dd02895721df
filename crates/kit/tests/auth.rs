//! Tokens of every kind against static keys and a JWKS that changes, on a real HTTP server.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use jsonwebtoken::jwk::{Jwk, JwkSet};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, get_current_timestamp};
use parking_lot::Mutex;
use plinth_kit::auth::{Auth, AuthSettings, Rejection};
use plinth_kit::settings::Secret;
use plinth_testbed::eventually;
use rcgen::{
    KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PKCS_RSA_SHA256, PublicKeyData, SignatureAlgorithm,
};
use serde_json::{Value, json};
use tokio::runtime::Handle;

const SECRET: &str = "0123456789abcdef0123456789abcdef";

struct Key {
    pair: KeyPair,
    algorithm: Algorithm,
    kid: &'static str,
}

impl Key {
    fn new(algorithm: Algorithm, kid: &'static str) -> Key {
        let kind: &'static SignatureAlgorithm = match algorithm {
            Algorithm::RS256 => &PKCS_RSA_SHA256,
            Algorithm::ES256 => &PKCS_ECDSA_P256_SHA256,
            _ => &PKCS_ED25519,
        };
        Key { pair: KeyPair::generate_for(kind).unwrap(), algorithm, kid }
    }

    fn encoding(&self) -> EncodingKey {
        let pem = self.pair.serialize_pem();
        match self.algorithm {
            Algorithm::RS256 => EncodingKey::from_rsa_pem(pem.as_bytes()).unwrap(),
            Algorithm::ES256 => EncodingKey::from_ec_pem(pem.as_bytes()).unwrap(),
            _ => EncodingKey::from_ed_pem(pem.as_bytes()).unwrap(),
        }
    }

    fn public_pem(&self) -> String {
        let der = base64::engine::general_purpose::STANDARD.encode(self.pair.subject_public_key_info());
        format!("-----BEGIN PUBLIC KEY-----\n{der}\n-----END PUBLIC KEY-----\n")
    }

    fn jwk(&self) -> Jwk {
        if self.algorithm == Algorithm::EdDSA {
            let x = URL_SAFE_NO_PAD.encode(self.pair.public_key_raw());
            let jwk = json!({"kty": "OKP", "crv": "Ed25519", "kid": self.kid, "x": x});
            return serde_json::from_value(jwk).unwrap();
        }
        let mut jwk = Jwk::from_encoding_key(&self.encoding(), self.algorithm).unwrap();
        jwk.common.key_id = Some(self.kid.to_owned());
        jwk
    }

    fn sign(&self, claims: &Value) -> String {
        let mut header = Header::new(self.algorithm);
        header.kid = Some(self.kid.to_owned());
        encode(&header, claims, &self.encoding()).unwrap()
    }
}

fn claims() -> Value {
    let now = get_current_timestamp();
    json!({"sub": "ops", "iss": "plinth", "aud": "plinth", "exp": now + 300, "scope": "services:write"})
}

fn with(change: impl FnOnce(&mut serde_json::Map<String, Value>)) -> Value {
    let mut claims = claims();
    change(claims.as_object_mut().unwrap());
    claims
}

async fn auth_with(change: impl FnOnce(&mut AuthSettings)) -> Auth {
    let mut settings = AuthSettings::default();
    change(&mut settings);
    Auth::start(settings, &Handle::current()).await.unwrap()
}

#[tokio::test]
async fn accepts_every_algorithm_it_promises() {
    let keys =
        [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA].map(|algorithm| Key::new(algorithm, "k"));
    let pems = keys.iter().map(Key::public_pem).collect::<String>();
    let auth = auth_with(|settings| {
        settings.keys_pem = vec![pems];
        settings.secret = Some(Secret::new(SECRET));
    })
    .await;
    for key in &keys {
        let caller = auth.verify(&key.sign(&claims())).await.unwrap();
        assert!(caller.allows("services", "write", Some("any")), "{:?}", key.algorithm);
    }
    let shared =
        encode(&Header::new(Algorithm::HS256), &claims(), &EncodingKey::from_secret(SECRET.as_bytes()));
    assert_eq!(auth.verify(&shared.unwrap()).await.unwrap().subject(), "ops");
}

#[tokio::test]
async fn scopes_come_as_words_or_list() {
    let key = Key::new(Algorithm::EdDSA, "k");
    let auth = auth_with(|settings| settings.keys_pem = vec![key.public_pem()]).await;
    for (name, value) in [
        ("scope", json!("openid services:read:a-* secrets:read")),
        ("scope", json!(["services:read:a-*", "secrets:read"])),
        ("scp", json!(["services:read:a-*", "secrets:read"])),
    ] {
        let token = key.sign(&with(|claims| {
            claims.remove("scope");
            claims.insert(name.to_owned(), value);
        }));
        let caller = auth.verify(&token).await.unwrap();
        assert!(caller.require("services", "read", Some("a-1")).is_ok());
        assert!(caller.require("secrets", "read", None).is_ok());
        let refused = caller.require("services", "read", Some("b")).unwrap_err();
        assert_eq!(refused.status, StatusCode::FORBIDDEN);
        assert!(refused.detail.unwrap().contains("services:read:b"));
    }
}

#[tokio::test]
async fn refuses_tokens_that_say_the_wrong_thing() {
    let key = Key::new(Algorithm::EdDSA, "k");
    let auth = auth_with(|settings| settings.keys_pem = vec![key.public_pem()]).await;
    let now = get_current_timestamp();
    let cases: [(Value, Rejection); 9] = [
        (with(|claims| drop(claims.insert("exp".into(), json!(now - 31)))), Rejection::Expired),
        (with(|claims| drop(claims.remove("exp"))), Rejection::Claim),
        (with(|claims| drop(claims.insert("exp".into(), json!("soon")))), Rejection::Claim),
        (with(|claims| drop(claims.insert("nbf".into(), json!(now + 60)))), Rejection::Early),
        (with(|claims| drop(claims.insert("iss".into(), json!("other")))), Rejection::Issuer),
        (with(|claims| drop(claims.remove("iss"))), Rejection::Claim),
        (with(|claims| drop(claims.insert("aud".into(), json!(["a", "b"])))), Rejection::Audience),
        (with(|claims| drop(claims.remove("aud"))), Rejection::Claim),
        (with(|claims| drop(claims.remove("sub"))), Rejection::Claim),
    ];
    for (claims, expected) in cases {
        assert_eq!(auth.verify(&key.sign(&claims)).await.unwrap_err(), expected, "{claims}");
    }
    let forgiven = with(|claims| drop(claims.insert("exp".into(), json!(now - 5))));
    assert!(auth.verify(&key.sign(&forgiven)).await.is_ok(), "a small clock difference is forgiven");
}

#[tokio::test]
async fn refuses_forged_tokens() {
    let (key, other) = (Key::new(Algorithm::RS256, "k"), Key::new(Algorithm::RS256, "k"));
    let pem = key.public_pem();
    let auth = auth_with(|settings| settings.keys_pem = vec![pem.clone()]).await;
    assert_eq!(auth.verify(&other.sign(&claims())).await.unwrap_err(), Rejection::Signature);

    // The old confusion: the public key, which everybody knows, used as the secret of HS256.
    let confused = EncodingKey::from_secret(pem.as_bytes());
    let confused = encode(&Header::new(Algorithm::HS256), &claims(), &confused).unwrap();
    assert_eq!(auth.verify(&confused).await.unwrap_err(), Rejection::UnknownKey);

    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let unsigned = format!("{}.{}.", part(&json!({"alg": "none"})), part(&claims()));
    assert_eq!(auth.verify(&unsigned).await.unwrap_err(), Rejection::Malformed);

    let signed = key.sign(&claims());
    let signature = signed.rsplit('.').next().unwrap();
    let header = signed.split('.').next().unwrap();
    let raised = with(|claims| drop(claims.insert("scope".into(), json!("services:admin"))));
    let raised = format!("{header}.{}.{signature}", part(&raised));
    assert_eq!(auth.verify(&raised).await.unwrap_err(), Rejection::Signature);

    let mut critical = Header::new(Algorithm::RS256);
    critical.crit = Some(vec!["exp".to_owned()]);
    let critical = encode(&critical, &claims(), &key.encoding()).unwrap();
    assert_eq!(auth.verify(&critical).await.unwrap_err(), Rejection::Malformed);

    for junk in ["", "a", "a.b.c", "....", &"x".repeat(20_000)] {
        assert_eq!(auth.verify(junk).await.unwrap_err(), Rejection::Malformed, "{junk:.20}");
    }
}

#[tokio::test]
async fn reads_the_authorization_header_strictly() {
    let key = Key::new(Algorithm::EdDSA, "k");
    let auth = auth_with(|settings| settings.keys_pem = vec![key.public_pem()]).await;
    let token = key.sign(&claims());
    for (value, status) in [
        (None, Some(401)),
        (Some(format!("Bearer {token}")), None),
        (Some(format!("bearer {token}")), None),
        (Some(format!("Basic {token}")), Some(401)),
        (Some("Bearer".to_owned()), Some(401)),
        (Some("Bearer  ".to_owned()), Some(401)),
    ] {
        let mut headers = HeaderMap::new();
        if let Some(value) = &value {
            headers.insert(header::AUTHORIZATION, HeaderValue::from_str(value).unwrap());
        }
        let outcome = auth.caller(&headers).await;
        assert_eq!(outcome.err().map(|problem| problem.status.as_u16()), status, "{value:?}");
    }
    let mut twice = HeaderMap::new();
    for _ in 0..2 {
        twice.append(header::AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {token}")).unwrap());
    }
    assert!(auth.caller(&twice).await.is_err());
}

/// A JWKS server whose content and status can be changed, and that counts.
#[derive(Clone, Default)]
struct Issuer {
    body: Arc<Mutex<(StatusCode, String)>>,
    asked: Arc<AtomicUsize>,
}

impl Issuer {
    async fn start(keys: &[&Key]) -> (Issuer, String) {
        let issuer = Issuer::default();
        issuer.publish(keys);
        let (body, asked) = (issuer.body.clone(), issuer.asked.clone());
        let answer = move || async move {
            asked.fetch_add(1, Ordering::SeqCst);
            body.lock().clone()
        };
        let router = Router::new().route("/jwks.json", get(answer));
        let listener = plinth_kit::server::BoundListener::bind("jwks", "127.0.0.1:0".parse().unwrap(), None)
            .await
            .unwrap();
        let url = format!("http://{}/jwks.json", listener.address());
        let stop = plinth_kit::server::Stop::default();
        tokio::spawn(plinth_kit::server::serve(listener, router, Default::default(), stop));
        (issuer, url)
    }

    fn publish(&self, keys: &[&Key]) {
        let set = JwkSet { keys: keys.iter().map(|key| key.jwk()).collect() };
        *self.body.lock() = (StatusCode::OK, serde_json::to_string(&set).unwrap());
    }

    fn fail(&self) {
        *self.body.lock() = (StatusCode::INTERNAL_SERVER_ERROR, "away".to_owned());
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

#[tokio::test]
async fn follows_a_rotation_and_survives_a_failing_issuer() {
    let (old, new) = (Key::new(Algorithm::ES256, "old"), Key::new(Algorithm::RS256, "new"));
    let (issuer, url) = Issuer::start(&[&old]).await;
    let auth = auth_with(|settings| {
        settings.jwks_url = Some(url);
        settings.jwks_refresh = Duration::from_secs(3600);
        settings.jwks_cooldown = Duration::from_millis(100);
    })
    .await;
    assert!(auth.verify(&old.sign(&claims())).await.is_ok());

    // A token of an unknown key makes it ask again, without waiting for the refresh.
    issuer.publish(&[&new]);
    eventually("the new key is known", Duration::from_secs(5), || async {
        auth.verify(&new.sign(&claims())).await.map(drop)
    })
    .await;
    // The withdrawn key is out, even for a token that was verified and cached before.
    assert_eq!(auth.verify(&old.sign(&claims())).await.unwrap_err(), Rejection::UnknownKey);

    issuer.fail();
    assert!(auth.verify(&old.sign(&claims())).await.is_err());
    assert!(auth.verify(&new.sign(&claims())).await.is_ok(), "the last good keys stay");
}

#[tokio::test]
async fn follows_a_rotation_beside_a_fixed_key_of_the_same_algorithm() {
    let (fixed, rotated) = (Key::new(Algorithm::ES256, "fixed"), Key::new(Algorithm::ES256, "rotated"));
    let (issuer, url) = Issuer::start(&[]).await;
    let auth = auth_with(|settings| {
        settings.keys_pem = vec![fixed.public_pem()];
        settings.jwks_url = Some(url);
        settings.jwks_refresh = Duration::from_secs(3600);
        settings.jwks_cooldown = Duration::from_millis(100);
    })
    .await;
    issuer.publish(&[&rotated]);
    // A key without an id is tried with every token; that it does not fit must not hide that the id is new.
    eventually("the new key is known", Duration::from_secs(5), || async {
        auth.verify(&rotated.sign(&claims())).await.map(drop)
    })
    .await;
}

#[tokio::test]
async fn follows_a_key_file_that_is_replaced() {
    let (old, new) = (Key::new(Algorithm::ES256, "old"), Key::new(Algorithm::ES256, "new"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.pem");
    let put = |text: &str| {
        std::fs::write(folder.path().join("next"), text).unwrap();
        std::fs::rename(folder.path().join("next"), &file).unwrap();
    };
    put(&old.public_pem());
    let auth = auth_with(|settings| {
        settings.key_files = vec![file.clone()];
        settings.jwks_refresh = Duration::from_millis(20);
    })
    .await;
    let (of_old, of_new) = (old.sign(&claims()), new.sign(&claims()));
    auth.verify(&of_old).await.unwrap();
    assert!(auth.verify(&of_new).await.is_err());

    put(&format!("{}{}", old.public_pem(), new.public_pem()));
    eventually("both keys are known", Duration::from_secs(5), || async {
        auth.verify(&of_new).await.map(drop)
    })
    .await;
    auth.verify(&of_old).await.unwrap();

    put("half a file");
    put(&new.public_pem());
    eventually("the old key is out, also for a token verified before", Duration::from_secs(5), || async {
        auth.verify(&of_old).await.err().map(drop).ok_or("still accepted")
    })
    .await;
    put("half a file");
    put(&old.public_pem());
    eventually("the old key is back", Duration::from_secs(5), || async {
        auth.verify(&of_old).await.map(drop)
    })
    .await;
}

#[tokio::test]
async fn unknown_keys_cannot_make_it_hammer_the_issuer() {
    let (key, stranger) = (Key::new(Algorithm::EdDSA, "k"), Key::new(Algorithm::EdDSA, "stranger"));
    let (issuer, url) = Issuer::start(&[&key]).await;
    let auth = auth_with(|settings| {
        settings.jwks_url = Some(url);
        settings.jwks_cooldown = Duration::from_secs(3600);
    })
    .await;
    let token = stranger.sign(&claims());
    for _ in 0..50 {
        assert_eq!(auth.verify(&token).await.unwrap_err(), Rejection::UnknownKey);
    }
    assert_eq!(issuer.asked(), 1, "only the first read at the start");
}

#[tokio::test]
async fn starts_before_its_issuer() {
    let key = Key::new(Algorithm::EdDSA, "k");
    let (issuer, url) = Issuer::start(&[&key]).await;
    issuer.fail();
    let auth = auth_with(|settings| {
        settings.jwks_url = Some(url);
        settings.jwks_cooldown = Duration::from_millis(100);
    })
    .await;
    assert!(!auth.has_keys());
    let mut headers = HeaderMap::new();
    let bearer = format!("Bearer {}", key.sign(&claims()));
    headers.insert(header::AUTHORIZATION, HeaderValue::from_str(&bearer).unwrap());
    let refused = auth.caller(&headers).await.unwrap_err();
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE, "not the caller's fault");
    issuer.publish(&[&key]);
    eventually("the issuer is found", Duration::from_secs(5), || async {
        auth.caller(&headers).await.map(drop)
    })
    .await;
}

#[tokio::test]
async fn reads_a_jwks_file_again() {
    let (old, new) = (Key::new(Algorithm::EdDSA, "old"), Key::new(Algorithm::EdDSA, "new"));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jwks.json");
    let write = |key: &Key| {
        // One key that nobody can use: it must not spoil the set.
        let set = json!({"keys": [{"kty": "OKP", "crv": "X448", "x": "AA"}, key.jwk()]});
        std::fs::write(&path, set.to_string()).unwrap();
    };
    write(&old);
    let auth = auth_with(|settings| {
        settings.jwks_file = Some(path.clone());
        settings.jwks_cooldown = Duration::from_millis(100);
    })
    .await;
    assert!(auth.verify(&old.sign(&claims())).await.is_ok());
    write(&new);
    eventually("the file is read again", Duration::from_secs(5), || async {
        auth.verify(&new.sign(&claims())).await.map(drop)
    })
    .await;
}

#[tokio::test]
async fn refuses_keys_that_are_none() {
    let private = Key::new(Algorithm::EdDSA, "k").pair.serialize_pem();
    for pem in [private.as_str(), "nonsense", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"]
    {
        let settings = AuthSettings { keys_pem: vec![pem.to_owned()], ..AuthSettings::default() };
        assert!(Auth::start(settings, &Handle::current()).await.is_err(), "{pem}");
    }
}
