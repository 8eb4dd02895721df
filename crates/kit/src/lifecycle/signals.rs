//! SIGTERM and SIGINT.

use tokio::signal::unix::{SignalKind, signal};

use super::Shutdown;

/// Asks `shutdown` to stop on the first SIGTERM or SIGINT and aborts it on the second. Runs until then.
///
/// # Errors
/// The signal handlers cannot be installed.
pub async fn stop_on_signals(shutdown: Shutdown) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    for round in 0..2 {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        if round == 0 {
            tracing::info!(signal = name, "stopping; a second signal stops at once");
            shutdown.request();
        } else {
            tracing::warn!(signal = name, "stopping at once");
            shutdown.abort();
        }
    }
    Ok(())
}
