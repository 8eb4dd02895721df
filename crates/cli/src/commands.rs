//! The command line as clap sees it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};

/// The base that microservices stand on: registry, configuration, health and gateway.
#[derive(Debug, Parser)]
#[command(name = "plinth", version, arg_required_else_help = true, propagate_version = true)]
pub struct Command {
    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Run the whole platform in this process, on embedded defaults
    Up(Up),
    /// Run only the embedded agent: Consul's HTTP API on one node
    Agent(Agent),
    /// Look at registered services and change them
    #[command(subcommand)]
    Services(Services),
    /// Read, write and follow configuration values
    #[command(subcommand)]
    Config(Config),
    /// Check a Kong file or ask a running gateway
    #[command(subcommand)]
    Gateway(Gateway),
    /// Health of the system or of one service
    Health(Health),
    /// Check a running installation and say what to do about what is wrong
    Doctor(Doctor),
    /// Ask one URL whether it answers 200, for container health checks
    Healthcheck {
        /// [default: the agent's own, on its default port]
        #[arg(default_value = "http://127.0.0.1:8500/v1/status/leader")]
        url: String,
    },
    /// Sign an access token with the key that `plinth up` made
    Token(Token),
    /// Print a completion script for a shell
    Completions {
        /// Shell to complete for
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Args)]
pub struct Up {
    /// Folder for everything durable: the agent's log, SQLite files, keys
    #[arg(long, default_value_os_t = default_data_dir(), env = "PLINTH_DATA_DIR")]
    pub data_dir: PathBuf,
    /// Kong file for the gateway; it is reloaded when it changes [default: a file with one route to the platform itself, or the demo's]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Start two user-service and two document-service instances and route to them
    #[arg(long)]
    pub demo: bool,
    /// Ports, each 0 for any free one
    #[command(flatten)]
    pub listen: Listen,
    /// Log level of the services on standard error: error, warn, info, debug, trace
    #[arg(long, default_value = "warn", value_parser = log_level)]
    pub log_level: String,
}

#[derive(Clone, Debug, Args)]
pub struct Listen {
    /// Embedded agent (not started when CONSUL_HTTP_ADDR names a Consul)
    #[arg(long, default_value = "127.0.0.1:8500", value_name = "ADDR")]
    pub agent_listen: SocketAddr,
    /// registry-service
    #[arg(long, default_value = "127.0.0.1:8510", value_name = "ADDR")]
    pub registry_listen: SocketAddr,
    /// config-service
    #[arg(long, default_value = "127.0.0.1:8520", value_name = "ADDR")]
    pub config_listen: SocketAddr,
    /// health-aggregator
    #[arg(long, default_value = "127.0.0.1:8530", value_name = "ADDR")]
    pub health_listen: SocketAddr,
    /// gateway: proxied traffic
    #[arg(long, default_value = "127.0.0.1:8000", value_name = "ADDR")]
    pub proxy_listen: SocketAddr,
    /// gateway: Admin API
    #[arg(long, default_value = "127.0.0.1:8001", value_name = "ADDR")]
    pub admin_listen: SocketAddr,
    /// gateway: status and metrics
    #[arg(long, default_value = "127.0.0.1:8007", value_name = "ADDR")]
    pub status_listen: SocketAddr,
}

