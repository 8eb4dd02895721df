use plinth_core::balance::Algorithm;

use super::*;

fn put(upstream: &Upstream, resolved: &[resolve::Resolved]) {
    upstream.replace([resolved], vec![TargetState::default(); upstream.definition.targets.len()]);
}

fn resolved(name: &str, port: u16, passing: bool) -> resolve::Resolved {
    resolve::Resolved {
        name: name.into(),
        address: std::net::SocketAddr::from(([127, 0, 0, 1], port)),
        weight: 1,
        passing,
    }
}

fn picks(upstream: &Upstream, count: usize) -> Vec<u16> {
    let endpoints = upstream.endpoints();
    let mut rng = fastrand::Rng::with_seed(1);
    (0..count)
        .filter_map(|_| upstream.pick(&endpoints, &mut PickContext::new(&mut rng, 0)))
        .map(|picked| picked.address.port())
        .collect()
}

#[test]
fn catalog_instances_that_do_not_pass_get_nothing_while_half_pass() {
    let upstream = Upstream::new(Definition::host("a.service.consul", 80), None);
    put(&upstream, &[resolved("a", 1, true), resolved("a", 2, false)]);
    assert_eq!(picks(&upstream, 4), [1, 1, 1, 1]);
    put(&upstream, &[resolved("a", 1, false), resolved("a", 2, false)]);
    assert_eq!(picks(&upstream, 4).len(), 4, "panic: health is ignored");
}

#[test]
fn a_refused_connection_takes_a_catalog_instance_out_until_swept() {
    let upstream = Upstream::new(Definition::host("a.service.consul", 80), None);
    put(&upstream, &[resolved("a", 1, true), resolved("a", 2, true)]);
    let endpoints = upstream.endpoints();
    let refused = || Fault::Connect(std::io::ErrorKind::ConnectionRefused.into());
    upstream.ended(&endpoints, 0, Ended::Failed(&refused()));
    upstream.ended(&endpoints, 0, Ended::GaveUp(&refused()));
    assert_eq!(picks(&upstream, 4), [2, 2, 2, 2]);
    upstream.sweep(Instant::now() + Duration::from_secs(60));
    assert!(picks(&upstream, 4).contains(&1));
}

#[test]
fn live_state_survives_a_change_of_endpoints_and_of_definition() {
    let upstream = Upstream::new(Definition::host("h", 80), None);
    put(&upstream, &[resolved("h", 1, true)]);
    let endpoints = upstream.endpoints();
    let running = endpoints.balancer.endpoints()[0].live.start(0);
    let next = Upstream::new(Definition::host("h", 80), Some(&upstream));
    put(&next, &[resolved("h", 1, true), resolved("h", 2, true)]);
    assert_eq!(next.endpoints().balancer.endpoints()[0].live.in_flight(), 1);
    drop(running);
    assert_eq!(next.endpoints().balancer.endpoints()[0].live.in_flight(), 0);
}

/// An upstream of the configuration with these fields besides its name and two targets.
fn kong(fields: &str) -> Upstream {
    let text = format!(
        "_format_version: '3.0'\nupstreams:\n- name: up\n  targets: [{{target: '127.0.0.1:1'}}, {{target: '127.0.0.1:2'}}]\n{fields}"
    );
    let config = plinth_kong::load(&text, plinth_kong::Format::Yaml).unwrap().config;
    let upstream = Upstream::new(Definition::kong(config.upstream("up").unwrap()).unwrap(), None);
    let (one, two) = ([resolved("127.0.0.1", 1, true)], [resolved("127.0.0.1", 2, true)]);
    upstream.replace([&one[..], &two[..]], vec![TargetState::default(); 2]);
    upstream
}

fn timeout() -> Fault {
    Fault::ReadTimeout
}

