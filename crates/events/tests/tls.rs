//! RabbitMQ and PostgreSQL over TLS, real servers with certificates of a private authority.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use jiff::Timestamp;
use plinth_events::sql::PoolSettings;
use plinth_events::{Database, Message, Publisher, Rabbit, RabbitSettings};
use plinth_testbed::postgres::Postgres;
use plinth_testbed::rabbitmq::Rabbit as Broker;
use plinth_testbed::tls::ServerFiles;

fn message() -> Message {
    Message {
        id: 1,
        ordering_key: "k".to_owned(),
        topic: "config.shop.changed".to_owned(),
        payload: "{}".to_owned(),
        created_at: Timestamp::now(),
        attempts: 0,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_over_amqps() {
    let broker = Broker::start_with_tls().await;
    let (url, ca) = broker.tls();
    let trusting = RabbitSettings { ca_cert: Some(ca.to_owned()), ..RabbitSettings::new(&url) };
    let rabbit = Rabbit::new(trusting.clone());
    rabbit.publish(&message()).await.expect("published over TLS");
    assert!(rabbit.is_connected().await);

    let unknown = Rabbit::new(RabbitSettings::new(&url));
    let error = unknown.publish(&message()).await.expect_err("nobody vouches for its certificate");
    assert!(format!("{error:?}").contains("ertificate"), "{error:?}");
    let folder = tempfile::tempdir().unwrap();
    let another = RabbitSettings { ca_cert: Some(ServerFiles::write(folder.path()).ca), ..trusting };
    assert!(Rabbit::new(another).publish(&message()).await.is_err(), "another authority");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_of_postgresql_with_a_verified_certificate() {
    let server = Postgres::start_with_tls().await;
    let folder = tempfile::tempdir().unwrap();
    let other = ServerFiles::write(folder.path()).ca;
    let open = |ca: &std::path::Path| {
        let url = format!("{}?sslmode=verify-full&sslrootcert={}", server.url(), ca.display());
        Database::postgres(&url, "plinth_config", &PoolSettings::default()).unwrap()
    };
    let database = open(server.ca());
    database.ping().await.unwrap();
    let Database::Postgres(postgres) = &database else { panic!("PostgreSQL") };
    let encrypted: bool = sqlx::query_scalar("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
        .fetch_one(&postgres.pool)
        .await
        .unwrap();
    assert!(encrypted);
    let error = open(&other).ping().await.expect_err("another authority");
    assert!(format!("{error:?}").contains("InvalidCertificate"), "{error:?}");
}
