//! From a validated configuration to a snapshot, on the control runtime. What did not change since the last one is kept:
//! upstreams with their live state, watches and resolvers, TLS settings with their pools, services, plugin chains, and the
//! router but for the changed routes. So the cost of a change goes with its size.

pub mod changes;
pub mod check;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use changes::{gone, same, unchanged};
use foldhash::fast::RandomState;

use plinth_core::discovery::Discovery;
use plinth_core::health::Prober;
use plinth_core::identity::Identity;
use plinth_kong::{Config, Route, Service};
use uuid::Uuid;

use crate::client::{TlsSettingsError, TlsSpec, TlsTarget, mesh_service};
use crate::error::Error;
use crate::plugins;
use crate::router::Router;
use crate::snapshot::{RouteEntry, Routes, ServiceEntry, Snapshot};
use crate::upstream::checks::Checker;
use crate::upstream::dns::Dns;
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
    dns: Dns,
    prober: Prober,
    /// Shown to upstreams that are services of the mesh.
    identity: Option<Identity>,
    running: BTreeMap<String, Running>,
    tls: TlsTargets,
    generation: u64,
    last: Last,
}

/// What the last snapshot was made from and of.
#[derive(Debug, Default)]
struct Last {
    config: Arc<Config>,
    compiled: Option<Arc<plugins::Compiled>>,
    services: HashMap<Uuid, Arc<ServiceEntry>, RandomState>,
    /// The place of each route in `routes`.
    places: HashMap<Uuid, usize, RandomState>,
    /// Places without a route.
    free: Vec<usize>,
    router: Router,
    routes: Routes,
    upstreams: Arc<BTreeMap<String, Arc<Upstream>>>,
}

/// Routes that are not as they were, each with its place.
struct Moved {
    removed: Vec<(usize, Arc<Route>)>,
    added: Vec<(usize, Arc<Route>)>,
    /// The place of each route of the configuration, in its order.
    places: Vec<usize>,
    free: Vec<usize>,
}

