//! Consul and the service killed and brought back: an acknowledged write is never lost.

use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use plinth_testbed::{eventually, holds};
use serde_json::json;

use crate::support::{Consul, DEADLINE, Service, spawn};

crate::on_both! {
    consul_killed_and_back
    crash_between_commit_and_publication
    crash_under_load_loses_no_acknowledged_write
    edits_of_others_are_recorded
    what_consul_loses_is_written_again
    only_one_service_on_sqlite
}

/// Shorter than for the other tests: accepted writes are waited for while Consul is away.
const FAST: &[&str] = &["--write-publish-wait", "4s"];

async fn consul_killed_and_back(mut consul: Consul) {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(consul.addr(), folder.path(), "config", FAST).await;
    service.put("shop/prod/k", "1").await.expect(201);
    consul.kill().await;
    eventually("the snapshot ages", DEADLINE, || async {
        let answer = service.get("/api/v1/config/shop/prod/k").await.expect(200);
        assert_eq!(answer.body["value"], 1, "the last good state is served");
        let age = answer.headers["x-plinth-snapshot-age"].to_str().unwrap().to_owned();
        holds(age != "0", format!("age {age}"))
    })
    .await;
    let accepted = service.put("shop/prod/k", "2").await.expect(202);
    assert_eq!((accepted.etag(), &accepted.body["modify_index"]), ("\"2\"", &json!(null)));
    service.put("shop/prod/new", "\"x\"").await.expect(202);
    let stale = service
        .call(Method::PUT, "/api/v1/config/shop/prod/k", &[("if-match", "\"1\"")], "{\"value\":9}")
        .await;
    stale.expect(412);
    let deleted = service.call(Method::DELETE, "/api/v1/config/shop/prod/new", &[], "").await;
    deleted.expect(202);
    service.get("/health/ready").await.expect(200);
    assert_eq!(service.value("shop/prod/k").await, 1, "not current before it is in Consul");

    consul.start_again().await;
    eventually("the accepted writes arrive", DEADLINE, || async {
        let seen = service.value("shop/prod/k").await;
        holds(seen == 2, format!("{seen}"))
    })
    .await;
    assert_eq!(consul.kv("shop/prod/k").await, Some((2, "2".into())));
    assert_eq!(consul.kv("shop/prod/new").await, None);
    service.put("shop/prod/k", "3").await.expect(200);
}

async fn crash_between_commit_and_publication(mut consul: Consul) {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(consul.addr(), folder.path(), "config", FAST).await;
    service.put("shop/prod/k", "1").await.expect(201);
    service.put("shop/prod/doomed", "1").await.expect(201);
    consul.kill().await;
    service.put("shop/prod/k", "2").await.expect(202);
    service.put("shop/prod/k", "3").await.expect(202);
    service.call(Method::DELETE, "/api/v1/config/shop/prod/doomed", &[], "").await.expect(202);
    service.kill();
    consul.start_again().await;
    assert_eq!(
        consul.kv("shop/prod/k").await,
        Some((1, "1".into())),
        "nothing was published before the crash"
    );

    let service = Service::start(consul.addr(), folder.path(), "config", FAST).await;
    eventually("the restarted service finishes the publication", DEADLINE, || async {
        let found = (consul.kv("shop/prod/k").await, consul.kv("shop/prod/doomed").await);
        holds(found == (Some((3, "3".into())), None), format!("{found:?}"))
    })
    .await;
    eventually("and serves it", DEADLINE, || async {
        let seen = service.value("shop/prod/k").await;
        holds(seen == 3, format!("{seen}"))
    })
    .await;
}

async fn crash_under_load_loses_no_acknowledged_write(consul: Consul) {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(consul.addr(), folder.path(), "config", &[]).await;
    let service = std::sync::Arc::new(service);
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let service = service.clone();
            tokio::spawn(async move {
                let mut acknowledged = 0;
                for n in 1.. {
                    let path = format!("/api/v1/config/shop/prod/k{writer}");
                    let body = format!("{{\"value\":{n}}}");
                    match service.try_call(Method::PUT, &path, &[], &body).await {
                        Ok(answer) if answer.status.is_success() => acknowledged = n,
                        Ok(answer) => panic!("{answer:?}"),
                        Err(_) => break,
                    }
                }
                acknowledged
            })
        })
        .collect();
    let pid = i32::try_from(service.process.id()).unwrap();
    eventually("some writes are done", DEADLINE, || async {
        let seen = service.value("shop/prod/k0").await;
        holds(seen.as_u64().is_some_and(|n| n > 10), format!("{seen}"))
    })
    .await;
    let killed = std::process::Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap();
    assert!(killed.success());
    let mut acknowledged = Vec::new();
    for writer in writers {
        acknowledged.push(writer.await.unwrap());
    }
    drop(service);
    let service = Service::start(consul.addr(), folder.path(), "again", &[]).await;
    for (writer, acknowledged) in acknowledged.into_iter().enumerate() {
        eventually("every acknowledged write is there", DEADLINE, || async {
            let seen = service.value(&format!("shop/prod/k{writer}")).await.as_u64().unwrap_or(0);
            let kv = consul.kv(&format!("shop/prod/k{writer}")).await;
            let same = kv.as_ref().is_some_and(|(_, text)| *text == seen.to_string());
            // One more may have been committed without its answer arriving.
            holds(
                same && (seen == acknowledged || seen == acknowledged + 1),
                format!("{seen} {kv:?} {acknowledged}"),
            )
        })
        .await;
    }
}

