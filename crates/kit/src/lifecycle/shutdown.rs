//! Two-stage shutdown: first drain (not ready, deregistered, still serving), then stop, at last a hard limit.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::settings::Reader;

/// How long the stages of a shutdown last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShutdownSettings {
    /// From the request until listeners close. Others need this time to notice that the instance is leaving.
    pub drain_delay: Duration,
    /// From the request until whatever still runs is cut off.
    pub timeout: Duration,
}

impl ShutdownSettings {
    /// Reads `shutdown.drain_delay` (5 s) and `shutdown.timeout` (30 s).
    pub fn read(reader: &mut Reader) -> ShutdownSettings {
        let drain_delay = reader.duration(
            "shutdown.drain_delay",
            "how long to keep serving after deregistration when asked to stop",
            Duration::from_secs(5),
        );
        let timeout = reader.duration(
            "shutdown.timeout",
            "time from the request to stop until what still runs is cut off",
            Duration::from_secs(30),
        );
        if timeout < drain_delay {
            reader.fault("shutdown.timeout", "is shorter than shutdown.drain_delay; make it longer");
        }
        ShutdownSettings { drain_delay, timeout }
    }
}

impl Default for ShutdownSettings {
    fn default() -> Self {
        ShutdownSettings { drain_delay: Duration::from_secs(5), timeout: Duration::from_secs(30) }
    }
}

/// Where a process is on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Nobody asked to stop.
    Running,
    /// Asked to stop: not ready and leaving the registry, but still accepting and serving.
    Draining,
    /// Listeners close; what runs is finished.
    Stopping,
    /// Over the limit, or asked a second time: what still runs is cut off.
    Aborting,
}

#[derive(Debug, Clone, Copy, Default)]
struct State {
    requested: Option<Instant>,
    aborted: bool,
    handed_over: bool,
}

/// A handle to ask for a shutdown and to wait for its stages. Clones share one state.
#[derive(Debug, Clone)]
pub struct Shutdown {
    settings: ShutdownSettings,
    state: Arc<watch::Sender<State>>,
}

impl Shutdown {
    /// A handle in [`Stage::Running`].
    pub fn new(settings: ShutdownSettings) -> Shutdown {
        Shutdown { settings, state: Arc::new(watch::Sender::new(State::default())) }
    }

    /// The durations of the stages.
    pub fn settings(&self) -> ShutdownSettings {
        self.settings
    }

    /// Asks to stop. Repeating it changes nothing.
    pub fn request(&self) {
        self.state.send_if_modified(|state| {
            let first = state.requested.is_none();
            if first {
                state.requested = Some(Instant::now());
            }
            first
        });
    }

    /// Another process has taken over the listeners and the place in the registry: listeners close now, what runs is
    /// finished.
    pub fn hand_over(&self) {
        self.state.send_if_modified(|state| {
            let first = !std::mem::replace(&mut state.handed_over, true);
            state.requested.get_or_insert_with(Instant::now);
            first
        });
    }

    /// Another process has taken over.
    pub fn handed_over(&self) -> bool {
        self.state.borrow().handed_over
    }

    /// Stops at once: skips the drain and cuts off what runs.
    pub fn abort(&self) {
        self.request();
        self.state.send_if_modified(|state| !std::mem::replace(&mut state.aborted, true));
    }

    /// The stage at this moment.
    pub fn stage(&self) -> Stage {
        let state = *self.state.borrow();
        let Some(requested) = state.requested else { return Stage::Running };
        let elapsed = requested.elapsed();
        if state.aborted || elapsed >= self.settings.timeout {
            Stage::Aborting
        } else if state.handed_over || elapsed >= self.settings.drain_delay {
            Stage::Stopping
        } else {
            Stage::Draining
        }
    }

    /// Resolves once a stop has been asked for.
    pub async fn draining(&self) {
        self.requested().await;
    }

    /// Resolves once listeners are to close.
    pub async fn stopping(&self) {
        self.after(self.settings.drain_delay, |state| state.aborted || state.handed_over).await;
    }

    /// Resolves once what still runs is to be cut off.
    pub async fn aborting(&self) {
        self.after(self.settings.timeout, |state| state.aborted).await;
    }

    async fn after(&self, delay: Duration, at_once: fn(&State) -> bool) {
        let requested = self.requested().await;
        let mut watcher = self.state.subscribe();
        tokio::select! {
            () = tokio::time::sleep_until(requested + delay) => {}
            // The sender lives in self, so this cannot end with an error before it ends with a value.
            _ = watcher.wait_for(at_once) => {}
        }
    }

    async fn requested(&self) -> Instant {
        let mut watcher = self.state.subscribe();
        match watcher.wait_for(|state| state.requested.is_some()).await {
            Ok(state) => state.requested.unwrap_or_else(Instant::now),
            Err(_) => Instant::now(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shutdown() -> Shutdown {
        Shutdown::new(ShutdownSettings {
            drain_delay: Duration::from_secs(5),
            timeout: Duration::from_secs(30),
        })
    }

    #[tokio::test(start_paused = true)]
    async fn goes_through_its_stages() {
        let shutdown = shutdown();
        assert_eq!(shutdown.stage(), Stage::Running);
        shutdown.request();
        assert_eq!(shutdown.stage(), Stage::Draining);
        shutdown.draining().await;
        let start = Instant::now();
        shutdown.stopping().await;
        assert_eq!(start.elapsed().as_secs(), 5);
        assert_eq!(shutdown.stage(), Stage::Stopping);
        shutdown.aborting().await;
        assert_eq!(start.elapsed().as_secs(), 30);
        assert_eq!(shutdown.stage(), Stage::Aborting);
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_request_does_not_restart_the_clock() {
        let shutdown = shutdown();
        shutdown.request();
        tokio::time::advance(Duration::from_secs(4)).await;
        shutdown.request();
        let start = Instant::now();
        shutdown.stopping().await;
        assert!(start.elapsed() <= Duration::from_millis(1_001), "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_hand_over_skips_the_drain_and_nothing_else() {
        let shutdown = shutdown();
        shutdown.hand_over();
        let start = Instant::now();
        shutdown.stopping().await;
        assert_eq!((start.elapsed(), shutdown.stage()), (Duration::ZERO, Stage::Stopping));
        shutdown.aborting().await;
        assert_eq!(start.elapsed().as_secs(), 30);
    }

    #[tokio::test(start_paused = true)]
    async fn abort_skips_every_wait() {
        let shutdown = shutdown();
        let waiting = {
            tokio::spawn({
                let s = shutdown.clone();
                async move { s.aborting().await }
            })
        };
        shutdown.abort();
        let start = Instant::now();
        shutdown.stopping().await;
        assert!(waiting.await.is_ok());
        assert_eq!(start.elapsed(), Duration::ZERO);
        assert_eq!(shutdown.stage(), Stage::Aborting);
    }
}
