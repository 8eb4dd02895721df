//! From text to [`Config`](crate::Config): take the document apart, validate every entity by its table, link, type.
//!
//! All faults are collected. Linking (ids, references, uniqueness) runs even when entities have faults, so that one run shows
//! everything. [`Reloader`] keeps the finished entities: of the next document only what changed is read, checked and typed, and
//! everything unchanged keeps its `Arc`.

mod advice;
mod found;
mod fresh;
mod link;
mod patch;
mod ready;
mod reload;
mod split;
pub(crate) mod vault;
mod walk;

use std::sync::Arc;

use uuid::Uuid;

use crate::entities::Entity;
use crate::model::SecretReference;
use crate::node::{Map, Node};
use crate::report::ReportBuilder;
use crate::{Fault, Segment, Warning};
use ready::{Ready, Typed};
pub use reload::Reloader;
pub(crate) use reload::load;
use vault::{Secrets, Vaults};
pub(crate) use walk::literal;

/// `_format_version`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    V1_1,
    V2_1,
    V3_0,
}

impl Version {
    fn as_str(self) -> &'static str {
        match self {
            Version::V1_1 => "1.1",
            Version::V2_1 => "2.1",
            Version::V3_0 => "3.0",
        }
    }
}

/// One entity of the document on its way: just validated, or kept from the load before.
#[derive(Debug)]
pub(crate) struct Card {
    pub entity: &'static Entity,
    index: usize,
    parent: Option<(usize, &'static str)>,
    state: State,
}

#[derive(Debug)]
enum State {
    Kept(Arc<Ready>),
    Fresh(Box<Fresh>),
    /// Kept, but what it refers to by name is another entity now.
    Stale,
}

#[derive(Debug)]
struct Fresh {
    digest: u128,
    id: Uuid,
    /// The id of the first entity with this content.
    first_id: Uuid,
    given_id: bool,
    by_content: bool,
    copy: u32,
    parent: Option<Uuid>,
    key: Option<Box<str>>,
    unique: Vec<(&'static str, Box<str>)>,
    map: Map,
    warnings: Vec<Warning>,
    secrets: Vec<SecretReference>,
    /// Without faults so far.
    sound: bool,
    references: Vec<ready::Reference>,
    typed: Option<Typed>,
}

impl Card {
    fn id(&self) -> Uuid {
        match &self.state {
            State::Kept(ready) => ready.id,
            State::Fresh(fresh) => fresh.id,
            State::Stale => Uuid::nil(),
        }
    }

    fn is_stale(&self) -> bool {
        matches!(self.state, State::Stale)
    }

    fn given_id(&self) -> bool {
        match &self.state {
            State::Kept(ready) => ready.given_id,
            State::Fresh(fresh) => fresh.given_id,
            State::Stale => false,
        }
    }

    fn key(&self) -> Option<&str> {
        match &self.state {
            State::Kept(ready) => ready.key.as_deref(),
            State::Fresh(fresh) => fresh.key.as_deref(),
            State::Stale => None,
        }
    }

