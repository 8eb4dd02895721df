//! Kong's matching rules, one small configuration each, and the index against the plain reading.

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use plinth_kong::{Config, Format, load};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn config(routes: Value) -> Config {
    let file = json!({"_format_version": "3.0", "services": [{"name": "s", "host": "h"}], "routes": routes});
    load(&file.to_string(), Format::Json).unwrap_or_else(|faults| panic!("{faults}")).config
}

#[derive(Clone, Debug)]
struct Request {
    method: Method,
    path: String,
    host: Option<String>,
    headers: HeaderMap,
    sni: Option<String>,
    https: bool,
}

impl Request {
    fn get(host: &str, path: &str) -> Request {
        let host = (!host.is_empty()).then(|| host.to_owned());
        Request {
            method: Method::GET,
            path: path.into(),
            host,
            headers: HeaderMap::new(),
            sni: None,
            https: false,
        }
    }

    fn header(mut self, name: &'static str, value: &'static str) -> Request {
        self.headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        self
    }

    fn ask(&self) -> Ask<'_> {
        Ask {
            method: &self.method,
            path: &self.path,
            host: self.host.as_deref(),
            headers: &self.headers,
            sni: self.sni.as_deref(),
            https: self.https,
        }
    }
}

/// The name of the route found.
fn found(routes: &Value, request: &Request) -> Option<String> {
    let config = config(routes.clone());
    let router = Router::new(&config).unwrap();
    router.find(&request.ask()).and_then(|found| config.routes[found.route].name.clone())
}

fn check(routes: Value, cases: &[(&str, &str, Option<&str>)]) {
    for (host, path, expected) in cases {
        assert_eq!(found(&routes, &Request::get(host, path)).as_deref(), *expected, "{host} {path}");
    }
}

#[test]
fn more_kinds_of_criteria_beat_a_longer_path() {
    let routes = json!([
        {"name": "long", "paths": ["/a/very/long/path"]},
        {"name": "host", "hosts": ["x.example"], "paths": ["/a"]},
    ]);
    check(
        routes,
        &[
            ("x.example", "/a/very/long/path", Some("host")),
            ("y.example", "/a/very/long/path", Some("long")),
            ("y.example", "/b", None),
        ],
    );
}

#[test]
fn prefixes_are_characters_and_longer_ones_win() {
    let routes = json!([{"name": "short", "paths": ["/api"]}, {"name": "long", "paths": ["/api/v1"]}, {"name": "root", "paths": ["/"]}]);
    check(
        routes,
        &[
            ("", "/apix", Some("short")),
            ("", "/api/v1", Some("long")),
            ("", "/api/v", Some("short")),
            ("", "/API", Some("root")),
            ("", "//api//v1", Some("long")),
            ("", "/api/%76%31", Some("long")),
            ("", "/x/../api", Some("short")),
        ],
    );
}

#[test]
fn a_route_competes_once_for_each_length_of_its_paths() {
    let routes = json!([{"name": "both", "paths": ["/a", "/a/b/c"]}, {"name": "middle", "paths": ["/a/b"]}]);
    check(routes, &[("", "/a/b/c", Some("both")), ("", "/a/b", Some("middle")), ("", "/a", Some("both"))]);
}

#[test]
fn expressions_beat_prefixes_and_priority_orders_them() {
    let routes = json!([
        {"name": "prefix", "paths": ["/users/42/profile"]},
        {"name": "low", "paths": ["~/users/\\d+"], "regex_priority": 1},
        {"name": "high", "paths": ["~/users/4\\d/.*"], "regex_priority": 2},
        {"name": "choice", "paths": ["~/(?:x|y)$|/z"], "regex_priority": 3},
    ]);
    check(
        routes,
        &[
            ("", "/users/42/profile", Some("high")),
            ("", "/users/5", Some("low")),
            ("", "/users/x", None),
            ("", "/y", Some("choice")),
            ("", "/zz", Some("choice")),
        ],
    );
}

