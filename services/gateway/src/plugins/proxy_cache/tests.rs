use std::time::Duration;

use plinth_testbed::eventually;
use plinth_testbed::redis::Redis;

use super::super::tests::{Gateway, replies};
use super::*;
use crate::context::Timing;

const ROUTE: &str = "services: [{host: h, routes: [{name: r, paths: [/]}, {name: q, paths: [/q]}]}]\n";

struct Cache {
    gateway: Gateway,
    now: SystemTime,
}

fn cache(config: &str) -> Cache {
    let text = format!(
        "{ROUTE}plugins:
- {{name: key-auth, config: {{anonymous: guest}}}}
- {{name: proxy-cache, config: {{{config}}}}}
consumers: [{{username: a, keyauth_credentials: [{{key: a}}]}}, {{username: guest}}]"
    );
    Cache { gateway: Gateway::new(&text), now: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000) }
}

/// A request, and what the client is told about the cache.
struct Asked {
    method: &'static str,
    uri: String,
    headers: Vec<(&'static str, &'static str)>,
}

fn get(uri: &str) -> Asked {
    Asked { method: "GET", uri: uri.to_owned(), headers: Vec::new() }
}

impl Asked {
    fn with(mut self, name: &'static str, value: &'static str) -> Asked {
        self.headers.push((name, value));
        self
    }
}

