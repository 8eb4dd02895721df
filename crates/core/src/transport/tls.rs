//! TLS towards the server, by rustls with aws-lc-rs.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::Error;
use crate::identity::{Callee, Identity};

/// PEM files. No `ca_cert`: the system's trust store.
#[derive(Debug, Clone, Default)]
pub(crate) struct TlsSettings {
    pub ca_cert: Option<PathBuf>,
    pub client_cert: Option<PathBuf>,
    pub client_key: Option<PathBuf>,
    /// Who calls, and the service that must answer; the files above then have no say.
    pub mesh: Option<(Identity, Callee)>,
}

pub(crate) fn client_config(settings: &TlsSettings) -> Result<ClientConfig, Error> {
    if let Some((identity, callee)) = &settings.mesh {
        return identity.client_config(callee.clone(), &[b"http/1.1"]);
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| fault("protocol versions", error))?
        .with_root_certificates(roots(settings.ca_cert.as_deref())?);
    let mut config = match (&settings.client_cert, &settings.client_key) {
        (None, None) => builder.with_no_client_auth(),
        (Some(cert), Some(key)) => builder
            .with_client_auth_cert(certificates(cert)?, private_key(key)?)
            .map_err(|error| fault("client certificate", error))?,
        _ => {
            return Err(Error::Setting {
                name: "client_cert",
                message: "a client certificate and its key go together; only one is given".to_owned(),
            });
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn roots(ca_cert: Option<&Path>) -> Result<RootCertStore, Error> {
    let mut store = RootCertStore::empty();
    if let Some(path) = ca_cert {
        for certificate in certificates(path)? {
            store.add(certificate).map_err(|error| fault(&path.display().to_string(), error))?;
        }
    } else {
        let loaded = rustls_native_certs::load_native_certs();
        for error in &loaded.errors {
            tracing::warn!(%error, "a certificate of the system's trust store cannot be read");
        }
        store.add_parsable_certificates(loaded.certs);
    }
    if store.is_empty() {
        return Err(Error::Setting { name: "ca_cert", message: "no trusted certificate found".to_owned() });
    }
    Ok(store)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let what = path.display().to_string();
    let found: Vec<_> = CertificateDer::pem_file_iter(path)
        .map_err(|error| fault(&what, error))?
        .collect::<Result<_, _>>()
        .map_err(|error| fault(&what, error))?;
    if found.is_empty() {
        return Err(fault(&what, std::io::Error::other("no certificate in this file")));
    }
    Ok(found)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| fault(&path.display().to_string(), error))
}

fn fault(what: &str, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Tls { what: what.to_owned(), source: Box::new(error) }
}
