//! A running service: its listeners, tasks and registration, and their orderly end.

use std::future::Future;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use futures_util::FutureExt;
use parking_lot::Mutex;
use plinth_core::registration::{
    CheckSpec, Owner, Registrar, Registration, SelfRegistration, SelfState, Timing, host_port,
};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::lifecycle::{AdvertiseError, Shutdown};
use crate::mtls::MtlsSource;
use crate::server::{BoundListener, ServerError, Stop, serve};
use crate::telemetry::SCOPE_TARGET;
use crate::{Context, StatusListen};

/// Any error.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Name of the listener that only has health and metrics.
const STATUS: &str = "status";
/// Longest wait for deregistration before the drain goes on without it.
const DEREGISTER_LIMIT: Duration = Duration::from_secs(3);
/// Time for tasks to end after they have been told to, when the shutdown's own limit is already over.
const TASK_GRACE: Duration = Duration::from_secs(1);

/// Something that a service listens on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listening {
    /// `http`, `proxy`, `admin`.
    pub name: &'static str,
    pub address: SocketAddr,
    /// `http` or `https`.
    pub scheme: &'static str,
}

impl std::fmt::Display for Listening {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} listening on {}://{}", self.name, self.scheme, self.address)
    }
}

/// Why a service ended other than as asked.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    #[error("task {name} failed")]
    Task { name: &'static str, source: BoxError },
    #[error("task {name} panicked: {message}")]
    Panicked { name: &'static str, message: String },
    #[error("the service cannot tell others where it is")]
    Advertise(#[from] AdvertiseError),
    #[error("the service cannot be registered: {0}")]
    Registration(String),
    #[error("the status listener cannot be set up")]
    Status(#[from] ServerError),
    #[error("the service's supervisor ended")]
    Supervisor(#[from] tokio::task::JoinError),
}

type Task = Pin<Box<dyn Future<Output = Result<(), AppError>> + Send>>;
type Server = Box<dyn FnOnce(Stop) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send>;

/// Puts a service together; [`AppBuilder::start`] sets it going.
pub struct AppBuilder {
    context: Context,
    addresses: Vec<Listening>,
    servers: Vec<Server>,
    tasks: Vec<Task>,
    /// Tells tasks to end, after the last request.
    stop: CancellationToken,
    registration: Option<Registration>,
}

impl AppBuilder {
    /// An empty service.
    pub fn new(context: &Context) -> AppBuilder {
        AppBuilder {
            context: context.clone(),
            addresses: Vec::new(),
            servers: Vec::new(),
            tasks: Vec::new(),
            stop: CancellationToken::new(),
            registration: None,
        }
    }

    /// Serves `router`, usually [`Context::router`], on `listener`. The first one is what the service registers
    /// itself with.
    #[must_use]
    pub fn http(mut self, listener: BoundListener, router: Router) -> AppBuilder {
        self.addresses.push(Listening {
            name: listener.name(),
            address: listener.address(),
            scheme: listener.scheme(),
        });
        let settings = self.context.settings.server;
        self.servers.push(Box::new(move |stop| Box::pin(serve(listener, router, settings, stop))));
        self
    }

    /// A listener that the service runs itself, in a task that follows [`Context::shutdown`].
    #[must_use]
    pub fn listening(mut self, listening: Listening) -> AppBuilder {
        self.addresses.push(listening);
        self
    }

    /// A task that belongs to the service: when it fails or panics, the service stops and ends with that error. Its
    /// token is cancelled after the last request has been answered; it then has until the shutdown's limit.
    #[must_use]
    pub fn task<F, E>(mut self, name: &'static str, task: impl FnOnce(CancellationToken) -> F) -> AppBuilder
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError>,
    {
        let span = tracing::info_span!(target: SCOPE_TARGET, "task", task = name, plinth.service = self.context.service);
        let work = span.in_scope(|| task(self.stop.clone()));
        let guarded = async move {
            match AssertUnwindSafe(work).catch_unwind().await {
                Ok(outcome) => outcome.map_err(|error| AppError::Task { name, source: error.into() }),
                Err(panic) => {
                    let message = panic
                        .downcast_ref::<String>()
                        .map(String::as_str)
                        .or_else(|| panic.downcast_ref::<&str>().copied())
                        .unwrap_or("no message");
                    Err(AppError::Panicked { name, message: message.to_owned() })
                }
            }
        };
        self.tasks.push(Box::pin(guarded.instrument(span)));
        self
    }

    /// Registers the service with this instead of the default: name of the service, advertised address, and an HTTP
    /// check of `/health/ready`.
    #[must_use]
    pub fn registration(mut self, registration: Registration) -> AppBuilder {
        self.registration = Some(registration);
        self
    }

    /// Sets everything going. The service registers itself once it is ready.
    ///
    /// # Errors
    /// No address to advertise.
    pub async fn start(mut self) -> Result<App, AppError> {
        if let StatusListen(Some(address)) = self.context.settings.status_listen {
            let listener = BoundListener::bind(STATUS, address, None).await?;
            let router = self.context.status_router();
            self = self.http(listener, router);
        }
        let registration = self.decide_registration()?;
        let (addresses, context) = (self.addresses, self.context);
        let stop = Stop::default();
        let mut servers = JoinSet::new();
        for server in self.servers {
            servers.spawn_on(server(stop.clone()), &context.control);
        }
        let mut tasks = JoinSet::new();
        for task in self.tasks {
            tasks.spawn_on(task, &context.control);
        }
        let supervisor = Supervisor { context: context.clone(), stop, stop_tasks: self.stop, servers, tasks };
        let span = tracing::info_span!(target: SCOPE_TARGET, "service", plinth.service = context.service);
        let finished = context.control.spawn(supervisor.run(registration).instrument(span));
        Ok(App { addresses, context, finished })
    }

    fn decide_registration(&mut self) -> Result<Option<Registration>, AppError> {
        if !self.context.settings.registration.enabled {
            return Ok(None);
        }
        let registration = match self.registration.take() {
            Some(given) => Some(given),
            None => match self.addresses.first() {
                Some(first) => {
                    let status = self.addresses.iter().find(|listening| listening.name == STATUS);
                    Some(default_registration(&self.context, first, status)?)
                }
                None => None,
            },
        };
        if let Some(registration) = &registration {
            let faults = registration.validate();
            if let Some(fault) = faults.first() {
                return Err(AppError::Registration(format!("{}: {}", fault.field, fault.message)));
            }
        }
        Ok(registration)
    }
}

fn default_registration(
    context: &Context,
    listening: &Listening,
    status: Option<&Listening>,
) -> Result<Registration, AppError> {
    let settings = &context.settings.registration;
    let (host, port) = context.advertise.endpoint(listening.address)?;
    let id = context.service_id(listening.address)?;
    let mut registration = Registration::new(context.service, id, host.clone(), port);
    registration.tags.clone_from(&settings.tags);
    registration.metadata.insert("version".to_owned(), context.version.into());
    registration.metadata.insert("scheme".to_owned(), listening.scheme.into());
    if let Some(port) = status.and_then(|status| context.status_port(&host, status.address)) {
        registration.metadata.insert("status_port".to_owned(), port.to_string().into());
    }
    let connect =
        context.settings.mtls.as_ref().map(|mtls| matches!(mtls.source, MtlsSource::Connect { .. }));
    registration.connect_native = connect == Some(true);
    registration.check = if let Some(status) = status {
        let (host, port) = context.advertise.endpoint(status.address)?;
        CheckSpec::http(format!("http://{}/health/ready", host_port(&host, port)))
    } else if context.settings.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some()) {
        // Whoever probes has no client certificate; that the port answers is what can be seen from outside.
        CheckSpec::Tcp { target: None, timing: Timing::default() }
    } else if listening.scheme == "https" {
        let path = format!("https://{}/health/ready", host_port(&host, port));
        CheckSpec::Http {
            path,
            method: None,
            headers: std::collections::BTreeMap::new(),
            // Without mutual TLS the certificate is for clients to verify: the probe asks for health, and sends nothing secret.
            tls_skip_verify: connect.is_none(),
            timing: Timing::default(),
        }
    } else {
        CheckSpec::http("/health/ready")
    };
    Ok(registration)
}

/// A service that has started.
#[derive(Debug)]
pub struct App {
    addresses: Vec<Listening>,
    context: Context,
    finished: JoinHandle<Result<(), AppError>>,
}

impl App {
    /// What it listens on, with real ports.
    pub fn addresses(&self) -> &[Listening] {
        &self.addresses
    }

    /// Its context, for waiting until it is ready.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// Resolves once the service has stopped whole: as asked by [`Context::shutdown`], or because a task failed.
    ///
    /// # Errors
    /// The task that failed first.
    pub async fn finished(self) -> Result<(), AppError> {
        self.finished.await?
    }
}

struct Supervisor {
    context: Context,
    stop: Stop,
    stop_tasks: CancellationToken,
    servers: JoinSet<()>,
    tasks: JoinSet<Result<(), AppError>>,
}

impl Supervisor {
    async fn run(mut self, registration: Option<Registration>) -> Result<(), AppError> {
        let shutdown = self.context.shutdown.clone();
        let mut first_error = None;
        let readiness = self.context.readiness.clone();
        let mut registering = std::pin::pin!(readiness.ready());
        let (mut waiting, registration_slot) = (registration, Slot::default());
        // Running: until somebody asks to stop or a task fails.
        loop {
            tokio::select! {
                () = shutdown.draining() => break,
                Some(ended) = self.tasks.join_next() => {
                    if let Err(error) = flatten(ended) {
                        tracing::error!(error = crate::problem::chain(&error), "stopping");
                        first_error.get_or_insert(error);
                        shutdown.request();
                    }
                }
                () = &mut registering, if waiting.is_some() => {
                    if let Some(registration) = waiting.take() {
                        registration_slot.start(&self.context, registration);
                    }
                }
            }
        }
        self.drain(registration_slot.take(), &shutdown).await;
        self.finish_requests(&shutdown).await;
        let late = self.finish_tasks(&shutdown).await;
        match first_error.or(late) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Not ready, not registered, still serving.
    async fn drain(&self, registration: Option<SelfRegistration>, shutdown: &Shutdown) {
        self.context.readiness.close();
        let leave = async {
            let Some(registration) = registration else { return };
            if shutdown.handed_over() {
                // the process that took over is registered under the same id, or about to be
                return;
            }
            match tokio::time::timeout(DEREGISTER_LIMIT, registration.deregister()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::warn!(error = crate::problem::chain(&error), "cannot deregister");
                }
                Err(_) => {
                    tracing::warn!("could not deregister in time; failing checks will remove the entry")
                }
            }
        };
        tokio::select! {
            ((), ()) = async { tokio::join!(leave, shutdown.stopping()) } => {}
            () = shutdown.aborting() => {}
        }
    }

    async fn finish_requests(&mut self, shutdown: &Shutdown) {
        self.stop.graceful.cancel();
        let all = async { while self.servers.join_next().await.is_some() {} };
        tokio::select! {
            () = all => return,
            () = shutdown.aborting() => {}
        }
        let requests = self.context.metrics.http.in_flight.get();
        if requests > 0 {
            tracing::warn!(requests, "cutting off what did not end in time");
        }
        self.stop.hard.cancel();
        while self.servers.join_next().await.is_some() {}
    }

    async fn finish_tasks(&mut self, shutdown: &Shutdown) -> Option<AppError> {
        self.stop_tasks.cancel();
        let mut first_error = None;
        let all = async {
            while let Some(ended) = self.tasks.join_next().await {
                if let Err(error) = flatten(ended) {
                    first_error.get_or_insert(error);
                }
            }
        };
        let limit = async {
            shutdown.aborting().await;
            tokio::time::sleep(TASK_GRACE).await;
        };
        tokio::select! {
            () = all => {}
            () = limit => {
                tracing::warn!("ending tasks that did not end in time");
                self.tasks.shutdown().await;
            }
        }
        first_error
    }
}

fn flatten(ended: Result<Result<(), AppError>, tokio::task::JoinError>) -> Result<(), AppError> {
    match ended {
        Ok(outcome) => outcome,
        Err(error) => Err(AppError::Supervisor(error)),
    }
}

/// The registration once it has begun, shared with the component check that shows its state.
#[derive(Clone, Default)]
struct Slot(Arc<Mutex<Option<SelfRegistration>>>);

impl Slot {
    fn start(&self, context: &Context, registration: Registration) {
        let owner = Owner::process(format!("plinth:{}", context.service));
        let id = registration.service_id.clone();
        let registrar = Registrar::new(context.consul.clone());
        *self.0.lock() = Some(SelfRegistration::start(registrar, registration, owner));
        let slot = self.clone();
        context.components.add("registration", false, move || {
            let state = slot.0.lock().as_ref().map(SelfRegistration::state);
            let (registered, id) = (state.as_ref().is_some_and(SelfState::is_registered), id.clone());
            async move {
                if registered {
                    Ok(serde_json::json!({"service_id": id}))
                } else {
                    Err(format!("{id} is not in the catalog"))
                }
            }
        });
    }

    fn take(&self) -> Option<SelfRegistration> {
        self.0.lock().take()
    }
}
