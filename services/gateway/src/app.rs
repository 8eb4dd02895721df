//! Wiring: listeners first, then workers, the first configuration, and what goes on beside them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::middleware;
use plinth_core::consul::Address;
use plinth_core::discovery::{Discovery, DiscoverySettings};
use plinth_core::registration::{CheckSpec, Registration, Timing};
use plinth_kit::lifecycle::Shutdown;
use plinth_kit::server::BoundListener;
use plinth_kit::settings::Faults;
use plinth_kit::{App, AppBuilder, Context, Listening, Routes, Service};
use serde_json::json;
use tokio::signal::unix::Signal;
use tokio_util::sync::CancellationToken;

use crate::admin;
use crate::certificates::Certificates;
use crate::compile::Compiler;
use crate::error::Error;
use crate::handover::{self, HandoverError, Inherited, Listeners};
use crate::kong_metrics::KongMetrics;
use crate::listen::{self, Bound, Listen};
use crate::metrics::Metrics;
use crate::plugins;
use crate::reload::{self, Configurator};
use crate::settings::{ConfigSource, Settings};
use crate::store::Store;
use crate::worker::{Shared, Workers};

/// The service. It has listeners of its own; its runtime beside the workers is small.
pub const SERVICE: Service =
    Service::new("gateway", env!("CARGO_PKG_VERSION")).document(admin::document).own_status(8007).threads(2);

/// Name of the Status API's listener.
const STATUS: &str = "status";

/// How often the files of the proxy's certificate are looked at.
const CERTIFICATES_EVERY: Duration = Duration::from_secs(10);

/// A proxy listener, bound.
struct Proxy {
    bound: Arc<Bound>,
    sockets: Vec<std::net::TcpListener>,
}

/// Starts the gateway.
///
/// # Errors
/// Settings, addresses, certificates or a configuration that cannot be used.
pub async fn start(settings: Settings, context: Context) -> Result<App, Error> {
    start_with(settings, context, Arc::default(), None).await
}

/// Starts the gateway as a process of its own: it takes over the listeners of the one before, or of systemd, and hands
/// over its own on SIGUSR2.
///
/// # Errors
/// As [`start`], and listeners that were announced and cannot be had.
pub async fn start_process(settings: Settings, context: Context) -> Result<App, Error> {
    let asked = handover::asked()?;
    let inherited = Arc::new(Inherited::receive()?);
    start_with(settings, context, inherited, Some(asked)).await
}

