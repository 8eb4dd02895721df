//! TLS material from files, read again when they change.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use plinth_core::contents::Contents;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem};
use rustls::server::{ServerConfig, WebPkiClientVerifier};
use tokio_rustls::TlsAcceptor;

use crate::mtls::Mtls;
use crate::settings::Reader;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Files of a TLS listener, all PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSettings {
    /// Certificate chain, the server's own first.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Authorities that sign clients' certificates; when given, clients must have one.
    pub client_ca: Option<PathBuf>,
}

impl TlsSettings {
    /// Reads `tls.*`; none when neither certificate nor key is given.
    pub fn read(reader: &mut Reader) -> Option<TlsSettings> {
        let cert: Option<PathBuf> =
            reader.opt("tls.cert", "certificate chain in PEM; with tls.key, the service listens with TLS");
        let key: Option<PathBuf> = reader.opt("tls.key", "private key of the certificate, PEM");
        let client_ca: Option<PathBuf> = reader.opt(
            "tls.client_ca",
            "authorities in PEM; when given, clients must show a certificate of theirs",
        );
        match (cert, key) {
            (Some(cert), Some(key)) => {
                let settings = TlsSettings { cert, key, client_ca };
                if let Err(error) = config(&settings) {
                    reader.fault("tls.cert", crate::problem::chain(&error));
                }
                Some(settings)
            }
            (Some(_), None) => {
                reader.fault("tls.key", "is required with tls.cert");
                None
            }
            (None, Some(_)) => {
                reader.fault("tls.cert", "is required with tls.key");
                None
            }
            (None, None) => {
                if client_ca.is_some() {
                    reader.fault("tls.client_ca", "has no meaning without tls.cert and tls.key");
                }
                None
            }
        }
    }
}

/// Why TLS material cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot use {}", path.display())]
    Pem { path: PathBuf, source: pem::Error },
    #[error("{} holds no certificate", path.display())]
    NoCertificate { path: PathBuf },
    #[error("the certificate and key do not work together")]
    Config(#[from] rustls::Error),
    #[error("the client authorities cannot be used")]
    ClientCa(#[from] rustls::server::VerifierBuilderError),
    #[error("the service's identity cannot be used")]
    Identity(#[source] plinth_core::Error),
}

/// The current TLS configuration of a listener. Clones share it; connections keep the one they began with.
#[derive(Clone)]
pub struct TlsSource {
    current: Arc<ArcSwap<ServerConfig>>,
    /// Decides about callers; its configuration follows the identity by itself.
    mtls: Option<Mtls>,
    /// When the certificate of the files ends.
    expires: Arc<Mutex<Option<jiff::Timestamp>>>,
}

impl TlsSource {
    /// Reads the files and looks for changes on `handle` from then on. Files that become unusable are reported and
    /// the last good ones are kept.
    ///
    /// # Errors
    /// The files cannot be used now.
    pub fn start(settings: TlsSettings, handle: &tokio::runtime::Handle) -> Result<TlsSource, TlsError> {
        TlsSource::watching(settings, handle, LOOK_EVERY)
    }

    pub(crate) fn watching(
        settings: TlsSettings,
        handle: &tokio::runtime::Handle,
        every: Duration,
    ) -> Result<TlsSource, TlsError> {
        let seen = contents(&settings);
        let (config, ends) = config(&settings)?;
        let (current, expires) = (Arc::new(ArcSwap::from_pointee(config)), Arc::new(Mutex::new(ends)));
        handle.spawn(keep_fresh(Arc::downgrade(&current), expires.clone(), settings, seen, every));
        Ok(TlsSource { current, mtls: None, expires })
    }

    /// TLS with the identity of a service and a decision about each caller.
    ///
    /// # Errors
    /// An identity without a certificate.
    pub fn mutual(mtls: Mtls) -> Result<TlsSource, TlsError> {
        let current = Arc::new(ArcSwap::from_pointee(mtls.server_config().map_err(TlsError::Identity)?));
        Ok(TlsSource { current, mtls: Some(mtls), expires: Arc::default() })
    }

    /// When the certificate of the files ends.
    pub fn expires(&self) -> Option<jiff::Timestamp> {
        *self.expires.lock()
    }

    pub(super) fn mtls(&self) -> Option<&Mtls> {
        self.mtls.as_ref()
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.current.load_full())
    }
}

impl std::fmt::Debug for TlsSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TlsSource")
    }
}

async fn keep_fresh(
    current: Weak<ArcSwap<ServerConfig>>,
    expires: Arc<Mutex<Option<jiff::Timestamp>>>,
    settings: TlsSettings,
    mut seen: Contents,
    every: Duration,
) {
    loop {
        tokio::time::sleep(every).await;
        let Some(current) = current.upgrade() else { return };
        let now = contents(&settings);
        if now == seen {
            continue;
        }
        // Whoever replaces the files may be half way: a pair that does not fit is tried again on the next look.
        match config(&settings) {
            Ok((config, ends)) => {
                current.store(Arc::new(config));
                *expires.lock() = ends;
                seen = now;
                tracing::info!(cert = %settings.cert.display(), "the TLS certificate has been read again");
            }
            Err(error) => {
                tracing::warn!(error = crate::problem::chain(&error), "keeping the previous TLS certificate");
            }
        }
    }
}

fn contents(settings: &TlsSettings) -> Contents {
    let files = [Some(&settings.cert), Some(&settings.key), settings.client_ca.as_ref()];
    Contents::of(files.into_iter().flatten().map(PathBuf::as_path))
}

fn config(settings: &TlsSettings) -> Result<(ServerConfig, Option<jiff::Timestamp>), TlsError> {
    let chain = certificates(&settings.cert)?;
    let ends = chain.first().and_then(plinth_core::identity::expiry);
    let key = PrivateKeyDer::from_pem_file(&settings.key)
        .map_err(|source| TlsError::Pem { path: settings.key.clone(), source })?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder =
        ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
    let builder = match &settings.client_ca {
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path)? {
                roots.add(certificate)?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build()?;
            builder.with_client_cert_verifier(verifier)
        }
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok((config, ends))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = |source| TlsError::Pem { path: path.to_owned(), source };
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_file_iter(path).map_err(wrong)?.collect::<Result<_, _>>().map_err(wrong)?;
    if chain.is_empty() { Err(TlsError::NoCertificate { path: path.to_owned() }) } else { Ok(chain) }
}
