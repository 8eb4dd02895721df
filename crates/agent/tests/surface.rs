//! What the scripts cannot compare: certificates and their rotation, compression, the token, waiting by hash.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::Read as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Response, StatusCode};
use plinth_agent::{Agent, Data, Secret, Settings};
use plinth_core::consul::{Client, Read, Settings as ClientSettings};
use plinth_testbed::consul::RealConsul;
use plinth_testbed::{eventually, http_client};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, UnixTime};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);

async fn ask(
    at: SocketAddr,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Response<Bytes> {
    http_client::send(method, &format!("http://{at}{path}"), headers, body.to_owned()).await.unwrap()
}

async fn get(at: SocketAddr, path: &str) -> Value {
    serde_json::from_slice(ask(at, Method::GET, path, &[], "").await.body()).unwrap()
}

fn index(answer: &Response<Bytes>) -> u64 {
    answer.headers()["x-consul-index"].to_str().unwrap().parse().unwrap()
}

fn mesh(data: Data) -> Settings {
    Settings { http_port: 0, connect: true, data, ..Settings::default() }
}

/// Whether who trusts `root` takes the chain for a client's.
fn trusted(root: &str, chain: &str) -> bool {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(root.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .unwrap();
    let chain: Vec<CertificateDer<'_>> =
        CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<_, _>>().unwrap();
    let (own, more) = chain.split_first().unwrap();
    verifier.verify_client_cert(own, more, UnixTime::now()).is_ok()
}

async fn certificates_through_our_client(at: SocketAddr) {
    let client = Client::new(ClientSettings::http(at)).unwrap();
    // a real Consul makes its authority a moment after it has a leader
    let roots = eventually("there is a root", SOON, || async {
        let roots = client.connect().ca_roots(&Read::default()).await.map_err(|e| e.to_string())?;
        if roots.value.roots.is_empty() { Err("no root".to_owned()) } else { Ok(roots.value) }
    })
    .await;
    let leaf = client.connect().leaf("web", &Read::default()).await.unwrap().value;
    assert_eq!(leaf.service_uri, format!("spiffe://{}/ns/default/dc/dc1/svc/web", roots.trust_domain));
    assert!(trusted(&roots.roots[0].root_cert, &leaf.cert_pem));
    assert!(leaf.valid_after < leaf.valid_before);
    let again = client.connect().leaf("web", &Read::default()).await.unwrap().value;
    assert_eq!(again.cert_pem, leaf.cert_pem, "a certificate that is good is kept");
}

#[tokio::test]
async fn our_client_gets_certificates_from_both() {
    let agent = Agent::start(mesh(Data::Memory)).await.unwrap();
    certificates_through_our_client(agent.address()).await;
    agent.shutdown().await;
    let consul = RealConsul::start_with(&["connect { enabled = true }"]).await;
    certificates_through_our_client(consul.addr).await;
}

#[tokio::test]
async fn a_new_root_wakes_who_waits_and_both_roots_are_good() {
    let agent = Agent::start(mesh(Data::Memory)).await.unwrap();
    let at = agent.address();
    let first = ask(at, Method::GET, "/v1/agent/connect/ca/leaf/web", &[], "").await;
    let old_root = get(at, "/v1/connect/ca/roots").await["Roots"][0].clone();
    let path = format!("/v1/agent/connect/ca/leaf/web?index={}&wait=60s", index(&first));
    let waiting = tokio::spawn(async move { ask(at, Method::GET, &path, &[], "").await });
    eventually("the query waits", SOON, || async {
        let waits = get(at, "/v1/agent/self").await["Stats"]["plinth"]["waiting_queries"] == "1";
        if waits { Ok(()) } else { Err("not yet") }
    })
    .await;
    let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let body = json!({"Provider": "consul", "Config": {"PrivateKey": key, "LeafCertTTL": "24h"}}).to_string();
    let changed = ask(at, Method::PUT, "/v1/connect/ca/configuration", &[], &body).await;
    assert_eq!(changed.status(), StatusCode::OK, "{changed:?}");
    let second = tokio::time::timeout(SOON, waiting).await.expect("nobody woke it").unwrap();
    assert!(index(&second) > index(&first));
    let roots = get(at, "/v1/connect/ca/roots").await;
    assert_eq!(roots["Roots"].as_array().unwrap().len(), 2);
    let active = &roots["Roots"][1];
    assert_eq!((&active["ID"], &active["Active"]), (&roots["ActiveRootID"], &json!(true)));
    let leaf: Value = serde_json::from_slice(second.body()).unwrap();
    for root in [&old_root, active] {
        assert!(trusted(root["RootCert"].as_str().unwrap(), leaf["CertPEM"].as_str().unwrap()));
    }
    let shown = get(at, "/v1/connect/ca/configuration").await;
    assert_eq!(shown["Config"], json!({"LeafCertTTL": "24h"}), "the key is not shown");
    agent.shutdown().await;
}

/// A root of the company's own: services get certificates of it, it survives a restart, and goes with the configuration that
/// named it. Its key is never shown.
#[tokio::test]
async fn a_given_root_signs_until_it_is_taken_away() {
    let folder = tempfile::tempdir().unwrap();
    let data = || Data::Dir(folder.path().to_owned());
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::OrganizationName, "Example");
    let given = params.self_signed(&key).unwrap().pem().replace("\r\n", "\n");
    let configure = async |at: SocketAddr, config: Value| {
        let body = json!({"Provider": "consul", "Config": config}).to_string();
        ask(at, Method::PUT, "/v1/connect/ca/configuration", &[], &body).await
    };
    let leaf = async |at: SocketAddr| {
        get(at, "/v1/agent/connect/ca/leaf/web").await["CertPEM"].as_str().unwrap().to_owned()
    };
    let agent = Agent::start(mesh(data())).await.unwrap();
    let at = agent.address();
    let own = get(at, "/v1/connect/ca/roots").await["Roots"][0]["RootCert"].as_str().unwrap().to_owned();
    for (config, why) in [
        (json!({"RootCert": given}), "must provide a private key when providing a root cert"),
        (json!({"RootCert": "x", "PrivateKey": key.serialize_pem()}), "no PEM-encoded data found"),
        (
            json!({"RootCert": given, "PrivateKey": rcgen::KeyPair::generate().unwrap().serialize_pem()}),
            "the private key is not that of the root certificate",
        ),
    ] {
        let refused = configure(at, config).await;
        assert_eq!(refused.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert!(String::from_utf8_lossy(refused.body()).contains(why), "{why}: {refused:?}");
    }
    let wanted = json!({"RootCert": given, "PrivateKey": key.serialize_pem(), "LeafCertTTL": "24h"});
    for _ in 0..2 {
        let taken = configure(at, wanted.clone()).await;
        assert_eq!(taken.status(), StatusCode::OK, "{taken:?}");
    }
    let roots = get(at, "/v1/connect/ca/roots").await;
    assert_eq!(roots["Roots"].as_array().unwrap().len(), 2, "the same root twice is one: {roots}");
    assert_eq!(roots["Roots"][1]["RootCert"], json!(given));
    assert_eq!(roots["ActiveRootID"], roots["Roots"][1]["ID"]);
    let shown = get(at, "/v1/connect/ca/configuration").await["Config"].clone();
    assert_eq!(shown, json!({"RootCert": given, "LeafCertTTL": "24h"}), "the key is not shown");
    let chain = leaf(at).await;
    assert!(trusted(&given, &chain) && trusted(&own, &chain));
    agent.shutdown().await;

    let agent = Agent::start(mesh(data())).await.unwrap();
    let at = agent.address();
    assert_eq!(get(at, "/v1/connect/ca/roots").await, roots);
    assert!(trusted(&given, &leaf(at).await));
    assert_eq!(configure(at, json!({"LeafCertTTL": "24h"})).await.status(), StatusCode::OK);
    let roots = get(at, "/v1/connect/ca/roots").await;
    let (next, chain) = (roots["Roots"][2]["RootCert"].as_str().unwrap().to_owned(), leaf(at).await);
    assert!(trusted(&next, &chain) && trusted(&given, &chain) && next != own);
    // and back again: the same root, not a new one
    assert_eq!(configure(at, wanted).await.status(), StatusCode::OK);
    let again = get(at, "/v1/connect/ca/roots").await;
    assert_eq!(again["Roots"].as_array().unwrap().len(), 3);
    assert_eq!(again["Roots"][2]["RootCert"], json!(given));
    assert_eq!(again["Roots"][2]["CreateIndex"], roots["Roots"][1]["CreateIndex"]);
    assert!(trusted(&given, &leaf(at).await));
    agent.shutdown().await;
}

#[tokio::test]
async fn roots_queries_entries_and_intentions_survive_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let data = || Data::Dir(folder.path().to_owned());
    let paths =
        ["/v1/connect/ca/roots", "/v1/query", "/v1/config/service-defaults", "/v1/connect/intentions"];
    let agent = Agent::start(mesh(data())).await.unwrap();
    let at = agent.address();
    for (method, path, body) in [
        (Method::POST, "/v1/query", r#"{"Name":"q","Service":{"Service":"web"}}"#),
        (Method::PUT, "/v1/config", r#"{"Kind":"service-defaults","Name":"web","Protocol":"http"}"#),
        (
            Method::POST,
            "/v1/connect/intentions",
            r#"{"SourceName":"a","DestinationName":"b","Action":"deny"}"#,
        ),
    ] {
        let answer = ask(at, method, path, &[], body).await;
        assert_eq!(answer.status(), StatusCode::OK, "{path}: {answer:?}");
    }
    let mut before = Vec::new();
    for path in paths {
        before.push(get(at, path).await);
    }
    agent.shutdown().await;
    let agent = Agent::start(mesh(data())).await.unwrap();
    for (path, known) in paths.iter().zip(&before) {
        assert_eq!(get(agent.address(), path).await, *known, "{path}");
    }
    agent.shutdown().await;
}

#[tokio::test]
async fn large_answers_are_compressed_for_who_asks() {
    let agent = Agent::start(Settings { http_port: 0, ..Settings::default() }).await.unwrap();
    let consul = RealConsul::start_with(&["node_name = \"plinth\""]).await;
    for at in [agent.address(), consul.addr] {
        for (key, size) in [("small", 900), ("large", 1100)] {
            let stored = ask(at, Method::PUT, &format!("/v1/kv/{key}"), &[], &"x".repeat(size)).await;
            assert_eq!(stored.status(), StatusCode::OK);
            let plain = ask(at, Method::GET, &format!("/v1/kv/{key}"), &[], "").await;
            let asked =
                ask(at, Method::GET, &format!("/v1/kv/{key}"), &[("accept-encoding", "gzip")], "").await;
            assert!(!plain.headers().contains_key("content-encoding"));
            assert_eq!(plain.headers()["vary"], "Accept-Encoding");
            if key == "small" {
                // Debian's build of Consul compresses these too
                if at == agent.address() {
                    assert_eq!(asked.body(), plain.body());
                }
                continue;
            }
            assert_eq!(asked.headers()["content-encoding"], "gzip");
            let mut back = Vec::new();
            flate2::read::GzDecoder::new(&asked.body()[..]).read_to_end(&mut back).unwrap();
            assert_eq!(back, plain.body()[..]);
        }
    }
    agent.shutdown().await;
}

#[tokio::test]
async fn the_token_protects_everything() {
    let token = Some(Secret::new("right"));
    let agent = Agent::start(Settings { http_port: 0, token, ..Settings::default() }).await.unwrap();
    let at = agent.address();
    let status = |path: &'static str, name: &'static str, value: &'static str| async move {
        ask(at, Method::GET, path, &[(name, value)], "").await.status()
    };
    for path in ["/v1/catalog/services", "/v1/kv/?keys", "/v1/agent/self", "/v1/acl/list", "/v1/nope", "/"] {
        assert_eq!(status(path, "x-none", "").await, StatusCode::FORBIDDEN, "{path}");
        assert_eq!(status(path, "x-consul-token", "wrong").await, StatusCode::FORBIDDEN, "{path}");
    }
    for (path, name, value) in [
        ("/v1/catalog/services", "x-consul-token", "right"),
        ("/v1/catalog/services", "authorization", "Bearer right"),
        ("/v1/catalog/services?token=right", "x-none", ""),
    ] {
        assert_eq!(status(path, name, value).await, StatusCode::OK, "{path} {name}");
    }
    agent.shutdown().await;
}

#[tokio::test]
async fn a_definition_is_waited_for_by_its_hash() {
    let agent = Agent::start(Settings { http_port: 0, ..Settings::default() }).await.unwrap();
    let at = agent.address();
    let register = |port: u16| async move {
        let body = json!({"Name": "web", "Port": port}).to_string();
        ask(at, Method::PUT, "/v1/agent/service/register", &[], &body).await
    };
    register(80).await;
    let hash = get(at, "/v1/agent/service/web").await["ContentHash"].as_str().unwrap().to_owned();
    let path = format!("/v1/agent/service/web?hash={hash}&wait=60s");
    let waiting = tokio::spawn(async move { get(at, &path).await });
    eventually("the query waits", SOON, || async {
        let waits = get(at, "/v1/agent/self").await["Stats"]["plinth"]["waiting_queries"] == "1";
        if waits { Ok(()) } else { Err("not yet") }
    })
    .await;
    register(81).await;
    let seen = tokio::time::timeout(SOON, waiting).await.expect("nobody woke it").unwrap();
    assert_eq!(seen["Port"], 81);
    assert_ne!(seen["ContentHash"], Value::from(hash));
    agent.shutdown().await;
}
