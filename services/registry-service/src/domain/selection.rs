//! What a reader of `/api/v1/services/discover/{service_name}` asks for: the filter and the wait.

use std::borrow::Cow;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use plinth_core::discovery::Instance;
use plinth_core::registration::FieldFault;

use super::check::parse_duration;
use super::view::Standing;

/// Most tags one question may carry; the cost of a question stays bounded.
pub const MAX_TAGS: usize = 16;

/// Which instances are wanted. Part of the key of the encoded answers, so it is canonical: tags sorted, each once,
/// in lower case (Consul compares tags without regard to case).
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Filter {
    pub healthy_only: bool,
    pub tags: Vec<String>,
}

impl Filter {
    /// An instance is wanted when it has every tag asked for and, with `healthy_only`, passes all its checks.
    pub fn admits(&self, instance: &Instance) -> bool {
        let healthy = !self.healthy_only || Standing::of(instance.status) == Standing::Healthy;
        healthy
            && self.tags.iter().all(|wanted| instance.tags.iter().any(|tag| tag.eq_ignore_ascii_case(wanted)))
    }
}

/// How fresh the answer has to be.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// The last good snapshot, at once.
    #[default]
    Any,
    /// `index=N`: a snapshot at N or later, waited for up to the service's bound (read your writes on another replica).
    AtLeast(u64),
    /// `index=N&wait=D`: a snapshot later than N, or the present one once D is over (long poll).
    After { index: u64, wait: Duration },
}

/// A parsed query string.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Selection {
    pub filter: Filter,
    pub freshness: Freshness,
}

impl Selection {
    /// Parses `healthy_only=`, `tags=` (repeatable), `index=` and `wait=`; other parameters are ignored.
    ///
    /// # Errors
    /// Every fault, each with the name of its parameter.
    pub fn parse(query: &str, max_wait: Duration) -> Result<Self, Vec<FieldFault>> {
        let mut selection = Self::default();
        let (mut index, mut wait, mut faults) = (None, None, Vec::new());
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match name {
                "healthy_only" => match value {
                    "" | "true" | "1" => selection.filter.healthy_only = true,
                    "false" | "0" => selection.filter.healthy_only = false,
                    _ => faults.push(FieldFault::new("healthy_only", "must be true or false")),
                },
                "tags" | "tag" => match decode(value) {
                    Some(tag) if tag.is_empty() => {}
                    Some(tag) => selection.filter.tags.push(tag.to_ascii_lowercase()),
                    None => faults.push(FieldFault::new("tags", "is not percent-encoded UTF-8")),
                },
                "index" => match value.parse::<u64>() {
                    Ok(number) => index = Some(number),
                    Err(_) => {
                        faults.push(FieldFault::new("index", "must be a whole number, as in X-Plinth-Index"))
                    }
                },
                "wait" => match parse_duration(value) {
                    Ok(duration) => wait = Some(duration.min(max_wait)),
                    Err(message) => faults.push(FieldFault::new("wait", message)),
                },
                _ => {}
            }
        }
        selection.filter.tags.sort_unstable();
        selection.filter.tags.dedup();
        if selection.filter.tags.len() > MAX_TAGS {
            faults.push(FieldFault::new("tags", format!("at most {MAX_TAGS} tags can be asked for at once")));
        }
        selection.freshness = match (index, wait) {
            (None, None) => Freshness::Any,
            (Some(0), None) => Freshness::Any,
            (Some(index), None) => Freshness::AtLeast(index),
            (Some(index), Some(wait)) => Freshness::After { index, wait },
            (None, Some(_)) => {
                faults.push(FieldFault::new(
                    "wait",
                    "needs index, the X-Plinth-Index of the answer already seen",
                ));
                Freshness::Any
            }
        };
        if faults.is_empty() { Ok(selection) } else { Err(faults) }
    }
}

/// One query value as text: `+` is a blank, then percent-decoding.
fn decode(value: &str) -> Option<Cow<'_, str>> {
    if value.contains('+') {
        let blanks = value.replace('+', " ");
        return percent_decode_str(&blanks).decode_utf8().ok().map(|text| Cow::Owned(text.into_owned()));
    }
    percent_decode_str(value).decode_utf8().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(query: &str) -> Result<Selection, Vec<FieldFault>> {
        Selection::parse(query, Duration::from_secs(60))
    }

    #[test]
    fn an_empty_query_takes_everything_at_once() {
        assert_eq!(parse("").unwrap(), Selection::default());
    }

    #[test]
    fn tags_are_canonical() {
        let selection = parse("tags=b&tags=A%20b&healthy_only=true&tags=b&tags=x+y").unwrap();
        assert_eq!(selection.filter.tags, ["a b", "b", "x y"]);
        assert!(selection.filter.healthy_only);
    }

    #[test]
    fn index_alone_is_a_minimum_and_with_wait_a_long_poll() {
        assert_eq!(parse("index=7").unwrap().freshness, Freshness::AtLeast(7));
        let expected = Freshness::After { index: 7, wait: Duration::from_secs(60) };
        assert_eq!(parse("index=7&wait=10m").unwrap().freshness, expected, "the wait is capped");
    }

    #[test]
    fn every_fault_is_named() {
        let faults = parse("healthy_only=maybe&index=-1&wait=soon&tags=%ff").unwrap_err();
        let fields: Vec<&str> = faults.iter().map(|fault| fault.field.as_ref()).collect();
        assert_eq!(fields, ["healthy_only", "index", "wait", "tags"]);
        assert_eq!(parse("wait=1s").unwrap_err()[0].field, "wait");
    }

    #[test]
    fn too_many_tags_are_refused() {
        let query: Vec<String> = (0..=MAX_TAGS).map(|n| format!("tags=t{n}")).collect();
        assert_eq!(parse(&query.join("&")).unwrap_err()[0].field, "tags");
    }
}
