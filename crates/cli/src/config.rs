//! `plinth config`.

use std::time::Duration;

use http::{Method, StatusCode, header};
use serde_json::{Value, json};

use crate::api::{Api, segment};
use crate::commands::{Config, ConfigUrl, Item, Output};
use crate::failure::Failure;
use crate::print;
use crate::table::{Table, cell};

pub async fn run(command: Config) -> Result<(), Failure> {
    match command {
        Config::List { namespace: None, at, .. } => namespaces(&at).await,
        Config::List { namespace: Some(namespace), prefix, at } => list(&at, &namespace, &prefix).await,
        Config::Get { item, at } => get(&at, &item).await,
        Config::Set { item, value, description, revision, at } => {
            set(&at, &item, &value, description.as_deref(), revision).await
        }
        Config::Delete { item, at } => delete(&at, &item).await,
        Config::History { item, at } => history(&at, &item).await,
        Config::Watch { item, at } => watch(&at, &item).await,
    }
}

fn api(at: &ConfigUrl) -> Result<Api, Failure> {
    Api::new(&at.config_url, "config-service", &at.access)
}

/// `shop/prod/database/pool` as a path below `resource`; the key's slashes stay.
fn path(resource: &str, item: &str) -> Result<String, Failure> {
    if item.split('/').count() < 3 || item.split('/').any(str::is_empty) {
        return Err(Failure::usage(format!(
            "{item}: expected NAMESPACE/ENVIRONMENT/KEY, e.g. shop/prod/database/pool"
        )));
    }
    Ok(format!("/api/v1/{resource}/{}", encoded(item)))
}

fn encoded(words: &str) -> String {
    words.split('/').map(segment).collect::<Vec<_>>().join("/")
}

async fn namespaces(at: &ConfigUrl) -> Result<(), Failure> {
    let answer = api(at)?.get("/api/v1/config").await?;
    if at.access.output == Output::Json {
        print::json(&answer.body);
        return Ok(());
    }
    let mut table = Table::new(&["NAMESPACE", "ENVIRONMENT", "ITEMS"]);
    for entry in answer.body["namespaces"].as_array().into_iter().flatten() {
        table.row(vec![cell(&entry["namespace"]), cell(&entry["environment"]), cell(&entry["items"])]);
    }
    print::table(&table, "no configuration yet: plinth config set NAMESPACE/ENVIRONMENT/KEY VALUE");
    Ok(())
}

async fn list(at: &ConfigUrl, namespace: &str, prefix: &str) -> Result<(), Failure> {
    if namespace.split('/').count() != 2 {
        return Err(Failure::usage(format!("{namespace}: expected NAMESPACE/ENVIRONMENT, e.g. shop/prod")));
    }
    let answer =
        api(at)?.get(&format!("/api/v1/config/{}?prefix={}", encoded(namespace), segment(prefix))).await?;
    if at.access.output == Output::Json {
        print::json(&answer.body);
        return Ok(());
    }
    let mut table = Table::new(&["KEY", "VALUE", "REVISION", "UPDATED", "DESCRIPTION"]);
    for item in answer.body["items"].as_array().into_iter().flatten() {
        table.row(
            ["key", "value", "revision", "updated_at", "description"].map(|name| cell(&item[name])).to_vec(),
        );
    }
    print::table(&table, "no items");
    Ok(())
}

async fn get(at: &ConfigUrl, item: &Item) -> Result<(), Failure> {
    let answer = api(at)?.get(&path("config", &item.item)?).await?;
    match at.access.output {
        Output::Json => print::json(&answer.body),
        Output::Table => print::line(&answer.body["value"].to_string()),
    }
    Ok(())
}

async fn set(
    at: &ConfigUrl,
    item: &Item,
    value: &str,
    description: Option<&str>,
    revision: Option<u64>,
) -> Result<(), Failure> {
    let value: Value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
    let mut body = json!({ "value": value });
    if let Some(description) = description {
        body["description"] = json!(description);
    }
    let condition = match revision {
        None => Vec::new(),
        Some(0) => vec![(header::IF_NONE_MATCH, "*".to_owned())],
        Some(revision) => vec![(header::IF_MATCH, format!("\"{revision}\""))],
    };
    let answer = api(at)?.send(Method::PUT, &path("config", &item.item)?, &condition, Some(&body)).await?;
    if at.access.output == Output::Json {
        print::json(&answer.body);
    } else if answer.status == StatusCode::ACCEPTED {
        print::line("stored; published as soon as Consul is back");
    } else {
        print::line(&format!("revision {}", cell(&answer.body["revision"])));
    }
    Ok(())
}

async fn delete(at: &ConfigUrl, item: &Item) -> Result<(), Failure> {
    api(at)?.send(Method::DELETE, &path("config", &item.item)?, &[], None).await?;
    if at.access.output == Output::Table {
        print::line(&format!("deleted {}", item.item));
    }
    Ok(())
}

async fn history(at: &ConfigUrl, item: &Item) -> Result<(), Failure> {
    let answer = api(at)?.get(&path("history", &item.item)?).await?;
    if at.access.output == Output::Json {
        print::json(&answer.body);
        return Ok(());
    }
    let mut table = Table::new(&["REVISION", "KIND", "VALUE", "AUTHOR", "CREATED"]);
    for revision in answer.body["revisions"].as_array().into_iter().flatten() {
        table.row(
            ["revision", "kind", "value", "author", "created_at"].map(|name| cell(&revision[name])).to_vec(),
        );
    }
    print::table(&table, "no revisions");
    Ok(())
}

/// Long polls, so that it also works through proxies that buffer event streams.
async fn watch(at: &ConfigUrl, item: &Item) -> Result<(), Failure> {
    const WAIT: Duration = Duration::from_secs(30);
    let api = api(at)?;
    let path = path("config", &item.item)?;
    let mut answer = api.get(&path).await?;
    let mut shown = None;
    loop {
        let revision = answer.body["revision"].clone();
        if shown.as_ref() != Some(&revision) {
            print::line(&answer.body.to_string());
            shown = Some(revision);
        }
        let index = answer
            .headers
            .get("x-plinth-index")
            .and_then(|index| index.to_str().ok())
            .unwrap_or("0")
            .to_owned();
        answer = api.poll(&format!("{path}?index={index}&wait={}s", WAIT.as_secs()), WAIT).await?;
    }
}

#[cfg(test)]
mod tests {
    use super::path;

    #[test]
    fn keys_keep_their_slashes_and_nothing_else() {
        assert_eq!(
            path("config", "shop/prod/a b/c").ok().as_deref(),
            Some("/api/v1/config/shop/prod/a%20b/c")
        );
        assert!(path("config", "shop/prod").is_err());
        assert!(path("config", "shop//prod/x").is_err());
    }
}
