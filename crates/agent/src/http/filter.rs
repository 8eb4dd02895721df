//! Filter expressions: `Service.Tags contains "v1" and not (Node.Meta.rack == r1)`.
//!
//! [`grammar`] reads the text, [`fields`] says what each list can be filtered by; here conditions are checked against
//! the fields, as Consul does before it looks at any object, and tried on objects in their JSON form.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::Value;

pub mod fields;
mod grammar;

use fields::{Field, Fields};
use grammar::{Condition, Expression, Operator};

#[derive(Debug)]
pub enum Filter {
    All,
    Or(Vec<Filter>),
    And(Vec<Filter>),
    Not(Box<Filter>),
    Match(Match),
}

#[derive(Debug)]
pub struct Match {
    selector: Vec<String>,
    operator: Operator,
    value: Wanted,
    /// What a field that is not there counts as: Go's zero value. `None` below a map, whose keys may be missing.
    zero: Option<Value>,
}

/// A condition's value as its field's kind.
#[derive(Debug)]
enum Wanted {
    Nothing,
    Text(String),
    Int(i64),
    Bool(bool),
    Pattern(Box<regex::Regex>),
}

impl Filter {
    pub fn parse(text: &str, fields: Fields) -> Result<Filter, String> {
        checked(grammar::parse(text)?, fields)
    }

    /// Only whether it can be read; what it selects is looked at with the first object (`agent/checks` is so lazy).
    pub fn readable(text: &str) -> Result<(), String> {
        grammar::parse(text).map(drop)
    }

    pub fn accepts<T: Serialize + ?Sized>(&self, item: &T) -> bool {
        match self {
            Filter::All => true,
            filter => serde_json::to_value(item).is_ok_and(|value| filter.test(&value)),
        }
    }

    fn test(&self, item: &Value) -> bool {
        match self {
            Filter::All => true,
            Filter::Or(any) => any.iter().any(|filter| filter.test(item)),
            Filter::And(all) => all.iter().all(|filter| filter.test(item)),
            Filter::Not(inner) => !inner.test(item),
            Filter::Match(condition) => condition.found(item, &condition.selector),
        }
    }
}

fn checked(expression: Expression, fields: Fields) -> Result<Filter, String> {
    let all = |several: Vec<Expression>| {
        several.into_iter().map(|one| checked(one, fields)).collect::<Result<Vec<_>, _>>()
    };
    Ok(match expression {
        Expression::Or(any) => Filter::Or(all(any)?),
        Expression::And(every) => Filter::And(all(every)?),
        Expression::Not(inner) => Filter::Not(Box::new(checked(*inner, fields)?)),
        Expression::Condition(condition) => Filter::Match(selected(condition, fields)?),
    })
}

fn selected(condition: Condition, fields: Fields) -> Result<Match, String> {
    let Condition { selector, operator, value } = condition;
    let mut field = Field::Object(fields);
    let mut keyed = false;
    for (at, part) in selector.iter().enumerate() {
        keyed |= matches!(field, Field::Map(_));
        field = field
            .below(part)
            .ok_or_else(|| format!("Selector {} is not valid", quote(&selector[..=at].join("."))))?;
    }
    let name = quote(&selector.join("."));
    if !field.takes(operator) {
        return Err(format!("Invalid match operator \"{}\" for selector {name}", name_of(operator)));
    }
    let coerced =
        |why: String| format!("Failed to coerce value {} for selector {name}: {why}", quote(&value));
    let value = match (operator, field) {
        (Operator::IsEmpty | Operator::IsNotEmpty, _) => Wanted::Nothing,
        (Operator::Matches | Operator::NotMatches, _) => {
            let regex = crate::regexp::compile(&value)
                .map_err(|why| format!("Failed to compile regular expression {}: {why}", quote(&value)))?;
            Wanted::Pattern(Box::new(regex))
        }
        (_, Field::Int) => Wanted::Int(
            integer(&value)
                .map_err(|why| coerced(format!("strconv.ParseInt: parsing {}: {why}", quote(&value))))?,
        ),
        (_, Field::Bool) => Wanted::Bool(match value.as_str() {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => true,
            "0" | "f" | "F" | "false" | "FALSE" | "False" => false,
            _ => {
                return Err(coerced(format!("strconv.ParseBool: parsing {}: invalid syntax", quote(&value))));
            }
        }),
        _ => Wanted::Text(value),
    };
    let zero = match field {
        _ if keyed => None,
        Field::Text => Some(Value::from("")),
        Field::Int => Some(Value::from(0)),
        Field::Bool => Some(Value::from(false)),
        _ => Some(Value::Null),
    };
    Ok(Match { selector, operator, value, zero })
}

/// Go's `%q` for what a filter can hold.
fn quote(text: &str) -> Cow<'static, str> {
    Cow::Owned(format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")))
}

fn name_of(operator: Operator) -> &'static str {
    match operator {
        Operator::Equal => "Equal",
        Operator::NotEqual => "Not Equal",
        Operator::In => "In",
        Operator::NotIn => "Not In",
        Operator::IsEmpty => "Is Empty",
        Operator::IsNotEmpty => "Is Not Empty",
        Operator::Matches => "Matches",
        Operator::NotMatches => "Not Matches",
    }
}

/// `strconv.ParseInt` with base 0: a prefix names the base.
fn integer(text: &str) -> Result<i64, &'static str> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = match lower.as_bytes() {
        [b'0', b'x', ..] => (16, &lower[2..]),
        [b'0', b'b', ..] => (2, &lower[2..]),
        [b'0', b'o', ..] => (8, &lower[2..]),
        [b'0', _, ..] => (8, &lower[1..]),
        _ => (10, lower.as_str()),
    };
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return Err("invalid syntax");
    }
    let value = i128::from_str_radix(digits, radix).map_err(|_| "value out of range")?;
    i64::try_from(if negative { -value } else { value }).map_err(|_| "value out of range")
}

