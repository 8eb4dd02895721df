//! The order of loading, and what is kept between loads.

use std::borrow::Cow;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState as Keyed};
use std::sync::Arc;

use foldhash::fast::RandomState;
use uuid::Uuid;

use super::found::{Document, Found, Source};
use super::fresh::{Early, fresh};
use super::link::link;
use super::patch::{Last, Pieces};
use super::ready::{Ready, Typed};
use super::vault::{Secrets, Vaults};
use super::{Card, Loader, State, Version, advice, segments, split, steps};
use crate::entities::Entity;
use crate::model::{Config, Target, Upstream};
use crate::node::Node;
use crate::report::Report;
use crate::{Fault, Faults, Format, Loaded, read};

/// Loads a whole document once, with a report on every field.
pub(crate) fn load(document: &str, format: Format, secrets: Secrets) -> Result<Loaded, Faults> {
    let mut once = Reloader { keep: false, ..Reloader::new(secrets) };
    once.attempt(whole(document, format)?, true).map(|made| made.loaded).map_err(Failed::faults)
}

/// Loads one version of a configuration after another. What did not change from one to the next is neither read nor checked
/// again, and keeps its `Arc` in the [`Config`].
///
/// The result is the same as that of loading the whole document anew. Its report is empty, and its warnings are those of
/// entities that are new or changed.
#[derive(Debug)]
pub struct Reloader {
    pub(super) secrets: Secrets,
    keep: bool,
    /// Two, so that no two texts are taken for the same: they are not kept to be compared.
    hashers: [Keyed; 2],
    /// By the digest of text and place, and by the copy.
    pub(super) ready: HashMap<(u128, u32), (Arc<Ready>, u64), RandomState>,
    /// What all of `ready` depends on besides their own text.
    context: String,
    pub(super) loads: u64,
    /// Upstreams with their targets, by id: what they were put together from.
    pub(super) upstreams: Upstreams,
    /// The last text that came apart by its lines, and what it gave.
    pub(super) last: Option<Last>,
}

/// An upstream without targets, its targets, and what both make.
pub(super) type PutTogether = (Arc<Upstream>, Vec<Arc<Target>>, Arc<Upstream>);
pub(super) type Upstreams = HashMap<Uuid, PutTogether>;

pub(super) fn with_targets(bare: &Upstream, targets: &[Arc<Target>]) -> Arc<Upstream> {
    let targets = targets.iter().map(|target| Target::clone(target)).collect();
    Arc::new(Upstream { targets, ..bare.clone() })
}

pub(super) enum Failed {
    Faults(Vec<Fault>),
    /// The document does not come apart as it seemed.
    Odd,
    /// A name means another entity now. What was resolved by it is forgotten; the next try makes everything anew.
    Stale,
}

impl Failed {
    fn faults(self) -> Faults {
        match self {
            Failed::Faults(faults) => Faults::from(faults),
            Failed::Odd | Failed::Stale => odd(),
        }
    }
}

/// A configuration and, for the next one, what it was made of.
pub(super) struct Made {
    pub loaded: Loaded,
    pub cards: Vec<Card>,
    pub version: Version,
    pub vaults: Vaults,
}

fn odd() -> Faults {
    Faults::from(vec![Fault { path: Vec::new(), message: "expected a record".to_owned() }])
}

fn whole(document: &str, format: Format) -> Result<Document<'static>, Faults> {
    match read::read(document, format)? {
        Node::Map(map) => Ok(Document::of(map)),
        _ => Err(odd()),
    }
}

impl Reloader {
    /// Nothing loaded yet.
    pub fn new(secrets: Secrets) -> Reloader {
        Reloader {
            secrets,
            keep: true,
            hashers: [Keyed::new(), Keyed::new()],
            ready: HashMap::default(),
            context: String::new(),
            loads: 0,
            upstreams: HashMap::new(),
            last: None,
        }
    }

    /// Loads a document.
    ///
    /// # Errors
    /// All faults found; what was loaded before stays good for the next load.
    pub fn load(&mut self, document: &str, format: Format) -> Result<Loaded, Faults> {
        if format == Format::Yaml {
            if let Some(loaded) = self.patch(document) {
                return Ok(loaded);
            }
            let mut apart = split::split(document);
            while let Some(parts) = apart.take() {
                let pieces = Pieces::of(document, &parts.found);
                match self.attempt(parts, false) {
                    Ok(made) => return Ok(self.remember(document, pieces, made)),
                    Err(Failed::Stale) => apart = split::split(document),
                    Err(_) => {}
                }
            }
        }
        // Not of the simple style, or with faults, of which the reader of whole documents tells best.
        match self.attempt(whole(document, format)?, false) {
            Err(Failed::Stale) => self.attempt(whole(document, format)?, false),
            done => done,
        }
        .map(|made| {
            self.last = None;
            made.loaded
        })
        .map_err(Failed::faults)
    }

