//! Settings of the client, and Consul's own environment variables.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::Address;
use crate::{Error, Secret};

const DEFAULT_ADDRESS: &str = "127.0.0.1:8500";

#[derive(Debug, Clone)]
pub struct Settings {
    /// Default `127.0.0.1:8500`, plain HTTP.
    pub address: Address,
    pub token: Option<Secret>,
    /// Read again at least every 10 s and after a 403; wins over `token`.
    pub token_file: Option<PathBuf>,
    /// PEM; none: the system's trust store.
    pub ca_cert: Option<PathBuf>,
    pub client_cert: Option<PathBuf>,
    pub client_key: Option<PathBuf>,
    /// Enterprise only.
    pub namespace: Option<String>,
    /// Default datacenter of requests; none: the agent's own.
    pub datacenter: Option<String>,
    /// TCP and TLS handshake together. Default 2 s.
    pub connect_timeout: Duration,
    /// Deadline of a request that does not block; slack of one that does. Default 10 s.
    pub request_timeout: Duration,
    /// Blocking queries at a time in this process. Default 100 (Consul allows 200 connections per client address).
    pub max_blocking: usize,
    /// Largest answer, in bytes. Default 64 MiB.
    pub max_answer: usize,
}

impl Settings {
    pub fn new(address: Address) -> Self {
        Self {
            address,
            token: None,
            token_file: None,
            ca_cert: None,
            client_cert: None,
            client_key: None,
            namespace: None,
            datacenter: None,
            connect_timeout: Duration::from_secs(2),
            request_timeout: Duration::from_secs(10),
            max_blocking: 100,
            max_answer: 64 << 20,
        }
    }

    /// Plain HTTP to `address`, everything else default.
    pub fn http(address: SocketAddr) -> Self {
        Self::new(Address::Http(address.to_string()))
    }

    /// Reads `CONSUL_HTTP_ADDR` (`http://`, `https://`, `unix://` or bare `host:port`), `CONSUL_HTTP_TOKEN`, `CONSUL_HTTP_TOKEN_FILE`,
    /// `CONSUL_HTTP_SSL`, `CONSUL_CACERT`, `CONSUL_CLIENT_CERT`, `CONSUL_CLIENT_KEY`, `CONSUL_NAMESPACE`. Empty means absent.
    pub fn from_env(get: impl Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let get = |name: &str| get(name).filter(|value| !value.is_empty());
        let tls = match get("CONSUL_HTTP_SSL") {
            None => false,
            Some(text) => parse_bool(&text).ok_or_else(|| Error::Setting {
                name: "CONSUL_HTTP_SSL",
                message: format!("{text:?} is not a truth value"),
            })?,
        };
        let text = get("CONSUL_HTTP_ADDR").unwrap_or_else(|| DEFAULT_ADDRESS.to_owned());
        let address = parse_address(&text, tls)
            .map_err(|message| Error::Setting { name: "CONSUL_HTTP_ADDR", message })?;
        Ok(Self {
            token: get("CONSUL_HTTP_TOKEN").map(Secret::new),
            token_file: get("CONSUL_HTTP_TOKEN_FILE").map(PathBuf::from),
            ca_cert: get("CONSUL_CACERT").map(PathBuf::from),
            client_cert: get("CONSUL_CLIENT_CERT").map(PathBuf::from),
            client_key: get("CONSUL_CLIENT_KEY").map(PathBuf::from),
            namespace: get("CONSUL_NAMESPACE"),
            ..Self::new(address)
        })
    }
}

impl std::str::FromStr for Address {
    type Err = String;

    /// `http://host[:port]`, `https://host[:port]`, `unix:///path` or a bare `host[:port]`; the port defaults to 8500 (8501 with TLS).
    fn from_str(text: &str) -> Result<Self, String> {
        parse_address(text, false)
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Http(host) => write!(f, "http://{host}"),
            Self::Https(host) => write!(f, "https://{host}"),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

fn parse_address(text: &str, tls: bool) -> Result<Address, String> {
    if let Some(path) = text.strip_prefix("unix://") {
        if path.is_empty() {
            return Err("unix:// without a path".to_owned());
        }
        return Ok(Address::Unix(PathBuf::from(path)));
    }
    let (tls, rest) = match text.split_once("://") {
        Some(("http", rest)) => (tls, rest),
        Some(("https", rest)) => (true, rest),
        Some((scheme, _)) => return Err(format!("scheme {scheme:?} is none of http, https and unix")),
        None => (tls, text),
    };
    let rest = rest.trim_end_matches('/');
    if rest.contains('/') {
        return Err(format!("{text:?} has a path; only host and port are expected"));
    }
    let host_port = with_port(rest, if tls { 8501 } else { 8500 })?;
    Ok(if tls { Address::Https(host_port) } else { Address::Http(host_port) })
}

fn with_port(text: &str, default: u16) -> Result<String, String> {
    let authority: http::uri::Authority =
        text.parse().map_err(|_| format!("{text:?} is not a host and port"))?;
    if authority.host().is_empty() || authority.as_str().contains('@') {
        return Err(format!("{text:?} is not a host and port"));
    }
    match authority.port() {
        Some(port) if port.as_u16() == 0 => Err("port 0 cannot be connected to".to_owned()),
        Some(_) => Ok(text.to_owned()),
        None if text.ends_with(':') => Err(format!("{text:?} has no port after the colon")),
        None => Ok(format!("{text}:{default}")),
    }
}

fn parse_bool(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "t" | "true" => Some(true),
        "0" | "f" | "false" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{Address, Settings};

    fn address(pairs: &[(&str, &str)]) -> Result<Address, String> {
        let get = |name: &str| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        Settings::from_env(get).map(|settings| settings.address).map_err(|error| error.to_string())
    }

    #[test]
    fn reads_all_forms_of_the_address() {
        let http = |host: &str| Ok(Address::Http(host.to_owned()));
        let https = |host: &str| Ok(Address::Https(host.to_owned()));
        assert_eq!(address(&[]), http("127.0.0.1:8500"));
        assert_eq!(address(&[("CONSUL_HTTP_ADDR", "")]), http("127.0.0.1:8500"));
        assert_eq!(address(&[("CONSUL_HTTP_ADDR", "consul:8501")]), http("consul:8501"));
        assert_eq!(address(&[("CONSUL_HTTP_ADDR", "http://[::1]:8500/")]), http("[::1]:8500"));
        assert_eq!(address(&[("CONSUL_HTTP_ADDR", "https://consul")]), https("consul:8501"));
        assert_eq!(address(&[("CONSUL_HTTP_ADDR", "c:1"), ("CONSUL_HTTP_SSL", "true")]), https("c:1"));
        assert_eq!(
            address(&[("CONSUL_HTTP_ADDR", "unix:///run/c.sock")]),
            Ok(Address::Unix("/run/c.sock".into()))
        );
    }

    #[test]
    fn names_the_variable_that_is_wrong() {
        for (name, value) in [
            ("CONSUL_HTTP_ADDR", "ftp://x"),
            ("CONSUL_HTTP_ADDR", "unix://"),
            ("CONSUL_HTTP_ADDR", "http://host/path"),
            ("CONSUL_HTTP_ADDR", "a b"),
            ("CONSUL_HTTP_ADDR", "host:0"),
            ("CONSUL_HTTP_SSL", "maybe"),
        ] {
            let error = address(&[(name, value)]).unwrap_err();
            assert!(error.contains(name), "{value:?}: {error}");
        }
    }
}
