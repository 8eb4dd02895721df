//! The order of loading, and what is kept between loads.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use foldhash::fast::RandomState;
use uuid::Uuid;

use super::found::{Document, Found, Source};
use super::link::{IdSource, Names, references, text, unique};
use super::ready::{Ready, Reference, Typed, typed};
use super::vault::Secrets;
use super::{At, Card, Fresh, Loader, State, advice, at_place, segments, split, steps};
use crate::entities::Entity;
use crate::model::{Config, Target, Upstream};
use crate::node::{Map, Node};
use crate::report::Report;
use crate::{Fault, Faults, Format, Loaded, Warning, read};

/// Loads a whole document once, with a report on every field.
pub(crate) fn load(document: &str, format: Format, secrets: Secrets) -> Result<Loaded, Faults> {
    let mut once = Reloader { keep: false, ..Reloader::new(secrets) };
    once.attempt(whole(document, format)?, true).map_err(Failed::faults)
}

/// Loads one version of a configuration after another. What did not change from one to the next is neither read nor checked
/// again, and keeps its `Arc` in the [`Config`].
///
/// The result is the same as that of loading the whole document anew. Its report is empty, and its warnings are those of
/// entities that are new or changed.
#[derive(Debug)]
pub struct Reloader {
    secrets: Secrets,
    keep: bool,
    hasher: RandomState,
    /// By the hash of text, place and copy.
    ready: HashMap<u64, (Arc<Ready>, u64), RandomState>,
    /// What all of `ready` depends on besides their own text.
    context: String,
    loads: u64,
    /// Upstreams with their targets, by id: what they were put together from.
    upstreams: HashMap<Uuid, PutTogether>,
}

/// An upstream without targets, its targets, and what both make.
type PutTogether = (Arc<Upstream>, Vec<Arc<Target>>, Arc<Upstream>);

enum Failed {
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
            hasher: RandomState::default(),
            ready: HashMap::default(),
            context: String::new(),
            loads: 0,
            upstreams: HashMap::new(),
        }
    }

    /// Loads a document.
    ///
    /// # Errors
    /// All faults found; what was loaded before stays good for the next load.
    pub fn load(&mut self, document: &str, format: Format) -> Result<Loaded, Faults> {
        if format == Format::Yaml
            && let Some(apart) = split::split(document)
        {
            let again = match self.attempt(apart, false) {
                Ok(loaded) => return Ok(loaded),
                Err(Failed::Stale) => split::split(document),
                Err(_) => None,
            };
            if let Some(Ok(loaded)) = again.map(|apart| self.attempt(apart, false)) {
                return Ok(loaded);
            }
        }
        // Not of the simple style, or with faults, of which the reader of whole documents tells best.
        match self.attempt(whole(document, format)?, false) {
            Err(Failed::Stale) => self.attempt(whole(document, format)?, false),
            done => done,
        }
        .map_err(Failed::faults)
    }

    fn attempt(&mut self, document: Document<'_>, report: bool) -> Result<Loaded, Failed> {
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
        for one in found {
            let parent = one.parent.and_then(|(at, back)| Some((back, cards.get(at)?.id())));
            let pieces = match &one.source {
                Source::Text(pieces) => Pieces::Borrowed(pieces.clone()),
                Source::Node(_) if !self.keep => Pieces::Owned(String::new()),
                Source::Node(node) => Pieces::Owned(node.text()),
            };
            let state = match self.kept(one.entity, &pieces, parent.map(|(_, id)| id), &mut copies) {
                Some(ready) => {
                    if let Typed::Vault(vault) = &ready.typed {
                        loader
                            .vaults
                            .insert(vault.prefix.clone(), vault.config.prefix.clone().unwrap_or_default());
                    }
                    State::Kept(ready)
                }
                None => State::Fresh(Box::new(fresh(loader, &cards, &one, pieces, parent, &mut copies)?)),
            };
            cards.push(Card { entity: one.entity, index: one.index, parent: one.parent, state });
        }
        Ok(cards)
    }

    fn key(&self, entity: &Entity, pieces: &Pieces<'_>, parent: Option<Uuid>, copy: u32) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write(entity.collection.as_bytes());
        hasher.write_u128(parent.map_or(0, |id| id.as_u128()));
        hasher.write_u32(copy);
        // The way a text is cut into pieces must not matter less than its bytes: lengths take part.
        for piece in pieces.list() {
            hasher.write(piece.as_bytes());
        }
        hasher.finish()
    }

    /// The entity as it was kept, if it stood in the same place with the same text.
    fn kept(
        &mut self,
        entity: &Entity,
        pieces: &Pieces<'_>,
        parent: Option<Uuid>,
        copies: &mut HashMap<Uuid, u32, RandomState>,
    ) -> Option<Arc<Ready>> {
        if self.ready.is_empty() {
            return None;
        }
        let mut copy = 0;
        loop {
            let key = self.key(entity, pieces, parent, copy);
            let (ready, used) = self.ready.get_mut(&key)?;
            if ready.parent != parent || ready.copy != copy || !pieces.is(&ready.text) {
                return None;
            }
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

    fn finish(&mut self, mut loader: Loader, cards: Vec<Card>, transform: bool) -> Loaded {
        let mut config =
            Config { format_version: loader.version.as_str().to_owned(), transform, ..Config::default() };
        let mut targets: HashMap<Uuid, Vec<Arc<Target>>> = HashMap::new();
        let mut warnings = std::mem::take(&mut loader.warnings);
        let mut fresh_routes = Vec::new();
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
                warnings.extend(ready.warnings.iter().map(|warning| {
                    let mut path = segments(&place);
                    path.extend(warning.path.iter().cloned());
                    Warning { path, message: warning.message.clone() }
                }));
                if let Typed::Route(route) = &ready.typed {
                    fresh_routes.push((Arc::clone(route), segments(&place)));
                }
            }
            if !ready.secrets.is_empty() {
                config.references.insert((card.entity.collection, ready.id), ready.secrets.clone());
            }
            push(&mut config, &mut targets, &ready.typed);
            if self.keep && new {
                let pieces = Pieces::Owned(ready.text.to_string());
                let key = self.key(card.entity, &pieces, ready.parent, ready.copy);
                self.ready.insert(key, (ready, self.loads));
            }
        }
        self.place_targets(&mut config, targets);
        let live = config.len();
        if self.ready.len() > live * 2 + 1024 {
            let loads = self.loads;
            self.ready.retain(|_, (_, used)| *used == loads);
        }
        warnings.extend(advice::advise(&config, &fresh_routes));
        let report = loader.report.take().map_or_else(Report::default, crate::report::ReportBuilder::finish);
        Loaded { config, report, warnings }
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
                None => {
                    let targets = own.iter().map(|target| Target::clone(target)).collect();
                    Arc::new(Upstream { targets, ..Upstream::clone(upstream) })
                }
            };
            next.insert(upstream.id, (std::mem::replace(upstream, Arc::clone(&made)), own, made));
        }
        self.upstreams = next;
    }
}

