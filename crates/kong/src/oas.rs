//! OpenAPI documents that requests are checked against: OpenAPI 3.0 and 3.1, Swagger 2.0. The rules of the oas-validation
//! plugin, without anything of HTTP's types.
//!
//! A document is compiled once. What would refuse a request and is not understood is a fault of the document.

mod compile;
mod format;
mod parameters;
mod schema;

use std::collections::HashMap;

use serde_json::{Map, Value};

use crate::{Format, Pattern};
use compile::Compiler;
use parameters::{Given, Parameter, Place};
use schema::{Id, Schemas, Types};

/// Which base path precedes the paths of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BasePath<'b> {
    /// None.
    None,
    /// What the document says (`servers`, `basePath`).
    Document,
    /// This.
    Own(&'b str),
}

/// Which parameters are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checks {
    pub path: bool,
    pub query: bool,
    pub header: bool,
}

/// A compiled document.
#[derive(Debug)]
pub struct Spec {
    schemas: Schemas,
    /// Paths without parameters.
    plain: HashMap<String, Item>,
    /// Paths with parameters by their number of segments, the most particular first.
    templates: HashMap<usize, Vec<(Template, Item)>>,
}

/// The operations of a path by method.
type Item = Vec<(String, Operation)>;

/// One operation.
#[derive(Debug)]
pub struct Operation {
    parameters: Vec<Parameter>,
    body: Option<Content>,
}

/// A request body's types and schemas.
#[derive(Debug)]
struct Content {
    required: bool,
    /// Media types in lower case, perhaps with `*`.
    kinds: Vec<(String, Option<Id>)>,
}

/// An operation and what the path's parameters are in one request, as it was written.
#[derive(Debug)]
pub struct Found<'s, 'r> {
    pub operation: &'s Operation,
    captures: Vec<(&'s str, &'r str)>,
}

/// What an operation says about a body of some media type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// Nothing: the operation has none.
    Unsaid,
    /// Not of this type.
    Refused,
    /// It may be anything of this type.
    Anything { required: bool },
    /// It has to fit.
    Schema { schema: BodySchema, required: bool },
}

/// A body's schema, to be handed back to [`Spec::check_value`] or [`Spec::check_fields`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodySchema(Id);

#[derive(Debug)]
struct Template(Vec<Segment>);

#[derive(Debug)]
enum Segment {
    Text(String),
    Parameter(String),
    /// Text and parameters in one segment.
    Mixed(Pattern, Vec<String>),
}

const METHODS: [&str; 8] = ["get", "put", "post", "delete", "options", "head", "patch", "trace"];

