//! Optimistic concurrency: `If-Match` and `If-None-Match` on revisions.

/// What must hold for a write to happen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Precondition {
    #[default]
    None,
    /// `If-Match: "3", "4"`: the current revision is one of these.
    Revisions(Vec<u64>),
    /// `If-Match: *`: the item exists.
    Exists,
    /// `If-None-Match: *`: the item does not exist.
    Absent,
}

/// Why the headers cannot be understood: the header's name and a text fit for the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderFault(pub &'static str, pub &'static str);

impl Precondition {
    /// Reads the two headers of a write.
    ///
    /// # Errors
    /// [`HeaderFault`] when one is malformed, `If-None-Match` is not `*`, or both are given.
    pub fn parse(if_match: Option<&str>, if_none_match: Option<&str>) -> Result<Self, HeaderFault> {
        match (if_match.map(str::trim), if_none_match.map(str::trim)) {
            (None, None) => Ok(Self::None),
            (Some(_), Some(_)) => Err(HeaderFault("If-Match", "cannot be combined with If-None-Match")),
            (None, Some("*")) => Ok(Self::Absent),
            (None, Some(_)) => Err(HeaderFault("If-None-Match", "must be * on a write")),
            (Some("*"), None) => Ok(Self::Exists),
            (Some(list), None) => list
                .split(',')
                .map(|tag| parse_tag(tag.trim()))
                .collect::<Option<Vec<u64>>>()
                .map(Self::Revisions)
                .ok_or(HeaderFault("If-Match", "must be * or revisions in quotes, such as \"3\"")),
        }
    }

    /// Whether a write may go ahead; `current` is the live item's revision, `None` when there is none.
    pub fn allows(&self, current: Option<u64>) -> bool {
        match self {
            Self::None => true,
            Self::Revisions(revisions) => current.is_some_and(|current| revisions.contains(&current)),
            Self::Exists => current.is_some(),
            Self::Absent => current.is_none(),
        }
    }
}

/// The entity tag of a revision.
pub fn etag(revision: u64) -> String {
    format!("\"{revision}\"")
}

/// Bare numbers are taken too: they cannot mean anything else. Weak tags never match a write (RFC 9110, 13.1.1).
fn parse_tag(tag: &str) -> Option<u64> {
    let digits = tag.strip_prefix('"').map_or(Some(tag), |rest| rest.strip_suffix('"'))?;
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_headers() {
        assert_eq!(Precondition::parse(None, None), Ok(Precondition::None));
        assert_eq!(Precondition::parse(Some("\"3\""), None), Ok(Precondition::Revisions(vec![3])));
        assert_eq!(Precondition::parse(Some("\"3\", 4"), None), Ok(Precondition::Revisions(vec![3, 4])));
        assert_eq!(Precondition::parse(Some("*"), None), Ok(Precondition::Exists));
        assert_eq!(Precondition::parse(None, Some(" * ")), Ok(Precondition::Absent));
        for bad in ["W/\"3\"", "\"x\"", "\"3", "", "3\"", "+3"] {
            assert!(Precondition::parse(Some(bad), None).is_err(), "{bad}");
        }
        assert!(Precondition::parse(None, Some("\"3\"")).is_err());
        assert!(Precondition::parse(Some("*"), Some("*")).is_err());
    }

    #[test]
    fn decides() {
        let cases = [
            (Precondition::None, true, true, true),
            (Precondition::Revisions(vec![3]), true, false, false),
            (Precondition::Exists, true, true, false),
            (Precondition::Absent, false, false, true),
        ];
        for (precondition, at_three, at_four, absent) in cases {
            assert_eq!(precondition.allows(Some(3)), at_three, "{precondition:?}");
            assert_eq!(precondition.allows(Some(4)), at_four, "{precondition:?}");
            assert_eq!(precondition.allows(None), absent, "{precondition:?}");
        }
    }
}
