//! Events on a real RabbitMQ, killed and started again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use futures_util::StreamExt;
use jiff::Timestamp;
use lapin::options::{BasicConsumeOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, ConnectionProperties};
use plinth_events::sql::{OUTBOX, PoolSettings};
use plinth_events::{
    CloudEvent, Database, EventPublisher, Message, NewMessage, PublishError, Publisher, Rabbit,
    RabbitSettings, Relay, RelaySettings, outbox,
};
use plinth_testbed::rabbitmq::Rabbit as Server;
use plinth_testbed::{eventually, holds};
use tokio_util::sync::CancellationToken;

async fn channel(server: &Server) -> (Connection, Channel) {
    let connection = Connection::connect(&server.url(), ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    (connection, channel)
}

async fn bind(channel: &Channel, pattern: &str) {
    let durable = QueueDeclareOptions { durable: true, ..Default::default() };
    channel.queue_declare("audit".into(), durable, FieldTable::default()).await.unwrap();
    channel
        .queue_bind(
            "audit".into(),
            "plinth.events".into(),
            pattern.into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        )
        .await
        .unwrap();
}

async fn add(database: &Database, n: u32) {
    let Database::Sqlite(sqlite) = database else { panic!("this test uses SQLite") };
    let event =
        CloudEvent::new("/test", "dev.plinth.test.v1", Timestamp::now(), serde_json::json!({ "n": n }));
    let mut transaction = sqlite.writer.begin().await.unwrap();
    let message = NewMessage {
        lane: "events",
        ordering_key: "k",
        topic: "config.shop.changed",
        payload: &event.to_json().unwrap(),
        after: None,
        created_at: Timestamp::now(),
    };
    outbox::insert_sqlite(&mut transaction, &message).await.unwrap();
    transaction.commit().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_event_arrives_although_the_broker_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let database = Database::sqlite(&folder.path().join("e.db"), &PoolSettings::default()).await.unwrap();
    database.migrate(&[OUTBOX]).await.unwrap();
    let mut server = Server::start().await;
    let rabbit = Rabbit::new(RabbitSettings::new(server.url()));

    // Without a queue the broker has nobody to give it to: it counts as delivered, and is counted.
    let lost = Message {
        id: 0,
        ordering_key: "k".into(),
        topic: "nobody".into(),
        payload: "{}".into(),
        created_at: Timestamp::now(),
        attempts: 0,
    };
    rabbit.publish(&lost).await.unwrap();
    assert_eq!(rabbit.unroutable(), 1);

    let (_connection, setup) = channel(&server).await;
    bind(&setup, "config.#").await;

    let stop = CancellationToken::new();
    let settings = RelaySettings { interval: Duration::from_millis(50), ..RelaySettings::default() };
    let relay = Relay::new(database.clone(), "events", EventPublisher::Rabbit(rabbit.clone()), settings);
    let running = tokio::spawn(relay.run(stop.clone()));
    for n in 0..10 {
        add(&database, n).await;
    }
    eventually("the first ten are confirmed", Duration::from_secs(30), || async {
        let depth = outbox::depth(&database, "events").await.unwrap();
        holds(depth == 0, format!("{depth} rows left"))
    })
    .await;

    server.kill();
    for n in 10..20 {
        add(&database, n).await;
    }
    assert!(matches!(rabbit.publish(&lost).await, Err(PublishError::Unavailable(_))));
    assert_eq!(outbox::depth(&database, "events").await.unwrap(), 10, "rows stay while the broker is down");

    server.start_again().await;
    eventually("the rest is confirmed", Duration::from_secs(60), || async {
        let depth = outbox::depth(&database, "events").await.unwrap();
        holds(depth == 0, format!("{depth} rows left"))
    })
    .await;
    stop.cancel();
    running.await.unwrap();

    let (_connection, reader) = channel(&server).await;
    let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
    let mut consumer =
        reader.basic_consume("audit".into(), "t".into(), options, FieldTable::default()).await.unwrap();
    let mut seen: Vec<u64> = Vec::new();
    while seen.last() != Some(&19) {
        let delivery = tokio::time::timeout(Duration::from_secs(10), consumer.next()).await.unwrap();
        let event = CloudEvent::parse(&delivery.unwrap().unwrap().data).unwrap();
        seen.push(event.data.unwrap()["n"].as_u64().unwrap());
    }
    seen.dedup();
    assert_eq!(seen, (0..20).collect::<Vec<u64>>(), "all, in order; a repeat is allowed");
}
