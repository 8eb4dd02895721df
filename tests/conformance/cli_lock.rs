//! `consul lock`: mutual exclusion, semaphores, and what becomes of the child.

use std::time::Duration;

use http::Method;
use plinth_testbed::process::Process;
use plinth_testbed::{eventually, holds};
use rustix::process::Signal;

use crate::side::{LIMIT, Side, on_both};

const SOON: Duration = Duration::from_secs(15);

on_both!(exit_codes, one_at_a_time, two_at_a_time, a_lost_lock_ends_the_child, a_timeout_gives_up);

/// The child notes when it runs, and ends when it may.
fn holder(side: &Side, arguments: &[&str], name: &str) -> Process {
    let child = format!(
        "echo +{name} >> log; trap 'echo x{name} >> log; exit 1' TERM INT; \
         while [ ! -e end-{name} ]; do sleep 0.05; done; echo -{name} >> log"
    );
    let mut words = vec!["lock"];
    words.extend(arguments);
    words.extend(["jobs/report", &child]);
    side.start(name, Side::consul_command(&words))
}

fn log(side: &Side) -> Vec<String> {
    let text = std::fs::read_to_string(side.folder.path().join("log")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn end(side: &Side, name: &str) {
    side.file(&format!("end-{name}"), "");
}

async fn logged(side: &Side, what: &str, right: impl Fn(&[String]) -> bool) {
    eventually(&format!("{}: {what}", side.name), SOON, || {
        let log = log(side);
        let right = right(&log);
        async move { holds(right, format!("{log:?}")) }
    })
    .await;
}

/// That many clients hold or wait: each has a session.
async fn waits(side: &Side, clients: usize) {
    eventually(&format!("{}: {clients} sessions", side.name), SOON, || async {
        let sessions = side.get("/v1/session/list").await;
        holds(sessions.as_array().is_some_and(|all| all.len() == clients), sessions.to_string())
    })
    .await;
}

async fn exit_codes(side: &Side) {
    let code = |arguments: &[&str]| side.run("lock", Side::consul_command(arguments), LIMIT).status.code();
    assert_eq!(code(&["lock", "codes", "true"]), Some(0), "{}", side.name);
    assert_eq!(code(&["lock", "-child-exit-code", "codes", "exit 3"]), Some(2), "{}", side.name);
    assert_eq!(
        code(&["lock", "codes", "exit 3"]),
        Some(0),
        "{}: what the child says is not asked",
        side.name
    );
    // Everything is let go at the end.
    waits(side, 0).await;
}

async fn one_at_a_time(side: &Side) {
    let mut first = holder(side, &[], "a");
    logged(side, "the first holds it", |log| log == ["+a"]).await;
    let mut second = holder(side, &[], "b");
    waits(side, 2).await;
    // The key says who: Consul's lock stores the session beside a marker flag.
    let entry = side.get("/v1/kv/jobs/report/.lock").await;
    assert!(entry[0]["Session"].is_string(), "{}: {entry}", side.name);
    assert_eq!(entry[0]["Flags"], 0x2ddc_cbc0_58a5_0c18_u64, "{}: {entry}", side.name);
    end(side, "a");
    logged(side, "the second follows", |log| log == ["+a", "-a", "+b"]).await;
    assert!(first.wait(SOON).success(), "{}: {}", side.name, first.output());
    // SIGTERM to the client ends its child and frees the lock for a third.
    let mut third = holder(side, &[], "c");
    waits(side, 2).await;
    second.signal(Signal::TERM);
    logged(side, "the third follows", |log| log == ["+a", "-a", "+b", "xb", "+c"]).await;
    second.wait(SOON);
    end(side, "c");
    assert!(third.wait(SOON).success(), "{}: {}", side.name, third.output());
}

async fn two_at_a_time(side: &Side) {
    let names = ["a", "b", "c"];
    let mut holders: Vec<Process> = names.iter().map(|name| holder(side, &["-n=2"], name)).collect();
    logged(side, "two hold it", |log| log.len() == 2).await;
    waits(side, 3).await;
    let running = log(side);
    let first = running[0].trim_start_matches('+').to_owned();
    end(side, &first);
    logged(side, "the third follows", |log| log.len() == 4 && log[2] == format!("-{first}")).await;
    names.iter().for_each(|name| end(side, name));
    for holder in &mut holders {
        assert!(holder.wait(SOON).success(), "{}: {}", side.name, holder.output());
    }
    assert_eq!(log(side).len(), 6, "{}: {:?}", side.name, log(side));
}

/// Somebody destroys the session: the client sees the lock lost and ends its child.
async fn a_lost_lock_ends_the_child(side: &Side) {
    let mut first = holder(side, &["-monitor-retry=0"], "a");
    logged(side, "it holds", |log| log == ["+a"]).await;
    let entry = side.get("/v1/kv/jobs/report/.lock").await;
    let session = entry[0]["Session"].as_str().unwrap().to_owned();
    let destroyed = side.send(Method::PUT, &format!("/v1/session/destroy/{session}"), "").await;
    assert_eq!(destroyed.body().as_ref(), b"true");
    logged(side, "the child is ended", |log| log == ["+a", "xa"]).await;
    first.wait(SOON);
    assert!(
        first.output().contains("Error running handler: exit status 1"),
        "{}: {}",
        side.name,
        first.output()
    );
}

async fn a_timeout_gives_up(side: &Side) {
    let mut first = holder(side, &[], "a");
    logged(side, "it holds", |log| log == ["+a"]).await;
    let refused =
        side.run("lock", Side::consul_command(&["lock", "-timeout=1s", "jobs/report", "true"]), LIMIT);
    assert_eq!(refused.status.code(), Some(1), "{}: {}", side.name, refused.output);
    assert!(refused.output.contains("timeout during lock acquisition"), "{}: {}", side.name, refused.output);
    end(side, "a");
    assert!(first.wait(SOON).success(), "{}: {}", side.name, first.output());
}
