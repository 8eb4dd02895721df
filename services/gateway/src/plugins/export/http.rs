//! Batches as HTTP requests over one kept connection.

use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::client::{TlsSettingsError, TlsSpec, TlsTarget};

/// Bytes of a receiver's answer that are read; it is not looked at.
const ANSWER_LIMIT: usize = 64 * 1024;

/// Limits of one exchange.
#[derive(Clone, Copy, Debug)]
pub(in crate::plugins) struct Timeouts {
    pub connect: Duration,
    pub send: Duration,
    pub read: Duration,
    /// An idle connection is not used again after this.
    pub idle: Duration,
}

impl Timeouts {
    /// From milliseconds; connections are kept for Kong's default of a minute.
    pub fn of(connect: u64, send: u64, read: u64) -> Timeouts {
        Timeouts {
            connect: Duration::from_millis(connect),
            send: Duration::from_millis(send),
            read: Duration::from_millis(read),
            idle: Duration::from_secs(60),
        }
    }
}

/// Where to and how.
#[derive(Debug)]
pub(in crate::plugins) struct Endpoint {
    host: String,
    port: u16,
    tls: Option<(ServerName<'static>, Arc<ClientConfig>)>,
    path: Uri,
    method: Method,
    headers: HeaderMap,
    timeouts: Timeouts,
}

/// TLS without looking at the certificate: what Kong's log plugins do.
pub(in crate::plugins) fn unverified(host: &str) -> Result<TlsTarget, TlsSettingsError> {
    TlsTarget::new(&TlsSpec::of(host, false))
}

/// TLS with the system's certificate authorities.
pub(in crate::plugins) fn trusted(host: &str) -> Result<TlsTarget, TlsSettingsError> {
    TlsTarget::new(&TlsSpec::of(host, true))
}

/// `user:password@` of a URL as an Authorization header.
fn basic(user_info: &str) -> Option<HeaderValue> {
    let decoded = percent_encoding::percent_decode_str(user_info).collect::<Vec<u8>>();
    let mut value = HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(decoded))).ok()?;
    value.set_sensitive(true);
    Some(value)
}

impl Endpoint {
    /// # Errors
    /// A URL or header that cannot be used; the message names it.
    pub fn new(
        url: &str,
        method: Method,
        mut headers: HeaderMap,
        timeouts: Timeouts,
        tls: impl Fn(&str) -> Result<TlsTarget, TlsSettingsError>,
    ) -> Result<Endpoint, String> {
        let uri: Uri = url.parse().map_err(|_| format!("{url:?} is not a URL"))?;
        let authority = uri.authority().ok_or_else(|| format!("{url:?} has no host"))?;
        let secure = uri.scheme_str() == Some("https");
        let bare = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = authority.port_u16();
        let host_header = match port {
            Some(port) => format!("{}:{port}", authority.host()),
            None => authority.host().to_owned(),
        };
        let host_header = HeaderValue::from_str(&host_header).map_err(|_| format!("bad host in {url:?}"))?;
        headers.insert(header::HOST, host_header);
        if let Some((user_info, _)) = authority.as_str().rsplit_once('@')
            && let Some(authorization) = basic(user_info)
        {
            headers.insert(header::AUTHORIZATION, authorization);
        }
        let tls = if secure {
            let target = tls(&bare).map_err(|error| plinth_kit::problem::chain(&error))?;
            Some((target.server_name, target.config))
        } else {
            None
        };
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        Ok(Endpoint {
            port: port.unwrap_or(if secure { 443 } else { 80 }),
            tls,
            path: path.parse().map_err(|_| format!("bad path in {url:?}"))?,
            host: bare,
            method,
            headers,
            timeouts,
        })
    }
}

/// How a batch becomes a body.
#[derive(Clone, Debug)]
pub(in crate::plugins) enum Body {
    /// The one entry as it is.
    Single,
    /// A JSON array.
    Array,
    /// A protobuf message that ends with the entries as repeated field 2, inside two more messages: OTLP's shape.
    Otlp {
        /// The encoded resource.
        resource: Bytes,
        /// The encoded scope.
        scope: Bytes,
    },
}

impl Body {
    fn of(&self, batch: &[Vec<u8>]) -> Bytes {
        let size: usize = batch.iter().map(Vec::len).sum();
        match self {
            Body::Single => batch.first().cloned().unwrap_or_default().into(),
            Body::Array => {
                let mut body = Vec::with_capacity(size + batch.len() + 2);
                body.push(b'[');
                for (at, entry) in batch.iter().enumerate() {
                    if at > 0 {
                        body.push(b',');
                    }
                    body.extend_from_slice(entry.trim_ascii_end());
                }
                body.push(b']');
                body.into()
            }
            Body::Otlp { resource, scope } => {
                let mut entries = Vec::with_capacity(size + 16 * batch.len() + scope.len());
                field(1, scope, &mut entries);
                for entry in batch {
                    field(2, entry, &mut entries);
                }
                let mut of_resource = Vec::with_capacity(entries.len() + resource.len() + 32);
                field(1, resource, &mut of_resource);
                field(2, &entries, &mut of_resource);
                let mut body = Vec::with_capacity(of_resource.len() + 16);
                field(1, &of_resource, &mut body);
                body.into()
            }
        }
    }
}