impl Cache {
    /// `Hit body` from the cache, else the status after the upstream answered with these headers.
    async fn ask(&self, asked: Asked, answer: &[(&'static str, &str)]) -> String {
        let method = asked.method.parse().unwrap();
        let mut ctx = self.gateway.request(method, &asked.uri, &asked.headers);
        ctx.timing = Timing { started_at: self.now, ..Timing::start() };
        let said = |headers: &HeaderMap| {
            headers.get(STATUS).map_or("-", |status| status.to_str().unwrap()).to_owned()
        };
        if let Some(early) = self.gateway.access(&mut ctx).await {
            let EarlyBody::Kept(body) = &early.body else { return early.status.as_u16().to_string() };
            return format!("{} {}", said(&replies(&ctx)), String::from_utf8_lossy(body));
        }
        ctx.outcome.source = Source::Upstream;
        let status = answer.iter().find(|(name, _)| *name == "status").map_or("200", |(_, status)| status);
        ctx.outcome.upstream_status = Some(status.parse().unwrap());
        let (mut head, ()) = http::Response::builder().status(status).body(()).unwrap().into_parts();
        ctx.reply_headers.move_to(&mut head.headers);
        for (name, value) in answer.iter().filter(|(name, _)| !matches!(*name, "status" | "body")) {
            head.headers.append(*name, value.parse().unwrap());
        }
        if !head.headers.contains_key("content-type") {
            head.headers.insert("content-type", HeaderValue::from_static("text/plain"));
        }
        self.gateway.compiled.chain(0).header(&mut ctx, &mut head);
        if let Some(mut tap) = ctx.bodies.tap.take() {
            let body = answer.iter().find(|(name, _)| *name == "body").map_or("x", |(_, body)| body);
            tap.data(&Bytes::from(body.to_owned()));
            tap.end(true);
        }
        said(&head.headers)
    }
}

#[tokio::test]
async fn answers_are_kept_for_their_time() {
    let mut cache = cache("strategy: memory, cache_ttl: 10");
    assert_eq!(cache.ask(get("/a"), &[("body", "one")]).await, "Miss");
    assert_eq!(cache.ask(get("/a"), &[]).await, "Hit one");
    cache.now += Duration::from_secs(9);
    assert_eq!(cache.ask(get("/a"), &[]).await, "Hit one");
    cache.now += Duration::from_secs(2);
    assert_eq!(cache.ask(get("/a"), &[("body", "two")]).await, "Miss");
    assert_eq!(cache.ask(get("/a"), &[]).await, "Hit two");
}

#[tokio::test]
async fn entries_kept_longer_than_they_are_fresh_are_refreshed() {
    let mut cache = cache("strategy: memory, cache_ttl: 10, storage_ttl: 100");
    assert_eq!(cache.ask(get("/a"), &[("body", "one")]).await, "Miss");
    cache.now += Duration::from_secs(11);
    assert_eq!(cache.ask(get("/a"), &[("body", "two")]).await, "Refresh");
    assert_eq!(cache.ask(get("/a"), &[]).await, "Hit two");
}

#[tokio::test]
async fn only_what_is_configured_is_kept() {
    let text = ("content-type", "text/plain");
    for (asked, answer, first, second) in [
        (get("/"), vec![text], "Miss", "Hit x"),
        (Asked { method: "HEAD", ..get("/") }, vec![text], "Miss", "Hit x"),
        (Asked { method: "POST", ..get("/") }, vec![text], "Bypass", "Bypass"),
        (get("/"), vec![("status", "404")], "Miss", "Hit x"),
        (get("/"), vec![("status", "500")], "Bypass", "Bypass"),
        (get("/"), vec![("content-type", "application/json")], "Miss", "Hit x"),
        (get("/"), vec![("content-type", "application/json; charset=utf-8")], "Bypass", "Bypass"),
        (get("/"), vec![text, ("content-type", "text/html")], "Bypass", "Bypass"),
        // Without cache_control, Cache-Control means nothing.
        (get("/").with("cache-control", "no-store"), vec![("cache-control", "private")], "Miss", "Hit x"),
    ] {
        let cache = cache("strategy: memory");
        let again = || Asked { method: asked.method, uri: asked.uri.clone(), headers: asked.headers.clone() };
        let found = cache.ask(again(), &answer).await;
        // What was not kept says so once the upstream has answered.
        assert_eq!(if found == "Miss" { "Miss" } else { "Bypass" }, first, "{} {answer:?}", asked.method);
        assert_eq!(cache.ask(again(), &answer).await, second, "{} {answer:?}", asked.method);
    }
}

#[tokio::test]
async fn cache_control_is_followed_when_it_is_to_be() {
    let minute = ("cache-control", "max-age=60");
    for (asked, answer, first, second) in [
        (get("/"), vec![minute], "Miss", "Hit x"),
        (get("/"), vec![], "Bypass", "Bypass"),
        (get("/"), vec![("cache-control", "max-age=0")], "Bypass", "Bypass"),
        (get("/"), vec![("cache-control", "private, max-age=60")], "Bypass", "Bypass"),
        (get("/"), vec![("cache-control", "no-store, max-age=60")], "Bypass", "Bypass"),
        (get("/"), vec![("cache-control", "no-cache, max-age=60")], "Bypass", "Bypass"),
        (get("/"), vec![("cache-control", "s-maxage=60")], "Miss", "Hit x"),
        (get("/"), vec![("expires", "Tue, 14 Nov 2023 23:00:00 GMT")], "Miss", "Hit x"),
        (get("/").with("cache-control", "no-store"), vec![minute], "Bypass", "Bypass"),
        (get("/").with("cache-control", "no-cache"), vec![minute], "Bypass", "Bypass"),
        (get("/").with("authorization", "Basic x"), vec![minute], "Bypass", "Bypass"),
        (get("/").with("cache-control", "only-if-cached"), vec![minute], "504", "504"),
    ] {
        let cache = cache("strategy: memory, cache_control: true");
        let again = || Asked { method: asked.method, uri: asked.uri.clone(), headers: asked.headers.clone() };
        assert_eq!(cache.ask(again(), &answer).await, first, "{:?} {answer:?}", asked.headers);
        assert_eq!(cache.ask(again(), &answer).await, second, "{:?} {answer:?}", asked.headers);
    }
    let mut cache = cache("strategy: memory, cache_control: true, storage_ttl: 1000");
    assert_eq!(cache.ask(get("/"), &[minute]).await, "Miss");
    cache.now += Duration::from_secs(30);
    assert_eq!(cache.ask(get("/").with("cache-control", "max-age=30"), &[]).await, "Hit x");
    assert_eq!(cache.ask(get("/").with("cache-control", "min-fresh=30"), &[]).await, "Hit x");
    assert_eq!(cache.ask(get("/").with("cache-control", "only-if-cached"), &[]).await, "Hit x");
    cache.now += Duration::from_secs(40);
    assert_eq!(cache.ask(get("/").with("cache-control", "max-stale=10"), &[]).await, "Hit x");
    for asked in ["max-age=30", "min-fresh=1", "max-stale=9"] {
        // Nothing new is kept: the answers may not be.
        assert_eq!(cache.ask(get("/").with("cache-control", asked), &[]).await, "Bypass", "{asked}");
    }
}

#[tokio::test]
async fn what_requests_have_in_common() {
    for (config, one, other, same) in [
        ("", get("/a?x=1&y=2"), get("/a?y=2&x=1"), true),
        ("", get("/a?x=1"), get("/a?x=2"), false),
        ("", get("/a?x=1"), get("/a"), false),
        ("", get("/a?x"), get("/a?x="), false),
        ("", get("/a"), get("/b"), false),
        ("", get("/a"), get("/A"), false),
        (", ignore_uri_case: true", get("/a"), get("/A"), true),
        (", vary_query_params: [x]", get("/a?x=1&y=1"), get("/a?x=1&y=2"), true),
        (", vary_query_params: [x]", get("/a?x=1"), get("/a?x=2"), false),
        ("", get("/a").with("x-a", "1"), get("/a").with("x-a", "2"), true),
        (", vary_headers: [X-A]", get("/a").with("x-a", "1"), get("/a").with("x-a", "2"), false),
        (", vary_headers: [X-A]", get("/a").with("x-a", "1"), get("/a").with("x-a", "1"), true),
        ("", get("/a").with("apikey", "a"), get("/a"), false),
        ("", get("/a"), Asked { method: "HEAD", ..get("/a") }, false),
    ] {
        let cache = cache(&format!("strategy: memory{config}"));
        let shown = format!("{config} {} {:?} {} {:?}", one.uri, one.headers, other.uri, other.headers);
        assert_eq!(cache.ask(one, &[]).await, "Miss", "{shown}");
        assert_eq!(cache.ask(other, &[]).await, if same { "Hit x" } else { "Miss" }, "{shown}");
    }
}

#[tokio::test]
async fn what_broke_off_is_not_kept() {
    let cache = cache("strategy: memory");
    let mut ctx = cache.gateway.get("/", &[]);
    cache.gateway.access(&mut ctx).await;
    (ctx.outcome.source, ctx.outcome.upstream_status) = (Source::Upstream, Some(StatusCode::OK));
    cache.gateway.answer(&mut ctx, &[("content-type", "text/plain")]);
    let mut tap = ctx.bodies.tap.take().unwrap();
    tap.data(&Bytes::from_static(b"half"));
    tap.end(false);
    assert_eq!(cache.ask(get("/"), &[]).await, "Miss");
}

#[test]
fn bodies_are_put_together() {
    let mut whole = Whole::default();
    for part in ["", "ab", "", "cd", "e"] {
        whole.add(&Bytes::from(part));
    }
    assert_eq!(whole.finish().unwrap(), "abcde");
    let mut large = Whole::default();
    large.add(&Bytes::from(vec![0; MOST]));
    large.add(&Bytes::from_static(b"x"));
    large.add(&Bytes::from_static(b"y"));
    assert_eq!(large.finish(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateways_share_answers_in_redis_and_go_on_without_it() {
    let mut redis = Redis::start().await;
    let config = format!("strategy: redis, redis: {{host: 127.0.0.1, port: {}}}", redis.addr.port());
    let (one, other) = (cache(&config), cache(&config));
    eventually("the other has it", Duration::from_secs(10), || async {
        one.ask(get("/"), &[("body", "shared")]).await;
        let found = other.ask(get("/"), &[("status", "500")]).await;
        if found == "Hit shared" { Ok(()) } else { Err(found) }
    })
    .await;
    redis.kill();
    eventually("the upstream is asked", Duration::from_secs(10), || async {
        let found = other.ask(get("/"), &[]).await;
        if found == "Miss" { Ok(()) } else { Err(found) }
    })
    .await;
}
