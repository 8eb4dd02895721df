//! From a validated configuration to a snapshot, on the control runtime. What did not change since the last one is kept:
//! upstreams with their live state, watches and resolvers, TLS settings with their pools.

use std::collections::BTreeMap;
use std::sync::Arc;

use plinth_core::discovery::Discovery;
use plinth_core::health::Prober;
use plinth_kong::{Config, Service};
use uuid::Uuid;

use crate::client::{TlsSpec, TlsTarget};
use crate::error::Error;
use crate::plugins;
use crate::router::Router;
use crate::snapshot::{RouteEntry, ServiceEntry, Snapshot};
use crate::upstream::checks::Checker;
use crate::upstream::resolve::{ResolveSettings, Resolver};
use crate::upstream::{Definition, Upstream, millis};

/// A running upstream and what keeps its endpoints up to date.
#[derive(Debug)]
struct Running {
    upstream: Arc<Upstream>,
    _resolver: Resolver,
    _checker: Option<Checker>,
}

/// TLS settings by service, with what they were made of.
type TlsTargets = BTreeMap<Uuid, (TlsSpec, Arc<TlsTarget>)>;

/// Makes snapshots, one after the other.
#[derive(Debug)]
pub struct Compiler {
    plugins: plugins::Runtime,
    discovery: Discovery,
    resolve: ResolveSettings,
    prober: Prober,
    running: BTreeMap<String, Running>,
    tls: TlsTargets,
    generation: u64,
}

impl Compiler {
    /// A compiler that has made nothing yet.
    #[must_use]
    pub fn new(plugins: plugins::Runtime, discovery: Discovery, resolve: ResolveSettings) -> Self {
        Self {
            plugins,
            discovery,
            resolve,
            prober: Prober::new(),
            running: BTreeMap::new(),
            tls: BTreeMap::new(),
            generation: 0,
        }
    }

    /// The snapshot of no configuration: generation 0, every request is answered 404.
    ///
    /// # Errors
    /// None in practice.
    pub fn empty(&self) -> Result<Snapshot, Error> {
        let config = Arc::new(Config::default());
        let compiled = self.plugins.compile(&config).map_err(Error::Plugins)?;
        Ok(Snapshot {
            generation: 0,
            hash: "0".repeat(32),
            router: Router::new(&config)?,
            config,
            routes: Vec::new(),
            unmatched: compiled.unmatched(),
            upstreams: BTreeMap::new(),
        })
    }

    /// Compiles a configuration. Everything that can fail does so before anything running is touched; then the
    /// upstreams it needs are started, and it waits shortly for their first addresses.
    ///
    /// # Errors
    /// What validation could not see: patterns, certificates, plugins that cannot be set up.
    pub async fn compile(&mut self, config: Arc<Config>, hash: String) -> Result<Arc<Snapshot>, Error> {
        let router = Router::new(&config)?;
        let compiled = self.plugins.compile(&config).map_err(Error::Plugins)?;
        let tls = self.tls_targets(&config)?;
        let wanted = definitions(&config)?;
        self.tls = tls;
        self.start_upstreams(wanted).await;
        let mut services = BTreeMap::new();
        for service in &config.services {
            services.insert(service.id, Arc::new(self.service(&config, service)?));
        }
        let routes = config
            .routes
            .iter()
            .enumerate()
            .map(|(index, route)| RouteEntry {
                route: route.clone(),
                service: route.service.and_then(|id| services.get(&id).cloned()),
                chain: compiled.chain(index),
            })
            .collect();
        self.plugins.settle(&config);
        self.generation += 1;
        let upstreams =
            self.running.iter().map(|(name, running)| (name.clone(), running.upstream.clone())).collect();
        Ok(Arc::new(Snapshot {
            generation: self.generation,
            hash,
            unmatched: compiled.unmatched(),
            config,
            router,
            routes,
            upstreams,
        }))
    }

    /// Writes out what plugins still hold back (log lines). Blocks.
    pub fn flush(&self) {
        self.plugins.flush();
    }

    /// Opens log files anew.
    pub fn reopen(&self) {
        self.plugins.reopen();
    }

