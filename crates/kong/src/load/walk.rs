//! The one walker over all tables.

use super::{At, Item, Loader, Scope};
use crate::entities::{self, Entity};
use crate::node::{Map, Node};
use crate::plugins::{self, Lookup};
use crate::schema::{Field, Kind, Literal, check_value};

/// Nested entities found in a record: the field they stood in, their collection, the field that points back.
type Nested = Vec<(&'static str, &'static str, Node)>;

impl Loader {
    /// Validates one entity and those nested in it.
    pub(super) fn entity(
        &mut self,
        entity: &'static Entity,
        node: Node,
        list: &At<'_>,
        index: usize,
        parent: Option<(&'static str, &'static str, usize)>,
    ) {
        let name = plugin_name(entity, &node);
        let at = list.index(index, name.as_deref().unwrap_or_default());
        let Node::Map(mut map) = node else {
            self.fault(&at, "expected a record");
            return;
        };
        if let Some(prepare) = entity.prepare {
            prepare(&mut map, &mut Scope { loader: self, at: &at, entity: &at, nested_in: None });
        }
        if let Some((field, _, _)) = parent
            && map.shift_remove(field).is_some_and(|value| !value.is_null())
        {
            self.fault(&at.key(field), "value must be null");
        }
        let before = self.faults.len();
        let mut nested = Nested::new();
        let map = self.record(map, entity.fields, &at, parent.map(|(field, _, _)| field), &mut nested);
        if self.faults.len() == before
            && let Some(rules) = entity.rules
        {
            let nested_in = parent.map(|(field, _, _)| field);
            rules(&map, &mut Scope { loader: self, at: &at, entity: &at, nested_in });
        }
        let items = self.items.entry(entity.collection).or_default();
        let position = items.len();
        items.push(Item { path: at.path(), map, parent });
        for (collection, back, list) in nested {
            self.children(collection, list, &at, (back, entity.collection, position));
        }
    }

    fn children(
        &mut self,
        collection: &'static str,
        list: Node,
        at: &At<'_>,
        parent: (&'static str, &'static str, usize),
    ) {
        let at = at.key(collection);
        let (Some(entity), Node::Seq(entries)) = (entities::entity(collection), list) else {
            self.fault(&at, "expected an array");
            return;
        };
        for (index, entry) in entries.into_iter().enumerate() {
            self.entity(entity, entry, &at, index, Some(parent));
        }
    }

    /// Applies a table: every field in table order, then what the table does not know.
    fn record(
        &mut self,
        mut map: Map,
        fields: &'static [Field],
        at: &At<'_>,
        skip: Option<&str>,
        nested: &mut Nested,
    ) -> Map {
        let plugin = map.get("name").and_then(Node::as_str).map(str::to_owned);
        let mut out = Map::with_capacity(fields.len());
        for field in fields {
            if skip == Some(field.name) {
                continue;
            }
            let given = map.swap_remove(field.name);
            let at = at.key(field.name);
            match field.kind {
                Kind::Children(collection, back) => match given {
                    None | Some(Node::Null) => {}
                    Some(list) => nested.push((collection, back, list)),
                },
                Kind::PluginConfig => {
                    out.insert(field.name.to_owned(), self.plugin_config(plugin.as_deref(), given, &at));
                }
                _ => {
                    let value = self.field(field, given, &at);
                    out.insert(field.name.to_owned(), value);
                }
            }
        }
        for key in map.keys().filter(|key| !matches!(key.as_str(), "_comment" | "_ignore")) {
            self.fault(&at.key(key), "unknown field");
        }
        out
    }

    /// A field's value: given, null or absent.
    fn field(&mut self, field: &'static Field, given: Option<Node>, at: &At<'_>) -> Node {
        let node = match (given, field.kind) {
            // Kong fills in records whether or not they are given, so a null one means an empty one.
            (None | Some(Node::Null), Kind::Record(fields)) => {
                return Node::Map(self.record(Map::new(), fields, at, None, &mut Nested::new()));
            }
            (None, _) => match field.default {
                Some(default) => return literal(default),
                None => Node::Null,
            },
            (Some(node), _) => node,
        };
        if node.is_null() {
            if field.required {
                self.fault(at, "required field missing");
            }
            return Node::Null;
        }
        self.note(at, field.used);
        self.value(field, node, at)
    }

