//! Every endpoint, as a caller meets it.

use std::time::{Duration, Instant};

use http::StatusCode;
use plinth_testbed::{eventually, holds};
use serde_json::{Value, json};

use crate::support::{DEADLINE, Platform, instance};

pub async fn whole_life(platform: Platform) {
    let replica = platform.replica("a").await;
    let owner = platform.owner("team");

    let unknown = owner.get(replica.url("/api/v1/services/discover/user-service")).await;
    assert_eq!(unknown.status, StatusCode::NOT_FOUND);
    assert_eq!(unknown.headers["content-type"], "application/problem+json");

    let body = json!({
        "service_name": "user-service", "service_id": "user-service-1", "address": "::1", "port": 8001,
        "health_check": "/health", "tags": ["v1", "eu"], "weight": 3,
        "metadata": {"version": "1.2", "nested": {"list": [1, null, {"a": true}]}, "long": "x".repeat(2000)},
        "check": {"type": "http", "interval": "10s", "timeout": "5s", "headers": {"x-probe": "secret"}, "initial_status": "healthy"},
    });
    let registered = owner.register(&replica, body.clone()).await;
    assert_eq!(registered.status, StatusCode::CREATED, "{registered:?}");
    assert_eq!(registered.body["service_id"], "user-service-1");
    assert_eq!(registered.body["status"], "registered");
    assert!(registered.body["registered_at"].as_str().unwrap().ends_with('Z'), "{registered:?}");
    assert_eq!(registered.headers["location"], "/api/v1/services/user-service-1");

    // Read your writes: the very next read has it.
    let found = owner.get(replica.url("/api/v1/services/discover/user-service?healthy_only=true")).await;
    assert_eq!(found.status, StatusCode::OK);
    assert_eq!(found.headers["content-type"], "application/json");
    assert!(found.index() >= registered.index(), "{found:?}");
    assert!(found.headers.contains_key("x-plinth-age-ms"));
    let last_check = found.body["services"][0]["last_check"].clone();
    let expected = json!({"service_name": "user-service", "services": [{
        "service_id": "user-service-1", "address": "::1", "port": 8001, "status": "healthy", "last_check": last_check,
        "metadata": body["metadata"], "tags": ["v1", "eu"], "weight": 3,
    }]});
    assert_eq!(found.body, expected);

    let one = owner.get(replica.url("/api/v1/services/user-service-1")).await;
    assert_eq!(one.status, StatusCode::OK);
    assert_eq!((&one.body["owner"], &one.body["status"]), (&json!("team"), &json!("healthy")));
    assert_eq!(one.body["metadata"], body["metadata"]);
    assert_eq!(one.body["check"]["headers"]["x-probe"], "[hidden]");

    let mut changed = body.clone();
    changed["port"] = json!(9001);
    changed.as_object_mut().unwrap().remove("service_id");
    let replaced = owner.put(replica.url("/api/v1/services/user-service-1"), changed).await;
    assert_eq!(replaced.status, StatusCode::OK, "{replaced:?}");
    assert_eq!(replaced.body["registered_at"], registered.body["registered_at"]);
    let found = owner.get(replica.url("/api/v1/services/discover/user-service")).await;
    assert_eq!(found.body["services"][0]["port"], 9001);
    assert_eq!(found.body["services"][0]["status"], "healthy", "replacing keeps the status");

    let second =
        owner.put(replica.url("/api/v1/services/user-service-2"), instance("user-service", "user-service-2"));
    assert_eq!(second.await.status, StatusCode::CREATED);
    let found = owner.get(replica.url("/api/v1/services/discover/user-service")).await;
    assert_eq!(found.ids(), ["user-service-1", "user-service-2"]);

    let removed = owner.delete(replica.url("/api/v1/services/user-service-1")).await;
    assert_eq!((removed.status, &removed.body), (StatusCode::NO_CONTENT, &Value::Null));
    let found = owner.get(replica.url("/api/v1/services/discover/user-service")).await;
    assert_eq!(found.ids(), ["user-service-2"]);
    assert_eq!(owner.get(replica.url("/api/v1/services/user-service-1")).await.status, StatusCode::NOT_FOUND);
    assert_eq!(
        owner.delete(replica.url("/api/v1/services/user-service-1")).await.status,
        StatusCode::NOT_FOUND
    );
    assert_eq!(
        owner.delete(replica.url("/api/v1/services/user-service-2")).await.status,
        StatusCode::NO_CONTENT
    );
    let gone = owner.get(replica.url("/api/v1/services/discover/user-service")).await;
    assert_eq!(gone.status, StatusCode::NOT_FOUND);
}

