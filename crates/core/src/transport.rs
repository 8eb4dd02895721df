//! One pooled HTTP/1.1 client for one server, over TCP, TLS or a unix socket, with a hard deadline on every request.
//!
//! Shared by the Consul client and the configuration client. Not the gateway's data plane.

mod connector;
mod io;
mod tls;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Body as _;
use hyper_util::client::legacy::Client as Pool;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use crate::Error;
pub(crate) use connector::Connector;
pub use io::Io;
pub(crate) use tls::{TlsSettings, client_config};

/// Idle connections kept to the server; Consul allows 200 per client address in all.
const MAX_IDLE: usize = 32;
const IDLE: Duration = Duration::from_secs(30);

/// Where the server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// `host:port`, plain HTTP.
    Http(String),
    /// `host:port`, TLS.
    Https(String),
    /// HTTP over a unix socket.
    Unix(PathBuf),
}

impl Address {
    /// What goes before the path in a request's URI.
    fn origin(&self) -> String {
        match self {
            Self::Http(host) => format!("http://{host}"),
            Self::Https(host) => format!("https://{host}"),
            Self::Unix(_) => "http://localhost".to_owned(),
        }
    }
}

type HttpPool = Pool<Connector, Full<Bytes>>;

/// Cheap to share; all clones use one pool.
#[derive(Debug)]
pub(crate) struct Transport {
    connector: Connector,
    pool: ArcSwap<HttpPool>,
    origin: String,
    max_body: usize,
}

/// A request before it has an origin.
pub(crate) struct Outgoing {
    pub method: http::Method,
    /// Path and query, already percent-encoded.
    pub path_and_query: String,
    pub headers: http::HeaderMap,
    pub body: Bytes,
}

pub(crate) struct Incoming {
    pub status: http::StatusCode,
    pub headers: http::HeaderMap,
    pub body: Bytes,
}

impl Transport {
    pub(crate) fn new(
        address: &Address,
        tls: &TlsSettings,
        connect_timeout: Duration,
        max_body: usize,
    ) -> Result<Self, Error> {
        let connector = Connector::new(address, tls, connect_timeout)?;
        let pool = ArcSwap::from_pointee(new_pool(&connector));
        Ok(Self { connector, pool, origin: address.origin(), max_body })
    }

    /// Sends and reads the whole answer within `deadline`.
    pub(crate) async fn send(&self, request: Outgoing, deadline: Duration) -> Result<Incoming, Error> {
        let method = request.method.clone();
        let path = path_only(&request.path_and_query).to_owned();
        match tokio::time::timeout(deadline, self.exchange(request)).await {
            Ok(result) => result,
            Err(_) => {
                // A timeout is how a half-open connection shows; its idle siblings are likely as dead, so none is reused.
                self.pool.store(Arc::new(new_pool(&self.connector)));
                Err(Error::Timeout { method: method.to_string(), path, after: deadline })
            }
        }
    }

    async fn exchange(&self, request: Outgoing) -> Result<Incoming, Error> {
        let Outgoing { method, path_and_query, headers, body } = request;
        let path = path_only(&path_and_query).to_owned();
        let transport = |source: Box<dyn std::error::Error + Send + Sync>| Error::Transport {
            method: method.to_string(),
            path: path.clone(),
            source,
        };
        let mut wire = http::Request::builder()
            .method(method.clone())
            .uri(format!("{}{path_and_query}", self.origin))
            .body(Full::new(body))
            .map_err(|error| Error::Request(error.to_string()))?;
        wire.headers_mut().extend(headers);

        let response =
            self.pool.load_full().request(wire).await.map_err(|error| transport(Box::new(error)))?;
        let (head, mut body) = response.into_parts();
        let too_large =
            || Error::TooLarge { method: method.to_string(), path: path.clone(), limit: self.max_body };
        let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
        if announced > self.max_body {
            return Err(too_large());
        }
        let mut collected = BytesMut::with_capacity(announced);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| transport(Box::new(error)))?;
            if let Some(data) = frame.data_ref() {
                if collected.len() + data.len() > self.max_body {
                    return Err(too_large());
                }
                collected.extend_from_slice(data);
            }
        }
        Ok(Incoming { status: head.status, headers: head.headers, body: collected.freeze() })
    }
}

fn new_pool(connector: &Connector) -> HttpPool {
    Pool::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(MAX_IDLE)
        .build(connector.clone())
}

/// The path without the query, which may hold what does not belong into an error or a span.
pub(crate) fn path_only(path_and_query: &str) -> &str {
    path_and_query.split_once('?').map_or(path_and_query, |(path, _)| path)
}