#[derive(Debug, Args)]
pub struct Agent {
    /// Address to listen on; one that is not loopback needs a token
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST), value_name = "IP")]
    pub bind: IpAddr,
    /// Port of the HTTP API, 0 for any free one
    #[arg(long, default_value_t = 8500, value_name = "PORT")]
    pub http_port: u16,
    /// Folder for the durable log
    #[arg(long, conflicts_with = "in_memory", required_unless_present = "in_memory", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Keep everything in memory; it is gone when the agent ends
    #[arg(long)]
    pub in_memory: bool,
    /// Name of the agent's own node in the catalog
    #[arg(long, default_value = "plinth", value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub node_name: String,
    /// Id of that node [default: the one in the data folder, else a new one]
    #[arg(long, value_name = "UUID")]
    pub node_id: Option<uuid::Uuid>,
    /// Metadata of that node, any number of times
    #[arg(long, value_name = "KEY:VALUE", value_parser = node_meta)]
    pub node_meta: Vec<(String, String)>,
    /// Bytes of log after which a snapshot takes its place
    #[arg(long, default_value_t = 64 << 20, value_name = "BYTES")]
    pub compact_after: u64,
    /// Datacenter name that the agent reports
    #[arg(long, default_value = "dc1")]
    pub datacenter: String,
    /// File with the token that every request must carry, in X-Consul-Token, as a bearer token or in ?token=
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Turn the service mesh on: certificate authority, leaf certificates, as Consul's connect { enabled = true }
    #[arg(long)]
    pub connect: bool,
    /// What a new mesh's trust domain is called after, as Consul's ca_config { cluster_id } [default: a new id]
    #[arg(long, value_name = "UUID", requires = "connect")]
    pub connect_cluster_id: Option<uuid::Uuid>,
    /// Most connections of one client address, as Consul's http_max_conns_per_client (200 there) [default: no limit]
    #[arg(long, value_name = "COUNT")]
    pub max_connections_per_address: Option<usize>,
    /// Largest request body in bytes; values of keys have Consul's limit of 524288
    #[arg(long, default_value_t = 8 << 20, value_name = "BYTES")]
    pub max_body: usize,
    /// Seconds that the head of a request may take from its first byte on; idle connections have no limit
    #[arg(long, default_value_t = 30, value_name = "SECONDS")]
    pub head_timeout: u64,
    /// Seconds that running requests get when the agent stops
    #[arg(long, default_value_t = 5, value_name = "SECONDS")]
    pub shutdown_timeout: u64,
    /// Log level on standard error
    #[arg(long, default_value = "info", value_parser = log_level)]
    pub log_level: String,
}

#[derive(Debug, Args)]
pub struct Doctor {
    /// Consul's HTTP API, where the installation is registered; its other settings are Consul's own variables
    #[arg(long, env = "CONSUL_HTTP_ADDR", default_value = "http://127.0.0.1:8500", value_name = "URL")]
    pub consul_address: String,
    /// Longest wait for one answer, in seconds
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=60), value_name = "SECONDS")]
    pub timeout: u64,
    /// Certificates that end sooner are a warning
    #[arg(long, default_value_t = 14, value_name = "DAYS")]
    pub certificate_days: u32,
    /// How to print
    #[arg(long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
}

/// How to reach a service and how to print what it says.
#[derive(Clone, Debug, Args)]
pub struct Access {
    /// Bearer token [default: the one in the data folder, if there is one]
    #[arg(long, env = "PLINTH_TOKEN", hide_env_values = true, global = true)]
    pub token: Option<String>,
    /// Data folder of `plinth up`, where its token is
    #[arg(long, default_value_os_t = default_data_dir(), env = "PLINTH_DATA_DIR", global = true)]
    pub data_dir: PathBuf,
    /// How to print
    #[arg(long, value_enum, default_value_t = Output::Table, global = true)]
    pub output: Output,
    #[command(flatten)]
    pub tls: ClientTls,
}

/// Towards services with mutual TLS.
#[derive(Clone, Debug, Default, Args)]
pub struct ClientTls {
    /// Authorities in PEM that sign the services' certificates, for https:// [default: the system's]
    #[arg(long, env = "PLINTH_CA_CERT", value_name = "FILE", global = true)]
    pub ca_cert: Option<PathBuf>,
    /// Certificate to show to a service, PEM
    #[arg(long, env = "PLINTH_CLIENT_CERT", value_name = "FILE", global = true)]
    pub client_cert: Option<PathBuf>,
    /// Private key of that certificate, PEM
    #[arg(long, env = "PLINTH_CLIENT_KEY", value_name = "FILE", global = true)]
    pub client_key: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Columns for people
    Table,
    /// What the service answered
    Json,
}

