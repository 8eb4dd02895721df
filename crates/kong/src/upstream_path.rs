//! The path sent to a service (Kong's path handling v0; v1 behaves the same in its traditional_compatible router).

use std::borrow::Cow;

/// Joins a service's path and a request's.
///
/// `service` is the service's path, empty when it has none. `matched` is how many bytes of `uri` (the normalised request path) the
/// route matched; 0 for a route without paths. With `strip` those are cut off.
pub fn upstream_path<'u>(service: &str, uri: &'u str, matched: usize, strip: bool) -> Cow<'u, str> {
    let base = if service.is_empty() { "/" } else { service };
    if base == "/" && (!strip || matched == 0) {
        return Cow::Borrowed(if uri.is_empty() { "/" } else { uri });
    }
    Cow::Owned(if strip { stripped(base, uri, matched) } else { kept(base, uri) })
}

fn stripped(base: &str, uri: &str, matched: usize) -> String {
    // A route without paths counts as the prefix "/".
    let matched = if matched == 0 { usize::from(uri.starts_with('/')) } else { matched };
    let rest = uri.get(matched..).unwrap_or_default();
    let rest = rest.strip_prefix("./").or_else(|| rest.strip_prefix("../")).unwrap_or(rest);
    let ends_in_slash = uri.len() > 1 && uri.ends_with('/');
    if let Some(bare) = base.strip_suffix('/') {
        return match (rest.is_empty(), rest.strip_prefix('/')) {
            (true, _) if bare.is_empty() || ends_in_slash => base.to_owned(),
            (true, _) => bare.to_owned(),
            (false, Some(_)) => format!("{bare}{rest}"),
            (false, None) => format!("{base}{rest}"),
        };
    }
    match (rest.is_empty(), rest.starts_with('/')) {
        (true, _) if ends_in_slash => format!("{base}/"),
        (true, _) => base.to_owned(),
        (false, true) => format!("{base}{rest}"),
        (false, false) => format!("{base}/{rest}"),
    }
}

fn kept(base: &str, uri: &str) -> String {
    if base.ends_with('/') {
        return format!("{base}{}", uri.strip_prefix('/').unwrap_or(uri));
    }
    if uri == "/" { base.to_owned() } else { format!("{base}{uri}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_facts() {
        // service path, matched prefix, request path, strip, expected
        for (service, prefix, uri, strip, expected) in [
            ("/back", "/orders", "/orders", true, "/back"),
            ("/back", "/orders", "/orders/", true, "/back/"),
            ("/back", "/orders", "/orders7", true, "/back/7"),
            ("/back", "/orders", "/orders/7", true, "/back/7"),
            ("/back/", "/orders", "/orders", true, "/back"),
            ("/back/", "/orders/", "/orders/", true, "/back/"),
            ("/back/", "/orders", "/orders/7", true, "/back/7"),
            ("/back/", "/orders", "/orders7", true, "/back/7"),
            ("", "/orders", "/orders", true, "/"),
            ("", "/orders", "/orders/", true, "/"),
            ("", "/orders", "/orders/7", true, "/7"),
            ("/", "/orders", "/orders/7/", true, "/7/"),
            ("/back", "/orders", "/orders", false, "/back/orders"),
            ("/back", "/", "/", false, "/back"),
            ("/back/", "/", "/", false, "/back/"),
            ("/back/", "/orders", "/orders/7", false, "/back/orders/7"),
            ("", "/orders", "/orders/7", false, "/orders/7"),
            ("/back", "", "/any/thing", true, "/back/any/thing"),
            ("", "", "/any", true, "/any"),
            ("/back", "/a/", "/a/../b", true, "/back/b"),
            ("/back", "/a/", "/a/./b", true, "/back/b"),
        ] {
            assert_eq!(
                upstream_path(service, uri, prefix.len(), strip),
                expected,
                "{service} {prefix} {uri} {strip}"
            );
        }
    }

    #[test]
    fn nothing_is_copied_for_a_bare_service() {
        assert!(matches!(upstream_path("", "/api/v1/users", 13, false), Cow::Borrowed("/api/v1/users")));
    }
}
