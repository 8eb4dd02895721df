//! `plinth gateway`.

use std::path::Path;

use plinth_kong::{DifferenceKind, Format, Support};
use serde_json::{Value, json};

use crate::api::{Api, segment};
use crate::commands::{Access, Gateway, Output};
use crate::failure::Failure;
use crate::print;
use crate::table::{Table, cell};

pub async fn run(command: Gateway) -> Result<(), Failure> {
    match command {
        Gateway::Check { file, output, all } => check(&file, output, all),
        Gateway::Diff { file, new, admin_url, access } => {
            diff(&file, new.as_deref(), &admin_url, &access).await
        }
        Gateway::Explain { path, method, host, headers, sni, admin_url, access } => {
            let mut query = format!("/explain?method={}&path={}", segment(&method), segment(&path));
            let named = [("host", &host), ("sni", &sni)];
            for (name, value) in named.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?))) {
                query.push_str(&format!("&{name}={}", segment(value)));
            }
            headers.iter().for_each(|header| query.push_str(&format!("&header={}", segment(header))));
            explain(&query, &admin_url, &access).await
        }
        Gateway::Status { admin_url, access } => status(&admin_url, &access).await,
    }
}

/// Exit code 1 when the gateway would refuse the file, with every fault in Kong's words.
fn check(file: &Path, output: Output, all: bool) -> Result<(), Failure> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| Failure::usage(format!("{}: {error}", file.display())))?;
    let format = Format::of(&file.to_string_lossy());
    // what is not set here may be where the gateway runs
    let secrets = plinth_kong::Secrets::optional(|name| std::env::var(name).ok());
    let refused = |faults: String| {
        if output == Output::Json {
            print::json(&json!({ "valid": false, "faults": faults }));
            return Failure::no(format!("{} is refused", file.display()));
        }
        Failure::no(format!("error parsing declarative config file {}:\n{faults}", file.display()))
    };
    let loaded = plinth_kong::load_with(&text, format, &secrets).map_err(|f| refused(f.to_string()))?;
    let faults = gateway::compile::check::faults(&loaded.config);
    if !faults.is_empty() {
        let lines: Vec<String> = faults.iter().map(|fault| plinth_kit::problem::chain(fault)).collect();
        return Err(refused(lines.join("\n")));
    }
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

fn load(file: &Path) -> Result<plinth_kong::Config, Failure> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| Failure::usage(format!("{}: {error}", file.display())))?;
    match plinth_kong::load(&text, Format::of(&file.to_string_lossy())) {
        Ok(loaded) => Ok(loaded.config),
        Err(faults) => {
            Err(Failure::no(format!("error parsing declarative config file {}:\n{faults}", file.display())))
        }
    }
}

/// A value on one line of a table; `--output json` has all of it.
fn short(value: &Value) -> String {
    const WIDEST: usize = 48;
    let text = cell(value).split_whitespace().collect::<Vec<_>>().join(" ");
    match text.char_indices().nth(WIDEST) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

/// Exit code 1 when anything differs, as `diff` has it.
async fn diff(file: &Path, new: Option<&Path>, admin_url: &str, access: &Access) -> Result<(), Failure> {
    let (before, after) = match new {
        Some(new) => (load(file)?, load(new)?),
        None => {
            let running = Api::new(admin_url, "gateway", access)?.get("/config").await?;
            let text = running.body["config"].as_str().unwrap_or_default();
            let running = plinth_kong::load(text, Format::Yaml).map_err(|faults| {
                Failure::no(format!("the running configuration does not load:\n{faults}"))
            })?;
            (running.config, load(file)?)
        }
    };
    let differences = plinth_kong::diff(&before, &after).map_err(|error| Failure::no(error.to_string()))?;
    if access.output == Output::Json {
        print::json(&json!(differences));
    } else {
        let mut table = Table::new(&["CHANGE", "ENTITY", "NAME", "FIELD", "BEFORE", "AFTER"]);
        for one in &differences {
            let mut row = |change: &str, field: &str, before: &Value, after: &Value| {
                let texts = [change, &one.collection, &one.name, field].map(str::to_owned);
                table.row(texts.into_iter().chain([short(before), short(after)]).collect());
            };
            match &one.kind {
                DifferenceKind::Added => row("added", "", &Value::Null, &Value::Null),
                DifferenceKind::Removed => row("removed", "", &Value::Null, &Value::Null),
                DifferenceKind::Changed(fields) => {
                    fields.iter().for_each(|field| row("changed", &field.field, &field.before, &field.after));
                }
            }
        }
        print::table(&table, "no differences");
    }
    if differences.is_empty() {
        Ok(())
    } else {
        Err(Failure::no(format!("{} entities differ", differences.len())))
    }
}

async fn explain(query: &str, admin_url: &str, access: &Access) -> Result<(), Failure> {
    let body = Api::new(admin_url, "gateway", access)?.get(query).await?.body;
    if access.output == Output::Json {
        print::json(&body);
        return Ok(());
    }
    let label =
        |route: &Value| if route["name"].is_null() { cell(&route["id"]) } else { cell(&route["name"]) };
    print::line(&format!("outcome   {}", cell(&body["outcome"])));
    if body["route"].is_object() {
        print::line(&format!("route     {}, matched by {}", label(&body["route"]), body["route"]["matched"]));
    }
    if body["upstream"].is_object() {
        let upstream = &body["upstream"];
        print::line(&format!(
            "upstream  {}://{}{}",
            cell(&upstream["protocol"]),
            cell(&upstream["host"]),
            cell(&upstream["path"])
        ));
    }
    let list = |name: &str| body[name].as_array().cloned().unwrap_or_default();
    let mut table = Table::new(&["OTHER ROUTE", "WHY NOT"]);
    for one in list("competitors") {
        table.row(vec![label(&one["route"]), cell(&one["why"])]);
    }
    print::table(&table, "no other route shares host and path");
    let mut table = Table::new(&["PLUGIN", "PRIORITY", "SCOPE", "CONSUMER", "RUNS"]);
    for one in list("plugins") {
        let runs = if one["runs"] == true { "yes".to_owned() } else { cell(&one["why"]) };
        let consumer = cell(&one["consumer"]["username"]);
        table.row(vec![cell(&one["name"]), cell(&one["priority"]), cell(&one["scope"]), consumer, runs]);
    }
    print::table(&table, "no plugins");
    let mut table = Table::new(&["TARGET", "WEIGHT", "AVAILABLE"]);
    for one in body["upstream"]["targets"].as_array().into_iter().flatten() {
        table.row(vec![cell(&one["address"]), cell(&one["weight"]), cell(&one["available"])]);
    }
    print::table(&table, "no targets");
    Ok(())
}

async fn status(admin_url: &str, access: &Access) -> Result<(), Failure> {
    let api = Api::new(admin_url, "gateway", access)?;
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
