//! The outbox table: rows are added in the caller's transaction and taken by the relay.

use std::time::Duration;

use jiff::Timestamp;
use sqlx::{PgConnection, Row, SqliteConnection};

use crate::Error;
use crate::sql::Database;

/// A message to be written with the caller's change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewMessage<'a> {
    /// Which relay carries it; each lane has one publisher.
    pub lane: &'a str,
    /// Messages of one lane and key are published in the order of their ids. Insert them while holding the row lock
    /// that serialises the key's changes, else two transactions may commit in the other order.
    pub ordering_key: &'a str,
    /// RabbitMQ's routing key, or whatever the lane's publisher makes of it.
    pub topic: &'a str,
    pub payload: &'a str,
    /// Wait until this other row of the outbox has been published.
    pub after: Option<i64>,
    pub created_at: Timestamp,
}

/// A row on its way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub id: i64,
    pub ordering_key: String,
    pub topic: String,
    pub payload: String,
    pub created_at: Timestamp,
    /// How often it was refused so far.
    pub attempts: u32,
}

impl Message {
    /// Time since it was written.
    pub fn age(&self, now: Timestamp) -> Duration {
        Duration::try_from(now.duration_since(self.created_at)).unwrap_or_default()
    }
}

const INSERT: &str = "INSERT INTO outbox (lane, ordering_key, topic, payload, after_id, created_at) \
                      VALUES ($1, $2, $3, $4, $5, $6) RETURNING id";

/// Adds the row in the caller's SQLite transaction; returns its id.
///
/// # Errors
/// [`Error::Database`]
pub async fn insert_sqlite(transaction: &mut SqliteConnection, new: &NewMessage<'_>) -> Result<i64, Error> {
    let row = sqlx::query(INSERT)
        .bind(new.lane)
        .bind(new.ordering_key)
        .bind(new.topic)
        .bind(new.payload)
        .bind(new.after)
        .bind(new.created_at.as_microsecond())
        .fetch_one(transaction)
        .await?;
    Ok(row.try_get(0)?)
}

/// Adds the row in the caller's PostgreSQL transaction; returns its id.
///
/// # Errors
/// [`Error::Database`]
pub async fn insert_postgres(transaction: &mut PgConnection, new: &NewMessage<'_>) -> Result<i64, Error> {
    let row = sqlx::query(INSERT)
        .bind(new.lane)
        .bind(new.ordering_key)
        .bind(new.topic)
        .bind(new.payload)
        .bind(new.after)
        .bind(new.created_at.as_microsecond())
        .fetch_one(transaction)
        .await?;
    Ok(row.try_get(0)?)
}

/// What waits in one lane.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backlog {
    pub rows: u64,
    /// When the oldest of them was written.
    pub oldest: Option<Timestamp>,
}

/// What of the lane is not published yet.
///
/// # Errors
/// [`Error::Database`]
pub async fn backlog(database: &Database, lane: &str) -> Result<Backlog, Error> {
    const COUNT: &str = "SELECT COUNT(*), MIN(created_at) FROM outbox WHERE lane = $1";
    let (rows, oldest): (i64, Option<i64>) = match database {
        Database::Sqlite(sqlite) => sqlx::query_as(COUNT).bind(lane).fetch_one(&sqlite.readers).await?,
        Database::Postgres(postgres) => sqlx::query_as(COUNT).bind(lane).fetch_one(&postgres.pool).await?,
    };
    Ok(Backlog {
        rows: u64::try_from(rows).unwrap_or(0),
        oldest: oldest.and_then(|at| Timestamp::from_microsecond(at).ok()),
    })
}

/// How many rows of the lane are not published yet.
///
/// # Errors
/// [`Error::Database`]
pub async fn depth(database: &Database, lane: &str) -> Result<u64, Error> {
    Ok(backlog(database, lane).await?.rows)
}