#[test]
fn captures_and_the_matched_text() {
    let config = config(json!([{"name": "r", "paths": ["~/u/(?<id>\\d+)"]}]));
    let router = Router::new(&config).unwrap();
    let request = Request::get("", "/u/42/more");
    let found = router.find(&request.ask()).unwrap();
    assert_eq!((found.prefix(), found.matched), ("/u/42", 5));
    assert_eq!(found.captures, [("1".into(), "42".to_owned()), ("id".into(), "42".to_owned())]);
}

#[test]
fn hosts_with_wildcards_and_ports() {
    let routes = json!([
        {"name": "exact", "hosts": ["a.example.com"]},
        {"name": "left", "hosts": ["*.example.com"]},
        {"name": "right", "hosts": ["example.*"]},
        {"name": "port", "hosts": ["a.example.com:8443"]},
        {"name": "wild-port", "hosts": ["*.other.com:8080"]},
    ]);
    check(
        routes,
        &[
            ("a.example.com", "/", Some("exact")),
            ("A.Example.COM", "/", Some("exact")),
            ("b.example.com", "/", Some("left")),
            ("c.b.example.com:1234", "/", Some("left")),
            ("example.com", "/", Some("right")),
            ("example.co.uk", "/", Some("right")),
            ("example.", "/", None),
            (".example.com", "/", None),
            ("x.other.com:8080", "/", Some("wild-port")),
            ("x.other.com", "/", None),
            ("", "/", None),
        ],
    );
}

#[test]
fn plain_hosts_before_wildcards() {
    let routes = json!([
        {"name": "wild", "hosts": ["*.example.com"], "paths": ["/long/path"]},
        {"name": "plain", "hosts": ["a.example.com"], "paths": ["/"]},
    ]);
    check(
        routes,
        &[("a.example.com", "/long/path", Some("plain")), ("b.example.com", "/long/path", Some("wild"))],
    );
}

#[test]
fn headers_ignore_case_and_take_expressions() {
    let routes = json!([
        {"name": "two", "headers": {"x-a": ["1"], "x-b": ["2", "3"]}},
        {"name": "one", "headers": {"X-A": ["1"]}},
        {"name": "regex", "headers": {"x-v": ["~*^v[0-9]+$"]}},
    ]);
    let case = |request: Request| found(&routes, &request);
    assert_eq!(case(Request::get("", "/").header("x-a", "1").header("x-b", "3")).as_deref(), Some("two"));
    assert_eq!(case(Request::get("", "/").header("x-a", "1")).as_deref(), Some("one"));
    assert_eq!(case(Request::get("", "/").header("x-v", "V12")).as_deref(), Some("regex"));
    assert_eq!(case(Request::get("", "/").header("x-v", "w12")), None);
    assert_eq!(case(Request::get("", "/").header("x-b", "2")), None);
}

#[test]
fn preflights_do_not_match_routes_that_list_other_methods() {
    let routes = json!([{"name": "api", "paths": ["/a"], "methods": ["GET", "POST"]}]);
    let mut request = Request::get("", "/a");
    assert_eq!(found(&routes, &request).as_deref(), Some("api"));
    request.method = Method::OPTIONS;
    assert_eq!(found(&routes, &request), None);
}

#[test]
fn server_names_count_on_tls_only() {
    let routes = json!([{"name": "tls", "protocols": ["https"], "snis": ["*.a.com"], "paths": ["/"]}]);
    let mut request = Request::get("", "/");
    assert_eq!(found(&routes, &request).as_deref(), Some("tls"));
    request.https = true;
    assert_eq!(found(&routes, &request), None);
    request.sni = Some("x.A.com.".into());
    assert_eq!(found(&routes, &request).as_deref(), Some("tls"));
}