/// A length-delimited protobuf field.
fn field(tag: u32, content: &[u8], out: &mut Vec<u8>) {
    prost::encoding::encode_key(tag, prost::encoding::WireType::LengthDelimited, out);
    prost::encoding::encode_varint(content.len() as u64, out);
    out.extend_from_slice(content);
}

/// The sink.
pub(in crate::plugins) struct Http {
    endpoint: Arc<Endpoint>,
    body: Body,
    connection: Option<(SendRequest<Full<Bytes>>, Instant)>,
}

impl Http {
    pub fn new(endpoint: Arc<Endpoint>, body: Body) -> Http {
        Http { endpoint, body, connection: None }
    }

    pub async fn send(&mut self, batch: &[Vec<u8>]) -> Result<(), String> {
        let body = self.body.of(batch);
        let kept = self.connection.take();
        let idle = self.endpoint.timeouts.idle;
        if let Some((mut sender, since)) = kept
            && since.elapsed() < idle
            && sender.ready().await.is_ok()
        {
            // A kept connection may have been closed meanwhile: then a new one is tried at once.
            match self.exchange(&mut sender, body.clone()).await {
                Ok(status) => return self.keep(sender, status),
                Err(Lost::Connection) => {}
                Err(Lost::Exchange(why)) => return Err(why),
            }
        }
        let mut sender = self.connect().await?;
        match self.exchange(&mut sender, body).await {
            Ok(status) => self.keep(sender, status),
            Err(Lost::Connection) => Err("the connection was closed before an answer".to_owned()),
            Err(Lost::Exchange(why)) => Err(why),
        }
    }

    fn keep(&mut self, sender: SendRequest<Full<Bytes>>, status: http::StatusCode) -> Result<(), String> {
        self.connection = Some((sender, Instant::now()));
        if status.as_u16() < 300 { Ok(()) } else { Err(format!("answered with status {}", status.as_u16())) }
    }

    async fn exchange(
        &self,
        sender: &mut SendRequest<Full<Bytes>>,
        body: Bytes,
    ) -> Result<http::StatusCode, Lost> {
        let Endpoint { path, method, headers, timeouts, .. } = &*self.endpoint;
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method.clone();
        *request.uri_mut() = path.clone();
        *request.headers_mut() = headers.clone();
        let limit = timeouts.send.saturating_add(timeouts.read);
        let answer = tokio::time::timeout(limit, sender.send_request(request)).await;
        let answer = match answer {
            Err(_) => return Err(Lost::Exchange(format!("no answer within {limit:?}"))),
            Ok(Err(error)) if error.is_canceled() || error.is_closed() || error.is_incomplete_message() => {
                return Err(Lost::Connection);
            }
            Ok(Err(error)) => return Err(Lost::Exchange(plinth_kit::problem::chain(&error))),
            Ok(Ok(answer)) => answer,
        };
        let status = answer.status();
        let rest = Limited::new(answer.into_body(), ANSWER_LIMIT).collect();
        match tokio::time::timeout(timeouts.read, rest).await {
            Ok(Ok(_)) => Ok(status),
            Ok(Err(error)) => Err(Lost::Exchange(format!("the answer cannot be read: {error}"))),
            Err(_) => Err(Lost::Exchange(format!("the answer did not end within {:?}", timeouts.read))),
        }
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, String> {
        let Endpoint { host, port, tls, timeouts, .. } = &*self.endpoint;
        let connecting = async {
            let stream = TcpStream::connect((host.as_str(), *port)).await?;
            stream.set_nodelay(true)?;
            Ok(stream)
        };
        let failed = |why: std::io::Error| format!("cannot connect to {host}:{port}: {why}");
        let late = |_| format!("cannot connect to {host}:{port} within {:?}", timeouts.connect);
        let limit = |future| tokio::time::timeout(timeouts.connect, future);
        let stream = limit(connecting).await.map_err(late)?.map_err(failed)?;
        let shaken = |error: hyper::Error| plinth_kit::problem::chain(&error);
        match tls {
            None => {
                let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(shaken)?;
                drive(connection);
                Ok(sender)
            }
            Some((name, config)) => {
                let tls = TlsConnector::from(Arc::clone(config)).connect(name.clone(), stream);
                let stream =
                    tokio::time::timeout(timeouts.connect, tls).await.map_err(late)?.map_err(failed)?;
                let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(shaken)?;
                drive(connection);
                Ok(sender)
            }
        }
    }
}

enum Lost {
    Connection,
    Exchange(String),
}

/// The connection lives in a task of its own, which ends with the sender.
fn drive<F>(connection: F)
where
    F: Future<Output = hyper::Result<()>> + Send + 'static,
{
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a log receiver's connection ended badly");
        }
    });
}
