//! The plain reading of Kong's rules: every part of every route, in order, compared one by one. Tests hold the index against it.

use plinth_kong::{Config, Pattern, Route, normalize_path};

use super::Ask;
use super::hosts::split_port;
use super::part::{Weight, groups};

/// Index of the route and length of the match.
pub(super) fn find(config: &Config, ask: &Ask<'_>) -> Option<(usize, usize)> {
    let path = normalize_path(ask.path);
    let mut parts: Vec<(Weight, usize, &Route, Vec<&str>)> = Vec::new();
    let enabled = |route: &Route| {
        let service = route.service.and_then(|id| config.services.iter().find(|service| service.id == id));
        service.is_none_or(|service| service.enabled)
    };
    for (index, route) in config.routes.iter().enumerate().filter(|(_, route)| enabled(route)) {
        for group in groups(route) {
            parts.push((Weight::new(route, &group), index, route, group));
        }
    }
    parts.sort_by_key(|part| part.0);
    parts.into_iter().find_map(|(_, index, route, group)| {
        let fits = methods(route, ask) && hosts(route, ask) && headers(route, ask) && snis(route, ask);
        if !fits { None } else { paths(&group, &path).map(|matched| (index, matched)) }
    })
}

fn methods(route: &Route, ask: &Ask<'_>) -> bool {
    route.methods.is_empty() || route.methods.iter().any(|method| method == ask.method.as_str())
}

fn hosts(route: &Route, ask: &Ask<'_>) -> bool {
    if route.hosts.is_empty() {
        return true;
    }
    let Some(host) = ask.host.map(str::to_ascii_lowercase) else { return false };
    let (name, port) = split_port(&host);
    let port = port.unwrap_or(if ask.https { 443 } else { 80 });
    route.hosts.iter().any(|rule| {
        let rule = rule.to_ascii_lowercase();
        let (pattern, wanted) = split_port(&rule);
        let fits = match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
            (Some(suffix), _) => name.len() > suffix.len() && name.ends_with(suffix),
            (_, Some(prefix)) => name.len() > prefix.len() && name.starts_with(prefix),
            _ => name == pattern,
        };
        fits && wanted.is_none_or(|wanted| wanted == port)
    })
}

fn headers(route: &Route, ask: &Ask<'_>) -> bool {
    route.headers.iter().all(|(name, values)| {
        ask.headers.get_all(name).iter().any(|value| {
            let value = value.to_str().unwrap_or_default();
            if let [only] = values.as_slice()
                && let Some(pattern) = only.strip_prefix("~*")
            {
                return Pattern::anywhere_ignoring_case(pattern).is_ok_and(|pattern| pattern.is_match(value));
            }
            values.iter().any(|wanted| wanted.eq_ignore_ascii_case(value))
        })
    })
}

fn snis(route: &Route, ask: &Ask<'_>) -> bool {
    if route.snis.is_empty() || !ask.https {
        return true;
    }
    let Some(sni) = ask.sni.map(|sni| sni.trim_end_matches('.').to_ascii_lowercase()) else { return false };
    route.snis.iter().any(|rule| {
        let rule = rule.trim_end_matches('.').to_ascii_lowercase();
        match (rule.strip_prefix('*'), rule.strip_suffix('*')) {
            (Some(suffix), _) => sni.len() > suffix.len() && sni.ends_with(suffix),
            (_, Some(prefix)) => sni.len() > prefix.len() && sni.starts_with(prefix),
            _ => sni == rule,
        }
    })
}

fn paths(group: &[&str], path: &str) -> Option<usize> {
    if group.is_empty() {
        return Some(0);
    }
    group.iter().find_map(|entry| match entry.strip_prefix('~') {
        Some(pattern) => Pattern::anchored(pattern).ok()?.match_len(path),
        None => path.starts_with(entry).then_some(entry.len()),
    })
}
