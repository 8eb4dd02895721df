//! A file of ten thousand routes. Prints how long loading takes; asserts what must hold, not the time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fmt::Write as _;
use std::time::Instant;

use plinth_kong::{Format, load};

#[test]
fn ten_thousand_routes() {
    let mut text = String::from("_format_version: \"3.0\"\nservices:\n");
    for service in 0..1000 {
        write!(text, "- name: s{service}\n  url: http://s{service}.example:8080/base\n  routes:\n").unwrap();
        for route in 0..10 {
            write!(
                text,
                "  - name: r{service}-{route}\n    hosts: [h{route}.example.com]\n    paths: [/s{service}/r{route}, \"~/x{service}/\\\\d+\"]\n    methods: [GET, POST]\n    strip_path: false\n"
            )
            .unwrap();
        }
    }
    let begin = Instant::now();
    let mut reloader = plinth_kong::Reloader::new(plinth_kong::Secrets::required(|_| None));
    let first = reloader.load(&text, Format::Yaml).unwrap();
    println!("reloader: first {:?}, {} routes", begin.elapsed(), first.config.routes.len());
    for round in 0..5 {
        let changed = text.replacen(
            "methods: [GET, POST]",
            &format!("methods: [GET, PUT, M{}]", "X".repeat(round + 1)),
            1,
        );
        let begin = Instant::now();
        let next = reloader.load(&changed, Format::Yaml).unwrap();
        println!("reloader: next {:?}, {} routes", begin.elapsed(), next.config.routes.len());
    }
    let begin = Instant::now();
    let loaded = load(&text, Format::Yaml).unwrap_or_else(|faults| panic!("{faults}"));
    println!("{} bytes, {} routes loaded in {:?}", text.len(), loaded.config.routes.len(), begin.elapsed());
    assert_eq!((loaded.config.services.len(), loaded.config.routes.len()), (1000, 10_000));
    let paths = loaded.report.fields.iter().find(|field| field.field == "services[].routes[].paths").unwrap();
    assert_eq!(paths.count, 10_000);
}