impl Match {
    /// A list of objects on the way is entered: any of its members may match.
    fn found(&self, value: &Value, selector: &[String]) -> bool {
        let Some((first, rest)) = selector.split_first() else { return self.passes(value) };
        match value {
            Value::Array(items) => items.iter().any(|item| self.found(item, selector)),
            Value::Object(map) => match map.get(first) {
                Some(inner) => self.found(inner, rest),
                None => self.absent(),
            },
            _ => self.absent(),
        }
    }

    fn absent(&self) -> bool {
        match &self.zero {
            Some(zero) => self.passes(zero),
            None => matches!(
                self.operator,
                Operator::NotEqual | Operator::NotIn | Operator::IsEmpty | Operator::NotMatches
            ),
        }
    }

    fn passes(&self, value: &Value) -> bool {
        match self.operator {
            Operator::Equal => self.same(value),
            Operator::NotEqual => !self.same(value),
            Operator::In => self.holds(value),
            Operator::NotIn => !self.holds(value),
            Operator::IsEmpty => is_empty(value),
            Operator::IsNotEmpty => !is_empty(value),
            Operator::Matches => self.fits(value),
            Operator::NotMatches => !self.fits(value),
        }
    }

    fn same(&self, value: &Value) -> bool {
        match (&self.value, value) {
            (Wanted::Text(wanted), Value::String(text)) => wanted == text,
            (Wanted::Int(wanted), Value::Number(number)) => number.as_i64() == Some(*wanted),
            (Wanted::Bool(wanted), Value::Bool(flag)) => wanted == flag,
            _ => false,
        }
    }

    /// The list holds the value, the map the key, the text the part.
    fn holds(&self, value: &Value) -> bool {
        let Wanted::Text(wanted) = &self.value else { return false };
        match value {
            Value::Array(items) => items.iter().any(|item| item.as_str() == Some(wanted)),
            Value::Object(map) => map.contains_key(wanted),
            Value::String(text) => text.contains(wanted.as_str()),
            _ => false,
        }
    }

    fn fits(&self, value: &Value) -> bool {
        matches!((&self.value, value), (Wanted::Pattern(regex), Value::String(text)) if regex.is_match(text))
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepts(expression: &str) -> bool {
        let item = serde_json::json!({
            "Node": {"Node": "n1", "Meta": {"rack": "r1", "a b": "c"}},
            "Service": {"Service": "web", "Tags": ["v1", "blue"], "Port": 80, "Meta": {}, "EnableTagOverride": false},
            "Checks": [{"Status": "passing"}, {"Status": "critical"}],
        });
        Filter::parse(expression, fields::ENTRY).unwrap().accepts(&item)
    }

    #[test]
    fn conditions() {
        for yes in [
            "Service.Service == web",
            "Service.Service != \"db\"",
            "v1 in Service.Tags",
            "green not in Service.Tags",
            "Service.Tags contains blue",
            "Service.Tags not contains red",
            "eb in Service.Service",
            "Service.Meta is empty",
            "Service.Tags is not empty",
            "Service.Port == 80",
            "Service.Port == \"0x50\"",
            "Service.EnableTagOverride == false",
            "Service.EnableTagOverride != 1",
            "Node.Meta.rack matches `^r[0-9]$`",
            "Node.Meta.rack not matches x",
            "Node.Meta[\"a b\"] == c",
            "Node.Meta.none != x",
            "rack in Node.Meta",
            "Checks.Status == critical",
            // any check that is not passing, as in Consul
            "Checks.Status != passing",
            "Service.Connect.Native == false",
            "Service.Kind == \"\"",
            "Service.Kind not matches x",
            "Service.Proxy.Upstreams is empty",
            "not (Service.Port == 81 or v2 in Service.Tags)",
            "Service.Port == 81 or Service.Service == web and v1 in Service.Tags",
        ] {
            assert!(accepts(yes), "{yes}");
        }
        for no in ["Service.Service == db", "Node.Meta.none == x", "not v1 in Service.Tags"] {
            assert!(!accepts(no), "{no}");
        }
    }

    /// Texts as Consul 1.8.7 gave them.
    #[test]
    fn what_does_not_fit_the_field_is_refused() {
        for (text, error) in [
            ("foo == x", "Selector \"foo\" is not valid"),
            ("Proxy.Config.x == db", "Selector \"Proxy.Config\" is not valid"),
            ("Tags[\"a\"] == web", "Selector \"Tags.a\" is not valid"),
            ("Port matches \"8.\"", "Invalid match operator \"Matches\" for selector \"Port\""),
            ("Service is not empty", "Invalid match operator \"Is Not Empty\" for selector \"Service\""),
            ("Meta == x", "Invalid match operator \"Equal\" for selector \"Meta\""),
            ("Proxy == x", "Invalid match operator \"Equal\" for selector \"Proxy\""),
            (
                "Port == abc",
                "Failed to coerce value \"abc\" for selector \"Port\": strconv.ParseInt: parsing \"abc\": invalid syntax",
            ),
            (
                "EnableTagOverride == x",
                "Failed to coerce value \"x\" for selector \"EnableTagOverride\": strconv.ParseBool: parsing \"x\": invalid syntax",
            ),
            (
                "Service matches \"(\"",
                "Failed to compile regular expression \"(\": error parsing regexp: missing closing ): `(`",
            ),
        ] {
            assert_eq!(Filter::parse(text, fields::SERVICE).unwrap_err(), error, "{text}");
        }
    }
}
