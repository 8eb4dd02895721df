//! A small service that registers itself: the upstream of the demo, and the example to copy from.
//!
//! What makes a service part of the platform is in [`serve`]: bind, register, serve, and on SIGTERM deregister first and
//! stop serving last, so that nobody is sent here any more when it closes. Everything it answers is in [`echo`].

pub mod echo;
mod settings;

use std::collections::BTreeMap;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use plinth_core::consul::Client;
use plinth_core::registration::{
    CheckSpec, Owner, Registrar, Registration, SelfRegistration, Timing, host_port,
};
use plinth_kit::lifecycle::{AdvertiseError, Shutdown, ShutdownSettings, Signals};
use plinth_kit::mtls::{Mtls, MtlsError, MtlsSource};
use plinth_kit::server::{
    BoundListener, ServerError, ServerSettings, Stop, TlsError, TlsSource, serve as serve_http,
};
use plinth_kit::settings::{Faults, Reader, Sources, Wanted};
use plinth_kit::{EXIT_SETTINGS, HealthcheckError, healthcheck};

pub use settings::Settings;

/// Why the demo service ends with a failure.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Settings(#[from] Faults),
    #[error(transparent)]
    Listen(#[from] ServerError),
    #[error("mutual TLS cannot be set up")]
    Mtls(#[from] MtlsError),
    #[error("TLS cannot be set up")]
    Tls(#[from] TlsError),
    #[error("cannot tell others where this is")]
    Advertise(#[from] AdvertiseError),
    #[error("cannot talk to Consul")]
    Consul(#[from] plinth_core::Error),
    #[error("healthcheck failed")]
    Healthcheck(#[from] HealthcheckError),
    #[error("cannot go on")]
    Io(#[from] std::io::Error),
}

/// Runs with these arguments (without the program's name) until SIGTERM or SIGINT.
pub fn run(arguments: Vec<String>) -> ExitCode {
    match try_run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing is left to tell it to when standard error is gone.
            let _ = writeln!(std::io::stderr(), "demo-service: {}", plinth_core::error::chain(&error));
            ExitCode::from(if matches!(error, Error::Settings(_)) { EXIT_SETTINGS } else { 1 })
        }
    }
}

fn try_run(arguments: Vec<String>) -> Result<(), Error> {
    let environment: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let mut reader = Reader::new(&Sources::new("demo-service", arguments, environment, None)?);
    let settings = Settings::read(&mut reader);
    let probe = match reader.wanted() {
        Some(Wanted::Healthcheck(probe)) => Some(probe),
        Some(Wanted::Help | Wanted::Version) => {
            return Ok(std::io::stdout().write_all(reader.help().as_bytes())?);
        }
        None => None,
    };
    reader.finish()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    match probe {
        Some(probe) => Ok(runtime.block_on(healthcheck(settings.listen, probe))?),
        None => runtime.block_on(serve(settings)),
    }
}

/// The whole life of a service on the platform.
///
/// # Errors
/// The address cannot be bound, or others could not reach it.
pub async fn serve(settings: Settings) -> Result<(), Error> {
    let consul = Client::new(settings.consul.clone())?;
    // Without an identity nobody is served: the listener comes after it.
    let tls = match &settings.mtls {
        Some(mtls) => Some(TlsSource::mutual(
            Mtls::start(mtls, &settings.name, &consul, &tokio::runtime::Handle::current()).await?,
        )?),
        None => None,
    };
    let listener = BoundListener::bind("http", settings.listen, tls).await?;
    let (address, scheme) = (listener.address(), listener.scheme());
    let (host, port) = settings.advertise.endpoint(address)?;
    let id =
        settings.id.clone().unwrap_or_else(|| format!("{}-{}-{port}", settings.name, host.replace(':', "-")));
    writeln!(std::io::stdout(), "demo-service: http listening on {scheme}://{address}")?;

    let shutdown = Shutdown::new(ShutdownSettings {
        drain_delay: settings.drain,
        timeout: settings.drain + Duration::from_secs(10),
    });
    // Installed before anybody can find this instance: a signal in between would end it without deregistering.
    let signals = tokio::spawn(Signals::install()?.stop(shutdown.clone()));
    let router = echo::router(echo::Identity { service: settings.name.clone(), instance: id.clone() });
    let stop = Stop::default();
    let server = tokio::spawn(serve_http(listener, router, ServerSettings::default(), stop.clone()));

    let registration = registration(&settings, id, host, port);
    let owner = Owner::process(format!("demo:{}", settings.name));
    let registered = SelfRegistration::start(Registrar::new(consul), registration, owner);

    shutdown.draining().await;
    if let Err(error) = registered.deregister().await {
        // The health-aggregator finds out by itself; stopping must not depend on Consul.
        writeln!(std::io::stderr(), "demo-service: not deregistered: {}", plinth_core::error::chain(&error))?;
    }
    shutdown.stopping().await;
    stop.graceful.cancel();
    tokio::select! {
        ended = server => ended.map_err(std::io::Error::other)?,
        () = shutdown.aborting() => stop.hard.cancel(),
    }
    signals.abort();
    Ok(())
}

fn registration(settings: &Settings, id: String, host: String, port: u16) -> Registration {
    let mut registration = Registration::new(&settings.name, id, host, port);
    registration.tags = vec!["demo".to_owned()];
    registration.metadata.insert("version".to_owned(), env!("CARGO_PKG_VERSION").into());
    let path = match &settings.mtls {
        Some(_) => format!("https://{}/health", host_port(&registration.address, port)),
        None => "/health".to_owned(),
    };
    let connect = settings.mtls.as_ref().map(|mtls| &mtls.source);
    registration.connect_native = matches!(connect, Some(MtlsSource::Connect { .. }));
    registration.check = CheckSpec::Http {
        path,
        method: None,
        headers: BTreeMap::new(),
        tls_skip_verify: false,
        timing: Timing {
            interval: settings.check_interval,
            timeout: Duration::from_secs(1),
            ..Timing::default()
        },
    };
    registration
}