#[test]
fn routes_of_disabled_services_do_not_exist() {
    let file = json!({"_format_version": "3.0", "services": [
        {"host": "h", "enabled": false, "routes": [{"paths": ["/off"]}]},
        {"host": "h", "routes": [{"paths": ["/on"]}]},
    ]});
    let config = load(&file.to_string(), Format::Json).unwrap().config;
    let router = Router::new(&config).unwrap();
    assert!(router.find(&Request::get("", "/off").ask()).is_none());
    assert!(router.find(&Request::get("", "/on").ask()).is_some());
}

#[test]
fn braces_match_in_both_spellings() {
    let routes = json!([{"name": "movies", "paths": ["/movies/{id}"]}]);
    check(routes, &[("", "/movies/{id}", Some("movies")), ("", "/movies/%7bid%7d/x", Some("movies"))]);
}

fn any_route() -> impl Strategy<Value = Value> {
    let path = prop_oneof![
        prop::sample::select(vec!["/", "/a", "/ab", "/a/b", "/a/b/c", "/b", "/b/"]),
        prop::sample::select(vec!["~/a.*", "~/a/[bc]+", "~/b$", "~/(a|b)/c", "~/a|/b"]),
    ];
    let host = prop::sample::select(vec!["a.com", "*.a.com", "x.*", "a.com:80", "*.a.com:81", "x.a.com"]);
    let header = prop::sample::select(vec![
        json!({"x-a": ["1"]}),
        json!({"x-a": ["1", "2"], "x-b": ["1"]}),
        json!({"x-a": ["~*^[12]$"]}),
        Value::Null,
    ]);
    let sni = prop::sample::select(vec![json!(null), json!(["tls.a.com"]), json!(["a.com", "b.com"])]);
    (
        prop::collection::btree_set(path, 0..4),
        prop::collection::btree_set(host, 0..3),
        prop::collection::btree_set(prop::sample::select(vec!["GET", "POST"]), 0..2),
        header,
        0..3_i32,
        sni,
        prop::sample::select(vec!["s", "off"]),
    )
        .prop_filter("a route needs a criterion", |(paths, hosts, methods, headers, _, snis, _)| {
            !paths.is_empty() || !hosts.is_empty() || !methods.is_empty() || !headers.is_null() || !snis.is_null()
        })
        .prop_map(|(paths, hosts, methods, headers, priority, snis, service)| {
            json!({"paths": paths, "hosts": hosts, "methods": methods, "headers": headers, "regex_priority": priority,
                "snis": snis, "service": service})
        })
}

fn any_request() -> impl Strategy<Value = Request> {
    (
        prop::sample::select(vec![
            "/", "/a", "/abc", "/a/b", "/a/b/c/d", "/b", "/b/", "/bx", "/a/c", "//a/./b", "/z",
        ]),
        prop::sample::select(vec!["", "a.com", "A.com:80", "x.a.com", "y.x.a.com:81", "x.org", "a.com:82"]),
        any::<bool>(),
        prop::collection::vec(prop::sample::select(vec![("x-a", "1"), ("x-a", "2"), ("x-b", "1")]), 0..3),
        prop::option::of(prop::sample::select(vec!["tls.a.com", "A.com.", "z.com"])),
        any::<bool>(),
    )
        .prop_map(|(path, host, post, values, sni, https)| {
            let mut request = Request::get(host, path);
            if post {
                request.method = Method::POST;
            }
            for (name, value) in values {
                request = request.header(name, value);
            }
            request.sni = sni.map(str::to_owned);
            request.https = https;
            request
        })
}

/// The answer of an index whose routes are called by position.
fn answer(router: &Router, request: &Request) -> Option<(usize, usize)> {
    router.find(&request.ask()).map(|found| (found.route, found.matched))
}

