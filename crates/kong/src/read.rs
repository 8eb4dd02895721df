//! Text to [`Node`]: the two readers.

mod json;
mod yaml;

use crate::{Fault, Faults, Format, Node};

/// Reads one document. A syntax fault carries line and column; nothing of a broken document is kept.
pub(crate) fn read(text: &str, format: Format) -> Result<Node, Faults> {
    match format {
        Format::Yaml => yaml::read(text),
        Format::Json => json::read(text),
    }
    .map_err(|message| Faults::from(vec![Fault { path: Vec::new(), message }]))
}

/// Reads a part of a YAML document; `None` when it is not one by itself.
pub(crate) fn block(text: &str) -> Option<Node> {
    yaml::read(text).ok()
}
