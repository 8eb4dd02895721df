use std::time::Duration;

use plinth_testbed::eventually;
use plinth_testbed::redis::Redis;

use super::super::tests::{Gateway, told};
use crate::context::{RequestContext, Timing};

const ROUTE: &str = "services: [{host: h, routes: [{paths: [/]}]}]\n";

fn gateway(config: &str) -> Gateway {
    Gateway::new(&format!(
        "{ROUTE}plugins: [{{name: response-ratelimiting, config: {{limits: {{video: {{day: 3, month: 100}}, image: {{day: 5}}}}, {config}}}}}]"
    ))
}

fn text(headers: &http::HeaderMap, name: &str) -> Option<String> {
    headers.get(name).map(|value| value.to_str().unwrap().to_owned())
}

/// The whole way of a request whose upstream says what it cost.
async fn cost(
    gateway: &Gateway,
    now: Timing,
    costs: &[&str],
) -> Result<(RequestContext, http::response::Parts), (u16, String)> {
    let mut ctx = gateway.get("/", &[]);
    ctx.timing = now;
    if let Some(answer) = gateway.access(&mut ctx).await {
        return Err(told(&answer));
    }
    let costs: Vec<(&'static str, &str)> = costs.iter().map(|cost| ("x-kong-limit", *cost)).collect();
    let head = gateway.answer(&mut ctx, &costs);
    Ok((ctx, head))
}

#[tokio::test]
async fn the_upstream_says_what_a_request_cost() {
    let gateway = gateway("fault_tolerant: true");
    let now = Timing::start();
    let (ctx, head) = cost(&gateway, now, &["video=1, image=2", "unknown=4"]).await.unwrap();
    assert_eq!(
        text(&ctx.head.headers, "x-ratelimit-remaining-video").as_deref(),
        Some("3"),
        "for the upstream"
    );
    assert_eq!(text(&head.headers, "x-kong-limit"), None);
    for (name, value) in [
        ("x-ratelimit-limit-video-day", "3"),
        ("x-ratelimit-remaining-video-day", "2"),
        ("x-ratelimit-remaining-video-month", "99"),
        ("x-ratelimit-limit-image-day", "5"),
        ("x-ratelimit-remaining-image-day", "3"),
    ] {
        assert_eq!(text(&head.headers, name).as_deref(), Some(value), "{name}");
    }
    // More than is left is still let through once.
    let (_, head) = cost(&gateway, now, &["video=5"]).await.unwrap();
    assert_eq!(
        (head.status.as_u16(), text(&head.headers, "x-ratelimit-remaining-video-day").as_deref()),
        (200, Some("0"))
    );
    let (mut ctx, head) = cost(&gateway, now, &["video=1"]).await.unwrap();
    assert_eq!(head.status.as_u16(), 429);
    assert_eq!(ctx.bodies.reply.take().as_deref(), Some(&b""[..]), "without body");
    // Other currencies are not concerned, and requests that cost nothing pass.
    let (_, head) = cost(&gateway, now, &["image=1"]).await.unwrap();
    assert_eq!(
        (head.status.as_u16(), text(&head.headers, "x-ratelimit-remaining-image-day").as_deref()),
        (200, Some("2"))
    );
    assert_eq!(cost(&gateway, now, &[]).await.unwrap().1.status.as_u16(), 200);
    assert_eq!(cost(&gateway, now, &["video=abc"]).await.unwrap().1.status.as_u16(), 200);
}

#[tokio::test]
async fn the_first_violation_may_block() {
    let gateway = gateway("block_on_first_violation: true, hide_client_headers: true");
    let now = Timing::start();
    let (_, head) = cost(&gateway, now, &["video=3"]).await.unwrap();
    assert!(!head.headers.keys().any(|name| name.as_str().contains("ratelimit")), "hidden");
    let refused = cost(&gateway, now, &[]).await.unwrap_err();
    assert_eq!(refused, (429, "error: API rate limit exceeded for 'video'".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counts_in_redis() {
    let mut redis = Redis::start().await;
    let config =
        |more: &str| format!("policy: redis, redis: {{host: 127.0.0.1, port: {}}}{more}", redis.addr.port());
    let (one, other) = (gateway(&config("")), gateway(&config(", fault_tolerant: false")));
    let now = Timing::start();
    eventually("one counts", Duration::from_secs(10), || async {
        let (ctx, _) = cost(&one, now, &[]).await.unwrap();
        text(&ctx.head.headers, "x-ratelimit-remaining-video").ok_or("not yet")
    })
    .await;
    cost(&one, now, &["video=2"]).await.unwrap();
    eventually("the other knows", Duration::from_secs(10), || async {
        let (ctx, _) = cost(&other, now, &[]).await.map_err(|(status, _)| status.to_string())?;
        let left = text(&ctx.head.headers, "x-ratelimit-remaining-video");
        if left.as_deref() == Some("1") { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
    redis.kill();
    eventually("strict limits refuse", Duration::from_secs(10), || async {
        match cost(&other, now, &[]).await {
            Err((500, message)) if message == "error: An unexpected error occurred" => Ok(()),
            found => Err(format!("{:?}", found.map(|_| ()))),
        }
    })
    .await;
    eventually("tolerant ones pass without headers", Duration::from_secs(10), || async {
        let (_, head) = cost(&one, now, &["video=1"]).await.unwrap();
        if head.headers.is_empty() { Ok(()) } else { Err(format!("{:?}", head.headers)) }
    })
    .await;
}
