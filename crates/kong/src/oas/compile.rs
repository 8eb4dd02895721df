//! From the document's schemas to compiled ones. What would refuse a value and cannot be checked here is a fault of the
//! document: a validator that passes what it does not understand is worse than none.

use std::collections::{HashMap, VecDeque};

use serde_json::{Map, Number, Value};

use super::format::Format;
use super::schema::{Id, Lists, Numbers, Objects, Schema, Schemas, Texts, Types};
use crate::Pattern;

/// Keywords that refuse values and are not known here.
const UNKNOWN: &[&str] = &["$dynamicRef", "$recursiveRef", "unevaluatedItems", "unevaluatedProperties"];
/// References followed to one place.
const HOPS: usize = 32;

pub(super) struct Compiler<'d> {
    document: &'d Value,
    schemas: Schemas,
    known: HashMap<String, Id>,
    /// Referred to and not compiled yet: one after the other, so that long chains of references need no deep stack.
    due: VecDeque<(Id, &'d Value, String)>,
    /// Members beside `$ref` count (3.1); before, they are left out.
    beside_references: bool,
}

fn text<'v>(map: &'v Map<String, Value>, name: &str) -> Option<&'v str> {
    map.get(name).and_then(Value::as_str)
}

fn flag(map: &Map<String, Value>, name: &str) -> bool {
    map.get(name).and_then(Value::as_bool).unwrap_or(false)
}

