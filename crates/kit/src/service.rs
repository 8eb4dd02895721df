//! What is known about a service before any setting is read, and the settings that all services share.

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use plinth_core::consul;
use utoipa::openapi::OpenApi;

use crate::auth::AuthSettings;
use crate::lifecycle::{Advertise, ShutdownSettings, advertise_fault};
use crate::mtls::MtlsSettings;
use crate::server::{ServerSettings, TlsSettings};
use crate::settings::Reader;
use crate::telemetry::TelemetrySettings;

/// A service's name, version, default port and document.
#[derive(Debug, Clone, Copy)]
pub struct Service {
    /// Name of the binary, of the service in the catalog, and (shortened) of its environment variables.
    pub name: &'static str,
    pub version: &'static str,
    /// Default port of `listen`; none when the service has listeners of its own and no `listen` setting.
    pub port: Option<u16>,
    /// The OpenAPI document, printed by `--openapi`.
    pub document: Option<fn() -> OpenApi>,
    /// Threads of the runtime; none: one per processor.
    pub threads: Option<usize>,
    /// Default port of a `status_listen` that the service reads itself; see [`Service::own_status`].
    pub status_port: Option<u16>,
}

impl Service {
    /// A service without a `listen` setting; see [`Service::port`].
    pub const fn new(name: &'static str, version: &'static str) -> Service {
        Service { name, version, port: None, document: None, threads: None, status_port: None }
    }

    /// Adds the setting `listen` with the default `127.0.0.1:<port>`.
    #[must_use]
    pub const fn port(mut self, port: u16) -> Service {
        self.port = Some(port);
        self
    }

    /// The OpenAPI document for `--openapi`.
    #[must_use]
    pub const fn document(mut self, document: fn() -> OpenApi) -> Service {
        self.document = Some(document);
        self
    }

    /// The service reads `status_listen` itself; unless it is given, that is `127.0.0.1:<port>`.
    #[must_use]
    pub const fn own_status(mut self, port: u16) -> Service {
        self.status_port = Some(port);
        self
    }

    /// A fixed number of runtime threads, for services that have threads of their own.
    #[must_use]
    pub const fn threads(mut self, threads: usize) -> Service {
        self.threads = Some(threads);
        self
    }
}

/// Settings that every service has.
#[derive(Debug, Clone)]
pub struct ServiceSettings {
    /// Where the service listens; none when it has listeners of its own.
    pub listen: Option<SocketAddr>,
    /// Where health and metrics are served in plain HTTP, for who probes and scrapes.
    pub status_listen: StatusListen,
    pub advertise: Advertise,
    pub auth: AuthSettings,
    pub tls: Option<TlsSettings>,
    pub mtls: Option<MtlsSettings>,
    pub server: ServerSettings,
    pub telemetry: TelemetrySettings,
    pub consul: consul::Settings,
    pub shutdown: ShutdownSettings,
    pub registration: RegistrationSettings,
}

/// Address of a status listener, or `off`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StatusListen(pub Option<SocketAddr>);

impl FromStr for StatusListen {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<StatusListen, &'static str> {
        if text == "off" {
            return Ok(StatusListen(None));
        }
        let address =
            text.parse().map_err(|_| "expected an address and port, such as 0.0.0.0:8007, or off")?;
        Ok(StatusListen(Some(address)))
    }
}

impl Display for StatusListen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(address) => address.fmt(f),
            None => f.write_str("off"),
        }
    }
}

/// How the service registers itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistrationSettings {
    /// Whether it does. Default true.
    pub enabled: bool,
    /// Its id; none: `<name>-<host>-<port>`, stable over restarts.
    pub id: Option<String>,
    /// Tags in the catalog.
    pub tags: Vec<String>,
}

impl Default for RegistrationSettings {
    fn default() -> Self {
        RegistrationSettings { enabled: true, id: None, tags: Vec::new() }
    }
}

