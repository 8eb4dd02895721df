//! Parameters: how they are written in a request, and what is wrong with them.

use serde_json::{Map, Value};

use super::compile::Compiler;
use super::schema::{Id, Schemas, Types};

/// Where a parameter stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Path,
    Query,
    Header,
    Cookie,
}

impl Place {
    pub fn named(name: &str) -> Option<Place> {
        [Place::Path, Place::Query, Place::Header, Place::Cookie]
            .into_iter()
            .find(|place| place.name() == name)
    }

    pub fn name(self) -> &'static str {
        match self {
            Place::Path => "path",
            Place::Query => "query",
            Place::Header => "header",
            Place::Cookie => "cookie",
        }
    }
}

/// How lists and objects are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    /// Joined by this.
    Joined(char),
    /// Each value a parameter of its own.
    Repeated,
    /// `filter[name]=value`.
    Deep,
    /// `.a.b`.
    Label,
    /// `;name=a`.
    Matrix,
    /// JSON (`content` in place of `schema`).
    Json,
}

#[derive(Debug)]
pub(super) struct Parameter {
    pub name: String,
    pub place: Place,
    required: bool,
    may_be_empty: bool,
    style: Style,
    explode: bool,
    schema: Option<Id>,
}

/// What a request brings.
pub(super) struct Given<'r> {
    pub captures: &'r [(&'r str, &'r str)],
    /// Names decoded, values as they were written.
    pub query: &'r [(String, Option<&'r str>)],
    /// All values of a header, joined by commas.
    pub header: &'r dyn Fn(&str) -> Option<String>,
}

const MISSING: &str = "required parameter value not found in request";

