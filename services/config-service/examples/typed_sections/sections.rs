//! The sections `database`, `redis` and `api_gateway`. Everything that has a safe default has one; passwords have none,
//! and a missing one is an error that names it.

use plinth_core::Secret;
use plinth_core::config_client::ConfigClient;
use serde::Deserialize;
use serde::de::DeserializeOwned;

#[derive(Debug, thiserror::Error)]
pub enum SectionError {
    /// For example `database.password`.
    #[error("{0} is not set and has no default")]
    Missing(&'static str),
    #[error("section {section} cannot be read")]
    Section { section: &'static str, source: plinth_core::Error },
}

/// Where the data is.
#[derive(Debug)]
pub struct Database {
    pub host: String,
    pub port: u16,
    pub name: String,
    pub user: String,
    pub password: Secret,
    pub max_connections: u32,
}

/// Where the cache is.
#[derive(Debug)]
pub struct Redis {
    pub host: String,
    pub port: u16,
    pub database: u16,
    pub password: Secret,
}

/// How to reach the gateway.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ApiGateway {
    pub url: String,
    pub admin_url: String,
    pub timeout_ms: u64,
}

#[derive(Debug)]
pub struct Sections {
    pub database: Database,
    pub redis: Redis,
    pub api_gateway: ApiGateway,
}

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct DatabaseItem {
    host: String,
    port: u16,
    name: String,
    user: String,
    password: Option<String>,
    max_connections: u32,
}

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RedisItem {
    host: String,
    port: u16,
    database: u16,
    password: Option<String>,
}

impl Default for DatabaseItem {
    fn default() -> Self {
        let (host, name, user) = ("localhost".into(), "app".into(), "app".into());
        Self { host, port: 5432, name, user, password: None, max_connections: 10 }
    }
}

impl Default for RedisItem {
    fn default() -> Self {
        Self { host: "localhost".into(), port: 6379, database: 0, password: None }
    }
}

impl Default for ApiGateway {
    fn default() -> Self {
        Self {
            url: "http://localhost:8000".into(),
            admin_url: "http://localhost:8001".into(),
            timeout_ms: 30_000,
        }
    }
}

impl Sections {
    /// # Errors
    /// [`SectionError`]: a password is missing, a section has an unknown or mistyped field, or nothing is known at all.
    pub async fn load(client: &ConfigClient) -> Result<Self, SectionError> {
        let database: DatabaseItem = section(client, "database").await?;
        let redis: RedisItem = section(client, "redis").await?;
        Ok(Self {
            database: Database {
                password: password(database.password, "database.password")?,
                host: database.host,
                port: database.port,
                name: database.name,
                user: database.user,
                max_connections: database.max_connections,
            },
            redis: Redis {
                password: password(redis.password, "redis.password")?,
                host: redis.host,
                port: redis.port,
                database: redis.database,
            },
            api_gateway: section(client, "api_gateway").await?,
        })
    }
}

async fn section<T: DeserializeOwned + Default>(
    client: &ConfigClient,
    section: &'static str,
) -> Result<T, SectionError> {
    client.get(section, T::default()).await.map_err(|source| SectionError::Section { section, source })
}

fn password(found: Option<String>, name: &'static str) -> Result<Secret, SectionError> {
    found.filter(|text| !text.is_empty()).map(Secret::new).ok_or(SectionError::Missing(name))
}
