//! `plinth healthcheck`.

use std::time::Duration;

use plinth_kit::outbound::Outbound;

use crate::failure::Failure;

/// Below the time-outs that container runtimes use in practice.
const TIMEOUT: Duration = Duration::from_secs(2);
const ANSWER_LIMIT: usize = 1 << 20;

pub async fn run(url: String) -> Result<(), Failure> {
    let outbound = Outbound::new().map_err(Failure::no)?;
    let answer = outbound
        .get(&url, TIMEOUT, ANSWER_LIMIT)
        .await
        .map_err(|error| Failure::no(format!("{url}: {}", plinth_kit::problem::chain(&error))))?;
    if answer.status().is_success() {
        Ok(())
    } else {
        Err(Failure::no(format!("{url}: {}", answer.status())))
    }
}
