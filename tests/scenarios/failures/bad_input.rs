//! Wrong settings end a program with 64 and the setting's name, before it has done anything.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use plinth_testbed::process::Process;

use crate::support::backend::{Backend, Kind};
use crate::support::platform::{ready, service};
use crate::support::program::{Program, command};

const SERVICES: [&str; 4] = ["registry-service", "config-service", "health-aggregator", "gateway"];

/// Exit code and output of a program that is expected to end by itself.
fn outcome(label: &str, command: Command, folder: &Path) -> (Option<i32>, String) {
    let mut process = Process::spawn(label, command, folder);
    let status = tokio::task::block_in_place(|| process.wait(Duration::from_secs(15)));
    (status.code(), process.output())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_settings_are_named_all_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut run = 0;
    let mut refused = |program: &str, args: &[&str], env: &[(&str, &str)], words: &[&str]| {
        run += 1;
        let mut bad = command(program);
        bad.args(args).envs(env.iter().copied());
        let (code, output) = outcome(&format!("{program}-{run}"), bad, folder.path());
        assert_eq!(code, Some(64), "{program} {args:?} {env:?}: {output}");
        for word in words {
            assert!(output.contains(word), "{program} {args:?} {env:?} does not name {word}: {output}");
        }
    };
    for program in SERVICES.iter().chain(&["demo-service"]) {
        refused(program, &["--no-such-setting", "1"], &[], &["no-such-setting"]);
        refused(program, &[], &[("CONSUL_HTTP_ADDR", "ftp://consul")], &["ftp"]);
    }
    for program in &SERVICES[..3] {
        let faults = ["--listen", "nowhere", "--shutdown-timeout", "soon"];
        refused(program, &faults, &[], &["listen", "shutdown"]);
        refused(program, &["--listen", "0.0.0.0:0", "--advertise", "127.0.0.1"], &[], &["auth"]);
        let short = program.split('-').next().unwrap_or(program).to_uppercase();
        let variable = format!("PLINTH_{short}__LISTEN");
        refused(program, &[], &[(&variable, "nowhere")], &["nowhere"]);
    }
    refused("gateway", &["--proxy-listen", "nowhere"], &[], &["proxy"]);
    refused("gateway", &[], &[("KONG_DATABASE", "postgres")], &["KONG_DATABASE"]);
    refused("gateway", &["--proxy-listen", "off", "--admin-listen", "0.0.0.0:0"], &[], &["auth"]);
    refused("health-aggregator", &["--probe-failures", "0"], &[], &["probe"]);
    refused("plinth", &["agent"], &[], &["--data-dir"]);
    refused("plinth", &["agent", "--in-memory", "--http-port", "70000"], &[], &["70000"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_kong_file_ends_the_gateway_with_kongs_words() {
    let folder = tempfile::tempdir().unwrap();
    for (label, entity, words) in [
        (
            "port",
            "services:\n  - name: a\n    host: a\n    port: 99999\n",
            "in 'port': value should be between 0 and 65535",
        ),
        ("plugin", "plugins:\n  - name: nope\n", "plugin 'nope' not enabled"),
        ("yaml", "services: [", "yaml"),
    ] {
        let file = folder.path().join(format!("{label}.yml"));
        std::fs::write(&file, format!("_format_version: \"3.0\"\n{entity}")).unwrap();
        let mut gateway = command("gateway");
        gateway.arg("--config").arg(&file);
        for listen in ["--proxy-listen", "--admin-listen", "--status-listen"] {
            gateway.args([listen, "127.0.0.1:0"]);
        }
        let (code, output) = outcome(label, gateway, folder.path());
        assert!(code.is_some_and(|code| code != 0), "{label}: {code:?}: {output}");
        let said = output.split("gateway: ").nth(1).unwrap_or_default();
        for words in ["error parsing declarative config", &file.display().to_string(), words] {
            assert!(said.to_lowercase().contains(&words.to_lowercase()), "{words:?} is not in: {output}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_config_service_on_sqlite_on_the_embedded_agent() {
    only_one_on_sqlite(Kind::Embedded).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_config_service_on_sqlite_on_real_consul() {
    only_one_on_sqlite(Kind::Consul).await;
}

async fn only_one_on_sqlite(kind: Kind) {
    let (backend, folder) = (Backend::start(kind).await, tempfile::tempdir().unwrap());
    let start = |label: &str| {
        let mut config = service(&backend, folder.path(), "config-service", label);
        config.args(["--listen", "127.0.0.1:0"]);
        config
    };
    let first = Program::start("first", start("first"), folder.path(), &["http"]).await;
    ready(&first, "http").await;
    let (code, output) = outcome("second", start("second"), folder.path());
    assert_eq!(code, Some(64), "{output}");
    assert!(output.contains("PostgreSQL"), "what to do instead is said: {output}");
    ready(&first, "http").await;
}
