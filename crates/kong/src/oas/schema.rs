//! Compiled schemas, and checking values against them. Messages are those of the library Kong's plugin uses.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};

use serde_json::{Map, Number, Value};

use super::format::Format;
use crate::Pattern;

/// Schemas entered one in the other, references included. JSON itself nests 128 deep at most.
const DEEPEST: usize = 200;
/// From this many items on, equal ones are found by their text instead of by comparing each with each.
const MANY: usize = 16;

/// Position of a schema.
pub(super) type Id = usize;

/// Types a schema allows or a value has, as bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Types(u8);

impl Types {
    pub const ANY: Types = Types(0);
    pub const NULL: Types = Types(1);
    pub const BOOLEAN: Types = Types(2);
    pub const INTEGER: Types = Types(4);
    pub const NUMBER: Types = Types(8);
    pub const STRING: Types = Types(16);
    pub const ARRAY: Types = Types(32);
    pub const OBJECT: Types = Types(64);
    const NAMES: [(Types, &'static str); 7] = [
        (Types::NULL, "null"),
        (Types::BOOLEAN, "boolean"),
        (Types::INTEGER, "integer"),
        (Types::NUMBER, "number"),
        (Types::STRING, "string"),
        (Types::ARRAY, "array"),
        (Types::OBJECT, "object"),
    ];

    pub fn named(name: &str) -> Option<Types> {
        Types::NAMES.iter().find(|(_, known)| *known == name).map(|(types, _)| *types)
    }

    pub fn with(self, other: Types) -> Types {
        Types(self.0 | other.0)
    }

    /// Whether any of `other` is among these.
    pub fn has(self, other: Types) -> bool {
        self.0 & other.0 != 0
    }

    /// All that a value is: a whole number is an integer and a number.
    fn of(value: &Value) -> Types {
        match value {
            Value::Null => Types::NULL,
            Value::Bool(_) => Types::BOOLEAN,
            Value::Number(number) if is_whole(number) => Types::INTEGER.with(Types::NUMBER),
            Value::Number(_) => Types::NUMBER,
            Value::String(_) => Types::STRING,
            Value::Array(_) => Types::ARRAY,
            Value::Object(_) => Types::OBJECT,
        }
    }

    fn names(self) -> Vec<&'static str> {
        Types::NAMES.iter().filter(|(types, _)| self.has(*types)).map(|(_, name)| *name).collect()
    }
}

fn is_whole(number: &Number) -> bool {
    !number.is_f64() || number.as_f64().is_some_and(|number| number.fract() == 0.0)
}

/// One compiled schema. Empty: everything fits.
#[derive(Debug, Default)]
pub(super) struct Schema {
    /// `false`: nothing fits.
    pub never: bool,
    pub reference: Option<Id>,
    pub types: Types,
    pub values: Option<Vec<Value>>,
    pub numbers: Option<Box<Numbers>>,
    pub texts: Option<Box<Texts>>,
    pub lists: Option<Box<Lists>>,
    pub objects: Option<Box<Objects>>,
    pub all_of: Vec<Id>,
    pub any_of: Vec<Id>,
    pub one_of: Vec<Id>,
    pub not: Option<Id>,
    /// `if`, `then`, `else`.
    pub condition: Option<(Id, Option<Id>, Option<Id>)>,
    /// Only answers have it.
    pub read_only: bool,
}

#[derive(Debug, Default)]
pub(super) struct Numbers {
    /// The limit, and whether it is itself left out.
    pub least: Option<(Number, bool)>,
    pub most: Option<(Number, bool)>,
    pub multiple_of: Option<Number>,
    pub format: Option<Format>,
}

#[derive(Debug, Default)]
pub(super) struct Texts {
    pub shortest: Option<usize>,
    pub longest: Option<usize>,
    pub pattern: Option<(String, Pattern)>,
    pub format: Option<Format>,
}

#[derive(Debug, Default)]
pub(super) struct Lists {
    pub first: Vec<Id>,
    pub items: Option<Id>,
    pub contains: Option<(Id, usize, Option<usize>)>,
    pub fewest: Option<usize>,
    pub most: Option<usize>,
    pub unique: bool,
}

#[derive(Debug, Default)]
pub(super) struct Objects {
    pub properties: HashMap<String, Id>,
    pub patterns: Vec<(Pattern, Id)>,
    pub additional: Option<Id>,
    pub names: Option<Id>,
    pub required: Vec<String>,
    pub fewest: Option<usize>,
    pub most: Option<usize>,
    pub needs: Vec<(String, Vec<String>)>,
    pub then: Vec<(String, Id)>,
}

/// All schemas of a document.
#[derive(Debug, Default)]
pub(super) struct Schemas(pub Vec<Schema>);

type Verdict = Result<(), String>;

