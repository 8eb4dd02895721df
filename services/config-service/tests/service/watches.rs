//! Long polls and event streams.

use std::time::{Duration, Instant};

use http::Method;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpStream;

use crate::support::{Consul, DEADLINE, Service};

crate::on_both! { a_long_poll_wakes_for_its_item_only a_minimum_index_is_waited_for streams_send_whole_states }

async fn a_long_poll_wakes_for_its_item_only(consul: Consul) {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(consul.addr(), folder.path(), "config", &[]).await;
    let first = service.put("shop/prod/k", "1").await.expect(201);
    let index = first.index();

    let quiet = Instant::now();
    service.put("shop/prod/other", "1").await.expect(201);
    let same = service.get(&format!("/api/v1/config/shop/prod/k?index={index}&wait=300ms")).await.expect(200);
    assert!(quiet.elapsed() >= Duration::from_millis(300), "another item's change does not wake");
    assert_eq!(same.body["value"], 1);

    let path = format!("/api/v1/config/shop/prod/k?index={}&wait=20s", same.index());
    let (woken, changed) = tokio::join!(service.get(&path), service.put("shop/prod/k", "2"));
    assert_eq!(woken.expect(200).body["value"], 2);

    let index = changed.expect(200).index();
    let path = format!("/api/v1/config/shop/prod/k?index={index}&wait=20s");
    let item = "/api/v1/config/shop/prod/k";
    let (woken, deleted) = tokio::join!(service.get(&path), service.call(Method::DELETE, item, &[], ""));
    let gone = woken.expect(404).index();
    deleted.expect(204);

    let path = format!("/api/v1/config/shop/prod?prefix=k&index={gone}&wait=20s");
    let (woken, _) = tokio::join!(service.get(&path), service.put("shop/prod/k", "3"));
    assert_eq!(woken.expect(200).body["items"][0]["value"], 3);
}

async fn a_minimum_index_is_waited_for(consul: Consul) {
    let folder = tempfile::tempdir().unwrap();
    let service =
        Service::start(consul.addr(), folder.path(), "config", &["--read-index-wait", "200ms"]).await;
    let index = service.put("shop/prod/k", "1").await.expect(201).index();
    service.get(&format!("/api/v1/config/shop/prod/k?index={index}")).await.expect(200);
    let ahead = service.get(&format!("/api/v1/config/shop/prod/k?index={}", index + 1000)).await.expect(503);
    assert_eq!(ahead.headers["retry-after"], "1");
}

/// Lines of an event stream.
pub struct Stream(Lines<BufReader<TcpStream>>);

impl Stream {
    pub async fn open(service: &Service, path: &str) -> Self {
        let host = service.base.strip_prefix("http://").unwrap();
        let mut connection = TcpStream::connect(host).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n");
        connection.write_all(request.as_bytes()).await.unwrap();
        Self(BufReader::new(connection).lines())
    }

    /// Id and data of the next event; `None` at the stream's end.
    pub async fn next(&mut self) -> Option<(u64, Value)> {
        let mut id = None;
        let read = async {
            while let Ok(Some(line)) = self.0.next_line().await {
                if let Some(text) = line.strip_prefix("id: ") {
                    id = text.parse().ok();
                } else if let Some(text) = line.strip_prefix("data: ") {
                    return Some((id.unwrap(), serde_json::from_str(text).unwrap()));
                }
            }
            None
        };
        tokio::time::timeout(DEADLINE, read).await.expect("an event")
    }

    /// Panics unless the stream ends with the last chunk: the end of the answer, not a cut connection.
    pub async fn ends(mut self) {
        let read = async {
            let mut lines = Vec::new();
            while let Some(line) = self.0.next_line().await.unwrap() {
                lines.push(line);
            }
            lines
        };
        let lines = tokio::time::timeout(DEADLINE, read).await.expect("the stream's end");
        assert_eq!(lines.iter().rfind(|line| !line.is_empty()).map(String::as_str), Some("0"), "{lines:?}");
    }
}

async fn streams_send_whole_states(consul: Consul) {
    let folder = tempfile::tempdir().unwrap();
    let mut service = Service::start(consul.addr(), folder.path(), "config", &[]).await;
    service.put("shop/prod/a", "0").await.expect(201);
    let mut streams = Vec::new();
    for _ in 0..5 {
        let mut stream = Stream::open(&service, "/api/v1/watch/shop/prod").await;
        let (_, first) = stream.next().await.unwrap();
        assert_eq!(first["items"][0]["value"], 0, "the state comes at once");
        streams.push(stream);
    }
    for n in 1..=20 {
        service.put("shop/prod/a", &n.to_string()).await.expect(200);
        service.put("elsewhere/prod/a", &n.to_string()).await;
    }
    for stream in &mut streams {
        let (mut last_index, mut last_value) = (0, 0);
        while last_value < 20 {
            let (index, state) = stream.next().await.unwrap();
            assert_eq!(state["index"], index);
            assert_eq!(state["items"].as_array().unwrap().len(), 1, "whole, and of this scope only");
            let value = state["items"][0]["value"].as_u64().unwrap();
            assert!(index > last_index && value > last_value, "never backwards, no noise");
            (last_index, last_value) = (index, value);
        }
    }
    // The shutdown ends streams instead of waiting for them.
    assert!(service.process.terminate(Duration::from_secs(5)).success());
    for stream in streams {
        stream.ends().await;
    }
}