    fn attempt(&mut self, document: Document<'_>, report: bool) -> Result<Made, Failed> {
        let mut loader = Loader::new(self.secrets.clone(), report);
        let Document { mut head, found } = document;
        let transform = loader.settings(&mut head);
        loader.top(head);
        self.begin(&loader, &found);
        let mut cards = self.cards(&mut loader, found)?;
        link(&mut loader, &mut cards);
        if cards.iter().any(Card::is_stale) {
            self.ready.clear();
            return Err(Failed::Stale);
        }
        if !loader.faults.is_empty() {
            return Err(Failed::Faults(loader.faults));
        }
        Ok(self.finish(loader, cards, transform))
    }

    /// Forgets what was kept when that on which all of it depends has changed.
    fn begin(&mut self, loader: &Loader, found: &[Found<'_>]) {
        self.loads += 1;
        let mut context = loader.version.as_str().to_owned();
        for vault in found.iter().filter(|found| found.entity.collection == "vaults") {
            context.push('\n');
            match &vault.source {
                Source::Text(pieces) => context.extend(pieces.iter().copied()),
                Source::Node(node) => context.push_str(&node.text()),
            }
        }
        if context != self.context {
            self.ready.clear();
            self.context = context;
        }
    }

    fn cards(&mut self, loader: &mut Loader, found: Vec<Found<'_>>) -> Result<Vec<Card>, Failed> {
        let mut cards: Vec<Card> = Vec::with_capacity(found.len());
        // How many entities had this id because of their content.
        let mut copies: HashMap<Uuid, u32, RandomState> = HashMap::default();
        let mut early = self.ready.is_empty().then(Early::default);
        let mut untyped = Vec::new();
        for one in found {
            let parent = one.parent.and_then(|(at, back)| Some((back, cards.get(at)?.id())));
            let text: Cow<'_, str> = match &one.source {
                Source::Text(pieces) => match pieces.as_slice() {
                    [whole] => Cow::Borrowed(whole),
                    pieces => Cow::Owned(pieces.concat()),
                },
                Source::Node(_) if !self.keep => Cow::Borrowed(""),
                Source::Node(node) => Cow::Owned(node.text()),
            };
            let digest = self.digest(one.entity, &text, parent.map(|(_, id)| id));
            let state = match self.kept(digest, &mut copies) {
                Some(ready) => {
                    if let Typed::Vault(vault) = &ready.typed {
                        loader
                            .vaults
                            .insert(vault.prefix.clone(), vault.config.prefix.clone().unwrap_or_default());
                    }
                    State::Kept(ready)
                }
                None => {
                    let mut fresh =
                        Box::new(fresh(loader, &cards, &one, (&text, digest), parent, &mut copies)?);
                    if let Some(Err(message)) = early.as_mut().map(|early| early.finish(&mut fresh, &one)) {
                        untyped.push((cards.len(), message));
                    }
                    State::Fresh(fresh)
                }
            };
            cards.push(Card { entity: one.entity, index: one.index, parent: one.parent, state });
        }
        for (at, message) in untyped {
            loader.fault_of(&cards, at, "", message);
        }
        Ok(cards)
    }

    /// Of what makes an entity: equal ones stand in an equal place with an equal text.
    pub(super) fn digest(&self, entity: &Entity, text: &str, parent: Option<Uuid>) -> u128 {
        if !self.keep {
            return 0;
        }
        let [high, low] = self.hashers.each_ref().map(|keyed| {
            let mut hasher = keyed.build_hasher();
            hasher.write(entity.collection.as_bytes());
            hasher.write_u128(parent.map_or(0, |id| id.as_u128()));
            hasher.write(text.as_bytes());
            u128::from(hasher.finish())
        });
        high << 64 | low
    }

    /// The entity as it was kept.
    fn kept(&mut self, digest: u128, copies: &mut HashMap<Uuid, u32, RandomState>) -> Option<Arc<Ready>> {
        if self.ready.is_empty() {
            return None;
        }
        let mut copy = 0;
        loop {
            let (ready, used) = self.ready.get_mut(&(digest, copy))?;
            if ready.by_content {
                let before = copies.entry(ready.first_id).or_default();
                if *before > copy {
                    copy = *before;
                    continue;
                }
                *before += 1;
            }
            *used = self.loads;
            return Some(Arc::clone(ready));
        }
    }

