//! Settings of the gateway. Kong's environment variables mean the same; a flag wins over a variable.

use std::path::PathBuf;
use std::time::Duration;

use http::HeaderName;
use plinth_core::consul::Address;
use plinth_kit::settings::Reader;

use crate::certificates::ClientAuth;
use crate::client::{PoolSettings, ReadAheadSettings};
use crate::listen::{Listen, Listens};
use crate::plugins::{self, TracingSettings};
use crate::store::StoreSettings;
use crate::trusted::{Network, Trust};
use crate::upstream::dns::{DnsSettings, Order, Server};
use crate::upstream::resolve::ResolveSettings;
use crate::worker::DataPlane;

/// Where the configuration comes from.
#[derive(Clone, Debug)]
pub enum ConfigSource {
    /// Nothing until somebody posts one to the Admin API.
    None,
    /// A file, watched.
    File(PathBuf),
    /// The text itself (`KONG_DECLARATIVE_CONFIG_STRING`).
    Text(String),
    /// config-service, watched and written.
    Store(Box<StoreSettings>),
}

/// Settings of the gateway.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The declarative configuration.
    pub config: ConfigSource,
    /// How often the file is looked at.
    pub config_poll: Duration,
    /// Proxy listeners, plain and TLS.
    pub proxy: Vec<Listen>,
    /// Admin API; none for `off`.
    pub admin: Option<Listen>,
    /// Status API; none for `off`.
    pub status: Option<Listen>,
    /// Certificate chain of TLS proxy listeners, for names no certificate of the configuration covers.
    pub tls_cert: Option<PathBuf>,
    /// Its key.
    pub tls_key: Option<PathBuf>,
    /// Certificates of clients of TLS proxy listeners.
    pub client_auth: Option<ClientAuth>,
    /// Worker threads.
    pub workers: usize,
    /// Most bytes of a configuration posted to the Admin API.
    pub config_limit: usize,
    /// A new process gets ready within this time, or the hand-over has failed.
    pub handover_timeout: Duration,
    /// DNS and first wait.
    pub resolve: ResolveSettings,
    /// Limits of the data plane.
    pub data_plane: DataPlane,
    /// What plugins follow.
    pub plugins: plugins::Options,
}

impl Settings {
    /// Reads them.
    pub fn read(reader: &mut Reader) -> Self {
        let config = read_source(reader);
        let (proxy, tls_cert, tls_key) = read_proxy(reader);
        reader.alias_env("admin_listen", "KONG_ADMIN_LISTEN");
        reader.alias_env("status_listen", "KONG_STATUS_LISTEN");
        let admin =
            read_single(reader, "admin_listen", "Admin API: address and port, or off", "127.0.0.1:8001");
        let status = read_single(
            reader,
            "status_listen",
            "Status API (/status/ready, /metrics): address and port, or off",
            "127.0.0.1:8007",
        );
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            config,
            config_poll: reader.duration(
                "config_poll",
                "how often the file is looked at",
                Duration::from_secs(1),
            ),
            proxy,
            admin,
            status,
            tls_cert,
            tls_key,
            client_auth: read_client_auth(reader),
            workers: reader.get_in(
                "workers",
                "worker threads; by default one for each processor",
                cores,
                1..=512,
            ),
            config_limit: usize::try_from(reader.bytes(
                "config_limit",
                "largest configuration the Admin API takes",
                64 * 1024 * 1024,
            ))
            .unwrap_or(usize::MAX),
            handover_timeout: reader.duration(
                "handover_timeout",
                "time for the process started on SIGUSR2 to get ready; else this one goes on",
                Duration::from_secs(60),
            ),
            resolve: read_resolve(reader),
            data_plane: read_data_plane(reader),
            plugins: read_plugins(reader),
        }
    }
}

fn read_source(reader: &mut Reader) -> ConfigSource {
    reader.alias_env("config", "KONG_DECLARATIVE_CONFIG");
    if let Some(database) = reader.env("KONG_DATABASE").map(str::to_owned)
        && database != "off"
    {
        reader.fault(
            "KONG_DATABASE",
            format!(
                "{database:?} is not supported: this gateway reads declarative configuration; set it to off"
            ),
        );
    }
    let file: Option<PathBuf> =
        reader.opt("config", "Kong declarative configuration (YAML, or JSON by its name)");
    let text =
        reader.env("KONG_DECLARATIVE_CONFIG_STRING").filter(|text| !text.is_empty()).map(str::to_owned);
    let store = read_store(reader);
    if store.is_some() && (file.is_some() || text.is_some()) {
        reader.fault(
            "config_service.url",
            "cannot be combined with a configuration file or text: one of them has to be the truth",
        );
    }
    match (store, file, text) {
        (Some(store), ..) => ConfigSource::Store(Box::new(store)),
        (None, Some(file), _) => ConfigSource::File(file),
        (None, None, Some(text)) => ConfigSource::Text(text),
        (None, None, None) => ConfigSource::None,
    }
}

