//! `plinth up`: the whole platform in this process. Each part is what its own program would run, with its settings
//! from `PLINTH_<SERVICE>__*` and the flags below; nothing here knows a shortcut past HTTP.

mod demo;
mod kong;
mod summary;

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use plinth_kit::auth::{Scope, TokenKey};
use plinth_kit::lifecycle::{Shutdown, ShutdownSettings, Signals};
use plinth_kit::settings::{Reader, Sources};
use plinth_kit::telemetry::{Telemetry, TelemetrySettings};
use plinth_kit::{App, Context, Service, ServiceSettings};
use tokio::task::JoinSet;

use crate::agent;
use crate::commands::Up;
use crate::failure::Failure;

/// The token of the operator that `up` leaves in the data folder is good for a day, and new at each start.
const TOKEN_TTL: Duration = Duration::from_secs(24 * 3600);
/// Everything an operator does from the command line.
const TOKEN_SCOPES: [&str; 7] = [
    "services:admin",
    "services:write",
    "services:read",
    "config:read",
    "config:write",
    "health:read",
    "gateway:admin",
];
/// Longest time for everything to be ready.
const READY_LIMIT: Duration = Duration::from_secs(30);

pub fn run(command: &Up) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Failure::no)?;
    let mut telemetry = TelemetrySettings::new("plinth", env!("CARGO_PKG_VERSION"));
    telemetry.level.clone_from(&command.log_level);
    telemetry.otlp_endpoint = std::env::var("OTEL_EXPORTER_OTLP_ENDPOINT").ok();
    let telemetry = Telemetry::init(&telemetry, runtime.handle()).map_err(Failure::no)?;
    let outcome = runtime.block_on(platform(command));
    telemetry.shutdown();
    runtime.shutdown_background();
    outcome
}

/// The hidden word that makes this program an instance of the example service.
pub const DEMO_INSTANCE: &str = "demo-instance";

/// Runs until it is told to stop, or until the `plinth up` that started it is gone: its end of our standard input
/// closes even when it was killed hard.
pub fn demo_instance(args: Vec<String>) -> std::process::ExitCode {
    std::thread::spawn(|| {
        let _closed = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(1);
    });
    demo_service::run(args)
}