async fn start_with(
    settings: Settings,
    context: Context,
    inherited: Arc<Inherited>,
    asked: Option<Signal>,
) -> Result<App, Error> {
    // before anybody can know the process: a SIGHUP that comes early must not end it
    let hangup = reload::hangup()?;
    let rotated = reload::rotated()?;
    let certificates = certificates(&settings)?;
    if let Some(certificates) = certificates.clone() {
        context.metrics.certificates.add("proxy", move || certificates.expiries());
    }
    let proxies = bind(&settings, certificates.as_ref(), &inherited)?;
    let refreshed = certificates.clone();
    let metrics = Metrics::new(&context.metrics.registry, settings.workers)?;
    let discovery = Discovery::start(context.consul.clone(), DiscoverySettings::default(), &context.control);
    // Kong's metrics have a label `service` of their own, the service's registry puts one on everything
    add_discovery_check(&context, &discovery, &metrics);
    let kong_registry = prometheus::Registry::new();
    let node = uuid::Uuid::new_v4();
    let env = plugins::Env {
        registry: kong_registry.clone(),
        control: context.control.clone(),
        options: plugins::Options { node, ..settings.plugins.clone() },
    };
    let runtime = plugins::Runtime::new(env)?;
    let compiler = Compiler::new(runtime, discovery.clone(), settings.resolve.clone(), context.identity())?;
    let shared = Arc::new(Shared::new(Arc::new(compiler.empty()?), settings.data_plane.clone()));
    let stats = (0..settings.workers).filter_map(|index| metrics.worker(index)).collect();
    let workers = Arc::new(Workers::start(shared, stats).map_err(Error::Worker)?);
    let kong = KongMetrics::new(kong_registry, node)?;
    for variable in ignored_variables(std::env::vars_os()) {
        tracing::warn!(variable, "this variable of Kong's is not honoured");
    }
    let secrets = plinth_kong::Secrets::required(|name| std::env::var(name).ok());
    let store = match &settings.config {
        ConfigSource::Store(store) => {
            if context.mtls.is_some() && !matches!(store.address, Address::Https(_)) {
                let why = "must be https:// with mtls.source: services talk to each other over TLS";
                return Err(Faults::one(context.service, "config_service.url", why).into());
            }
            Some(Store::new(store, context.identity())?)
        }
        _ => None,
    };
    let configurator = Arc::new(Configurator::new(
        secrets,
        store,
        compiler,
        workers.clone(),
        certificates,
        metrics.clone(),
    )?);
    let configured = context.readiness.condition("configuration");
    configurator.load(&settings.config, false).await?;

    let (limit, counted) = (settings.handover_timeout, metrics.clone());
    let state = admin::State::new(configurator.clone(), metrics, kong, node, &context, settings.config_limit);
    let mut listeners = Listeners::default();
    for proxy in &proxies {
        listeners.add(proxy.bound.listen.address, &proxy.sockets).map_err(HandoverError::Copy)?;
    }
    let builder = AppBuilder::new(&context);
    let control = listen_control(builder, &settings, &context, &state, (&inherited, &mut listeners)).await?;
    let (mut builder, status) = control;
    inherited.close_rest();
    for proxy in &proxies {
        builder = builder.listening(listening(proxy));
    }
    builder = match registration(&context, &proxies, status) {
        Some(registration) => builder.registration(registration),
        None => builder,
    };
    let (source, poll) = (settings.config, settings.config_poll);
    let (following, tending, first) = (configurator.clone(), configurator.clone(), configurator.clone());
    let rotating = configurator.clone();
    let shutdown = context.shutdown.clone();
    let (ready, next) = (context.readiness.clone(), context.shutdown.clone());
    let builder = builder
        .task("proxy", |_| async move {
            serve(proxies, workers, shutdown).await;
            // the workers are done: nothing logs any more
            tokio::task::spawn_blocking(move || configurator.flush()).await
        })
        .task("configuration", |stop| async move {
            following.follow(source, poll, hangup, stop).await;
            Ok::<_, Error>(())
        })
        .task("certificate files", |stop| async move {
            match refreshed {
                Some(certificates) => certificates.follow(CERTIFICATES_EVERY, stop).await,
                None => stop.cancelled().await,
            }
            Ok::<_, Error>(())
        })
        .task("log rotation", |stop| async move {
            rotating.rotate(rotated, stop).await;
            Ok::<_, Error>(())
        })
        .task("endpoints", |stop| async move {
            tending.tend(stop).await;
            Ok::<_, Error>(())
        })
        .task("readiness", |stop| async move {
            tokio::select! {
                () = first.first() => configured.meet(),
                () = stop.cancelled() => return Ok(()),
            }
            tokio::select! {
                () = ready.ready() => inherited.ready(),
                () = stop.cancelled() => {}
            }
            Ok::<_, Error>(())
        });
    let builder = match asked {
        Some(asked) => builder.task("hand-over", |_| async move {
            handover::run(listeners, asked, limit, counted, next).await;
            Ok::<_, Error>(())
        }),
        None => builder,
    };
    Ok(builder.start().await?)
}

/// Variables of Kong's that this gateway reads, and those that say what holds here anyway.
const HONOURED: &[&str] = &[
    "KONG_ADMIN_LISTEN",
    "KONG_DATABASE",
    "KONG_DECLARATIVE_CONFIG",
    "KONG_DECLARATIVE_CONFIG_STRING",
    "KONG_NGINX_HTTP_CLIENT_MAX_BODY_SIZE",
    "KONG_NGINX_PROXY_SSL_CLIENT_CERTIFICATE",
    "KONG_NGINX_PROXY_SSL_VERIFY_CLIENT",
    "KONG_PROXY_ACCESS_LOG",
    "KONG_PROXY_LISTEN",
    "KONG_REAL_IP_HEADER",
    "KONG_REAL_IP_RECURSIVE",
    "KONG_SSL_CERT",
    "KONG_SSL_CERT_KEY",
    "KONG_STATUS_LISTEN",
    "KONG_TRACING_INSTRUMENTATIONS",
    "KONG_TRACING_SAMPLING_RATE",
    "KONG_TRUSTED_IPS",
    "KONG_UPSTREAM_KEEPALIVE_IDLE_TIMEOUT",
    "KONG_UPSTREAM_KEEPALIVE_MAX_REQUESTS",
    "KONG_UPSTREAM_KEEPALIVE_POOL_SIZE",
];
/// Said only when they ask for something else than what this gateway does.
const FULFILLED: &[(&str, &[&str])] = &[
    ("KONG_PLUGINS", &["bundled"]),
    ("KONG_ROUTER_FLAVOR", &["traditional_compatible"]),
    ("KONG_ROLE", &["traditional"]),
    ("KONG_VAULTS", &["env", "bundled"]),
    ("KONG_ERROR_DEFAULT_TYPE", &["text/plain"]),
    ("KONG_ANONYMOUS_REPORTS", &["off", "on"]),
    ("KONG_VERSION", &[]),
    ("KONG_PREFIX", &[]),
];