    fn finish(&mut self, mut loader: Loader, cards: Vec<Card>, transform: bool) -> Made {
        let mut config =
            Config { format_version: loader.version.as_str().to_owned(), transform, ..Config::default() };
        let mut targets: HashMap<Uuid, Vec<Arc<Target>>> = HashMap::new();
        let mut warnings = std::mem::take(&mut loader.warnings);
        let mut fresh_routes = Vec::new();
        let mut kept = Vec::with_capacity(if self.keep { cards.len() } else { 0 });
        let places: Vec<_> = cards
            .iter()
            .map(|card| match card.state {
                State::Kept(_) | State::Stale => Vec::new(),
                State::Fresh(_) => steps(&cards, card.entity, card.index, card.parent),
            })
            .collect();
        for (card, place) in cards.into_iter().zip(places) {
            let (ready, new) = match card.state {
                State::Kept(ready) => (ready, false),
                State::Fresh(fresh) => (Arc::new(fresh.into_ready()), true),
                State::Stale => continue,
            };
            if new {
                warnings.extend(ready.warnings_at(&place));
                if let Typed::Route(route) = &ready.typed {
                    fresh_routes.push((Arc::clone(route), segments(&place)));
                }
            }
            if !ready.secrets.is_empty() {
                config.references.insert((card.entity.collection, ready.id), ready.secrets.clone());
            }
            push(&mut config, &mut targets, &ready.typed);
            if !self.keep {
                continue;
            }
            if new {
                self.ready.insert((ready.digest, ready.copy), (Arc::clone(&ready), self.loads));
            }
            kept.push(Card { state: State::Kept(ready), ..card });
        }
        self.place_targets(&mut config, targets);
        let live = config.len();
        if self.ready.len() > live * 2 + 1024 {
            let loads = self.loads;
            self.ready.retain(|_, (_, used)| *used == loads);
        }
        warnings.extend(advice::advise(&config, fresh_routes.into_iter()));
        let report = loader.report.take().map_or_else(Report::default, crate::report::ReportBuilder::finish);
        let loaded = Loaded { config, report, warnings };
        Made { loaded, cards: kept, version: loader.version, vaults: loader.vaults }
    }

    /// Puts targets into their upstreams; an upstream whose parts are the same stays the same.
    fn place_targets(&mut self, config: &mut Config, mut targets: HashMap<Uuid, Vec<Arc<Target>>>) {
        let mut next = HashMap::with_capacity(config.upstreams.len());
        for upstream in &mut config.upstreams {
            let own = targets.remove(&upstream.id).unwrap_or_default();
            let before = self.upstreams.remove(&upstream.id).filter(|(bare, parts, _)| {
                Arc::ptr_eq(bare, upstream)
                    && parts.len() == own.len()
                    && parts.iter().zip(&own).all(|(one, other)| Arc::ptr_eq(one, other))
            });
            let made = match before {
                Some((_, _, made)) => made,
                None => with_targets(upstream, &own),
            };
            next.insert(upstream.id, (std::mem::replace(upstream, Arc::clone(&made)), own, made));
        }
        self.upstreams = next;
    }
}

fn push(config: &mut Config, targets: &mut HashMap<Uuid, Vec<Arc<Target>>>, typed: &Typed) {
    match typed {
        Typed::Vault(one) => config.vaults.push(Arc::clone(one)),
        Typed::Service(one) => config.services.push(Arc::clone(one)),
        Typed::Route(one) => config.routes.push(Arc::clone(one)),
        Typed::Upstream(one) => config.upstreams.push(Arc::clone(one)),
        Typed::Target(upstream, one) => targets.entry(*upstream).or_default().push(Arc::clone(one)),
        Typed::Consumer(one) => config.consumers.push(Arc::clone(one)),
        Typed::Plugin(one) => config.plugins.push(Arc::clone(one)),
        Typed::Certificate(one) => config.certificates.push(Arc::clone(one)),
        Typed::Sni(one) => config.snis.push(Arc::clone(one)),
        Typed::CaCertificate(one) => config.ca_certificates.push(Arc::clone(one)),
        Typed::Jwt(one) => config.jwt_secrets.push(Arc::clone(one)),
        Typed::Key(one) => config.keyauth_credentials.push(Arc::clone(one)),
        Typed::Basic(one) => config.basicauth_credentials.push(Arc::clone(one)),
        Typed::Hmac(one) => config.hmacauth_credentials.push(Arc::clone(one)),
        Typed::Acl(one) => config.acls.push(Arc::clone(one)),
        Typed::OAuth2(one) => config.oauth2_credentials.push(Arc::clone(one)),
        Typed::Nothing => {}
    }
}
