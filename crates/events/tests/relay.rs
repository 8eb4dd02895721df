//! The outbox's promises, on SQLite and on a real PostgreSQL: nothing lost, order per key, nothing that was rolled back.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use plinth_events::relay::Round;
use plinth_events::sql::{OUTBOX, PoolSettings};
use plinth_events::{Database, Message, NewMessage, PublishError, Publisher, Relay, RelaySettings, outbox};
use plinth_testbed::{eventually, holds, postgres::Postgres};
use tokio_util::sync::CancellationToken;

const LANE: &str = "events";
const DEADLINE: Duration = Duration::from_secs(10);

/// Keeps what arrives; can be away, and refuses payloads that say so.
#[derive(Clone, Default)]
struct Recorder {
    seen: Arc<Mutex<Vec<(String, String)>>>,
    away: Arc<AtomicBool>,
    forgets: Arc<AtomicBool>,
}

impl Recorder {
    fn payloads(&self) -> Vec<String> {
        self.seen.lock().unwrap().iter().map(|(_, payload)| payload.clone()).collect()
    }

    fn by_key(&self) -> BTreeMap<String, Vec<String>> {
        let mut keys: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (key, payload) in self.seen.lock().unwrap().iter() {
            keys.entry(key.clone()).or_default().push(payload.clone());
        }
        keys
    }
}

impl Publisher for Recorder {
    async fn publish(&self, message: &Message) -> Result<(), PublishError> {
        if self.away.load(Ordering::SeqCst) {
            return Err(PublishError::Unavailable("away".into()));
        }
        if message.payload.contains("bad") {
            return Err(PublishError::Refused("bad".into()));
        }
        tokio::task::yield_now().await;
        self.seen.lock().unwrap().push((message.ordering_key.clone(), message.payload.clone()));
        if self.forgets.load(Ordering::SeqCst) {
            // Arrived, but the confirmation got lost: what a crash after publishing looks like.
            return Err(PublishError::Unavailable("connection lost".into()));
        }
        Ok(())
    }
}

struct Store {
    database: Database,
    _folder: tempfile::TempDir,
    _postgres: Option<Postgres>,
}

async fn stores() -> Vec<Store> {
    let folder = tempfile::tempdir().unwrap();
    let settings = PoolSettings::default();
    let sqlite = Database::sqlite(&folder.path().join("sub/events.db"), &settings).await.unwrap();
    let server = Postgres::start().await;
    let postgres = Database::postgres(&server.url(), "plinth_test", &settings).unwrap();
    let stores = vec![
        Store { database: sqlite, _folder: folder, _postgres: None },
        Store { database: postgres, _folder: tempfile::tempdir().unwrap(), _postgres: Some(server) },
    ];
    for store in &stores {
        store.database.migrate(&[OUTBOX]).await.unwrap();
        store.database.migrate(&[OUTBOX]).await.expect("applying twice changes nothing");
    }
    stores
}

fn new<'a>(key: &'a str, payload: &'a str, after: Option<i64>) -> NewMessage<'a> {
    NewMessage {
        lane: LANE,
        ordering_key: key,
        topic: "test.topic",
        payload,
        after,
        created_at: Timestamp::now(),
    }
}

async fn insert(database: &Database, message: NewMessage<'_>, commit: bool) -> i64 {
    match database {
        Database::Sqlite(sqlite) => {
            let mut transaction = sqlite.writer.begin().await.unwrap();
            let id = outbox::insert_sqlite(&mut transaction, &message).await.unwrap();
            if commit { transaction.commit().await } else { transaction.rollback().await }.unwrap();
            id
        }
        Database::Postgres(postgres) => {
            let mut transaction = postgres.pool.begin().await.unwrap();
            let id = outbox::insert_postgres(&mut transaction, &message).await.unwrap();
            if commit { transaction.commit().await } else { transaction.rollback().await }.unwrap();
            id
        }
    }
}

