//! The transports besides plain TCP: TLS with client certificates, and unix sockets.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use plinth_core::Secret;
use plinth_core::consul::{Address, Client, Settings};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};

struct Pems {
    ca: String,
    cert: String,
    key: String,
}

fn issue(ca: &CertifiedIssuer<'_, KeyPair>, name: &str) -> Pems {
    let key = KeyPair::generate().unwrap();
    let cert = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, ca).unwrap();
    Pems { ca: ca.pem(), cert: cert.pem(), key: key.serialize_pem() }
}

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// Answers one request like `/v1/status/leader` and notes the token it came with.
async fn answer_one(
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    tokens: Arc<Mutex<Vec<String>>>,
) {
    let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let token =
            request.headers().get("x-consul-token").and_then(|t| t.to_str().ok()).unwrap_or("").to_owned();
        tokens.lock().unwrap().push(token);
        let status = if request.uri().path() == "/v1/status/leader" { 200 } else { 404 };
        let answer =
            http::Response::builder().status(status).body(Full::new(Bytes::from_static(b"\"here\"")));
        async move { answer }
    });
    // A client that goes away ends this with an error; the assertions are on the other side.
    let _ended = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(io), service).await;
}

#[tokio::test]
async fn tls_with_client_certificates() {
    let ca = authority();
    let (server, user) = (issue(&ca, "127.0.0.1"), issue(&ca, "client"));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(server.ca.as_bytes()).unwrap()).unwrap();
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(server.cert.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(server.key.as_bytes()).unwrap(),
        )
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let tokens = Arc::new(Mutex::new(Vec::new()));
    let seen = tokens.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, seen) = (acceptor.clone(), seen.clone());
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    answer_one(stream, seen).await;
                }
            });
        }
    });

    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let token_file = file("token", "first\n");
    let trusting = Settings {
        ca_cert: Some(file("ca.pem", &user.ca)),
        token_file: Some(token_file.clone()),
        ..Settings::new(Address::Https(addr.to_string()))
    };
    let complete = Settings {
        client_cert: Some(file("cert.pem", &user.cert)),
        client_key: Some(file("key.pem", &user.key)),
        ..trusting.clone()
    };
    let client = Client::new(complete.clone()).unwrap();
    assert_eq!(client.status().leader().await.unwrap().as_deref(), Some("here"));
    assert_eq!(*tokens.lock().unwrap(), ["first"]);

    let refused = Client::new(trusting).unwrap().status().leader().await.unwrap_err();
    assert!(refused.is_unavailable(), "without a client certificate: {refused}");
    let distrusting = Settings { ca_cert: Some(file("other.pem", &authority().pem())), ..complete.clone() };
    let refused = Client::new(distrusting).unwrap().status().leader().await.unwrap_err();
    assert!(refused.is_unavailable(), "a server signed by another authority: {refused}");

    let half = Settings { client_key: None, ..complete.clone() };
    assert!(Client::new(half).unwrap_err().to_string().contains("go together"));
    let missing = Settings { ca_cert: Some(folder.path().join("none.pem")), ..complete };
    assert!(Client::new(missing).unwrap_err().to_string().contains("none.pem"));
}

#[tokio::test]
async fn unix_sockets() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("consul.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let tokens = Arc::new(Mutex::new(Vec::new()));
    let seen = tokens.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer_one(stream, seen.clone()));
        }
    });
    let settings =
        Settings { token: Some(Secret::new("s3cret")), ..Settings::new(Address::Unix(path.clone())) };
    let client = Client::new(settings).unwrap();
    assert_eq!(client.status().leader().await.unwrap().as_deref(), Some("here"));
    assert_eq!(*tokens.lock().unwrap(), ["s3cret"]);
    assert!(!format!("{client:?}").contains("s3cret"));
}
