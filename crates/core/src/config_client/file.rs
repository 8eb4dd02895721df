//! The last-good file: one JSON object of items by key, replaced as a whole. `null` notes that the service was asked and has no such
//! key, so that defaults hold offline as they did online.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::Item;
use crate::Error;

type Items = BTreeMap<String, Option<Item>>;

#[derive(Debug)]
pub(super) struct LastGood {
    path: PathBuf,
    items: Mutex<Items>,
    /// One write at a time, each with what is newest when its turn comes.
    writing: Arc<tokio::sync::Mutex<()>>,
}

impl LastGood {
    /// A missing file is empty; one that cannot be read or understood is an error, because it may be somebody else's.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let items = match std::fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|source| Error::Document { key: path.display().to_string(), source })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Items::new(),
            Err(source) => return Err(Error::File { path: path.to_owned(), source }),
        };
        Ok(Self { path: path.to_owned(), items: Mutex::new(items), writing: Arc::default() })
    }

    /// The last answer about a key; the outer `None`: it was never answered.
    pub(super) fn get(&self, key: &str) -> Option<Option<Item>> {
        self.items.lock().get(key).cloned()
    }

    /// Notes the item (`None`: there is no such key) and writes the file, by renaming, so that a crash leaves the old one.
    pub(super) async fn put(&self, key: &str, item: Option<Item>) -> Result<(), Error> {
        let changed = {
            let mut items = self.items.lock();
            let differs = items.get(key) != Some(&item);
            if differs {
                items.insert(key.to_owned(), item);
            }
            differs
        };
        if !changed {
            return Ok(());
        }
        let _turn = self.writing.lock().await;
        let text = serde_json::to_vec_pretty(&*self.items.lock())
            .map_err(|error| Error::Request(error.to_string()))?;
        let path = self.path.clone();
        let written = tokio::task::spawn_blocking(move || replace(&path, &text)).await;
        let result = written.unwrap_or_else(|error| Err(io::Error::other(error)));
        result.map_err(|source| Error::File { path: self.path.clone(), source })
    }
}

fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;

    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    let mut file =
        std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(text)?;
    file.sync_all()?;
    std::fs::rename(&new, path)
}
