//! What `plinth gateway check FILE` shows: for every field the file uses, what the gateway makes of it.

use std::borrow::Cow;
use std::fmt;

use indexmap::IndexMap;
use serde::Serialize;

use crate::faults::path_text;
use crate::{Segment, schema};

/// Places listed for one field; the count goes on.
const PLACES: usize = 10;

/// What the gateway makes of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Support {
    /// As Kong.
    Supported,
    /// Has an effect other than Kong's.
    Different,
    /// Accepted, without effect.
    Ignored,
}

impl fmt::Display for Support {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Support::Supported => "supported",
            Support::Different => "different",
            Support::Ignored => "ignored",
        })
    }
}

/// One field, all its places taken together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FieldReport {
    /// `services[].routes[].paths`, `plugins[jwt].config.claims_to_verify`.
    pub field: String,
    pub support: Support,
    /// Empty when supported.
    pub why: String,
    /// How often the file sets it.
    pub count: usize,
    /// The first ten places (`plugins[0].config.claims_to_verify`); none for supported fields.
    pub places: Vec<String>,
}

/// Every field of a file, in file order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    pub fields: Vec<FieldReport>,
}

impl Report {
    /// Fields that do not behave as in Kong.
    pub fn notable(&self) -> impl Iterator<Item = &FieldReport> {
        self.fields.iter().filter(|field| field.support != Support::Supported)
    }
}

/// Something that works other than its author may expect; the file is loaded all the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    pub path: Vec<Segment>,
    pub message: Cow<'static, str>,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", path_text(&self.path), self.message)
    }
}

#[derive(Default)]
pub(crate) struct ReportBuilder {
    fields: IndexMap<String, Vec<(schema::Use, usize, Vec<String>)>>,
    /// Reused: a file of ten thousand routes notes a hundred thousand fields.
    pattern: String,
}

impl ReportBuilder {
    pub fn note(
        &mut self,
        pattern: impl FnOnce(&mut String),
        used: schema::Use,
        path: impl FnOnce() -> Vec<Segment>,
    ) {
        self.pattern.clear();
        pattern(&mut self.pattern);
        if !self.fields.contains_key(&self.pattern) {
            self.fields.insert(self.pattern.clone(), Vec::new());
        }
        let Some(uses) = self.fields.get_mut(&self.pattern) else { return };
        let at = match uses.iter().position(|(known, ..)| *known == used) {
            Some(at) => at,
            None => {
                uses.push((used, 0, Vec::new()));
                uses.len() - 1
            }
        };
        let Some((_, count, places)) = uses.get_mut(at) else { return };
        *count += 1;
        if used != schema::Use::Supported && places.len() < PLACES {
            places.push(path_text(&path()));
        }
    }

    pub fn finish(self) -> Report {
        let mut fields = Vec::new();
        for (field, uses) in self.fields {
            // A rule's remark on some values replaces the plain "supported" of the same places.
            let remarks: usize =
                uses.iter().filter(|(used, ..)| *used != schema::Use::Supported).map(|(_, n, _)| n).sum();
            for (used, count, places) in uses {
                let (support, why) = match used {
                    schema::Use::Supported => (Support::Supported, ""),
                    schema::Use::Ignored(why) => (Support::Ignored, why),
                    schema::Use::Different(why) => (Support::Different, why),
                };
                let count = if support == Support::Supported { count.saturating_sub(remarks) } else { count };
                if count > 0 {
                    fields.push(FieldReport {
                        field: field.clone(),
                        support,
                        why: why.to_owned(),
                        count,
                        places,
                    });
                }
            }
        }
        Report { fields }
    }
}
