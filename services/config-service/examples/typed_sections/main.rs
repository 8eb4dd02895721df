//! A service that takes its configuration in typed sections and follows changes.
//!
//! ```text
//! plinth config set shop/prod database '{"password":"..."}'
//! cargo run -p config-service --example typed_sections -- http://127.0.0.1:8520 shop prod
//! ```

mod sections;

use plinth_core::config_client::{ConfigClient, ConfigSettings};
use sections::Sections;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().unwrap_or_else(|| "http://127.0.0.1:8520".to_owned());
    let mut settings =
        ConfigSettings::new(address.parse()?, arguments.next().unwrap_or_else(|| "shop".to_owned()));
    settings.environment = arguments.next().unwrap_or_else(|| "prod".to_owned());
    // For the next start while the service is away.
    settings.last_good = Some(std::env::temp_dir().join("typed-sections.last-good.json"));

    let client = ConfigClient::new(settings)?;
    let sections = Sections::load(&client).await?;
    let Sections { database, redis, api_gateway } = &sections;
    // Passwords are there, and never printed.
    println!(
        "database {}@{}:{}/{} ({} connections, password {} characters)",
        database.user,
        database.host,
        database.port,
        database.name,
        database.max_connections,
        database.password.expose().len()
    );
    println!(
        "redis {}:{}/{} (password {} characters)",
        redis.host,
        redis.port,
        redis.database,
        redis.password.expose().len()
    );
    println!("gateway {} (admin {}, {} ms)", api_gateway.url, api_gateway.admin_url, api_gateway.timeout_ms);

    let _watch = client.watch("database", |changed: Result<Option<serde_json::Value>, _>| match changed {
        Ok(_) => println!("the database section changed"),
        Err(error) => println!("the database section cannot be used: {error}"),
    });
    tokio::signal::ctrl_c().await?;
    Ok(())
}
