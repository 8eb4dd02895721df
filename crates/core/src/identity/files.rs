//! An identity from files, as cert-manager and others keep them up to date.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::material::{Material, Pem};
use super::verify::fault;
use super::{Identity, Naming, Shared};
use crate::contents::Contents;
use crate::{Error, Secret};

/// PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// Certificate chain, the own one first, and its key; none: callers who show nothing.
    pub own: Option<(PathBuf, PathBuf)>,
    /// Authorities that sign the certificates of peers.
    pub ca: PathBuf,
}

/// Whether the files are looked at again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileChanges {
    Ignored,
    /// Looked for this often.
    Every(Duration),
}

impl Identity {
    /// Reads the files; with [`FileChanges::Every`] again when one was replaced, on `handle`. Files that do not fit
    /// together are reported and the last good ones are kept.
    ///
    /// # Errors
    /// The files cannot be used now.
    pub fn files(
        files: Files,
        changes: FileChanges,
        handle: Option<&tokio::runtime::Handle>,
    ) -> Result<Self, Error> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let seen = files.contents();
        let (identity, ended) = Self::new(read(&files, &provider)?, Naming::Files, provider);
        if let (FileChanges::Every(every), Some(handle)) = (changes, handle) {
            handle.spawn(keep_fresh(Arc::downgrade(&identity.shared), files, seen, every, ended));
        }
        Ok(identity)
    }
}

impl Files {
    /// Reads them once, to say what is wrong with them.
    ///
    /// # Errors
    /// A file that cannot be read, or files that do not fit together.
    pub fn check(&self) -> Result<(), Error> {
        read(self, &Arc::new(rustls::crypto::aws_lc_rs::default_provider())).map(drop)
    }

    fn contents(&self) -> Contents {
        let own = self.own.iter().flat_map(|(cert, key)| [cert, key]);
        Contents::of(own.chain([&self.ca]).map(PathBuf::as_path))
    }
}

fn read(files: &Files, provider: &Arc<rustls::crypto::CryptoProvider>) -> Result<Material, Error> {
    let ca = text(&files.ca)?;
    let own = match &files.own {
        Some((cert, key)) => Some((text(cert)?, Secret::new(text(key)?))),
        None => None,
    };
    let shown = |path: Option<&PathBuf>| path.map(|path| path.display().to_string()).unwrap_or_default();
    let (cert_name, key_name) =
        (shown(files.own.as_ref().map(|(cert, _)| cert)), shown(files.own.as_ref().map(|(_, key)| key)));
    let roots_name = files.ca.display().to_string();
    let pem = Pem {
        own: own.as_ref().map(|(cert, key)| (cert.as_str(), key)),
        roots: vec![ca.as_str()],
        trust_domain: None,
        names: [&cert_name, &key_name, &roots_name],
    };
    Material::read(&pem, provider)
}

fn text(path: &Path) -> Result<String, Error> {
    let bytes = std::fs::read(path).map_err(|source| Error::File { path: path.to_owned(), source })?;
    String::from_utf8(bytes).map_err(|_| fault(&path.display().to_string(), "it is no PEM text"))
}

async fn keep_fresh(
    shared: Weak<Shared>,
    files: Files,
    mut seen: Contents,
    every: Duration,
    ended: CancellationToken,
) {
    let mut complaint = String::new();
    while ended.run_until_cancelled(tokio::time::sleep(every)).await.is_some() {
        let Some(shared) = shared.upgrade() else { return };
        let now = files.contents();
        if now == seen {
            continue;
        }
        // Whoever replaces the files may be half way: what does not fit together is tried again on the next look.
        match read(&files, &shared.provider) {
            // Changed while it was read: the next look finds a moment that both looks agree on.
            Ok(_) if files.contents() != now => {}
            Ok(material) => {
                tracing::info!(id = ?material.id().map(ToString::to_string), expires = ?material.expires(), "the identity's files have been read again");
                shared.replace(material);
                seen = now;
                complaint.clear();
            }
            Err(error) => {
                let why = crate::error::chain(&error);
                if why != complaint {
                    tracing::warn!(error = why, "keeping the previous identity");
                    complaint = why;
                }
            }
        }
    }
}