    /// Starts what is new or changed, together; stops what is gone.
    async fn start_upstreams(&mut self, wanted: BTreeMap<String, Definition>) {
        let mut starting = Vec::new();
        for (name, definition) in &wanted {
            let before = self.running.get(name).map(|running| running.upstream.clone());
            if before.as_ref().is_some_and(|before| before.definition == *definition) {
                continue;
            }
            let upstream = Arc::new(Upstream::new(definition.clone(), before.as_deref()));
            let (discovery, resolve, prober) = (self.discovery.clone(), self.resolve, self.prober.clone());
            starting.push(async move {
                let resolver = Resolver::start(upstream.clone(), &discovery, resolve).await;
                let checker = Checker::start(&upstream, &prober);
                (name.clone(), Running { upstream, _resolver: resolver, _checker: checker })
            });
        }
        for (name, running) in futures_util::future::join_all(starting).await {
            self.running.insert(name, running);
        }
        self.running.retain(|name, _| wanted.contains_key(name));
    }

    fn service(&self, config: &Config, service: &Arc<Service>) -> Result<ServiceEntry, Error> {
        let kong = config.upstream(&service.host);
        let name =
            kong.map_or_else(|| format!("{}:{}", service.host, service.port), |kong| kong.name.clone());
        let upstream = match self.running.get(&name) {
            Some(running) => running.upstream.clone(),
            // a disabled service: its routes do not exist, so nobody asks for endpoints
            None => Arc::new(Upstream::new(Definition::host(&service.host, service.port), None)),
        };
        Ok(ServiceEntry {
            tls: self.tls.get(&service.id).map(|(_, target)| target.clone()),
            http2: service.protocol.is_grpc(),
            path: service.path.clone().unwrap_or_default(),
            host_header: kong.and_then(|kong| kong.host_header.clone()),
            retries: service.retries,
            connect_timeout: millis(service.connect_timeout),
            write_timeout: millis(service.write_timeout),
            read_timeout: millis(service.read_timeout),
            service: service.clone(),
            upstream,
        })
    }

    /// TLS settings of all services that speak it; unchanged ones keep their identity and with it their connections.
    fn tls_targets(&self, config: &Config) -> Result<TlsTargets, Error> {
        let mut targets = BTreeMap::new();
        for service in config.services.iter().filter(|service| service.protocol.is_tls()) {
            let spec = tls_spec(config, service);
            let target =
                match self.tls.get(&service.id) {
                    Some((before, target)) if *before == spec => target.clone(),
                    _ => Arc::new(TlsTarget::new(&spec).map_err(|source| Error::UpstreamTls {
                        service: service.label().to_owned(),
                        source,
                    })?),
                };
            targets.insert(service.id, (spec, target));
        }
        Ok(targets)
    }
}

/// Every upstream services need: Kong's, and one for each other host.
fn definitions(config: &Config) -> Result<BTreeMap<String, Definition>, Error> {
    let mut wanted = BTreeMap::new();
    for upstream in &config.upstreams {
        let definition = Definition::kong(upstream)
            .map_err(|source| Error::Upstream { upstream: upstream.name.clone(), source })?;
        wanted.insert(upstream.name.clone(), definition);
    }
    for service in config.services.iter().filter(|service| service.enabled) {
        if config.upstream(&service.host).is_none() {
            let definition = Definition::host(&service.host, service.port);
            wanted.insert(definition.name.clone(), definition);
        }
    }
    Ok(wanted)
}

fn tls_spec(config: &Config, service: &Service) -> TlsSpec {
    let kong = config.upstream(&service.host);
    let authority =
        |id: &Uuid| config.ca_certificates.iter().find(|ca| ca.id == *id).map(|ca| ca.cert.clone());
    // the service's own certificate goes before the upstream's
    let own = service.client_certificate.or_else(|| kong?.client_certificate);
    let own = own.and_then(|id| config.certificates.iter().find(|own| own.id == id));
    let host = match kong {
        None => service.host.as_str(),
        Some(kong) => match (&kong.host_header, kong.targets.first()) {
            (Some(header), _) => crate::proxy::head::split_port(header).0,
            (None, Some(target)) => target.address().0,
            (None, None) => service.host.as_str(),
        },
    };
    TlsSpec {
        host: host.to_owned(),
        verify: service.tls_verify == Some(true),
        depth: service.tls_verify_depth,
        authorities: service.ca_certificates.iter().filter_map(authority).collect(),
        client: own.map(|own| (own.cert.clone(), own.key.clone())),
        http2: service.protocol.is_grpc(),
    }
}
