//! `plinth health`.

use serde_json::Value;

use crate::api::{Api, segment};
use crate::commands::{Health, Output};
use crate::failure::Failure;
use crate::print;
use crate::table::{Table, cell};

/// Exit code 1 when what was asked about is not healthy, so that scripts can ask.
pub async fn run(command: Health) -> Result<(), Failure> {
    let api = Api::new(&command.health_url, &command.access)?;
    let (answer, what) = match &command.service_name {
        Some(name) => (api.get(&format!("/api/v1/health/services/{}", segment(name))).await?, name.as_str()),
        None => (api.get("/api/v1/health/system").await?, "the system"),
    };
    if command.access.output == Output::Json {
        print::json(&answer.body);
    } else {
        print::line(&format!("{what}: {}", cell(&answer.body["status"])));
        show(&answer.body);
    }
    match answer.body["status"].as_str() {
        Some("healthy") => Ok(()),
        other => Err(Failure::no(format!("{what} is {}", other.unwrap_or("in an unknown state")))),
    }
}

fn show(body: &Value) {
    let mut services = Table::new(&["SERVICE", "STATUS", "HEALTHY", "INSTANCES"]);
    for service in body["services"].as_array().into_iter().flatten() {
        services.row(
            ["service_name", "status", "healthy", "instances"].map(|name| cell(&service[name])).to_vec(),
        );
    }
    let mut instances = Table::new(&["INSTANCE", "STATUS", "LAST CHECK", "OUTPUT"]);
    for instance in body["instances"].as_array().into_iter().flatten() {
        instances
            .row(["service_id", "status", "last_check", "output"].map(|name| cell(&instance[name])).to_vec());
    }
    for table in [services, instances].iter().filter(|table| !table.is_empty()) {
        print::table(table, "");
    }
}