impl Schemas {
    /// Whether a value fits; else the first thing that is wrong with it.
    pub fn check(&self, id: Id, value: &Value) -> Verdict {
        self.at(id, value, 0)
    }

    fn at(&self, id: Id, value: &Value, depth: usize) -> Verdict {
        let Some(schema) = self.0.get(id) else { return Ok(()) };
        if depth > DEEPEST {
            return Err("nested too deeply to be checked".to_owned());
        }
        let depth = depth + 1;
        if schema.never {
            return Err("no value is allowed here".to_owned());
        }
        if let Some(id) = schema.reference {
            self.at(id, value, depth)?;
        }
        if schema.types != Types::ANY && !schema.types.has(Types::of(value)) {
            return Err(wrong_type(schema.types, value));
        }
        if let Some(values) = &schema.values
            && !values.iter().any(|known| same(known, value))
        {
            return Err("matches none of the enum values".to_owned());
        }
        match value {
            Value::Number(number) => schema.numbers.as_ref().map_or(Ok(()), |rules| rules.check(number))?,
            Value::String(text) => schema.texts.as_ref().map_or(Ok(()), |rules| rules.check(text))?,
            Value::Array(items) => {
                schema.lists.as_ref().map_or(Ok(()), |rules| self.list(rules, items, depth))?;
            }
            Value::Object(members) => {
                schema.objects.as_ref().map_or(Ok(()), |rules| self.object(rules, members, value, depth))?;
            }
            Value::Null | Value::Bool(_) => {}
        }
        self.combined(schema, value, depth)
    }

    fn combined(&self, schema: &Schema, value: &Value, depth: usize) -> Verdict {
        let fits = |id: &Id| self.at(*id, value, depth).is_ok();
        for (place, id) in schema.all_of.iter().enumerate() {
            let inner = self.at(*id, value, depth);
            inner.map_err(|why| format!("allOf {} failed: {why}", place + 1))?;
        }
        if !schema.any_of.is_empty() && !schema.any_of.iter().any(fits) {
            return Err("object matches none of the required".to_owned());
        }
        if !schema.one_of.is_empty() {
            let mut matching = schema.one_of.iter().enumerate().filter(|(_, id)| fits(id));
            match (matching.next(), matching.next()) {
                (Some(_), None) => {}
                (None, _) => return Err("value should match only one schema, but matches none".to_owned()),
                (Some((one, _)), Some((other, _))) => {
                    return Err(format!(
                        "value should match only one schema, but matches both schemas {} and {}",
                        one + 1,
                        other + 1
                    ));
                }
            }
        }
        if schema.not.as_ref().is_some_and(fits) {
            return Err("value wasn't supposed to match schema".to_owned());
        }
        if let Some((test, then, otherwise)) = &schema.condition
            && let Some(id) = if fits(test) { then } else { otherwise }
        {
            self.at(*id, value, depth)?;
        }
        Ok(())
    }

    fn list(&self, rules: &Lists, items: &[Value], depth: usize) -> Verdict {
        if let Some(least) = rules.fewest.filter(|least| items.len() < *least) {
            return Err(format!("expect array to have at least {least} items"));
        }
        if let Some(most) = rules.most.filter(|most| items.len() > *most) {
            return Err(format!("expect array to have at most {most} items"));
        }
        if rules.unique
            && let Some((one, other)) = twice(items)
        {
            return Err(format!("expected unique items but items {} and {} are equal", one + 1, other + 1));
        }
        for (place, item) in items.iter().enumerate() {
            let Some(id) = rules.first.get(place).copied().or(rules.items) else { break };
            let inner = self.at(id, item, depth);
            inner.map_err(|why| format!("failed to validate item {}: {why}", place + 1))?;
        }
        if let Some((id, least, most)) = rules.contains {
            let found = items.iter().filter(|item| self.at(id, item, depth).is_ok()).count();
            if found < least || most.is_some_and(|most| found > most) {
                return Err(format!("{found} items match the schema in 'contains'"));
            }
        }
        Ok(())
    }

