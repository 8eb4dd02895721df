//! The client: one request, its deadline, its span, its errors.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use tokio::sync::{Notify, Semaphore};
use tracing::Instrument as _;

use super::call::{Answer, Call};
use super::token::Token;
use super::{Agent, Catalog, Connect, Health, Kv, Sessions, Settings, Status};
use crate::Error;
use crate::transport::{Outgoing, TlsSettings, Transport, path_only};

/// Called on the headers of each outgoing request, inside the request's span.
pub type HeaderHook = Arc<dyn Fn(&mut HeaderMap) + Send + Sync>;

const TOKEN: HeaderName = HeaderName::from_static("x-consul-token");
const NAMESPACE: HeaderName = HeaderName::from_static("x-consul-namespace");

/// A pooled client; clones share the pool and the limits.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
    hook: Option<HeaderHook>,
}

struct Inner {
    transport: Transport,
    token: Token,
    namespace: Option<HeaderValue>,
    datacenter: Option<String>,
    request_timeout: Duration,
    max_blocking: usize,
    blocking: Semaphore,
    /// Wakes watches out of their backoff once any request succeeds again.
    recovered: Notify,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("transport", &self.inner.transport).finish_non_exhaustive()
    }
}

impl Client {
    /// Opens no connection yet. Fails on unusable TLS material or token.
    pub fn new(settings: Settings) -> Result<Self, Error> {
        let tls = TlsSettings {
            ca_cert: settings.ca_cert.clone(),
            client_cert: settings.client_cert.clone(),
            client_key: settings.client_key.clone(),
            mesh: None,
        };
        let namespace = match &settings.namespace {
            Some(text) => Some(HeaderValue::from_str(text).map_err(|_| Error::Setting {
                name: "namespace",
                message: format!("{text:?} cannot be in a header"),
            })?),
            None => None,
        };
        let transport =
            Transport::new(&settings.address, &tls, settings.connect_timeout, settings.max_answer)?;
        Ok(Self {
            inner: Arc::new(Inner {
                transport,
                token: Token::new(&settings)?,
                namespace,
                datacenter: settings.datacenter,
                request_timeout: settings.request_timeout,
                max_blocking: settings.max_blocking,
                blocking: Semaphore::new(settings.max_blocking),
                recovered: Notify::new(),
            }),
            hook: None,
        })
    }

    /// The same client whose requests pass through `hook`, for example to carry W3C trace context.
    pub fn with_header_hook(mut self, hook: HeaderHook) -> Self {
        self.hook = Some(hook);
        self
    }

    pub fn kv(&self) -> Kv {
        Kv::new(self.clone())
    }

    pub fn agent(&self) -> Agent {
        Agent::new(self.clone())
    }

    pub fn catalog(&self) -> Catalog {
        Catalog::new(self.clone())
    }

    pub fn health(&self) -> Health {
        Health::new(self.clone())
    }

    pub fn session(&self) -> Sessions {
        Sessions::new(self.clone())
    }

    pub fn status(&self) -> Status {
        Status::new(self.clone())
    }

    pub fn connect(&self) -> Connect {
        Connect::new(self.clone())
    }

    /// Blocking queries that run right now.
    pub fn blocking_in_use(&self) -> usize {
        self.inner.max_blocking - self.inner.blocking.available_permits()
    }

    pub(crate) async fn recovered(&self) {
        self.inner.recovered.notified().await;
    }

    /// Sends; 2xx and the statuses in `also` come back, every other status is an error.
    pub(super) async fn send(&self, call: Call<'_>) -> Result<Answer, Error> {
        let path_and_query = call.path_and_query(self.inner.datacenter.as_deref());
        let path = path_only(&path_and_query).to_owned();
        let span = tracing::info_span!(
            "consul",
            otel.kind = "client",
            http.request.method = %call.method,
            url.path = %path,
            http.response.status_code = tracing::field::Empty,
        );
        self.send_in_span(call, path_and_query, path).instrument(span).await
    }

    async fn send_in_span(
        &self,
        call: Call<'_>,
        path_and_query: String,
        path: String,
    ) -> Result<Answer, Error> {
        let inner = &*self.inner;
        let (_place, deadline) = match call.blocks() {
            Some(wait) => (Some(self.place_for_blocking().await?), wait + wait / 16 + inner.request_timeout),
            None => (None, inner.request_timeout),
        };
        let request = Outgoing {
            method: call.method.clone(),
            path_and_query,
            headers: self.headers(call.json).await?,
            body: call.body.clone(),
        };
        let incoming = inner.transport.send(request, deadline).await?;
        tracing::Span::current().record("http.response.status_code", incoming.status.as_u16());
        if incoming.status == StatusCode::FORBIDDEN {
            inner.token.refused();
        }
        if !incoming.status.is_server_error() {
            inner.recovered.notify_waiters();
        }
        let answer = Answer { method: call.method, path, incoming };
        if answer.incoming.status.is_success() || call.also.contains(&answer.incoming.status.as_u16()) {
            Ok(answer)
        } else {
            Err(answer.into_error())
        }
    }

    /// A taken-up cap must not hang a caller for ever, so waiting for a place has the deadline of a plain request.
    async fn place_for_blocking(&self) -> Result<tokio::sync::SemaphorePermit<'_>, Error> {
        let saturated = || Error::Saturated { limit: self.inner.max_blocking };
        tokio::time::timeout(self.inner.request_timeout, self.inner.blocking.acquire())
            .await
            .map_err(|_| saturated())?
            .map_err(|_| saturated())
    }

    async fn headers(&self, json: bool) -> Result<HeaderMap, Error> {
        let mut headers = HeaderMap::new();
        if let Some(token) = self.inner.token.get().await? {
            headers.insert(TOKEN, token);
        }
        if let Some(namespace) = &self.inner.namespace {
            headers.insert(NAMESPACE, namespace.clone());
        }
        if json {
            headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        if let Some(hook) = &self.hook {
            hook(&mut headers);
        }
        Ok(headers)
    }
}
