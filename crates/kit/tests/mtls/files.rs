//! Identities from files.

use std::path::{Path, PathBuf};
use std::time::Duration;

use plinth_core::identity::{Clients, FileChanges, Files, Identity};
use plinth_kit::mtls::{Mtls, Policy};
use plinth_testbed::{eventually, holds};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair, SanType,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::{LIMIT, Listener, Load, client, once};

const EVERY: FileChanges = FileChanges::Every(Duration::from_millis(20));

pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Certificate and key for these names: a name with a scheme is a URI.
    fn issue(&self, names: &[&str], usage: &[ExtendedKeyUsagePurpose]) -> (String, String) {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.subject_alt_names = names
            .iter()
            .map(|name| {
                let text = (*name).try_into().unwrap();
                if name.contains("://") { SanType::URI(text) } else { SanType::DnsName(text) }
            })
            .collect();
        params.extended_key_usages = usage.to_vec();
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.0).unwrap().pem(), key.serialize_pem())
    }

    /// Writes `<label>.crt`, `<label>.key` and `<label>-ca.crt`.
    pub fn write(&self, folder: &Path, label: &str, names: &[&str]) -> Files {
        let (cert, key) = self.issue(names, &[]);
        let files = Files {
            own: Some((folder.join(format!("{label}.crt")), folder.join(format!("{label}.key")))),
            ca: folder.join(format!("{label}-ca.crt")),
        };
        replace(&folder.join(format!("{label}.crt")), &cert);
        replace(&folder.join(format!("{label}.key")), &key);
        replace(&files.ca, &self.0.pem());
        files
    }
}

/// As those do who keep files up to date: never half a file.
fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(&new, path).unwrap();
}

fn identity(files: Files) -> Identity {
    Identity::files(files, EVERY, Some(&tokio::runtime::Handle::current())).unwrap()
}

fn everyone(identity: Identity, clients: Clients) -> Mtls {
    Mtls::new(identity, Policy::Patterns([].into()), clients).unwrap()
}

fn spiffe(service: &str) -> String {
    format!("spiffe://example.org/ns/shop/sa/{service}")
}

#[tokio::test]
async fn both_sides_show_who_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let server = identity(authority.write(folder.path(), "web", &[&spiffe("web")]));
    let caller = identity(authority.write(folder.path(), "shop", &[&spiffe("shop")]));
    let listener = Listener::start(everyone(server, Clients::Required)).await;

    assert_eq!(once(Some(&caller), "web", &listener.url()).await.unwrap(), spiffe("shop"));
    let refused = once(Some(&caller), "api", &listener.url()).await.unwrap_err();
    assert!(
        refused.contains("expected the service \"api\"") && refused.contains(&spiffe("web")),
        "{refused}"
    );

    // The right name from another authority, on either side.
    let stranger = identity(Authority::new().write(folder.path(), "stranger", &[&spiffe("shop")]));
    let refused = once(Some(&stranger), "web", &listener.url()).await.unwrap_err();
    assert!(refused.contains("invalid peer certificate"), "{refused}");
    let mut mixed = authority.write(folder.path(), "mixed", &[&spiffe("web")]);
    let other = Authority::new().write(folder.path(), "other", &[&spiffe("shop")]);
    mixed.own = other.own;
    let trusts_us = Identity::files(mixed, FileChanges::Ignored, None).unwrap_err();
    let trusts_us = plinth_core::error::chain(&trusts_us);
    assert!(trusts_us.contains("would refuse it"), "a certificate that peers would refuse: {trusts_us}");

    // The right authority, another trust domain.
    let foreign = identity(authority.write(folder.path(), "foreign", &["spiffe://else.org/ns/shop/sa/shop"]));
    let refused = once(Some(&foreign), "web", &listener.url()).await.unwrap_err();
    assert!(refused.contains("is not of the trust domain else.org"), "{refused}");
    // One that does not mind whom it talks to is closed before it is read from.
    let careless = foreign.unverified_client_config(&[b"http/1.1"]).unwrap();
    let stream = TcpStream::connect(listener.address).await.unwrap();
    let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(careless));
    let mut stream = connector.connect(name, stream).await.unwrap();
    stream.write_all(b"GET /caller HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    // An end with or without a farewell, but no byte.
    let _ended = stream.read_to_end(&mut answer).await;
    assert!(answer.is_empty(), "{:?}", String::from_utf8_lossy(&answer));
    eventually("it is counted", LIMIT, || async { holds(listener.counted("identity") == 1.0, "") }).await;
}

#[tokio::test]
async fn who_shows_nothing_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let files = authority.write(folder.path(), "web", &[&spiffe("web")]);
    let nameless = Identity::files(Files { own: None, ca: files.ca.clone() }, EVERY, None).unwrap();
    let server = identity(files);
    let listener = Listener::start(everyone(server.clone(), Clients::Required)).await;
    assert!(once(Some(&nameless), "web", &listener.url()).await.is_err());
    eventually("it is counted", LIMIT, || async { holds(listener.counted("no_certificate") == 1.0, "") })
        .await;

    let mut plain = TcpStream::connect(listener.address).await.unwrap();
    plain.write_all(b"GET /caller HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    plain.read_to_end(&mut answer).await.unwrap();
    assert!(!answer.starts_with(b"HTTP"), "no answer in plain text: {:?}", String::from_utf8_lossy(&answer));
    eventually("it is counted", LIMIT, || async { holds(listener.counted("not_tls") == 1.0, "") }).await;

    // For the change-over they may be let in; a bad certificate is still none.
    let lenient = Listener::start(everyone(server, Clients::Optional)).await;
    assert_eq!(once(Some(&nameless), "web", &lenient.url()).await.unwrap(), "nobody");
    let stranger = identity(Authority::new().write(folder.path(), "stranger", &[&spiffe("shop")]));
    let mut half = authority.write(folder.path(), "half", &[]);
    half.own = None;
    assert!(once(Some(&stranger), "web", &lenient.url()).await.is_err());
}

