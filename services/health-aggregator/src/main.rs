//! The health-aggregator binary.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    plinth_kit::run(health_aggregator::SERVICE, health_aggregator::Settings::read, health_aggregator::start)
}
