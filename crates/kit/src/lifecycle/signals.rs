//! SIGTERM and SIGINT.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Shutdown;

/// The handlers of SIGTERM and SIGINT, installed.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Installs the handlers: from now on neither signal ends the process by itself.
    ///
    /// # Errors
    /// The handlers cannot be installed.
    pub fn install() -> std::io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Asks `shutdown` to stop on the first signal and aborts it on the second. Runs until then.
    pub async fn stop(mut self, shutdown: Shutdown) {
        let first = self.next().await;
        tracing::info!(signal = first, "stopping; a second signal stops at once");
        shutdown.request();
        let second = self.next().await;
        tracing::warn!(signal = second, "stopping at once");
        shutdown.abort();
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