/// What every part shares.
struct House {
    data: PathBuf,
    consul: String,
    /// The public half of the key that signs tokens.
    public_key: PathBuf,
    env: BTreeMap<String, String>,
    shutdown: Shutdown,
    running: JoinSet<(&'static str, Result<(), Failure>)>,
    ready: Vec<Context>,
    addresses: Vec<(&'static str, &'static str, String)>,
}

async fn platform(command: &Up) -> Result<(), Failure> {
    let data = folder(&command.data_dir)?;
    let key = TokenKey::load_or_create(&data).map_err(Failure::no)?;
    let public_key = data.join("token-key.pub.pem");
    write(&public_key, &key.public_pem())?;
    let token = data.join("token");
    demo::write_private(&token, &operator_token(&key)?)
        .map_err(|error| Failure::no(format!("{}: {error}", token.display())))?;

    let agent = agent::unless_given(command.listen.agent_listen, &data.join("agent")).await?;
    // A process of its own developer: nobody else's load balancer has to notice that it is leaving.
    let shutdown =
        Shutdown::new(ShutdownSettings { drain_delay: Duration::ZERO, ..ShutdownSettings::default() });
    let mut house = House {
        consul: agent.address.clone(),
        public_key,
        env: environment(),
        shutdown: shutdown.clone(),
        running: JoinSet::new(),
        ready: Vec::new(),
        addresses: vec![("agent", "Consul's HTTP API", agent.address.clone())],
        data,
    };
    let demo = if command.demo { Some(demo::prepare(&house.data.join("demo"))?) } else { None };
    let kong = kong::file(command.config.as_deref(), demo.as_ref(), &house.data)?;
    let signals = tokio::spawn(Signals::install().map_err(Failure::no)?.stop(shutdown.clone()));
    let started = start(&mut house, command, &kong).await;
    let mut instances = None;
    let outcome = match started {
        Ok(()) => {
            if let Some(demo) = &demo {
                instances = Some(demo::Instances::start(&house.consul, &house.data.join("demo"))?);
                house.routes_to(demo).await;
            }
            summary::print(&house.addresses, &token, &kong, demo.as_ref(), instances.as_ref());
            supervise(&mut house, &agent, instances.as_mut()).await
        }
        Err(failure) => {
            shutdown.request();
            while house.running.join_next().await.is_some() {}
            Err(failure)
        }
    };
    signals.abort();
    // with it end the watches of discovery: they would complain of an agent that is gone
    drop(house);
    agent.stop().await;
    outcome
}

/// All four at once: none needs another one to start.
async fn start(house: &mut House, command: &Up, kong: &Path) -> Result<(), Failure> {
    let listen = &command.listen;
    let token = house.data.join("token").display().to_string();
    let registry = vec![flag("listen", listen.registry_listen), flag("health-aggregator-token-file", token)];
    house
        .embed(registry_service::SERVICE, registry, registry_service::Settings::read, registry_service::start)
        .await?;
    let data = house.data.join("config").display().to_string();
    let config = vec![flag("listen", listen.config_listen), flag("data-dir", data)];
    house
        .embed(config_service::SERVICE, config, config_service::Settings::read, config_service::start)
        .await?;
    let health = vec![flag("listen", listen.health_listen)];
    house
        .embed(
            health_aggregator::SERVICE,
            health,
            health_aggregator::Settings::read,
            health_aggregator::start,
        )
        .await?;
    let gateway = vec![
        flag("config", kong.display()),
        flag("proxy-listen", listen.proxy_listen),
        flag("admin-listen", listen.admin_listen),
        flag("status-listen", listen.status_listen),
    ];
    house.embed(gateway::SERVICE, gateway, gateway::Settings::read, gateway::start).await?;
    let all = async {
        for context in &house.ready {
            context.readiness.ready().await;
        }
    };
    tokio::select! {
        () = all => Ok(()),
        Some(ended) = house.running.join_next() => Err(early(ended)),
        () = tokio::time::sleep(READY_LIMIT) => {
            let missing: Vec<String> = house.ready.iter().filter(|context| !context.readiness.is_ready())
                .map(|context| format!("{} waits for {}", context.service, context.readiness.missing().join(", "))).collect();
            Err(Failure::unavailable(format!("not ready after {} s: {}", READY_LIMIT.as_secs(), missing.join("; "))))
        }
    }
}

/// Until everything has ended. The first part that ends unasked takes the others with it: never half a platform.
async fn supervise(
    house: &mut House,
    agent: &agent::Side,
    mut instances: Option<&mut demo::Instances>,
) -> Result<(), Failure> {
    let mut outcome = Ok(());
    tokio::select! {
        () = house.shutdown.draining() => {}
        Some(ended) = house.running.join_next() => {
            outcome = Err(early(ended));
            house.shutdown.request();
        }
        failure = agent.failed() => {
            outcome = Err(failure);
            house.shutdown.request();
        }
    }
    if let Some(instances) = &mut instances {
        instances.stop(Duration::from_secs(5)).await;
    }
    while let Some(ended) = house.running.join_next().await {
        if let Ok((_, Err(failure))) = ended
            && outcome.is_ok()
        {
            outcome = Err(failure);
        }
    }
    outcome
}

fn early(ended: Result<(&'static str, Result<(), Failure>), tokio::task::JoinError>) -> Failure {
    match ended {
        Ok((_, Err(failure))) => failure,
        Ok((service, Ok(()))) => Failure::no(format!("{service} ended")),
        Err(error) => Failure::no(error),
    }
}

impl House {
    /// What the table tells people to try works by then. Instances that do not come are said, and no reason to end.
    async fn routes_to(&self, demo: &demo::Demo) {
        let proxy = self.addresses.iter().find(|entry| entry.0 == "gateway" && entry.1 == "proxy");
        let (Some((_, _, proxy)), Some(context)) = (proxy, self.ready.first()) else { return };
        tokio::select! {
            outcome = demo.routed(&context.consul, proxy, &self.data) => if let Err(failure) = outcome {
                tracing::warn!("the demo is not there yet: {failure}");
            },
            () = self.shutdown.draining() => {}
        }
    }

    async fn embed<S, F, Fut, E>(
        &mut self,
        service: Service,
        mut args: Vec<String>,
        read: impl FnOnce(&mut Reader) -> S,
        start: F,
    ) -> Result<(), Failure>
    where
        F: FnOnce(S, Context) -> Fut,
        Fut: Future<Output = Result<App, E>>,
        E: std::error::Error + Send + Sync + 'static,
    {
        args.push(flag("consul-address", &self.consul));
        args.push(flag("auth-key-file", self.public_key.display()));
        let sources = Sources::new(service.name, args, self.env.clone(), None).map_err(Failure::usage)?;
        let mut reader = Reader::new(&sources);
        let settings = ServiceSettings::read(&mut reader, &service);
        let own = read(&mut reader);
        reader.finish().map_err(Failure::usage)?;
        let name = service.name;
        let fault =
            |error: &(dyn std::error::Error + 'static)| Failure::no(format!("{name}: {}", chain(error)));
        let control = tokio::runtime::Handle::current();
        let context = Context::new(&service, settings, self.shutdown.clone(), control)
            .await
            .map_err(|error| fault(&error))?;
        let app = start(own, context.clone()).await.map_err(|error| fault(&error))?;
        for listening in app.addresses() {
            self.addresses.push((
                name,
                listening.name,
                format!("{}://{}", listening.scheme, listening.address),
            ));
        }
        self.ready.push(context);
        self.running.spawn(async move {
            let outcome = app.finished().await;
            (name, outcome.map_err(|error| Failure::no(format!("{name}: {}", chain(&error)))))
        });
        Ok(())
    }
}

fn flag(name: &str, value: impl std::fmt::Display) -> String {
    format!("--{name}={value}")
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

fn environment() -> BTreeMap<String, String> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

/// Others on the machine have no business in it: it holds the key that signs tokens.
fn folder(path: &Path) -> Result<PathBuf, Failure> {
    let fault = |error: std::io::Error| Failure::usage(format!("{}: {error}", path.display()));
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(fault)?;
    path.canonicalize().map_err(fault)
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(path, text).map_err(|error| Failure::no(format!("{}: {error}", path.display())))
}

fn operator_token(key: &TokenKey) -> Result<String, Failure> {
    let scopes: Vec<Scope> = TOKEN_SCOPES.iter().filter_map(|scope| scope.parse().ok()).collect();
    key.issue("operator", &scopes, TOKEN_TTL).map_err(Failure::no)
}

/// For the agent's own line in the table.
pub(crate) fn http(address: SocketAddr) -> String {
    format!("http://{address}")
}
