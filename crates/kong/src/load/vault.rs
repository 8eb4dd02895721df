//! `{vault://env/name}`: values that stand in the environment instead of the file.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;

/// Gives an environment variable's value.
type Read = dyn Fn(&str) -> Option<String> + Send + Sync;

/// Where references are looked up. Only the environment is: the open-source Kong has no other vault either.
#[derive(Clone)]
pub struct Secrets {
    read: Arc<Read>,
    required: bool,
}

impl Secrets {
    /// `read` gives an environment variable's value; one that is not set is a fault.
    pub fn required(read: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> Secrets {
        Secrets { read: Arc::new(read), required: true }
    }

    /// A variable that is not set is a warning and the reference stands for its value: for checking a file away from where it
    /// will run.
    pub fn optional(read: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> Secrets {
        Secrets { read: Arc::new(read), required: false }
    }

    pub(super) fn is_required(&self) -> bool {
        self.required
    }
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secrets").field("required", &self.required).finish_non_exhaustive()
    }
}

/// Prefixes of variables by the name of the vault.
pub(crate) type Vaults = HashMap<String, String>;

/// The whole value is a reference; one inside a longer text is text, as in Kong.
pub(crate) fn is_reference(text: &str) -> bool {
    text.starts_with("{vault://") && text.ends_with('}')
}

/// Why a reference gives no value.
pub(super) enum Unresolved {
    /// It can never be.
    Wrong(String),
    /// Its variable is not set here.
    Missing(String),
}

/// The variable that a reference names and the member of its JSON value, if any.
fn target(reference: &str, vaults: &Vaults) -> Result<(String, Option<String>), Unresolved> {
    let wrong = |why: &str| Unresolved::Wrong(format!("could not parse reference {reference} ({why})"));
    let inside =
        reference.strip_prefix("{vault://").and_then(|rest| rest.strip_suffix('}')).unwrap_or_default();
    let inside = inside.split('#').next().unwrap_or_default();
    let (path, query) = inside.split_once('?').unwrap_or((inside, ""));
    let (vault, path) = path.split_once('/').ok_or_else(|| wrong("reference url has no path"))?;
    let (name, member) = path.split_once('/').map_or((path, None), |(name, member)| (name, Some(member)));
    if name.is_empty() {
        return Err(wrong("reference url has no secret resource"));
    }
    let own = query.split('&').find_map(|pair| pair.strip_prefix("prefix="));
    let prefix = match (own, vaults.get(vault)) {
        (Some(prefix), _) => prefix,
        (None, Some(prefix)) => prefix.as_str(),
        (None, None) if vault == "env" => "",
        (None, None) => {
            return Err(Unresolved::Wrong(format!("could not find vault ({vault})")));
        }
    };
    let variable = format!("{prefix}{name}").replace('-', "_").to_ascii_uppercase();
    Ok((variable, member.filter(|member| !member.is_empty()).map(str::to_owned)))
}

/// The value a reference stands for.
pub(super) fn resolve(reference: &str, vaults: &Vaults, secrets: &Secrets) -> Result<String, Unresolved> {
    let (variable, member) = target(reference, vaults)?;
    let value = (secrets.read)(&variable).ok_or_else(|| {
        Unresolved::Missing(format!(
            "could not get value from external vault (the environment variable {variable} is not set)"
        ))
    })?;
    let Some(member) = member else { return Ok(value) };
    // What the value holds stays out of the message: it is a secret.
    let unusable =
        |why: &str| Unresolved::Wrong(format!("could not get subfield value: {variable} {why} '{member}'"));
    match serde_json::from_str::<Value>(&value) {
        Ok(Value::Object(members)) => match members.get(&member) {
            Some(Value::String(text)) => Ok(text.clone()),
            Some(Value::Null) | None => Err(unusable("has no member")),
            Some(other) => Ok(other.to_string()),
        },
        _ => Err(unusable("is not a JSON object with a member")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(reference: &str) -> Result<String, String> {
        let read = |name: &str| match name {
            "REDIS_PASSWORD" => Some("s3cret".to_owned()),
            "APP_DB" => Some(r#"{"user": "ann", "port": 5432}"#.to_owned()),
            _ => None,
        };
        let vaults = Vaults::from([("app".to_owned(), "app-".to_owned())]);
        resolve(reference, &vaults, &Secrets::required(read)).map_err(|unresolved| match unresolved {
            Unresolved::Wrong(why) | Unresolved::Missing(why) => why,
        })
    }

    #[test]
    fn names_members_and_prefixes() {
        for (reference, expected) in [
            ("{vault://env/redis-password}", "s3cret"),
            ("{vault://env/REDIS_PASSWORD#1}", "s3cret"),
            ("{vault://env/password?prefix=redis_}", "s3cret"),
            ("{vault://env/app-db/user}", "ann"),
            ("{vault://app/db/port}", "5432"),
        ] {
            assert_eq!(found(reference).as_deref(), Ok(expected), "{reference}");
        }
    }

    #[test]
    fn what_cannot_be_found_is_said_without_the_value() {
        for (reference, expected) in [
            ("{vault://env/nothing}", "the environment variable NOTHING is not set"),
            ("{vault://aws/x}", "could not find vault (aws)"),
            ("{vault://env}", "has no path"),
            ("{vault://env/}", "no secret resource"),
            ("{vault://env/redis-password/x}", "is not a JSON object"),
            ("{vault://env/app-db/nobody}", "has no member 'nobody'"),
        ] {
            let why = found(reference).unwrap_err();
            assert!(why.contains(expected) && !why.contains("s3cret"), "{reference}: {why}");
        }
        assert!(is_reference("{vault://env/x}") && !is_reference("a {vault://env/x}"));
    }
}
