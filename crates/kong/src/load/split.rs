//! Takes a block-style YAML document apart by its lines, so that each entity can be read, or recognised as unchanged, alone.
//!
//! Most Kong files are of that style: collections at the left margin, entries after dashes, nested lists on lines of their own.
//! Whatever is not (flow style, anchors, tabs, several documents) is left to the reader of whole documents. In doubt this gives
//! up; what it gives, means the same as the whole text. That holds because a block's lines are indented deeper than its
//! parent's, and because a piece that ends in the middle of anything (a quoted text, a bracket) does not read as one.

use std::collections::HashSet;

use super::found::{Document, Found, Source, children, take_apart};
use crate::entities::{ENTITIES, Entity};
use crate::node::{Map, Node};
use crate::read;

/// `None`: not of this style.
pub(super) fn split(text: &str) -> Option<Document<'_>> {
    let lines = lines(text)?;
    let mut splitter = Splitter { text, lines, head: String::new(), lists: Vec::new() };
    splitter.top()?;
    let Splitter { head, mut lists, .. } = splitter;
    let head = match read::block(&head)? {
        Node::Map(map) => map,
        Node::Null => Map::new(),
        _ => return None,
    };
    let mut document = Document { head, found: Vec::new() };
    for entity in ENTITIES {
        if let Some(at) = lists.iter().position(|(of, _)| std::ptr::eq(*of, entity)) {
            let (_, entries) = lists.swap_remove(at);
            place(&mut document.found, entity, entries, None);
        } else if matches!(document.head.get(entity.collection), Some(Node::Seq(_)))
            && let Some(Node::Seq(entries)) = document.head.shift_remove(entity.collection)
        {
            take_apart(&mut document.found, entity, entries, None);
        }
    }
    Some(document)
}

fn place<'t>(
    found: &mut Vec<Found<'t>>,
    entity: &'static Entity,
    entries: Vec<Entry<'t>>,
    parent: Option<(usize, &'static str)>,
) {
    for (index, entry) in entries.into_iter().enumerate() {
        let position = found.len();
        found.push(Found { entity, index, parent, source: Source::Text(entry.own) });
        for (entity, back, list) in entry.nested {
            match list {
                List::Entries(entries) => place(found, entity, entries, Some((position, back))),
                List::Nodes(nodes) => take_apart(found, entity, nodes, Some((position, back))),
            }
        }
    }
}

/// An entry and the lists nested in it.
struct Entry<'t> {
    own: Vec<&'t str>,
    nested: Vec<(&'static Entity, &'static str, List<'t>)>,
}

enum List<'t> {
    Entries(Vec<Entry<'t>>),
    /// Written on one line, as `plugins: [{name: cors}]`.
    Nodes(Vec<Node>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    /// Blank or comment.
    Nothing,
    Dash,
    Text,
}

#[derive(Clone, Copy)]
struct Line {
    start: usize,
    end: usize,
    indent: usize,
    what: What,
}

fn lines(text: &str) -> Option<Vec<Line>> {
    let mut lines = Vec::with_capacity(text.len() / 24);
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let bytes = line.as_bytes();
        let indent = bytes.iter().take_while(|byte| **byte == b' ').count();
        let what = match bytes.get(indent) {
            None | Some(b'\n' | b'\r' | b'#') => What::Nothing,
            Some(b'\t') => return None,
            Some(b'-') if matches!(bytes.get(indent + 1), None | Some(b' ' | b'\n' | b'\r')) => What::Dash,
            Some(_) => What::Text,
        };
        lines.push(Line { start, end: start + line.len(), indent, what });
        start += line.len();
    }
    Some(lines)
}

/// `key:` at the start of a text, and what follows it on the line.
fn key(text: &str) -> Option<(&str, &str)> {
    let end = text.bytes().position(|byte| !byte.is_ascii_alphanumeric() && byte != b'_')?;
    let (key, rest) = text.split_at(end);
    let rest = rest.strip_prefix(':')?;
    let ends = rest.is_empty() || rest.starts_with([' ', '\n', '\r']);
    (!key.is_empty() && ends).then_some((key, rest))
}

/// Nothing but spaces and perhaps a comment.
fn is_empty(rest: &str) -> bool {
    let rest = rest.trim_start_matches(' ');
    rest.is_empty() || rest.starts_with(['\n', '\r', '#'])
}

struct Splitter<'t> {
    text: &'t str,
    lines: Vec<Line>,
    head: String,
    lists: Vec<(&'static Entity, Vec<Entry<'t>>)>,
}

impl<'t> Splitter<'t> {
    fn line(&self, at: usize) -> Option<Line> {
        self.lines.get(at).copied()
    }

