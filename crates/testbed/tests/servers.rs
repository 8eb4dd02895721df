//! The test servers themselves: each starts, dies and comes back on its address.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use plinth_testbed::chaos::{Mode, Proxy};
use plinth_testbed::consul::RealConsul;
use plinth_testbed::postgres::Postgres;
use plinth_testbed::rabbitmq::Rabbit;
use plinth_testbed::redis::Redis;
use plinth_testbed::upstream::Upstream;
use plinth_testbed::{eventually, http_client};
use tokio::net::TcpStream;

#[tokio::test]
async fn consul_keeps_its_data_when_killed() {
    let mut consul = RealConsul::start().await;
    let url = format!("http://{}/v1/kv/a", consul.addr);
    let put = http_client::send(http::Method::PUT, &url, &[], "1").await.unwrap();
    assert_eq!(put.body(), "true");
    consul.kill();
    assert!(TcpStream::connect(consul.addr).await.is_err());
    consul.start_again().await;
    let got = http_client::get(&format!("{url}?raw")).await.unwrap();
    assert_eq!(got.body(), "1");
}

#[tokio::test]
async fn postgres_redis_and_rabbitmq_start_die_and_come_back() {
    let (mut postgres, mut redis, mut rabbit) =
        tokio::join!(Postgres::start(), Redis::start(), Rabbit::start());
    postgres.kill();
    redis.kill();
    rabbit.kill();
    assert!(TcpStream::connect(redis.addr).await.is_err());
    assert!(TcpStream::connect(rabbit.addr).await.is_err());
    tokio::join!(postgres.start_again(), redis.start_again(), rabbit.start_again());
}

#[tokio::test]
async fn the_proxy_does_what_its_mode_says() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::start(upstream.addr).await;
    let url = format!("http://{}/", proxy.addr());
    assert_eq!(http_client::get(&url).await.unwrap().body(), "ok");
    proxy.set(Mode::Status500);
    assert_eq!(http_client::get(&url).await.unwrap().status(), 500);
    proxy.set(Mode::Reset);
    assert!(http_client::get(&url).await.is_err());
    proxy.set(Mode::ResetAfter(20));
    assert!(http_client::get(&url).await.is_err());
    proxy.set(Mode::BlackHole);
    assert!(tokio::time::timeout(Duration::from_millis(200), http_client::get(&url)).await.is_err());
    proxy.set(Mode::Refuse);
    eventually("refused", Duration::from_secs(2), || async {
        match TcpStream::connect(proxy.addr()).await {
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    proxy.set(Mode::Pass);
    eventually("passes again", Duration::from_secs(2), || http_client::get(&url)).await;
}
