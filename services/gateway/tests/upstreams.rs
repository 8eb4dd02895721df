//! Upstreams of a Kong file: weights, algorithms, passive health checks; DNS names; whom forwarding headers are
//! believed from.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/harness.rs"]
mod harness;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use harness::{Client, Gateway, balanced};
use hickory_resolver::proto::op::{Message, OpCode};
use hickory_resolver::proto::rr::rdata::{A, SRV};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use http::{Response, header};
use http_body_util::Full;
use plinth_testbed::chaos::{Mode, Proxy};
use plinth_testbed::upstream::Upstream;
use plinth_testbed::{eventually, free_port, holds, http_client};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

/// Upstreams that answer with their own address.
async fn named<const COUNT: usize>() -> [Upstream; COUNT] {
    let mut all = Vec::new();
    for _ in 0..COUNT {
        let upstream = Upstream::start().await;
        let name = upstream.addr.to_string();
        upstream.respond(move |_| {
            let name = name.clone();
            async move { Response::new(Full::from(name)) }
        });
        all.push(upstream);
    }
    all.try_into().ok().unwrap()
}

fn counts<const COUNT: usize>(upstreams: &[Upstream; COUNT]) -> [usize; COUNT] {
    upstreams.each_ref().map(|upstream| upstream.requests().len())
}

