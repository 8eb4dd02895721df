//! What is wrong with a file: all of it at once, each with its path, printed the way Kong prints it.

use std::borrow::Cow;
use std::fmt;

use indexmap::IndexMap;
use serde_json::{Map as JsonMap, Value};

/// One step of a path into the file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Segment {
    Key(Cow<'static, str>),
    /// Zero-based; Kong prints entries from 1.
    Index(usize),
}

impl From<&'static str> for Segment {
    fn from(key: &'static str) -> Self {
        Segment::Key(Cow::Borrowed(key))
    }
}

impl From<usize> for Segment {
    fn from(index: usize) -> Self {
        Segment::Index(index)
    }
}

/// One fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Empty for faults of the document as a whole (syntax).
    pub path: Vec<Segment>,
    /// Kong's words where Kong has words for it.
    pub message: String,
}

impl Fault {
    /// `services[0].routes[2].paths[0]`, zero-based as in jq and decK.
    pub fn path_text(&self) -> String {
        path_text(&self.path)
    }
}

/// Renders a path, zero-based: `plugins[0].config.claims_to_verify`.
pub fn path_text(path: &[Segment]) -> String {
    let mut text = String::new();
    for segment in path {
        match segment {
            Segment::Key(key) => {
                if !text.is_empty() {
                    text.push('.');
                }
                text.push_str(key);
            }
            Segment::Index(index) => text.push_str(&format!("[{index}]")),
        }
    }
    text
}

/// All faults of a file, never empty. `Display` is Kong's indented tree.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Faults {
    list: Vec<Fault>,
}

impl From<Vec<Fault>> for Faults {
    fn from(list: Vec<Fault>) -> Self {
        Faults { list }
    }
}

impl Faults {
    /// The machine-readable list, in file order.
    pub fn list(&self) -> &[Fault] {
        &self.list
    }

    /// The `fields` object of the Admin API's answer to a bad `POST /config`: lists where the file has lists, with null
    /// for entries that are fine.
    pub fn fields(&self) -> Value {
        self.tree().to_json()
    }

    fn tree(&self) -> Tree {
        let mut root = Tree::default();
        for fault in &self.list {
            let mut tree = &mut root;
            for segment in &fault.path {
                tree = tree.children.entry(segment.clone()).or_default();
            }
            tree.messages.push(fault.message.clone());
        }
        root
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines = Vec::new();
        let tree = self.tree();
        lines.extend(tree.messages.iter().cloned());
        tree.print("", 0, &mut lines);
        f.write_str(&lines.join("\n"))
    }
}

#[derive(Default)]
struct Tree {
    messages: Vec<String>,
    children: IndexMap<Segment, Tree>,
}

impl Tree {
    fn print(&self, parent: &str, depth: usize, lines: &mut Vec<String>) {
        let indent = "  ".repeat(depth);
        for (segment, tree) in &self.children {
            let (label, name) = match segment {
                Segment::Key(key) => (format!("in '{key}'"), key.as_ref()),
                Segment::Index(index) => (format!("- in entry {} of '{parent}'", index + 1), parent),
            };
            lines.extend(tree.messages.iter().map(|message| format!("{indent}{label}: {message}")));
            if !tree.children.is_empty() {
                lines.push(format!("{indent}{label}:"));
                tree.print(name, depth + 1, lines);
            }
        }
    }

    fn to_json(&self) -> Value {
        if self.children.is_empty() {
            return match self.messages.as_slice() {
                [one] => Value::String(one.clone()),
                many => Value::Array(many.iter().cloned().map(Value::String).collect()),
            };
        }
        let indexed = self.children.keys().all(|segment| matches!(segment, Segment::Index(_)));
        if indexed && self.messages.is_empty() {
            let mut items = Vec::new();
            for (segment, tree) in &self.children {
                let Segment::Index(index) = segment else { continue };
                if items.len() <= *index {
                    items.resize(index + 1, Value::Null);
                }
                if let Some(slot) = items.get_mut(*index) {
                    *slot = tree.to_json();
                }
            }
            return Value::Array(items);
        }
        let mut object = JsonMap::new();
        for (segment, tree) in &self.children {
            let key = match segment {
                Segment::Key(key) => key.to_string(),
                Segment::Index(index) => (index + 1).to_string(),
            };
            object.insert(key, tree.to_json());
        }
        if !self.messages.is_empty() {
            let own = self.messages.iter().cloned().map(Value::String).collect();
            object.insert("@entity".to_owned(), Value::Array(own));
        }
        Value::Object(object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(path: Vec<Segment>, message: &str) -> Fault {
        Fault { path, message: message.to_owned() }
    }

    #[test]
    fn prints_kongs_tree() {
        let faults = Faults::from(vec![
            fault(vec!["services".into(), 0.into(), "host".into()], "required field missing"),
            fault(vec!["services".into(), 0.into(), "port".into()], "value should be between 0 and 65535"),
        ]);
        let expected = "in 'services':\n  - in entry 1 of 'services':\n    in 'host': required field missing\n    \
                        in 'port': value should be between 0 and 65535";
        assert_eq!(faults.to_string(), expected);
        assert_eq!(faults.list()[1].path_text(), "services[0].port");
    }

    #[test]
    fn fields_follow_the_shape_of_the_file() {
        let faults = Faults::from(vec![fault(
            vec!["services".into(), 1.into(), "host".into()],
            "required field missing",
        )]);
        assert_eq!(
            faults.fields(),
            serde_json::json!({"services": [null, {"host": "required field missing"}]})
        );
    }
}