    fn slice(&self, from: usize, to: usize) -> Option<&'t str> {
        let start = self.line(from)?.start;
        let end = to.checked_sub(1).and_then(|last| self.line(last))?.end;
        self.text.get(start..end)
    }

    /// The first line from `at` on that is neither blank nor comment.
    fn next(&self, mut at: usize) -> usize {
        while self.line(at).is_some_and(|line| line.what == What::Nothing) {
            at += 1;
        }
        at
    }

    /// The first line from `at` on that is not indented deeper than `indent`. Comments belong to what they follow.
    fn block_end(&self, mut at: usize, indent: usize) -> usize {
        while self.line(at).is_some_and(|line| line.what == What::Nothing || line.indent > indent) {
            at += 1;
        }
        at
    }

    fn top(&mut self) -> Option<()> {
        let mut at = self.next(0);
        if self.slice(at, at + 1).is_some_and(|line| line.trim_end() == "---") {
            at = self.next(at + 1);
        }
        let mut names = HashSet::new();
        while let Some(line) = self.line(at) {
            let content = self.text.get(line.start..line.end)?;
            if line.indent != 0 || line.what != What::Text {
                return None;
            }
            let (name, rest) = key(content)?;
            if !names.insert(name) {
                return None;
            }
            let entity = ENTITIES.iter().find(|entity| entity.collection == name);
            match entity {
                Some(entity) if is_empty(rest) && self.is_list(at + 1, 0) => {
                    let (entries, end) = self.entries(at + 1, 0, entity)?;
                    self.lists.push((entity, entries));
                    at = end;
                }
                _ => {
                    let end = self.block_end(at + 1, 0);
                    self.head.push_str(self.slice(at, end)?);
                    at = end;
                }
            }
        }
        Some(())
    }

    fn is_list(&self, at: usize, indent: usize) -> bool {
        self.line(self.next(at)).is_some_and(|line| line.what == What::Dash && line.indent >= indent)
    }

    /// The entries of a list under a key that stands at `indent`, and the line after them.
    fn entries(&self, at: usize, indent: usize, entity: &'static Entity) -> Option<(Vec<Entry<'t>>, usize)> {
        let mut at = self.next(at);
        let dash = self.line(at)?.indent;
        let mut entries = Vec::new();
        while let Some(line) = self.line(at) {
            if line.what != What::Dash || line.indent != dash {
                break;
            }
            let end = self.block_end(at + 1, dash);
            entries.push(self.entry(at, end, entity)?);
            at = end;
        }
        match self.line(at) {
            Some(line) if line.indent > indent || line.what == What::Dash && line.indent == dash => None,
            _ => Some((entries, at)),
        }
    }

    /// One entry: its own lines, and its nested lists cut out.
    fn entry(&self, from: usize, to: usize, entity: &'static Entity) -> Option<Entry<'t>> {
        let whole = || Some(Entry { own: vec![self.slice(from, to)?], nested: Vec::new() });
        if children(entity).next().is_none() {
            return whole();
        }
        let first = self.line(from)?;
        let after_dash = self.text.get(first.start + first.indent + 1..first.end)?;
        let spaces = after_dash.bytes().take_while(|byte| *byte == b' ').count();
        let content = after_dash.get(spaces..)?;
        let (column, mut at) = if is_empty(content) {
            let next = self.next(from + 1);
            if next >= to {
                return whole();
            }
            (self.line(next)?.indent, next)
        } else {
            let (name, _) = key(content)?;
            if children(entity).any(|(child, ..)| child == name) {
                return None;
            }
            (first.indent + 1 + spaces, from + 1)
        };
        let (mut own, mut kept) = (Vec::new(), from);
        let mut nested: Vec<(&'static Entity, &'static str, List<'t>)> = Vec::new();
        while at < to {
            let line = self.line(at)?;
            let name = (line.what == What::Text && line.indent == column)
                .then(|| key(self.text.get(line.start + column..line.end)?))
                .flatten();
            let child = name.and_then(|(name, rest)| {
                children(entity).find(|(child, ..)| *child == name).map(|(_, of, back)| (of, back, rest))
            });
            let Some((of, back, rest)) = child else {
                at += 1;
                continue;
            };
            if nested.iter().any(|(known, ..)| std::ptr::eq(*known, of)) {
                return None;
            }
            if at > kept {
                own.push(self.slice(kept, at)?);
            }
            let (list, end) = if is_empty(rest) && self.is_list(at + 1, column) {
                let (entries, end) = self.entries(at + 1, column, of)?;
                (List::Entries(entries), end)
            } else {
                let end = self.block_end(at + 1, column);
                let Node::Map(mut map) = read::block(self.slice(at, end)?)? else { return None };
                match map.pop() {
                    Some((_, Node::Seq(nodes))) => (List::Nodes(nodes), end),
                    Some((_, Node::Null)) => (List::Nodes(Vec::new()), end),
                    _ => return None,
                }
            };
            nested.push((of, back, list));
            at = end;
            kept = end;
        }
        if to > kept {
            own.push(self.slice(kept, to)?);
        }
        Some(Entry { own, nested })
    }
}
