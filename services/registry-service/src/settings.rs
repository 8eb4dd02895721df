//! The settings of this service beside those that every service has.

use std::time::Duration;

use plinth_kit::settings::{Reader, Secret};

/// All with a default that suits a laptop and a cluster alike.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How long a write waits for this replica's own snapshot to have it.
    pub settle: Duration,
    /// Longest `wait=` of a long poll.
    pub max_wait: Duration,
    /// How long `index=N` waits for that state.
    pub catch_up: Duration,
    /// Requests that may wait for changes at once.
    pub max_waiting: usize,
    /// Blocking queries towards Consul for services asked for.
    pub max_watches: usize,
    /// A service nobody asked for this long is not watched any more.
    pub watch_idle: Duration,
    /// How often the health-aggregators are asked for the last probe times; zero: never.
    pub probe_times_every: Duration,
    /// Sent to the health-aggregators as a bearer token, when they want one.
    pub aggregator_token: Option<Secret>,
}

impl Settings {
    pub fn read(reader: &mut Reader) -> Self {
        let second = Duration::from_secs(1);
        Self {
            settle: reader.duration_in(
                "writes.settle",
                "how long a write waits until this replica's own reads show it",
                2 * second,
                Duration::ZERO..=30 * second,
            ),
            max_wait: reader.duration_in(
                "reads.max_wait",
                "longest wait of a long poll (wait=)",
                60 * second,
                second..=600 * second,
            ),
            catch_up: reader.duration_in(
                "reads.catch_up",
                "how long a read with index= alone waits for that state",
                2 * second,
                Duration::ZERO..=30 * second,
            ),
            max_waiting: reader.get_in("reads.max_waiting", "long polls at once; more get 503", 10_000, 1..=1_000_000),
            max_watches: reader.get_in(
                "discovery.max_watches",
                "services watched by blocking queries at once; Consul allows 200 connections per client address",
                90,
                1..=10_000,
            ),
            watch_idle: reader.duration_in(
                "discovery.idle",
                "a service nobody asked for this long is not watched any more",
                60 * second,
                second..=86_400 * second,
            ),
            probe_times_every: reader.duration_in(
                "health_aggregator.interval",
                "how often the health-aggregators are asked for last probe times; 0 for never",
                5 * second,
                Duration::ZERO..=3_600 * second,
            ),
            aggregator_token: reader
                .secret("health_aggregator.token", "bearer token for the health-aggregators, scope health:read"),
        }
    }
}