    fn object(&self, rules: &Objects, members: &Map<String, Value>, whole: &Value, depth: usize) -> Verdict {
        if let Some(name) = rules.required.iter().find(|name| !members.contains_key(*name)) {
            return Err(format!("property \"{name}\" is required"));
        }
        if let Some(least) = rules.fewest.filter(|least| members.len() < *least) {
            return Err(format!("expect object to have at least {least} properties"));
        }
        if let Some(most) = rules.most.filter(|most| members.len() > *most) {
            return Err(format!("expect object to have at most {most} properties"));
        }
        for (name, value) in members {
            let failed = |why: String| format!("property {name} validation failed: {why}");
            let own = rules.properties.get(name).copied();
            if let Some(id) = own {
                self.at(id, value, depth).map_err(failed)?;
            }
            let mut known = own.is_some();
            for (pattern, id) in &rules.patterns {
                if pattern.is_match(name) {
                    known = true;
                    self.at(*id, value, depth).map_err(failed)?;
                }
            }
            if let Some(id) = rules.additional.filter(|_| !known) {
                if self.0.get(id).is_some_and(|schema| schema.never) {
                    return Err(format!("additional properties forbidden, found {name}"));
                }
                self.at(id, value, depth).map_err(failed)?;
            }
            if let Some(id) = rules.names {
                let inner = self.at(id, &Value::String(name.clone()), depth);
                inner.map_err(|why| format!("name of property {name} is not allowed: {why}"))?;
            }
        }
        for (name, needed) in rules.needs.iter().filter(|(name, _)| members.contains_key(name)) {
            if let Some(missing) = needed.iter().find(|needed| !members.contains_key(*needed)) {
                return Err(format!("property {missing} is required when {name} is set"));
            }
        }
        for (_, id) in rules.then.iter().filter(|(name, _)| members.contains_key(name)) {
            self.at(*id, whole, depth)?;
        }
        Ok(())
    }

    /// What the schema lets a value be, as far as its parts say; for reading text, which has no types.
    pub fn types(&self, id: Id) -> Types {
        self.types_at(id, 0)
    }

    fn types_at(&self, id: Id, depth: usize) -> Types {
        let Some(schema) = self.0.get(id).filter(|_| depth < 16) else { return Types::ANY };
        if schema.types != Types::ANY {
            return schema.types;
        }
        let parts = schema.reference.iter().chain(&schema.all_of).chain(&schema.any_of).chain(&schema.one_of);
        parts.fold(Types::ANY, |all, id| all.with(self.types_at(*id, depth + 1)))
    }

    /// The schema of a list's item.
    pub fn item(&self, id: Id, place: usize) -> Option<Id> {
        self.part(id, 0, &|schema| {
            let lists = schema.lists.as_ref()?;
            lists.first.get(place).copied().or(lists.items)
        })
    }

    /// The schema of an object's member.
    pub fn member(&self, id: Id, name: &str) -> Option<Id> {
        self.part(id, 0, &|schema| {
            let objects = schema.objects.as_ref()?;
            objects.properties.get(name).copied().or(objects.additional)
        })
    }

    /// Names of the members that are declared.
    pub fn members(&self, id: Id) -> Vec<&str> {
        let mut names = Vec::new();
        self.collect(id, 0, &mut names);
        names
    }

    fn collect<'s>(&'s self, id: Id, depth: usize, names: &mut Vec<&'s str>) {
        let Some(schema) = self.0.get(id).filter(|_| depth < 16) else { return };
        if let Some(objects) = &schema.objects {
            names.extend(objects.properties.keys().map(String::as_str));
        }
        for id in schema.parts() {
            self.collect(id, depth + 1, names);
        }
    }

    fn part(&self, id: Id, depth: usize, find: &dyn Fn(&Schema) -> Option<Id>) -> Option<Id> {
        let schema = self.0.get(id).filter(|_| depth < 16)?;
        find(schema).or_else(|| schema.parts().find_map(|id| self.part(id, depth + 1, find)))
    }

    /// The value that text stands for: the first of the allowed types it can be read as that also fits.
    pub fn read(&self, id: Option<Id>, text: &str) -> Value {
        let types = id.map_or(Types::ANY, |id| self.types(id));
        let allowed = |kind: Types| types == Types::ANY || types.has(kind);
        let mut ways = Vec::new();
        if allowed(Types::INTEGER.with(Types::NUMBER))
            && let Ok(number) = serde_json::from_str::<Number>(text)
        {
            ways.push(Value::Number(number));
        }
        if allowed(Types::BOOLEAN)
            && let Ok(flag) = text.parse()
        {
            ways.push(Value::Bool(flag));
        }
        if types.has(Types::NULL) && matches!(text, "" | "null") {
            ways.push(Value::Null);
        }
        if allowed(Types::STRING) || ways.is_empty() {
            ways.push(Value::String(text.to_owned()));
        }
        let fitting = ways.iter().position(|way| id.is_none_or(|id| self.check(id, way).is_ok()));
        ways.swap_remove(fitting.unwrap_or(0))
    }
}

impl Schema {
    fn parts(&self) -> impl Iterator<Item = Id> {
        self.reference.iter().chain(&self.all_of).chain(&self.any_of).chain(&self.one_of).copied()
    }
}

