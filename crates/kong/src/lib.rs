//! Kong's declarative configuration: read, validate, report, normalise.
//!
//! [`load()`] takes the text of a `kong.yml` (or its JSON form) and gives either a [`Config`] in which everything is resolved
//! (defaults, ids, references, 3.0 paths), or all faults of the file at once in Kong's words. No I/O happens here, and
//! nothing panics on any input.
//!
//! Beside the configuration it owns the pure rules that a router and this loader must share: the normal form of paths
//! ([`normalize_path`]) and the reading of Kong's regular expressions ([`Pattern`]).

mod diff;
mod entities;
mod faults;
mod format;
mod load;
pub mod model;
mod network;
mod node;
pub mod oas;
mod path;
mod pattern;
mod plugins;
mod read;
mod report;
mod schema;
mod template;
mod transform;
mod upstream_path;

pub use diff::{Difference, DifferenceKind, FieldDifference, diff};
pub use faults::{Fault, Faults, Segment, path_text};
pub use load::Reloader;
pub use load::vault::Secrets;
pub use model::*;
pub use network::{BadNetwork, Network};
pub use node::{Map, Node};
pub use path::{encode as encode_path, normalize as normalize_path};
pub use pattern::{Captures, Pattern, literal_prefix};
pub use plugins::supported as supported_plugins;
pub use report::{FieldReport, Report, Support, Warning};
pub use schema::{all_fields, plugin_schema_of, schema_of};
pub use template::{Lookup, RenderError, Template};
pub use transform::{Edit, edit};
pub use upstream_path::upstream_path;

/// How the text is written. Kong goes by the file's name: `.json` is JSON, everything else YAML.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Yaml,
    Json,
}

impl Format {
    /// By the file's name.
    pub fn of(file_name: &str) -> Format {
        if file_name.ends_with(".json") { Format::Json } else { Format::Yaml }
    }
}

/// A file without faults.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    pub config: Config,
    /// What the gateway makes of each field the file uses.
    pub report: Report,
    /// What works other than its author may expect.
    pub warnings: Vec<Warning>,
}

/// Only reads a document, without checking it; `None` when it is none.
pub fn parse(text: &str, format: Format) -> Option<serde_json::Value> {
    read::read(text, format).ok().map(Node::into_json)
}

/// Loads a whole file. `{vault://…}` references are not looked up: each stands for its value.
///
/// # Errors
/// All faults found; nothing of a faulty file is usable.
pub fn load(text: &str, format: Format) -> Result<Loaded, Faults> {
    load_with(text, format, &Secrets::optional(|_| None))
}

/// Loads a whole file with what its `{vault://…}` references stand for.
///
/// # Errors
/// All faults found; nothing of a faulty file is usable.
pub fn load_with(text: &str, format: Format, secrets: &Secrets) -> Result<Loaded, Faults> {
    load::load(text, format, secrets.clone())
}
