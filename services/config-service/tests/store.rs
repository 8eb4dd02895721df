//! One suite for both stores: what the service relies on holds on SQLite and on PostgreSQL.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;

use config_service::domain::item::now;
use config_service::domain::{Action, Change, ItemId, JsonText, Key, Kind, Precondition, Refusal, Scope};
use config_service::store::{self, EVENT_LANE, KV_LANE, Publication, STEPS, Store, Written};
use plinth_events::sql::PoolSettings;
use plinth_events::{CloudEvent, Database, Message, PublishError, Publisher, Relay, RelaySettings, outbox};
use plinth_testbed::postgres::Postgres;

struct Subject {
    database: Database,
    store: Arc<dyn Store>,
    _folder: tempfile::TempDir,
    _server: Option<Postgres>,
}

async fn subject(database: Database, folder: tempfile::TempDir, server: Option<Postgres>) -> Subject {
    database.migrate(STEPS).await.unwrap();
    let store = store::open(&database);
    Subject { database, store, _folder: folder, _server: server }
}

async fn subjects() -> Vec<Subject> {
    let folder = tempfile::tempdir().unwrap();
    let pool = PoolSettings::default();
    let sqlite = Database::sqlite(&folder.path().join("config.db"), &pool).await.unwrap();
    let server = Postgres::start().await;
    let postgres = Database::postgres(&server.url(), "plinth_config", &pool).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    vec![subject(sqlite, folder, None).await, subject(postgres, elsewhere, Some(server)).await]
}

fn id(key: &str) -> ItemId {
    ItemId { scope: Scope::parse("shop", "prod").unwrap(), key: Key::parse(key).unwrap() }
}

fn change(key: &str, action: Action, precondition: Precondition) -> Change {
    Change { id: id(key), action, precondition, author: "ann".into(), at: now() }
}

fn put(key: &str, value: &str, precondition: Precondition) -> Change {
    let value = JsonText::parse(value).unwrap();
    change(key, Action::Put { value, description: Some(Some("why".into())) }, precondition)
}

