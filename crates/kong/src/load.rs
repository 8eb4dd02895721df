//! From tree to [`Config`](crate::Config): validate every entity by its table, then link, then type.
//!
//! All faults of a stage are collected. Linking (ids, references, uniqueness) runs even when entities have faults, so that
//! one run shows everything; typing runs only on a clean file.

mod advice;
mod link;
mod typed;
mod walk;

use indexmap::IndexMap;

use crate::entities::{self, Entity, REFUSED};
use crate::node::{Map, Node};
use crate::report::ReportBuilder;
use crate::{Fault, Faults, Loaded, Segment, Warning};

/// `_format_version`.
#[derive(Clone, Copy, PartialEq, Eq)]
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

/// One validated entity, defaults filled in, references still as written.
pub(crate) struct Item {
    pub path: Vec<Segment>,
    pub map: Map,
    /// The field that points to the entity this one was nested in, that entity's collection and position.
    pub parent: Option<(&'static str, &'static str, usize)>,
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
    pub report: ReportBuilder,
    pub items: IndexMap<&'static str, Vec<Item>>,
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
        self.loader.warnings.push(Warning { path: at.path(), message: why.to_owned() });
    }

    /// Notes and warns that a field's value has no effect.
    pub fn ignored(&mut self, field: &str, why: &'static str) {
        let at = self.at.key(field);
        self.loader.note(&at, crate::schema::Use::Ignored(why));
        self.loader.warnings.push(Warning { path: at.path(), message: why.to_owned() });
    }
}

impl Loader {
    pub(crate) fn fault(&mut self, at: &At<'_>, message: impl Into<String>) {
        self.faults.push(Fault { path: at.path(), message: message.into() });
    }

    fn note(&mut self, at: &At<'_>, used: crate::schema::Use) {
        self.report.note(|pattern| at.pattern(pattern), used, || at.path());
    }
}

/// Validates a whole document.
pub(crate) fn load(document: Node) -> Result<Loaded, Faults> {
    let Node::Map(mut top) = document else {
        return Err(Faults::from(vec![Fault { path: Vec::new(), message: "expected a record".to_owned() }]));
    };
    let mut loader = Loader {
        version: Version::V3_0,
        faults: Vec::new(),
        warnings: Vec::new(),
        report: ReportBuilder::default(),
        items: entities::ENTITIES.iter().map(|entity| (entity.collection, Vec::new())).collect(),
    };
    let transform = loader.settings(&mut top);
    for entity in entities::ENTITIES {
        if let Some(list) = top.shift_remove(entity.collection) {
            loader.collection(entity, list);
        }
    }
    loader.leftovers(&top);
    loader.link();
    if !loader.faults.is_empty() {
        return Err(Faults::from(loader.faults));
    }
    let version = loader.version.as_str().to_owned();
    let routes = loader.items.get("routes").into_iter().flatten().map(|item| item.path.clone()).collect();
    let config = typed::build(loader.items, version, transform).map_err(Faults::from)?;
    let mut warnings = loader.warnings;
    warnings.extend(advice::advise(&config, routes));
    Ok(Loaded { config, report: loader.report.finish(), warnings })
}

impl Loader {
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
        top.shift_remove("_comment");
        top.shift_remove("_ignore");
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

    fn collection(&mut self, entity: &'static Entity, list: Node) {
        let at = At::ROOT.key(entity.collection);
        match list {
            Node::Null => {}
            Node::Seq(entries) => {
                for (index, entry) in entries.into_iter().enumerate() {
                    self.entity(entity, entry, &at, index, None);
                }
            }
            _ => self.fault(&at, "expected an array"),
        }
    }

    fn leftovers(&mut self, top: &Map) {
        for (key, value) in top {
            let at = At::ROOT.key(key);
            let refused = REFUSED.iter().find(|(collection, _)| collection == key);
            let empty = value.is_null() || value.as_seq().is_some_and(<[Node]>::is_empty);
            match refused {
                Some(_) if empty => {}
                Some((_, why)) => self.fault(&at, *why),
                None => self.fault(&at, "unknown field"),
            }
        }
    }
}
