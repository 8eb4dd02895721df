//! Many writers at once.

use std::sync::Arc;

use http::Method;
use plinth_testbed::postgres::Postgres;
use plinth_testbed::{eventually, holds};

use crate::support::{Consul, DEADLINE, Service};

crate::on_both! { concurrent_writers_with_if_match concurrent_writers_on_two_replicas }

async fn concurrent_writers_with_if_match(consul: Consul) {
    let folder = tempfile::tempdir().unwrap();
    let service = Arc::new(Service::start(consul.addr(), folder.path(), "config", &[]).await);
    count_up(vec![service]).await;
}

async fn concurrent_writers_on_two_replicas(consul: Consul) {
    let folder = tempfile::tempdir().unwrap();
    let postgres = Postgres::start().await;
    let url = postgres.url();
    let flags = ["--database-url", url.as_str()];
    let one = Service::start(consul.addr(), folder.path(), "one", &flags).await;
    let two = Service::start(consul.addr(), folder.path(), "two", &flags).await;
    let index = one.put("shop/prod/k", "1").await.expect(201).index();
    let read = two.get(&format!("/api/v1/config/shop/prod/k?index={index}")).await.expect(200);
    assert_eq!(read.body["value"], 1, "with the writer's index any replica shows the write");
    eventually("with its history", DEADLINE, || async {
        let read = two.get("/api/v1/config/shop/prod/k").await;
        holds(read.body["author"] == "anonymous", format!("{read:?}"))
    })
    .await;
    count_up(vec![Arc::new(one), Arc::new(two)]).await;
}

/// Read, add one, write back under the revision that was read; again when somebody else was faster.
async fn count_up(services: Vec<Arc<Service>>) {
    const WRITERS: usize = 8;
    const STEPS: usize = 5;
    const PATH: &str = "/api/v1/config/count/prod/n";
    services[0].put("count/prod/n", "0").await.expect(201);
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let service = services[writer % services.len()].clone();
            tokio::spawn(async move {
                let (mut done, mut conflicts) = (0, 0);
                while done < STEPS {
                    let read = service.get(PATH).await;
                    if read.status == 404 {
                        continue;
                    }
                    let next = read.body["value"].as_u64().unwrap() + 1;
                    let body = format!("{{\"value\":{next}}}");
                    let tag = read.etag().to_owned();
                    let wrote = service.call(Method::PUT, PATH, &[("if-match", &tag)], &body).await;
                    match wrote.status.as_u16() {
                        200 => done += 1,
                        412 => conflicts += 1,
                        _ => panic!("{wrote:?}"),
                    }
                }
                conflicts
            })
        })
        .collect();
    let mut conflicts = 0;
    for writer in writers {
        conflicts += writer.await.unwrap();
    }
    let steps = (WRITERS * STEPS) as u64;
    let last = services[0].get(&format!("{PATH}?index=1")).await;
    let newest = services[0].get("/api/v1/history/count/prod/n?limit=1").await;
    assert_eq!(newest.body["revisions"][0]["value"], steps, "no step was lost");
    assert_eq!(newest.body["revisions"][0]["revision"], steps + 1);
    assert!(last.body["value"].as_u64().unwrap() <= steps);
    assert!(conflicts > 0, "the writers did meet");
}
