//! `plinth services`.

use http::Method;
use serde_json::{Value, json};

use crate::api::{Api, segment};
use crate::commands::{Output, Register, RegistryUrl, Services};
use crate::failure::Failure;
use crate::print;
use crate::table::{Table, cell};

pub async fn run(command: Services) -> Result<(), Failure> {
    match command {
        Services::List { at } => list(&at).await,
        Services::Get { service_id, at } => get(&at, &service_id).await,
        Services::Discover { service_name, healthy_only, tags, at } => {
            discover(&at, &service_name, healthy_only, &tags).await
        }
        Services::Register(register) => self::register(&register).await,
        Services::Deregister { service_id, at } => deregister(&at, &service_id).await,
    }
}

fn api(at: &RegistryUrl) -> Result<Api, Failure> {
    Api::new(&at.registry_url, "registry-service", &at.access)
}

/// Follows the pages to the end.
async fn list(at: &RegistryUrl) -> Result<(), Failure> {
    let api = api(at)?;
    let mut all = Vec::new();
    let mut path = "/api/v1/services?limit=500".to_owned();
    loop {
        let answer = api.get(&path).await?;
        all.extend(answer.body["services"].as_array().cloned().unwrap_or_default());
        match answer.body["next"].as_str() {
            Some(next) => path = format!("/api/v1/services?limit=500&after={}", segment(next)),
            None => break,
        }
    }
    instances(
        &Value::from(all),
        at.access.output,
        ("REGISTERED", "registered_at"),
        "no instance is registered",
    );
    Ok(())
}

async fn get(at: &RegistryUrl, service_id: &str) -> Result<(), Failure> {
    let answer = api(at)?.get(&format!("/api/v1/services/{}", segment(service_id))).await?;
    match at.access.output {
        Output::Json => print::json(&answer.body),
        Output::Table => print::fields(&answer.body),
    }
    Ok(())
}

async fn discover(at: &RegistryUrl, name: &str, healthy_only: bool, tags: &[String]) -> Result<(), Failure> {
    let mut path = format!("/api/v1/services/discover/{}?healthy_only={healthy_only}", segment(name));
    for tag in tags {
        path.push_str(&format!("&tags={}", segment(tag)));
    }
    let answer = api(at)?.get(&path).await?;
    match at.access.output {
        Output::Json => print::json(&answer.body),
        Output::Table => instances(
            &named(&answer.body),
            Output::Table,
            ("LAST CHECK", "last_check"),
            "registered, but no instance fits",
        ),
    }
    Ok(())
}

async fn register(command: &Register) -> Result<(), Failure> {
    let mut body = json!({
        "service_name": command.service_name,
        "address": command.address,
        "port": command.port,
        "tags": command.tags,
    });
    if let Some(id) = &command.service_id {
        body["service_id"] = json!(id);
    }
    if let Some(path) = &command.health_check {
        body["health_check"] = json!(path);
    }
    if let Some(metadata) = &command.metadata {
        body["metadata"] = serde_json::from_str(metadata)
            .map_err(|error| Failure::usage(format!("--metadata: not JSON: {error}")))?;
    }
    let answer = api(&command.at)?.send(Method::POST, "/api/v1/services/register", &[], Some(&body)).await?;
    match command.at.access.output {
        Output::Json => print::json(&answer.body),
        Output::Table => println!("registered {}", cell(&answer.body["service_id"])),
    }
    Ok(())
}

async fn deregister(at: &RegistryUrl, service_id: &str) -> Result<(), Failure> {
    api(at)?.send(Method::DELETE, &format!("/api/v1/services/{}", segment(service_id)), &[], None).await?;
    if at.access.output == Output::Table {
        println!("deregistered {service_id}");
    }
    Ok(())
}

/// The answer names the service once; the table does in each row.
fn named(answer: &Value) -> Value {
    let mut instances = answer["services"].clone();
    for instance in instances.as_array_mut().into_iter().flatten() {
        instance["service_name"] = answer["service_name"].clone();
    }
    instances
}

/// `time` is the heading and the field of the last column.
fn instances(instances: &Value, output: Output, time: (&'static str, &str), none: &str) {
    if output == Output::Json {
        return print::json(instances);
    }
    let mut table = Table::new(&["SERVICE", "ID", "ADDRESS", "STATUS", "TAGS", time.0]);
    for instance in instances.as_array().into_iter().flatten() {
        let address = cell(&instance["address"]);
        let bracketed = if address.contains(':') { format!("[{address}]") } else { address };
        table.row(vec![
            cell(&instance["service_name"]),
            cell(&instance["service_id"]),
            format!("{bracketed}:{}", cell(&instance["port"])),
            cell(&instance["status"]),
            cell(&instance["tags"]),
            cell(&instance[time.1]),
        ]);
    }
    print::table(&table, none);
}