fn with_services(routes: Vec<Value>) -> Config {
    let services = json!([{"name": "s", "host": "h"}, {"name": "off", "host": "h", "enabled": false}]);
    let file = json!({"_format_version": "3.0", "services": services, "routes": routes});
    load(&file.to_string(), Format::Json).unwrap_or_else(|faults| panic!("{faults}")).config
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn the_index_agrees_with_the_plain_reading(
        routes in prop::collection::vec(any_route(), 1..12),
        requests in prop::collection::vec(any_request(), 1..6),
    ) {
        let config = with_services(routes);
        let router = Router::new(&config).unwrap();
        for request in &requests {
            prop_assert_eq!(answer(&router, request), reference::find(&config, &request.ask()));
        }
    }

    #[test]
    fn a_changed_index_is_as_one_made_anew(
        before in prop::collection::vec(any_route(), 0..10),
        changes in prop::collection::vec((any::<prop::sample::Index>(), prop::option::of(any_route())), 1..6),
        requests in prop::collection::vec(any_request(), 1..6),
    ) {
        let enabled = |mut route: Value| {
            route["service"] = json!("s");
            route
        };
        let mut routes: Vec<Value> = before.into_iter().map(enabled).collect();
        let old = with_services(routes.clone());
        for (place, change) in changes {
            match change {
                Some(route) => routes.insert(place.index(routes.len() + 1), enabled(route)),
                None if routes.is_empty() => {}
                None => {
                    routes.remove(place.index(routes.len()));
                }
            }
        }
        let new = with_services(routes);
        // as the compiler does it: what is there by id stays, the rest goes and comes
        let stays = |config: &Config, route: &plinth_kong::Route| config.routes.iter().any(|one| one.id == route.id);
        let place = |route: &plinth_kong::Route| new.routes.iter().position(|one| one.id == route.id).unwrap();
        let names = |config: &Config| config.routes.iter().map(|route| (stays(&new, route), route.clone())).collect::<Vec<_>>();
        let kept = names(&old).into_iter().filter(|(stays, _)| *stays).map(|(_, route)| (place(&route), route)).collect::<Vec<_>>();
        let first = Router::of(kept.iter().map(|(at, route)| (*at, &**route)).chain(
            old.routes.iter().filter(|route| !stays(&new, route)).map(|route| (999, &**route)),
        )).unwrap();
        let gone = old.routes.iter().filter(|route| !stays(&new, route)).map(AsRef::as_ref);
        let come = new.routes.iter().filter(|route| !stays(&old, route)).map(|route| (place(route), route.as_ref()));
        let changed = first.change(gone, come).unwrap();
        let fresh = Router::new(&new).unwrap();
        for request in &requests {
            prop_assert_eq!(answer(&changed, request), answer(&fresh, request));
        }
    }
}

/// Entries a look-up touches do not grow with the number of routes: each request meets those of its own host and path.
#[test]
fn a_lookup_meets_only_routes_of_its_host_and_path() {
    let routes = |count: usize| -> Value {
        (0..count).map(|n| json!({"name": format!("r{n}"), "hosts": [format!("h{}.example", n % 50)], "paths": [format!("/s{n}/items")]})).collect()
    };
    for count in [100, 10_000] {
        let config = config(routes(count));
        let router = Router::new(&config).unwrap();
        let request = Request::get("h7.example", "/s57/items/1");
        assert_eq!(config.routes[router.find(&request.ask()).unwrap().route].name.as_deref(), Some("r57"));
        assert_eq!(router.explain(&request.ask()).len(), 1, "{count} routes");
    }
}

#[test]
fn losing_routes_say_why() {
    let routes = json!([
        {"name": "host", "hosts": ["x.example"], "paths": ["/a"]},
        {"name": "path", "paths": ["/a/b"]},
        {"name": "post", "paths": ["/a"], "methods": ["POST"]},
    ]);
    let config = config(routes);
    let router = Router::new(&config).unwrap();
    let request = Request::get("x.example", "/a/b");
    let told: Vec<(&str, Verdict)> = router
        .explain(&request.ask())
        .into_iter()
        .map(|one| (config.routes[one.route].name.as_deref().unwrap(), one.verdict))
        .collect();
    let expected =
        [("host", Verdict::Chosen), ("post", Verdict::Misses("methods")), ("path", Verdict::Later)];
    assert_eq!(told, expected, "two kinds of criteria before one, a plain host before none");
}
