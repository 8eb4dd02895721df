//! Rights are per namespace and environment; the history names who wrote.

use std::time::Duration;

use http::Method;
use plinth_kit::auth::TokenKey;
use plinth_testbed::{eventually, holds};

use crate::support::{Consul, DEADLINE, Service};

crate::on_both! { scopes_guard_namespaces_and_environments }

async fn scopes_guard_namespaces_and_environments(consul: Consul) {
    let folder = tempfile::tempdir().unwrap();
    let key = TokenKey::load_or_create(folder.path()).unwrap();
    let public = folder.path().join("public.pem");
    std::fs::write(&public, key.public_pem()).unwrap();
    let flags = ["--auth-key-file", public.to_str().unwrap()];
    let service = Service::start(consul.addr(), folder.path(), "config", &flags).await;
    let bearer = |subject: &str, scopes: &str| {
        let scopes: Vec<_> = scopes.split(' ').map(|scope| scope.parse().unwrap()).collect();
        format!("Bearer {}", key.issue(subject, &scopes, Duration::from_secs(60)).unwrap())
    };
    let writer = bearer("ann", "config:write:shop/* config:read:shop/test");
    let reader = bearer("bob", "config:read:*/prod");
    let call = |method, path, token: &str| {
        let headers = [("authorization", token.to_owned())];
        let service = &service;
        async move {
            let headers: Vec<(&str, &str)> =
                headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
            service.call(method, path, &headers, "{\"value\":1}").await
        }
    };
    let item = "/api/v1/config/shop/prod/k";
    service.get(item).await.expect(401);
    service.put("shop/prod/k", "1").await.expect(401);
    call(Method::PUT, item, &reader).await.expect(403);
    call(Method::PUT, "/api/v1/config/cms/prod/k", &writer).await.expect(403);
    call(Method::PUT, item, &writer).await.expect(201);
    let refused = call(Method::GET, item, &writer).await.expect(403);
    assert!(refused.body["detail"].as_str().unwrap().contains("config:read:shop/prod"), "{:?}", refused.body);
    eventually("it has its author", DEADLINE, || async {
        let read = call(Method::GET, item, &reader).await;
        holds(read.status == 200 && read.body["author"] == "ann", format!("{read:?}"))
    })
    .await;
    call(Method::GET, "/api/v1/config/shop/test", &reader).await.expect(403);
    call(Method::GET, "/api/v1/watch/shop/test", &reader).await.expect(403);
    call(Method::GET, "/api/v1/history/shop/test/k", &reader).await.expect(403);
    call(Method::DELETE, item, &reader).await.expect(403);
    call(Method::PUT, "/api/v1/config/shop/test/k", &writer).await.expect(201);
    let seen = call(Method::GET, "/api/v1/config", &reader).await.expect(200);
    let names = seen.body["namespaces"].as_array().unwrap();
    assert_eq!(names.len(), 1, "only what the caller may read: {names:?}");
    service.get("/health/ready").await.expect(200);
}
