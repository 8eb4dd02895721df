//! What waiters see of an orderly stop.

use std::time::{Duration, Instant};

use plinth_testbed::{eventually, holds, http_client};

use crate::support::{Consul, DEADLINE, Service};
use crate::watches::Stream;

crate::on_both! { waiters_get_a_proper_end }

const STREAMS: usize = 5;

/// The gauge as `/metrics` shows it, whatever labels it carries.
async fn watchers(service: &Service) -> Result<usize, String> {
    let answer = http_client::get(&format!("{}/metrics", service.base)).await.map_err(|e| e.to_string())?;
    let text = String::from_utf8(answer.into_body().to_vec()).unwrap();
    let line = text.lines().find(|line| line.starts_with("config_watchers"));
    let figure = line.and_then(|line| line.rsplit(' ').next()?.parse().ok());
    figure.ok_or_else(|| format!("no gauge, but {line:?}"))
}

async fn waiters_get_a_proper_end(consul: Consul) {
    let folder = tempfile::tempdir().unwrap();
    let mut service = Service::start(consul.addr(), folder.path(), "config", &[]).await;
    service.put("shop/prod/k", "1").await.expect(201);
    let index = service.put("shop/prod/other", "1").await.expect(201).index();

    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        let mut stream = Stream::open(&service, "/api/v1/watch/shop/prod?prefix=k").await;
        stream.next().await.unwrap();
        streams.push(stream);
    }
    let polls: Vec<_> = [("shop/prod/k", 200), ("shop/prod/missing", 404), ("shop/prod?prefix=k", 200)]
        .into_iter()
        .map(|(what, status)| {
            let separator = if what.contains('?') { '&' } else { '?' };
            let url = format!("{}/api/v1/config/{what}{separator}index={index}&wait=10m", service.base);
            (status, tokio::spawn(async move { http_client::get(&url).await }))
        })
        .collect();
    let expected = STREAMS + polls.len();
    eventually("all waiters wait", DEADLINE, || async {
        let found = watchers(&service).await?;
        holds(found == expected, format!("{found} of {expected}"))
    })
    .await;

    let begin = Instant::now();
    assert!(service.process.terminate(Duration::from_secs(5)).success(), "{}", service.process.output());
    assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
    for (status, poll) in polls {
        let answer = poll.await.unwrap().expect("an answer instead of a cut connection");
        assert_eq!(answer.status(), status);
        assert!(answer.headers()["x-plinth-index"].to_str().unwrap().parse::<u64>().unwrap() >= index);
    }
    for stream in streams {
        stream.ends().await;
    }
    assert!(!service.process.output().contains("cutting off"), "{}", service.process.output());
}
