//! `plinth doctor`: looks at a running installation through what it says about itself, and says what to do.
//!
//! Consul knows every replica, so one address is enough. What is judged is pure ([`member::judge`], [`consul::judge`]);
//! here it is only fetched and printed.

mod consul;
mod exposition;
mod finding;
mod member;

use std::time::Duration;

use futures_util::future::join_all;
use jiff::Timestamp;
use plinth_core::consul::{Client, Read, Settings};
use plinth_kit::outbound::Outbound;
use serde_json::json;

use crate::commands::{Doctor, Output};
use crate::failure::Failure;
use crate::print;
use crate::table::Table;
use finding::{Finding, Level};
use member::Member;

/// What an installation consists of.
const SERVICES: [&str; 4] = ["registry-service", "config-service", "health-aggregator", "gateway"];

/// Exit code 1 when something is wrong; warnings alone are 0.
pub async fn run(command: Doctor) -> Result<(), Failure> {
    let client = client(&command)?;
    let mut findings = consul::look(&client, &command.consul_address).await;
    if findings.iter().all(|finding| finding.level != Level::Problem) {
        findings.extend(look_at_services(&client, &command).await?);
    }
    show(&findings, command.output);
    match findings.iter().filter(|finding| finding.level == Level::Problem).count() {
        0 => Ok(()),
        problems => Err(Failure::no(format!("problems found: {problems}"))),
    }
}

fn client(command: &Doctor) -> Result<Client, Failure> {
    let address = command
        .consul_address
        .parse()
        .map_err(|fault| Failure::usage(format!("--consul-address: {fault}")))?;
    let from_env = Settings::from_env(|name| match name {
        // the flag has it already
        "CONSUL_HTTP_ADDR" => None,
        other => std::env::var(other).ok(),
    });
    let timeout = Duration::from_secs(command.timeout);
    let settings = Settings {
        address,
        request_timeout: timeout,
        connect_timeout: timeout,
        ..from_env.map_err(Failure::usage)?
    };
    Client::new(settings).map_err(|error| Failure::usage(plinth_kit::problem::chain(&error)))
}

async fn look_at_services(client: &Client, command: &Doctor) -> Result<Vec<Finding>, Failure> {
    let outbound = Outbound::new().map_err(Failure::no)?;
    let (mut findings, mut members) = (Vec::new(), Vec::new());
    for service in SERVICES {
        let entries = client.health().service(service, false, &[], &Read::default()).await;
        let entries =
            entries.map_err(|error| Failure::unavailable(plinth_kit::problem::chain(&error)))?.value;
        if entries.is_empty() {
            let remedy =
                format!("start it with CONSUL_HTTP_ADDR={}, or look into its log", command.consul_address);
            findings
                .push(Finding::problem(service, "registered", "no replica is in the catalog").with(remedy));
        }
        members.extend(entries.into_iter().map(|entry| Member::new(service, &entry)));
    }
    let timeout = Duration::from_secs(command.timeout);
    let seen = join_all(members.iter().map(|member| member.look(&outbound, timeout))).await;
    for (member, seen) in members.iter().zip(&seen) {
        findings.extend(member::judge(member, seen, Timestamp::now(), command.certificate_days));
    }
    findings.extend(member::compare(&members, env!("CARGO_PKG_VERSION")));
    Ok(findings)
}

fn show(findings: &[Finding], output: Output) {
    if output == Output::Json {
        let problems = findings.iter().filter(|finding| finding.level == Level::Problem).count();
        print::json(&json!({ "problems": problems, "findings": findings }));
        return;
    }
    let mut table = Table::new(&["", "WHAT", "CHECK", "RESULT"]);
    for finding in findings {
        table.row(vec![
            finding.level.word().to_owned(),
            finding.subject.clone(),
            finding.check.to_owned(),
            finding.message.clone(),
        ]);
    }
    print::table(&table, "nothing was found");
    for finding in findings {
        if let Some(remedy) = &finding.remedy {
            print::line(&format!(
                "\n{} {}: {}\n  -> {remedy}",
                finding.level.word(),
                finding.subject,
                finding.message
            ));
        }
    }
}