/// The configuration in config-service, so that several gateways have the same.
fn read_store(reader: &mut Reader) -> Option<StoreSettings> {
    let address: Option<Address> = reader.opt(
        "config_service.url",
        "config-service that holds the configuration, for several gateways with the same one: http://host:8520",
    );
    let namespace = reader.get("config_service.namespace", "namespace of its key there", "plinth".to_owned());
    let environment =
        reader.get("config_service.environment", "environment of its key there", "default".to_owned());
    let key = reader.get("config_service.key", "the key; its chunks are below it", "gateway/kong".to_owned());
    let token = reader.secret(
        "config_service.token",
        "bearer token with config:read and, for POST /config, config:write on the namespace",
    );
    let ca_cert = reader.opt("config_service.ca_cert", "authorities of its certificate, PEM");
    let last_good = reader.opt(
        "config_service.last_good",
        "file for a copy of the configuration applied last, to start from when config-service is away",
    );
    address.map(|address| StoreSettings { address, namespace, environment, key, token, ca_cert, last_good })
}

fn read_proxy(reader: &mut Reader) -> (Vec<Listen>, Option<PathBuf>, Option<PathBuf>) {
    reader.alias_env("proxy_listen", "KONG_PROXY_LISTEN");
    reader.alias_env("proxy_tls_cert", "KONG_SSL_CERT");
    reader.alias_env("proxy_tls_key", "KONG_SSL_CERT_KEY");
    let plain: Listens = reader.get(
        "proxy_listen",
        "proxy listeners as Kong writes them: `0.0.0.0:8000 reuseport, 0.0.0.0:8443 ssl http2`, or off",
        Listens(vec![loopback(8000)]),
    );
    let tls: Listens =
        reader.get("proxy_tls_listen", "proxy listeners with TLS and HTTP/2, or off", Listens::default());
    let cert: Option<PathBuf> = reader
        .opt("proxy_tls_cert", "certificate chain of TLS proxy listeners, PEM, read again when it changes");
    let key: Option<PathBuf> = reader.opt("proxy_tls_key", "private key of the certificate, PEM");
    let mut all = plain.0;
    all.extend(tls.0.into_iter().map(|listen| Listen { ssl: true, http2: true, ..listen }));
    if all.iter().any(|listen| listen.ssl) {
        for (setting, file) in [("proxy_tls_cert", &cert), ("proxy_tls_key", &key)] {
            if file.is_none() {
                reader.fault(setting, "is missing: a proxy listener has TLS, and no certificate is made up");
            }
        }
    }
    (all, cert, key)
}

/// nginx's directives, which Kong hands on as variables, mean the same.
fn read_client_auth(reader: &mut Reader) -> Option<ClientAuth> {
    reader.alias_env("proxy_tls_client_ca", "KONG_NGINX_PROXY_SSL_CLIENT_CERTIFICATE");
    reader.alias_env("proxy_tls_verify_client", "KONG_NGINX_PROXY_SSL_VERIFY_CLIENT");
    let authorities: Option<PathBuf> =
        reader.opt("proxy_tls_client_ca", "authorities of clients' certificates on TLS proxy listeners, PEM");
    let verify = reader.get(
        "proxy_tls_verify_client",
        "clients' certificates on TLS proxy listeners: off, optional (verified when shown), on (required)",
        "off".to_owned(),
    );
    let required = match verify.as_str() {
        "off" => return None,
        "optional" => false,
        "on" => true,
        other => {
            reader.fault("proxy_tls_verify_client", format!("{other:?} is none of off, optional, on"));
            return None;
        }
    };
    if authorities.is_none() {
        reader.fault("proxy_tls_client_ca", "is missing: clients' certificates are to be verified by it");
    }
    authorities.map(|authorities| ClientAuth { authorities, required })
}

fn loopback(port: u16) -> Listen {
    Listen {
        address: std::net::SocketAddr::from(([127, 0, 0, 1], port)),
        ssl: false,
        http2: false,
        reuseport: false,
        proxy_protocol: false,
        backlog: 4096,
    }
}

/// One plain listener; Kong's list may have a TLS one for the Admin API, which is refused rather than ignored.
fn read_single(reader: &mut Reader, key: &'static str, doc: &'static str, default: &str) -> Option<Listen> {
    let default: Listens = default.parse().unwrap_or_default();
    let Listens(mut all) = reader.get(key, doc, default);
    if all.len() > 1 || all.iter().any(|listen| listen.ssl) {
        reader.fault(key, "takes one address without ssl");
    }
    all.pop()
}

