//! Chains of all routes from the plugins of a configuration. A chain is made anew only where a plugin, the route or its service
//! changed, and routes with the same plugins share one.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use foldhash::fast::RandomState;
use plinth_kong::{Config, Plugin, Route, Service};
use uuid::Uuid;

use super::chain::{Chain, Instance, Step};
use super::{Built, Labels};
use crate::compile::changes::{gone, same, unchanged};

/// All chains of a configuration.
#[derive(Debug)]
pub struct Compiled {
    pub(super) config: Arc<Config>,
    pub(super) built: Vec<Built>,
    routes: Vec<Chain>,
    unmatched: Chain,
}

impl Compiled {
    /// The chain of a route, by its position in the configuration.
    #[must_use]
    pub fn chain(&self, route: usize) -> Chain {
        self.chain_at(route).clone()
    }

    /// The same, borrowed.
    #[must_use]
    pub fn chain_at(&self, route: usize) -> &Chain {
        self.routes.get(route).unwrap_or(&self.unmatched)
    }

    /// The global plugins, for requests no route matches.
    #[must_use]
    pub fn unmatched(&self) -> Chain {
        self.unmatched.clone()
    }
}

/// Makes the chains. With what was there before comes where each plugin stood in it; `last` ends every chain.
pub(super) fn assemble(
    config: &Arc<Config>,
    built: Vec<Built>,
    before: Option<(&Compiled, &[Option<usize>])>,
    last: Option<&Arc<Instance>>,
) -> Compiled {
    let mut bench = Bench::new(config, &built, last);
    let changed = before.map(|(before, kept)| Changed::new(before, config, kept));
    let routes_kept = before.map(|(before, _)| unchanged(&before.config.routes, &config.routes));
    let kept = |at: usize, route: &Route| {
        let old = *routes_kept.as_ref()?.get(at)?;
        if changed.as_ref()?.touches(route) {
            return None;
        }
        before?.0.routes.get(old?).cloned()
    };
    let routes = config
        .routes
        .iter()
        .enumerate()
        .map(|(at, route)| kept(at, route).unwrap_or_else(|| bench.chain(Some(route))))
        .collect();
    let unmatched = match (&changed, before) {
        (Some(changed), Some((before, _))) if !changed.everywhere => before.unmatched.clone(),
        _ => bench.chain(None),
    };
    Compiled { config: Arc::clone(config), routes, unmatched, built }
}

/// Where plugins or services are not what they were.
#[derive(Default)]
struct Changed {
    everywhere: bool,
    routes: HashSet<Uuid>,
    services: HashSet<Uuid>,
}

impl Changed {
    fn new(before: &Compiled, config: &Config, kept: &[Option<usize>]) -> Changed {
        let mut changed = Changed::default();
        let fresh =
            config.plugins.iter().zip(kept).filter(|(_, kept)| kept.is_none()).map(|(plugin, _)| plugin);
        for plugin in gone(&before.config.plugins, kept).chain(fresh) {
            match (plugin.route, plugin.service) {
                (Some(route), _) => {
                    changed.routes.insert(route);
                }
                (None, Some(service)) => {
                    changed.services.insert(service);
                }
                (None, None) => changed.everywhere = true,
            }
        }
        if !same(&before.config.services, &config.services) {
            let kept = unchanged(&before.config.services, &config.services);
            let fresh = config.services.iter().zip(&kept).filter(|(_, kept)| kept.is_none());
            let fresh = fresh.map(|(service, _)| service.id);
            changed
                .services
                .extend(gone(&before.config.services, &kept).map(|service| service.id).chain(fresh));
        }
        changed
    }

    fn touches(&self, route: &Route) -> bool {
        self.everywhere
            || self.routes.contains(&route.id)
            || route.service.is_some_and(|service| self.services.contains(&service))
    }
}

/// What chains are put together from.
struct Bench<'c> {
    built: &'c [Built],
    services: HashMap<Uuid, &'c Service, RandomState>,
    /// Positions of plugins that name neither route nor service, those of a route, those of a service.
    general: Vec<usize>,
    of_route: HashMap<Uuid, Vec<usize>>,
    of_service: HashMap<Uuid, Vec<usize>>,
    last: Option<&'c Arc<Instance>>,
    /// Chains without a plugin that is bound to its route, by the plugins they are of.
    shared: HashMap<Vec<usize>, Chain>,
}

