//! `plinth health`.

use serde_json::Value;

use crate::api::{Api, segment};
use crate::commands::{Health, Output};
use crate::failure::Failure;
use crate::print;
use crate::table::{Table, cell};

/// Exit code 1 when what was asked about is not healthy, so that scripts can ask.
pub async fn run(command: Health) -> Result<(), Failure> {
    let api = Api::new(&command.health_url, "health-aggregator", &command.access)?;
    let (answer, what) = match &command.service_name {
        Some(name) => (api.get(&format!("/api/v1/health/services/{}", segment(name))).await?, name.as_str()),
        None => (api.get("/api/v1/health/system").await?, "the system"),
    };
    if command.access.output == Output::Json {
        print::json(&answer.body);
    } else {
        print::line(&format!("{what}: {}", cell(&answer.body["status"])));
        match command.service_name {
            Some(_) => instances(&answer.body),
            None => services(&answer.body, &api.get("/api/v1/health/services").await?.body),
        }
    }
    match answer.body["status"].as_str() {
        Some("healthy") => Ok(()),
        other => Err(Failure::no(format!("{what} is {}", other.unwrap_or("in an unknown state")))),
    }
}

fn services(system: &Value, list: &Value) {
    for alert in system["alerts"].as_array().into_iter().flatten() {
        print::line(&format!("alert: {}", cell(&alert["message"])));
    }
    let mut table = Table::new(&["SERVICE", "STATUS", "PASSING", "WARNING", "CRITICAL"]);
    for service in list["services"].as_array().into_iter().flatten() {
        let mut row = vec![cell(&service["name"]), cell(&service["status"])];
        row.extend(["passing", "warning", "critical"].map(|state| cell(&service["instances"][state])));
        table.row(row);
    }
    print::table(&table, "no instance is registered");
}

fn instances(service: &Value) {
    let mut table = Table::new(&["INSTANCE", "ADDRESS", "STATUS", "SINCE", "LAST CHECK", "OUTPUT"]);
    for instance in service["details"].as_array().into_iter().flatten() {
        // The output of a check may be a whole page; the rest of it is in the JSON.
        let output = instance["output"].as_str().unwrap_or("").lines().next().unwrap_or("");
        table.row(vec![
            cell(&instance["service_id"]),
            format!("{}:{}", cell(&instance["address"]), cell(&instance["port"])),
            cell(&instance["status"]),
            cell(&instance["last_transition"]),
            cell(&instance["last_check"]),
            output.chars().take(60).collect(),
        ]);
    }
    print::table(&table, "no instance is registered");
}
