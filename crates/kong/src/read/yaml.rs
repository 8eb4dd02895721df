//! YAML, from the parser's events.
//!
//! An event reader rather than a typed one because three facts must survive: whether a scalar was quoted
//! (`_format_version: 3.0` is a number and a fault, `"3.0"` is right), duplicate keys, and explicit nulls.

use std::collections::HashMap;

use granit_parser::{Event, Parser, ScalarStyle, Span};

use crate::node::{Map, Node};

/// Nodes a document may expand to, aliases counted as often as they are used. Ten thousand routes are about half a
/// million; the limit stops "billion laughs" files.
const MAX_NODES: usize = 4_000_000;
/// Nesting of lists and mappings. Kong's deepest record is nine levels.
const MAX_DEPTH: usize = 64;

pub(super) fn read(text: &str) -> Result<Node, String> {
    let mut reader = Reader { anchors: HashMap::new(), nodes: 0, stack: Vec::new(), root: None };
    for next in Parser::new_from_str(text) {
        let (event, span) = next.map_err(|error| error.to_string())?;
        reader.event(event, &span)?;
    }
    Ok(reader.root.unwrap_or(Node::Null))
}

/// An open list or mapping.
enum Open {
    Seq(Vec<Node>),
    Map { map: Map, merges: Vec<Node>, key: Option<String> },
}

struct Frame {
    open: Open,
    anchor: usize,
    nodes_before: usize,
}

struct Reader {
    anchors: HashMap<usize, (Node, usize)>,
    nodes: usize,
    stack: Vec<Frame>,
    root: Option<Node>,
}

fn at(span: &Span, message: &str) -> String {
    format!("{message} at line {}, column {}", span.start.line(), span.start.col() + 1)
}

impl Reader {
    fn event(&mut self, event: Event<'_>, span: &Span) -> Result<(), String> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain && tag.is_none();
                let node = if plain { plain_scalar(&text) } else { Node::Str(text.into_owned()) };
                self.count(1, span)?;
                self.keep(anchor, &node, 1);
                self.place(node, span)
            }
            Event::SequenceStart(_, anchor, _) => self.open(Open::Seq(Vec::new()), anchor, span),
            Event::MappingStart(_, anchor, _) => {
                self.open(Open::Map { map: Map::new(), merges: Vec::new(), key: None }, anchor, span)
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(span),
            Event::Alias(id) => {
                let Some((node, size)) = self.anchors.get(&id).cloned() else {
                    return Err(at(span, "an alias inside its own anchor"));
                };
                self.count(size, span)?;
                self.place(node, span)
            }
            Event::DocumentStart(..) if self.root.is_some() => {
                Err(at(span, "expected one document, found another"))
            }
            _ => Ok(()),
        }
    }

    fn count(&mut self, nodes: usize, span: &Span) -> Result<(), String> {
        self.nodes += nodes;
        if self.nodes > MAX_NODES { Err(at(span, "document too large")) } else { Ok(()) }
    }

    fn keep(&mut self, anchor: usize, node: &Node, size: usize) {
        if anchor != 0 {
            self.anchors.insert(anchor, (node.clone(), size));
        }
    }

    fn open(&mut self, open: Open, anchor: usize, span: &Span) -> Result<(), String> {
        if self.stack.len() >= MAX_DEPTH {
            return Err(at(span, "nested too deeply"));
        }
        let nodes_before = self.nodes;
        self.count(1, span)?;
        self.stack.push(Frame { open, anchor, nodes_before });
        Ok(())
    }

    fn close(&mut self, span: &Span) -> Result<(), String> {
        let Some(frame) = self.stack.pop() else { return Ok(()) };
        let node = match frame.open {
            Open::Seq(items) => Node::Seq(items),
            Open::Map { mut map, merges, .. } => {
                for merge in merges {
                    merge_into(&mut map, merge).map_err(|message| at(span, message))?;
                }
                Node::Map(map)
            }
        };
        self.keep(frame.anchor, &node, self.nodes - frame.nodes_before);
        self.place(node, span)
    }

    fn place(&mut self, node: Node, span: &Span) -> Result<(), String> {
        match self.stack.last_mut().map(|frame| &mut frame.open) {
            None => self.root = Some(node),
            Some(Open::Seq(items)) => items.push(node),
            Some(Open::Map { map, merges, key }) => match key.take() {
                None => *key = Some(key_text(node).ok_or_else(|| at(span, "a key must be a scalar"))?),
                Some(name) if name == "<<" => merges.push(node),
                Some(name) => {
                    if map.contains_key(&name) {
                        return Err(at(span, &format!("duplicate key '{name}'")));
                    }
                    map.insert(name, node);
                }
            },
        }
        Ok(())
    }
}

