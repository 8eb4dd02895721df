//! The ACL token: fixed, or from a file that may be replaced while we run.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use http::HeaderValue;
use parking_lot::Mutex;

use super::Settings;
use crate::{Error, Secret};

/// How long a token read from a file is used before the file is looked at again.
const REREAD: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) enum Token {
    None,
    Fixed(HeaderValue),
    File { path: PathBuf, cached: Mutex<Option<(Instant, HeaderValue)>> },
}

impl Token {
    pub(super) fn new(settings: &Settings) -> Result<Self, Error> {
        if let Some(path) = &settings.token_file {
            return Ok(Self::File { path: path.clone(), cached: Mutex::new(None) });
        }
        match &settings.token {
            Some(token) => Ok(Self::Fixed(header(token)?)),
            None => Ok(Self::None),
        }
    }

    pub(super) async fn get(&self) -> Result<Option<HeaderValue>, Error> {
        let (path, cached) = match self {
            Self::None => return Ok(None),
            Self::Fixed(value) => return Ok(Some(value.clone())),
            Self::File { path, cached } => (path, cached),
        };
        if let Some((read, value)) = &*cached.lock()
            && read.elapsed() < REREAD
        {
            return Ok(Some(value.clone()));
        }
        let text = tokio::fs::read_to_string(path)
            .await
            .map_err(|source| Error::File { path: path.clone(), source })?;
        let value = header(&Secret::new(text.trim()))?;
        *cached.lock() = Some((Instant::now(), value.clone()));
        Ok(Some(value))
    }

    /// After a 403: the next request reads the file again.
    pub(super) fn refused(&self) {
        if let Self::File { cached, .. } = self {
            *cached.lock() = None;
        }
    }
}

fn header(token: &Secret) -> Result<HeaderValue, Error> {
    let mut value = HeaderValue::from_str(token.expose()).map_err(|_| Error::Setting {
        name: "token",
        message: "holds characters that cannot be in a header".to_owned(),
    })?;
    value.set_sensitive(true);
    Ok(value)
}
