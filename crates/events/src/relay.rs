//! Carries outbox rows of one lane to one publisher.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use jiff::Timestamp;
use sqlx::{Connection, PgConnection, SqliteConnection};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::sql::Database;
use crate::{Error, Message, PublishError, Publisher, outbox};

/// Numbers of a relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelaySettings {
    /// Rows taken at once. Default 64.
    pub batch: u32,
    /// Messages under way at once, always of different keys. Default 16.
    pub concurrency: usize,
    /// How often to look without being nudged: finds what a crash or another replica left. Default 1 s.
    pub interval: Duration,
    /// Longest wait for one message to be published. Default 10 s.
    pub publish_timeout: Duration,
    /// First and longest pause after a failure; doubled each time, with jitter. Default 100 ms and 5 s.
    pub backoff: (Duration, Duration),
}

impl Default for RelaySettings {
    fn default() -> Self {
        Self {
            batch: 64,
            concurrency: 16,
            interval: Duration::from_secs(1),
            publish_timeout: Duration::from_secs(10),
            backoff: (Duration::from_millis(100), Duration::from_secs(5)),
        }
    }
}

/// Metric and health hooks of a relay; each is called from the relay's task and must not block.
pub trait RelayObserver: Send + Sync + 'static {
    /// A message arrived `age` after it was written.
    fn published(&self, _lane: &'static str, _age: Duration) {}
    /// One message was refused and will be tried again.
    fn refused(&self, _lane: &'static str, _reason: &str) {}
    /// The publisher or the database cannot be reached.
    fn unavailable(&self, _lane: &'static str, _reason: &str) {}
    /// Rows that wait, looked at each time the relay has nothing else to do.
    fn depth(&self, _lane: &'static str, _rows: u64) {}
}

impl RelayObserver for () {}

/// Takes the oldest row of each key, publishes, deletes what was confirmed. Several replicas may run the same lane on
/// PostgreSQL: a row is locked (`FOR UPDATE SKIP LOCKED`) while it is under way, and a key's next row is not taken
/// before the one ahead of it is gone. On SQLite the database's single process is the only relay.
pub struct Relay<P> {
    database: Database,
    lane: &'static str,
    publisher: P,
    settings: RelaySettings,
    observer: Arc<dyn RelayObserver>,
    nudge: Arc<Notify>,
    follower: Option<Arc<Notify>>,
}

/// What one look at the table brought.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Round {
    pub published: usize,
    pub refused: usize,
    /// Why the publisher could not be reached; the rest of the batch was left alone.
    pub unavailable: Option<String>,
}

#[derive(Default)]
struct Outcome {
    round: Round,
    done: Vec<i64>,
    /// id, attempts so far, reason
    refused: Vec<(i64, u32, String)>,
}

type RowTuple = (i64, String, String, String, i64, i64);

// Only the oldest row of a key may go, and only when the row it waits for is gone.
const SELECT_SQLITE: &str = "SELECT id, ordering_key, topic, payload, created_at, attempts FROM outbox o \
    WHERE lane = $1 AND next_attempt_at <= $2 \
    AND NOT EXISTS (SELECT 1 FROM outbox e WHERE e.lane = o.lane AND e.ordering_key = o.ordering_key AND e.id < o.id) \
    AND NOT EXISTS (SELECT 1 FROM outbox f WHERE f.id = o.after_id) ORDER BY id LIMIT $3";
const SELECT_POSTGRES: &str = "SELECT id, ordering_key, topic, payload, created_at, attempts FROM outbox o \
    WHERE lane = $1 AND next_attempt_at <= $2 \
    AND NOT EXISTS (SELECT 1 FROM outbox e WHERE e.lane = o.lane AND e.ordering_key = o.ordering_key AND e.id < o.id) \
    AND NOT EXISTS (SELECT 1 FROM outbox f WHERE f.id = o.after_id) ORDER BY id LIMIT $3 \
    FOR UPDATE OF o SKIP LOCKED";
const REFUSED: &str = "UPDATE outbox SET attempts = $2, next_attempt_at = $3, last_error = $4 WHERE id = $1";

impl<P: Publisher> Relay<P> {
    pub fn new(database: Database, lane: &'static str, publisher: P, settings: RelaySettings) -> Self {
        Self {
            database,
            lane,
            publisher,
            settings,
            observer: Arc::new(()),
            nudge: Arc::new(Notify::new()),
            follower: None,
        }
    }

    pub fn with_observer(mut self, observer: Arc<dyn RelayObserver>) -> Self {
        self.observer = observer;
        self
    }

    /// The nudge of another relay, whose rows wait for rows of this one ([`NewMessage::after`](crate::NewMessage)).
    pub fn followed_by(mut self, nudge: Arc<Notify>) -> Self {
        self.follower = Some(nudge);
        self
    }

    /// `notify_one()` after a commit makes the relay look at once.
    pub fn nudge(&self) -> Arc<Notify> {
        self.nudge.clone()
    }

    /// Runs until `stop`; a round under way is finished first.
    pub async fn run(self, stop: CancellationToken) {
        let mut pause = self.settings.backoff.0;
        while !stop.is_cancelled() {
            let wait = match Box::pin(self.round()).await {
                Ok(round) if round.unavailable.is_some() => {
                    self.failed(round.unavailable.as_deref().unwrap_or_default(), pause);
                    Some(pause)
                }
                Ok(round) => {
                    pause = self.settings.backoff.0;
                    if round.published == 0 {
                        self.idle(&stop).await;
                    } else if let Some(follower) = &self.follower {
                        follower.notify_one();
                    }
                    None
                }
                Err(error) => {
                    self.failed(&describe(&error), pause);
                    Some(pause)
                }
            };
            if let Some(wait) = wait {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = tokio::time::sleep(jitter(wait)) => {}
                }
                pause = (pause * 2).min(self.settings.backoff.1);
            }
        }
    }

    /// One look at the table: takes a batch, publishes it, settles it.
    ///
    /// # Errors
    /// [`Error::Database`]; messages that were published meanwhile are published again later.
    pub async fn round(&self) -> Result<Round, Error> {
        match &self.database {
            Database::Sqlite(sqlite) => {
                let rows: Vec<RowTuple> = sqlx::query_as(SELECT_SQLITE)
                    .bind(self.lane)
                    .bind(Timestamp::now().as_microsecond())
                    .bind(i64::from(self.settings.batch))
                    .fetch_all(&sqlite.readers)
                    .await?;
                let outcome = self.publish(rows).await;
                if !outcome.is_empty() {
                    let mut connection = sqlite.writer.acquire().await?;
                    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
                    self.settle_sqlite(&mut transaction, &outcome).await?;
                    transaction.commit().await?;
                }
                Ok(outcome.round)
            }
            Database::Postgres(postgres) => {
                let mut transaction = postgres.pool.begin().await?;
                let rows: Vec<RowTuple> = sqlx::query_as(SELECT_POSTGRES)
                    .bind(self.lane)
                    .bind(Timestamp::now().as_microsecond())
                    .bind(i64::from(self.settings.batch))
                    .fetch_all(&mut *transaction)
                    .await?;
                let outcome = self.publish(rows).await;
                self.settle_postgres(&mut transaction, &outcome).await?;
                transaction.commit().await?;
                Ok(outcome.round)
            }
        }
    }

    async fn publish(&self, rows: Vec<RowTuple>) -> Outcome {
        let mut outcome = Outcome::default();
        let mut results = futures_util::stream::iter(rows.into_iter().map(message))
            .map(|message| async move {
                let limit = self.settings.publish_timeout;
                let result = tokio::time::timeout(limit, self.publisher.publish(&message)).await;
                let result = result.unwrap_or_else(|_| {
                    Err(PublishError::Unavailable(format!("not published within {limit:?}")))
                });
                (message, result)
            })
            .buffer_unordered(self.settings.concurrency.max(1));
        while let Some((message, result)) = results.next().await {
            match result {
                Ok(()) => {
                    self.observer.published(self.lane, message.age(Timestamp::now()));
                    outcome.done.push(message.id);
                    outcome.round.published += 1;
                }
                Err(PublishError::Refused(reason)) => {
                    tracing::warn!(lane = self.lane, id = message.id, topic = %message.topic, reason, "message refused");
                    self.observer.refused(self.lane, &reason);
                    outcome.refused.push((message.id, message.attempts, reason));
                    outcome.round.refused += 1;
                }
                Err(PublishError::Unavailable(reason)) => {
                    outcome.round.unavailable = Some(reason);
                    break;
                }
            }
        }
        outcome
    }

    async fn settle_sqlite(
        &self,
        transaction: &mut SqliteConnection,
        outcome: &Outcome,
    ) -> Result<(), Error> {
        for id in &outcome.done {
            sqlx::query("DELETE FROM outbox WHERE id = $1").bind(id).execute(&mut *transaction).await?;
        }
        for (id, attempts, reason) in &outcome.refused {
            sqlx::query(REFUSED)
                .bind(id)
                .bind(i64::from(attempts + 1))
                .bind(self.next_attempt(*attempts))
                .bind(reason)
                .execute(&mut *transaction)
                .await?;
        }
        Ok(())
    }

    async fn settle_postgres(&self, transaction: &mut PgConnection, outcome: &Outcome) -> Result<(), Error> {
        if !outcome.done.is_empty() {
            sqlx::query("DELETE FROM outbox WHERE id = ANY($1)")
                .bind(&outcome.done)
                .execute(&mut *transaction)
                .await?;
        }
        for (id, attempts, reason) in &outcome.refused {
            sqlx::query(REFUSED)
                .bind(id)
                .bind(i64::from(attempts + 1))
                .bind(self.next_attempt(*attempts))
                .bind(reason)
                .execute(&mut *transaction)
                .await?;
        }
        Ok(())
    }

    /// Microseconds since the epoch at which a refused message may be tried again.
    fn next_attempt(&self, attempts: u32) -> i64 {
        let (first, longest) = self.settings.backoff;
        let pause = first.saturating_mul(2u32.saturating_pow(attempts.min(16))).min(longest);
        let micros = i64::try_from(pause.as_micros()).unwrap_or(i64::MAX / 2);
        Timestamp::now().as_microsecond().saturating_add(micros)
    }

    fn failed(&self, reason: &str, pause: Duration) {
        // Once per outage at warn level; the pauses that follow are the same news.
        if pause == self.settings.backoff.0 {
            tracing::warn!(lane = self.lane, reason, "outbox rows wait");
        } else {
            tracing::debug!(lane = self.lane, reason, ?pause, "outbox rows still wait");
        }
        self.observer.unavailable(self.lane, reason);
    }

    async fn idle(&self, stop: &CancellationToken) {
        match outbox::depth(&self.database, self.lane).await {
            Ok(rows) => self.observer.depth(self.lane, rows),
            Err(error) => self.observer.unavailable(self.lane, &describe(&error)),
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.nudge.notified() => {}
            () = tokio::time::sleep(jitter(self.settings.interval)) => {}
        }
    }
}

impl Outcome {
    fn is_empty(&self) -> bool {
        self.done.is_empty() && self.refused.is_empty()
    }
}

fn message((id, ordering_key, topic, payload, created_at, attempts): RowTuple) -> Message {
    Message {
        id,
        ordering_key,
        topic,
        payload,
        created_at: Timestamp::from_microsecond(created_at).unwrap_or(Timestamp::UNIX_EPOCH),
        attempts: u32::try_from(attempts).unwrap_or(u32::MAX),
    }
}

/// 75 to 100 percent of the pause, so that replicas do not come back in step.
fn jitter(pause: Duration) -> Duration {
    pause.mul_f64(1.0 - fastrand::f64() / 4.0)
}

/// The error with its causes on one line.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