fn read_resolve(reader: &mut Reader) -> ResolveSettings {
    let defaults = ResolveSettings::default();
    reader.alias_env("dns.resolver", "KONG_DNS_RESOLVER");
    reader.alias_env("dns.order", "KONG_DNS_ORDER");
    let servers: Vec<Server> = reader.list(
        "dns.resolver",
        "DNS servers in place of the system's: addresses, perhaps with ports",
        "",
    );
    ResolveSettings {
        dns: DnsSettings {
            servers: servers.into_iter().map(|server| server.0).collect(),
            order: reader.get(
                "dns.order",
                "kinds of DNS records asked for; the first that a name has counts",
                Order::default(),
            ),
        },
        dns_refresh: reader.duration("dns.refresh", "a DNS name is asked again after", defaults.dns_refresh),
        dns_timeout: reader.duration("dns.timeout", "limit of one DNS question", defaults.dns_timeout),
        first_wait: reader.duration(
            "first_wait",
            "longest wait for first addresses when a configuration is applied",
            defaults.first_wait,
        ),
    }
}

fn read_data_plane(reader: &mut Reader) -> DataPlane {
    let defaults = DataPlane::default();
    reader.alias_env("upstream.pool_size", "KONG_UPSTREAM_KEEPALIVE_POOL_SIZE");
    reader.alias_env("upstream.max_requests", "KONG_UPSTREAM_KEEPALIVE_MAX_REQUESTS");
    let idle = reader
        .env("KONG_UPSTREAM_KEEPALIVE_IDLE_TIMEOUT")
        .and_then(|seconds| seconds.parse().ok())
        .map_or(defaults.pool.idle_timeout, Duration::from_secs);
    let bytes = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
    DataPlane {
        pool: PoolSettings {
            size: reader.get(
                "upstream.pool_size",
                "idle connections kept for each endpoint, per worker",
                defaults.pool.size,
            ),
            idle_timeout: reader.duration(
                "upstream.idle_timeout",
                "an idle connection is closed after",
                idle,
            ),
            max_requests: reader.get(
                "upstream.max_requests",
                "requests over one upstream connection",
                defaults.pool.max_requests,
            ),
        },
        read_ahead: ReadAheadSettings {
            response: bytes(reader.bytes(
                "upstream.read_ahead",
                "read of an answer ahead of a slow client (routes with response_buffering), so that the upstream is done with it; 0 for none",
                defaults.read_ahead.response as u64,
            )),
            worker: bytes(reader.bytes(
                "upstream.read_ahead_total",
                "read ahead for all answers of a worker together",
                defaults.read_ahead.worker as u64,
            )),
        },
        response_head_bytes: bytes(reader.bytes(
            "upstream.head_limit",
            "largest head of an upstream's response",
            defaults.response_head_bytes as u64,
        )),
        request_head_bytes: bytes(reader.bytes(
            "client.head_limit",
            "largest head of a client's request, at least 8 KiB",
            defaults.request_head_bytes as u64,
        )),
        header_timeout: reader.duration(
            "client.header_timeout",
            "time for a client's request head, idle keep-alive time included",
            defaults.header_timeout,
        ),
        client_body_timeout: reader.duration(
            "client.body_timeout",
            "time between two pieces of a client's body",
            defaults.client_body_timeout,
        ),
        handshake_timeout: reader.duration(
            "client.handshake_timeout",
            "time for a client's TLS handshake",
            defaults.handshake_timeout,
        ),
        replay_bytes: bytes(reader.bytes(
            "upstream.replay_limit",
            "largest request body read before the upstream is asked (routes with request_buffering) and remembered for another try",
            defaults.replay_bytes as u64,
        )),
        plugin_body_bytes: bytes(reader.bytes(
            "plugin_body_limit",
            "largest body held in memory for plugins that look into it",
            defaults.plugin_body_bytes as u64,
        )),
        h2_streams: reader.get_in(
            "client.h2_streams",
            "HTTP/2 streams of a connection",
            defaults.h2_streams,
            1..=10_000,
        ),
        h2_max_age: reader.duration(
            "client.h2_max_age",
            "HTTP/2 connections are renewed after",
            defaults.h2_max_age,
        ),
        h2_max_requests: reader.get_in(
            "client.h2_max_requests",
            "HTTP/2 connections are renewed after about as many requests",
            defaults.h2_max_requests,
            1..=u64::MAX,
        ),
        body_limit: read_body_limit(reader, defaults.body_limit),
        trust: read_trust(reader),
    }
}

