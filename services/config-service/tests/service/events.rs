//! Events on RabbitMQ, killed and brought back.

use std::time::Duration;

use futures_util::StreamExt;
use lapin::options::{BasicConsumeOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties, ExchangeKind};
use plinth_events::CloudEvent;
use plinth_testbed::rabbitmq::Rabbit;

use crate::support::{Consul, Service};

crate::on_both! { rabbitmq_killed_and_back }

async fn bind(url: &str) {
    let connection = Connection::connect(url, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let topic = ExchangeDeclareOptions { durable: true, ..Default::default() };
    let exchange = "plinth.events";
    channel
        .exchange_declare(exchange.into(), ExchangeKind::Topic, topic, FieldTable::default())
        .await
        .unwrap();
    let durable = QueueDeclareOptions { durable: true, ..Default::default() };
    channel.queue_declare("audit".into(), durable, FieldTable::default()).await.unwrap();
    let options = QueueBindOptions::default();
    let pattern = "config.shop_eu.prod.*";
    channel
        .queue_bind("audit".into(), exchange.into(), pattern.into(), options, FieldTable::default())
        .await
        .unwrap();
}

async fn rabbitmq_killed_and_back(consul: Consul) {
    let folder = tempfile::tempdir().unwrap();
    let mut rabbit = Rabbit::start().await;
    let url = rabbit.url();
    bind(&url).await;
    let service = Service::start(consul.addr(), folder.path(), "config", &["--events-url", &url]).await;
    for n in 1..=5 {
        service.put("shop.eu/prod/k", &n.to_string()).await;
    }
    rabbit.kill();
    for n in 6..=10 {
        service.put("shop.eu/prod/k", &n.to_string()).await.expect(200);
    }
    service.call(http::Method::DELETE, "/api/v1/config/shop.eu/prod/k", &[], "").await.expect(204);
    rabbit.start_again().await;

    let connection = Connection::connect(&url, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
    let mut consumer =
        channel.basic_consume("audit".into(), "t".into(), options, FieldTable::default()).await.unwrap();
    let mut revisions: Vec<u64> = Vec::new();
    while revisions.last() != Some(&11) {
        let delivery = tokio::time::timeout(Duration::from_secs(20), consumer.next()).await;
        let delivery = delivery.unwrap_or_else(|_| panic!("only {revisions:?} arrived")).unwrap().unwrap();
        let event = CloudEvent::parse(&delivery.data).unwrap();
        assert_eq!(event.source, "/plinth/config-service");
        assert_eq!(event.subject.as_deref(), Some("shop.eu/prod/k"));
        let data = event.data.unwrap();
        assert!(data.get("value").is_none(), "values stay with those who may read them");
        let revision = data["revision"].as_u64().unwrap();
        let expected =
            if revision == 11 { "dev.plinth.config.deleted.v1" } else { "dev.plinth.config.changed.v1" };
        assert_eq!(event.kind, expected);
        revisions.push(revision);
    }
    revisions.dedup();
    assert_eq!(revisions, (1..=11).collect::<Vec<u64>>(), "all, in order; a repeat is allowed");
}