/// Names of Kong's variables that are set and have no effect.
fn ignored_variables(
    environment: impl Iterator<Item = (std::ffi::OsString, std::ffi::OsString)>,
) -> Vec<String> {
    let text = |text: std::ffi::OsString| text.into_string().ok();
    let set = environment.filter_map(|(name, value)| Some((text(name)?, text(value)?)));
    let mut names: Vec<String> = set
        .filter(|(name, value)| {
            let fulfilled = FULFILLED
                .iter()
                .find(|(known, _)| known == name)
                .is_some_and(|(_, values)| values.is_empty() || values.contains(&value.as_str()));
            name.starts_with("KONG_") && !HONOURED.contains(&name.as_str()) && !fulfilled
        })
        .map(|(name, _)| name)
        .collect();
    names.sort();
    names
}

fn certificates(settings: &Settings) -> Result<Option<Arc<Certificates>>, Error> {
    match (&settings.tls_cert, &settings.tls_key) {
        (Some(cert), Some(key)) if settings.proxy.iter().any(|listen| listen.ssl) => {
            Ok(Some(Arc::new(Certificates::load(cert, key)?)))
        }
        _ => Ok(None),
    }
}

fn bind(
    settings: &Settings,
    certificates: Option<&Arc<Certificates>>,
    inherited: &Inherited,
) -> Result<Vec<Proxy>, Error> {
    let mut proxies = Vec::with_capacity(settings.proxy.len());
    for listen in &settings.proxy {
        let copies = if listen.reuseport { settings.workers } else { 1 };
        let taken = inherited.take(listen.address);
        let (address, sockets) = listen::complete(listen, copies, taken)
            .map_err(|source| Error::Bind { address: listen.address, source })?;
        let tls = match certificates {
            Some(certificates) if listen.ssl => {
                Some(certificates.server_config(listen.http2, settings.client_auth.as_ref())?)
            }
            _ => None,
        };
        proxies.push(Proxy { bound: Arc::new(Bound { listen: listen.clone(), address, tls }), sockets });
    }
    Ok(proxies)
}

fn listening(proxy: &Proxy) -> Listening {
    let ssl = proxy.bound.listen.ssl;
    Listening {
        name: if ssl { "proxy-tls" } else { "proxy" },
        address: proxy.bound.address,
        scheme: if ssl { "https" } else { "http" },
    }
}

/// Not critical: requests are served from the last snapshot.
fn add_discovery_check(context: &Context, discovery: &Discovery, metrics: &Metrics) {
    let (discovery, metrics) = (discovery.clone(), metrics.clone());
    context.components.add("discovery", false, move || {
        let status = discovery.status();
        let age = status.oldest_age.unwrap_or_default();
        metrics.discovery_age.set(age.as_secs_f64());
        metrics.discovery_connected.set(status.connected.into());
        async move {
            if status.connected {
                Ok(json!({"watches": status.watches, "oldest_age_seconds": age.as_secs()}))
            } else {
                Err(format!("the catalog cannot be read; endpoints are up to {} s old", age.as_secs()))
            }
        }
    });
}

/// The Admin and the Status API, and where the latter is.
async fn listen_control(
    mut builder: AppBuilder,
    settings: &Settings,
    context: &Context,
    state: &admin::State,
    (inherited, listeners): (&Inherited, &mut Listeners),
) -> Result<(AppBuilder, Option<SocketAddr>), Error> {
    if let Some(Listen { address, .. }) = settings.admin {
        if let Some((setting, message)) = context.settings.auth.exposure_fault(address) {
            return Err(Faults::one(context.service, setting, message).into());
        }
        let listener = control_listener(context, "admin", address, inherited, listeners).await?;
        let guard = middleware::from_fn_with_state(context.auth.clone(), admin::authorize);
        let routes = Routes::new(admin::routes(state.clone()).layer(guard));
        let router = context.router(routes, admin::document())?.fallback(admin::not_found);
        let router = admin::with_metrics(state.clone(), router).layer(middleware::from_fn(admin::latency));
        builder = builder.http(listener, router);
    }
    if let Some(Listen { address, .. }) = settings.status {
        let listener = control_listener(context, STATUS, address, inherited, listeners).await?;
        let bound = listener.address();
        builder = builder.http(listener, admin::status_routes(state.clone(), context.probe_routes()));
        return Ok((builder, Some(bound)));
    }
    Ok((builder, None))
}

