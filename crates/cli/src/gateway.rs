//! `plinth gateway`.

use std::path::Path;

use plinth_kong::{Format, Support};
use serde_json::json;

use crate::api::Api;
use crate::commands::{Access, Gateway, Output};
use crate::failure::Failure;
use crate::print;
use crate::table::{Table, cell};

pub async fn run(command: Gateway) -> Result<(), Failure> {
    match command {
        Gateway::Check { file, output, all } => check(&file, output, all),
        Gateway::Status { admin_url, access } => status(&admin_url, &access).await,
    }
}

/// Exit code 1 when the gateway would refuse the file, with every fault in Kong's words.
fn check(file: &Path, output: Output, all: bool) -> Result<(), Failure> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| Failure::usage(format!("{}: {error}", file.display())))?;
    let format = Format::of(&file.to_string_lossy());
    let loaded = match plinth_kong::load(&text, format) {
        Ok(loaded) => loaded,
        Err(faults) if output == Output::Json => {
            print::json(&json!({ "valid": false, "faults": faults.to_string() }));
            return Err(Failure::no(format!("{} is refused", file.display())));
        }
        Err(faults) => {
            return Err(Failure::no(format!(
                "error parsing declarative config file {}:\n{faults}",
                file.display()
            )));
        }
    };
    if output == Output::Json {
        let warnings: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
        print::json(&json!({ "valid": true, "fields": loaded.report.fields, "warnings": warnings }));
        return Ok(());
    }
    let mut table = Table::new(&["FIELD", "COUNT", "SUPPORT", "WHY"]);
    let mut counts = [0_usize; 3];
    for field in &loaded.report.fields {
        counts[field.support as usize] += 1;
        if all || field.support != Support::Supported {
            table.row(vec![
                field.field.clone(),
                field.count.to_string(),
                field.support.to_string(),
                field.why.clone(),
            ]);
        }
    }
    if !table.is_empty() {
        print::table(&table, "");
    }
    for warning in &loaded.warnings {
        eprintln!("warning: {warning}");
    }
    let [supported, different, ignored] = counts;
    print::line(&format!(
        "{}: valid; {} fields: {supported} supported, {different} different, {ignored} ignored",
        file.display(),
        supported + different + ignored
    ));
    Ok(())
}

async fn status(admin_url: &str, access: &Access) -> Result<(), Failure> {
    let api = Api::new(admin_url, access)?;
    let status = api.get("/status").await?;
    if access.output == Output::Json {
        print::json(&status.body);
        return Ok(());
    }
    let services = api.get("/services?size=1000").await?;
    let routes = api.get("/routes?size=1000").await?;
    print::line(&format!("configuration {}", cell(&status.body["configuration_hash"])));
    let mut table = Table::new(&["ROUTE", "METHODS", "HOSTS", "PATHS", "SERVICE", "UPSTREAM"]);
    for route in routes.body["data"].as_array().into_iter().flatten() {
        let service = services.body["data"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|service| service["id"] == route["service"]["id"])
            .cloned()
            .unwrap_or_default();
        table.row(vec![
            cell(&route["name"]),
            cell(&route["methods"]),
            cell(&route["hosts"]),
            cell(&route["paths"]),
            cell(&service["name"]),
            format!(
                "{}://{}:{}{}",
                cell(&service["protocol"]),
                cell(&service["host"]),
                cell(&service["port"]),
                service["path"].as_str().unwrap_or("")
            ),
        ]);
    }
    print::table(&table, "no routes");
    Ok(())
}