pub async fn filters_and_status(platform: Platform) {
    let replica = platform.replica("a").await;
    let owner = platform.owner("team");
    let mut generated = instance("search", "");
    generated.as_object_mut().unwrap().remove("service_id");
    generated["tags"] = json!(["fast", "eu"]);
    let registered = owner.register(&replica, generated).await;
    let healthy = registered.body["service_id"].as_str().unwrap().to_owned();
    assert!(healthy.starts_with("search-"), "{healthy}");
    let mut critical = instance("search", "search-critical");
    critical["health_check"] = json!("/health");
    critical["tags"] = json!(["eu"]);
    assert_eq!(owner.register(&replica, critical).await.status, StatusCode::CREATED);

    let discover = |query: &'static str| {
        let url = replica.url(&format!("/api/v1/services/discover/search{query}"));
        let owner = owner.clone();
        async move { owner.get(url).await }
    };
    assert_eq!(discover("").await.ids().len(), 2);
    assert_eq!(discover("?healthy_only=true").await.ids(), std::slice::from_ref(&healthy));
    assert_eq!(discover("?healthy_only=true&tags=eu&tags=FAST").await.ids(), [healthy]);
    assert_eq!(discover("?tags=fast&tags=us").await.body["services"], json!([]));
    let status = |answer: &crate::support::Answer| {
        answer.body["services"]
            .as_array()
            .unwrap()
            .iter()
            .find(|one| one["service_id"] == "search-critical")
            .unwrap()["status"]
            .clone()
    };
    assert_eq!(status(&discover("").await), "critical");

    // Registered but none passing is an answer, not a 404.
    let mut alone = instance("lonely", "lonely-1");
    alone["health_check"] = json!("/health");
    owner.register(&replica, alone).await;
    let none = owner.get(replica.url("/api/v1/services/discover/lonely?healthy_only=true")).await;
    assert_eq!((none.status, &none.body["services"]), (StatusCode::OK, &json!([])));

    for (word, standing) in [("passing", "healthy"), ("warning", "unhealthy"), ("critical", "critical")] {
        platform.backend.set_status("search-critical", word).await;
        let seen = owner
            .finds(&replica, "search", "the new status is seen", |answer| status(answer) == standing)
            .await;
        assert!(seen.body["services"][0]["last_check"].is_string(), "{seen:?}");
        let url = replica.url("/api/v1/services/search-critical");
        eventually("get shows it too", DEADLINE, || async {
            let one = owner.get(url.clone()).await;
            holds(one.body["status"] == standing, format!("{one:?}"))
        })
        .await;
    }
}

pub async fn pages_and_list_filters(platform: Platform) {
    let replica = platform.replica("a").await;
    let (one, two) = (platform.owner("one"), platform.owner("two"));
    for n in 0..5 {
        let mut body = instance("alpha", &format!("alpha-{n}"));
        body["tags"] = json!([if n % 2 == 0 { "even" } else { "odd" }]);
        assert_eq!(one.register(&replica, body).await.status, StatusCode::CREATED);
    }
    let last = two.register(&replica, instance("beta", "beta-0")).await;
    let list = |query: &'static str| {
        let (url, one) = (replica.url(&format!("/api/v1/services?{query}")), one.clone());
        async move { one.get(url).await }
    };
    let all = list("").await;
    assert_eq!(all.ids(), ["alpha-0", "alpha-1", "alpha-2", "alpha-3", "alpha-4", "beta-0"]);
    assert!(all.index() >= last.index());
    let second = list("page=2&page_size=4").await;
    assert_eq!((second.ids().len(), &second.body["total"]), (2, &json!(6)));
    assert_eq!(list("page=9").await.body["services"], json!([]));
    assert_eq!(list("service_name=beta").await.ids(), ["beta-0"]);
    assert_eq!(list("owner=two").await.ids(), ["beta-0"]);
    assert_eq!(list("tags=even&status=healthy").await.ids(), ["alpha-0", "alpha-2", "alpha-4"]);
    assert_eq!(list("status=critical").await.body["total"], 0);
    assert_eq!(list("page=0&page_size=501").await.faults(), ["page", "page_size"]);
    assert_eq!(list("status=sick").await.faults(), ["status"]);
}