/// Reads percent escapes.
fn decode(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let digits = after.get(..2).filter(|digits| byte == b'%' && digits.iter().all(u8::is_ascii_hexdigit));
        let escaped =
            digits.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        match escaped {
            Some(byte) => {
                out.push(byte);
                rest = &after[2..];
            }
            None => {
                out.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The document in a text; one that is percent-encoded, as Kong wants YAML to be, is decoded first.
fn document(text: &str) -> Result<Value, String> {
    let read = |text: &str| crate::parse(text, Format::Yaml).filter(Value::is_object);
    let document = read(text).or_else(|| read(&decode(&text.replace('+', " "))));
    document.ok_or_else(|| "no OpenAPI document: neither JSON nor YAML with members".to_owned())
}

impl Spec {
    /// Reads and compiles a document.
    ///
    /// # Errors
    /// What is wrong with it, or cannot be checked here, and where.
    pub fn parse(text: &str, base: BasePath<'_>) -> Result<Spec, String> {
        let document = document(text)?;
        let version = |name: &str| match document.get(name) {
            Some(Value::String(version)) => Some(version.clone()),
            Some(Value::Number(number)) => Some(number.to_string()),
            _ => None,
        };
        let (swagger, later) = match (version("swagger"), version("openapi")) {
            (Some(version), _) if version.starts_with('2') => (true, false),
            (_, Some(version)) if version.starts_with("3.0") => (false, false),
            (_, Some(version)) if version.starts_with("3.") => (false, true),
            (None, None) => return Err("neither 'openapi' nor 'swagger' says what it is".to_owned()),
            _ => return Err("neither Swagger 2.0 nor OpenAPI 3".to_owned()),
        };
        let base = match base {
            BasePath::None => String::new(),
            BasePath::Own(path) => path.trim_end_matches('/').to_owned(),
            BasePath::Document => base_path(&document),
        };
        let mut reading = Reading { document: &document, swagger, compiler: Compiler::new(&document, later) };
        let mut spec = Spec { schemas: Schemas::default(), plain: HashMap::new(), templates: HashMap::new() };
        let paths = document.get("paths").and_then(Value::as_object).ok_or("'paths' is missing")?;
        for (path, item) in paths.iter().filter(|(path, _)| !path.starts_with("x-")) {
            if !path.starts_with('/') {
                return Err(format!("path '{path}' does not start with '/'"));
            }
            let item = reading.item(path, item)?;
            let path = format!("{base}{path}");
            if path.contains('{') {
                let template = Template::read(&path)?;
                spec.templates.entry(template.0.len()).or_default().push((template, item));
            } else {
                spec.plain.insert(crate::normalize_path(&path).into_owned(), item);
            }
        }
        for templates in spec.templates.values_mut() {
            templates.sort_by_key(|(template, _)| template.rank());
        }
        spec.schemas = reading.compiler.finish()?;
        Ok(spec)
    }

    /// The operation of a request: its method, and its path in normal form ([`crate::normalize_path`]), without the query.
    #[must_use]
    pub fn find<'r>(&self, method: &str, path: &'r str) -> Option<Found<'_, 'r>> {
        let operation =
            |item: &'_ Item| item.iter().position(|(known, _)| known.eq_ignore_ascii_case(method));
        if let Some(item) = self.plain.get(path)
            && let Some(at) = operation(item)
        {
            return item.get(at).map(|(_, operation)| Found { operation, captures: Vec::new() });
        }
        let segments = path.matches('/').count();
        self.templates.get(&segments)?.iter().find_map(|(template, item)| {
            let captures = template.matches(path)?;
            let (_, operation) = item.get(operation(item)?)?;
            Some(Found { operation, captures })
        })
    }

    /// Checks an operation's parameters. `header` gives all values of a header, joined by commas.
    ///
    /// # Errors
    /// The first that is wrong, in the words of Kong's plugin.
    pub fn check_parameters(
        &self,
        found: &Found<'_, '_>,
        checks: Checks,
        query: Option<&str>,
        header: &dyn Fn(&str) -> Option<String>,
    ) -> Result<(), String> {
        if found.operation.parameters.is_empty() {
            return Ok(());
        }
        let query = pairs(query.unwrap_or_default());
        let given = Given { captures: &found.captures, query: &query, header };
        let wanted = |place: Place| match place {
            Place::Path => checks.path,
            Place::Query => checks.query,
            Place::Header => checks.header,
            Place::Cookie => true,
        };
        let mut parameters = found.operation.parameters.iter().filter(|parameter| wanted(parameter.place));
        parameters.try_for_each(|parameter| parameter.check(&given, &self.schemas))
    }

    /// The first parameter of a query that the operation does not declare.
    #[must_use]
    pub fn undeclared_in_query(&self, operation: &Operation, query: &str) -> Option<String> {
        let declared = |name: &str| {
            let mut parameters = operation.parameters.iter().filter(|one| one.place == Place::Query);
            parameters.any(|parameter| parameter.covers(name, &self.schemas))
        };
        pairs(query).into_iter().map(|(name, _)| name).find(|name| !declared(name))
    }

    /// Checks a body that is JSON, or that is text.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check_value(&self, schema: BodySchema, value: &Value) -> Result<(), String> {
        self.schemas.check(schema.0, value)
    }

    /// Checks a form's fields, which have no types: each is read as its schema says.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn check_fields(&self, schema: BodySchema, fields: &[(String, String)]) -> Result<(), String> {
        let mut object = Map::new();
        for (name, text) in fields {
            let member = self.schemas.member(schema.0, name);
            let is_list = member.is_some_and(|id| self.schemas.types(id).has(Types::ARRAY));
            let value = if is_list {
                let item = member.and_then(|id| self.schemas.item(id, 0));
                let value = self.schemas.read(item, text);
                match object.get_mut(name) {
                    Some(Value::Array(items)) => {
                        items.push(value);
                        continue;
                    }
                    _ => Value::Array(vec![value]),
                }
            } else {
                self.schemas.read(member, text)
            };
            object.insert(name.clone(), value);
        }
        self.schemas.check(schema.0, &Value::Object(object))
    }
}

