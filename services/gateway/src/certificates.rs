//! TLS towards clients: the certificate of the configuration whose name fits, else the one from the settings.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use plinth_core::contents::Contents;
use plinth_kit::telemetry::Expiry;
use plinth_kong::Config;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};
use tokio_util::sync::CancellationToken;

use crate::error::Error;

/// What clients have to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientAuth {
    /// PEM file of the authorities.
    pub authorities: PathBuf,
    /// A client without a certificate is refused.
    pub required: bool,
}

/// Certificates by server name.
#[derive(Debug)]
pub struct Certificates {
    files: (PathBuf, PathBuf),
    /// What the files held before they were read first: what changes from then on is noticed.
    seen: Contents,
    fallback: ArcSwap<CertifiedKey>,
    names: ArcSwap<Names>,
    provider: Arc<CryptoProvider>,
}

/// Exact names, `*.x` and `x.*`.
#[derive(Debug, Default)]
pub struct Names(HashMap<String, Arc<CertifiedKey>>);

impl Names {
    fn find(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        if self.0.is_empty() {
            return None;
        }
        let name = name.to_ascii_lowercase();
        let exact = self.0.get(&name);
        let leftmost = || self.0.get(&format!("*.{}", name.split_once('.')?.1));
        let rightmost = || self.0.get(&format!("{}.*", name.rsplit_once('.')?.0));
        exact.or_else(leftmost).or_else(rightmost).cloned()
    }
}

impl Certificates {
    /// Reads the certificate of the settings.
    ///
    /// # Errors
    /// Files that cannot be read or do not fit.
    pub fn load(cert: &Path, key: &Path) -> Result<Self, Error> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let (files, seen) = ((cert.to_owned(), key.to_owned()), Contents::of([cert, key]));
        let fallback = ArcSwap::from_pointee(pair(cert, key, &provider)?);
        Ok(Self { files, seen, fallback, names: ArcSwap::default(), provider })
    }

    /// Reads the files of the settings again whenever they change. A pair that does not fit, as when whoever replaces
    /// the files is half way, leaves the one before in use and is tried again at the next look.
    pub async fn follow(self: Arc<Self>, every: Duration, stop: CancellationToken) {
        let (cert, key) = &self.files;
        let mut seen = self.seen.clone();
        while stop.run_until_cancelled(tokio::time::sleep(every)).await.is_some() {
            let now = Contents::of([cert.as_path(), key.as_path()]);
            if now == seen {
                continue;
            }
            match pair(cert, key, &self.provider) {
                Ok(pair) => {
                    self.fallback.store(Arc::new(pair));
                    seen = now;
                    tracing::info!(cert = %cert.display(), "the TLS certificate has been read again");
                }
                Err(error) => {
                    let error = plinth_kit::problem::chain(&error);
                    tracing::warn!(error, "keeping the previous TLS certificate");
                }
            }
        }
    }

    /// Reads the certificates of a configuration; they are used after [`Self::publish`].
    ///
    /// # Errors
    /// PEM texts that do not hold a certificate and its key.
    pub fn names(&self, config: &Config) -> Result<Names, Error> {
        let mut names = HashMap::new();
        for certificate in &config.certificates {
            let pair = Arc::new(given(certificate, &self.provider)?);
            for sni in config.snis.iter().filter(|sni| sni.certificate == certificate.id) {
                names.insert(sni.name.to_ascii_lowercase(), pair.clone());
            }
        }
        Ok(Names(names))
    }

    /// When the certificates end: that of the settings and those of the configuration, each by its first name.
    #[must_use]
    pub fn expiries(&self) -> Vec<Expiry> {
        let of = |name: &str, pair: &CertifiedKey| {
            let at = pair.cert.first().and_then(plinth_core::identity::expiry)?;
            Some(Expiry { name: name.to_owned(), at })
        };
        let names = self.names.load();
        let mut sorted: Vec<_> = names.0.iter().collect();
        sorted.sort_by_key(|(name, _)| name.as_str());
        let mut seen = std::collections::HashSet::new();
        let shown = sorted.into_iter().filter(|(_, pair)| seen.insert(Arc::as_ptr(pair)));
        let named: Vec<Expiry> = shown.filter_map(|(name, pair)| of(name, pair)).collect();
        of("default", &self.fallback.load()).into_iter().chain(named).collect()
    }

    /// New handshakes use these names.
    pub fn publish(&self, names: Names) {
        self.names.store(Arc::new(names));
    }

    /// The listener's TLS settings.
    ///
    /// # Errors
    /// rustls's, and authorities of clients that cannot be read.
    pub fn server_config(
        self: &Arc<Self>,
        http2: bool,
        clients: Option<&ClientAuth>,
    ) -> Result<Arc<ServerConfig>, Error> {
        let builder = ServerConfig::builder_with_provider(self.provider.clone())
            .with_safe_default_protocol_versions()?;
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(clients) => builder.with_client_cert_verifier(self.verifier(clients)?),
        };
        let mut config = builder.with_cert_resolver(self.clone());
        config.alpn_protocols = if http2 { vec![b"h2".to_vec()] } else { Vec::new() };
        config.alpn_protocols.push(b"http/1.1".to_vec());
        Ok(Arc::new(config))
    }

    fn verifier(&self, clients: &ClientAuth) -> Result<Arc<dyn ClientCertVerifier>, Error> {
        let path = &clients.authorities;
        let failed =
            |source: Box<dyn std::error::Error + Send + Sync>| Error::TlsFile { path: path.clone(), source };
        let mut roots = RootCertStore::empty();
        for authority in CertificateDer::pem_file_iter(path).map_err(|error| failed(error.into()))? {
            roots.add(authority.map_err(|error| failed(error.into()))?)?;
        }
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), self.provider.clone());
        let builder = if clients.required { builder } else { builder.allow_unauthenticated() };
        builder.build().map_err(|error| failed(error.into()))
    }
}