/// An entity's text as the document has it.
enum Pieces<'t> {
    Borrowed(Vec<&'t str>),
    Owned(String),
}

impl Pieces<'_> {
    fn list(&self) -> impl Iterator<Item = &str> {
        let (many, one) = match self {
            Pieces::Borrowed(pieces) => (pieces.as_slice(), None),
            Pieces::Owned(text) => (&[][..], Some(text.as_str())),
        };
        many.iter().copied().chain(one)
    }

    fn is(&self, text: &str) -> bool {
        let mut rest = text;
        for piece in self.list() {
            match rest.strip_prefix(piece) {
                Some(tail) => rest = tail,
                None => return false,
            }
        }
        rest.is_empty()
    }

    fn into_text(self) -> String {
        match self {
            Pieces::Borrowed(pieces) => pieces.concat(),
            Pieces::Owned(text) => text,
        }
    }
}

/// Reads (if need be) and validates an entity.
fn fresh(
    loader: &mut Loader,
    cards: &[Card],
    one: &Found<'_>,
    pieces: Pieces<'_>,
    parent: Option<(&'static str, Uuid)>,
    copies: &mut HashMap<Uuid, u32, RandomState>,
) -> Result<Fresh, Failed> {
    let text_of = pieces.into_text();
    let node = match &one.source {
        Source::Node(node) => node.clone(),
        Source::Text(_) => lone_entry(&text_of, one.entity).ok_or(Failed::Odd)?,
    };
    let place = steps(cards, one.entity, one.index, one.parent);
    let label = if one.entity.collection == "plugins" {
        node.as_map().and_then(|map| text(map, "name")).unwrap_or_default().to_owned()
    } else {
        String::new()
    };
    let before = loader.faults.len();
    let outer = std::mem::take(&mut loader.warnings);
    loader.depth = place.len() * 2;
    let back = one.parent.map(|(_, back)| back);
    let mut node = Some(node);
    let map = at_place(&At::ROOT, &place, &label, &mut |at| {
        node.take().map(|node| loader.entity(one.entity, node, at, back)).unwrap_or_default()
    });
    let mut warnings = std::mem::replace(&mut loader.warnings, outer);
    for warning in &mut warnings {
        warning.path.drain(..loader.depth.min(warning.path.len()));
    }
    if one.entity.collection == "vaults"
        && let Some(prefix) = text(&map, "prefix")
    {
        let of = map.get("config").and_then(Node::as_map).and_then(|config| text(config, "prefix"));
        loader.vaults.insert(prefix.to_owned(), of.unwrap_or_default().to_owned());
    }
    let source = IdSource::of(one.entity, &map, parent);
    let by_content = matches!(source, IdSource::Content(_));
    let first_id = source.id(one.entity, 0);
    let mut copy = 0;
    if by_content {
        let before = copies.entry(first_id).or_default();
        copy = *before;
        *before += 1;
    }
    Ok(Fresh {
        text: text_of.into(),
        id: source.id(one.entity, copy),
        first_id,
        given_id: matches!(source, IdSource::Given(_)),
        by_content,
        copy,
        parent: parent.map(|(_, id)| id),
        key: one.entity.key.and_then(|key| text(&map, key)).map(Into::into),
        unique: unique(one.entity, &map),
        warnings,
        secrets: std::mem::take(&mut loader.references),
        sound: loader.faults.len() == before,
        map,
        references: Vec::new(),
        typed: None,
    })
}

/// The one entry of a YAML list, without lists of entities in it (they were cut out).
fn lone_entry(text: &str, entity: &'static Entity) -> Option<Node> {
    let Node::Seq(mut entries) = read::block(text)? else { return None };
    let node = entries.pop().filter(|_| entries.is_empty())?;
    let whole = node.as_map().is_some_and(|map| {
        super::found::children(entity).any(|(name, ..)| matches!(map.get(name), Some(Node::Seq(_))))
    });
    (!whole).then_some(node)
}

/// Uniqueness, references, types.
fn link(loader: &mut Loader, cards: &mut [Card]) {
    loader.check_unique(cards);
    let resolved: Vec<(usize, Vec<Reference>)> = {
        let names = Names::of(cards);
        let mut resolved = Vec::new();
        for at in 0..cards.len() {
            let Some(card) = cards.get(at) else { continue };
            match &card.state {
                State::Stale => {}
                State::Kept(ready) => {
                    let holds = |reference: &Reference| {
                        names.find(reference.to, &reference.text) == Some(reference.id)
                    };
                    if !ready.references.iter().all(holds) {
                        resolved.push((at, Vec::new()));
                    }
                }
                State::Fresh(fresh) => {
                    let mut found = Vec::new();
                    for (field, to, text) in references(card.entity, &fresh.map) {
                        match names.find(to, text) {
                            Some(id) => found.push(Reference { field, to, text: text.into(), id }),
                            None => {
                                let message =
                                    format!("invalid reference '{field}: {text}' (no such entry in '{to}')");
                                loader.fault_of(cards, at, field, message);
                            }
                        }
                    }
                    resolved.push((at, found));
                }
            }
        }
        resolved
    };
    for (at, found) in resolved {
        let Some(card) = cards.get_mut(at) else { continue };
        match &mut card.state {
            State::Kept(_) => card.state = State::Stale,
            State::Fresh(fresh) => {
                fresh.references = found;
                if let Err(message) = fresh.finish(card.entity, card.parent) {
                    loader.fault_of(cards, at, "", message);
                }
            }
            State::Stale => {}
        }
    }
    loader.check_plugin_scopes(cards);
}

impl Fresh {
    /// Writes ids where references stood, and gives the entity its type.
    fn finish(&mut self, entity: &Entity, parent: Option<(usize, &'static str)>) -> Result<(), String> {
        if !self.sound {
            return Ok(());
        }
        let mut map: Map = std::mem::take(&mut self.map);
        let id = |id: Uuid| Node::Str(id.to_string());
        let reference = |to: Uuid| Node::Map(Map::from_iter([("id".to_owned(), id(to))]));
        map.insert("id".to_owned(), id(self.id));
        for found in &self.references {
            map.insert(found.field.to_owned(), reference(found.id));
        }
        if let (Some((_, back)), Some(parent)) = (parent, self.parent) {
            map.insert(back.to_owned(), reference(parent));
        }
        let dangling = references(entity, &map).next().is_some();
        if !dangling {
            self.typed = Some(typed(entity, map)?);
        }
        Ok(())
    }

    fn into_ready(self) -> Ready {
        Ready {
            text: self.text,
            parent: self.parent,
            copy: self.copy,
            id: self.id,
            first_id: self.first_id,
            given_id: self.given_id,
            by_content: self.by_content,
            key: self.key,
            unique: self.unique,
            references: self.references,
            typed: self.typed.unwrap_or(Typed::Nothing),
            warnings: self.warnings,
            secrets: self.secrets,
        }
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