impl<'d> Compiler<'d> {
    pub fn new(document: &'d Value, beside_references: bool) -> Compiler<'d> {
        Compiler {
            document,
            schemas: Schemas::default(),
            known: HashMap::new(),
            due: VecDeque::new(),
            beside_references,
        }
    }

    /// What a JSON pointer in the document (`#/…`) leads to, over any number of references.
    pub fn resolve(&self, mut value: &'d Value) -> Result<&'d Value, String> {
        for _ in 0..HOPS {
            let Some(pointer) = value.get("$ref").and_then(Value::as_str) else { return Ok(value) };
            value = self.target(pointer)?;
        }
        Err("references lead in a circle".to_owned())
    }

    fn target(&self, pointer: &str) -> Result<&'d Value, String> {
        let Some(path) = pointer.strip_prefix('#') else {
            return Err(format!("reference '{pointer}' leads out of the document"));
        };
        let path = super::decode(path);
        self.document.pointer(&path).ok_or_else(|| format!("reference '{pointer}' leads nowhere"))
    }

    /// Compiles what is left and gives all schemas.
    pub fn finish(mut self) -> Result<Schemas, String> {
        while let Some((id, value, at)) = self.due.pop_front() {
            let schema = self.compiled(value, &at)?;
            self.set(id, schema);
        }
        let read_only: Vec<bool> = (0..self.schemas.0.len()).map(|id| self.read_only(id)).collect();
        for schema in &mut self.schemas.0 {
            if let Some(objects) = &mut schema.objects {
                // what only answers have is not required of requests
                let Objects { properties, required, .. } = &mut **objects;
                required.retain(|name| {
                    !properties.get(name).is_some_and(|id| read_only.get(*id).copied().unwrap_or(false))
                });
            }
        }
        Ok(self.schemas)
    }

    fn read_only(&self, mut id: Id) -> bool {
        for _ in 0..HOPS {
            match self.schemas.0.get(id) {
                Some(schema) if schema.read_only => return true,
                Some(Schema { reference: Some(next), .. }) => id = *next,
                _ => return false,
            }
        }
        false
    }

    fn set(&mut self, id: Id, schema: Schema) {
        if let Some(place) = self.schemas.0.get_mut(id) {
            *place = schema;
        }
    }

    fn place(&mut self) -> Id {
        self.schemas.0.push(Schema::default());
        self.schemas.0.len() - 1
    }

    /// Compiles a schema; `at` says where it stands.
    pub fn schema(&mut self, value: &'d Value, at: &str) -> Result<Id, String> {
        let id = self.place();
        let schema = self.compiled(value, at)?;
        self.set(id, schema);
        Ok(id)
    }

    fn reference(&mut self, pointer: &'d str) -> Result<Id, String> {
        if let Some(id) = self.known.get(pointer) {
            return Ok(*id);
        }
        let value = self.target(pointer)?;
        let id = self.place();
        self.known.insert(pointer.to_owned(), id);
        self.due.push_back((id, value, pointer.to_owned()));
        Ok(id)
    }

    fn compiled(&mut self, value: &'d Value, at: &str) -> Result<Schema, String> {
        let map = match value {
            Value::Bool(all) => return Ok(Schema { never: !all, ..Schema::default() }),
            Value::Object(map) => map,
            _ => return Err(format!("{at}: a schema is an object")),
        };
        if let Some(keyword) = UNKNOWN.iter().find(|keyword| map.contains_key(**keyword)) {
            return Err(format!("{at}: '{keyword}' cannot be checked here; say it without"));
        }
        let mut schema = Schema { read_only: flag(map, "readOnly"), ..Schema::default() };
        if let Some(pointer) = text(map, "$ref") {
            let reference = self.reference(pointer).map_err(|why| format!("{at}: {why}"))?;
            schema.reference = Some(reference);
            if !self.beside_references {
                return Ok(schema);
            }
        }
        schema.types = types(map, at)?;
        schema.values = match (map.get("enum"), map.get("const")) {
            (Some(Value::Array(values)), _) => Some(values.clone()),
            (Some(_), _) => return Err(format!("{at}: enum is a list")),
            (None, value) => value.map(|value| vec![value.clone()]),
        };
        let format = text(map, "format").and_then(Format::named);
        schema.numbers = numbers(map, at, format)?;
        schema.texts = texts(map, at, format)?;
        schema.lists = self.lists(map, at)?;
        schema.objects = self.objects(map, at)?;
        for (name, into) in
            [("allOf", &mut schema.all_of), ("anyOf", &mut schema.any_of), ("oneOf", &mut schema.one_of)]
        {
            *into = self.several(map, name, at)?;
        }
        schema.not = self.one(map, "not", at)?;
        if let Some(test) = self.one(map, "if", at)? {
            schema.condition = Some((test, self.one(map, "then", at)?, self.one(map, "else", at)?));
        }
        Ok(schema)
    }

    fn one(&mut self, map: &'d Map<String, Value>, name: &str, at: &str) -> Result<Option<Id>, String> {
        map.get(name).map(|value| self.schema(value, &format!("{at}.{name}"))).transpose()
    }

    fn several(&mut self, map: &'d Map<String, Value>, name: &str, at: &str) -> Result<Vec<Id>, String> {
        match map.get(name) {
            None => Ok(Vec::new()),
            Some(Value::Array(all)) => all
                .iter()
                .enumerate()
                .map(|(place, value)| self.schema(value, &format!("{at}.{name}[{place}]")))
                .collect(),
            Some(_) => Err(format!("{at}: {name} is a list of schemas")),
        }
    }

    fn lists(&mut self, map: &'d Map<String, Value>, at: &str) -> Result<Option<Box<Lists>>, String> {
        const OWN: &[&str] = &["items", "prefixItems", "contains", "minItems", "maxItems", "uniqueItems"];
        if !OWN.iter().any(|name| map.contains_key(*name)) {
            return Ok(None);
        }
        let mut lists = Lists {
            fewest: count(map, "minItems", at)?,
            most: count(map, "maxItems", at)?,
            unique: flag(map, "uniqueItems"),
            first: self.several(map, "prefixItems", at)?,
            ..Lists::default()
        };
        // a list of schemas is the older spelling of prefixItems
        if map.get("items").is_some_and(Value::is_array) {
            lists.first = self.several(map, "items", at)?;
            lists.items = self.one(map, "additionalItems", at)?;
        } else {
            lists.items = self.one(map, "items", at)?;
        }
        if let Some(id) = self.one(map, "contains", at)? {
            let least = count(map, "minContains", at)?.unwrap_or(1);
            lists.contains = Some((id, least, count(map, "maxContains", at)?));
        }
        Ok(Some(Box::new(lists)))
    }

    fn objects(&mut self, map: &'d Map<String, Value>, at: &str) -> Result<Option<Box<Objects>>, String> {
        const OWN: &[&str] = &[
            "properties",
            "patternProperties",
            "additionalProperties",
            "propertyNames",
            "required",
            "minProperties",
            "maxProperties",
            "dependentRequired",
            "dependentSchemas",
            "dependencies",
        ];
        if !OWN.iter().any(|name| map.contains_key(*name)) {
            return Ok(None);
        }
        let mut objects = Objects {
            additional: self.one(map, "additionalProperties", at)?,
            names: self.one(map, "propertyNames", at)?,
            required: names(map.get("required"), at)?,
            fewest: count(map, "minProperties", at)?,
            most: count(map, "maxProperties", at)?,
            ..Objects::default()
        };
        for (name, value) in members(map, "properties", at)? {
            let id = self.schema(value, &format!("{at}.properties.{name}"))?;
            objects.properties.insert(name.clone(), id);
        }
        for (pattern, value) in members(map, "patternProperties", at)? {
            let id = self.schema(value, &format!("{at}.patternProperties"))?;
            objects.patterns.push((compiled_pattern(pattern, at)?, id));
        }
        for keyword in ["dependentRequired", "dependentSchemas", "dependencies"] {
            for (name, value) in members(map, keyword, at)? {
                if value.is_array() {
                    objects.needs.push((name.clone(), names(Some(value), at)?));
                } else {
                    let id = self.schema(value, &format!("{at}.{keyword}.{name}"))?;
                    objects.then.push((name.clone(), id));
                }
            }
        }
        Ok(Some(Box::new(objects)))
    }
}

fn types(map: &Map<String, Value>, at: &str) -> Result<Types, String> {
    let unknown = || format!("{at}: type is one of null, boolean, integer, number, string, array, object");
    let named = |value: &Value| value.as_str().and_then(Types::named).ok_or_else(unknown);
    let mut types = match map.get("type") {
        None => return Ok(Types::ANY),
        Some(Value::Array(all)) => {
            all.iter().try_fold(Types::ANY, |types, value| named(value).map(|one| types.with(one)))?
        }
        Some(one) => named(one)?,
    };
    if flag(map, "nullable") {
        types = types.with(Types::NULL);
    }
    Ok(types)
}

fn numbers(
    map: &Map<String, Value>,
    at: &str,
    format: Option<Format>,
) -> Result<Option<Box<Numbers>>, String> {
    let number = |name: &str| match map.get(name) {
        None => Ok(None),
        Some(Value::Number(number)) => Ok(Some(number.clone())),
        Some(_) => Err(format!("{at}: {name} is a number")),
    };
    // a number of its own (3.1), or a flag beside the limit (3.0)
    let limit = |inclusive: &str, exclusive: &str| -> Result<Option<(Number, bool)>, String> {
        let closed = number(inclusive)?;
        match map.get(exclusive) {
            Some(Value::Bool(open)) => Ok(closed.map(|limit| (limit, *open))),
            Some(Value::Number(limit)) => Ok(Some(match closed {
                Some(closed) if stricter(&closed, limit, inclusive == "minimum") => (closed, false),
                _ => (limit.clone(), true),
            })),
            Some(_) => Err(format!("{at}: {exclusive} is a number or a boolean")),
            None => Ok(closed.map(|limit| (limit, false))),
        }
    };
    let numbers = Numbers {
        least: limit("minimum", "exclusiveMinimum")?,
        most: limit("maximum", "exclusiveMaximum")?,
        multiple_of: number("multipleOf")?,
        format: format.filter(|format| matches!(format, Format::Int32 | Format::Int64)),
    };
    let used = numbers.least.is_some()
        || numbers.most.is_some()
        || numbers.multiple_of.is_some()
        || numbers.format.is_some();
    Ok(used.then(|| Box::new(numbers)))
}

/// Whether the closed limit leaves out more than the open one.
fn stricter(closed: &Number, open: &Number, lower: bool) -> bool {
    let (closed, open) = (closed.as_f64().unwrap_or_default(), open.as_f64().unwrap_or_default());
    if lower { closed > open } else { closed < open }
}

fn texts(map: &Map<String, Value>, at: &str, format: Option<Format>) -> Result<Option<Box<Texts>>, String> {
    let pattern = match map.get("pattern") {
        None => None,
        Some(Value::String(text)) => Some((text.clone(), compiled_pattern(text, at)?)),
        Some(_) => return Err(format!("{at}: pattern is a string")),
    };
    let texts = Texts {
        shortest: count(map, "minLength", at)?,
        longest: count(map, "maxLength", at)?,
        pattern,
        format: format.filter(|format| !matches!(format, Format::Int32 | Format::Int64)),
    };
    let used = texts.shortest.is_some()
        || texts.longest.is_some()
        || texts.pattern.is_some()
        || texts.format.is_some();
    Ok(used.then(|| Box::new(texts)))
}

fn compiled_pattern(text: &str, at: &str) -> Result<Pattern, String> {
    Pattern::anywhere(text).map_err(|why| format!("{at}: pattern '{text}': {why}"))
}

fn count(map: &Map<String, Value>, name: &str, at: &str) -> Result<Option<usize>, String> {
    let whole = |value: &Value| {
        let float = value.as_f64().filter(|number| number.fract() == 0.0 && *number >= 0.0)?;
        Some(float as usize)
    };
    match map.get(name) {
        None => Ok(None),
        Some(value) => whole(value).map(Some).ok_or_else(|| format!("{at}: {name} is a whole number")),
    }
}

fn names(value: Option<&Value>, at: &str) -> Result<Vec<String>, String> {
    let bad = || format!("{at}: required is a list of names");
    match value {
        // a flag is what parameters of Swagger 2 have there
        None | Some(Value::Bool(_)) => Ok(Vec::new()),
        Some(Value::Array(all)) => {
            all.iter().map(|name| name.as_str().map(str::to_owned).ok_or_else(bad)).collect()
        }
        Some(_) => Err(bad()),
    }
}

fn members<'v>(
    map: &'v Map<String, Value>,
    name: &str,
    at: &str,
) -> Result<impl Iterator<Item = (&'v String, &'v Value)>, String> {
    match map.get(name) {
        None => Ok(None.into_iter().flatten()),
        Some(Value::Object(members)) => Ok(Some(members).into_iter().flatten()),
        Some(_) => Err(format!("{at}: {name} is an object")),
    }
}
