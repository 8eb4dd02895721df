//! Entries that lead requests: routers, splitters, resolvers. What is wrong is said in Consul's order.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::{Verdict, items, list, text};
use crate::schema::time_text;
use crate::state::config::ConfigEntry;

/// A subset is a label of a name in DNS.
const LONGEST_SUBSET: usize = 63;

pub(super) fn router(fields: &Map<String, Value>) -> Verdict {
    for (at, route) in list(fields, "Routes").iter().enumerate() {
        let http = route.get("Match").and_then(|matched| matched.get("HTTP"));
        if let Some(http) = http {
            paths(at, http)?;
            matchers(at, http, "Header", &["Exact", "Regex", "Prefix", "Suffix"])?;
            matchers(at, http, "QueryParam", &["Exact", "Regex"])?;
            methods(at, http)?;
        }
        let has_path = |http: &Value| ["PathExact", "PathPrefix"].iter().any(|n| !text(http, n).is_empty());
        let rewrites = route.get("Destination").is_some_and(|to| !text(to, "PrefixRewrite").is_empty());
        if rewrites && !http.is_some_and(has_path) {
            return Err(format!(
                "Route[{at}] cannot make use of PrefixRewrite without configuring either PathExact or PathPrefix"
            ));
        }
    }
    Ok(())
}

fn paths(at: usize, http: &Value) -> Verdict {
    for name in ["PathExact", "PathPrefix"] {
        let path = text(http, name);
        if !path.is_empty() && !path.starts_with('/') {
            return Err(format!("Route[{at}] {name} doesn't start with '/': {path:?}"));
        }
    }
    let all = ["PathExact", "PathPrefix", "PathRegex"];
    if all.iter().filter(|name| !text(http, name).is_empty()).count() > 1 {
        return Err(format!(
            "Route[{at}] should only contain at most one of PathExact, PathPrefix, or PathRegex"
        ));
    }
    Ok(())
}

/// Each part says in exactly one way what it wants.
fn matchers(at: usize, http: &Value, name: &str, ways: &[&str]) -> Verdict {
    for (n, part) in items(http, name).enumerate() {
        if text(part, "Name").is_empty() {
            return Err(format!("Route[{at}] {name}[{n}] missing required Name field"));
        }
        let present = part.get("Present").and_then(Value::as_bool).unwrap_or(false);
        let said = ways.iter().filter(|way| !text(part, way).is_empty()).count();
        if said + usize::from(present) != 1 {
            let choice = if name == "Header" {
                "Present, Exact, Prefix, Suffix, or Regex"
            } else {
                "Present, Exact, or Regex"
            };
            return Err(format!("Route[{at}] {name}[{n}] should only contain one of {choice}"));
        }
    }
    Ok(())
}

fn methods(at: usize, http: &Value) -> Verdict {
    let mut seen = BTreeSet::new();
    match items(http, "Methods").filter_map(Value::as_str).find(|method| !seen.insert(*method)) {
        Some(method) => Err(format!("Route[{at}] Methods contains {method:?} more than once")),
        None => Ok(()),
    }
}

/// A share of a hundred in hundredths, reckoned with single precision as Consul does.
fn hundredths(weight: &Value) -> i64 {
    f64::from(weight.as_f64().unwrap_or(0.0) as f32 * 100.0).round() as i64
}

/// The weight as it is kept and shown: the smallest part is 0.01, and whole numbers have no fraction.
pub(super) fn to_hundredths(weight: &Value) -> Value {
    let all = hundredths(weight);
    if all % 100 == 0 { Value::from(all / 100) } else { Value::from(all as f64 / 100.0) }
}

pub(super) fn splitter(entry: &ConfigEntry) -> Verdict {
    let splits = list(&entry.fields, "Splits");
    if splits.is_empty() {
        return Err("no splits configured".to_owned());
    }
    let mut seen = BTreeSet::new();
    for split in splits {
        let own = text(split, "Service");
        let service = if own.is_empty() { entry.name.as_str() } else { own };
        let (subset, namespace) = (text(split, "ServiceSubset"), text(split, "Namespace"));
        if !seen.insert((service, subset, namespace)) {
            return Err(format!(
                "split destination occurs more than once: service={service:?}, subset={subset:?}, namespace={namespace:?}"
            ));
        }
    }
    let sum =
        splits.iter().filter_map(|split| split.get("Weight")).map(hundredths).fold(0, i64::saturating_add);
    if sum != 10_000 {
        let shown = sum as f64 / 100.0;
        return Err(format!("the sum of all split weights must be 100, not {shown:.6}"));
    }
    Ok(())
}

