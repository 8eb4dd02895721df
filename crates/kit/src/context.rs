//! What a service is given when it starts.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::handler::Handler;
use plinth_core::consul;
use plinth_core::health::Components;
use plinth_core::identity::Identity;
use tower::{Layer, ServiceBuilder};
use utoipa::openapi::OpenApi;

use crate::auth::{Auth, AuthError};
use crate::health::{self, HealthState, Readiness};
use crate::lifecycle::{Advertise, AdvertiseError, Shutdown};
use crate::mtls::{Mtls, MtlsError};
use crate::problem;
use crate::server::{BoundListener, ServerError, TlsError, TlsSource};
use crate::service::{Service, ServiceSettings};
use crate::telemetry::{EdgeLayer, EdgeSettings, Expiry, Metrics, inject_trace_context};
use crate::{openapi, server};

/// Deadline of one component check and the time for which a report is reused.
const CHECK_TIMES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(1));

/// Why a context cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    #[error("the Consul client cannot be set up")]
    Consul(#[source] plinth_core::Error),
    #[error("authentication cannot be set up")]
    Auth(#[from] AuthError),
    #[error("TLS cannot be set up")]
    Tls(#[from] TlsError),
    #[error("mutual TLS cannot be set up")]
    Mtls(#[from] MtlsError),
    #[error("metrics cannot be set up")]
    Metrics(#[from] prometheus::Error),
    #[error("the OpenAPI document cannot be written")]
    Document(#[from] serde_json::Error),
    #[error("this service has no listen setting")]
    NoListen,
    #[error("the service cannot listen")]
    Server(#[from] ServerError),
}

/// Everything a service shares with its process and with kit. Cheap to clone.
#[derive(Clone)]
pub struct Context {
    /// Name of the service.
    pub service: &'static str,
    pub version: &'static str,
    pub settings: Arc<ServiceSettings>,
    /// Carries the current trace to Consul.
    pub consul: consul::Client,
    pub metrics: Metrics,
    pub shutdown: Shutdown,
    pub auth: Auth,
    pub advertise: Advertise,
    /// The process's multi-thread runtime.
    pub control: tokio::runtime::Handle,
    /// Component checks behind `/health`; `consul` is there already.
    pub components: Components,
    /// What must be so before `/health/ready` says 200.
    pub readiness: Readiness,
    pub started: Instant,
    /// The service's identity, with mutual TLS.
    pub mtls: Option<Mtls>,
    tls: Option<TlsSource>,
}

impl Context {
    /// Builds the context of one service from its settings. `shutdown` is shared by what stops together.
    ///
    /// # Errors
    /// Keys, certificates or tokens that cannot be used.
    pub async fn new(
        service: &Service,
        settings: ServiceSettings,
        shutdown: Shutdown,
        control: tokio::runtime::Handle,
    ) -> Result<Context, ContextError> {
        let consul = consul::Client::new(settings.consul.clone())
            .map_err(ContextError::Consul)?
            .with_header_hook(Arc::new(inject_trace_context));
        let metrics = Metrics::new(service.name, service.version)?;
        let mtls = match &settings.mtls {
            Some(mtls) => Some(Mtls::start(mtls, service.name, &consul, &control).await?),
            None => None,
        };
        let tls = match (&settings.tls, &mtls) {
            (_, Some(mtls)) => Some(TlsSource::mutual(mtls.clone())?),
            (Some(tls), None) => Some(TlsSource::start(tls.clone(), &control)?),
            (None, None) => None,
        };
        let auth = Auth::start(settings.auth.clone(), &control).await?;
        if auth.is_open() {
            tracing::warn!(
                service = service.name,
                "no key verifies tokens: every caller on this machine may do everything"
            );
        }
        let components = Components::new(CHECK_TIMES.0, CHECK_TIMES.1);
        add_consul_check(&components, &consul);
        if let Some(mtls) = &mtls {
            mtls.register(&metrics.registry)?;
            add_identity_check(&components, mtls.clone());
        }
        show_expiry(&metrics, tls.as_ref(), mtls.as_ref());
        Ok(Context {
            service: service.name,
            version: service.version,
            metrics,
            advertise: settings.advertise.clone(),
            settings: Arc::new(settings),
            consul,
            shutdown,
            auth,
            control,
            components,
            readiness: Readiness::new(),
            started: Instant::now(),
            mtls,
            tls,
        })
    }

    /// Binds `listen`, with TLS when it is set. Do it first: clients may connect from then on.
    ///
    /// # Errors
    /// The address cannot be bound, or the service has no `listen` setting.
    pub async fn bind(&self) -> Result<BoundListener, ContextError> {
        let listen = self.settings.listen.ok_or(ContextError::NoListen)?;
        Ok(self.bind_at("http", listen).await?)
    }

    /// Binds a further address under a name, with the same TLS.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub async fn bind_at(
        &self,
        name: &'static str,
        address: SocketAddr,
    ) -> Result<BoundListener, ServerError> {
        server::BoundListener::bind(name, address, self.tls.clone()).await
    }

    /// Takes over a socket that another process has bound, with the same TLS.
    ///
    /// # Errors
    /// It is no listening socket.
    pub fn adopt(
        &self,
        name: &'static str,
        socket: std::net::TcpListener,
    ) -> Result<BoundListener, ServerError> {
        server::BoundListener::adopt(name, socket, self.tls.clone())
    }

    /// The service's identity for calls to other services, with mutual TLS.
    pub fn identity(&self) -> Option<Identity> {
        self.mtls.as_ref().map(|mtls| mtls.identity.clone())
    }

    /// The id under which a service that listens on `listen` registers itself: `service_id`, else
    /// `<name>-<host>-<port>`.
    ///
    /// # Errors
    /// No address to advertise.
    pub fn service_id(&self, listen: SocketAddr) -> Result<String, AdvertiseError> {
        let (host, port) = self.advertise.endpoint(listen)?;
        let given = self.settings.registration.id.clone();
        Ok(given.unwrap_or_else(|| format!("{}-{}-{port}", self.service, host.replace([':', '%'], "-"))))
    }

    /// The port of a status listener, where it can be reached under `host`: it goes into the catalog, so that who scrapes
    /// or looks finds it.
    pub fn status_port(&self, host: &str, status: SocketAddr) -> Option<u16> {
        self.advertise.endpoint(status).ok().filter(|(reached, _)| reached == host).map(|(_, port)| port)
    }

    /// The layer that every request passes, with the given time until an answer's head.
    pub fn edge(&self, timeout: Duration) -> EdgeLayer {
        EdgeLayer::new(EdgeSettings {
            service: self.service,
            auth: self.auth.clone(),
            metrics: self.metrics.http.clone(),
            shutdown: self.shutdown.clone(),
            timeout,
        })
    }

    /// The whole router of a service: its routes, and beside them health, metrics, document and Swagger UI; problem
    /// documents for unknown paths and methods; body limit, timeout, metrics, trace, panics.
    ///
    /// # Errors
    /// A document that cannot be serialised.
    pub fn router(&self, routes: Routes, document: OpenApi) -> Result<Router, ContextError> {
        let short = self.edge(self.settings.server.request_timeout);
        let long = self.edge(self.settings.server.long_poll_timeout);
        let standard = health::routes(self.health_state()).merge(openapi::routes(document)?);
        let quick = self.layered(routes.quick.merge(standard), short.clone());
        let waiting = self.layered(routes.waiting, long);
        let unknown = short.layer(problem::not_found.with_state(()));
        Ok(quick.merge(waiting).fallback_service(unknown))
    }

    /// What the status listener serves: health and metrics, nothing else.
    pub(crate) fn status_router(&self) -> Router {
        let edge = self.edge(self.settings.server.request_timeout);
        let unknown = edge.layer(problem::not_found.with_state(()));
        self.layered(health::routes(self.health_state()), edge).fallback_service(unknown)
    }

    /// `/health`, `/health/live` and `/health/ready`, for a service with a status listener of its own.
    pub fn probe_routes(&self) -> Router {
        health::probes(self.health_state())
    }

    fn layered(&self, router: Router, edge: EdgeLayer) -> Router {
        let limit = DefaultBodyLimit::max(self.settings.server.max_body);
        router
            .method_not_allowed_fallback(problem::method_not_allowed)
            .layer(ServiceBuilder::new().layer(edge).layer(limit))
    }

    fn health_state(&self) -> HealthState {
        HealthState::new(
            (self.service, self.version),
            self.started,
            self.readiness.clone(),
            self.components.clone(),
            self.metrics.clone(),
        )
    }
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("service", &self.service).finish_non_exhaustive()
    }
}

/// The routes of a service's own, by how long they may take.
#[derive(Debug, Default)]
pub struct Routes {
    quick: Router,
    waiting: Router,
}

impl Routes {
    /// Routes that answer within `server.request_timeout`. Their state is applied (`Router::with_state`).
    pub fn new(quick: Router) -> Routes {
        Routes { quick, waiting: Router::new() }
    }

    /// Routes that may wait for a change, up to `server.long_poll_timeout`. Their handlers end their wait when
    /// [`Shutdown::stopping`] does, else they hold up the end of the process.
    #[must_use]
    pub fn waiting(mut self, routes: Router) -> Routes {
        self.waiting = self.waiting.merge(routes);
        self
    }
}

fn add_consul_check(components: &Components, consul: &consul::Client) {
    let consul = consul.clone();
    components.add("consul", false, move || {
        let status = consul.status();
        async move {
            match status.leader().await {
                Ok(leader) => Ok(serde_json::json!({"leader": leader})),
                Err(error) => {
                    tracing::debug!(error = problem::chain(&error), "Consul does not answer");
                    Err("Consul does not answer".to_owned())
                }
            }
        }
    });
}

fn add_identity_check(components: &Components, mtls: Mtls) {
    components.add("identity", false, move || {
        let report = mtls.report(jiff::Timestamp::now());
        async move { report }
    });
}

fn show_expiry(metrics: &Metrics, tls: Option<&TlsSource>, mtls: Option<&Mtls>) {
    let shown = |name: &str, at: Option<jiff::Timestamp>| {
        at.map(|at| Expiry { name: name.to_owned(), at }).into_iter().collect()
    };
    if let Some(mtls) = mtls {
        let identity = mtls.identity.clone();
        metrics.certificates.add("mtls", move || {
            let current = identity.current();
            shown(current.id().map_or("default", |id| id.as_str()), current.expires())
        });
    } else if let Some(tls) = tls.cloned() {
        metrics.certificates.add("tls", move || shown("default", tls.expires()));
    }
}