#[test]
fn a_last_try_counts_by_its_status_and_those_before_as_failed_connections() {
    let rules = "  healthchecks: {passive: {unhealthy: {tcp_failures: 2, timeouts: 2, http_failures: 2, http_statuses: [500, 502]}}}";
    for (ended, turns) in [
        (&[Ended::Failed(&Fault::Closed), Ended::Failed(&Fault::Closed)][..], true),
        (&[Ended::Failed(&Fault::Closed), Ended::GaveUp(&Fault::Closed)], false),
        (&[Ended::GaveUp(&Fault::Closed), Ended::GaveUp(&Fault::Closed)], true),
        (&[Ended::GaveUp(&Fault::Closed), Ended::Answered(500)], true),
        (&[Ended::Failed(&timeout()), Ended::GaveUp(&timeout())], true),
        (&[Ended::Failed(&timeout()), Ended::Failed(&Fault::Closed)], false),
        (&[Ended::Answered(500), Ended::Answered(404)], false),
    ] {
        let upstream = kong(rules);
        let endpoints = upstream.endpoints();
        for one in ended {
            upstream.ended(&endpoints, 0, *one);
        }
        assert_eq!(!endpoints.balancer.endpoints()[0].live.is_available(), turns, "{ended:?}");
    }
}

#[test]
fn the_health_of_a_target_can_be_set_while_something_checks_it() {
    let upstream = kong("  healthchecks: {passive: {unhealthy: {tcp_failures: 1}}}");
    let endpoints = upstream.endpoints();
    upstream.ended(&endpoints, 0, Ended::Failed(&Fault::Closed));
    assert_eq!(picks(&upstream, 3), [2, 2, 2]);
    upstream.set_health("127.0.0.1:1", None, true).unwrap();
    assert!(picks(&upstream, 4).contains(&1));
    let address = "127.0.0.1".parse().ok();
    upstream.set_health("127.0.0.1:2", address, false).unwrap();
    assert_eq!(picks(&upstream, 3), [1, 1, 1]);
    let id = upstream.definition.kong.as_ref().unwrap().targets[1].id.to_string();
    upstream.set_health(&id, None, true).unwrap();
    assert!(picks(&upstream, 4).contains(&2));
    assert_eq!(upstream.set_health("127.0.0.1:3", None, true), Err(SetHealthError::Target));
    let other = "127.0.0.9".parse().ok();
    assert_eq!(upstream.set_health("127.0.0.1:2", other, true), Err(SetHealthError::Address));
    assert_eq!(kong("").set_health("127.0.0.1:1", None, false), Err(SetHealthError::Off));
}

#[test]
fn targets_are_available_again_when_their_checks_are_switched_off() {
    let upstream = kong("  healthchecks: {passive: {unhealthy: {tcp_failures: 1}}}");
    upstream.set_health("127.0.0.1:1", None, false).unwrap();
    let definition = kong("").definition;
    let next = Upstream::new(definition, Some(&upstream));
    let (one, two) = ([resolved("127.0.0.1", 1, true)], [resolved("127.0.0.1", 2, true)]);
    next.replace([&one[..], &two[..]], vec![TargetState::default(); 2]);
    assert!(picks(&next, 4).contains(&1));
}

#[test]
fn a_half_open_target_gets_its_trial_and_the_others_the_rest() {
    let upstream = kong("  tags: ['plinth.breaker:volume=1;open=1s']");
    let endpoints = upstream.endpoints();
    upstream.ended(&endpoints, 0, Ended::Answered(500));
    assert_eq!(picks(&upstream, 3), [2, 2, 2]);
    assert_eq!(upstream.ejected(), 1);
    upstream.sweep(Instant::now() + Duration::from_secs(2));
    let ports = picks(&upstream, 6);
    assert_eq!(ports.iter().filter(|port| **port == 1).count(), 1, "{ports:?}");
    upstream.ended(&endpoints, 0, Ended::Answered(200));
    assert_eq!(picks(&upstream, 6).iter().filter(|port| **port == 1).count(), 3);
}

#[test]
fn a_sticky_cookie_makes_the_algorithm_sticky() {
    let upstream = kong("  tags: ['plinth.sticky-cookie:place']");
    assert_eq!(upstream.definition.algorithm, Algorithm::Sticky);
}