#[tokio::test]
async fn patterns_say_who_may_call() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let server = identity(authority.write(folder.path(), "web", &[&spiffe("web")]));
    let patterns = [
        "spiffe://example.org/*/sa/shop".parse().unwrap(),
        "spiffe://example.org/*/sa/desk".parse().unwrap(),
    ];
    let mtls = Mtls::new(server, Policy::Patterns(patterns.into()), Clients::Required).unwrap();
    let listener = Listener::start(mtls).await;
    for (label, name, allowed) in [
        ("shop", spiffe("shop"), true),
        ("desk", spiffe("desk"), true),
        ("intruder", spiffe("intruder"), false),
        ("dns", "shop".to_owned(), false),
    ] {
        let caller = identity(authority.write(folder.path(), label, &[&name]));
        let answer = once(Some(&caller), "web", &listener.url()).await;
        assert_eq!(answer.is_ok(), allowed, "{name}: {answer:?}");
    }
    eventually("they are counted", LIMIT, || async { holds(listener.counted("not_allowed") == 2.0, "") })
        .await;
}

#[tokio::test]
async fn a_name_of_the_service_is_enough() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let caller = identity(authority.write(folder.path(), "shop", &["shop"]));
    for (label, name, fits) in [("short", "web", true), ("host", "localhost", true), ("other", "api", false)]
    {
        let server = identity(authority.write(folder.path(), label, &[name]));
        let listener = Listener::start(everyone(server, Clients::Required)).await;
        let url = format!("https://localhost:{}/caller", listener.address.port());
        let answer = once(Some(&caller), "web", &url).await;
        assert_eq!(answer.is_ok(), fits, "{name}: {answer:?}");
    }
}

#[tokio::test]
async fn certificates_for_one_side_only_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let files = authority.write(folder.path(), "web", &[&spiffe("web")]);
    let (cert_path, key_path): (PathBuf, PathBuf) = files.own.clone().unwrap();
    let (cert, key) = authority.issue(&[&spiffe("web")], &[ExtendedKeyUsagePurpose::ServerAuth]);
    replace(&cert_path, &cert);
    replace(&key_path, &key);
    let error = plinth_core::error::chain(&files.check().unwrap_err());
    assert!(error.contains("web.crt") && error.contains("callees"), "{error}");
    let (_, another) = authority.issue(&[&spiffe("web")], &[]);
    let (cert, _) = authority.issue(&[&spiffe("web")], &[]);
    replace(&cert_path, &cert);
    replace(&key_path, &another);
    let error = plinth_core::error::chain(&files.check().unwrap_err());
    assert!(error.contains("web.crt") && error.contains("web.key"), "{error}");
    std::fs::remove_file(&key_path).unwrap();
    assert!(plinth_core::error::chain(&files.check().unwrap_err()).contains("web.key"));
}

/// Authority and certificates of both sides are replaced, one file after the other, as an operator would: first everyone
/// trusts both, then everyone gets a new certificate, then nobody trusts the old one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replaced_files_lose_no_request() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (Authority::new(), Authority::new());
    let files = ["web", "shop"].map(|name| (name, old.write(folder.path(), name, &[&spiffe(name)])));
    let [server, caller] = files.clone().map(|(_, files)| identity(files));
    let listener = Listener::start(everyone(server.clone(), Clients::Required)).await;
    let load = Load::start(&caller, "web", listener.url());
    let replaced = async |times: u64| {
        let sent = load.sent();
        eventually("both sides have read their files again and calls went on", LIMIT, || {
            let counts = (server.rotations(), caller.rotations(), load.sent() - sent);
            async move { holds(counts.0 == times && counts.1 == times && counts.2 > 20, format!("{counts:?}")) }
        })
        .await;
    };
    let both = format!("{}{}", old.0.pem(), new.0.pem());
    files.iter().for_each(|(_, files)| replace(&files.ca, &both));
    replaced(1).await;
    for (name, files) in &files {
        let (cert, key) = new.issue(&[&spiffe(name)], &[]);
        let (cert_path, key_path) = files.own.clone().unwrap();
        // In between the pair does not fit; the last good one stays.
        replace(&cert_path, &cert);
        replace(&key_path, &key);
    }
    replaced(2).await;
    files.iter().for_each(|(_, files)| replace(&files.ca, &new.0.pem()));
    replaced(3).await;
    let sent = load.end().await;
    assert!(sent > 60, "{sent}");

    // Nothing of the old authority counts any more, and nonsense changes nothing.
    let late = identity(old.write(folder.path(), "late", &[&spiffe("shop")]));
    assert!(once(Some(&late), "web", &listener.url()).await.is_err());
    replace(&files[0].1.ca, "nonsense");
    let kept = client(Some(&caller), "web");
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        crate::ask(&kept, &listener.url()).await.unwrap();
        once(Some(&caller), "web", &listener.url()).await.unwrap();
    }
    assert_eq!(server.rotations(), 3);
}
