//! Constraints on the text of names, hosts, paths, tags and keys.

use crate::network::Network;
use crate::node::Node;
use crate::pattern::Pattern;
use crate::template::Template;
use crate::transform::edit;

type Outcome = Result<(), String>;

fn text(node: &Node) -> &str {
    node.as_str().unwrap_or_default()
}

/// Letters, digits, `.-_~` and anything beyond ASCII that is a letter.
pub(crate) fn name(node: &Node) -> Outcome {
    let name = text(node);
    if let Some(bad) =
        name.chars().find(|c| c.is_ascii() && !(c.is_ascii_alphanumeric() || ".-_~".contains(*c)))
    {
        let shown = if bad == ' ' { "' '".to_owned() } else { format!("'{bad}'") };
        return Err(format!(
            "invalid value '{name}': the only accepted ascii characters are alphanumerics or ., -, _, and ~ (found {shown})"
        ));
    }
    Ok(())
}

pub(crate) fn uuid(node: &Node) -> Outcome {
    match uuid::Uuid::try_parse(text(node)) {
        Ok(_) if text(node).len() == 36 => Ok(()),
        _ => Err("expected a valid UUID".to_owned()),
    }
}

/// Printable text without `,` and `/`.
pub(crate) fn tag(node: &Node) -> Outcome {
    let tag = text(node);
    if tag.chars().any(|c| c == ',' || c == '/' || c.is_control()) {
        return Err(format!(
            "invalid tag '{tag}': expected printable ascii (except `,` and `/`) or valid utf-8 sequences"
        ));
    }
    Ok(())
}

fn is_host_name(host: &str) -> bool {
    !host.is_empty()
        && host.len() <= 253
        && host.trim_end_matches('.').split('.').all(|label| {
            !label.is_empty()
                && label.len() <= 63
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        })
}

fn is_ip(host: &str) -> bool {
    host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>().is_ok()
}

/// A service's host: a name or an address, no port.
pub(crate) fn host(node: &Node) -> Outcome {
    let host = text(node);
    if is_ip(host) || is_host_name(host) {
        return Ok(());
    }
    if host.rsplit_once(':').is_some_and(|(name, port)| is_host_name(name) && port.parse::<u16>().is_ok()) {
        return Err("must not have a port".to_owned());
    }
    Err(format!("invalid value: {host}"))
}

/// A route's host: one `*` as leftmost or rightmost label, a port allowed.
pub(crate) fn route_host(node: &Node) -> Outcome {
    let host = text(node);
    if host.starts_with('[') || is_ip(host) {
        let bare = host.rsplit_once("]:").map_or(host, |(address, _)| address);
        return if is_ip(bare) { Ok(()) } else { Err(format!("invalid value: {host}")) };
    }
    let name = match host.rsplit_once(':') {
        None => host,
        Some((name, port)) => {
            port.parse::<u16>()
                .ok()
                .filter(|port| *port > 0)
                .ok_or_else(|| "invalid port number".to_owned())?;
            name
        }
    };
    wildcard_host(name, host)
}

/// A certificate's server name.
pub(crate) fn sni(node: &Node) -> Outcome {
    let name = text(node);
    if name == "*" {
        return Ok(());
    }
    if is_ip(name) {
        return Err("must not be an IP".to_owned());
    }
    if name.contains(':') {
        return Err("must not have a port".to_owned());
    }
    wildcard_host(name, name)
}

fn wildcard_host(name: &str, whole: &str) -> Outcome {
    let stars = name.matches('*').count();
    if stars == 0 {
        return if is_host_name(name) || is_ip(name) {
            Ok(())
        } else {
            Err(format!("invalid value: {whole}"))
        };
    }
    if stars > 1 {
        return Err(
            "wildcards must be at the beginning or end: only one wildcard must be specified".to_owned()
        );
    }
    let rest = name.strip_prefix("*.").or_else(|| name.strip_suffix(".*"));
    match rest {
        Some(rest) if is_host_name(rest) => Ok(()),
        Some(_) => Err(format!("invalid value: {whole}")),
        None => Err("wildcard must be leftmost or rightmost character".to_owned()),
    }
}

/// An upstream's name: a host name, not an address.
pub(crate) fn upstream_name(node: &Node) -> Outcome {
    let name = text(node);
    if is_ip(name) {
        return Err("Invalid name; must be a valid hostname".to_owned());
    }
    if name.contains(':') {
        return Err("Invalid name; no port allowed".to_owned());
    }
    if is_host_name(name) { Ok(()) } else { Err("Invalid name; must be a valid hostname".to_owned()) }
}

