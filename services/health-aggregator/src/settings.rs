//! Settings of this service, beside those that all services share.

use std::time::Duration;

use plinth_core::Secret;
use plinth_core::health::Thresholds;
use plinth_kit::settings::Reader;

#[derive(Debug, Clone)]
pub struct Settings {
    /// Results in a row that turn an instance. Defaults: 2 bad ones, 1 good one.
    pub thresholds: Thresholds,
    /// Probes at a time. Default 512.
    pub concurrency: usize,
    /// Time between two looks of a replica at the others. Default 1 s.
    pub member_interval: Duration,
    /// Looks in a row without an answer until a member counts as dead. Default 2.
    pub member_failures: u32,
    /// Bearer token for the other replicas, scope `health:probe`; not needed when they need none.
    pub peer_token: Option<Secret>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            thresholds: Thresholds { success: 1, failure: 2 },
            concurrency: 512,
            member_interval: Duration::from_secs(1),
            member_failures: 2,
            peer_token: None,
        }
    }
}

impl Settings {
    pub fn read(reader: &mut Reader) -> Self {
        let default = Self::default();
        let times = Duration::from_millis(50)..=Duration::from_secs(60);
        Self {
            thresholds: Thresholds {
                failure: reader.get_in(
                    "probe.failures",
                    "bad results in a row until an instance counts as down",
                    default.thresholds.failure,
                    1..=100,
                ),
                success: reader.get_in(
                    "probe.successes",
                    "good results in a row until an instance counts as up again",
                    default.thresholds.success,
                    1..=100,
                ),
            },
            concurrency: reader.get_in(
                "probe.concurrency",
                "probes at a time",
                default.concurrency,
                1..=65_536,
            ),
            member_interval: reader.duration_in(
                "members.interval",
                "time between two looks of a replica at the others",
                default.member_interval,
                times,
            ),
            member_failures: reader.get_in(
                "members.failures",
                "looks in a row without an answer until a replica counts as dead",
                default.member_failures,
                1..=100,
            ),
            peer_token: reader
                .secret("peer.token", "bearer token for the other replicas, scope health:probe"),
        }
    }
}
