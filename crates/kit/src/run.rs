//! The thin `main` of the services.

use std::error::Error;
use std::future::Future;
use std::io::Write;
use std::pin::Pin;
use std::process::ExitCode;

use crate::lifecycle::{Shutdown, Signals};
use crate::service::{Service, ServiceSettings};
use crate::settings::{Faults, Reader, Sources, Wanted};
use crate::telemetry::Telemetry;
use crate::{App, BoxError, Context, EXIT_SETTINGS, healthcheck, openapi};

/// Why `main` ends with a failure.
#[derive(Debug, thiserror::Error)]
enum RunError {
    #[error(transparent)]
    Settings(#[from] Faults),
    #[error("healthcheck failed")]
    Healthcheck(#[source] BoxError),
    #[error("cannot start")]
    Start(#[source] BoxError),
    #[error("failed")]
    Failed(#[source] BoxError),
}

/// Runs a service: reads settings, sets up telemetry, starts it, prints where it listens, serves until SIGTERM or
/// SIGINT, drains, and returns the exit code: 0 stopped as asked, 1 failed, 64 bad settings.
///
/// Bound addresses go to standard output, one line each: `registry-service: http listening on
/// http://127.0.0.1:8510`. Everything else goes to standard error.
pub fn run<S, F, Fut, E>(
    service: Service,
    read: impl FnOnce(&mut Reader) -> S + 'static,
    start: F,
) -> ExitCode
where
    S: Send + 'static,
    F: FnOnce(S, Context) -> Fut + Send + 'static,
    Fut: Future<Output = Result<App, E>> + Send + 'static,
    E: Error + Send + Sync + 'static,
{
    let prepare: Prepare = Box::new(move |reader| {
        let own = read(reader);
        Box::new(move |context| {
            let starting = start(own, context);
            Box::pin(async move { starting.await.map_err(|error| RunError::Start(error.into())) })
        })
    });
    match try_run(&service, prepare) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Telemetry may be what failed, so this does not go through it.
            let _ = writeln!(std::io::stderr(), "{}", report(service.name, &error));
            ExitCode::from(exit_code(&error))
        }
    }
}

/// Reads a service's own settings and gives what starts it. Boxed: what follows is the same for all services and is
/// compiled once, here.
type Prepare = Box<dyn FnOnce(&mut Reader) -> Start>;
type Start = Box<dyn FnOnce(Context) -> Pin<Box<dyn Future<Output = Result<App, RunError>> + Send>> + Send>;

fn try_run(service: &Service, prepare: Prepare) -> Result<(), RunError> {
    if let Some(document) = service.document
        && std::env::args_os().any(|arg| arg == "--openapi")
    {
        let text = openapi::document(document()).map_err(|error| RunError::Failed(error.into()))?;
        return print(&text);
    }
    let sources = Sources::from_process(service.name)?;
    let mut reader = Reader::new(&sources);
    let settings = ServiceSettings::read(&mut reader, service);
    let start = prepare(&mut reader);
    match reader.wanted() {
        Some(Wanted::Help) => return print(&reader.help()),
        Some(Wanted::Version) => return print(&format!("{} {}\n", service.name, service.version)),
        Some(Wanted::Healthcheck(probe)) => {
            let target = healthcheck::target(&mut reader, service, &settings);
            reader.finish()?;
            return healthcheck::run(target, probe).map_err(|error| RunError::Healthcheck(error.into()));
        }
        None => reader.finish()?,
    }
    let runtime = runtime(service).map_err(|error| RunError::Start(error.into()))?;
    let telemetry = Telemetry::init(&settings.telemetry, runtime.handle())
        .map_err(|error| RunError::Start(error.into()))?;
    let outcome = runtime.block_on(serve(service, settings, start));
    // Before the runtime ends: spans are sent on it.
    telemetry.shutdown();
    runtime.shutdown_background();
    outcome
}

async fn serve(service: &Service, settings: ServiceSettings, start: Start) -> Result<(), RunError> {
    let shutdown = Shutdown::new(settings.shutdown);
    let signals = Signals::install().map_err(|error| RunError::Start(error.into()))?;
    let signals = tokio::spawn(signals.stop(shutdown.clone()));
    let starting = async {
        let handle = tokio::runtime::Handle::current();
        let context = Context::new(service, settings, shutdown.clone(), handle)
            .await
            .map_err(|error| RunError::Start(error.into()))?;
        start(context).await
    };
    // Starting may wait long for something that is away; who asks to stop meanwhile does not have to.
    let app = tokio::select! {
        app = starting => app?,
        () = shutdown.draining() => return Ok(()),
    };
    for listening in app.addresses() {
        print(&format!("{}: {listening}\n", service.name))?;
    }
    tracing::info!(service = service.name, version = service.version, "started");
    let outcome = app.finished().await.map_err(|error| RunError::Failed(error.into()));
    signals.abort();
    tracing::info!(service = service.name, "stopped");
    outcome
}

fn runtime(service: &Service) -> std::io::Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = service.threads {
        builder.worker_threads(threads);
    }
    builder.enable_all().thread_name(service.name).build()
}

fn print(text: &str) -> Result<(), RunError> {
    let mut out = std::io::stdout();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| RunError::Failed(error.into()))
}

fn report(service: &str, error: &RunError) -> String {
    match error {
        RunError::Settings(faults) => faults.to_string(),
        other => format!("{service}: {}", crate::problem::chain(other)),
    }
}

/// 64 when settings are the cause, wherever in the chain they show up.
fn exit_code(error: &(dyn Error + 'static)) -> u8 {
    let mut next = Some(error);
    while let Some(error) = next {
        let settings = error.is::<Faults>() || matches!(error.downcast_ref(), Some(RunError::Settings(_)));
        if settings {
            return EXIT_SETTINGS;
        }
        next = error.source();
    }
    1
}