/// `host`, `host:port`, `[v6]:port`.
pub(crate) fn target(node: &Node) -> Outcome {
    split_target(text(node))
        .map(|_| ())
        .ok_or_else(|| "Invalid target; not a valid hostname or ip address".to_owned())
}

/// Host as written (v6 in brackets) and port, 8000 when absent.
pub(crate) fn split_target(target: &str) -> Option<(String, u16)> {
    if let Ok(address) = target.parse::<std::net::Ipv6Addr>() {
        return Some((format!("[{address}]"), 8000));
    }
    let (host, port) = match target.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
        _ => (target, 8000),
    };
    (is_ip(host) || is_host_name(host)).then(|| (host.to_owned(), port))
}

/// A path sent to a service.
pub(crate) fn service_path(node: &Node) -> Outcome {
    let path = text(node);
    if !path.starts_with('/') {
        return Err("should start with: /".to_owned());
    }
    if path.contains("//") {
        return Err("must not have empty segments".to_owned());
    }
    if path.contains(['?', '#']) {
        return Err("must not have a query or a fragment".to_owned());
    }
    Ok(())
}

/// A route's path: a prefix in normal form, or `~` and a regular expression.
pub(crate) fn route_path(node: &Node) -> Outcome {
    let path = text(node);
    if let Some(pattern) = path.strip_prefix('~') {
        if !pattern.starts_with('/') {
            return Err("should start with: ~/".to_owned());
        }
        return Pattern::check(pattern).map_err(|why| format!("invalid regex: '{pattern}' ({why})"));
    }
    if !path.starts_with('/') {
        return Err("should start with: /".to_owned());
    }
    if path.contains("//") {
        return Err("must not have empty segments".to_owned());
    }
    let normal = crate::path::normalize(path);
    // Characters that must travel encoded (`{`, a space) may be written plainly in a file.
    if normal != crate::path::encode(path) {
        return Err(format!("non-normalized path, consider use '{normal}' instead"));
    }
    Ok(())
}

/// An HTTP method.
pub(crate) fn method(node: &Node) -> Outcome {
    let method = text(node);
    if !method.is_empty() && method.bytes().all(|b| b.is_ascii_uppercase()) {
        return Ok(());
    }
    Err(format!("invalid value: {method}"))
}

/// An HTTP header's name.
pub(crate) fn header_name(node: &Node) -> Outcome {
    let name = text(node);
    if !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
    {
        return Ok(());
    }
    Err(format!("bad header name '{name}', allowed characters are A-Z, a-z, 0-9, '_', and '-'"))
}

/// A file the gateway may write.
pub(crate) fn file_name(node: &Node) -> Outcome {
    let name = text(node);
    if name.trim() != name || name.contains('\0') { Err("not a valid filename".to_owned()) } else { Ok(()) }
}

/// An entry of cors' `origins`: `*`, a plain origin or a regular expression.
pub(crate) fn origin(node: &Node) -> Outcome {
    let origin = text(node);
    if origin == "*" {
        return Ok(());
    }
    Pattern::check(origin).map_err(|why| format!("'{origin}' is not a valid regex ({why})"))
}

/// A regular expression.
pub(crate) fn regex(node: &Node) -> Outcome {
    let pattern = text(node);
    Pattern::check(pattern).map_err(|why| format!("not a valid regex: {pattern} ({why})"))
}

/// An address or a range of them.
pub(crate) fn ip_or_cidr(node: &Node) -> Outcome {
    let range = text(node);
    range.parse::<Network>().map(|_| ()).map_err(|_| format!("invalid ip or cidr range: '{range}'"))
}

/// A transformer's `name:value`; the value may be empty.
pub(crate) fn pair(node: &Node) -> Outcome {
    let item = text(node);
    if item.starts_with(':') || !item.contains(':') { Err(format!("invalid value: {item}")) } else { Ok(()) }
}

/// A transformer's item whose name is a header's.
pub(crate) fn transformed_header(node: &Node) -> Outcome {
    known_header(edit(text(node)).name)
}

/// A transformer's `old:new` of headers.
pub(crate) fn renamed_header(node: &Node) -> Outcome {
    let renamed = edit(text(node));
    known_header(renamed.name)?;
    known_header(renamed.value.trim())
}

fn known_header(name: &str) -> Outcome {
    header_name(&Node::Str(name.to_owned())).map_err(|_| format!("'{name}' is not a valid header"))
}

/// A transformer's item whose value is a template.
pub(crate) fn template(node: &Node) -> Outcome {
    Template::parse(edit(text(node)).value).map(|_| ())
}

/// A template as a whole.
pub(crate) fn whole_template(node: &Node) -> Outcome {
    Template::parse(text(node)).map(|_| ())
}
