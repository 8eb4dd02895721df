//! The configuration in config-service, for gateways that are to be the same. One key tells what it is (revision, SHA-256, size);
//! the text is beside it in chunks under its hash, written before the key, so that who sees the key can have all of it.
//!
//! A gateway that applied one keeps a copy in a file and starts from it when config-service is away.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use aws_lc_rs::digest;
use plinth_core::config_client::{ConfigClient, ConfigSettings, Expect, Item, Known, Written};
use plinth_core::consul::Address;
use plinth_core::identity::Identity;
use plinth_kit::settings::Secret;
use plinth_kong::Format;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::watch;

use crate::error::Error;

/// Most bytes of a chunk as JSON; config-service takes 256 KiB.
const CHUNK: usize = 200 * 1024;
/// Writers that come at the same time try again this often.
const TRIES: usize = 10;

/// Where in config-service the configuration is.
#[derive(Clone, Debug)]
pub struct StoreSettings {
    /// The service.
    pub address: Address,
    /// Namespace of the key.
    pub namespace: String,
    /// Environment of the key.
    pub environment: String,
    /// The key.
    pub key: String,
    /// Bearer token with `config:read` and, to post configurations, `config:write` on the namespace.
    pub token: Option<Secret>,
    /// Authorities of the service's certificate, PEM; the system's without.
    pub ca_cert: Option<PathBuf>,
    /// The copy of what was applied last.
    pub last_good: Option<PathBuf>,
}

/// What the key holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Counts configurations, from 1.
    pub revision: u64,
    /// Of the text, hex.
    pub sha256: String,
    /// Bytes of the text.
    pub size: usize,
    /// Chunks it is in.
    pub chunks: usize,
    /// The text is JSON, not YAML.
    #[serde(default)]
    pub json: bool,
    /// The one before, whose chunks are still there for those who read it just now.
    #[serde(default)]
    pub before: Option<(String, usize)>,
}

impl Head {
    /// How the text is to be read.
    #[must_use]
    pub fn format(&self) -> Format {
        if self.json { Format::Json } else { Format::Yaml }
    }
}

/// A configuration with its place in the key's history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// Revision of the key in config-service.
    pub item: u64,
    /// What the key holds.
    pub head: Head,
    /// The text.
    pub text: Arc<str>,
}

/// The configuration in config-service.
#[derive(Debug)]
pub struct Store {
    client: ConfigClient,
    key: String,
    last_good: Option<PathBuf>,
}

impl Store {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// Settings the client cannot use.
    pub fn new(settings: &StoreSettings, identity: Option<Identity>) -> Result<Self, Error> {
        let mut client = ConfigSettings::new(settings.address.clone(), settings.namespace.clone());
        client.environment.clone_from(&settings.environment);
        client.token.clone_from(&settings.token);
        client.ca_cert.clone_from(&settings.ca_cert);
        client.identity = identity;
        Ok(Self {
            client: ConfigClient::new(client)?,
            key: settings.key.clone(),
            last_good: settings.last_good.clone(),
        })
    }

    /// Where it is, for people.
    #[must_use]
    pub fn origin(&self) -> String {
        format!("config-service {}", self.key)
    }