/// Binds an address, or takes over the socket that there is for it; the next process may have it too.
async fn control_listener(
    context: &Context,
    name: &'static str,
    address: std::net::SocketAddr,
    inherited: &Inherited,
    listeners: &mut Listeners,
) -> Result<BoundListener, Error> {
    // who probes and scrapes shows no certificate
    let plain = name == STATUS;
    let listener = match inherited.take(address).into_iter().next() {
        Some(socket) if plain => BoundListener::adopt(name, socket, None)?,
        Some(socket) => context.adopt(name, socket)?,
        None if plain => BoundListener::bind(name, address, None).await?,
        None => context.bind_at(name, address).await?,
    };
    listeners.add(address, std::slice::from_ref(&listener)).map_err(HandoverError::Copy)?;
    Ok(listener)
}

/// In the catalog the gateway is its first proxy listener. Where that is cannot always be told (Kong's
/// `0.0.0.0:8000` without `advertise` or POD_IP): then it does its work unregistered and says so.
fn registration(context: &Context, proxies: &[Proxy], status: Option<SocketAddr>) -> Option<Registration> {
    let first = proxies.first()?;
    let own = &context.settings.registration;
    if !own.enabled {
        return None;
    }
    let (host, port) = match context.advertise.endpoint(first.bound.address) {
        Ok(endpoint) => endpoint,
        Err(error) => {
            tracing::warn!(error = plinth_kit::problem::chain(&error), "not registered in the catalog");
            return None;
        }
    };
    let id = own.id.clone().unwrap_or_else(|| format!("gateway-{}-{port}", host.replace([':', '%'], "-")));
    let status_port = status.and_then(|status| context.status_port(&host, status));
    let mut registration = Registration::new(context.service, id, host, port);
    if let Some(port) = status_port {
        registration.metadata.insert("status_port".to_owned(), port.to_string().into());
    }
    registration.tags.clone_from(&own.tags);
    registration.metadata.insert("version".to_owned(), context.version.into());
    registration.metadata.insert("scheme".to_owned(), listening(first).scheme.into());
    registration.check = CheckSpec::Tcp { target: None, timing: Timing::default() };
    Some(registration)
}

/// Accepts until the service stops, then lets workers finish, at the limit ends them.
async fn serve(proxies: Vec<Proxy>, workers: Arc<Workers>, shutdown: Shutdown) {
    let closing = CancellationToken::new();
    let mut accepting = tokio::task::JoinSet::new();
    for Proxy { bound, sockets } in proxies {
        if bound.listen.reuseport {
            // a process before may have had more workers: none of its queues is left alone
            for (index, socket) in sockets.into_iter().enumerate() {
                workers.listen(index % workers.len(), socket, bound.clone());
            }
        } else {
            for socket in sockets {
                let (workers, closing) = (workers.clone(), closing.clone());
                let take = move |accepted| workers.assign(accepted);
                accepting.spawn(listen::accept(socket, bound.clone(), take, closing));
            }
        }
    }
    shutdown.stopping().await;
    closing.cancel();
    while accepting.join_next().await.is_some() {}
    workers.drain();
    let ended = async {
        while !workers.ended() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        () = ended => {}
        () = shutdown.aborting() => {
            tracing::warn!("cutting off proxied requests that did not end in time");
            workers.stop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_without_effect_are_named() {
        let set = [
            ("KONG_PROXY_LISTEN", "0.0.0.0:8000"),
            ("KONG_NGINX_WORKER_PROCESSES", "2"),
            ("KONG_PLUGINS", "bundled"),
            ("KONG_ROUTER_FLAVOR", "expressions"),
            ("PATH", "/bin"),
        ];
        let set = set.into_iter().map(|(name, value)| (name.into(), value.into()));
        assert_eq!(ignored_variables(set), ["KONG_NGINX_WORKER_PROCESSES", "KONG_ROUTER_FLAVOR"]);
    }
}
