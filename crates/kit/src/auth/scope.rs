//! Scopes: `<kind>:<action>[:<name glob>]`.

use std::fmt;
use std::str::FromStr;

/// A permission: `services:write`, `services:read:billing-*`, `config:write:shop/production`, `health:*`.
///
/// The glob restricts it to names: `*` stands for any run of characters, `?` for one. The action `*` is every
/// action of that kind, and so is `admin`; `write` does not include `read`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Scope {
    kind: String,
    action: String,
    glob: Option<String>,
}

/// Why a text is no scope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no scope; expected <kind>:<action> or <kind>:<action>:<name pattern>, such as services:write:billing-*"
)]
pub struct ScopeError(String);

impl Scope {
    /// True when this scope permits `action` on `name` of `kind`. Without a name the question is about all names
    /// of that kind, which a scope restricted to some names does not permit.
    pub fn allows(&self, kind: &str, action: &str, name: Option<&str>) -> bool {
        if self.kind != kind || !(self.action == action || self.action == "*" || self.action == "admin") {
            return false;
        }
        match (&self.glob, name) {
            (None, _) => true,
            (Some(glob), Some(name)) => glob_matches(glob, name),
            (Some(glob), None) => glob.bytes().all(|byte| byte == b'*'),
        }
    }

    /// Parses the words of a `scope` claim; words that are no scopes of ours (`openid`, `profile`) are left out.
    pub fn parse_list(text: &str) -> Vec<Scope> {
        text.split_ascii_whitespace().filter_map(|word| word.parse().ok()).collect()
    }
}

impl FromStr for Scope {
    type Err = ScopeError;

    fn from_str(text: &str) -> Result<Self, ScopeError> {
        let mut parts = text.splitn(3, ':');
        let (kind, action, glob) = (parts.next(), parts.next(), parts.next());
        let word = |part: &str| {
            !part.is_empty()
                && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        };
        match (kind, action) {
            (Some(kind), Some(action))
                if word(kind)
                    && (action == "*" || word(action))
                    && glob.is_none_or(|glob| !glob.is_empty())
                    && !text.contains(|c: char| c.is_whitespace() || c.is_control()) =>
            {
                Ok(Scope { kind: kind.to_owned(), action: action.to_owned(), glob: glob.map(str::to_owned) })
            }
            _ => Err(ScopeError(text.to_owned())),
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind, self.action)?;
        match &self.glob {
            Some(glob) => write!(f, ":{glob}"),
            None => Ok(()),
        }
    }
}

/// Matches `*` and `?` in linear time and constant memory: on a mismatch only the last `*` can be stretched.
fn glob_matches(glob: &str, name: &str) -> bool {
    let (mut pattern, mut rest) = (glob.chars(), name.chars());
    let mut retry: Option<(std::str::Chars<'_>, std::str::Chars<'_>)> = None;
    loop {
        let (before_pattern, before_rest) = (pattern.clone(), rest.clone());
        match (pattern.next(), rest.next()) {
            (Some('*'), _) => {
                rest = before_rest;
                retry = Some((pattern.clone(), rest.clone()));
            }
            (None, None) => return true,
            (Some(wanted), Some(found)) if wanted == '?' || wanted == found => {}
            _ => {
                drop(before_pattern);
                let Some((after_star, stretched)) = retry.as_mut() else { return false };
                if stretched.next().is_none() {
                    return false;
                }
                pattern = after_star.clone();
                rest = stretched.clone();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn scope(text: &str) -> Scope {
        text.parse().unwrap()
    }

    #[test]
    fn grants_what_it_says() {
        assert!(scope("services:write").allows("services", "write", Some("billing")));
        assert!(scope("services:write").allows("services", "write", None));
        assert!(!scope("services:write").allows("services", "read", None), "write does not include read");
        assert!(scope("services:admin").allows("services", "read", Some("x")));
        assert!(scope("health:*").allows("health", "write", None));
        assert!(!scope("health:*").allows("services", "read", None));
        let some = scope("services:read:billing-*");
        assert!(some.allows("services", "read", Some("billing-api")));
        assert!(!some.allows("services", "read", Some("billing")));
        assert!(!some.allows("services", "read", None), "a restricted scope is not about all names");
        assert!(scope("services:read:*").allows("services", "read", None));
        assert!(scope("config:read:shop/production").allows("config", "read", Some("shop/production")));
        assert!(!scope("config:read:shop/production").allows("config", "read", Some("shop/staging")));
        assert!(scope("services:read:a:b").allows("services", "read", Some("a:b")));
    }

    #[test]
    fn refuses_what_is_no_scope() {
        for bad in [
            "",
            "services",
            "services:",
            ":read",
            "services:read:",
            "Services:read",
            "*:read",
            "a:b c",
            "a b:c",
        ] {
            assert!(bad.parse::<Scope>().is_err(), "{bad:?}");
        }
        assert_eq!(Scope::parse_list("openid services:read profile").len(), 1);
    }

    /// The obvious, exponential definition.
    fn reference(glob: &[char], name: &[char]) -> bool {
        match (glob.split_first(), name.split_first()) {
            (None, None) => true,
            (Some(('*', more)), _) => {
                reference(more, name) || name.split_first().is_some_and(|(_, tail)| reference(glob, tail))
            }
            (Some(('?', more)), Some((_, tail))) => reference(more, tail),
            (Some((wanted, more)), Some((found, tail))) => wanted == found && reference(more, tail),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn matches_as_the_definition_does(glob in "[ab*?]{0,8}", name in "[ab]{0,10}") {
            let (g, n): (Vec<char>, Vec<char>) = (glob.chars().collect(), name.chars().collect());
            prop_assert_eq!(glob_matches(&glob, &name), reference(&g, &n), "{} on {}", glob, name);
        }

        #[test]
        fn a_name_without_wildcards_matches_only_itself(a in "[a-z/-]{1,8}", b in "[a-z/-]{1,8}") {
            prop_assert!(glob_matches(&a, &a));
            prop_assert_eq!(glob_matches(&a, &b), a == b);
        }

        #[test]
        fn prints_what_it_parsed(text in "[a-z]{1,6}:[a-z]{1,6}(:[a-z*?/:-]{1,8})?") {
            prop_assert_eq!(scope(&text).to_string(), text);
        }

        #[test]
        fn never_panics(text in "\\PC*", name in "\\PC*") {
            if let Ok(scope) = text.parse::<Scope>() {
                scope.allows("services", "read", Some(&name));
            }
        }

        #[test]
        fn a_restriction_never_grants_more(glob in "[ab*?]{1,6}", name in "[ab]{0,6}", action in "(read|write|admin)") {
            let restricted = scope(&format!("services:{action}:{glob}"));
            let free = scope(&format!("services:{action}"));
            for wanted in ["read", "write", "admin"] {
                prop_assert!(!restricted.allows("services", wanted, Some(&name)) || free.allows("services", wanted, Some(&name)));
            }
        }
    }
}
