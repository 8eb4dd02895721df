//! TLS towards clients and upstreams, and HTTP/2 with and without it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/harness.rs"]
mod harness;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use harness::{Gateway, config};
use http::{Request, Response, Version};
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use plinth_testbed::chaos::{Mode, Proxy};
use plinth_testbed::upstream::Upstream;
use plinth_testbed::{eventually, holds};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, client::TlsStream};

const CA: &str = "7b5cbb57-5bc6-4f5c-a1a9-4a0a0a0a0a01";

struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key.
struct Pair {
    der: CertificateDer<'static>,
    cert: String,
    key: KeyPair,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn issue(&self, name: &str) -> Pair {
        let key = KeyPair::generate().unwrap();
        let cert = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &self.0).unwrap();
        Pair { der: cert.der().clone(), cert: cert.pem(), key }
    }

    /// Connects with `name` as SNI; the certificate must be of this authority and for `name`.
    async fn connect(&self, address: SocketAddr, name: &str, alpn: &[&str]) -> TlsStream<TcpStream> {
        self.connect_as(address, name, alpn, None).await
    }

    /// The same with a certificate of the client's own.
    async fn connect_as(
        &self,
        address: SocketAddr,
        name: &str,
        alpn: &[&str],
        own: Option<&Pair>,
    ) -> TlsStream<TcpStream> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        let config = rustls::ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match own {
            None => config.with_no_client_auth(),
            Some(own) => config.with_client_auth_cert(vec![own.der.clone()], own.private()).unwrap(),
        };
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        let stream = TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
    }
}