async fn edits_of_others_are_recorded(consul: Consul) {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(consul.addr(), folder.path(), "config", &[]).await;
    service.put("shop/prod/k", "1").await.expect(201);
    consul.kv_put("shop/prod/k", "{\"by\":\"hand\"}").await;
    consul.kv_put("shop/prod/imported", "true").await;
    consul.kv_put("shop/prod/garbage", "not json").await;
    consul.kv_put("shop/prod/not a key", "1").await;
    eventually("the edit is an external revision", DEADLINE, || async {
        let answer = service.get("/api/v1/config/shop/prod/k").await;
        let seen = (&answer.body["value"], &answer.body["revision"], &answer.body["author"]);
        holds(seen == (&json!({"by": "hand"}), &json!(2), &json!("consul")), format!("{seen:?}"))
    })
    .await;
    assert_eq!(consul.kv("shop/prod/k").await.unwrap().0, 2, "the entry carries its revision again");
    let history = service.get("/api/v1/history/shop/prod/k").await.expect(200);
    assert_eq!(history.body["revisions"][0]["kind"], "external");
    eventually("an unknown item is imported", DEADLINE, || async {
        let answer = service.get("/api/v1/config/shop/prod/imported").await;
        holds(answer.status == StatusCode::OK && answer.body["revision"] == 1, format!("{answer:?}"))
    })
    .await;
    service.get("/api/v1/config/shop/prod/garbage").await.expect(404);
    assert_eq!(consul.kv("shop/prod/garbage").await.unwrap().1, "not json", "foreign text is left alone");

    consul.kv_put("shop/prod/k", "broken").await;
    eventually("garbage over an item is replaced by the item", DEADLINE, || async {
        let kv = consul.kv("shop/prod/k").await;
        holds(kv == Some((2, "{\"by\":\"hand\"}".into())), format!("{kv:?}"))
    })
    .await;
    assert_eq!(service.value("shop/prod/k").await, json!({"by": "hand"}));
}

async fn what_consul_loses_is_written_again(consul: Consul) {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(consul.addr(), folder.path(), "config", &[]).await;
    service.put("shop/prod/a", "1").await.expect(201);
    service.put("shop/prod/b", "2").await.expect(201);
    service.call(Method::DELETE, "/api/v1/config/shop/prod/b", &[], "").await.expect(204);
    assert!(consul.client().kv().delete("plinth/config/", None, true).await.unwrap());
    eventually("the live item is back, the deleted one is not", DEADLINE, || async {
        let kv = (consul.kv("shop/prod/a").await, consul.kv("shop/prod/b").await);
        holds(kv == (Some((1, "1".into())), None), format!("{kv:?}"))
    })
    .await;
    eventually("and is served", DEADLINE, || async {
        let seen = service.value("shop/prod/a").await;
        holds(seen == 1, format!("{seen}"))
    })
    .await;
}

async fn only_one_service_on_sqlite(consul: Consul) {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(consul.addr(), folder.path(), "config", &[]).await;
    service.put("shop/prod/k", "1").await.expect(201);
    let mut same_folder = spawn(consul.addr(), folder.path(), "same-folder", &[]);
    assert_eq!(same_folder.wait(DEADLINE).code(), Some(64), "{}", same_folder.output());
    let elsewhere = tempfile::tempdir().unwrap();
    let mut other_folder = spawn(consul.addr(), elsewhere.path(), "other-folder", &[]);
    assert_eq!(other_folder.wait(DEADLINE).code(), Some(64), "{}", other_folder.output());
    assert!(other_folder.output().contains("PostgreSQL"), "{}", other_folder.output());

    service.kill();
    let begin = Instant::now();
    let service = Service::start(consul.addr(), folder.path(), "again", &[]).await;
    assert!(
        begin.elapsed() < Duration::from_secs(8),
        "a crash does not lock the owner out until its session expires"
    );
    service.put("shop/prod/k", "2").await.expect(200);
}
