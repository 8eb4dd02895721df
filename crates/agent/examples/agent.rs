//! An agent on its own: `agent [--port N] [--data DIR]`. Prints its address and runs until it is killed.

use std::io::Write as _;
use std::path::PathBuf;

use plinth_agent::{Agent, Data, Settings};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut settings = Settings { http_port: 0, ..Settings::default() };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let value = arguments.next().ok_or("an option lacks its value")?;
        match argument.as_str() {
            "--port" => settings.http_port = value.parse()?,
            "--data" => settings.data = Data::Dir(PathBuf::from(value)),
            "--compact-after" => settings.compact_after = value.parse()?,
            other => return Err(format!("unknown option {other}").into()),
        }
    }
    let agent = Agent::start(settings).await?;
    writeln!(std::io::stdout(), "{}", agent.address())?;
    std::future::pending::<()>().await;
    Ok(())
}
