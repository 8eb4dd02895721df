//! Two replicas on one Consul.

use http::StatusCode;

use crate::support::{Platform, instance};

pub async fn written_at_one_read_at_the_other(platform: Platform) {
    let (a, b) = (platform.replica("a").await, platform.replica("b").await);
    let owner = platform.owner("team");
    for round in 0..10 {
        let id = format!("user-{round}");
        let written = owner.register(&a, instance("user", &id)).await;
        assert_eq!(written.status, StatusCode::CREATED);
        let read =
            owner.get(b.url(&format!("/api/v1/services/discover/user?index={}", written.index()))).await;
        assert!(read.ids().contains(&id), "round {round}: {read:?}");
        let got = owner.get(b.url(&format!("/api/v1/services/{id}?index={}", written.index()))).await;
        assert_eq!(got.status, StatusCode::OK, "round {round}");
    }
    let removed = owner.delete(b.url("/api/v1/services/user-0")).await;
    assert_eq!(removed.status, StatusCode::NO_CONTENT);
    let read = owner.get(a.url(&format!("/api/v1/services/discover/user?index={}", removed.index()))).await;
    assert!(!read.ids().contains(&"user-0".to_owned()), "{read:?}");
    let got = owner.get(a.url(&format!("/api/v1/services/user-0?index={}", removed.index()))).await;
    assert_eq!(got.status, StatusCode::NOT_FOUND);
}

pub async fn a_race_has_one_winner(platform: Platform) {
    let (a, b) = (platform.replica("a").await, platform.replica("b").await);
    let (one, two) = (platform.owner("one"), platform.owner("two"));
    for round in 0..10 {
        let body = instance("raced", &format!("raced-{round}"));
        let (first, second) = tokio::join!(one.register(&a, body.clone()), two.register(&b, body.clone()));
        let mut statuses = [first.status.as_u16(), second.status.as_u16()];
        statuses.sort_unstable();
        assert_eq!(statuses, [201, 409], "round {round}: {first:?} {second:?}");
        let winner = if first.status == StatusCode::CREATED { "one" } else { "two" };
        let url = a.url(&format!(
            "/api/v1/services/raced-{round}?index={}",
            first.status_index().max(second.status_index())
        ));
        assert_eq!(one.get(url).await.body["owner"], winner, "round {round}");
    }
}

pub async fn a_replica_dies(platform: Platform) {
    let (mut a, mut b) = (platform.idle_replica("a"), platform.idle_replica("b"));
    for replica in [&mut a, &mut b] {
        replica.registers = true;
        replica.start().await;
    }
    let owner = platform.owner("team");
    let written = owner.register(&a, instance("user", "user-1")).await;
    a.kill();
    let read = owner.get(b.url(&format!("/api/v1/services/discover/user?index={}", written.index()))).await;
    assert_eq!(read.ids(), ["user-1"], "what was acknowledged is there");
    assert_eq!(owner.register(&b, instance("user", "user-2")).await.status, StatusCode::CREATED);
    a.start().await;
    let read = owner
        .finds(&a, "user", "the replica is back with all", |answer| answer.status == StatusCode::OK)
        .await;
    assert_eq!(read.ids(), ["user-1", "user-2"]);

    // Told to stop, it ends well and leaves the catalog.
    let status = a.process().terminate(crate::support::DEADLINE);
    assert!(status.success(), "{status}");
    owner
        .finds(&b, "registry-service", "only the other replica is left", |answer| answer.ids().len() == 1)
        .await;
}