/// A certificate of the configuration with its key.
///
/// # Errors
/// PEM texts that do not hold a certificate and its key.
pub fn given(
    certificate: &plinth_kong::Certificate,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, Error> {
    let bad = |what: &'static str| move |source| Error::Pem { what, of: certificate.id.to_string(), source };
    let chain = CertificateDer::pem_slice_iter(certificate.cert.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(bad("certificate"))?;
    let key = PrivateKeyDer::from_pem_slice(certificate.key.as_bytes()).map_err(bad("certificate key"))?;
    Ok(CertifiedKey::from_der(chain, key, provider)?)
}

/// A chain and its key.
fn pair(cert: &Path, key: &Path, provider: &CryptoProvider) -> Result<CertifiedKey, Error> {
    let failed = |path: &Path, source: Box<dyn std::error::Error + Send + Sync>| Error::TlsFile {
        path: path.to_owned(),
        source,
    };
    let chain = CertificateDer::pem_file_iter(cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| failed(cert, error.into()))?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| failed(key, error.into()))?;
    CertifiedKey::from_der(chain, private, provider).map_err(|error| failed(cert, error.into()))
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let named = hello.server_name().and_then(|name| self.names.load().find(name));
        Some(named.unwrap_or_else(|| self.fallback.load_full()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use plinth_testbed::{eventually, holds};

    fn issue(folder: &Path, name: &str) -> CertificateDer<'static> {
        let key = rcgen::KeyPair::generate().unwrap();
        let cert = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap().self_signed(&key).unwrap();
        for (file, text) in [("cert.pem", cert.pem()), ("key.pem", key.serialize_pem())] {
            std::fs::write(folder.join("next"), text).unwrap();
            std::fs::rename(folder.join("next"), folder.join(file)).unwrap();
        }
        cert.der().clone()
    }

    #[tokio::test]
    async fn replaced_files_are_served_and_damaged_ones_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
        let first = issue(folder.path(), "first.test");
        let certificates = Arc::new(Certificates::load(&cert, &key).unwrap());
        let served = || certificates.fallback.load().cert[0].clone();
        assert_eq!(served(), first);
        let stop = CancellationToken::new();
        let every = Duration::from_millis(10);
        let following = tokio::spawn(certificates.clone().follow(every, stop.clone()));
        for name in ["second.test", "third.test"] {
            std::fs::write(&cert, "half a file").unwrap();
            let next = issue(folder.path(), name);
            eventually("the new certificate is served", Duration::from_secs(5), || async {
                holds(served() == next, "still the old one")
            })
            .await;
        }
        stop.cancel();
        following.await.unwrap();
    }
}
