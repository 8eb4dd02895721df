use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Extension;
use axum::routing::get;
use plinth_testbed::{eventually, holds};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::*;

const LIMIT: Duration = Duration::from_secs(5);

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Writes `<name>.crt` and `<name>.key` for localhost.
    fn issue(&self, dir: &Path, name: &str) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let cert = params.signed_by(&key, &self.0).unwrap();
        let paths = (dir.join(format!("{name}.crt")), dir.join(format!("{name}.key")));
        std::fs::write(&paths.0, cert.pem()).unwrap();
        std::fs::write(&paths.1, key.serialize_pem()).unwrap();
        paths
    }

    fn client(&self, identity: Option<&(PathBuf, PathBuf)>, alpn: &[u8]) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match identity {
            Some((cert, key)) => {
                let chain = CertificateDer::pem_file_iter(cert).unwrap().map(Result::unwrap).collect();
                builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(key).unwrap()).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![alpn.to_vec()];
        TlsConnector::from(Arc::new(config))
    }
}

async fn serve_with(settings: TlsSettings) -> (SocketAddr, Stop) {
    let handle = tokio::runtime::Handle::current();
    let tls = TlsSource::watching(settings, &handle, Duration::from_millis(20)).unwrap();
    let listener = BoundListener::bind("http", "127.0.0.1:0".parse().unwrap(), Some(tls)).await.unwrap();
    assert_eq!(listener.scheme(), "https");
    let (address, stop) = (listener.address(), Stop::default());
    let peer = get(|Extension(peer): Extension<Peer>| async move { peer.tls.to_string() });
    tokio::spawn(serve(listener, Router::new().route("/tls", peer), ServerSettings::default(), stop.clone()));
    (address, stop)
}

/// The answer's text and the protocol that was agreed on.
async fn ask(address: SocketAddr, client: &TlsConnector) -> std::io::Result<(String, Option<Vec<u8>>)> {
    let stream = TcpStream::connect(address).await?;
    let mut stream = client.connect(ServerName::try_from("localhost").unwrap(), stream).await?;
    let protocol = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
    stream.write_all(b"GET /tls HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok((answer, protocol))
}

#[tokio::test]
async fn serves_tls_and_agrees_on_a_protocol() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let (cert, key) = authority.issue(dir.path(), "server");
    let (address, _stop) = serve_with(TlsSettings { cert, key, client_ca: None }).await;
    let (answer, protocol) = ask(address, &authority.client(None, b"http/1.1")).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("true"), "{answer}");
    assert_eq!(protocol.as_deref(), Some(&b"http/1.1"[..]));
    let stream = TcpStream::connect(address).await.unwrap();
    let client = authority.client(None, b"h2");
    let stream = client.connect(ServerName::try_from("localhost").unwrap(), stream).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    assert!(
        ask(address, &Authority::new().client(None, b"http/1.1")).await.is_err(),
        "others do not trust it"
    );
}

#[tokio::test]
async fn asks_clients_for_a_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let (cert, key) = authority.issue(dir.path(), "server");
    let ca = dir.path().join("ca.crt");
    std::fs::write(&ca, authority.0.pem()).unwrap();
    let (address, _stop) = serve_with(TlsSettings { cert, key, client_ca: Some(ca) }).await;
    let known = authority.issue(dir.path(), "client");
    let stranger = Authority::new().issue(dir.path(), "stranger");
    assert!(ask(address, &authority.client(Some(&known), b"http/1.1")).await.is_ok());
    assert!(ask(address, &authority.client(None, b"http/1.1")).await.is_err());
    assert!(ask(address, &authority.client(Some(&stranger), b"http/1.1")).await.is_err());
}

#[tokio::test]
async fn takes_a_new_certificate_and_keeps_the_old_one_over_a_bad_one() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (Authority::new(), Authority::new());
    let (cert, key) = old.issue(dir.path(), "server");
    let (address, _stop) = serve_with(TlsSettings { cert: cert.clone(), key, client_ca: None }).await;
    let (old_client, new_client) = (old.client(None, b"http/1.1"), new.client(None, b"http/1.1"));
    ask(address, &old_client).await.unwrap();

    std::fs::write(&cert, "not a certificate").unwrap();
    // The key of before does not fit the new certificate until it is written too.
    for _ in 0..5 {
        ask(address, &old_client).await.expect("the last good certificate stays");
    }
    new.issue(dir.path(), "server");
    eventually("the new certificate is used", LIMIT, || async { ask(address, &new_client).await.map(drop) })
        .await;
    assert!(ask(address, &old_client).await.is_err());
}

#[tokio::test]
async fn does_not_wait_for_handshakes_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let (cert, key) = Authority::new().issue(dir.path(), "server");
    let handle = tokio::runtime::Handle::current();
    let tls = TlsSource::start(TlsSettings { cert, key, client_ca: None }, &handle).unwrap();
    let listener = BoundListener::bind("http", "127.0.0.1:0".parse().unwrap(), Some(tls)).await.unwrap();
    let (address, stop) = (listener.address(), Stop::default());
    let server = tokio::spawn(serve(listener, Router::new(), ServerSettings::default(), stop.clone()));
    let _silent = TcpStream::connect(address).await.unwrap();
    stop.graceful.cancel();
    tokio::time::timeout(LIMIT, server).await.expect("ends at once").unwrap();
}

#[tokio::test]
async fn two_listeners_cannot_share_an_address() {
    let first = BoundListener::bind("http", "127.0.0.1:0".parse().unwrap(), None).await.unwrap();
    let second = BoundListener::bind("http", first.address(), None).await.unwrap_err();
    holds(
        matches!(second, ServerError::Bind { address, .. } if address == first.address()),
        second.to_string(),
    )
    .unwrap();
}
