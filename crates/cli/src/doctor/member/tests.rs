use plinth_core::consul::wire::HealthCheck;
use serde_json::json;

use super::super::finding::Level;
use super::*;

fn entry(meta: &[(&str, &str)], status: &str) -> ServiceEntry {
    let mut entry = ServiceEntry::default();
    entry.node.address = "10.0.0.7".to_owned();
    entry.service.id = "config-1".to_owned();
    entry.service.port = 8520;
    entry.service.meta = meta.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    entry.checks =
        vec![HealthCheck { status: status.to_owned(), output: "why\nmore".to_owned(), ..Default::default() }];
    entry
}

fn member(meta: &[(&str, &str)], status: &str) -> Member {
    Member::new("config-service", &entry(meta, status))
}

fn seen(body: Value, metrics: &str) -> Seen {
    Seen { health: Ok((body, Timestamp::UNIX_EPOCH)), metrics: metrics.to_owned() }
}

fn worst(findings: &[Finding], check: &str) -> Level {
    let of_check = findings.iter().filter(|finding| finding.check == check);
    of_check.map(|finding| finding.level).max_by_key(|level| *level as u8).unwrap()
}

fn judged(member: &Member, seen: &Seen) -> Vec<Finding> {
    judge(member, seen, Timestamp::UNIX_EPOCH, 14)
}

#[test]
fn asks_where_health_is_served() {
    assert_eq!(
        member(&[("status_port", "8007"), ("scheme", "https")], "passing").base,
        "http://10.0.0.7:8007"
    );
    assert_eq!(member(&[], "passing").base, "http://10.0.0.7:8520");
    let behind_tls = member(&[("scheme", "https")], "passing");
    let unseen = Seen { health: Err(String::new()), metrics: String::new() };
    assert_eq!(worst(&judged(&behind_tls, &unseen), "reachable"), Level::Warning);
}

#[test]
fn a_sound_replica_has_only_good_findings() {
    let body = json!({"status": "healthy", "timestamp": "1970-01-01T00:00:01Z", "checks": {"consul": {"status": "pass", "details": {}}}});
    let metrics = "gateway_config_last_reload_successful 1\nprocess_open_fds 10\nprocess_max_fds 1024\n";
    let findings = judged(&member(&[], "passing"), &seen(body, metrics));
    assert!(findings.iter().all(|finding| finding.level == Level::Ok), "{findings:?}");
}

#[test]
fn what_is_wrong_is_found_and_has_a_remedy() {
    let body = json!({
        "status": "degraded", "timestamp": "1970-01-01T00:01:00Z",
        "checks": {"sql": {"status": "fail", "details": "postgres does not answer; writes are refused"}},
    });
    let metrics = "gateway_config_last_reload_successful 0\nprocess_open_fds 1000\nprocess_max_fds 1024\n\
        plinth_certificate_expiry_timestamp_seconds{use=\"tls\"} 86400\n\
        plinth_certificate_expiry_timestamp_seconds{use=\"proxy\"} -1\n";
    let findings = judged(&member(&[], "critical"), &seen(body, metrics));
    for (check, level) in [
        ("catalog", Level::Problem),
        ("health", Level::Warning),
        ("clock", Level::Problem),
        ("configuration", Level::Problem),
        ("descriptors", Level::Warning),
        ("certificate", Level::Problem),
    ] {
        assert_eq!(worst(&findings, check), level, "{check}");
    }
    assert!(
        findings.iter().all(|finding| finding.level == Level::Ok || finding.remedy.is_some()),
        "{findings:?}"
    );
    assert_eq!(findings[0].message, "critical: why");
}

#[test]
fn short_lived_leaves_are_no_warning() {
    let metrics = "plinth_certificate_expiry_timestamp_seconds{use=\"mtls\"} 200000\n";
    let body = json!({"status": "healthy", "checks": {}});
    assert_eq!(worst(&judged(&member(&[], "passing"), &seen(body, metrics)), "certificate"), Level::Ok);
}

#[test]
fn versions_are_compared() {
    let of = |version| member(&[("version", version)], "passing");
    assert_eq!(compare(&[of("0.1.0"), of("0.1.0")], "0.1.0")[0].level, Level::Ok);
    assert_eq!(compare(&[of("0.1.0"), of("0.2.0")], "0.1.0")[0].level, Level::Warning);
    assert_eq!(compare(&[of("0.1.0")], "0.2.0")[0].level, Level::Warning);
    assert!(compare(&[], "0.2.0").is_empty());
}