pub async fn heartbeats_keep_a_lease(platform: Platform) {
    let replica = platform.replica("a").await;
    let owner = platform.owner("team");
    let mut body = instance("worker", "worker-1");
    body["check"] = json!({"type": "ttl", "ttl": "10s"});
    assert_eq!(owner.register(&replica, body.clone()).await.status, StatusCode::CREATED);
    let found = owner.get(replica.url("/api/v1/services/discover/worker?healthy_only=true")).await;
    assert_eq!(found.ids(), ["worker-1"]);
    let beat = owner.put(replica.url("/api/v1/services/worker-1/heartbeat"), Value::Null).await;
    assert_eq!(beat.status, StatusCode::OK, "{beat:?}");
    assert_eq!((&beat.body["status"], &beat.body["ttl_seconds"]), (&json!("alive"), &json!(10)));

    platform.backend.end_lease("worker-1").await;
    let lost = owner.put(replica.url("/api/v1/services/worker-1/heartbeat"), Value::Null).await;
    assert_eq!(
        (lost.status, &lost.body["type"]),
        (StatusCode::NOT_FOUND, &json!("urn:plinth:problem:lease-lost"))
    );
    assert_eq!(owner.register(&replica, body).await.status, StatusCode::CREATED, "registering again helps");
    let beat = owner.put(replica.url("/api/v1/services/worker-1/heartbeat"), Value::Null).await;
    assert_eq!(beat.status, StatusCode::OK, "{beat:?}");

    owner.register(&replica, instance("plain", "plain-1")).await;
    let none = owner.put(replica.url("/api/v1/services/plain-1/heartbeat"), Value::Null).await;
    assert_eq!(none.status, StatusCode::CONFLICT);
    let unknown = owner.put(replica.url("/api/v1/services/nobody/heartbeat"), Value::Null).await;
    assert_eq!(unknown.status, StatusCode::NOT_FOUND);
}

pub async fn long_polls(platform: Platform) {
    let replica = platform.replica("a").await;
    let owner = platform.owner("team");
    owner.register(&replica, instance("poll", "poll-1")).await;
    let seen = owner.get(replica.url("/api/v1/services/discover/poll")).await;

    let begun = Instant::now();
    let same = owner
        .get(replica.url(&format!("/api/v1/services/discover/poll?index={}&wait=500ms", seen.index())))
        .await;
    assert!(begun.elapsed() >= Duration::from_millis(500), "nothing changed, so it waits: {same:?}");
    assert_eq!((same.index(), same.ids()), (seen.index(), seen.ids()));

    let url = replica.url(&format!("/api/v1/services/discover/poll?index={}&wait=30s", seen.index()));
    let waiting = tokio::spawn({
        let owner = owner.clone();
        async move { owner.get(url).await }
    });
    owner.register(&replica, instance("poll", "poll-2")).await;
    let woken =
        tokio::time::timeout(Duration::from_secs(10), waiting).await.expect("the change wakes it").unwrap();
    assert!(woken.index() > seen.index());
    assert_eq!(woken.ids(), ["poll-1", "poll-2"]);

    let future = owner.get(replica.url("/api/v1/services/discover/poll?index=99999999")).await;
    assert_eq!(future.status, StatusCode::SERVICE_UNAVAILABLE, "an index nobody has reached is no answer");
    assert!(future.headers.contains_key("retry-after"));
}

/// What other Consul clients registered with their agents is discovered, but is no registration of this service.
pub async fn instances_of_other_agents_are_found(platform: Platform) {
    let replica = platform.replica("a").await;
    let owner = platform.owner("team");
    platform.backend.agent_registers("legacy", "legacy-1").await;
    let found =
        owner.finds(&replica, "legacy", "it is found", |answer| answer.status == StatusCode::OK).await;
    assert_eq!(found.ids(), ["legacy-1"]);
    assert_eq!(found.body["services"][0]["metadata"], json!({"from": "elsewhere"}));
    assert_eq!(owner.get(replica.url("/api/v1/services/legacy-1")).await.status, StatusCode::NOT_FOUND);
    assert_eq!(owner.delete(replica.url("/api/v1/services/legacy-1")).await.status, StatusCode::NOT_FOUND);
}
