//! The one walker over all tables.

use super::vault::{self, Unresolved};
use super::{At, Loader, Scope};
use crate::entities::Entity;
use crate::model::SecretReference;
use crate::node::{Map, Node};
use crate::plugins::{self, Lookup};
use crate::schema::{Field, Kind, Literal, check_value};

impl Loader {
    /// Validates one entity's own fields. `back` is the field that would name the entity it is nested in.
    pub(super) fn entity(
        &mut self,
        entity: &'static Entity,
        node: Node,
        at: &At<'_>,
        back: Option<&'static str>,
    ) -> Map {
        let Node::Map(mut map) = node else {
            self.fault(at, "expected a record");
            return Map::new();
        };
        if let Some(prepare) = entity.prepare {
            prepare(&mut map, &mut Scope { loader: self, at, entity: at, nested_in: back });
        }
        if let Some(field) = back
            && map.shift_remove(field).is_some_and(|value| !value.is_null())
        {
            self.fault(&at.key(field), "value must be null");
        }
        let before = self.faults.len();
        let map = self.record(map, entity.fields, at, back);
        if self.faults.len() == before
            && let Some(rules) = entity.rules
        {
            rules(&map, &mut Scope { loader: self, at, entity: at, nested_in: back });
        }
        map
    }

    /// Applies a table: every field in table order, then what the table does not know.
    fn record(&mut self, mut map: Map, fields: &'static [Field], at: &At<'_>, skip: Option<&str>) -> Map {
        let plugin = map.get("name").and_then(Node::as_str).map(str::to_owned);
        let mut out = Map::with_capacity(fields.len());
        for field in fields {
            if skip == Some(field.name) {
                continue;
            }
            let given = map.swap_remove(field.name);
            let at = at.key(field.name);
            match field.kind {
                // Lists of entities were taken out before; what is left is none.
                Kind::Children(..) => {
                    if given.is_some_and(|given| !given.is_null()) {
                        self.fault(&at, "expected an array");
                    }
                }
                Kind::PluginConfig => {
                    out.insert(field.name.to_owned(), self.plugin_config(plugin.as_deref(), given, &at));
                }
                _ => {
                    let value = self.field(field, given, &at);
                    out.insert(field.name.to_owned(), value);
                }
            }
        }
        self.leftovers(&map, at);
        out
    }

    /// A field's value: given, null or absent.
    fn field(&mut self, field: &'static Field, given: Option<Node>, at: &At<'_>) -> Node {
        let node = match (given, field.kind) {
            // Kong fills in records whether or not they are given, so a null one means an empty one.
            (None | Some(Node::Null), Kind::Record(fields)) => {
                return Node::Map(self.record(Map::new(), fields, at, None));
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
            (Kind::Record(fields), Node::Map(map)) => Node::Map(self.record(map, fields, at, None)),
            (Kind::Foreign(_), Node::Str(key)) if !key.is_empty() => Node::Str(key),
            (Kind::Foreign(_), Node::Map(map)) => match reference(&map) {
                Some(key) => Node::Str(key.to_owned()),
                None => return self.mistyped(field, at),
            },
            (Kind::Any, node) => node,
            _ => return self.mistyped(field, at),
        };
        if field.referenceable && value.as_str().is_some_and(vault::is_reference) {
            return value;
        }
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
        if !vault::is_reference(&text) {
            return Some(text);
        }
        if !field.referenceable {
            self.warn(at, "not a field for references, as in Kong: the text is used as it stands".to_owned());
            return Some(text);
        }
        match vault::resolve(&text, &self.vaults, &self.secrets) {
            Ok(value) => {
                self.references.push(SecretReference { path: self.within(at), text });
                Some(value)
            }
            Err(Unresolved::Missing(why)) if !self.secrets.is_required() => {
                self.warn(at, why);
                Some(text)
            }
            Err(Unresolved::Missing(why) | Unresolved::Wrong(why)) => {
                self.fault(at, why);
                None
            }
        }
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
        let map = self.record(map, schema.fields, at, None);
        if self.faults.len() == before
            && let Some(rules) = schema.rules
        {
            rules(&map, &mut Scope { loader: self, at, entity: plugin, nested_in: None });
        }
        Node::Map(map)
    }
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

pub(crate) fn literal(default: Literal) -> Node {
    match default {
        Literal::Bool(value) => Node::Bool(value),
        Literal::Int(value) => Node::Int(value),
        Literal::Number(value) => Node::Float(value),
        Literal::Str(text) => Node::Str(text.to_owned()),
        Literal::Strs(texts) => Node::Seq(texts.iter().map(|text| Node::Str((*text).to_owned())).collect()),
        Literal::Ints(numbers) => Node::Seq(numbers.iter().map(|number| Node::Int(*number)).collect()),
    }
}