impl Operation {
    /// What is said about a body of this media type (without parameters, any case).
    #[must_use]
    pub fn body(&self, media_type: &str) -> Body {
        let Some(content) = &self.body else { return Body::Unsaid };
        let wanted = media_type.to_ascii_lowercase();
        let group = wanted.split('/').next().unwrap_or_default();
        let fits = |kind: &str| {
            kind == wanted || kind == "*/*" || kind.strip_suffix("/*").is_some_and(|kind| kind == group)
        };
        let exact = content.kinds.iter().find(|(kind, _)| *kind == wanted);
        match exact.or_else(|| content.kinds.iter().find(|(kind, _)| fits(kind))) {
            None => Body::Refused,
            Some((_, None)) => Body::Anything { required: content.required },
            Some((_, Some(id))) => Body::Schema { schema: BodySchema(*id), required: content.required },
        }
    }

    /// Whether it has any body with a schema.
    #[must_use]
    pub fn has_body_schema(&self) -> bool {
        self.body.as_ref().is_some_and(|content| content.kinds.iter().any(|(_, schema)| schema.is_some()))
    }

    /// Whether a header (in lower case) is among the parameters.
    #[must_use]
    pub fn declares_header(&self, name: &str) -> bool {
        let mut parameters = self.parameters.iter();
        parameters.any(|one| one.place == Place::Header && one.name.eq_ignore_ascii_case(name))
    }
}

/// Names of a query decoded, values as written.
fn pairs(query: &str) -> Vec<(String, Option<&str>)> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let split =
        pairs.map(|pair| pair.split_once('=').map_or((pair, None), |(name, value)| (name, Some(value))));
    split.map(|(name, value)| (decode(&name.replace('+', " ")), value)).collect()
}

/// The path of the first server, or Swagger's.
fn base_path(document: &Value) -> String {
    if let Some(path) = document.get("basePath").and_then(Value::as_str) {
        return path.trim_end_matches('/').to_owned();
    }
    let url = document.pointer("/servers/0/url").and_then(Value::as_str).unwrap_or_default();
    let path = match url.split_once("://") {
        Some((_, rest)) => rest.find('/').map_or("", |at| &rest[at..]),
        None => url,
    };
    path.trim_end_matches('/').to_owned()
}

struct Reading<'d> {
    document: &'d Value,
    swagger: bool,
    compiler: Compiler<'d>,
}

impl<'d> Reading<'d> {
    fn item(&mut self, path: &str, item: &'d Value) -> Result<Item, String> {
        let item = self.compiler.resolve(item)?;
        let mut operations = Vec::new();
        for method in METHODS {
            let Some(operation) = item.get(method) else { continue };
            let at = format!("paths.{path}.{method}");
            let parameters = self.parameters(item, operation)?;
            let body = self.body(operation, &parameters, &at)?;
            let parameters = parameters
                .into_iter()
                .filter(|value| !matches!(place_of(value), "body" | "formData"))
                .map(|value| Parameter::read(value, self.swagger, &mut self.compiler, &at))
                .collect::<Result<_, _>>()?;
            operations.push((method.to_owned(), Operation { parameters, body }));
        }
        Ok(operations)
    }

