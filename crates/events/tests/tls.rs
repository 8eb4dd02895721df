//! PostgreSQL over TLS with a certificate of a private authority, and RabbitMQ, which is refused over TLS.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use jiff::Timestamp;
use plinth_events::sql::PoolSettings;
use plinth_events::{Database, Message, Publisher, Rabbit, RabbitSettings};
use plinth_testbed::postgres::Postgres;
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

/// The client library would take the scheme and speak plain text.
#[tokio::test]
async fn amqps_is_refused_before_a_byte_is_sent() {
    let broker = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("amqps://guest:guest@{}/%2f", broker.local_addr().unwrap());
    let error = Rabbit::new(RabbitSettings::new(url)).publish(&message()).await.expect_err("refused");
    assert!(error.to_string().contains("no TLS"), "{error}");
    let nobody = tokio::time::timeout(std::time::Duration::from_millis(50), broker.accept()).await;
    assert!(nobody.is_err(), "somebody connected");
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
