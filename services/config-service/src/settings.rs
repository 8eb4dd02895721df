//! The service's own settings; kit adds those that all services share.

use std::path::PathBuf;
use std::time::Duration;

use plinth_events::RabbitSettings;
use plinth_events::sql::PoolSettings;
use plinth_kit::settings::{Reader, Secret};

use crate::configuration::Limits;

/// Everything that can be set, with documented defaults.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Folder of the SQLite file. Default `./data/config-service`.
    pub data_dir: PathBuf,
    /// PostgreSQL; absent: SQLite in `data_dir`.
    pub database_url: Option<Secret>,
    pub pool: PoolSettings,
    /// RabbitMQ; absent: events stay in this process.
    pub events: Option<RabbitSettings>,
    pub limits: Limits,
    /// How often everything is compared with KV. Default 60 s.
    pub reconcile_interval: Duration,
}

impl Settings {
    pub fn read(reader: &mut Reader) -> Self {
        let second = Duration::from_secs(1);
        let data_dir = reader.path("data_dir", "folder of the SQLite history", "data/config-service");
        let database_url = reader.secret(
            "database.url",
            "PostgreSQL for the history, postgres://user:password@host/database; several replicas need it",
        );
        if let Some(url) = &database_url
            && !["postgres://", "postgresql://"].iter().any(|scheme| url.expose().starts_with(scheme))
        {
            reader.fault("database.url", "must begin with postgres:// or postgresql://");
        }
        let defaults = PoolSettings::default();
        let pool = PoolSettings {
            max_connections: reader.get_in(
                "database.max_connections",
                "most connections to the database",
                defaults.max_connections,
                2..=100,
            ),
            acquire_timeout: reader.duration_in(
                "database.acquire_timeout",
                "longest wait for a connection",
                defaults.acquire_timeout,
                Duration::from_millis(100)..=second * 60,
            ),
            statement_timeout: reader.duration_in(
                "database.statement_timeout",
                "longest run of a PostgreSQL statement",
                defaults.statement_timeout,
                Duration::from_millis(100)..=second * 600,
            ),
        };
        let limits = Limits::default();
        Self {
            data_dir,
            database_url,
            pool,
            events: read_events(reader),
            limits: Limits {
                publish_wait: reader.duration_in(
                    "write.publish_wait",
                    "longest wait of a write until it shows; then 202",
                    limits.publish_wait,
                    Duration::from_millis(10)..=second * 20,
                ),
                index_wait: reader.duration_in(
                    "read.index_wait",
                    "longest wait of a read for its minimum index; then 503",
                    limits.index_wait,
                    Duration::from_millis(10)..=second * 20,
                ),
                watchers: reader.get_in(
                    "watch.max",
                    "event streams and long polls at a time",
                    limits.watchers,
                    1..=100_000,
                ),
            },
            reconcile_interval: reader.duration_in(
                "reconcile.interval",
                "how often the history is compared with Consul",
                second * 60,
                second..=second * 3600,
            ),
        }
    }
}

fn read_events(reader: &mut Reader) -> Option<RabbitSettings> {
    let url = reader.secret(
        "events.url",
        "RabbitMQ for events, amqp://user:password@host/vhost; without it events stay in this process",
    );
    let ca_cert: Option<PathBuf> =
        reader.opt("events.ca_cert", "authorities of RabbitMQ's certificate, PEM, for amqps://");
    let exchange = reader.get("events.exchange", "topic exchange of the events", "plinth.events".to_owned());
    let url = url?;
    if !["amqp://", "amqps://"].iter().any(|scheme| url.expose().starts_with(scheme)) {
        reader.fault("events.url", "must begin with amqp:// or amqps://");
    }
    if let Some(path) = &ca_cert {
        if !url.expose().starts_with("amqps://") {
            reader.fault("events.ca_cert", "has no meaning without amqps:// in events.url");
        } else if let Err(error) = std::fs::read_to_string(path) {
            reader.fault("events.ca_cert", format!("cannot read {}: {error}", path.display()));
        }
    }
    Some(RabbitSettings { exchange, ca_cert, ..RabbitSettings::new(url.expose()) })
}
