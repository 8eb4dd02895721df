//! What can go wrong in the gateway outside of single requests.

use std::path::PathBuf;

/// Every fault of starting the gateway or applying a configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting is missing or bad.
    #[error("bad settings")]
    Settings(#[from] plinth_kit::settings::Faults),
    /// The service's frame could not be set up.
    #[error("cannot set up the service")]
    Context(#[from] plinth_kit::ContextError),
    /// The service could not be started.
    #[error("cannot start the service")]
    App(#[from] plinth_kit::AppError),
    /// The admin or status listener could not be bound.
    #[error("cannot listen")]
    Server(#[from] plinth_kit::server::ServerError),
    /// A proxy listener could not be bound.
    #[error("cannot listen on {address}")]
    Bind {
        /// Where.
        address: std::net::SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// Listeners of the process before, or of systemd.
    #[error(transparent)]
    Handover(#[from] crate::handover::HandoverError),
    /// A thread could not be started.
    #[error("cannot start a thread")]
    Worker(#[source] std::io::Error),
    /// Reading or compiling a configuration ended in a panic; the running one stays.
    #[error("the configuration could not be taken in: an internal fault, see the log")]
    Loader,
    /// Metrics are registered twice.
    #[error("cannot register metrics")]
    Metrics(#[from] prometheus::Error),
    /// The TLS certificate or key of the proxy cannot be used.
    #[error("cannot use {path} for TLS")]
    TlsFile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// rustls refuses certificate or key.
    #[error("cannot set up TLS")]
    Tls(#[from] rustls::Error),
    /// The configuration file cannot be read.
    #[error("cannot read {path}")]
    ReadConfig {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The configuration is not valid.
    #[error("error parsing declarative config file {origin}:\n{faults}")]
    Config {
        /// File name or the like.
        origin: String,
        /// All of them.
        faults: plinth_kong::Faults,
    },
    /// The router cannot be built.
    #[error("the routes cannot be compiled")]
    Router(#[from] crate::router::Error),
    /// Plugins that cannot be set up.
    #[error("plugins cannot be set up: {}", .0.join("; "))]
    Plugins(Vec<String>),
    /// A PEM text of the configuration.
    #[error("bad {what} of {of}")]
    Pem {
        /// Which.
        what: &'static str,
        /// Of which entity.
        of: String,
        /// Why.
        source: rustls::pki_types::pem::Error,
    },
    /// Plinth's own settings of an upstream.
    #[error("upstream {upstream}")]
    Upstream {
        /// The upstream.
        upstream: String,
        /// What is wrong with them.
        source: crate::upstream::extensions::BadTag,
    },
    /// The resolver of upstream names cannot be set up.
    #[error("cannot set up DNS: {0}")]
    Dns(String),
    /// TLS settings of a service.
    #[error("TLS of service {service} cannot be set up")]
    UpstreamTls {
        /// The service.
        service: String,
        /// Why.
        source: crate::client::TlsSettingsError,
    },
    /// config-service cannot be read or written.
    #[error("the configuration in config-service")]
    Store(#[from] plinth_core::Error),
    /// What config-service holds is not a configuration.
    #[error("the configuration in config-service cannot be used: {0}")]
    StoredConfig(String),
    /// The signal handler could not be installed.
    #[error("cannot listen for signals")]
    Signal(#[source] std::io::Error),
}