    /// The key's states, from now on.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Option<Known>> {
        self.client.subscribe(&self.key)
    }

    /// What the key holds now.
    ///
    /// # Errors
    /// The service does not answer, or the key holds something else.
    pub async fn head(&self) -> Result<Option<(u64, Head)>, Error> {
        self.client.read(&self.key).await?.map(|item| read_head(&item)).transpose()
    }

    /// The text that a head tells of, complete and unaltered.
    ///
    /// # Errors
    /// A chunk is missing, or all of them are not that text.
    pub async fn text(&self, head: &Head) -> Result<Arc<str>, Error> {
        let mut text = String::with_capacity(head.size);
        for number in 0..head.chunks {
            let key = self.chunk_key(&head.sha256, number);
            match self.client.read(&key).await?.map(|item| item.value) {
                Some(Value::String(chunk)) => text.push_str(&chunk),
                Some(_) => return Err(Error::StoredConfig(format!("{key} is not a text"))),
                None => return Err(Error::StoredConfig(format!("{key} is missing"))),
            }
        }
        let hash = sha256(&text);
        if text.len() != head.size || hash != head.sha256 {
            return Err(Error::StoredConfig(format!(
                "the chunks are {} bytes with SHA-256 {hash}, not {} bytes with {}",
                text.len(),
                head.size,
                head.sha256
            )));
        }
        Ok(text.into())
    }

    /// Writes a text, after whatever is there.
    ///
    /// # Errors
    /// The service does not take it; then nothing has changed.
    pub async fn publish(&self, text: Arc<str>, format: Format) -> Result<Stored, Error> {
        let sha256 = sha256(&text);
        let pieces = chunks(&text);
        for (number, piece) in pieces.iter().enumerate() {
            let value = Value::String((*piece).to_owned());
            self.client.write(&self.chunk_key(&sha256, number), &value, Expect::Anything).await?;
        }
        for _ in 0..TRIES {
            let before = self.head().await?;
            let head = Head {
                revision: before.as_ref().map_or(1, |(_, head)| head.revision + 1),
                sha256: sha256.clone(),
                size: text.len(),
                chunks: pieces.len(),
                json: format == Format::Json,
                before: before.as_ref().map(|(_, head)| (head.sha256.clone(), head.chunks)),
            };
            let expect = before.as_ref().map_or(Expect::Absent, |(item, _)| Expect::Revision(*item));
            let value =
                serde_json::to_value(&head).map_err(|error| Error::StoredConfig(error.to_string()))?;
            if let Written::As(item) = self.client.write(&self.key, &value, expect).await? {
                let old = before.and_then(|(_, head)| head.before);
                self.forget(old, &head).await;
                return Ok(Stored { item, head, text: Arc::clone(&text) });
            }
        }
        Err(Error::StoredConfig(format!("{}: others wrote it {TRIES} times in between", self.key)))
    }

    /// Deletes chunks nobody can want any more. Left behind they do no harm.
    async fn forget(&self, old: Option<(String, usize)>, head: &Head) {
        let Some((sha256, count)) = old else { return };
        let used = head.sha256 == sha256 || head.before.as_ref().is_some_and(|(before, _)| *before == sha256);
        if used {
            return;
        }
        for number in 0..count {
            if let Err(error) = self.client.delete(&self.chunk_key(&sha256, number)).await {
                tracing::warn!(
                    error = plinth_kit::problem::chain(&error),
                    "old chunks stay in config-service"
                );
                return;
            }
        }
    }

    fn chunk_key(&self, sha256: &str, number: usize) -> String {
        format!("{}/{sha256}/{number}", self.key)
    }

    /// Keeps a copy of what runs now.
    pub async fn keep(&self, stored: &Stored) {
        let Some(path) = self.last_good.clone() else { return };
        let stored = stored.clone();
        let written = tokio::task::spawn_blocking(move || replace(&path, &stored)).await;
        let outcome = written.map_err(std::io::Error::other).and_then(|outcome| outcome);
        if let Err(error) = outcome {
            tracing::warn!(%error, "the copy of the configuration cannot be written");
        }
    }

    /// The copy of what ran last.
    ///
    /// # Errors
    /// The file is there and cannot be read or understood.
    pub async fn kept(&self) -> Result<Option<Stored>, Error> {
        let Some(path) = self.last_good.clone() else { return Ok(None) };
        let failed = |source| Error::ReadConfig { path: path.clone(), source };
        let text = match tokio::fs::read(&path).await {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let stored: Stored = serde_json::from_slice(&text).map_err(|error| failed(error.into()))?;
        if sha256(&stored.text) == stored.head.sha256 {
            return Ok(Some(stored));
        }
        Err(failed(std::io::Error::other("the text is not the one that was kept: its SHA-256 differs")))
    }
}

/// What a state of the key tells.
///
/// # Errors
/// The key holds something else.
pub fn read_head(item: &Item) -> Result<(u64, Head), Error> {
    let head = serde_json::from_value(item.value.clone()).map_err(|error| {
        Error::StoredConfig(format!("{} holds no configuration's head: {error}", item.key))
    })?;
    Ok((item.revision, head))
}

/// Written beside and renamed, so that a crash leaves the old one; readable by the owner only, as it holds secrets.
fn replace(path: &std::path::Path, stored: &Stored) -> std::io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    let mut file =
        std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(&serde_json::to_vec(stored)?)?;
    file.sync_all()?;
    std::fs::rename(&new, path)
}

/// Pieces of a text that stay below the limit as JSON.
fn chunks(text: &str) -> Vec<&str> {
    let mut pieces = Vec::new();
    let (mut start, mut length) = (0, 0);
    for (at, c) in text.char_indices() {
        let own = match c {
            '"' | '\\' | '\n' | '\r' | '\t' => 2,
            c if (c as u32) < 0x20 => 6,
            c => c.len_utf8(),
        };
        if length + own > CHUNK {
            pieces.extend(text.get(start..at));
            (start, length) = (at, 0);
        }
        length += own;
    }
    pieces.extend(text.get(start..).filter(|rest| !rest.is_empty()));
    pieces
}

/// Hex.
fn sha256(text: &str) -> String {
    let digest = digest::digest(&digest::SHA256, text.as_bytes());
    digest.as_ref().iter().fold(String::with_capacity(64), |mut out, byte| {
        // writing to a String cannot fail
        let _ = std::fmt::Write::write_fmt(&mut out, format_args!("{byte:02x}"));
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_small_as_json_and_make_the_text_again() {
        for text in ["", "a", &"é\n\"\u{1}x".repeat(100_000)] {
            let pieces = chunks(text);
            assert_eq!(pieces.concat(), text);
            assert!(pieces.iter().all(|piece| Value::from(*piece).to_string().len() <= CHUNK + 2));
        }
    }
}