fn relay(database: &Database, recorder: &Recorder) -> Relay<Recorder> {
    let settings = RelaySettings {
        interval: Duration::from_millis(20),
        backoff: (Duration::from_millis(5), Duration::from_millis(50)),
        ..RelaySettings::default()
    };
    Relay::new(database.clone(), LANE, recorder.clone(), settings)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishes_what_was_committed_in_order_per_key() {
    for store in stores().await {
        let recorder = Recorder::default();
        for n in 0..20 {
            for key in ["a", "b", "c"] {
                insert(&store.database, new(key, &n.to_string(), None), true).await;
            }
        }
        insert(&store.database, new("a", "rolled back", None), false).await;
        let stop = CancellationToken::new();
        let running = tokio::spawn(relay(&store.database, &recorder).run(stop.clone()));
        eventually("all rows are published", DEADLINE, || async {
            let depth = outbox::depth(&store.database, LANE).await.unwrap();
            holds(depth == 0, format!("{depth} rows left"))
        })
        .await;
        stop.cancel();
        running.await.unwrap();
        let expected: Vec<String> = (0..20).map(|n| n.to_string()).collect();
        for key in ["a", "b", "c"] {
            assert_eq!(recorder.by_key()[key], expected, "{} key {key}", store.database.kind());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keeps_rows_while_the_destination_is_away_and_repeats_unconfirmed_ones() {
    for store in stores().await {
        let recorder = Recorder::default();
        let relay = relay(&store.database, &recorder);
        insert(&store.database, new("a", "one", None), true).await;
        recorder.away.store(true, Ordering::SeqCst);
        assert_eq!(relay.round().await.unwrap().unavailable.as_deref(), Some("away"));
        assert_eq!(outbox::depth(&store.database, LANE).await.unwrap(), 1);

        recorder.away.store(false, Ordering::SeqCst);
        recorder.forgets.store(true, Ordering::SeqCst);
        assert!(relay.round().await.unwrap().unavailable.is_some());
        assert_eq!(outbox::depth(&store.database, LANE).await.unwrap(), 1);

        recorder.forgets.store(false, Ordering::SeqCst);
        assert_eq!(relay.round().await.unwrap(), Round { published: 1, ..Round::default() });
        assert_eq!(recorder.payloads(), ["one", "one"], "at least once");
        assert_eq!(outbox::depth(&store.database, LANE).await.unwrap(), 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_message_holds_back_only_its_own_key() {
    for store in stores().await {
        let recorder = Recorder::default();
        let relay = relay(&store.database, &recorder);
        insert(&store.database, new("a", "bad", None), true).await;
        insert(&store.database, new("a", "behind", None), true).await;
        insert(&store.database, new("b", "good", None), true).await;
        let round = relay.round().await.unwrap();
        assert_eq!((round.published, round.refused), (1, 1));
        relay.round().await.unwrap();
        assert_eq!(recorder.payloads(), ["good"]);
        assert_eq!(outbox::depth(&store.database, LANE).await.unwrap(), 2);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_waits_for_the_one_it_follows() {
    for store in stores().await {
        let recorder = Recorder::default();
        let first =
            insert(&store.database, NewMessage { lane: "other", ..new("a", "first", None) }, true).await;
        insert(&store.database, new("a", "second", Some(first)), true).await;
        let relay = relay(&store.database, &recorder);
        assert_eq!(relay.round().await.unwrap(), Round::default());
        let other = Relay::new(store.database.clone(), "other", recorder.clone(), RelaySettings::default());
        assert_eq!(other.round().await.unwrap().published, 1);
        assert_eq!(relay.round().await.unwrap().published, 1);
        assert_eq!(recorder.payloads(), ["first", "second"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_replicas_share_the_rows_without_breaking_the_order() {
    let stores = stores().await;
    let store = stores.iter().find(|store| store.database.kind() == "postgres").unwrap();
    let recorder = Recorder::default();
    let stop = CancellationToken::new();
    let running: Vec<_> =
        (0..2).map(|_| tokio::spawn(relay(&store.database, &recorder).run(stop.clone()))).collect();
    for n in 0..30 {
        for key in ["a", "b", "c", "d"] {
            insert(&store.database, new(key, &n.to_string(), None), true).await;
        }
    }
    eventually("all rows are published", DEADLINE, || async {
        let depth = outbox::depth(&store.database, LANE).await.unwrap();
        holds(depth == 0, format!("{depth} rows left"))
    })
    .await;
    stop.cancel();
    for task in running {
        task.await.unwrap();
    }
    let expected: Vec<String> = (0..30).map(|n| n.to_string()).collect();
    for key in ["a", "b", "c", "d"] {
        assert_eq!(recorder.by_key()[key], expected, "each once and in order, key {key}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outlives_the_death_of_postgresql() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Postgres::start().await;
    let database = Database::postgres(&server.url(), "plinth_test", &PoolSettings::default()).unwrap();
    database.migrate(&[OUTBOX]).await.unwrap();
    insert(&database, new("a", "kept", None), true).await;
    server.kill();
    let recorder = Recorder::default();
    let stop = CancellationToken::new();
    let running = tokio::spawn(relay(&database, &recorder).run(stop.clone()));
    assert!(database.ping().await.is_err());
    server.start_again().await;
    eventually("the row is published", DEADLINE, || async {
        holds(recorder.payloads() == ["kept"], format!("{:?}", recorder.payloads()))
    })
    .await;
    stop.cancel();
    running.await.unwrap();
    drop(folder);
}