fn key_text(node: Node) -> Option<String> {
    match node {
        Node::Str(text) => Some(text),
        Node::Null | Node::Seq(_) | Node::Map(_) => None,
        scalar => Some(scalar.display()),
    }
}

/// `<<: *defaults`: keys given in the mapping itself win, then earlier merges.
fn merge_into(map: &mut Map, merge: Node) -> Result<(), &'static str> {
    match merge {
        Node::Map(other) => {
            for (key, value) in other {
                map.entry(key).or_insert(value);
            }
            Ok(())
        }
        Node::Seq(items) => items.into_iter().try_for_each(|item| merge_into(map, item)),
        _ => Err("'<<' needs a mapping"),
    }
}

/// Types of plain scalars as libyaml-based loaders (Kong's) see them.
fn plain_scalar(text: &str) -> Node {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Node::Null,
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => return Node::Bool(true),
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => return Node::Bool(false),
        ".inf" | ".Inf" | ".INF" | "+.inf" => return Node::Float(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => return Node::Float(f64::NEG_INFINITY),
        ".nan" | ".NaN" | ".NAN" => return Node::Float(f64::NAN),
        _ => {}
    }
    number(text).unwrap_or_else(|| Node::Str(text.to_owned()))
}

fn number(text: &str) -> Option<Node> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    if let Some(hex) = digits.strip_prefix("0x") {
        return signed(text, i64::from_str_radix(hex, 16).ok()?);
    }
    if let Some(octal) = digits.strip_prefix("0o") {
        return signed(text, i64::from_str_radix(octal, 8).ok()?);
    }
    if digits.bytes().all(|b| b.is_ascii_digit()) {
        return Some(text.parse().map(Node::Int).unwrap_or(Node::Float(text.parse().ok()?)));
    }
    // Rust also reads "1e5", ".5" and "5."; all are YAML floats. "1.2.3" and "12:30" are not numbers.
    digits.bytes().any(|b| b.is_ascii_digit()).then(|| text.parse().ok().map(Node::Float))?
}

fn signed(text: &str, value: i64) -> Option<Node> {
    Some(Node::Int(if text.starts_with('-') { value.checked_neg()? } else { value }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting_decides_between_number_and_string() {
        let node = read("a: 3.0\nb: \"3.0\"\nc: '3'\nd: 3\ne: ~\nf:\n").unwrap();
        let map = node.as_map().unwrap();
        assert_eq!(map["a"], Node::Float(3.0));
        assert_eq!(map["b"], Node::Str("3.0".into()));
        assert_eq!(map["c"], Node::Str("3".into()));
        assert_eq!(map["d"], Node::Int(3));
        assert!(map["e"].is_null() && map["f"].is_null());
    }

    #[test]
    fn duplicate_keys_are_refused_with_their_place() {
        let error = read("a: 1\nb: 2\na: 3\n").unwrap_err();
        assert!(error.contains("duplicate key 'a'") && error.contains("line 3"), "{error}");
    }

    #[test]
    fn anchors_aliases_and_merges() {
        let node = read("base: &b {x: 1, y: 2}\nlist: [*b]\nmore:\n  <<: *b\n  y: 3\n").unwrap();
        let map = node.as_map().unwrap();
        assert_eq!(map["list"].as_seq().unwrap()[0], map["base"]);
        let more = map["more"].as_map().unwrap();
        assert_eq!((&more["x"], &more["y"]), (&Node::Int(1), &Node::Int(3)));
    }

    #[test]
    fn alias_bombs_are_stopped() {
        let mut text = String::from("a0: &a0 [1,1,1,1,1,1,1,1,1,1]\n");
        for level in 1..12 {
            let previous = vec![format!("*a{}", level - 1); 10].join(",");
            text.push_str(&format!("a{level}: &a{level} [{previous}]\n"));
        }
        assert!(read(&text).unwrap_err().contains("too large"));
    }

    #[test]
    fn scalars_that_only_look_like_numbers_stay_text() {
        for text in ["1.2.3", "12:30", "-", ".", "0x", "1_000", "10.0.0.1", "e5", "inf", "nan"] {
            assert_eq!(plain_scalar(text), Node::Str(text.into()));
        }
        assert_eq!(plain_scalar("0x1F"), Node::Int(31));
        assert_eq!(plain_scalar("-5"), Node::Int(-5));
        assert_eq!(plain_scalar("1e3"), Node::Float(1000.0));
    }
}