fn read_plugins(reader: &mut Reader) -> plugins::Options {
    reader.alias_env("access_log", "KONG_PROXY_ACCESS_LOG");
    let defaults = plugins::Options::default();
    let access_log = reader.get(
        "access_log",
        "file of the access log (/dev/stdout: standard output), opened anew on SIGUSR1; or off",
        "off".to_owned(),
    );
    // Kong allows the name of a log format after the path.
    let path = access_log.split_whitespace().next().unwrap_or("off");
    plugins::Options {
        access_log: (path != "off").then(|| PathBuf::from(path)),
        syslog_socket: reader
            .get(
                "syslog_socket",
                "socket of the local syslog daemon",
                defaults.syslog_socket.display().to_string(),
            )
            .into(),
        tracing: read_tracing(reader),
        redis_deadline: reader.duration(
            "redis_deadline",
            "what a request waits for Redis at most in limits and caches; redis.timeout can shorten it",
            defaults.redis_deadline,
        ),
        ..defaults
    }
}

/// What Kong has spans for besides the two this gateway makes; asked for, they are left out.
const OTHER_SPANS: [&str; 8] = [
    "db_query",
    "dns_query",
    "router",
    "http_client",
    "plugin_rewrite",
    "plugin_access",
    "plugin_header_filter",
    "off",
];

fn read_tracing(reader: &mut Reader) -> TracingSettings {
    reader.alias_env("tracing.instrumentations", "KONG_TRACING_INSTRUMENTATIONS");
    reader.alias_env("tracing.sampling_rate", "KONG_TRACING_SAMPLING_RATE");
    let wanted: Vec<String> = reader.list(
        "tracing.instrumentations",
        "what the opentelemetry plugin makes spans of: off, all, or some of request and balancer",
        "off",
    );
    let wants = |name: &str| wanted.iter().any(|wanted| wanted == name || wanted == "all");
    let known = |name: &&String| {
        matches!(name.as_str(), "request" | "balancer" | "all") || OTHER_SPANS.contains(&name.as_str())
    };
    if let Some(unknown) = wanted.iter().find(|name| !known(name)) {
        reader.fault(
            "tracing.instrumentations",
            format!("{unknown:?} is not one of off, all, request, balancer, {}", OTHER_SPANS.join(", ")),
        );
    }
    let defaults = TracingSettings::default();
    TracingSettings {
        request: wants("request"),
        balancer: wants("balancer"),
        sampling_rate: reader.get_in(
            "tracing.sampling_rate",
            "share of traces begun here that the opentelemetry plugin sends",
            defaults.sampling_rate,
            0.0..=1.0,
        ),
    }
}

/// nginx writes sizes as `10m`; Kong hands its directive on as a variable.
fn read_body_limit(reader: &mut Reader, default: u64) -> u64 {
    const VARIABLE: &str = "KONG_NGINX_HTTP_CLIENT_MAX_BODY_SIZE";
    let of_kong =
        reader.env(VARIABLE).map(|text| text.trim().to_ascii_lowercase()).filter(|text| !text.is_empty());
    let default = match of_kong {
        None => default,
        Some(text) => {
            let (digits, unit) = text.split_at(text.trim_end_matches(['k', 'm', 'g']).len());
            let unit = match unit {
                "" => Some(1),
                "k" => Some(1 << 10),
                "m" => Some(1 << 20),
                "g" => Some(1 << 30),
                _ => None,
            };
            let size =
                digits.parse::<u64>().ok().zip(unit).and_then(|(number, unit)| number.checked_mul(unit));
            size.unwrap_or_else(|| {
                reader.fault(VARIABLE, format!("{text:?} is not a size as nginx writes it: 0, 512k, 10m"));
                default
            })
        }
    };
    reader.bytes("client.body_limit", "largest request body, 0 for no limit; more is answered 413", default)
}

fn read_trust(reader: &mut Reader) -> Trust {
    reader.alias_env("trusted_ips", "KONG_TRUSTED_IPS");
    reader.alias_env("real_ip_header", "KONG_REAL_IP_HEADER");
    let networks: Vec<Network> =
        reader.list("trusted_ips", "peers whose X-Forwarded headers are believed: addresses and ranges", "");
    let name = reader.get("real_ip_header", "header with the client's address", "X-Real-IP".to_owned());
    let header = match HeaderName::from_bytes(name.as_bytes()) {
        Ok(header) => header,
        Err(_) => {
            reader.fault("real_ip_header", format!("{name:?} is not a header name"));
            HeaderName::from_static("x-real-ip")
        }
    };
    let recursive = reader.env("KONG_REAL_IP_RECURSIVE").is_some_and(|value| value == "on");
    Trust {
        networks,
        proxy_protocol: name == "proxy_protocol",
        header,
        recursive: reader.get("real_ip_recursive", "walk the list to the first untrusted address", recursive),
    }
}
