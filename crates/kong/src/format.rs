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

/// Letters, digits, `.-_~` and anything beyond ASCII.
pub(crate) fn name(node: &Node) -> Outcome {
    let name = text(node);
    if name.chars().all(|c| !c.is_ascii() || c.is_ascii_alphanumeric() || ".-_~".contains(c)) {
        return Ok(());
    }
    Err(format!(
        "invalid value '{name}': the only accepted ascii characters are alphanumerics or ., -, _, and ~"
    ))
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

/// What Kong's reading of `host`, `host:port`, `1.2.3.4`, `[v6]:port` finds.
enum Host {
    Name,
    Address,
}

/// Whether a host name (or address) is one, and its port.
fn host_and_port(host: &str) -> Result<(Host, Option<u16>), String> {
    let port_of = |port: &str| port.parse::<u16>().map_err(|_| "invalid port number".to_owned());
    if host.starts_with('[') || host.matches(':').count() > 1 {
        let bad = || "invalid ipv6 address".to_owned();
        let (address, port) = match host.strip_prefix('[') {
            None => (host, None),
            Some(rest) => {
                let (address, rest) = rest.split_once(']').ok_or_else(bad)?;
                match rest.strip_prefix(':') {
                    Some(port) => (address, Some(port_of(port)?)),
                    None if rest.is_empty() => (address, None),
                    None => return Err(bad()),
                }
            }
        };
        return address.parse::<std::net::Ipv6Addr>().map(|_| (Host::Address, port)).map_err(|_| bad());
    }
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => {
            (name, Some(port))
        }
        _ => (host, None),
    };
    let port = port.map(port_of).transpose()?;
    if name.bytes().all(|b| b.is_ascii_digit() || b == b'.') && name.contains('.') {
        return match name.parse::<std::net::Ipv4Addr>() {
            Ok(_) => Ok((Host::Address, port)),
            Err(_) => Err(format!("invalid ipv4 address: {host}")),
        };
    }
    if is_host_name(name) { Ok((Host::Name, port)) } else { Err(format!("invalid hostname: {host}")) }
}

fn is_host_name(name: &str) -> bool {
    let labels = name.strip_suffix('.').unwrap_or(name);
    !labels.is_empty()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
        && labels.split('.').all(|label| !label.is_empty() && !label.ends_with('-'))
}

/// A service's host: a name or an address, no port.
pub(crate) fn host(node: &Node) -> Outcome {
    let host = text(node);
    match host_and_port(host) {
        Ok((_, None)) => Ok(()),
        Ok((_, Some(_))) => Err("must not have a port".to_owned()),
        Err(why) if why == "invalid port number" => Err("must not have a port".to_owned()),
        Err(_) => Err(format!("invalid value: {host}")),
    }
}

/// An upstream's `host_header`: a host, a port allowed.
pub(crate) fn host_with_port(node: &Node) -> Outcome {
    host_and_port(text(node)).map(|_| ())
}

/// A route's host: one `*` as leftmost or rightmost label, a port allowed.
pub(crate) fn route_host(node: &Node) -> Outcome {
    let host = text(node);
    if host.matches('*').count() > 1 {
        return Err("invalid wildcard: must have at most one wildcard".to_owned());
    }
    let bare = host.rsplit_once(':').map_or(host, |(name, _)| name);
    if host.contains('*') && !bare.starts_with("*.") && !bare.ends_with(".*") {
        return Err("invalid wildcard: must be placed at leftmost or rightmost label".to_owned());
    }
    host_and_port(&host.replace('*', "abc")).map(|_| ())
}

/// The server name of a TLS handshake, without wildcards.
pub(crate) fn sni(node: &Node) -> Outcome {
    no_address(text(node), text(node))
}

/// A certificate's server name: `*` leftmost or rightmost.
pub(crate) fn wildcard_host(node: &Node) -> Outcome {
    let host = text(node);
    if let Some(at) = host.find('*') {
        if at != 0 && at + 1 != host.len() {
            return Err("wildcard must be leftmost or rightmost character".to_owned());
        }
        if host.matches('*').count() > 1 {
            return Err("only one wildcard must be specified".to_owned());
        }
    }
    no_address(&host.replace('*', "wildcard"), host)
}

fn no_address(host: &str, shown: &str) -> Outcome {
    match host_and_port(host) {
        Ok((Host::Address, _)) => Err("must not be an IP".to_owned()),
        Ok((Host::Name, None)) => Ok(()),
        Ok((Host::Name, Some(_))) => Err("must not have a port".to_owned()),
        Err(why) if why == "invalid port number" => Err("must not have a port".to_owned()),
        Err(_) => Err(format!("invalid value: {shown}")),
    }
}

