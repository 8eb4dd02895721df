//! Where a Redis is and how it is spoken to.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use plinth_kong::RedisConfig;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, RedisConnectionInfo};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::runtime::Handle;

use super::Failure;
use crate::client::{TlsSpec, TlsTarget};

pub(super) struct Address {
    host: String,
    port: u16,
    login: RedisConnectionInfo,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    database: u32,
    /// Tells configurations with different secrets apart without keeping another copy of them.
    fingerprint: u64,
}

impl Address {
    pub fn new(config: &RedisConfig) -> Result<Address, String> {
        let Some(host) = &config.host else {
            return Err("in 'redis': in 'host': required field missing".to_owned());
        };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let mut login = RedisConnectionInfo::default().set_db(config.database.into());
        if let Some(password) = config.password.as_deref().filter(|password| !password.is_empty()) {
            login = login.set_password(password);
            if let Some(username) = &config.username {
                login = login.set_username(username);
            }
        }
        let mut hasher = DefaultHasher::new();
        (&config.username, &config.password, config.ssl, config.ssl_verify, &config.server_name)
            .hash(&mut hasher);
        Ok(Address {
            tls: if config.ssl { Some(tls(config, &host)?) } else { None },
            host,
            port: config.port,
            login,
            database: config.database,
            fingerprint: hasher.finish(),
        })
    }

    /// Without secrets.
    pub fn name(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        format!("{host}:{}/{}", self.port, self.database)
    }

    /// The same for configurations that mean the same.
    pub fn key(&self) -> String {
        format!("{} {:x}", self.name(), self.fingerprint)
    }

    /// Connects and logs in.
    pub async fn connect(&self, control: &Handle) -> Result<MultiplexedConnection, Failure> {
        let broken = |error: std::io::Error| Failure::Connection(error.to_string());
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(broken)?;
        stream.set_nodelay(true).map_err(broken)?;
        let settings = AsyncConnectionConfig::new().set_response_timeout(None);
        let refused = |error: redis::RedisError| Failure::Connection(error.to_string());
        let Some((config, name)) = &self.tls else {
            let made = MultiplexedConnection::new_with_config(&self.login, stream, settings).await;
            let (connection, driver) = made.map_err(refused)?;
            control.spawn(driver);
            return Ok(connection);
        };
        let connector = tokio_rustls::TlsConnector::from(Arc::clone(config));
        let stream = connector.connect(name.clone(), stream).await.map_err(broken)?;
        let made = MultiplexedConnection::new_with_config(&self.login, stream, settings).await;
        let (connection, driver) = made.map_err(refused)?;
        control.spawn(driver);
        Ok(connection)
    }
}

/// `ssl_verify` trusts the system's authorities; without it, Kong's default, anybody.
fn tls(config: &RedisConfig, host: &str) -> Result<(Arc<ClientConfig>, ServerName<'static>), String> {
    let name = config.server_name.as_deref().unwrap_or(host);
    let target = TlsTarget::new(&TlsSpec::of(name, config.ssl_verify))
        .map_err(|error| format!("in 'redis': {error}"))?;
    let mut config = (*target.config).clone();
    // Those of HTTP.
    config.alpn_protocols.clear();
    Ok((Arc::new(config), target.server_name))
}