pub(super) fn resolver(entry: &ConfigEntry) -> Verdict {
    let fields = &entry.fields;
    let subsets = fields.get("Subsets").and_then(Value::as_object);
    subsets.into_iter().flatten().try_for_each(|(name, _)| subset_name(name))?;
    let has = |name: &str| subsets.is_some_and(|all| all.contains_key(name));
    let default = fields.get("DefaultSubset").and_then(Value::as_str).unwrap_or_default();
    if !default.is_empty() && !has(default) {
        return Err(format!("DefaultSubset {default:?} is not a valid subset"));
    }
    let failovers = fields.get("Failover").and_then(Value::as_object).filter(|all| !all.is_empty());
    if let Some(to) = fields.get("Redirect") {
        if failovers.is_some() {
            return Err("Redirect and Failover cannot both be set".to_owned());
        }
        redirect(&entry.name, to, has)?;
    }
    for (subset, to) in failovers.into_iter().flatten() {
        failover(&entry.name, subset, to, has)?;
    }
    match fields.get("ConnectTimeout").and_then(Value::as_i64) {
        Some(nanos) if nanos < 0 => Err(format!("Bad ConnectTimeout '{}', must be >= 0", time_text(nanos))),
        _ => Ok(()),
    }
}

fn subset_name(name: &str) -> Verdict {
    if name.is_empty() {
        return Err("Subset defined with empty name".to_owned());
    }
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let why = if name.len() > LONGEST_SUBSET {
        "must be non-empty and 63 characters or fewer"
    } else if !name.starts_with(alphanumeric)
        || !name.ends_with(alphanumeric)
        || !name.chars().all(|c| alphanumeric(c) || c == '-')
    {
        "must be 63 characters or fewer, begin or end with lower case alphanumeric characters, and contain lower case alphanumeric characters or '-' in between"
    } else {
        return Ok(());
    };
    Err(format!("Subset {name:?} is invalid: {why}"))
}

fn redirect(own: &str, to: &Value, has: impl Fn(&str) -> bool) -> Verdict {
    let [service, subset, namespace, datacenter] =
        ["Service", "ServiceSubset", "Namespace", "Datacenter"].map(|name| text(to, name));
    if [service, subset, namespace, datacenter].iter().all(|text| text.is_empty()) {
        return Err("Redirect is empty".to_owned());
    }
    if service.is_empty() && !subset.is_empty() {
        return Err("Redirect.ServiceSubset defined without Redirect.Service".to_owned());
    }
    if service.is_empty() && !namespace.is_empty() {
        return Err("Redirect.Namespace defined without Redirect.Service".to_owned());
    }
    if service == own && !subset.is_empty() && !has(subset) {
        return Err(format!("Redirect.ServiceSubset {subset:?} is not a valid subset of {service:?}"));
    }
    Ok(())
}

fn failover(own: &str, of: &str, to: &Value, has: impl Fn(&str) -> bool) -> Verdict {
    if of != "*" && !has(of) {
        return Err(format!("Bad Failover[{of:?}]: not a valid subset"));
    }
    let [service, subset, namespace] = ["Service", "ServiceSubset", "Namespace"].map(|name| text(to, name));
    let datacenters: Vec<&str> = items(to, "Datacenters").filter_map(Value::as_str).collect();
    if [service, subset, namespace].iter().all(|text| text.is_empty()) && datacenters.is_empty() {
        return Err(format!(
            "Bad Failover[{of:?}] one of Service, ServiceSubset, Namespace, or Datacenters is required"
        ));
    }
    if !subset.is_empty() && (service.is_empty() || service == own) && !has(subset) {
        return Err(format!(
            "Bad Failover[{of:?}].ServiceSubset {subset:?} is not a valid subset of {service:?}"
        ));
    }
    if datacenters.contains(&"") {
        return Err(format!("Bad Failover[{of:?}].Datacenters: found empty datacenter"));
    }
    Ok(())
}
