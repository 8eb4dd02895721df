//! Signatures are made by openssl, not by the library that checks them.

use std::io::Write as _;
use std::process::{Command, Stdio};

use http::Method;

use super::super::tests::{Gateway, told};
use super::*;

const SECRET: &str = "s3cr3t";

fn gateway(config: &str) -> Gateway {
    Gateway::new(&format!(
        "services: [{{host: h, routes: [{{paths: [/]}}]}}]
plugins: [{{name: hmac-auth, config: {config}}}]
consumers: [{{username: u, hmacauth_credentials: [{{username: bob, secret: {SECRET}}}]}}, {{username: guest}}]"
    ))
}

/// Base64 of openssl's HMAC.
fn openssl(algorithm: &str, text: &str) -> String {
    let hash = algorithm.trim_start_matches("hmac-");
    let mut child = Command::new("openssl")
        .args(["dgst", &format!("-{hash}"), "-hmac", SECRET, "-binary"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("openssl (Debian package openssl)");
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    STANDARD.encode(child.wait_with_output().unwrap().stdout)
}

fn now() -> String {
    httpdate::fmt_http_date(SystemTime::now())
}

fn authorization(algorithm: &str, headers: &str, signature: &str) -> String {
    format!(
        "hmac username=\"bob\", algorithm=\"{algorithm}\", headers=\"{headers}\", signature=\"{signature}\""
    )
}

async fn asked(gateway: &Gateway, headers: &[(&'static str, &str)]) -> (u16, String) {
    let mut ctx = gateway.request(Method::GET, "/a?b=c", headers);
    match gateway.access(&mut ctx).await {
        Some(answer) => {
            assert!(answer.headers[header::WWW_AUTHENTICATE].to_str().unwrap().starts_with("hmac"));
            told(&answer)
        }
        None => (200, ctx.head.headers["x-consumer-username"].to_str().unwrap().to_owned()),
    }
}

#[tokio::test]
async fn signatures_of_every_algorithm_are_verified() {
    let gateway = gateway("{}");
    let date = now();
    for algorithm in ["hmac-sha1", "hmac-sha256", "hmac-sha384", "hmac-sha512"] {
        let text = format!("date: {date}\nGET /a?b=c HTTP/1.1\n@request-target: get /a?b=c\nx-none:");
        let signature = openssl(algorithm, &text);
        let value = authorization(algorithm, "date request-line @request-target x-none", &signature);
        for name in ["authorization", "proxy-authorization"] {
            assert_eq!(
                asked(&gateway, &[("date", &date), (name, &value)]).await,
                (200, "u".to_owned()),
                "{algorithm}"
            );
        }
        let other = authorization(algorithm, "date", &signature);
        let refused = asked(&gateway, &[("date", &date), ("authorization", &other)]).await;
        assert_eq!(refused, (401, format!("error: {NOT_SAME}")));
    }
}

#[tokio::test]
async fn refusals_are_kongs() {
    let gateway = gateway("{enforce_headers: [date], algorithms: [hmac-sha256], realm: r}");
    let date = now();
    let old = httpdate::fmt_http_date(SystemTime::now() - Duration::from_secs(400));
    let signed = |algorithm: &str, date: &str| {
        authorization(algorithm, "date", &openssl(algorithm, &format!("date: {date}")))
    };
    let good = signed("hmac-sha256", &date);
    let bob = "username=\"bob\"";
    for (headers, message) in [
        (vec![("date", date.as_str())], "Unauthorized"),
        (vec![("authorization", good.as_str())], NO_DATE),
        (vec![("date", "yesterday"), ("authorization", &good)], NO_DATE),
        (vec![("date", &old), ("authorization", &signed("hmac-sha256", &old))], NO_DATE),
        (vec![("date", &date), ("authorization", "Basic x")], NOT_VALID),
        (vec![("date", &date), ("authorization", &good.replace(bob, "username=\"eve\""))], NOT_VALID),
        (vec![("date", &date), ("authorization", &signed("hmac-sha512", &date))], NOT_VALID),
        (vec![("date", &date), ("authorization", &authorization("hmac-sha256", "x-a", "eA=="))], NOT_VALID),
        (vec![("date", &date), ("authorization", &authorization("hmac-sha256", "date", "eA=="))], NOT_SAME),
    ] {
        assert_eq!(asked(&gateway, &headers).await, (401, format!("error: {message}")), "{headers:?}");
    }
    // An x-date within the limit is enough, whatever the date.
    let text = format!("date: {old}");
    let value = authorization("hmac-sha256", "date", &openssl("hmac-sha256", &text));
    let passed = asked(&gateway, &[("date", &old), ("x-date", &date), ("authorization", &value)]).await;
    assert_eq!(passed.0, 200);
}

#[tokio::test]
async fn credentials_are_hidden_and_anonymous_goes_on() {
    let gateway = gateway("{hide_credentials: true, anonymous: guest}");
    let date = now();
    let value = authorization("hmac-sha256", "date", &openssl("hmac-sha256", &format!("date: {date}")));
    let mut ctx = gateway.get("/", &[("date", &date), ("authorization", &value)]);
    assert!(gateway.access(&mut ctx).await.is_none());
    assert!(!ctx.head.headers.contains_key("authorization"));
    assert_eq!(ctx.head.headers["x-credential-identifier"], "bob");
    assert_eq!(asked(&gateway, &[]).await, (200, "guest".to_owned()));
}

#[test]
fn what_is_no_signature_is_none() {
    for value in ["", "hmac", "hmac username=\"\"", "hmac username=\"a\", algorithm=\"x\"", "hmäc", "hmac ü"]
    {
        assert_eq!(Signed::parse(value), None, "{value}");
    }
}