    /// Those of the path and those of the operation, which replace them.
    fn parameters(&self, item: &'d Value, operation: &'d Value) -> Result<Vec<&'d Value>, String> {
        let list = |of: &'d Value| -> Result<Vec<&'d Value>, String> {
            let all = of.get("parameters").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            all.iter().map(|value| self.compiler.resolve(value)).collect()
        };
        let own = list(operation)?;
        let key = |value: &'d Value| (value.get("name"), value.get("in"));
        let mut all = list(item)?;
        all.retain(|value| !own.iter().any(|own| key(own) == key(value)));
        all.extend(own);
        Ok(all)
    }

    fn body(
        &mut self,
        operation: &'d Value,
        parameters: &[&'d Value],
        at: &str,
    ) -> Result<Option<Content>, String> {
        let required = |value: &Value| value.get("required").and_then(Value::as_bool).unwrap_or(false);
        if !self.swagger {
            let Some(body) = operation.get("requestBody") else { return Ok(None) };
            let body = self.compiler.resolve(body)?;
            let mut kinds = Vec::new();
            for (kind, content) in body.get("content").and_then(Value::as_object).into_iter().flatten() {
                let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
                let schema = content.get("schema");
                let schema = schema
                    .map(|schema| self.compiler.schema(schema, &format!("{at}.requestBody {kind}")))
                    .transpose()?;
                kinds.push((kind, schema));
            }
            return Ok(Some(Content { required: required(body), kinds }));
        }
        let consumes = operation.get("consumes").or_else(|| self.document.get("consumes"));
        let consumes = consumes.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let mut kinds: Vec<String> =
            consumes.iter().filter_map(Value::as_str).map(str::to_ascii_lowercase).collect();
        let Some(body) = parameters.iter().find(|value| place_of(value) == "body") else {
            let form = parameters.iter().any(|value| place_of(value) == "formData");
            if kinds.is_empty() {
                kinds.push("application/x-www-form-urlencoded".to_owned());
                kinds.push("multipart/form-data".to_owned());
            }
            // a form's fields are parameters there; that it is a form is what is checked
            let kinds = kinds.into_iter().map(|kind| (kind, None)).collect();
            let required = parameters.iter().any(|value| place_of(value) == "formData" && required(value));
            return Ok(form.then_some(Content { required, kinds }));
        };
        if kinds.is_empty() {
            kinds.push("application/json".to_owned());
        }
        let schema = body.get("schema");
        let schema = schema.map(|schema| self.compiler.schema(schema, &format!("{at} body"))).transpose()?;
        let kinds = kinds.into_iter().map(|kind| (kind, schema)).collect();
        Ok(Some(Content { required: required(body), kinds }))
    }
}

fn place_of(parameter: &Value) -> &str {
    parameter.get("in").and_then(Value::as_str).unwrap_or_default()
}

impl Template {
    fn read(path: &str) -> Result<Template, String> {
        let segments = path.split('/').skip(1).map(|segment| {
            let Some(open) = segment.find('{') else { return Ok(Segment::Text(segment.to_owned())) };
            if let Some(name) = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'))
                && !name.contains(['{', '}'])
            {
                return Ok(Segment::Parameter(name.to_owned()));
            }
            let bad = || format!("path '{path}': braces do not match");
            let (mut pattern, mut names) = (regex_syntax::escape(&segment[..open]), Vec::new());
            let mut rest = &segment[open..];
            while let Some(inner) = rest.strip_prefix('{') {
                let (name, after) = inner.split_once('}').ok_or_else(bad)?;
                names.push(name.to_owned());
                let text = after.find('{').map_or(after, |next| &after[..next]);
                pattern.push_str("([^/]+?)");
                pattern.push_str(&regex_syntax::escape(text));
                rest = &after[text.len()..];
            }
            Ok(Segment::Mixed(Pattern::whole(&pattern)?, names))
        });
        segments.collect::<Result<_, String>>().map(Template)
    }

    /// Text counts before parameters, from the left.
    fn rank(&self) -> Vec<u8> {
        let rank = |segment: &Segment| match segment {
            Segment::Text(_) => 0,
            Segment::Mixed(..) => 1,
            Segment::Parameter(_) => 2,
        };
        self.0.iter().map(rank).collect()
    }

    fn matches<'s, 'r>(&'s self, path: &'r str) -> Option<Vec<(&'s str, &'r str)>> {
        let mut captures = Vec::new();
        for (segment, text) in self.0.iter().zip(path.split('/').skip(1)) {
            match segment {
                Segment::Text(known) if known == text => {}
                Segment::Text(_) => return None,
                Segment::Parameter(_) if text.is_empty() => return None,
                Segment::Parameter(name) => captures.push((name.as_str(), text)),
                Segment::Mixed(pattern, names) => {
                    let spans = pattern.group_spans(text)?;
                    let values = spans.into_iter().filter_map(|(from, to)| text.get(from..to));
                    captures.extend(names.iter().map(String::as_str).zip(values));
                }
            }
        }
        Some(captures)
    }
}
