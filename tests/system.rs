//! The main job on real processes: every service its own program, two replicas of registry-service and
//! health-aggregator, on the embedded agent (`plinth agent`, its own process) and on a real Consul server.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support {
    pub mod backend;
    pub mod client;
    pub mod collector;
    pub mod house;
    pub mod mesh;
    pub mod platform;
    pub mod program;
    pub mod seed;
}
mod scenarios {
    pub mod failures;
    pub mod main_job;
    pub mod mtls;
    pub mod tracing;
    pub mod up;
}