impl<'c> Bench<'c> {
    fn new(config: &'c Config, built: &'c [Built], last: Option<&'c Arc<Instance>>) -> Bench<'c> {
        let mut bench = Bench {
            built,
            services: config.services.iter().map(|service| (service.id, &**service)).collect(),
            general: Vec::new(),
            of_route: HashMap::new(),
            of_service: HashMap::new(),
            last,
            shared: HashMap::new(),
        };
        for (at, one) in built.iter().enumerate().filter(|(_, one)| one.instance.is_some()) {
            match (one.plugin.route, one.plugin.service) {
                (Some(route), _) => bench.of_route.entry(route).or_default().push(at),
                (None, Some(service)) => bench.of_service.entry(service).or_default().push(at),
                (None, None) => bench.general.push(at),
            }
        }
        bench
    }

    /// The chain of one route, or of requests without one.
    fn chain(&mut self, route: Option<&Route>) -> Chain {
        let place =
            Place { route: route.map(|route| route.id), service: route.and_then(|route| route.service) };
        let mut here = self.general.clone();
        let own = place.route.and_then(|id| self.of_route.get(&id));
        let of_service = place.service.and_then(|id| self.of_service.get(&id));
        here.extend(own.into_iter().chain(of_service).flatten());
        let admitted = |at: &usize| self.built.get(*at).is_some_and(|one| place.admits(&one.plugin));
        here.retain(admitted);
        here.sort_unstable();
        if let Some(chain) = self.shared.get(&here) {
            return chain.clone();
        }
        let plugins: Vec<&Built> = here.iter().filter_map(|at| self.built.get(*at)).collect();
        let service = place.service.and_then(|id| self.services.get(&id).copied());
        let at = Labels { route, service };
        let (chain, bound) = chain(&plugins, &at, self.last);
        if !bound {
            self.shared.insert(here, chain.clone());
        }
        chain
    }
}

/// The chain of some plugins at one place, and whether any of them is bound to that place.
fn chain(plugins: &[&Built], at: &Labels<'_>, last: Option<&Arc<Instance>>) -> (Chain, bool) {
    let mut names: Vec<&str> = Vec::new();
    for one in plugins {
        if !names.contains(&one.plugin.name.as_str()) {
            names.push(&one.plugin.name);
        }
    }
    let mut bound = false;
    let mut steps: Vec<Step> = names.into_iter().map(|name| step(plugins, name, at, &mut bound)).collect();
    steps.sort_by_key(|step| std::cmp::Reverse(step.priority));
    steps.extend(last.map(|last| Step {
        priority: i32::MIN,
        default: Some(Arc::clone(last)),
        by_consumer: HashMap::default(),
    }));
    (Chain::new(steps), bound)
}

/// The one configuration of a plugin that runs here, for each consumer that has one of its own and for all others.
fn step(plugins: &[&Built], name: &str, at: &Labels<'_>, bound: &mut bool) -> Step {
    let here = || plugins.iter().copied().filter(|one| one.plugin.name == name);
    let best = |consumer: Option<Uuid>| {
        here()
            .filter(|one| one.plugin.consumer.is_none() || one.plugin.consumer == consumer)
            .max_by_key(|one| specificity(&one.plugin))
    };
    let mut bind = |one: &Built| {
        let instance = one.instance.as_ref()?;
        let own = instance.bind(at);
        *bound |= !Arc::ptr_eq(&own, instance);
        Some(own)
    };
    let consumers: HashSet<Uuid> = here().filter_map(|one| one.plugin.consumer).collect();
    Step {
        priority: here().map(|one| one.plugin.config.priority()).max().unwrap_or_default(),
        default: best(None).and_then(&mut bind),
        by_consumer: consumers.into_iter().filter_map(|id| Some((id, bind(best(Some(id))?)?))).collect(),
    }
}

/// The route and service a chain belongs to.
struct Place {
    route: Option<Uuid>,
    service: Option<Uuid>,
}

impl Place {
    fn admits(&self, plugin: &Plugin) -> bool {
        let fits = |scope: Option<Uuid>, own: Option<Uuid>| scope.is_none() || scope == own;
        fits(plugin.route, self.route) && fits(plugin.service, self.service)
    }
}

/// Kong's precedence: route+service+consumer, route+consumer, service+consumer, route+service, consumer, route, service, global.
pub(crate) fn specificity(plugin: &Plugin) -> u8 {
    match (plugin.route.is_some(), plugin.service.is_some(), plugin.consumer.is_some()) {
        (true, true, true) => 7,
        (true, false, true) => 6,
        (false, true, true) => 5,
        (true, true, false) => 4,
        (false, false, true) => 3,
        (true, false, false) => 2,
        (false, true, false) => 1,
        (false, false, false) => 0,
    }
}
