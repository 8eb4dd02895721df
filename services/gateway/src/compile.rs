//! From a validated configuration to a snapshot, on the control runtime. What did not change since the last one is kept:
//! upstreams with their live state, watches and resolvers, TLS settings with their pools.

use std::collections::BTreeMap;
use std::sync::Arc;

use plinth_core::discovery::Discovery;
use plinth_kong::{Config, Service};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use uuid::Uuid;

use crate::client::{TlsTarget, Trust};
use crate::error::Error;
use crate::plugins;
use crate::router::Router;
use crate::snapshot::{RouteEntry, ServiceEntry, Snapshot};
use crate::upstream::resolve::{ResolveSettings, Resolver};
use crate::upstream::{Definition, Upstream, millis};

/// A running upstream and what keeps its endpoints up to date.
#[derive(Debug)]
struct Running {
    upstream: Arc<Upstream>,
    _resolver: Resolver,
}

/// TLS settings by service, with the service they were made for.
type TlsTargets = BTreeMap<Uuid, (Arc<Service>, Arc<TlsTarget>)>;

/// Makes snapshots, one after the other.
#[derive(Debug)]
pub struct Compiler {
    plugins: plugins::Runtime,
    discovery: Discovery,
    resolve: ResolveSettings,
    running: BTreeMap<String, Running>,
    tls: TlsTargets,
    generation: u64,
}

impl Compiler {
    /// A compiler that has made nothing yet.
    #[must_use]
    pub fn new(plugins: plugins::Runtime, discovery: Discovery, resolve: ResolveSettings) -> Self {
        Self { plugins, discovery, resolve, running: BTreeMap::new(), tls: BTreeMap::new(), generation: 0 }
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
        self.tls = tls;
        self.start_upstreams(&config).await;
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
    async fn start_upstreams(&mut self, config: &Config) {
        let mut wanted: BTreeMap<String, Definition> = BTreeMap::new();
        for upstream in &config.upstreams {
            wanted.insert(upstream.name.clone(), Definition::kong(upstream));
        }
        for service in config.services.iter().filter(|service| service.enabled) {
            if config.upstream(&service.host).is_none() {
                let definition = Definition::host(&service.host, service.port);
                wanted.insert(definition.name.clone(), definition);
            }
        }
        let mut starting = Vec::new();
        for (name, definition) in wanted.clone() {
            let before = self.running.get(&name).map(|running| running.upstream.clone());
            if before.as_ref().is_some_and(|before| before.definition == definition) {
                continue;
            }
            let upstream = Arc::new(Upstream::new(definition, before.as_deref()));
            let (discovery, resolve) = (self.discovery.clone(), self.resolve);
            starting.push(async move {
                let resolver = Resolver::start(upstream.clone(), &discovery, resolve).await;
                (name, Running { upstream, _resolver: resolver })
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

    /// TLS settings of all https services; unchanged ones keep their identity and with it their connections.
    fn tls_targets(&self, config: &Config) -> Result<TlsTargets, Error> {
        let mut targets = BTreeMap::new();
        for service in config.services.iter().filter(|service| service.protocol.is_tls()) {
            let target = match self.tls.get(&service.id) {
                Some((before, target))
                    if before == service
                        && service.ca_certificates.is_empty()
                        && service.client_certificate.is_none() =>
                {
                    target.clone()
                }
                _ => Arc::new(tls_target(config, service)?),
            };
            targets.insert(service.id, (service.clone(), target));
        }
        Ok(targets)
    }
}

fn tls_target(config: &Config, service: &Service) -> Result<TlsTarget, Error> {
    let label = || service.label().to_owned();
    let bad =
        |what: &'static str| move |error| Error::Pem { what, of: service.label().to_owned(), source: error };
    let trust = match service.tls_verify {
        Some(true) => {
            let mut roots = Vec::new();
            for id in &service.ca_certificates {
                if let Some(ca) = config.ca_certificates.iter().find(|ca| ca.id == *id) {
                    roots.push(
                        CertificateDer::from_pem_slice(ca.cert.as_bytes()).map_err(bad("CA certificate"))?,
                    );
                }
            }
            if roots.is_empty() {
                roots = rustls_native_certs::load_native_certs().certs;
            }
            Trust::Roots(roots)
        }
        _ => Trust::Anybody,
    };
    let own = service.client_certificate.and_then(|id| config.certificates.iter().find(|own| own.id == id));
    let client = match own {
        None => None,
        Some(own) => {
            let chain = CertificateDer::pem_slice_iter(own.cert.as_bytes())
                .collect::<Result<Vec<_>, _>>()
                .map_err(bad("client certificate"))?;
            let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).map_err(bad("client key"))?;
            Some((chain, key))
        }
    };
    let kong = config.upstream(&service.host);
    let host = match kong {
        None => service.host.as_str(),
        Some(kong) => match (&kong.host_header, kong.targets.first()) {
            (Some(header), _) => crate::proxy::head::split_port(header).0,
            (None, Some(target)) => target.address().0,
            (None, None) => service.host.as_str(),
        },
    };
    TlsTarget::new(host, trust, client).map_err(|source| Error::UpstreamTls { service: label(), source })
}