    fn unique(&self) -> &[(&'static str, Box<str>)] {
        match &self.state {
            State::Kept(ready) => &ready.unique,
            State::Fresh(fresh) => &fresh.unique,
            State::Stale => &[],
        }
    }

    fn typed(&self) -> Option<&Typed> {
        match &self.state {
            State::Kept(ready) => Some(&ready.typed),
            State::Fresh(fresh) => fresh.typed.as_ref(),
            State::Stale => None,
        }
    }
}

/// Where a card's entity stands, from the top: lists and positions.
fn steps(
    cards: &[Card],
    entity: &Entity,
    index: usize,
    parent: Option<(usize, &str)>,
) -> Vec<(&'static str, usize)> {
    let mut steps = vec![(entity.collection, index)];
    let mut up = parent.map(|(at, _)| at);
    while let Some(card) = up.and_then(|at| cards.get(at)) {
        steps.push((card.entity.collection, card.index));
        up = card.parent.map(|(at, _)| at);
    }
    steps.reverse();
    steps
}

/// With room for a field.
fn segments(steps: &[(&'static str, usize)]) -> Vec<Segment> {
    let mut path = Vec::with_capacity(steps.len() * 2 + 1);
    path.extend(steps.iter().flat_map(|(list, index)| [Segment::from(*list), Segment::from(*index)]));
    path
}

/// Calls with the place those steps lead to.
fn at_place<R>(
    at: &At<'_>,
    steps: &[(&'static str, usize)],
    label: &str,
    go: &mut dyn FnMut(&At<'_>) -> R,
) -> R {
    match steps {
        [] => go(at),
        [(list, index)] => go(&at.key(list).index(*index, label)),
        [(list, index), rest @ ..] => at_place(&at.key(list).index(*index, ""), rest, label, go),
    }
}

/// A place in the file, as a chain on the stack: cheap to extend, turned into a path only for faults and notes.
#[derive(Clone, Copy)]
pub(crate) struct At<'p> {
    parent: Option<&'p At<'p>>,
    step: Step<'p>,
}

#[derive(Clone, Copy)]
enum Step<'p> {
    Root,
    Key(&'p str),
    /// Position and, for the report, what to call all entries of this kind (a plugin's name).
    Index(usize, &'p str),
}

impl<'p> At<'p> {
    const ROOT: At<'static> = At { parent: None, step: Step::Root };

    fn key(&'p self, key: &'p str) -> At<'p> {
        At { parent: Some(self), step: Step::Key(key) }
    }

    fn index(&'p self, index: usize, label: &'p str) -> At<'p> {
        At { parent: Some(self), step: Step::Index(index, label) }
    }

    pub(crate) fn path(&self) -> Vec<Segment> {
        let mut path = self.parent.map(At::path).unwrap_or_default();
        match self.step {
            Step::Root => {}
            Step::Key(key) => path.push(Segment::Key(key.to_owned().into())),
            Step::Index(index, _) => path.push(Segment::Index(index)),
        }
        path
    }

    /// `plugins[jwt].config.realm`, `services[].routes[].paths`: the same for all entries of a kind.
    fn pattern(&self, out: &mut String) {
        if let Some(parent) = self.parent {
            parent.pattern(out);
        }
        match self.step {
            Step::Root => {}
            Step::Key(key) => {
                if !out.is_empty() {
                    out.push('.');
                }
                out.push_str(key);
            }
            Step::Index(_, label) => {
                out.push('[');
                out.push_str(label);
                out.push(']');
            }
        }
    }
}

/// What is gathered while the file is walked.
pub(crate) struct Loader {
    pub version: Version,
    pub faults: Vec<Fault>,
    pub warnings: Vec<Warning>,
    /// Only for those who ask what becomes of each field.
    report: Option<ReportBuilder>,
    secrets: Secrets,
    vaults: Vaults,
    /// Of the entity being read.
    references: Vec<SecretReference>,
    /// Length of that entity's own path.
    depth: usize,
}

/// Where a table's own code (rules, shorthands) reports to.
pub(crate) struct Scope<'l, 'p> {
    loader: &'l mut Loader,
    at: &'p At<'p>,
    /// Conditions over several fields are printed under the entity, not under a plugin's `config`.
    entity: &'p At<'p>,
    /// The field that would name the entity this one is nested in.
    nested_in: Option<&'static str>,
}

impl Scope<'_, '_> {
    pub fn version(&self) -> Version {
        self.loader.version
    }

    /// Whether the entity has that reference because it is nested.
    pub fn is_nested_in(&self, field: &str) -> bool {
        self.nested_in == Some(field)
    }

    /// A fault of one field.
    pub fn fault(&mut self, field: &str, message: &str) {
        self.loader.fault(&self.at.key(field), message);
    }

    /// A fault of a member of a record.
    pub fn fault_in(&mut self, record: &str, field: &str, message: &str) {
        self.loader.fault(&self.at.key(record).key(field), message);
    }

    /// A fault of an element of a list.
    pub fn fault_at(&mut self, list: &str, index: usize, message: &str) {
        self.loader.fault(&self.at.key(list).index(index, ""), message);
    }

    /// A fault of the record itself.
    pub fn own(&mut self, message: &str) {
        self.loader.fault(self.at, message);
    }

    /// A condition over several fields that does not hold.
    pub fn entity(&mut self, message: &str) {
        let list = self.entity.key("@entity");
        let prefix = list.path();
        let position = self.loader.faults.iter().filter(|fault| fault.path.starts_with(&prefix)).count();
        self.loader.fault(&list.index(position, ""), message);
    }

    /// Notes that a shorthand or old field is understood.
    pub fn supported(&mut self, field: &str) {
        self.loader.note(&self.at.key(field), crate::schema::Use::Supported);
    }

    /// Notes and warns that a field's value works other than in Kong.
    pub fn different(&mut self, field: &str, why: &'static str) {
        let at = self.at.key(field);
        self.loader.note(&at, crate::schema::Use::Different(why));
        self.loader.warnings.push(Warning { path: at.path(), message: why.into() });
    }

    /// Notes that a field's value works other than in Kong, where its author knows: no warning.
    pub fn remark(&mut self, field: &str, why: &'static str) {
        self.loader.note(&self.at.key(field), crate::schema::Use::Different(why));
    }

    /// The same of a member of a record.
    pub fn remark_in(&mut self, record: &str, field: &str, why: &'static str) {
        self.loader.note(&self.at.key(record).key(field), crate::schema::Use::Different(why));
    }

    /// Notes and warns that a field's value has no effect.
    pub fn ignored(&mut self, field: &str, why: &'static str) {
        let at = self.at.key(field);
        self.loader.note(&at, crate::schema::Use::Ignored(why));
        self.loader.warnings.push(Warning { path: at.path(), message: why.into() });
    }
}

impl Loader {
    fn new(secrets: Secrets, report: bool) -> Loader {
        Loader {
            version: Version::V3_0,
            faults: Vec::new(),
            warnings: Vec::new(),
            report: report.then(ReportBuilder::default),
            secrets,
            vaults: Vaults::default(),
            references: Vec::new(),
            depth: 0,
        }
    }

    pub(crate) fn fault(&mut self, at: &At<'_>, message: impl Into<String>) {
        self.faults.push(Fault { path: at.path(), message: message.into() });
    }

    /// A fault of a card's field; of the card itself when `field` is empty.
    fn fault_of(&mut self, cards: &[Card], at: usize, field: &'static str, message: String) {
        let Some(card) = cards.get(at) else { return };
        let mut path = segments(&steps(cards, card.entity, card.index, card.parent));
        if !field.is_empty() {
            path.push(Segment::from(field));
        }
        self.faults.push(Fault { path, message });
    }

    fn warn(&mut self, at: &At<'_>, message: String) {
        self.warnings.push(Warning { path: at.path(), message: message.into() });
    }

    /// A path as seen from the entity being read.
    fn within(&self, at: &At<'_>) -> Vec<Segment> {
        at.path().split_off(self.depth.min(at.path().len()))
    }

    fn note(&mut self, at: &At<'_>, used: crate::schema::Use) {
        if let Some(report) = &mut self.report {
            report.note(|pattern| at.pattern(pattern), used, || at.path());
        }
    }

    /// What a table does not know. Comments and markers of other tools may stand in every record.
    fn leftovers(&mut self, map: &Map, at: &At<'_>) {
        for (key, value) in map {
            let at = at.key(key);
            match (key.as_str(), value) {
                ("_comment", Node::Null | Node::Str(_)) | ("_ignore", Node::Null | Node::Seq(_)) => {}
                ("_comment", _) => self.fault(&at, "expected a string"),
                ("_ignore", _) => self.fault(&at, "expected an array"),
                _ => self.fault(&at, "unknown field"),
            }
        }
    }

    /// The underscore fields; returns `_transform`.
    fn settings(&mut self, top: &mut Map) -> bool {
        let version_at = At::ROOT.key("_format_version");
        match top.shift_remove("_format_version") {
            None | Some(Node::Null) => self.fault(&version_at, "required field missing"),
            Some(Node::Str(text)) => match text.as_str() {
                "1.1" => self.version = Version::V1_1,
                "2.1" => self.version = Version::V2_1,
                "3.0" => self.version = Version::V3_0,
                _ => self.fault(&version_at, "expected one of: 1.1, 2.1, 3.0"),
            },
            Some(_) => self.fault(&version_at, "expected a string"),
        }
        self.note(&version_at, crate::schema::Use::Supported);
        if top.shift_remove("_info").is_some() {
            self.note(
                &At::ROOT.key("_info"),
                crate::schema::Use::Ignored("metadata of decK; Kong itself refuses it"),
            );
        }
        match top.shift_remove("_transform") {
            None | Some(Node::Null) => true,
            Some(Node::Bool(transform)) => {
                self.note(&At::ROOT.key("_transform"), crate::schema::Use::Supported);
                transform
            }
            Some(_) => {
                self.fault(&At::ROOT.key("_transform"), "expected a boolean");
                true
            }
        }
    }

    /// What is left at the top once settings and entities are taken: empty collections, lists that are none, strangers.
    fn top(&mut self, mut top: Map) {
        for entity in crate::entities::ENTITIES {
            if top.shift_remove(entity.collection).is_some_and(|value| !value.is_null()) {
                self.fault(&At::ROOT.key(entity.collection), "expected an array");
            }
        }
        self.leftovers(&top, &At::ROOT);
    }
}