fn revision(written: Written) -> u64 {
    match written {
        Written::Appended { revision, .. } => revision.revision,
        other => panic!("nothing appended: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keeps_every_revision() {
    for Subject { store, .. } in &subjects().await {
        assert_eq!(store.head(&id("k")).await.unwrap(), None);
        let first = put("k", "{\"a\": 1.10}", Precondition::Absent);
        assert_eq!(revision(store.write(&first).await.unwrap()), 1);
        assert_eq!(revision(store.write(&put("k", "2", Precondition::Revisions(vec![1]))).await.unwrap()), 2);
        let gone = store.write(&change("k", Action::Delete, Precondition::None)).await.unwrap();
        assert!(matches!(gone, Written::Appended { before: Some(2), .. }), "{gone:?}");
        assert_eq!(revision(store.write(&put("k", "4", Precondition::Absent)).await.unwrap()), 4);

        let history = store.history(&id("k"), None, 10).await.unwrap();
        let steps: Vec<_> = history.iter().map(|r| (r.revision, r.kind)).collect();
        assert_eq!(steps, [(4, Kind::Put), (3, Kind::Delete), (2, Kind::Put), (1, Kind::Put)]);
        let oldest = &history[3];
        assert_eq!(oldest.value.as_ref().unwrap().as_str(), "{\"a\": 1.10}", "not one byte differs");
        assert_eq!((oldest.created_at, oldest.item_created_at), (first.at, first.at));
        assert_eq!((oldest.author.as_str(), oldest.description.as_deref()), ("ann", Some("why")));
        assert_eq!(history[1].value, None);
        let page = store.history(&id("k"), Some(3), 1).await.unwrap();
        assert_eq!(page.iter().map(|r| r.revision).collect::<Vec<_>>(), [2]);
        assert_eq!(store.head(&id("k")).await.unwrap().as_ref(), Some(&history[0]));
        assert_eq!(store.revision(&id("k"), 1).await.unwrap().as_ref(), Some(oldest));
        assert_eq!(store.revision(&id("k"), 9).await.unwrap(), None);
        let heads = store.heads().await.unwrap();
        assert_eq!(heads.iter().map(|h| (h.revision, h.deleted)).collect::<Vec<_>>(), [(4, false)]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_leave_no_trace() {
    for Subject { store, database, .. } in &subjects().await {
        let refused = store.write(&put("k", "1", Precondition::Exists)).await.unwrap();
        assert_eq!(refused, Written::Refused(Refusal::Precondition { current: None }));
        let refused = store.write(&change("k", Action::Delete, Precondition::None)).await.unwrap();
        assert_eq!(refused, Written::Refused(Refusal::NotFound));
        assert!(store.heads().await.unwrap().is_empty());
        assert_eq!(outbox::depth(database, KV_LANE).await.unwrap(), 0);
        store.write(&put("k", "1", Precondition::None)).await.unwrap();
        let again = store.write(&put("k", "1", Precondition::None)).await.unwrap();
        assert!(matches!(again, Written::Unchanged(_)), "{again:?}");
        assert_eq!(outbox::depth(database, KV_LANE).await.unwrap(), 1);
        assert_eq!(outbox::depth(database, EVENT_LANE).await.unwrap(), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_many_writers_wins_each_revision() {
    for Subject { store, .. } in &subjects().await {
        store.write(&put("k", "0", Precondition::Absent)).await.unwrap();
        for round in 1..=5 {
            let writers: Vec<_> = (0..6)
                .map(|writer| {
                    let store = store.clone();
                    let value = format!("\"{round}-{writer}\"");
                    tokio::spawn(async move {
                        store.write(&put("k", &value, Precondition::Revisions(vec![round]))).await.unwrap()
                    })
                })
                .collect();
            let mut winners = 0;
            for writer in writers {
                match writer.await.unwrap() {
                    Written::Appended { revision, .. } => {
                        assert_eq!(revision.revision, round + 1);
                        winners += 1;
                    }
                    Written::Refused(Refusal::Precondition { current }) => {
                        assert_eq!(current, Some(round + 1))
                    }
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!(winners, 1);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn adoption_gives_way_to_what_is_on_its_way() {
    for Subject { store, database, .. } in &subjects().await {
        let adopt = |expected_head| {
            let value = JsonText::parse("9").unwrap();
            change("k", Action::Adopt { value, flags: 7, expected_head }, Precondition::None)
        };
        store.write(&put("k", "1", Precondition::None)).await.unwrap();
        assert!(store.is_pending(&id("k")).await.unwrap());
        assert_eq!(store.write(&adopt(Some(1))).await.unwrap(), Written::Refused(Refusal::Superseded));
        drain(database, KV_LANE).await;
        assert!(!store.is_pending(&id("k")).await.unwrap());
        assert_eq!(store.write(&adopt(None)).await.unwrap(), Written::Refused(Refusal::Superseded));
        assert_eq!(revision(store.write(&adopt(Some(1))).await.unwrap()), 8, "above what KV carried");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn notes_what_arrived_in_kv() {
    for Subject { store, .. } in &subjects().await {
        store.write(&put("k", "1", Precondition::None)).await.unwrap();
        store.write(&put("k", "2", Precondition::None)).await.unwrap();
        assert_eq!(store.published_at(&id("k"), 1).await.unwrap(), None);
        store.set_published(&id("k"), 2, 70).await.unwrap();
        assert_eq!(store.published_at(&id("k"), 1).await.unwrap(), Some(70), "the later one counts for both");
        assert_eq!(store.published_at(&id("k"), 3).await.unwrap(), None);
        assert_eq!(store.head(&id("k")).await.unwrap().unwrap().published_index, Some(70));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_event_follows_the_publication() {
    for Subject { store, database, .. } in &subjects().await {
        store.write(&put("k", "\"secret\"", Precondition::None)).await.unwrap();
        assert!(drain(database, EVENT_LANE).await.is_empty(), "not before it is in KV");
        let publications = drain(database, KV_LANE).await;
        let publication: Publication = serde_json::from_str(&publications[0].payload).unwrap();
        assert_eq!((publication.id().unwrap(), publication.revision), (id("k"), 1));
        let events = drain(database, EVENT_LANE).await;
        assert_eq!(events[0].topic, "config.shop.prod.changed");
        let event = CloudEvent::parse(events[0].payload.as_bytes()).unwrap();
        assert_eq!(event.subject.as_deref(), Some("shop/prod/k"));
        assert!(!events[0].payload.contains("secret"), "events carry no values");
    }
}

/// Takes what is ready in a lane.
async fn drain(database: &Database, lane: &'static str) -> Vec<Message> {
    #[derive(Clone, Default)]
    struct Sink(Arc<std::sync::Mutex<Vec<Message>>>);
    impl Publisher for Sink {
        async fn publish(&self, message: &Message) -> Result<(), PublishError> {
            self.0.lock().unwrap().push(message.clone());
            Ok(())
        }
    }
    let sink = Sink::default();
    let relay = Relay::new(database.clone(), lane, sink.clone(), RelaySettings::default());
    while relay.round().await.unwrap().published > 0 {}
    drop(relay);
    std::mem::take(&mut *sink.0.lock().unwrap())
}