impl Parameter {
    /// Reads a parameter of OpenAPI 3, or one of Swagger 2 that is no body.
    pub fn read<'d>(
        value: &'d Value,
        swagger: bool,
        compiler: &mut Compiler<'d>,
        at: &str,
    ) -> Result<Parameter, String> {
        let text = |name: &str| value.get(name).and_then(Value::as_str);
        let flag = |name: &str| value.get(name).and_then(Value::as_bool);
        let name = text("name").ok_or_else(|| format!("{at}: a parameter has a name"))?.to_owned();
        let place = text("in")
            .and_then(Place::named)
            .ok_or_else(|| format!("{at}: parameter '{name}' is in path, query, header or cookie"))?;
        let at = format!("{at} parameter '{name}'");
        let mut parameter = Parameter {
            place,
            required: place == Place::Path || flag("required").unwrap_or(false),
            may_be_empty: flag("allowEmptyValue").unwrap_or(false),
            style: Style::Joined(','),
            explode: false,
            schema: None,
            name,
        };
        if swagger {
            parameter.schema = Some(compiler.schema(value, &at)?);
            parameter.style = match text("collectionFormat") {
                None | Some("csv") => Style::Joined(','),
                Some("ssv") => Style::Joined(' '),
                Some("tsv") => Style::Joined('\t'),
                Some("pipes") => Style::Joined('|'),
                Some("multi") => Style::Repeated,
                Some(other) => return Err(format!("{at}: unknown collectionFormat '{other}'")),
            };
            return Ok(parameter);
        }
        if let Some(content) = value.get("content").and_then(Value::as_object) {
            parameter.style = Style::Json;
            let schema = content.values().next().and_then(|content| content.get("schema"));
            parameter.schema = schema.map(|schema| compiler.schema(schema, &at)).transpose()?;
            return Ok(parameter);
        }
        let form = matches!(place, Place::Query | Place::Cookie);
        let style = text("style").unwrap_or(if form { "form" } else { "simple" });
        parameter.explode = flag("explode").unwrap_or(style == "form");
        parameter.style = match (style, place) {
            ("simple", Place::Path | Place::Header) => Style::Joined(','),
            ("label", Place::Path) => Style::Label,
            ("matrix", Place::Path) => Style::Matrix,
            ("form", Place::Query) if parameter.explode => Style::Repeated,
            ("form", Place::Query | Place::Cookie) => Style::Joined(','),
            ("spaceDelimited", Place::Query) => Style::Joined(' '),
            ("pipeDelimited", Place::Query) => Style::Joined('|'),
            ("deepObject", Place::Query) => Style::Deep,
            _ => return Err(format!("{at}: no style '{style}' in {}", place.name())),
        };
        parameter.schema = value.get("schema").map(|schema| compiler.schema(schema, &at)).transpose()?;
        Ok(parameter)
    }

    /// What is wrong, in the words of Kong's plugin.
    pub fn check(&self, given: &Given<'_>, schemas: &Schemas) -> Result<(), String> {
        let outcome = match self.value(given, schemas) {
            Ok(Some(value)) => self.schema.map_or(Ok(()), |id| schemas.check(id, &value)),
            Ok(None) if self.required => Err(MISSING.to_owned()),
            Ok(None) => Ok(()),
            Err(why) => Err(why),
        };
        outcome.map_err(|why| {
            format!("{} '{}' validation failed with error: '{why}'", self.place.name(), self.name)
        })
    }

    /// Names in a query that belong to this parameter.
    pub fn covers(&self, name: &str, schemas: &Schemas) -> bool {
        let own = || name.strip_prefix(self.name.as_str());
        match self.style {
            Style::Deep => own().is_some_and(|rest| rest.starts_with('[') && rest.ends_with(']')),
            Style::Repeated if self.is_object(schemas) => {
                self.schema.is_some_and(|id| schemas.members(id).contains(&name)) || name == self.name
            }
            _ => name == self.name || own() == Some("[]"),
        }
    }

    fn is_object(&self, schemas: &Schemas) -> bool {
        self.schema.is_some_and(|id| schemas.types(id).has(Types::OBJECT))
    }

    fn value(&self, given: &Given<'_>, schemas: &Schemas) -> Result<Option<Value>, String> {
        match self.place {
            Place::Query => self.in_query(given.query, schemas),
            Place::Path => {
                let found = given.captures.iter().find(|(name, _)| *name == self.name);
                found.map(|(_, text)| self.one(text, schemas)).transpose()
            }
            Place::Header => {
                (given.header)(&self.name).map(|text| self.joined(&text, ',', false, schemas)).transpose()
            }
            Place::Cookie => {
                let cookies = (given.header)("cookie").unwrap_or_default();
                let mut pairs = cookies.split([';', ',']).filter_map(|pair| pair.trim().split_once('='));
                // a list in a cookie holds commas: take the rest of its pair
                let found = pairs.find(|(name, _)| *name == self.name);
                let whole = cookies.split(';').filter_map(|pair| pair.trim().split_once('='));
                let text = whole.clone().find(|(name, _)| *name == self.name).or(found);
                text.map(|(_, text)| self.joined(text, ',', false, schemas)).transpose()
            }
        }
    }

    fn in_query(&self, query: &[(String, Option<&str>)], schemas: &Schemas) -> Result<Option<Value>, String> {
        if self.style == Style::Deep {
            let mut object = Map::new();
            for (name, text) in query {
                let rest = name.strip_prefix(self.name.as_str());
                let Some(key) = rest.and_then(|rest| rest.strip_prefix('[')?.strip_suffix(']')) else {
                    continue;
                };
                let member = self.schema.and_then(|id| schemas.member(id, key));
                object.insert(key.to_owned(), schemas.read(member, &decoded(text.unwrap_or_default())));
            }
            return Ok((!object.is_empty()).then_some(Value::Object(object)));
        }
        if self.style == Style::Repeated && self.is_object(schemas) {
            let Some(id) = self.schema else { return Ok(None) };
            let names = schemas.members(id);
            let mut object = Map::new();
            for (name, text) in query.iter().filter(|(name, _)| names.contains(&name.as_str())) {
                let member = schemas.member(id, name);
                object.insert(name.clone(), schemas.read(member, &decoded(text.unwrap_or_default())));
            }
            return Ok((!object.is_empty()).then_some(Value::Object(object)));
        }
        let own = |name: &str| name == self.name || name.strip_suffix("[]") == Some(self.name.as_str());
        let mut values = query.iter().filter(|(name, _)| own(name)).map(|(_, text)| text.unwrap_or_default());
        let Some(first) = values.next() else { return Ok(None) };
        if self.style == Style::Repeated && self.is_list(schemas) {
            let items = std::iter::once(first).chain(values);
            return Ok(Some(self.list(items.map(decoded), schemas)));
        }
        if first.is_empty() && self.may_be_empty {
            return Ok(self.required.then(|| Value::String(String::new())).filter(|_| self.schema.is_none()));
        }
        if values.next().is_some() && self.style == Style::Repeated {
            return Err("given more than once".to_owned());
        }
        match self.style {
            Style::Json => json(&decoded(first)).map(Some),
            Style::Joined(by) => self.joined(first, by, true, schemas).map(Some),
            _ => Ok(Some(schemas.read(self.schema, &decoded(first)))),
        }
    }

    fn is_list(&self, schemas: &Schemas) -> bool {
        self.schema.is_some_and(|id| schemas.types(id).has(Types::ARRAY))
    }

    /// A path's segment, not decoded yet.
    fn one(&self, text: &str, schemas: &Schemas) -> Result<Value, String> {
        let bad = || format!("not written in the style '{:?}'", self.style).to_lowercase();
        let (text, by) = match self.style {
            Style::Label => (text.strip_prefix('.').ok_or_else(bad)?, if self.explode { '.' } else { ',' }),
            Style::Matrix => (text.strip_prefix(';').ok_or_else(bad)?, if self.explode { ';' } else { ',' }),
            _ => (text, ','),
        };
        if self.style != Style::Matrix {
            return self.joined(text, by, true, schemas);
        }
        let start = format!("{}=", self.name);
        if self.explode && !self.is_object(schemas) {
            let items: Option<Vec<&str>> =
                text.split(by).map(|item| item.strip_prefix(start.as_str())).collect();
            let items = items.ok_or_else(bad)?;
            return match items[..] {
                [one] if !self.is_list(schemas) => Ok(schemas.read(self.schema, &decoded(one))),
                _ => Ok(self.list(items.into_iter().map(decoded), schemas)),
            };
        }
        let text = if self.explode { text } else { text.strip_prefix(start.as_str()).ok_or_else(bad)? };
        self.joined(text, by, true, schemas)
    }

    fn list(&self, items: impl Iterator<Item = String>, schemas: &Schemas) -> Value {
        let read = |(place, text): (usize, String)| {
            schemas.read(self.schema.and_then(|id| schemas.item(id, place)), &text)
        };
        Value::Array(items.enumerate().map(read).collect())
    }

    /// A single value, a list or an object in one text.
    fn joined(&self, text: &str, by: char, escaped: bool, schemas: &Schemas) -> Result<Value, String> {
        let plain = |text: &str| if escaped { decoded(text) } else { text.to_owned() };
        if self.style == Style::Json {
            return json(&plain(text));
        }
        if self.is_list(schemas) {
            return Ok(self.list(split(text, by, escaped).map(plain), schemas));
        }
        if !self.is_object(schemas) {
            return Ok(schemas.read(self.schema, &plain(text)));
        }
        let mut object = Map::new();
        let mut parts = split(text, by, escaped);
        while let Some(part) = parts.next() {
            let (name, value) = if self.explode {
                part.split_once('=').unwrap_or((part, ""))
            } else {
                (part, parts.next().ok_or("a name without a value")?)
            };
            let name = plain(name);
            let member = self.schema.and_then(|id| schemas.member(id, &name));
            let value = schemas.read(member, &plain(value));
            object.insert(name, value);
        }
        Ok(Value::Object(object))
    }
}

/// Splits before escapes are read, so that an escaped separator belongs to its item; those that cannot stand in a URI as
/// they are separate in their escaped form too.
fn split(text: &str, by: char, escaped: bool) -> Box<dyn Iterator<Item = &str> + '_> {
    let written = match by {
        ' ' if escaped => ["%20", "+"],
        '|' if escaped => ["%7C", "%7c"],
        '\t' if escaped => ["%09", "%09"],
        _ => return Box::new(text.split(by)),
    };
    match written.into_iter().find(|written| text.contains(written)) {
        Some(written) => Box::new(text.split(written)),
        None => Box::new(text.split(by)),
    }
}

fn decoded(text: &str) -> String {
    super::decode(&text.replace('+', " "))
}

fn json(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|_| "not JSON".to_owned())
}