impl ServiceSettings {
    /// Reads what every service has.
    pub fn read(reader: &mut Reader, service: &Service) -> ServiceSettings {
        let listen = service.port.map(|port| {
            let default = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
            reader.get("listen", "address and port to listen on", default)
        });
        let status_listen = match service.port {
            Some(_) => reader.get(
                "status_listen",
                "status listener, plain HTTP with health and metrics only: address and port, or off",
                StatusListen::default(),
            ),
            None => StatusListen::default(),
        };
        let consul = read_consul(reader);
        let tls = service.port.and_then(|_| TlsSettings::read(reader));
        let settings = ServiceSettings {
            mtls: MtlsSettings::read(reader, tls.is_some()),
            listen,
            status_listen,
            advertise: read_advertise(reader, listen, &consul),
            auth: AuthSettings::read(reader),
            tls,
            server: ServerSettings::read(reader),
            telemetry: TelemetrySettings::read(reader, service.name, service.version),
            consul,
            shutdown: ShutdownSettings::read(reader),
            registration: RegistrationSettings {
                enabled: reader.get("register", "register this service in the catalog", true),
                id: reader.opt("service_id", "id in the catalog; by default <name>-<host>-<port>"),
                tags: reader.list("service_tags", "tags in the catalog", ""),
            },
        };
        if let Some((key, message)) = listen.and_then(|listen| settings.auth.exposure_fault(listen)) {
            reader.fault(key, message);
        }
        settings
    }
}

fn read_advertise(reader: &mut Reader, listen: Option<SocketAddr>, consul: &consul::Settings) -> Advertise {
    let given: Option<String> = reader.opt(
        "advertise",
        "host under which others reach this process, or auto: this machine's address on the way to Consul; by default \
         POD_IP or the listen address",
    );
    if given.as_deref() == Some("auto") {
        return Advertise::auto(&consul.address).unwrap_or_else(|fault| {
            reader.fault("advertise", fault);
            Advertise::listener()
        });
    }
    if let Some(fault) = given.as_deref().and_then(advertise_fault) {
        reader.fault("advertise", fault);
    }
    let advertise = Advertise::decide(given, reader.env("POD_IP"));
    if let Some(Err(error)) = listen.map(|listen| advertise.endpoint(listen)) {
        reader.fault("advertise", error.to_string());
    }
    advertise
}

fn read_consul(reader: &mut Reader) -> consul::Settings {
    for (key, env) in [
        ("consul.token", "CONSUL_HTTP_TOKEN"),
        ("consul.token_file", "CONSUL_HTTP_TOKEN_FILE"),
        ("consul.ca_cert", "CONSUL_CACERT"),
        ("consul.client_cert", "CONSUL_CLIENT_CERT"),
        ("consul.client_key", "CONSUL_CLIENT_KEY"),
        ("consul.namespace", "CONSUL_NAMESPACE"),
    ] {
        reader.alias_env(key, env);
    }
    // CONSUL_HTTP_ADDR and CONSUL_HTTP_SSL belong together, so core reads them; the setting wins over both.
    let from_env = consul::Settings::from_env(|name| match name {
        "CONSUL_HTTP_ADDR" | "CONSUL_HTTP_SSL" => reader.env(name).map(str::to_owned),
        _ => None,
    });
    let mut settings = match from_env {
        Ok(settings) => settings,
        Err(error) => {
            reader.fault("CONSUL_HTTP_ADDR", error.to_string());
            consul::Settings::http(SocketAddr::from((Ipv4Addr::LOCALHOST, 8500)))
        }
    };
    settings.address = reader.get(
        "consul.address",
        "Consul's HTTP API: http://host:port, https://host:port, unix:///path or host:port (also CONSUL_HTTP_ADDR)",
        settings.address.clone(),
    );
    settings.token = reader.secret("consul.token", "ACL token");
    settings.token_file =
        reader.opt::<PathBuf>("consul.token_file", "file with the ACL token, read again when it changes");
    settings.ca_cert = reader.opt("consul.ca_cert", "authorities in PEM that sign Consul's certificate");
    settings.client_cert = reader.opt("consul.client_cert", "client certificate in PEM");
    settings.client_key = reader.opt("consul.client_key", "private key of the client certificate");
    settings.namespace = reader.opt("consul.namespace", "namespace (Consul Enterprise)");
    settings.datacenter = reader.opt("consul.datacenter", "datacenter; by default the agent's own");
    let times = Duration::from_millis(10)..=Duration::from_secs(600);
    settings.connect_timeout = reader.duration_in(
        "consul.connect_timeout",
        "time to connect",
        settings.connect_timeout,
        times.clone(),
    );
    settings.request_timeout =
        reader.duration_in("consul.request_timeout", "time for an answer", settings.request_timeout, times);
    settings.max_blocking = reader.get_in(
        "consul.max_blocking",
        "blocking queries at a time; Consul allows 200 connections per client address",
        settings.max_blocking,
        1..=10_000,
    );
    settings
}
