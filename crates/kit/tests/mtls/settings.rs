//! `mtls.*` as a service reads them.

use plinth_kit::mtls::MtlsSource;
use plinth_kit::settings::{Reader, Sources};
use plinth_kit::{Service, ServiceSettings};

use crate::files::Authority;

const SERVICE: Service = Service::new("test-service", "1.2.3").port(0);

fn read(arguments: &[&str]) -> (ServiceSettings, Result<(), String>) {
    let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
    let sources = Sources::new("test-service", arguments, Default::default(), None).unwrap();
    let mut reader = Reader::new(&sources);
    let settings = ServiceSettings::read(&mut reader, &SERVICE);
    (settings, reader.finish().map_err(|faults| faults.to_string()))
}

fn fault(arguments: &[&str]) -> String {
    read(arguments).1.unwrap_err()
}

#[test]
fn off_unless_asked_for() {
    let (settings, outcome) = read(&[]);
    assert_eq!((settings.mtls, outcome), (None, Ok(())));
    let (settings, outcome) = read(&["--mtls-source", "connect"]);
    assert_eq!(outcome, Ok(()));
    assert!(matches!(settings.mtls.unwrap().source, MtlsSource::Connect { .. }));
}

#[test]
fn faults_name_the_setting() {
    assert!(fault(&["--mtls-source", "vault"]).contains("vault"));
    assert!(fault(&["--mtls-source", "connect", "--mtls-clients", "maybe"]).contains("maybe"));
    assert!(fault(&["--mtls-source", "connect", "--mtls-cert", "x.pem"]).contains("mtls-cert"));
    assert!(fault(&["--mtls-allow", "spiffe://x/*"]).contains("mtls-allow"));
    let all = fault(&["--mtls-source", "files"]);
    assert!(["mtls.cert", "mtls.key", "mtls.ca"].iter().all(|name| all.contains(name)), "{all}");
    assert!(fault(&["--mtls-source", "connect", "--mtls-start-timeout", "0"]).contains("mtls-start-timeout"));
}

#[test]
fn files_are_looked_at_while_reading() {
    let folder = tempfile::tempdir().unwrap();
    let files = Authority::new().write(folder.path(), "web", &["spiffe://example.org/ns/shop/sa/web"]);
    let (cert, key) = files.own.unwrap();
    let text = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    let (cert, key, ca) = (text(&cert), text(&key), text(&files.ca));
    let good = ["--mtls-source", "files", "--mtls-cert", &cert, "--mtls-key", &key, "--mtls-ca", &ca];
    let (settings, outcome) = read(&good);
    assert_eq!(outcome, Ok(()));
    assert!(matches!(settings.mtls.unwrap().source, MtlsSource::Files { allow, .. } if allow.is_empty()));
    let (_, outcome) = read(&[&good[..], &["--mtls-allow", "spiffe://example.org/*,web"]].concat());
    assert!(outcome.unwrap_err().contains("spiffe://example.org/ns/*/sa/web"));
    let both = [&good[..], &["--tls-cert", &cert, "--tls-key", &key]].concat();
    assert!(fault(&both).contains("cannot be combined with tls.cert"));
    assert!(fault(&[&good[..4], &["--mtls-key", "/none", "--mtls-ca", &ca]].concat()).contains("/none"));
}