impl Pair {
    fn private(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(self.key.serialize_der().into())
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn certificate_of(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}

/// `count` requests at once over one HTTP/2 connection.
async fn over_h2<I>(io: I, authority: &str, count: usize) -> Vec<Response<Bytes>>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await.unwrap();
    let driver = tokio::spawn(connection);
    let running: Vec<_> = (0..count)
        .map(|number| {
            let (mut sender, uri) = (sender.clone(), format!("https://{authority}/{number}"));
            tokio::spawn(async move {
                sender.ready().await.unwrap();
                let request = Request::post(uri).body(Full::new(Bytes::from(vec![b'x'; 3000]))).unwrap();
                let (head, body) = sender.send_request(request).await.unwrap().into_parts();
                Response::from_parts(head, body.collect().await.unwrap().to_bytes())
            })
        })
        .collect();
    let mut answers = Vec::new();
    for answer in running {
        answers.push(answer.await.unwrap());
    }
    driver.abort();
    answers
}

async fn echo() -> Upstream {
    let upstream = Upstream::start().await;
    upstream.respond(|request| async move { Response::new(Full::from(request.into_body())) });
    upstream
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_certificate_follows_the_server_name_and_h2_comes_by_alpn() {
    let authority = Authority::new();
    let fallback = authority.issue("fallback.test");
    let (exact, wild) = (authority.issue("api.test"), authority.issue("*.wild.test"));
    let folder = tempfile::tempdir().unwrap();
    let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    std::fs::write(&cert, &fallback.cert).unwrap();
    std::fs::write(&key, fallback.key.serialize_pem()).unwrap();
    let upstream = echo().await;
    let with = |certificates: Value| {
        json!({
            "_format_version": "3.0",
            "services": [{
                "name": "s", "url": format!("http://{}", upstream.addr),
                "routes": [
                    {"name": "by-sni", "paths": ["/only-api"], "snis": ["api.test"], "protocols": ["https"]},
                    {"name": "all", "paths": ["/"], "strip_path": false},
                ],
            }],
            "certificates": certificates,
        })
        .to_string()
    };
    let entry = |pair: &Pair, name: &str| json!({"cert": pair.cert, "key": pair.key.serialize_pem(), "snis": [{"name": name}]});
    let both = json!([entry(&exact, "api.test"), entry(&wild, "*.wild.test")]);
    let (cert, key) = (cert.to_str().unwrap(), key.to_str().unwrap());
    let flags = ["--proxy-tls-listen", "127.0.0.1:0", "--proxy-tls-cert", cert, "--proxy-tls-key", key];
    let gateway = Gateway::start_with(&with(both), &flags).await;
    let secure = gateway.address("proxy-tls");

    for (name, wanted) in
        [("api.test", &exact), ("API.test", &exact), ("a.wild.test", &wild), ("fallback.test", &fallback)]
    {
        let stream = authority.connect(secure, name, &["h2", "http/1.1"]).await;
        assert_eq!(certificate_of(&stream), wanted.der, "{name}");
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        for answer in over_h2(stream, name, 20).await {
            assert_eq!((answer.status().as_u16(), answer.version()), (200, Version::HTTP_2));
            assert_eq!(answer.body().len(), 3000);
            assert!(!answer.headers().contains_key("connection"));
        }
    }
    let request = upstream.requests().pop().unwrap();
    assert_eq!(request.headers()["x-forwarded-proto"], "https");
    assert_eq!(request.headers()["x-forwarded-host"], "fallback.test");
    assert_eq!(request.headers()["x-forwarded-port"], secure.port().to_string());

    // HTTP/1.1 over TLS, and a route that asks for a server name
    let get = async |name: &str, path: &str| {
        let stream = authority.connect(secure, name, &["http/1.1"]).await;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let request = Request::get(path).header("host", name).body(Full::<Bytes>::default()).unwrap();
        sender.send_request(request).await.unwrap().status().as_u16()
    };
    assert_eq!(get("api.test", "/only-api").await, 200);
    assert_eq!(upstream.requests().pop().unwrap().uri(), "/");
    assert_eq!(get("fallback.test", "/only-api").await, 200);
    assert_eq!(upstream.requests().pop().unwrap().uri(), "/only-api", "another name takes the other route");

    // a new configuration, a new certificate; no restart
    let renewed = authority.issue("api.test");
    std::fs::write(&gateway.file, with(json!([entry(&renewed, "api.test")]))).unwrap();
    eventually("the renewed certificate is shown", Duration::from_secs(10), || async {
        let stream = authority.connect(secure, "api.test", &["h2"]).await;
        holds(certificate_of(&stream) == renewed.der, "the old one")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_swapped_under_load_without_a_failed_handshake_or_request() {
    let authority = Arc::new(Authority::new());
    let fallback = authority.issue("fallback.test");
    let folder = tempfile::tempdir().unwrap();
    let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    std::fs::write(&cert, &fallback.cert).unwrap();
    std::fs::write(&key, fallback.key.serialize_pem()).unwrap();
    let upstream = Upstream::start().await;
    let with = |pair: &Pair| {
        json!({
            "_format_version": "3.0",
            "services": [{
                "name": "s", "url": format!("http://{}", upstream.addr), "routes": [{"name": "r", "paths": ["/"]}],
            }],
            "certificates": [{"cert": pair.cert, "key": pair.key.serialize_pem(), "snis": [{"name": "api.test"}]}],
        })
        .to_string()
    };
    let (cert, key) = (cert.to_str().unwrap(), key.to_str().unwrap());
    let flags = ["--proxy-tls-listen", "127.0.0.1:0", "--proxy-tls-cert", cert, "--proxy-tls-key", key];
    let gateway = Gateway::start_with(&with(&authority.issue("api.test")), &flags).await;
    let secure = gateway.address("proxy-tls");

    let stop = Arc::new(AtomicBool::new(false));
    let answered = Arc::new(AtomicUsize::new(0));
    // a handshake that fails, or a request, panics its task
    let clients: Vec<_> = [true, false, false]
        .into_iter()
        .map(|kept| {
            let (authority, stop, answered) = (authority.clone(), stop.clone(), answered.clone());
            tokio::spawn(async move {
                while !stop.load(SeqCst) {
                    let stream = authority.connect(secure, "api.test", &["http/1.1"]).await;
                    let (mut sender, connection) =
                        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
                    tokio::spawn(connection);
                    loop {
                        let request = Request::get("/").header("host", "api.test");
                        let request = request.body(Full::<Bytes>::default()).unwrap();
                        let answer = sender.send_request(request).await.unwrap();
                        assert_eq!(answer.status(), 200);
                        answer.into_body().collect().await.unwrap();
                        answered.fetch_add(1, SeqCst);
                        if !kept || stop.load(SeqCst) {
                            break;
                        }
                        sender.ready().await.unwrap();
                    }
                }
            })
        })
        .collect();
    for round in 0..15 {
        let renewed = authority.issue("api.test");
        std::fs::write(&gateway.file, with(&renewed)).unwrap();
        eventually("the renewed certificate is shown", Duration::from_secs(20), || async {
            let stream = authority.connect(secure, "api.test", &["http/1.1"]).await;
            let before = answered.load(SeqCst);
            holds(certificate_of(&stream) == renewed.der && before > round * 10, format!("{round}: {before}"))
        })
        .await;
    }
    stop.store(true, SeqCst);
    for client in clients {
        client.await.unwrap();
    }
}

/// Health of the only target, as the Admin API tells it.
async fn target_health(gateway: &Gateway) -> String {
    let url = format!("http://{}/upstreams/up/health", gateway.admin);
    let answer = plinth_testbed::http_client::get(&url).await.unwrap();
    let body: Value = serde_json::from_slice(answer.body()).unwrap();
    body["data"][0]["health"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn https_probes_notice_a_target_that_goes_and_comes_and_verify_when_told_to() {
    let authority = Authority::new();
    let upstream = secure_upstream(&authority.issue("localhost")).await;
    for (verify, first) in [(false, "HEALTHY"), (true, "UNHEALTHY")] {
        let between = Proxy::start(upstream).await;
        let config = json!({
            "_format_version": "3.0",
            "services": [{"name": "s", "url": "https://up:1", "routes": [{"name": "r", "paths": ["/"]}]}],
            "upstreams": [{
                "name": "up",
                "targets": [{"target": format!("localhost:{}", between.addr().port())}],
                "healthchecks": {"active": {
                    "type": "https", "timeout": 2, "http_path": "/", "https_verify_certificate": verify,
                    "https_sni": "localhost",
                    "healthy": {"interval": 0.05, "successes": 1},
                    "unhealthy": {"interval": 0.05, "http_failures": 1, "tcp_failures": 1, "timeouts": 1},
                }},
            }],
        });
        let gateway = Gateway::start(&config.to_string()).await;
        let becomes = async |wanted: &str| {
            eventually(&format!("verify {verify}: it is {wanted}"), Duration::from_secs(20), || async {
                let now = target_health(&gateway).await;
                holds(now == wanted, now)
            })
            .await;
        };
        becomes(first).await;
        if verify {
            // nobody here knows the authority
            assert_eq!(gateway.get("/").await.status(), 503);
            continue;
        }
        let answer = gateway.get("/").await;
        assert_eq!((answer.status().as_u16(), &answer.body()[..]), (200, &b"localhost"[..]));
        between.set(Mode::BlackHole);
        becomes("UNHEALTHY").await;
        assert_eq!(gateway.get("/").await.status(), 503);
        between.set(Mode::Pass);
        becomes("HEALTHY").await;
        assert_eq!(gateway.get("/").await.status(), 200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h2_without_tls_is_understood_where_the_listener_allows_it() {
    let upstream = echo().await;
    let flags = ["--proxy-listen", "127.0.0.1:0 http2"];
    let gateway = Gateway::start_with(&config(&[upstream.addr], ""), &flags).await;
    let stream = TcpStream::connect(gateway.proxy).await.unwrap();
    let answers = over_h2(stream, "plain.test", 50).await;
    assert!(answers.iter().all(|answer| answer.status() == 200 && answer.body().len() == 3000));
    let request = upstream.requests().pop().unwrap();
    assert_eq!(request.headers()["x-forwarded-proto"], "http");
    assert_eq!(request.headers()["x-forwarded-host"], "plain.test");
    assert_eq!(request.headers()["host"], upstream.addr.to_string());
    assert_eq!(gateway.get("/").await.status(), 200, "HTTP/1.1 on the same listener");

    let without = Gateway::start(&config(&[upstream.addr], "")).await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let before = upstream.requests().len();
    let answer = harness::raw(without.proxy, preface, Duration::from_secs(5)).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    assert_eq!(upstream.requests().len(), before);
}

/// An upstream that speaks TLS.
async fn secure_upstream(pair: &Pair) -> SocketAddr {
    secure_upstream_for(vec![pair.der.clone()], pair, None).await
}

/// One that shows `chain`, and asks for certificates of the authority `clients`.
async fn secure_upstream_for(
    chain: Vec<CertificateDer<'static>>,
    pair: &Pair,
    clients: Option<&Authority>,
) -> SocketAddr {
    let config = rustls::ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap();
    let config = match clients {
        None => config.with_no_client_auth(),
        Some(authority) => {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(authority.0.der().clone()).unwrap();
            let verifier =
                rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
            config.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let config = config.with_single_cert(chain, pair.private()).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // clients that do not trust it end here
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let sni = stream.get_ref().1.server_name().unwrap_or("none").to_owned();
                let service = service_fn(move |_| {
                    let sni = sni.clone();
                    async move { Ok::<_, std::convert::Infallible>(Response::new(Full::new(Bytes::from(sni)))) }
                });
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_https_upstream_is_verified_when_the_service_says_so() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let upstream = secure_upstream(&authority.issue("localhost")).await;
    let gateway_for = async |host: &str, ca: &Authority, more: Value| {
        let mut service = json!({
            "name": "s", "url": format!("https://{host}:{}", upstream.port()), "routes": [{"name": "r", "paths": ["/"]}],
        });
        service.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let config = json!({
            "_format_version": "3.0",
            "services": [service],
            "ca_certificates": [{"id": CA, "cert": ca.0.pem()}],
        });
        Gateway::start(&config.to_string()).await
    };
    for (host, ca, more, wanted) in [
        ("localhost", &authority, json!({}), 200),
        ("localhost", &authority, json!({"tls_verify": false}), 200),
        ("127.0.0.1", &authority, json!({"tls_verify": false}), 200),
        ("localhost", &authority, json!({"tls_verify": true, "ca_certificates": [CA]}), 200),
        ("localhost", &stranger, json!({"tls_verify": true, "ca_certificates": [CA]}), 502),
        ("localhost", &authority, json!({"tls_verify": true}), 502),
        ("127.0.0.1", &authority, json!({"tls_verify": true, "ca_certificates": [CA]}), 502),
    ] {
        let what = format!("{host} {more}");
        let gateway = gateway_for(host, ca, more).await;
        for _ in 0..3 {
            let answer = gateway.get("/").await;
            assert_eq!(answer.status(), wanted, "{what}: {:?}", answer.body());
            if wanted == 200 && host == "localhost" {
                assert_eq!(answer.body(), "localhost", "the name is sent as SNI");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_asks_for_a_certificate_gets_the_services() {
    let authority = Authority::new();
    let pair = authority.issue("localhost");
    let upstream = secure_upstream_for(vec![pair.der.clone()], &pair, Some(&authority)).await;
    let own = authority.issue("gateway.test");
    let id = "7b5cbb57-5bc6-4f5c-a1a9-4a0a0a0a0a02";
    for (service, balanced, wanted) in [
        (json!({"client_certificate": id}), json!({}), 200),
        (json!({}), json!({"client_certificate": id}), 200),
        (json!({}), json!({}), 502),
    ] {
        let what = format!("{service} {balanced}");
        let mut config = json!({
            "_format_version": "3.0",
            "services": [{"name": "s", "url": "https://up:1", "retries": 0, "routes": [{"name": "r", "paths": ["/"]}]}],
            "upstreams": [{"name": "up", "targets": [{"target": format!("localhost:{}", upstream.port())}]}],
            "certificates": [{"id": id, "cert": own.cert, "key": own.key.serialize_pem()}],
        });
        config["services"][0].as_object_mut().unwrap().extend(service.as_object().unwrap().clone());
        config["upstreams"][0].as_object_mut().unwrap().extend(balanced.as_object().unwrap().clone());
        let gateway = Gateway::start(&config.to_string()).await;
        assert_eq!(gateway.get("/").await.status(), wanted, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_show_certificates_where_the_listener_asks_for_them() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let (server, friend, foe) =
        (authority.issue("api.test"), authority.issue("me.test"), stranger.issue("me.test"));
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (cert, key) = (file("cert.pem", &server.cert), file("key.pem", &server.key.serialize_pem()));
    let ca = file("ca.pem", &authority.0.pem());
    let upstream = echo().await;
    for (verify, nobody, known, unknown) in [("on", false, true, false), ("optional", true, true, false)] {
        let mut flags =
            vec!["--proxy-tls-listen", "127.0.0.1:0", "--proxy-tls-cert", &cert, "--proxy-tls-key", &key];
        flags.extend(["--proxy-tls-client-ca", ca.as_str(), "--proxy-tls-verify-client", verify]);
        let log = folder.path().join(format!("{verify}.log"));
        let plugin = format!("plugins:\n- name: file-log\n  config: {{path: '{}'}}\n", log.display());
        let text = config(&[upstream.addr], "") + &plugin;
        let gateway = Gateway::start_with(&text, &flags).await;
        let secure = gateway.address("proxy-tls");
        for (own, wanted) in [(None, nobody), (Some(&friend), known), (Some(&foe), unknown)] {
            // over TLS 1.3 the client learns of its refusal only when it reads
            let stream = authority.connect_as(secure, "api.test", &["http/1.1"], own).await;
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
            tokio::spawn(connection);
            let request =
                Request::get("/").header("host", "api.test").body(Full::<Bytes>::default()).unwrap();
            let answer = sender.send_request(request).await.map(|answer| answer.status().as_u16());
            assert_eq!(answer.is_ok_and(|status| status == 200), wanted, "{verify}, {}", own.is_some());
        }
        gateway.stop().await;
        let text = std::fs::read_to_string(&log).unwrap();
        let entries = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let seen: Vec<String> = entries
            .map(|entry| {
                let request = &entry["request"];
                assert_eq!(request["url"], format!("https://api.test:{}/", secure.port()));
                assert_eq!(request["tls"]["version"], "TLSv1.3");
                assert!(request["tls"]["cipher"].as_str().unwrap().starts_with("TLS_"), "{request}");
                request["tls"]["client_verify"].as_str().unwrap().to_owned()
            })
            .collect();
        let shown: &[&str] = if nobody { &["NONE", "SUCCESS"] } else { &["SUCCESS"] };
        assert_eq!(seen, shown, "{verify}");
    }
}