    /// A value that is there: type first, then constraints.
    fn value(&mut self, field: &'static Field, node: Node, at: &At<'_>) -> Node {
        let value = match (field.kind, node) {
            (Kind::String, Node::Str(text)) => match self.text(field, text, at) {
                Some(text) => Node::Str(text),
                None => return Node::Null,
            },
            (Kind::Number, node @ (Node::Int(_) | Node::Float(_)))
                if node.as_f64().is_some_and(f64::is_finite) =>
            {
                node
            }
            (Kind::Integer, node @ (Node::Int(_) | Node::Float(_))) => match node.as_int() {
                Some(number) => Node::Int(number),
                None => return self.mistyped(field, at),
            },
            (Kind::Boolean, node @ Node::Bool(_)) => node,
            (Kind::Array(element) | Kind::Set(element), Node::Seq(items)) => {
                let items = items.into_iter().enumerate();
                Node::Seq(
                    items.map(|(index, item)| self.element(element, item, &at.index(index, ""))).collect(),
                )
            }
            (Kind::Map(element), Node::Map(map)) => {
                let members = map.into_iter();
                Node::Map(
                    members
                        .map(|(key, value)| {
                            let value = self.element(element, value, &at.key(&key));
                            (key, value)
                        })
                        .collect(),
                )
            }
            (Kind::Record(fields), Node::Map(map)) => {
                Node::Map(self.record(map, fields, at, None, &mut Nested::new()))
            }
            (Kind::Foreign(_), Node::Str(key)) if !key.is_empty() => Node::Str(key),
            (Kind::Foreign(_), Node::Map(map)) => match reference(&map) {
                Some(key) => Node::Str(key.to_owned()),
                None => return self.mistyped(field, at),
            },
            (Kind::Any, node) => node,
            _ => return self.mistyped(field, at),
        };
        for check in field.checks {
            if let Err(message) = check_value(check, &value) {
                self.fault(at, message);
                break;
            }
        }
        value
    }

    fn element(&mut self, field: &'static Field, node: Node, at: &At<'_>) -> Node {
        if node.is_null() { self.mistyped(field, at) } else { self.value(field, node, at) }
    }

    fn text(&mut self, field: &'static Field, text: String, at: &At<'_>) -> Option<String> {
        if text.is_empty() && !field.empty {
            self.fault(at, "length must be at least 1");
            return None;
        }
        if text.starts_with("{vault://") && text.ends_with('}') {
            self.fault(at, "vault references are not supported yet");
            return None;
        }
        Some(text)
    }

    fn mistyped(&mut self, field: &Field, at: &At<'_>) -> Node {
        let expected = match field.kind {
            Kind::String | Kind::Foreign(_) | Kind::Any => "a string",
            Kind::Number => "a number",
            Kind::Integer => "an integer",
            Kind::Boolean => "a boolean",
            Kind::Array(_) | Kind::Children(..) => "an array",
            Kind::Set(_) => "a set",
            Kind::Map(_) => "a map",
            Kind::Record(_) | Kind::PluginConfig => "a record",
        };
        self.fault(at, format!("expected {expected}"));
        Node::Null
    }

    fn plugin_config(&mut self, name: Option<&str>, given: Option<Node>, at: &At<'_>) -> Node {
        // A missing or mistyped name is reported by its own row.
        let Some(name) = name else { return Node::Null };
        let Some(plugin) = at.parent else { return Node::Null };
        let schema = match plugins::lookup(name) {
            Lookup::Supported(schema) => schema,
            Lookup::Refused(message) => {
                self.fault(&plugin.key("name"), message);
                return Node::Null;
            }
        };
        let mut map = match given {
            None | Some(Node::Null) => Map::new(),
            Some(Node::Map(map)) => map,
            Some(_) => {
                self.fault(at, "expected a record");
                return Node::Null;
            }
        };
        if let Some(prepare) = schema.prepare {
            prepare(&mut map, &mut Scope { loader: self, at, entity: plugin, nested_in: None });
        }
        let before = self.faults.len();
        let map = self.record(map, schema.fields, at, None, &mut Nested::new());
        if self.faults.len() == before
            && let Some(rules) = schema.rules
        {
            rules(&map, &mut Scope { loader: self, at, entity: plugin, nested_in: None });
        }
        Node::Map(map)
    }
}

fn plugin_name(entity: &Entity, node: &Node) -> Option<String> {
    if entity.collection != "plugins" {
        return None;
    }
    node.as_map()?.get("name")?.as_str().map(str::to_owned)
}

/// `{id: …}` as in Kong, `{name: …}` as decK writes it.
fn reference(map: &Map) -> Option<&str> {
    match map.first() {
        Some((key, Node::Str(value)))
            if map.len() == 1 && matches!(key.as_str(), "id" | "name" | "username") =>
        {
            (!value.is_empty()).then_some(value)
        }
        _ => None,
    }
}

fn literal(default: Literal) -> Node {
    match default {
        Literal::Bool(value) => Node::Bool(value),
        Literal::Int(value) => Node::Int(value),
        Literal::Number(value) => Node::Float(value),
        Literal::Str(text) => Node::Str(text.to_owned()),
        Literal::Strs(texts) => Node::Seq(texts.iter().map(|text| Node::Str((*text).to_owned())).collect()),
        Literal::Ints(numbers) => Node::Seq(numbers.iter().map(|number| Node::Int(*number)).collect()),
    }
}
