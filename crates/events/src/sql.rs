//! SQLite and PostgreSQL as Plinth's services use them: opened with the guarantees that acknowledged writes need, one
//! PostgreSQL schema or SQLite file per service, migrations embedded in the binary.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{ConnectOptions, SqlSafeStr};

use crate::Error;

/// A service's database. Cheap to clone.
#[derive(Debug, Clone)]
pub enum Database {
    Sqlite(Sqlite),
    Postgres(Postgres),
}

/// One file, write-ahead log, `synchronous=FULL`: a committed transaction survives a power cut. SQLite has one writer,
/// so there is one writing connection, and readers that never wait for it.
#[derive(Debug, Clone)]
pub struct Sqlite {
    pub writer: SqlitePool,
    pub readers: SqlitePool,
    pub file: PathBuf,
}

/// A pool whose connections have the service's schema as search path.
#[derive(Debug, Clone)]
pub struct Postgres {
    pub pool: PgPool,
    pub schema: &'static str,
}

/// Numbers of the pools.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolSettings {
    /// Most connections to PostgreSQL, and most readers of SQLite. Default 8.
    pub max_connections: u32,
    /// Longest wait for a connection, making one included. Default 3 s.
    pub acquire_timeout: Duration,
    /// Longest a PostgreSQL statement may run. Default 10 s.
    pub statement_timeout: Duration,
}

impl Default for PoolSettings {
    fn default() -> Self {
        Self {
            max_connections: 8,
            acquire_timeout: Duration::from_secs(3),
            statement_timeout: Duration::from_secs(10),
        }
    }
}

/// One step of a service's schema in both dialects. Versions below 100 belong to this crate.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    pub version: i64,
    pub description: &'static str,
    pub sqlite: &'static str,
    pub postgres: &'static str,
}

/// The outbox table; a service lists it beside its own steps.
pub const OUTBOX: Step = Step {
    version: 1,
    description: "outbox",
    sqlite: include_str!("../sql/outbox_sqlite.sql"),
    postgres: include_str!("../sql/outbox_postgres.sql"),
};

impl Database {
    /// Opens (and makes) the SQLite file. Its folder is made too, readable by its owner only.
    ///
    /// # Errors
    /// [`Error::Folder`], or [`Error::Database`] when the file cannot be opened.
    pub async fn sqlite(file: &Path, settings: &PoolSettings) -> Result<Self, Error> {
        if let Some(folder) = file.parent() {
            make_private_folder(folder).map_err(Error::Folder)?;
        }
        let options = SqliteConnectOptions::new()
            .filename(file)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(settings.acquire_timeout)
            .disable_statement_logging();
        let writer = SqlitePoolOptions::new()
            .max_connections(1)
            .acquire_timeout(settings.acquire_timeout)
            .connect_with(options.clone())
            .await?;
        let readers = SqlitePoolOptions::new()
            .max_connections(settings.max_connections.max(1))
            .acquire_timeout(settings.acquire_timeout)
            .connect_with(options.read_only(true))
            .await?;
        Ok(Self::Sqlite(Sqlite { writer, readers, file: file.to_owned() }))
    }

    /// A pool to PostgreSQL that connects on first use, so a service starts while its database is still away.
    ///
    /// # Errors
    /// [`Error::DatabaseSettings`] when `url` is no PostgreSQL URL.
    pub fn postgres(url: &str, schema: &'static str, settings: &PoolSettings) -> Result<Self, Error> {
        if !(url.starts_with("postgres://") || url.starts_with("postgresql://")) {
            return Err(Error::DatabaseSettings(
                "the URL must begin with postgres:// or postgresql://".into(),
            ));
        }
        // The parser's own text may quote parts of the URL, so it is not passed on.
        let options = PgConnectOptions::from_str(url)
            .map_err(|_| Error::DatabaseSettings("the URL cannot be parsed".into()))?
            .options([
                ("search_path", schema.to_owned()),
                ("statement_timeout", settings.statement_timeout.as_millis().to_string()),
                ("idle_in_transaction_session_timeout", "60000".to_owned()),
            ])
            .application_name(schema)
            .disable_statement_logging();
        let pool = PgPoolOptions::new()
            .max_connections(settings.max_connections.max(2))
            .acquire_timeout(settings.acquire_timeout)
            .connect_lazy_with(options);
        Ok(Self::Postgres(Postgres { pool, schema }))
    }

    /// Brings the schema up to date; safe to call from several replicas at once.
    ///
    /// # Errors
    /// [`Error::Migrate`], also when the database is newer than this binary knows or an applied step was changed.
    pub async fn migrate(&self, steps: &[Step]) -> Result<(), Error> {
        match self {
            Self::Sqlite(sqlite) => migrator(steps, |step| step.sqlite).run(&sqlite.writer).await?,
            Self::Postgres(postgres) => {
                let mut migrator = migrator(steps, |step| step.postgres);
                migrator.create_schema(postgres.schema);
                migrator.run(&postgres.pool).await?;
            }
        }
        Ok(())
    }

    /// One round trip, for health checks.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub async fn ping(&self) -> Result<(), Error> {
        match self {
            Self::Sqlite(sqlite) => sqlx::query("SELECT 1").execute(&sqlite.readers).await.map(drop)?,
            Self::Postgres(postgres) => sqlx::query("SELECT 1").execute(&postgres.pool).await.map(drop)?,
        }
        Ok(())
    }

    /// `sqlite` or `postgres`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Sqlite(_) => "sqlite",
            Self::Postgres(_) => "postgres",
        }
    }

    /// Ends all connections; SQLite folds its write-ahead log into the file.
    pub async fn close(&self) {
        match self {
            Self::Sqlite(sqlite) => {
                sqlite.readers.close().await;
                sqlite.writer.close().await;
            }
            Self::Postgres(postgres) => postgres.pool.close().await,
        }
    }
}

fn migrator(steps: &[Step], dialect: fn(&Step) -> &'static str) -> Migrator {
    let migrations = steps
        .iter()
        .map(|step| {
            let sql = dialect(step).into_sql_str();
            Migration::new(step.version, step.description.into(), MigrationType::Simple, sql, false)
        })
        .collect();
    Migrator::with_migrations(migrations)
}

/// Makes the folder and those above it where they are missing, readable by their owner only.
///
/// # Errors
/// The system's.
#[cfg(unix)]
pub fn make_private_folder(folder: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    if folder.as_os_str().is_empty() {
        return Ok(());
    }
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Makes the folder and those above it where they are missing.
///
/// # Errors
/// The system's.
#[cfg(not(unix))]
pub fn make_private_folder(folder: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)
}

/// Whether the error means "the database is away", so the same call may work later.
pub fn is_unavailable(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => true,
        // Classes 08 (connection), 53 (resources), 57P (operator intervention: shutdown, crash, starting up).
        sqlx::Error::Database(error) => error
            .code()
            .is_some_and(|code| code.starts_with("08") || code.starts_with("53") || code.starts_with("57P")),
        _ => false,
    }
}