#[derive(Clone, Debug, Args)]
pub struct RegistryUrl {
    /// registry-service
    #[arg(long, env = "PLINTH_REGISTRY_URL", default_value = "http://127.0.0.1:8510", global = true)]
    pub registry_url: String,
    #[command(flatten)]
    pub access: Access,
}

#[derive(Debug, Subcommand)]
pub enum Services {
    /// All instances
    List {
        #[command(flatten)]
        at: RegistryUrl,
    },
    /// One instance by its id
    Get {
        service_id: String,
        #[command(flatten)]
        at: RegistryUrl,
    },
    /// Instances of a service as its callers see them
    Discover {
        service_name: String,
        /// Only instances that pass their checks
        #[arg(long)]
        healthy_only: bool,
        /// Only instances with this tag; repeat for several
        #[arg(long = "tag", value_name = "TAG")]
        tags: Vec<String>,
        #[command(flatten)]
        at: RegistryUrl,
    },
    /// Register an instance
    Register(Register),
    /// Take an instance out
    Deregister {
        service_id: String,
        #[command(flatten)]
        at: RegistryUrl,
    },
}

#[derive(Debug, Args)]
pub struct Register {
    pub service_name: String,
    /// IP address or host name
    #[arg(long)]
    pub address: String,
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    pub port: u16,
    /// [default: made by the registry]
    #[arg(long)]
    pub service_id: Option<String>,
    #[arg(long = "tag", value_name = "TAG")]
    pub tags: Vec<String>,
    /// Path that the health check asks for
    #[arg(long, value_name = "PATH")]
    pub health_check: Option<String>,
    /// JSON object
    #[arg(long, value_name = "JSON")]
    pub metadata: Option<String>,
    #[command(flatten)]
    pub at: RegistryUrl,
}

#[derive(Clone, Debug, Args)]
pub struct ConfigUrl {
    /// config-service
    #[arg(long, env = "PLINTH_CONFIG_URL", default_value = "http://127.0.0.1:8520", global = true)]
    pub config_url: String,
    #[command(flatten)]
    pub access: Access,
}

/// A configuration item: namespace, environment and key in one word.
#[derive(Clone, Debug, Args)]
pub struct Item {
    /// NAMESPACE/ENVIRONMENT/KEY, e.g. shop/prod/database/pool
    #[arg(value_name = "NAMESPACE/ENVIRONMENT/KEY")]
    pub item: String,
}

#[derive(Debug, Subcommand)]
pub enum Config {
    /// Namespaces, or the items of one
    List {
        /// NAMESPACE/ENVIRONMENT
        #[arg(value_name = "NAMESPACE/ENVIRONMENT")]
        namespace: Option<String>,
        /// Only keys that begin so
        #[arg(long, default_value = "")]
        prefix: String,
        #[command(flatten)]
        at: ConfigUrl,
    },
    /// One value
    Get {
        #[command(flatten)]
        item: Item,
        #[command(flatten)]
        at: ConfigUrl,
    },
    /// Write a value: JSON, or text that is taken as a JSON string
    Set {
        #[command(flatten)]
        item: Item,
        value: String,
        #[arg(long)]
        description: Option<String>,
        /// Only if the item's revision is still this one (0: only if there is none)
        #[arg(long, value_name = "REVISION")]
        revision: Option<u64>,
        #[command(flatten)]
        at: ConfigUrl,
    },
    /// Delete a value; its history stays
    Delete {
        #[command(flatten)]
        item: Item,
        #[command(flatten)]
        at: ConfigUrl,
    },
    /// Revisions of a value, newest first
    History {
        #[command(flatten)]
        item: Item,
        #[command(flatten)]
        at: ConfigUrl,
    },
    /// Print a value now and at each change, one JSON object a line, until interrupted
    Watch {
        #[command(flatten)]
        item: Item,
        #[command(flatten)]
        at: ConfigUrl,
    },
}

