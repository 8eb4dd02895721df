//! Consul away.

use http::StatusCode;
use plinth_testbed::{eventually, holds, http_client};
use serde_json::Value;

use crate::support::{DEADLINE, Platform, Replica, instance};

pub async fn consul_dies_and_comes_back(mut platform: Platform) {
    let (a, b) = (platform.replica("a").await, platform.replica("b").await);
    let owner = platform.owner("team");
    let written = owner.register(&a, instance("user", "user-1")).await;
    for replica in [&a, &b] {
        let read = owner
            .get(replica.url(&format!("/api/v1/services/discover/user?index={}", written.index())))
            .await;
        assert_eq!(read.ids(), ["user-1"]);
        // Its document comes by a watch of its own; with an index it would be fetched.
        let url = replica.url("/api/v1/services/user-1");
        eventually("the replica has the document", DEADLINE, || async {
            let read = owner.get(url.clone()).await;
            holds(read.status == StatusCode::OK, format!("{read:?}"))
        })
        .await;
    }

    platform.backend.kill().await;
    for _ in 0..20 {
        for replica in [&a, &b] {
            let read = owner.get(replica.url("/api/v1/services/discover/user")).await;
            assert_eq!((read.status, read.ids()), (StatusCode::OK, vec!["user-1".to_owned()]));
            assert_eq!(owner.get(replica.url("/api/v1/services/user-1")).await.status, StatusCode::OK);
            assert!(owner.get(replica.url("/api/v1/services")).await.ids().contains(&"user-1".to_owned()));
        }
    }
    let refused = owner.register(&a, instance("user", "user-2")).await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE, "{refused:?}");
    assert!(refused.headers.contains_key("retry-after"));
    assert!(!refused.body.to_string().contains("127.0.0.1"), "addresses stay in the log: {refused:?}");
    assert_eq!(owner.delete(a.url("/api/v1/services/user-1")).await.status, StatusCode::SERVICE_UNAVAILABLE);
    health(&a, "degraded").await;

    platform.backend.start_again().await;
    let url = a.url("/api/v1/services/register");
    let written = eventually("writes go on", DEADLINE, || async {
        let answer = owner.try_send(http::Method::POST, &url, Some(instance("user", "user-2"))).await;
        let answer = answer.map_err(|error| error.to_string())?;
        if answer.status == StatusCode::CREATED { Ok(answer) } else { Err(format!("{answer:?}")) }
    })
    .await;
    let both = |answer: &crate::support::Answer| answer.ids() == ["user-1", "user-2"];
    owner.finds(&a, "user", "the writer sees both", both).await;
    owner.finds(&b, "user", "the other replica follows again", both).await;
    assert!(written.index() > 0);
}

pub async fn consul_is_not_there_at_start(mut platform: Platform) {
    platform.backend.kill().await;
    let mut replica = platform.idle_replica("a");
    replica.spawn();
    let owner = platform.owner("team");
    eventually("it listens", DEADLINE, || async {
        let answer =
            http_client::get(&replica.url("/health/live")).await.map_err(|error| error.to_string())?;
        holds(answer.status() == 200, format!("{answer:?}"))
    })
    .await;
    assert_eq!(http_client::get(&replica.url("/health/ready")).await.unwrap().status(), 503);
    let unknown = owner.get(replica.url("/api/v1/services/discover/user")).await;
    assert_eq!(
        unknown.status,
        StatusCode::SERVICE_UNAVAILABLE,
        "nothing is known, which is not the same as nobody"
    );
    platform.backend.start_again().await;
    replica.ready().await;
    assert_eq!(owner.register(&replica, instance("user", "user-1")).await.status, StatusCode::CREATED);
}

async fn health(replica: &Replica, wanted: &str) {
    eventually("health says so", DEADLINE, || async {
        let answer = http_client::get(&replica.url("/health")).await.map_err(|error| error.to_string())?;
        let body: Value = serde_json::from_slice(answer.body()).map_err(|error| error.to_string())?;
        holds(body["status"] == wanted && body["checks"]["consul"]["status"] == "fail", body.to_string())
    })
    .await;
}
