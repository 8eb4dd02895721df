//! The HTTP side.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::{ConfigSettings, Item};
use crate::Error;
use crate::consul::duration;
use crate::transport::{Outgoing, TlsSettings, Transport, path_only};

const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
const KEY: &AsciiSet = &SEGMENT.remove(b'/');
const MAX_ANSWER: usize = 4 << 20;
const MAX_ERROR_TEXT: usize = 4096;

#[derive(Debug)]
pub(super) struct Remote {
    transport: Transport,
    authorization: Option<HeaderValue>,
    /// `/api/v1/config/<namespace>/<environment>/`
    base: String,
    request_timeout: Duration,
}

pub(super) struct Answer {
    pub item: Option<Item>,
    /// To poll after.
    pub index: u64,
}

impl Remote {
    pub(super) fn new(settings: &ConfigSettings) -> Result<Self, Error> {
        let tls = TlsSettings { ca_cert: settings.ca_cert.clone(), ..TlsSettings::default() };
        let authorization = match &settings.token {
            Some(token) => Some(bearer(token.expose())?),
            None => None,
        };
        let base = format!(
            "/api/v1/config/{}/{}/",
            utf8_percent_encode(&settings.namespace, SEGMENT),
            utf8_percent_encode(&settings.environment, SEGMENT)
        );
        Ok(Self {
            transport: Transport::new(&settings.address, &tls, settings.connect_timeout, MAX_ANSWER)?,
            authorization,
            base,
            request_timeout: settings.request_timeout,
        })
    }

    /// The item now, or with `after` (index, wait) once it has changed after that index.
    pub(super) async fn get(&self, key: &str, after: Option<(u64, Duration)>) -> Result<Answer, Error> {
        let mut path = format!("{}{}", self.base, utf8_percent_encode(key, KEY));
        let mut deadline = self.request_timeout;
        if let Some((index, wait)) = after {
            path.push_str(&format!("?index={index}&wait={}", duration::format(wait)));
            deadline += wait;
        }
        let mut headers = HeaderMap::new();
        if let Some(authorization) = &self.authorization {
            headers.insert(http::header::AUTHORIZATION, authorization.clone());
        }
        let shown = path_only(&path).to_owned();
        let request = Outgoing { method: Method::GET, path_and_query: path, headers, body: Bytes::new() };
        let incoming = self.transport.send(request, deadline).await?;
        let index =
            incoming.headers.get("x-plinth-index").and_then(|value| value.to_str().ok()?.parse().ok());
        let from_service = index.is_some();
        let index = index.unwrap_or(0);
        match incoming.status.as_u16() {
            200 => {
                let item: Item = serde_json::from_slice(&incoming.body).map_err(|source| Error::Decode {
                    method: "GET".to_owned(),
                    path: shown,
                    source,
                })?;
                Ok(Answer { item: Some(item), index })
            }
            // Only the service itself gives an index. Another 404 (a wrong address, a gateway without the route) says nothing
            // about the key and must not make defaults current or spoil the last-good file.
            404 if from_service => Ok(Answer { item: None, index }),
            status => Err(Error::Status {
                method: "GET".to_owned(),
                path: shown,
                status,
                body: String::from_utf8_lossy(&incoming.body[..incoming.body.len().min(MAX_ERROR_TEXT)])
                    .into_owned(),
            }),
        }
    }
}

fn bearer(token: &str) -> Result<HeaderValue, Error> {
    let mut value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| Error::Setting {
        name: "token",
        message: "holds characters that cannot be in a header".to_owned(),
    })?;
    value.set_sensitive(true);
    Ok(value)
}