/// An upstream's name: a host name, not an address.
pub(crate) fn upstream_name(node: &Node) -> Outcome {
    let name = text(node);
    let complaint = match host_and_port(name) {
        Ok((Host::Address, _)) => "no ip addresses allowed",
        Ok((Host::Name, Some(_))) => "no port allowed",
        Ok((Host::Name, None)) => return Ok(()),
        Err(_) => "must be a valid hostname",
    };
    Err(format!("Invalid name ('{name}'); {complaint}"))
}

/// `host`, `host:port`, `[v6]:port`.
pub(crate) fn target(node: &Node) -> Outcome {
    let target = text(node);
    host_and_port(target)
        .map(|_| ())
        .map_err(|_| format!("Invalid target ('{target}'); not a valid hostname or ip address"))
}

/// Host as written (v6 in brackets) and port, 8000 when absent.
pub(crate) fn split_target(target: &str) -> Option<(String, u16)> {
    let (_, port) = host_and_port(target).ok()?;
    if let Ok(address) = target.parse::<std::net::Ipv6Addr>() {
        return Some((format!("[{address}]"), 8000));
    }
    let host = match (port, target.rsplit_once(':')) {
        (Some(_), Some((host, _))) => host,
        _ => target,
    };
    Some((host.to_owned(), port.unwrap_or(8000)))
}

/// Characters of RFC 3986 a path may hold, and whole percent escapes.
fn path_characters(path: &str) -> Outcome {
    let may_stand = |b: u8| b.is_ascii_alphanumeric() || b".-_~/%:@!$&'()*+,;=".contains(&b);
    if !path.bytes().all(may_stand) {
        return Err(format!(
            "invalid path: '{path}' (characters outside of the reserved list of RFC 3986 found)"
        ));
    }
    escapes(path)
}

fn escapes(path: &str) -> Outcome {
    for (at, _) in path.match_indices('%') {
        let escape = path.get(at + 1..at + 3);
        if !escape.is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit())) {
            let shown: String = path[at..].chars().take(3).collect();
            return Err(format!("invalid url-encoded value: '{shown}'"));
        }
    }
    Ok(())
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
    path_characters(path)
}

/// A route's path: a prefix in normal form, or `~` and a regular expression.
pub(crate) fn route_path(node: &Node) -> Outcome {
    let path = text(node);
    if !path.starts_with('/') && !path.starts_with("~/") {
        return Err("should start with: / (fixed path) or ~/ (regex path)".to_owned());
    }
    if path.contains("//") {
        return Err("must not have empty segments".to_owned());
    }
    if let Some(pattern) = path.strip_prefix('~') {
        return Pattern::check(pattern)
            .map_err(|why| format!("invalid regex: '{pattern}' (PCRE returned: {why})"));
    }
    escapes(path)?;
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
    if !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')) {
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

/// Printable ASCII without separators: RFC 6265's cookie names.
pub(crate) fn cookie_name(node: &Node) -> Outcome {
    let name = text(node);
    if name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)) {
        return Ok(());
    }
    Err(format!(
        "contains one or more invalid characters. ASCII control characters (0-31;127), space, tab and the characters ()<>@,;:\\\"/?={{}}[] are not allowed: '{name}'"
    ))
}

/// What an environment variable of a vault may begin with.
pub(crate) fn variable(node: &Node) -> Outcome {
    let name = text(node);
    let mut bytes = name.bytes();
    let first = bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_' || b == b'-');
    if first && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-') {
        return Ok(());
    }
    Err(format!("invalid value: {name}"))
}

/// The name a vault goes by in references; those of built-in vaults are taken.
pub(crate) fn vault_prefix(node: &Node) -> Outcome {
    let prefix = text(node);
    if prefix == "env" {
        return Err("must not be one of: env".to_owned());
    }
    let bytes = prefix.as_bytes();
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let fits = bytes.len() >= 2
        && bytes.first().is_some_and(u8::is_ascii_lowercase)
        && bytes.iter().all(|b| inner(*b))
        && bytes.last() != Some(&b'-');
    if fits { Ok(()) } else { Err(format!("invalid value: {prefix}")) }
}

/// Where oauth2 may send a browser back to.
pub(crate) fn redirect_uri(node: &Node) -> Outcome {
    let uri = text(node);
    if uri.contains('#') {
        return Err(format!("fragment not allowed in '{uri}'"));
    }
    let absolute = uri.split_once("://").is_some_and(|(scheme, rest)| !scheme.is_empty() && !rest.is_empty());
    if absolute { Ok(()) } else { Err(format!("cannot parse '{uri}'")) }
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