impl Numbers {
    fn check(&self, number: &Number) -> Verdict {
        if let Some((least, open)) = &self.least {
            match order(number, least) {
                Ordering::Less => return Err(format!("expected {number} to be at least {least}")),
                Ordering::Equal if *open => {
                    return Err(format!("expected {number} to be greater than {least}"));
                }
                _ => {}
            }
        }
        if let Some((most, open)) = &self.most {
            match order(number, most) {
                Ordering::Greater => return Err(format!("expected {number} to be at most {most}")),
                Ordering::Equal if *open => {
                    return Err(format!("expected {number} to be smaller than {most}"));
                }
                _ => {}
            }
        }
        if let Some(step) = &self.multiple_of
            && !divides(step, number)
        {
            return Err(format!("expected {number} to be a multiple of {step}"));
        }
        match self.format {
            Some(format) if !format.fits_number(number) => {
                Err(format!("expected {number} to be a valid {}", format.name()))
            }
            _ => Ok(()),
        }
    }
}

impl Texts {
    fn check(&self, text: &str) -> Verdict {
        if self.shortest.is_some() || self.longest.is_some() {
            let length = text.chars().count();
            if let Some(least) = self.shortest.filter(|least| length < *least) {
                return Err(format!("string too short, expected at least {least}, got {length}"));
            }
            if let Some(most) = self.longest.filter(|most| length > *most) {
                return Err(format!("string too long, expected at most {most}, got {length}"));
            }
        }
        if let Some((written, pattern)) = &self.pattern
            && !pattern.is_match(text)
        {
            return Err(format!("failed to match pattern \"{written}\" with \"{}\"", shortened(text)));
        }
        match self.format {
            Some(format) if !format.fits_text(text) => {
                Err(format!("expected valid {}, got \"{}\"", format.name(), shortened(text)))
            }
            _ => Ok(()),
        }
    }
}

/// What a client sent is told back to it, but not a megabyte of it.
fn shortened(text: &str) -> &str {
    let end = text.char_indices().nth(64).map_or(text.len(), |(end, _)| end);
    &text[..end]
}

fn wrong_type(allowed: Types, value: &Value) -> String {
    let got = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    match allowed.names()[..] {
        [one] => format!("wrong type: expected {one}, got {got}"),
        ref several => format!("wrong type: expected one of {}, got {got}", several.join(", ")),
    }
}

fn whole(number: &Number) -> Option<i128> {
    number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from))
}

fn order(one: &Number, other: &Number) -> Ordering {
    match (whole(one), whole(other)) {
        (Some(one), Some(other)) => one.cmp(&other),
        _ => one.as_f64().partial_cmp(&other.as_f64()).unwrap_or(Ordering::Equal),
    }
}

fn divides(step: &Number, number: &Number) -> bool {
    if let (Some(step), Some(number)) = (whole(step), whole(number)) {
        return step == 0 || number % step == 0;
    }
    let (Some(step), Some(number)) = (step.as_f64(), number.as_f64()) else { return true };
    let times = number / step;
    // 0.3 is a multiple of 0.1 to everybody but the arithmetic
    times.is_finite() && (times - times.round()).abs() <= 1e-9 * times.abs().max(1.0)
}

/// Equal as JSON Schema means it: 1 and 1.0 are, 1 and true are not.
fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => order(one, other) == Ordering::Equal,
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len()
                && one.iter().all(|(name, value)| other.get(name).is_some_and(|other| same(value, other)))
        }
        _ => one == other,
    }
}

/// Two equal items, in time that does not grow with the square of their number.
fn twice(items: &[Value]) -> Option<(usize, usize)> {
    if items.len() <= MANY {
        let pairs = |one: usize| (one + 1..items.len()).map(move |other| (one, other));
        return (0..items.len()).flat_map(pairs).find(|(one, other)| same(&items[*one], &items[*other]));
    }
    let mut seen = HashSet::with_capacity(items.len());
    let texts = items.iter().map(|item| {
        let mut text = String::new();
        canonical(item, &mut text);
        text
    });
    let (second, text) = texts.enumerate().find(|(_, text)| !seen.insert(text.clone()))?;
    let first = items.iter().position(|item| {
        let mut other = String::new();
        canonical(item, &mut other);
        other == text
    })?;
    Some((first, second))
}

/// One text for all spellings of a value.
fn canonical(value: &Value, out: &mut String) {
    match value {
        Value::Number(number) => match (whole(number), number.as_f64()) {
            (Some(whole), _) => out.push_str(&whole.to_string()),
            (None, Some(float)) if float.fract() == 0.0 && float.abs() < 1e18 => {
                out.push_str(&(float as i128).to_string());
            }
            _ => out.push_str(&number.to_string()),
        },
        Value::Array(items) => {
            out.push('[');
            for item in items {
                canonical(item, out);
                out.push(',');
            }
            out.push(']');
        }
        Value::Object(members) => {
            let mut names: Vec<&String> = members.keys().collect();
            names.sort_unstable();
            out.push('{');
            for name in names {
                out.push_str(&Value::String(name.clone()).to_string());
                out.push(':');
                canonical(&members[name], out);
                out.push(',');
            }
            out.push('}');
        }
        other => out.push_str(&other.to_string()),
    }
}