/// Target and health as the Admin API tells them.
async fn health(gateway: &Gateway) -> BTreeMap<String, String> {
    let url = format!("http://{}/upstreams/up/health", gateway.admin);
    let answer = http_client::get(&url).await.unwrap();
    let body: Value = serde_json::from_slice(answer.body()).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    body["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|target| (text(&target["target"]), text(&target["health"])))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weights_are_exact_shares_and_zero_is_none() {
    let upstreams = named::<4>().await;
    let weights = [60, 30, 10, 0];
    let targets: Vec<_> = upstreams.iter().map(|upstream| upstream.addr).zip(weights).collect();
    let gateway = Gateway::start(&balanced(&targets, json!({}))).await;
    // over several connections, so that both workers take part
    let mut clients = Vec::new();
    for _ in 0..5 {
        clients.push(Client::connect(gateway.proxy).await);
    }
    for _ in 0..40 {
        for client in &mut clients {
            assert_eq!(client.get("/").await.unwrap().0, 200);
        }
    }
    assert_eq!(counts(&upstreams), [120, 60, 20, 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_are_counted_at_every_scrape_until_their_upstream_is_gone() {
    let upstreams = named::<2>().await;
    let targets: Vec<_> = upstreams.iter().map(|upstream| (upstream.addr, 100)).collect();
    let text = balanced(&targets, json!({}));
    let gateway = Gateway::start(&text).await;
    let healthy = async |name: &str| {
        let sample = format!("gateway_upstream_endpoints{{state=\"healthy\",upstream=\"{name}\",");
        gateway.metric(&sample).await
    };
    let counted = async |name: &'static str| {
        eventually("they are counted", Duration::from_secs(10), || async {
            let count = healthy(name).await;
            holds(count == 2.0, count.to_string())
        })
        .await;
    };
    counted("up").await;
    // longer than the half second after which they are counted again
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_millis(1200) {
        assert_eq!(healthy("up").await, 2.0);
    }
    std::fs::write(&gateway.file, text.replace("\"up\"", "\"other\"")).unwrap();
    counted("other").await;
    eventually("the old ones are forgotten", Duration::from_secs(10), || async {
        let count = healthy("up").await;
        holds(count == 0.0, count.to_string())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn least_connections_goes_around_the_busy_target() {
    let upstreams = named::<2>().await;
    let gate = Arc::new(Semaphore::new(0));
    for upstream in &upstreams {
        let gate = gate.clone();
        upstream.respond(move |request| {
            let gate = gate.clone();
            async move {
                if request.uri() == "/hold" {
                    gate.acquire().await.unwrap().forget();
                }
                Response::new(Full::from("ok"))
            }
        });
    }
    let targets = [(upstreams[0].addr, 100), (upstreams[1].addr, 100)];
    let gateway = Gateway::start(&balanced(&targets, json!({"algorithm": "least-connections"}))).await;
    let mut holding = Client::connect(gateway.proxy).await;
    let held = tokio::spawn(async move { holding.get("/hold").await.unwrap().0 });
    let busy = eventually("a request is held", Duration::from_secs(10), || async {
        counts(&upstreams).iter().position(|&count| count == 1).ok_or("not yet")
    })
    .await;
    let mut client = Client::connect(gateway.proxy).await;
    for _ in 0..20 {
        assert_eq!(client.get("/").await.unwrap().0, 200);
    }
    assert_eq!((counts(&upstreams)[busy], counts(&upstreams)[1 - busy]), (1, 20));
    gate.add_permits(1);
    assert_eq!(held.await.unwrap(), 200);
    for _ in 0..20 {
        assert_eq!(client.get("/").await.unwrap().0, 200);
    }
    assert!(counts(&upstreams)[busy] > 1, "idle again, it takes part again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hashing_on_a_header_keeps_users_where_they_are() {
    let upstreams = named::<3>().await;
    let hashing = json!({"algorithm": "consistent-hashing", "hash_on": "header", "hash_on_header": "x-user"});
    let targets: Vec<_> = upstreams.iter().map(|upstream| (upstream.addr, 100)).collect();
    let gateway = Gateway::start(&balanced(&targets, hashing.clone())).await;
    let place = async |user: &str| {
        let mut client = Client::connect(gateway.proxy).await;
        let (status, _, body) = client.get_with("/", &[("x-user", user)]).await.unwrap();
        assert_eq!(status, 200);
        String::from_utf8(body.to_vec()).unwrap()
    };
    let users: Vec<String> = (0..90).map(|user| format!("user-{user}")).collect();
    let mut before = BTreeMap::new();
    for user in &users {
        before.insert(user, place(user).await);
    }
    for user in &users {
        assert_eq!(place(user).await, before[user], "{user} again");
    }
    for count in counts(&upstreams) {
        assert!((20..=110).contains(&count), "{:?}", counts(&upstreams));
    }

    // the order of targets does not matter, and only those of the target that is gone move
    let gone = upstreams[1].addr.to_string();
    std::fs::write(&gateway.file, balanced(&[targets[2], targets[0]], hashing)).unwrap();
    eventually("the new configuration runs", Duration::from_secs(10), || async {
        holds(gateway.metric("gateway_config_generation").await >= 2.0, "the old one")
    })
    .await;
    for user in &users {
        let now = place(user).await;
        if before[user] == gone {
            assert_ne!(now, gone);
        } else {
            assert_eq!(now, before[user], "{user} did not have to move");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hashing_on_a_cookie_makes_one_and_keeps_to_it() {
    let upstreams = named::<3>().await;
    let hashing = json!({"algorithm": "consistent-hashing", "hash_on": "cookie", "hash_on_cookie": "place"});
    let targets: Vec<_> = upstreams.iter().map(|upstream| (upstream.addr, 100)).collect();
    let gateway = Gateway::start(&balanced(&targets, hashing)).await;
    let mut client = Client::connect(gateway.proxy).await;
    for _ in 0..10 {
        let (_, headers, first) = client.get("/").await.unwrap();
        let cookie = headers[header::SET_COOKIE].to_str().unwrap().to_owned();
        assert!(cookie.starts_with("place=") && cookie.contains("; Path=/;"), "{cookie}");
        let sent = format!("other=1; {}", cookie.split(';').next().unwrap());
        for _ in 0..3 {
            let (_, headers, again) = client.get_with("/", &[("cookie", &sent)]).await.unwrap();
            assert_eq!(again, first);
            assert!(!headers.contains_key(header::SET_COOKIE), "it has one");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passive_checks_take_out_a_target_that_answers_500() {
    let upstreams = named::<2>().await;
    upstreams[1].respond_status(500);
    let checks = json!({"healthchecks": {"passive": {
        "healthy": {"successes": 1},
        "unhealthy": {"http_failures": 3, "http_statuses": [500, 503]},
    }}});
    let targets = [(upstreams[0].addr, 100), (upstreams[1].addr, 100)];
    let gateway = Gateway::start(&balanced(&targets, checks)).await;
    let mut client = Client::connect(gateway.proxy).await;
    let mut failed = 0;
    for _ in 0..40 {
        failed += usize::from(client.get("/").await.unwrap().0 == 500);
    }
    assert_eq!((failed, counts(&upstreams)), (3, [37, 3]));
    let health = health(&gateway).await;
    assert_eq!(health[&upstreams[0].addr.to_string()], "HEALTHY");
    assert_eq!(health[&upstreams[1].addr.to_string()], "UNHEALTHY");
    eventually("the metric says so", Duration::from_secs(10), || async {
        let unhealthy = gateway.metric("gateway_upstream_endpoints{state=\"unhealthy\"").await;
        holds(unhealthy == 1.0, unhealthy.to_string())
    })
    .await;

    upstreams[0].respond_status(503);
    for _ in 0..3 {
        assert_eq!(client.get("/").await.unwrap().0, 503);
    }
    let (status, _, body) = client.get("/").await.unwrap();
    assert_eq!(status, 503);
    assert!(String::from_utf8_lossy(&body).contains("failure to get a peer from the ring-balancer"));
    assert_eq!(counts(&upstreams), [40, 3], "nobody is left to ask");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passive_checks_count_refused_connections_and_timeouts() {
    let upstreams = named::<1>().await;
    let closed = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let hole = Proxy::start(upstreams[0].addr).await;
    hole.set(Mode::BlackHole);
    let checks = json!({"healthchecks": {"passive": {"unhealthy": {"tcp_failures": 2, "timeouts": 1}}}});
    let targets = [(upstreams[0].addr, 100), (closed, 100), (hole.addr(), 100)];
    let text = balanced(&targets, checks).replace("\"name\":\"s\"", "\"name\":\"s\",\"read_timeout\":2000");
    let gateway = Gateway::start(&text).await;
    let mut client = Client::connect(gateway.proxy).await;
    for _ in 0..60 {
        assert_eq!(client.get("/").await.unwrap().0, 200);
    }
    let health = health(&gateway).await;
    let states =
        [upstreams[0].addr, closed, hole.addr()].map(|address| health[&address.to_string()].as_str());
    assert_eq!(states, ["HEALTHY", "UNHEALTHY", "UNHEALTHY"]);
    assert_eq!(gateway.metric("gateway_upstream_retries_total").await, 3.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dns_name_is_a_host_and_one_that_does_not_exist_is_503() {
    let upstreams = named::<1>().await;
    let port = upstreams[0].addr.port();
    let config = json!({
        "_format_version": "3.0",
        "services": [
            {"name": "plain", "url": format!("http://localhost:{port}"), "routes": [{"name": "plain", "paths": ["/plain"]}]},
            {"name": "balanced", "host": "up", "routes": [{"name": "balanced", "paths": ["/balanced"]}]},
            {"name": "nowhere", "url": "http://nowhere.invalid", "routes": [{"name": "nowhere", "paths": ["/nowhere"]}]},
        ],
        "upstreams": [{"name": "up", "targets": [{"target": format!("localhost:{port}")}]}],
    });
    let gateway = Gateway::start(&config.to_string()).await;
    for path in ["/plain", "/balanced"] {
        let answer = gateway.get(path).await;
        assert_eq!(answer.status(), 200, "{path}: {:?}", answer.body());
        let request = upstreams[0].requests().pop().unwrap();
        assert_eq!(request.headers()["host"], format!("localhost:{port}"), "{path}");
    }
    let answer = gateway.get("/nowhere").await;
    assert_eq!(answer.status(), 503);
    let body = String::from_utf8_lossy(answer.body());
    assert!(body.contains("name resolution failed"), "{body}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forwarding_headers_are_believed_from_trusted_peers_only() {
    let upstreams = named::<1>().await;
    let text = balanced(&[(upstreams[0].addr, 100)], json!({}));
    let claims = [
        ("x-forwarded-for", "203.0.113.9, 198.51.100.7"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "public.test"),
        ("x-forwarded-port", "443"),
        ("x-forwarded-path", "/before"),
        ("x-forwarded-prefix", "/front"),
        ("x-real-ip", "203.0.113.9"),
    ];
    let told = async |flags: &[&str]| {
        let gateway = Gateway::start_with(&text, flags).await;
        let mut client = Client::connect(gateway.proxy).await;
        assert_eq!(client.get_with("/a", &claims).await.unwrap().0, 200);
        let request = upstreams[0].requests().pop().unwrap();
        let names =
            ["for", "proto", "host", "port", "path", "prefix"].map(|name| format!("x-forwarded-{name}"));
        let mut told: Vec<String> = names
            .iter()
            .map(|name| name.as_str())
            .chain(["x-real-ip"])
            .map(|name| request.headers().get(name).map_or("-", |value| value.to_str().unwrap()).to_owned())
            .collect();
        told[3] = told[3].replace(&gateway.proxy.port().to_string(), "OWN");
        told.join(" | ")
    };
    let list = "203.0.113.9, 198.51.100.7, 127.0.0.1";
    assert_eq!(told(&[]).await, format!("{list} | http | 127.0.0.1 | OWN | /a | - | 127.0.0.1"));
    assert_eq!(
        told(&["--trusted-ips", "10.0.0.0/8"]).await,
        format!("{list} | http | 127.0.0.1 | OWN | /a | - | 127.0.0.1")
    );
    assert_eq!(
        told(&["--trusted-ips", "127.0.0.0/8,::1"]).await,
        format!("{list} | https | public.test | 443 | /before | /front | 203.0.113.9")
    );
    let recursive = ["--trusted-ips", "127.0.0.0/8,198.51.100.0/24", "--real-ip-header", "X-Forwarded-For"];
    let mut flags = recursive.to_vec();
    assert!(told(&flags).await.ends_with("| 198.51.100.7"));
    flags.extend(["--real-ip-recursive", "true"]);
    assert!(told(&flags).await.ends_with("| 203.0.113.9"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_target_of_a_request_names_the_host_before_its_header_does() {
    let upstreams = named::<1>().await;
    let config = json!({
        "_format_version": "3.0",
        "services": [{
            "name": "s", "url": format!("http://{}", upstreams[0].addr),
            "routes": [{"name": "r", "hosts": ["public.test"], "preserve_host": true}],
        }],
    });
    let gateway = Gateway::start(&config.to_string()).await;
    let ask = async |target: &str, host: &str| {
        let request = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        harness::raw(gateway.proxy, request.as_bytes(), Duration::from_secs(5)).await
    };
    assert!(ask("/", "public.test").await.starts_with("HTTP/1.1 200"));
    assert!(ask("/", "internal.test").await.starts_with("HTTP/1.1 404"));
    assert!(ask("http://internal.test/", "public.test").await.starts_with("HTTP/1.1 404"));
    assert!(ask("http://me@public.test/", "public.test").await.starts_with("HTTP/1.1 400"));
    assert!(ask("http://public.test/a", "internal.test").await.starts_with("HTTP/1.1 200"));
    let request = upstreams[0].requests().pop().unwrap();
    assert_eq!((request.uri().path(), request.headers()["host"].to_str().unwrap()), ("/a", "public.test"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn host_header_of_an_upstream_replaces_the_name() {
    let upstreams = named::<1>().await;
    let text = balanced(&[(upstreams[0].addr, 100)], json!({"host_header": "inner.test"}));
    let gateway = Gateway::start(&text).await;
    assert_eq!(gateway.get("/").await.status(), 200);
    let request = upstreams[0].requests().pop().unwrap();
    assert_eq!(request.headers()["host"], format!("inner.test:{}", upstreams[0].addr.port()));
}

/// A DNS server that knows `host.test` (127.0.0.1) and what `services` says of `pool.test`: priority, weight, port.
async fn name_server(services: Arc<Mutex<Vec<(u16, u16, u16)>>>) -> SocketAddr {
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 1500];
        loop {
            let (length, asker) = socket.recv_from(&mut buffer).await.unwrap();
            let asked = Message::from_vec(&buffer[..length]).unwrap();
            let query = asked.queries[0].clone();
            let mut answer = Message::response(asked.metadata.id, OpCode::Query);
            answer.add_query(query.clone());
            let name = query.name().clone();
            let host: Name = "host.test.".parse().unwrap();
            match (query.query_type(), name.to_utf8().as_str()) {
                (RecordType::A, "host.test.") => {
                    let address = RData::A(A::new(127, 0, 0, 1));
                    answer.add_answer(Record::from_rdata(name, 60, address));
                }
                (RecordType::SRV, "pool.test.") => {
                    for (priority, weight, port) in services.lock().unwrap().iter() {
                        let service = RData::SRV(SRV::new(*priority, *weight, *port, host.clone()));
                        answer.add_answer(Record::from_rdata(name.clone(), 1, service));
                    }
                }
                _ => {}
            }
            socket.send_to(&answer.to_vec().unwrap(), asker).await.unwrap();
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn srv_records_give_ports_and_weights_and_are_asked_for_again() {
    let upstreams = named::<3>().await;
    let port = |place: usize| upstreams[place].addr.port();
    let services = Arc::new(Mutex::new(vec![(1, 30, port(0)), (1, 10, port(1)), (2, 100, port(2))]));
    let server = name_server(services.clone()).await.to_string();
    let config = json!({
        "_format_version": "3.0",
        "services": [
            {"name": "s", "host": "up", "routes": [{"name": "r", "paths": ["/"], "strip_path": false}]},
            {"name": "plain", "url": format!("http://host.test:{}", port(2)), "routes": [{"name": "p", "paths": ["/plain"]}]},
        ],
        "upstreams": [{"name": "up", "targets": [{"target": "pool.test:1"}], "use_srv_name": true}],
    });
    let gateway = Gateway::start_with(&config.to_string(), &["--dns-resolver", &server]).await;
    // Names that are not resolved yet are 503: both are asked for once.
    for path in ["/", "/plain"] {
        eventually("the name is resolved", Duration::from_secs(10), || async {
            let status = gateway.get(path).await.status();
            holds(status == 200, status.to_string())
        })
        .await;
    }
    let before = counts(&upstreams);
    for _ in 0..40 {
        assert_eq!(gateway.get("/").await.status(), 200);
    }
    let new: Vec<usize> = std::iter::zip(counts(&upstreams), before).map(|(now, then)| now - then).collect();
    assert_eq!(new, [30, 10, 0], "by weight, the least priority number only");
    let request = upstreams[0].requests().pop().unwrap();
    assert_eq!(request.headers()["host"], format!("host.test:{}", port(0)));
    assert_eq!(gateway.get("/plain").await.status(), 200);
    assert_eq!(upstreams[2].requests().len(), 2, "a name without SRV records has its A records");

    *services.lock().unwrap() = vec![(1, 1, port(2))];
    eventually("the new records are used", Duration::from_secs(10), || async {
        gateway.get("/").await;
        holds(upstreams[2].requests().len() >= 4, "the old ones")
    })
    .await;
}
