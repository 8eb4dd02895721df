//! Templates of prepared queries: `${name.full}`, `${name.prefix}`, `${name.suffix}`, `${match(N)}` and
//! `${agent.segment}` in the texts of the service part. Consul has a whole expression language here; these are
//! the variables its documentation gives.

use regex::Regex;

use super::PreparedQuery;

/// What a template sees of one lookup.
struct Lookup<'a> {
    full: &'a str,
    prefix: &'a str,
    suffix: &'a str,
    groups: Vec<String>,
}

/// Refuses what could never be filled in; the texts are Consul's.
pub fn check(query: &PreparedQuery) -> Result<(), String> {
    if query.template.kind != "name_prefix_match" {
        return Err(format!("Bad Template.Type '{}'", query.template.kind));
    }
    regex_of(query).map_err(|why| format!("Bad Regexp: {why}"))?;
    render(query, &query.name).map(drop)
}

fn regex_of(query: &PreparedQuery) -> Result<Option<Regex>, String> {
    if query.template.regexp.is_empty() {
        return Ok(None);
    }
    crate::regexp::compile(&query.template.regexp).map(Some)
}

pub fn render(query: &PreparedQuery, name: &str) -> Result<PreparedQuery, String> {
    let groups = match regex_of(query)? {
        None => Vec::new(),
        Some(regex) => regex.captures(name).map_or_else(Vec::new, |found| {
            found.iter().map(|group| group.map_or_else(String::new, |g| g.as_str().to_owned())).collect()
        }),
    };
    // a prefix in other letters was found all the same, but it is not cut off
    let suffix = name.strip_prefix(&*query.name).unwrap_or(name);
    let lookup = Lookup { full: name, prefix: &query.name, suffix, groups };
    let mut filled = query.clone();
    let service = &mut filled.service;
    fill(&mut service.service, "Service.Service", &lookup)?;
    fill(&mut service.near, "Service.Near", &lookup)?;
    let lists = [
        (&mut service.failover.datacenters, "Service.Failover.Datacenters"),
        (&mut service.ignore_check_ids, "Service.IgnoreCheckIDs"),
        (&mut service.tags, "Service.Tags"),
    ];
    for (list, path) in lists {
        for (at, text) in list.iter_mut().flatten().enumerate() {
            fill(text, &format!("{path}[{at}]"), &lookup)?;
        }
    }
    let maps =
        [(&mut service.node_meta, "Service.NodeMeta"), (&mut service.service_meta, "Service.ServiceMeta")];
    for (map, path) in maps {
        for (key, text) in map.iter_mut().flatten() {
            fill(text, &format!("{path}[{key}]"), &lookup)?;
        }
    }
    if query.template.remove_empty_tags
        && let Some(tags) = &mut filled.service.tags
    {
        tags.retain(|tag| !tag.is_empty() && tag != "!");
    }
    Ok(filled)
}

fn fill(text: &mut String, path: &str, lookup: &Lookup<'_>) -> Result<(), String> {
    if !text.contains("${") {
        return Ok(());
    }
    let whole = text.clone();
    let mut out = String::new();
    let mut rest = whole.as_str();
    while let Some(at) = rest.find("${") {
        if rest[..at].ends_with('$') {
            // `$${` stands for itself
            out.push_str(&rest[..at]);
            out.push('{');
            rest = &rest[at + 2..];
            continue;
        }
        out.push_str(&rest[..at]);
        let inner = &rest[at + 2..];
        let bad = || format!("Bad format '{whole}' in {path}: parse error: syntax error");
        let end = inner.find('}').ok_or_else(bad)?;
        let expression = inner[..end].trim();
        let column = whole.len() - rest.len() + at + 3;
        out.push_str(&evaluated(expression, lookup).map_err(|why| match why {
            Some(why) => format!("Bad evaluation for '{whole}' in {path}: 1:{column}: {why}"),
            None => bad(),
        })?);
        rest = &inner[end + 1..];
    }
    out.push_str(rest);
    *text = out;
    Ok(())
}

/// `None` as error: not an expression at all.
fn evaluated(expression: &str, lookup: &Lookup<'_>) -> Result<String, Option<String>> {
    let call = expression.strip_suffix(')').and_then(|e| e.split_once('('));
    if let Some((name, argument)) = call {
        if name.trim() != "match" {
            return Err(Some(format!("unknown function called: {}", name.trim())));
        }
        let index: usize = argument.trim().trim_matches('"').parse().map_err(|_| None)?;
        return Ok(lookup.groups.get(index).cloned().unwrap_or_default());
    }
    match expression {
        "name.full" => Ok(lookup.full.to_owned()),
        "name.prefix" => Ok(lookup.prefix.to_owned()),
        "name.suffix" => Ok(lookup.suffix.to_owned()),
        "agent.segment" => Ok(String::new()),
        name if !name.is_empty()
            && name.chars().all(|c| c.is_alphanumeric() || matches!(c, '.' | '_' | '-')) =>
        {
            Err(Some(format!("unknown variable accessed: {name}")))
        }
        _ => Err(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::queries::{ServiceQuery, Template};

    fn query(name: &str, service: &str, tags: &[&str], regexp: &str) -> PreparedQuery {
        PreparedQuery {
            name: name.to_owned(),
            template: Template {
                kind: "name_prefix_match".to_owned(),
                regexp: regexp.to_owned(),
                remove_empty_tags: true,
            },
            service: ServiceQuery {
                service: service.to_owned(),
                tags: Some(tags.iter().map(|t| (*t).to_owned()).collect()),
                ..ServiceQuery::default()
            },
            ..PreparedQuery::default()
        }
    }

    #[test]
    fn templates_are_filled_in() {
        let geo = query(
            "geo-",
            "mysql-${match(1)}",
            &["${match(2)}", "${agent.segment}"],
            r"^geo-(.*?)-([^\-]+?)$",
        );
        let filled = render(&geo, "geo-a-b").unwrap().service;
        assert_eq!((filled.service.as_str(), filled.tags.unwrap()), ("mysql-a", vec!["b".to_owned()]));
        assert_eq!(render(&geo, "geo-").unwrap().service.service, "mysql-");
        let all = query("", "${name.full}/${ name.suffix }/$${x}", &[], "");
        assert_eq!(render(&all, "web").unwrap().service.service, "web/web/${x}");
    }

    /// Texts as Consul 1.8.7 gave them.
    #[test]
    fn what_cannot_be_filled_in_is_refused() {
        let why = |service: &str, regexp: &str| check(&query("bad", service, &[], regexp)).unwrap_err();
        assert_eq!(
            why("${name.foo}", ""),
            "Bad evaluation for '${name.foo}' in Service.Service: 1:3: unknown variable accessed: name.foo"
        );
        assert_eq!(
            why("${name.full", ""),
            "Bad format '${name.full' in Service.Service: parse error: syntax error"
        );
        assert_eq!(why("x", "("), "Bad Regexp: error parsing regexp: missing closing ): `(`");
    }
}