impl Compiler {
    /// A compiler that has made nothing yet.
    ///
    /// # Errors
    /// DNS settings that cannot be used.
    pub fn new(
        plugins: plugins::Runtime,
        discovery: Discovery,
        resolve: ResolveSettings,
        identity: Option<Identity>,
    ) -> Result<Self, Error> {
        let dns = Dns::new(&resolve.dns, resolve.dns_timeout).map_err(Error::Dns)?;
        Ok(Self {
            plugins,
            discovery,
            resolve,
            dns,
            prober: Prober::new().with_identity(identity.clone()),
            identity,
            running: BTreeMap::new(),
            tls: BTreeMap::new(),
            generation: 0,
            last: Last::default(),
        })
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
            router: Router::default(),
            config,
            routes: Routes::default(),
            unmatched: compiled.unmatched(),
            upstreams: Arc::default(),
        })
    }

    /// Compiles a configuration. Everything that can fail does so before anything running is touched; then the
    /// upstreams it needs are started, and it waits shortly for their first addresses.
    ///
    /// # Errors
    /// What validation could not see: patterns, certificates, plugins that cannot be set up.
    pub async fn compile(&mut self, config: Arc<Config>, hash: String) -> Result<Arc<Snapshot>, Error> {
        let moved = self.moved(&config);
        let router = self.router(&config, &moved)?;
        let before = self.last.compiled.as_deref();
        let compiled = Arc::new(self.plugins.recompile(&config, before).map_err(Error::Plugins)?);
        let last = Arc::clone(&self.last.config);
        let targets_same = same(&last.services, &config.services) && same(&last.upstreams, &config.upstreams);
        let tls_same = same(&last.certificates, &config.certificates)
            && same(&last.ca_certificates, &config.ca_certificates);
        let wanted = if targets_same { None } else { Some(definitions(&config)?) };
        if !targets_same || !tls_same {
            self.tls = self.tls_targets(&config)?;
        }
        // nothing fails from here on
        if let Some(wanted) = wanted {
            self.start_upstreams(wanted).await;
            let upstreams = self.running.iter();
            let upstreams =
                upstreams.map(|(name, running)| (name.clone(), running.upstream.clone())).collect();
            self.last.upstreams = Arc::new(upstreams);
        }
        if !targets_same || !tls_same {
            self.last.services = self.services(&config);
        }
        let counts = |config: &Config| {
            config
                .plugins
                .iter()
                .any(|plugin| matches!(plugin.config, plinth_kong::PluginConfig::Prometheus(_)))
        };
        if counts(&last) || counts(&config) {
            self.plugins.settle(&config);
        }
        self.place_routes(&config, &compiled, moved);
        self.last.router = router;
        self.last.config = Arc::clone(&config);
        self.generation += 1;
        let snapshot = Snapshot {
            generation: self.generation,
            hash,
            unmatched: compiled.unmatched(),
            config,
            router: self.last.router.clone(),
            routes: self.last.routes.clone(),
            upstreams: Arc::clone(&self.last.upstreams),
        };
        self.last.compiled = Some(compiled);
        Ok(Arc::new(snapshot))
    }

    /// Compares routes with those of the last configuration and gives new ones a place.
    fn moved(&self, config: &Config) -> Moved {
        let kept = unchanged(&self.last.config.routes, &config.routes);
        let mut free = self.last.free.clone();
        let place_of = |route: &Route| self.last.places.get(&route.id).copied();
        let removed: Vec<(usize, Arc<Route>)> = gone(&self.last.config.routes, &kept)
            .filter_map(|route| Some((place_of(route)?, Arc::clone(route))))
            .collect();
        let stay: std::collections::HashSet<Uuid> = config
            .routes
            .iter()
            .zip(&kept)
            .filter(|(_, kept)| kept.is_none())
            .map(|(route, _)| route.id)
            .collect();
        free.extend(removed.iter().filter(|(_, route)| !stay.contains(&route.id)).map(|(place, _)| *place));
        let mut next = self.last.places.len() + self.last.free.len();
        let (mut added, mut places) = (Vec::new(), Vec::with_capacity(config.routes.len()));
        for (route, kept) in config.routes.iter().zip(&kept) {
            let place = place_of(route).unwrap_or_else(|| {
                free.pop().unwrap_or_else(|| {
                    next += 1;
                    next - 1
                })
            });
            if kept.is_none() {
                added.push((place, Arc::clone(route)));
            }
            places.push(place);
        }
        Moved { removed, added, places, free }
    }

    /// The router: changed where routes changed, made anew when many did or a service was switched on or off.
    fn router(&self, config: &Config, moved: &Moved) -> Result<Router, Error> {
        let off = |config: &Config| -> std::collections::BTreeSet<Uuid> {
            config.services.iter().filter(|service| !service.enabled).map(|service| service.id).collect()
        };
        let (off_now, off_before) = (off(config), off(&self.last.config));
        let served = |route: &Route| {
            route.is_http() && !route.service.is_some_and(|service| off_now.contains(&service))
        };
        let many = moved.removed.len() + moved.added.len() > 64 + config.routes.len() / 8;
        if many || off_now != off_before {
            let routes = config.routes.iter().zip(&moved.places);
            let routes = routes.filter(|(route, _)| served(route)).map(|(route, place)| (*place, &**route));
            return Ok(Router::of(routes)?);
        }
        let removed = moved.removed.iter().map(|(_, route)| &**route);
        let added = moved.added.iter().map(|(place, route)| (*place, &**route));
        Ok(self
            .last
            .router
            .change(removed.filter(|route| served(route)), added.filter(|(_, route)| served(route)))?)
    }

    /// Makes entries of routes that are new, or whose service or plugins are.
    fn place_routes(&mut self, config: &Config, compiled: &plugins::Compiled, moved: Moved) {
        let last = &mut self.last;
        for (place, route) in &moved.removed {
            last.routes.set(*place, None);
            last.places.remove(&route.id);
        }
        last.free = moved.free;
        last.places.extend(moved.added.iter().map(|(place, route)| (route.id, *place)));
        for (at, (route, place)) in config.routes.iter().zip(&moved.places).enumerate() {
            let service = route.service.and_then(|id| last.services.get(&id));
            let chain = compiled.chain_at(at);
            let stays = last.routes.get(*place).is_some_and(|entry| {
                Arc::ptr_eq(&entry.route, route)
                    && entry.chain.is(chain)
                    && match (&entry.service, service) {
                        (None, None) => true,
                        (Some(before), Some(now)) => Arc::ptr_eq(before, now),
                        _ => false,
                    }
            });
            if !stays {
                let entry =
                    RouteEntry { route: route.clone(), service: service.cloned(), chain: chain.clone() };
                last.routes.set(*place, Some(Arc::new(entry)));
            }
        }
    }

    /// Entries of all services; one whose service, upstream and TLS settings are the same stays.
    fn services(&self, config: &Config) -> HashMap<Uuid, Arc<ServiceEntry>, RandomState> {
        let kong: HashMap<&str, &Arc<plinth_kong::Upstream>> =
            config.upstreams.iter().map(|upstream| (upstream.name.as_str(), upstream)).collect();
        let entry = |service: &Arc<Service>| {
            let made = self.service(kong.get(service.host.as_str()).copied(), service);
            let before = self.last.services.get(&service.id).filter(|before| before.is_as(&made));
            (service.id, before.cloned().unwrap_or_else(|| Arc::new(made)))
        };
        config.services.iter().map(entry).collect()
    }

    /// Writes out what plugins still hold back (log lines). Blocks.
    pub fn flush(&self) {
        self.plugins.flush();
    }

    /// The caches of a configuration.
    pub fn caches(&self, config: &plinth_kong::Config) -> crate::plugins::Caches {
        self.plugins.caches(config)
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
            let (discovery, dns) = (self.discovery.clone(), self.dns.clone());
            let (resolve, prober) = (self.resolve.clone(), self.prober.clone());
            starting.push(async move {
                let resolver = Resolver::start(upstream.clone(), &discovery, &dns, resolve).await;
                let checker = Checker::start(&upstream, &prober);
                (name.clone(), Running { upstream, _resolver: resolver, _checker: checker })
            });
        }
        for (name, running) in futures_util::future::join_all(starting).await {
            self.running.insert(name, running);
        }
        self.running.retain(|name, _| wanted.contains_key(name));
    }

    fn service(&self, kong: Option<&Arc<plinth_kong::Upstream>>, service: &Arc<Service>) -> ServiceEntry {
        let name =
            kong.map_or_else(|| format!("{}:{}", service.host, service.port), |kong| kong.name.clone());
        let upstream = match self.running.get(&name) {
            Some(running) => running.upstream.clone(),
            // a disabled service: its routes do not exist, so nobody asks for endpoints
            None => Arc::new(Upstream::new(Definition::host(&service.host, service.port), None)),
        };
        ServiceEntry {
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
        }
    }

    fn tls_target(&self, spec: &TlsSpec) -> Result<TlsTarget, TlsSettingsError> {
        match (&spec.mesh, &self.identity) {
            (None, _) => TlsTarget::new(spec),
            (Some(service), Some(identity)) => TlsTarget::mesh(spec, service, identity),
            (Some(_), None) => Err(TlsSettingsError::Tag {
                tag: "plinth.mtls".to_owned(),
                why: "this gateway has no identity: set mtls.source",
            }),
        }
    }

    /// TLS settings of all services that speak it; unchanged ones keep their identity and with it their connections.
    fn tls_targets(&self, config: &Config) -> Result<TlsTargets, Error> {
        let mut targets = BTreeMap::new();
        for service in &config.services {
            let failed = |source| Error::UpstreamTls { service: service.label().to_owned(), source };
            let mesh = mesh_service(&service.tags, &service.host).map_err(failed)?;
            if mesh.is_none() && !service.protocol.is_tls() {
                continue;
            }
            let spec = TlsSpec { mesh, ..tls_spec(config, service) };
            let target = match self.tls.get(&service.id) {
                Some((before, target)) if *before == spec => target.clone(),
                _ => Arc::new(self.tls_target(&spec).map_err(failed)?),
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
    let kong: std::collections::HashSet<&str> =
        config.upstreams.iter().map(|upstream| upstream.name.as_str()).collect();
    for service in config.services.iter().filter(|service| service.enabled) {
        if !kong.contains(service.host.as_str()) {
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
        mesh: None,
    }
}
