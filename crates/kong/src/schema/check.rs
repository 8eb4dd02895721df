//! Constraints on single values, in Kong's words.

use crate::node::Node;

/// One constraint.
#[derive(Clone, Copy)]
pub(crate) enum Check {
    Between(f64, f64),
    Greater(f64),
    OneOf(&'static [&'static str]),
    OneOfInts(&'static [i64]),
    /// At least that many entries.
    MinLen(usize),
    /// Anything else: the message on failure.
    With(fn(&Node) -> Result<(), String>),
}

/// Numbers without a needless `.0`.
fn plain(number: f64) -> String {
    format!("{number}")
}

/// Applies one constraint to a value of the right type.
pub(crate) fn check_value(check: &Check, node: &Node) -> Result<(), String> {
    match check {
        Check::Between(low, high) => match node.as_f64() {
            Some(value) if value >= *low && value <= *high => Ok(()),
            _ => Err(format!("value should be between {} and {}", plain(*low), plain(*high))),
        },
        Check::Greater(limit) => match node.as_f64() {
            Some(value) if value > *limit => Ok(()),
            _ => Err(format!("value must be greater than {}", plain(*limit))),
        },
        Check::OneOf(words) => match node.as_str() {
            Some(word) if words.contains(&word) => Ok(()),
            _ => Err(format!("expected one of: {}", words.join(", "))),
        },
        Check::OneOfInts(numbers) => match node.as_int() {
            Some(number) if numbers.contains(&number) => Ok(()),
            _ => {
                let list: Vec<String> = numbers.iter().map(ToString::to_string).collect();
                Err(format!("expected one of: {}", list.join(", ")))
            }
        },
        Check::MinLen(least) => match node {
            Node::Seq(items) if items.len() < *least => Err(format!("length must be at least {least}")),
            Node::Map(map) if map.len() < *least => Err(format!("length must be at least {least}")),
            Node::Str(text) if text.len() < *least => Err(format!("length must be at least {least}")),
            _ => Ok(()),
        },
        Check::With(function) => function(node),
    }
}