#[derive(Debug, Subcommand)]
pub enum Gateway {
    /// Say of each field of a Kong file whether it is supported, ignored or different; exit code 1 if it would be refused
    Check {
        file: PathBuf,
        #[arg(long, value_enum, default_value_t = Output::Table)]
        output: Output,
        /// Print the supported fields too
        #[arg(long)]
        all: bool,
    },
    /// Say what changes from one Kong file to another, or from the running gateway to a file; exit code 1 if anything does
    Diff {
        /// The old file; with no second one it is compared with the running gateway
        file: PathBuf,
        /// The new file
        new: Option<PathBuf>,
        #[arg(long, env = "PLINTH_GATEWAY_ADMIN_URL", default_value = "http://127.0.0.1:8001")]
        admin_url: String,
        #[command(flatten)]
        access: Access,
    },
    /// Say what the running gateway would do with a request, and why
    Explain {
        /// Path, perhaps with a query
        path: String,
        #[arg(long, default_value = "GET")]
        method: String,
        /// Host header
        #[arg(long)]
        host: Option<String>,
        /// `name:value`; repeat for several
        #[arg(long = "header", value_name = "NAME:VALUE")]
        headers: Vec<String>,
        /// Server name of the TLS handshake
        #[arg(long)]
        sni: Option<String>,
        #[arg(long, env = "PLINTH_GATEWAY_ADMIN_URL", default_value = "http://127.0.0.1:8001")]
        admin_url: String,
        #[command(flatten)]
        access: Access,
    },
    /// What the running gateway serves
    Status {
        #[arg(long, env = "PLINTH_GATEWAY_ADMIN_URL", default_value = "http://127.0.0.1:8001")]
        admin_url: String,
        #[command(flatten)]
        access: Access,
    },
}

#[derive(Debug, Args)]
pub struct Health {
    /// Only this service
    pub service_name: Option<String>,
    /// health-aggregator
    #[arg(long, env = "PLINTH_HEALTH_URL", default_value = "http://127.0.0.1:8530")]
    pub health_url: String,
    #[command(flatten)]
    pub access: Access,
}

#[derive(Debug, Args)]
pub struct Token {
    /// What the token allows, e.g. services:read, config:write:shop/prod; repeat for several
    #[arg(long = "scope", required_unless_present = "public", value_name = "SCOPE")]
    pub scopes: Vec<String>,
    /// How long it is valid, e.g. 15m, 12h
    #[arg(long, default_value = "1h")]
    pub ttl: String,
    /// Who it is for
    #[arg(long, default_value = "operator")]
    pub subject: String,
    /// Data folder of `plinth up`, where its key is
    #[arg(long, default_value_os_t = default_data_dir(), env = "PLINTH_DATA_DIR")]
    pub data_dir: PathBuf,
    /// Ed25519 private key (PKCS#8, PEM) in place of the one in the data folder
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// File for the token, mode 0640, in place of standard output
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// The public key (PEM) in place of a token: what services verify with, by auth.key_file
    #[arg(long, conflicts_with = "scopes")]
    pub public: bool,
}

/// A level, or several `part=level` with commas. The filter behind it takes any other word for the name of a part and
/// then logs nothing at all.
fn log_level(text: &str) -> Result<String, String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let level = |part: &str| part.rsplit_once('=').map_or(part, |(_, level)| level).trim().to_lowercase();
    if text.split(',').all(|part| LEVELS.contains(&level(part).as_str())) {
        Ok(text.to_owned())
    } else {
        Err(format!("expected one of {}, or part=level with commas between", LEVELS.join(", ")))
    }
}

fn node_meta(text: &str) -> Result<(String, String), String> {
    match text.split_once(':') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("expected KEY:VALUE".to_owned()),
    }
}

/// `$XDG_DATA_HOME/plinth`, else `~/.local/share/plinth`, else `./plinth-data`.
fn default_data_dir() -> PathBuf {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("XDG_DATA_HOME")
        .map(|data| data.join("plinth"))
        .or_else(|| set("HOME").map(|home| home.join(".local/share/plinth")))
        .unwrap_or_else(|| PathBuf::from("plinth-data"))
}
