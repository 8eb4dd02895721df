//! Tokens: who may do what, and whose instance is whose.

use http::StatusCode;
use serde_json::{Value, json};

use crate::support::{Caller, Platform, instance};

pub async fn scopes_decide(platform: Platform) {
    let replica = platform.replica("a").await;
    let owner = platform.caller("team", &["services:write:shop-*", "services:read:shop-*"]);
    assert_eq!(owner.register(&replica, instance("shop-cart", "cart-1")).await.status, StatusCode::CREATED);

    let reader = platform.caller("reader", &["services:read"]);
    let nothing = platform.caller("other", &["config:read"]);
    let garbage = Caller::with_token("no.real.token");
    let cart = replica.url("/api/v1/services/cart-1");
    let discover = replica.url("/api/v1/services/discover/shop-cart");
    let list = replica.url("/api/v1/services");
    for caller in [&Caller::NOBODY, &garbage] {
        for url in [&cart, &discover, &list] {
            let refused = caller.get(url.clone()).await;
            assert_eq!(refused.status, StatusCode::UNAUTHORIZED, "{url}: {refused:?}");
            assert!(refused.headers["www-authenticate"].to_str().unwrap().starts_with("Bearer"));
        }
        assert_eq!(caller.register(&replica, instance("x", "x")).await.status, StatusCode::UNAUTHORIZED);
        assert_eq!(caller.delete(cart.clone()).await.status, StatusCode::UNAUTHORIZED);
        assert_eq!(
            caller.put(format!("{cart}/heartbeat"), Value::Null).await.status,
            StatusCode::UNAUTHORIZED
        );
    }
    for url in [&cart, &discover, &list] {
        assert_eq!(reader.get(url.clone()).await.status, StatusCode::OK, "{url}");
        assert_eq!(nothing.get(url.clone()).await.status, StatusCode::FORBIDDEN, "{url}");
    }
    assert_eq!(reader.delete(cart.clone()).await.status, StatusCode::FORBIDDEN);
    assert_eq!(
        reader.register(&replica, instance("shop-cart", "cart-2")).await.status,
        StatusCode::FORBIDDEN
    );
    assert_eq!(owner.register(&replica, instance("bank", "bank-1")).await.status, StatusCode::FORBIDDEN);

    // A list shows what its caller may read, and nothing else.
    let everything = platform.owner("boss");
    assert_eq!(everything.register(&replica, instance("bank", "bank-1")).await.status, StatusCode::CREATED);
    assert_eq!(reader.get(list.clone()).await.ids(), ["bank-1", "cart-1"]);
    assert_eq!(owner.get(list).await.ids(), ["cart-1"]);
}

pub async fn owners_are_kept_apart(platform: Platform) {
    let replica = platform.replica("a").await;
    let (owner, other) = (platform.owner("owner"), platform.owner("other"));
    let admin = platform.caller("admin", &["services:admin"]);
    let url = replica.url("/api/v1/services/mine-1");
    let mut body = instance("mine", "mine-1");
    body["check"] = json!({"type": "ttl", "ttl": "30s"});
    assert_eq!(owner.register(&replica, body.clone()).await.status, StatusCode::CREATED);

    let taken = other.register(&replica, body.clone()).await;
    assert_eq!((taken.status, taken.faults()), (StatusCode::CONFLICT, vec!["service_id".to_owned()]));
    assert_eq!(other.put(url.clone(), body.clone()).await.status, StatusCode::CONFLICT);
    assert_eq!(other.delete(url.clone()).await.status, StatusCode::FORBIDDEN);
    assert_eq!(other.put(format!("{url}/heartbeat"), Value::Null).await.status, StatusCode::FORBIDDEN);
    assert_eq!(owner.get(url.clone()).await.body["owner"], "owner");

    assert_eq!(owner.register(&replica, body).await.status, StatusCode::CREATED, "the owner replaces");
    assert_eq!(admin.delete(url.clone()).await.status, StatusCode::NO_CONTENT);
    assert_eq!(owner.get(url).await.status, StatusCode::NOT_FOUND);

    // Other hosts than the registered one are probed for administrators only.
    let mut probing = instance("probe", "probe-1");
    probing["check"] = json!({"type": "http", "url": "http://10.9.9.9/"});
    assert_eq!(owner.register(&replica, probing.clone()).await.faults(), ["check.url"]);
    assert_eq!(admin.register(&replica, probing).await.status, StatusCode::CREATED);

    // Plinth's services send tokens to whoever has one of their names.
    for name in ["health-aggregator", "Config-Service"] {
        let body = instance(name, "impostor-1");
        assert_eq!(owner.register(&replica, body.clone()).await.status, StatusCode::FORBIDDEN, "{name}");
        let upserted = owner.put(replica.url("/api/v1/services/impostor-1"), body.clone()).await;
        assert_eq!(upserted.status, StatusCode::FORBIDDEN, "{name}");
        assert_eq!(admin.register(&replica, body).await.status, StatusCode::CREATED, "{name}");
        let gone = admin.delete(replica.url("/api/v1/services/impostor-1")).await;
        assert_eq!(gone.status, StatusCode::NO_CONTENT, "{name}");
    }
}
