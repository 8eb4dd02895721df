//! A small service that registers itself: the upstream of the demo, and the example to copy from.
//!
//! What makes a service part of the platform is in [`serve`]: bind, register, serve, and on SIGTERM deregister first and
//! stop serving last, so that nobody is sent here any more when it closes. Everything it answers is in [`echo`].

pub mod echo;
mod settings;

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use plinth_core::consul::Client;
use plinth_core::registration::{CheckSpec, Owner, Registrar, Registration, SelfRegistration, Timing};
use plinth_kit::lifecycle::{AdvertiseError, Shutdown, ShutdownSettings, Signals};
use plinth_kit::settings::{Faults, Reader, Sources, Wanted};
use plinth_kit::{EXIT_SETTINGS, HealthcheckError, healthcheck};
use tokio::net::TcpListener;

pub use settings::Settings;

/// Why the demo service ends with a failure.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Settings(#[from] Faults),
    #[error("cannot listen on {address}")]
    Listen { address: SocketAddr, source: std::io::Error },
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
    let address = settings.listen;
    let listener = TcpListener::bind(address).await.map_err(|source| Error::Listen { address, source })?;
    let address = listener.local_addr()?;
    let (host, port) = settings.advertise.endpoint(address)?;
    let id =
        settings.id.clone().unwrap_or_else(|| format!("{}-{}-{port}", settings.name, host.replace(':', "-")));
    writeln!(std::io::stdout(), "demo-service: http listening on http://{address}")?;

    let shutdown = Shutdown::new(ShutdownSettings {
        drain_delay: settings.drain,
        timeout: settings.drain + Duration::from_secs(10),
    });
    // Installed before anybody can find this instance: a signal in between would end it without deregistering.
    let signals = tokio::spawn(Signals::install()?.stop(shutdown.clone()));
    let router = echo::router(echo::Identity { service: settings.name.clone(), instance: id.clone() });
    let closing = shutdown.clone();
    let server =
        axum::serve(listener, router).with_graceful_shutdown(async move { closing.stopping().await });
    let server = tokio::spawn(server.into_future());

    let registration = registration(&settings, id, host, port);
    let owner = Owner::process(format!("demo:{}", settings.name));
    let registered =
        SelfRegistration::start(Registrar::new(Client::new(settings.consul)?), registration, owner);

    shutdown.draining().await;
    if let Err(error) = registered.deregister().await {
        // The health-aggregator finds out by itself; stopping must not depend on Consul.
        writeln!(std::io::stderr(), "demo-service: not deregistered: {}", plinth_core::error::chain(&error))?;
    }
    tokio::select! {
        ended = server => ended.map_err(std::io::Error::other)??,
        () = shutdown.aborting() => {}
    }
    signals.abort();
    Ok(())
}

fn registration(settings: &Settings, id: String, host: String, port: u16) -> Registration {
    let mut registration = Registration::new(&settings.name, id, host, port);
    registration.tags = vec!["demo".to_owned()];
    registration.metadata.insert("version".to_owned(), env!("CARGO_PKG_VERSION").into());
    registration.check = CheckSpec::Http {
        path: "/health".to_owned(),
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
