//! Wiring: listeners first, then workers, the first configuration, and what goes on beside them.

use std::sync::Arc;
use std::time::Duration;

use axum::middleware;
use plinth_core::consul::Address;
use plinth_core::discovery::{Discovery, DiscoverySettings};
use plinth_core::registration::{CheckSpec, Registration, Timing};
use plinth_kit::lifecycle::Shutdown;
use plinth_kit::settings::Faults;
use plinth_kit::{App, AppBuilder, Context, Listening, Routes, Service};
use tokio_util::sync::CancellationToken;

use crate::admin;
use crate::certificates::Certificates;
use crate::compile::Compiler;
use crate::error::Error;
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
    Service::new("gateway", env!("CARGO_PKG_VERSION")).document(admin::document).threads(2);

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
    // before anybody can know the process: a SIGHUP that comes early must not end it
    let hangup = reload::hangup()?;
    let rotated = reload::rotated()?;
    let certificates = certificates(&settings)?;
    if let Some(certificates) = certificates.clone() {
        context.metrics.certificates.add("proxy", move || certificates.expiries());
    }
    let proxies = bind(&settings, certificates.as_ref())?;
    let metrics = Metrics::new(&context.metrics.registry, settings.workers)?;
    let discovery = Discovery::start(context.consul.clone(), DiscoverySettings::default(), &context.control);
    // Kong's metrics have a label `service` of their own, the service's registry puts one on everything
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
    let configurator =
        Arc::new(Configurator::new(secrets, store, compiler, workers.clone(), certificates, metrics.clone()));
    let configured = context.readiness.condition("configuration");
    configurator.load(&settings.config, false).await?;

    let state = admin::State::new(configurator.clone(), metrics, kong, node, &context, settings.config_limit);
    let mut builder = AppBuilder::new(&context);
    builder = listen_control(builder, &settings, &context, &state).await?;
    for proxy in &proxies {
        builder = builder.listening(listening(proxy));
    }
    builder = match registration(&context, &proxies) {
        Some(registration) => builder.registration(registration),
        None => builder,
    };
    let (source, poll) = (settings.config, settings.config_poll);
    let (following, tending, first) = (configurator.clone(), configurator.clone(), configurator.clone());
    let rotating = configurator.clone();
    let shutdown = context.shutdown.clone();
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
                () = stop.cancelled() => {}
            }
            Ok::<_, Error>(())
        });
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

fn bind(settings: &Settings, certificates: Option<&Arc<Certificates>>) -> Result<Vec<Proxy>, Error> {
    let mut proxies = Vec::with_capacity(settings.proxy.len());
    for listen in &settings.proxy {
        let copies = if listen.reuseport { settings.workers } else { 1 };
        let (address, sockets) =
            listen::bind(listen, copies).map_err(|source| Error::Bind { address: listen.address, source })?;
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

/// The Admin and the Status API.
async fn listen_control(
    mut builder: AppBuilder,
    settings: &Settings,
    context: &Context,
    state: &admin::State,
) -> Result<AppBuilder, Error> {
    if let Some(Listen { address, .. }) = settings.admin {
        if let Some((setting, message)) = context.settings.auth.exposure_fault(address) {
            return Err(Faults::one(context.service, setting, message).into());
        }
        let listener = context.bind_at("admin", address).await?;
        let guard = middleware::from_fn_with_state(context.auth.clone(), admin::authorize);
        let routes = Routes::new(admin::routes(state.clone()).layer(guard));
        let router = context.router(routes, admin::document())?.fallback(admin::not_found);
        let router = admin::with_metrics(state.clone(), router).layer(middleware::from_fn(admin::latency));
        builder = builder.http(listener, router);
    }
    if let Some(Listen { address, .. }) = settings.status {
        let listener = context.bind_plain_at("status", address).await?;
        builder = builder.http(listener, admin::status_routes(state.clone()));
    }
    Ok(builder)
}

/// In the catalog the gateway is its first proxy listener. Where that is cannot always be told (Kong's
/// `0.0.0.0:8000` without `advertise` or POD_IP): then it does its work unregistered and says so.
fn registration(context: &Context, proxies: &[Proxy]) -> Option<Registration> {
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
    let mut registration = Registration::new(context.service, id, host, port);
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
            for (index, socket) in sockets.into_iter().enumerate() {
                workers.listen(index, socket, bound.clone());
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
